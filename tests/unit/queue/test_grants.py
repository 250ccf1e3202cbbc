"""Blobs belong to who sent them and to who owns the job that left them: to know a hash is worth nothing."""

from __future__ import annotations

import hashlib
import time

import msgspec
import pytest

from tests.unit.queue.stage import Hand
from tests.unit.queue.test_scopes import ABE, ANN, BOB, HOLDER, ScopedHand, person, pool
from zbrain_nb import JobArtifact, JobQueue, JobSpec, Storage
from zbrain_nb.model.access import Role
from zbrain_nb.model.errors import MissingBlobs
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.job import Variable
from zbrain_nb.model.protocol import EventBatch
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.grants import granted_blobs

pytestmark = pytest.mark.anyio
DATA = b"weights" * 1000
SHA, ABSENT = hashlib.sha256(DATA).hexdigest(), "0" * 64
BOTH = person("ann", "red", blue="submitter")


@pytest.fixture
async def queue(tmp_path, clock):
    blobs = ArtifactStore(tmp_path / "blobs", clock=clock.time)
    async with JobQueue(Storage.in_memory(), blobs, clock=clock, owner="ada", lease_ttl_secs=1e6) as queue:
        yield queue
    await queue.storage.close()


async def upload(queue, scope, data=DATA):
    sha256, _ = queue.artifacts.put_bytes(data)
    await queue.grants.add(sha256, scope)


async def missing(queue, scope, *names, **fields):
    """Submit a job that reads the blobs; return those that are asked for."""
    spec = JobSpec(cmd=["true"], inputs={f"x{n}": name for n, name in enumerate(names)}, **fields)
    try:
        await queue.submit(spec, scope=scope)
    except MissingBlobs as error:
        return error.details["blobs"]
    return []


async def leave(hand, owner, sha256=SHA, kind="artifacts"):
    """Let a job of `owner` end that leaves a blob; return its id and what the queue says."""
    job = await hand.run(JobSpec(cmd=["true"], worker=hand.kind), scope=owner)
    left = {
        "artifacts": {"artifacts": [JobArtifact("w.bin", sha256, len(DATA))]},
        "variables": {"variables": [Variable("w", "bytes", "", sha256, len(DATA))]},
        "result": {"result": JobArtifact("result", sha256, len(DATA))},
    }[kind]
    (result,) = await hand.send(JobCompleted(job.id, attempt=1, after=0, seq=1, **left))
    return job.id, result.status


CREW = pool("crew", "red", "blue", isolates=True)


class Reporter(ScopedHand):
    """A worker moved by hand that reports in the name of somebody."""

    kind = "local"

    async def register(self, kind="local"):
        self.kind = kind
        return await super().register(kind=kind, runs_others=True)

    async def send(self, *events):
        return (await self.queue.take_events(self.id, EventBatch(list(events)), scope=self.scope)).results


async def test_blob_of_another_is_asked_for_like_an_absent_one(queue):
    await upload(queue, ANN)
    assert await missing(queue, ANN, SHA) == []
    for other in (ABE, BOB, person("ann", "blue")):
        assert not await queue.grants.has(SHA, other)
        assert await missing(queue, other, ABSENT, SHA) == [ABSENT, SHA]


async def test_function_of_another_is_asked_for(queue):
    await upload(queue, ANN)
    with pytest.raises(MissingBlobs):
        await queue.submit(JobSpec(function=SHA), scope=BOB)


async def test_blob_sent_by_two_is_granted_to_both(queue):
    await upload(queue, ANN)
    await upload(queue, BOB)
    assert await missing(queue, ANN, SHA) == await missing(queue, BOB, SHA) == []


async def test_upload_grants_in_every_org_that_its_sender_sees(queue):
    await upload(queue, BOTH)
    assert await queue.grants.has(SHA, BOTH)
    assert await missing(queue, BOTH, SHA) == await missing(queue, BOTH, SHA, org_id="blue") == []


async def test_blob_granted_in_one_org_is_to_be_sent_again_for_another(queue):
    await upload(queue, ANN)
    assert await queue.grants.has(SHA, ANN)
    assert not await queue.grants.has(SHA, BOTH)
    assert await missing(queue, BOTH, SHA, org_id="blue") == [SHA]


async def test_batch_asks_for_what_one_of_its_jobs_may_not_name(queue):
    await upload(queue, ANN)
    specs = [JobSpec(cmd=["true"], inputs={"x": SHA}, org_id=org) for org in ("red", "blue")]
    with pytest.raises(MissingBlobs) as caught:
        await queue.submit_many(specs, scope=BOTH)
    assert caught.value.details["blobs"] == [SHA]


async def test_holder_of_the_data_directory_needs_no_grant_and_leaves_none(queue):
    await upload(queue, HOLDER)
    assert await queue.grants.has(SHA, HOLDER)
    assert (await leave(await Reporter(queue, "w", HOLDER).register(), HOLDER))[1] == "ok"
    assert await missing(queue, HOLDER, SHA) == []
    assert await queue.storage.read(granted_blobs) == []


