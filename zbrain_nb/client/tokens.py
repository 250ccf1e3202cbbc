"""What the command line asks a server about tokens and the audit."""

from __future__ import annotations

import datetime as dt
from typing import Any
from urllib.parse import quote

import msgspec

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.audit import Record
from zbrain_nb.model.tokens import Token, TokenRequest

#: As many tokens, and records, as one request lists at most.
TOKENS, RECORDS = 1_000, 10_000


class ShownToken(Token, kw_only=True):
    """A token as the server shows it; the secret only when it was just made."""

    state: str
    secret: str = ""


class _Tokens(msgspec.Struct):
    tokens: list[ShownToken]
    next_cursor: str | None


class _Records(msgspec.Struct):
    records: list[Record]
    next_cursor: int | None


async def create_token(transport: Transport, wanted: TokenRequest) -> ShownToken:
    """Have a token made and return it with its secret.

    Raises
    ------
    Forbidden
        If it would be more than the caller may do.
    InvalidSpec
        If no token can be so.
    """
    return await transport.post("tokens", wanted, ShownToken, repeatable=False)


async def list_tokens(transport: Transport) -> list[ShownToken]:
    """Return the tokens that the caller sees, newest first."""
    found: list[ShownToken] = []
    wanted: dict[str, Any] = {"limit": TOKENS}
    while True:
        page = await transport.get("tokens", _Tokens, params=wanted)
        found += page.tokens
        if page.next_cursor is None:
            return found
        wanted["cursor"] = page.next_cursor


async def revoke_token(transport: Transport, token_id: str) -> ShownToken:
    """Have a token revoked and return it.

    Raises
    ------
    NotFound
        If there is none of this id that the caller sees.
    """
    answer = await transport.request("DELETE", f"tokens/{quote(token_id, safe='')}")
    return msgspec.json.decode(answer.content, type=ShownToken)


async def list_audit(
    transport: Transport,
    limit: int,
    org_id: str | None = None,
    who: str | None = None,
    verb: str | None = None,
    since: dt.datetime | None = None,
) -> list[Record]:
    """Return up to `limit` records of the audit, newest first.

    Raises
    ------
    Forbidden
        If the caller administers no org, or not this one.
    """
    chosen = {"org": org_id, "who": who, "verb": verb, "since": since and since.isoformat()}
    wanted: dict[str, Any] = {name: value for name, value in chosen.items() if value is not None}
    found: list[Record] = []
    while True:
        wanted["limit"] = min(RECORDS, limit - len(found))
        page = await transport.get("audit", _Records, params=wanted)
        found += page.records
        if page.next_cursor is None or len(found) >= limit:
            return found
        wanted["cursor"] = page.next_cursor
