"""`AsyncClient.follow`: every line and output once, in order, before the ended job."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from zbrain_nb.client import following
from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.client.locating import Endpoint, locator
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import JobNotFound, ServerUnreachable, Unauthorized
from zbrain_nb.model.events import AnyWorkerEvent, JobCompleted, JobDisplayed, JobLogged, JobStarted, LogStream
from zbrain_nb.model.job import Job, JobSpec, JobState
from zbrain_nb.model.protocol import EventBatch, LeaseRequest, WorkerInfo
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue import subscription
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
OUTPUT = {"output_type": "display_data", "data": {"text/plain": "figure"}, "metadata": {}}


class Scene:
    """A host, a client of it, and a worker played by hand."""

    def __init__(self, host: Host, client: AsyncClient) -> None:
        assert host.context is not None
        self.queue = host.context.queue
        self.client = client
        self.number = 0

    async def submit(self) -> Job:
        return (await self.client.submit([JobSpec(cmd=["true"])]))[0]

    async def lease(self) -> None:
        await self.queue.register_worker(WorkerInfo(id="w"))
        await self.queue.lease("w", LeaseRequest(request_id="r", limit=1, wait_secs=5))

    async def say(self, *events: AnyWorkerEvent) -> None:
        for event in events:
            self.number += 1
            kind, job_id = type(event), event.job_id
            fields = {name: getattr(event, name) for name in event.__struct_fields__ if name != "job_id"}
            numbered = kind(job_id, **fields | {"attempt": 1, "after": self.number - 1, "seq": self.number})
            answer = await self.queue.take_events("w", EventBatch([numbered]))
            assert [result.status for result in answer.results] == ["ok"]

    async def run_to_end(self, job: Job) -> None:
        await self.lease()
        await self.say(
            JobStarted(job.id), JobLogged(job.id, lines(3)), JobDisplayed(job.id, [OUTPUT]), JobCompleted(job.id)
        )


def life(job: Job) -> list[AnyWorkerEvent]:
    """What a worker says of a job from start to end."""
    return [JobStarted(job.id), JobLogged(job.id, lines(3)), JobDisplayed(job.id, [OUTPUT]), JobCompleted(job.id)]


def lines(count: int, first: int = 0) -> list[tuple[LogStream, float, str]]:
    return [(LogStream.STDOUT, 1.0, f"line {number}") for number in range(first, first + count)]


@pytest.fixture
async def scene(tmp_path: Path) -> AsyncIterator[Scene]:
    data = DataDir(tmp_path / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    owner = await host.start()
    client = AsyncClient(locator(owner.url, owner.token))
    yield Scene(host, client)
    await client.close()
    await host.stop()


async def followed(client: AsyncClient, job: Job) -> tuple[list[str], list[str], list[JobState]]:
    """Follow a job to its end; return its lines, its outputs' text, and the states seen."""
    texts, shown, states = [], [], []
    async for update in client.follow(job.id):
        texts += [entry.line for entry in update.entries]
        shown += [output["data"]["text/plain"] for output in update.outputs]
        states += [update.job.state] if update.job else []
    return texts, shown, states


async def test_follow_ended_job_gives_all_of_it(scene: Scene) -> None:
    job = await scene.submit()
    await scene.run_to_end(job)
    assert await followed(scene.client, job) == (["line 0", "line 1", "line 2"], ["figure"], [JobState.SUCCEEDED])


async def test_follow_brings_a_clear_that_waits_for_the_next_output(scene: Scene) -> None:
    job = await scene.submit()
    await scene.lease()
    clear = {"output_type": "clear_output", "wait": True}
    await scene.say(JobStarted(job.id), JobDisplayed(job.id, [OUTPUT, clear]), JobCompleted(job.id))
    outputs = [output async for update in scene.client.follow(job.id) for output in update.outputs]
    assert outputs == [OUTPUT, clear]
    assert await scene.client.outputs(job.id) == [OUTPUT]


