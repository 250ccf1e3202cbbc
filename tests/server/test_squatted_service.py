"""The Hub's service is down, and another account listens on its port: it is told nothing, and believed nothing."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import re
import urllib.parse
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import httpx
import msgspec
import pytest
import websockets

from tests.jupyter import Lab
from zbrain_nb.client.locating import Endpoint, search
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.datadir import HubUpstream, Owner, write_upstream
from zbrain_nb.model.errors import ServerUnreachable, ZBrainError
from zbrain_nb.model.protocol import HeartbeatRequest
from zbrain_nb.model.proving import Challenge, Unproven
from zbrain_nb.model.sealing import SealingKey
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.host import Host
from zbrain_nb.server.hub.proving import service_key
from zbrain_nb.worker.link import HttpLink, follow_hub
from zbrain_nb.worker.wire import Wires

pytestmark = pytest.mark.anyio
_CHALLENGE = re.compile(r"(?i)x-zbrain-challenge: (\S+)")


class Squatter:
    """Takes the port of a host that ends, and answers what comes there."""

    def __init__(self) -> None:
        self.heard = bytearray()
        self.say: Callable[[bytes], bytes] = lambda head: answer("{}")
        self._server: asyncio.Server | None = None
        self._answering: set[asyncio.Task[None]] = set()

    async def take_over(self, host: Host, owner: Owner) -> None:
        await host.stop()
        self._server = await asyncio.start_server(self._take, "127.0.0.1", urllib.parse.urlsplit(owner.url).port)

    def _take(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._answering.add(asyncio.ensure_future(self._answer(reader, writer)))

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            while head := await reader.read(65536):
                self.heard.extend(head)
                writer.write(self.say(head))
        writer.close()

    async def close(self) -> None:
        """Return when all have hung up: they were told nothing that would keep them."""
        if self._server is not None:
            self._server.close()
            await asyncio.wait_for(asyncio.gather(*self._answering), 30)

    def heard_only_challenges(self) -> bool:
        heads = self.heard.decode().split("\r\n\r\n")
        asked = re.compile(r"GET /zbrain/api/health HTTP/1.1\r\nhost: \S+\r\nx-zbrain-challenge: \S+", re.IGNORECASE)
        return len(heads) > 1 and not heads.pop() and all(asked.fullmatch(head) for head in heads)


@pytest.fixture
async def squatter() -> AsyncIterator[Squatter]:
    squatter = Squatter()
    yield squatter
    await squatter.close()


def answer(body: str, status: str = "200 OK") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()


def key_of(host: Host) -> str:
    return service_key(host.data.root)


async def test_no_client_or_worker_tells_a_squatter_anything(
    host: Host, owner: Owner, squatter: Squatter, tmp_path: Path
) -> None:
    folder = tmp_path / "hub-worker"
    write_upstream(folder, HubUpstream(owner.url, owner.token, key_of(host)))
    locate = follow_hub(folder)
    transport, link, wires = Transport(locate, patience_secs=0), HttpLink(locate), Wires(locate())
    assert (await transport.request("GET", "jobs")).status_code == 200
    assert b"".join([piece async for piece in transport.download("openapi.json")])
    events = transport.events(["orgs/default"], beats=True)
    assert await anext(events) == []
    await events.aclose()
    assert (await wires.post("jobs", b'{"cmd": ["true"]}', 10))[0] == 201
    assert not await link.has_blob("0" * 64)

    await squatter.take_over(host, owner)
    with pytest.raises(Unproven):  # what is sent again when a kept connection broke
        await wires.post("jobs", b"{}", 10)
    for asking in (
        transport.request("GET", "jobs"),
        anext(transport.download("openapi.json")),
        anext(transport.events(["orgs/default"])),
        link.has_blob("0" * 64),
    ):
        with pytest.raises(ServerUnreachable, match="prove to be the service"):
            await asking
    assert squatter.heard_only_challenges()
    await transport.close()
    await link.close()
    wires.close()


async def test_job_on_the_hub_finds_the_service_by_its_key(host: Host, owner: Owner, tmp_path: Path) -> None:
    write_upstream(tmp_path, HubUpstream(owner.url, owner.token, key_of(host)))
    link = HttpLink(follow_hub(tmp_path))
    with pytest.raises(ZBrainError):
        await link.heartbeat("unknown", HeartbeatRequest([]))
    way = link.way_back()
    settings = Settings(data=str(tmp_path / "none"), url=way["ZBRAIN_URL"], server_key=way["ZBRAIN_SERVER_KEY"])
    *_, found = search(settings)
    assert found.endpoint is not None
    assert found.endpoint.key == key_of(host)
    await link.close()


async def test_relay_tells_a_squatter_nothing(host: Host, owner: Owner, squatter: Squatter, tmp_path: Path) -> None:
    environ = {"ZBRAIN_HUB_URL": owner.url, "ZBRAIN_HUB_KEY": key_of(host), "ZWORKER_MODE": "none"}
    person = {"JUPYTERHUB_API_TOKEN": owner.token, "JUPYTERHUB_USER": "ann"}
    lab = Lab(tmp_path / "root", tmp_path / "own", app="server", **environ, **person)
    await asyncio.to_thread(lab.start)
    root, own = f"{lab.url}zbrain/api/", {"Authorization": f"token {owner.token}"}
    async with httpx.AsyncClient(base_url=f"{owner.url}zbrain/api/", headers=own, trust_env=False) as http:
        made = await http.post("tokens", json={"kind": "person", "owner": "ann"})
    login = {"Authorization": f"token {made.json()['secret']}"}
    socket = f"ws{root.removeprefix('http')}events?topics=orgs/default"
    async with httpx.AsyncClient(base_url=root, headers=login, trust_env=False, timeout=30) as http:
        assert (await http.get("jobs")).status_code == 200
        assert (await http.put(f"blobs/{'0' * 64}", content=b"other")).status_code == 422
        async with websockets.connect(socket, additional_headers=login, proxy=None):
            pass
        await squatter.take_over(host, owner)
        assert (await http.get("jobs")).status_code == 503
        assert (await http.post("jobs", json={"cmd": ["true"]})).status_code == 503
        assert (await http.put(f"blobs/{'0' * 64}", content=b"other")).status_code == 503
        with pytest.raises(websockets.InvalidStatus, match="503"):
            await websockets.connect(socket, additional_headers=login, proxy=None)
    await asyncio.to_thread(lab.stop)
    assert squatter.heard_only_challenges()


async def test_no_way_of_answering_but_by_the_key_is_believed(host: Host, owner: Owner, squatter: Squatter) -> None:
    key = key_of(host)
    async with httpx.AsyncClient(trust_env=False) as http:
        known = Challenge(owner.url, key).request
        given = {"X-ZBrain-Challenge": _CHALLENGE.search(known.decode())[1]}  # type: ignore[index]
        recorded = (await http.get(f"{owner.url}zbrain/api/health", headers=given)).text
        no_point = {"X-ZBrain-Challenge": base64.b64encode(bytes(32)).decode()}
        assert (await http.get(f"{owner.url}zbrain/api/health", headers=no_point)).status_code == 400

    def by_another_key(head: bytes) -> bytes:
        challenge = _CHALLENGE.search(head.decode())
        assert challenge is not None
        return answer(
            f'{{"key_proof": "{SealingKey().prove(challenge[1], urllib.parse.urlsplit(owner.url).port or 0)}"}}'
        )

    await squatter.take_over(host, owner)
    for say in (
        lambda head: answer(recorded),
        by_another_key,
        lambda head: answer('{"key_proof": 1}'),
        lambda head: answer("{}", "401 Unauthorized"),
        lambda head: b"HTTP/1.1 200 OK\r\nContent-Length: 99999999\r\n\r\n" + bytes(1 << 17),
        lambda head: b"\x00" * 100 + b"\r\n\r\n",
    ):
        squatter.say = say
        with pytest.raises(Unproven):
            await Wires(Endpoint(owner.url, owner.token, key=key)).post("jobs", b"{}", 10)
    assert squatter.heard_only_challenges()


async def test_proof_from_the_service_s_new_port_is_worth_nothing_at_its_old_one(host: Host, owner: Owner) -> None:
    streams: list[asyncio.StreamWriter] = []
    asked = bytearray()

    async def pass_on(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Let the service answer what is asked here."""
        port = urllib.parse.urlsplit(owner.url).port
        answers, asks = await asyncio.open_connection("127.0.0.1", port)
        streams.extend((asks, writer))

        async def pump(source: asyncio.StreamReader, to: asyncio.StreamWriter, kept: bytearray) -> None:
            with contextlib.suppress(ConnectionError):
                while piece := await source.read(65536):
                    kept.extend(piece)
                    to.write(piece)
            to.close()

        await asyncio.gather(pump(reader, asks, asked), pump(answers, writer, bytearray()))

    server = await asyncio.start_server(pass_on, "127.0.0.1", 0)
    old = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
    wires = Wires(Endpoint(old, owner.token, key=key_of(host)))
    with pytest.raises(Unproven, match="or not for port"):
        await wires.post("jobs", b'{"cmd":["true"]}', 10)
    assert b"health" in asked and owner.token.encode() not in asked
    assert host.context is not None
    host.context.settings = msgspec.structs.replace(
        host.context.settings, hub_url=old
    )  # that port is meant to lead here
    await wires.post("jobs", b'{"cmd":["true"]}', 10)
    assert owner.token.encode() in asked
    wires.close()
    server.close()
    for stream in streams:
        stream.close()


def test_answer_in_pieces_proves_the_key_and_no_key_is_refused() -> None:
    key = SealingKey("a secret")
    challenge = Challenge("http://127.0.0.1/", key.public)
    sent = _CHALLENGE.search(challenge.request.decode())
    assert sent is not None
    whole = answer(f'{{"key_proof": "{key.prove(sent[1], 80)}"}}')
    assert [challenge.take(whole[n : n + 1]) for n in range(len(whole))] == [False] * (len(whole) - 1) + [True]
    with pytest.raises(Unproven, match="does not have the service's key"):
        Challenge("http://127.0.0.1/", key.public).take(whole)
    with pytest.raises(ZBrainError, match="is no key of a service"):
        Challenge("http://127.0.0.1/", "none")
