"""Who may do what, in process: what is not seen does not exist, what is seen and not allowed is refused."""

from __future__ import annotations

import asyncio

import msgspec
import pytest

from tests.unit.queue.stage import TRUE, Hand, turns
from zbrain_nb import Job, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.access import Credential, Principal, Role, Verb, WorkerBinding
from zbrain_nb.model.errors import (
    Forbidden,
    InvalidSpec,
    JobNotFound,
    KeyConflict,
    Unauthorized,
    Unavailable,
    WorkerNotFound,
)
from zbrain_nb.model.events import JobCompleted, JobLogged
from zbrain_nb.model.job import TOKEN_TAG, CancelResult
from zbrain_nb.model.protocol import AttemptRef, EventBatch, HeartbeatRequest, LeaseRequest, WorkerInfo, WorkerState
from zbrain_nb.queue import subscription as subscriptions
from zbrain_nb.store.events import EventQuery, events_between

pytestmark = pytest.mark.anyio

HOLDER = Principal(owner="ada", roles=None, home="default")


def person(owner: str, home: str = "red", **roles: str) -> Principal:
    """Return a submitter of their home, with further roles."""
    known = {home: Role.SUBMITTER} | {org: Role(role) for org, role in roles.items()}
    return Principal(owner=owner, roles=known, home=home)


ANN, ABE, BOB = person("ann"), person("abe"), person("bob", "blue")


def pool(kind: str | None = None, *orgs: str, owner: str = "ann", isolates: bool = False) -> Principal:
    """Return the principal of a worker's token."""
    binding = WorkerBinding(orgs=frozenset(orgs) or None, pool=kind, isolates=isolates)
    return Principal(owner=owner, roles={}, home="", credential=Credential.WORKER, worker=binding)


class ScopedHand(Hand):
    """A worker moved by hand, in the name of somebody."""

    def __init__(self, queue, worker_id, scope):
        super().__init__(queue, worker_id)
        self.scope = scope

    async def register(self, **fields):
        await self.queue.register_worker(WorkerInfo(id=self.id, **fields), scope=self.scope)
        return self

    async def lease(self, limit=1, wait_secs=0.0, **fields):
        self.requests += 1
        request = LeaseRequest(request_id=str(self.requests), limit=limit, wait_secs=wait_secs, **fields)
        return [lease.job for lease in (await self.queue.lease(self.id, request, scope=self.scope)).leases]


# Roles


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        (Role.VIEWER, {Verb.READ}),
        (Role.SUBMITTER, {Verb.READ, Verb.SUBMIT, Verb.CANCEL_OWN}),
        (Role.OPERATOR, {Verb.READ, Verb.SUBMIT, Verb.CANCEL_OWN, Verb.OPERATE}),
        (Role.ADMIN, set(Verb)),
    ],
)
def test_role_allows_what_the_table_says(role, allowed):
    principal = Principal(owner="eve", roles={"red": role}, home="red")
    assert {verb for verb in Verb if principal.may(verb, "red")} == allowed
    assert not any(principal.may(verb, "blue") for verb in Verb)


def test_holder_of_the_data_directory_may_everything_everywhere():
    assert all(HOLDER.may(verb, org) for verb in Verb for org in ("default", "any"))
    assert HOLDER.orgs is None


async def test_submit_without_an_org_goes_home_and_belongs_to_who_submits(queue):
    job = await queue.get(await queue.submit(TRUE, scope=ANN))
    assert (job.owner, job.org_id) == ("ann", "red")
    job = await queue.get(await queue.submit(TRUE, scope=HOLDER))
    assert (job.owner, job.org_id) == ("ada", "default")


@pytest.mark.parametrize("scope", [ANN, person("vic", red="viewer")])
async def test_submit_into_an_org_that_is_not_open_is_refused_and_names_the_place(queue, scope):
    org = "blue" if scope is ANN else "red"
    spec = JobSpec(cmd=["true"], org_id=org)
    with pytest.raises(Forbidden, match=org):
        await queue.submit(spec, scope=scope)
    other = JobSpec(cmd=["true"], org_id="red")
    with pytest.raises(Forbidden) as refused:
        await queue.accept([other, spec] if scope is ANN else [spec, other], scope=scope)
    assert refused.value.details["index"] == (1 if scope is ANN else 0)
    with pytest.raises(Forbidden):
        await queue.accept_once([spec, spec], "key", "digest", scope=scope)
    assert await queue.list() == []


