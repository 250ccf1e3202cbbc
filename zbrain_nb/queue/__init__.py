"""The queue: decides what happens to jobs, keeps the live ones in memory, publishes what was committed.

`jobqueue` is the face, made of `jobreads` and `jobside` for callers and of `workerside` for workers. Behind it:
`commits` gathers commands and writes what they decided; `submits`, `endings` and `intake` decide; `index`, `ready` and
`leases` are the memory; `bus` publishes.
"""
