"""Another org's ids answer exactly like unknown ones: over all routes, with every kind of id that a route takes.

`ASKED` says for each method of each route which requests name an id. One that it does not know fails, so that no new
route is forgotten. Each request is made four times: by a stranger and by a member of the org, about what is there and
about what is not. The stranger must get twice the same, the member must not: else the request shows nothing.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
import uuid
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from websockets.asyncio.client import connect as ws_connect

from zbrain_nb import JobSpec
from zbrain_nb.model.access import Credential, Principal, Role, WorkerBinding
from zbrain_nb.model.audit import Record
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.events import JobCompleted, JobDisplayed, JobLogged, JobStarted
from zbrain_nb.model.history import TABLES
from zbrain_nb.model.job import JobArtifact, Variable
from zbrain_nb.model.protocol import EventBatch, LeaseRequest, WorkerInfo
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.tokens import TokenRequest
from zbrain_nb.server.application import OWN_ROUTES, PAGES, ROUTES
from zbrain_nb.server.handlers import events as events_handler
from zbrain_nb.server.handlers.declaration import METHODS, OpenTo, operation_of
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio

ANN = Principal(owner="ann-of-red", roles={"red-org": Role.ADMIN}, home="red-org")
BOB = Principal(owner="bob-of-blue", roles={"blue-org": Role.ADMIN}, home="blue-org")
DATA = b"the bytes of red" * 1000
WORDS = ("red-org", "ann-of-red", "red-job", "red-worker", "red-line", "red-tag")
#: What stands in no answer to a stranger but as an echo of what they asked for.
SECRETS = re.compile("|".join(WORDS))


@dataclass
class Ids:
    """One id of each kind: all of the org of ann, or all of nobody."""

    job_id: str
    ended_id: str
    worker_id: str
    org: str
    name: str
    kind: str = "local"
    artifact: str = "red-job.bin"
    tag: str = "team=red-tag"
    key: str = "red-key"
    sha256: str = field(default_factory=lambda: hashlib.sha256(DATA).hexdigest())
    verb: str = "lookup"  # of routes that name it
    cache_key: str = "0" * 64
    token_id: str = "zbp_" + "0" * 16

    def hide(self, text: str) -> str:
        """Return an answer without the ids that were asked for, and without what differs from call to call."""
        for value in (
            self.job_id,
            self.ended_id,
            self.worker_id,
            self.org,
            self.name,
            self.sha256,
            self.key,
            self.token_id,
        ):
            text = text.replace(value, "<asked>")
        text = re.sub(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}", "<id>", text)
        text = re.sub(r"\d{4}-\d\d-\d\dT[\d:.]+Z?", "<time>", text)
        return re.sub(r'"(now|event_seq|upto|seen_at|free_bytes|database_bytes|first_at)":[\d.]+', r'"\1":0', text)


UNKNOWN = Ids(
    str(uuid.uuid4()), str(uuid.uuid4()), "nobodys-worker", "no-org", "no-job", tag="team=none", sha256="0" * 64
)

Fill = Callable[[Ids], dict[str, Any]]
Parts = Callable[[Ids], tuple[str, ...]]


@dataclass(frozen=True)
class Asked:
    """A request that names ids: what of them stands in its address, and its query or JSON body.

    Attributes
    ----------
    parts : callable
        Returns what stands in the address.
    tells : bool
        Whether who sees what is asked for gets another answer than about what is unknown.
    """

    parts: Parts = lambda ids: (ids.job_id,)
    query: Fill = lambda ids: {}
    body: Fill | None = None
    tells: bool = True


def about(*names: str, **more: Any) -> Asked:
    """Return a request whose address names these ids, in order."""
    return Asked(parts=lambda ids: tuple(getattr(ids, name) for name in names), **more)


def asking(**query: str) -> Asked:
    """Return a request with a query; the values are names of ids."""
    return about(query=lambda ids: {name: getattr(ids, value) for name, value in query.items()})


def sending(fill: Fill, *names: str, **more: Any) -> Asked:
    """Return a request with a JSON body."""
    return about(*names, body=fill, **more)


def reporting(ids: Ids) -> dict[str, Any]:
    line = JobLogged(ids.job_id, attempt=1, after=3, seq=4, lines=[("stdout", 1.0, "said")])
    return {"events": [msgspec.to_builtins(line)]}


def _of_table(table: str, name: str, ids: Ids) -> dict[str, Any]:
    return {"table": table, name: ids.org if name == "org" else ids.ended_id}


def _literally(part: str, ids: Ids) -> tuple[str, ...]:
    return (part,)


BEAT = {"free": 1, "state": "live"}
#: By method and route: the requests that name ids. An empty list: nothing of anybody can be named.
ASKED: dict[tuple[str, str], list[Asked]] = {
    ("post", "jobs"): [
        sending(lambda ids: {"code": "1", "after": [ids.job_id]}),
        sending(lambda ids: {"code": "1", "org_id": ids.org}),
        sending(lambda ids: {"code": "1", "idempotency_key": ids.key}, tells=False),
        sending(lambda ids: {"code": "1", "inputs": {"x": ids.sha256}}),
    ],
    ("get", "jobs"): [
        asking(org="org"),
        asking(name="name"),
        asking(q="name"),
        asking(q="job_id"),
        asking(tag="tag"),
        asking(cursor="job_id"),
        about(),
    ],
    ("post", "jobs/{verb}"): [
        Asked(partial(_literally, verb), body=lambda ids: {"ids": [ids.job_id, ids.ended_id]})
        for verb in ("lookup", "cancel", "retry")
    ],
    ("get", "jobs/{job_id}"): [about("job_id")],
    ("post", "jobs/{job_id}/cancel"): [about("job_id"), about("ended_id")],
    ("post", "jobs/{job_id}/detach"): [about("job_id"), about("ended_id")],
    ("get", "cached/{cache_key}"): [about("cache_key", tells=False)],  # of own jobs alone
    ("post", "jobs/{job_id}/retry"): [about("ended_id"), about("job_id")],
    ("get", "jobs/{job_id}/logs"): [about("ended_id")],
    ("get", "jobs/{job_id}/outputs"): [about("ended_id")],
    ("get", "jobs/{job_id}/attempts"): [about("ended_id")],
    ("get", "jobs/{job_id}/result"): [about("ended_id")],
    ("head", "jobs/{job_id}/result"): [about("ended_id")],
    ("get", "jobs/{job_id}/artifacts"): [about("ended_id")],
    ("get", "jobs/{job_id}/artifacts/{name}"): [about("ended_id", "artifact")],
    ("head", "jobs/{job_id}/artifacts/{name}"): [about("ended_id", "artifact")],
    ("get", "jobs/{job_id}/variables/{name}"): [about("ended_id", "artifact")],
    ("head", "jobs/{job_id}/variables/{name}"): [about("ended_id", "artifact")],
    ("get", "jobs/{job_id}/inputs/{name}"): [about("job_id", "artifact")],
    ("head", "jobs/{job_id}/inputs/{name}"): [about("job_id", "artifact")],
    ("head", "blobs/{sha256}"): [about("sha256")],
    ("put", "blobs/{sha256}"): [],
    ("get", "workers"): [],
    ("post", "workers"): [],  # an id that is taken cannot be had: see the test below
    ("post", "workers/{worker_id}/leases"): [
        sending(lambda ids: {"request_id": "r", "limit": 0, "wait_secs": 0}, "worker_id"),
        sending(lambda ids: {"request_id": "s", "limit": 1, "wait_secs": 0, **reporting(ids)}, "worker_id"),
    ],
    ("post", "workers/{worker_id}/heartbeat"): [
        sending(lambda ids: {**BEAT, "attempts": [{"job_id": ids.job_id, "attempt": 1}]}, "worker_id")
    ],
    ("post", "workers/{worker_id}/events"): [sending(reporting, "worker_id")],
    ("get", "queues"): [],
    ("post", "queues/{org}/{kind}/pause"): [about("org", "kind")],
    ("post", "queues/{org}/{kind}/resume"): [about("org", "kind")],
    ("get", "orgs/{org}/limits"): [about("org")],
    ("post", "orgs/{org}/limits"): [sending(lambda ids: {"running": 4}, "org")],
    ("get", "history"): [about(query=partial(_of_table, table, name)) for table in TABLES for name in ("org", "job")],
    ("get", "overview"): [asking(org="org")],
    ("get", "events"): [],  # a socket: see the test below
    ("get", "metrics"): [],
    ("get", "tokens"): [asking(cursor="token_id"), about()],
    ("post", "tokens"): [sending(lambda ids: {"roles": {ids.org: "viewer"}})],
    ("delete", "tokens/{token_id}"): [about("token_id")],
    ("get", "audit"): [asking(org="org"), about(query=lambda ids: {"who": ANN.owner}, tells=False)],
    ("get", "whoami"): [],
    ("get", "health"): [],
    ("get", "openapi.json"): [],
    ("post", "backup"): [],
    ("post", "sessions"): [],
}


@dataclass
class World:
    """A host with what ann has, and a client for each principal."""

    host: Host
    url: str
    ids: Ids
    clients: dict[str, httpx.AsyncClient]


@asynccontextmanager
async def serving(root: Path) -> AsyncIterator[World]:
    """Serve people and workers who are told by the name that is their token."""
    data = DataDir(root / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    owner = await host.start()
    known = {principal.owner: principal for principal in (ANN, BOB)}

    async def find(secret: str) -> Principal | None:
        return known.get(secret)

    assert host.context is not None
    host.context.identity.finders.append(find)
    clients = {
        name: httpx.AsyncClient(
            base_url=f"{owner.url}zbrain/", headers={"Authorization": f"token {name}"}, trust_env=False, timeout=20
        )
        for name in known
    }
    try:
        yield World(host, owner.url, await furnish(host), clients)
    finally:
        for client in clients.values():
            await client.aclose()
        await host.stop()


async def furnish(host: Host) -> Ids:
    """Let ann have an ended job and a running one with all that jobs have, a worker, and a paused queue."""
    assert host.context is not None
    queue = host.context.queue
    digest = hashlib.sha256(DATA).hexdigest()
    upload = queue.artifacts.open_upload(digest, len(DATA), owner=ANN.owner)
    upload.write(DATA)
    upload.commit()
    await queue.grants.add(digest, ANN)
    spec = JobSpec(code="1", name="red-job", tags={"team": "red-tag"}, inputs={"red-job.bin": digest})
    keyed = msgspec.structs.replace(spec, idempotency_key="red-key")
    await queue.register_worker(WorkerInfo(id="red-worker"), scope=ANN)
    ids = []
    for number in range(2):
        ids.append(await queue.submit(keyed if number else spec, scope=ANN))
        request = LeaseRequest(request_id=f"r{number}", limit=1, wait_secs=5)
        assert len((await queue.lease("red-worker", request, scope=ANN)).leases) == 1
        job_id, numbers = ids[-1], {"attempt": 1}
        events: list[Any] = [
            JobStarted(job_id, "red-worker", after=0, seq=1, **numbers),
            JobLogged(job_id, lines=[("stdout", 1.0, "red-line")], after=1, seq=2, **numbers),
            JobDisplayed(job_id, outputs=[_output("red-line")], after=2, seq=3, **numbers),
        ]
        if number == 0:
            made = JobArtifact("red-job.bin", digest, len(DATA))
            variable = Variable("red-job.bin", "bytes", "", digest, len(DATA))
            ended = JobCompleted(job_id, artifacts=[made], result=made, variables=[variable], after=3, seq=4, **numbers)
            events.append(ended)
        answer = await queue.take_events("red-worker", EventBatch(events), scope=ANN)
        assert [result.status for result in answer.results] == ["ok"]
    await queue.pause("red-org", "local", scope=ANN)
    await queue.register_worker(WorkerInfo(id="blue-worker", kind="blue"), scope=BOB)
    tokens = []
    for by in (BOB, ANN, ANN):
        made = Record(ts=host.context.audit.now(), who=by.owner, verb="create token")
        tokens.append((await host.context.tokens.mint(TokenRequest(), by, made))[0])
    return Ids(ids[1], ids[0], "red-worker", "red-org", "red-job", token_id=tokens[2].id)


def _output(text: str) -> dict[str, Any]:
    return {"output_type": "display_data", "data": {"text/plain": text}, "metadata": {}}


@pytest.fixture(scope="module")
async def world(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[World]:
    async with serving(tmp_path_factory.mktemp("isolation")) as world:
        yield world


def cases() -> Iterator[Any]:
    """Yield every request of every method of every route."""
    for route, handler in ROUTES + OWN_ROUTES:
        for method in METHODS:
            if operation_of(handler, method) is None:
                continue
            for number, asked in enumerate(ASKED.get((method, route), ())):
                yield pytest.param(method, route, asked, id=f"{method}-{route}-{number}")


def wording(method: str, route: str, asked: Asked, ids: Ids) -> dict[str, Any]:
    """Return a request in the terms of httpx, its address below ``api/``."""
    parts = iter(asked.parts(ids))
    path = re.sub(r"{\w+}", lambda _: next(parts), route)
    body = None if asked.body is None else asked.body(ids)
    return {"method": method.upper(), "url": path, "params": asked.query(ids), "json": body}


async def ask(world: World, who: Principal, method: str, route: str, asked: Asked, ids: Ids) -> httpx.Response:
    wanted = wording(method, route, asked, ids)
    return await world.clients[who.owner].request(**wanted | {"url": f"api/{wanted['url']}"})


def told(answer: httpx.Response, ids: Ids) -> tuple[int, dict[str, str], str]:
    """Return all that an answer tells, without the ids that were asked for."""
    headers = {name: value for name, value in answer.headers.items() if name not in ("date", "content-length", "etag")}
    return answer.status_code, headers, ids.hide(answer.content.decode("latin-1"))


def test_every_method_of_every_route_says_which_ids_it_takes() -> None:
    declared = {
        (method, route) for route, handler in ROUTES + OWN_ROUTES for method in METHODS if operation_of(handler, method)
    }
    assert declared == set(ASKED)
    for (method, route), asked in ASKED.items():
        named = {"{job_id}", "{worker_id}", "{org}"} & set(re.findall(r"{\w+}", route))
        assert asked or not named, f"{method} {route} names {named}"


@pytest.mark.parametrize(("method", "route", "asked"), list(cases()))
async def test_stranger_cannot_tell_what_another_org_has_from_what_nobody_has(
    world: World, method: str, route: str, asked: Asked
) -> None:
    unknown = replace(UNKNOWN, key=uuid.uuid4().hex)
    foreign = await ask(world, BOB, method, route, asked, world.ids)
    nobodys = await ask(world, BOB, method, route, asked, unknown)
    assert told(foreign, world.ids) == told(nobodys, unknown)
    assert not SECRETS.search(world.ids.hide(foreign.text))
    if asked.tells:
        own = await ask(world, ANN, method, route, asked, world.ids)
        missing = await ask(world, ANN, method, route, asked, unknown)
        assert told(own, world.ids) != told(missing, unknown)


@pytest.mark.parametrize("route", [route for (method, route) in ASKED if method == "get" and "{" not in route])
async def test_stranger_finds_nothing_of_another_org_where_nothing_is_named(world: World, route: str) -> None:
    if route == "events":
        return
    queries = [{"table": table} for table in TABLES] if route == "history" else [{}]
    for query in queries:
        answer = await world.clients[BOB.owner].get(f"api/{route}", params=query)
        assert not SECRETS.search(answer.content.decode("latin-1"))


@pytest.mark.parametrize("pattern", [pattern for pattern, _ in PAGES])
async def test_pages_are_the_same_for_all_jobs(world: World, pattern: str) -> None:
    path = re.sub(r"\(\[0-9a-fA-F-\]\{36\}\)|\(.*\)", "{id}", pattern.strip("/?"))
    found = [
        await world.clients[BOB.owner].get(path.replace("{id}", job_id))
        for job_id in (world.ids.job_id, UNKNOWN.job_id)
    ]
    assert told(found[0], world.ids) == told(found[1], UNKNOWN)


async def test_worker_cannot_report_for_another_orgs_attempt_and_learns_nothing_of_it(world: World) -> None:
    answers = []
    for ids in (world.ids, UNKNOWN):
        client = world.clients[BOB.owner]
        events = await client.post("api/workers/blue-worker/events", json=reporting(ids))
        beat = {**BEAT, "attempts": [{"job_id": ids.job_id, "attempt": 1}]}
        heartbeat = await client.post("api/workers/blue-worker/heartbeat", json=beat)
        lease = {"request_id": uuid.uuid4().hex, "limit": 1, "wait_secs": 0, **reporting(ids)}
        leases = await client.post("api/workers/blue-worker/leases", json=lease)
        answers.append([told(answer, ids) for answer in (events, heartbeat, leases)])
    assert answers[0] == answers[1]
    assert [status for status, _, _ in answers[0]] == [409, 200, 200]


async def test_worker_id_of_another_cannot_be_registered(world: World) -> None:
    answer = await world.clients[BOB.owner].post("api/workers", json={"id": "red-worker"})
    assert answer.status_code == 403
    assert (await world.clients[ANN.owner].post("api/workers", json={"id": "red-worker"})).status_code == 201


@pytest.mark.parametrize("topics", ["jobs/{job_id}", "orgs/{org}", "jobs/{job_id},orgs/{org}", ""])
async def test_socket_tells_a_stranger_nothing_of_another_orgs_topics(
    world: World, topics: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(events_handler, "QUIET_SECS", 0.05)
    kinds: dict[str, str] = {}
    for who in (ANN, BOB):
        query = topics.format(job_id=world.ids.job_id, org=world.ids.org)
        url = f"ws{world.url.removeprefix('http')}zbrain/api/events?after=0&topics={query}"
        headers = {"Authorization": f"token {who.owner}"}
        async with ws_connect(url, additional_headers=headers, compression=None, proxy=None) as socket:
            frames = []
            while (frame := str(await asyncio.wait_for(socket.recv(), 20))) != "[]":
                frames.append(frame)
            kinds[who.owner] = "".join(frames)
    assert SECRETS.search(kinds[ANN.owner])
    assert not SECRETS.search(kinds[BOB.owner])


def principals() -> dict[Credential, Principal]:
    """Return one of each kind, of people who exist nowhere else."""
    worker = Principal(
        owner="wanda", roles={}, home="w", credential=Credential.WORKER, worker=WorkerBinding(orgs=frozenset({"w"}))
    )
    job = Principal(owner="jo", roles={"w": Role.SUBMITTER}, home="w", credential=Credential.JOB, job_id="x", attempt=1)
    return {Credential.WORKER: worker, Credential.JOB: job, Credential.PERSON: replace_owner(job)}


def replace_owner(job: Principal) -> Principal:
    return msgspec.structs.replace(job, owner="pat", credential=Credential.PERSON)


@pytest.mark.parametrize("credential", list(Credential))
async def test_route_is_closed_to_credentials_that_it_does_not_admit(world: World, credential: Credential) -> None:
    principal = principals()[credential]

    async def find(secret: str) -> Principal | None:
        return principal if secret == f"secret of {credential}" else None

    assert world.host.context is not None
    finders = world.host.context.identity.finders
    finders.append(find)
    try:
        headers = {"Authorization": f"token secret of {credential}"}
        for (method, route), asked in ASKED.items():
            handler = dict(ROUTES + OWN_ROUTES)[route]
            declared = operation_of(handler, method)
            assert declared is not None
            if declared.open_to is OpenTo.ALL:
                continue
            assert declared.admits, f"{method} {route} admits nobody"
            path = re.sub(r"{(\w+)}", lambda part: getattr(UNKNOWN, part[1]), route)
            client = world.clients[BOB.owner]
            answer = await client.request(method.upper(), f"api/{path}", headers=headers, json={"nothing": asked == 0})
            refused = answer.status_code == 403 and (method == "head" or "does not open" in answer.text)
            assert refused == (credential not in declared.admits), f"{method} {route}: {answer.text}"
    finally:
        finders.remove(find)
