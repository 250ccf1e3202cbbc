"""The commands of ``zbrain``: each parses its words, asks the client, and prints.

A job's own output goes to stdout and stderr as it came; what ``zbrain`` itself has to say goes to stderr.
"""

from __future__ import annotations

import json
import logging
import os
import signal
import sys
import threading
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from zbrain_nb.cli.backup import back_up
from zbrain_nb.cli.doctor import diagnose
from zbrain_nb.client.connecting import connect
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.printing import age, printable, state_style
from zbrain_nb.client.workers import COLUMNS, worker_row
from zbrain_nb.model.datadir import LEAVE_SIGNAL, DataDir, lock_holder
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.events import LogEntry, LogStream
from zbrain_nb.model.job import CancelResult, JobState
from zbrain_nb.model.limits import Limits, limits_from_pairs
from zbrain_nb.model.logs import configure_logging
from zbrain_nb.model.settings import read_settings
from zbrain_nb.model.sizes import parse_mib

app = typer.Typer(
    name="zbrain",
    help="Run commands and notebook cells as durable jobs.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
TIMED_OUT = 124
INTERRUPTED = 130
WAITING_SECS = 2.0
STOP_SECS = 20.0
ID_CHARS = 18  # enough to tell jobs of one microsecond apart

Command = Annotated[list[str], typer.Argument(metavar="-- CMD...", help="The command and its arguments.")]
JobName = Annotated[str, typer.Argument(metavar="JOB", help="Id, unique prefix of four or more characters, or name.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document.")]
Name = Annotated[str | None, typer.Option(help="A name to find it by.")]
Timeout = Annotated[float | None, typer.Option(metavar="SECS", help="End it after so long.")]
Retries = Annotated[int, typer.Option(min=0, help="Try again so often when it fails.")]
Artifacts = Annotated[list[str] | None, typer.Option(metavar="GLOB", help="Files to keep; may be repeated.")]
Cpus = Annotated[float, typer.Option(metavar="N", help="CPU cores that it takes.")]
Mem = Annotated[str | None, typer.Option(metavar="16G", help="Memory that it takes; over it the job is killed.")]
Limit = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=N", help=f"At most so much of {', '.join(Limits.__struct_fields__)}; may be repeated."),
]
Kind = Annotated[str, typer.Argument(metavar="[KIND]", help="Kind of worker.")]
Org = Annotated[str | None, typer.Option(help="Which org (default: ZDEFAULT_ORG_ID).")]
VERBATIM = {"allow_interspersed_args": False}


def _fields(
    name: str | None,
    timeout: float | None,
    retries: int,
    artifacts: list[str] | None,
    cpus: float,
    mem: str | None,
    limit: list[str] | None,
) -> dict[str, Any]:
    """Return the fields of the spec that the flags say."""
    try:
        memory_mb = None if mem is None else parse_mib(mem)
    except ValueError as error:
        raise typer.BadParameter(f"{error}.", param_hint="--mem") from None
    return {
        "name": name,
        "timeout_secs": timeout,
        "max_retries": retries,
        "artifacts": list(artifacts or []),
        "resources": {"cpus": cpus, "memory_mb": memory_mb},
        "limits": limits_from_pairs(limit or []),
    }


@app.command(context_settings=VERBATIM)
def run(
    cmd: Command,
    name: Name = None,
    timeout: Timeout = None,
    retries: Retries = 0,
    artifacts: Artifacts = None,
    cpus: Cpus = 1,
    mem: Mem = None,
    limit: Limit = None,
) -> None:
    """Run a command as a job, show its output as it comes, and exit with its code."""
    job = connect().submit(cmd, **_fields(name, timeout, retries, artifacts, cpus, mem, limit))
    try:
        _follow(job)
    except KeyboardInterrupt:
        job.cancel()
        _say(f"canceled {job.id}")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        job.cancel()  # nobody reads on, as a shell would say by SIGPIPE
        raise
    raise typer.Exit(_exit_code(job))


@app.command(context_settings=VERBATIM)
def submit(
    cmd: Command,
    name: Name = None,
    timeout: Timeout = None,
    retries: Retries = 0,
    artifacts: Artifacts = None,
    cpus: Cpus = 1,
    mem: Mem = None,
    limit: Limit = None,
) -> None:
    """Submit a command as a job and print its id."""
    typer.echo(connect().submit(cmd, **_fields(name, timeout, retries, artifacts, cpus, mem, limit)).id)


