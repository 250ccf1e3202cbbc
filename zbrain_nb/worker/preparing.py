"""Makes the request of a leased job: its inputs at hand, its folders and its environment named."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from weakref import WeakValueDictionary

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.kernels import Kernel, UnusableKernel, find_kernel
from zbrain_nb.model.limits import GRACE_SECS
from zbrain_nb.model.payload import Reader
from zbrain_nb.model.protocol import Lease
from zbrain_nb.worker.environment import job_environment
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.patience import Patience, is_passing
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.warmth import modules_of

CACHE_BYTES = 4 << 30


class SecretsGone(ZBrainError):
    """The values of a job's secrets are kept nowhere any more, after a restore from a backup, say."""

    code = "secrets_gone"


class Preparer:
    """Prepares jobs of one worker.

    Parameters
    ----------
    folder : WorkerFolder
        Where they run; inputs are kept in its cache.
    link : Link or None
        Where inputs come from; None for jobs without any.
    temp_dir : str, optional
        Where jobs without a ``cwd`` get their fresh folder, if not in their outbox.
    """

    def __init__(self, folder: WorkerFolder, link: Link | None, temp_dir: str | None = None) -> None:
        self._folder = folder
        self._link = link
        self._temp_dir = temp_dir
        #: Of blobs on their way: many jobs leased together may read the same, and it comes, or is hashed, once.
        self._coming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: The queue's artifact store, where it can be read: then inputs are not copied.
        self.blobs: Path | None = None

    async def prepare(self, lease: Lease) -> RunRequest:
        """Return the request of a leased job.

        Raises
        ------
        SecretsGone
            If it names secrets whose values did not come.
        UnusableKernel
            If the job names a kernel that this worker does not have, or that cannot run it.
        ZBrainError
            If an input cannot be had.
        """
        job, spec, limits = lease.job, lease.job.spec, lease.job.spec.limits
        if gone := [name for name in spec.secrets if name not in lease.secrets]:
            raise SecretsGone(f"The host has no value for {', '.join(gone)} any more.", "Submit the job again.")
        kernel = await asyncio.to_thread(_kernel_of, spec)
        outbox = self._folder.outbox(job.id, job.attempt)
        scratch = None
        if spec.cwd is None:
            scratch = f"{self._temp_dir}/zbrain-{job.id}.{job.attempt}" if self._temp_dir else str(outbox / "work")
        request = RunRequest(
            job_id=job.id,
            attempt=job.attempt,
            org_id=job.org_id or spec.org_id or "",
            cmd=spec.cmd,
            code=spec.code,
            function=spec.function and await self._fetch(job, "function", spec.function),
            arguments=spec.arguments,
            cwd=spec.cwd or scratch or "",
            scratch=scratch,
            outbox=str(outbox),
            checkpoints=str(self._folder.checkpoints.folder_of(job)),
            is_last=not spec.max_retries,
            timeout_secs=spec.timeout_secs,
            memory_mb=spec.resources.memory_mb,
            cpu_secs=limits.cpu_secs,
            open_files=limits.open_files,
            grace_secs=GRACE_SECS if limits.grace_secs is None else limits.grace_secs,
            artifacts_cap_bytes=limits.artifacts_bytes,
            result_cap_bytes=limits.result_bytes,
            spool_cap_bytes=limits.log_bytes,
            python=(kernel and kernel.python) or sys.executable,
            kernel=None if kernel is None or kernel.python is not None else kernel.folder,
            inputs={name: await self._fetch(job, name, sha256) for name, sha256 in spec.inputs.items()},
            keep=spec.keep,
            artifacts=spec.artifacts,
            title=spec.title,
        )
        request.env = job_environment(job, request, self._link.way_back() if self._link else {}, lease)
        request.modules = modules_of(spec.code or "", _imported(request.inputs.get("cell")))
        return request

    async def _fetch(self, job: Job, name: str, sha256: str) -> str:
        """Return the path of an input: in the queue's own store, or in the cache; while the queue is away it waits."""
        path = self._folder.blobs / sha256
        patience = Patience()
        lock = self._coming.setdefault(sha256, asyncio.Lock())
        async with lock:
            if self.blobs is not None:
                lying = self.blobs / sha256[:2] / sha256[2:]
                if await asyncio.to_thread(_is_whole, lying, sha256):
                    return str(lying)
            while not path.exists():
                assert self._link is not None
                try:
                    await self._link.fetch_input(job.id, job.attempt, name, sha256, path)
                    await asyncio.to_thread(self._trim)
                except ZBrainError as error:
                    if not is_passing(error):
                        raise
                    await patience.wait()
        os.utime(path)
        return str(path)

    def _trim(self) -> None:
        """Remove what was not used for longest when the cache is too large.

        Safe for running jobs: who has opened or mapped a file keeps it, and what was used in the last hour stays.
        """
        files = sorted(((stat.st_mtime, stat.st_size, path) for path, stat in _files(self._folder.blobs)), reverse=True)
        total = 0
        for mtime, size, path in files:
            total += size
            if total > CACHE_BYTES and mtime < files[0][0] - 3600:
                path.unlink(missing_ok=True)


