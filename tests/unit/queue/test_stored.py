"""The limit of stored bytes: what counts for whom, what takes it, what gives it back, and what it refuses."""

from __future__ import annotations

import asyncio
import hashlib
import time

import duckdb
import pytest

from tests.unit.queue.stage import Hand
from tests.unit.queue.test_scopes import ANN, BOB, HOLDER, person, pool
from zbrain_nb import JobArtifact, JobQueue, JobSpec, Storage
from zbrain_nb.model.errors import OverQuota
from zbrain_nb.model.events import JobCompleted, JobDisplayed
from zbrain_nb.model.quotas import Quota, Quotas
from zbrain_nb.model.settings import Lifetimes
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.store import schema
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.grants import stored_sizes
from zbrain_nb.store.rowsizes import row_sizes

pytestmark = pytest.mark.anyio
KIB, MIB = 1 << 10, 1 << 20
SHA = hashlib.sha256(b"on its way").hexdigest()
BOTH = person("ann", "red", blue="submitter")
SPEC = JobSpec(cmd=["true"])


def open_queue(tmp_path, clock, **quotas):
    blobs = ArtifactStore(tmp_path / "blobs", clock=clock.time)
    return JobQueue(Storage(tmp_path), blobs, clock=clock, owner="ada", lease_ttl_secs=1e6, quotas=Quotas(**quotas))


async def send(queue, scope, data):
    sha256, _ = queue.artifacts.put_bytes(data)
    await queue.grants.add(sha256, scope)
    return sha256


async def leave(queue, scope, data, **fields):
    """Let a job of somebody end that leaves a file; return what the queue says."""
    hand = await Hand(queue, f"w{len(queue.workers())}").register()
    job = await hand.run(JobSpec(cmd=["true"], **fields), scope=scope)
    sha256, size = queue.artifacts.put_bytes(data)
    (result,) = await hand.send(
        JobCompleted(job.id, attempt=1, after=0, seq=1, artifacts=[JobArtifact("a", sha256, size)])
    )
    return result.status


def used(queue, *names):
    return [queue.stored.used("owner" if name in ("ann", "bob", "ada") else "org", name) for name in names]


def begin(queue, scope, size, offset=0, sha256=SHA):
    """Begin an upload as the route does; return it with its hold."""
    org_id, owner = scope.payer
    upload = queue.artifacts.open_upload(sha256, owner=owner, org_id=org_id, offset=offset)
    hold = queue.stored.begin(scope.payer, upload)
    try:
        queue.stored.reserve(hold, size, scope.payer)
    except OverQuota:
        upload.pause()
        queue.stored.end(hold)
        raise
    return upload, hold


async def test_blob_counts_once_for_each_owner_in_the_home_of_who_sent_it(tmp_path, clock):
    async with open_queue(tmp_path, clock) as queue:
        await asyncio.gather(*(send(queue, BOTH, b"x" * 100) for _ in range(5)))
        assert used(queue, "ann", "red", "blue") == [100, 100, 0]
        await send(queue, BOB, b"x" * 100)
        assert used(queue, "ann", "bob", "red", "blue") == [100, 100, 100, 100]
        await send(queue, BOTH, b"y" * 11)
        assert used(queue, "ann", "red", "blue") == [111, 111, 100]


async def test_what_a_job_left_counts_in_its_org_unless_its_owner_has_sent_it(tmp_path, clock):
    async with open_queue(tmp_path, clock) as queue:
        await send(queue, pool("local"), b"x" * 100)
        assert used(queue, "ann", "red", "blue", "") == [0, 0, 0, 0]
        assert await leave(queue, BOTH, b"x" * 100, org_id="blue") == "ok"
        assert used(queue, "ann", "red", "blue") == [100, 0, 100]
        await send(queue, BOTH, b"x" * 100)
        assert await leave(queue, BOTH, b"x" * 100) == "ok"
        assert used(queue, "ann", "red", "blue") == [100, 0, 100]


async def test_holder_of_the_data_directory_is_neither_counted_nor_limited(tmp_path, clock):
    quota = Quota(stored_bytes=2 * KIB)
    async with open_queue(tmp_path, clock, org=quota, owner=quota) as queue:
        await send(queue, HOLDER, b"x" * 5 * KIB)
        assert await leave(queue, HOLDER, b"y" * 5 * KIB) == "ok"
        assert used(queue, "ada", "default") == [0, 0]
        assert await leave(queue, ANN, b"z" * 5 * KIB) == "ok"
        await queue.submit(JobSpec(cmd=["true"], org_id="red"), scope=HOLDER)


