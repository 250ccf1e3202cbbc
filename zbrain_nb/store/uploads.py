"""Blobs on their way into the artifact store, and what is kept of those that broke off.

Of an upload by an owner, under the hash it shall have, what has arrived stays for a while when its sender goes away
(``incoming/part-OWNER-ORG-SHA256``): the sender asks how far it came and sends the rest. No owner hears of the parts of
another. One upload at a time writes to a part; who goes on exactly where it stands displaces who wrote before, for a
sender that comes back is often here before its broken connection is noticed. Who begins while another sends the
same gets a file of its own. The hash is that of the whole file, whoever sent which piece.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
import threading
from collections.abc import Callable
from pathlib import Path
from typing import IO, BinaryIO

from zbrain_nb.model.errors import BlobMismatch, WrongOffset

_CHUNK = 1024 * 1024
#: Less than this is sent again rather than kept.
KEPT_BYTES = 1 << 20
#: Stands for the org of uploads that count for nobody.
_NO_ORG = "0" * 16


class Upload:
    """A blob on its way in; as a context manager it is removed unless it was committed.

    Parameters
    ----------
    file : binary file
        Written to; its bytes so far count.
    path : Path
        Its name.
    expected_sha256 : str, optional
        What the whole has to hash to.
    adopt : callable
        Takes path and hash of a whole, synced file: puts it in place.
    over : callable, optional
        Called when it is committed, aborted, paused or displaced.
    size_bytes : int
        How much the file holds already (see `read_so_far`).
    """

    def __init__(
        self,
        file: IO[bytes],
        path: Path,
        expected_sha256: str | None,
        adopt: Callable[[Path, str], None],
        over: Callable[[Upload], None] | None = None,
        size_bytes: int = 0,
    ) -> None:
        self.path = path
        self.size_bytes = size_bytes
        self._file = file
        self._expected = expected_sha256
        self._adopt = adopt
        self._over = over
        self._hash = hashlib.sha256()
        self._turn = threading.Lock()
        self._is_displaced = False

    def __enter__(self) -> Upload:
        return self

    def __exit__(self, *_: object) -> None:
        self.abort()

    def read_so_far(self) -> None:
        """Take what the file holds already into the hash.

        Raises
        ------
        WrongOffset
            If another connection goes on with this upload.
        """
        with self._turn:
            self._check()
            self._file.seek(0)
            while chunk := self._file.read(_CHUNK):
                self._hash.update(chunk)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`.

        Raises
        ------
        WrongOffset
            If another connection goes on with this upload.
        """
        with self._turn:
            self._check()
            self._file.write(chunk)
            self._hash.update(chunk)
            self.size_bytes += len(chunk)

    def commit(self) -> tuple[str, int]:
        """Make the blob durable under its name; return its SHA-256 and its size in bytes.

        Raises
        ------
        BlobMismatch
            If the bytes do not hash to the expected name; nothing is kept.
        WrongOffset
            If another connection goes on with this upload.
        """
        sha256 = self._hash.hexdigest()
        if self._expected is not None and sha256 != self._expected:
            with self._turn:
                self._check()
            self.abort()
            raise BlobMismatch(f"The bytes hash to {sha256}, not to {self._expected}.", sha256=sha256)
        with self._turn:
            self._check()
            self._file.flush()
            os.fchmod(self._file.fileno(), 0o400)
            os.fsync(self._file.fileno())
            self._file.close()
            self._adopt(self.path, sha256)
        self._end()
        return sha256, self.size_bytes

    def abort(self) -> None:
        """Forget the blob; harmless after `commit`."""
        with self._turn:
            self._file.close()
            if not self._is_displaced:
                self.path.unlink(missing_ok=True)
        self._end()

    def pause(self) -> None:
        """Keep what has arrived, if it is worth it and can be gone on with; harmless after `commit`."""
        if self._over is None or self.size_bytes < KEPT_BYTES:
            self.abort()
            return
        with self._turn:
            self._file.close()
        self._end()

    def displace(self) -> None:
        """Hear that another connection goes on with it: what arrives here from now on is refused."""
        with self._turn:
            self._is_displaced = True
            self._file.close()
        self._end()

    def _check(self) -> None:
        if self._is_displaced:
            raise WrongOffset("Another connection goes on with this upload.", "Ask how far it has come.")

    def _end(self) -> None:
        if self._over is not None:
            self._over(self)


class Parts:
    """What has arrived of uploads that may be gone on with.

    Parameters
    ----------
    folder : Path
        Where they lie.
    adopt : callable
        See `Upload`.
    """

    def __init__(self, folder: Path, adopt: Callable[[Path, str], None]) -> None:
        self._folder = folder
        self._adopt = adopt
        self._open: dict[Path, Upload] = {}
        self._lock = threading.Lock()

    def begin(self, expected_sha256: str | None) -> Upload:
        """Begin an upload that ends with its connection."""
        descriptor, name = tempfile.mkstemp(dir=self._folder, prefix="upload-")
        return Upload(os.fdopen(descriptor, "wb"), Path(name), expected_sha256, self._adopt)

    def begin_or_go_on(self, owner: str, org_id: str | None, sha256: str, offset: int) -> Upload:
        """Begin an upload that may be gone on with, or go on at `offset` bytes with what has arrived of it.

        Raises
        ------
        WrongOffset
            If `offset` is neither 0 nor what has arrived; ``details["offset"]`` is.
        """
        path = self._path(owner, org_id, sha256)
        other = self._open.get(path)
        if other is not None and other.size_bytes == offset > 0:
            other.displace()
        with self._lock:
            other = self._open.get(path)
            if other is not None and not offset:
                return self.begin(sha256)
            arrived = other.size_bytes if other is not None else size_of(path)
            if other is not None or offset not in (0, arrived):
                raise WrongOffset(
                    f"{arrived:,} bytes of this blob are here, not {offset:,}.", "Go on from there.", offset=arrived
                )
            flags = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | (0 if offset else os.O_TRUNC)
            file: BinaryIO = open(os.open(path, flags, 0o600), "r+b")  # noqa: SIM115 - it belongs to the upload
            upload = self._open[path] = Upload(file, path, sha256, self._adopt, self._forget, offset)
        upload.read_so_far()
        return upload

    def arrived(self, owner: str, org_id: str | None, sha256: str) -> int:
        """Return how many bytes of an owner's upload are here."""
        path = self._path(owner, org_id, sha256)
        upload = self._open.get(path)
        return upload.size_bytes if upload is not None else size_of(path)

    def _path(self, owner: str, org_id: str | None, sha256: str) -> Path:
        org = _NO_ORG if org_id is None else short_name(org_id)
        return self._folder / f"part-{short_name(owner)}-{org}-{sha256}"

    def _forget(self, upload: Upload) -> None:
        with self._lock:
            if self._open.get(upload.path) is upload:
                del self._open[upload.path]


def short_name(name: str) -> str:
    """Return what stands for an org or owner in the names of files."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def accounts_of(part: Path) -> tuple[str, str] | None:
    """Return the org and the owner (as `short_name` makes them) for whom a part counts; None if it does for nobody."""
    _, owner, *rest = part.name.split("-")
    return (rest[0], owner) if len(rest) == 2 and rest[0] != _NO_ORG else None


def size_of(path: Path) -> int:
    """Return the size of a file in bytes, 0 if there is none."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0
