"""The cells of notebooks give the same outputs as jobs as in the notebook's own kernel."""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest

from tests.notebooks.same import run_both
from tests.notebooks.themes import THEMES


@pytest.mark.parametrize("name", THEMES)
def test_cells_as_jobs_give_the_outputs_of_the_kernel(name: str, tmp_path: Path) -> None:
    cells = THEMES[name]
    here, away = asyncio.run(run_both(cells, tmp_path))
    for number, (own, job) in enumerate(zip(here, away, strict=True)):
        assert job == own, f"cell {number}: {cells[number]}"
