"""``%zbrain config`` and ``%zbrain doctor``: how this notebook is set up. Neither needs a server."""

from __future__ import annotations

from zbrain_nb.client.diagnosis import Level, diagnose
from zbrain_nb.model.errors import UsageError
from zbrain_nb.notebook.defaults import Defaults, Preferences
from zbrain_nb.notebook.tables import plain, show_table

_STYLES = {Level.OK: "green", Level.WARNING: "yellow", Level.PROBLEM: "red"}


def configure(preferences: Preferences, words: list[str]) -> None:
    """Set defaults, each word a ``flag=value`` (``flag=`` takes one back), all or none; show what is set.

    Raises
    ------
    UsageError
        If a word does not hold.
    """
    fresh = preferences.defaults.copy()
    for word in words:
        name, equals, value = word.partition("=")
        if not equals:
            raise UsageError(f"%zbrain config takes FLAG=VALUE, not {word[:40]!r}.", "Such as timeout=3600 wait=1.")
        fresh.set(name, value)
    preferences.defaults = fresh
    if not words or fresh:
        _show(preferences, whole=not words)


def _show(preferences: Preferences, *, whole: bool) -> None:
    known = dict(preferences.defaults)
    rows = [
        (name, plain(known.get(name, "")), plain(text))
        for name, text in Defaults.flags().items()
        if whole or name in known
    ]
    show_table(("Flag", "Value", "Does"), rows, "", wraps="Does")


def show_diagnosis() -> None:
    """Look for the usual troubles, as ``zbrain doctor`` does, and say what to do about them."""
    rows = [
        (f"[{_STYLES[one.level]}]{one.level}[/]", plain(one.subject), plain(f"{one.text} {one.hint}".strip()))
        for one in diagnose()
    ]
    show_table(("", "Looked at", "Found"), rows, "", wraps="Found")
