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

_COLUMNS = "unnest(?::VARCHAR[]) AS org_id, unnest(?::VARCHAR[]) AS owner, unnest(?::VARCHAR[]) AS sha256"


def grants_of(parties: Iterable[Party], names: Iterable[str]) -> set[Grant]:
    """Return the grants by which each of `parties` may name each of the blobs."""
    names = list(names)
    return {(org_id, owner, sha256) for org_id, owner in parties for sha256 in names}


def stored_grants(cursor: duckdb.DuckDBPyConnection, wanted: Collection[Grant]) -> set[Grant]:
    """Return those of `wanted` that are stored."""
    if not wanted:
        return set()
    rows = cursor.execute(
        f"SELECT DISTINCT * FROM grants WHERE sha256 IN (SELECT unnest(?::VARCHAR[])) "
        f"AND (org_id, owner, sha256) IN (SELECT (org_id, owner, sha256) FROM (SELECT {_COLUMNS}))",
        [list({sha256 for _, _, sha256 in wanted}), *_columns(wanted)],
    ).fetchall()
    return set(rows)


def granted_blobs(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Return every blob that somebody has a grant of."""
    return [name for (name,) in cursor.execute("SELECT DISTINCT sha256 FROM grants").fetchall()]


def add_grants(connection: duckdb.DuckDBPyConnection, grants: Collection[Grant]) -> None:
    """Add grants."""
    connection.execute(f"INSERT INTO grants SELECT {_COLUMNS}", _columns(grants))


def forget_grants(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> None:
    """Remove all grants of these blobs."""
    connection.execute("DELETE FROM grants WHERE sha256 IN (SELECT unnest(?::VARCHAR[]))", [list(names)])


def _columns(grants: Collection[Grant]) -> list[list[str]]:
    return [list(column) for column in zip(*grants, strict=True)]
