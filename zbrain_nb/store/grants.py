"""The table of grants: which blobs an owner may name in an org, because they sent them or a job of theirs made them.

Read by a reader, changed by the writer, which looks up what is stored before it adds: so the table needs no key, which
would be held in memory. The rows also say what a blob counts for whose limits: once for each owner, in one org.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping

import duckdb

from zbrain_nb.model.access import Party

#: Org, owner and SHA-256.
Grant = tuple[str, str, str]
#: Org, owner and bytes.
Charge = tuple[str, str, int]


def grants_of(parties: Iterable[Party], names: Iterable[str]) -> set[Grant]:
    """Return the grants by which each of `parties` may name each of the blobs."""
    names = list(names)
    return {(org_id, owner, sha256) for org_id, owner in parties for sha256 in names}


def stored_grants(cursor: duckdb.DuckDBPyConnection, wanted: Collection[Grant]) -> set[Grant]:
    """Return those of `wanted` that are stored."""
    return set(wanted).intersection(row[:3] for row in _rows_about(cursor, wanted))


def _rows_about(cursor: duckdb.DuckDBPyConnection, wanted: Collection[Grant]) -> list[tuple[str, str, str, int]]:
    """Return org, owner, SHA-256 and size of all grants of the blobs that `wanted` names."""
    if not wanted:
        return []
    heads = list({_head(sha256) for _, _, sha256 in wanted})
    return cursor.execute(
        "SELECT org_id, owner, sha256, size FROM grants WHERE head IN (SELECT unnest(?::UBIGINT[]))", [heads]
    ).fetchall()


def granted_blobs(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    """Return every blob that somebody has a grant of."""
    return [name for (name,) in cursor.execute("SELECT DISTINCT sha256 FROM grants").fetchall()]


def stored_sizes(cursor: duckdb.DuckDBPyConnection) -> list[Charge]:
    """Return how much each owner stores in each org, in bytes."""
    return cursor.execute(
        "SELECT org_id, owner, sum(size)::BIGINT FROM grants WHERE size > 0 GROUP BY org_id, owner"
    ).fetchall()


def add_grants(connection: duckdb.DuckDBPyConnection, grants: Mapping[Grant, int]) -> list[Charge]:
    """Add those grants that are not stored.

    Parameters
    ----------
    grants : mapping of Grant to int
        Each with the blob's size in bytes, which counts unless the blob counts for its owner already; 0 never counts.

    Returns
    -------
    list of Charge
        What counts from now on.
    """
    rows = _rows_about(connection, grants)
    stored = {row[:3] for row in rows}
    counted = {(owner, sha256) for _, owner, sha256, size in rows if size}
    new, charges = [], []
    for grant, size in grants.items():
        org_id, owner, sha256 = grant
        if grant in stored:
            continue
        counts = 0 if (owner, sha256) in counted else size
        if counts:
            counted.add((owner, sha256))
            charges.append((org_id, owner, counts))
        new.append((_head(sha256), *grant, counts))
    if new:
        connection.execute(
            "INSERT INTO grants SELECT unnest(?::UBIGINT[]), unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), "
            "unnest(?::VARCHAR[]), unnest(?::BIGINT[])",
            [list(column) for column in zip(*new, strict=True)],
        )
    return charges


def forget_grants(connection: duckdb.DuckDBPyConnection, names: Collection[str]) -> list[Charge]:
    """Remove all grants of these blobs; return what counts no longer."""
    rows: list[Charge] = connection.execute(
        "DELETE FROM grants WHERE sha256 IN (SELECT unnest(?::VARCHAR[])) RETURNING org_id, owner, size", [list(names)]
    ).fetchall()
    return [row for row in rows if row[2]]


def _head(sha256: str) -> int:
    return int(sha256[:16], 16)
