"""Limits of orgs and owners: never passed, whoever races; clear when they refuse; kept and set as roles allow."""

from __future__ import annotations

import asyncio
from collections import Counter

import pytest

from tests.unit.queue.stage import Hand
from zbrain_nb import JobQueue, JobSpec, Storage
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.errors import Forbidden, OverQuota
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobDisplayed, JobLogged, JobProgress, LogStream
from zbrain_nb.model.quotas import Quota, Quotas

pytestmark = pytest.mark.anyio

HOLDER = Principal(owner="ada", roles=None, home="default")
ADMIN = Principal(owner="ann", roles={"lab": Role.ADMIN}, home="lab")
OPERATOR = Principal(owner="oto", roles={"lab": Role.OPERATOR}, home="lab")


def spec(**fields):
    return JobSpec(cmd=["true"], **fields)


def limited(tmp_path, clock, **quotas):
    return JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada", quotas=Quotas(**quotas))


async def test_many_submits_at_once_never_pass_a_limit(tmp_path, clock):
    async with limited(tmp_path, clock, org=Quota(pending=10), owner=Quota(pending=7)) as queue:
        submits = [queue.submit_many([spec(), spec()], owner=owner) for owner in ("ann", "bob") for _ in range(20)]
        submits += [queue.submit(spec(), owner="eve") for _ in range(20)]
        results = await asyncio.gather(*submits, return_exceptions=True)
        assert {type(result) for result in results} >= {list, OverQuota}
        waiting = Counter(job.owner for job in await queue.list())
        assert waiting.total() == 10
        assert max(waiting["ann"], waiting["bob"], waiting["eve"]) <= 7


async def test_batch_that_passes_a_limit_partly_leaves_nothing(tmp_path, clock):
    async with limited(tmp_path, clock, org=Quota(pending=3)) as queue:
        with pytest.raises(OverQuota) as refusal:
            await queue.submit_many([spec() for _ in range(4)])
        assert refusal.value.details == {"quota": "org_pending", "limit": 3, "used": 0, "retry_after_secs": 10}
        assert "in parts" in refusal.value.hint
        with pytest.raises(OverQuota):
            await queue.submit_many([spec(org_id="lab"), *(spec() for _ in range(4))])
        assert queue.active_jobs() == 0
        await queue.submit_many([spec() for _ in range(3)])


async def test_limits_of_an_org_outlive_a_restart_and_take_effect_at_once(tmp_path, clock):
    queue = limited(tmp_path, clock, org=Quota(running=3))
    ids = await queue.submit_many([spec(org_id="lab") for _ in range(4)])
    await queue.set_limits("lab", Quota(running=1, pending=4), scope=ADMIN)
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == ids[:1]
    await queue.submit(spec(org_id="lab"))
    await queue.close()
    queue = limited(tmp_path, clock, org=Quota(running=3))
    with pytest.raises(OverQuota, match="its limit is 4"):
        await queue.submit(spec(org_id="lab"))
    hand = await Hand(queue).register()
    assert await hand.lease(limit=9) == []
    waiting = asyncio.ensure_future(hand.lease(limit=9, wait_secs=30))
    await queue.set_limits("lab", Quota(), scope=ADMIN)
    assert [job.id for job in await waiting] == ids[1:3]
    assert (await queue.limits("lab")).limits == Quota(running=3)
    await queue.close()


async def test_admins_lower_limits_and_the_holder_raises_them(tmp_path, clock):
    async with limited(tmp_path, clock, org=Quota(running=3)) as queue:
        with pytest.raises(Forbidden, match="operator in the org lab"):
            await queue.set_limits("lab", Quota(running=1), scope=OPERATOR)
        with pytest.raises(Forbidden, match="no more than running=3, not 4"):
            await queue.set_limits("lab", Quota(running=4), scope=ADMIN)
        with pytest.raises(Forbidden, match="not in the org else"):
            await queue.limits("else", scope=ADMIN)
        await queue.set_limits("lab", Quota(running=8, sockets=5), scope=HOLDER)
        found = await queue.set_limits("lab", Quota(running=6), scope=ADMIN)
        assert found.limits == Quota(running=6, sockets=5)
        found = await queue.set_limits("lab", Quota(running=4), scope=HOLDER)
        assert (found.limits, found.own, found.granted) == (Quota(running=4), Quota(running=6), Quota(running=4))
        with pytest.raises(Forbidden, match="no more than running=4"):
            await queue.set_limits("lab", Quota(running=5), scope=ADMIN)


