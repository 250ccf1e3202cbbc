"""Bytes by their SHA-256, brought to the server and fetched from it. Called by `AsyncClient`."""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import AsyncIterator, Iterable

import anyio

from zbrain_nb.client.handover import hand_over
from zbrain_nb.client.transport import CHUNK_BYTES, Transport
from zbrain_nb.client.uploading import upload
from zbrain_nb.model.job import Job
from zbrain_nb.model.packing import Parcel

#: Results fetched at once.
FETCHES = 16


async def put_blob(transport: Transport, data: bytes) -> str:
    """Have the server keep bytes, unless it does already; return their SHA-256."""
    digest = await asyncio.to_thread(_sha256, data)
    await _put(transport, data, digest)
    return digest


async def put_parcel(transport: Transport, parcel: Parcel) -> tuple[str, dict[str, str]]:
    """Upload a payload and the buffers that are apart (see `AsyncClient.put_parcel`)."""
    for sha256, buffer in parcel.apart.items():
        await _put(transport, buffer, sha256)
    return await put_blob(transport, parcel.data), {sha256: sha256 for sha256 in parcel.apart}


async def _put(transport: Transport, data: bytes | memoryview, sha256: str) -> None:
    view = memoryview(data)

    async def pieces(offset: int) -> AsyncIterator[bytes]:
        for start in range(offset, len(view), CHUNK_BYTES):
            yield bytes(view[start : start + CHUNK_BYTES])

    if not await hand_over(transport, view, sha256):
        await upload(transport, sha256, len(view), pieces)


async def read(transport: Transport, path: str) -> bytes:
    """Return the bytes at a route."""
    return b"".join([chunk async for chunk in transport.download(path)])


async def read_results(transport: Transport, jobs: Iterable[Job]) -> dict[str, bytes]:
    """Return the pickled results of ended jobs by their SHA-256; equal ones are fetched once."""
    found: dict[str, bytes] = {}
    wanted: dict[str, str] = {}
    for job in jobs:
        if job.result is not None and job.result.data is not None:
            found[job.result.sha256] = job.result.data
        elif job.result is not None:
            wanted[job.result.sha256] = job.id
    room = asyncio.Semaphore(FETCHES)

    async def fetch(digest: str, job_id: str) -> None:
        async with room:
            found[digest] = await read(transport, f"jobs/{job_id}/result")

    async with anyio.create_task_group() as tasks:
        for digest, job_id in wanted.items():
            tasks.start_soon(fetch, digest, job_id)
    return found


def _sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()
