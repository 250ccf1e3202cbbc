"""Uploads: by file where client and server share machine and account, else through HTTP. For `AsyncClient`."""

from __future__ import annotations

import asyncio
import hashlib
import os
import tempfile
from pathlib import Path

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import NotFound

#: Less than this goes through HTTP in any case: a file costs more than it saves.
BY_FILE_BYTES = 1 << 20


async def upload(transport: Transport, data: bytes | memoryview, sha256: str | None = None) -> str:
    """Bring bytes to the server unless it has them; return their SHA-256.

    Parameters
    ----------
    transport : Transport
        To the server.
    data : bytes or memoryview
        Must not change meanwhile.
    sha256 : str, optional
        Their hash, if it is known.

    Raises
    ------
    BlobMismatch
        If the bytes changed on their way.
    DiskFloor
        If the server's disk is nearly full.
    ServerUnreachable
        If no server answers.
    """
    digest = await asyncio.to_thread(_sha256, data) if sha256 is None else sha256
    answer = await transport.request("HEAD", f"blobs/{digest}", expect=(200, 404))
    if answer.status_code == 404 and not await _hand_over(transport, data, digest):
        await transport.request(
            "PUT",
            f"blobs/{digest}",
            content=bytes(data),
            timeout=None,
            headers={"Content-Length": str(len(data))},
        )
    return digest


async def _hand_over(transport: Transport, data: bytes | memoryview, digest: str) -> bool:
    """Lay the bytes into the server's own folder; return whether it took them from there."""
    endpoint = await transport.endpoint()
    if not endpoint.artifacts or len(data) < BY_FILE_BYTES:
        return False
    try:
        file = await asyncio.to_thread(_lay, Path(endpoint.artifacts, "incoming"), data)
    except OSError:  # it is another's folder, or its disk is full: then the server's own answer says more
        return False
    try:
        await transport.request("PUT", f"blobs/{digest}?file={file.name}", content=b"", timeout=None)
    except NotFound:  # the server that answered has other folders than the one that was found
        return False
    finally:
        file.unlink(missing_ok=True)
    return True


def _lay(folder: Path, data: bytes | memoryview) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="upload-")
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            rest = memoryview(data)
            while rest:
                rest = rest[file.write(rest) :]
    except OSError:
        Path(name).unlink()
        raise
    return Path(name)


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
