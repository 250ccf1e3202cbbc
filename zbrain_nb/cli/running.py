"""``zbrain run`` and ``zbrain submit``."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

import typer

from zbrain_nb.cli import options
from zbrain_nb.cli.exits import INTERRUPTED, exit_code_of_job
from zbrain_nb.cli.finding import connected, find_job
from zbrain_nb.cli.options import spec_fields
from zbrain_nb.cli.output import print_line, print_traceback, say
from zbrain_nb.model.job import JobState

if TYPE_CHECKING:
    from zbrain_nb.client.handle import JobHandle

#: A job that waits longer says why.
WAITING_SECS = 2.0


def add_to(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(context_settings=options.VERBATIM)(run)
    app.command(context_settings=options.VERBATIM)(submit)


def run(
    cmd: options.Command,
    name: options.Name = None,
    timeout: options.Timeout = None,
    retries: options.Retries = 0,
    priority: options.Priority = 0,
    after: options.After = None,
    env: options.Env = None,
    secret: options.Secrets = None,
    tag: options.Tags = None,
    artifacts: options.Artifacts = None,
    cpus: options.Cpus = 1,
    mem: options.Mem = None,
    limit: options.Limit = None,
    on: options.On = None,
    org: options.Org = None,
) -> None:
    """Run a command as a job, live.

    Its output comes as it is made, and the exit code is its own. Ctrl-C cancels it.
    """
    fields = spec_fields(
        name=name,
        timeout=timeout,
        retries=retries,
        priority=priority,
        env=env,
        secrets=secret,
        tags=tag,
        artifacts=artifacts,
        cpus=cpus,
        mem=mem,
        limit=limit,
        on=on,
        org=org,
    )
    client = connected(secret or ())
    job = client.submit(cmd, after=[find_job(text, client).id for text in after or []], **fields)
    try:
        follow(job, raw=True)
    except KeyboardInterrupt:
        job.cancel()
        say(f"canceled {job.id}")
        raise typer.Exit(INTERRUPTED) from None
    except BrokenPipeError:
        job.cancel()  # nobody reads on, as a shell would say by SIGPIPE
        raise
    end_as(job)


def submit(
    cmd: options.Command,
    name: options.Name = None,
    timeout: options.Timeout = None,
    retries: options.Retries = 0,
    priority: options.Priority = 0,
    after: options.After = None,
    env: options.Env = None,
    secret: options.Secrets = None,
    tag: options.Tags = None,
    artifacts: options.Artifacts = None,
    cpus: options.Cpus = 1,
    mem: options.Mem = None,
    limit: options.Limit = None,
    on: options.On = None,
    org: options.Org = None,
) -> None:
    """Submit a command as a job and print its id."""
    fields = spec_fields(
        name=name,
        timeout=timeout,
        retries=retries,
        priority=priority,
        env=env,
        secrets=secret,
        tags=tag,
        artifacts=artifacts,
        cpus=cpus,
        mem=mem,
        limit=limit,
        on=on,
        org=org,
    )
    client = connected(secret or ())
    typer.echo(client.submit(cmd, after=[find_job(text, client).id for text in after or []], **fields).id)


def follow(job: JobHandle, *, raw: bool = False, stream: str | None = None) -> None:
    """Print a job's log as it comes, until the job ends; say why it waits if it waits long.

    Parameters
    ----------
    job : JobHandle
        Whose log.
    raw : bool
        See `print_line`.
    stream : str, optional
        Only lines of this stream.
    """

    def say_why() -> None:
        if job.job.state is JobState.PENDING and job.job.reason:
            say(job.job.reason)

    waiting = threading.Timer(WAITING_SECS, say_why)
    waiting.daemon = True
    waiting.start()
    try:
        for update in job.updates():
            for entry in update.entries:
                if stream in (None, entry.stream):
                    print_line(entry, raw=raw)
    finally:
        waiting.cancel()


def end_as(job: JobHandle, *, log_shown: bool = True) -> None:
    """End as the job ended, saying what its own output, if that was shown, does not."""
    ended = job.job
    if ended.state is JobState.CANCELED:
        say(f"canceled {ended.id}")
    elif ended.state is JobState.FAILED:
        print_traceback(ended)  # a cell's is no part of its log
        # a command that ran and then gave a code has said itself what the matter was
        if not log_shown or ended.reason != f"Exited with code {ended.exit_code}.":
            say(ended.reason or "It failed; no reason was given.")
    raise typer.Exit(exit_code_of_job(ended))
