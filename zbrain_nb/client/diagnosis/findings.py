"""What a check says: one `Diagnosis` for each thing that it looked at."""

from __future__ import annotations

from enum import StrEnum

import msgspec


class Level(StrEnum):
    """How bad it is: as it should be, works but may surprise, or does not work."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Diagnosis(msgspec.Struct, frozen=True):
    """One thing looked at.

    Attributes
    ----------
    subject : str
        What, in a word or two.
    level : Level
        Whether it is as it should be.
    text : str
        What was found, for a person.
    hint : str
        What to do about it; empty if it is as it should be.
    """

    subject: str
    level: Level
    text: str
    hint: str = ""


def fine(subject: str, text: str) -> Diagnosis:
    """Return that `subject` is as it should be."""
    return Diagnosis(subject, Level.OK, text)


def warning(subject: str, text: str, hint: str) -> Diagnosis:
    """Return that `subject` works, but may surprise."""
    return Diagnosis(subject, Level.WARNING, text, hint)


def problem(subject: str, text: str, hint: str) -> Diagnosis:
    """Return that `subject` does not work."""
    return Diagnosis(subject, Level.PROBLEM, text, hint)
