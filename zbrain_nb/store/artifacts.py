"""The artifact store: files named by the SHA-256 of their bytes, written in one step and never changed.

A blob ``abcdef...`` lies at ``ab/cdef...``. It is written to a temporary file in the same filesystem, synced
and renamed, so that a name that exists has all its bytes. The calls block; the queue makes them in a thread.

Blobs that no job names are collected once they are *old*. Whoever relies on a blob makes it young first: an
upload, `has` and `missing` do, under the lock under which `remove_old` looks at the age again before it removes.
So a blob that was found here stays for as long as blobs are young, and by then a job names it or nobody does.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import stat
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import BinaryIO

import msgspec

from zbrain_nb.model.errors import BlobMismatch, DiskFloor, InvalidSpec, NotFound, ZBrainError
from zbrain_nb.store.room import Room
from zbrain_nb.store.uploads import Parts, Upload

_NAME = re.compile(r"[0-9a-f]{64}\Z")
_LAID = re.compile(r"upload-\w{1,100}\Z", re.ASCII)
_CHUNK = 1024 * 1024
#: Uploads of this size are taken on a nearly full disk too, for results of running jobs are mostly small.
SMALL_BYTES = 1 << 20


class Usage(msgspec.Struct, frozen=True):
    """What a store holds: how many blobs, their bytes together, and the bytes that its disk has left."""

    blobs: int
    size_bytes: int
    free_bytes: int


class ArtifactStore:
    """Blobs in a folder.

    Parameters
    ----------
    folder : path
        Made when the first blob is written.
    room : Room, optional
        Of the database's disk: where jobs are refused, uploads are too.
    clock : callable
        Gives seconds since the epoch.
    """

    def __init__(
        self,
        folder: str | os.PathLike[str],
        room: Room | None = None,
        clock: Callable[[], float] = time.time,
    ) -> None:
        self.folder = Path(folder).expanduser().absolute()
        self._incoming = self.folder / "incoming"
        self._parts = Parts(self._incoming, self.adopt)
        self._rooms = [Room(self.folder), *([room] if room is not None else [])]
        self._clock = clock
        self._ages = threading.Lock()

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

    def open_upload(
        self,
        expected_sha256: str | None = None,
        size_bytes: int = 0,
        *,
        owner: str | None = None,
        org_id: str | None = None,
        offset: int = 0,
    ) -> Upload:
        """Begin a blob that arrives in pieces; with `expected_sha256` its bytes have to hash to that.

        Parameters
        ----------
        size_bytes : int
            What is known of the size beforehand; past `SMALL_BYTES` it needs room above the disk's floor.
        owner : str, optional
            With an `expected_sha256` too, what has arrived when it breaks off is kept for this owner
            (`Upload.pause`, `arrived`).
        org_id : str, optional
            For whose limits it counts beside the owner's; without one it counts for nobody's.
        offset : int
            Go on behind so many bytes that are kept.

        Raises
        ------
        InvalidSpec
            If `expected_sha256` is no SHA-256.
        DiskFloor
            If the disk is nearly full.
        WrongOffset
            If other than `offset` bytes are kept.
        """
        if expected_sha256 is not None:
            self.path(expected_sha256)
        self._check_room(size_bytes)
        try:
            self._incoming.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ZBrainError(f"The artifact folder {self.folder} cannot be made: {error.strerror}.") from error
        if owner is None or expected_sha256 is None:
            return self._parts.begin(expected_sha256)
        return self._parts.begin_or_go_on(owner, org_id, expected_sha256, offset)

    def arrived(self, sha256: str, owner: str, org_id: str | None = None) -> int:
        """Return how many bytes are kept of a blob that the owner's upload of broke off; 0 if nothing is."""
        self.path(sha256)
        return self._parts.arrived(owner, org_id, sha256)

    def parts(self) -> list[Path]:
        """Return where lies what has arrived of uploads by owners."""
        return list(self._incoming.glob("part-*"))

    def take_file(self, name: str, sha256: str) -> int:
        """Keep a file that its maker, of the same account, has written into the folder ``incoming``: no copy is made.

        Parameters
        ----------
        name : str
            ``upload-`` and letters, digits and underscores; no path.
        sha256 : str
            What its bytes have to hash to.

        Returns
        -------
        int
            Its size in bytes.

        Raises
        ------
        NotFound
            If there is no such file of this account.
        BlobMismatch
            If the bytes do not hash to `sha256`; nothing is kept.
        DiskFloor
            If the disk is nearly full.
        """
        self.path(sha256)
        path = self._incoming / name
        try:
            if not _LAID.match(name):
                raise FileNotFoundError
            file = open(path, "rb", opener=_open_itself)  # noqa: SIM115 - closed by the next `with`
        except OSError as error:
            raise NotFound(f"No file {name[:80]!r} was laid into the artifact store.") from error
        with file:
            found = os.fstat(file.fileno())
            if not stat.S_ISREG(found.st_mode) or found.st_uid != os.geteuid() or found.st_nlink != 1:
                raise NotFound(f"{name!r} is no plain file of this account.")
            self._check_room(found.st_size)
            digest = hashlib.file_digest(file, "sha256").hexdigest()
            if digest != sha256:
                raise _mismatch(digest, sha256)
            os.fchmod(file.fileno(), 0o400)
            os.fsync(file.fileno())
            self.adopt(path, sha256)
        return found.st_size

    def _check_room(self, size_bytes: int) -> None:
        if size_bytes > SMALL_BYTES and any(room.is_low() for room in self._rooms):
            raise DiskFloor("The disk is nearly full: the queue takes no more files.", "Make room, then send it again.")

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
        """Whether the blob is here; if so, it is young now."""
        path, now = self.path(sha256), self._clock()
        with self._ages:
            try:
                os.utime(path, (now, now))
            except FileNotFoundError:
                return False
        return True

    def missing(self, names: list[str]) -> list[str]:
        """Return those of `names` that are not here, in order; the others are young now (see `has`)."""
        return [name for name in names if not self.has(name)]

    def gone(self, names: Iterable[str]) -> list[str]:
        """Return those of `names` that are not here; none becomes young by that."""
        return [name for name in names if not self.path(name).exists()]

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

    def old(self, before: float) -> Iterator[str]:
        """Yield the blobs that nobody has relied on since `before` (seconds since the epoch), in order."""
        for sha256 in self:
            try:
                if self.path(sha256).stat().st_mtime < before:
                    yield sha256
            except FileNotFoundError:
                continue

    def remove_old(self, names: Iterable[str], before: float) -> int:
        """Remove those of the blobs that nobody has relied on since `before`; return how many."""
        removed = 0
        for sha256 in names:
            path = self.path(sha256)
            with self._ages:
                try:
                    if path.stat().st_mtime >= before:
                        continue
                    path.unlink()
                except FileNotFoundError:
                    continue
            removed += 1
        return removed

    def remove_abandoned(self, before: float) -> int:
        """Remove what a crash, or a sender that never came back, left of uploads before `before`; return how many."""
        removed = 0
        for file in [*self._incoming.glob("upload-*"), *self._incoming.glob("part-*")]:
            try:
                if file.stat().st_mtime < before:
                    file.unlink()
                    removed += 1
            except FileNotFoundError:  # it was committed or given up
                continue
        return removed

    def adopt(self, file: Path, sha256: str) -> None:
        """Put a whole, synced file in place as a blob, young."""
        target, now = self.path(sha256), self._clock()
        target.parent.mkdir(exist_ok=True, mode=0o700)
        with self._ages:
            file.replace(target)
            os.utime(target, (now, now))
        for folder in (target.parent, self.folder):
            _sync_folder(folder)

    def usage(self) -> Usage:
        """Add up what is here, by looking at each file."""
        blobs = size = 0
        for folder in self.folder.glob("[0-9a-f][0-9a-f]"):
            with os.scandir(folder) as files:
                for file in files:
                    with contextlib.suppress(FileNotFoundError):  # it was removed meanwhile
                        size += file.stat(follow_symlinks=False).st_size
                        blobs += 1
        return Usage(blobs, size, self._rooms[0].free_bytes())

    def __iter__(self) -> Iterator[str]:
        for folder in sorted(self.folder.glob("[0-9a-f][0-9a-f]")):
            for file in sorted(folder.iterdir()):
                if _NAME.match(folder.name + file.name):
                    yield folder.name + file.name


def _open_itself(path: str, flags: int) -> int:
    """Open what lies there, not what a link leads to, and do not wait at a pipe."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK)


def _mismatch(sha256: str, expected: str) -> BlobMismatch:
    return BlobMismatch(f"The bytes hash to {sha256}, not to {expected}.", sha256=sha256)


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
