"""What a caller may send that does not hold: refused by name, in the one shape, never a 500, nothing half stored."""

from __future__ import annotations

import asyncio
import itertools
import json
import types
import typing
from collections.abc import AsyncIterator
from typing import Any

import httpx
import msgspec
import pytest

from zbrain_nb.model.checks import MAX_DEPTH
from zbrain_nb.model.datadir import DataDir, Owner
from zbrain_nb.model.events import AnyWorkerEvent
from zbrain_nb.model.job import JobSpec, Resources
from zbrain_nb.model.protocol import AttemptRef, EventBatch, HeartbeatRequest, LeaseRequest, WorkerInfo
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.handlers.base import MAX_BODY_BYTES
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
NOBODY = "01936b1e-0000-7000-8000-000000000000"
MIB = 1 << 20

#: One JSON value of each kind, and the Python type that msgspec reads it as.
SAMPLES: list[tuple[type, Any]] = [
    (type(None), None),
    (bool, True),
    (int, 7),
    (float, 0.5),
    (str, "text"),
    (list, [[1]]),
    (dict, {"a": {"b": 1}}),
]


def refused(answer: httpx.Response, *statuses: int) -> dict[str, Any]:
    """Check that an answer refuses with one of `statuses`, in the one shape; return the error."""
    assert answer.status_code in statuses, (answer.status_code, answer.text[:300])
    error: dict[str, Any] = answer.json()["error"]
    assert set(error) >= {"code", "message", "hint"}
    assert error["message"].endswith("."), error["message"]
    return error


# One host for all: that it still serves after each of these is what they are about.


@pytest.fixture(scope="module")
async def owner(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Owner]:
    data = DataDir(tmp_path_factory.mktemp("host") / "data")
    host = Host(data, Settings(data=str(data.root), worker_mode="none"))
    yield await host.start()
    await host.stop()


@pytest.fixture(scope="module")
async def shared(owner: Owner) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(
        base_url=f"{owner.url}zbrain/api/",
        headers={"Authorization": f"token {owner.token}"},
        trust_env=False,
        timeout=60,
    ) as client:
        yield client


