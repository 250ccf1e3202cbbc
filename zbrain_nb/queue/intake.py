"""What workers report: each event of an attempt is taken exactly once, in order, and only from its holder."""

from __future__ import annotations

import hashlib
import math
import re
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Any, Literal

import msgspec

from zbrain_nb.model.access import WorkerBinding
from zbrain_nb.model.checks import brief, check_depth, check_number, is_sha256
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import (
    ENDINGS,
    JobCompleted,
    JobDisplayed,
    JobFailed,
    JobLogged,
    JobProgress,
    JobStarted,
    LogStream,
    WorkerEvent,
)
from zbrain_nb.model.job import INLINE_BYTES, MAX_ARTIFACT_NAME, JobArtifact, JobState
from zbrain_nb.model.leavings import ARTIFACTS_BYTES, MAX_ARTIFACTS, MAX_REASON, MAX_VARIABLES, VARIABLES_BYTES
from zbrain_nb.model.protocol import EventResult
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.endings import Endings
from zbrain_nb.queue.index import Entry
from zbrain_nb.queue.leases import Leases
from zbrain_nb.queue.loglines import as_columns, clean, from_texts
from zbrain_nb.queue.lograte import LogRates, carries_output, size_of
from zbrain_nb.queue.turn import Turn
from zbrain_nb.store.rows import encode

#: Numbers of events, attempts and bytes stay below this: the store keeps them in 64 bits.
MAX_COUNT = 2**62
MAX_EXIT_CODE = 2**31 - 1
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
#: The worker who reports, or None for a caller in this process, who is trusted to know; and what it may have.
Reporter = tuple[str | None, WorkerBinding]
Status = Literal["ok", "later", "gap", "stale", "invalid"]
#: It is remembered of so many attempts that their logs were told to be slowed down.
MAX_SLOWED = 10_000


