"""The table of tokens: what the host reads when it starts, and what it writes when one is made, used or revoked.

Changes are made by the writer, each with its record in the audit (`Database.append_audit`).
"""

from __future__ import annotations

import datetime as dt
from collections.abc import Collection, Mapping
from typing import Any

import duckdb
import msgspec

from zbrain_nb.model.access import Role
from zbrain_nb.model.tokens import Token, TokenKind
from zbrain_nb.store.queries import Cursor
from zbrain_nb.store.rows import micros

#: In `meta` once it holds for the directory that tokens end with the one that they were made with.
END_TOGETHER = "tokens_end_together"
_EPOCH = dt.datetime(1970, 1, 1, tzinfo=dt.UTC)
_decode_roles = msgspec.json.Decoder(dict[str, Role] | None).decode


def add_token(connection: duckdb.DuckDBPyConnection, token: Token, digest: bytes) -> None:
    """Keep a new token, by the hash of its secret."""
    connection.execute(
        f"INSERT INTO tokens VALUES ({'?, ' * 10}make_timestamp(?), make_timestamp(?), NULL, NULL, NULL)",
        [
            token.id,
            digest.hex(),
            token.kind.value,
            token.owner,
            msgspec.json.encode(token.roles).decode(),
            token.pool,
            token.jobs_of,
            token.label,
            token.created_by,
            token.created_with,
            micros(token.created_at),
            micros(token.expires_at),
        ],
    )


def revoke_tokens(connection: duckdb.DuckDBPyConnection, tokens: Collection[Token]) -> None:
    """Keep that tokens were revoked, when and by whom."""
    connection.execute(
        "UPDATE tokens SET revoked_at = make_timestamp(ended.at_us), revoked_by = ended.who FROM (SELECT "
        "unnest(?::VARCHAR[]) AS id, unnest(?::BIGINT[]) AS at_us, unnest(?::VARCHAR[]) AS who) AS ended "
        "WHERE tokens.id = ended.id",
        [[one.id for one in tokens], [micros(one.revoked_at) for one in tokens], [one.revoked_by for one in tokens]],
    )


def detach_tokens(connection: duckdb.DuckDBPyConnection, ids: Collection[str]) -> None:
    """Keep that tokens end by themselves alone, and that all others end with the one that they were made with."""
    connection.execute("UPDATE tokens SET created_with = '' WHERE list_contains(?::VARCHAR[], id)", [list(ids)])
    connection.execute("INSERT OR REPLACE INTO meta VALUES (?, '')", [END_TOGETHER])


def note_uses(connection: duckdb.DuckDBPyConnection, used: Mapping[str, dt.datetime]) -> None:
    """Keep when tokens were last used, by their ids."""
    connection.execute(
        "UPDATE tokens SET last_used_at = make_timestamp(used.at_us) "
        "FROM (SELECT unnest(?::VARCHAR[]) AS id, unnest(?::BIGINT[]) AS at_us) AS used WHERE tokens.id = used.id",
        [list(used), [micros(when) for when in used.values()]],
    )


def forget_tokens(connection: duckdb.DuckDBPyConnection, before: dt.datetime) -> None:
    """Remove the tokens that expired or were revoked before a time; the audit still tells of them."""
    connection.execute(
        "DELETE FROM tokens WHERE least(expires_at, coalesce(revoked_at, expires_at)) < make_timestamp(?)",
        [micros(before)],
    )


def read_tokens(cursor: Cursor) -> dict[bytes, Token]:
    """Return all tokens by the hashes of their secrets, oldest first."""
    cursor.execute(
        "SELECT hash, id, kind, owner, roles, pool, jobs_of, label, created_by, created_with, epoch_us(created_at), "
        "epoch_us(expires_at), epoch_us(revoked_at), revoked_by, epoch_us(last_used_at) FROM tokens ORDER BY created_at"
    )
    known: dict[str, dict[str, Role] | None] = {}  # most tokens have the roles of many others
    found: dict[bytes, Token] = {}
    while rows := cursor.fetchmany(10_000):
        for row in rows:
            if row[4] not in known:
                known[row[4]] = _decode_roles(row[4])
            found[bytes.fromhex(row[0])] = _token(row[1:], known[row[4]])
    return found


def _token(row: tuple[Any, ...], roles: dict[str, Role] | None) -> Token:
    token_id, kind, owner, _, pool, jobs_of, label, *rest = row
    created_by, created_with, created, expires, revoked, revoked_by, used = rest
    return Token(
        id=token_id,
        kind=TokenKind(kind),
        owner=owner,
        roles=roles,
        pool=pool,
        jobs_of=jobs_of,
        label=label,
        created_by=created_by,
        created_with=created_with,
        created_at=_when(created),
        expires_at=_when(expires),
        revoked_at=None if revoked is None else _when(revoked),
        revoked_by=revoked_by,
        last_used_at=None if used is None else _when(used),
    )


def _when(us: int) -> dt.datetime:
    return _EPOCH + dt.timedelta(microseconds=us)
