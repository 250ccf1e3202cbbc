"""Routes for jobs: submit, list, look, cancel, retry, logs, outputs."""

from __future__ import annotations

import hashlib
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from zbrain_nb.model.access import Verb
from zbrain_nb.model.errors import (
    Conflict,
    JobNotFound,
    KeyConflict,
    Malformed,
    MissingBlobs,
    NotFound,
    OverQuota,
    TooLarge,
    WrongState,
)
from zbrain_nb.model.events import LogStream
from zbrain_nb.model.job import CancelResult, Job, JobSpec, JobState, shown
from zbrain_nb.model.protocol import SECRETS_HEADER
from zbrain_nb.queue.batches import key_each
from zbrain_nb.queue.jobqueue import Accepted
from zbrain_nb.queue.listing import make_filter
from zbrain_nb.server.handlers.answers import (
    Canceled,
    Detached,
    JobInFull,
    JobPage,
    LogPage,
    ManyJobs,
    Outputs,
    RowPage,
    ShownJob,
    SubmittedJob,
)
from zbrain_nb.server.handlers.base import MAX_BODY_BYTES, ApiHandler
from zbrain_nb.server.handlers.declaration import ALL, PEOPLE, Header, operation
from zbrain_nb.server.handlers.specs import MAX_BATCH, read_specs
from zbrain_nb.store.rows import encode

MAX_LIST = 1000
#: A list ends with the job that brings it to so many bytes; what stands behind is the next page.
MAX_PAGE_BYTES = 16 * 1024 * 1024
#: What the jobs may take in memory that one request looks up, cancels or submits again.
MAX_MANY_BYTES = 64 * 1024 * 1024
MAX_LOG = 10_000
MAX_SEARCH = 1_000
#: What `job_row` shows, and so many characters of what an exception says.
ROW_FIELDS = (
    "id",
    "name",
    "owner",
    "org_id",
    "state",
    "attempt",
    "created_at",
    "started_at",
    "finished_at",
    "worker_id",
    "exit_code",
    "progress",
    "reason",
    "retry_of",
    "losses",
    "not_before",
    "cancel_requested_at",
    "canceled_by",
    "event_seq",
)
MAX_ROW_TEXT = 300
IDEMPOTENCY_KEY = Header(
    "Idempotency-Key",
    str,
    "Two requests of one owner with one key for one thing are one; up to 200 characters.",
)
SECRETS = Header(SECRETS_HEADER, str, "Values of the secrets that specs name, sealed for the key in `GET health`.")
Uuid = Annotated[str, Meta(extra_json_schema={"format": "uuid"})]


#: A spec as a body: what the schema of its fields does not say, but `JobSpec` checks.
_ONE_OF_THREE = {"cmd": "array", "code": "string", "function": "string"}
SpecBody = Annotated[
    JobSpec,
    Meta(
        extra_json_schema={
            "oneOf": [
                {"required": [name], "properties": {name: {"type": kind}}} for name, kind in _ONE_OF_THREE.items()
            ]
        }
    ),
]


class ListQuery(msgspec.Struct):
    """Arguments of ``GET jobs``."""

    state: JobState | None = None
    org: Annotated[str | None, Meta(description="Jobs of this org.")] = None
    owner: Annotated[str | None, Meta(description="Jobs of this person.")] = None
    name: Annotated[str | None, Meta(description="Jobs of this very name.")] = None
    q: Annotated[str | None, Meta(description="A part of the name, in either case, or the head of the id.")] = None
    tag: Annotated[
        str | None, Meta(description="NAME=VALUE of a tag.", extra_json_schema={"pattern": "^[^=]+=[\\s\\S]+$"})
    ] = None
    limit: Annotated[int, Meta(ge=1, le=MAX_LIST)] = 50
    cursor: Annotated[Uuid | None, Meta(description="`next_cursor` of the page before.")] = None
    brief: Annotated[bool, Meta(description="Show of each job only what a table shows.")] = False
    after: (
        Annotated[int, Meta(ge=0, le=2**53, description="`event_seq` of an earlier answer: what was submitted since.")]
        | None
    ) = None

    def tag_pair(self) -> tuple[str, str] | None:
        """Return the tag asked for.

        Raises
        ------
        Malformed
            If it is no ``NAME=VALUE``.
        """
        if self.tag is None:
            return None
        name, _, value = self.tag.partition("=")
        if not (name and value):
            raise Malformed(f"tag must be NAME=VALUE, not {self.tag[:40]!r}.")
        return name, value