@pytest.mark.parametrize("told", ["", "p9", "p1"])
@pytest.mark.parametrize("token_id", [None, "", "p1"])
async def test_where_a_job_came_from_is_said_by_who_submits_it_and_not_by_its_tags(queue, told, token_id):
    """What came by a token is not asked about again when a pool gets it: who only says so has to be."""
    scope = None if token_id is None else msgspec.structs.replace(ANN, token_id=token_id)
    spec = JobSpec(cmd=["true"], worker="big", tags={TOKEN_TAG: told, TOKEN_TAG.upper(): "p9", "a": "b"})
    ids = [await queue.submit(spec, scope=scope)]
    ids += await queue.submit_many([spec, Job(spec)], scope=scope)
    keyed = msgspec.structs.replace(spec, idempotency_key="k")
    ids.append(await queue.submit(keyed, scope=scope))
    for key, batch in (("plain", [spec, spec]), ("children", [spec, msgspec.structs.replace(spec, after=ids[:1])])):
        ids += [one.job.id for one in await queue.accept_once(batch, key, "digest", scope=scope)]
    await queue.cancel_many(ids)
    ids.append((await queue.retry_job(ids[0], scope=scope)).id)
    ids += [one.job.id for one in await queue.accept_repeats(await queue.get_many(ids[:2]), scope=scope)]
    jobs = await queue.get_many(ids)
    assert [job.origin for job in jobs] == [token_id or ""] * 11
    assert {TOKEN_TAG in job.spec.tags for job in jobs} == {bool(token_id)}
    assert {job.spec.tags["a"] for job in jobs} == {"b"}


async def test_unknown_org_and_foreign_org_are_refused_alike(queue):
    await queue.submit(TRUE, scope=BOB)
    messages = []
    for org in ("blue", "none"):
        with pytest.raises(Forbidden) as refused:
            await queue.submit(JobSpec(cmd=["true"], org_id=org), scope=ANN)
        messages.append(str(refused.value).replace(org, "ORG"))
    assert messages[0] == messages[1]


async def test_owner_or_operator_cancels_and_others_of_the_org_do_not(queue):
    job_id = await queue.submit(TRUE, scope=ANN)
    with pytest.raises(Forbidden):
        await queue.cancel_job(job_id, scope=ABE)
    with pytest.raises(Forbidden):
        await queue.cancel_many([job_id], scope=ABE)
    assert await queue.cancel_job(job_id, scope=BOB) is CancelResult.NOT_FOUND
    await queue.cancel_many([job_id], scope=BOB)
    assert (await queue.get(job_id)).state is JobState.PENDING
    assert await queue.cancel_job(job_id, scope=person("olga", red="operator")) is CancelResult.CANCELED
    assert (await queue.get(job_id)).reason == "Canceled by olga."
    own = await queue.submit(TRUE, scope=ANN)
    assert await queue.cancel_job(own, scope=ANN) is CancelResult.CANCELED


async def test_owner_who_was_made_a_viewer_cancels_no_more(queue):
    job_id = await queue.submit(TRUE, scope=ANN)
    with pytest.raises(Forbidden):
        await queue.cancel_job(job_id, scope=person("ann", red="viewer"))


async def test_one_job_that_may_not_be_canceled_saves_them_all(queue):
    own, other = await queue.submit(TRUE, scope=ANN), await queue.submit(TRUE, scope=ABE)
    with pytest.raises(Forbidden):
        await queue.cancel_many([own, other], scope=ANN)
    assert {job.state for job in await queue.list()} == {JobState.PENDING}


