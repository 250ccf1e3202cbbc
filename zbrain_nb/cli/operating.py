"""``zbrain serve``, ``worker``, ``dashboard``, ``backup``, ``doctor`` and ``stop``: what runs and keeps the queue."""

from __future__ import annotations

import html
import logging
import os
import signal
import time
import webbrowser
from pathlib import Path
from typing import Annotated

import msgspec
import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.exits import FAILED
from zbrain_nb.cli.output import console, print_json, say
from zbrain_nb.client.printing import printable
from zbrain_nb.model.datadir import LEAVE_SIGNAL, DataDir, lock_holder
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.logs import configure_logging
from zbrain_nb.model.settings import read_settings

STOP_SECS = 20.0
_MARKS = {"ok": ("ok", "green"), "warning": ("warning", "yellow"), "problem": ("PROBLEM", "red")}


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    for command in (serve, worker, dashboard, backup, doctor, stop):
        app.command()(command)


def serve(
    bind: Annotated[str, typer.Option(metavar="ADDRESS", help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 takes a free one.")] = 0,
    name: Annotated[
        list[str] | None, typer.Option(help="A further name under which others reach it; may be repeated.")
    ] = None,
    hub: Annotated[bool, typer.Option("--hub", help="As a service of the JupyterHub that starts this.")] = False,
) -> None:
    """Serve the queue of the data directory.

    It goes on until it is interrupted. If a host serves the directory already, that one goes on instead.
    """
    from zbrain_nb.server.serving import main as serve_main

    names = [word for one in name or [] for word in ("--name", one)]
    raise typer.Exit(serve_main(["--bind", bind, "--port", str(port), *names, *(["--hub"] if hub else [])]))


def worker(
    mode: Annotated[str | None, typer.Option(help="Kind of worker: local.")] = None,
    concurrency: Annotated[int | None, typer.Option(min=1, help="Jobs at once (default: ZWORKER_CONCURRENCY).")] = None,
    pool: Annotated[
        str, typer.Option(metavar="NAME", help="Take what is sent `--on NAME`, and nothing else.")
    ] = "local",
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
    """Run a worker.

    Interrupted, it takes no more jobs, and ends when those that run have ended.
    """
    from zbrain_nb.worker.service import run_worker

    if mode not in (None, "local"):
        raise typer.BadParameter(f"{mode!r} is none of local.", param_hint="--mode")
    configure_logging("worker", logging.ERROR)
    token = read_settings().token if url else None
    run_worker(
        url=url or None,
        token=token,
        folder=folder,
        concurrency=concurrency,
        kind=pool,
        org_id=org,
        drains=True,
        drain_secs=drain_timeout,
        say=say,
    )


def dashboard(
    browser: Annotated[bool, typer.Option(help="Open it; without, only print where it is.")] = True,
) -> None:
    """Open the console in a browser: all jobs, live.

    The address works once, within a minute.
    """
    from zbrain_nb.client.connecting import connect

    client = connect()
    url = client.call(client.asynchronous.console_url)
    if not browser:
        typer.echo(url)
    elif not webbrowser.open(_page_to(url, DataDir(read_settings().data)).as_uri()):
        raise ZBrainError("No browser could be opened.", "`zbrain dashboard --no-browser` prints the address.")


def _page_to(url: str, data: DataDir) -> Path:
    """Write a page that leads on to `url`: a browser's command line can be read by every account, the page cannot."""
    page = data.root / "console.html"
    fresh = data.root / f".console.{os.getpid()}"
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(
            f'<!doctype html><meta http-equiv="refresh" content="0; url={html.escape(url)}"><title>zbrain</title>'
        )
    fresh.replace(page)
    return page


def backup(
    destination: Annotated[Path, typer.Argument(metavar="DEST", help="A new folder, on the machine of the host.")],
) -> None:
    """Copy database and files while jobs go on.

    DEST is then a data directory like this one: ZDB_DATA=DEST serves it.
    """
    from zbrain_nb.cli.backup import back_up

    say(f"backed up to {back_up(destination)}")


def doctor(as_json: options.Json = False) -> None:
    """Look for the usual troubles.

    Each thing looked at is ok, a warning (it works, but may surprise) or a problem, with what to do; a problem makes
    the exit code 1. Nothing is started or changed.
    """
    from zbrain_nb.client.diagnosis import Level, diagnose

    findings = diagnose()
    if as_json:
        print_json([msgspec.to_builtins(finding) for finding in findings])
    else:
        from rich.text import Text

        out = console()
        for finding in findings:
            mark, style = _MARKS[finding.level]
            line = Text(f"{mark:<8} ", style).append(f"{printable(finding.subject)}: ", "bold")
            out.print(line.append(printable(finding.text), "default"), soft_wrap=True)
            if finding.hint:
                out.print(f"         {printable(finding.hint)}", markup=False, soft_wrap=True)
    if any(finding.level is Level.PROBLEM for finding in findings):
        raise typer.Exit(FAILED)


def stop() -> None:
    """End the host and its worker.

    Running jobs go on; the next host of the data directory takes them up.
    """
    data = DataDir(read_settings().data)
    # The host ends its worker; a worker whose host was killed is ended here.
    holders = (("host", data.host_lock, signal.SIGTERM), ("worker", data.worker / "worker.lock", LEAVE_SIGNAL))
    ended = [_end(who, lock, number, data) for who, lock, number in holders]
    if not any(ended):
        say(f"no host serves {data.root}")


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
    say(f"{who} {pid} ended")
    return True
