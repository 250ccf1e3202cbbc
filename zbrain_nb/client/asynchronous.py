"""`AsyncClient`: all that a client can ask of a server, for code that runs in an event loop."""

from __future__ import annotations

import asyncio
import hashlib
import uuid
from collections.abc import AsyncGenerator, AsyncIterator, Iterable, Sequence
from contextlib import aclosing
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anyio
import msgspec

from zbrain_nb.client.downloading import download
from zbrain_nb.client.handover import hand_over
from zbrain_nb.client.locating import Endpoint, Locator
from zbrain_nb.client.secrets import SecretValues
from zbrain_nb.client.spooling import Spool, spool
from zbrain_nb.client.transport import CHUNK_BYTES, Transport
from zbrain_nb.client.uploading import upload
from zbrain_nb.model.errors import Detached, JobNotFound, NotFound
from zbrain_nb.model.events import JOB_ONLY, LOG_PAGE_BYTES, SUBSCRIPTION_KINDS, Event, LogEntry
from zbrain_nb.model.history import HistoryQuery
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobSpec, JobState
from zbrain_nb.model.packing import Parcel
from zbrain_nb.model.protocol import Identified, WorkerInfo
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.model.settings import read_settings
from zbrain_nb.model.transitions import read_patch

LOG_PAGE = 1000
#: As many jobs as one request lists at most.
PAGE = 1_000
#: Jobs in one request about many.
MANY = 10_000
#: By so many of its jobs may somebody be found who waits for a group: an address holds no more of them.
NAMED = 100
#: Results fetched at once.
FETCHES = 16
#: Events that leave the job as it is.
_NO_CHANGE = JOB_ONLY.union(SUBSCRIPTION_KINDS)


class _Jobs(msgspec.Struct):
    jobs: list[dict[str, Any]]
    next_cursor: str | None = None
    event_seq: int = 0


class _Many(msgspec.Struct):
    jobs: list[dict[str, Any]]
    event_seq: int


class _Page(msgspec.Struct):
    entries: list[LogEntry]
    next_seq: int


