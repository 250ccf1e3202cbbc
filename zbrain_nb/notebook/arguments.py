"""The line of ``%%zbrain``: its flags, their help, and errors that say what to do."""

from __future__ import annotations

import argparse
import difflib
import shlex
from typing import TYPE_CHECKING, Any, NoReturn

import msgspec

from zbrain_nb.model.errors import UsageError
from zbrain_nb.model.limits import Limits
from zbrain_nb.model.sizes import parse_mib
from zbrain_nb.notebook.grid import parse_grid

if TYPE_CHECKING:
    from zbrain_nb.notebook.defaults import Defaults


class CellOptions(msgspec.Struct):
    """What the line of a ``%%zbrain`` cell says.

    Attributes
    ----------
    ship : list of str, "auto" or "none"
        Variables to take along (``--in``).
    keep : list of str, "auto" or "none"
        Variables to keep (``--out``); names are also bound in the notebook.
    job : str or None
        Variable to bind the handle to.
    wait : bool or None
        Block until the end; None is when nobody watches.
    grid : dict of str to list
        Values by name: a job for each combination.
    max_parallel : int or None
        How many of these run at once at most.
    notify_after : float or None
        The view tells of its end, if it comes so many seconds after the submit, or later.
    new : bool
        Submit another job although the same one is active, or did the same before.
    cache : bool
        Take what the same cell gave before, if it succeeded.
    org : str or None
        The org that the job belongs to.
    quiet : bool
        Show one line instead of the view.
    """

    ship: list[str] | str = "auto"
    keep: list[str] | str = "auto"
    job: str | None = None
    wait: bool | None = None
    timeout: float | None = None
    name: str | None = None
    shell: bool = False
    retries: int = 0
    priority: int = 0
    cwd: str | None = None
    on: str | None = None
    kernel: str | None = None
    env: list[str] = []
    secret: list[str] = []
    artifacts: list[str] = []
    after: list[str] = []
    cpus: float | None = None
    mem: int | None = None
    gpus: int | None = None
    limit: list[str] = []
    grid: dict[str, list[Any]] = {}
    max_parallel: int | None = None
    notify_after: float | None = None
    new: bool = False
    cache: bool = False
    org: str | None = None
    quiet: bool = False

    @property
    def resources(self) -> dict[str, float]:
        """What of `JobSpec.resources` the line says."""
        said = {"cpus": self.cpus, "memory_mb": self.mem, "gpus": self.gpus}
        return {name: value for name, value in said.items() if value is not None}


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        flags = [flag for action in self._actions for flag in action.option_strings]
        if message.startswith("unrecognized arguments: "):
            word = message.removeprefix("unrecognized arguments: ").split()[0]
            close = difflib.get_close_matches(word.partition("=")[0], flags, n=1, cutoff=0.7)
            hint = f"Did you mean {close[0]}?" if close else f"It knows {', '.join(flags)}; `%%zbrain?` explains them."
            if not word.startswith("-"):
                hint = "A value with spaces needs quotes." + (f" {hint}" if close else "")
            if "=" in word and not word.startswith("-"):
                hint = "Each NAME=VALUE has a flag before it, as in --grid lr=1,2 --grid depth=2,3."
            raise UsageError(f"%%zbrain does not know {word!r}.", hint)
        raise UsageError(f"%%zbrain: {message}.", "`%%zbrain?` explains the flags.")


def _names(text: str) -> list[str] | str:
    if text in ("auto", "none"):
        return text
    names = [name.strip() for name in text.split(",") if name.strip()]
    wrong = next((name for name in names if not name.isidentifier()), None)
    if wrong is not None or not names:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of names such as a,b (nor auto or none)")
    return names


