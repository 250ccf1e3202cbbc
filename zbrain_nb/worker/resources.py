"""What a worker offers, and what of it is free."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import psutil

from zbrain_nb.model.job import Resources

_NOTHING = 0.001


def offered_resources(concurrency: int) -> Resources:
    """Return what this machine offers: as many cores as it may use (but one for each slot), memory, GPUs."""
    cpus = max(len(os.sched_getaffinity(0)), concurrency)
    gpus = len(list(Path("/dev").glob("nvidia[0-9]*")))
    return Resources(cpus=cpus, memory_mb=psutil.virtual_memory().total >> 20, gpus=gpus)


def free_resources(offer: Resources, needs: Iterable[Resources]) -> Resources:
    """Return what of `offer` is left when `needs` are met, never less than next to nothing."""
    cpus, memory, gpus = offer.cpus, offer.memory_mb or 0, offer.gpus
    for need in needs:
        cpus -= need.cpus
        memory -= need.memory_mb or 0
        gpus -= need.gpus
    return Resources(cpus=max(_NOTHING, cpus), memory_mb=max(1, memory), gpus=max(0, gpus))


def is_more(now: Resources, then: Resources) -> bool:
    """Whether there is more of anything `now` than there was `then`."""
    return now.cpus > then.cpus or (now.memory_mb or 0) > (then.memory_mb or 0) or now.gpus > then.gpus
