"""The store: DuckDB behind one writer thread, and the content-addressed artifact store.

Nothing else imports duckdb (but for the history client, which runs SQL in the caller's process). The room
knows rows and batches of rows; what they mean is decided in `zbrain_nb.queue`.
"""
