"""What all tests share: a data directory of their own, and the end of every host that they started."""

from __future__ import annotations

import contextlib
import gc
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from zbrain_nb.model.datadir import DataDir, is_locked, lock_holder
from zbrain_nb.worker.spool import SpoolReader, read_json

# This session, and the kernels that nbval starts, get a data directory of their own, before anything asks for one.
for _name in list(os.environ):
    if _name.startswith(("ZBRAIN_", "ZDB_", "ZWORKER_", "ZDEFAULT_", "JPY_")):
        del os.environ[_name]
_session_data = os.environ["ZDB_DATA"] = tempfile.mkdtemp(prefix="zbrain-tests-")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let the tests that make network interfaces run when those with browsers, which come first, are through.

    Chromium drops what it is loading when an interface comes or goes: pages stayed empty in other processes' tests.
    """
    makes = [item for item in items if item.path.name == "test_far_worker.py"]
    others = [item for item in items if item.path.name != "test_far_worker.py"]
    later = next((i for i, item in enumerate(others) if "unit/worker" in item.path.as_posix()), len(others))
    items[:] = [*others[:later], *makes, *others[later:]]


def pytest_collection_finish() -> None:
    """Keep the garbage collector from walking the modules and 4,000 tests again and again: 0.3 s, a whole collection.

    IPython asks for one whenever a shell ends, and each of hundreds of tests has a shell of its own.
    """
    gc.collect()
    gc.freeze()


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the session's data directory started."""
    end_everything(Path(_session_data))
    shutil.rmtree(_session_data, ignore_errors=True)


def end_everything(root: Path) -> None:
    """End host, worker, spawner and running jobs of a data directory, and wait until they are gone."""
    if not (root / "host.lock").exists():
        return
    data = DataDir(root)
    for lock in (data.host_lock, data.worker / "worker.lock", data.worker / "spawner.lock"):
        _end_holder(lock, lock_holder)
    for spool in (data.worker / "runs").glob("*.spool"):
        _end_holder(spool, supervisor_of)


def _end_holder(lock: Path, find: Callable[[Path], int | None]) -> None:
    deadline = time.monotonic() + 20
    while is_locked(lock):
        pid = find(lock)
        assert time.monotonic() < deadline, f"{lock} is still held by {pid}"
        # A host that ran in this process has let go; a process it forked may hold a copy until its exec.
        if pid and pid != os.getpid():
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGTERM)
        time.sleep(0.05)  # the end of a process that is not our child has no event


def supervisor_of(spool: Path) -> int | None:
    """Return the pid of the process that runs an attempt, or a session of calls; None if its spool is not begun."""
    reader = SpoolReader(spool)
    frames = reader.read()
    reader.close()
    return int((read_json(frames[0].payload) or {})["supervisor_pid"]) if frames else None


@pytest.fixture(scope="session")
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    """A data directory whose processes are ended after the test."""
    data = DataDir(tmp_path / "zbrain data")
    yield data
    end_everything(data.root)


def pytest_sessionfinish(session: pytest.Session) -> None:
    """Let no skip pass where everything is installed: in CI it hides a missing part."""
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if os.environ.get("CI") and reporter is not None and reporter.stats.get("skipped"):
        session.exitstatus = pytest.ExitCode.TESTS_FAILED
