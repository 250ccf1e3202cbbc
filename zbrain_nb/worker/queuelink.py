"""The worker's link to a queue in its own process (see `link.Link`)."""

from __future__ import annotations

import asyncio
import shutil
from pathlib import Path
from typing import Any, BinaryIO, Protocol

from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import (
    EventBatch,
    EventBatchAnswer,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
)

_CHUNK_BYTES = 1 << 20


class Queue(Protocol):
    """What of a `JobQueue` a worker needs; ``artifacts`` is its artifact store."""

    @property
    def artifacts(self) -> Any:
        """Has ``has``, ``open`` and ``open_upload``."""
        ...

    async def register_worker(self, info: WorkerInfo) -> Registered:
        """See `Link.register`."""
        ...

    async def lease(self, worker_id: str, req: LeaseRequest) -> LeaseAnswer:
        """See `Link.lease`."""
        ...

    async def heartbeat(self, worker_id: str, req: HeartbeatRequest) -> HeartbeatAnswer:
        """See `Link.heartbeat`."""
        ...

    async def take_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        """See `Link.send_events`."""
        ...

    async def get(self, job_id: str) -> Job | None:
        """Return a job, or None if there is none."""
        ...


class QueueLink:
    """A `Link` by plain calls.

    Parameters
    ----------
    queue : JobQueue
        In this process and event loop.
    """

    def __init__(self, queue: Queue) -> None:
        self._queue = queue

    async def register(self, info: WorkerInfo) -> Registered:
        """See `Link`."""
        return await self._queue.register_worker(info)

    async def lease(self, worker_id: str, request: LeaseRequest) -> LeaseAnswer:
        """See `Link`."""
        return await self._queue.lease(worker_id, request)

    async def heartbeat(self, worker_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        """See `Link`."""
        return await self._queue.heartbeat(worker_id, request)

    async def send_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        """See `Link`."""
        return await self._queue.take_events(worker_id, batch)

    async def has_blob(self, sha256: str) -> bool:
        """See `Link`."""
        return bool(await asyncio.to_thread(self._queue.artifacts.has, sha256))

    async def put_blob(self, sha256: str, file: BinaryIO) -> None:
        """See `Link`."""

        def copy() -> None:
            file.seek(0)
            with self._queue.artifacts.open_upload(sha256) as upload:
                while chunk := file.read(_CHUNK_BYTES):
                    upload.write(chunk)
                upload.commit()

        await asyncio.to_thread(copy)

    async def fetch_input(self, job_id: str, attempt: int, name: str, sha256: str, target: Path) -> None:
        """See `Link`."""

        def copy() -> None:
            fresh = target.with_name(f".{target.name}.new")
            with self._queue.artifacts.open(sha256) as source, fresh.open("wb") as file:
                shutil.copyfileobj(source, file, _CHUNK_BYTES)
            fresh.replace(target)

        await asyncio.to_thread(copy)

    async def has_job(self, job_id: str) -> bool:
        """See `Link`."""
        return await self._queue.get(job_id) is not None

    def way_back(self) -> dict[str, str]:
        """See `Link`: there is no way into this process."""
        return {}

    async def close(self) -> None:
        """Do nothing: the queue belongs to the caller."""