@app.command()
def ls(
    state: Annotated[str | None, typer.Option(help=f"Only jobs in this state: {', '.join(JobState)}.")] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    as_json: Json = False,
) -> None:
    """List jobs, newest first, ended ones too."""
    jobs = [handle.job for handle in connect().jobs(state, limit)]
    if as_json:
        _json([msgspec.to_builtins(job) | {"name": job.name} for job in jobs])
        return
    console = Console()
    if not console.is_terminal:
        console = Console(width=10_000)  # a pipe takes whole lines
    table = Table(box=None, pad_edge=False)
    for column, width in (("Id", ID_CHARS), ("State", 9), ("Name", None), ("Age", 6), ("Reason", None)):
        table.add_column(column, no_wrap=column != "Reason", min_width=width)
    for job in jobs:
        shown = job.id[:ID_CHARS] if console.is_terminal else job.id
        style = state_style(job.state)
        texts = map(_plain, (job.name, age(job.created_at), job.reason or ""))
        table.add_row(shown, f"[{style}]{job.state}[/]", *texts)
    console.print(table)


@app.command()
def logs(
    job: JobName,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on until the job ends.")] = False,
    as_json: Json = False,
) -> None:
    """Print a job's log."""
    handle = connect().job(job)
    if as_json:
        _json([msgspec.to_builtins(entry) for entry in handle.logs(follow=follow)])
        return
    for entry in handle.logs(follow=follow):
        _print(entry)


@app.command()
def cancel(job: JobName) -> None:
    """Cancel a job and all its processes."""
    handle = connect().job(job)
    result = handle.cancel()
    _say(f"{handle.id}: {result.replace('_', ' ')}")
    if result is CancelResult.NOT_FOUND:
        raise typer.Exit(1)


@app.command()
def retry(job: JobName) -> None:
    """Submit an ended job again and print the new id."""
    typer.echo(connect().job(job).retry().id)


@app.command()
def pause(kind: Kind = "local", org: Org = None) -> None:
    """Start no more jobs of a queue until `zbrain resume`; what runs goes on."""
    queue = connect().pause(kind, org_id=org)
    _say(f"{queue.paused} {queue.waiting} wait, {queue.running} run.")


@app.command()
def resume(kind: Kind = "local", org: Org = None) -> None:
    """Let a paused queue go on."""
    queue = connect().resume(kind, org_id=org)
    _say(f"The queue {queue.kind} of the org {queue.org_id} goes on. {queue.waiting} wait, {queue.running} run.")


@app.command()
def queues(as_json: Json = False) -> None:
    """List the queues that have something to do, or are paused."""
    found = connect().queues()
    if as_json:
        _json([msgspec.to_builtins(queue) for queue in found])
        return
    table = Table(box=None, pad_edge=False)
    for column in ("Org", "Kind", "Waiting", "Running", "Paused"):
        table.add_column(column)
    for queue in found:
        texts = map(_plain, (queue.org_id, queue.kind, str(queue.waiting), str(queue.running), queue.paused or ""))
        table.add_row(*texts)
    Console().print(table)


@app.command()
def serve(
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    name: Annotated[
        list[str] | None, typer.Option(help="A further name under which others reach it; may be repeated.")
    ] = None,
) -> None:
    """Serve the queue of the data directory until interrupted."""
    from zbrain_nb.server.serving import main as serve_main

    names = [word for one in name or [] for word in ("--name", one)]
    raise typer.Exit(serve_main(["--bind", bind, "--port", str(port), *names]))


@app.command()
def worker(
    concurrency: Annotated[int | None, typer.Option(min=1, help="Jobs at once (default: ZWORKER_CONCURRENCY).")] = None,
    org: Annotated[str | None, typer.Option(help="Take jobs of this org only.")] = None,
    url: Annotated[
        str | None, typer.Option(help="The server's root (default: the host of the data directory).")
    ] = None,
    folder: Annotated[
        Path | None, typer.Option(help="The worker's own folder (default: in the data directory).")
    ] = None,
    drain_timeout: Annotated[
        float | None, typer.Option(min=0, metavar="SECS", help="When told to end, let jobs run no longer than this.")
    ] = None,
) -> None:
    """Run a worker. Interrupted, it takes no more jobs, and ends when those that run have ended."""
    from zbrain_nb.worker.service import run_worker

    configure_logging("worker", logging.ERROR)
    token = read_settings().token if url else None
    run_worker(
        url=url or None,
        token=token,
        folder=folder,
        concurrency=concurrency,
        org_id=org,
        drains=True,
        drain_secs=drain_timeout,
        say=_say,
    )


