"""The worker's link to its queue: what it asks, as an interface, and its HTTP form."""

from __future__ import annotations

import asyncio
import os
import urllib.parse
from collections.abc import AsyncIterator
from functools import partial
from pathlib import Path
from typing import BinaryIO, Protocol, TypeVar

import msgspec

from zbrain_nb.client.downloading import download
from zbrain_nb.client.locating import Endpoint, Locator, direct
from zbrain_nb.client.transport import CHUNK_BYTES, Transport
from zbrain_nb.client.uploading import RESUMABLE_BYTES, put, upload
from zbrain_nb.model.datadir import HUB_FILE, DataDir, read_upstream
from zbrain_nb.model.errors import (
    BlobMismatch,
    JobNotFound,
    NotFound,
    ServerUnreachable,
    StaleAttempt,
    Unauthorized,
    Unavailable,
    error_from_json,
)
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.job import JobArtifact
from zbrain_nb.model.protocol import (
    EventBatch,
    EventBatchAnswer,
    EventResult,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
)
from zbrain_nb.model.sealing import SealingKey
from zbrain_nb.worker.wire import Wires

T = TypeVar("T")


class Link(Protocol):
    """What a worker asks of its queue.

    All methods raise `ServerUnreachable` when nobody answers (the same call may be repeated), `WorkerNotFound`
    when the queue does not know the worker (any more), and other `ZBrainError` as the queue says.
    """

    async def register(self, info: WorkerInfo) -> Registered:
        """Make the worker known, and hear which attempts the queue thinks it runs."""
        ...

    async def lease(self, worker_id: str, request: LeaseRequest) -> LeaseAnswer:
        """Ask for jobs, and wait for them or for cancels; the events in the request are delivered first."""
        ...

    async def heartbeat(self, worker_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        """Renew leases."""
        ...

    async def send_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        """Deliver events; never raises `StaleAttempt`, the results say it."""
        ...

    async def has_blob(self, sha256: str) -> bool:
        """Whether the queue keeps these bytes already."""
        ...

    async def put_blob(self, sha256: str, file: BinaryIO) -> None:
        """Give the queue the bytes of an open file, from its start."""
        ...

    async def fetch_input(self, job_id: str, attempt: int, name: str, sha256: str, target: Path) -> None:
        """Write an input of a leased attempt to `target`, its hash checked (``function`` is the pickled call)."""
        ...

    async def has_job(self, job_id: str) -> bool:
        """Whether the queue keeps a job, ended or not."""
        ...

    def way_back(self) -> dict[str, str]:
        """Return the variables by which a job finds the queue; its token is not among them."""
        ...

    async def close(self) -> None:
        """Close the connections."""
        ...


class HttpLink:
    """A `Link` over HTTP.

    Parameters
    ----------
    locate : callable
        Finds the server; called again whenever it was lost (see `follow`).
    """

    def __init__(self, locate: Locator) -> None:
        # the worker's own loops repeat what fails, with their own pauses
        self._transport = Transport(locate, patience_secs=0.0)
        self._key = SealingKey()  # of this process alone
        self._wires: tuple[Endpoint, Wires] | None = None
        self._worker_id = ""

    async def register(self, info: WorkerInfo) -> Registered:
        """See `Link`."""
        self._worker_id = info.id
        return await self._ask("workers", info, Registered)

    async def lease(self, worker_id: str, request: LeaseRequest) -> LeaseAnswer:
        """See `Link`."""
        sent = msgspec.structs.replace(request, seal_key=self._key.public)
        answer = await self._ask(f"workers/{worker_id}/leases", sent, LeaseAnswer, request.wait_secs + 30)
        for lease in answer.leases:
            if lease.sealed:
                lease.secrets, lease.sealed = self._key.open(lease.sealed), ""
        return answer

    async def heartbeat(self, worker_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        """See `Link`."""
        return await self._ask(f"workers/{worker_id}/heartbeat", request, HeartbeatAnswer)

    async def send_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        """See `Link`."""
        try:
            return await self._ask(f"workers/{worker_id}/events", batch, EventBatchAnswer)
        except StaleAttempt as error:
            return EventBatchAnswer(msgspec.convert(error.details.get("results", []), list[EventResult]))

    async def has_blob(self, sha256: str) -> bool:
        """See `Link`."""
        answer = await self._transport.request("HEAD", f"blobs/{sha256}", expect=(200, 204, 404))
        return answer.status_code != 404

    async def put_blob(self, sha256: str, file: BinaryIO) -> None:
        """See `Link`."""
        size = os.fstat(file.fileno()).st_size
        if size < RESUMABLE_BYTES:
            await put(self._transport, sha256, size, _chunks(file), worker=self._worker_id)
        else:
            await upload(self._transport, sha256, size, partial(_chunks, file), self._worker_id)

    async def fetch_input(self, job_id: str, attempt: int, name: str, sha256: str, target: Path) -> None:
        """See `Link`."""
        path = f"jobs/{job_id}/inputs/{urllib.parse.quote(name, safe='')}?attempt={attempt}"
        head = await self._transport.request("HEAD", path, expect=(200, NotFound.status, BlobMismatch.status))
        if head.status_code != 200:
            await self._transport.request("GET", path)  # raises: this answer has no words for what is wrong
        await download(self._transport, path, JobArtifact(name, sha256, int(head.headers["Content-Length"])), target)
        await asyncio.to_thread(target.chmod, 0o400)

    async def has_job(self, job_id: str) -> bool:
        """See `Link`."""
        try:
            await self._transport.request("GET", f"jobs/{job_id}")
        except JobNotFound:
            return False
        return True

    def way_back(self) -> dict[str, str]:
        """See `Link`; on the host's own machine its data directory tells where it is after a restart."""
        if self._wires is None:
            return {}
        endpoint = self._wires[0]
        found = {"ZBRAIN_URL": endpoint.url}
        if endpoint.lock:
            found["ZBRAIN_HOST_DATA"] = os.path.dirname(endpoint.lock)
        if endpoint.key:
            found["ZBRAIN_SERVER_KEY"] = endpoint.key
        return found

    async def close(self) -> None:
        """See `Link`."""
        if self._wires is not None:
            self._wires[1].close()
        await self._transport.close()

    async def _ask(self, path: str, body: msgspec.Struct, kind: type[T], timeout: float = 60.0) -> T:
        endpoint = await self._transport.endpoint()
        try:
            status, content = await self._wires_to(endpoint).post(path, msgspec.json.encode(body), timeout)
        except OSError as error:
            self._transport.forget(endpoint)
            why = str(error) or type(error).__name__
            raise ServerUnreachable(f"No zbrain server answers at {endpoint.url} ({why}).") from error
        try:
            if status in (200, 201):
                return msgspec.json.decode(content, type=kind)
            refusal = error_from_json(msgspec.json.decode(content), status)
        except msgspec.DecodeError as failure:
            self._transport.forget(endpoint)
            raise ServerUnreachable(f"Something else than zbrain answers at {path} ({failure}).") from failure
        if isinstance(refusal, (Unauthorized, Unavailable, ServerUnreachable)):
            self._transport.forget(endpoint)  # another host may serve by now
        raise refusal

    def _wires_to(self, endpoint: Endpoint) -> Wires:
        if self._wires is None or self._wires[0] != endpoint:
            if self._wires is not None:
                self._wires[1].close()
            self._wires = endpoint, Wires(endpoint)
        return self._wires[1]


async def _chunks(file: BinaryIO, offset: int = 0) -> AsyncIterator[bytes]:
    file.seek(offset)
    while chunk := await asyncio.to_thread(file.read, CHUNK_BYTES):
        yield chunk


def follow_hub(folder: Path) -> Locator:
    """Return a function that finds the Hub's service as the user's own server last named it, with its Hub token."""

    def locate() -> Endpoint:
        upstream = read_upstream(folder)
        if upstream is None:
            raise ServerUnreachable(f"{folder / HUB_FILE} names no service: no server of JupyterHub wrote it.")
        return Endpoint(upstream.url, upstream.token, "JupyterHub", key=upstream.key)

    return locate


def follow(data: DataDir) -> Locator:
    """Return a function that finds the present host of a data directory; it starts none.

    Only a host that has proved that it knows the directory's token is told it.
    """

    def locate() -> Endpoint:
        owner = find_host(data)
        if owner is None:
            raise ServerUnreachable(f"No host serves {data.root} at present.")
        return direct(data, owner)

    return locate
