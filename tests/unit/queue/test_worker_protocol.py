"""What workers say to the queue: bounds, events that travel with lease requests, repeats and disorder."""

from __future__ import annotations

import asyncio
import hashlib
import random

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import JobCompleted, JobFailed, JobLogged, JobStarted, LogStream
from zbrain_nb.model.job import INLINE_BYTES, JobArtifact, Resources
from zbrain_nb.model.protocol import HeartbeatRequest, LeaseRequest
from zbrain_nb.model.quotas import Quota, Quotas

pytestmark = pytest.mark.anyio


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        ({"limit": -1}, "limit"),
        ({"limit": 10**9}, "limit"),
        ({"wait_secs": -0.5}, "wait_secs"),
        ({"wait_secs": float("nan")}, "wait_secs"),
        ({"wait_secs": 1e9}, "wait_secs"),
        ({"kinds": ["a", "b\x00"]}, "kinds[1]"),
        ({"request_id": ""}, "request_id"),
        ({"request_id": "x" * 1000}, "request_id"),
    ],
)
async def test_lease_request_out_of_bounds_is_refused_with_its_field(queue, fields, field):
    hand = await Hand(queue).register()
    with pytest.raises(InvalidSpec) as refused:
        await queue.lease(hand.id, LeaseRequest(**{"request_id": "r", **fields}))
    assert refused.value.details["field"] == field


@pytest.mark.parametrize("free", [-1, 10**9])
async def test_heartbeat_out_of_bounds_is_refused(queue, free):
    hand = await Hand(queue).register()
    with pytest.raises(InvalidSpec) as refused:
        await queue.heartbeat(hand.id, HeartbeatRequest(free=free))
    assert refused.value.details["field"] == "free"


async def test_events_in_a_lease_request_are_taken_in_the_commit_of_the_lease(queue):
    hand = await Hand(queue).register()
    first = await hand.run()
    second = await queue.submit(TRUE)
    ending = JobCompleted(first.id, attempt=1, after=0, seq=1)
    request = LeaseRequest(request_id="both", limit=1, wait_secs=60, events=[ending])
    answer = await queue.lease(hand.id, request)
    assert [lease.job.id for lease in answer.leases] == [second]
    assert [(result.status, result.high) for result in answer.results] == [("ok", 1)]
    again = await queue.lease(hand.id, request)
    assert (again.leases, again.results) == (answer.leases, answer.results)


