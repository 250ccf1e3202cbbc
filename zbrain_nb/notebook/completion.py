"""Tab completion of ``%%zbrain``, of magics made of it, and of ``%zbrain``.

One matcher for IPython's completer (matcher API, version 2). It answers at once: of jobs it knows what this notebook
submitted and what the server last said, which is asked in the background.
"""

from __future__ import annotations

import argparse
import concurrent.futures
import re
import time
import types
from collections.abc import Iterable

from IPython.core.completer import (
    CompletionContext,
    MatcherResult,
    SimpleCompletion,
    SimpleMatcherResult,
    context_matcher,
)
from IPython.core.interactiveshell import InteractiveShell
from jupyter_client.kernelspec import KernelSpecManager

from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.history import TABLES
from zbrain_nb.model.job import Job
from zbrain_nb.model.limits import Limits
from zbrain_nb.notebook.arguments import PARSER
from zbrain_nb.notebook.defaults import Defaults, preferences_of
from zbrain_nb.notebook.line import VERBS, Desk
from zbrain_nb.notebook.magic import ZBrainMagics

#: How long a completion waits for the server, and how long what it said is good.
WAIT_SECS = 0.05
FRESH_SECS = 2.0
MOST_JOBS = 100

_LINE = re.compile(r"\s*(?:[^\W\d]\w*\s*=\s*)?%zbrain\s+(.*)\Z", re.DOTALL)
_CELL = re.compile(r"%%(\w+)\s+(.*)\Z", re.DOTALL)
_FRAGMENT = re.compile(r"[^\s=,]*\Z")
_SQL_WORD = re.compile(r"\w*\Z")
_SQL_WORDS = ("select", "from", "where", "group by", "order by", "limit", "describe")
_IDENTIFIER = "zbrain"
_PLAIN_NAME = re.compile(r"[^\s\"'#\\=,]+\Z")


