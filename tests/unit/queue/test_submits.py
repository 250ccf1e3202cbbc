import asyncio

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import Job, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import Conflict, InvalidSpec, KeyConflict, MissingBlobs
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.model.ids import new_id
from zbrain_nb.queue import submits
from zbrain_nb.store.texts import CELL_BYTES

pytestmark = pytest.mark.anyio


async def test_submit_spec_gives_a_pending_job_with_the_defaults(queue):
    job = await queue.get(await queue.submit(TRUE))
    assert (job.state, job.attempt, job.owner, job.org_id, job.spec) == ("pending", 0, "ada", "default", TRUE)
    assert queue.active_jobs() == 1
    assert job.event_seq == queue.event_seq == 1


async def test_submit_job_keeps_its_id_and_leaves_the_callers_object_alone(queue):
    job = Job(JobSpec(cmd=["true"], org_id="lab"))
    assert await queue.submit(job, owner="bob") == job.id
    stored = await queue.get(job.id)
    assert (stored.owner, stored.org_id) == ("bob", "lab")
    assert (job.owner, job.event_seq) == ("", 0)


async def test_submit_same_job_twice_conflicts_also_after_it_left_the_memory(queue):
    job = Job(TRUE)
    await queue.submit(job)
    with pytest.raises(Conflict):
        await queue.submit(job)
    await queue.cancel_job(job.id)
    queue._index.recent.clear()
    with pytest.raises(Conflict):
        await queue.submit(job)
    assert (await queue.get(job.id)).state is JobState.CANCELED


@pytest.mark.parametrize(
    "given",
    [
        msgspec.structs.replace(Job(TRUE), state=JobState.RUNNING),
        msgspec.structs.replace(Job(TRUE), id="../x"),
        {"cmd": ["true"]},
        None,
    ],
)
async def test_submit_of_what_is_no_new_job_is_invalid(queue, given):
    with pytest.raises(InvalidSpec):
        await queue.submit(given)
    assert queue.active_jobs() == 0


async def test_submit_many_bad_one_names_its_index_and_nothing_is_kept(queue):
    orphan = JobSpec(cmd=["true"], after=[new_id()])
    with pytest.raises(InvalidSpec) as caught:
        await queue.submit_many([TRUE, TRUE, orphan])
    assert caught.value.details["index"] == 2
    with pytest.raises(InvalidSpec) as caught:
        await queue.submit_many([TRUE, "no spec"])
    assert caught.value.details["index"] == 1
    assert queue.active_jobs() == 0
    assert await queue.list() == []
    assert await queue.submit_many([]) == []


async def test_submit_input_that_is_no_json_is_invalid_and_others_of_the_commit_go_through(queue):
    results = await asyncio.gather(
        queue.submit(TRUE),
        queue.submit(JobSpec(cmd=["true"], input={"x": object()})),
        queue.submit_many([TRUE, JobSpec(cmd=["true"], input="\ud800")]),
        queue.submit(TRUE),
        return_exceptions=True,
    )
    assert [type(result) for result in results] == [str, InvalidSpec, InvalidSpec, str]
    assert len(await queue.list()) == queue.active_jobs() == 2


async def test_key_used_again_gives_the_first_job(queue):
    spec = JobSpec(cmd=["true"], idempotency_key="k", input={"a": 1, "b": 2})
    first, again = (
        await queue.accept([spec]),
        await queue.accept([msgspec.structs.replace(spec, input={"b": 2, "a": 1})]),
    )
    assert (first[0].deduplicated, again[0].deduplicated) == (False, True)
    assert again[0].job.id == first[0].job.id
    assert queue.active_jobs() == 1


async def test_key_used_again_after_restart_and_end_gives_the_first_job(queue):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    job_id = await queue.submit(spec)
    await queue.cancel_job(job_id)
    await queue.close()
    assert await queue.submit(spec) == job_id
    with pytest.raises(KeyConflict):
        await queue.submit(JobSpec(cmd=["false"], idempotency_key="k"))


async def test_key_with_other_payload_conflicts_but_not_for_another_owner(queue):
    job_id = await queue.submit(JobSpec(cmd=["true"], idempotency_key="k"))
    with pytest.raises(KeyConflict) as caught:
        await queue.submit(JobSpec(cmd=["false"], idempotency_key="k"))
    assert caught.value.details["job_id"] == job_id
    assert await queue.submit(JobSpec(cmd=["false"], idempotency_key="k"), owner="bob") != job_id


