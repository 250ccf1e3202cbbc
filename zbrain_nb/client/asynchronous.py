"""`AsyncClient`: all that a client can ask of a server, for code that runs in an event loop."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from zbrain_nb.client.downloading import download
from zbrain_nb.client.locating import Locator
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import JobNotFound
from zbrain_nb.model.events import JOB_ONLY, Event, LogEntry
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobSpec, JobState
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.model.queues import QueueInfo

LOG_PAGE = 1000
#: Events that leave the job as it is; a subscriber that lags is told so, and has nothing to do.
_NO_CHANGE = JOB_ONLY | {"lagged", "reset"}


class _Jobs(msgspec.Struct):
    jobs: list[dict[str, Any]]
    next_cursor: str | None = None


class _Page(msgspec.Struct):
    entries: list[LogEntry]
    next_seq: int


class _Outputs(msgspec.Struct):
    outputs: list[dict[str, Any]]
    event_seq: int


class _Artifacts(msgspec.Struct):
    artifacts: list[JobArtifact]


class _Workers(msgspec.Struct):
    workers: list[WorkerInfo]


class _Canceled(msgspec.Struct):
    result: CancelResult


class Update(msgspec.Struct):
    """One step in the life of a followed job: its new state, new log lines, or new outputs (and their event)."""

    job: Job | None = None
    entries: list[LogEntry] = []
    outputs: list[dict[str, Any]] = []
    seq: int = 0


class _Queues(msgspec.Struct):
    queues: list[QueueInfo]


class AsyncClient:
    """A client for code that runs in an event loop.

    Parameters
    ----------
    locate : callable
        Finds the server (see `zbrain_nb.client.locating.locator`).
    """

    def __init__(self, locate: Locator) -> None:
        self.transport = Transport(locate)

    async def close(self) -> None:
        """Close the connections."""
        await self.transport.close()

    async def check(self) -> None:
        """Find the server, and see that it answers and takes the token.

        Raises
        ------
        ServerUnreachable
            If no server answers.
        Unauthorized
            If it refuses the token.
        """
        await self.transport.request("GET", "workers")

    async def submit(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Submit jobs, all or nothing; what is returned is committed.

        A broken connection is no reason to submit twice: the request bears a key of its own.

        Raises
        ------
        MissingBlobs
            If a spec names blobs that the server does not have.
        InvalidSpec
            If the server refuses a spec.
        """
        key = {"Idempotency-Key": f"client-{uuid.uuid4().hex}"}
        return await self.transport.post("jobs", list(specs), list[Job], headers=key)

    async def get(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises
        ------
        JobNotFound
            If there is none with this id.
        """
        return read_job(await self.transport.get(f"jobs/{_quoted(job_id)}", dict[str, Any]))

    async def jobs(
        self,
        state: JobState | str | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        name: str | None = None,
        q: str | None = None,
    ) -> list[Job]:
        """Return jobs, newest first."""
        query = {"state": state, "limit": limit, "cursor": cursor, "name": name, "q": q}
        params = {key: str(value) for key, value in query.items() if value is not None}
        return [read_job(raw) for raw in (await self.transport.get("jobs", _Jobs, params=params)).jobs]

    async def cancel(self, job_id: str) -> CancelResult:
        """Cancel a job."""
        return (await self.transport.post(f"jobs/{_quoted(job_id)}/cancel", {}, _Canceled)).result

    async def retry(self, job_id: str) -> Job:
        """Submit an ended job's spec again, as a new job."""
        answer = await self.transport.request("POST", f"jobs/{_quoted(job_id)}/retry", repeatable=False, content=b"")
        return read_job(msgspec.json.decode(answer.content))

    async def logs(self, job_id: str, from_seq: int = 0) -> AsyncIterator[list[LogEntry]]:
        """Yield the log that there is now, page by page."""
        while True:
            page = await self.transport.get(
                f"jobs/{_quoted(job_id)}/logs", _Page, params={"from_seq": str(from_seq), "limit": str(LOG_PAGE)}
            )
            if page.entries:
                yield page.entries
            if len(page.entries) < LOG_PAGE:
                return
            from_seq = page.next_seq

    async def count_log_lines(self, job_id: str) -> int:
        """Return how many lines the log has now."""
        lines: int = (await self.transport.get(f"jobs/{_quoted(job_id)}", dict[str, Any]))["log_lines"]
        return lines

    async def outputs(self, job_id: str) -> list[dict[str, Any]]:
        """Return the rich outputs as nbformat output dicts."""
        return (await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)).outputs

    async def artifacts(self, job_id: str) -> list[JobArtifact]:
        """Return the files kept with a job."""
        return (await self.transport.get(f"jobs/{_quoted(job_id)}/artifacts", _Artifacts)).artifacts

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers that the queue knows."""
        return (await self.transport.get("workers", _Workers)).workers

    async def queues(self) -> list[QueueInfo]:
        """Return the queues that have something to do, or are paused."""
        return (await self.transport.get("queues", _Queues)).queues

    async def pause(self, org_id: str, kind: str) -> QueueInfo:
        """Have no more jobs of a queue leased; what runs goes on."""
        return await self.transport.post(f"queues/{_segment(org_id)}/{_segment(kind)}/pause", {}, QueueInfo)

    async def resume(self, org_id: str, kind: str) -> QueueInfo:
        """Let a paused queue go on."""
        return await self.transport.post(f"queues/{_segment(org_id)}/{_segment(kind)}/resume", {}, QueueInfo)

    async def follow(self, job_id: str, *, from_seq: int = 0, logs: bool = True) -> AsyncGenerator[Update, None]:
        """Yield a job's state, log and outputs, first as they are, then as they change, until the job ended.

        Each log line comes once and in order; the last update carries the ended job, after all of its log. Should
        the server not keep any more what happened while the connection was lost, the outputs come again, behind a
        ``clear_output``.

        Parameters
        ----------
        job_id : str
            Whom to follow.
        from_seq : int
            First ``log_seq`` wanted.
        logs : bool
            Whether lines and outputs are wanted too, or the state alone.
        """
        # Outputs first: their event_seq is the point behind which the socket brings everything else.
        shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
        job, seen = await self.get(job_id), from_seq
        if job.state.ended and job.event_seq > shown.event_seq:  # it ended between the two
            shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
        if logs:
            async for page in self.logs(job_id, seen):
                seen = page[-1].seq + 1
                yield Update(entries=page)
            if shown.outputs:
                yield Update(outputs=shown.outputs, seq=shown.event_seq)
        yield Update(job=job)
        if job.state.ended:
            return
        events = self.transport.events([f"jobs/{job_id}"], shown.event_seq)
        try:
            async for batch in events:
                for event in batch:
                    if event.kind == "reset":  # what led here is not kept any more: begin again from what is there
                        job = _job_of(event, job_id) or await self.get(job_id)
                        if logs:
                            async for page in self.logs(job_id, seen):
                                seen = page[-1].seq + 1
                                yield Update(entries=page)
                            shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
                            yield Update(outputs=_instead(shown.outputs), seq=shown.event_seq)
                        if not job.state.ended:
                            yield Update(job=job)
                    elif event.kind == "job_logged" and logs:
                        fresh = [e for e in _entries(event.data) if e.seq >= seen]
                        if fresh:
                            seen = fresh[-1].seq + 1
                            yield Update(entries=fresh)
                    elif event.kind == "job_displayed" and logs and event.seq > shown.event_seq:
                        yield Update(outputs=event.data["outputs"], seq=event.seq)
                    elif event.kind not in _NO_CHANGE and event.seq > job.event_seq:
                        job = await self.get(job_id)
                        if not job.state.ended:
                            yield Update(job=job)
                    # The job may be further than its events are: what it wrote before its end is still to come.
                    if job.state.ended and (event.seq >= job.event_seq or not logs):
                        yield Update(job=job)
                        return
        finally:
            await events.aclose()

    async def wait(self, job_id: str) -> Job:
        """Return the job once it has ended."""
        job: Job | None = None
        async for update in self.follow(job_id, logs=False):
            job = update.job or job
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return job

    async def put_blob(self, data: bytes) -> str:
        """Upload bytes unless the server has them; return their SHA-256."""
        digest = hashlib.sha256(data).hexdigest()
        answer = await self.transport.request("HEAD", f"blobs/{digest}", expect=(200, 404))
        if answer.status_code == 404:
            await self.transport.request(
                "PUT", f"blobs/{digest}", content=data, timeout=None, headers={"Content-Length": str(len(data))}
            )
        return digest

    async def read(self, path: str) -> bytes:
        """Return the bytes at a route."""
        return b"".join([chunk async for chunk in self.transport.download(path)])

    async def download(self, job_id: str, artifact: JobArtifact, target: Path) -> None:
        """Write an artifact of a job to a file; it appears only once it is whole (see `downloading.download`)."""
        await download(self.transport, f"jobs/{_quoted(job_id)}/artifacts/{quote(artifact.name)}", artifact, target)


def read_job(raw: dict[str, Any]) -> Job:
    """Make a `Job` from a server's JSON, which says more than the struct holds."""
    return msgspec.convert(raw, Job)


def _quoted(job_id: str) -> str:
    try:
        return str(uuid.UUID(job_id))
    except ValueError:
        raise JobNotFound(f"There is no job {job_id!r}.", "A job id looks like a UUID.") from None


def _segment(name: str) -> str:
    return quote(name, safe="")


def _entries(data: dict[str, Any]) -> list[LogEntry]:
    return msgspec.convert(data["entries"], list[LogEntry])


def _job_of(reset: Event, job_id: str) -> Job | None:
    return next((read_job(raw) for raw in reset.data["jobs"] if raw["id"] == job_id), None)


def _instead(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs that take the place of all before them, in the language of outputs itself."""
    return [{"output_type": "clear_output", "wait": bool(outputs)}, *outputs]