@pytest.mark.parametrize("what", ["org", "owner"])
async def test_job_may_leave_more_than_the_limit_and_the_next_submit_is_refused(tmp_path, clock, what):
    async with open_queue(tmp_path, clock, **{what: Quota(stored_bytes=MIB)}) as queue:
        keyed = JobSpec(cmd=["true"], worker="other", idempotency_key="k")
        before = await queue.submit(keyed, scope=ANN)
        assert await leave(queue, ANN, b"x" * 1000 * KIB) == "ok"  # no more than the limit: the next job is taken
        assert await leave(queue, ANN, b"y" * 1000 * KIB) == "ok"
        for spec in (JobSpec(cmd=["true"], idempotency_key="new"), SPEC):
            with pytest.raises(OverQuota) as refusal:
                await queue.submit(spec, scope=ANN)
        assert 2000 * KIB < refusal.value.details.pop("used") < 2008 * KIB  # and the rows of three jobs
        assert refusal.value.details == {"quota": f"{what}_stored_bytes", "limit": MIB, "retry_after_secs": 3600}
        whose = "Org 'red'" if what == "org" else "Owner 'ann'"
        assert refusal.value.message == f"{whose} stores 2 MiB, over its limit of 1 MiB, and can add no jobs."
        assert "ZBRAIN_KEEP_JOBS_DAYS" in refusal.value.hint
        assert await queue.submit(keyed, scope=ANN) == before  # what was acknowledged stays so
        await queue.submit(SPEC, scope=BOB)


async def rows_in_tables(queue, name):
    """Return what the tables say of the rows of an owner's jobs."""
    charges = await queue.storage.read(row_sizes, 2**62)
    return sum(size for _, owner, size in charges if owner == name)


