"""How attempts end: the patches of success, failure, loss and cancel, and what follows for who waits."""

from __future__ import annotations

import random
import signal
from collections.abc import Callable
from typing import Any

from zbrain_nb.model.checks import check_depth
from zbrain_nb.model.errors import WrongState, ZBrainError
from zbrain_nb.model.events import JobCanceled, JobCompleted, JobFailed, LogStream
from zbrain_nb.model.job import CancelResult, Job, JobState
from zbrain_nb.model.leavings import (
    BRIEF_ERROR,
    BRIEF_LISTS_BYTES,
    BRIEF_REASON,
    LONG_ERROR,
    MAX_ERROR_BYTES,
    MAX_ERROR_VALUES,
    shortened,
    too_much,
)
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.queue.loglines import as_columns
from zbrain_nb.queue.submits import parent_failed
from zbrain_nb.queue.turn import Turn
from zbrain_nb.store.rows import encode

BACKOFF_BASE_SECS = 1.0
BACKOFF_CAP_SECS = 300.0
#: So many losses end a job: it may be what kills its workers.
MAX_LOSSES = 3
#: So often a job may be given back by workers that had leased it ahead; from then on that is a loss.
MAX_RETURNS = 100
_FREE_RETURNS, _RETURN_CAP_SECS = 3, 30.0

Ending = JobCompleted | JobFailed | JobCanceled