async def test_lease_request_with_events_is_answered_at_once_though_no_job_waits(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    request = LeaseRequest(
        request_id="r", limit=1, wait_secs=60, events=[JobCompleted(job.id, attempt=1, after=0, seq=1)]
    )
    async with asyncio.timeout(20):
        answer = await queue.lease(hand.id, request)
    assert answer.leases == []
    assert (await queue.get(job.id)).state is JobState.SUCCEEDED


async def test_lease_request_that_does_not_wait_is_decided_even_during_a_commit(queue):
    hand = await Hand(queue).register()
    await queue.submit(TRUE)
    submitting = [asyncio.ensure_future(queue.submit(TRUE)) for _ in range(3)]
    while not queue._commits._under_way:
        await asyncio.sleep(0)
    assert len(await hand.lease(limit=1, wait_secs=0.0)) == 1
    await asyncio.gather(*submitting)


@pytest.mark.parametrize("seed", range(20))
async def test_messages_sent_twice_and_in_disorder_are_taken_once_and_in_order(queue, seed):
    dice = random.Random(seed)
    hand = await Hand(queue).register()
    jobs = [await hand.run() for _ in range(3)]
    batches = []
    for job in jobs:
        events = [JobStarted(job.id, attempt=1, after=0, seq=1, worker_id="w")]
        events += [
            JobLogged(job.id, [(LogStream.STDOUT, 1.0, str(seq))], attempt=1, after=seq - 1, seq=seq)
            for seq in range(2, 9)
        ]
        events.append(JobCompleted(job.id, attempt=1, after=8, seq=9))
        while events:
            size = dice.randint(1, 3)
            batches.append(events[:size])
            events = events[size:]
    highs = dict.fromkeys((job.id for job in jobs), 0)
    open_batches = batches * 2
    dice.shuffle(open_batches)
    for round_number in range(40):
        for number, batch in enumerate(open_batches):
            if number % 2:
                (result,) = await hand.send(*batch)
            else:
                request = LeaseRequest(request_id=f"{round_number}.{number}", limit=1, wait_secs=0, events=batch)
                (result,) = (await queue.lease(hand.id, request)).results
            assert result.status in ("ok", "gap")
            assert result.high >= highs[result.job_id]
            highs[result.job_id] = result.high
        if all(high == 9 for high in highs.values()):
            break
    for job in jobs:
        ended = await queue.get(job.id)
        assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
        assert [entry.line for entry in await queue.get_logs(job.id)] == [str(seq) for seq in range(2, 9)]


async def test_attempt_that_never_ran_is_run_again_though_it_must_not_be_rerun(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], rerun_if_lost=False))
    for attempt in (1, 2):
        await hand.send(JobFailed(job.id, attempt=attempt, after=0, seq=1, lost=True, unstarted=True, reason="Gone."))
        retrying = await queue.get(job.id)
        assert (retrying.state, retrying.losses) == (JobState.RETRYING, attempt)
        await hand.lease()
    await hand.send(JobFailed(job.id, attempt=3, after=0, seq=1, lost=True, unstarted=True, reason="Gone."))
    ended = await queue.get(job.id)
    assert (ended.state, ended.losses) == (JobState.FAILED, 3)


async def test_attempt_that_was_told_as_started_is_not_believed_to_have_never_run(queue):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], rerun_if_lost=False))
    await hand.send(JobStarted(job.id, attempt=1, after=0, seq=1, worker_id="w"))
    await hand.send(JobFailed(job.id, attempt=1, after=1, seq=2, lost=True, unstarted=True, reason="Gone."))
    assert (await queue.get(job.id)).state is JobState.FAILED


async def test_registration_says_whether_the_clock_decides(queue, tmp_path):
    from zbrain_nb.model.datadir import FileLock, boot_id
    from zbrain_nb.model.protocol import WorkerInfo

    lock = FileLock(tmp_path / "worker.lock")
    info = WorkerInfo(id="w", folder=str(tmp_path), boot_id=boot_id())
    assert (await queue.register_worker(info)).is_fenced
    lock.acquire()
    assert not (await queue.register_worker(info)).is_fenced
    assert (await queue.register_worker(WorkerInfo(id="w", folder=str(tmp_path), boot_id="other"))).is_fenced
    assert (await queue.register_worker(WorkerInfo(id="w", boot_id=boot_id()))).is_fenced
    lock.release()


_CALL_BYTES = b"a pickled call"
_CALL_DIGEST = hashlib.sha256(_CALL_BYTES).hexdigest()
CALL = JobSpec(function=_CALL_DIGEST)


async def test_calls_are_leased_ahead_but_not_before_jobs_that_stand_before_them(queue):
    queue.artifacts.put_bytes(_CALL_BYTES)
    hand = await Hand(queue).register()
    large = await queue.submit(JobSpec(function=_CALL_DIGEST, resources={"cpus": 2}))
    calls = await queue.submit_many([CALL] * 4)
    cell = await queue.submit(JobSpec(code="1"))
    last = await queue.submit(CALL)
    one = LeaseRequest(request_id="one", limit=1, ahead=2, wait_secs=60, resources=Resources(cpus=1))
    assert [lease.job.id for lease in (await queue.lease(hand.id, one)).leases] == calls[:3]
    two = LeaseRequest(request_id="two", limit=0, ahead=9, wait_secs=60)
    assert [lease.job.id for lease in (await queue.lease(hand.id, two)).leases] == calls[3:]
    rest = await queue.lease(hand.id, LeaseRequest(request_id="three", limit=9, wait_secs=60))
    assert [lease.job.id for lease in rest.leases] == [large, cell, last]


