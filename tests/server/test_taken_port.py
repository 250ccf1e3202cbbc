"""A port whose host died and that another account listens on: nobody is told the directory's token there."""

from __future__ import annotations

import asyncio
import json
import os
import urllib.parse
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from zbrain_nb.client.locating import search
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.errors import ServerUnreachable
from zbrain_nb.model.protocol import HeartbeatRequest
from zbrain_nb.model.settings import Settings
from zbrain_nb.server import hostlink
from zbrain_nb.server.host import Host
from zbrain_nb.server.hostlink import HostLink
from zbrain_nb.worker.link import HttpLink, follow
from zbrain_nb.worker.wire import BrokenWire, Wires

pytestmark = pytest.mark.anyio
Stranger = Callable[[], Awaitable[bytearray]]


@pytest.fixture
async def stranger(host: Host, owner: Owner) -> AsyncIterator[Stranger]:
    """End the host, listen on its port, and return what comes in."""
    heard = bytearray()
    servers = []

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    async def take_over() -> bytearray:
        await host.stop()
        servers.append(await asyncio.start_server(answer, "127.0.0.1", urllib.parse.urlsplit(owner.url).port))
        return heard

    yield take_over
    for server in servers:
        server.close()


async def test_token_is_not_told_by_a_client_that_found_the_host_before(host: Host, stranger: Stranger) -> None:
    transport = Transport(follow(host.data), patience_secs=0)
    assert (await transport.request("GET", "jobs")).status_code == 200
    heard = await stranger()
    with pytest.raises(ServerUnreachable):
        await transport.request("GET", "jobs")
    with pytest.raises(ServerUnreachable):
        await anext(transport.events(["orgs/default"]))
    assert heard == b""
    await transport.close()


async def test_token_is_not_told_by_a_worker_that_found_the_host_before(host: Host, stranger: Stranger) -> None:
    link = HttpLink(follow(host.data))
    wires = Wires(await link._transport.endpoint())
    heard = await stranger()
    with pytest.raises(ServerUnreachable):
        await link.heartbeat("w", HeartbeatRequest([]))
    with pytest.raises(BrokenWire):  # what is sent again when a kept connection broke
        await wires.post("jobs", b"{}", 10)
    assert heard == b""
    await link.close()


async def test_relay_looks_anew_when_the_host_it_knows_has_ended(
    host: Host, owner: Owner, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    link = HostLink(host.data, host.settings)
    assert await link.upstream() == owner
    await stranger()
    found = Owner("http://127.0.0.1:1/", owner.token, 1, owner.boot_id, "next")
    monkeypatch.setattr(hostlink, "find_or_start_host", lambda *_, **__: found)
    assert await link.upstream() == found


async def test_relay_asks_whether_the_host_lives_without_its_token(
    host: Host, owner: Owner, stranger: Stranger, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = asyncio.Event()
    link = HostLink(host.data, host.settings)
    await link.upstream()
    heard = await stranger()
    monkeypatch.setattr(type(host.data), "is_served_by", lambda *_: True)  # it ends right after it was looked at
    monkeypatch.setattr(link, "lost", lambda owner: lost.set())
    link.start()
    await asyncio.wait_for(lost.wait(), 30)
    await link.stop()
    assert b"health" in heard
    assert owner.token.encode() not in heard


async def test_token_of_a_jupyter_that_has_ended_is_not_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its file outlives it when it is killed, and its port is free for everybody."""
    heard = bytearray()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    server = await asyncio.start_server(hear, "127.0.0.1", 0)
    ended = await asyncio.create_subprocess_exec("true")
    await ended.wait()
    info = {"url": f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/", "token": "jupyters"}
    monkeypatch.setenv("JUPYTER_RUNTIME_DIR", str(tmp_path))
    settings = Settings(data=str(tmp_path / "data"))
    for pid, is_asked in ((ended.pid, False), (os.getpid(), True)):
        (tmp_path / f"jpserver-{pid}.json").write_text(json.dumps(info))
        monkeypatch.setenv("JPY_PARENT_PID", str(pid))
        *_, found = await asyncio.to_thread(lambda: list(search(settings)))
        assert found.endpoint is None
        assert ("has ended" in found.what) != is_asked
        assert (b"jupyters" in heard) == is_asked
    server.close()
