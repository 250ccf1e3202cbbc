"""A zygote for tests: forks one child for each JSON line on stdin, a FIFO as events and files as raw streams."""

from __future__ import annotations

import gc
import json
import os
import sys
from types import SimpleNamespace

from zbrain_nb.worker.cell import runtime


def child(order: dict) -> int:
    os.setsid()
    os.dup2(os.open("/dev/null", os.O_RDONLY), 0)
    for fd, name in ((1, "out"), (2, "err")):
        os.dup2(os.open(os.path.join(order["folder"], name), os.O_WRONLY | os.O_CREAT | os.O_APPEND), fd)
    events = os.open(os.path.join(order["folder"], "events.fifo"), os.O_WRONLY)
    return runtime.run(SimpleNamespace(**order["request"]), events)


def main() -> None:
    runtime.preload()
    import numpy.random  # noqa: F401 - as scikit-learn, if it were preloaded, would

    gc.collect()
    gc.freeze()
    print(json.dumps({"threads": len(os.listdir("/proc/self/task"))}), flush=True)
    for line in sys.stdin:
        pid = os.fork()
        if pid == 0:
            code = 99
            try:
                code = child(json.loads(line))
            finally:
                os._exit(code)
        print(json.dumps({"pid": pid}), flush=True)
        _, status = os.waitpid(pid, 0)
        print(json.dumps({"exit_code": os.waitstatus_to_exitcode(status)}), flush=True)


if __name__ == "__main__":
    main()
