"""A notebook's IPython, without a kernel; and one in front of a real host with a worker."""

from __future__ import annotations

import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from concurrent.futures import Future, wait
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from IPython.core.interactiveshell import InteractiveShell

from tests.conftest import end_everything
from zbrain_nb.client.client import Client
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.notebook.extension import load
from zbrain_nb.notebook.line import Desk
from zbrain_nb.notebook.magic import ZBrainMagics


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    root = tmp_path_factory.mktemp("line") / "data"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZDB_DATA", str(root))
        patch.setenv("ZBRAIN_PRELOAD", "")
        yield root
    end_everything(root)


class Notebook:
    """A notebook in front of the host: runs cells of one id, and may have its kernel restarted."""

    def __init__(self, shell: InteractiveShell) -> None:
        self.shell = shell
        self.clients: list[Client] = []
        self.calls: list[Future[Any]] = []
        self.restart()

    def restart(self) -> None:
        """Forget all variables and all that the magics know; what the kernel of before has begun goes on."""
        self.shell.user_ns = {}
        magics = self.shell.magics_manager.registry.pop(ZBrainMagics.__name__, None)
        if magics is not None:
            self.shell.events.unregister("pre_run_cell", magics.before_cell)
        load(self.shell)
        magics = self.shell.magics_manager.registry[ZBrainMagics.__name__]
        self.clients.append(magics.client)
        start = magics.client.start

        def note(*args: Any) -> Future[Any]:
            self.calls.append(start(*args))
            return self.calls[-1]

        magics.client.start = note  # type: ignore[method-assign]

    @property
    def desk(self) -> Desk:
        """What its magics work with."""
        magics: ZBrainMagics = self.shell.magics_manager.registry[ZBrainMagics.__name__]
        return magics.desk

    def close(self) -> None:
        """Let what waits for jobs, which have all ended, come to its end; then close."""
        wait(self.calls, 30)
        for client in self.clients:
            client.close()

    def cell(self, cell_id: str, line: str, code: str, kind: Any = JobHandle) -> Any:
        parent = {"metadata": {"cellId": cell_id}}
        comms = SimpleNamespace(register_target=lambda *_: None)
        kernel = SimpleNamespace(get_parent=lambda _: parent, config=None, comm_manager=comms)
        self.shell.kernel = kernel  # type: ignore[attr-defined]
        self.shell.run_cell_magic("zbrain", line, code)
        found = self.shell.user_ns["_zb"]
        assert isinstance(found, kind)
        return found

    def line(self, line: str) -> Any:
        return self.shell.run_line_magic("zbrain", line)


@pytest.fixture
def pad(root: Path, notebook: InteractiveShell, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Notebook]:
    monkeypatch.setenv("JPY_SESSION_NAME", str(tmp_path / "work.ipynb"))
    pad = Notebook(notebook)
    yield pad
    pad.close()


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Another environment, which has the packages of this one but a numpy of its own."""
    root = tmp_path_factory.mktemp("environment")
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(root)], check=True)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(root), "platbase": str(root)}))
    own = [*site.getsitepackages(), *(path for path in sys.path if path and Path(path).is_dir())]
    (packages / "more.pth").write_text("\n".join(own))
    numpy = packages / "numpy-0.1.dist-info"
    numpy.mkdir()
    (numpy / "METADATA").write_text("Metadata-Version: 2.1\nName: numpy\nVersion: 0.1\n")
    return root / "bin" / "python"
