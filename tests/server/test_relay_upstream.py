"""What the relay does to the host: a stand-in that proves itself as one, and keeps what it hears."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from tests.jupyter import Lab
from zbrain_nb.model.datadir import DataDir, FileLock, Owner, boot_id, proof

pytestmark = pytest.mark.anyio


class Upstream:
    """Proves itself, and answers all else with bytes without end, or sends elsewhere."""

    def __init__(self, token: str) -> None:
        self.token = token
        self.elsewhere = ""
        self.heads: list[str] = []
        self.left = asyncio.Event()

    async def answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, EOFError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            if nonce := re.search(r"(?i)x-zbrain-nonce: (\w+)", head):
                body = json.dumps({"status": "ok", "proof": proof(self.token, nonce[1])}).encode()
                writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(body), body))
                await writer.drain()
            else:
                self.heads.append(head)
                if self.elsewhere:
                    leads = f"Location: {self.elsewhere}\r\nSet-Cookie: session=fixed\r\nContent-Length: 0\r\n\r\n"
                    writer.write(f"HTTP/1.1 302 Found\r\n{leads}".encode())
                    await writer.drain()
                else:
                    await self._pour(writer)
        writer.close()

    async def _pour(self, writer: asyncio.StreamWriter) -> None:
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % (1 << 36))
        try:
            while True:
                writer.write(bytes(1 << 16))
                await writer.drain()
        except ConnectionError:
            self.left.set()


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[tuple[Upstream, Lab]]:
    data = DataDir(tmp_path / "data")
    lock = FileLock(data.host_lock)
    assert lock.acquire()
    upstream = Upstream(data.token())
    server = await asyncio.start_server(upstream.answer, "127.0.0.1", 0)
    url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    data.write_owner(Owner(url, data.token(), os.getpid(), boot_id(), "stand-in"))
    lab = Lab(tmp_path / "root", data.root, app="server")
    await asyncio.to_thread(lab.start)
    yield upstream, lab
    await asyncio.to_thread(lab.stop)
    server.close()
    lock.release()


async def test_relay_asks_the_host_for_nothing_that_nobody_wants(upstream: tuple[Upstream, Lab]) -> None:
    host, lab = upstream
    base = f"{lab.url}zbrain/api/"
    keyless = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
    async with httpx.AsyncClient(base_url=base, trust_env=False, params={"token": lab.token}, timeout=20) as http:
        for headers in ({}, keyless):
            assert (await http.get("events", headers=headers)).status_code == 400
        assert host.heads == []
        async with http.stream("GET", "jobs", params={"limit": 1, "token": lab.token}) as answer:
            assert answer.status_code == 200
            await anext(answer.aiter_raw())
        await asyncio.wait_for(host.left.wait(), 20)
        assert lab.token not in "".join(host.heads)
        assert host.heads[0].startswith("GET /zbrain/api/jobs?limit=1 HTTP")
    said = (lab.folder / "server.log").read_text()
    assert "Traceback" not in said, said


async def test_relay_follows_no_redirect_and_passes_on_no_cookie_either_way(upstream: tuple[Upstream, Lab]) -> None:
    host, lab = upstream
    heard = bytearray()

    async def hear(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heard.extend(await reader.read(65536))
        writer.close()

    thief = await asyncio.start_server(hear, "127.0.0.1", 0)
    host.elsewhere = f"http://127.0.0.1:{thief.sockets[0].getsockname()[1]}/zbrain/api/jobs"
    login = {"Authorization": f"token {lab.token}", "Cookie": "mine=1", "X-Forwarded-For": "10.0.0.1", "TE": "trailers"}
    async with httpx.AsyncClient(base_url=f"{lab.url}zbrain/", trust_env=False, headers=login, timeout=20) as http:
        upgrade = {"Connection": "Upgrade", "Upgrade": "websocket", "Sec-WebSocket-Version": "13"}
        upgrade["Sec-WebSocket-Key"] = "dGhlIHNhbXBsZSBub25jZQ=="
        for path, headers in (("api/jobs", {}), ("", {}), ("api/events", upgrade)):
            answer = await http.get(path, headers=headers)
            assert answer.status_code == 302, path
            assert "location" not in answer.headers, path
            assert "fixed" not in str(answer.headers), path
    assert len(host.heads) == 3
    for head in host.heads:
        assert f"Authorization: token {host.token}\r\n" in head
        for word in (lab.token, "Cookie", "X-Forwarded", "TE:"):
            assert word not in head
    thief.close()
    assert heard == b""
