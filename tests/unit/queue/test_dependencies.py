"""Jobs that wait for jobs: what may be waited for, when the wait ends, and how failure spreads."""

import asyncio
import itertools
import time

import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import Job, JobQueue, JobSpec, JobState
from zbrain_nb.model.errors import Conflict, InvalidSpec
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.ids import new_id

pytestmark = pytest.mark.anyio
MANY = 10_000


def waiting(*parents: str, **fields) -> Job:
    return Job(JobSpec(cmd=["true"], after=list(parents), **fields))


async def states(queue: JobQueue, *job_ids: str) -> list[JobState]:
    return [(await queue.get(job_id)).state for job_id in job_ids]


async def hand_with(queue: JobQueue, *jobs: Job) -> Hand:
    """Submit jobs, register a worker, and lease what may run."""
    await queue.submit_many(jobs)
    hand = await Hand(queue).register()
    await hand.lease(limit=len(jobs))
    return hand


# What may be waited for


async def test_after_names_an_unknown_job_and_is_refused_by_its_id(queue):
    nobody = new_id()
    with pytest.raises(InvalidSpec, match=nobody) as caught:
        await queue.submit(waiting(nobody))
    assert caught.value.details["field"] == "after"
    assert queue.active_jobs() == 0


@pytest.mark.parametrize("state", ["pending", "ended", "of a batch"])
async def test_after_names_a_job_of_another_org_and_is_refused_like_an_unknown_one(queue, state):
    foreign = Job(JobSpec(cmd=["true"], org_id="else"))
    mine = waiting(foreign.id, org_id="lab")
    if state != "of a batch":
        await queue.submit(foreign)
        if state == "ended":
            await queue.cancel_job(foreign.id)
            await queue.close()
    messages = []
    for batch in ([foreign, mine] if state == "of a batch" else [mine], [waiting(new_id())]):
        with pytest.raises(InvalidSpec) as caught:
            await queue.submit_many(batch)
        messages.append(caught.value.message.replace(batch[-1].spec.after[0], "ID"))
    assert messages[0] == messages[1]


async def test_job_that_waits_for_itself_is_refused(queue):
    job_id = new_id()
    ouroboros = Job(JobSpec(cmd=["true"], name="snake", after=[job_id]), id=job_id)
    for batch in ([ouroboros], [Job(TRUE), ouroboros]):
        with pytest.raises(InvalidSpec, match="'snake' waits for itself") as caught:
            await queue.submit_many(batch)
        assert caught.value.details["field"] == "after"
        assert caught.value.details.get("index") == (1 if len(batch) > 1 else None)
    assert queue.active_jobs() == 0


async def test_circle_in_a_batch_is_refused_with_the_path_named(queue):
    a, b, c = new_id(), new_id(), new_id()
    circle = [
        Job(JobSpec(cmd=["true"], name="bystander")),
        Job(JobSpec(cmd=["true"], name="A", after=[b]), id=a),
        Job(JobSpec(cmd=["true"], name="B", after=[c]), id=b),
        Job(JobSpec(cmd=["true"], name="C", after=[a]), id=c),
    ]
    with pytest.raises(InvalidSpec) as caught:
        await queue.submit_many(circle)
    turns_of_the_circle = ["A (1)", "B (2)", "C (3)", "A (1)", "B (2)", "C (3)"]
    said = caught.value.message.replace("'", "")
    assert any(" -> ".join([*turns_of_the_circle[i : i + 3], turns_of_the_circle[i]]) in said for i in range(3)), said
    path = caught.value.details["ids"]
    assert (path[0], set(path)) == (path[-1], {a, b, c})
    assert caught.value.details["index"] == 1
    assert queue.active_jobs() == 0


async def test_circle_of_10_000_is_refused_in_a_few_words(queue):
    ids = [new_id() for _ in range(MANY)]
    circle = [Job(JobSpec(cmd=["true"], after=[ids[i - 1]]), id=ids[i]) for i in range(MANY)]
    with pytest.raises(InvalidSpec) as caught:
        await queue.submit_many(circle)
    assert len(caught.value.message) < 500
    assert len(caught.value.details["ids"]) == MANY + 1


async def test_batch_may_name_its_own_rows_in_any_order(queue):
    parent = Job(TRUE)
    child = waiting(parent.id)
    hand = await hand_with(queue, child, parent)
    assert await states(queue, parent.id, child.id) == ["running", "pending"]
    await hand.send(JobCompleted(parent.id, attempt=1))
    assert [job.id for job in await hand.lease()] == [child.id]