@app.command()
def workers(as_json: Json = False) -> None:
    """List the workers: how each is, and what is free."""
    found = connect().workers()
    if as_json:
        _json([msgspec.to_builtins(worker) for worker in found])
        return
    table = Table(*COLUMNS, box=None, pad_edge=False)
    for one in found:
        table.add_row(*map(_plain, worker_row(one)))
    Console().print(table)


@app.command()
def doctor(as_json: Json = False) -> None:
    """Show where a server is looked for, what is found, and what is wrong."""
    findings = diagnose()
    if as_json:
        _json([msgspec.to_builtins(finding) for finding in findings])
    else:
        for finding in findings:
            typer.echo(f"{'ok ' if finding.good else 'BAD'}  {finding.subject}: {finding.text}")
    if not all(finding.good for finding in findings):
        raise typer.Exit(1)


@app.command()
def backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder, on the machine of the host.")],
) -> None:
    """Copy database and files to DEST, a data directory like this one, while jobs go on."""
    _say(f"backed up to {back_up(destination)}")


@app.command()
def stop() -> None:
    """End the host of the data directory and its worker; running jobs go on and are taken up by the next."""
    data = DataDir(read_settings().data)
    # The host ends its worker; a worker whose host was killed is ended here.
    holders = (("host", data.host_lock, signal.SIGTERM), ("worker", data.worker / "worker.lock", LEAVE_SIGNAL))
    ended = [_end(who, lock, number, data) for who, lock, number in holders]
    if not any(ended):
        _say(f"no host serves {data.root}")


def _end(who: str, lock: Path, number: signal.Signals, data: DataDir) -> bool:
    pid = lock_holder(lock)
    if pid is None:
        return False
    os.kill(pid, number)
    deadline = time.monotonic() + STOP_SECS
    while lock_holder(lock) == pid:
        if time.monotonic() > deadline:
            raise ZBrainError(f"The {who} {pid} does not end.", f"Its log is {data.log}.")
        time.sleep(0.05)  # the end of a process that is not our child has no event
    _say(f"{who} {pid} ended")
    return True


def _follow(job: JobHandle) -> None:
    def say_why() -> None:
        if job.job.state is JobState.PENDING and job.job.reason:
            _say(job.job.reason)

    waiting = threading.Timer(WAITING_SECS, say_why)
    waiting.daemon = True
    waiting.start()
    for update in job.updates():
        for entry in update.entries:
            _print(entry)
    waiting.cancel()


def _exit_code(job: JobHandle) -> int:
    ended = job.job
    if ended.state is JobState.SUCCEEDED:
        return 0
    if ended.state is JobState.CANCELED:
        _say(f"canceled {ended.id}")
        return INTERRUPTED
    code = ended.exit_code or 0
    if ended.reason and code <= 0:
        _say(ended.reason)
    if code <= 0 and (ended.error or {}).get("ename") == "TimeoutError":
        return TIMED_OUT
    return code if code > 0 else 128 - code if code < 0 else 1


def _print(entry: LogEntry) -> None:
    target = sys.stdout if entry.stream is LogStream.STDOUT else sys.stderr
    target.write(f"{printable(entry.line, colours=target.isatty())}\n" if target.isatty() else f"{entry.line}\n")
    target.flush()


def _say(text: str) -> None:
    typer.echo(f"zbrain: {printable(text)}", err=True)


def _plain(text: str) -> str:
    from rich.markup import escape

    return escape(printable(text))


def _json(value: Any) -> None:
    json.dump(value, sys.stdout, indent=2)
    sys.stdout.write("\n")


def main() -> None:
    """Run ``zbrain``; an error of ours is one line, and the exit code is 1."""
    try:
        app()
    except ZBrainError as error:
        _say(str(error))
        sys.exit(1)
    except BrokenPipeError:
        sys.stderr.close()
        sys.exit(1)