@pytest.mark.parametrize("at", [1, 2])
async def test_follow_job_that_ends_while_it_is_looked_at_loses_nothing(
    scene: Scene, at: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The job ends between an event and the look at the job that the event causes."""
    job = await scene.submit()
    look, looks = following.get_job, 0

    async def get_job(transport: Transport, job_id: str) -> Job:
        nonlocal looks
        looks += 1
        if looks == at:
            if at == 2:
                await scene.say(
                    JobStarted(job.id),
                    JobLogged(job.id, lines(3)),
                    JobDisplayed(job.id, [OUTPUT]),
                    JobCompleted(job.id),
                )
            else:
                await scene.run_to_end(job)
        found = await look(transport, job_id)
        if looks == 1 and at == 2:
            await scene.lease()
        return found

    monkeypatch.setattr(following, "get_job", get_job)
    texts, shown, states = await followed(scene.client, job)
    assert texts == ["line 0", "line 1", "line 2"]
    assert shown == ["figure"]
    assert states[-1] is JobState.SUCCEEDED
    assert states.count(JobState.SUCCEEDED) == 1


async def test_follow_goes_on_when_the_server_forgot_the_past(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    """What happened between the look at the job and the opening of the socket is dropped from the store."""
    job = await scene.submit()
    await scene.lease()
    await scene.say(JobStarted(job.id), JobLogged(job.id, lines(2)), JobDisplayed(job.id, [OUTPUT]))
    texts, outputs, states = [], [], []
    async for update in scene.client.follow(job.id):
        texts += [entry.line for entry in update.entries]
        outputs += update.outputs
        states += [update.job.state] if update.job else []
        if update.job and len(states) == 1:
            await scene.say(JobLogged(job.id, lines(2, 2)), JobDisplayed(job.id, [OUTPUT]))
            monkeypatch.setattr(scene.queue._bus.past, "oldest", lambda: scene.queue.event_seq)
        elif (
            "line 3" in texts and len(outputs) == 1
        ):  # the outputs are looked at behind this, and the socket has it too
            await scene.say(JobDisplayed(job.id, [OUTPUT]))
            monkeypatch.undo()
        elif update.job and len(states) == 2:
            await scene.say(JobLogged(job.id, lines(2, 4)), JobCompleted(job.id))
            states.append(JobState.PENDING)  # a mark: this was reached once
    assert texts == [f"line {number}" for number in range(6)]
    assert outputs == [OUTPUT, {"output_type": "clear_output", "wait": True}, OUTPUT, OUTPUT, OUTPUT]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.PENDING, JobState.SUCCEEDED]


async def test_follow_takes_no_notice_of_lagging(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subscription, "LIVE_EVENTS", 2)
    job = await scene.submit()
    await scene.lease()
    texts, states = [], []
    async for update in scene.client.follow(job.id):
        texts += [entry.line for entry in update.entries]
        states += [update.job.state] if update.job else []
        if len(states) == 1 and not texts:
            await scene.say(JobStarted(job.id), JobLogged(job.id, lines(1)))  # now the socket is open
        elif len(texts) == 1:
            texts.append("")
            number = scene.number
            later = [
                JobLogged(job.id, lines(1, i), attempt=1, after=number + i - 1, seq=number + i) for i in range(1, 9)
            ]
            await asyncio.gather(*(scene.queue.take_events("w", EventBatch([event])) for event in later))
            scene.number += 8
            await scene.say(JobCompleted(job.id))
    assert texts == ["line 0", "", *(f"line {number}" for number in range(1, 9))]
    assert states == [JobState.RUNNING, JobState.RUNNING, JobState.SUCCEEDED]
    assert scene.queue.measures().subscriber_lags == 1


async def test_follow_from_a_line_on(scene: Scene) -> None:
    job = await scene.submit()
    await scene.run_to_end(job)
    got = [entry.seq async for update in scene.client.follow(job.id, from_seq=2) for entry in update.entries]
    assert got == [2]


async def test_wait_returns_the_ended_job(scene: Scene) -> None:
    job = await scene.submit()
    await scene.run_to_end(job)
    assert (await scene.client.wait(job.id)).state is JobState.SUCCEEDED


async def test_unknown_job_is_job_not_found(scene: Scene) -> None:
    for job_id in ("no id at all", "01936b1e-0000-7000-8000-000000000000"):
        with pytest.raises(JobNotFound, match="There is no job"):
            await scene.client.get(job_id)


async def test_wrong_token_and_absent_server_are_said(scene: Scene) -> None:
    endpoint = await scene.client.transport.endpoint()
    stranger = AsyncClient(locator(endpoint.url, "wrong"))
    with pytest.raises(Unauthorized):
        await stranger.check()
    nobody = AsyncClient(locator("http://127.0.0.1:9/", ""))
    with pytest.raises(ServerUnreachable, match=r"No zbrain server answers at http://127.0.0.1:9/"):
        await nobody.check()
    await stranger.close()
    await nobody.close()


async def test_submit_whose_answer_was_lost_is_sent_again_and_submits_once(scene: Scene, monkeypatch) -> None:
    specs = [JobSpec(cmd=["true"]), JobSpec(cmd=["false"])]
    send, sent = httpx.AsyncClient.request, []

    async def lose_first_answer(client, *args, **kwargs):
        answer = await send(client, *args, **kwargs)
        sent.append(answer.status_code)
        if len(sent) == 1:
            raise httpx.ReadError("the connection broke")
        return answer

    monkeypatch.setattr(httpx.AsyncClient, "request", lose_first_answer)
    there = await scene.client.transport.endpoint()
    client = AsyncClient(lambda: Endpoint(there.url, there.token, "owner file"))
    jobs = await client.submit(specs)
    await client.close()
    assert sent == [201, 200]
    assert [job.id for job in await scene.queue.list()] == [job.id for job in reversed(jobs)]


async def test_follow_from_before_the_job_ran_gives_lines_and_outputs_in_one_order(scene: Scene) -> None:
    job = await scene.submit()
    await scene.lease()
    await scene.say(
        JobStarted(job.id),
        JobLogged(job.id, lines(1)),
        JobDisplayed(job.id, [OUTPUT]),
        JobDisplayed(job.id, [{"output_type": "clear_output", "wait": False}]),
        JobLogged(job.id, lines(1)),
        JobDisplayed(job.id, [OUTPUT]),
        JobCompleted(job.id),
    )
    updates = [update async for update in scene.client.follow(job.id, after=job.event_seq)]
    told = ["line" if update.entries else update.outputs[0]["output_type"] for update in updates if update.job is None]
    assert told == ["line", "display_data", "clear_output", "line", "display_data"]
    assert updates[-1].job is not None and updates[-1].job.state is JobState.SUCCEEDED
