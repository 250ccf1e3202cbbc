"""What zygotes and the supervisors forked by them tell the spawner."""

from __future__ import annotations

import os
from collections.abc import Iterable

import msgspec


class Note(msgspec.Struct, kw_only=True, tag="supervisor"):
    """A supervisor took a request, or (without `taken`) ended.

    Attributes
    ----------
    pid : int
        The supervisor.
    taken : str or None
        File name of the request.
    """

    pid: int
    taken: str | None = None


class Importing(msgspec.Struct, tag="importing"):
    """A zygote is about to import a module; if it ends before its next word, that module was why."""

    module: str


class Ready(msgspec.Struct, tag="ready"):
    """A zygote has imported all that it should, and takes requests.

    Attributes
    ----------
    installed : dict of str to int
        What `last_installed` said before it imported anything.
    modules : list of str
        What it has imported of installed packages, without what these mean for themselves.
    """

    installed: dict[str, int]
    modules: list[str]


def last_installed(folders: Iterable[str]) -> dict[str, int]:
    """Return when each folder of packages was changed last, in ns; 0 of one that is not there.

    Installing, updating and removing a package changes it; editing a file inside a package does not.
    """
    found = {}
    for folder in folders:
        try:
            found[folder] = os.stat(folder).st_mtime_ns
        except OSError:
            found[folder] = 0
    return found
