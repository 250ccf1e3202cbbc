"""Tokens: no more rights than who makes them, found by hash alone, ended at once."""

import asyncio
import datetime as dt
import logging
from functools import partial

import pytest

from zbrain_nb.model.access import Credential, Principal, Role
from zbrain_nb.model.audit import Record
from zbrain_nb.model.errors import Forbidden, TokenNotFound, Unauthorized, Unavailable
from zbrain_nb.model.tokens import DAY_SECS, TokenKind, TokenRequest, new_secret
from zbrain_nb.server.tokens import Tokens
from zbrain_nb.store.audit import AuditQuery
from zbrain_nb.store.tokens import END_TOGETHER, forget_tokens, revoke_tokens

pytestmark = pytest.mark.anyio
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)


def record(verb="create token", who="ada"):
    return Record(ts=EPOCH, who=who, verb=verb, object_kind="token")


async def mint(tokens, by, **wanted):
    return await tokens.mint(TokenRequest(**wanted), by, record())


async def test_token_is_found_by_its_secret_and_by_nothing_else(tokens, admin, storage):
    token, secret = await mint(tokens, admin, label="ci")
    found = tokens.find(secret)
    assert found == Principal(owner="ada", roles={"lab": Role.SUBMITTER}, home="lab", token_id=token.id)
    stored = str(await storage.read(lambda cursor: cursor.execute("SELECT * FROM tokens, audit").fetchall()))
    assert token.id in stored and secret not in stored and secret[4:40] not in stored
    for wrong in (secret[:-1], secret + "0", secret.upper(), token.id, "", new_secret(TokenKind.PERSON)):
        assert tokens.find(wrong) is None


async def test_tokens_outlive_a_restart_and_so_does_their_end(tokens, admin, storage, audit, clock):
    kept, kept_secret = await mint(tokens, admin, label="kept")
    gone, gone_secret = await mint(tokens, admin)
    await tokens.revoke(gone.id, admin, record("revoke token"))
    tokens.find(kept_secret)
    await tokens.stop()
    again = Tokens(storage, audit, lambda ids: None, home="default", clock=clock)
    await again.start()
    assert again.find(kept_secret).token_id == kept.id
    assert again.find(gone_secret) is None
    listed = {token.id: token for token in again.tokens(admin)}
    assert listed[kept.id].last_used_at is not None and listed[kept.id].label == "kept"
    assert listed[gone.id].revoked_by == "ada"
    await again.stop()


@pytest.mark.parametrize(
    "wanted",
    [
        {"roles": {"other": Role.VIEWER}},
        {"roles": {"lab": Role.VIEWER, "other": Role.VIEWER}},
        {"roles": {"unknown": Role.VIEWER}},
        {"kind": TokenKind.ADMIN, "roles": {"other": Role.ADMIN}},
        {"kind": TokenKind.ADMIN, "roles": None},
        {"kind": TokenKind.WORKER, "roles": None},
        {"owner": "bob"},
    ],
)
async def test_nobody_makes_a_token_with_more_rights_than_their_own(tokens, admin, wanted):
    with pytest.raises(Forbidden):
        await mint(tokens, admin, **wanted)
    assert tokens.tokens(admin) == []


@pytest.mark.parametrize("pool", [None, "local"])
async def test_admin_of_an_org_makes_no_worker_for_what_is_sent_to_no_pool(tokens, admin, holder, pool):
    wanted = {"kind": TokenKind.WORKER, "roles": {"lab": Role.VIEWER}, "pool": pool}
    with pytest.raises(Forbidden, match="is for a pool"):
        await mint(tokens, admin, **wanted)
    await mint(tokens, admin, **wanted | {"pool": "big"})
    await mint(tokens, holder, **wanted)


async def test_workers_token_says_who_keeps_people_apart(tokens, admin):
    for jobs_of, owner, isolates in ((None, None, False), ("ann", "ann", False), ("*", None, True)):
        _, secret = await mint(tokens, admin, kind=TokenKind.WORKER, pool="big", jobs_of=jobs_of)
        binding = tokens.find(secret).worker
        assert (binding.owner, binding.isolates, binding.pool) == (owner, isolates, "big")