class CancelQuery(msgspec.Struct):
    """Arguments of ``POST jobs/{id}/cancel``."""

    if_waiting: Annotated[bool, Meta(description="Leave a job alone that runs, with 409.")] = False


class RetryQuery(msgspec.Struct):
    """Arguments of ``POST jobs/{id}/retry``."""

    others: Annotated[bool, Meta(description="Run the code of another person's job as oneself; else that is 403.")] = (
        False
    )


class LogQuery(msgspec.Struct):
    """Arguments of ``GET jobs/{id}/logs``."""

    from_seq: Annotated[int, Meta(ge=0, le=2**53, description="The first line wanted.")] = 0
    limit: Annotated[int, Meta(ge=1, le=MAX_LOG)] = 1000
    stream: LogStream | None = None
    q: Annotated[str, Meta(max_length=MAX_SEARCH, description="Only lines that hold this, in either case.")] = ""


def job_json(job: Job, **more: Any) -> msgspec.Raw:
    """Return a job, as JSON, as every answer shows it: as `shown` does, with its title as ``name``, and `more`.

    Encoded in one step: an answer to a large batch holds a thousand of them.
    """
    body = encode(job if not job.spec.env else shown(job))
    return msgspec.Raw(body[:-1] + b"," + encode({"name": job.name, **more})[1:])


def accepted_json(accepted: Accepted) -> msgspec.Raw:
    """Return a submitted job as `job_json` does, marked if it had been there under its key before."""
    return job_json(accepted.job, deduplicated=True) if accepted.deduplicated else job_json(accepted.job)


def job_row(job: Job) -> dict[str, Any]:
    """Return of a job what a row of a table shows, so that ten thousand are a few megabytes."""
    row: dict[str, Any] = {name: getattr(job, name) for name in ROW_FIELDS}
    row["spec"] = {"worker": job.spec.worker, "tags": job.spec.tags, "max_retries": job.spec.max_retries}
    if job.error:
        row["error"] = {name: str(job.error.get(name, ""))[:MAX_ROW_TEXT] for name in ("ename", "evalue")}
    return row


class JobsHandler(ApiHandler):
    """``POST jobs`` and ``GET jobs``."""

    max_body_bytes = MAX_BODY_BYTES
    smaller_bodies = "Send inputs as blobs, and many specs in several requests."

    @operation(
        admits=PEOPLE,
        act="submit",
        body=SpecBody | list[SpecBody],
        headers=(IDEMPOTENCY_KEY, SECRETS),
        answers={201: (SubmittedJob, list[SubmittedJob]), 200: (SubmittedJob, list[SubmittedJob])},
        refuses=(KeyConflict, MissingBlobs, Conflict, OverQuota),
    )
    async def post(self) -> None:
        """Submit one spec or a list of up to 10,000, all or nothing; 201 means committed.

        A spec holds up to 100,000 JSON values, a request up to 1,000,000; inputs with more go as blobs.
        An ``Idempotency-Key`` header stands for the whole body; a repeat is answered with 200. A spec with `cmd`
        that leaves out `timeout_secs` or `max_retries` gets the host's defaults.
        """
        key = self.request.headers.get("Idempotency-Key")
        specs, many = await read_specs(self.request.body, self.context.settings, key)
        scope = self.principal
        bodies: list[msgspec.Raw] = []

        def write_bodies(accepted: list[Accepted]) -> None:
            bodies[:] = map(accepted_json, accepted)

        digest = hashlib.sha256(self.request.body).hexdigest() if key and many else ""
        if any(spec.secrets for spec in specs):
            accepted = await self._accept_with_secrets(key_each(specs, key, digest) if key and many else specs)
        elif key and many:
            accepted = await self.queue.accept_once(specs, key, digest, scope=scope, meanwhile=write_bodies)
        else:
            accepted = await self.queue.accept(specs, scope=scope, meanwhile=write_bodies)
        self.note_jobs(one.job for one in accepted)
        if not bodies:
            write_bodies(accepted)
        self.reply(bodies if many else bodies[0], 200 if all(a.deduplicated for a in accepted) else 201)

    async def authenticate(self) -> None:
        """Refuse also who may submit nowhere, before a body is read."""
        await super().authenticate()
        if self.request.method == "POST" and not (self.principal.is_holder or self.principal.parties):
            self.principal.check(Verb.SUBMIT, self.principal.home)

    async def _accept_with_secrets(self, specs: list[JobSpec]) -> list[Accepted]:
        """Submit specs of which some name secrets, whose values come in a header and are kept first."""
        self.queue.check_submits(specs, self.principal)  # who may not submit has nothing written
        secrets, jobs = self.context.secrets, [Job(spec) for spec in specs]
        held = await secrets.keep(jobs, secrets.open(self.request.headers.get(SECRETS_HEADER)))
        new: set[str] = set()
        try:
            accepted = await self.queue.accept(jobs, scope=self.principal)
            new = {one.job.id for one in accepted if not one.deduplicated}
        finally:
            await secrets.settle(held, new)
        return accepted

    @operation(admits=PEOPLE, query=ListQuery, answers={200: (JobPage, RowPage)})
    async def get(self) -> None:
        """List jobs, newest first; with ``?brief=1`` only what a table shows of each.

        A page ends at `limit`, or with the job that brings it to 16 MiB; ``next_cursor`` says whether more follow.
        ``?after=`` takes the ``event_seq`` of an earlier answer: only what was submitted since is listed.
        """
        wanted, seq = self.query(ListQuery), self.queue.event_seq
        which = make_filter(
            wanted.state, wanted.owner, wanted.name, wanted.q, wanted.cursor, wanted.tag_pair(), wanted.after
        )
        jobs, is_cut = await self.queue.list_page(
            which, wanted.limit, org_id=wanted.org, most_bytes=MAX_PAGE_BYTES, scope=self.principal
        )
        shown, size = list[Any](), 0
        for job in jobs:
            if size >= MAX_PAGE_BYTES:  # what the memory knows of jobs may be more than the store's page
                is_cut = True
                break
            if wanted.brief:
                shown.append(job_row(job))
            else:
                shown.append(body := job_json(job))
                size += memoryview(body).nbytes
        cursor = jobs[len(shown) - 1].id if is_cut and shown else None
        self.reply({"jobs": shown, "next_cursor": cursor, "event_seq": seq})