async def test_key_with_the_same_spec_for_another_org_conflicts(queue):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    await queue.submit(Job(spec, org_id="lab"))
    with pytest.raises(KeyConflict):
        await queue.submit(Job(spec, org_id="else"))


async def test_key_twice_at_once_and_twice_in_a_batch_is_one_job(queue):
    spec = JobSpec(cmd=["true"], idempotency_key="k")
    ids = await asyncio.gather(*(queue.submit(spec) for _ in range(5)), queue.submit_many([spec, spec]))
    assert {*ids[:5], *ids[5]} == {ids[0]}
    accepted = await queue.accept([JobSpec(cmd=["true"], idempotency_key="n")] * 2)
    assert [a.deduplicated for a in accepted] == [False, True]
    with pytest.raises(KeyConflict):
        await queue.submit_many(JobSpec(cmd=[cmd], idempotency_key="other") for cmd in ("a", "b"))
    assert queue.active_jobs() == 2


async def test_blobs_that_are_missing_are_all_named_and_nothing_is_kept(queue):
    here, _ = queue.artifacts.put_bytes(b"here")
    spec = JobSpec(function="a" * 64, inputs={"x": here, "y": "b" * 64})
    with pytest.raises(MissingBlobs) as caught:
        await queue.submit(spec)
    assert sorted(caught.value.details["blobs"]) == ["a" * 64, "b" * 64]
    assert queue.active_jobs() == 0
    await queue.submit(JobSpec(code="1", inputs={"x": here}))


async def test_child_is_leased_only_when_all_parents_succeeded(queue):
    hand = await Hand(queue).register()
    one, two = await queue.submit_many([TRUE, TRUE])
    child = await queue.submit(JobSpec(cmd=["true"], after=[one, two]))
    assert "2 jobs" in (await queue.get(child)).reason
    parents = await hand.lease(limit=5)
    assert [job.id for job in parents] == [one, two]
    await hand.send(JobCompleted(one, attempt=1))
    assert await hand.lease() == []
    assert "'true'" in (await queue.get(child)).reason
    await hand.send(JobCompleted(two, attempt=1))
    assert [job.id for job in await hand.lease()] == [child]


async def test_child_of_failed_parent_fails_transitively_with_the_reason(queue):
    hand = await Hand(queue).register()
    parent = Job(JobSpec(cmd=["true"], name="root"))
    child = Job(JobSpec(cmd=["true"], after=[parent.id], name="middle"))
    grandchild = Job(JobSpec(cmd=["true"], after=[child.id]))
    anyway = Job(JobSpec(cmd=["true"], after=[child.id], after_any=True))
    await queue.submit_many([grandchild, anyway, child, parent])
    assert [job.id for job in await hand.lease(limit=9)] == [parent.id]
    await hand.send(JobFailed(parent.id, attempt=1))
    child, grandchild = await queue.get(child.id), await queue.get(grandchild.id)
    assert (child.state, grandchild.state) == ("failed", "failed")
    assert "'root'" in child.reason
    assert "'middle'" in grandchild.reason
    assert [job.id for job in await hand.lease(limit=9)] == [anyway.id]


async def test_child_of_ended_parents_runs_or_fails_at_once(queue):
    hand = await Hand(queue).register()
    good = await hand.run()
    await hand.send(JobCompleted(good.id, attempt=1))
    bad = await queue.submit(TRUE)
    await queue.cancel_job(bad)
    queue._index.recent.clear()
    child = await queue.submit(JobSpec(cmd=["true"], after=[good.id]))
    assert [job.id for job in await hand.lease()] == [child]
    failed = await queue.get(await queue.submit(JobSpec(cmd=["true"], after=[good.id, bad])))
    assert failed.state is JobState.FAILED
    assert "canceled" in failed.reason
    anyway = await queue.submit(JobSpec(cmd=["true"], after=[bad], after_any=True))
    assert [job.id for job in await hand.lease()] == [anyway]


