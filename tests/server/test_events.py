"""The WebSocket of events with followers that do not read, and with a past that is gone."""

from __future__ import annotations

import asyncio
import contextlib
import socket

import msgspec
import pytest
from websockets.asyncio.client import connect as ws_connect
from websockets.exceptions import ConnectionClosed

from zbrain_nb import JobSpec
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.access import Principal, Role
from zbrain_nb.model.errors import Forbidden, Unavailable
from zbrain_nb.model.events import Event, JobLogged
from zbrain_nb.model.protocol import EventBatch, LeaseRequest, WorkerInfo
from zbrain_nb.queue import subscription as subscriptions
from zbrain_nb.server.handlers import events as events_handler
from zbrain_nb.server.handlers.events import EventsHandler

pytestmark = pytest.mark.anyio


@pytest.fixture
async def running(host):
    """A running job, and a function that sends lines of it."""
    queue = host.context.queue
    await queue.register_worker(WorkerInfo(id="w"))
    job_id = await queue.submit(JobSpec(cmd=["true"]))
    await queue.lease("w", LeaseRequest(request_id="r", limit=1, wait_secs=5))

    async def say(count, text):
        events = [JobLogged(job_id, attempt=1, lines=[("stdout", 1.0, text)] * count)]
        answer = await queue.take_events("w", EventBatch(events))
        assert [result.status for result in answer.results] == ["ok"]

    return job_id, say


@pytest.fixture
async def follow(owner):
    """A function that opens the socket and returns the connection, closed after the test."""
    async with contextlib.AsyncExitStack() as stack:

        async def connect(query):
            url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?{query}"
            headers = {"Authorization": f"token {owner.token}"}
            opening = ws_connect(url, additional_headers=headers, compression=None, proxy=None, max_size=None)
            return await stack.enter_async_context(opening)

        yield connect


async def read_until(connection, last_seq):
    events, frames = [], []
    while not events or events[-1].seq < last_seq:
        frames.append(await asyncio.wait_for(connection.recv(), 20))
        events += msgspec.json.decode(frames[-1], type=list[Event])
    return events, frames


async def raw_follower(owner, query):
    """Open the socket by hand, so that nothing reads what comes behind the handshake."""
    host, _, port = owner.url.removeprefix("http://").rstrip("/").partition(":")
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    sock.setblocking(False)
    loop = asyncio.get_running_loop()
    await loop.sock_connect(sock, (host, int(port)))
    await loop.sock_sendall(
        sock,
        f"GET /zbrain/api/events?{query} HTTP/1.1\r\nHost: {host}\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
        f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\n"
        f"Authorization: token {owner.token}\r\n\r\n".encode(),
    )
    assert (await loop.sock_recv(sock, 12)).endswith(b" 101")
    return sock