async def test_batch_sent_again_waits_for_the_first_of_its_parents_key(queue):
    """The second parent is the first one; its own id never comes to be."""
    keyed = JobSpec(cmd=["true"], idempotency_key="parent")
    first, again = Job(keyed), Job(keyed)
    await queue.submit(first)
    child = waiting(again.id)
    answers = await queue.accept([child, again])
    assert [answer.deduplicated for answer in answers] == [False, True]
    assert answers[0].job.spec.after == [first.id]
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == [first.id]
    await hand.send(JobCompleted(first.id, attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [child.id]


async def test_batch_with_one_key_twice_waits_for_the_one_that_is_kept(queue):
    keyed = JobSpec(cmd=["true"], idempotency_key="parent")
    kept, dropped = Job(keyed), Job(keyed)
    child = waiting(dropped.id)
    hand = await hand_with(queue, kept, dropped, child)
    assert await queue.get(dropped.id) is None
    await hand.send(JobCompleted(kept.id, attempt=1))
    assert [job.id for job in await hand.lease()] == [child.id]


async def test_id_twice_in_a_batch_is_a_conflict_that_names_its_index(queue):
    job = Job(TRUE)
    for twin in (job, Job(JobSpec(cmd=["false"]), id=job.id)):
        with pytest.raises(Conflict) as caught:
            await queue.submit_many([Job(TRUE), job, twin])
        assert caught.value.details["job_id"] == job.id
        assert caught.value.details["index"] in (1, 2)
    assert queue.active_jobs() == 0
    assert await queue.list() == []


@pytest.mark.parametrize("was", ["pending", "running", "ended", "ended and out of memory"])
async def test_id_that_is_taken_is_a_conflict_and_the_batch_leaves_no_trace(queue, was):
    job = Job(TRUE)
    await queue.submit(job)
    if was == "running":
        await queue.acquire_lease("w")
    elif was != "pending":
        await queue.cancel_job(job.id)
    if was == "ended and out of memory":
        await queue.close()
    before = await queue.get(job.id)
    other = Job(TRUE)
    with pytest.raises(Conflict):
        await queue.submit_many([other, Job(JobSpec(cmd=["false"]), id=job.id)])
    assert await queue.get(other.id) is None
    assert (await queue.get(job.id)).spec == before.spec
    assert await states(queue, job.id) == [before.state]


# When the wait ends


async def test_parent_that_retries_has_not_ended(queue, clock):
    parent = Job(JobSpec(cmd=["true"], max_retries=1))
    child = waiting(parent.id)
    hand = await hand_with(queue, parent, child)
    await hand.send(JobFailed(parent.id, attempt=1))
    assert await states(queue, parent.id, child.id) == ["retrying", "pending"]
    clock.advance(10)
    queue.tick()
    assert [job.id for job in await hand.lease(limit=9)] == [parent.id]
    await hand.send(JobCompleted(parent.id, attempt=2))
    assert [job.id for job in await hand.lease(limit=9)] == [child.id]


async def test_parent_that_is_lost_and_runs_again_has_not_ended(queue):
    parent = Job(JobSpec(cmd=["true"], rerun_if_lost=True))
    child = waiting(parent.id)
    hand = await hand_with(queue, parent, child)
    await hand.send(JobFailed(parent.id, attempt=1, lost=True))
    assert [job.id for job in await hand.lease(limit=9)] == [parent.id]
    assert await states(queue, child.id) == ["pending"]


@pytest.mark.parametrize("way", ["canceled", "failed", "lost"])
async def test_parent_without_success_fails_its_child_with_the_reason(queue, way):
    parent, child = Job(JobSpec(cmd=["true"], name="root")), None
    child = waiting(parent.id)
    hand = await hand_with(queue, parent, child)
    if way == "canceled":
        await queue.cancel_job(parent.id)
        await hand.send(JobFailed(parent.id, attempt=1))
    else:
        await hand.send(JobFailed(parent.id, attempt=1, lost=way == "lost"))
    failed = await queue.get(child.id)
    assert (failed.state, failed.attempt) == ("failed", 0)
    for word in ("'root'", parent.id, "canceled" if way == "canceled" else "failed"):
        assert word in failed.reason


@pytest.mark.parametrize("way", ["canceled", "failed", "succeeded"])
async def test_child_after_any_runs_however_its_parent_ended(queue, way):
    parent = Job(TRUE)
    child = waiting(parent.id, after_any=True)
    hand = await hand_with(queue, parent, child)
    if way == "canceled":
        await queue.cancel_job(parent.id)
    await hand.send(JobCompleted(parent.id, attempt=1) if way == "succeeded" else JobFailed(parent.id, attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [child.id]


async def test_child_of_two_waits_for_both_and_one_failure_is_enough(queue):
    good, bad = Job(TRUE), Job(TRUE)
    child = waiting(good.id, bad.id, good.id)
    hand = await hand_with(queue, good, bad, child)
    await hand.send(JobCompleted(good.id, attempt=1))
    assert await states(queue, child.id) == ["pending"]
    await hand.send(JobFailed(bad.id, attempt=1))
    failed = await queue.get(child.id)
    assert (failed.state, bad.id in failed.reason) == ("failed", True)


async def test_diamond_fails_once(queue):
    top = Job(TRUE)
    left, right = waiting(top.id), waiting(top.id)
    bottom = waiting(left.id, right.id)
    hand = await hand_with(queue, top, left, right, bottom)
    async with queue.subscribe([f"jobs/{bottom.id}"], after=0) as events:
        await hand.send(JobFailed(top.id, attempt=1))
        heard = [await anext(events) for _ in range(2)]
    await queue.cancel_job(bottom.id)
    assert [event.kind for event in heard] == ["job_submitted", "job_failed"]
    assert queue.event_seq == heard[-1].seq, "nothing more was said of it"


async def test_child_that_was_canceled_stays_canceled_when_its_parent_fails(queue):
    parent = Job(TRUE)
    child = waiting(parent.id)
    grandchild = waiting(child.id)
    hand = await hand_with(queue, parent, child, grandchild)
    await queue.cancel_job(child.id)
    assert await states(queue, child.id, grandchild.id) == ["canceled", "failed"]
    await hand.send(JobFailed(parent.id, attempt=1))
    assert await states(queue, child.id, grandchild.id) == ["canceled", "failed"]


@pytest.mark.parametrize("end", ["succeeded", "canceled"])
async def test_parent_that_ended_long_ago_and_left_the_memory_counts_as_it_ended(queue, end):
    parent = await queue.submit(TRUE)
    if end == "canceled":
        await queue.cancel_job(parent)
    else:
        await queue.acquire_lease("w")
        await queue.handle_worker_event(JobCompleted(parent))
    await queue.close()
    child = await queue.submit(waiting(parent))
    job = await queue.acquire_lease("w")
    if end == "succeeded":
        assert job.id == child
    else:
        assert job is None
        assert parent in (await queue.get(child)).reason


async def test_retry_of_a_failed_parent_is_a_new_job_and_its_children_stay_failed(queue):
    parent = Job(TRUE)
    child = waiting(parent.id)
    hand = await hand_with(queue, parent, child)
    await hand.send(JobFailed(parent.id, attempt=1))
    again = await queue.retry_job(parent.id)
    await hand.lease()
    await hand.send(JobCompleted(again.id, attempt=1))
    assert await states(queue, child.id) == ["failed"]


async def test_child_submitted_while_its_parent_ends_hears_of_it_in_either_order(queue):
    hand = await Hand(queue).register()
    for child_first in (True, False):
        parent = await hand.run()
        child = waiting(parent.id)
        both = [hand.send(JobFailed(parent.id, attempt=1)), queue.submit(child)]
        await asyncio.gather(*(reversed(both) if child_first else both))
        assert await states(queue, child.id) == ["failed"]


async def test_wait_survives_a_restart_with_its_blockers_and_its_children(queue):
    top = Job(TRUE)
    middle = waiting(top.id)
    bottom = waiting(middle.id)
    hand = await hand_with(queue, top, middle, bottom)
    await queue.close()
    await hand.register()
    assert await hand.lease(limit=9) == []
    await hand.send(JobFailed(top.id, attempt=1))
    assert await states(queue, middle.id, bottom.id) == ["failed", "failed"]


# Very many


@pytest.mark.parametrize("shape", ["chain", "fan"])
async def test_failure_spreads_over_10_000_jobs_in_one_commit(queue, shape, record_property):
    root = Job(JobSpec(cmd=["true"], name="root"))
    jobs = [root]
    for _ in range(MANY):
        jobs.append(waiting(jobs[-1].id if shape == "chain" else root.id))
    hand = await hand_with(queue, *jobs)
    began = time.monotonic()
    await hand.send(JobFailed(root.id, attempt=1))
    record_property(f"seconds_to_fail_a_{shape}_of_10000", round(time.monotonic() - began, 3))
    assert queue.active_jobs() == 0
    last = await queue.get(jobs[-1].id)
    assert last.state is JobState.FAILED
    assert last.spec.after[0] in last.reason
    await queue.close()
    assert queue.active_jobs() == 0
    assert {job.state for job in await queue.list(limit=MANY + 1)} == {JobState.FAILED}


async def test_chain_of_10_000_runs_from_its_head_on(queue):
    jobs = [Job(TRUE)]
    for _ in range(MANY):
        jobs.append(waiting(jobs[-1].id))
    hand = await hand_with(queue, *reversed(jobs))
    for parent, child in itertools.pairwise(jobs[:4]):
        await hand.send(JobCompleted(parent.id, attempt=1))
        assert [job.id for job in await hand.lease(limit=9)] == [child.id]
    await queue.close()
    assert queue.active_jobs() == 0
    await queue.open()
    assert queue.active_jobs() == MANY - 2


async def test_child_submitted_while_its_parent_ends_with_very_many_is_not_told_that_it_never_was(queue):
    root = Job(TRUE)
    hand = await hand_with(queue, root, *(waiting(root.id) for _ in range(2_500)))
    child = waiting(root.id)
    ending = asyncio.create_task(hand.send(JobFailed(root.id, attempt=1)))
    await turns(4)  # by now the ending is on its way to the disk
    await queue.submit(child)
    await ending
    assert await states(queue, child.id) == ["failed"]


async def test_jobs_that_wait_for_others_change_no_other_job_s_place(queue):
    """A batch is leased in the order in which it came, but for those that wait."""
    last = Job(TRUE)
    batch = [waiting(last.id), *(Job(TRUE) for _ in range(5)), last]
    ids = await queue.submit_many(batch)
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == ids[1:]
