"""What the store's tests write: jobs, events and lines, without a queue that decides about them."""

from __future__ import annotations

from zbrain_nb import Job, JobSpec, Storage
from zbrain_nb.model.events import LogStream
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import Change, encode, folded_row, job_row


def new_job(**fields):
    return Job(JobSpec(cmd=["true"], **fields), owner="ada", org_id="lab")


def change_of(storage: Storage, job: Job, *, events: int = 0, lines: int = 0, attempt: int = 1) -> Change:
    """A submit with some of the job's later life."""
    change = Change()
    job.event_seq = storage.next_seq()
    change.jobs = [job_row(job, job.event_seq)]
    change.touched = [job.id]
    return add_life(storage, change, job, events=events, lines=lines, attempt=attempt)


def add_life(storage, change, job, *, events=0, lines=0, attempt=1, first_line=0):
    for n in range(events):
        seq = storage.next_seq()
        patch = encode({"progress": {"fraction": n / 100, "note": None}, "event_seq": seq}).decode()
        change.transitions.append((seq, job.id, job.org_id, attempt, "job_progressed", n, patch, n + 1))
    for n in range(first_line, first_line + lines):
        seq = storage.next_seq()
        text = f"line {n}"
        change.logs.append(Lines(job.id, n, attempt, 1000 + n, seq, (LogStream.STDOUT,), (n,), (text,), len(text)))
    return change


async def end(storage: Storage, *jobs: Job, state: str = "succeeded") -> None:
    for job in jobs:
        job.state = state
    rows = [folded_row(job) for job in jobs]
    assert await storage.write(lambda db: db.fold(rows)) == set()
