"""The table of grants: which blobs an owner may name in an org, because they sent them or a job of theirs made them.

Read by a reader, changed by the writer. Looked up before something is added, so that the table needs no key, which
would be held in memory: a grant that stands twice means the same.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable

import duckdb

from zbrain_nb.model.access import Party

#: Org, owner and SHA-256.
Grant = tuple[str, str, str]


def grants_of(parties: Iterable[Party], names: Iterable[str]) -> set[Grant]:
    """Return the grants by which each of `parties` may name each of the blobs."""
    names = list(names)
    return {(org_id, owner, sha256) for org_id, owner in parties for sha256 in names}


def stored_grants(cursor: duckdb.DuckDBPyConnection, wanted: set[Grant]) -> set[Grant]:
    """Return those of `wanted` that are stored."""
    if not wanted:
        return set()
    heads = list({_head(sha256) for _, _, sha256 in wanted})
    rows = cursor.execute(
        "SELECT org_id, owner, sha256 FROM grants WHERE head IN (SELECT unnest(?::UBIGINT[]))", [heads]
    ).fetchall()
    return wanted.intersection(rows)


def granted_blobs(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Return every blob that somebody has a grant of."""
    return [name for (name,) in cursor.execute("SELECT DISTINCT sha256 FROM grants").fetchall()]


def add_grants(connection: duckdb.DuckDBPyConnection, grants: Collection[Grant]) -> None:
    """Add grants."""
    heads = [_head(sha256) for _, _, sha256 in grants]
    columns = [list(column) for column in zip(*grants, strict=True)]
    connection.execute(
        "INSERT INTO grants SELECT unnest(?::UBIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), "
        "unnest(?::VARCHAR[])",
        [heads, *columns],
    )


def forget_grants(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> None:
    """Remove all grants of these blobs."""
    connection.execute("DELETE FROM grants WHERE sha256 IN (SELECT unnest(?::VARCHAR[]))", [list(names)])


def _head(sha256: str) -> int:
    return int(sha256[:16], 16)
