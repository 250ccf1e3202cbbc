"""``--kernel``: which interpreter a kernel's name means, and how it differs from the notebook's own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from zbrain_nb.model.errors import UsageError
from zbrain_nb.model.kernels import Kernel
from zbrain_nb.notebook.arguments import parse_line
from zbrain_nb.notebook.environments import differences, find_kernel, refuse_cache, refuse_variables


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
    assert find_kernel("other").python == str(other)
    assert find_kernel(str(other)).python == str(other)


def test_what_does_not_exist_is_said_with_what_does(kernels: Path) -> None:
    install(kernels, "shell", "bash", "no-such-shell")
    install(kernels, "gone", "python", "/nowhere/python")
    (kernels / "torn").mkdir()
    (kernels / "torn" / "kernel.json").write_text("{")
    with pytest.raises(UsageError, match=r"no kernel 'nothing'. Those that exist: .*gone.*shell"):
        find_kernel("nothing")
    with pytest.raises(UsageError, match="program of the kernel 'shell' is not there: no-such-shell"):
        find_kernel("shell")
    with pytest.raises(UsageError, match="Python of the kernel 'gone' is not there: /nowhere/python"):
        find_kernel("gone")
    with pytest.raises(UsageError, match="kernelspec of 'torn' cannot be read"):
        find_kernel("torn")
    with pytest.raises(UsageError, match="no interpreter /nowhere/python"):
        find_kernel("/nowhere/python")


def test_kernel_of_another_language_is_found_by_name_and_folder(kernels: Path) -> None:
    install(kernels, "shell", "bash", "sh")
    for name in ("shell", str(kernels / "shell")):
        found = find_kernel(name)
        assert (found.name, found.language, found.python, found.folder) == (
            "shell",
            "bash",
            None,
            str(kernels / "shell"),
        )
    with pytest.raises(UsageError, match="'sh"):
        find_kernel("shell", {"PATH": "/nowhere"})


@pytest.mark.parametrize(
    "argv", [["xpython", "-f"], ["{python}", "-m", "nb_conda_kernels.runner"]], ids=["xeus", "conda"]
)
def test_python_that_ipykernel_does_not_run_in_is_no_interpreter(
    kernels: Path, argv: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "xpython").touch(0o700)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=":")
    (kernels / "own").mkdir(parents=True)
    words = [word.format(python=sys.executable) for word in argv]
    (kernels / "own" / "kernel.json").write_text(
        json.dumps({"argv": words, "display_name": "own", "language": "python"})
    )
    assert find_kernel("own").python is None


@pytest.mark.parametrize(("line", "flag"), [("--in a", "--in"), ("--out b", "--out"), ("--grid c=1,2", "--grid")])
def test_variables_are_refused_by_a_kernel_of_another_language(line: str, flag: str) -> None:
    kernel = Kernel("ir", "R", None, "/kernels/ir")
    with pytest.raises(UsageError, match=f"{flag} names variables of Python, and the kernel 'ir' runs R"):
        refuse_variables(kernel, parse_line(f"--kernel ir {line}"))
    refuse_variables(kernel, parse_line("--kernel ir --in none --out none"))


@pytest.mark.parametrize("kernel", [Kernel("ir", "R"), Kernel("other", python="/other/bin/python")])
def test_cache_is_refused_where_packages_cannot_be_looked_at(kernel: Kernel) -> None:
    with pytest.raises(UsageError, match=f"not those of the kernel '{kernel.name}'"):
        refuse_cache(kernel, parse_line("--cache"))
    refuse_cache(kernel, parse_line(""))
    refuse_cache(Kernel("python3", python=sys.executable), parse_line("--cache"))


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