async def test_who_repeats_the_job_of_another_gets_none_of_its_environment(queue):
    job_id = await queue.submit(JobSpec(cmd=["env"], env={"HIDDEN": "x"}), scope=ANN)
    await queue.cancel_job(job_id, scope=ANN)
    assert (await queue.retry_job(job_id, scope=ABE, others=True)).spec.env == {}
    for own in (ANN, HOLDER):
        assert (await queue.retry_job(job_id, scope=own, others=True)).spec.env == {"HIDDEN": "x"}
    (of_many,) = await queue.accept_repeats([await queue.get(job_id)], scope=ANN)
    assert of_many.job.spec.env == {"HIDDEN": "x"}


async def test_code_of_another_runs_as_nobody_who_did_not_say_that_they_mean_it(queue):
    job_id = await queue.submit(TRUE, scope=ANN)
    await queue.cancel_job(job_id, scope=ANN)
    for other in (ABE, HOLDER):
        with pytest.raises(Forbidden, match=f"the code of ann; it would run as {other.owner}"):
            await queue.retry_job(job_id, scope=other)
        assert await queue.accept_repeats([await queue.get(job_id)], scope=other) == []
    assert [job.id for job in await queue.list()] == [job_id]


async def test_retry_belongs_to_who_retries_and_stays_in_the_org(queue):
    job_id = await queue.submit(TRUE, scope=ANN)
    await queue.cancel_job(job_id, scope=ANN)
    again = await queue.retry_job(job_id, scope=msgspec.structs.replace(ABE, home="elsewhere"), others=True)
    assert (again.owner, again.org_id, again.retry_of) == ("abe", "red", job_id)
    with pytest.raises(JobNotFound):
        await queue.retry_job(job_id, scope=BOB)
    with pytest.raises(Forbidden):
        await queue.retry_job(job_id, scope=person("vic", red="viewer"))
    assert await queue.accept_repeats([await queue.get(job_id)], scope=BOB) == []
    assert [job.id for job in await queue.retry_chain(await queue.get(job_id), scope=ANN)] == [job_id, again.id]


async def test_parent_of_another_org_is_refused_like_one_that_does_not_exist(queue):
    foreign = await queue.submit(TRUE, scope=BOB)
    unknown = foreign[:-4] + "0000"
    messages = []
    for parent in (foreign, unknown):
        with pytest.raises(InvalidSpec) as refused:
            await queue.submit(JobSpec(cmd=["true"], after=[parent]), scope=ANN)
        messages.append(str(refused.value).replace(parent, "ID"))
    assert messages[0] == messages[1]


async def test_idempotency_keys_are_per_owner(queue):
    keyed = JobSpec(cmd=["true"], idempotency_key="k")
    first = await queue.submit(keyed, scope=ANN)
    assert await queue.submit(keyed, scope=ANN) == first
    assert await queue.submit(keyed, scope=ABE) != first
    with pytest.raises(KeyConflict):
        await queue.submit(JobSpec(cmd=["false"], idempotency_key="k"), scope=ANN)


@pytest.mark.parametrize("role", ["submitter", "operator"])
async def test_operators_of_an_org_pause_its_queues_and_others_do_not(queue, role):
    scope = person("olga", red=role)
    if role == "operator":
        await queue.pause("red", "local", scope=scope)
        assert "paused by olga" in (await queue.queues(scope=ANN))[0].paused
        assert await queue.queues(scope=BOB) == []
        await queue.resume("red", "local", scope=scope)
    else:
        for act in (queue.pause, queue.resume):
            with pytest.raises(Forbidden):
                await act("red", "local", scope=scope)


async def test_measures_are_for_the_holder_alone(queue):
    queue.measures(scope=HOLDER)
    with pytest.raises(Forbidden):
        queue.measures(scope=person("root", red="admin"))


# What is seen


async def test_lists_hold_the_orgs_of_who_asks(queue):
    red, blue = await queue.submit(TRUE, scope=ANN), await queue.submit(TRUE, scope=BOB)
    both = person("cy", "red", blue="viewer")
    nobody = Principal(owner="nil", roles={}, home="none")
    for scope, expected in ((ANN, [red]), (BOB, [blue]), (both, [blue, red]), (HOLDER, [blue, red]), (nobody, [])):
        assert [job.id for job in await queue.list(scope=scope)] == expected
        assert [job.id for job in await queue.get_many([blue, red], scope=scope)] == expected
        assert [job.id for job in await queue.find("true", scope=scope)] == expected
        seen = [job_id for job_id in (blue, red) if await queue.find(job_id, scope=scope)]
        assert seen == expected
    assert await queue.list("blue", scope=ANN) == []


