"""``%zbrain``: the line magic, which looks at jobs and acts on them.

`run_line` parses the line and calls one function a verb; what they return is the line's value, and what they print is
for the person who typed it.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from typing import Any, NoReturn

from IPython.core.getipython import get_ipython

from zbrain_nb.client.client import Client
from zbrain_nb.client.group import JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.printing import printable
from zbrain_nb.model.errors import JobNotFound, UsageError
from zbrain_nb.model.job import JobState
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.notebook.attaching import attach, attach_to
from zbrain_nb.notebook.binding import OutBindings
from zbrain_nb.notebook.presenting import TAIL
from zbrain_nb.notebook.runs import NotebookRuns
from zbrain_nb.notebook.tables import JOB_COLUMNS, job_row, plain, show_table

ID_CHARS = 13


class Desk:
    """What the verbs work with.

    Parameters
    ----------
    client : Client
        Asks the server.
    namespace : dict
        The notebook's variables.
    runs : NotebookRuns
        The notebook's jobs.
    bindings : OutBindings
        Binds ``--out`` names.
    """

    def __init__(self, client: Client, namespace: dict[str, Any], runs: NotebookRuns, bindings: OutBindings) -> None:
        self.client = client
        self.namespace = namespace
        self.runs = runs
        self.bindings = bindings

    def job(self, text: str) -> JobHandle:
        """Return the job that a person means: an id or the head of one, a name, a variable, or -1 for the last.

        Raises
        ------
        JobNotFound
            If there is none.
        UsageError
            If a variable holds something else.
        """
        if text == "-1":
            if not self.runs.all():
                raise JobNotFound("This notebook has no jobs yet.", "Put `%%zbrain` on a cell.")
            return self.runs.all()[-1]
        value = self.namespace.get(text)
        if isinstance(value, JobHandle):
            return value
        if isinstance(value, JobGroup):
            raise UsageError(f"{text!r} holds {len(value):,} jobs.", f"Name one, or use {text}[0] in Python.")
        return self.client.job(text)


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageError(f"%zbrain: {message}.", "`%zbrain?` shows what it knows.")


def _parser() -> tuple[_Parser, dict[str, _Parser]]:
    parser = _Parser(prog="%zbrain", add_help=False, usage="%%zbrain [verb]")
    verbs = parser.add_subparsers(dest="verb", metavar="verb", parser_class=_Parser)

    def verb(name: str, help_: str, *, takes_job: bool = True) -> argparse.ArgumentParser:
        added = verbs.add_parser(name, help=help_, add_help=False, usage=f"%%zbrain {name}")
        if takes_job:
            added.add_argument("job", metavar="JOB", help="an id, four or more of its first characters, a name, ...")
        return added

    listing = verb("ls", "list jobs, newest first", takes_job=False)
    listing.add_argument("--state", choices=[str(state) for state in JobState], help="only jobs in this state")
    listing.add_argument("--limit", type=int, default=20, help="how many at most")
    listing.add_argument("--here", action="store_true", help="only jobs of this notebook")
    again = verb("attach", "find this notebook's jobs again after a restart, and what they shall bind", takes_job=False)
    again.add_argument("jobs", nargs="*", metavar="JOB", help="these jobs, or those of OLD.ipynb, which it was before")
    verb("show", "show the job's live view")
    logs = verb("logs", "print the end of the job's log")
    logs.add_argument("-n", type=int, default=TAIL, metavar="N", help=f"how many lines at most, {TAIL} if not said")
    logs.add_argument("--all", action="store_true", help="all of it, however long")
    logs.add_argument("-f", "--follow", action="store_true", help="go on until it ends")
    verb("cancel", "cancel the job")
    retry = verb("retry", "submit the ended job again")
    retry.add_argument("--others", action="store_true", help="another person's too: its code then runs as you")
    verb("result", "wait for the job, and return what it gave")
    verb("artifacts", "list the files kept with the job")
    # The magic itself runs these three: a query is no list of words, and the others need no server.
    verb("sql", "ask the history: select ... from jobs, attempts, events, logs", takes_job=False)
    verb("config", "set flags for all cells of this notebook, as in timeout=3600 wait=1, or show them", takes_job=False)
    verb("doctor", "look for the usual troubles", takes_job=False)
    return parser, verbs.choices


#: The parser of the line, and by its name that of each verb.
PARSER, VERBS = _parser()


def run_line(desk: Desk, words: list[str]) -> Any:
    """Do what the words behind ``%zbrain`` say.

    Raises
    ------
    UsageError
        If they cannot be understood.
    ZBrainError
        If what they ask for cannot be done.
    """
    if not words and getattr(get_ipython(), "kernel", None) is not None:
        return desk.client.dashboard()
    options = PARSER.parse_args(words or ["ls"])
    verbs: dict[str, Callable[[Desk, argparse.Namespace], Any]] = {
        "ls": _ls,
        "attach": _attach,
        "show": lambda desk, options: desk.job(options.job).display(),
        "logs": _logs,
        "cancel": _cancel,
        "retry": _retry,
        "result": lambda desk, options: desk.job(options.job).result(),
        "artifacts": _artifacts,
    }
    return verbs[options.verb](desk, options)


def _ls(desk: Desk, options: argparse.Namespace) -> None:
    if options.here:
        seen = JobGroup(desk.client, desk.runs.all()).refresh()
        handles = [handle for handle in reversed(seen) if options.state in (None, handle.job.state)]
    else:
        handles = desk.client.jobs(options.state, options.limit + 1)
    show_table(JOB_COLUMNS, [job_row(handle.job) for handle in handles[: options.limit]], "No jobs.")
    if len(handles) > options.limit:
        sys.stdout.write(f"zbrain: the newest only, up to --limit {options.limit}; there are more.\n")


def _attach(desk: Desk, options: argparse.Namespace) -> None:
    if options.jobs:
        attach_to(options.jobs, desk.runs, desk.bindings, desk.namespace, desk.job)
    else:
        attach(desk.runs, desk.bindings, desk.namespace)


def _logs(desk: Desk, options: argparse.Namespace) -> None:
    if options.n < 0:
        raise UsageError(f"-n takes how many lines, not {options.n}.")
    handle = desk.job(options.job)
    first = (
        0 if options.all else max(0, desk.client.call(desk.client.asynchronous.count_log_lines, handle.id) - options.n)
    )
    if first:
        lines = "1 earlier line is" if first == 1 else f"{first:,} earlier lines are"
        sys.stdout.write(f"zbrain: {lines} left out; --all prints all.\n")
    for entry in handle.logs(follow=options.follow, from_seq=first):
        sys.stdout.write(f"{printable(entry.line, colours=True)}\n")


def _cancel(desk: Desk, options: argparse.Namespace) -> None:
    handle = desk.job(options.job)
    said = {"canceled": "is canceled", "canceling": "is being canceled", "already_finished": "had ended already"}
    result = handle.cancel()
    sys.stdout.write(f"zbrain: {printable(handle.name)} {said.get(result, result)}.\n")


def _retry(desk: Desk, options: argparse.Namespace) -> None:
    again = desk.job(options.job).retry(others=options.others)
    desk.runs.add(again)
    desk.namespace["_zb"] = again
    again.display()


def _artifacts(desk: Desk, options: argparse.Namespace) -> None:
    kept = desk.job(options.job).artifacts.values()
    rows = [(plain(one.name), format_kib(one.size / 1024)) for one in kept]
    show_table(("Name", "Size"), rows, "The job keeps no files.")
