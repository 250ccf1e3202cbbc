"""How cells and functions run and end."""

from __future__ import annotations

import importlib
import os
import signal
import sys

import pytest

from zbrain_nb.model.payload import load_value, pack_call
from zbrain_nb.worker.cell import surroundings


def test_top_level_await_runs_in_the_cells_loop(run):
    ran = run(
        "import asyncio\nloop = asyncio.get_running_loop()\nawait asyncio.sleep(0)\nloop is asyncio.get_running_loop()"
    )
    assert ran.finished["output"] == "True"


def test_synchronous_cell_has_a_running_loop(run):
    assert run("import asyncio\nasyncio.get_running_loop().is_running()").finished["output"] == "True"


@pytest.mark.parametrize(
    ("code", "exit_code"),
    [
        ("import sys; sys.exit(3)", 3),
        ("import sys; sys.exit(0)", 0),
        ("import sys; sys.exit()", 0),
        ("import sys; sys.exit('words')", 1),
        ("exit()", 0),
        ("raise KeyboardInterrupt", 130),
        ("raise MemoryError", 1),
        ("raise SystemExit(259)", 3),
        ("import asyncio\nawait asyncio.sleep(0)\nraise SystemExit(4)", 4),
    ],
)
def test_exit_codes(run, code, exit_code):
    ran = run(code)
    assert ran.exit_code == exit_code
    assert (ran.finished["error"] is None) == (exit_code == 0)
    assert ran.stderr == ""


def test_memory_error_is_named(run):
    assert run("raise MemoryError").finished["error"]["ename"] == "MemoryError"


@pytest.mark.parametrize("call", ["input('?')", "breakpoint()", "import getpass; getpass.getpass()"])
def test_what_asks_a_person_is_refused_with_a_hint(run, call):
    ran = run(call)
    assert ran.finished["error"]["ename"] == "StdinNotImplementedError"
    assert "nobody to talk to in a job" in ran.finished["error"]["evalue"]
    assert ran.exit_code == 1


@pytest.mark.parametrize(
    "wait",
    ["ready(); time.sleep(60)", "ready(); await asyncio.sleep(60)", "await asyncio.sleep(0); ready(); time.sleep(60)"],
)
def test_interrupt_ends_a_cell_with_130(run, tmp_path, wait):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def interrupt(pid):
        gate.read_text()
        os.kill(pid, signal.SIGINT)

    ran = run(
        f"import time, asyncio\ndef ready():\n    open({str(gate)!r}, 'w').write('x')\n{wait}", while_running=interrupt
    )
    assert ran.exit_code == 130
    assert ran.finished["error"]["ename"] in ("KeyboardInterrupt", "CancelledError")


def test_interrupt_of_a_shell_command_is_not_success(run, tmp_path):
    gate = tmp_path / "gate"
    os.mkfifo(gate)

    def interrupt(pid):
        gate.read_text()
        os.kill(pid, signal.SIGINT)

    ran = run(f"!echo x > {gate}; sleep 60", while_running=interrupt)
    assert ran.exit_code == 130


def test_leftover_task_is_awaited(run):
    ran = run(
        "import asyncio\nasync def late():\n    await asyncio.sleep(0.01)\n    print('late')\n"
        "task = asyncio.create_task(late())\nprint('cell')"
    )
    assert ran.order() == ["cell", "late"]


def test_leftover_task_of_a_failed_cell_is_canceled(run):
    ran = run(
        "import asyncio\nasync def late():\n    try:\n        await asyncio.sleep(60)\n"
        "    finally:\n        print('canceled')\n"
        "task = asyncio.create_task(late())\nawait asyncio.sleep(0)\n1 / 0"
    )
    assert ran.stdout == "canceled\n"
    assert ran.exit_code == 1


def test_threads_pools_and_atexit_are_waited_for(run):
    ran = run(
        "import threading, atexit, time\nfrom concurrent.futures import ThreadPoolExecutor\n"
        "atexit.register(print, 'atexit')\n"
        "ThreadPoolExecutor(1).submit(lambda: (time.sleep(0.02), print('pool')))\n"
        "print('cell')"
    )
    assert ran.order() == ["cell", "pool", "atexit"]