async def test_lists_after_a_fold_hold_the_orgs_of_who_asks(queue):
    for scope in (ANN, BOB):
        await queue.cancel_job(await queue.submit(TRUE, scope=scope))
    await queue.fold()
    assert [job.owner for job in await queue.list(scope=ANN)] == ["ann"]
    assert [job.owner for job in await queue.list("red", scope=ANN)] == ["ann"]


# Followers


async def take(follower):
    return await asyncio.wait_for(follower.next_batch(), 10)


async def test_follower_of_everything_gets_the_events_of_own_orgs(queue):
    await queue.submit(TRUE, scope=BOB)
    live, late = queue.subscribe(scope=ANN), queue.subscribe(after=0, scope=ANN)
    await queue.submit(TRUE, scope=BOB)
    mine = await queue.submit(TRUE, scope=ANN)
    for follower in (live, late):
        assert [event.job_id for event in await take(follower)] == [mine]


async def test_follower_of_an_unseen_job_or_org_gets_what_one_of_nothing_gets(queue):
    foreign = await queue.submit(TRUE, scope=BOB)
    follower = queue.subscribe([f"jobs/{foreign}", "orgs/blue"], after=0, scope=ANN)
    await queue.cancel_job(foreign)
    assert await asyncio.wait_for(follower.next_frame(0.01), 10) == b"[]"


async def test_reset_shows_no_unseen_job(queue, monkeypatch):
    foreign, mine = await queue.submit(TRUE, scope=BOB), await queue.submit(TRUE, scope=ANN)
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: 2)
    follower = queue.subscribe([f"jobs/{foreign}", f"jobs/{mine}"], after=0, scope=ANN)
    (reset,) = await take(follower)
    assert [job["id"] for job in reset.data["jobs"]] == [mine]


@pytest.mark.parametrize("held", ["live", "stored"])
async def test_member_who_is_removed_gets_nothing_more_on_an_open_socket(queue, monkeypatch, held):
    """Not even what was published, or read from the store, while they still were a member."""
    now = [ANN]

    async def renew():
        return now[0]

    if held == "stored":
        monkeypatch.setattr(subscriptions, "BATCH_EVENTS", 1)
        first = await queue.submit(TRUE, scope=ABE)
        await queue.submit(TRUE, scope=ABE)
        follower = queue.subscribe(after=0, scope=ANN, renew=renew)
        assert [event.job_id for event in await take(follower)] == [first]  # the other lies in the page that was read
    else:
        follower = queue.subscribe(scope=ANN, renew=renew)
        await queue.submit(TRUE, scope=ABE)
    now[0] = person("ann", "blue")
    assert await asyncio.wait_for(follower.next_frame(0.01), 10) == b"[]"
    await queue.submit(TRUE, scope=ABE)
    theirs = await queue.submit(TRUE, scope=BOB)
    assert [event.job_id for event in await take(follower)] == [theirs]


@pytest.mark.parametrize("topics", [["orgs/red"], ["jobs/{red}"], ["states/{red}", "jobs/{blue}"]])
async def test_member_who_is_removed_is_told_so_if_they_follow_something_of_that_org(queue, topics):
    now = [person("ann", red="submitter", blue="viewer", green="viewer")]

    async def renew():
        return now[0]

    ids = {"red": await queue.submit(TRUE, scope=ANN), "blue": await queue.submit(TRUE, scope=BOB)}
    follower = queue.subscribe([topic.format(**ids) for topic in topics], scope=now[0], renew=renew)
    now[0] = person("ann", red="submitter", blue="viewer")
    assert await asyncio.wait_for(follower.next_frame(0.01), 10) == b"[]"  # green is no matter here
    now[0] = person("ann", "blue")
    await queue.submit(TRUE, scope=ABE)
    with pytest.raises(Forbidden, match=r"^You are not a member of red any more\.$"):
        await asyncio.wait_for(follower.next_frame(0.01), 10)


