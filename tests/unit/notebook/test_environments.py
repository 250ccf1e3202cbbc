"""``--kernel``: which interpreter a kernel's name means, and how it differs from the notebook's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.environments import differences, find_interpreter


@pytest.fixture
def kernels(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for kernelspecs."""
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    return tmp_path / "kernels"


def install(kernels: Path, name: str, language: str, program: str) -> None:
    folder = kernels / name
    folder.mkdir(parents=True)
    spec = {"argv": [program, "-f", "{connection_file}"], "display_name": name, "language": language}
    (folder / "kernel.json").write_text(json.dumps(spec))


def test_name_and_path_mean_an_interpreter(kernels: Path, other: Path) -> None:
    install(kernels, "other", "python", str(other))
    assert find_interpreter("other") == str(other)
    assert find_interpreter(str(other)) == str(other)


def test_what_does_not_exist_is_said_with_what_does(kernels: Path) -> None:
    install(kernels, "shell", "bash", "/bin/sh")
    install(kernels, "gone", "python", "/nowhere/python")
    with pytest.raises(UsageError, match=r"no kernel 'nothing'. Those that exist: .*gone.*shell"):
        find_interpreter("nothing")
    with pytest.raises(UsageError, match="'shell' runs bash; cells run Python"):
        find_interpreter("shell")
    with pytest.raises(UsageError, match="'gone' is not there any more"):
        find_interpreter("gone")
    with pytest.raises(UsageError, match="no interpreter /nowhere/python"):
        find_interpreter("/nowhere/python")


def test_versions_that_matter_are_compared(other: Path) -> None:
    import numpy

    assert differences(sys.executable, ["numpy", "json", "nothing_installed"]) == ""
    assert differences(str(other), ["numpy.linalg", "json"]) == f"numpy 0.1 (here {numpy.__version__})"
    assert differences(str(other), ["json", "msgspec"]) == ""


def test_interpreter_that_cannot_run_cells_is_refused(tmp_path: Path) -> None:
    bare = tmp_path / "bare"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", str(bare)], check=True)
    with pytest.raises(UsageError, match="has no zbrain_nb"):
        differences(str(bare / "bin" / "python"), [])
    broken = tmp_path / "broken"
    broken.write_text("#!/bin/sh\necho it is broken >&2\nexit 3\n")
    os.chmod(broken, 0o755)
    with pytest.raises(UsageError, match="does not run: it is broken"):
        differences(str(broken), [])