class JobHandler(ApiHandler):
    """``GET jobs/{id}``."""

    @operation(admits=ALL, answers={200: JobInFull}, refuses=(JobNotFound,))
    async def get(self, job_id: str) -> None:
        """Show one job, with the number of its log lines, and how many wait for its end."""
        job = await self.job(job_id)
        lines = await self.queue.count_log_lines(job.id, scope=self.principal)
        self.reply(job_json(job, log_lines=lines, waiting=self.queue.count_waiting(job)))


class CachedHandler(ApiHandler):
    """``GET cached/{key}``."""

    @operation(admits=PEOPLE, answers={200: ShownJob}, refuses=(NotFound,))
    async def get(self, cache_key: str) -> None:
        """Show the caller's newest job that succeeded under a cache key; 404 if there is none whose files are here."""
        found = await self.queue.cached_job(cache_key, owner=self.principal.owner, scope=self.principal)
        if found is None:
            raise NotFound("No job of yours has succeeded under this cache key.", "Submit one.")
        self.reply(job_json(found))


class CancelHandler(ApiHandler):
    """``POST jobs/{id}/cancel``."""

    @operation(
        admits=PEOPLE, act="cancel", query=CancelQuery, answers={200: Canceled}, refuses=(JobNotFound, WrongState)
    )
    async def post(self, job_id: str) -> None:
        """Cancel; 200 for an ended job too. With ``?if_waiting=1`` a job that runs is left alone: 409."""
        await self.job(job_id)
        if_waiting = self.query(CancelQuery).if_waiting
        result = await self.queue.cancel_job(job_id.lower(), if_waiting=if_waiting, scope=self.principal)
        if result is CancelResult.NOT_FOUND:
            await self.job(job_id)
        self.reply({"result": result, "job": job_json(await self.job(job_id))})


class DetachHandler(ApiHandler):
    """``POST jobs/{id}/detach``."""

    @operation(admits=PEOPLE, act="detach", answers={200: Detached}, refuses=(JobNotFound,))
    async def post(self, job_id: str) -> None:
        """Let go on who waits for the job, and say how many these were; harmless for an ended job."""
        job = await self.job(job_id)
        self.reply({"detached": self.queue.detach(job, scope=self.principal), "job": job_json(job)})


class RetryHandler(ApiHandler):
    """``POST jobs/{id}/retry``."""

    @operation(
        admits=PEOPLE,
        act="retry",
        query=RetryQuery,
        headers=(IDEMPOTENCY_KEY,),
        answers={201: SubmittedJob, 200: SubmittedJob},
        refuses=(JobNotFound, WrongState, MissingBlobs, OverQuota),
    )
    async def post(self, job_id: str) -> None:
        """Submit the same spec again as a new job; 409 while the old one is active.

        It is the caller's job and runs as the caller. So another person's is repeated only with ``?others=1``. Sent
        again under one ``Idempotency-Key``, it is answered with 200 and the job that the first request made.
        """
        await self.job(job_id)
        others = self.query(RetryQuery).others
        again = await self.queue.accept_repeat(
            job_id.lower(), key=self.request.headers.get("Idempotency-Key"), scope=self.principal, others=others
        )
        self.reply(accepted_json(again), 200 if again.deduplicated else 201)


