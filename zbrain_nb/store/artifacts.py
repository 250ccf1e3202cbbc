"""The artifact store: files named by the SHA-256 of their bytes, written in one step and never changed.

A blob ``abcdef...`` lies at ``ab/cdef...``. It is written to a temporary file in the same filesystem, synced
and renamed, so that a name that exists has all its bytes. The calls block; the queue makes them in a thread.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from zbrain_nb.model.errors import BlobMismatch, InvalidSpec, NotFound, ZBrainError

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_CHUNK = 1024 * 1024


class ArtifactStore:
    """Blobs in a folder.

    Parameters
    ----------
    folder : path
        Made when the first blob is written.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._incoming = self.folder / "incoming"

    def put_file(self, path: str | os.PathLike[str]) -> tuple[str, int]:
        """Copy the file at `path` in; return its SHA-256 and its size in bytes.

        Raises
        ------
        OSError
            If it cannot be read or the disk is full.
        """
        with Path(path).open("rb") as source, self.open_upload() as upload:
            while chunk := source.read(_CHUNK):
                upload.write(chunk)
            return upload.commit()

    def put_bytes(self, data: bytes) -> tuple[str, int]:
        """Keep `data`; return its SHA-256 and its size in bytes."""
        with self.open_upload() as upload:
            upload.write(data)
            return upload.commit()

    def open_upload(self, expected_sha256: str | None = None) -> Upload:
        """Begin a blob that arrives in pieces; with `expected_sha256` its bytes have to hash to that.

        Raises
        ------
        InvalidSpec
            If `expected_sha256` is no SHA-256.
        """
        if expected_sha256 is not None:
            self.path(expected_sha256)
        try:
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ZBrainError(f"The artifact folder {self.folder} cannot be made: {error.strerror}.") from error
        return Upload(self, self._incoming, expected_sha256)

    def path(self, sha256: str) -> Path:
        """Return where the blob lies, or would lie.

        Raises
        ------
        InvalidSpec
            If `sha256` is not 64 lower-case hexadecimal digits; so no name leads out of the folder.
        """
        if not isinstance(sha256, str) or not _NAME.match(sha256):
            raise InvalidSpec(f"{str(sha256)[:80]!r} is no SHA-256.", field="sha256")
        return self.folder / sha256[:2] / sha256[2:]

    def has(self, sha256: str) -> bool:
        """Whether the blob is here."""
        return self.path(sha256).is_file()

    def missing(self, names: list[str]) -> list[str]:
        """Return those of `names` that are not here, in order."""
        return [name for name in names if not self.has(name)]

    def size(self, sha256: str) -> int:
        """Return the blob's size in bytes.

        Raises
        ------
        NotFound
            If it is not here.
        """
        try:
            return self.path(sha256).stat().st_size
        except FileNotFoundError as error:
            raise NotFound(f"No blob {sha256[:12]}… is stored.") from error

    def open(self, sha256: str) -> BinaryIO:
        """Open the blob for reading, after its bytes were checked against its name.

        Raises
        ------
        NotFound
            If it is not here.
        BlobMismatch
            If the disk no longer holds what was stored.
        """
        try:
            file = self.path(sha256).open("rb")
        except FileNotFoundError as error:
            raise NotFound(f"No blob {sha256[:12]}… is stored.") from error
        if hashlib.file_digest(file, "sha256").hexdigest() != sha256:
            file.close()
            raise BlobMismatch(f"The stored blob {sha256[:12]}… is damaged.", "Restore it from a backup.")
        file.seek(0)
        return file

    def read(self, sha256: str) -> bytes:
        """Return the blob's bytes, checked (see `open`)."""
        with self.open(sha256) as file:
            return file.read()

    def __iter__(self) -> Iterator[str]:
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for file in sorted(folder.iterdir()):
                if _NAME.match(folder.name + file.name):
                    yield folder.name + file.name


class Upload:
    """A blob on its way in; as a context manager it is removed unless it was committed."""

    def __init__(self, store: ArtifactStore, folder: Path, expected_sha256: str | None) -> None:
        self._store = store
        self._expected = expected_sha256
        self._hash = hashlib.sha256()
        self.size_bytes = 0
        descriptor, name = tempfile.mkstemp(dir=folder, prefix="upload-")
        self._path = Path(name)
        self._file = os.fdopen(descriptor, "wb")

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def write(self, chunk: bytes) -> None:
        """Append `chunk`."""
        self._file.write(chunk)
        self._hash.update(chunk)
        self.size_bytes += len(chunk)

    def commit(self) -> tuple[str, int]:
        """Make the blob durable under its name; return its SHA-256 and its size in bytes.

        Raises
        ------
        BlobMismatch
            If the bytes do not hash to the expected name; nothing is kept.
        """
        sha256 = self._hash.hexdigest()
        if self._expected is not None and sha256 != self._expected:
            self.abort()
            raise BlobMismatch(f"The bytes hash to {sha256}, not to {self._expected}.", sha256=sha256)
        self._file.flush()
        os.fchmod(self._file.fileno(), 0o400)
        os.fsync(self._file.fileno())
        self._file.close()
        target = self._store.path(sha256)
        target.parent.mkdir(exist_ok=True, mode=0o700)
        self._path.replace(target)
        for folder in (target.parent, self._store.folder):
            _sync_folder(folder)
        return sha256, self.size_bytes

    def abort(self) -> None:
        """Forget the blob; harmless after `commit`."""
        self._file.close()
        self._path.unlink(missing_ok=True)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
