"""A notebook's IPython, without a kernel."""

from __future__ import annotations

import atexit
import site
import subprocess
import sys
import sysconfig
from collections.abc import Iterator
from pathlib import Path

import pytest
from IPython.core.interactiveshell import InteractiveShell
from traitlets.config import Config


@pytest.fixture
def notebook(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[InteractiveShell]:
    """An IPython whose namespace is ``__main__``, as in a kernel; not the process's one instance."""
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path / "ipython"))
    monkeypatch.setitem(sys.modules, "__main__", sys.modules["__main__"])
    hooks = sys.displayhook, sys.excepthook
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    shell = InteractiveShell(config=config)
    yield shell
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    sys.displayhook, sys.excepthook = hooks


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