@pytest.mark.parametrize("role", [Role.VIEWER, Role.SUBMITTER, Role.OPERATOR])
async def test_who_is_no_admin_makes_no_token(tokens, role):
    with pytest.raises(Forbidden):
        await mint(tokens, Principal(owner="bob", roles={"lab": role}, home="lab"), roles={"lab": Role.VIEWER})


async def test_where_logins_are_of_another_system_only_the_holder_makes_tokens(storage, audit, admin, holder, clock):
    tokens = Tokens(storage, audit, lambda ids: None, home="default", only_holder_mints=True, clock=clock)
    for kind in TokenKind:
        with pytest.raises(Forbidden, match="JupyterHub"):
            await mint(tokens, admin, kind=kind, roles={"lab": kind.usual_role})
    token, secret = await mint(tokens, holder, kind=TokenKind.ADMIN, owner="ada", roles={"lab": Role.ADMIN})
    with pytest.raises(Forbidden, match="JupyterHub"):
        await mint(tokens, tokens.find(secret), roles={"lab": Role.VIEWER})
    assert tokens.tokens(holder) == [token]


async def test_holder_makes_tokens_of_all_kinds_for_anybody(tokens, holder):
    _, secret = await mint(tokens, holder, owner="bob", roles={"b": Role.VIEWER, "default": Role.OPERATOR})
    assert tokens.find(secret).home == "default"
    _, secret = await mint(tokens, holder, kind=TokenKind.WORKER, roles=None, pool="gpu")
    assert tokens.find(secret).credential is Credential.WORKER
    _, secret = await mint(tokens, holder, kind=TokenKind.ADMIN, roles=None)
    assert tokens.find(secret).roles is None


async def test_token_made_with_a_token_does_not_outlive_it(tokens, admin):
    _, secret = await mint(tokens, admin, kind=TokenKind.ADMIN, expires_in_secs=DAY_SECS)
    by = tokens.find(secret)
    with pytest.raises(Forbidden, match="outlive"):
        await mint(tokens, by, expires_in_secs=2 * DAY_SECS)
    token, _ = await mint(tokens, by, expires_in_secs=DAY_SECS / 2)
    assert token.created_with == by.token_id
    token, _ = await mint(tokens, by)
    assert (token.expires_at - token.created_at).total_seconds() == DAY_SECS


async def test_who_sees_which_token(tokens, admin, holder):
    own, own_secret = await mint(tokens, admin, label="own")
    shared, _ = await mint(tokens, holder, owner="bob", roles={"lab": Role.VIEWER, "b": Role.OPERATOR})
    foreign, _ = await mint(tokens, holder, owner="bob", roles={"b": Role.VIEWER})
    everywhere, _ = await mint(tokens, holder, kind=TokenKind.WORKER, roles=None)
    assert [t.id for t in tokens.tokens(holder)] == [everywhere.id, foreign.id, shared.id, own.id]
    assert {t.id: t.roles for t in tokens.tokens(admin)} == {
        own.id: {"lab": Role.SUBMITTER},
        shared.id: {"lab": Role.VIEWER},
    }
    with_token = tokens.find(own_secret)  # a stolen kernel token tells of itself, and not of the person's others
    second, _ = await mint(tokens, admin)
    assert [t.id for t in tokens.tokens(with_token)] == [own.id]
    for unseen in (foreign.id, everywhere.id, "zbp_0000"):
        with pytest.raises(TokenNotFound, match=f"no token {unseen}"):
            await tokens.revoke(unseen, admin, record())
    with pytest.raises(TokenNotFound):
        await tokens.revoke(second.id, with_token, record())
    await tokens.revoke(own.id, with_token, record())
    assert tokens.find(own_secret) is None