class JobIds(msgspec.Struct):
    """Body of what is asked about many jobs at once."""

    ids: Annotated[list[str], Meta(extra_json_schema={"maxItems": MAX_BATCH})]


class ManyHandler(ApiHandler):
    """``POST jobs/lookup``, ``jobs/cancel`` and ``jobs/retry``: one request for up to 10,000 jobs."""

    @property
    def act(self) -> str:
        """What the address says; a look is none."""
        return self.path_args[0].replace("lookup", "")

    @operation(
        admits=PEOPLE,
        body=JobIds,
        headers=(IDEMPOTENCY_KEY,),
        answers={200: ManyJobs},
        refuses=(MissingBlobs, OverQuota),
    )
    async def post(self, verb: str) -> None:
        """Look at, cancel or submit again the jobs whose ids the body lists; unknown ones are passed over.

        Answers ``{"jobs": [...], "event_seq": n}``, the jobs in the order of the ids. Events behind ``event_seq``
        tell what becomes of them. `retry` leaves out jobs that have not ended, and answers with the new ones; those
        of other people it leaves out too, and ``others`` lists them. Under one ``Idempotency-Key`` it submits a job
        again once, however often it is asked; those that were there already are marked ``deduplicated``.

        Jobs that are too large together are refused with 413, and nothing is done: name fewer at once.
        """
        ids = [job_id.lower() for job_id in self.decode(JobIds).ids]
        if len(ids) > MAX_BATCH:
            raise TooLarge(f"{len(ids):,} ids are more than {MAX_BATCH:,}.", "Send them in several requests.")
        seq, scope = self.queue.event_seq, self.principal
        jobs = await self.queue.get_many(ids, scope=scope, most_bytes=MAX_MANY_BYTES)
        self.note_jobs(jobs)
        if verb == "cancel":
            await self.queue.cancel_many([job.id for job in jobs if not job.state.ended], scope=scope)
            jobs = await self.queue.get_many(ids, scope=scope)
        elif verb == "retry":
            others = {job.id for job in jobs if job.state.ended and job.owner != scope.owner}
            self.note_jobs(job for job in jobs if job.id not in others)
            key = self.request.headers.get("Idempotency-Key")
            again = await self.queue.accept_repeats(jobs, key=key, scope=scope)
            passed_over = [job.id for job in jobs if job.id in others]
            self.reply({"jobs": [accepted_json(one) for one in again], "event_seq": seq, "others": passed_over})
            return
        self.reply({"jobs": [job_json(job) for job in jobs], "event_seq": seq})


class LogsHandler(ApiHandler):
    """``GET jobs/{id}/logs``."""

    @operation(admits=PEOPLE, query=LogQuery, answers={200: LogPage}, refuses=(JobNotFound,))
    async def get(self, job_id: str) -> None:
        """Page through the log by ``log_seq``; ``next_seq`` repeats when nothing is new.

        With ``?q=TEXT`` only lines that hold it, in either case. ``next_seq`` then says up to where was looked: such a
        page may be short, or empty, and more may come behind it.
        """
        job = await self.job(job_id)
        wanted, job_id = self.query(LogQuery), job.id
        part = wanted.from_seq, wanted.limit, wanted.stream
        if wanted.q:
            found = await self.queue.search_logs(job_id, wanted.q, *part, scope=self.principal)
            self.reply({"entries": found.entries, "next_seq": found.next_seq})
            return
        entries = await self.queue.get_logs(job_id, *part, scope=self.principal)
        self.reply({"entries": entries, "next_seq": entries[-1].seq + 1 if entries else wanted.from_seq})


class OutputsHandler(ApiHandler):
    """``GET jobs/{id}/outputs``."""

    @operation(admits=PEOPLE, answers={200: Outputs}, refuses=(JobNotFound,))
    async def get(self, job_id: str) -> None:
        """Show the rich outputs, as they stand, as nbformat output dicts."""
        job = await self.job(job_id)
        seq = self.queue.event_seq
        shown = await self.queue.list_outputs(job.id, upto=seq, scope=self.principal)
        self.reply({"outputs": shown.outputs, "clear_next": shown.clear_next, "event_seq": seq})
