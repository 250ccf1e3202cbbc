"""Where things lie in a data directory (``ZDB_DATA``), and the file that says who serves it.

::

    zbrain.duckdb          the queue's database (the host alone opens it)
    zbrain.ballast         room kept for running jobs on a full disk (while the host runs)
    artifacts/             content-addressed blobs (unless ZBRAIN_ARTIFACTS names another place)
    owner.json             who serves: url, token, pid, boot id, instance (mode 0600)
    token                  the secret of this data directory, made once (mode 0600)
    secrets/               values of living jobs' secrets, encrypted
    host.lock              held by the host while it lives
    console.html           leads a browser to the console, by a code that works once (mode 0600)
    host.log               what host and local worker log
    webhooks.json          how far webhooks were told (the host alone writes it)
    worker/                the local worker's folder: its lock, spools, sockets
    hub-worker/            on JupyterHub, in a user's home: the folder of the user's own worker, and in it
                           hub.json: url and key of the Hub's service, and a token for it (mode 0600), and
                           culling.json: how long jobs keep that server from being culled
"""

from __future__ import annotations

import fcntl
import hashlib
import hmac
import os
import re
import secrets
import signal
import time
from pathlib import Path

import msgspec

from zbrain_nb.model.errors import ZBrainError

#: Tells the worker that holds ``worker.lock`` to end at once: its jobs go on, for the next worker on its folder.
LEAVE_SIGNAL = signal.SIGUSR1
HUB_FILE = "hub.json"
PROBE_TRIES = 5
_TOKEN = re.compile(r"[0-9a-f]{64}")
PROBE_PAUSE_SECS = 0.002


class Upstream(msgspec.Struct):
    """Where a queue is served.

    Attributes
    ----------
    url : str
        Root of the host, ending in ``/``; clients append ``zbrain/api/``.
    token : str
        Opens the host's routes.
    """

    url: str
    token: str


class HubUpstream(Upstream):
    """Content of ``hub.json``.

    Attributes
    ----------
    key : str
        The service's public key, by which it proves itself; empty if it is not known.
    """

    key: str = ""


class Owner(Upstream):
    """Content of ``owner.json``.

    Attributes
    ----------
    pid : int
        The host's process.
    boot_id : str
        The kernel's boot id: on another boot or machine the file speaks of nobody.
    instance : str
        Random, new for each host process.
    artifacts : str
        Folder of its artifact store; who shares the account may lay files there (see `ArtifactStore.take_file`).
    """

    pid: int
    boot_id: str
    instance: str
    artifacts: str = ""


class DataDir:
    """The paths in one data directory.

    Parameters
    ----------
    root : path
        Made, with mode 0700, if it does not exist.
    artifacts : path, optional
        Where blobs lie, if not in `root`.
    """

    def __init__(self, root: str | os.PathLike[str], artifacts: str | os.PathLike[str] | None = None) -> None:
        self.root = Path(root).expanduser().absolute()
        self.artifacts = Path(artifacts).expanduser().absolute() if artifacts else self.root / "artifacts"
        try:
            self.root.mkdir(parents=True, exist_ok=True, mode=0o700)
        except OSError as error:
            raise ZBrainError(
                f"The data directory {self.root} cannot be made: {error.strerror}.",
                "Set ZDB_DATA to a folder that you may write.",
            ) from error
        self.database = self.root / "zbrain.duckdb"
        self.owner_file = self.root / "owner.json"
        self.token_file = self.root / "token"
        self.host_lock = self.root / "host.lock"
        self.log = self.root / "host.log"
        self.told = self.root / "webhooks.json"
        self.worker = self.root / "worker"
        self.secrets = self.root / "secrets"

    def token(self) -> str:
        """Return the secret of this data directory; the first caller makes it.

        Raises
        ------
        ZBrainError
            If the file holds no secret: an empty one would open the host to everybody. If another account made it:
            it would open the host to that account.
        """
        if not self.token_file.exists():
            self._make_token()
        token = _read_own(self.token_file).decode().strip()
        if not _TOKEN.fullmatch(token):
            raise ZBrainError(
                f"{self.token_file} holds no token.",
                "Run `zbrain stop` and remove the file: a new one is made.",
            )
        return token

    def _make_token(self) -> None:
        fresh = self.root / f".token.{os.getpid()}.{secrets.token_hex(4)}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_hex(32))
            file.flush()
            os.fsync(file.fileno())
        try:
            os.link(fresh, self.token_file)
        except FileExistsError:
            pass  # another process was first: its secret holds
        finally:
            fresh.unlink()

    def read_owner(self, *, of_any_boot: bool = False) -> Owner | None:
        """Return who serves this directory, or None if nobody does (no file, or from another boot).

        With `of_any_boot`, what the file says is returned even if it was written before the last boot, or on another
        machine that shares the directory.

        Raises
        ------
        ZBrainError
            If another account made the file: code and data would go to whom it names.
        """
        try:
            owner = msgspec.json.decode(_read_own(self.owner_file), type=Owner)
        except (FileNotFoundError, PermissionError, msgspec.DecodeError, msgspec.ValidationError):
            return None
        return owner if of_any_boot or owner.boot_id == boot_id() else None

    def is_served_by(self, owner: Owner) -> bool:
        """Whether `owner` lives: its port may be another's once it is dead, but not its lock."""
        return lock_holder(self.host_lock) == owner.pid

    def write_owner(self, owner: Owner) -> None:
        """Publish who serves, in one step, readable by this account only."""
        publish(self.owner_file, owner)

    def hub_worker(self, server: str = "") -> Path:
        """Return the folder of a user's worker beside a server of JupyterHub; each named server has its own."""
        name = f"hub-worker-{hashlib.sha256(server.encode()).hexdigest()[:8]}" if server else "hub-worker"
        return self.root / name