async def test_blob_that_is_asked_about_in_vain_does_not_become_young(queue, clock):
    await upload(queue, ANN)
    clock.advance(50)
    assert not await queue.grants.has(SHA, BOB)
    assert await missing(queue, BOB, SHA) == [SHA]
    assert list(queue.artifacts.old(clock.time() - 1)) == [SHA]
    assert await queue.grants.has(SHA, ANN)
    assert list(queue.artifacts.old(clock.time() - 1)) == []


@pytest.mark.parametrize("kind", ["artifacts", "variables", "result"])
@pytest.mark.parametrize("worker", [HOLDER, CREW], ids=["of the account", "of a pool"])
async def test_what_a_job_left_its_owner_may_name_and_nobody_else(queue, kind, worker):
    hand = await Reporter(queue, "w", worker).register("crew")
    await upload(queue, worker)
    assert (await leave(hand, BOTH, kind=kind))[1] == "ok"
    assert await missing(queue, ANN, SHA) == []
    assert await missing(queue, BOTH, SHA, org_id="blue") == [SHA]  # the job was in red
    assert await missing(queue, ABE, SHA) == [SHA]


@pytest.mark.parametrize("kind", ["artifacts", "variables", "result"])
@pytest.mark.parametrize("worker", [BOB, pool("crew", "blue", isolates=True)], ids=["of the owner", "of a pool"])
async def test_worker_cannot_pass_on_by_its_hash_what_another_sent(queue, kind, worker):
    await upload(queue, ANN)
    hand = await Reporter(queue, "w", worker).register("crew")
    for sha256 in (SHA, ABSENT):
        job_id, status = await leave(hand, BOB, sha256, kind)
        assert status == "invalid"
        await queue.cancel_job(job_id, scope=BOB)
        await hand.send(JobCompleted(job_id, attempt=1, after=0, seq=1))
    assert await missing(queue, BOB, SHA) == [SHA]


async def test_blob_of_one_jobs_owner_is_not_taken_for_a_job_of_another_in_one_batch(queue):
    await upload(queue, ANN)
    hand = await Reporter(queue, "w", CREW).register("crew")
    theirs = [await hand.run(JobSpec(cmd=["true"], worker="crew"), scope=owner) for owner in (ANN, BOB)]
    left = [JobArtifact("w.bin", SHA, len(DATA))]
    results = await hand.send(*(JobCompleted(job.id, attempt=1, after=0, seq=1, artifacts=left) for job in theirs))
    assert [result.status for result in results] == ["ok", "invalid"]


async def test_worker_of_a_pool_never_hears_that_a_blob_is_here(queue):
    await upload(queue, worker := pool("crew"))
    assert not await queue.grants.has(SHA, worker)


async def test_operator_repeats_a_colleagues_job_with_its_inputs_but_gets_no_grant(queue):
    await upload(queue, ANN)
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], inputs={"x": SHA}), scope=ANN)
    await hand.send(JobCompleted(job.id, attempt=1, after=0, seq=1))
    operator = msgspec.structs.replace(ABE, roles={"red": Role.OPERATOR})
    again = await queue.retry_job(job.id, scope=operator, others=True)
    assert (again.owner, again.spec.inputs) == ("abe", {"x": SHA})
    assert await missing(queue, operator, SHA) == [SHA]


async def test_grants_outlive_a_restart(tmp_path):
    queue = JobQueue(Storage(tmp_path / "data"), tmp_path / "blobs")
    async with queue:
        await upload(queue, ANN)
    async with queue:
        assert await missing(queue, ANN, SHA) == []
        assert await missing(queue, BOB, SHA) == [SHA]


async def test_grants_go_with_their_blob(queue, clock):
    clock.now = time.time()
    maintenance = Maintenance.of(queue, Lifetimes(blobs_secs=100))
    await upload(queue, ANN)
    await upload(queue, ANN, b"young")
    clock.advance(50)
    assert await queue.grants.has(hashlib.sha256(b"young").hexdigest(), ANN)
    clock.advance(51)
    assert await maintenance.collect_blobs() == 1
    assert await queue.storage.read(granted_blobs) == [hashlib.sha256(b"young").hexdigest()]
    await upload(queue, BOB)
    assert not await queue.grants.has(SHA, ANN)


async def test_grant_of_a_blob_sent_again_while_it_is_collected_stays(queue, clock, monkeypatch):
    clock.now = time.time()
    maintenance = Maintenance.of(queue, Lifetimes(blobs_secs=100))
    await upload(queue, ANN)
    clock.advance(101)
    calls, gone = [], queue.artifacts.gone

    def look(names):
        found = gone(names)
        if not calls:
            queue.artifacts.put_bytes(DATA)
        calls.append(found)
        return found

    monkeypatch.setattr(queue.artifacts, "gone", look)
    assert await maintenance.collect_blobs() == 1
    assert calls == [[SHA], []]
    assert await missing(queue, ANN, SHA) == []
