"""Tokens as the host knows them: made, found by the hash of their secret, listed, revoked.

All live in memory, read from the store when the host starts. A look-up hashes what was shown and asks a dictionary:
how long that takes tells nothing of any secret, for nobody can choose the hash that is compared. A token that was
revoked is refused from that moment on, before the store knows it.
"""

from __future__ import annotations

import asyncio
import datetime as dt
import heapq
import logging
import secrets
from collections.abc import Callable, Collection, Iterator
from functools import partial
from itertools import dropwhile, islice

import msgspec

from zbrain_nb.model.access import Credential, Principal, Role, Verb, WorkerBinding
from zbrain_nb.model.audit import Record
from zbrain_nb.model.errors import Forbidden, TokenNotFound, Unauthorized, ZBrainError
from zbrain_nb.model.job import OWN_KIND
from zbrain_nb.model.tokens import (
    DEFAULT_LIFE_SECS,
    EVERYBODY,
    Token,
    TokenKind,
    TokenRequest,
    hash_secret,
    is_secret,
    new_secret,
)
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.clock import Clock, as_datetime
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.store import waiting
from zbrain_nb.store.storage import Storage
from zbrain_nb.store.tokens import (
    END_TOGETHER,
    add_token,
    detach_tokens,
    forget_tokens,
    note_uses,
    read_tokens,
    revoke_tokens,
)

log = logging.getLogger(__name__)

#: Between two looks at which tokens have expired.
SWEEP_SECS = 5.0
#: How coarse `last_used_at` is, and how seldom it is written.
USE_SECS = 300.0
#: Tokens that ended so long ago are forgotten; the audit still tells of them.
FORGET_SECS = 90 * 86_400.0
_ID_BYTES = 8