async def test_specs_and_outputs_count_and_a_canceled_job_does_not_give_them_back(tmp_path, clock):
    limit = Quota(stored_bytes=512 * KIB)
    async with open_queue(tmp_path, clock, owner=limit) as queue:

        async def submit(*sizes):
            return await queue.submit_many([JobSpec(code="#" * size * KIB) for size in sizes], scope=ANN)

        for _ in range(5):
            (job,) = await submit(96)
            await queue.cancel_job(job, scope=ANN)
        with pytest.raises(OverQuota, match="cannot add 9"):
            await submit(96)
        with pytest.raises(OverQuota, match="cannot add 3"):
            await submit(15, 15)
        answers = await asyncio.gather(*(submit(11) for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [list, list, OverQuota, OverQuota]  # though they are one commit
        (job, *_) = await (await Hand(queue).register()).lease(4)
        outputs = [{"output_type": "stream", "name": "stdout", "text": "\N{SNOWMAN}" * 10 * KIB}]
        before = queue.stored.used("owner", "ann")
        await queue.handle_worker_event(JobDisplayed(job.id, attempt=1, after=0, seq=1, outputs=outputs))
        shown = queue.stored.used("owner", "ann")
        assert shown - before > 30 * KIB
        assert shown == await rows_in_tables(queue, "ann")
        assert (queue.stored.used("org", "red"), queue.stored.files("owner", "ann")) == (shown, 0)
        await queue.submit(SPEC, scope=BOB)
    async with open_queue(tmp_path, clock, owner=limit) as queue:
        assert queue.stored.used("owner", "ann") == await rows_in_tables(queue, "ann") >= shown


async def test_rows_are_counted_exactly_when_a_limit_is_set_while_others_submit(tmp_path, clock):
    async with open_queue(tmp_path, clock) as queue:
        await queue.submit_many([SPEC] * 20, scope=ANN)
        assert queue.stored.used("owner", "ann") == 0  # nobody has a limit: nothing is read for it

        async def submit():
            for _ in range(20):
                await queue.submit(SPEC, scope=ANN)

        await asyncio.gather(submit(), queue.set_limits("red", Quota(stored_bytes=MIB), scope=HOLDER), submit())
        assert queue.stored.used("owner", "ann") == await rows_in_tables(queue, "ann") > 60 * 400


async def test_rows_that_retention_drops_are_given_back(tmp_path, clock):
    clock.now = time.time()
    async with open_queue(tmp_path, clock, owner=Quota(stored_bytes=MIB)) as queue:
        maintenance = Maintenance.of(queue, Lifetimes(jobs_secs=1200, events_secs=1200, logs_secs=1200))
        old = await queue.submit(JobSpec(code="#" * 100 * KIB), scope=ANN)
        await queue.cancel_job(old, scope=ANN)
        clock.advance(200)
        await maintenance.retire_rows()
        await queue.submit(SPEC, scope=ANN)
        clock.advance(1300)
        assert await maintenance.retire_rows()
        assert 400 < queue.stored.used("owner", "ann") == await rows_in_tables(queue, "ann") < 2 * KIB


async def test_collection_gives_back_and_a_restart_keeps_the_counts(tmp_path, clock):
    clock.now = time.time()
    queue = open_queue(tmp_path, clock)
    async with queue:
        await send(queue, BOTH, b"old" * 100)
        upload, hold = begin(queue, ANN, 3 * MIB)
        upload.write(b"x" * 2 * MIB)
        upload.pause()
        queue.stored.end(hold)
        small, hold = begin(queue, BOB, 3 * MIB)
        small.write(b"x")
        small.pause()
        queue.stored.end(hold)
    async with open_queue(tmp_path, clock) as queue:
        assert used(queue, "ann", "red", "bob", "blue") == [300 + 2 * MIB, 300 + 2 * MIB, 0, 0]
        clock.advance(90_000)
        await send(queue, ANN, b"young")
        assert await Maintenance.of(queue, Lifetimes(blobs_secs=100)).collect_blobs() == 2
        assert used(queue, "ann", "red") == [5, 5]
        assert await queue.storage.read(stored_sizes) == [("red", "ann", 5)]


async def test_many_uploads_at_once_reserve_what_they_announce(tmp_path, clock):
    async with open_queue(
        tmp_path, clock, org=Quota(stored_bytes=10 * MIB), owner=Quota(stored_bytes=7 * MIB)
    ) as queue:
        names = [hashlib.sha256(bytes([n])).hexdigest() for n in range(8)]
        begun, refused = [], []
        for scope in (ANN, person("abe")):
            for sha256 in names:
                try:
                    begun.append(begin(queue, scope, 2 * MIB, sha256=sha256))
                except OverQuota as error:
                    refused.append(error)
        assert (len(begun), used(queue, "ann", "red")) == (5, [6 * MIB, 10 * MIB])
        assert refused[0].message == "Owner 'ann' stores 6 MiB and cannot add 2 MiB: its limit is 7 MiB."
        details = {"quota": "org_stored_bytes", "limit": 10 * MIB, "used": 10 * MIB, "retry_after_secs": 3600}
        assert refused[-1].details == details
        for upload, hold in begun:
            upload.pause()
            queue.stored.end(hold)
        assert used(queue, "ann", "red") == [0, 0]
        assert queue.artifacts.parts() == []


async def test_same_blob_sent_many_times_at_once_counts_each_time(tmp_path, clock):
    """Each has a file of its own until it is whole."""
    async with open_queue(tmp_path, clock, owner=Quota(stored_bytes=5 * MIB)) as queue:
        begun = [begin(queue, ANN, 2 * MIB) for _ in range(2)]
        with pytest.raises(OverQuota):
            begin(queue, ANN, 2 * MIB)
        for upload, hold in begun:
            upload.abort()
            queue.stored.end(hold)
        assert used(queue, "ann") == [0]


async def test_upload_that_is_gone_on_with_counts_once(tmp_path, clock):
    async with open_queue(tmp_path, clock, owner=Quota(stored_bytes=5 * MIB)) as queue:
        upload, first = begin(queue, ANN, 4 * MIB)
        upload.write(b"x" * 2 * MIB)
        upload, second = begin(queue, ANN, 4 * MIB, 2 * MIB)  # the first has not noticed yet that it is cut off
        queue.stored.reserve(first, 5 * MIB, ANN.payer)
        queue.stored.end(first)
        assert used(queue, "ann", "red") == [4 * MIB, 4 * MIB]
        upload.pause()
        queue.stored.end(second)
        assert used(queue, "ann", "red") == [2 * MIB, 2 * MIB]
        with pytest.raises(OverQuota, match="stores 2 MiB and cannot add 4 MiB"):
            begin(queue, ANN, 6 * MIB, 2 * MIB)
        assert used(queue, "ann") == [2 * MIB]
        upload, third = begin(queue, ANN, 5 * MIB, 2 * MIB)
        upload.abort()
        queue.stored.end(third)
        assert used(queue, "ann", "red") == [0, 0]


async def test_limit_of_an_org_is_set_and_shown_like_the_others(tmp_path, clock):
    async with open_queue(tmp_path, clock, owner=Quota(stored_bytes=9 * KIB)) as queue:
        await send(queue, ANN, b"x" * KIB)
        await queue.set_limits("red", Quota(stored_bytes=2 * KIB), scope=HOLDER)
        (shown,) = (await queue.limits("red", scope=ANN)).used
        assert (shown.quota, shown.of, shown.used, shown.limit) == ("stored_bytes", "org", KIB, 2 * KIB)
        uses = (await queue.overview("red", scope=ANN)).quotas
        assert [(use.of, use.name, use.used, use.limit) for use in uses] == [
            ("org", "red", KIB, 2 * KIB),
            ("owner", "ann", KIB, 9 * KIB),
        ]
        with pytest.raises(OverQuota, match="Org 'red'"):
            begin(queue, person("abe"), KIB + 1)


async def test_grants_of_the_version_before_stay_and_count_nothing(tmp_path, clock):
    async with open_queue(tmp_path, clock) as queue:
        sha256 = await send(queue, ANN, b"x" * 100)
    with duckdb.connect(str(queue.storage.path)) as connection:
        connection.execute("ALTER TABLE grants DROP COLUMN size")
        connection.execute("UPDATE meta SET value = '6' WHERE key = 'schema_version'")
    async with open_queue(tmp_path, clock) as queue:
        assert await queue.grants.has(sha256, ANN)
        await send(queue, ANN, b"x" * 100)
        assert used(queue, "ann", "red") == [0, 0]
        await send(queue, ANN, b"y" * 7)
        assert used(queue, "ann", "red") == [7, 7]
        copy = tmp_path / "copy"
        await Maintenance.of(queue, Lifetimes()).back_up(copy)
    async with JobQueue(Storage(copy), copy / "artifacts", owner="ada") as queue:
        assert used(queue, "ann", "red") == [7, 7]
    assert len(schema.MIGRATIONS) + 1 == schema.SCHEMA_VERSION
