"""The values of jobs' secrets while the jobs live: encrypted on disk, one file for each job, beside the database.

They stand in no spec, event, history or backup. They are written before their job is committed, given to the worker
that leases it, sealed for that worker, and removed when the job has ended; what belongs to no living job goes at the
start. The key is derived from the data directory's secret, which lies in the same folder: that guards copies of the
files, not the account.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

from zbrain_nb.model.errors import DiskFloor, InvalidSpec, Malformed, ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import Lease
from zbrain_nb.model.sealing import SealingKey, Vault, seal
from zbrain_nb.queue.jobqueue import JobQueue

log = logging.getLogger(__name__)
_LOOK_SECS = 1.0
#: A shorter value could not be hidden in a log without hiding half of it.
SHORTEST = 4


class Secrets:
    """Keeps the values of secrets.

    Parameters
    ----------
    folder : Path
        Where; made when it is needed.
    secret : str
        The data directory's.
    queue : JobQueue
        Whose jobs; it accepts jobs with secrets from now on.
    """

    def __init__(self, folder: Path, secret: str, queue: JobQueue) -> None:
        self._folder = folder
        self._queue = queue
        self._vault = Vault(secret)
        self._key = SealingKey(secret)
        self._coming: set[str] = set()  # written, and not committed yet
        self._held: set[str] = set()
        self._task: asyncio.Task[None] | None = None
        queue.holds_secrets = lambda job_id: job_id in self._coming or job_id in self._held

    @property
    def public_key(self) -> str:
        """What to seal values for."""
        return self._key.public

    async def start(self) -> None:
        """Find what is kept, and begin to forget what has ended; the queue is open."""
        with contextlib.suppress(FileNotFoundError):
            self._held.update(name for name in os.listdir(self._folder) if not name.startswith("."))
        await self._forget_ended()
        self._task = asyncio.ensure_future(self._watch())

    async def stop(self) -> None:
        """Cease to watch."""
        if self._task is not None:
            self._task.cancel()
            await asyncio.gather(self._task, return_exceptions=True)
            self._task = None

    def open(self, sealed: str | None) -> dict[str, str]:
        """Return the values that came with a request; none if nothing came.

        Raises
        ------
        Malformed
            If they were not sealed for this host.
        """
        return self._key.open(sealed) if sealed else {}

    async def keep(self, jobs: Iterable[Job], values: Mapping[str, str]) -> list[str]:
        """Write down what the jobs name, before they are committed; return the ids of those that name any.

        Raises
        ------
        InvalidSpec
            If a value is missing, or too short to be hidden.
        """
        wanted = [job for job in jobs if job.spec.secrets]
        for name in (name for job in wanted for name in job.spec.secrets):
            if name not in values:
                raise InvalidSpec(
                    f"The secret {name} came without a value.",
                    f"Set the variable {name} where you submit, or give secrets={{{name!r}: ...}}.",
                    field="secrets",
                )
            if len(values[name]) < SHORTEST or "\0" in values[name]:
                raise InvalidSpec(
                    f"The value of {name} has fewer than {SHORTEST} characters, or holds a NUL.",
                    "What is so short cannot be hidden in logs: pass it with env.",
                    field="secrets",
                )
        locked = {job.id: self._vault.lock(job.id, {name: values[name] for name in job.spec.secrets}) for job in wanted}
        self._coming.update(locked)
        try:
            await asyncio.to_thread(self._write, locked)
        except OSError as error:
            await self.settle(list(locked), ())
            raise DiskFloor(
                f"The secrets cannot be written down: {error.strerror}.", "Make room on the disk."
            ) from error
        return list(locked)

    async def settle(self, held: Collection[str], committed: Collection[str]) -> None:
        """Hear which of the jobs whose values were kept are committed; those of the others go."""
        self._held.update(job_id for job_id in held if job_id in committed)
        await self.forget([job_id for job_id in held if job_id not in committed])
        self._coming.difference_update(held)

    async def forget(self, job_ids: Collection[str]) -> None:
        """Remove the values of jobs."""
        self._held.difference_update(job_ids)
        await asyncio.to_thread(self._remove, list(job_ids))

    async def hand_over(self, worker_id: str, lease: Lease, public_key: str | None) -> None:
        """Put the values that a leased job names into its lease, if this is the attempt that runs."""
        job = self._queue.running_attempt(lease.job.id, lease.job.attempt)
        if not lease.job.spec.secrets or public_key is None or job is None or job.worker_id != worker_id:
            return
        values = await asyncio.to_thread(self._read, job.id)
        if values is not None:
            with contextlib.suppress(Malformed):  # what is no key gets nothing
                lease.sealed = seal(public_key, values)

    async def _watch(self) -> None:
        while True:
            await asyncio.sleep(_LOOK_SECS)
            try:
                await self._forget_ended()
            except (ZBrainError, OSError) as error:
                log.warning("secrets of ended jobs could not be removed", extra={"why": str(error)})

    async def _forget_ended(self) -> None:
        ended = [job_id for job_id in list(self._held) if await self._queue.is_over(job_id)]
        if ended:
            await self.forget(ended)

    def _write(self, locked: Mapping[str, bytes]) -> None:
        if not locked:
            return
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        for job_id, content in locked.items():
            fresh = self._folder / f".{job_id}"
            with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(self._folder / job_id)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove(self, job_ids: Iterable[str]) -> None:
        for job_id in job_ids:
            (self._folder / job_id).unlink(missing_ok=True)

    def _read(self, job_id: str) -> dict[str, str] | None:
        try:
            return self._vault.unlock(job_id, (self._folder / job_id).read_bytes())
        except FileNotFoundError:
            return None