class MagicCompleter:
    """Completes the magics of one shell.

    Parameters
    ----------
    shell : InteractiveShell
        Whose variables, jobs and magics are offered.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._recent: list[Job] = []
        self._asked_at = float("-inf")
        self._asking: concurrent.futures.Future[list[Job]] | None = None

    def complete(self, text: str, *, is_first_line: bool = True) -> tuple[str, list[str]]:
        """Return the end of `text` that is to be completed, and what may stand in its place.

        Parameters
        ----------
        text : str
            The line, up to the cursor.
        is_first_line : bool
            Whether a cell's magic may stand here.
        """
        if (line := _LINE.match(text)) is not None:
            fragment, offers = self._of_line(line[1])
        elif is_first_line and (cell := _CELL.match(text)) is not None and self._is_ours(cell[1]):
            fragment, offers = self._of_flags(PARSER, cell[2])
        else:
            return "", []
        return fragment, [offer for offer in dict.fromkeys(offers) if offer.startswith(fragment)]

    def _is_ours(self, magic: str) -> bool:
        return magic == "zbrain" or magic in preferences_of(self._shell).magics

    def _of_line(self, text: str) -> tuple[str, Iterable[str]]:
        fragment = _end(_FRAGMENT, text)
        words = text.split()
        if not words or (len(words) == 1 and fragment == text):
            return fragment, VERBS
        verb = words[0]
        if verb == "sql":
            columns = [name for table in TABLES.values() for name in table.columns]
            return _end(_SQL_WORD, text), [*_SQL_WORDS, *TABLES, *columns]
        if verb == "config":
            flag, equals, _ = text.rsplit(" ", 1)[-1].partition("=")
            if not equals:
                return fragment, [f"{name}=" for name in Defaults.flags()]
            action = next((action for action in PARSER._actions if f"--{flag}" in action.option_strings), None)
            return fragment, self._values(action) if action is not None else []
        parser = VERBS.get(verb)
        return self._of_flags(parser, text.partition(verb)[2]) if parser is not None else (fragment, [])

    def _of_flags(self, parser: argparse.ArgumentParser, text: str) -> tuple[str, Iterable[str]]:
        """Complete the last word: a flag, the value of one, or a job where the parser takes that."""
        fragment = _end(_FRAGMENT, text)
        actions = {option: action for action in parser._actions for option in action.option_strings}
        before = text[: len(text) - len(fragment)]
        if not before or before[-1].isspace():  # the beginning of a word
            words = before.split()
            last = actions.get(words[-1]) if words else None
            if last is not None and last.nargs != 0 and not fragment.startswith("-"):
                return fragment, self._values(last)
            takes_job = any(action.metavar == "JOB" and not action.option_strings for action in parser._actions)
            return fragment, [*actions, *(self._jobs() if takes_job and not fragment.startswith("-") else ())]
        *earlier, word = before.split()  # within a word, behind "=" or ","
        option = word.partition("=")[0] if word.startswith("--") else ""
        if not option and earlier and before.endswith(","):
            option = earlier[-1]
        action = actions.get(option)
        return fragment, self._values(action) if action is not None else []

    def _values(self, action: argparse.Action) -> Iterable[str]:
        if action.choices is not None:
            return list(action.choices)
        match action.option_strings[0]:
            case "--kernel":
                return sorted(KernelSpecManager().find_kernel_specs())
            case "--in" | "--out":
                return ["auto", "none", *self._variables()]
            case "--job":
                return [name for name, value in self._shell.user_ns.items() if isinstance(value, JobHandle)]
            case "--after":
                return self._jobs()
            case "--on":
                return ["local"]
            case "--limit":
                return [f"{name}=" for name in Limits.__struct_fields__]
            case _:
                return []

    def _variables(self) -> list[str]:
        hidden = self._shell.user_ns_hidden
        return [
            name
            for name, value in self._shell.user_ns.items()
            if not name.startswith("_") and name not in hidden and not isinstance(value, types.ModuleType)
        ]

    def _jobs(self) -> Iterable[str]:
        """Yield what may name a job: variables, names, and ids."""
        for name, value in list(self._shell.user_ns.items()):
            if isinstance(value, JobHandle):
                yield name
        magics: ZBrainMagics | None = self._shell.magics_manager.registry.get(ZBrainMagics.__name__)
        desk = magics.desk_if_there if magics is not None else None
        if desk is None:  # nothing was asked of a server yet, and completion is no reason to start one
            return
        jobs = [*(handle.job for handle in reversed(desk.runs.known())), *self._ask(desk)]
        yield from (job.name for job in jobs if _PLAIN_NAME.match(job.name))
        yield from (job.id for job in jobs)  # whole: jobs of one millisecond share the head

    def _ask(self, desk: Desk) -> list[Job]:
        """Return the server's newest jobs, as it says now or said last; a slow one is not waited for."""
        if self._asking is None and time.monotonic() - self._asked_at > FRESH_SECS:
            self._asking = desk.client.start(desk.client.asynchronous.jobs, None, MOST_JOBS)
        if self._asking is not None:
            try:
                self._recent = self._asking.result(WAIT_SECS)
            except TimeoutError:
                return self._recent
            except ZBrainError:  # what was known before is offered still
                pass
            self._asking, self._asked_at = None, time.monotonic()
        return self._recent


def complete_magics(shell: InteractiveShell) -> None:
    """Let the shell's Tab complete zbrain's magics; harmless when it does already."""
    completer = MagicCompleter(shell)

    @context_matcher(identifier=_IDENTIFIER)  # type: ignore[untyped-decorator]
    def zbrain_matcher(context: CompletionContext) -> MatcherResult:
        fragment, offers = completer.complete(context.text_until_cursor, is_first_line=context.cursor_line == 0)
        return SimpleMatcherResult(
            completions=[SimpleCompletion(text=offer, type="magic") for offer in offers],
            matched_fragment=fragment,
            suppress=bool(offers),
            ordered=True,
        )

    matchers = shell.Completer.custom_matchers
    matchers[:] = [one for one in matchers if getattr(one, "matcher_identifier", None) != _IDENTIFIER]
    matchers.append(zbrain_matcher)


def _end(pattern: re.Pattern[str], text: str) -> str:
    found = pattern.search(text)
    return found[0] if found is not None else ""
