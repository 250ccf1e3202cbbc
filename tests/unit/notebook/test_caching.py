"""What makes two cells the same for ``--cache``."""

from __future__ import annotations

import ast
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import msgspec
import pytest
from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.job import JobSpec
from zbrain_nb.notebook.caching import cache_key, imports_of
from zbrain_nb.notebook.shipping import ship_cell

SPEC = JobSpec(code="f(x)", cwd="/here", kernel="/python", env={"A": "1"}, keep=["y"])

Key = Callable[..., str]


@pytest.fixture
def key(notebook: InteractiveShell) -> Key:
    def key(code: str = "f(x)", **fields: Any) -> str:
        spec = msgspec.structs.replace(SPEC, code=code, **fields)
        return cache_key(spec, ship_cell(notebook, code), imports_of(ast.parse(code)))

    return key


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder of one's own on the path; its modules are forgotten at the end."""
    monkeypatch.syspath_prepend(tmp_path)
    known = set(sys.modules)
    yield tmp_path
    for name in set(sys.modules) - known:
        if name.startswith("own_"):
            del sys.modules[name]


def test_key_is_that_of_code_inputs_and_surroundings_and_not_of_labels(notebook: InteractiveShell, key: Key) -> None:
    notebook.run_cell("x = 1\ndef f(x): return x + rate\nrate = 2")
    first = key()
    notebook.execution_count += 5
    for same in (
        {"name": "other", "priority": 3, "tags": {"a": "b"}, "max_retries": 2, "timeout_secs": 9},
        {"resources": {"cpus": 2}},
        {"env": {"A": "1", "SSH_CLIENT": "10.0.0.1", "TERM": "dumb", "SHLVL": "3"}},
    ):
        assert key(**same) == first, same
    for other in (
        {"code": "f(x) "},
        {"keep": ["y", "z"]},
        {"cwd": "/there"},
        {"env": {"A": "2"}},
        {"kernel": "/python3"},
        {"worker": "docker:x"},
        {"artifacts": ["*.png"]},
        {"org_id": "lab"},
        {"limits": {"result_mb": 7}},
        {"secrets": ["TOKEN"]},
        {"after": ["01936b1e-0000-7000-8000-000000000000"]},
    ):
        assert key(**other) != first, other
    notebook.run_cell("rate = 3")  # what its function reads
    assert key() != first
    notebook.run_cell("rate = 2")
    assert key() == first


@pytest.mark.parametrize(
    "code", ["import own_a", "from own_a import f\nf()", "import own_pack.part", "import own_space.deep"]
)
def test_key_changes_with_ones_own_modules_and_what_they_import(folder: Path, key: Key, code: str) -> None:
    files = {
        "own_a.py": "import own_b\ndef f(): return 1",
        "own_b.py": "from own_c import *",
        "own_c.py": "",
        "own_pack/__init__.py": "",
        "own_pack/part.py": "from . import more",
        "own_pack/more.py": "def g():\n    import own_c",
        "own_space/deep.py": "import own_b",
    }
    for name, text in files.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    first = key(code)
    (folder / "own_d.py").write_text("unused")
    assert key(code) == first
    (folder / "own_c.py").write_text("x = 1")
    assert key(code) != first


def test_key_sees_modules_that_the_notebook_imported(folder: Path, key: Key, notebook: InteractiveShell) -> None:
    (folder / "own_m.py").write_text("def f(x): return x")
    notebook.run_cell("x = 1\nfrom own_m import f")
    first = key()
    (folder / "own_m.py").write_text("def f(x): return -x")
    assert key() != first


@pytest.mark.parametrize(
    "cell",
    [
        "def f(x):\n    import own_g\n    return own_g",
        "def f(x):\n    def g():\n        from own_g import h\n        return h\n    return g",
        "class C:\n    def g(self):\n        from own_g.part import h\nx = C()\ndef f(x): return x.g()",
        "def read():\n    import own_g\ndef f(x): return read()",
        "import own_g as _hidden\nx = [_hidden.K()]\nf = len",  # what is in a container knows its module only
        "import own_g as _hidden\nx = {'h': _hidden.h}\nf = len",
        "import own_g as _hidden\ndef f(x, h=_hidden.h): return h",
    ],
)
def test_key_sees_modules_that_only_what_travels_imports(
    folder: Path, key: Key, notebook: InteractiveShell, cell: str
) -> None:
    (folder / "own_g").mkdir()
    (folder / "own_g" / "__init__.py").write_text("class K: pass\ndef h(): return 1")
    (folder / "own_g" / "part.py").write_text("def h(): return 1")
    notebook.run_cell(f"x = 1\n{cell}").raise_error()
    first = key()
    assert key() == first
    (folder / "own_g" / "__init__.py").write_text("class K: pass\ndef h(): return 22")
    assert key() != first


def test_key_sees_that_any_package_was_installed_upgraded_or_removed(folder: Path, key: Key) -> None:
    first = key("import pytest")
    (folder / "needed_by_pytest-1.0.dist-info").mkdir()
    installed = key("import pytest")
    (folder / "needed_by_pytest-1.0.dist-info").rename(folder / "needed_by_pytest-2.0.dist-info")
    upgraded = key("import pytest")
    (folder / "needed_by_pytest-2.0.dist-info").rmdir()
    assert len({first, installed, upgraded}) == 3
    assert key("import pytest") == first


def test_key_sees_that_another_version_of_a_package_was_installed(folder: Path, key: Key) -> None:
    package = folder / "site-packages" / "own_installed"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("")
    sys.path.insert(0, str(package.parent))
    try:
        first = key("import own_installed")
        (package / "data.py").write_text("")  # an installed package is told by one file
        assert key("import own_installed") == first
        os.utime(package / "__init__.py", (1, 1))
        assert key("import own_installed") != first
    finally:
        sys.path.remove(str(package.parent))
