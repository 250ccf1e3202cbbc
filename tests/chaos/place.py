"""A host in the test's process and a worker in its own, which is killed and started again."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time

from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.job import Job
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.server.host import Host


class Place:
    """A data directory with a host in this process and a worker in its own."""

    def __init__(self, data: DataDir) -> None:
        self.data = data
        self.host: Host | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self.log = (data.root / "worker.log").open("ab")

    @property
    def queue(self) -> JobQueue:
        assert self.host is not None
        assert self.host.context is not None
        return self.host.context.queue

    async def start_host(self) -> None:
        self.host = Host(self.data, Settings(data=str(self.data.root), worker_mode="none", lease_ttl_secs=30.0))
        await self.host.start()

    async def stop_host(self) -> None:
        if self.host is not None:
            await self.host.stop()
            self.host = None

    def start_worker(self) -> None:
        command = [sys.executable, "-m", "zbrain_nb.worker", "--data", str(self.data.root), "--concurrency", "3"]
        self.worker = subprocess.Popen(command, stderr=self.log, start_new_session=True)

    def kill_worker(self) -> None:
        if self.worker is not None:
            self.worker.kill()
            self.worker.wait()

    async def end(self) -> None:
        """End the worker and the host, and wait for each, whatever went wrong before."""
        try:
            code = await asyncio.to_thread(end_worker, self.worker)
        finally:
            self.log.close()
            await self.stop_host()
        # a worker that is still importing has no handler for SIGTERM yet
        assert code in (0, -signal.SIGTERM, -signal.SIGKILL), (self.data.root / "worker.log").read_text()[-3000:]

    async def ended(self, job_id: str, secs: float = 60.0) -> Job:
        deadline = time.monotonic() + secs
        while True:
            job = await self.queue.get(job_id)
            if job is not None and job.state.ended:
                return job
            assert time.monotonic() < deadline, (job, (self.data.root / "worker.log").read_text()[-3000:])
            await asyncio.sleep(0.02)

    async def lines(self, job_id: str) -> list[str]:
        return [entry.line for entry in await self.queue.get_logs(job_id) if entry.stream == "stdout"]


def end_worker(worker: subprocess.Popen[bytes] | None) -> int:
    """Return the exit code; a worker that does not end in time is killed, and its code is then 1."""
    if worker is None:
        return 0
    worker.terminate()
    try:
        return worker.wait(20)
    except subprocess.TimeoutExpired:
        worker.kill()
        worker.wait()
        return 1


def kill(pid: int | None) -> None:
    if pid and pid != os.getpid():
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
