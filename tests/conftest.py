"""What all tests share: a data directory of their own, and the end of every host that they started."""

from __future__ import annotations

import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from zbrain_nb.model.datadir import DataDir, lock_holder

_session_data = tempfile.mkdtemp(prefix="zbrain-tests-")


def pytest_configure(config: pytest.Config) -> None:
    """Point this session, and the kernels that nbval starts, at a data directory of its own."""
    for name in list(os.environ):
        if name.startswith(("ZBRAIN_", "ZDB_", "ZWORKER_", "ZDEFAULT_", "JPY_")):
            del os.environ[name]
    os.environ["ZDB_DATA"] = _session_data
    # Debug checks that Jupyter's own libraries trip over have no place here.
    os.environ["PYDEVD_DISABLE_FILE_VALIDATION"] = "1"


def pytest_unconfigure(config: pytest.Config) -> None:
    """End what the session's data directory started."""
    end_everything(Path(_session_data))
    shutil.rmtree(_session_data, ignore_errors=True)


def end_everything(root: Path) -> None:
    """End host, worker and spawner of a data directory, and wait until they are gone."""
    if not (root / "host.lock").exists():
        return
    data = DataDir(root)
    for lock in (data.host_lock, data.worker / "worker.lock", data.worker / "spawner.lock"):
        deadline = time.monotonic() + 20
        while (pid := lock_holder(lock)) is not None:
            assert time.monotonic() < deadline, f"{lock} is still held by {pid}"
            os.kill(pid, signal.SIGTERM)
            time.sleep(0.05)  # the end of a process that is not our child has no event


@pytest.fixture
def anyio_backend() -> str:
    return "asyncio"


@pytest.fixture
def data_dir(tmp_path: Path) -> Iterator[DataDir]:
    """A data directory whose processes are ended after the test."""
    data = DataDir(tmp_path / "zbrain data")
    yield data
    end_everything(data.root)
