"""What happens to jobs: the events of workers on their way in, of the queue on their way out, and log lines."""

from __future__ import annotations

from enum import IntEnum, StrEnum
from typing import Any

import msgspec

from zbrain_nb.model.job import JobArtifact, Variable


class SocketEnd(IntEnum):
    """Why the server closes a socket of events (RFC 6455, section 7.4; those from 4000 on are our own).

    The first two mean that the same may be asked for again, the others that it will be refused.
    """

    GOING_AWAY = 1001
    TRY_AGAIN_LATER = 1013
    #: The token or login that opened it is good no more.
    UNKNOWN_CALLER = 1008
    #: Who opened it is no member any more of an org of which they followed something.
    NO_MEMBER = 4403


class LogStream(StrEnum):
    """Where a log line came from; `SYSTEM` lines are written by the queue or the worker."""

    STDOUT = "stdout"
    STDERR = "stderr"
    SYSTEM = "system"


#: A page of a log ends with the line that reaches so many bytes, however many lines were asked for.
LOG_PAGE_BYTES = 4 * 1024 * 1024


class LogEntry(msgspec.Struct, frozen=True):
    """One line of a job's log.

    Attributes
    ----------
    seq : int
        The job's ``log_seq``: 0, 1, 2, ... over all attempts.
    attempt : int
        Which attempt wrote it.
    stream : LogStream
        Where it came from.
    ts : float
        Seconds since the epoch (UTC).
    line : str
        The text, without its line break; may hold ANSI colour sequences.
    """

    seq: int
    attempt: int
    stream: LogStream
    ts: float
    line: str

    def __str__(self) -> str:
        return self.line


class Event(msgspec.Struct, frozen=True):
    """A fact that the queue publishes after it was committed.

    Attributes
    ----------
    seq : int
        ``event_seq``, growing over the whole queue; a filter makes gaps.
    topic : str
        ``jobs/{id}``, or empty for the `SUBSCRIPTION_KINDS`. A subscription to ``orgs/{org}`` gets the state changes
        of the org's jobs, one to ``states/{id}`` those of a job, one to ``jobs/{id}`` also its log and outputs.
    kind : str
        One of `KINDS` or `SUBSCRIPTION_KINDS`.
    job_id : str
        Of which job.
    attempt : int
        Of which attempt; 0 before the first.
    ts : float
        Seconds since the epoch (UTC).
    data : dict
        For state changes the changed fields of the job; ``{"entries": [...]}`` for ``job_logged``;
        ``{"outputs": [...]}`` (nbformat output dicts, or ``{"output_type": "clear_output", "wait": bool}``)
        for ``job_displayed``.
    org_id : str
        The job's org.
    """

    seq: int
    topic: str
    kind: str
    job_id: str
    attempt: int
    ts: float
    data: dict[str, Any]
    org_id: str = ""


KINDS = (
    "job_submitted",
    "job_leased",
    "job_started",
    "job_progressed",
    "job_logged",
    "job_displayed",
    "job_completed",
    "job_failed",
    "job_retrying",
    "job_cancel_requested",
    "job_canceled",
)
#: Kinds that concern the subscription itself, and no job. ``lagged``: events came faster than they were taken, so that
#: those behind ``data["after"]`` come from the store; nothing is lost, nothing is to be done. ``reset``: events behind
#: ``data["after"]`` are not kept any more; ``data["jobs"]`` are the followed jobs as they are now, whose logs and
#: outputs have to be read again, and jobs of ``data["orgs"]`` listed again. Events go on behind the event's own `seq`.
#: ``detached``: who waits for the job that is followed shall do so no longer; only who said that it waits is told.
SUBSCRIPTION_KINDS = ("lagged", "reset", "detached")
#: Kinds delivered only to who follows the job itself: an org's dashboard is not flooded by logs.
JOB_ONLY = frozenset({"job_logged", "job_displayed"})


class WorkerArtifact(msgspec.Struct, frozen=True):
    """A file on the worker's disk that shall be kept under `name`."""

    name: str
    path: str


class _OfJob(msgspec.Struct, frozen=True, tag_field="type"):
    job_id: str


class WorkerEvent(_OfJob, frozen=True, kw_only=True):
    """What a worker says about a job.

    Attributes
    ----------
    job_id : str
        Of which job.
    attempt : int or None
        Of which attempt; None means the current one.
    after, seq : int or None
        The event covers the numbers ``after + 1 ... seq`` of this attempt's ``worker_seq``. It is taken if
        `after` is the highest number taken so far, and ignored if `seq` is not above that. None means the next.
    """

    attempt: int | None = None
    after: int | None = None
    seq: int | None = None


class JobStarted(WorkerEvent, tag="started", frozen=True):
    """The attempt's process runs."""

    worker_id: str = ""


class JobLogged(WorkerEvent, tag="logged", frozen=True):
    """Lines of output, in order: ``(stream, ts, line)``."""

    lines: list[tuple[LogStream, float, str]] = []


class JobDisplayed(WorkerEvent, tag="displayed", frozen=True):
    """Rich outputs, in order, as nbformat output dicts (and ``clear_output``, see `Event`)."""

    outputs: list[dict[str, Any]] = []


class JobProgress(WorkerEvent, tag="progress", frozen=True):
    """Text or a step of progress.

    `stdout` and `stderr` are text, split into lines when taken; `progress` is a fraction from 0 to 1, or a dict
    with ``fraction`` and ``note``; `sequence` is the sender's own count, not used for ordering.
    """

    stdout: str | None = None
    stderr: str | None = None
    sequence: int | None = None
    progress: Any = None


class WorkerEnding(WorkerEvent, frozen=True, kw_only=True):
    """How an attempt ended.

    Attributes
    ----------
    peak_memory_mb : float or None
        The most memory that its processes were seen to take, in MiB; None if nobody has seen it.
    cpu_secs : float or None
        CPU time of all its processes; None if nobody has counted it.
    """

    peak_memory_mb: float | None = None
    cpu_secs: float | None = None


class JobCompleted(WorkerEnding, tag="completed", frozen=True):
    """The attempt succeeded; `artifacts` holds `JobArtifact` (stored before) or `WorkerArtifact` (in process).

    `reason` says why there is no `result`, if there is one that could not be kept.
    """

    output: Any = None
    artifacts: list[Any] = []
    result: JobArtifact | None = None
    variables: list[Variable] = []
    exit_code: int | None = 0
    reason: str | None = None


class JobFailed(WorkerEnding, tag="failed", frozen=True):
    """The attempt failed; with `lost`, it vanished with all its processes; with `unstarted`, these never ran.

    With `returned` as well, a worker that had leased it ahead gives it back to be run elsewhere: that is no loss.
    `error` is text, or a dict with ``ename``, ``evalue`` and ``traceback`` (list of str). `reason` is one
    sentence for a person. With `final` no retry is made, whatever the spec allows.
    """

    error: Any = None
    artifacts: list[Any] = []
    variables: list[Variable] = []
    exit_code: int | None = None
    reason: str | None = None
    lost: bool = False
    unstarted: bool = False
    returned: bool = False
    final: bool = False


class JobCanceled(WorkerEnding, tag="canceled", frozen=True):
    """The attempt was canceled and its processes are gone."""

    reason: str | None = None
    artifacts: list[Any] = []
    variables: list[Variable] = []
    exit_code: int | None = None


AnyWorkerEvent = JobStarted | JobLogged | JobDisplayed | JobProgress | JobCompleted | JobFailed | JobCanceled
ENDINGS = (JobCompleted, JobFailed, JobCanceled)
