"""Bodies of requests: whose are read at all, how much of them is held, and what a submit may hold."""

from __future__ import annotations

import asyncio
import json
import tracemalloc
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from typing import Any

import httpx
import pytest

from tests.server.tokens import make, with_token
from zbrain_nb.client import parts
from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.errors import InvalidSpec, TooLarge
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.bodies import BodyRoom
from zbrain_nb.server.handlers import bodies
from zbrain_nb.server.handlers.specs import read_specs
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
MIB = 1 << 20


class Sender:
    """A connection on which a request is sent in pieces."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    async def answer(self) -> tuple[int, dict[str, object]]:
        """Return status and body of the next answer."""
        head = await asyncio.wait_for(self.reader.readuntil(b"\r\n\r\n"), 10)
        fields = dict(line.lower().split(b": ", 1) for line in head.splitlines()[1:-1])
        body = await asyncio.wait_for(self.reader.readexactly(int(fields[b"content-length"])), 10)
        return int(head.split()[1]), json.loads(body)


@asynccontextmanager
async def sending(owner: Owner, token: str, size: int, path: str = "jobs") -> AsyncIterator[Sender]:
    """Send the head of a request whose body has `size` bytes."""
    address = httpx.URL(owner.url)
    reader, writer = await asyncio.open_connection(address.host, address.port)
    head = f"POST /zbrain/api/{path} HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: token {token}\r\n"
    writer.write(f"{head}Content-Length: {size}\r\n\r\n".encode())
    try:
        yield Sender(reader, writer)
    finally:
        writer.close()
        with suppress(ConnectionError):
            await writer.wait_closed()


@pytest.fixture
def room(host: Host) -> BodyRoom:
    """Room for 5 MiB, for 3 of each sender."""
    assert host.context is not None
    host.context.bodies = room = BodyRoom(5 * MIB, 3 * MIB)
    return room


async def until(holds: Callable[[], bool]) -> None:
    async with asyncio.timeout(10):
        while not holds():
            await asyncio.sleep(0)


async def test_stranger_is_refused_before_a_long_body_is_read(owner: Owner, room: BodyRoom) -> None:
    for path in ("jobs", "workers/w1/events", "jobs/lookup", "nothing", "health"):
        async with sending(owner, "x", 10 * MIB, path) as sender:
            status, _ = await sender.answer()
            assert status == (413 if path == "health" else 401)
            assert room.taken == 0


async def test_member_holds_no_more_than_their_part_and_gives_it_back(
    owner: Owner, room: BodyRoom, api: httpx.AsyncClient
) -> None:
    bob, eve = [(await make(api, owner=who, roles={"lab": "submitter"}))["secret"] for who in ("bob", "eve")]
    long = json.dumps({"code": "", "input": "x" * (2 * MIB - 100)})
    async with sending(owner, bob, 2 * MIB) as sender:
        sender.writer.write(b"[" * 100)  # and no more
        await until(lambda: room.taken == 2 * MIB)
        refused = await api.post("jobs", content=long, headers=with_token(bob))
        assert (refused.status_code, refused.headers["Retry-After"]) == (503, "2")
        assert (await api.post("jobs", json={"code": ""}, headers=with_token(bob))).status_code == 201
        assert (await api.post("jobs", content=long, headers=with_token(eve))).status_code == 201
        assert (await api.post("jobs", json={"code": "", "input": "x" * 4 * MIB})).status_code == 503  # of all
    await until(lambda: room.taken == 0)
    assert (await api.post("jobs", content=long, headers=with_token(bob))).status_code == 201
    assert room.taken == 0


async def test_token_that_ends_while_its_body_arrives_opens_nothing(
    owner: Owner, room: BodyRoom, api: httpx.AsyncClient
) -> None:
    bob = await make(api, owner="bob", roles={"lab": "submitter"})
    body = json.dumps({"code": "", "input": "x" * 70_000}).encode()
    async with sending(owner, bob["secret"], len(body)) as sender:
        sender.writer.write(body[:1_000])
        await until(lambda: room.taken == len(body))
        assert (await api.delete(f"tokens/{bob['id']}")).is_success
        sender.writer.write(body[1_000:])
        assert (await sender.answer())[0] == 401
    assert (await api.get("jobs")).json()["jobs"] == []


async def test_token_that_ends_while_values_are_counted_opens_nothing(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = await make(api, owner="bob", roles={"lab": "submitter"})
    count = bodies.count_in_turns

    async def count_late(*args: Any) -> int:
        assert (await api.delete(f"tokens/{bob['id']}")).is_success
        return await count(*args)

    monkeypatch.setattr(bodies, "count_in_turns", count_late)
    body = json.dumps({"code": "", "input": "x" * 70_000})
    assert (await api.post("jobs", content=body, headers=with_token(bob["secret"]))).status_code == 401
    assert (await api.get("jobs")).json()["jobs"] == []


async def test_sender_that_stops_midway_loses_its_connection(
    owner: Owner, room: BodyRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "BODY_SECS", 0.05)
    async with sending(owner, owner.token, 2 * MIB) as sender:
        sender.writer.write(b"[")
        assert await asyncio.wait_for(sender.reader.read(), 10) == b""
    assert room.taken == 0


async def test_body_longer_than_its_route_takes_is_413_while_it_is_sent(owner: Owner, api: httpx.AsyncClient) -> None:
    for path in ("jobs/lookup", "workers"):
        async with sending(owner, owner.token, 5 * MIB, path) as sender:
            status, body = await sender.answer()
            assert (status, body["error"]["message"]) == (413, "The body is over 4 MiB.")  # type: ignore[index]


async def test_more_specs_than_a_batch_holds_are_413(api: httpx.AsyncClient) -> None:
    for spec in ('{"code":""}', '{"code":"","input":"%s"}' % ("x" * 200)):
        answer = await api.post("jobs", content="[" + ",".join([spec] * 10_001) + "]")
        assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")
    assert (await api.get("jobs")).json()["jobs"] == []


async def test_long_list_is_refused_by_its_number_before_its_specs_take_memory() -> None:
    body = b"[" + b",".join([b'{"code":""}'] * 100_000) + b"]"
    tracemalloc.start()
    try:
        with pytest.raises(TooLarge, match="100,000 specs are more than 10,000"):
            await read_specs(body, Settings(data=""), None)
        assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
    finally:
        tracemalloc.stop()


async def test_long_list_says_which_spec_does_not_hold(api: httpx.AsyncClient) -> None:
    specs = [{"code": "", "input": "x" * 2 * MIB}, {"code": 1}]
    error = (await api.post("jobs", json=specs)).json()["error"]
    assert error["message"].startswith("Spec 1: ")


def dense(values: int, code: str = "") -> str:
    """Return a spec whose input holds so many values."""
    return json.dumps({"code": code, "input": [{}] * values}, separators=(",", ":"))


async def test_spec_with_too_many_values_is_413_and_takes_no_memory(api: httpx.AsyncClient) -> None:
    for spec in (dense(60_000), dense(60_000, "x" * MIB)):
        for body, said in ((spec, "The spec holds"), (f'[{{"code":""}},{spec}]', "Spec 1 holds")):
            tracemalloc.start()
            try:
                with pytest.raises(TooLarge, match=f"{said} more than 100,000 values"):
                    await read_specs(body.encode(), Settings(data=""), None)
                assert tracemalloc.get_traced_memory()[1] < 4 * len(body)
            finally:
                tracemalloc.stop()
    answer = await api.post("jobs", content=spec)
    assert (answer.status_code, answer.json()["error"]["code"]) == (413, "too_large")


async def test_body_with_too_many_values_is_413_before_it_is_decoded(
    api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bodies, "MAX_VALUES", 50_000)
    for path in ("jobs", "workers/w1/events", "workers/w1/leases"):
        answer = await api.post(path, content="[" + "{}," * 50_000)  # no JSON, as decoding would tell
        said = answer.json()["error"]["message"]
        assert (answer.status_code, said) == (413, "The body holds more than 50,000 values.")


@pytest.fixture
async def turns() -> AsyncIterator[list[None]]:
    """One entry for each turn that others have had."""
    had: list[None] = []

    async def count() -> None:
        while True:
            await asyncio.sleep(0)
            had.append(None)

    other = asyncio.ensure_future(count())
    yield had
    other.cancel()


async def test_others_have_their_turn_while_a_long_list_is_decoded(turns: list[None]) -> None:
    body = f"[{','.join([dense(40_000)] * 10)}]".encode()
    turns.clear()
    specs, _ = await read_specs(body, Settings(data=""), None)
    assert (len(specs), len(turns) >= 19) == (10, True)  # to look at each, and to decode it


async def test_others_have_their_turn_while_values_are_counted(turns: list[None]) -> None:
    for body, number in ((b'"' + b'\\"' * MIB + b'"', 1), (b'["' + b"," * MIB + b'"' * MIB, 2)):
        turns.clear()
        assert await bodies.count_in_turns(body, MIB) == number
        assert len(turns) >= 30


async def test_viewer_is_refused_before_a_long_body_is_read(
    owner: Owner, room: BodyRoom, api: httpx.AsyncClient
) -> None:
    eve = (await make(api, owner="eve", roles={"lab": "viewer"}))["secret"]
    async with sending(owner, eve, 10 * MIB) as sender:
        status, body = await sender.answer()
        assert (status, body["error"]["code"], room.taken) == (403, "forbidden", 0)  # type: ignore[index]


async def test_room_is_taken_for_what_a_body_is_when_decoded_until_it_is_used_no_more(
    host: Host, owner: Owner, room: BodyRoom, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    bob = (await make(api, owner="bob", roles={"lab": "submitter"}))["secret"]
    assert host.context is not None
    goes_on, gone = asyncio.Event(), asyncio.Event()
    accept, close = host.context.queue.accept, bodies.CollectedBody.on_connection_close

    async def wait(*args: Any, **options: Any) -> Any:
        await goes_on.wait()
        return await accept(*args, **options)

    def hear(handler: bodies.CollectedBody) -> None:
        close(handler)
        gone.set()

    monkeypatch.setattr(host.context.queue, "accept", wait)
    monkeypatch.setattr(bodies.CollectedBody, "on_connection_close", hear)
    plain, wide, full = dense(1, "x" * 90_000), dense(1, "x" * 90_000 + "\N{GRINNING FACE}"), dense(25_000)
    wide = json.dumps(json.loads(wide), ensure_ascii=False)
    for body, least, most in (
        (plain, 2 * len(plain), 2 * len(plain) + 1500),  # as it came, and decoded
        (wide, 5 * len(wide), 5 * len(wide) + 1500),
        (full, 3 * MIB, 3 * MIB),
    ):
        goes_on.clear()
        gone.clear()
        async with sending(owner, bob, len(body.encode())) as sender:
            sender.writer.write(body.encode())
            await until(lambda: room.taken > len(body.encode()))  # noqa: B023
            assert least <= room.taken <= most
        await asyncio.wait_for(gone.wait(), 10)
        assert room.taken >= least  # the body is in use still
        refused = await api.post("jobs", content=full, headers=with_token(bob))
        assert refused.status_code == 503
        goes_on.set()
        await until(lambda: room.taken == 0)


async def test_client_submits_more_than_a_request_takes_or_nothing(
    owner: Owner, api: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(parts, "PART_JOBS", 3)
    monkeypatch.setattr(parts, "PART_BYTES", 5_000)
    client = AsyncClient(lambda: Endpoint(owner.url, owner.token, "owner file"))
    specs = [JobSpec(cmd=["true", "x" * size]) for size in (1, 1, 1, 6_000, 2_500, 3_000)]
    jobs = await client.submit(specs)
    assert [job.spec.cmd for job in jobs] == [spec.cmd for spec in specs]
    with pytest.raises(InvalidSpec):
        await client.submit([*specs[:3], JobSpec(cmd=["true"], after=["00000000-0000-0000-0000-000000000000"])])
    states = [job["state"] for job in (await api.get("jobs")).json()["jobs"]]
    assert states == ["canceled"] * 3 + ["pending"] * 6
    await client.close()


def test_client_sends_no_more_values_in_a_request_than_it_may_hold(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parts, "PART_VALUES", 300)
    specs = [JobSpec(cmd=["true"], input=[1] * size) for size in (100, 100, 1000, 100)]
    assert [len(part) for part, _ in parts.parts_of(specs)] == [2, 1, 1]


def test_client_counts_all_values_of_a_spec() -> None:
    specs = [JobSpec(cmd=["true"], input=[1] * 99_000)] * 12
    assert [len(part) for part, _ in parts.parts_of(specs)] == [10, 2]
