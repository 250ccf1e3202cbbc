"""The end of an attempt: gathers what it left, and makes the event that ends it."""

from __future__ import annotations

import asyncio
import base64
import contextlib
import hashlib
import os
import signal
from typing import Any, NamedTuple, Protocol

import msgspec

from zbrain_nb.model.errors import TooLarge, ZBrainError
from zbrain_nb.model.events import AnyWorkerEvent, JobCanceled, JobCompleted, JobFailed, WorkerArtifact
from zbrain_nb.model.job import MAX_ARTIFACT_NAME, JobArtifact, Variable
from zbrain_nb.model.leavings import MAX_ARTIFACTS, MAX_VARIABLES, ListRoom, too_much
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.worker.collect import Found, find_artifacts, open_beneath
from zbrain_nb.worker.fitting import MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES, not_taken, too_deep
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.spool import End

STOPPED = "Its worker was told to stop, and ended the job."
_MAX_REASON = 1000


class Keeper(Protocol):
    """Takes files into keeping."""

    async def keep(self, found: Found) -> JobArtifact | WorkerArtifact:
        """Keep a file.

        Raises
        ------
        OSError
            If it cannot be read.
        ZBrainError
            If it is refused for good.
        """
        ...


class Ending(NamedTuple):
    """The event that ends an attempt, and sentences for its log."""

    event: AnyWorkerEvent
    sentences: list[str]


def lost(
    job_id: str,
    reason: str = "The job's processes vanished: they were killed, or the machine restarted.",
    *,
    unstarted: bool = False,
) -> Ending:
    """Return the ending of an attempt that vanished; `unstarted` if its processes certainly never ran."""
    return Ending(JobFailed(job_id=job_id, lost=True, unstarted=unstarted, reason=reason), [])


async def finish(request: RunRequest, end: End, finished: dict[str, Any] | None, keeper: Keeper) -> Ending:
    """Return the ending of an attempt whose processes are gone.

    Parameters
    ----------
    request : RunRequest
        What was run.
    end : End
        How its supervisor says it ended.
    finished : dict or None
        What the cell itself said at its end.
    keeper : Keeper
        Takes its files.
    """
    found: list[Found] = []
    sentences: list[str] = []
    may_have_files = finished is None or finished.get("files", True)
    if request.artifacts or (may_have_files and _is_filled(request.artifacts_path)):
        found, sentences = await asyncio.to_thread(
            find_artifacts, request.artifacts_path, request.cwd, request.artifacts
        )
    artifacts: list[JobArtifact | WorkerArtifact] = []
    left = request.artifacts_cap_bytes
    room = ListRoom.of_artifacts()
    listed = [file for file in found if len(file.name) <= MAX_ARTIFACT_NAME and room.takes(file.name)]
    if len(listed) < len(found):
        sentences.append(_too_many(len(found) - len(listed)))
    for file in listed:
        try:
            if left is not None:
                left = _take_room(file, left, request.artifacts_cap_bytes or 0)
            artifacts.append(await keeper.keep(file))
        except (OSError, ZBrainError) as error:
            sentences.append(f"Artifact {file.name!r} was not kept: {_why(error)}")
    said = finished if finished is not None and request.cmd is None else {}
    result: JobArtifact | None = None
    variables: list[Variable] = []
    trouble = ""
    try:
        result = await _keep_result(request, said, keeper)
        variables = await _keep_variables(request, said, keeper, sentences)
    except (OSError, ZBrainError) as error:
        trouble = f"Its result could not be kept: {_why(error)}"
        sentences.append(trouble)
    sentences += end.message.splitlines()[1:]
    common: dict[str, Any] = {
        "job_id": request.job_id,
        "artifacts": artifacts,
        "variables": variables,
        "peak_memory_mb": round(end.peak_kib / 1024, 1) if end.peak_kib else None,
        "cpu_secs": end.cpu_secs,
    }
    code = said.get("exit_code", end.exit_code)
    if end.reason == "fenced":
        return lost(request.job_id, end.message, unstarted=end.exit_code is None)
    if end.reason == "stopped":
        reason = end.message or STOPPED
        stopped = JobFailed(**common, lost=True, unstarted=end.exit_code is None, exit_code=code, reason=reason)
        return Ending(stopped, sentences)
    if end.reason == "canceled":
        return Ending(JobCanceled(**common, exit_code=code), sentences)
    if end.reason == "exited" and code == 0 and (request.cmd is not None or said) and not trouble:
        output = said.get("output") if request.cmd is None else _output(request, sentences)
        not_kept = said.get("not_kept")
        why = str(not_kept)[:_MAX_REASON] if not_kept and result is None else None
        return Ending(JobCompleted(**common, output=output, result=result, reason=why), sentences)
    error_said = said.get("error")
    reason = trouble if trouble and code == 0 else _reason(request, end, code, error_said, bool(said))
    if end.reason in ("timeout", "cpu"):
        said_more = isinstance(error_said, dict) and error_said.get("ename") != "KeyboardInterrupt"
        if not said_more:  # the interrupt was ours; who waits for the job was not interrupted
            error_said = {"traceback": [], **(error_said or {}), "ename": "TimeoutError", "evalue": reason}
    failed = JobFailed(**common, error=error_said, exit_code=code, reason=reason, final=said.get("is_final") is True)
    return Ending(failed, sentences)


