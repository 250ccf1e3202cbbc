"""Downloads: bytes go to a file beside the target as they come, which takes its place once its hash is right."""

from __future__ import annotations

import fcntl
import hashlib
import os
from pathlib import Path
from typing import BinaryIO

import anyio.to_thread

from zbrain_nb.client.transport import CHUNK_BYTES, Transport
from zbrain_nb.model.errors import BlobMismatch
from zbrain_nb.model.job import JobArtifact


async def download(transport: Transport, path: str, artifact: JobArtifact, target: Path) -> None:
    """Write the bytes at a route to a file, which appears only once it is whole.

    What a download that was given up has left beside `target` is gone on with.

    Raises
    ------
    ServerUnreachable
        If the server stays away.
    BlobMismatch
        If other bytes arrive than `artifact` says; nothing of them stays.
    OSError
        If they cannot be written.
    """
    part = await anyio.to_thread.run_sync(_Part, target, artifact)
    try:
        if part.size < artifact.size:
            async for chunk in transport.download(path, part.size):
                await anyio.to_thread.run_sync(part.append, chunk)
        await anyio.to_thread.run_sync(part.finish)
    finally:
        part.close()


class _Part:
    """What has arrived of a file; locked, so that two downloads of it do not write into one."""

    def __init__(self, target: Path, artifact: JobArtifact) -> None:
        self._target = target
        self._artifact = artifact
        self._path = target.with_name(f".{target.name[:100]}.{artifact.sha256[:16]}.part")
        self._file = _open(self._path)
        try:
            fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self._file.close()
            self._path = self._path.with_suffix(f".{os.getpid()}-{id(self)}.part")
            self._file = _open(self._path)
        self._hash = hashlib.sha256()
        self.size = 0
        while data := self._file.read(CHUNK_BYTES):
            self._hash.update(data)
            self.size += len(data)
        if self.size > artifact.size:
            self._forget()

    def append(self, data: bytes) -> None:
        self._file.write(data)
        self._hash.update(data)
        self.size += len(data)

    def finish(self) -> None:
        self._file.flush()
        if self._hash.hexdigest() != self._artifact.sha256:
            self._forget()
            raise BlobMismatch(
                f"{self._artifact.name!r} arrived with other bytes than the job left; they were removed.", "Try again."
            )
        self._path.replace(self._target)

    def _forget(self) -> None:
        self._file.seek(0)
        self._file.truncate()
        self._hash = hashlib.sha256()
        self.size = 0

    def close(self) -> None:
        self._file.flush()
        if self.size == 0:
            self._path.unlink(missing_ok=True)
        self._file.close()


def _open(path: Path) -> BinaryIO:
    return open(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666), "r+b")
