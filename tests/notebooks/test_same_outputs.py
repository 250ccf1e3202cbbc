"""The cells of notebooks give the same outputs as jobs as in the notebook's own kernel.

What differs on purpose, and so stands in no notebook here: an exit with success is no error; an exception group and
a magic that does not exist are errors, where IPython only writes to stderr; help (``f?``) is shown under the cell,
for a job has no pager; a log's line over 64 KiB becomes several. What a cell sets outside its variables, as options
of pandas, ends with the job.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
from pathlib import Path

import nbformat
import pytest

from tests.notebooks.same import run_both
from tests.notebooks.themes import THEMES

#: Of other projects, read where they are installed.
FAST = (
    "papermill/tests/notebooks/broken2.ipynb",
    "papermill/tests/notebooks/report_mode_test.ipynb",
    "papermill/tests/notebooks/sysexit1.ipynb",
    "papermill/tests/notebooks/test_logging.ipynb",
)
#: Those that cannot be compared, by why.
NOT_COMPARED = {
    "it exits with success": ("sysexit.ipynb", "sysexit0.ipynb", "systemexit.ipynb"),
    "it calls a magic that does not exist": ("line_magic_error.ipynb",),
    "it runs for a minute, to be interrupted": ("keyboard_interrupt.ipynb",),
    "its output is what it measures": ("binder.ipynb",),
}


def cells_of(path: Path) -> list[str]:
    notebook = nbformat.read(path, as_version=4)
    return [cell.source for cell in notebook.cells if cell.cell_type == "code" and cell.source.strip()]


def installed() -> list[str]:
    """Return the notebooks for a Python kernel that installed packages bring along."""
    left_out = {name for names in NOT_COMPARED.values() for name in names}
    found = {}
    for distribution in importlib.metadata.distributions():
        for file in distribution.files or ():
            path = Path(str(distribution.locate_file(file)))
            if file.suffix == ".ipynb" and path.name not in left_out and "site-packages" in path.parts:
                kernel = nbformat.read(path, as_version=4).metadata.get("kernelspec", {})
                if kernel.get("name") in ("python", "python2", "python3") and cells_of(path):
                    found[str(file)] = path
    return sorted(found)


def located(name: str) -> Path:
    return Path(str(importlib.metadata.distribution(name.partition("/")[0]).locate_file(name)))


def compare(cells: list[str], folder: Path) -> None:
    here, away = asyncio.run(run_both(cells, folder))
    for number, (own, job) in enumerate(zip(here, away, strict=True)):
        assert job == own, f"cell {number}: {cells[number]}"
    assert any(here), "no cell has put out anything"


@pytest.mark.parametrize("name", THEMES)
def test_cells_as_jobs_give_the_outputs_of_the_kernel(name: str, tmp_path: Path) -> None:
    compare(THEMES[name], tmp_path)


@pytest.mark.parametrize("name", FAST)
def test_installed_notebook_as_jobs_gives_the_outputs_of_the_kernel(name: str, tmp_path: Path) -> None:
    compare(cells_of(located(name)), tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_every_installed_notebook_as_jobs_gives_the_outputs_of_the_kernel(tmp_path: Path) -> None:
    names = installed()
    assert len(names) >= len(FAST)
    for number, name in enumerate(names):
        folder = tmp_path / str(number)
        folder.mkdir()
        compare(cells_of(located(name)), folder)