def write_upstream(folder: Path, upstream: HubUpstream) -> None:
    """Publish to the worker on `folder` where the Hub's service is, in one step, readable by this account only."""
    folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    publish(folder / HUB_FILE, upstream)


def read_upstream(folder: Path) -> HubUpstream | None:
    """Return the Hub's service and a token for it, or None if no server of the user has named it."""
    try:
        return msgspec.json.decode(_read_own(folder / HUB_FILE), type=HubUpstream)
    except (FileNotFoundError, msgspec.DecodeError):
        return None


def publish(file: Path, content: msgspec.Struct) -> None:
    """Write `content` to a file in one step, readable by this account only."""
    fresh = file.with_suffix(f".{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "wb") as output:
        output.write(msgspec.json.encode(content))
    fresh.replace(file)


class FileLock:
    """An exclusive flock on a file that is never removed; the kernel frees it when its holder dies.

    The file holds its holder's pid (see `lock_holder`).

    Parameters
    ----------
    path : path
        Made if it does not exist; its folder must.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = Path(path)
        self._descriptor: int | None = None

    def acquire(self) -> bool:
        """Take the lock if it is free; return whether it is held now.

        Tried for some milliseconds: who asks `is_locked` holds it for a moment.
        """
        if self._descriptor is not None:
            return True
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        for _ in range(PROBE_TRIES):
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                time.sleep(PROBE_PAUSE_SECS)
        else:
            os.close(descriptor)
            return False
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
        self._descriptor = descriptor
        return True

    def release(self) -> None:
        """Give the lock back; harmless if it is not held."""
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None


def _read_own(path: Path) -> bytes:
    """Return what a file holds that this account or root made; in a folder that others may write, others make files."""
    with path.open("rb") as file:
        maker = os.fstat(file.fileno()).st_uid
        if maker not in (os.geteuid(), 0):
            raise ZBrainError(
                f"{path} was made by another account (uid {maker}), which could listen to all that is sent.",
                "Remove it, and see that nobody else may write that folder; or set ZDB_DATA to one of your own.",
            )
        return file.read()


def is_locked(path: str | os.PathLike[str]) -> bool:
    """Whether somebody holds the flock on `path`; a missing file is not locked."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def lock_holder(path: str | os.PathLike[str]) -> int | None:
    """Return the pid of the process that holds the `FileLock` on `path`, or None if nobody does.

    Cheap enough (some 10 microseconds) to be asked before each request.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        written = os.pread(descriptor, 32, 0)
        return int(written) if written.strip().isdigit() else None
    finally:
        os.close(descriptor)
    return None


def spool_path(folder: str | os.PathLike[str], job_id: str, attempt: int) -> Path:
    """Where a worker spools one attempt; the file's flock is held while the attempt's processes live."""
    return Path(folder) / "runs" / f"{job_id}.{attempt}.spool"


def boot_id() -> str:
    """Return the kernel's boot id, or the empty string where there is none."""
    try:
        return Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    except OSError:
        return ""


def proof(token: str, nonce: str) -> str:
    """Return what a host answers to `nonce`, to show that it knows the token without being told it."""
    return hmac.new(token.encode(), f"zbrain-host:{nonce}".encode(), hashlib.sha256).hexdigest()