async def test_follower_who_is_not_known_any_more_is_told_so(queue):
    async def renew():
        raise Unauthorized("Who are you?")

    with pytest.raises(Unauthorized):
        await take(queue.subscribe(scope=ANN, renew=renew))


async def test_expelled_principals_lose_sockets_and_waiting_leases(queue):
    follower, other = queue.subscribe(scope=ANN), queue.subscribe(scope=BOB)
    hand = await ScopedHand(queue, "w", ANN).register()
    waiting = asyncio.ensure_future(hand.lease(wait_secs=60))
    await turns()
    queue.expel(lambda principal: principal.owner == "ann")
    assert await asyncio.wait_for(waiting, 10) == []
    with pytest.raises(Unauthorized, match="revoked"):
        await take(follower)
    await queue.submit(TRUE, scope=BOB)
    assert len(await take(other)) == 1


@pytest.mark.parametrize("topics", [(None, None), (["mine", "foreign"], []), ([], ["red", "blue"])])
async def test_store_itself_reads_events_of_the_orgs_that_are_seen(queue, topics):
    hand = await Hand(queue).register()
    ids = {}
    for name, scope in (("foreign", BOB), ("mine", ANN)):
        job = await hand.run(scope=scope)
        await hand.send(JobLogged(job.id, attempt=1, after=0, seq=1, lines=[("stdout", 1.0, name)]))
        ids[name] = job.id
    jobs, orgs = topics
    asked = None if jobs is None else [ids[name] for name in jobs]
    wanted = EventQuery(0, queue.event_seq, 100, asked, orgs, seen=frozenset({"red"}))
    events, whole = await queue.storage.read(events_between, wanted)
    assert {event.job_id for event in events} == {ids["mine"]}
    assert ("job_logged" in {event.kind for event in events}) == (orgs != ["red", "blue"])
    assert whole == queue.event_seq


# Workers


async def test_person_leases_own_jobs_in_own_orgs_alone(queue):
    hand = await ScopedHand(queue, "w", ANN).register()
    await queue.submit(TRUE, scope=ABE)
    await queue.submit(TRUE, scope=BOB)
    await queue.submit(JobSpec(cmd=["true"], org_id="blue"), owner="ann")  # of before she left
    assert await hand.lease(limit=5) == []
    mine = await queue.submit(TRUE, scope=ANN)
    assert [job.id for job in await hand.lease(limit=5)] == [mine]
    assert [job.id for job in await queue.list(state="running")] == [mine]


async def test_persons_worker_that_waits_is_woken_by_own_jobs_alone(queue):
    hand = await ScopedHand(queue, "w", ANN).register()
    waiting = asyncio.ensure_future(hand.lease(wait_secs=60))
    await turns()
    await queue.submit(TRUE, scope=ABE)
    await turns()
    assert not waiting.done()
    mine = await queue.submit(TRUE, scope=ANN)
    assert [job.id for job in await asyncio.wait_for(waiting, 10)] == [mine]


async def test_owner_gets_jobs_by_priority_over_lanes_and_age(queue):
    """What a worker of one person is given is what a worker of all would be given of these."""
    specs = [(0, 1), (5, 2), (1, 1), (5, 1), (0, 2)]
    ids = {}
    for priority, cpus in specs:
        await queue.submit(TRUE, scope=ABE)
        spec = JobSpec(cmd=["true"], priority=priority, resources={"cpus": cpus})
        ids[priority, cpus] = await queue.submit(spec, scope=ANN)
    hand = await ScopedHand(queue, "w", ANN).register()
    order = [(await hand.lease())[0].id for _ in specs]
    assert order == [ids[each] for each in [(5, 2), (5, 1), (1, 1), (0, 1), (0, 2)]]


async def test_owners_canceled_head_is_passed_over(queue):
    first, second = await queue.submit(TRUE, scope=ANN), await queue.submit(TRUE, scope=ANN)
    await queue.cancel_job(first)
    hand = await ScopedHand(queue, "w", ANN).register()
    assert [job.id for job in await hand.lease(limit=5)] == [second]


