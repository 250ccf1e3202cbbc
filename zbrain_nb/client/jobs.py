"""What is asked about jobs by their ids, and what the answers and events make of them.

Called by `AsyncClient`, and by `following`, which asks again where events do not tell enough.
"""

from __future__ import annotations

import uuid
from collections.abc import AsyncIterator, Iterable
from typing import Any

import msgspec

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import JobNotFound, TooLarge
from zbrain_nb.model.events import JOB_ONLY, LOG_PAGE_BYTES, SUBSCRIPTION_KINDS, Event, LogEntry
from zbrain_nb.model.job import Job
from zbrain_nb.model.transitions import read_patch

LOG_PAGE = 1000
#: Jobs in one request about many.
MANY = 10_000
#: Events that leave the job as it is.
NO_CHANGE = JOB_ONLY.union(SUBSCRIPTION_KINDS)


class _Many(msgspec.Struct):
    jobs: list[dict[str, Any]]
    event_seq: int


class _Page(msgspec.Struct):
    entries: list[LogEntry]
    next_seq: int


class Outputs(msgspec.Struct):
    """A job's outputs, and which events they leave to come."""

    outputs: list[dict[str, Any]]
    event_seq: int
    clear_next: bool = False

    @property
    def messages(self) -> list[dict[str, Any]]:
        """The outputs, and what is to come before the next one."""
        return [*self.outputs, {"output_type": "clear_output", "wait": True}] if self.clear_next else self.outputs


async def get_job(transport: Transport, job_id: str) -> Job:
    """Return a job as it is now.

    Raises
    ------
    JobNotFound
        If there is none with this id.
    """
    return read_job(await transport.get(path_of(job_id), dict[str, Any]))


async def ask_many(transport: Transport, verb: str, ids: Iterable[str]) -> tuple[list[Job], int]:
    """Look up, cancel or retry many jobs; return them, and behind which event to go on (see `AsyncClient.lookup`)."""
    wanted = list(ids)
    found: list[Job] = []
    first_seq: int | None = None
    parts = [wanted[start : start + MANY] for start in range(0, len(wanted) or 1, MANY)]
    while parts:
        part = parts.pop(0)
        try:
            answer = await transport.post(f"jobs/{verb}", {"ids": part}, _Many, repeatable=verb != "retry")
        except TooLarge:  # all together are
            if len(part) < 2:
                raise
            middle = len(part) // 2
            parts[:0] = [part[:middle], part[middle:]]
            continue
        found += map(read_job, answer.jobs)
        first_seq = answer.event_seq if first_seq is None else first_seq
    return found, first_seq or 0


async def read_log(transport: Transport, job_id: str, from_seq: int = 0) -> AsyncIterator[list[LogEntry]]:
    """Yield the log that there is now, page by page."""
    while True:
        params = {"from_seq": str(from_seq), "limit": str(LOG_PAGE)}
        page = await transport.get(path_of(job_id, "/logs"), _Page, params=params)
        if page.entries:
            yield page.entries
        # a page that was cut for its size holds so many bytes, and a character takes four at most
        if len(page.entries) < LOG_PAGE and sum(len(e.line) for e in page.entries) < LOG_PAGE_BYTES // 4:
            return
        from_seq = page.next_seq


async def read_outputs(transport: Transport, job_id: str) -> Outputs:
    """Return the rich outputs as nbformat output dicts."""
    return await transport.get(path_of(job_id, "/outputs"), Outputs)


def path_of(job_id: str, rest: str = "") -> str:
    """Return the route of a job, or one below it.

    Raises
    ------
    JobNotFound
        If no job can have this id.
    """
    try:
        return f"jobs/{uuid.UUID(job_id)}{rest}"
    except ValueError:
        raise JobNotFound(f"There is no job {job_id!r}.", "A job id looks like a UUID.") from None


def read_job(raw: dict[str, Any]) -> Job:
    """Make a `Job` from a server's JSON, which says more than the struct holds."""
    return msgspec.convert(raw, Job)


def apply_event(job: Job, event: Event) -> Job:
    """Return what an event about `job` makes of it."""
    if event.kind in NO_CHANGE or event.kind == "job_submitted":
        return job
    patch = {name: value for name, value in event.data.items() if name in Job.__struct_fields__}
    return msgspec.structs.replace(job, **read_patch(patch) | {"event_seq": event.seq})
