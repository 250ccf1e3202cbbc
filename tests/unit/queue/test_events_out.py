import asyncio

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import Job, JobSpec
from zbrain_nb.model.errors import Malformed
from zbrain_nb.model.events import KINDS, JobCompleted, JobDisplayed, JobFailed, JobLogged, JobProgress, JobStarted
from zbrain_nb.model.transitions import advance, read_patch
from zbrain_nb.queue import subscription as subscriptions
from zbrain_nb.queue.taken import TakenEvents

pytestmark = pytest.mark.anyio


async def a_life(queue, hand, spec=TRUE):
    """One job from submit to end, with everything that events speak of."""
    job = await hand.run(spec)
    show = {"output_type": "stream", "name": "stdout", "text": "x"}
    await hand.send(
        JobStarted(job.id, attempt=1, worker_id=hand.id),
        JobLogged(job.id, attempt=1, lines=[("stdout", 1.25, "a"), ("stderr", 2.5, "b")]),
        JobDisplayed(job.id, attempt=1, outputs=[show]),
        JobProgress(job.id, attempt=1, progress=0.5, stdout="c\n"),
        JobLogged(job.id, attempt=1, lines=[]),
        JobCompleted(job.id, attempt=1, output=[1]),
    )
    return job.id


async def collect(subscription, last_seq):
    events = []
    while not events or events[-1].seq < last_seq:
        batch = await asyncio.wait_for(subscription.next_batch(), 10)
        assert batch
        events += batch
    return events


async def test_subscribe_live_and_after_see_the_very_same_events(queue):
    hand = await Hand(queue).register()
    live = queue.subscribe()
    await a_life(queue, hand)
    seen = await collect(live, queue.event_seq)
    assert [event.kind for event in seen] == [
        "job_submitted",
        "job_leased",
        "job_started",
        "job_logged",
        "job_displayed",
        "job_logged",
        "job_progressed",
        "job_completed",
    ]
    assert {event.kind for event in seen} <= set(KINDS)
    assert await collect(queue.subscribe(after=0), queue.event_seq) == seen
    for cut in range(len(seen) - 1):
        assert await collect(queue.subscribe(after=seen[cut].seq), queue.event_seq) == seen[cut + 1 :]
    assert msgspec.json.decode(msgspec.json.encode(seen)) == msgspec.to_builtins(seen)


async def test_events_applied_in_order_give_the_job(queue, clock):
    hand = await Hand(queue).register()
    live = queue.subscribe()
    job_id = await a_life(queue, hand)
    followed = None
    for event in await collect(live, queue.event_seq):
        assert (event.topic, event.job_id, event.org_id) == (f"jobs/{job_id}", job_id, "default")
        if event.kind == "job_submitted":
            followed = msgspec.convert(event.data, Job)
        elif event.kind not in ("job_logged", "job_displayed"):
            followed = advance(followed, read_patch(event.data))
            assert followed.event_seq == event.seq
    assert followed == await queue.get(job_id)
    await queue.close()
    assert followed == await queue.get(job_id)
    await queue.fold()
    queue._index.recent.clear()
    assert followed == await queue.get(job_id)


async def test_events_take_back_the_reason_that_a_waiting_job_was_shown_with(queue):
    hand = await Hand(queue).register()
    job_id = await queue.submit(TRUE)
    followed = await queue.get(job_id)
    assert followed.reason
    live = queue.subscribe(after=followed.event_seq)
    await hand.lease()
    await hand.send(JobCompleted(job_id, attempt=1))
    for event in await collect(live, queue.event_seq):
        followed = advance(followed, read_patch(event.data))
    assert followed == await queue.get(job_id)
    assert followed.reason is None


async def test_topics_decide_who_hears_what(queue):
    hand = await Hand(queue).register()
    other = await queue.submit(JobSpec(cmd=["true"], org_id="else", worker="else"))
    begin = queue.event_seq
    followers = {
        name: queue.subscribe(topics)
        for name, topics in {
            "org": ["orgs/default"],
            "foreign": ["orgs/else"],
            "job": [f"jobs/{other}"],
            "none": [],
            "both": ["orgs/default", "orgs/else"],
        }.items()
    }
    job_id = await a_life(queue, hand)
    await queue.cancel_job(other)
    last = queue.event_seq
    org = await collect(followers["org"], last - 1)
    assert {event.job_id for event in org} == {job_id}
    assert not {event.kind for event in org} & {"job_logged", "job_displayed"}
    assert [e.kind for e in await collect(followers["foreign"], last)] == ["job_canceled"]
    assert [e.kind for e in await collect(followers["job"], last)] == ["job_canceled"]
    assert not followers["none"]._live
    both = await collect(followers["both"], last)
    assert both[:-1] == org
    stored = await collect(queue.subscribe(["orgs/default", f"jobs/{other}"], after=begin), last)
    assert stored == both
    mine = await collect(queue.subscribe([f"jobs/{job_id}"], after=begin), last - 1)
    assert {"job_logged", "job_displayed"} <= {event.kind for event in mine}


