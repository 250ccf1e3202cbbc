"""What routes answer with, where it is put together for them: the shapes that the document shows.

What the queue hands out as it is (`LogEntry`, `WorkerInfo`, `QueueInfo`, ...) stands beside what makes it.
"""

from __future__ import annotations

import datetime as dt
from typing import Any

import msgspec

from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.job import CancelResult, Job, JobArtifact, JobState
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.queue.attempts import Attempt
from zbrain_nb.queue.overview import Overview


class ShownJob(Job, kw_only=True):
    """A job, with its title as ``name``, and the values of ``spec.env`` masked."""

    name: str


class SubmittedJob(ShownJob, kw_only=True):
    """The job that a submit or a retry made, or the one that had its key before: then ``deduplicated`` is true."""

    deduplicated: bool = False


class Detached(msgspec.Struct):
    """How many were let go on who waited for the job."""

    detached: int
    job: ShownJob


class JobInFull(ShownJob, kw_only=True):
    """One job, with the number of its log lines, and of those who wait for its end."""

    log_lines: int
    waiting: int


class RowSpec(msgspec.Struct):
    """Of a job's spec, what a table shows."""

    worker: str
    tags: dict[str, str]
    max_retries: int


class JobRow(msgspec.Struct, kw_only=True):
    """Of a job, what a row of a table shows; ``error`` is cut to its beginning."""

    id: str
    name: str
    owner: str
    org_id: str
    state: JobState
    attempt: int
    created_at: dt.datetime
    started_at: dt.datetime | None
    finished_at: dt.datetime | None
    worker_id: str | None
    exit_code: int | None
    progress: dict[str, Any] | None
    reason: str | None
    retry_of: str | None
    losses: int
    not_before: dt.datetime | None
    cancel_requested_at: dt.datetime | None
    canceled_by: str | None
    event_seq: int
    spec: RowSpec
    error: dict[str, str] | msgspec.UnsetType = msgspec.UNSET


class JobPage(msgspec.Struct):
    """Jobs, newest first; ``next_cursor`` asks for those behind them and is null on the last page.

    ``event_seq`` asks, as ``after``, for what is submitted from now on.
    """

    jobs: list[ShownJob]
    next_cursor: str | None
    event_seq: int


class RowPage(msgspec.Struct):
    """The same, with ``brief=1``."""

    jobs: list[JobRow]
    next_cursor: str | None
    event_seq: int


class ManyJobs(msgspec.Struct):
    """Jobs, as they were or later than at the event ``event_seq``; of a retry, ``others`` were not one's own."""

    jobs: list[SubmittedJob]
    event_seq: int
    others: list[str] | msgspec.UnsetType = msgspec.UNSET


class Canceled(msgspec.Struct):
    """What a cancel did, and the job as it is now."""

    result: CancelResult
    job: ShownJob


class LogPage(msgspec.Struct):
    """Lines of a log; ``next_seq`` is the next ``from_seq`` and repeats when nothing is new."""

    entries: list[LogEntry]
    next_seq: int


class Outputs(msgspec.Struct):
    """Outputs as nbformat output dicts; events behind ``event_seq`` change them.

    With ``clear_next`` the next output takes the place of all of them: a ``clear_output(wait=True)`` came last.
    """

    outputs: list[dict[str, Any]]
    clear_next: bool
    event_seq: int


class Attempts(msgspec.Struct):
    """How a job was tried, and the jobs that Retry made before and after it."""

    attempts: list[Attempt]
    chain: list[JobRow]


class Artifacts(msgspec.Struct):
    """The files kept with a job."""

    artifacts: list[JobArtifact]


class StoredBlob(msgspec.Struct):
    """A blob that is here now."""

    sha256: str


class Workers(msgspec.Struct):
    """The workers that the queue knows."""

    workers: list[WorkerInfo]


class Queues(msgspec.Struct):
    """The queues that have something to do, or are paused."""

    queues: list[QueueInfo]


class StorageUse(msgspec.Struct):
    """What database and artifacts take, and what their disk has left; to all but the holder, what they have stored."""

    artifact_bytes: int
    artifacts: int | msgspec.UnsetType = msgspec.UNSET
    database_bytes: int | msgspec.UnsetType = msgspec.UNSET
    free_bytes: int | msgspec.UnsetType = msgspec.UNSET


class FullOverview(Overview, kw_only=True):
    """An org's numbers, with the workers, and the storage of the queue or the caller."""

    workers: list[WorkerInfo]
    storage: StorageUse


class Trouble(msgspec.Struct):
    """What is wrong with a host that answers, and what to do about it."""

    message: str
    hint: str


class HealthReport(msgspec.Struct):
    """That a host is here, and which key secrets are sealed for.

    A ``proof`` for who sent a nonce, a ``key_proof`` for who sent a challenge, and what runs here, with what is wrong
    with its login, for who showed the token.
    """

    status: str
    instance: str
    secrets_key: str
    proof: str | msgspec.UnsetType = msgspec.UNSET
    key_proof: str | msgspec.UnsetType = msgspec.UNSET
    version: str | msgspec.UnsetType = msgspec.UNSET
    python: str | msgspec.UnsetType = msgspec.UNSET
    pid: int | msgspec.UnsetType = msgspec.UNSET
    trouble: Trouble | msgspec.UnsetType = msgspec.UNSET


class LoginCode(msgspec.Struct):
    """Where to send a browser, relative to the host, within a minute."""

    login: str
