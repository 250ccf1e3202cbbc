"""Uploads that come compressed, as those to other machines do."""

from __future__ import annotations

import hashlib
import tracemalloc
from collections.abc import AsyncIterator

import httpx
import pytest
import zstandard

from zbrain_nb.client.locating import Endpoint
from zbrain_nb.client.transport import Transport
from zbrain_nb.client.uploading import upload
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.protocol import LENGTH_HEADER, OFFSET_HEADER
from zbrain_nb.server.host import Host

pytestmark = pytest.mark.anyio
MIB = 1 << 20
DATA = bytes(range(256)) * (12 * MIB // 256) + b"end"
SHA = hashlib.sha256(DATA).hexdigest()


def packed(data: bytes) -> bytes:
    return zstandard.ZstdCompressor(level=1).compress(data)


async def put(api: httpx.AsyncClient, body: bytes, **headers: str) -> httpx.Response:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return await api.put(f"blobs/{SHA}", content=body, headers={"Content-Encoding": "zstd", **named})


async def test_to_another_machine_a_blob_travels_compressed_and_arrives_whole(
    host: Host, owner: Owner, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert host.context is not None
    transport = Transport(lambda: Endpoint(owner.url, owner.token))
    monkeypatch.setattr(Endpoint, "is_here", False)
    travelled = 0
    request = transport.request

    async def note(method: str, path: str, **options: object) -> httpx.Response:
        content = options.get("content")
        if isinstance(content, AsyncIterator):

            async def counted() -> AsyncIterator[bytes]:
                nonlocal travelled
                async for piece in content:
                    travelled += len(piece)
                    yield piece

            options["content"] = counted()
        return await request(method, path, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(transport, "request", note)

    async def pieces(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(DATA), MIB):
            yield DATA[start : start + MIB]

    try:
        await upload(transport, SHA, len(DATA), pieces)
    finally:
        await transport.close()
    assert host.context.queue.artifacts.read(SHA) == DATA
    assert 0 < travelled < len(DATA) // 20


@pytest.mark.parametrize(
    ("url", "here"),
    [
        ("http://127.0.0.1:1/", True),
        ("http://[::1]:1/", True),
        ("http://localhost/x/", True),
        ("http://10.0.0.7:1/", False),
        ("https://hub.example/user/me/", False),
        ("http://localhost.example/", False),
    ],
)
def test_endpoint_knows_whether_it_is_on_this_machine(url: str, here: bool) -> None:
    assert Endpoint(url, "t").is_here is here


async def test_rest_of_a_broken_upload_may_come_compressed(host: Host, api: httpx.AsyncClient) -> None:
    half = 6 * MIB

    async def broken() -> AsyncIterator[bytes]:
        yield DATA[:half]
        raise ConnectionAbortedError

    with pytest.raises(ConnectionAbortedError):
        await api.put(f"blobs/{SHA}", content=broken(), headers={"Content-Length": str(len(DATA))})
    offset = 0
    while offset < half:  # the host notices the break in its own time
        offset = int((await api.head(f"blobs/{SHA}")).headers.get(OFFSET_HEADER, 0))
    rest = {LENGTH_HEADER: str(len(DATA)), OFFSET_HEADER: str(offset)}
    assert (await put(api, packed(DATA[offset:]), **rest)).status_code == 201
    assert host.context is not None
    assert host.context.queue.artifacts.read(SHA) == DATA


async def test_body_that_unpacks_to_more_than_was_said_is_refused_early(host: Host, api: httpx.AsyncClient) -> None:
    bomb = packed(bytes(1 << 30))
    assert len(bomb) < MIB
    tracemalloc.start()
    try:
        answer = await put(api, bomb, **{LENGTH_HEADER: str(len(DATA))})
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert answer.status_code == 400
    assert "more bytes than its Upload-Length" in answer.json()["error"]["message"]
    assert peak < 64 * MIB
    assert host.context is not None
    assert not host.context.queue.artifacts.has(SHA)


@pytest.mark.parametrize(
    ("body", "headers", "said"),
    [
        (b"rubbish" * 1000, {}, "not zstd"),
        (packed(DATA)[:-10], {}, "hash"),
        (DATA[:1000], {"Content-Encoding": "gzip"}, "Content-Encoding 'gzip'"),
        (packed(DATA), {LENGTH_HEADER: "many"}, "Upload-Length must be a whole number"),
        (packed(DATA), {LENGTH_HEADER: "-5"}, "Upload-Length must be a whole number"),
    ],
)
async def test_bad_compressed_body_is_refused_with_a_sentence(
    host: Host, api: httpx.AsyncClient, body: bytes, headers: dict[str, str], said: str
) -> None:
    answer = await put(api, body, **{LENGTH_HEADER: str(len(DATA))} | headers)
    assert answer.status_code in (400, 422)
    assert said in answer.json()["error"]["message"]
    assert host.context is not None
    assert not host.context.queue.artifacts.has(SHA)
