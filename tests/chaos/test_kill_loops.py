"""kill -9 of host, worker and both, again and again, in commits and in checkpoints: nothing acknowledged is lost."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.chaos.rounds import run_rounds


def test_kills_at_random_instants_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    tally = run_rounds(tmp_path, rounds=6, seed=6)
    assert tally.rounds == 6
    assert len(tally.killed) == 3, "host, worker and both were killed"
    assert tally.jobs > 100
    assert tally.lines > 100


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_two_hundred_kills_lose_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    tally = run_rounds(tmp_path, rounds=200, seed=200)
    assert tally.dying["a"] > 5, "some died in a commit"
    assert tally.dying["c"] > 0, "some died in a checkpoint"
