"""Makes the request of a leased job: its inputs at hand, its folders and its environment named."""

from __future__ import annotations

import asyncio
import os
import shutil
import sys
from pathlib import Path
from weakref import WeakValueDictionary

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.model.limits import GRACE_SECS
from zbrain_nb.worker.environment import job_environment
from zbrain_nb.worker.folder import WorkerFolder
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.patience import Patience, is_passing
from zbrain_nb.worker.request import RunRequest

CACHE_BYTES = 4 << 30


class UnknownKernel(ZBrainError):
    """The worker has no kernel of that name that runs Python."""

    code = "unknown_kernel"
    status = 422


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
        #: Of blobs on their way: many jobs leased together may read the same, and it comes once.
        self._coming: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()

    async def prepare(self, job: Job) -> RunRequest:
        """Return the request of a leased job.

        Raises
        ------
        UnknownKernel
            If the job names a kernel that this worker does not have.
        ZBrainError
            If an input cannot be had.
        """
        spec, limits = job.spec, job.spec.limits
        python = await asyncio.to_thread(find_python, spec.kernel) if spec.kernel else sys.executable
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
            python=python,
            inputs={name: await self._fetch(job, name, sha256) for name, sha256 in spec.inputs.items()},
            keep=spec.keep,
            artifacts=spec.artifacts,
            title=spec.title,
        )
        request.env = job_environment(job, request, {})
        return request

    async def _fetch(self, job: Job, name: str, sha256: str) -> str:
        """Return the path of an input, from the cache if it lies there; while the queue is away it waits."""
        path = self._folder.blobs / sha256
        patience = Patience()
        lock = self._coming.setdefault(sha256, asyncio.Lock())
        async with lock:
            while not path.exists():
                assert self._link is not None
                try:
                    await self._link.fetch_input(job.id, name, sha256, path)
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


def session_request(folder: WorkerFolder, job: Job, session_id: str, temp_dir: str | None) -> RunRequest:
    """Return the request of a session for calls such as `job` (see `calls`)."""
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
    request.env = job_environment(job, request, {})
    return request


def find_python(kernel: str) -> str:
    """Return the interpreter of a kernel, which is the name of a kernelspec or an absolute path.

    Raises
    ------
    UnknownKernel
        If there is no kernelspec of that name, or it does not run Python.
    """
    if os.path.isabs(kernel):
        return kernel
    from jupyter_client.kernelspec import KernelSpecManager, NoSuchKernel  # 40 ms that few workers need

    try:
        spec = KernelSpecManager().get_kernel_spec(kernel)
    except (NoSuchKernel, OSError, ValueError):  # of a broken file too
        raise UnknownKernel(f"The kernel {kernel!r} was not found on the worker.") from None
    program = spec.argv[0] if spec.argv else ""
    if spec.language.lower() != "python" or not program:
        raise UnknownKernel(f"The kernel {kernel!r} on the worker does not run Python.")
    if program in ("python", "python3", f"python3.{sys.version_info[1]}"):
        return sys.executable  # as Jupyter reads these
    found = shutil.which(program)
    if found is None:
        raise UnknownKernel(f"The kernel {kernel!r} names {program!r}, which was not found on the worker.")
    return found


def _files(folder: Path) -> list[tuple[Path, os.stat_result]]:
    return [(path, path.stat()) for path in folder.iterdir() if not path.name.startswith(".")]
