"""`zbrain` as a shell sees it: real processes on one data directory for this folder."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import end_everything
from zbrain_nb.model.datadir import DataDir

# As from a terminal: what a shell starts in the background ignores the signal of Ctrl-C.
_MAIN = (
    "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from zbrain_nb.cli import main; main()"
)
ZBRAIN = [sys.executable, "-c", _MAIN]


@pytest.fixture(scope="package")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDir]:
    root = tmp_path_factory.mktemp("command line") / "data"
    yield DataDir(root)
    end_everything(root)


def environ_of(data: DataDir, **environ: str) -> dict[str, str]:
    return {**os.environ, "ZDB_DATA": str(data.root), "ZBRAIN_PRELOAD": "", **environ}


def zbrain(data: DataDir, *words: str, cwd: Path | None = None, **environ: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [*ZBRAIN, *words],
        env=environ_of(data, **environ),
        capture_output=True,
        text=True,
        timeout=60,
        cwd=cwd,
        check=False,
    )