async def test_revoked_token_is_refused_at_once_and_what_is_open_with_it_ends(tokens, admin, ended):
    token, secret = await mint(tokens, admin)
    first = await tokens.revoke(token.id, admin, record("revoke token"))
    assert (tokens.find(secret), ended) == (None, [token.id])
    assert (await tokens.revoke(token.id, admin, record("revoke token"))).revoked_at == first.revoked_at
    assert len(ended) == 1


async def test_token_ends_with_the_one_that_it_was_made_with(tokens, admin, ended, storage, audit, clock):
    stolen, secret = await mint(tokens, admin, kind=TokenKind.ADMIN)
    child, child_secret = await mint(tokens, tokens.find(secret), kind=TokenKind.ADMIN)
    grandchild, last_secret = await mint(tokens, tokens.find(child_secret), kind=TokenKind.WORKER, pool="big")
    other, other_secret = await mint(tokens, admin)
    await tokens.revoke(stolen.id, admin, record("revoke token"))
    assert ended == [stolen.id, child.id, grandchild.id]
    assert [tokens.find(each) for each in (secret, child_secret, last_secret)] == [None] * 3
    assert [tokens.lives(one.id) for one in (stolen, child, grandchild, other)] == [False] * 3 + [True]
    await tokens.stop()
    again = Tokens(storage, audit, lambda ids: None, home="default", clock=clock)
    await again.start()
    assert [again.find(each) for each in (secret, child_secret, last_secret)] == [None] * 3
    assert again.find(other_secret) is not None
    assert {t.id: t.revoked_by for t in again.tokens(admin)} == {
        stolen.id: "ada",
        child.id: "ada",
        grandchild.id: "ada",
        other.id: None,
    }
    await again.stop()


async def test_token_that_is_made_while_its_maker_is_revoked_ends_with_it(tokens, admin, storage, audit, clock):
    maker, secret = await mint(tokens, admin, kind=TokenKind.ADMIN)
    thief = tokens.find(secret)
    (child, child_secret), _ = await asyncio.gather(
        mint(tokens, thief, kind=TokenKind.ADMIN), tokens.revoke(maker.id, admin, record("revoke token"))
    )
    assert tokens.find(child_secret) is None
    with pytest.raises(Unauthorized):
        await mint(tokens, thief)
    again = await restarted(tokens, storage, audit, clock)
    assert {one.id: one.revoked_by for one in again.tokens(admin)} == {maker.id: "ada", child.id: "ada"}
    await again.stop()


async def restarted(tokens, storage, audit, clock):
    await tokens.stop()
    again = Tokens(storage, audit, lambda ids: None, home="default", clock=clock)
    await again.start()
    return again


async def end_alone(storage, clock, token):
    """Revoke a token as earlier versions did, which left living what was made with it."""
    token.revoked_at, token.revoked_by = clock_time(clock), "root"
    await storage.write(lambda database: database.append_audit([], partial(revoke_tokens, tokens=[token])))


def clock_time(clock):
    return dt.datetime.fromtimestamp(clock.time(), dt.UTC)


@pytest.mark.parametrize("is_forgotten", [False, True])
async def test_tokens_whose_maker_ended_before_an_upgrade_go_on_and_that_is_said(
    tokens, admin, storage, audit, clock, caplog, is_forgotten
):
    """A pool's worker would else lose its token because an admin's was replaced by another, long ago."""
    maker, maker_secret = await mint(tokens, admin, kind=TokenKind.ADMIN)
    child, child_secret = await mint(tokens, tokens.find(maker_secret), kind=TokenKind.ADMIN)
    grandchild, last_secret = await mint(tokens, tokens.find(child_secret), kind=TokenKind.WORKER, pool="big")
    await end_alone(storage, clock, maker)
    await storage.write(lambda database: database.save_meta(END_TOGETHER, None))
    if is_forgotten:
        long_after = clock_time(clock) + dt.timedelta(seconds=1)
        await storage.write(lambda database: database.append_audit([], partial(forget_tokens, before=long_after)))
    with caplog.at_level(logging.WARNING):
        again = await restarted(tokens, storage, audit, clock)
    again = await restarted(again, storage, audit, clock)  # and it stays so
    assert again.find(maker_secret) is None
    assert [again.find(each).token_id for each in (child_secret, last_secret)] == [child.id, grandchild.id]
    (told,) = [one for one in caplog.records if one.name == "zbrain_nb.server.tokens"]
    assert (told.token_id, told.made_with) == (child.id, maker.id)
    (kept,) = await audit.read(AuditQuery(orgs=["lab"], verb="detach token"))
    assert kept.object_id == child.id and maker.id in kept.reason
    await again.revoke(child.id, admin, record("revoke token"))  # that still ends what was made with it
    assert again.find(last_secret) is None
    await again.stop()


