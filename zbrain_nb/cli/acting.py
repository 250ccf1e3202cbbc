"""``zbrain cancel``, ``detach``, ``retry``, ``pause`` and ``resume``: what changes jobs and queues."""

from __future__ import annotations

from typing import Annotated

import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.finding import connected, find_job
from zbrain_nb.cli.output import say


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(cls=options.JobCommand)(cancel)
    app.command(cls=options.JobCommand)(detach)
    app.command(cls=options.JobCommand)(retry)
    app.command()(pause)
    app.command()(resume)


def cancel(jobs: options.JobNames) -> None:
    """Cancel jobs, and all their processes.

    Harmless for those that have ended. If one is not found, none is canceled.
    """
    client = connected()
    for handle in [find_job(text, client) for text in jobs]:
        say(f"{handle.id}: {handle.cancel().replace('_', ' ')}")


def detach(jobs: options.JobNames) -> None:
    """Let go on who waits for jobs: cells with --wait, result(), `zbrain run`.

    The jobs go on too.
    """
    client = connected()
    for handle in [find_job(text, client) for text in jobs]:
        say(f"{handle.id}: {handle.detach()} detached")


def retry(
    jobs: options.JobNames,
    others: Annotated[bool, typer.Option("--others", help="Other people's too: their code then runs as you.")] = False,
) -> None:
    """Submit ended jobs again and print the new ids."""
    client = connected()
    for handle in [find_job(text, client) for text in jobs]:
        typer.echo(handle.retry(others=others).id)


def pause(kind: options.Kind = "local", org: options.Org = None) -> None:
    """Start no more jobs of a queue.

    What runs goes on; `zbrain resume` lets the queue go on.
    """
    queue = connected().pause(kind, org_id=org)
    say(f"{queue.paused} {queue.waiting} wait, {queue.running} run.")


def resume(kind: options.Kind = "local", org: options.Org = None) -> None:
    """Let a paused queue go on."""
    queue = connected().resume(kind, org_id=org)
    say(f"The queue {queue.kind} of the org {queue.org_id} goes on. {queue.waiting} wait, {queue.running} run.")