class Intake:
    """Decides what becomes of worker events.

    Parameters
    ----------
    endings : Endings
        For events that end an attempt.
    start : callable
        ``start(turn, entry, worker_id)`` leases a waiting job for a worker that runs it unasked.
    rates : LogRates
        How fast output is taken.
    leases : Leases
        For attempts of which nothing is taken any more.
    """

    def __init__(
        self, endings: Endings, start: Callable[[Turn, Entry, str], Entry], rates: LogRates, leases: Leases
    ) -> None:
        self._endings = endings
        self._start = start
        self._rates = rates
        self._leases = leases
        self._slowed: OrderedDict[tuple[str, int], None] = OrderedDict()  # attempts whose log says so

    def take(
        self,
        turn: Turn,
        events: Sequence[WorkerEvent],
        reporter: Reporter,
        absent: set[tuple[str, str]],
        taken: list[WorkerEvent],
    ) -> list[EventResult]:
        """Take a batch.

        Parameters
        ----------
        reporter : Reporter
            Who reports.
        absent : set of (str, str)
            By job and blob: what an event names and is not here, or not the reporter's to give.
        taken : list
            Gets the events that changed something, with their numbers.

        Returns
        -------
        list of EventResult
            One for each attempt, in the order of its first event.
        """
        results: dict[tuple[str, int | None], EventResult] = {}
        for event in events:
            key = event.job_id, event.attempt
            result = results.get(key)
            if result is not None and result.status != "ok":
                continue
            status, attempt, high, message = self._take_one(turn, event, reporter, absent, taken)
            result = results[key] = EventResult(event.job_id, attempt, status, high, message)
            if status == "later":
                entry = turn.entry(event.job_id)
                assert entry is not None, "it was put off"
                result.wait_secs = self._rates.wait_secs(entry.job.org_id, entry.job.owner)
        return list(results.values())

    def _take_one(
        self, turn: Turn, event: WorkerEvent, reporter: Reporter, absent: set[tuple[str, str]], taken: list[WorkerEvent]
    ) -> tuple[Status, int, int, str]:
        worker_id, binding = reporter
        entry = turn.entry(event.job_id)
        if entry is not None and not binding.admits(entry.job.org_id, entry.job.owner, entry.job.spec.kind):
            entry = None  # as if there were no such job
        try:
            _check_numbers(event)
        except InvalidSpec as error:
            is_current = entry is not None and event.attempt in (None, entry.job.attempt)
            return "invalid", event.attempt or 0, entry.high if entry is not None and is_current else 0, error.message
        if entry is None:
            return "stale", event.attempt or 0, 0, "No such job."
        turn.touch(event.job_id)
        job = entry.job
        attempt = job.attempt if event.attempt is None else event.attempt
        if attempt != job.attempt:
            high = entry.past.get(attempt, 0)
            if event.seq is not None and 0 < event.seq <= high:
                return "ok", attempt, high, ""
            return "stale", attempt, high, f"Attempt {attempt} is over."
        if event.seq is not None and event.seq <= entry.high:
            return "ok", attempt, entry.high, ""
        if event.seq is None and _says_nothing_new(event, entry):
            return "ok", attempt, entry.high, ""
        if worker_id is None and isinstance(event, JobStarted) and entry.is_ready(turn.now):
            entry = self._start(turn, entry, event.worker_id)
            job, attempt = entry.job, entry.job.attempt
        if job.state is not JobState.RUNNING:
            return "stale", attempt, entry.high, f"The job is {job.state}."
        if self._leases.is_revoked(job.id, attempt):
            return "stale", attempt, entry.high, "The token has ended with which its worker had it."
        claims = worker_id or (event.worker_id if isinstance(event, JobStarted) else "")
        if claims and claims != job.worker_id:
            return "stale", attempt, entry.high, f"Another worker, {job.worker_id}, runs it."
        after = entry.high if event.after is None else event.after
        seq = after + 1 if event.seq is None else event.seq
        if after != entry.high:
            return "gap", attempt, entry.high, ""
        if seq <= after:
            return "invalid", attempt, entry.high, "seq must be greater than after."
        is_output = self._rates.are_limited and carries_output(event)
        if is_output and worker_id is not None and self._rates.wait_secs(job.org_id, job.owner):
            return "later", attempt, entry.high, self._slow_down(turn, entry)
        try:
            entry = self._change(turn, entry, event, seq, absent)
        except InvalidSpec as error:
            return "invalid", attempt, entry.high, error.message
        if is_output:
            self._rates.charge(job.org_id, job.owner, size_of(event))
        taken.append(msgspec.structs.replace(event, attempt=attempt, after=after, seq=seq))
        return "ok", attempt, seq, ""

    def _slow_down(self, turn: Turn, entry: Entry) -> str:
        """Return why more of a log comes later, in words; the log says so too, once for each attempt."""
        job = entry.job
        key, why = (job.id, job.attempt), self._rates.why(job.org_id, job.owner)
        if key not in self._slowed:
            self._slowed[key] = None
            if len(self._slowed) > MAX_SLOWED:
                self._slowed.popitem(last=False)
            line = f"{why} What is over it is kept with the worker and comes later."
            turn.append_log(entry, as_columns([(LogStream.SYSTEM, turn.now, line)]), None)
        return why

    def _change(self, turn: Turn, entry: Entry, event: WorkerEvent, seq: int, absent: set[tuple[str, str]]) -> Entry:
        if isinstance(event, JobStarted):
            return turn.move(entry, "job_started", {"started_at": as_datetime(turn.now)}, seq)
        if isinstance(event, JobLogged):
            return turn.append_log(entry, as_columns(event.lines), seq) if event.lines else turn.note(entry, seq)
        if isinstance(event, JobDisplayed):
            _check_outputs(event.outputs)
            return turn.display(entry, event.outputs, seq) if event.outputs else turn.note(entry, seq)
        if isinstance(event, JobProgress):
            return self._progress(turn, entry, event, seq)
        if isinstance(event, ENDINGS):
            return self._endings.end(turn, entry, _checked_ending(event, absent), seq)
        raise InvalidSpec(f"{type(event).__name__} is no event of a worker.")

    def _progress(self, turn: Turn, entry: Entry, event: JobProgress, seq: int) -> Entry:
        stdout, stderr = split_lines(event.stdout), split_lines(event.stderr)
        progress = _as_progress(event.progress)
        if stdout or stderr:
            entry = turn.append_log(entry, from_texts(stdout, stderr, turn.now), seq)
        if progress is not None:
            told = _dated(progress, entry.job.progress or {}, round(turn.now, 3))
            return turn.move(entry, "job_progressed", {"progress": told}, seq)
        return entry if stdout or stderr else turn.note(entry, seq)


def _check_numbers(event: WorkerEvent) -> None:
    """Refuse numbers that the store could not keep, whatever else the event says."""
    for name in ("attempt", "after", "seq"):
        value = getattr(event, name)
        if value is not None:
            check_number(name, value, low=0, high=MAX_COUNT, whole=True)
    if event.seq is not None and event.seq <= (event.after or 0):
        raise InvalidSpec("seq must be greater than after, and than 0.", field="seq")
    exit_code = getattr(event, "exit_code", None)
    if exit_code is not None:
        check_number("exit_code", exit_code, low=-MAX_EXIT_CODE - 1, high=MAX_EXIT_CODE, whole=True)
    for name in ("peak_memory_mb", "cpu_secs"):
        used = getattr(event, name, None)
        if used is not None:
            check_number(name, used, low=0, high=MAX_COUNT)


def _says_nothing_new(event: WorkerEvent, entry: Entry) -> bool:
    job = entry.job
    if isinstance(event, JobStarted):
        return job.state is JobState.RUNNING and entry.high > 0 and event.worker_id in ("", job.worker_id)
    if not isinstance(event, ENDINGS):
        return False
    if isinstance(event, JobCompleted):
        return job.state is JobState.SUCCEEDED
    if isinstance(event, JobFailed):
        return job.state in (JobState.FAILED, JobState.RETRYING)
    return job.state is JobState.CANCELED


def split_lines(text: str | None) -> list[str]:
    """Split output into lines; the text after the last line break is a line of its own if it is not empty."""
    if not text:
        return []
    lines = text.split("\n")
    if not lines[-1]:
        lines.pop()
    return [line.removesuffix("\r") for line in lines]


