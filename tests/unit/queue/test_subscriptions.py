"""Followers that are slow, late, or come from another time."""

from __future__ import annotations

import asyncio
import tracemalloc

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from tests.unit.queue.test_events_out import a_life, collect
from zbrain_nb.model.errors import Unavailable
from zbrain_nb.model.events import Event, JobCompleted, JobDisplayed, JobLogged
from zbrain_nb.model.job import Job
from zbrain_nb.queue import subscription as subscriptions

pytestmark = pytest.mark.anyio


def soon(subscription):
    return asyncio.wait_for(subscription.next_batch(), 10)


def logged(job, count, text="x"):
    return JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, text)] * count)


async def all_lines(subscription, last_seq):
    events = await collect(subscription, last_seq)
    return [entry["seq"] for event in events if event.kind == "job_logged" for entry in event.data["entries"]]


async def test_events_of_one_follower_are_bounded_by_size(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_BYTES", 100_000)
    hand = await Hand(queue).register()
    job = await hand.run()
    slow = queue.subscribe([f"jobs/{job.id}"])
    for _ in range(50):
        await hand.send(logged(job, 10, "x" * 1000))
    assert 0 < queue._bus.held_bytes <= 100_000
    assert queue.measures().event_lag == queue.event_seq - slow.position > 0
    assert await all_lines(slow, queue.event_seq) == list(range(500))
    assert (queue._bus.held_bytes, queue.measures().event_lag) == (0, 0)


async def test_events_of_all_followers_are_bounded_together(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    followers = [queue.subscribe([f"jobs/{job.id}"]) for _ in range(20)]
    queue._bus.max_held_bytes = 50_000
    for _ in range(20):
        await hand.send(logged(job, 10, "x" * 100))
    one = max(notice.size_bytes for follower in followers for notice in follower._live)
    assert queue._bus.held_bytes <= 50_000 + 20 * one  # each may hold one
    for follower in followers:
        assert await all_lines(follower, queue.event_seq) == list(range(200))
    assert queue._bus.held_bytes == 0


async def test_closed_follower_holds_nothing(queue):
    slow = queue.subscribe()
    await queue.submit_many([TRUE] * 10)
    assert queue._bus.held_bytes > 0
    slow.close()
    assert queue._bus.held_bytes == 0


async def test_slow_follower_takes_no_memory_and_stops_nobody(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_BYTES", 200_000)
    hand = await Hand(queue).register()
    job = await hand.run()
    queue._watch.ring._max_bytes = queue.events._limit_bytes = 200_000
    slow, quick = queue.subscribe([f"jobs/{job.id}"]), queue.subscribe([f"jobs/{job.id}"])
    seen = []

    async def follow():
        async for event in quick:
            seen.extend(entry["seq"] for entry in event.data["entries"])

    following = asyncio.create_task(follow())
    tracemalloc.start()
    try:
        for _ in range(20):
            await hand.send(logged(job, 100, "x" * 1000))
        before = tracemalloc.get_traced_memory()[0]
        for _ in range(200):
            await hand.send(logged(job, 100, "x" * 1000))
        grown = tracemalloc.get_traced_memory()[0] - before
    finally:
        tracemalloc.stop()
    await turns()
    assert seen == list(range(22_000))
    assert grown < 4_000_000  # 20 MB went by
    following.cancel()
    assert await all_lines(slow, queue.event_seq) == list(range(22_000))


async def test_follower_that_lags_twice_is_told_twice(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_EVENTS", 3)
    slow = queue.subscribe()
    kinds = []
    for _ in range(2):
        await queue.submit_many([TRUE] * 10)
        kinds += [event.kind for event in await collect(slow, queue.event_seq)]
        waiting = asyncio.create_task(slow.next_batch())  # it has caught up only when it waits
        await turns()
        await queue.submit(TRUE)
        kinds += [event.kind for event in await waiting]
    assert kinds.count("lagged") == 2
    assert kinds.count("job_submitted") == 22


async def test_catching_up_ends_although_events_go_on(queue, monkeypatch):
    """What is published while the last page is read follows it: the store is not asked again for each."""
    await queue.submit_many([TRUE] * 10)
    reads = 0
    read = queue._bus.past.read

    async def busy_read(wanted):
        nonlocal reads
        reads += 1
        found = await read(wanted)
        await queue.submit(TRUE)
        return found

    monkeypatch.setattr(queue._bus.past, "read", busy_read)
    follower = queue.subscribe(after=0)
    events = await collect(follower, 11)
    assert [event.seq for event in events] == list(range(1, 12))
    assert reads == 1


async def test_frames_are_bounded_and_hold_what_batches_hold(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "BATCH_BYTES", 3_000)
    framed, batched, stored = queue.subscribe(), queue.subscribe(), queue.subscribe(after=0)
    hand = await Hand(queue).register()
    for _ in range(3):
        await a_life(queue, hand)
    job = await hand.run()
    await hand.send(logged(job, 100))
    last = queue.event_seq
    for follower in (framed, stored):
        frames, events = [], []
        while not events or events[-1].seq < last:
            frames.append(await follower.next_frame())
            events += msgspec.json.decode(frames[-1], type=list[Event])
        assert len(frames) > 2
        assert [len(f) for f in frames if len(f) > 4_000] == [len(frames[-1])]  # the large event goes alone
        assert len(msgspec.json.decode(frames[-1])) == 1
        if follower is framed:
            assert events == await collect(batched, last)
            live = events
        else:
            assert events == live


async def test_failed_read_loses_nothing(queue, monkeypatch):
    await queue.submit_many([TRUE] * 5)
    follower = queue.subscribe(after=0)
    read = queue._bus.past.read

    async def fail(wanted):
        await queue.submit(TRUE)
        raise Unavailable("The disk is gone.")

    monkeypatch.setattr(queue._bus.past, "read", fail)
    with pytest.raises(Unavailable):
        await soon(follower)
    monkeypatch.setattr(queue._bus.past, "read", read)
    assert [event.seq for event in await collect(follower, 6)] == list(range(1, 7))


async def test_after_a_past_that_is_dropped_is_reset_with_the_jobs_as_they_are(queue, monkeypatch):
    hand = await Hand(queue).register()
    ended = await a_life(queue, hand)
    job = await hand.run()
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: 5)
    published = queue.event_seq
    follower = queue.subscribe([f"jobs/{job.id}", f"jobs/{ended}", "orgs/default"], after=3)
    (reset,) = await soon(follower)
    assert (reset.kind, reset.seq, reset.topic, reset.job_id) == ("reset", published, "", "")
    assert (reset.data["after"], reset.data["oldest"], reset.data["orgs"]) == (3, 5, ["default"])
    jobs = [msgspec.convert(raw, Job) for raw in reset.data["jobs"]]
    assert jobs == [await queue.get(job.id), await queue.get(ended)]
    await hand.send(logged(job, 2))
    assert [event.kind for event in await soon(follower)] == ["job_logged"]
    assert queue.measures().subscriber_resets == 1


async def test_after_the_last_number_that_is_dropped_needs_no_reset(queue, monkeypatch):
    await queue.submit_many([TRUE] * 6)
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: 5)
    assert [event.seq for event in await soon(queue.subscribe(after=4))] == [5, 6]
    assert [event.kind for event in await soon(queue.subscribe(after=3))] == ["reset"]


async def test_past_that_is_dropped_while_it_is_read_is_reset(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "FIRST_PAGE", 2)
    await queue.submit_many([TRUE] * 6)
    follower = queue.subscribe(after=0)
    oldest, read = 0, queue._bus.past.read
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: oldest)

    async def drop_while_reading(wanted):
        nonlocal oldest
        if wanted.after == 2:
            oldest = 5
        return await read(wanted)

    monkeypatch.setattr(queue._bus.past, "read", drop_while_reading)
    assert [event.seq for event in await soon(follower)] == [1, 2]
    (reset,) = await soon(follower)
    assert (reset.kind, reset.data["after"], reset.seq) == ("reset", 2, 6)


async def test_after_a_number_never_given_is_reset(queue):
    """The database was set aside, or an older one put in its place."""
    await queue.submit(TRUE)
    follower = queue.subscribe(after=1000)
    (reset,) = await soon(follower)
    assert (reset.kind, reset.seq) == ("reset", 1)
    await queue.submit(TRUE)
    assert [event.seq for event in await soon(follower)] == [2]


async def test_events_during_the_snapshot_follow_it(queue, monkeypatch):
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: 2)
    job_id = await queue.submit(TRUE)
    await queue.submit(TRUE)
    follower = queue.subscribe([f"jobs/{job_id}"], after=0)
    snapshot = queue._bus.past.snapshot

    async def meanwhile(*asked):
        found = await snapshot(*asked)
        await queue.cancel_job(job_id)
        return found

    monkeypatch.setattr(queue._bus.past, "snapshot", meanwhile)
    (reset,) = await soon(follower)
    assert [raw["state"] for raw in reset.data["jobs"]] == ["pending"]
    assert [event.kind for event in await soon(follower)] == ["job_canceled"]