def _size(text: str) -> int:
    try:
        return parse_mib(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    try:
        secs = float(text)
    except ValueError:
        secs = -1.0
    if not 0 <= secs < float("inf"):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return secs


def _variable(text: str) -> str:
    if not text.isidentifier():
        raise argparse.ArgumentTypeError(f"{text!r} is no variable's name")
    return text


def _parser() -> _Parser:
    parser = _Parser(prog="%%zbrain", add_help=False, allow_abbrev=False, usage="%%%%zbrain [flags]")
    add = parser.add_argument
    add("--name", help="a name to find the job by")
    add(
        "--in",
        dest="ship",
        type=_names,
        default="auto",
        metavar="A,B",
        help="variables to take along (auto: what it reads)",
    )
    add(
        "--out",
        dest="keep",
        type=_names,
        default="auto",
        metavar="C,D",
        help="variables to bind here when it succeeds (auto: keep what it assigns with the job)",
    )
    add("--job", type=_variable, metavar="VAR", help="variable to bind the job's handle to (always: _zb)")
    add("--wait", dest="wait", action="store_true", default=None, help="block, print as it runs, raise what it raised")
    add("--no-wait", dest="wait", action="store_false", help="return at once even when nobody watches")
    add("--timeout", type=float, metavar="SECS", help="end it after so long (default: never)")
    add("--shell", action=argparse.BooleanOptionalAction, default=False, help="run the cell as a shell script")
    add("--retries", type=int, default=0, metavar="N", help="try again so often when it fails")
    add("--priority", type=int, default=0, metavar="N", help="higher runs first")
    add("--cwd", metavar="DIR", help="folder to run in (default: the notebook's)")
    add("--on", metavar="WORKER", help="kind of worker to run it on (default: local)")
    add("--kernel", metavar="NAME", help="run it in another kernel, of any language (default: this one's)")
    add("--env", action="append", default=[], metavar="K=V", help="set an environment variable; may be repeated")
    add("--secret", action="append", default=[], metavar="NAME", help="hand over a variable's value, and hide it")
    add("--artifacts", action="append", default=[], metavar="GLOB", help="files to keep; may be repeated")
    add("--after", action="append", default=[], metavar="JOB", help="run after this job: an id or a handle's variable")
    add("--cpus", type=float, metavar="N", help="CPU cores that it takes (default: 1)")
    add("--mem", type=_size, metavar="16G", help="memory that it takes; over it the job is killed, not the machine")
    add("--gpus", type=int, metavar="N", help="GPUs that it takes")
    add(
        "--limit",
        action="append",
        default=[],
        metavar="NAME=N",
        help=f"what it may use at most ({', '.join(Limits.__struct_fields__)}); may be repeated",
    )
    add("--grid", action="append", default=[], metavar="N=V,V", help="a job for each combination; may be repeated")
    add("--max-parallel", type=int, metavar="N", help="how many runs of a grid at once at most")
    add(
        "--notify-after",
        type=_seconds,
        metavar="SECS",
        help="the browser tells when it has ended, if that took so long (the view asks once for the permission)",
    )
    add(
        "--new",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="another job although the same cell's is active (default: attach to that), or did the same before",
    )
    add(
        "--cache",
        action=argparse.BooleanOptionalAction,
        default=False,
        help="nothing runs if the same cell, with the same inputs, has succeeded before: take what it gave "
        "(files that it reads are not looked at)",
    )
    add("--org", help="the org that it belongs to (default: your own)")
    add(
        "--quiet", action=argparse.BooleanOptionalAction, default=False, help="say one line instead of showing the view"
    )
    return parser


PARSER = _parser()


def split(line: str, magic: str) -> list[str]:
    """Return the words of a line, as a shell would; a comment begins with a ``#`` that begins a word.

    Raises
    ------
    UsageError
        If a quote is not closed.
    """
    try:
        return shlex.split(_without_comment(line))
    except ValueError as error:
        raise UsageError(f"{magic}: the line cannot be read ({error}).", "Close the quotes.") from None


def _without_comment(line: str) -> str:
    """Cut a comment off; `shlex` would end a name at any ``#`` in it, and drop the rest of the line."""
    quote = ""
    for place, char in enumerate(line):
        if quote:
            quote = "" if char == quote else quote
        elif char in "'\"":
            quote = char
        elif char == "#" and (not place or line[place - 1].isspace()):
            return line[:place]
    return line


def parse_line(line: str, *defaults: Defaults) -> CellOptions:
    """Parse the line behind ``%%zbrain``; what it does not say, the last of `defaults` that does says.

    Raises
    ------
    UsageError
        In one sentence, with what to do.
    """
    words = split(line, "%%zbrain")
    parsed = PARSER.parse_args(words)
    for some in reversed(defaults):
        unfit = {"in", "out"} if parsed.shell else {"cache"} if parsed.grid else set()
        if before := some.words(without=unfit):
            words = [*before, *words]
            parsed = PARSER.parse_args(words)
    if parsed.shell and (parsed.ship != "auto" or parsed.keep != "auto"):
        raise UsageError("%%zbrain: a shell script takes no variables along and leaves none.", "Drop --in and --out.")
    if parsed.job and parsed.job in parsed.keep:
        raise UsageError(f"%%zbrain: {parsed.job!r} cannot be the job's handle and its result.", "Choose two names.")
    for pair in parsed.env:
        if "=" not in pair:
            raise UsageError(f"%%zbrain: --env takes NAME=VALUE, not {pair!r}.")
    parsed.grid = parse_grid(parsed.grid)
    if parsed.max_parallel is not None and (not parsed.grid or parsed.max_parallel < 1):
        raise UsageError("%%zbrain: --max-parallel N goes with --grid, and is 1 or more.", "Add --grid, or drop it.")
    if parsed.grid and isinstance(parsed.keep, list):
        raise UsageError(
            "%%zbrain: --out names cannot be bound by many runs.", "Each keeps its own: `_zb[0].vars`, `_zb.results()`."
        )
    if parsed.grid and parsed.cache:
        raise UsageError("%%zbrain: --cache is for one job, and each run of a --grid is one.", "Drop --cache.")
    if parsed.grid and parsed.shell:
        raise UsageError("%%zbrain: --grid sets Python variables, which a shell script has not.", "Drop --shell.")
    return CellOptions(**vars(parsed))