class Endings:
    """Decides how attempts end.

    Parameters
    ----------
    index : Index
        For who waits on an ended job.
    jitter : callable
        Returns a number from 0 to 1: how much of the random half of a back-off is waited.
    """

    def __init__(self, index: Index, jitter: Callable[[], float] = random.random) -> None:
        self._index = index
        self._jitter = jitter

    def end(self, turn: Turn, entry: Entry, event: Ending, worker_seq: int | None) -> Entry:
        """End the running attempt as its worker says, or as a cancel before it demands."""
        job = entry.job
        for name in ("output", "error"):
            check_depth(name, getattr(event, name, None))
        used = {"peak_memory_mb": event.peak_memory_mb, "cpu_secs": event.cpu_secs}
        kept: dict[str, Any] = {"artifacts": event.artifacts, "variables": event.variables}
        if isinstance(event, JobFailed) and event.lost:
            never_ran = event.unstarted and entry.high == 0
            why = event.reason or "Its worker vanished."
            returned = never_ran and event.returned
            return self._lose(
                turn, entry, why, worker_seq, never_ran=never_ran, returned=returned, kept=kept, used=used
            )
        kept |= {"exit_code": event.exit_code, **used}
        if job.cancel_requested_at is not None or isinstance(event, JobCanceled):
            reason = event.reason if isinstance(event, JobCanceled) else None
            return self._cancel(turn, entry, reason, kept, worker_seq)
        if isinstance(event, JobCompleted):
            kept |= {"output": event.output, "result": event.result, "reason": event.reason, "error": None}
            return self._finish(turn, entry, "job_completed", JobState.SUCCEEDED, kept, worker_seq)
        return self._fail(turn, entry, event, kept, worker_seq)

    def lose(self, turn: Turn, job_id: str, attempt: int, reason: str, *, returned: str | None = None) -> bool:
        """End an attempt whose worker has it no more; return False if it is not the running one any more.

        One that is `returned`, which says for what it waits then, was handed to nobody: that is no loss, however often
        it comes to that.
        """
        entry = running(turn, job_id, attempt)
        if entry is None:
            return False
        self._lose(turn, entry, reason, None, never_ran=returned is not None, kept_back=returned)
        return True

    def withdraw(self, turn: Turn, job_id: str, attempt: int, reason: str) -> bool:
        """Cancel a job whose attempt nobody may run; return False if it is not the running one any more."""
        entry = running(turn, job_id, attempt)
        if entry is None:
            return False
        self._cancel(turn, entry, reason, {}, None)
        return True

    def cancel(self, turn: Turn, job_id: str, by: str | None, *, if_waiting: bool = False) -> CancelResult:
        """Cancel a job at once if no attempt runs, else note the request (or refuse it: `if_waiting`)."""
        entry = turn.entry(job_id)
        if entry is None:
            return CancelResult.NOT_FOUND
        job = entry.job
        if job.state.ended:
            return CancelResult.CANCELED if job.state is JobState.CANCELED else CancelResult.ALREADY_FINISHED
        request = {"cancel_requested_at": as_datetime(turn.now), "canceled_by": by}
        if job.state is JobState.RUNNING:
            if if_waiting:
                raise WrongState("The job runs; it was to be canceled only while it waits.", state=str(job.state))
            if job.cancel_requested_at is None:
                turn.move(entry, "job_cancel_requested", request)
            return CancelResult.CANCELING
        self._cancel(turn, entry, None, request, None, by=by)
        return CancelResult.CANCELED

    def _cancel(
        self,
        turn: Turn,
        entry: Entry,
        reason: str | None,
        patch: dict[str, Any],
        worker_seq: int | None,
        by: str | None = None,
    ) -> Entry:
        who = by or entry.job.canceled_by
        patch["reason"] = reason or (f"Canceled by {who}." if who else "Canceled.")
        return self._finish(turn, entry, "job_canceled", JobState.CANCELED, patch, worker_seq)

    def _fail(self, turn: Turn, entry: Entry, event: JobFailed, patch: dict[str, Any], worker_seq: int | None) -> Entry:
        job = entry.job
        failures = job.failures + 1
        error = _bounded(error_as_dict(event.error))
        reason = event.reason or _why(event.exit_code, error)
        patch |= {"failures": failures, "error": error, "reason": reason}
        if event.final or failures > job.spec.max_retries:
            return self._finish(turn, entry, "job_failed", JobState.FAILED, patch, worker_seq)
        delay = min(BACKOFF_CAP_SECS, BACKOFF_BASE_SECS * 2.0 ** min(failures - 1, 60))
        delay *= 0.5 + self._jitter() / 2
        cut = _shorten(patch)
        if cut:
            line = f"As the job is tried again, {', and '.join(cut)}."
            entry = turn.append_log(entry, as_columns([(LogStream.SYSTEM, turn.now, line)]), None)
        patch |= {
            "state": JobState.RETRYING,
            "not_before": as_datetime(turn.now + delay),
            "reason": f"{_sentence(patch['reason'])} The next attempt starts in {delay:.1f} s.",
        }
        return turn.move(entry, "job_retrying", patch, worker_seq)

    def _lose(
        self,
        turn: Turn,
        entry: Entry,
        reason: str,
        worker_seq: int | None,
        *,
        never_ran: bool = False,
        returned: bool = False,
        kept_back: str | None = None,
        kept: dict[str, Any] | None = None,
        used: dict[str, float | None] | None = None,
    ) -> Entry:
        job = entry.job
        returns = job.attempt - 1 - job.failures - job.losses
        returned = returned and returns < MAX_RETURNS
        losses = job.losses if returned or kept_back else job.losses + 1
        patch: dict[str, Any] = {"losses": losses, **(used or {})}
        if job.cancel_requested_at is not None:
            return self._cancel(turn, entry, f"{reason} A cancel had been requested.", patch, worker_seq)
        may_rerun = job.spec.reruns_if_lost or never_ran  # what never ran had no effects
        if may_rerun and losses < MAX_LOSSES:
            then = kept_back or "It runs again at once; a lost attempt uses up no retry."
            patch |= {
                "state": JobState.RETRYING,
                "not_before": as_datetime(turn.now + (_return_pause(returns) if returned else 0.0)),
                "reason": f"{reason[:BRIEF_REASON]} {then}",
            }
            return turn.move(entry, "job_retrying", patch, worker_seq)
        if may_rerun:
            reason = f"{reason} That was the third loss; the job may be what ends its workers."
        else:
            reason = f"{reason} It was not run again, for it may have had effects already."
        patch |= {**(kept or {}), "reason": reason}
        return self._finish(turn, entry, "job_failed", JobState.FAILED, patch, worker_seq)

    def _finish(
        self, turn: Turn, entry: Entry, kind: str, state: JobState, patch: dict[str, Any], worker_seq: int | None
    ) -> Entry:
        patch |= {"state": state, "finished_at": as_datetime(turn.now), "not_before": None}
        ended = turn.move(entry, kind, patch, worker_seq)
        if state is not JobState.SUCCEEDED:
            self.fail_children(turn, ended.job)
        return ended

    def fail_children(self, turn: Turn, parent: Job) -> None:
        """Fail who waits for a job that did not succeed, and who waits for those."""
        unsuccessful = [parent]
        while unsuccessful:
            parent = unsuccessful.pop()
            for child_id in self._index.children.get(parent.id, ()):
                child = turn.entry(child_id)
                if child is None or child.job.state.ended or child.job.spec.after_any:
                    continue
                failed = turn.move(child, "job_failed", parent_failed(parent, turn.now))
                unsuccessful.append(failed.job)


