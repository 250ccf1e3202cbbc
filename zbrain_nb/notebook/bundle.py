"""What a job looks like in a saved notebook: the bundle of mime types that an output cell carries.

The magic and ``JobHandle.display`` put it under a cell. The first type is drawn live by the lab extension
(``view/``), which asks the server for everything and falls back on what is saved here. The other two are for
readers without it: exports and GitHub show the HTML, terminals the text. Nothing here talks to a server.
"""

from __future__ import annotations

import datetime as dt
import html
import json
import re
from collections.abc import Sequence
from typing import Any

import msgspec

from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.notebook.markup import text_of_html

MIME_TYPE = "application/vnd.zbrain.job+json"
VERSION = 1
#: Constant, because nbval compares it and an id or a state would differ on every run.
PLAIN = "<zbrain job>"
MAX_LOG_LINES = 200
SHORT_LOG_LINES = 20  # more are folded, if there is something else to see
MAX_LINE_CHARS = 2_000
MAX_VALUE_BYTES = 64 * 1024
MAX_OUTPUTS_BYTES = 4 * 1024 * 1024

_SPEC_FIELDS = ("max_retries", "timeout_secs", "worker", "resources")
_JOB_FIELDS = (
    "id",
    "owner",
    "org_id",
    "state",
    "attempt",
    "created_at",
    "started_at",
    "finished_at",
    "worker_id",
    "exit_code",
    "peak_memory_mb",
    "cpu_secs",
    "error",
    "output",
    "variables",
    "artifacts",
    "progress",
    "reason",
    "retry_of",
    "failures",
    "losses",
    "not_before",
    "cancel_requested_at",
    "canceled_by",
    "event_seq",
)
_ESCAPES = re.compile(r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?|[\x00-\x08\x0b-\x1f\x7f]")
_IMAGES = ("image/png", "image/jpeg", "image/gif", "image/webp")
_BARE = re.compile(r"<[^\n]*>\Z")  # what Python says of an object that says nothing of itself
_EXIT_CODE = re.compile(r"exit code -?\d+\.?\Z", re.IGNORECASE)
_BASE64 = re.compile(r"[A-Za-z0-9+/=\s]+\Z")
_COLORS = {"succeeded": "#2e7d32", "failed": "#c62828", "running": "#1565c0", "retrying": "#b25600"}


def snapshot(
    job: Job, *, log_tail: Sequence[LogEntry] = (), outputs: Sequence[dict[str, Any]] = (), cached: bool = False
) -> dict[str, Any]:
    """Return what a view can show of `job` before, or without, an answer of the server.

    Parameters
    ----------
    job : Job
        As it stands now.
    log_tail : sequence of LogEntry
        Its newest lines, oldest first; at most `MAX_LOG_LINES` are kept.
    outputs : sequence of dict
        Its rich outputs as nbformat output dicts, oldest first; left out beyond `MAX_OUTPUTS_BYTES`.
    cached : bool
        Whether nothing ran: the job is an earlier one that did the same.

    Returns
    -------
    dict
        JSON with ``id name version state cached job log outputs outputs_left_out``, the last how many of the first
        outputs are kept with the job alone. The job comes without its code, inputs and environment, which are the
        server's to show.
    """
    fields = msgspec.to_builtins(job)
    kept = {name: fields[name] for name in _JOB_FIELDS}
    kept["spec"] = {name: fields["spec"][name] for name in _SPEC_FIELDS}
    for name in ("output", "error"):
        if len(json.dumps(kept[name])) > MAX_VALUE_BYTES:
            kept[name] = {**kept[name], "traceback": []} if name == "error" and isinstance(kept[name], dict) else None
    left_out, size = len(outputs), 0
    while left_out and (size := size + len(json.dumps(outputs[left_out - 1]))) <= MAX_OUTPUTS_BYTES:
        left_out -= 1
    lines = [msgspec.to_builtins(entry) for entry in log_tail[-MAX_LOG_LINES:]]
    for line in lines:
        line["line"] = line["line"][:MAX_LINE_CHARS]
    return {
        "id": job.id,
        "name": job.name,
        "version": VERSION,
        "state": str(job.state),
        "cached": cached,
        "job": kept,
        "log": lines,
        "outputs": list(outputs[left_out:]),
        "outputs_left_out": left_out,
    }


def mime_bundle(
    job: Job, *, log_tail: Sequence[LogEntry] = (), outputs: Sequence[dict[str, Any]] = (), cached: bool = False
) -> dict[str, Any]:
    """Return the display data of a job, for ``display(bundle, raw=True)``.

    Parameters
    ----------
    job, log_tail, outputs, cached
        See `snapshot`.

    Returns
    -------
    dict
        By mime type: the live view (`MIME_TYPE`), a static summary in HTML, and a constant plain text.
    """
    saved = snapshot(job, log_tail=log_tail, outputs=outputs, cached=cached)
    return {MIME_TYPE: saved, "text/html": _html(job, saved), "text/plain": PLAIN}


def _html(job: Job, saved: dict[str, Any]) -> str:
    color = _COLORS.get(saved["state"], "inherit")
    word = "Cached" if saved["cached"] else saved["state"].capitalize()
    head = f'<b style="color:{color}">{_escape(word)}</b> <b>{_escape(saved["name"])}</b>'
    facts = [_escape(fact) for fact in _facts(job)]
    parts = [f"<p>{head}{' &middot; '.join(['', *facts])}</p>"]
    if reason := _reason(job):
        parts.append(f"<p>{_escape(reason)}</p>")
    if job.error:
        trace = "\n".join(str(line) for line in job.error.get("traceback") or ())
        parts.append(_pre(trace or f"{job.error.get('ename', '')}: {job.error.get('evalue', '')}"))
    if saved["outputs_left_out"]:
        parts.append(f"<p>{_left_out(saved['outputs_left_out'])}</p>")
    parts += [_output(output.get("data") or {}) for output in saved["outputs"]]
    is_shown = any(output.get("output_type") == "execute_result" for output in saved["outputs"])
    if job.output is not None and not is_shown:
        parts.append(_pre(job.output if isinstance(job.output, str) else json.dumps(job.output, indent=2)))
    if saved["log"]:
        is_alone = not saved["outputs"] and job.output is None and not job.error
        parts.append(_log(saved["log"], is_alone))
    parts.append(f"<p><code>client.job(&quot;{_escape(job.id)}&quot;)</code></p>")
    return f"<div>{''.join(parts)}</div>"


def _reason(job: Job) -> str | None:
    """Return the reason, if the error and the exit code do not say it too."""
    reason = job.reason
    if reason and job.error and job.state is JobState.FAILED:
        text = f"{job.error.get('ename', '')}: {job.error.get('evalue', '')}"
        if _EXIT_CODE.match(reason) or reason in text or text in reason:
            return None
    return reason


def _log(lines: list[dict[str, Any]], is_alone: bool) -> str:
    total = lines[-1]["seq"] + 1
    kept = f"last {len(lines):,} of " if len(lines) < total else ""
    opened = " open" if is_alone or total <= SHORT_LOG_LINES else ""
    title = f"Log, {kept}{total:,} line{'' if total == 1 else 's'}"
    return f"<details{opened}><summary>{title}</summary>{_pre(chr(10).join(each['line'] for each in lines))}</details>"


def _span(seconds: float) -> str:
    if seconds < 10:
        return f"{max(0.0, seconds):.1f} s"
    minutes, rest = divmod(int(seconds + 0.5), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _left_out(count: int) -> str:
    where = "kept with the job: open it in zbrain."
    if count == 1:
        return f"The first output was too large for the notebook, and is {where}"
    return f"The first {count:,} outputs were too large for the notebook, and are {where}"


def _facts(job: Job) -> list[str]:
    facts = []
    if job.started_at and job.finished_at:
        facts.append(f"ran {_span((job.finished_at - job.started_at).total_seconds())}")
    if job.peak_memory_mb:
        facts.append(f"peak memory {format_kib(job.peak_memory_mb * 1024)}")
    if job.cpu_secs and job.cpu_secs >= 0.05:
        facts.append(f"CPU time {_span(job.cpu_secs)}")
    if job.finished_at:
        facts.append(f"ended {job.finished_at.astimezone(dt.UTC):%Y-%m-%d %H:%M} UTC")
    elif not job.state.ended:
        facts.append(f"when this was written, {dt.datetime.now(dt.UTC):%Y-%m-%d %H:%M} UTC")
    if job.exit_code is not None:
        facts.append(f"exit code {job.exit_code}")
    facts += [f"kept {variable.name}" for variable in job.variables]
    facts += [f"kept {artifact.name}" for artifact in job.artifacts]
    return facts


def _output(data: dict[str, Any]) -> str:
    """Show an image or the text of an output; a job's own HTML is not trusted in a page that others open."""
    plain, markdown, latex = (_text(data.get(f"text/{kind}", "")) for kind in ("plain", "markdown", "latex"))
    telling = "" if _BARE.match(plain) else plain
    text = markdown or telling or latex or text_of_html(_text(data.get("text/html", ""))) or plain
    for mime in _IMAGES:
        image = _text(data.get(mime, ""))
        if image and _BASE64.match(image):
            return f'<p><img src="data:{mime};base64,{"".join(image.split())}" alt="{_escape(text)}"></p>'
    return _pre(text) if text else ""


def _text(value: Any) -> str:
    return "".join(value) if isinstance(value, list) else str(value)


def _escape(text: str) -> str:
    return html.escape(_ESCAPES.sub("", text), quote=True)


def _pre(text: str) -> str:
    return f'<pre style="font-family: monospace">{_escape(text)}</pre>'
