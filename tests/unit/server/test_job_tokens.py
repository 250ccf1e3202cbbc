"""Tokens of attempts: worth something while the attempt runs, and made by nobody without the secret."""

import pytest

from tests.unit.queue.stage import TRUE, FakeClock, Hand
from tests.unit.queue.test_scopes import ANN, HOLDER, ScopedHand, pool
from zbrain_nb import JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.access import Credential, Principal, Role, Verb
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.model.events import JobCompleted, JobFailed
from zbrain_nb.server.job_tokens import JobTokens

pytestmark = pytest.mark.anyio
SECRET = "5" * 64


async def submitter(job):
    return Role.SUBMITTER


@pytest.fixture
async def queue(tmp_path):
    queue = JobQueue(Storage.in_memory(), tmp_path / "blobs", clock=FakeClock(), owner="ada", lease_ttl_secs=60)
    async with queue:
        yield queue
    await queue.storage.close()


@pytest.fixture
def tokens(queue):
    return JobTokens(SECRET, queue.running_attempt, lives=set().__contains__, role_of=submitter, is_at_owners=bool)


async def test_token_speaks_for_the_owner_in_the_jobs_org_while_its_attempt_runs(queue, tokens):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], org_id="lab"), owner="bob")
    secret = tokens.mint(job.id, job.attempt)
    assert secret == tokens.mint(job.id, job.attempt)
    found = await tokens.find(secret)
    assert (found.owner, found.roles, found.home) == ("bob", {"lab": Role.SUBMITTER}, "lab")
    assert (found.credential, found.job_id, found.attempt) == (Credential.JOB, job.id, 1)
    assert not found.may(Verb.ADMINISTER, "lab") and not found.sees("default")
    await queue.cancel_job(job.id)
    assert await tokens.find(secret) == found  # it may still say good-bye
    await hand.send(JobCompleted(job.id, attempt=job.attempt))
    assert await tokens.find(secret) is None


async def test_token_of_an_earlier_attempt_is_worth_nothing(queue, tokens):
    hand = await Hand(queue).register()
    job = await hand.run(JobSpec(cmd=["true"], max_retries=1))
    first, second = tokens.mint(job.id, 1), tokens.mint(job.id, 2)
    assert await tokens.find(first) and await tokens.find(second) is None
    await hand.send(JobFailed(job.id, attempt=1, error={"ename": "E", "evalue": "", "traceback": []}))
    assert (await queue.get(job.id)).state is JobState.RETRYING
    assert await tokens.find(first) is None
    queue.clock.advance(3600)
    queue.tick()
    (again,) = await hand.lease()
    assert again.attempt == 2
    assert await tokens.find(first) is None and (await tokens.find(second))


async def test_token_of_a_lost_attempt_is_worth_nothing(queue, tokens):
    hand = await Hand(queue).register()
    job = await hand.run(TRUE)
    secret = tokens.mint(job.id, 1)
    queue.clock.advance(1000)
    await queue.expire_leases()
    assert await tokens.find(secret) is None


async def test_token_ends_with_the_one_that_the_job_came_with(queue):
    living = {"zbp_1"}
    tokens = JobTokens(SECRET, queue.running_attempt, lives=living.__contains__, role_of=submitter, is_at_owners=bool)
    hand = await Hand(queue).register()
    bob = Principal(owner="bob", roles={"lab": Role.SUBMITTER}, home="lab", token_id="zbp_1")
    await queue.submit(JobSpec(cmd=["true"]), scope=bob)
    (job,) = await hand.lease()
    found = await tokens.find(tokens.mint(job.id, 1))
    assert found.origin == "zbp_1"
    await queue.submit(JobSpec(cmd=["true"]), scope=found)
    (child,) = await hand.lease()
    assert (await tokens.find(tokens.mint(child.id, 1))).origin == "zbp_1"
    living.clear()  # revoked or expired
    assert await tokens.find(tokens.mint(job.id, 1)) is None
    assert await tokens.find(tokens.mint(child.id, 1)) is None