def _as_progress(value: Any) -> dict[str, Any] | None:
    if value is None:
        return None
    given = value if isinstance(value, dict) else {"fraction": value}
    fraction, note = given.get("fraction"), given.get("note")
    if fraction is not None:
        if isinstance(fraction, bool) or not isinstance(fraction, (int, float)) or not abs(fraction) < math.inf:
            raise InvalidSpec("progress must be a number from 0 to 1.", field="progress")
        fraction = float(min(1, max(0, fraction)))
    return {"fraction": fraction, "note": None if note is None else clean(str(note))[:1000]}


def _dated(progress: dict[str, Any], before: dict[str, Any], now: float) -> dict[str, Any]:
    """Add when this fraction was first told, and since where it grows: what a remaining time is reckoned from."""
    fraction, known = progress["fraction"], before.get("fraction")
    if fraction is None:
        return progress
    at = before.get("at", now) if fraction == known else now
    since = before.get("since") if known is not None and fraction >= known else None
    return {**progress, "at": at, "since": since or {"fraction": fraction, "at": at}}


def _check_outputs(outputs: Any) -> None:
    for output in outputs:
        if not isinstance(output, dict) or not isinstance(output.get("output_type"), str):
            raise InvalidSpec("An output must be a dict with an output_type.", field="outputs")
        check_depth("outputs", output)


def _checked_ending(event: Any, absent: set[tuple[str, str]]) -> Any:
    artifacts = [as_artifact(artifact) for artifact in event.artifacts]
    _check_list("artifacts", artifacts, MAX_ARTIFACTS, ARTIFACTS_BYTES)
    _check_list("variables", event.variables, MAX_VARIABLES, VARIABLES_BYTES)
    result = getattr(event, "result", None)
    if result is not None and len(result.name) > MAX_ARTIFACT_NAME:
        raise InvalidSpec("The name of the result is too long.", field="result")
    for kept in [*artifacts, *event.variables, *([result] if result else [])]:
        if not is_sha256(kept.sha256):
            raise InvalidSpec(f"The sha256 of {str(kept.name)[:80]!r} is no SHA-256.", field="artifacts")
        check_number("size", kept.size, low=0, high=MAX_COUNT, whole=True)
        if getattr(kept, "data", None) is not None:
            _check_inline(kept, is_result=kept is result)
        elif (event.job_id, kept.sha256) in absent:
            raise InvalidSpec(f"The blob of {kept.name!r} is not here.", "Upload it first.", field="artifacts")
    changed: dict[str, Any] = {"artifacts": artifacts}
    if event.reason is not None:
        changed["reason"] = event.reason[:MAX_REASON]
    if isinstance(event, JobCompleted):
        try:
            changed["output"] = msgspec.json.decode(msgspec.json.encode(event.output, enc_hook=str))
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise InvalidSpec(f"The output is not JSON: {error}.", field="output") from error
    return msgspec.structs.replace(event, **changed)


def _check_list(field: str, kept: list[Any], most: int, most_bytes: int) -> None:
    if len(kept) > most or (kept and len(encode(kept)) > most_bytes):
        what = f"An attempt leaves {most:,} {field} at most, fewer with long names."
        raise InvalidSpec(what, "Pack them into fewer.", field=field)


def _check_inline(kept: JobArtifact, *, is_result: bool) -> None:
    data = kept.data or b""
    if not is_result:
        raise InvalidSpec(f"The artifact {kept.name[:80]!r} has to be a blob.", "Upload it.", field="artifacts")
    if len(data) > INLINE_BYTES:
        raise InvalidSpec(f"A result over {INLINE_BYTES:,} bytes has to be a blob.", "Upload it.", field="result")
    if len(data) != kept.size or hashlib.sha256(data).hexdigest() != kept.sha256:
        raise InvalidSpec("The result arrived with other bytes than its SHA-256 says.", field="result")


def as_artifact(value: Any) -> JobArtifact:
    """Return `value` (a `JobArtifact`, or its JSON form) with its name checked.

    Raises
    ------
    InvalidSpec
        If it is neither, or the name could lead out of a folder.
    """
    try:
        artifact = msgspec.convert(value, JobArtifact, from_attributes=False)
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"An artifact needs name, sha256 and size: {brief(error)}.", field="artifacts") from error
    check_artifact_name(artifact.name)
    return artifact


def check_artifact_name(name: str) -> None:
    """Refuse names that could lead out of a folder, or steer a terminal; workers give none of these.

    Raises
    ------
    InvalidSpec
        If the name is absolute, empty, too long, has a part ``..``, or holds a control character.
    """
    parts = name.split("/")
    if (
        not name
        or len(name) > MAX_ARTIFACT_NAME
        or _CONTROL.search(name)
        or any(part in ("", ".", "..") for part in parts)
    ):
        raise InvalidSpec(f"{name[:80]!r} cannot name an artifact.", "Use a relative path.", field="artifacts")
    if not name.isascii():
        try:
            name.encode()
        except UnicodeEncodeError as error:
            raise InvalidSpec("The name of an artifact is no text.", field="artifacts") from error