class Tokens:
    """The tokens of one data directory.

    Parameters
    ----------
    storage : Storage
        Where they are kept.
    audit : AuditLog
        Is told what is made and revoked.
    ended : callable
        Gets the ids of tokens that were revoked or have expired, to end what is open with them: sockets, sessions,
        lease requests.
    home : str
        The org of what is submitted without naming one, by tokens that have it.
    only_holder_mints : bool
        Whether people have logins of another system here: what such a login made would outlive it.
    clock : Clock
        For tests.
    """

    def __init__(
        self,
        storage: Storage,
        audit: AuditLog,
        ended: Callable[[Collection[str]], None],
        *,
        home: str,
        only_holder_mints: bool = False,
        clock: Clock | None = None,
    ) -> None:
        self._storage = storage
        self._audit = audit
        self._ended = ended
        self._home = home
        self._only_holder_mints = only_holder_mints
        self._clock = clock or Clock()
        self._begun = self._clock.time(), self._clock.monotonic()
        self._by_hash: dict[bytes, Token] = {}
        self._by_id: dict[str, Token] = {}
        self._used: dict[str, dt.datetime] = {}
        self._uses_kept_at = self._clock.monotonic()
        self._expiring: list[tuple[dt.datetime, str]] = []
        self._passing = Background(self._run)

    async def start(self) -> None:
        """Read what the store has, and see from now on to what passes with time."""
        before = self.now() - dt.timedelta(seconds=FORGET_SECS)
        await self._storage.write(lambda database: database.append_audit([], partial(forget_tokens, before=before)))
        self._by_hash = await self._storage.read(read_tokens)
        self._by_id = {token.id: token for token in self._by_hash.values()}
        await self._see_to_orphans()
        self._expiring = [(token.expires_at, token.id) for token in self._by_id.values()]
        heapq.heapify(self._expiring)
        self._passing.start()

    async def _see_to_orphans(self) -> None:
        """See to living tokens whose maker has ended.

        In a directory of before tokens ended with their makers they go on, by themselves: somebody relies on them, and
        who revoked the maker could not know better. Later there are some only if an earlier version revoked the maker:
        they have ended too, and lists shall say so.
        """
        go_on = await self._storage.read(waiting.meta, END_TOGETHER) is None
        now, detached, records = self.now(), [], []
        for token in self._by_id.values():  # makers come before what they made
            maker_id = token.created_with
            maker = self._by_id.get(maker_id)
            if not maker_id or token.state_at(now) != "live" or (maker is not None and maker.state_at(now) == "live"):
                continue
            if not go_on:
                ended_at = now if maker is None else maker.revoked_at or maker.expires_at
                token.revoked_at, token.revoked_by = ended_at, None if maker is None else maker.revoked_by
                continue
            token.created_with = ""
            detached.append(token.id)
            log.warning(
                "A token outlives the one that it was made with, which ended before an upgrade: revoke it if it shall "
                "end too.",
                extra={"token_id": token.id, "kind": token.kind.value, "owner": token.owner, "made_with": maker_id},
            )
            record = Record(ts=now, who="", verb="detach token", object_kind="token")
            for one in _records(record, token):
                one.reason += f"; made with {maker_id}, which ended before an upgrade"
                records.append(one)
        if not go_on:
            return
        try:
            await self._audit.commit(records, partial(detach_tokens, ids=detached))
        except ZBrainError as error:  # a full disk is no reason not to start
            log.warning(
                "Which tokens outlive their makers could not be kept; the next start sees to it.",
                extra={"why": error.message},
            )

    async def stop(self) -> None:
        """Keep the last uses; harmless if it does not run."""
        if await self._passing.stop():
            await self._keep_uses()

    def now(self) -> dt.datetime:
        """Return the time by which tokens expire.

        It does not go back while the host runs, whatever becomes of the machine's clock: what has expired stays so.
        """
        wall, monotonic = self._begun
        return as_datetime(max(self._clock.time(), wall + self._clock.monotonic() - monotonic))

    def find(self, secret: str) -> Principal | None:
        """Return who shows a secret, or None if it is no live token's."""
        if not is_secret(secret):
            return None
        token = self._by_hash.get(hash_secret(secret))
        now = self.now()
        if token is None or not self._is_live(token, now):
            return None
        if token.last_used_at is None or (now - token.last_used_at).total_seconds() >= USE_SECS:
            token.last_used_at = self._used[token.id] = now
        return self._principal(token)

    def lives(self, token_id: str) -> bool:
        """Whether the token of this id is known and has not ended."""
        token = self._by_id.get(token_id)
        return token is not None and self._is_live(token, self.now())

    def _is_live(self, token: Token, now: dt.datetime) -> bool:
        """Whether neither it nor the one that it was made with, nor that one's in turn, has ended or is forgotten."""
        maker: Token | None = token
        while maker is not None and maker.state_at(now) == "live":
            if not maker.created_with:
                return True
            maker = self._by_id.get(maker.created_with)
        return False

    def _principal(self, token: Token) -> Principal:
        roles = token.roles
        home = self._home if roles is None or self._home in roles else next(iter(roles))
        if token.kind is TokenKind.WORKER:
            orgs = None if roles is None else frozenset(roles)
            isolates = token.jobs_of == EVERYBODY
            whose = None if isolates else token.jobs_of
            bound = WorkerBinding(orgs=orgs, owner=whose, pool=token.pool, isolates=isolates)
            credential = Credential.WORKER
            return Principal(
                owner=token.owner, roles={}, home=home, credential=credential, worker=bound, token_id=token.id
            )
        return Principal(owner=token.owner, roles=roles, home=home, token_id=token.id)

    async def mint(self, wanted: TokenRequest, by: Principal, record: Record) -> tuple[Token, str]:
        """Make a token that may do no more than who makes it; return it and its secret, which is kept nowhere.

        Parameters
        ----------
        wanted : TokenRequest
            What for.
        by : Principal
            An admin of each of its orgs.
        record : Record
            For the audit, as far as the request tells.

        Raises
        ------
        Forbidden
            If it would be more than `by` may do, or only the holder makes any.
        Unauthorized
            If the token that `by` came with has ended meanwhile.
        InvalidSpec
            If no token can be so.
        Unavailable
            If the store refused.
        """
        wanted.check()
        if self._only_holder_mints and not by.is_holder:
            raise Forbidden(
                "On JupyterHub only who holds the service's data directory makes tokens.",
                "Use a token of the Hub: it opens zbrain too, and ends with the account and its groups.",
            )
        if by.token_id and not self.lives(by.token_id):
            raise Unauthorized("The token that this was asked for with has ended meanwhile.")
        roles = {by.home: wanted.kind.usual_role} if wanted.roles is msgspec.UNSET else wanted.roles
        _check_rights(by, roles, wanted.owner or by.owner)
        if wanted.kind is TokenKind.WORKER and not by.is_holder and wanted.pool in (None, OWN_KIND):
            raise Forbidden(
                "A worker's token that an org's admin makes is for a pool, for what names none runs at its owner's.",
                "Name a pool (`--pool NAME`): it gets the jobs that people send there.",
            )
        now = self.now()
        token = Token(
            id=f"{wanted.kind.prefix}{secrets.token_hex(_ID_BYTES)}",
            kind=wanted.kind,
            owner=wanted.owner or by.owner,
            roles=roles,
            pool=wanted.pool,
            jobs_of=wanted.jobs_of,
            label=wanted.label,
            created_by=by.owner,
            created_with=by.token_id,
            created_at=now,
            expires_at=self._expiry(wanted, by, now),
        )
        secret = new_secret(wanted.kind)
        digest = hash_secret(secret)
        self._by_id[token.id] = token  # before it is kept: who revokes its maker meanwhile finds it
        try:
            await self._audit.commit(_records(record, token), partial(add_token, token=token, digest=digest))
        except ZBrainError:
            del self._by_id[token.id]
            raise
        self._by_hash[digest] = token
        heapq.heappush(self._expiring, (token.expires_at, token.id))
        return token, secret

    def _expiry(self, wanted: TokenRequest, by: Principal, now: dt.datetime) -> dt.datetime:
        """Return when a token is to expire: not after the one that makes it."""
        secs = DEFAULT_LIFE_SECS if wanted.expires_in_secs is None else wanted.expires_in_secs
        expires_at = now + dt.timedelta(seconds=secs)
        maker = self._by_id.get(by.token_id)
        if maker is None or expires_at <= maker.expires_at:
            return expires_at
        if wanted.expires_in_secs is not None:
            raise Forbidden(
                f"The token would outlive the one that makes it, which ends at {maker.expires_at:%Y-%m-%d %H:%M} UTC.",
                "Let it expire earlier.",
            )
        return maker.expires_at

    def tokens(self, by: Principal, limit: int | None = None, after: str | None = None) -> list[Token]:
        """Return the tokens that somebody sees, newest first: their own, and those of the orgs that they administer.

        Of a token of several orgs an admin sees the roles in their own.

        Parameters
        ----------
        limit : int, optional
            At most so many.
        after : str, optional
            The id of the last one that was returned before; nothing follows one that is not seen.
        """
        following: Iterator[Token] = (token for token in reversed(self._by_id.values()) if _sees(by, token))
        if after is not None:
            following = dropwhile(lambda token: token.id != after, following)
            next(following, None)
        return [_shown(token, by) for token in islice(following, limit)]

    async def revoke(self, token_id: str, by: Principal, record: Record) -> Token:
        """End a token at once, those made with it, and all that is open with them; harmless if it has ended.

        Raises
        ------
        TokenNotFound
            If there is none that `by` sees.
        Unavailable
            If the store refused. The tokens are refused from now on, but would be taken after a restart.
        """
        token = self._by_id.get(token_id)
        if token is None or not _sees(by, token):
            raise TokenNotFound(f"There is no token {token_id}.", "`zbrain token list` shows those that exist.")
        family = self._family(token)
        if living := [one for one in family if one.revoked_at is None]:
            for one in living:
                one.revoked_at, one.revoked_by = self.now(), by.owner
            self._ended([one.id for one in living])
        try:
            records = [told for one in family for told in _records(record, one)]
            await self._audit.commit(records, partial(revoke_tokens, tokens=family))
        except ZBrainError as error:
            error.hint = "It is refused from now on, but a restart would forget that: revoke it again."
            raise
        return _shown(token, by)

    def _family(self, token: Token) -> list[Token]:
        """Return a token, and those that were made with it, or with one of those."""
        made: dict[str, list[Token]] = {}
        for one in self._by_id.values():
            made.setdefault(one.created_with, []).append(one)
        family = [token]
        for one in family:  # it grows meanwhile
            family += made.get(one.id, ())
        return family

    async def _run(self) -> None:
        while True:
            await asyncio.sleep(SWEEP_SECS)
            self.sweep()
            if self._clock.monotonic() - self._uses_kept_at >= USE_SECS:
                await self._keep_uses()

    def sweep(self) -> None:
        """End what is open with tokens that have expired since the last look."""
        now, expired = self.now(), []
        while self._expiring and self._expiring[0][0] <= now:
            expired.append(heapq.heappop(self._expiring)[1])
        if expired:
            self._ended(expired)

    async def _keep_uses(self) -> None:
        used, self._used = self._used, {}
        self._uses_kept_at = self._clock.monotonic()
        if not used:
            return
        try:
            await self._storage.write(lambda database: database.append_audit([], partial(note_uses, used=used)))
        except ZBrainError as error:
            self._used = {**used, **self._used}
            log.warning("When tokens were used could not be kept; it is tried again.", extra={"why": error.message})