async def test_token_is_worth_what_its_owner_may_do_in_the_org_by_now(queue):
    now = [Role.SUBMITTER]

    async def role_of(job):
        return now[0]

    tokens = JobTokens(SECRET, queue.running_attempt, lives=set().__contains__, role_of=role_of, is_at_owners=bool)
    job = await (await Hand(queue).register()).run(JobSpec(cmd=["true"], org_id="lab"), owner="bob")
    secret = tokens.mint(job.id, 1)
    assert (await tokens.find(secret)).may(Verb.SUBMIT, "lab")
    now[0] = Role.VIEWER
    found = await tokens.find(secret)
    assert found.sees("lab") and not found.may(Verb.SUBMIT, "lab")
    now[0] = None  # removed
    assert await tokens.find(secret) is None


@pytest.mark.parametrize("what", ["attempt", "token"])
async def test_token_is_worth_nothing_if_its_attempt_or_its_origin_ends_while_the_role_is_asked_for(queue, what):
    hand, living = await Hand(queue).register(), {"zbp_1"}

    async def role_of(job):
        if what == "attempt":
            await hand.send(JobCompleted(job.id, attempt=job.attempt))
        else:
            living.clear()
        return Role.SUBMITTER

    tokens = JobTokens(SECRET, queue.running_attempt, lives=living.__contains__, role_of=role_of, is_at_owners=bool)
    bob = Principal(owner="bob", roles={"lab": Role.SUBMITTER}, home="lab", token_id="zbp_1")
    await queue.submit(TRUE, scope=bob)
    (job,) = await hand.lease()
    assert await tokens.find(tokens.mint(job.id, 1)) is None


async def test_token_of_an_attempt_at_a_pool_submits_to_that_pool_alone(queue):
    """Who operates the pool sees the token, and must not have code run by its owner's own worker with it."""
    scope = pool("big", "red", owner="eve", isolates=True)
    hand = await ScopedHand(queue, "p", scope).register(kind="big")
    tokens = JobTokens(
        SECRET,
        queue.running_attempt,
        lives=set().__contains__,
        role_of=submitter,
        is_at_owners=queue.runs_at_owners,
    )
    big = JobSpec(cmd=["true"], worker="big")
    first = await queue.submit(big, scope=ANN)
    await hand.lease()
    found = await tokens.find(tokens.mint(first, 1))
    for act in (queue.submit, lambda spec, scope: queue.accept_once([spec, spec], "k", "digest", scope=scope)):
        with pytest.raises(Forbidden, match="that pool alone: big, not local"):
            await act(TRUE, scope=found)
    waiting = await queue.submit(TRUE, scope=ANN)
    await queue.cancel_job(waiting, scope=ANN)
    with pytest.raises(Forbidden, match="that pool alone"):
        await queue.retry_job(waiting, scope=found)
    assert (await queue.get(await queue.submit(big, scope=found))).owner == "ann"


@pytest.mark.parametrize("scope", [ANN, HOLDER])
async def test_token_of_an_attempt_at_its_owners_or_the_hosts_worker_submits_to_all(queue, scope):
    hand = await ScopedHand(queue, "w", scope).register(runs_others=True)
    job_id = await queue.submit(TRUE, scope=ANN)
    (job,) = await hand.lease()
    assert queue.runs_at_owners(job)
    assert job.id == job_id


async def test_nobody_forges_a_token(queue, tokens):
    hand = await Hand(queue).register()
    job = await hand.run(TRUE)
    other = await queue.submit(TRUE)
    secret = tokens.mint(job.id, 1)
    forger = JobTokens("6" * 64, queue.running_attempt, lives=set().__contains__, role_of=submitter, is_at_owners=bool)
    assert await forger.find(secret) is None
    assert await tokens.find(tokens.mint(other, 1)) is None  # it waits
    assert await tokens.find(forger.mint(job.id, 1)) is None
    for place in range(4, len(secret)):
        letter = "0" if secret[place] != "0" else "1"
        assert await tokens.find(secret[:place] + letter + secret[place + 1 :]) is None
    for text in ("", "zbj_", secret[4:], "zbp" + secret[3:], secret + "0", "zbj_é" + secret[5:]):
        assert await tokens.find(text) is None
