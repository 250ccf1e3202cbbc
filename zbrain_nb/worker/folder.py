"""The worker's folder: names of what lies in it, and the launching of attempts through its spawner.

::

    id             who this worker is, for ever
    worker.lock    held by the worker, spawner.lock by the spawner
    worker.sock    wakes the worker, spawner.sock takes requests
    lease.json     the lease request under way
    checkpoints/   what jobs keep for their next attempt, by job
    blobs/         inputs of jobs, by SHA-256
    runs/          of each attempt: lease (.job), request (.json), spool (.spool), outbox (.out/), and, if the
                   clock may end it, its fence (.fence); of each session of calls its order book (.orders) too
"""

from __future__ import annotations

import contextlib
import os
import re
import secrets
import shutil
import signal
import socket
import sys
from pathlib import Path

from zbrain_nb.model.datadir import FileLock, is_locked, lock_holder, spool_path
from zbrain_nb.worker.calls import SESSION_PREFIX
from zbrain_nb.worker.checkpoints import Checkpoints
from zbrain_nb.worker.environment import spawner_environment
from zbrain_nb.worker.fence import fence_path
from zbrain_nb.worker.request import RunRequest, write_private, write_request
from zbrain_nb.worker.sockets import ARE_YOU_THERE, Post

_NAME = re.compile(r"(.+)\.(\d+)\.(job|json|orders|spool|out)\Z")


class WorkerFolder:
    """One worker's folder; made, with mode 0700, if it does not exist."""

    def __init__(self, root: str | os.PathLike[str]) -> None:
        self.root = Path(root).expanduser().absolute()
        self.runs = self.root / "runs"
        self.blobs = self.root / "blobs"
        for folder in (self.root, self.runs, self.blobs):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        self.checkpoints = Checkpoints(self.root / "checkpoints")
        self.lock = FileLock(self.root / "worker.lock")
        self.lease_file = self.root / "lease.json"

    def worker_id(self) -> str:
        """Return this worker's lasting id; the first call makes it."""
        file = self.root / "id"
        with contextlib.suppress(FileNotFoundError):
            if text := file.read_text().strip():
                return text
        host = re.sub(r"[^A-Za-z0-9-]+", "-", socket.gethostname())[:40] or "host"
        fresh = f"local-{host}-{secrets.token_hex(4)}"
        write_private(file, fresh.encode())
        return fresh

    def lease_path(self, job_id: str, attempt: int) -> Path:
        """Where the lease of an attempt lies: with it, a new worker can prepare the attempt again."""
        return self.runs / f"{job_id}.{attempt}.job"

    def request_path(self, job_id: str, attempt: int) -> Path:
        """Where the request of an attempt lies."""
        return self.runs / f"{job_id}.{attempt}.json"

    def spool_path(self, job_id: str, attempt: int) -> Path:
        """Where the spool of an attempt lies."""
        return spool_path(self.root, job_id, attempt)

    def outbox(self, job_id: str, attempt: int) -> Path:
        """Where an attempt leaves its results."""
        return self.runs / f"{job_id}.{attempt}.out"

    def attempts(self) -> set[tuple[str, int]]:
        """Return the attempts that anything lies here of."""
        found = (_NAME.match(name) for name in os.listdir(self.runs))
        named = {(match[1], int(match[2])) for match in found if match and not match[1].startswith(".")}
        return {(job_id, attempt) for job_id, attempt in named if not job_id.startswith(SESSION_PREFIX)}

    def sessions(self) -> list[str]:
        """Return the sessions of calls that anything lies here of, in order."""
        found = (_NAME.match(name) for name in os.listdir(self.runs))
        return sorted({match[1] for match in found if match and match[1].startswith(SESSION_PREFIX)})

    def orders_path(self, session_id: str) -> Path:
        """Where the order book of a session of calls lies."""
        return self.runs / f"{session_id}.0.orders"

    @staticmethod
    def remove_outbox(outbox: str) -> None:
        """Remove the outbox of one call of a session."""
        if outbox:
            shutil.rmtree(outbox, ignore_errors=True)

    def remove(self, request: RunRequest | None, job_id: str, attempt: int) -> None:
        """Remove all that lies here of an attempt; the spool last, for it says that the attempt was there."""
        if request is not None and request.scratch is not None:
            shutil.rmtree(request.scratch, ignore_errors=True)
        if request is not None and request.is_last:
            with contextlib.suppress(OSError):  # it holds something
                os.rmdir(request.checkpoints)
        shutil.rmtree(self.outbox(job_id, attempt), ignore_errors=True)
        self.request_path(job_id, attempt).unlink(missing_ok=True)
        self.lease_path(job_id, attempt).unlink(missing_ok=True)
        fence_path(self.root, job_id, attempt).unlink(missing_ok=True)
        self.orders_path(job_id).unlink(missing_ok=True)
        self.spool_path(job_id, attempt).unlink(missing_ok=True)