async def test_request_for_calls_ahead_alone_is_not_held_open(queue):
    hand = await Hand(queue).register()
    await queue.submit(JobSpec(code="1"))
    async with asyncio.timeout(10):
        answer = await queue.lease(hand.id, LeaseRequest(request_id="none", limit=0, ahead=9, wait_secs=60))
    assert answer.leases == []


async def test_calls_leased_ahead_count_for_the_limit_of_the_owner(tmp_path, clock):
    storage, quotas = Storage(tmp_path), Quotas(owner=Quota(running=2))
    async with JobQueue(storage, tmp_path / "blobs", clock=clock, owner="ada", quotas=quotas) as queue:
        queue.artifacts.put_bytes(_CALL_BYTES)
        hand = await Hand(queue).register()
        await queue.submit_many([CALL] * 5)
        answer = await queue.lease(hand.id, LeaseRequest(request_id="r", limit=1, ahead=9, wait_secs=1))
        assert len(answer.leases) == 2
    await storage.close()


@pytest.mark.parametrize(
    ("spec", "is_plain"),
    [
        ({"function": "a" * 64, "env": {"A": "b"}, "kernel": "/usr/bin/python3", "timeout_secs": 3}, True),
        ({"cmd": ["true"]}, True),
        ({"cmd": ["true"], "limits": {"open_files": 64}}, False),
        ({"code": "1"}, False),
        ({"function": "a" * 64, "inputs": {"x": "b" * 64}}, False),
        ({"function": "a" * 64, "artifacts": ["*"]}, False),
        ({"function": "a" * 64, "keep": ["x"]}, False),
        ({"function": "a" * 64, "secrets": ["KEY"]}, False),
        ({"function": "a" * 64, "kernel": "python3"}, False),
        ({"function": "a" * 64, "resources": {"memory_mb": 100}}, False),
        ({"function": "a" * 64, "resources": {"gpus": 1}}, False),
    ],
)
def test_job_is_a_plain_call_only_if_all_it_says_is_heeded_in_a_reused_process(spec, is_plain):
    assert JobSpec(**spec).is_plain_call is is_plain


def _result(data, /, **more):
    kept = JobArtifact("result", hashlib.sha256(data).hexdigest(), len(data), data)
    return msgspec.structs.replace(kept, **more)


async def test_small_result_stays_with_the_job(queue):
    queue.artifacts.put_bytes(_CALL_BYTES)
    hand = await Hand(queue).register()
    job = await hand.run(CALL)
    await hand.send(JobCompleted(job.id, result=_result(b"small")))
    kept = (await queue.get(job.id)).result
    assert (kept.data, kept.size) == (b"small", 5)
    await queue.fold()
    stored = await queue.storage.get_job(job.id)
    assert stored.result == kept


@pytest.mark.parametrize(
    "kept",
    [
        _result(b"x" * (INLINE_BYTES + 1)),
        _result(b"small", data=b"other"),
        _result(b"small", size=6),
        _result(b"small", sha256="b" * 64),
    ],
    ids=["large", "other", "size", "hash"],
)
async def test_result_that_is_not_what_it_says_is_refused(queue, kept):
    queue.artifacts.put_bytes(_CALL_BYTES)
    hand = await Hand(queue).register()
    job = await hand.run(CALL)
    (answer,) = await hand.send(JobCompleted(job.id, result=kept))
    assert answer.status == "invalid"
    assert (await queue.get(job.id)).state is JobState.RUNNING


async def test_artifact_cannot_travel_in_the_event(queue):
    queue.artifacts.put_bytes(_CALL_BYTES)
    hand = await Hand(queue).register()
    job = await hand.run(CALL)
    (answer,) = await hand.send(JobCompleted(job.id, artifacts=[_result(b"small")]))
    assert answer.status == "invalid"
