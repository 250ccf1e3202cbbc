"""Defaults of the flags of ``%%zbrain``: those of a notebook, and those of magics that people make of it."""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Set
from typing import Any
from weakref import WeakKeyDictionary

from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.arguments import PARSER

#: Flags that say something of one cell only, and have no defaults.
_OF_ONE_CELL = ("--name", "--job", "--after", "--grid", "--max-parallel")
_TRUTHS = {"1": True, "true": True, "yes": True, "on": True, "0": False, "false": False, "no": False, "off": False}


class Defaults:
    """Flags that stand before those of a cell's own line.

    Parameters
    ----------
    what : str
        Who wants them, for messages: ``%zbrain config``.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._words: dict[str, list[str]] = {}

    def copy(self) -> Defaults:
        """Return the same flags, to be changed apart."""
        other = Defaults(self._what)
        other._words = dict(self._words)
        return other

    @staticmethod
    def flags() -> dict[str, str]:
        """Return the flags that may have defaults, without dashes, and their help."""
        actions = {action.option_strings[0]: action for action in PARSER._actions if action.option_strings}
        return {
            option[2:]: action.help or ""
            for option, action in actions.items()
            if option not in _OF_ONE_CELL and not option.startswith("--no-")
        }

    def set(self, name: str, value: Any) -> None:
        """Set the default of a flag; None, or an empty text, takes it back.

        Parameters
        ----------
        name : str
            The flag, without dashes before it; inside it, ``_`` will do.
        value : object
            As it stands on the line; true or false for a flag without a value; a list for one that may be repeated.

        Raises
        ------
        UsageError
            If there is no such flag, with those that exist; or if the value does not hold.
        """
        name = name.strip("_").replace("_", "-")
        if name not in self.flags():
            if f"--{name}" in _OF_ONE_CELL:
                raise UsageError(f"{self._what}: {name} belongs to one cell.", f"Put --{name} on its line.")
            close = difflib.get_close_matches(name, self.flags(), n=1, cutoff=0.7)
            hint = f"Did you mean {close[0]}?" if close else f"It knows {', '.join(self.flags())}."
            raise UsageError(f"{self._what} does not know {name!r}.", hint)
        if value is None or value == "":
            self._words.pop(name, None)
            return
        words = self._as_words(name, value)
        others = [word for other, said in self._words.items() if other != name for word in said]
        try:
            parsed = PARSER.parse_args([*others, *words])
        except UsageError as error:
            raise UsageError(f"{self._what}: {error.message.removeprefix('%%zbrain: ')}", error.hint) from None
        if parsed.shell and (parsed.ship != "auto" or parsed.keep != "auto"):
            raise UsageError(
                f"{self._what}: a shell script takes no variables along and leaves none, so shell cannot be set "
                "together with in or out.",
                "Set the one that most cells need, and put the other on the line of its cell.",
            )
        self._words[name] = words

    def _as_words(self, name: str, value: Any) -> list[str]:
        action = next(action for action in PARSER._actions if f"--{name}" in action.option_strings)
        if action.nargs == 0:
            truth = value if isinstance(value, bool) else _TRUTHS.get(str(value).lower())
            if truth is None:
                raise UsageError(f"{self._what}: {name} is 1 or 0, not {str(value)[:40]!r}.")
            return [f"--{name}" if truth else f"--no-{name}"]
        return [f"--{name}={one}" for one in (value if isinstance(value, list | tuple) else [value])]

    def words(self, *, without: Set[str] = frozenset()) -> list[str]:
        """Return all as words of a line, but for the flags `without`."""
        return [word for name, words in self._words.items() if name not in without for word in words]

    def __iter__(self) -> Iterator[tuple[str, str]]:
        """Yield each flag that is set, and its value."""
        for name, words in self._words.items():
            values = [word.partition("=")[2] or str(int(not word.startswith("--no-"))) for word in words]
            yield name, ", ".join(values)

    def __bool__(self) -> bool:
        return bool(self._words)


class Preferences:
    """What a notebook's user has set: defaults for all cells, and magics of his own with theirs, by name."""

    def __init__(self) -> None:
        self.defaults = Defaults("%zbrain config")
        self.magics: dict[str, Defaults] = {}


_of_shells: WeakKeyDictionary[InteractiveShell, Preferences] = WeakKeyDictionary()


def preferences_of(shell: InteractiveShell) -> Preferences:
    """Return what was set in this shell; it stays when the extension is loaded again."""
    return _of_shells.setdefault(shell, Preferences())