class _Outputs(msgspec.Struct):
    outputs: list[dict[str, Any]]
    event_seq: int
    clear_next: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The outputs, and what is to come before the next one."""
        return [*self.outputs, {"output_type": "clear_output", "wait": True}] if self.clear_next else self.outputs


class _Artifacts(msgspec.Struct):
    artifacts: list[JobArtifact]


class _Workers(msgspec.Struct):
    workers: list[WorkerInfo]


class _Canceled(msgspec.Struct):
    result: CancelResult


class _Detached(msgspec.Struct):
    detached: int


class Update(msgspec.Struct):
    """One step in the life of a followed job: its new state, new log lines, or new outputs (and their event)."""

    job: Job | None = None
    entries: list[LogEntry] = []
    outputs: list[dict[str, Any]] = []
    seq: int = 0


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

        A broken connection is no reason to submit twice: the request bears a key of its own.

        Raises
        ------
        MissingBlobs
            If a spec names blobs that the server does not have.
        InvalidSpec
            If the server refuses a spec.
        """
        key = {"Idempotency-Key": f"client-{uuid.uuid4().hex}"}
        key |= await self.secrets.headers(self.transport, specs)
        return await self.transport.post("jobs", list(specs), list[Job], headers=key)

    async def get(self, job_id: str) -> Job:
        """Return a job as it is now.

        Raises
        ------
        JobNotFound
            If there is none with this id.
        """
        return read_job(await self.transport.get(f"jobs/{_quoted(job_id)}", dict[str, Any]))

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
        return await self._many("lookup", list(ids))

    async def cancel_many(self, ids: Iterable[str]) -> list[Job]:
        """Cancel those of the jobs that have not ended; return all as they are then."""
        return (await self._many("cancel", list(ids)))[0]

    async def retry_many(self, ids: Iterable[str]) -> list[Job]:
        """Submit those of one's own jobs that have ended again; return the new ones, in order.

        Those of other people are passed over: `retry` repeats them one by one.
        """
        return (await self._many("retry", list(ids)))[0]

    async def _many(self, verb: str, ids: list[str]) -> tuple[list[Job], int]:
        found: list[Job] = []
        first_seq: int | None = None
        for start in range(0, len(ids), MANY) or [0]:
            body = {"ids": ids[start : start + MANY]}
            answer = await self.transport.post(f"jobs/{verb}", body, _Many, repeatable=verb != "retry")
            found += map(read_job, answer.jobs)
            first_seq = answer.event_seq if first_seq is None else first_seq
        return found, first_seq or 0

    async def follow_many(self, jobs: Sequence[Job], *, waits: bool = False) -> AsyncGenerator[list[Job], None]:
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
        active = {job.id: job for job in jobs if not job.state.ended}
        topics = sorted({f"orgs/{job.org_id}" for job in active.values()})
        if waits:
            named = dict.fromkeys([jobs[0].id, *active]) if active else {}
            topics += [f"states/{job_id}" for job_id in list(named)[:NAMED]]
        found, seq = await self._look_again(active)
        yield found
        if not active:
            return
        events = self.transport.events(topics, seq, waits=waits)
        try:
            async for batch in events:
                changed: dict[str, Job] = {}
                for event in batch:
                    if event.kind == "detached":
                        raise Detached(
                            "Nobody waits here any more for these jobs; they go on.",
                            "The group's wait() waits again, cancel() ends them.",
                        )
                    if event.kind == "reset":
                        changed |= {job.id: job for job in (await self._look_again(active))[0]}
                    elif (job := active.get(event.job_id)) is not None and event.seq > job.event_seq:
                        job = apply_event(job, event)
                        changed[job.id] = active[job.id] = job
                        if job.state.ended:
                            del active[job.id]
                if changed:
                    yield list(changed.values())
                if not active:
                    return
        finally:
            await events.aclose()

    async def _look_again(self, active: dict[str, Job]) -> tuple[list[Job], int]:
        """Bring `active` up to date, without those that have ended; return all that were looked at."""
        if not active:
            return [], 0
        found, seq = await self.lookup(active)
        if len(found) < len(active):
            lost = len(active) - len(found)
            raise JobNotFound(f"The server does not know {lost} of {len(active)} jobs any more.")
        active.clear()
        active.update((job.id, job) for job in found if not job.state.ended)
        return found, seq

    async def results(self, jobs: Iterable[Job]) -> dict[str, bytes]:
        """Return the pickled results of ended jobs by their SHA-256; equal ones are fetched once."""
        found: dict[str, bytes] = {}
        wanted: dict[str, str] = {}
        for job in jobs:
            if job.result is not None and job.result.data is not None:
                found[job.result.sha256] = job.result.data
            elif job.result is not None:
                wanted[job.result.sha256] = job.id
        room = asyncio.Semaphore(FETCHES)

        async def fetch(digest: str, job_id: str) -> None:
            async with room:
                found[digest] = await self.read(f"jobs/{job_id}/result")

        async with anyio.create_task_group() as tasks:
            for digest, job_id in wanted.items():
                tasks.start_soon(fetch, digest, job_id)
        return found

    async def cancel(self, job_id: str, *, if_waiting: bool = False) -> CancelResult:
        """Cancel a job; with `if_waiting` only if it does not run.

        Raises
        ------
        WrongState
            If it runs, and was to be canceled only while it waits.
        """
        path = f"jobs/{_quoted(job_id)}/cancel{'?if_waiting=1' if if_waiting else ''}"
        return (await self.transport.post(path, {}, _Canceled)).result

    async def retry(self, job_id: str, others: bool = False) -> Job:
        """Submit an ended job's spec again, as a new job of one's own; another person's only with `others`."""
        path = f"jobs/{_quoted(job_id)}/retry{'?others=1' if others else ''}"
        answer = await self.transport.request("POST", path, repeatable=False, content=b"")
        return read_job(msgspec.json.decode(answer.content))

    async def logs(self, job_id: str, from_seq: int = 0) -> AsyncIterator[list[LogEntry]]:
        """Yield the log that there is now, page by page."""
        while True:
            page = await self.transport.get(
                f"jobs/{_quoted(job_id)}/logs", _Page, params={"from_seq": str(from_seq), "limit": str(LOG_PAGE)}
            )
            if page.entries:
                yield page.entries
            # a page that was cut for its size holds so many bytes, and a character takes four at most
            if len(page.entries) < LOG_PAGE and sum(len(e.line) for e in page.entries) < LOG_PAGE_BYTES // 4:
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

    async def follow(
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
        if after is not None:
            shown, job, seen = _Outputs([], after), await self.get(job_id), from_seq
            if not job.state.ended:
                yield Update(job=job)
            async with aclosing(self._changes(job, shown, seen, logs=logs, waits=waits)) as changes:
                async for update in changes:
                    yield update
            return
        if not logs:
            found, seq = await self.lookup([job_id])
            job = found[0] if found else await self.get(job_id)  # which says that there is none
            yield Update(job=job)
            if not job.state.ended:
                async with aclosing(self._changes(job, _Outputs([], seq), 0, logs=False, waits=waits)) as changes:
                    async for update in changes:
                        yield update
            return
        # Outputs first: their event_seq is the point behind which the socket brings everything else.
        shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
        job, seen = await self.get(job_id), from_seq
        if job.state.ended and job.event_seq > shown.event_seq:  # it ended between the two
            shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
        async for page in self.logs(job_id, seen):
            seen = page[-1].seq + 1
            yield Update(entries=page)
        if shown.messages:
            yield Update(outputs=shown.messages, seq=shown.event_seq)
        yield Update(job=job)
        if job.state.ended:
            return
        async with aclosing(self._changes(job, shown, seen, logs=logs, waits=waits)) as changes:
            async for update in changes:
                yield update

    async def _changes(
        self, job: Job, shown: _Outputs, seen: int, *, logs: bool, waits: bool
    ) -> AsyncGenerator[Update, None]:
        """Yield what comes behind ``shown.event_seq``, lines from ``log_seq`` `seen` on, until the job ended."""
        job_id = job.id
        events = self.transport.events([f"{'jobs' if logs else 'states'}/{job_id}"], shown.event_seq, waits=waits)
        try:
            async for batch in events:
                for event in batch:
                    if event.kind == "detached":
                        raise Detached(
                            f"Nobody waits here any more for the job {job.name!r}; it goes on.",
                            "Its handle's wait() waits again, cancel() ends it.",
                            job_id=job_id,
                        )
                    if event.kind == "reset":  # what led here is not kept any more: begin again from what is there
                        job = _job_of(event, job_id) or await self.get(job_id)
                        if logs:
                            async for page in self.logs(job_id, seen):
                                seen = page[-1].seq + 1
                                yield Update(entries=page)
                            shown = await self.transport.get(f"jobs/{_quoted(job_id)}/outputs", _Outputs)
                            yield Update(outputs=_instead(shown.messages), seq=shown.event_seq)
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

    async def detach(self, job_id: str) -> int:
        """Let go on who waits for a job, wherever that is; return how many these are. The job goes on."""
        return (await self.transport.post(f"jobs/{_quoted(job_id)}/detach", {}, _Detached)).detached

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
        digest = await asyncio.to_thread(_sha256, data)
        await self._put(data, digest)
        return digest

    async def put_parcel(self, parcel: Parcel) -> tuple[str, dict[str, str]]:
        """Upload a payload and the buffers that are apart; what the server has does not travel again.

        Returns
        -------
        str
            SHA-256 of the payload.
        dict of str to str
            The job's ``inputs`` that the payload needs besides itself.
        """
        for sha256, buffer in parcel.apart.items():
            await self._put(buffer, sha256)
        return await self.put_blob(parcel.data), {sha256: sha256 for sha256 in parcel.apart}

    async def _put(self, data: bytes | memoryview, sha256: str) -> None:
        view = memoryview(data)

        async def pieces(offset: int) -> AsyncIterator[bytes]:
            for start in range(offset, len(view), CHUNK_BYTES):
                yield bytes(view[start : start + CHUNK_BYTES])

        if not await hand_over(self.transport, view, sha256):
            await upload(self.transport, sha256, len(view), pieces)

    async def history(self, wanted: HistoryQuery) -> Spool:
        """Return a table of the history, or a part of it, as a file that holds an Arrow IPC stream."""
        return await spool(self.transport, wanted)

    async def read(self, path: str) -> bytes:
        """Return the bytes at a route."""
        return b"".join([chunk async for chunk in self.transport.download(path)])

    async def download(self, job_id: str, artifact: JobArtifact, target: Path) -> None:
        """Write an artifact of a job to a file; it appears only once it is whole (see `downloading.download`)."""
        await download(self.transport, f"jobs/{_quoted(job_id)}/artifacts/{quote(artifact.name)}", artifact, target)


def read_job(raw: dict[str, Any]) -> Job:
    """Make a `Job` from a server's JSON, which says more than the struct holds."""
    return msgspec.convert(raw, Job)


def apply_event(job: Job, event: Event) -> Job:
    """Return what an event about `job` makes of it."""
    if event.kind in _NO_CHANGE or event.kind == "job_submitted":
        return job
    patch = {name: value for name, value in event.data.items() if name in Job.__struct_fields__}
    return msgspec.structs.replace(job, **read_patch(patch) | {"event_seq": event.seq})


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


def _sha256(data: bytes | memoryview) -> str:
    return hashlib.sha256(data).hexdigest()