def _too_many(number: int) -> str:
    return (
        f"{number:,} artifacts were not kept: a job keeps {MAX_ARTIFACTS:,} at most, fewer with long names, and none "
        f"with a name of more than {MAX_ARTIFACT_NAME:,} characters. Pack them into one file."
    )


def _take_room(file: Found, left: int, cap: int) -> int:
    """Return how much room is left for artifacts when this one is kept too.

    Raises
    ------
    TooLarge
        If there is not enough for it.
    """
    size = file.size
    if size > left:
        raise TooLarge(
            f"it takes {format_kib(size / 1024)}, and with it they would be over the job's limit of "
            f"{format_kib(cap / 1024)} (limits.artifacts_mb)."
        )
    return left - size


def _is_filled(folder: str) -> bool:
    try:
        with os.scandir(folder) as entries:
            return next(entries, None) is not None
    except OSError:  # the job took it away, or put something else in its place
        return False


def _reason(request: RunRequest, end: End, code: int | None, error: Any, ended_itself: bool) -> str:
    """Say in one sentence why the attempt failed."""
    if end.reason == "timeout":
        return f"Ran over its limit of {request.timeout_secs or 0:.12g} s."
    if end.message:
        return end.message.splitlines()[0]
    if isinstance(error, dict) and error.get("ename"):
        what = f"{error['ename']}: {error.get('evalue', '')}".strip().splitlines()[0][:500].rstrip(": ")
        if error["ename"] == "MemoryError" and end.peak_kib:
            return f"{what.rstrip('.')} (its memory had reached {format_kib(end.peak_kib)})."
        return what
    if code is not None and code < 0:
        return f"Killed by {_signal_name(end, code)}."
    if request.cmd is None and not ended_itself:
        return f"The cell's process ended by itself, with exit code {code}, before the cell was done."
    return f"Exited with code {code}."


def _signal_name(end: End, code: int) -> str:
    with contextlib.suppress(ValueError):
        return signal.Signals(-code).name
    return end.signal or f"signal {-code}"


def _output(request: RunRequest, sentences: list[str]) -> Any:
    """Return the JSON that a command left in ``ZBRAIN_OUTPUT``; None, and a sentence, if it is none."""
    try:
        with open_beneath(request.outbox, os.path.basename(request.output_path)) as file:
            content = file.read(MAX_OUTPUT_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        sentences.append(f"The output was not taken: {_why(error)}")
        return None
    why = too_much(content, MAX_OUTPUT_BYTES, MAX_OUTPUT_VALUES)
    if not why:
        try:
            output = msgspec.json.decode(content)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            sentences.append(f"The output was not taken: it is no JSON ({error}).")
            return None
        why = too_deep(output)
        if not why:
            return output
    sentences.append(not_taken(why))
    return None


async def _keep_result(request: RunRequest, said: dict[str, Any], keeper: Keeper) -> JobArtifact | None:
    path = said.get("result")
    if isinstance(path, dict):
        return _inline(path.get("data"))
    if not isinstance(path, str):
        return None
    kept = await keeper.keep(_in_outbox(request, "result", path))
    return kept if isinstance(kept, JobArtifact) else None


def _inline(text: Any) -> JobArtifact | None:
    """Return a result that travels with the ending itself; None if a call has made up something else."""
    try:
        data = base64.b64decode(str(text), validate=True)
    except ValueError:
        return None
    return JobArtifact("result", hashlib.sha256(data).hexdigest(), len(data), data)


async def _keep_variables(
    request: RunRequest, said: dict[str, Any], keeper: Keeper, sentences: list[str]
) -> list[Variable]:
    variables: list[Variable] = []
    room = ListRoom.of_variables()
    left_out = 0
    for one in said.get("variables") or []:
        name, what, summary = str(one["name"]), str(one.get("type", "")), str(one.get("summary", ""))
        if not room.takes(name, what, summary):
            left_out += 1
            continue
        kept = await keeper.keep(_in_outbox(request, name, str(one["path"])))
        if isinstance(kept, JobArtifact):
            variables.append(Variable(name=name, type=what, summary=summary, sha256=kept.sha256, size=kept.size))
    if left_out:
        sentences.append(f"{left_out:,} variables were not kept: a job keeps {MAX_VARIABLES:,} at most.")
    return variables


def _in_outbox(request: RunRequest, name: str, path: str) -> Found:
    return Found(name, request.outbox, os.path.relpath(path, request.outbox))


def _why(error: Exception) -> str:
    return f"{error.strerror}." if isinstance(error, OSError) and error.strerror else str(error)