def running(turn: Turn, job_id: str, attempt: int) -> Entry | None:
    """Return the job if this is its running attempt, else None."""
    entry = turn.entry(job_id)
    runs = entry is not None and entry.job.state is JobState.RUNNING and entry.job.attempt == attempt
    return entry if runs else None


def _return_pause(returns: int) -> float:
    """Return how long a job waits that was given back so often before: a worker that does nothing else is slowed."""
    return 0.0 if returns < _FREE_RETURNS else min(_RETURN_CAP_SECS, 0.1 * 2.0 ** (returns - _FREE_RETURNS))


def error_as_dict(error: Any) -> dict[str, Any] | None:
    """Return what a worker sent as an error in the form that jobs carry."""
    if error is None or error == "":
        return None
    if isinstance(error, dict):
        lines = error.get("traceback") or []
        pickled = error.get("pickled")
        return {
            "ename": str(error.get("ename", "Error")),
            "evalue": str(error.get("evalue", "")),
            "traceback": [str(line) for line in lines] if isinstance(lines, (list, tuple)) else [str(lines)],
            **({"pickled": pickled} if isinstance(pickled, str) else {}),
        }
    if isinstance(error, ZBrainError):
        error = error.message
    name = type(error).__name__ if isinstance(error, BaseException) else "Error"
    return {"ename": name, "evalue": str(error), "traceback": []}


def _bounded(error: dict[str, Any] | None) -> dict[str, Any] | None:
    """Return an error, shortened if it is too much: what a worker says of a failure never undoes it."""
    if error is not None and too_much(encode(error), MAX_ERROR_BYTES, MAX_ERROR_VALUES):
        return shortened(error, LONG_ERROR)
    return error


def _shorten(patch: dict[str, Any]) -> list[str]:
    """Shorten what stays of a failure while the job is tried again; return in words what was cut."""
    cut, error, reason = list[str](), patch["error"], patch["reason"]
    brief = error and shortened(error, BRIEF_ERROR)
    if len(reason) > BRIEF_REASON or (error and brief != shortened(error, LONG_ERROR)):
        cut.append("only the start of the message and the end of the traceback were kept")
    patch |= {"error": brief, "reason": reason[:BRIEF_REASON]}
    if len(encode([patch["artifacts"], patch["variables"]])) > BRIEF_LISTS_BYTES:
        patch |= {"artifacts": [], "variables": []}
        most = format_kib(BRIEF_LISTS_BYTES / 1024)
        cut.append(f"nothing of its files and variables was kept: their list is over {most}")
    return cut


def _sentence(text: str) -> str:
    return text if text.endswith((".", "!", "?")) else f"{text}."


def _why(exit_code: int | None, error: dict[str, Any] | None) -> str:
    if exit_code is not None and exit_code < 0:
        try:
            return f"Ended by signal {-exit_code} ({signal.Signals(-exit_code).name})."
        except ValueError:
            return f"Ended by signal {-exit_code}."
    if error is not None:
        head = next(iter(error["evalue"].splitlines()), "")[:300]
        named = error["ename"] if error["ename"] != "Error" else ""
        text = ": ".join(part for part in (named, head) if part) or "The attempt failed"
        return _sentence(text)
    if exit_code:
        return f"The command ended with exit code {exit_code}."
    return "The attempt failed."
