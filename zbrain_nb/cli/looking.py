"""``zbrain show``, ``logs``, ``result`` and ``artifacts``: one job, looked at."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.completing import complete_artifact
from zbrain_nb.cli.finding import find_job
from zbrain_nb.cli.output import console, print_json, print_line, print_table, say, state_text
from zbrain_nb.cli.running import end_as, follow
from zbrain_nb.client.printing import age, attempts, elapsed, printable, span
from zbrain_nb.model.errors import NotFound
from zbrain_nb.model.events import LogStream
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.sizes import format_kib

_CODE_LINES = 12


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (show, logs, result, artifacts):
        app.command(cls=options.JobCommand)(command)


def show(job: options.JobName, as_json: options.Json = False) -> None:
    """Show all about a job but its log."""
    found = find_job(job).refresh().job
    if as_json:
        print_json(msgspec.to_builtins(found) | {"name": found.name})
        return
    out = console()
    out.print(state_text(found.state), end="  ")
    out.print(printable(found.name), markup=False)
    facts = [(name, text) for name, text in _facts(found) if text]
    width = max(len(name) for name, _ in facts) + 2
    for name, text in facts:
        indent = "\n" + " " * width
        typer.echo(f"{name:<{width}}{indent.join(printable(text).splitlines())}")


def _facts(job: Job) -> Iterator[tuple[str, str]]:
    spec = job.spec
    yield "id", job.id
    yield "reason", job.reason or ""
    yield "attempt", attempts(job)
    yield "progress", _progress(job)
    yield "submitted", f"{job.created_at.astimezone():%Y-%m-%d %H:%M:%S}, {age(job.created_at)} ago, by {job.owner}"
    yield "ran", elapsed(job)
    yield "memory", _peak(job)
    yield "cpu time", span(job.cpu_secs) if job.cpu_secs else ""
    yield "org", job.org_id
    yield "worker", job.worker_id or ""
    yield "folder", spec.cwd or ""
    yield "command", shlex.join(spec.cmd or ())
    yield "code", _head(spec.code or "")
    yield "kernel", spec.kernel or ""
    yield "needs", ", ".join(f"{value} {name}" for name, value in msgspec.to_builtins(spec.resources).items() if value)
    yield "deadline", f"{spec.timeout_secs:g} s" if spec.timeout_secs else "none"
    yield "after", " ".join(spec.after)
    yield "tags", ", ".join(f"{name}={value}" for name, value in spec.labels.items())
    yield "retry of", job.retry_of or ""
    yield "exit code", "" if job.exit_code is None else str(job.exit_code)
    yield "error", "\n".join((job.error or {}).get("traceback") or ()) or str((job.error or {}).get("evalue") or "")
    yield "output", "" if job.output is None else _json_text(job.output)
    yield "variables", "\n".join(f"{one.name}: {one.summary}" for one in job.variables)
    yield "files", "\n".join(f"{one.name}, {format_kib(one.size / 1024)}" for one in job.artifacts)


def _peak(job: Job) -> str:
    """Say the most memory that the last attempt took, and how much it may take."""
    if not job.peak_memory_mb:
        return ""
    asked = job.spec.resources.memory_mb
    return f"{format_kib(job.peak_memory_mb * 1024)}{f' of {format_kib(asked * 1024)}' if asked else ''} at most"


def _progress(job: Job) -> str:
    progress = job.progress or {}
    fraction = progress.get("fraction")
    return " ".join(filter(None, ("" if fraction is None else f"{fraction:.0%}", str(progress.get("note") or ""))))


def _head(code: str) -> str:
    lines = code.strip("\n").splitlines()
    more = len(lines) - _CODE_LINES
    return "\n".join([*lines[:_CODE_LINES], *([f"... {more} more lines"] if more > 0 else [])])


def _json_text(value: Any) -> str:
    return value if isinstance(value, str) else msgspec.json.format(msgspec.json.encode(value), indent=2).decode()


def logs(
    job: options.JobName,
    follow_it: Annotated[
        bool, typer.Option("-f", "--follow", help="Go on until it ends, and end with its code.")
    ] = False,
    stream: Annotated[LogStream | None, typer.Option(help="Only this stream.")] = None,
    raw: Annotated[bool, typer.Option("--raw", help="Into a pipe, as the job wrote it, with escapes.")] = False,
    as_json: options.Json = False,
) -> None:
    """Print a job's log.

    Its stdout goes to stdout, all else to stderr. Escapes that could steer the terminal are left out.
    """
    handle = find_job(job)
    if as_json:
        entries = handle.logs(follow=follow_it)
        print_json([msgspec.to_builtins(entry) for entry in entries if stream in (None, entry.stream)])
    elif follow_it:
        follow(handle, raw=raw, stream=stream)
        end_as(handle)
    else:
        for entry in handle.logs():
            if stream in (None, entry.stream):
                print_line(entry, raw=raw)


def result(job: options.JobName, as_json: options.Json = False) -> None:
    """Wait for a job and print what it gave.

    Of a command that is its JSON output, of a cell the text of its last value. Objects are not loaded here. Of a job
    that failed, stderr gets the traceback and the reason.
    """
    handle = find_job(job).wait()
    ended = handle.job
    if as_json:
        print_json(ended.output)
    elif ended.output is not None:
        typer.echo(printable(_json_text(ended.output)))
    elif ended.state is JobState.SUCCEEDED and ended.result is not None:
        say(f'it gave a Python object; zbrain_nb.connect().job("{ended.id}").result() loads it')
    elif ended.state is JobState.SUCCEEDED:
        say("it gave nothing")
    end_as(handle, log_shown=False)


def artifacts(
    job: options.JobName,
    download: Annotated[
        list[str] | None,
        typer.Option(
            "-d",
            "--download",
            metavar="NAME",
            help="Fetch this file; may be repeated.",
            autocompletion=complete_artifact,
        ),
    ] = None,
    to: Annotated[Path, typer.Option("-o", "--to", metavar="DIR", help="Where files are put.")] = Path(),
    as_json: options.Json = False,
) -> None:
    """List the files kept with a job, or fetch some."""
    handle = find_job(job)
    kept = handle.artifacts
    unknown = next((name for name in download or () if name not in kept), None)
    if unknown is not None:
        raise NotFound(f"The job keeps no file {unknown!r}.", f"It keeps: {', '.join(kept) or 'none'}.")
    if download:
        if not to.is_dir():
            raise NotFound(f"There is no folder {to}.", "Make it, or give another.")
        for name in download:
            typer.echo(printable(str(kept[name].download(to))))
    elif as_json:
        print_json([{"name": one.name, "sha256": one.sha256, "size": one.size} for one in kept.values()])
    else:
        rows = [(one.name, format_kib(one.size / 1024)) for one in kept.values()]
        print_table(("Name", "Size"), rows, "the job keeps no files")