async def test_event_of_both_topics_of_a_follower_comes_once(queue):
    job_id = await queue.submit(TRUE)
    both = queue.subscribe([f"jobs/{job_id}", "orgs/default"])
    await queue.cancel_job(job_id)
    await queue.submit(TRUE)
    assert [event.seq for event in await collect(both, queue.event_seq)] == [2, 3]


async def test_topics_that_are_none_are_malformed(queue):
    for topic in ("jobs", "jobs/", "x/1", ""):
        with pytest.raises(Malformed):
            queue.subscribe([topic])


async def test_lagging_subscriber_catches_up_without_gap_or_repeat(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_EVENTS", 8)
    monkeypatch.setattr(subscriptions, "FIRST_PAGE", 4)
    hand = await Hand(queue).register()
    slow, quick = queue.subscribe(), queue.subscribe()
    for _ in range(4):
        await a_life(queue, hand)
        last = queue.event_seq
        assert [e.kind for e in await collect(quick, last)].count("lagged") == 0
    assert len(slow._live) == 8
    events = await collect(slow, queue.event_seq)
    await queue.submit(TRUE)
    events += await collect(slow, queue.event_seq)
    (lagged,) = [event for event in events if event.kind == "lagged"]
    assert events.index(lagged) == 8
    assert lagged.seq == lagged.data["after"] == events[7].seq
    assert (lagged.data["dropped"], lagged.data["upto"]) == (3 * 8, last)
    events.remove(lagged)
    everything = await collect(queue.subscribe(after=0), queue.event_seq)
    assert events == everything
    seqs = [event.seq for event in events]
    assert seqs == sorted(set(seqs))
    assert len(seqs) == 4 * 8 + 1
    assert queue.measures().subscriber_lags == 1


async def test_catching_up_while_events_go_on_misses_none(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "FIRST_PAGE", 3)
    await queue.submit_many([TRUE] * 10)
    subscription = queue.subscribe(after=0)
    seen = []

    async def follow():
        while len(seen) < 40:
            seen.extend(await subscription.next_batch())

    following = asyncio.create_task(follow())
    for _ in range(30):
        await queue.submit(TRUE)
    await asyncio.wait_for(following, 10)
    assert [event.seq for event in seen] == list(range(1, 41))


async def test_one_log_event_of_more_lines_than_a_page_comes_whole(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "FIRST_PAGE", 3)
    hand = await Hand(queue).register()
    job = await hand.run()
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, str(i)) for i in range(20)]))
    await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, "end")]))
    events = await collect(queue.subscribe([f"jobs/{job.id}"], after=0), queue.event_seq)
    assert [len(e.data["entries"]) for e in events if e.kind == "job_logged"] == [20, 1]


async def test_log_event_across_the_end_of_a_page_comes_whole(queue, monkeypatch):
    monkeypatch.setattr(subscriptions, "FIRST_PAGE", 4)
    hand = await Hand(queue).register()
    job = await hand.run()
    for _ in range(5):
        await hand.send(JobLogged(job.id, attempt=1, lines=[("stdout", 1.0, str(i)) for i in range(3)]))
    events = await collect(queue.subscribe([f"jobs/{job.id}"], after=0), queue.event_seq)
    assert [len(e.data["entries"]) for e in events if e.kind == "job_logged"] == [3] * 5


async def test_subscription_iterates_and_ends_when_closed(queue):
    subscription = queue.subscribe()
    seen = []

    async def follow():
        async with subscription as events:
            async for event in events:
                seen.append(event.kind)  # noqa: PERF401

    following = asyncio.create_task(follow())
    await queue.submit(TRUE)
    await turns()
    subscription.close()
    await asyncio.wait_for(following, 10)
    assert seen == ["job_submitted"]
    assert len(queue._bus) == 0
    assert (queue._bus._by_job, queue._bus._by_org) == ({}, {})


async def test_subscribe_before_open_and_across_a_restart(queue):
    await queue.submit(TRUE)
    await queue.close()
    past, live = queue.subscribe(after=0), queue.subscribe()
    assert [event.kind for event in await past.next_batch()] == ["job_submitted"]
    job_id = await queue.submit(TRUE)
    assert [event.job_id for event in await live.next_batch()] == [job_id]
    await queue.close()
    assert await live.next_batch() == []


async def test_taken_events_are_stamped_and_the_oldest_dropped(queue):
    hand = await Hand(queue).register()
    job = await hand.run()
    await queue.handle_worker_event(JobProgress(job.id, stdout="a"))
    await queue.handle_worker_event(JobFailed(job.id))
    first = await anext(queue.events)
    assert (first.attempt, first.after, first.seq) == (1, 0, 1)
    await queue.handle_worker_event(first)
    second = await anext(queue.events)
    assert (type(second), second.seq) == (JobFailed, 2)
    assert len(await queue.get_logs(job.id)) == 1
    few = TakenEvents(limit=2)
    few.extend([1, 2, 3])
    assert [await anext(few), await anext(few)] == [2, 3]
    small = TakenEvents(limit_bytes=3000)
    logged = JobLogged("j", lines=[("stdout", 1.0, "x" * 1000)])
    small.extend([logged] * 5)
    assert len(small._events) == 1
    assert await anext(small) == logged
    assert small._bytes == 0
