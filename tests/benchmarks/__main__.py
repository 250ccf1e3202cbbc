"""``python -m tests.benchmarks``: all benchmarks, one after the other."""

from tests.benchmarks import bench_cell, bench_events, bench_submit

bench_submit.main()
bench_cell.main()
bench_events.main()