class Launcher:
    """Hands requests to the folder's spawner, and starts one when there is none.

    Parameters
    ----------
    folder : WorkerFolder
        Whose spawner.
    warm : list of str
        Interpreters whose zygotes start with the spawner.
    linger_secs : float
        How long a spawner stays when nobody needs it.
    tied : bool
        Its jobs shall not outlive the worker.
    pooled : bool
        Processes of cells and functions are forked from warm ones.
    """

    def __init__(
        self,
        folder: WorkerFolder,
        *,
        warm: list[str],
        linger_secs: float = 30.0,
        tied: bool = False,
        pooled: bool = True,
    ) -> None:
        self._folder = folder
        self._warm = warm
        self._linger = linger_secs
        self._tied = tied
        self._pooled = pooled
        self._post = Post(folder.root, "spawner.sock")
        self._children: set[int] = set()
        #: Grows with each spawner that is started; requests sent before then may be lost.
        self.generation = 0

    def ensure_spawner(self) -> None:
        """Start a spawner if the folder has none."""
        self._reap()
        if is_locked(self._folder.root / "spawner.lock") or self._children:
            return
        self.generation += 1
        arguments = [sys.executable, "-P", "-m", "zbrain_nb.worker.spawner", str(self._folder.root)]
        arguments += ["--linger", str(self._linger)]
        if self._tied:
            arguments.append("--tied")
        for python in self._warm:
            arguments += ["--warm", python]
        log = os.open(self._folder.root / "spawner.log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600)
        try:
            # spawned, not forked: the worker has threads; in a session of its own: it outlives the worker
            pid = os.posix_spawn(
                sys.executable,
                arguments,
                spawner_environment(),
                file_actions=[
                    (os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0),
                    (os.POSIX_SPAWN_DUP2, log, 1),
                    (os.POSIX_SPAWN_DUP2, log, 2),
                ],
                setsid=True,
            )
        finally:
            os.close(log)
        self._children.add(pid)

    def write(self, request: RunRequest, job_input: bytes) -> None:
        """Write the request of an attempt with its outbox; it is not launched yet."""
        wanted = (request.outbox, request.artifacts_path, request.scratch, request.checkpoints)
        for folder in map(Path, filter(None, wanted)):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        Path(request.input_path).write_bytes(job_input)
        request.is_pooled = self._pooled
        write_request(self._folder.request_path(*request.key), request)

    def send(self, job_id: str, attempt: int) -> bool:
        """Hand a written request to the spawner; return whether it was taken."""
        return self._post.send(self._folder.request_path(job_id, attempt).name.encode())

    def ask(self, token: bytes = b"") -> None:
        """Ask the spawner whether it is there; it answers at ``worker.sock``.

        With a token, of up to 15 bytes, it kills what has lost its supervisor before it answers.
        """
        self._post.send(ARE_YOU_THERE + token)

    def replace_spawner(self) -> None:
        """Kill a spawner that does not answer, so that another can start; what runs goes on."""
        lock = self._folder.root / "spawner.lock"
        pid = lock_holder(lock)
        if pid is None:
            return
        with contextlib.suppress(ProcessLookupError):
            descriptor = os.pidfd_open(pid)
            try:
                if lock_holder(lock) == pid:  # else the pid may be a stranger's by now
                    signal.pidfd_send_signal(descriptor, signal.SIGKILL)
            finally:
                os.close(descriptor)

    def _reap(self) -> None:
        for pid in list(self._children):
            try:
                ended, _ = os.waitpid(pid, os.WNOHANG)
            except ChildProcessError:
                ended = pid
            if ended:
                self._children.discard(pid)

    def close(self) -> None:
        """Close the socket; the spawner goes on."""
        self._post.close()
