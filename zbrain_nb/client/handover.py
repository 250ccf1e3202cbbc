"""Hands bytes over by file, where client and server share machine and account. Called by `AsyncClient`."""

from __future__ import annotations

import asyncio
import os
import tempfile
from pathlib import Path

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import Forbidden, NotFound

#: Less than this goes through HTTP in any case: a file costs more than it saves.
BY_FILE_BYTES = 1 << 20


async def hand_over(transport: Transport, data: memoryview, sha256: str) -> bool:
    """Have the server keep a blob by laying it into its own folder, unless it has it.

    Parameters
    ----------
    transport : Transport
        To the server.
    data : memoryview
        Bytes, which must not change meanwhile.
    sha256 : str
        What they hash to.

    Returns
    -------
    bool
        Whether the server has it now; if not, it has to be uploaded.

    Raises
    ------
    BlobMismatch
        If the bytes changed meanwhile.
    DiskFloor
        If the server's disk is nearly full.
    """
    endpoint = await transport.endpoint()
    if not endpoint.artifacts or len(data) < BY_FILE_BYTES:
        return False
    if (await transport.request("HEAD", f"blobs/{sha256}", expect=(200, 404))).status_code == 200:
        return True
    try:
        file = await asyncio.to_thread(_lay, Path(endpoint.artifacts, "incoming"), data)
    except OSError:  # it is another's folder, or its disk is full: then the server's own answer says more
        return False
    try:
        await transport.request("PUT", f"blobs/{sha256}?file={file.name}", content=b"", timeout=None)
    except (NotFound, Forbidden):  # its folders are not those that were found, or not for who asks
        return False
    finally:
        file.unlink(missing_ok=True)
    return True


def _lay(folder: Path, data: memoryview) -> Path:
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    descriptor, name = tempfile.mkstemp(dir=folder, prefix="upload-")
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            rest = data
            while rest:
                rest = rest[file.write(rest) :]
    except OSError:
        Path(name).unlink()
        raise
    return Path(name)