def _check_rights(by: Principal, roles: dict[str, Role] | None, owner: str) -> None:
    if by.roles is None:
        return
    if roles is None:
        raise Forbidden("A token for all orgs is made by who holds the data directory.", "Name your orgs.")
    for org_id in roles:
        by.check(Verb.ADMINISTER, org_id)
    if owner != by.owner:  # who submits as somebody has code run by that person's own worker
        raise Forbidden(f"{by.owner} cannot make tokens that act as {owner}.", "Leave the owner out.")


def _sees(by: Principal, token: Token) -> bool:
    return by.roles is None or _is_own(by, token) or _administers(by, token)


def _is_own(by: Principal, token: Token) -> bool:
    """Whether it is the caller's: to a login all that act as that person, to a token only itself."""
    return token.id == by.token_id or (token.owner == by.owner and not by.token_id)


def _administers(by: Principal, token: Token) -> bool:
    return token.roles is not None and any(by.may(Verb.ADMINISTER, org_id) for org_id in token.roles)


def _shown(token: Token, by: Principal) -> Token:
    if by.roles is None or _is_own(by, token) or token.roles is None:
        return token
    seen = {org_id: role for org_id, role in token.roles.items() if by.may(Verb.ADMINISTER, org_id)}
    return msgspec.structs.replace(token, roles=seen)


def _records(record: Record, token: Token) -> list[Record]:
    """Return a record for each org whose admins are to see it."""
    what = f"{token.kind} token of {token.owner}"
    until = f"until {token.expires_at:%Y-%m-%d}"
    if token.roles is None:
        return [msgspec.structs.replace(record, object_id=token.id, reason=f"{what} in all orgs {until}")]
    return [
        msgspec.structs.replace(record, object_id=token.id, org_id=org_id, reason=f"{what}, {role} {until}")
        for org_id, role in token.roles.items()
    ]
