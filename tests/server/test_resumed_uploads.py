"""Uploads that break off and are gone on with, over HTTP: by a client, by a worker, and by hand."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tracemalloc
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from tests.chaos.cable import Cable
from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.client.transport import Transport
from zbrain_nb.client.uploading import upload
from zbrain_nb.model.datadir import Owner
from zbrain_nb.model.errors import BlobMismatch, ServerUnreachable, ZBrainError
from zbrain_nb.model.protocol import OFFSET_HEADER
from zbrain_nb.server.host import Host
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.worker.link import HttpLink

pytestmark = pytest.mark.anyio
MIB = 1 << 20
DATA = os.urandom(20 * MIB)
SHA = hashlib.sha256(DATA).hexdigest()


@pytest.fixture
def cable(owner: Owner) -> Iterator[Cable]:
    cable = Cable("127.0.0.1", int(owner.url.rsplit(":", 1)[1].strip("/")))
    yield cable
    cable.close()


@pytest.fixture
def near_end(owner: Owner, cable: Cable) -> Endpoint:
    return Endpoint(f"http://127.0.0.1:{cable.port}/", owner.token, "owner file")


def store(host: Host) -> ArtifactStore:
    assert host.context is not None
    return host.context.queue.artifacts


async def begin(api: httpx.AsyncClient, size: int, *, of: int = len(DATA), offset: int = 0) -> None:
    """Send the first `size` of the announced bytes, and break off."""

    async def some() -> AsyncIterator[bytes]:
        for start in range(offset, offset + size, MIB):
            yield DATA[start : min(start + MIB, offset + size)]
        raise ConnectionAbortedError

    headers = {"Content-Length": str(of - offset), OFFSET_HEADER: str(offset)}
    with pytest.raises(ConnectionAbortedError):
        await api.put(f"blobs/{SHA}", content=some(), headers=headers)


async def arrived(api: httpx.AsyncClient, size: int) -> None:
    """Wait until the host has noticed that so much, and no more, will come."""
    async with asyncio.timeout(10):
        while (await api.head(f"blobs/{SHA}")).headers.get(OFFSET_HEADER) != str(size):
            await asyncio.sleep(0.01)


async def test_upload_that_broke_off_goes_on_where_it_was(host: Host, api: httpx.AsyncClient) -> None:
    await begin(api, 15 * MIB)
    await arrived(api, 15 * MIB)
    done = await api.put(f"blobs/{SHA}", content=DATA[15 * MIB :], headers={OFFSET_HEADER: str(15 * MIB)})
    assert done.status_code == 201
    head = await api.head(f"blobs/{SHA}")
    assert (head.status_code, head.headers["Content-Length"]) == (200, str(len(DATA)))
    assert store(host).read(SHA) == DATA
    assert not list((store(host).folder / "incoming").iterdir())


async def test_wrong_offset_is_answered_with_the_right_one(api: httpx.AsyncClient) -> None:
    for offset, right in ((5, 0), (3 * MIB, 2 * MIB), (MIB, 2 * MIB)):
        if right and (await api.head(f"blobs/{SHA}")).headers.get(OFFSET_HEADER) is None:
            await begin(api, 2 * MIB)
            await arrived(api, 2 * MIB)
        answer = await api.put(f"blobs/{SHA}", content=b"rest", headers={OFFSET_HEADER: str(offset)})
        assert (answer.status_code, answer.headers[OFFSET_HEADER]) == (409, str(right))
        assert (answer.json()["error"]["code"], answer.json()["error"]["offset"]) == ("wrong_offset", right)


@pytest.mark.parametrize("offset", ["-1", "x", "1.5", "9" * 30, "٣"])
async def test_offset_that_is_no_number_is_malformed(api: httpx.AsyncClient, offset: str) -> None:
    answer = await api.put(f"blobs/{SHA}", content=b"x", headers={OFFSET_HEADER: offset.encode()})
    assert (answer.status_code, answer.json()["error"]["code"]) == (400, "malformed")


async def test_bad_piece_is_found_at_the_end_and_nothing_is_kept(api: httpx.AsyncClient) -> None:
    await begin(api, 2 * MIB)
    await arrived(api, 2 * MIB)
    rest = bytes(len(DATA) - 2 * MIB)
    answer = await api.put(f"blobs/{SHA}", content=rest, headers={OFFSET_HEADER: str(2 * MIB)})
    assert (answer.status_code, answer.json()["error"]["code"]) == (422, "blob_mismatch")
    assert OFFSET_HEADER not in (await api.head(f"blobs/{SHA}")).headers


async def test_what_arrived_outlives_the_host(host: Host, api: httpx.AsyncClient) -> None:
    await begin(api, 2 * MIB)
    await arrived(api, 2 * MIB)
    again = ArtifactStore(store(host).folder)
    with again.open_upload(SHA, owner=host.context.identity.holder.owner, offset=2 * MIB) as going_on:  # type: ignore[union-attr]
        going_on.write(DATA[2 * MIB :])
        assert going_on.commit() == (SHA, len(DATA))


async def test_sender_that_comes_back_displaces_its_own_broken_connection(host: Host, api: httpx.AsyncClient) -> None:
    """The host has not noticed yet that the first is gone; what of it still comes is refused."""
    go_on, refused = asyncio.Event(), asyncio.Event()

    async def hanging() -> AsyncIterator[bytes]:
        yield DATA[: 4 * MIB]
        await go_on.wait()
        while not refused.is_set():
            yield DATA[4 * MIB : 5 * MIB]
            await asyncio.sleep(0.01)

    first = asyncio.ensure_future(
        api.put(f"blobs/{SHA}", content=hanging(), headers={"Content-Length": str(1000 * MIB)})
    )
    async with asyncio.timeout(10):
        while (await api.head(f"blobs/{SHA}")).headers.get(OFFSET_HEADER, "0") == "0":
            await asyncio.sleep(0.01)
        size = -1
        while size != (size := int((await api.head(f"blobs/{SHA}")).headers[OFFSET_HEADER])):
            await asyncio.sleep(0.2)
    assert size == 4 * MIB
    answer = await api.put(f"blobs/{SHA}", content=DATA[size:], headers={OFFSET_HEADER: str(size)})
    assert answer.status_code == 201
    go_on.set()
    try:
        assert (await asyncio.wait_for(first, 20)).status_code == 409
    except httpx.TransportError:
        pass  # the connection was closed while it still sent
    finally:
        refused.set()
    assert store(host).read(SHA) == DATA


async def test_two_uploads_of_the_same_at_once_both_succeed(host: Host, api: httpx.AsyncClient, owner: Owner) -> None:
    async def slowly() -> AsyncIterator[bytes]:
        for start in range(0, len(DATA), MIB):
            yield DATA[start : start + MIB]
            await asyncio.sleep(0.005)

    headers = {"Content-Length": str(len(DATA))}
    answers = await asyncio.gather(*(api.put(f"blobs/{SHA}", content=slowly(), headers=headers) for _ in range(3)))
    assert [answer.status_code for answer in answers] == [201, 201, 201]
    assert store(host).read(SHA) == DATA
    assert not list((store(host).folder / "incoming").iterdir())


async def test_client_on_a_breaking_line_sends_each_byte_about_once(cable: Cable, near_end: Endpoint) -> None:
    cable.breaks_after_sent = 6 * MIB
    client = AsyncClient(lambda: near_end)
    assert await client.put_blob(DATA) == SHA
    assert len(DATA) < cable.sent < len(DATA) + 8 * MIB  # from the start each time it would never end
    await client.close()


async def test_worker_on_a_breaking_line_goes_on_where_it_was_and_so_does_its_successor(
    host: Host, cable: Cable, near_end: Endpoint, tmp_path: Path
) -> None:
    (tmp_path / "model").write_bytes(DATA)
    cable.breaks_after_sent = 6 * MIB
    tries = 0
    while not store(host).has(SHA):
        link = HttpLink(lambda: near_end)  # nothing is remembered but by the host
        tries += 1
        assert tries < 10
        with (tmp_path / "model").open("rb") as file:
            try:
                await link.put_blob(SHA, file)
            except ServerUnreachable:
                continue
            finally:
                await link.close()
    assert cable.sent < len(DATA) + 8 * MIB
    assert store(host).read(SHA) == DATA


async def test_input_fetched_over_a_breaking_line_comes_about_once(
    host: Host, api: httpx.AsyncClient, cable: Cable, near_end: Endpoint, tmp_path: Path
) -> None:
    store(host).put_bytes(DATA)
    job = (await api.post("jobs", json={"cmd": ["true"], "inputs": {"data": SHA}})).json()
    await api.post("workers", json={"id": "w"})
    await api.post("workers/w/leases", json={"request_id": "r", "limit": 1})
    cable.breaks_after = 6 * MIB
    target = tmp_path / SHA
    for _ in range(10):
        link = HttpLink(lambda: near_end)
        try:
            await link.fetch_input(job["id"], 1, "data", SHA, target)
            break
        except ServerUnreachable:
            continue
        finally:
            await link.close()
    assert target.read_bytes() == DATA
    assert cable.carried < len(DATA) + 8 * MIB
    assert [file.name for file in tmp_path.iterdir() if SHA in file.name] == [SHA]


async def test_upload_takes_little_memory(host: Host, owner: Owner, tmp_path: Path) -> None:
    """Sender and host are one process here."""
    size = 64 * MIB
    file = tmp_path / "big"
    with file.open("wb") as out:
        out.truncate(size)
    digest = hashlib.sha256(bytes(size)).hexdigest()
    with store(host).open_upload(digest, owner=host.context.identity.holder.owner) as part:  # type: ignore[union-attr]
        part.write(bytes(32 * MIB))
        part.pause()
    transport = Transport(lambda: Endpoint(owner.url, owner.token))

    async def pieces(offset: int) -> AsyncIterator[bytes]:
        with file.open("rb") as source:
            source.seek(offset)
            while chunk := await asyncio.to_thread(source.read, MIB):
                yield chunk

    tracemalloc.start()
    await upload(transport, digest, size, pieces)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    await transport.close()
    assert store(host).size(digest) == size
    assert peak < 16 * MIB


async def test_upload_of_other_bytes_is_refused_not_tried_for_ever(owner: Owner) -> None:
    transport = Transport(lambda: Endpoint(owner.url, owner.token))

    async def pieces(offset: int) -> AsyncIterator[bytes]:
        yield b"x" * (len(DATA) - offset)

    with pytest.raises(BlobMismatch):
        await upload(transport, SHA, len(DATA), pieces)
    await transport.close()


def test_parts_of_one_owner_are_nobody_elses(tmp_path: Path) -> None:
    blobs = ArtifactStore(tmp_path / "blobs")
    part = blobs.open_upload(SHA, owner="ada")
    part.write(DATA[: 2 * MIB])
    part.pause()
    assert blobs.arrived(SHA, "ada") == 2 * MIB
    assert blobs.arrived(SHA, "bob") == 0
    with pytest.raises(ZBrainError) as refused:
        blobs.open_upload(SHA, owner="bob", offset=2 * MIB)
    assert refused.value.details["offset"] == 0
    with blobs.open_upload(SHA, owner="bob") as other:  # nor does a beginning of theirs touch it
        other.write(b"y")
    assert blobs.arrived(SHA, "ada") == 2 * MIB


def test_small_or_old_parts_are_not_kept(tmp_path: Path) -> None:
    blobs = ArtifactStore(tmp_path / "blobs")
    small = blobs.open_upload(SHA, owner="ada")
    small.write(b"little")
    small.pause()
    assert blobs.arrived(SHA, "ada") == 0
    large = blobs.open_upload(SHA, owner="ada")
    large.write(DATA[: 2 * MIB])
    large.pause()
    (file,) = (blobs.folder / "incoming").iterdir()
    assert blobs.remove_abandoned(file.stat().st_mtime) == 0
    assert blobs.remove_abandoned(file.stat().st_mtime + 1) == 1
    assert blobs.arrived(SHA, "ada") == 0
