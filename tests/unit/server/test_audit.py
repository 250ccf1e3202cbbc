"""The audit: every act once, refusals counted, nobody fills it, nothing lost while the store refuses."""

import asyncio
import datetime as dt
from collections import Counter

import pytest

from zbrain_nb import JobQueue, JobSpec
from zbrain_nb.model.audit import Outcome, Record
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.server import audit as module
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.store.audit import AuditQuery

pytestmark = pytest.mark.anyio
EPOCH = dt.datetime(2026, 1, 1, tzinfo=dt.UTC)
ALL = AuditQuery(limit=100_000)


def act(verb="cancel", who="ada", **fields):
    return Record(ts=EPOCH, who=who, verb=verb, **fields)


def refusal(who="", reason="no valid token", **fields):
    return act("read", who, outcome=Outcome.REFUSED, reason=reason, **fields)


async def test_acts_are_read_newest_first_in_pages_by_who_verb_org_and_time(audit):
    for n in range(5):
        audit.note(act(who=f"u{n % 2}", verb=("cancel", "submit")[n > 2], object_id=str(n), org_id=f"o{n % 2}"))
    audit.note(act(who="late", object_id="5"))
    found = await audit.read(ALL)
    assert [one.object_id for one in found] == ["5", "4", "3", "2", "1", "0"]
    assert found[0] == act(who="late", object_id="5", seq=6)

    async def ids(**wanted):
        return [one.object_id for one in await audit.read(AuditQuery(**wanted))]

    assert await ids(limit=2) == ["5", "4"]
    assert await ids(limit=2, before=found[1].seq) == ["3", "2"]
    assert await ids(who="u0") == ["4", "2", "0"]
    assert await ids(verb="submit") == ["4", "3"]
    assert await ids(orgs=["o1", "none"]) == ["3", "1"]
    assert await ids(orgs=[]) == []
    assert await ids(since=EPOCH + dt.timedelta(seconds=1)) == []
    assert len(await ids(since=EPOCH)) == 6


async def test_acts_are_written_by_themselves_and_numbers_go_on_after_a_restart(storage, audit, monkeypatch):
    monkeypatch.setattr(module, "FLUSH_SECS", 0.0)
    audit.note(act())
    async with asyncio.timeout(10):
        while audit._held or audit._flushing.locked():
            await asyncio.sleep(0)
    again = AuditLog(storage)
    await again.start()
    again.note(act("resume"))
    await again.stop()
    await again.stop()
    assert [(one.seq, one.verb) for one in await again.read(ALL)] == [(2, "resume"), (1, "cancel")]


async def test_refusals_that_repeat_are_two_records_a_window(audit):
    for n in range(10_000):
        audit.note(refusal(address="10.0.0.1", object_id=str(n)))
    audit.note(refusal("bob", org_id="lab"))
    assert len(await audit.read(ALL)) == 2
    audit._close_window()
    found = await audit.read(ALL)
    assert [(one.who, one.count, one.address) for one in found] == [
        ("", 9_999, "10.0.0.1"),
        ("bob", 1, ""),
        ("", 1, "10.0.0.1"),
    ]
    audit.note(refusal(address="10.0.0.1"))
    assert len(await audit.read(ALL)) == 4


async def test_strangers_from_everywhere_do_not_fill_the_audit_nor_hide_what_others_do(audit):
    for n in range(5_000):
        audit.note(refusal(address=f"10.0.{n // 250}.{n % 250}"))
    for n in range(5_000):
        audit.note(refusal(f"user {n}"))
    audit.note(act(who="ada"))
    audit._close_window()
    found = await audit.read(ALL)
    assert len(found) <= module.MOST + 3
    assert sum(one.count for one in found) == 10_001  # counted, every one
    assert [one.who for one in found if one.outcome is Outcome.ALLOWED] == ["ada"]
    strangers = [one for one in found if one.who == "" and one.address]
    assert len(strangers) == module.MOST_OF_ONE


async def test_one_caller_s_flood_of_acts_is_counted_by_verb_beyond_a_limit(audit, monkeypatch):
    monkeypatch.setattr(module, "MOST_ACTS", 10)
    monkeypatch.setattr(module, "MOST_OF_VERB", 1)
    for n in range(100):
        audit.note(act(object_id=str(n), org_id="lab"))
        audit.note(act("submit", object_id=str(n), org_id="lab", count=5))
    audit.note(act(who="bob"))
    audit._close_window()
    found = await audit.read(ALL)
    counts = Counter()
    for one in found:
        counts[one.who, one.verb] += one.count
    assert counts == {("ada", "cancel"): 100, ("ada", "submit"): 500, ("bob", "cancel"): 1}
    assert len(found) == 10 + 1 + 2
    assert {one.object_id for one in found[:2]} == {""}


