"""What a job that no worker can run is told of what there is."""

from __future__ import annotations

import pytest

from zbrain_nb.model.job import Resources
from zbrain_nb.queue.offers import MOST_KINDS, named, shortfall


@pytest.mark.parametrize(
    ("need", "says"),
    [
        (Resources(64), "64 CPUs; none that is here has enough: 8 CPUs at most"),
        (Resources(1, 65_536), "64 GiB of memory; none that is here has enough: 32 GiB of memory at most"),
        (Resources(64, gpus=2), "64 CPUs and 2 GPUs; none that is here has enough: 8 CPUs and 1 GPU at most"),
        (Resources(8, gpus=1), "more resources; none that is here has enough of all that it asks for"),
    ],
)
def test_shortfall_names_what_is_asked_and_the_most_there_is(need: Resources, says: str) -> None:
    assert shortfall([Resources(8, 16_384), Resources(2, 32_768, 1)], need) == says


def test_memory_without_a_limit_is_never_short() -> None:
    assert shortfall([Resources(2)], Resources(4, 10**9)) == "4 CPUs; none that is here has enough: 2 CPUs at most"


def test_many_kinds_are_not_all_named() -> None:
    assert named([f"k{number}" for number in range(MOST_KINDS + 3)]).endswith("k7 and 3 more")
