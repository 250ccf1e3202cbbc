"""Requests of workers recorded and sent again: after the attempt, by another worker, with a stolen token."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import httpx
import msgspec
import pytest

from tests.server.tokens import make, with_token
from zbrain_nb.model.events import JobFailed, JobLogged, JobStarted, LogStream
from zbrain_nb.model.protocol import AttemptRef, EventBatch, HeartbeatRequest, LeaseRequest, WorkerInfo
from zbrain_nb.model.sealing import SealingKey, seal
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
VALUE = "a-secret-of-the-job"


@dataclass
class Recorder:
    """A worker whose requests are recorded."""

    api: httpx.AsyncClient
    id: str
    token: str
    token_id: str

    def __post_init__(self) -> None:
        self.recorded: list[tuple[str, bytes]] = []
        self.key = SealingKey()

    async def send(self, path: str, body: msgspec.Struct) -> httpx.Response:
        content = msgspec.json.encode(body)
        self.recorded.append((path, content))
        return await self.api.post(path, content=content, headers=with_token(self.token))

    async def register(self) -> None:
        assert (await self.send("workers", WorkerInfo(id=self.id))).status_code == 201

    async def lease(self) -> dict[str, Any]:
        request = LeaseRequest(request_id=f"r-{self.id}", wait_secs=5.0, seal_key=self.key.public)
        (lease,) = (await self.send(f"workers/{self.id}/leases", request)).json()["leases"]
        return dict(lease)

    async def beat(self, job_id: str, attempt: int) -> str:
        answer = await self.send(f"workers/{self.id}/heartbeat", HeartbeatRequest([AttemptRef(job_id, attempt)]))
        return str(answer.json()["verdicts"][0]["verdict"])

    async def tell(self, *events: Any) -> int:
        return (await self.send(f"workers/{self.id}/events", EventBatch(list(events)))).status_code

    async def replay(self, token: str | None) -> list[httpx.Response]:
        headers = {"Authorization": ""} if token is None else with_token(token)
        return [await self.api.post(path, content=content, headers=headers) for path, content in self.recorded]


async def recorder(api: httpx.AsyncClient, name: str) -> Recorder:
    # of an owner each: two tokens of one owner for the same jobs speak for the same worker
    made = await make(api, kind="worker", owner=f"owner of {name}", jobs_of="*")
    worker = Recorder(api, name, made["secret"], made["id"])
    await worker.register()
    return worker


def numbered(event: Any, job_id: str, attempt: int, seq: int) -> Any:
    return msgspec.structs.replace(event, job_id=job_id, attempt=attempt, after=seq - 1, seq=seq)


@pytest.fixture
async def spec(api: httpx.AsyncClient) -> tuple[dict[str, Any], dict[str, str]]:
    key = (await api.get("health")).json()["secrets_key"]
    spec = {"cmd": ["true"], "secrets": ["CALM"], "max_retries": 1}
    return spec, {"ZBrain-Secrets": seal(key, {"CALM": VALUE})}


async def look(api: httpx.AsyncClient, job_id: str) -> dict[str, Any]:
    job = (await api.get(f"jobs/{job_id}")).json()
    return {name: job[name] for name in ("state", "attempt", "worker_id", "failures", "log_lines", "event_seq")}


async def test_recorded_requests_do_nothing_after_their_attempt_and_for_others(
    host: Host, api: httpx.AsyncClient, spec: tuple[dict[str, Any], dict[str, str]]
) -> None:
    first, second = await recorder(api, "first"), await recorder(api, "second")
    job_id = (await api.post("jobs", json=spec[0], headers=spec[1])).json()["id"]
    lease = await first.lease()
    assert first.key.open(lease["sealed"]) == {"CALM": VALUE}
    assert VALUE not in msgspec.json.encode(lease).decode()
    started = numbered(JobStarted("", worker_id="first"), job_id, 1, 1)
    logged = numbered(JobLogged("", lines=[(LogStream.STDOUT, 1.0, "once")]), job_id, 1, 2)
    assert await first.tell(started, logged) == 200
    assert await first.beat(job_id, 1) == "ok"
    running = await look(api, job_id)

    # while it runs: by others nothing, by the worker itself nothing new
    for token, status in ((second.token, 404), (lease["token"], 403), (None, 401)):
        answers = await first.replay(token)
        assert {answer.status_code for answer in answers[1:]} == {status}
        assert answers[0].status_code == {404: 403}.get(status, status)  # to register under its id
    again = await first.replay(first.token)
    assert again[1].json()["leases"][0]["job"]["attempt"] == 1
    assert await look(api, job_id) == running

    # another worker has the next attempt: what the first one said before is stale, and gets neither token nor secret
    assert await first.tell(numbered(JobFailed("", reason="no"), job_id, 1, 3)) == 200
    context = host.context
    assert context is not None
    following = await second.lease()
    assert (following["job"]["id"], following["job"]["attempt"]) == (job_id, 2)
    assert second.key.open(following["sealed"]) == {"CALM": VALUE}
    running = await look(api, job_id)
    late = await first.replay(first.token)
    assert await first.tell(numbered(JobLogged("", lines=[(LogStream.STDOUT, 1.0, "late")]), job_id, 1, 4)) == 409
    assert await first.tell(numbered(JobLogged("", lines=[(LogStream.STDOUT, 1.0, "late")]), job_id, 2, 1)) == 409
    assert late[3].json()["verdicts"][0]["verdict"] == "stale"
    assert all(not old["sealed"] for old in late[1].json()["leases"])
    assert VALUE not in "".join(answer.text for answer in late)
    assert await look(api, job_id) == running
    gone = await api.get(f"jobs/{job_id}", headers=with_token(lease["token"]))
    assert gone.status_code == 401
    assert (await api.get(f"jobs/{job_id}", headers=with_token(following["token"]))).status_code == 200

    # it has ended: nothing of anybody brings it back
    ended = numbered(JobFailed("", reason="no", final=True), job_id, 2, 1)
    assert await second.tell(ended) == 200
    over = await look(api, job_id)
    assert over["state"] == "failed"
    for worker in (first, second):
        for answer in await worker.replay(worker.token):
            assert answer.status_code in (200, 201, 409)
            assert "sealed" not in answer.text or '"sealed":""' in answer.text
    assert await look(api, job_id) == over
    assert (await api.get(f"jobs/{job_id}", headers=with_token(following["token"]))).status_code == 401

    # a worker's token that was stolen is revoked
    assert (await api.delete(f"tokens/{second.token_id}")).status_code == 200
    assert {answer.status_code for answer in await second.replay(second.token)} == {401}