def test_file_left_open_is_written_out(run, tmp_path):
    run(f"f = open({str(tmp_path / 'left')!r}, 'w')\nf.write('content');")
    assert (tmp_path / "left").read_text() == "content"


@pytest.mark.parametrize("code", ["import numpy as np\nnp.random.rand()", "import random\nrandom.random()"])
def test_random_numbers_differ_between_jobs(run, code):
    assert run(code).finished["output"] != run(code).finished["output"]


def test_job_gets_exactly_its_environment_and_folder(run, tmp_path):
    (tmp_path / "here").mkdir()
    ran = run(
        "import os, sys\n"
        "print('PYTEST_CURRENT_TEST' in os.environ, os.environ['MINE'], os.getcwd() == sys.path[0])\n!echo $MINE",
        env={"PATH": os.environ["PATH"], "MINE": "7"},
        cwd=str(tmp_path / "here"),
    )
    assert ran.stdout == "False 7 True\n7\n"


def test_module_beside_the_notebook_is_imported_fresh(run, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    for version in (1, 2):
        (here / "local_helper.py").write_text(f"version = {version}{' ' * version}")
        assert run("import local_helper\nlocal_helper.version", cwd=str(here)).finished["output"] == str(version)


def test_module_preloaded_from_elsewhere_is_forgotten(tmp_path, monkeypatch):
    (tmp_path / "stale_module.py").write_text("")
    monkeypatch.syspath_prepend(str(tmp_path))
    importlib.import_module("stale_module")
    found = surroundings.local_modules(list(sys.modules))
    assert "stale_module" in found and not {"json", "numpy", "zbrain_nb", "IPython"} & set(found)
    surroundings.forget(["stale_module"])
    assert "stale_module" not in sys.modules


def test_parallel_sklearn_in_the_child_does_not_hang(run):
    ran = run(
        "import numpy as np\nfrom sklearn.cluster import KMeans\n"
        "KMeans(2, n_init=1).fit(np.random.rand(500, 3)).cluster_centers_.shape"
    )
    assert ran.finished["output"] == "(2, 3)"


def call_file(tmp_path, function, *args, **kwargs):
    path = tmp_path / "call"
    path.write_bytes(pack_call(function, args, kwargs))
    return str(path)


def define(text: str) -> dict:
    """Define functions as a notebook would: in a ``__main__`` namespace."""
    exec(text, sys.modules["__main__"].__dict__)
    return sys.modules["__main__"].__dict__


def test_function_job_returns_prints_and_reads_globals(run, tmp_path, main_module):
    names = define(
        "factor = 3\ndef helper(x): return x * factor\n"
        "def work(a, *, b):\n    print('working')\n    return helper(a) + b"
    )
    ran = run(function=call_file(tmp_path, names["work"], 2, b=1))
    assert ran.exit_code == 0 and ran.stdout == "working\n"
    assert load_value(ran.finished["result"]) == 7


def test_function_job_error_shows_the_function_only(run, tmp_path, main_module):
    names = define("def work():\n    raise ValueError('no')")
    ran = run(function=call_file(tmp_path, names["work"]))
    assert ran.exit_code == 1
    text = "\n".join(ran.finished["error"]["traceback"])
    assert ran.finished["error"]["ename"] == "ValueError"
    assert "zbrain" not in text and "interactiveshell" not in text


def test_coroutine_function_is_awaited_and_plain_one_may_run_a_loop(run, tmp_path, main_module):
    names = define(
        "import asyncio\nasync def wait(): \n    await asyncio.sleep(0)\n    return 1\n"
        "def plain(): return asyncio.run(wait()) + 1"
    )
    assert load_value(run(function=call_file(tmp_path, names["wait"])).finished["result"]) == 1
    assert load_value(run(function=call_file(tmp_path, names["plain"])).finished["result"]) == 2


def test_damaged_payload_fails_the_job_with_a_clear_error(run, tmp_path):
    (tmp_path / "bad").write_bytes(b"not ours")
    ran = run("1", inputs={"cell": str(tmp_path / "bad")})
    assert ran.exit_code == 1
    assert ran.finished["error"]["evalue"].startswith("These bytes are no payload of zbrain.")
