"""Routes for jobs: submit, list, look, cancel, retry, logs, outputs."""

from __future__ import annotations

import hashlib
from typing import Any

import msgspec

from zbrain_nb.model.checks import brief
from zbrain_nb.model.errors import InvalidSpec, Malformed, TooLarge
from zbrain_nb.model.events import LogStream
from zbrain_nb.model.job import MAX_SPEC_BYTES, CancelResult, Job, JobSpec, JobState, shown
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.jobqueue import Accepted
from zbrain_nb.server.handlers.base import ALL, PEOPLE, ApiHandler, admitting, field_of
from zbrain_nb.store.rows import encode

MAX_LIST = 1000
MAX_LOG = 10_000
MAX_BATCH = 10_000
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


def job_json(job: Job, **more: Any) -> msgspec.Raw:
    """Return a job, as JSON, as every answer shows it: as `shown` does, with its title as ``name``, and `more`.

    Encoded in one step: an answer to a large batch holds a thousand of them.
    """
    body = encode(job if not job.spec.env else shown(job))
    return msgspec.Raw(body[:-1] + b"," + encode({"name": job.name, **more})[1:])


def job_row(job: Job) -> dict[str, Any]:
    """Return of a job what a row of a table shows, so that ten thousand are a few megabytes."""
    row: dict[str, Any] = {name: getattr(job, name) for name in ROW_FIELDS}
    row["spec"] = {"worker": job.spec.worker, "tags": job.spec.tags, "max_retries": job.spec.max_retries}
    if job.error:
        row["error"] = {name: str(job.error.get(name, ""))[:MAX_ROW_TEXT] for name in ("ename", "evalue")}
    return row


def read_spec(raw: Any, settings: Settings, *, where: str = "") -> JobSpec:
    """Make a spec from decoded JSON, with the defaults for raw requests that run a command.

    Raises
    ------
    InvalidSpec
        If it does not hold; the message starts with `where`.
    """
    if not isinstance(raw, dict):
        raise InvalidSpec(f"{where}A job spec is a JSON object, not {type(raw).__name__}.")
    if raw.get("cmd") is not None:
        raw.setdefault("timeout_secs", settings.default_timeout_secs)
        raw.setdefault("max_retries", settings.max_retries)
    try:
        return msgspec.convert(raw, JobSpec)
    except InvalidSpec as error:
        raise InvalidSpec(f"{where}{error.message}", error.hint, **error.details) from error
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"{where}{brief(error)}.", field=field_of(error)) from error


def _check_sizes(items: list[Any], *, many: bool) -> None:
    for position, item in enumerate(items):
        if len(encode(item)) > MAX_SPEC_BYTES:
            where, details = (f"Spec {position}", {"index": position}) if many else ("The spec", {})
            raise TooLarge(f"{where} is over {MAX_SPEC_BYTES >> 20} MiB.", "Send inputs as blobs.", **details)


class JobsHandler(ApiHandler):
    """``POST jobs`` and ``GET jobs``."""

    admits = admitting(GET=PEOPLE, POST=PEOPLE)

    async def post(self) -> None:
        """Submit one spec or a list of them, all or nothing; 201 means committed.

        An ``Idempotency-Key`` header stands for the whole body.
        """
        raw = self.decode(object)
        many = isinstance(raw, list)
        items: list[Any] = raw if isinstance(raw, list) else [raw]
        if not items:
            raise InvalidSpec("The list of specs is empty.")
        if len(self.request.body) > MAX_SPEC_BYTES:
            _check_sizes(items, many=many)
        settings = self.context.settings
        key = self.request.headers.get("Idempotency-Key")
        if key and isinstance(raw, dict) and raw.get("idempotency_key") is None:
            raw["idempotency_key"] = key
        specs = [read_spec(item, settings, where=f"Spec {n}: " if many else "") for n, item in enumerate(items)]
        scope = self.principal
        bodies: list[msgspec.Raw] = []

        def write_bodies(accepted: list[Accepted]) -> None:
            bodies[:] = [
                job_json(one.job, deduplicated=True) if one.deduplicated else job_json(one.job) for one in accepted
            ]

        if key and many:
            digest = hashlib.sha256(self.request.body).hexdigest()
            accepted = await self.queue.accept_once(specs, key, digest, scope=scope, meanwhile=write_bodies)
        else:
            accepted = await self.queue.accept(specs, scope=scope, meanwhile=write_bodies)
        if not bodies:
            write_bodies(accepted)
        self.reply(bodies if many else bodies[0], 200 if all(a.deduplicated for a in accepted) else 201)

    async def get(self) -> None:
        """List jobs, newest first; with ``?brief=1`` only what a table shows of each."""
        state = self.get_query_argument("state", "") or None
        if state is not None and state not in set(JobState):
            raise Malformed(f"There is no state {state[:40]!r}.", f"States are {', '.join(JobState)}.")
        limit = self.int_argument("limit", 50, low=1, high=MAX_LIST)
        jobs = await self.queue.list(
            self.get_query_argument("org", "") or None,
            JobState(state) if state else None,
            limit,
            self.get_query_argument("cursor", "") or None,
            name=self.get_query_argument("name", "") or None,
            q=self.get_query_argument("q", "") or None,
            tag=self._tag(),
            scope=self.principal,
        )
        show = job_row if self.int_argument("brief", 0, high=1) else job_json
        self.reply({"jobs": [show(j) for j in jobs], "next_cursor": jobs[-1].id if len(jobs) == limit else None})

    def _tag(self) -> tuple[str, str] | None:
        """Return the tag asked for, as ``?tag=NAME=VALUE``."""
        text = self.get_query_argument("tag", "")
        name, equals, value = text.partition("=")
        if text and not (name and equals):
            raise Malformed(f"tag must be NAME=VALUE, not {text[:40]!r}.")
        return (name, value) if text else None


