"""The worker room: leases jobs from a queue, runs them in processes of their own, tells the queue what happens.

`agent` is the worker, `spawner` and `supervisor` are the small processes between it and the jobs, `kinds` and
`scheduler` the same for callers with a queue in their own process, `inside` what a job's own code calls, `cell`
the inside of a cell's process.
"""