async def test_detach_is_told_once_to_those_who_wait_for_the_job(queue):
    hand = await Hand(queue).register()
    job, other = await hand.run(), await hand.run()
    waits, elsewhere = [queue.subscribe([f"jobs/{one.id}"], waits=True) for one in (job, other)]
    watches = queue.subscribe([f"jobs/{job.id}"])
    assert (queue.count_waiting(job), queue.count_waiting(other), queue.count_waiting(await hand.run())) == (1, 1, 0)
    await hand.send(logged(job, 1))
    assert queue.detach(job) == 1
    (told,) = await soon(waits)
    assert (told.kind, told.topic, told.job_id, told.seq) == ("detached", "", "", waits.position)
    resumed = queue.subscribe([f"jobs/{job.id}"], after=told.seq)
    for follower in (waits, watches, resumed):
        assert [event.kind for event in await soon(follower)] == ["job_logged"]
    await hand.send(logged(other, 1))
    assert [event.kind for event in await soon(elsewhere)] == ["job_logged"]
    waits.close()
    assert (queue.count_waiting(job), queue.detach(job)) == (0, 0)


@pytest.mark.parametrize("late", [False, True])
async def test_states_of_a_job_come_without_its_log_and_outputs(queue, late):
    hand = await Hand(queue).register()
    job, both = await hand.run(), await hand.run()
    after = queue.event_seq if late else None
    topics = [f"states/{job.id}", f"states/{both.id}", f"jobs/{both.id}"]
    follower = None if late else queue.subscribe(topics)
    for one in (job, both):
        await hand.send(logged(one, 1), JobDisplayed(one.id, attempt=1, outputs=[{"output_type": "clear_output"}]))
        await hand.send(JobCompleted(one.id, attempt=1))
    follower = follower or queue.subscribe(topics, after=after)
    events = await collect(follower, queue.event_seq)
    assert [event.kind for event in events if event.job_id == job.id] == ["job_completed"]
    assert [event.kind for event in events if event.job_id == both.id][:2] == ["job_logged", "job_displayed"]