async def test_owners_group_limit_holds_for_an_own_worker_too(queue):
    spec = JobSpec(cmd=["true"], concurrency_group="g")
    first, second = await queue.submit(spec, scope=ANN), await queue.submit(spec, scope=ANN)
    hand = await ScopedHand(queue, "w", ANN).register()
    assert [job.id for job in await hand.lease(limit=5)] == [first]
    done = EventBatch([JobCompleted(first, attempt=1, after=0, seq=1)])
    assert (await queue.take_events("w", done, scope=ANN)).results[0].status == "ok"
    assert [job.id for job in await hand.lease(limit=5)] == [second]


async def test_heads_do_not_pile_up_where_each_worker_serves_one_person(queue):
    hand = await ScopedHand(queue, "w", ANN).register()
    await queue.submit_many([TRUE] * 1000, scope=ANN)
    assert len(await hand.lease(limit=1000)) == 1000
    branches = [branch for org in queue._index.ready.orgs.values() for branch in org.branches.values()]
    assert sum(len(branch.heads) for branch in branches) < 200


async def test_worker_of_another_principal_cannot_be_used(queue):
    hand = await ScopedHand(queue, "w", ANN).register()
    await queue.submit(TRUE, scope=ANN)
    (job,) = await hand.lease()
    beat = HeartbeatRequest(attempts=[AttemptRef(job.id, 1)])
    for scope in (ABE, BOB, pool(), pool("local", "red")):
        with pytest.raises(Forbidden):
            await queue.register_worker(WorkerInfo(id="w"), scope=scope)
        with pytest.raises(WorkerNotFound):
            await queue.heartbeat("w", beat, scope=scope)
        with pytest.raises(WorkerNotFound):
            await queue.lease("w", LeaseRequest(request_id="1", wait_secs=0), scope=scope)  # ann's own, sent again
    await queue.register_worker(WorkerInfo(id="w"), scope=HOLDER)  # who holds all may speak for all


async def test_who_may_only_look_has_no_worker_and_speaks_for_none_of_the_same_person(queue):
    """A viewer's token of ann, beside one with which she submits: it must not give what her jobs hold."""
    looking = person("ann", red="viewer")
    waiting = await queue.submit(JobSpec(cmd=["true"], env={"HIDDEN": "x"}), scope=ANN)
    with pytest.raises(Forbidden, match="submit nowhere"):
        await queue.register_worker(WorkerInfo(id="thief"), scope=looking)
    hand = await ScopedHand(queue, "w", ANN).register()
    (job,) = await hand.lease()
    again = LeaseRequest(request_id="1", wait_secs=0)  # ann's own, sent again
    line = JobLogged(job.id, attempt=1, after=0, seq=1, lines=[("stdout", 1.0, "x")])
    for act in (
        lambda: queue.register_worker(WorkerInfo(id="w"), scope=looking),
        lambda: queue.lease("w", again, scope=looking),
        lambda: queue.heartbeat("w", HeartbeatRequest(state=WorkerState.STOPPED), scope=looking),
        lambda: queue.take_events("w", EventBatch([line]), scope=looking),
    ):
        with pytest.raises(Forbidden, match="submit nowhere"):
            await act()
    assert job.id == waiting
    assert [info.state for info in queue.workers()] == [WorkerState.LIVE]


async def test_worker_gets_no_jobs_of_an_org_where_its_person_may_only_look(queue):
    hand = await ScopedHand(queue, "w", ANN).register()
    red = await queue.submit(TRUE, scope=ANN)
    (job,) = await hand.lease()
    fewer = person("ann", "blue", red="viewer")
    assert queue.is_leased_to(ANN, job, 1)
    assert not queue.is_leased_to(fewer, job, 1), "inputs are for who may run the job"
    hand.scope = fewer
    await queue.submit(TRUE, scope=ANN)
    blue = await queue.submit(TRUE, scope=fewer)
    assert [job.id for job in await hand.lease(limit=5)] == [blue]
    assert job.id == red
    with pytest.raises(Forbidden, match="red"):
        await queue.register_worker(WorkerInfo(id="other", org_id="red"), scope=fewer)


