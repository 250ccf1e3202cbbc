"""What workers offer against what a job asks for, and the words for it; the desk says them of a job that waits."""

from __future__ import annotations

import math
from collections.abc import Sequence

from zbrain_nb.model.job import Resources
from zbrain_nb.model.sizes import format_kib

#: So many kinds are named at most.
MOST_KINDS = 8


def is_enough(has: Resources, need: Resources) -> bool:
    """Whether a worker that has this may ever run a job that asks for that."""
    memory_fits = has.memory_mb is None or need.memory_mb is None or need.memory_mb <= has.memory_mb
    return need.cpus <= has.cpus and need.gpus <= has.gpus and memory_fits


def shortfall(offers: Sequence[Resources], need: Resources) -> str:
    """Say what a job asks for that none of the workers has, where each has too little, and how much the best have."""
    asked = _amounts(need)
    most = [max(amounts) for amounts in zip(*(_amounts(one, math.inf) for one in offers), strict=True)]
    short = [place for place, amount in enumerate(asked) if amount > most[place]]
    if not short:
        return "more resources; none that is here has enough of all that it asks for"
    wanted, there = (" and ".join(_WORDS[place](amounts[place]) for place in short) for amounts in (asked, most))
    return f"{wanted}; none that is here has enough: {there} at most"


def named(kinds: Sequence[str]) -> str:
    """Name kinds of workers, not too many."""
    more = "" if len(kinds) <= MOST_KINDS else f" and {len(kinds) - MOST_KINDS:,} more"
    return f"{', '.join(kinds[:MOST_KINDS])}{more}"


def _amounts(resources: Resources, unstated: float = 0) -> tuple[float, float, float]:
    memory = resources.memory_mb
    return resources.cpus, unstated if memory is None else memory, resources.gpus


_WORDS = (
    lambda cpus: f"{cpus:g} {'CPU' if cpus == 1 else 'CPUs'}",
    lambda memory: f"{format_kib(memory * 1024)} of memory",
    lambda gpus: f"{gpus:g} {'GPU' if gpus == 1 else 'GPUs'}",
)
