"""Routes for tokens: make, list, revoke. A secret stands in the answer that makes it, and in no other."""

from __future__ import annotations

import datetime as dt
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from zbrain_nb.model.errors import TokenNotFound
from zbrain_nb.model.tokens import Token, TokenRequest
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import PERSONS, operation

MAX_LIST = 1000


class ShownToken(Token, kw_only=True):
    """A token as it is now: ``state`` is live, expired or revoked."""

    state: str


class MadeToken(ShownToken, kw_only=True):
    """A new token with its secret, which nobody can show again."""

    secret: str


class TokenPage(msgspec.Struct):
    """Tokens, newest first; ``next_cursor`` asks for those behind them and is null on the last page."""

    tokens: list[ShownToken]
    next_cursor: str | None


class TokensQuery(msgspec.Struct):
    """Arguments of ``GET tokens``."""

    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = MAX_LIST
    cursor: Annotated[str | None, Meta(description="`next_cursor` of the page before.")] = None


def _shown(token: Token, now: dt.datetime) -> dict[str, Any]:
    shown: dict[str, Any] = msgspec.to_builtins(token)
    return shown | {"state": token.state_at(now)}


class TokensHandler(ApiHandler):
    """``POST tokens`` and ``GET tokens``."""

    @operation(admits=PERSONS, act="create token", body=TokenRequest, answers={201: MadeToken})
    async def post(self) -> None:
        """Make a token, which may do no more than who makes it; 201, with the secret.

        It takes an admin of each org that the token names; who holds the data directory may name any, and who it
        acts as.
        """
        wanted = self.decode(TokenRequest)
        self.note_object("token")
        tokens = self.context.tokens
        token, secret = await tokens.mint(wanted, self.principal, self.record())
        self.is_told = True
        self.reply(_shown(token, tokens.now()) | {"secret": secret}, 201)

    @operation(admits=PERSONS, query=TokensQuery, answers={200: TokenPage})
    async def get(self) -> None:
        """List one's own tokens, and those of the orgs that one administers, newest first."""
        wanted = self.query(TokensQuery)
        tokens = self.context.tokens
        found = tokens.tokens(self.principal, wanted.limit, wanted.cursor)
        now, is_full = tokens.now(), len(found) == wanted.limit
        self.reply({"tokens": [_shown(one, now) for one in found], "next_cursor": found[-1].id if is_full else None})


class TokenHandler(ApiHandler):
    """``DELETE tokens/{id}``."""

    @operation(admits=PERSONS, act="revoke token", answers={200: ShownToken}, refuses=(TokenNotFound,))
    async def delete(self, token_id: str) -> None:
        """Revoke a token at once, and those made with it: what is open with them ends; harmless if it has ended."""
        self.note_object("token", token_id)
        tokens = self.context.tokens
        token = await tokens.revoke(token_id, self.principal, self.record())
        self.is_told = True
        self.reply(_shown(token, tokens.now()))
