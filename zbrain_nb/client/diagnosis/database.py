"""Checks of the database file: who has it open, and whether a host of this version could open it.

Only a host opens the database, so what is in it is asked of a process of its own (`zbrain_nb.server --inspect`),
and only while no host runs.
"""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import msgspec

from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, problem, warning
from zbrain_nb.model.datadir import DataDir, lock_holder

_INSPECT_SECS = 60.0


class Inspection(msgspec.Struct):
    """What `zbrain_nb.server --inspect` says of a database.

    Attributes
    ----------
    version, known : int
        The version of its tables, and the one that this zbrain_nb writes.
    problem : str or None
        Why it cannot be opened.
    """

    version: int = 0
    known: int = 0
    problem: str | None = None


def check_database(data: DataDir) -> Iterator[Diagnosis]:
    """See who has the database open, and what was set aside; with no host running, look into it."""
    aside = sorted(path.name for path in data.root.glob("*.unreadable-*"))
    if aside:
        yield warning(
            "database",
            f"One was damaged and set aside in {data.root}; old blobs are kept meanwhile: {', '.join(aside)}.",
            "Repair it, or remove these files to give up the jobs in them.",
        )
    holder = lock_holder(data.host_lock)
    users = holders_of(data.database)
    strangers = [pid for pid in users if pid != holder]
    if strangers:
        names = ", ".join(f"{pid} ({_name(pid)})" for pid in strangers)
        yield problem(
            "database",
            f"{'Besides the host, p' if holder in users else 'P'}rocess {names} has {data.database} open.",
            f"Only one host may. Look what it is, then: kill {' '.join(map(str, strangers))}",
        )
    elif holder is not None:
        yield fine("database", f"open in the host, process {holder}")
    elif not data.database.exists():
        yield fine("database", "none yet; the first host makes one")
    else:
        yield _look_into(data)


def holders_of(path: Path, proc: Path = Path("/proc")) -> list[int]:
    """Return the processes that have a file open, as far as this account may see, in order."""
    target = os.path.realpath(path)
    found = set()
    for entry in proc.glob("[0-9]*"):
        try:
            with os.scandir(entry / "fd") as descriptors:
                if any(_points_to(one.path, target) for one in descriptors):
                    found.add(int(entry.name))
        except OSError:
            continue  # it has ended, or it is another account's
    return sorted(found)


def _points_to(link: str, target: str) -> bool:
    try:
        return os.readlink(link) == target
    except OSError:
        return False


def _name(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return "ended meanwhile"


def _look_into(data: DataDir) -> Diagnosis:
    command = [sys.executable, "-m", "zbrain_nb.server", "--data", str(data.root), "--inspect"]
    try:
        ran = subprocess.run(command, capture_output=True, timeout=_INSPECT_SECS, check=True, cwd=data.root)
        found = msgspec.json.decode(ran.stdout, type=Inspection)
    except (OSError, subprocess.SubprocessError, msgspec.DecodeError) as error:
        return warning(
            "database", f"{data.database} could not be looked into: {error}.", "Start a host: `zbrain serve`."
        )
    if found.problem is not None:
        return problem(
            "database",
            f"{data.database} cannot be opened: {found.problem}",
            "Copy it and its .wal to a safe place first: a host would set a damaged one aside and begin anew.",
        )
    if found.version > found.known:
        return problem(
            "database",
            f"A newer zbrain_nb wrote {data.database}: its format is {found.version}, this one knows {found.known}.",
            "Upgrade zbrain_nb, or use another ZDB_DATA.",
        )
    if found.version < found.known:
        return warning(
            "database",
            f"{data.database} has the older format {found.version}; the next host makes it {found.known}, for good.",
            "If an older zbrain_nb shall read it again, copy it and its .wal first.",
        )
    return fine("database", f"{data.database} can be opened (format {found.version})")