async def test_what_one_does_in_an_org_is_found_there_whatever_they_did_before(audit, monkeypatch):
    monkeypatch.setattr(module, "MOST_ACTS", 100)
    monkeypatch.setattr(module, "MOST_OF_VERB", 3)
    for n in range(module.MOST_OF_ONE + 1):  # different refusals, in orgs of others
        audit.note(refusal("mal", f"mal is not in the org o{n}", org_id=f"o{n}"))
    for n in range(200):
        audit.note(act("detach", "mal", object_id=str(n), org_id="~mal"))
        audit.note(act("detach", "mal", object_id=str(n), org_id="lab", token_id=f"zbp_{n % 2}"))
    for n in range(5):
        audit.note(act("download result", "mal", object_id=f"jewel {n}", org_id="lab"))
    audit.note(act("retry", "mal", object_id="vera's", org_id="lab"))
    audit.note(refusal("mal", "mal may not cancel there", org_id="lab"))
    audit._close_window()
    found = [(one.verb, one.object_id, one.count) for one in await audit.read(AuditQuery(orgs=["lab"], limit=20))]
    assert found[:7] == [
        ("download result", "", 2),
        ("detach", "", 100),
        ("", "", 1),  # the refusal
        ("retry", "vera's", 1),
        ("download result", "jewel 2", 1),
        ("download result", "jewel 1", 1),
        ("download result", "jewel 0", 1),
    ]


async def test_what_one_does_to_anothers_job_is_found_whatever_they_did_to_their_own(audit, monkeypatch):
    monkeypatch.setattr(module, "MOST_ACTS", 100)
    monkeypatch.setattr(module, "MOST_OF_VERB", 3)
    monkeypatch.setattr(module, "MOST_OWNERS", 5)

    def download(what, other="", reason="", count=1):
        audit.note(act("download result", "mal", object_id=what, org_id="lab", reason=reason, count=count), other)

    for n in range(500):
        download(f"mine {n}")
    for _ in range(300):
        download("vera's", "vera")
    for n in range(500):
        download(f"bob's {n}", "bob")
    download("vera's second", "vera")
    download("mine too", reason="Jupyter's login of eve")
    for n in range(10):
        download(f"{n}", f"owner {n}")
    download("vera's third", "vera", count=2)
    audit._close_window()
    found = await audit.read(ALL)
    assert sum(one.count for one in found) == 500 + 300 + 500 + 1 + 1 + 10 + 2
    assert len(found) <= 100 + 100 + 1 + 1 + 1 + 6
    assert [one.count for one in found if one.object_id == "vera's"] == [299, 1]
    folded = {one.object_id: one.count for one in found if one.object_kind == "owner"}
    assert folded == {"bob": 401, "vera": 3, "owner 0": 1, "owner 1": 1, "owner 2": 1, "": 7}
    assert [one.object_id for one in found if one.reason == "Jupyter's login of eve"] == ["mine too"]


async def test_acts_that_are_counted_say_through_whose_login_they_were(audit, monkeypatch):
    monkeypatch.setattr(module, "MOST_ACTS", 1)
    monkeypatch.setattr(module, "MOST_OF_VERB", 1)
    for login in ("eve", "eve", "bob", "bob", "bob"):
        audit.note(act(reason=f"Jupyter's login of {login}"))
    audit._close_window()
    assert [(one.count, one.reason.removeprefix("Jupyter's login of ")) for one in await audit.read(ALL)] == [
        (2, "bob: more acts than have records of their own."),
        (1, "eve: more acts than have records of their own."),
        (1, "bob"),
        (1, "eve"),
    ]


async def test_refusals_that_name_orgs_without_end_do_not_fill_the_audit(audit):
    for n in range(5_000):
        audit.note(refusal("mal", org_id=f"o{n}"))
    audit._close_window()
    found = await audit.read(ALL)
    assert len(found) <= module.MOST_OF_ONE + module.MOST + 1
    assert sum(one.count for one in found) == 5_000


async def test_what_the_store_refuses_is_held_and_written_when_it_takes_it_again(audit, storage, monkeypatch):
    monkeypatch.setattr(module, "MAX_HELD", 50)

    async def refuse(task):
        raise Unavailable("The disk is full.")

    with monkeypatch.context() as broken:
        broken.setattr(storage, "write", refuse)
        audit.note(act(object_id="first"))
        await audit.flush()
        await audit.flush()
        for n in range(60):
            audit.note(act(object_id=str(n)))
    found = await audit.read(ALL)
    assert [one.object_id for one in found[1:]] == [str(n) for n in reversed(range(10, 60))]
    assert (found[0].verb, found[0].count, found[0].outcome) == ("audit", 11, Outcome.FAILED)
    await audit.flush()
    assert len(await audit.read(ALL)) == 51


async def test_records_go_with_their_segment_when_their_time_is_over(audit, storage, tmp_path, clock):

    async with JobQueue(storage, tmp_path / "blobs", clock=clock) as queue:
        maintenance = Maintenance.of(queue, Lifetimes(audit_secs=1200))
        await queue.submit(JobSpec(cmd=["true"]))
        audit.note(act(object_id="old"))
        await audit.flush()
        clock.advance(200)
        await maintenance.retire_rows()
        audit.note(act(object_id="young"))
        await audit.flush()
        clock.advance(1100)
        await maintenance.retire_rows()
        assert len(await audit.read(ALL)) == 2
        clock.advance(200)
        assert [one.table for one in await maintenance.retire_rows()] == ["audit_1"]
        assert [one.object_id for one in await audit.read(ALL)] == ["young"]
        assert storage.oldest_event_seq == 1  # events have a retention of their own