async def test_child_waits_on_after_restart(queue):
    parent, child = Job(TRUE), None
    await queue.submit(parent)
    child = await queue.submit(JobSpec(cmd=["true"], after=[parent.id]))
    await queue.close()
    hand = await Hand(queue).register()
    assert [job.id for job in await hand.lease(limit=9)] == [parent.id]
    await hand.send(JobCompleted(parent.id, attempt=1))
    assert [job.id for job in await hand.lease(limit=9)] == [child]


async def test_after_in_a_circle_or_another_org_is_invalid(queue):
    a, b = new_id(), new_id()
    for batch in (
        [Job(JobSpec(cmd=["true"], after=[b]), id=a), Job(JobSpec(cmd=["true"], after=[a]), id=b)],
        [Job(JobSpec(cmd=["true"], after=[a]), id=a)],
    ):
        with pytest.raises(InvalidSpec):
            await queue.submit_many(batch)
    foreign = await queue.submit(JobSpec(cmd=["true"], org_id="else"))
    with pytest.raises(InvalidSpec, match=foreign):
        await queue.submit(JobSpec(cmd=["true"], after=[foreign]))
    assert queue.active_jobs() == 1


async def test_retry_job_makes_a_new_job_of_the_same_spec_without_the_key(queue):
    job_id = await queue.submit(JobSpec(cmd=["true"], idempotency_key="k", name="n"))
    await queue.cancel_job(job_id)
    again = await queue.retry_job(job_id)
    assert again.id != job_id
    assert (again.retry_of, again.state, again.spec.name, again.spec.idempotency_key) == (job_id, "pending", "n", None)
    await queue.close()
    assert (await queue.get(again.id)).retry_of == job_id


async def test_submit_of_secrets_whose_values_are_nowhere_is_refused_by_name(queue):
    spec, field = JobSpec(cmd=["true"], secrets=["TOKEN"]), "secrets"  # the spec itself holds
    for given in (spec, Job(spec)):
        with pytest.raises(InvalidSpec, match="The values of its secrets are not here") as caught:
            await queue.submit(given)
        assert caught.value.details["field"] == field
    with pytest.raises(InvalidSpec) as caught:
        await queue.submit_many([TRUE, spec])
    assert (caught.value.details["field"], caught.value.details["index"]) == (field, 1)
    assert queue.active_jobs() == 0


@pytest.mark.parametrize("org_id", ["a,b", "a/b", "a\nb", "a\\b", "\x7f", ""])
async def test_org_that_no_topic_can_name_is_refused(queue, org_id):
    with pytest.raises(InvalidSpec) as caught:
        JobSpec(cmd=["true"], org_id=org_id)
    assert caught.value.details["field"] == "org_id"
    if org_id:  # a Job without one gets the caller's own
        with pytest.raises(InvalidSpec):
            await queue.submit(Job(TRUE, org_id=org_id))


LONG_TAGS = {
    "long": {"name": "x" * 4096, "other": "x" * 4096},
    "wide": {"name": "数" * 3000},
    "escaped": {"name": "\x01" * 1400},
    "many": {f"{number}": "" for number in range(1100)},
}


@pytest.mark.parametrize("tags", LONG_TAGS.values(), ids=LONG_TAGS)
@pytest.mark.parametrize("form", [lambda spec: spec, Job], ids=["spec", "job"])
async def test_tags_that_make_a_long_row_are_refused(queue, tags, form):
    with pytest.raises(InvalidSpec, match="tags are over 8 KiB"):
        await queue.submit(form(JobSpec(cmd=["true"], tags=tags)))
    some = {name: value[: len(value) // 2] for name, value in list(tags.items())[:500]}
    assert await queue.submit(form(JobSpec(cmd=["true"], tags=some)))
    assert submits.MAX_TAGS_BYTES < CELL_BYTES


async def test_job_of_before_tags_had_a_limit_is_read_and_run(tmp_path, clock, monkeypatch):
    tags = LONG_TAGS["long"]
    with monkeypatch.context() as before:
        before.setattr(submits, "MAX_TAGS_BYTES", 1 << 30)
        async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as queue:
            job_id = await queue.submit(JobSpec(cmd=["true"], tags=tags))
    async with JobQueue(Storage(tmp_path), tmp_path / "blobs", clock=clock, owner="ada") as queue:
        (job,) = await (await Hand(queue).register()).lease()
        assert (job.id, {name: job.spec.tags[name] for name in tags}) == (job_id, tags)
