"""The values of jobs' secrets while the jobs live: encrypted on disk, one file for each submit, beside the database.

They stand in no spec, event, history or backup. They are written before their job is committed, given to the worker
that leases it, sealed for that worker, and removed when the job, or the last of those submitted with it, has ended;
what belongs to no living job goes at the start. The key is derived from the data directory's secret, which lies in the
same folder: that guards copies of the files, not the account.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path

import msgspec

from zbrain_nb.model.errors import DiskFloor, InvalidSpec, Malformed, ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import Lease
from zbrain_nb.model.sealing import SealingKey, Vault, seal
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.jobqueue import JobQueue

log = logging.getLogger(__name__)
_LOOK_SECS = 1.0
#: A shorter value could not be hidden in a log without hiding half of it.
SHORTEST = 4


class _Kept(msgspec.Struct):
    """What a file holds: values by name, and the jobs for which they are; which names a job has its spec says."""

    values: dict[str, str]
    job_ids: list[str]


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
        self._file_of: dict[str, str] = {}  # by job
        self._left_in: dict[str, set[str]] = {}  # the jobs for which a file is kept
        self._watching = Background(self._watch)
        queue.holds_secrets = lambda job_id: job_id in self._coming or job_id in self._held

    @property
    def public_key(self) -> str:
        """What to seal values for."""
        return self._key.public

    def prove(self, challenge: str, port: int) -> str:
        """Return what shows that this host has the key (see `SealingKey.prove`)."""
        return self._key.prove(challenge, port)

    async def start(self) -> None:
        """Find what is kept, and begin to forget what has ended; the queue is open."""
        for name, kept in (await asyncio.to_thread(self._read_all)).items():
            self._note(name, kept.job_ids)
            self._held.update(kept.job_ids)
        await self._forget_ended()
        self._watching.start()

    async def stop(self) -> None:
        """Cease to watch."""
        await self._watching.stop()

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
        given = list(jobs)
        wanted = [job for job in given if job.spec.secrets]
        for position, name in ((n, name) for n, job in enumerate(given) for name in job.spec.secrets):
            which = {"index": position} if len(given) > 1 else {}
            if name not in values:
                raise InvalidSpec(
                    f"The secret {name} came without a value.",
                    f"Set the variable {name} where you submit, or give secrets={{{name!r}: ...}}.",
                    field="secrets",
                    **which,
                )
            if len(values[name]) < SHORTEST or "\0" in values[name]:
                raise InvalidSpec(
                    f"The value of {name} has fewer than {SHORTEST} characters, or holds a NUL.",
                    "What is so short cannot be hidden in logs: pass it with env.",
                    field="secrets",
                    **which,
                )
        if not wanted:
            return []
        ids = [job.id for job in wanted]
        used = {name: values[name] for job in wanted for name in job.spec.secrets}
        self._coming.update(ids)
        self._note(ids[0], ids)
        try:
            await asyncio.to_thread(self._write, ids[0], _Kept(used, ids))
        except OSError as error:
            await self.settle(ids, ())
            raise DiskFloor(
                f"The secrets cannot be written down: {error.strerror}.", "Make room on the disk."
            ) from error
        return ids

    def _note(self, name: str, job_ids: Collection[str]) -> None:
        self._file_of.update(dict.fromkeys(job_ids, name))
        self._left_in[name] = set(job_ids)

    async def settle(self, held: Collection[str], committed: Collection[str]) -> None:
        """Hear which of the jobs whose values were kept are committed; those of the others go."""
        self._held.update(job_id for job_id in held if job_id in committed)
        await self.forget([job_id for job_id in held if job_id not in committed])
        self._coming.difference_update(held)

    async def forget(self, job_ids: Collection[str]) -> None:
        """Remove the values of jobs, as soon as no other job has the same file."""
        self._held.difference_update(job_ids)
        spent = []
        for job_id in job_ids:
            name = self._file_of.pop(job_id, None)
            if name is None:
                continue
            self._left_in[name].discard(job_id)
            if not self._left_in[name]:
                del self._left_in[name]
                spent.append(name)
        if spent:
            await asyncio.to_thread(self._remove, spent)

    async def hand_over(self, worker_id: str, lease: Lease, public_key: str | None) -> None:
        """Put the values that a leased job names into its lease, if this is the attempt that runs."""
        job = self._queue.running_attempt(lease.job.id, lease.job.attempt)
        if not lease.job.spec.secrets or public_key is None or job is None or job.worker_id != worker_id:
            return
        name = self._file_of.get(job.id)
        kept = None if name is None else await asyncio.to_thread(self._read, name)
        if kept is not None:
            values = {name: kept.values[name] for name in job.spec.secrets}
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

    def _write(self, name: str, kept: _Kept) -> None:
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        fresh = self._folder / f".{name}"
        with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "wb") as file:
            file.write(self._vault.lock(name, msgspec.json.encode(kept)))
            file.flush()
            os.fsync(file.fileno())
        fresh.replace(self._folder / name)
        descriptor = os.open(self._folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)

    def _remove(self, names: Iterable[str]) -> None:
        for name in names:
            (self._folder / name).unlink(missing_ok=True)

    def _read(self, name: str) -> _Kept | None:
        try:
            plain = self._vault.unlock(name, (self._folder / name).read_bytes())
            return None if plain is None else msgspec.json.decode(plain, type=_Kept)
        except (FileNotFoundError, msgspec.ValidationError):
            return None

    def _read_all(self) -> dict[str, _Kept]:
        """Return what all files hold; one that does not open is of no use any more, and goes."""
        try:
            names = [name for name in os.listdir(self._folder) if not name.startswith(".")]
        except FileNotFoundError:
            return {}
        found = {name: self._read(name) for name in names}
        self._remove(name for name, kept in found.items() if kept is None)
        return {name: kept for name, kept in found.items() if kept is not None}
