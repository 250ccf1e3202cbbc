"""``zbrain ls``, ``workers`` and ``queues``: what there is."""

from __future__ import annotations

import sys
import time
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.completing import complete_state
from zbrain_nb.cli.finding import connected
from zbrain_nb.cli.output import console, print_json, print_table, say, state_text, table
from zbrain_nb.client.printing import age, attempts, elapsed, short_ids
from zbrain_nb.client.workers import COLUMNS, worker_row
from zbrain_nb.model.job import Job, JobState

if TYPE_CHECKING:
    from rich.table import Table

WATCH_SECS = 1.0
#: Which columns a terminal of so many has no room for.
_NARROW = ((100, "Age"), (80, "Try"), (60, "Elapsed"))


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(ls)
    app.command()(workers)
    app.command()(queues)


def ls(
    state: Annotated[
        str | None,
        typer.Option(help=f"Only jobs in this state: {', '.join(JobState)}.", autocompletion=complete_state),
    ] = None,
    name: Annotated[str | None, typer.Option(help="Only jobs of exactly this name.")] = None,
    tag: Annotated[str | None, typer.Option(metavar="K=V", help="Only jobs with this tag.")] = None,
    search: Annotated[
        str | None, typer.Option("-q", "--search", help="Only jobs whose name contains this, or whose id begins so.")
    ] = None,
    limit: Annotated[int, typer.Option(min=1, max=1000, help="How many at most.")] = 20,
    watch: Annotated[bool, typer.Option("--watch", "-w", help="Show it again every second, until Ctrl-C.")] = False,
    as_json: options.Json = False,
) -> None:
    """List jobs, newest first, ended ones too."""
    if state is not None and state not in set(JobState):
        raise typer.BadParameter(f"{state!r} is none of {', '.join(JobState)}.", param_hint="--state")
    if watch and (as_json or not sys.stdout.isatty()):
        raise typer.BadParameter("It needs a terminal, and shows a table.", param_hint="--watch")
    client = connected()
    wanted: dict[str, Any] = {"name": name, "q": search, "tag": None if tag is None else options.pair(tag, "--tag")}

    def fetch(more: int = 0) -> list[Job]:
        return [handle.job for handle in client.jobs(state, limit + more, **wanted)]

    if watch:
        _watch(fetch)
    elif as_json:
        print_json([msgspec.to_builtins(job) | {"name": job.name} for job in fetch()])
    elif jobs := fetch(1):
        console().print(_jobs_table(jobs[:limit]))
        if len(jobs) > limit:
            say(f"the newest only, up to --limit {limit}; there are more")
    else:
        say("no such jobs" if state or name or search or tag else "no jobs yet; `zbrain run -- CMD` runs one")


def _watch(fetch: Any) -> None:
    from rich.live import Live

    try:
        with Live(_jobs_table(fetch()), console=console(), auto_refresh=False, screen=True) as live:
            while True:
                time.sleep(WATCH_SECS)
                live.update(_jobs_table(fetch()), refresh=True)
    except KeyboardInterrupt:
        return  # the way to end it


def _jobs_table(jobs: list[Job]) -> Table:
    terminal = console()
    heads = short_ids(job.id for job in jobs) if terminal.is_terminal else {}
    hidden = {column for width, column in _NARROW if terminal.width < width}
    cells: dict[str, list[Any]] = {
        "Id": [heads.get(job.id, job.id) for job in jobs],
        "State": [state_text(job.state) for job in jobs],
        "Name": [job.name for job in jobs],
        "Try": [attempts(job) for job in jobs],
        "Elapsed": [elapsed(job) for job in jobs],
        "Age": [age(job.created_at) for job in jobs],
        "Reason": [job.reason or "" for job in jobs],
    }
    shown = [column for column in cells if column not in hidden]
    return table(shown, zip(*(cells[column] for column in shown), strict=True))


def workers(as_json: options.Json = False) -> None:
    """List workers: how each is, and what is free."""
    found = connected().workers()
    if as_json:
        print_json([msgspec.to_builtins(worker) for worker in found])
        return
    print_table(COLUMNS, [worker_row(one) for one in found], "no workers; `zbrain doctor` looks why")


def queues(as_json: options.Json = False) -> None:
    """List queues that have work, or are paused."""
    found = connected().queues()
    if as_json:
        print_json([msgspec.to_builtins(queue) for queue in found])
        return
    rows = [(one.org_id, one.kind, str(one.waiting), str(one.running), one.paused or "") for one in found]
    print_table(("Org", "Kind", "Waiting", "Running", "Paused"), rows, "nothing waits, runs or is paused")
