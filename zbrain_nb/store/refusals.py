"""What callers are told when DuckDB refuses; its errors go no further than this room."""

from __future__ import annotations

import logging

import duckdb

from zbrain_nb.model.errors import Conflict, DiskFloor, Unavailable, ZBrainError
from zbrain_nb.store.opening import NO_ROOM

log = logging.getLogger(__name__)


def unavailable(error: duckdb.Error) -> ZBrainError:
    """Return what callers are told when DuckDB refused for a reason that is not theirs."""
    made = Unavailable(f"The store could not do it: {str(error).splitlines()[0]}", "Try again.")
    made.__cause__ = error
    return made


def is_full(error: duckdb.Error) -> bool:
    """Whether the disk took no more."""
    text = str(error)
    return any(sign in text for sign in NO_ROOM)


def is_too_much(error: duckdb.Error) -> bool:
    """Whether the database's memory was not enough."""
    signs = ("failed to pin block", "could not allocate block", "failed to allocate data")
    return any(sign in str(error) for sign in signs)


def disk_floor(error: duckdb.Error | None) -> ZBrainError:
    """Return what who submits is told when there is no room, or is too little."""
    made = DiskFloor("The disk is full: the store could not keep the job.", "Make room, then submit it again.")
    made.__cause__ = error
    return made


def conflict(error: Exception) -> ZBrainError:
    """Return what a caller is told whose rows were refused."""
    log.warning("A row was refused.", extra={"why": str(error)})
    made = Conflict("The store refused what this would have written.", "It contradicts what is stored already.")
    made.__cause__ = error
    return made