async def test_token_that_replaces_another_for_the_same_goes_on_with_its_worker(queue):
    old, new = (msgspec.structs.replace(pool("local", "red"), token_id=name) for name in ("old", "new"))
    hand = await ScopedHand(queue, "p", old).register()
    job_id = await queue.submit(TRUE, scope=ANN)
    assert len(await hand.lease()) == 1
    answer = await queue.register_worker(WorkerInfo(id="p"), scope=new)
    assert [attempt.job_id for attempt in answer.attempts] == [job_id]


async def test_worker_is_its_principals_after_a_restart_too(queue, tmp_path):
    storage = Storage(tmp_path / "jobs.db")
    async with JobQueue(storage, tmp_path / "kept") as first:
        hand = await ScopedHand(first, "w", ANN).register()
        job_id = await first.submit(TRUE, scope=ANN)
        assert len(await hand.lease()) == 1
    async with JobQueue(Storage(tmp_path / "jobs.db"), tmp_path / "kept") as again:
        with pytest.raises(Forbidden):
            await again.register_worker(WorkerInfo(id="w"), scope=ABE)
        answer = await again.register_worker(WorkerInfo(id="w"), scope=ANN)
        assert [attempt.job_id for attempt in answer.attempts] == [job_id]


async def test_id_is_taken_while_its_first_registration_is_written(queue):
    first = asyncio.ensure_future(queue.register_worker(WorkerInfo(id="w"), scope=ANN))
    await asyncio.sleep(0)
    with pytest.raises(Forbidden):
        await queue.register_worker(WorkerInfo(id="w"), scope=ABE)
    await first


async def test_worker_that_registers_twice_at_once_is_registered_and_its_id_stays_taken(queue, monkeypatch):
    """Say, as its first request timed out; the one that fails opens the id to nobody."""
    gates = [asyncio.get_running_loop().create_future() for _ in range(2)]
    waiting = iter(gates)

    async def write(task):
        if (gate := next(waiting, None)) is not None:
            await gate

    monkeypatch.setattr(queue.storage, "write", write)
    both = [asyncio.ensure_future(queue.register_worker(WorkerInfo(id="w"), scope=ANN)) for _ in gates]
    await turns()
    gates[0].set_exception(Unavailable("The store refuses."))
    with pytest.raises(Unavailable):
        await both[0]
    with pytest.raises(Forbidden):
        await queue.register_worker(WorkerInfo(id="w"), scope=ABE)
    gates[1].set_result(None)
    await both[1]
    assert [info.id for info in queue.workers(scope=ANN)] == ["w"]
    assert queue._desk.holder_of("w") == ANN.holder


async def test_owner_who_left_the_org_loses_the_running_job(queue):
    """Membership is checked at lease, heartbeat, repeat and report."""
    hand = await ScopedHand(queue, "w", ANN).register()
    await queue.submit(TRUE, scope=ANN)
    (job,) = await hand.lease()
    hand.scope = gone = person("ann", "blue")
    beat = HeartbeatRequest(attempts=[AttemptRef(job.id, 1)])
    assert [v.verdict for v in (await queue.heartbeat("w", beat, scope=ANN)).verdicts] == ["ok"]
    assert [v.verdict for v in (await queue.heartbeat("w", beat, scope=gone)).verdicts] == ["stale"]
    hand.requests = 0
    assert await hand.lease() == []  # the same request again
    line = JobLogged(job.id, attempt=1, after=0, seq=1, lines=[("stdout", 1.0, "x")])
    (result,) = (await queue.take_events("w", EventBatch([line]), scope=gone)).results
    assert (result.status, result.high, result.message) == ("stale", 0, "No such job.")