def session_request(
    folder: WorkerFolder, job: Job, session_id: str, temp_dir: str | None, way_back: Mapping[str, str]
) -> RunRequest:
    """Return the request of a session for calls such as `job` (see `calls`), without what is of one call only."""
    spec = job.spec
    outbox = folder.outbox(session_id, 0)
    scratch = None
    if spec.cwd is None:
        scratch = f"{temp_dir}/zbrain-{session_id}" if temp_dir else str(outbox / "work")
    request = RunRequest(
        job_id=session_id,
        attempt=0,
        cmd=None if spec.cmd is None else [],
        org_id=job.org_id or spec.org_id or "",
        cwd=spec.cwd or scratch or "",
        scratch=scratch,
        outbox=str(outbox),
        python=spec.kernel or sys.executable,
        orders=str(folder.orders_path(session_id)),
    )
    request.env = job_environment(job, request, way_back)
    return request


def _kernel_of(spec: JobSpec) -> Kernel | None:
    """Return the kernel that a job names.

    Raises
    ------
    UnusableKernel
        If this worker has none of that name, or it cannot run such a job.
    """
    if spec.kernel is None:
        return None
    try:
        kernel = find_kernel(spec.kernel, {**os.environ, **spec.env})
    except UnusableKernel as error:
        raise UnusableKernel(f"On the worker: {error.message}", error.hint) from error
    if kernel.python is None:
        if spec.function is not None:
            raise UnusableKernel(f"Functions run in Python; the kernel {kernel.name!r} runs {kernel.language}.")
        named = [] if spec.keep == "auto" else spec.keep
        if named or spec.arguments or spec.inputs:
            raise UnusableKernel(
                f"No variables travel to or from the kernel {kernel.name!r}, which runs {kernel.language}.",
                "Leave out keep, inputs and arguments; files and artifacts work.",
            )
    return kernel


def _imported(path: str | None) -> list[str]:
    """Return what the notebook of a cell has imported, as its payload says; a damaged one is the job's to tell of."""
    if path is None:
        return []
    try:
        said = Reader(path, "cell").header.get("modules")
    except (ZBrainError, KeyError, TypeError, OSError):
        return []
    return [name for name in said if isinstance(name, str)] if isinstance(said, list) else []


def _is_whole(path: Path, sha256: str) -> bool:
    """Whether a blob can be read and hashes to its name; it is read through again when anything about it changed."""
    try:
        found = path.stat()
        return _hashes_to(path, sha256, found.st_ino, found.st_size, found.st_ctime_ns)
    except OSError:
        return False


@lru_cache(maxsize=10_000)
def _hashes_to(path: Path, sha256: str, *version: int) -> bool:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest() == sha256


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    return [(path, path.stat()) for path in folder.iterdir() if not path.name.startswith(".")]
