"""What stands in a place of a group, said alike for kernel and view: its runs, oldest first, and which does."""

from __future__ import annotations

from typing import NamedTuple


class Run(NamedTuple):
    """One of the runs that one place of a group has had."""

    name: str
    repeats: str | None
    state: str


#: By what was run in the place, the name of the run that stands there.
CASES = {
    "A failed": "A",
    "A failed, B of A running": "B",
    "A failed, B of A failed, C of B running": "C",
    # a second repeat pushes out nothing that runs or has succeeded
    "A failed, B of A running, C of A running": "B",
    "A failed, B of A pending, C of A failed, D of C running": "B",
    "A failed, B of A succeeded, C of A running": "B",
    "A failed, B of A failed, C of A succeeded, D of B running": "C",
    # but it is not hidden by what has come to nothing
    "A failed, B of A canceled, C of A running": "C",
    "A failed, B of A failed, C of A succeeded": "C",
    "A failed, B of A failed, C of A canceled, D of B running": "D",
    "A failed, B of A failed, C of A failed, D of A failed": "D",
    "A failed, B of A failed, C of B canceled, D of A running": "D",
    # whoever runs again what stands there wants the new one
    "A succeeded, B of A failed": "B",
    "A failed, B of A succeeded, C of B running": "C",
    "A succeeded, B of A failed, C of A running": "C",
}


def runs_of(case: str) -> list[Run]:
    """Return the runs that a case is about."""
    runs = []
    for text in case.split(", "):
        name, *repeats, state = text.replace(" of ", " ").split()
        runs.append(Run(name, repeats[0] if repeats else None, state))
    return runs