async def test_follower_that_does_not_read_holds_little_and_stops_nobody(host, owner, running, follow, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_BYTES", 1 << 20)
    handlers = []
    opened = EventsHandler.open

    def note(self, *args, **kwargs):
        handlers.append(self)
        opened(self, *args, **kwargs)

    monkeypatch.setattr(EventsHandler, "open", note)
    job_id, say = running
    queue = host.context.queue
    sock = await raw_follower(owner, f"topics=jobs/{job_id}")
    quick = await follow(f"topics=jobs/{job_id}")
    seen = []
    for _ in range(60):
        await say(100, "x" * 5000)
        events, frames = await read_until(quick, queue.event_seq)
        seen += [entry["seq"] for event in events for entry in event.data["entries"]]
        assert all(len(frame) < 2 << 20 for frame in frames)
    assert seen == list(range(6000))  # 30 MB went by
    stuck = next(handler for handler in handlers if handler._subscription.lag > 0)
    stream = stuck.ws_connection.stream
    assert len(stream._write_buffer) < 2 << 20
    assert queue._bus.held_bytes <= 1 << 20
    sock.close()


async def test_follower_that_reads_late_gets_all_and_is_told_once(host, running, follow, monkeypatch):
    monkeypatch.setattr(subscriptions, "LIVE_BYTES", 1 << 20)
    job_id, say = running
    queue = host.context.queue
    late = await follow(f"topics=jobs/{job_id}")
    for _ in range(60):
        await say(100, "x" * 5000)
    assert queue.measures().event_lag > 0
    events, _ = await read_until(late, queue.event_seq)
    assert [event.kind for event in events].count("lagged") == 1
    lines = [entry["seq"] for event in events if event.kind == "job_logged" for entry in event.data["entries"]]
    assert lines == list(range(6000))


async def test_socket_says_that_the_past_is_gone(host, running, follow, monkeypatch):
    job_id, say = running
    queue = host.context.queue
    monkeypatch.setattr(queue._bus.past, "oldest", lambda: 2)
    connection = await follow(f"topics=jobs/{job_id}&after=0")
    ((reset,), _) = await read_until(connection, queue.event_seq)
    assert reset.kind == "reset"
    assert [(job["id"], job["state"]) for job in reset.data["jobs"]] == [(job_id, "running")]
    await say(1, "on")
    ((event,), _) = await read_until(connection, queue.event_seq)
    assert event.kind == "job_logged"


async def test_socket_is_closed_when_the_store_cannot_be_read(host, running, follow, monkeypatch):
    job_id, _ = running

    async def fail(wanted):
        raise Unavailable("The disk is gone.")

    monkeypatch.setattr(host.context.queue._bus.past, "read", fail)
    connection = await follow(f"topics=jobs/{job_id}&after=0")
    with pytest.raises(ConnectionClosed):
        await asyncio.wait_for(connection.recv(), 20)
    assert (connection.close_code, connection.close_reason) == (1013, "The disk is gone.")


@pytest.mark.parametrize(
    ("org", "said"),
    [
        ("red", "You are not a member of red any more."),
        ("é" * 100, f"You are not a member of {'é' * 48}…"),  # as much as a frame has room for
    ],
)
async def test_socket_of_who_is_no_member_any_more_is_closed_and_says_so(host, owner, org, said):
    """A connection of a program of theirs ends with that, and is not tried again."""
    member = Principal(owner="ann", roles={"own": Role.SUBMITTER, org: Role.SUBMITTER}, home="own")
    now = [member]

    async def find(secret):
        return now[0] if secret == "of ann" else None

    host.context.identity.finders.append(find)
    job_id = await host.context.queue.submit(JobSpec(cmd=["true"], org_id=org), scope=member)
    url = f"ws{owner.url.removeprefix('http')}zbrain/api/events?topics=jobs/{job_id}"
    headers = {"Authorization": "token of ann"}
    transport = Transport(lambda: Endpoint(owner.url, "of ann"))
    async with (
        ws_connect(url, additional_headers=headers, proxy=None) as socket,
        contextlib.aclosing(transport.events([f"jobs/{job_id}"], beats=True)) as batches,
    ):
        assert await asyncio.wait_for(anext(batches), 20) == []
        now[0] = Principal(owner="ann", roles={"own": Role.SUBMITTER}, home="own")
        await host.context.queue.cancel_job(job_id)
        with pytest.raises(ConnectionClosed):
            await asyncio.wait_for(socket.recv(), 20)
        assert (socket.close_code, socket.close_reason) == (4403, said)
        with pytest.raises(Forbidden, match=f"^{said}$"):
            await asyncio.wait_for(anext(batches), 20)
    await transport.close()


async def test_quiet_socket_sends_empty_frames_that_clients_do_not_show(owner, running, follow, monkeypatch):
    monkeypatch.setattr(events_handler, "QUIET_SECS", 0.01)
    job_id, say = running
    connection = await follow(f"topics=jobs/{job_id}")
    transport = Transport(lambda: Endpoint(owner.url, owner.token))
    async with contextlib.aclosing(transport.events([f"jobs/{job_id}"])) as batches:
        coming = asyncio.ensure_future(anext(batches))
        for _ in range(3):
            assert await asyncio.wait_for(connection.recv(), 20) == "[]"
        await say(1, "loud")
        while (frame := await asyncio.wait_for(connection.recv(), 20)) == "[]":
            pass
        assert "loud" in frame
        assert [event.kind for event in await asyncio.wait_for(coming, 20)] == ["job_logged"]
    await transport.close()