async def test_uses_are_counted_as_they_come_and_go(tmp_path, clock):
    quota = Quota(running=2, pending=9, sockets=3)
    async with limited(tmp_path, clock, org=quota, owner=quota) as queue:
        await queue.submit_many([spec() for _ in range(3)], owner="ann")
        hand = await Hand(queue).register()
        first, _ = await hand.lease(limit=9)
        scope = Principal(owner="ann", roles={"default": Role.SUBMITTER}, home="default")
        async with queue.subscribe(scope=scope):
            uses = queue.uses("default", "ann")
            assert {(use.of, use.quota, use.limit): use.used for use in uses} == {
                (of, *each): used
                for of in ("org", "owner")
                for each, used in {("running", 2): 2, ("pending", 9): 1, ("sockets", 3): 1}.items()
            }
        await hand.send(JobCompleted(first.id, attempt=1))
        assert [use.used for use in queue.uses("default", "ann")] == [1, 1, 0] * 2
        assert [use.used for use in queue.uses("else", "eve")] == [0, 0, 0] * 2


@pytest.mark.parametrize("what", ["org", "owner"])
async def test_followers_over_the_limit_are_refused_until_one_goes(tmp_path, clock, what):
    async with limited(tmp_path, clock, **{what: Quota(sockets=2)}) as queue:
        follower = queue.subscribe(["orgs/lab"], scope=ADMIN)
        queue.subscribe(scope=ADMIN)
        queue.subscribe()  # trusted code is nobody's
        with pytest.raises(OverQuota) as refusal:
            queue.subscribe(scope=ADMIN)
        assert refusal.value.details == {"quota": f"{what}_sockets", "limit": 2, "used": 2, "retry_after_secs": 30}
        queue.subscribe(scope=HOLDER)
        follower.close()
        queue.subscribe(scope=ADMIN)


# The rate of logs


def logged(job, seq, size, text="x"):
    return JobLogged(job.id, attempt=job.attempt, after=seq - 1, seq=seq, lines=[(LogStream.STDOUT, 1.0, text * size)])


async def lines_of(queue, job):
    return [(entry.stream, entry.line[:40]) for entry in await queue.get_logs(job.id)]


@pytest.mark.parametrize("what", ["org", "owner"])
async def test_log_that_comes_too_fast_is_put_off_and_nothing_of_it_is_lost(tmp_path, clock, what):
    async with limited(tmp_path, clock, **{what: Quota(log_bytes_per_sec=1_024)}) as queue:
        hand = await Hand(queue).register()
        job, other = await hand.run(spec()), await hand.run(spec(org_id="else"), owner="eve")
        ending = JobCompleted(job.id, attempt=1, after=3, seq=4)
        events = [logged(job, 1, 6_000), logged(job, 2, 7_000), logged(job, 3, 100), ending]
        mine, theirs = await hand.send(*events, logged(other, 1, 100))
        assert (mine.status, mine.high, theirs.status) == ("later", 2, "ok")
        assert mine.wait_secs == pytest.approx(3.2, abs=0.1)
        whose = "the org default" if what == "org" else "ada"
        assert mine.message == f"The logs of {whose} come faster than 1 KiB a second, their limit."
        (again,) = await hand.send(*events[2:])
        assert (again.status, again.high) == ("later", 2)
        clock.advance(mine.wait_secs)
        (result,) = await hand.send(*events[2:])
        assert (result.status, result.high) == ("ok", 4)
        said = f"{mine.message} What is over it"[:40]
        assert await lines_of(queue, job) == [
            ("stdout", "x" * 40),
            ("stdout", "x" * 40),
            ("system", said),
            ("stdout", "x" * 40),
        ]


async def test_outputs_count_for_the_rate_and_what_carries_none_is_taken(tmp_path, clock):
    async with limited(tmp_path, clock, owner=Quota(log_bytes_per_sec=1_000)) as queue:
        hand = await Hand(queue).register()
        job = await hand.run(spec())
        shown = [{"output_type": "stream", "name": "stdout", "text": "x" * 20_000}]
        (result,) = await hand.send(
            JobDisplayed(job.id, attempt=1, after=0, seq=1, outputs=shown),
            JobProgress(job.id, attempt=1, after=1, seq=2, progress=0.5),
            JobDisplayed(job.id, attempt=1, after=2, seq=3, outputs=shown),
        )
        assert (result.status, result.high) == ("later", 2)
        assert [use.used for use in queue.uses("default", "ada")] == [1_000]
        (result,) = await hand.send(JobCanceled(job.id, attempt=1, after=2, seq=3))
        assert result.status == "ok"
