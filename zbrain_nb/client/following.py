"""Following jobs to their ends: first as they are, then what the events on one socket make of them.

Called by `AsyncClient`. It knows no handles, and binds and shows nothing.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Sequence
from contextlib import aclosing
from typing import Any

import msgspec

from zbrain_nb.client.jobs import NO_CHANGE, apply_event, ask_many, get_job, read_job, read_log, read_outputs
from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import Detached, JobNotFound
from zbrain_nb.model.events import Event, LogEntry
from zbrain_nb.model.job import Job

#: By so many of its jobs may somebody be found who waits for a group: an address holds no more of them.
NAMED = 100


class Update(msgspec.Struct):
    """One step in the life of a followed job: its new state, new log lines, or new outputs (and their event)."""

    job: Job | None = None
    entries: list[LogEntry] = []
    outputs: list[dict[str, Any]] = []
    seq: int = 0


async def follow(
    transport: Transport, job_id: str, from_seq: int, *, logs: bool, after: int | None, waits: bool
) -> AsyncGenerator[Update, None]:
    """Yield what becomes of a job until it ended (see `AsyncClient.follow`)."""
    seen = from_seq
    if after is not None:
        shown_seq, job = after, await get_job(transport, job_id)
        if not job.state.ended:
            yield Update(job=job)
    elif not logs:
        found, shown_seq = await ask_many(transport, "lookup", [job_id])
        job = found[0] if found else await get_job(transport, job_id)  # which says that there is none
        yield Update(job=job)
        if job.state.ended:
            return
    else:
        # Outputs first: their event_seq is the point behind which the socket brings everything else.
        shown = await read_outputs(transport, job_id)
        job = await get_job(transport, job_id)
        if job.state.ended and job.event_seq > shown.event_seq:  # it ended between the two
            shown = await read_outputs(transport, job_id)
        shown_seq = shown.event_seq
        async for page in read_log(transport, job_id, seen):
            seen = page[-1].seq + 1
            yield Update(entries=page)
        if shown.messages:
            yield Update(outputs=shown.messages, seq=shown_seq)
        yield Update(job=job)
        if job.state.ended:
            return
    async with aclosing(_changes(transport, job, shown_seq, seen, logs=logs, waits=waits)) as changes:
        async for update in changes:
            yield update


async def _changes(
    transport: Transport, job: Job, shown_seq: int, seen: int, *, logs: bool, waits: bool
) -> AsyncGenerator[Update, None]:
    """Yield what comes behind the event `shown_seq`, lines from ``log_seq`` `seen` on, until the job ended."""
    job_id = job.id
    async with aclosing(
        transport.events([f"{'jobs' if logs else 'states'}/{job_id}"], shown_seq, waits=waits)
    ) as events:
        async for batch in events:
            for event in batch:
                if event.kind == "detached":
                    raise Detached(
                        f"Nobody waits here any more for the job {job.name!r}; it goes on.",
                        "Its handle's wait() waits again, cancel() ends it.",
                        job_id=job_id,
                    )
                if event.kind == "reset":  # what led here is not kept any more: begin again from what is there
                    job = _job_of(event, job_id) or await get_job(transport, job_id)
                    if logs:
                        async for page in read_log(transport, job_id, seen):
                            seen = page[-1].seq + 1
                            yield Update(entries=page)
                        shown = await read_outputs(transport, job_id)
                        shown_seq = shown.event_seq
                        yield Update(outputs=_instead(shown.messages), seq=shown_seq)
                    if not job.state.ended:
                        yield Update(job=job)
                elif event.kind == "job_logged" and logs:
                    fresh = [e for e in _entries(event.data) if e.seq >= seen]
                    if fresh:
                        seen = fresh[-1].seq + 1
                        yield Update(entries=fresh)
                elif event.kind == "job_displayed" and logs and event.seq > shown_seq:
                    yield Update(outputs=event.data["outputs"], seq=event.seq)
                elif event.kind not in NO_CHANGE and event.seq > job.event_seq:
                    job = await get_job(transport, job_id)
                    if not job.state.ended:
                        yield Update(job=job)
                # The job may be further than its events are: what it wrote before its end is still to come.
                if job.state.ended and (event.seq >= job.event_seq or not logs):
                    yield Update(job=job)
                    return


async def follow_many(transport: Transport, jobs: Sequence[Job], *, waits: bool) -> AsyncGenerator[list[Job], None]:
    """Yield those of many jobs that have changed, until all have ended (see `AsyncClient.follow_many`)."""
    active = {job.id: job for job in jobs if not job.state.ended}
    topics = sorted({f"orgs/{job.org_id}" for job in active.values()})
    if waits:
        named = dict.fromkeys([jobs[0].id, *active]) if active else {}
        topics += [f"states/{job_id}" for job_id in list(named)[:NAMED]]
    found, seq = await _look_again(transport, active)
    yield found
    if not active:
        return
    async with aclosing(transport.events(topics, seq, waits=waits)) as events:
        async for batch in events:
            changed: dict[str, Job] = {}
            for event in batch:
                if event.kind == "detached":
                    raise Detached(
                        "Nobody waits here any more for these jobs; they go on.",
                        "The group's wait() waits again, cancel() ends them.",
                    )
                if event.kind == "reset":
                    changed |= {job.id: job for job in (await _look_again(transport, active))[0]}
                elif (job := active.get(event.job_id)) is not None and event.seq > job.event_seq:
                    job = apply_event(job, event)
                    changed[job.id] = active[job.id] = job
                    if job.state.ended:
                        del active[job.id]
            if changed:
                yield list(changed.values())
            if not active:
                return


async def _look_again(transport: Transport, active: dict[str, Job]) -> tuple[list[Job], int]:
    """Bring `active` up to date, without those that have ended; return all that were looked at."""
    if not active:
        return [], 0
    found, seq = await ask_many(transport, "lookup", active)
    if len(found) < len(active):
        lost = len(active) - len(found)
        raise JobNotFound(f"The server does not know {lost} of {len(active)} jobs any more.")
    active.clear()
    active.update((job.id, job) for job in found if not job.state.ended)
    return found, seq


def _entries(data: dict[str, Any]) -> list[LogEntry]:
    return msgspec.convert(data["entries"], list[LogEntry])


def _job_of(reset: Event, job_id: str) -> Job | None:
    return next((read_job(raw) for raw in reset.data["jobs"] if raw["id"] == job_id), None)


def _instead(outputs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return outputs that take the place of all before them, in the language of outputs itself."""
    return [{"output_type": "clear_output", "wait": bool(outputs)}, *outputs]
