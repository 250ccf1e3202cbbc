"""`AsyncClient`: all that a client can ask of a server, for code that runs in an event loop.

It is the face: how jobs are followed stands in `following`, how bytes travel in `blobs`, and requests in `transport`.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from zbrain_nb.client import blobs, following
from zbrain_nb.client.downloading import download
from zbrain_nb.client.following import Update
from zbrain_nb.client.jobs import ask_many, get_job, path_of, read_job, read_log, read_outputs
from zbrain_nb.client.locating import Endpoint, Locator
from zbrain_nb.client.parts import parts_of
from zbrain_nb.client.secrets import SecretValues
from zbrain_nb.client.spooling import Spool, spool
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import JobNotFound, NotFound, ZBrainError
from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.history import HistoryQuery
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobSpec, JobState
from zbrain_nb.model.packing import Parcel
from zbrain_nb.model.protocol import Identified, WorkerInfo
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.model.settings import read_settings

#: As many jobs as one request lists at most.
PAGE = 1_000


class _Jobs(msgspec.Struct):
    jobs: list[dict[str, Any]]
    next_cursor: str | None = None
    event_seq: int = 0


class _Artifacts(msgspec.Struct):
    artifacts: list[JobArtifact]


class _Workers(msgspec.Struct):
    workers: list[WorkerInfo]


class _Canceled(msgspec.Struct):
    result: CancelResult


class _Detached(msgspec.Struct):
    detached: int


class _Session(msgspec.Struct):
    login: str


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
        self._me: tuple[Endpoint, Identified] | None = None
        #: The values of secrets that specs name.
        self.secrets = SecretValues()

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

    async def whoami(self) -> Identified:
        """Return as whom the server sees this client; asked once of each server that is found."""
        endpoint = await self.transport.endpoint()
        if self._me is None or self._me[0] is not endpoint:
            self._me = endpoint, await self.transport.get("whoami", Identified)
        return self._me[1]

    async def submit(self, specs: Sequence[JobSpec]) -> list[Job]:
        """Submit jobs, all or nothing; what is returned is committed.

        A broken connection is no reason to submit twice: the request bears a key of its own. More than one request
        takes (see `parts_of`) goes in several; if one is refused, the jobs of those before it are canceled.

        Raises
        ------
        MissingBlobs
            If a spec names blobs that the server does not have.
        InvalidSpec
            If the server refuses a spec.
        """
        jobs: list[Job] = []
        try:
            for part, encoded in parts_of(specs):
                headers = {"Idempotency-Key": f"client-{uuid.uuid4().hex}"}
                headers |= await self.secrets.headers(self.transport, part)
                jobs += await self.transport.post("jobs", encoded, list[Job], headers=headers)
        except ZBrainError:
            if jobs:
                await self.cancel_many([job.id for job in jobs])
            raise
        return jobs

    async def get(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises
        ------
        JobNotFound
            If there is none with this id.
        """
        return await get_job(self.transport, job_id)

    async def cached(self, cache_key: str) -> Job | None:
        """Return the caller's newest job that succeeded under a cache key, or None if there is none."""
        try:
            return read_job(await self.transport.get(f"cached/{_segment(cache_key)}", dict[str, Any]))
        except NotFound:
            return None

    async def jobs(
        self,
        state: JobState | str | None = None,
        limit: int = 50,
        *,
        cursor: str | None = None,
        name: str | None = None,
        q: str | None = None,
        tag: tuple[str, str] | None = None,
    ) -> list[Job]:
        """Return jobs, newest first, `limit` at most; `tag` is a name and its value."""
        query = {"state": state, "name": name, "q": q, "tag": "=".join(tag) if tag else None}
        params = {key: str(value) for key, value in query.items() if value is not None}
        jobs: list[Job] = []
        while True:
            params["limit"] = str(min(limit - len(jobs), PAGE) if limit > 0 else limit)  # the server says what is wrong
            if cursor is not None:
                params["cursor"] = cursor
            page = await self.transport.get("jobs", _Jobs, params=params)
            jobs += map(read_job, page.jobs)
            cursor = page.next_cursor
            if cursor is None or len(jobs) >= limit:
                return jobs

    async def submitted(self, tag: tuple[str, str], after: int | None, limit: int) -> tuple[list[Job], int]:
        """Return the newest jobs with a tag, `limit` (1 to 1,000) at most, and after what to ask for newer ones.

        Parameters
        ----------
        tag : tuple of str and str
            Its name and its value.
        after : int or None
            The number that an earlier call returned: only jobs that were submitted since.
        limit : int
            How many at most.
        """
        params = {"tag": "=".join(tag), "limit": str(limit)}
        if after is not None:
            params["after"] = str(after)
        page = await self.transport.get("jobs", _Jobs, params=params)
        return [read_job(job) for job in page.jobs], page.event_seq

    async def lookup(self, ids: Iterable[str]) -> tuple[list[Job], int]:
        """Look at many jobs, in one request for each 10,000.

        Returns
        -------
        list of Job
            In the order of `ids`; unknown ones are left out.
        int
            Events behind this ``event_seq`` tell what becomes of them.
        """
        return await ask_many(self.transport, "lookup", ids)

    async def cancel_many(self, ids: Iterable[str]) -> list[Job]:
        """Cancel those of the jobs that have not ended; return all as they are then."""
        return (await ask_many(self.transport, "cancel", ids))[0]

    async def retry_many(self, ids: Iterable[str]) -> list[Job]:
        """Submit those of one's own jobs that have ended again; return the new ones, in order.

        Those of other people are passed over: `retry` repeats them one by one.
        """
        return (await ask_many(self.transport, "retry", ids))[0]

    def follow_many(self, jobs: Sequence[Job], *, waits: bool = False) -> AsyncGenerator[list[Job], None]:
        """Yield those of many jobs that have changed, first as they are now, until all have ended.

        It reads one socket, whatever their number, and none of their logs.

        Parameters
        ----------
        jobs : sequence of Job
            Whom to follow.
        waits : bool
            Whether a person is held up meanwhile, who may ask to be let go on: by the first of the jobs, whatever
            became of it, or by any of the first hundred that have not ended.

        Raises
        ------
        JobNotFound
            If the server does not know one of them any more.
        Detached
            If somebody asked so; the jobs go on.
        """
        return following.follow_many(self.transport, jobs, waits=waits)

    async def results(self, jobs: Iterable[Job]) -> dict[str, bytes]:
        """Return the pickled results of ended jobs by their SHA-256; equal ones are fetched once."""
        return await blobs.read_results(self.transport, jobs)

    async def cancel(self, job_id: str, *, if_waiting: bool = False) -> CancelResult:
        """Cancel a job; with `if_waiting` only if it does not run.

        Raises
        ------
        WrongState
            If it runs, and was to be canceled only while it waits.
        """
        path = path_of(job_id, "/cancel?if_waiting=1" if if_waiting else "/cancel")
        return (await self.transport.post(path, {}, _Canceled)).result

    async def retry(self, job_id: str, others: bool = False) -> Job:
        """Submit an ended job's spec again, as a new job of one's own; another person's only with `others`."""
        path = path_of(job_id, "/retry?others=1" if others else "/retry")
        answer = await self.transport.request("POST", path, repeatable=False, content=b"")
        return read_job(msgspec.json.decode(answer.content))

    def logs(self, job_id: str, from_seq: int = 0) -> AsyncIterator[list[LogEntry]]:
        """Yield the log that there is now, page by page."""
        return read_log(self.transport, job_id, from_seq)

    async def count_log_lines(self, job_id: str) -> int:
        """Return how many lines the log has now."""
        lines: int = (await self.transport.get(path_of(job_id), dict[str, Any]))["log_lines"]
        return lines

    async def outputs(self, job_id: str) -> list[dict[str, Any]]:
        """Return the rich outputs as nbformat output dicts."""
        return (await read_outputs(self.transport, job_id)).outputs

    async def artifacts(self, job_id: str) -> list[JobArtifact]:
        """Return the files kept with a job."""
        return (await self.transport.get(path_of(job_id, "/artifacts"), _Artifacts)).artifacts

    async def workers(self) -> list[WorkerInfo]:
        """Return the workers that the queue knows."""
        return (await self.transport.get("workers", _Workers)).workers

    async def console_url(self) -> str:
        """Return an address that opens the console in a browser.

        Under Jupyter it is Jupyter's, and its login; else it holds a code that works once, within a minute.
        """
        endpoint, jupyter = await self.transport.endpoint(), read_settings().url
        if jupyter and jupyter.rstrip("/") != endpoint.url.rstrip("/"):
            return f"{jupyter.rstrip('/')}/zbrain"
        try:
            offered = await self.transport.post("sessions", {}, _Session)
        except NotFound:  # a relay: Jupyter has a login of its own
            return f"{endpoint.url}zbrain"
        return f"{endpoint.url}{offered.login}"

    async def queues(self) -> list[QueueInfo]:
        """Return the queues that have something to do, or are paused."""
        return (await self.transport.get("queues", _Queues)).queues

    async def pause(self, org_id: str, kind: str) -> QueueInfo:
        """Have no more jobs of a queue leased; what runs goes on."""
        return await self.transport.post(f"queues/{_segment(org_id)}/{_segment(kind)}/pause", {}, QueueInfo)

    async def resume(self, org_id: str, kind: str) -> QueueInfo:
        """Let a paused queue go on."""
        return await self.transport.post(f"queues/{_segment(org_id)}/{_segment(kind)}/resume", {}, QueueInfo)

    def follow(
        self, job_id: str, *, from_seq: int = 0, logs: bool = True, after: int | None = None, waits: bool = False
    ) -> AsyncGenerator[Update, None]:
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
        after : int, optional
            An ``event_seq`` from before the job ran: everything comes as it came then, in one order.
        waits : bool
            Whether a person is held up meanwhile, who may ask to be let go on (``POST jobs/{id}/detach``).

        Raises
        ------
        Detached
            If somebody asked so; the job goes on.
        """
        return following.follow(self.transport, job_id, from_seq, logs=logs, after=after, waits=waits)

    async def detach(self, job_id: str) -> int:
        """Let go on who waits for a job, wherever that is; return how many these are. The job goes on."""
        return (await self.transport.post(path_of(job_id, "/detach"), {}, _Detached)).detached

    async def wait(self, job_id: str, *, waits: bool = False) -> Job:
        """Return the job once it has ended; of `waits` see `follow`."""
        job: Job | None = None
        async for update in self.follow(job_id, logs=False, waits=waits):
            job = update.job or job
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.")
        return job

    async def put_blob(self, data: bytes) -> str:
        """Have the server keep bytes, unless it does already; return their SHA-256."""
        return await blobs.put_blob(self.transport, data)

    async def put_parcel(self, parcel: Parcel) -> tuple[str, dict[str, str]]:
        """Upload a payload and the buffers that are apart; what the server has does not travel again.

        Returns
        -------
        str
            SHA-256 of the payload.
        dict of str to str
            The job's ``inputs`` that the payload needs besides itself.
        """
        return await blobs.put_parcel(self.transport, parcel)

    async def history(self, wanted: HistoryQuery) -> Spool:
        """Return a table of the history, or a part of it, as a file that holds an Arrow IPC stream."""
        return await spool(self.transport, wanted)

    async def read(self, path: str) -> bytes:
        """Return the bytes at a route."""
        return await blobs.read(self.transport, path)

    async def download(self, job_id: str, artifact: JobArtifact, target: Path) -> None:
        """Write an artifact of a job to a file; it appears only once it is whole (see `downloading.download`)."""
        await download(self.transport, path_of(job_id, f"/artifacts/{quote(artifact.name)}"), artifact, target)


def _segment(name: str) -> str:
    return quote(name, safe="")