class JobHandler(ApiHandler):
    """``GET jobs/{id}``."""

    admits = admitting(GET=ALL)

    async def get(self, job_id: str) -> None:
        """Show one job, with the number of its log lines."""
        job = await self.job(job_id)
        self.reply(job_json(job, log_lines=await self.queue.count_log_lines(job.id, scope=self.principal)))


class CancelHandler(ApiHandler):
    """``POST jobs/{id}/cancel``."""

    admits = admitting(POST=PEOPLE)

    async def post(self, job_id: str) -> None:
        """Cancel; 200 for an ended job too. With ``?if_waiting=1`` a job that runs is left alone: 409."""
        await self.job(job_id)
        if_waiting = self.int_argument("if_waiting", 0, high=1) == 1
        result = await self.queue.cancel_job(job_id.lower(), if_waiting=if_waiting, scope=self.principal)
        if result is CancelResult.NOT_FOUND:
            await self.job(job_id)
        self.reply({"result": result, "job": job_json(await self.job(job_id))})


class RetryHandler(ApiHandler):
    """``POST jobs/{id}/retry``."""

    admits = admitting(POST=PEOPLE)

    async def post(self, job_id: str) -> None:
        """Submit the same spec again as a new job; 409 while the old one is active."""
        await self.job(job_id)
        self.reply(job_json(await self.queue.retry_job(job_id.lower(), scope=self.principal)), 201)


class _Ids(msgspec.Struct):
    ids: list[str]


class ManyHandler(ApiHandler):
    """``POST jobs/lookup``, ``jobs/cancel`` and ``jobs/retry``: one request for up to 10,000 jobs."""

    admits = admitting(POST=PEOPLE)

    async def post(self, verb: str) -> None:
        """Look at, cancel or submit again the jobs whose ids the body lists; unknown ones are passed over.

        Answers ``{"jobs": [...], "event_seq": n}``, the jobs in the order of the ids. Events behind ``event_seq``
        tell what becomes of them. `retry` leaves out jobs that have not ended, and answers with the new ones.
        """
        ids = [job_id.lower() for job_id in self.decode(_Ids).ids]
        if len(ids) > MAX_BATCH:
            raise TooLarge(f"{len(ids):,} ids are more than {MAX_BATCH:,}.", "Send them in several requests.")
        seq, scope = self.queue.event_seq, self.principal
        jobs = await self.queue.get_many(ids, scope=scope)
        if verb == "cancel":
            await self.queue.cancel_many([job.id for job in jobs if not job.state.ended], scope=scope)
            jobs = await self.queue.get_many(ids, scope=scope)
        elif verb == "retry":
            jobs = await self.queue.retry_many(jobs, scope=scope)
        self.reply({"jobs": [job_json(job) for job in jobs], "event_seq": seq})


class LogsHandler(ApiHandler):
    """``GET jobs/{id}/logs``."""

    admits = admitting(GET=PEOPLE)

    async def get(self, job_id: str) -> None:
        """Page through the log by ``log_seq``; ``next_seq`` repeats when nothing is new."""
        job = await self.job(job_id)
        from_seq = self.int_argument("from_seq", 0)
        limit = self.int_argument("limit", 1000, low=1, high=MAX_LOG)
        stream = self.get_query_argument("stream", "") or None
        if stream is not None and stream not in set(LogStream):
            raise Malformed(f"There is no stream {stream[:40]!r}.", f"Streams are {', '.join(LogStream)}.")
        wanted = LogStream(stream) if stream else None
        entries = await self.queue.get_logs(job.id, from_seq, limit, wanted, scope=self.principal)
        self.reply({"entries": entries, "next_seq": entries[-1].seq + 1 if entries else from_seq})


class OutputsHandler(ApiHandler):
    """``GET jobs/{id}/outputs``."""

    admits = admitting(GET=PEOPLE)

    async def get(self, job_id: str) -> None:
        """Show the rich outputs, as they stand, as nbformat output dicts."""
        job = await self.job(job_id)
        seq = self.queue.event_seq
        self.reply({"outputs": await self.queue.list_outputs(job.id, scope=self.principal), "event_seq": seq})