@pytest.mark.parametrize("act", ["register", "heartbeat", "lease"])
async def test_attempt_ends_with_the_first_word_of_a_worker_that_may_not_have_it_any_more(queue, act):
    """Not when its lease does: until then the attempt's token opens the org to who was removed."""
    hand = await ScopedHand(queue, "w", ANN).register()
    job_id = await queue.submit(JobSpec(cmd=["true"], max_retries=1), scope=ANN)
    await hand.lease()
    hand.scope = gone = person("ann", "blue")
    if act == "register":
        assert (await queue.register_worker(WorkerInfo(id="w"), scope=gone)).attempts == []
    elif act == "heartbeat":
        await queue.heartbeat("w", HeartbeatRequest(), scope=gone)
    else:
        assert await hand.lease() == []
    assert queue.running_attempt(job_id, 1) is None
    job = await queue.get(job_id)
    assert (job.state, job.losses) == (JobState.RETRYING, 1)
    assert "may not run it any more" in job.reason


async def test_workers_token_reads_what_its_workers_leased_and_nothing_else(queue):
    scope = pool("local", "red")
    hand = await ScopedHand(queue, "p", scope).register()
    leased, waiting = await queue.submit(TRUE, scope=ANN), await queue.submit(TRUE, scope=ANN)
    assert [job.id for job in await hand.lease()] == [leased]
    assert (await queue.get(leased, scope=scope)).id == leased
    assert await queue.get(waiting, scope=scope) is None
    assert await queue.get(leased, scope=pool("local", "red", owner="abe")) is None
    assert await queue.list(scope=scope) == []
    with pytest.raises(Forbidden):
        await queue.submit(TRUE, scope=scope)


async def test_workers_are_told_to_whom_they_serve(queue):
    reds, blues = (pool("big", org, isolates=True) for org in ("red", "blue"))
    for worker_id, scope in (("ann-s", ANN), ("shared", reds), ("blue-s", blues)):
        await ScopedHand(queue, worker_id, scope).register(kind="big")
    await queue.register_worker(WorkerInfo(id="local"))

    def ids(scope):
        return [info.id for info in queue.workers(scope=scope)]

    assert ids(ANN) == ["ann-s", "local", "shared"]
    assert ids(ABE) == ["local", "shared"]
    assert ids(HOLDER) == ids(None) == ["ann-s", "blue-s", "local", "shared"]
    assert all(info.holder == "" for info in queue.workers())


async def test_shared_workers_of_several_orgs_tell_a_member_of_one_nothing_of_the_others(queue):
    both = pool("local", "red", "blue", isolates=True)
    for worker_id, org_id in (("all", None), ("blues", "blue"), ("reds", "red")):
        await ScopedHand(queue, worker_id, both).register(org_id=org_id)
    await queue.register_worker(WorkerInfo(id="kept-for-blue", org_id="blue"))

    def shown(scope):
        return {info.id: (info.org_id, info.orgs) for info in queue.workers(scope=scope)}

    assert shown(ANN) == {"all": (None, ["red"]), "reds": ("red", ["red"])}
    assert shown(HOLDER)["all"] == (None, ["blue", "red"])
    assert shown(HOLDER).keys() == {"all", "blues", "reds", "kept-for-blue"}


async def test_shared_workers_list_shows_own_orgs_jobs_alone(queue):
    hand = await ScopedHand(queue, "p", pool("local", "red", "blue", isolates=True)).register()
    mine, _ = await queue.submit(TRUE, scope=ANN), await queue.submit(TRUE, scope=BOB)
    assert len(await hand.lease(limit=2)) == 2
    (info,) = queue.workers(scope=ANN)
    assert (info.jobs, info.running) == ([mine], 2)


async def test_reason_for_waiting_counts_workers_that_could_take_the_job(queue):
    job_id = await queue.submit(TRUE, scope=ANN)
    await ScopedHand(queue, "abes", ABE).register()
    assert (await queue.get(job_id)).reason == "Waiting for a worker of kind local; none is here."
    await ScopedHand(queue, "anns", ANN).register()
    assert (await queue.get(job_id)).reason == "Waiting for a free worker of kind local."


async def test_folder_that_a_person_names_is_not_looked_at(queue, tmp_path):
    """Their worker is as one on another machine: a host in another account opens no path that they choose."""
    answer = await queue.register_worker(WorkerInfo(id="w", folder=str(tmp_path), boot_id="x"), scope=ANN)
    assert (answer.is_fenced, answer.blobs) == (True, None)
    assert queue.workers()[0].folder is None
