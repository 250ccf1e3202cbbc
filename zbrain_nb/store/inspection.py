"""A look into a database that no host serves: whether this version can open it. Called for `zbrain doctor`."""

from __future__ import annotations

from pathlib import Path

import duckdb
import msgspec

from zbrain_nb.store.opening import probe
from zbrain_nb.store.schema import SCHEMA_VERSION, version_of


class Inspection(msgspec.Struct):
    """What was found: the version of the tables, the one that this code writes, and why they cannot be read."""

    version: int
    known: int
    problem: str | None = None


def inspect_database(path: Path) -> Inspection:
    """Open a database for reading, and read what a queue cannot start without; it is not changed."""
    try:
        with duckdb.connect(str(path), read_only=True) as connection:
            version = version_of(connection)
            if version == SCHEMA_VERSION:
                probe(connection)
    except duckdb.Error as error:
        return Inspection(0, SCHEMA_VERSION, str(error).splitlines()[0])
    return Inspection(version, SCHEMA_VERSION)