@pytest.fixture
async def api(shared: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The client; what the test left waiting is canceled behind it."""
    yield shared
    for job in (await shared.get("jobs?state=pending")).json()["jobs"]:
        assert (await shared.post(f"jobs/{job['id']}/cancel")).status_code == 200


@pytest.fixture
async def untouched(api: httpx.AsyncClient) -> AsyncIterator[httpx.AsyncClient]:
    """The client, of a host that has to keep nothing of what the test sends, and to serve on."""

    async def newest() -> list[str]:
        return [job["id"] for job in (await api.get("jobs?limit=1")).json()["jobs"]]

    before = await newest()
    yield api
    assert await newest() == before
    taken = await api.post("jobs", json={"cmd": ["true"]})
    assert taken.status_code == 201
    assert await newest() == [taken.json()["id"]]


def kinds_of(annotation: Any) -> set[type]:
    """Return the kinds of JSON values that an annotation takes."""
    if annotation is Any:
        return {kind for kind, _ in SAMPLES}
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return set().union(*map(kinds_of, typing.get_args(annotation)))
    kind = typing.get_origin(annotation) or annotation
    if kind is float:
        return {float, int}
    if isinstance(kind, type) and issubclass(kind, msgspec.Struct):
        return {dict}
    return {tuple: list}.get(kind, kind) and {list if kind is tuple else str if issubclass(kind, str) else kind}


def wrong_values(struct: type[msgspec.Struct]) -> list[Any]:
    """Return each field of a struct with values, one of each kind, that it does not take."""
    found = []
    for field in msgspec.structs.fields(struct):
        kinds = kinds_of(field.type)
        wrong = [value for kind, value in SAMPLES if kind not in kinds]
        if wrong:
            found.append(pytest.param(field.encode_name, wrong, id=field.encode_name))
    return found


# Job specs


@pytest.mark.parametrize(("field", "values"), wrong_values(JobSpec))
async def test_spec_field_of_a_wrong_type_is_named(untouched: httpx.AsyncClient, field: str, values: list[Any]) -> None:
    other = {"code": "1"} if field == "cmd" else {"cmd": ["true"]}
    for value in values:
        error = refused(await untouched.post("jobs", json={**other, field: value}), 422)
        assert error["field"].partition("[")[0].partition(".")[0] == field


@pytest.mark.parametrize(("field", "values"), wrong_values(Resources))
async def test_spec_resource_of_a_wrong_type_is_named(
    untouched: httpx.AsyncClient, field: str, values: list[Any]
) -> None:
    for value in values:
        error = refused(await untouched.post("jobs", json={"cmd": ["true"], "resources": {field: value}}), 422)
        assert error["field"] == f"resources.{field}"


def texts_of(value: str) -> list[Any]:
    """Return a spec for every place where it takes text, with `value` in it, and the field that it stands in."""
    found = []
    for field in msgspec.structs.fields(JobSpec):
        kinds = kinds_of(field.type)
        if field.name == "input":
            continue  # any JSON
        if str in kinds:
            found.append(pytest.param(field.name, value, id=field.name))
        if list in kinds:
            found.append(pytest.param(field.name, [value], id=f"{field.name}[]"))
        if dict in kinds and field.name != "resources":
            found.append(pytest.param(field.name, {"a": value}, id=f"{field.name}.value"))
            found.append(pytest.param(field.name, {value: "a"}, id=f"{field.name}.name"))
    return found


def spec_with(field: str, value: Any) -> dict[str, Any]:
    return {field: value} if field in ("cmd", "code", "function") else {"cmd": ["true"], field: value}


@pytest.mark.parametrize(("field", "value"), texts_of("a\0b"))
async def test_text_with_a_nul_is_refused_by_its_field(untouched: httpx.AsyncClient, field: str, value: Any) -> None:
    error = refused(await untouched.post("jobs", json=spec_with(field, value)), 422)
    assert error["field"].partition("[")[0].partition(".")[0] == field


@pytest.mark.parametrize(("field", "value"), texts_of("x" * (9 * MIB)))
async def test_huge_text_is_refused_by_its_field(untouched: httpx.AsyncClient, field: str, value: Any) -> None:
    error = refused(await untouched.post("jobs", json=spec_with(field, value)), 422)
    assert error["field"].partition("[")[0].partition(".")[0] == field
    assert len(error["message"]) < 500, "what was wrong is said, not repeated"


@pytest.mark.parametrize(("field", "value"), texts_of("\ud800"))
async def test_lone_surrogate_is_no_json(untouched: httpx.AsyncClient, field: str, value: Any) -> None:
    body = json.dumps(spec_with(field, value)).encode()
    assert b"\\ud800" in body
    refused(await untouched.post("jobs", content=body), 400, 422)


@pytest.mark.parametrize("field", ["timeout_secs", "max_retries", "priority"])
@pytest.mark.parametrize("number", ["-1000001", "1e300", "1e400", "9" * 400, "99999999999999999999999", "-0.5"])
async def test_number_out_of_bounds_is_refused(untouched: httpx.AsyncClient, field: str, number: str) -> None:
    body = f'{{"cmd":["true"],"{field}":{number}}}'
    error = refused(await untouched.post("jobs", content=body), 422)
    assert field in error.get("field", "") or number == "1e400"


@pytest.mark.parametrize("word", ["NaN", "Infinity", "-Infinity"])
async def test_number_that_json_does_not_know_is_malformed(untouched: httpx.AsyncClient, word: str) -> None:
    for field in ("timeout_secs", "priority", "input"):
        refused(await untouched.post("jobs", content=f'{{"cmd":["true"],"{field}":{word}}}'), 400)


@pytest.mark.parametrize("field", ["env", "inputs", "tags"])
async def test_mapping_of_40_000_entries_is_refused(untouched: httpx.AsyncClient, field: str) -> None:
    entries = {f"k{i}": "a" * 64 for i in range(40_000)}
    assert refused(await untouched.post("jobs", json={"cmd": ["true"], field: entries}), 422)["field"] == field


@pytest.mark.parametrize("field", ["cmd", "after", "artifacts", "keep", "secrets"])
async def test_list_of_40_000_entries_is_refused(untouched: httpx.AsyncClient, field: str) -> None:
    answer = await untouched.post("jobs", json=spec_with(field, [NOBODY] * 40_000))
    assert refused(answer, 422)["field"] == field


async def test_unknown_field_is_named(untouched: httpx.AsyncClient) -> None:
    assert refused(await untouched.post("jobs", json={"cmd": ["true"], "retrys": 3}), 422)["field"] == "retrys"
    nested = {"cmd": ["true"], "resources": {"ram": 3}}
    assert refused(await untouched.post("jobs", json=nested), 422)["field"] == "resources.ram"


@pytest.mark.parametrize("worker", [":image", "a\nb", "\x7f", ""])
async def test_worker_without_a_kind_is_refused(untouched: httpx.AsyncClient, worker: str) -> None:
    assert refused(await untouched.post("jobs", json={"cmd": ["true"], "worker": worker}), 422)["field"] == "worker"


@pytest.mark.parametrize("depth", [MAX_DEPTH + 1, 900, 985, 10_000])
@pytest.mark.parametrize(("opening", "closing"), [("[", "]"), ('{"a":', "}")])
async def test_input_that_nests_too_deep_is_refused(
    untouched: httpx.AsyncClient, depth: int, opening: str, closing: str
) -> None:
    """One that could be read but not written again would block every list that it stands in."""
    body = f'{{"cmd":["true"],"input":{opening * depth}1{closing * depth}}}'
    error = refused(await untouched.post("jobs", content=body), 400, 422)
    assert error["code"] == "malformed" or error["field"] == "input"


async def test_input_that_nests_as_deep_as_allowed_comes_back_whole(api: httpx.AsyncClient) -> None:
    body = f'{{"cmd":["true"],"input":{"[" * MAX_DEPTH}{"]" * MAX_DEPTH}}}'
    job = (await api.post("jobs", content=body)).json()
    assert (await api.get(f"jobs/{job['id']}")).json()["spec"]["input"] == json.loads(body)["input"]


async def test_spec_of_more_than_10_mib_is_too_large(untouched: httpx.AsyncClient) -> None:
    refused(await untouched.post("jobs", json={"cmd": ["true"], "input": "x" * (10 * MIB)}), 413)
    many_small = {"cmd": ["true"], "input": list(range(3 * MIB))}
    refused(await untouched.post("jobs", json=many_small), 413)


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b'{"cmd":["true"',
        b'{"cmd":["true"]} x',
        b'{"cmd":["\xff"]}',
        b"\xff\xfe{\0}\0",
        b'\xef\xbb\xbf{"cmd":["true"]}',
        b"cmd=true",
        b"[" * 10_000,
        b'{"a":' * 10_000,
        b"\0",
    ],
)
async def test_body_that_is_no_json_is_malformed(untouched: httpx.AsyncClient, body: bytes) -> None:
    refused(await untouched.post("jobs", content=body), 400)
    refused(await untouched.post("workers", content=body), 400, 422)


@pytest.mark.parametrize("body", ["null", "5", '"text"', "true", "[]", "[[]]", "[null]", "{}", "[{}]"])
async def test_body_that_is_no_spec_is_refused(untouched: httpx.AsyncClient, body: str) -> None:
    refused(await untouched.post("jobs", content=body), 422)


@pytest.mark.parametrize(
    "bad",
    [
        {"cmd": []},
        {"cmd": ["true"], "nmae": "x"},
        {"cmd": ["true"], "after": [NOBODY]},
        {"cmd": ["true"], "input": json.loads("[" * 200 + "]" * 200)},
        {"cmd": ["true"], "secrets": ["TOKEN"]},
        5,
    ],
)
async def test_batch_with_one_bad_item_names_it_and_takes_none(untouched: httpx.AsyncClient, bad: Any) -> None:
    good = {"cmd": ["true"]}
    error = refused(await untouched.post("jobs", json=[good] * 3 + [bad] + [good] * 3), 422)
    assert error.get("index") == 3 or "Spec 3" in error["message"]


async def test_key_that_does_not_hold_is_refused_from_the_header_too(untouched: httpx.AsyncClient) -> None:
    for key in ("k" * 201, "k" * 10_000):
        answer = await untouched.post("jobs", json={"cmd": ["true"]}, headers={"Idempotency-Key": key})
        assert refused(answer, 422)["field"] == "idempotency_key"


# Queries


@pytest.mark.parametrize(
    "query",
    [
        *(f"limit={value}" for value in ("0", "-1", "1001", "x", "1.5", "1e2", "1_0", "%2B5", "%D9%A3", "9" * 5_000)),
        *(f"state={value}" for value in ("odd", "PENDING", "x" * 10_000)),
        *(f"cursor={value}" for value in ("x", NOBODY[:-1], NOBODY.upper(), "x" * 10_000)),
        *(f"{name}=%FF" for name in ("state", "org", "name", "q", "limit", "cursor")),
    ],
)
async def test_list_query_that_does_not_hold_is_malformed(untouched: httpx.AsyncClient, query: str) -> None:
    assert len(refused(await untouched.get(f"jobs?{query}"), 400)["message"]) < 300


@pytest.mark.parametrize("name", ["org", "name", "q"])
@pytest.mark.parametrize("value", ["a%00b", "%25", "'", "_", "x" * 10_000, "%F0%9F%92%A9", "%E2%80%AE"])
async def test_list_query_of_odd_text_finds_nothing(untouched: httpx.AsyncClient, name: str, value: str) -> None:
    found = (await untouched.get(f"jobs?{name}={value}")).json()
    assert (found["jobs"], found["next_cursor"]) == ([], None)


@pytest.mark.parametrize("query", ["from_seq=-1", "from_seq=x", "from_seq=1e3", "limit=0", "limit=10001", "stream=odd"])
async def test_log_query_that_does_not_hold_is_malformed(api: httpx.AsyncClient, query: str) -> None:
    job = (await api.post("jobs", json={"cmd": ["true"]})).json()
    refused(await api.get(f"jobs/{job['id']}/logs?{query}"), 400)
    assert (await api.get(f"jobs/{job['id']}/logs?from_seq={2**53}")).json()["entries"] == []


@pytest.mark.parametrize("query", ["after=x", "after=-5", "after=1e3", "topics=jobs/x", "topics=all", "topics=%FF"])
async def test_events_query_that_does_not_hold_is_malformed(untouched: httpx.AsyncClient, query: str) -> None:
    upgrade = {
        "Connection": "Upgrade",
        "Upgrade": "websocket",
        "Sec-WebSocket-Key": "dGhlIHNhbXBsZSBub25jZQ==",
        "Sec-WebSocket-Version": "13",
    }
    refused(await untouched.get(f"events?{query}", headers=upgrade), 400)


# Addresses and methods


@pytest.mark.parametrize(
    "name", ["%2e%2e%2f", "..%2f..%2fetc%2fpasswd", "%00", "a%00", "x" * 5_000, "%FF", "/etc/passwd"]
)
@pytest.mark.parametrize("room", ["artifacts", "variables", "inputs"])
async def test_name_that_leads_elsewhere_finds_nothing(api: httpx.AsyncClient, room: str, name: str) -> None:
    job = (await api.post("jobs", json={"cmd": ["true"]})).json()
    refused(await api.get(f"jobs/{job['id']}/{room}/{name}"), 400, 404)


@pytest.mark.parametrize("job_id", ["-" * 36, "0" * 36, NOBODY.upper(), "%30" * 36, "x", "x" * 5_000, "%00"])
async def test_id_of_no_job_is_404(untouched: httpx.AsyncClient, job_id: str) -> None:
    for path in ("", "/logs", "/outputs", "/result", "/artifacts"):
        refused(await untouched.get(f"jobs/{job_id}{path}"), 404)
    for act in ("cancel", "retry"):
        refused(await untouched.post(f"jobs/{job_id}/{act}"), 404)


@pytest.mark.parametrize(
    ("method", "path", "allowed"),
    [
        ("DELETE", "jobs", {"GET", "POST"}),
        ("PUT", f"jobs/{NOBODY}", {"GET"}),
        ("GET", f"jobs/{NOBODY}/cancel", {"POST"}),
        ("POST", f"jobs/{NOBODY}/logs", {"GET"}),
        ("POST", f"jobs/{NOBODY}/artifacts/x", {"GET", "HEAD"}),
        ("GET", "blobs/" + "a" * 64, {"HEAD", "PUT"}),
        ("GET", "workers/w1/leases", {"POST"}),
        ("POST", "events", {"GET"}),
        ("PATCH", "health", {"GET"}),
    ],
)
async def test_method_that_a_route_does_not_take_is_405_naming_those_it_takes(
    untouched: httpx.AsyncClient, method: str, path: str, allowed: set[str]
) -> None:
    answer = await untouched.request(method, path)
    refused(answer, 405)
    assert set(answer.headers["Allow"].split(", ")) == allowed


async def test_body_where_none_is_wanted_is_not_read(api: httpx.AsyncClient) -> None:
    job = (await api.post("jobs", json={"cmd": ["true"]})).json()
    for body in (b"[", b"\xff", b"x" * MIB):
        assert (await api.post(f"jobs/{job['id']}/cancel", content=body)).json()["result"] == "canceled"


# Bodies that come in chunks


async def chunks(count: int, chunk: bytes) -> AsyncIterator[bytes]:
    for _ in range(count):
        yield chunk


async def test_body_in_chunks_is_taken_like_any_other(api: httpx.AsyncClient) -> None:
    answer = await api.post("jobs", content=chunks(1, b'{"cmd": ["true"], "name": "in chunks"}'))
    assert (answer.status_code, answer.json()["name"]) == (201, "in chunks")


@pytest.mark.parametrize("path", ["jobs", "workers", "workers/w1/events", "nothing", "events"])
async def test_body_in_chunks_over_the_limit_is_413(untouched: httpx.AsyncClient, owner: Owner, path: str) -> None:
    """The sender goes on until it hears that it may stop; then the answer has to be there, whole."""
    head = (
        f"POST /zbrain/api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: token {owner.token}\r\n"
        "Connection: close\r\nTransfer-Encoding: chunked\r\n\r\n"
    )
    answer = await shout(owner, head.encode(), b"%x\r\n%s\r\n" % (MIB, b" " * MIB), MAX_BODY_BYTES // MIB + 1)
    top, _, body = answer.partition(b"\r\n\r\n")
    status = 404 if path == "nothing" else 413
    assert top.split()[1] == str(status).encode(), answer[:200]
    assert json.loads(body)["error"]["message"].endswith(".")


async def test_body_in_chunks_of_a_stranger_is_401(untouched: httpx.AsyncClient, owner: Owner) -> None:
    async with httpx.AsyncClient(base_url=f"{owner.url}zbrain/api/", trust_env=False) as stranger:
        for method, path in (("POST", "jobs"), ("POST", f"jobs/{NOBODY}/cancel"), ("POST", "nothing"), ("PUT", "jobs")):
            refused(await stranger.request(method, path, content=chunks(1, b'{"cmd": ["true"]}')), 401)


async def test_body_in_chunks_on_a_route_that_takes_none_is_405(untouched: httpx.AsyncClient) -> None:
    answer = await untouched.post(f"jobs/{NOBODY}/logs", content=chunks(3, b"x"))
    refused(answer, 405)
    assert answer.headers["Allow"] == "GET"


async def shout(owner: Owner, head: bytes, piece: bytes, count: int) -> bytes:
    """Send a head, `count` pieces and the end, as far as the host listens; return its answer."""
    address = httpx.URL(owner.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    writer.write(head)
    try:
        for _ in range(count):
            writer.write(piece)
            await writer.drain()
        writer.write(b"0\r\n\r\n")
    except ConnectionError:
        pass  # it has heard enough
    answer = await asyncio.wait_for(reader.read(), 30)
    writer.close()
    return answer


# Workers


class Worker:
    """A worker that has just registered, with what it sends."""

    numbers = itertools.count(1)

    def __init__(self, api: httpx.AsyncClient) -> None:
        self.api = api
        self.id = f"worker-{next(self.numbers)}"

    async def post(self, act: str, **body: Any) -> httpx.Response:
        return await self.api.post(f"workers/{self.id}/{act}", **body)

    async def lease(self) -> dict[str, Any]:
        """Return a fresh job that it runs now."""
        submitted = (await self.api.post("jobs", json={"cmd": ["true"]})).json()
        answer = await self.post("leases", json={"request_id": "any", "wait_secs": 5})
        job: dict[str, Any] = answer.json()["leases"][0]["job"]
        assert (job["id"], job["attempt"]) == (submitted["id"], 1)
        return job


@pytest.fixture
async def worker(api: httpx.AsyncClient) -> Worker:
    worker = Worker(api)
    assert (await api.post("workers", json={"id": worker.id})).status_code == 201
    return worker


@pytest.mark.parametrize(("field", "values"), wrong_values(WorkerInfo))
async def test_registration_field_of_a_wrong_type_is_named(
    untouched: httpx.AsyncClient, field: str, values: list[Any]
) -> None:
    for value in values:
        error = refused(await untouched.post("workers", json={"id": "never"} | {field: value}), 422)
        assert error["field"].partition(".")[0] == field
    assert "never" not in (await untouched.get("workers")).text


@pytest.mark.parametrize(("field", "values"), wrong_values(LeaseRequest))
async def test_lease_request_field_of_a_wrong_type_is_named(worker: Worker, field: str, values: list[Any]) -> None:
    for value in values:
        request = {"request_id": "r", "wait_secs": 0} | {field: value}
        error = refused(await worker.post("leases", json=request), 422)
        assert error["field"].partition(".")[0].partition("[")[0] == field


@pytest.mark.parametrize(("field", "values"), wrong_values(HeartbeatRequest))
async def test_heartbeat_field_of_a_wrong_type_is_named(worker: Worker, field: str, values: list[Any]) -> None:
    for value in values:
        error = refused(await worker.post("heartbeat", json={field: value}), 422)
        assert error["field"].partition("[")[0] == field


@pytest.mark.parametrize(("field", "values"), wrong_values(AttemptRef))
async def test_heartbeat_attempt_of_a_wrong_type_is_named(worker: Worker, field: str, values: list[Any]) -> None:
    for value in values:
        ref = {"job_id": NOBODY, "attempt": 1} | {field: value}
        error = refused(await worker.post("heartbeat", json={"attempts": [ref]}), 422)
        assert error["field"] == f"attempts[0].{field}"


@pytest.mark.parametrize(("field", "values"), wrong_values(EventBatch))
async def test_batch_of_events_of_a_wrong_type_is_refused(worker: Worker, field: str, values: list[Any]) -> None:
    for value in values:
        refused(await worker.post("events", json={field: value}), 422)


EVENT_FIELDS = [
    pytest.param(kind.__struct_config__.tag, *case.values, id=f"{kind.__name__}.{case.id}")
    for kind in typing.get_args(AnyWorkerEvent)
    for case in wrong_values(kind)
]


@pytest.mark.parametrize(("kind", "field", "values"), EVENT_FIELDS)
async def test_event_field_of_a_wrong_type_is_refused_and_the_attempt_runs_on(
    worker: Worker, kind: str, field: str, values: list[Any]
) -> None:
    job = await worker.lease()
    numbers = {"job_id": job["id"], "attempt": 1, "after": 0, "seq": 1}
    for value in values:
        event = {"type": kind} | numbers | {field: value}
        error = refused(await worker.post("events", json={"events": [event]}), 422)
        assert error["field"].startswith(f"events[0].{field}")
    good = {"type": "logged", **numbers, "lines": [["stdout", 1.0, "on it goes"]]}
    assert (await worker.post("events", json={"events": [good]})).json()["results"][0]["status"] == "ok"


@pytest.mark.parametrize("field", ["output", "error"])
async def test_ending_that_nests_too_deep_is_invalid_and_the_attempt_runs_on(worker: Worker, field: str) -> None:
    job = await worker.lease()
    kind = "completed" if field == "output" else "failed"
    for depth in (MAX_DEPTH + 1, 900):
        head = f'"type":"{kind}","job_id":"{job["id"]}","attempt":1,"after":0,"seq":1'
        body = f'{{"events":[{{{head},"{field}":{"[" * depth}{"]" * depth}}}]}}'
        (result,) = (await worker.post("events", content=body)).json()["results"]
        assert (result["status"], result["high"]) == ("invalid", 0)
    assert (await worker.api.get(f"jobs/{job['id']}")).json()["state"] == "running"
    assert (await worker.api.get("jobs")).status_code == 200


@pytest.mark.parametrize(
    "fields",
    [
        {"limit": -1},
        {"limit": -(10**30)},
        {"limit": 10**30},
        {"wait_secs": -1e308},
        {"kinds": ["\0"]},
        {"kinds": []},
        {"kinds": ["k"] * 100_000},
        {"request_id": ""},
        {"request_id": "x" * MIB},
    ],
)
async def test_lease_request_of_odd_values_gets_nothing_and_the_worker_goes_on(
    worker: Worker, fields: dict[str, Any]
) -> None:
    answer = await worker.post("leases", json={"request_id": "r", "wait_secs": 0} | fields)
    assert answer.status_code == 422 or answer.json() == {"leases": [], "cancels": [], "results": []}
    assert await worker.lease()


@pytest.mark.parametrize(
    "body",
    [
        {"free": -1},
        {"free": 10**30},
        {"attempts": [{"job_id": "\0", "attempt": -1}]},
        {"attempts": [{"job_id": "x" * MIB, "attempt": 10**30, "high": -5}]},
    ],
)
async def test_heartbeat_of_odd_values_renews_nothing(worker: Worker, body: dict[str, Any]) -> None:
    answer = await worker.post("heartbeat", json=body)
    assert answer.status_code == 422 or {v["verdict"] for v in answer.json()["verdicts"]} <= {"stale"}
    assert (await worker.api.get("workers")).status_code == 200


@pytest.mark.parametrize("worker_id", ["%00", "a%2Fb", "a b", "x" * 201, "é"])
@pytest.mark.parametrize("act", ["leases", "heartbeat", "events"])
async def test_worker_that_no_address_can_name_is_404(untouched: httpx.AsyncClient, worker_id: str, act: str) -> None:
    refused(await untouched.post(f"workers/{worker_id}/{act}", json={}), 404)
