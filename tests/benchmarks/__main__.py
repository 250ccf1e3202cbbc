"""``python -m tests.benchmarks``: all benchmarks but the long ones (soak, kills, floods, large files), in turn."""

import sys

from tests.benchmarks import (
    bench_cell,
    bench_commands,
    bench_events,
    bench_functions,
    bench_history,
    bench_http,
    bench_lives,
    bench_ready,
    bench_submit,
)

sys.argv = sys.argv[:1]
for module in (
    bench_submit,
    bench_http,
    bench_ready,
    bench_lives,
    bench_functions,
    bench_history,
    bench_commands,
    bench_events,
    bench_cell,
):
    module.main()