async def test_token_whose_maker_an_earlier_version_ended_later_is_listed_as_revoked(
    tokens, admin, storage, audit, clock
):
    maker, maker_secret = await mint(tokens, admin, kind=TokenKind.ADMIN)
    child, child_secret = await mint(tokens, tokens.find(maker_secret))
    await end_alone(storage, clock, maker)
    again = await restarted(tokens, storage, audit, clock)
    assert again.find(child_secret) is None
    (listed,) = [one for one in again.tokens(admin) if one.id == child.id]
    assert (listed.state_at(again.now()), listed.revoked_by) == ("revoked", "root")
    await again.stop()


async def test_token_revoked_while_the_store_refuses_is_refused_all_the_same(tokens, admin, storage, monkeypatch):
    token, secret = await mint(tokens, admin)

    async def refuse(task):
        raise Unavailable("The disk is full.", "Try again.")

    monkeypatch.setattr(storage, "write", refuse)
    with pytest.raises(Unavailable, match="restart would forget"):
        await tokens.revoke(token.id, admin, record("revoke token"))
    assert tokens.find(secret) is None
    with pytest.raises(Unavailable):
        await mint(tokens, admin)
    monkeypatch.undo()
    await tokens.revoke(token.id, admin, record("revoke token"))
    assert [t.id for t in tokens.tokens(admin)] == [token.id]


async def test_token_expires_ends_what_is_open_and_stays_expired_when_the_clock_is_set_back(
    tokens, admin, clock, ended
):
    token, secret = await mint(tokens, admin, expires_in_secs=60)
    clock.advance(59)
    tokens.sweep()
    assert tokens.find(secret) and not ended
    clock.advance(1)
    tokens.sweep()
    assert (tokens.find(secret), ended) == (None, [token.id])
    clock.shift = -3600
    assert tokens.find(secret) is None
    tokens.sweep()
    assert ended == [token.id]


async def test_what_is_made_and_revoked_stands_in_the_audit_of_each_org(tokens, admin, holder, audit):
    token, _ = await mint(tokens, holder, owner="bob", roles={"lab": Role.VIEWER, "b": Role.OPERATOR})
    await tokens.revoke(token.id, admin, record("revoke token"))
    for org in ("lab", "b"):
        found = await audit.read(AuditQuery(orgs=[org]))
        assert [(one.verb, one.object_id) for one in found] == [("revoke token", token.id), ("create token", token.id)]
        assert found[0].reason == f"person token of bob, {token.roles[org]} until {token.expires_at:%Y-%m-%d}"
    await mint(tokens, holder, kind=TokenKind.WORKER, roles=None)
    assert len(await audit.read(AuditQuery(orgs=["lab", "b"]))) == 4
    assert [one.org_id for one in await audit.read(AuditQuery(limit=1))] == [""]


async def test_tokens_that_ended_long_ago_are_forgotten(tokens, admin, storage, audit, clock):
    await mint(tokens, admin, expires_in_secs=DAY_SECS)
    _, secret = await mint(tokens, admin, expires_in_secs=366 * DAY_SECS)
    await tokens.stop()
    clock.advance(92 * DAY_SECS)
    again = Tokens(storage, audit, lambda ids: None, home="default", clock=clock)
    await again.start()
    assert [token.id for token in again.tokens(admin)] == [again.find(secret).token_id]
    await again.stop()
