"""Uploads: a blob goes up in one request, or in several when the connection breaks on the way.

After a break the server is asked how much has arrived, and the rest is sent.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Callable
from urllib.parse import quote

import zstandard

from zbrain_nb.client.transport import FIRST_PAUSE_SECS, LONGEST_PAUSE_SECS, Transport
from zbrain_nb.model.errors import BlobMismatch, ServerUnreachable, Unauthorized, Unavailable, WrongOffset, ZBrainError
from zbrain_nb.model.protocol import LENGTH_HEADER, OFFSET_HEADER

log = logging.getLogger(__name__)
#: What is smaller goes in one request whatever happens.
RESUMABLE_BYTES = 8 << 20
#: What has arrived from elsewhere is gone on with when it has stood still for so long: perhaps it is being sent.
STILL_SECS = 1.0
ANSWER_SECS = 600.0
#: Whether more than this is taken is asked first: a refusal that comes meanwhile shows as a broken connection.
ANNOUNCED_BYTES = 32 << 20
#: What is smaller goes as it is.
PACKED_BYTES = 16 << 10
#: Faster than a network of 1 Gbit/s on one core, and data that do not compress pass at several times that.
PACKING_LEVEL = 1

Pieces = Callable[[int], AsyncIterator[bytes]]


async def upload(transport: Transport, sha256: str, size: int, pieces: Pieces, worker: str = "") -> None:
    """Have the server keep a blob, unless it does already.

    Parameters
    ----------
    sha256, size : str, int
        Name of the blob, and its size in bytes.
    pieces : callable
        Returns the bytes behind a given number of them, in pieces.
    worker : str
        Id of the worker that sends what a job of it leaves.

    Raises
    ------
    ServerUnreachable
        If the server stays away; what has arrived is kept there for a while.
    BlobMismatch
        If the bytes do not hash to `sha256`.
    ZBrainError
        What else the server says.
    """
    await _Sending(transport, sha256, size, pieces, worker).run()


async def put(
    transport: Transport, sha256: str, size: int, content: AsyncIterator[bytes], offset: int = 0, worker: str = ""
) -> None:
    """Send a blob, or what follows `offset` bytes of it, in one request; compressed to other machines."""
    headers = {OFFSET_HEADER: str(offset)} if offset else {}
    if size - offset >= PACKED_BYTES and not (await transport.endpoint()).is_here:
        headers |= {"Content-Encoding": "zstd", LENGTH_HEADER: str(size)}
        content = _packed(content)
    else:
        headers |= {"Content-Length": str(size - offset)}
    path = f"blobs/{sha256}" + (f"?worker={quote(worker, safe='')}" if worker else "")
    await transport.request("PUT", path, content=content, headers=headers, expect=(200, 201, 204), timeout=ANSWER_SECS)


async def _packed(content: AsyncIterator[bytes]) -> AsyncIterator[bytes]:
    packer = zstandard.ZstdCompressor(level=PACKING_LEVEL).compressobj()
    async for piece in content:
        if packed := await asyncio.to_thread(packer.compress, piece):
            yield packed
    yield packer.flush()


class _Sending:
    """One blob on its way."""

    def __init__(self, transport: Transport, sha256: str, size: int, pieces: Pieces, worker: str) -> None:
        self._transport = transport
        self._worker = worker
        self._sha256 = sha256
        self._size = size
        self._pieces = pieces
        self._sent = 0  # how far this sender itself has come
        self._arrived = 0
        self._began_at = 0  # where the request under way began

    async def run(self) -> None:
        pause, best = FIRST_PAUSE_SECS, -1
        deadline = time.monotonic() + self._transport.patience_secs
        while True:
            error: ZBrainError | None = None
            try:
                if await self._try():
                    return
            except BlobMismatch:
                if not self._began_at:
                    raise
                self._sent = 0  # what had arrived before was bad, and the server has dropped it
            except WrongOffset as conflict:
                log.info("another sends the same blob", extra={"why": conflict.message})
            except (ServerUnreachable, Unauthorized, Unavailable) as failure:
                error = failure
            if self._arrived > best:
                pause, best = FIRST_PAUSE_SECS, self._arrived
                deadline = time.monotonic() + self._transport.patience_secs
            if error is not None and (not self._sent or time.monotonic() + pause > deadline):
                raise error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECS)

    async def _try(self) -> bool:
        """Send what is missing; return False if the bytes there were not ours, and were still growing."""
        arrived = await self._ask()
        if arrived is None:
            return True
        if arrived > self._sent:
            await asyncio.sleep(STILL_SECS)
            again = await self._ask()
            if again is None:
                return True
            if again != arrived:
                return False
        if arrived > self._size:
            arrived = 0  # these are other bytes
        if self._size - arrived > ANNOUNCED_BYTES and not self._worker:
            await self._transport.request(
                "PUT", f"blobs/{self._sha256}?announce={self._size - arrived}", content=b"", expect=(204,)
            )
        self._began_at = arrived
        await put(self._transport, self._sha256, self._size, self._counted(arrived), arrived, self._worker)
        return True

    async def _ask(self) -> int | None:
        """Return how many bytes have arrived; None if all have."""
        answer = await self._transport.request("HEAD", f"blobs/{self._sha256}", expect=(200, 204, 404))
        if answer.status_code != 404:
            return None
        self._arrived = int(answer.headers.get(OFFSET_HEADER, "0"))
        return self._arrived

    async def _counted(self, offset: int) -> AsyncIterator[bytes]:
        at = offset
        async for piece in self._pieces(offset):
            at += len(piece)
            self._sent = max(self._sent, at)
            yield piece
