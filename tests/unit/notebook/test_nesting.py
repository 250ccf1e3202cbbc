"""The opt-in for `asyncio.run` in cells; in a process of its own, for it patches asyncio."""

import subprocess
import sys

CODE = """
import asyncio
from zbrain_nb.notebook.nesting import allow_asyncio_run

async def inner():
    return 42

async def cell():
    {allow}
    return asyncio.run(inner())

print(asyncio.run(cell()))
"""


def run(allow: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", CODE.format(allow=allow)], capture_output=True, text=True, check=False)


def test_asyncio_run_works_inside_a_running_loop_once_allowed() -> None:
    assert run("allow_asyncio_run()").stdout == "42\n"
    assert "cannot be called from a running event loop" in run("pass").stderr
