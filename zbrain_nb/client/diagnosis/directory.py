"""Checks of the data directory: may it be written, on which disk, and do its token and owner file hold."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import tempfile
from collections.abc import Iterator
from pathlib import Path

from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, problem, warning
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.sizes import disk_floor, format_kib

#: File systems that other machines may write too.
_SHARED = frozenset(
    {"nfs", "nfs4", "cifs", "smb3", "smbfs", "9p", "afs", "ceph", "glusterfs", "lustre", "beegfs", "gpfs"}
    | {"orangefs", "panfs", "fuse.sshfs", "fuse.glusterfs", "fuse.ceph", "fuse.s3fs", "fuse.rclone"}
    | {"fuse.gcsfuse", "fuse.juicefs"}
)
_OCTAL = re.compile(r"\\([0-7]{3})")
MOUNTS = Path("/proc/self/mountinfo")
LOCAL_DISK = "Set ZDB_DATA to a folder on a disk of this machine."


def check_directory(data: DataDir, mounts: Path = MOUNTS) -> Iterator[Diagnosis]:
    """See whether files can be written and locked there, and whether other machines share it.

    Parameters
    ----------
    data : DataDir
        What is looked at.
    mounts : Path
        See `file_system_of`.
    """
    try:
        with tempfile.NamedTemporaryFile(dir=data.root, prefix=".doctor-") as file:
            locks = _locks_work(file.name)
    except OSError as error:
        yield problem(
            "data directory",
            f"{data.root} cannot be written: {error.strerror}.",
            "Make it yours, or set ZDB_DATA to a folder that you may write.",
        )
        return
    kind, source = file_system_of(data.root, mounts)
    if not locks:
        yield problem("data directory", f"File locks do not work in {data.root} ({kind} of {source}).", LOCAL_DISK)
    elif kind in _SHARED:
        yield warning(
            "data directory",
            f"{data.root} lies on a network file system ({kind} of {source}): slow, and not safe from two machines.",
            LOCAL_DISK,
        )
    else:
        yield fine("data directory", f"{data.root} ({kind})")
    mode = stat.S_IMODE(data.root.stat().st_mode)
    if mode & 0o077:
        yield warning(
            "access", f"Other accounts may look into {data.root} (mode {mode:04o}).", f"chmod go-rwx {data.root}"
        )


def _locks_work(path: str) -> bool:
    """Whether the kernel keeps a second hold off a locked file."""
    with open(path) as first, open(path) as second:
        try:
            fcntl.flock(first, fcntl.LOCK_EX | fcntl.LOCK_NB)
            fcntl.flock(second, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            return False
    return False


def file_system_of(path: Path, mounts: Path = MOUNTS) -> tuple[str, str]:
    """Return the type and the source of the mount that holds `path`; ``("unknown", "?")`` if nobody says.

    Parameters
    ----------
    path : Path
        An existing file or folder.
    mounts : Path
        A table of mounts, as proc(5) describes ``mountinfo``.
    """
    try:
        lines = mounts.read_text().splitlines()
    except OSError:
        return "unknown", "?"
    real, best, found = os.path.realpath(path), -1, ("unknown", "?")
    for line in lines:
        left, _, right = line.partition(" - ")
        fields, about = left.split(), right.split()
        if len(fields) < 5 or len(about) < 2:
            continue
        point = _OCTAL.sub(lambda match: chr(int(match[1], 8)), fields[4])
        # Of two mounts on one point the later lies on top.
        if len(point) >= best and (real == point or real.startswith(point.rstrip("/") + "/")):
            best, found = len(point), (about[0], about[1])
    return found


def check_disk(data: DataDir) -> Iterator[Diagnosis]:
    """See whether there is room for the database and for the files that jobs keep."""
    places = {"disk": data.root}
    if data.artifacts.exists() and data.artifacts.stat().st_dev != data.root.stat().st_dev:
        places["disk of artifacts"] = data.artifacts
    for subject, folder in places.items():
        found = os.statvfs(folder)
        free, floor = found.f_bavail * found.f_frsize, disk_floor(found.f_blocks * found.f_frsize)
        text = f"{format_kib(free / 1024)} are free at {folder}"
        if found.f_files and not found.f_favail:
            yield problem(
                subject, f"No more files can be made at {folder}: all inodes are used.", "Delete small files."
            )
        elif free < floor:
            yield problem(
                subject,
                f"{text}, less than the {format_kib(floor / 1024)} under which new jobs are refused.",
                "Make room; jobs are taken again by themselves. ZBRAIN_KEEP_... make zbrain keep less.",
            )
        elif free < 2 * floor:
            yield warning(
                subject, f"{text}; under {format_kib(floor / 1024)} new jobs are refused.", "Make room before long."
            )
        else:
            yield fine(subject, text)


def check_token(data: DataDir) -> Iterator[Diagnosis]:
    """See whether the directory's secret holds, and is one."""
    path = data.token_file
    try:
        found = path.stat()
    except FileNotFoundError:
        yield fine("token", "none yet; the first server makes one")
        return
    try:
        data.token()
    except (ZBrainError, OSError, UnicodeDecodeError) as error:
        hint = error.hint if isinstance(error, ZBrainError) else f"Run `zbrain stop` and remove {path}."
        text = error.message if isinstance(error, ZBrainError) else f"{path} cannot be read: {error}."
        yield problem("token", text, hint)
        return
    if stat.S_IMODE(found.st_mode) & 0o077:
        yield problem("token", f"Other accounts may read {path}.", f"Run `chmod 600 {path}`.")
    else:
        yield fine("token", f"{path}, readable by its owner only")


def check_owner_file(data: DataDir) -> Iterator[Diagnosis]:
    """See whether ``owner.json`` speaks the truth about who serves the directory."""
    subject = "owner file"
    holder = lock_holder(data.host_lock)
    try:
        owner = data.read_owner()
    except ZBrainError as error:
        yield problem(subject, error.message, error.hint)
        return
    if owner is None:
        if holder is not None:
            yield problem(
                subject,
                f"The host {holder} holds {data.root}, but {data.owner_file.name} names nobody on this machine.",
                "If it has just been started, wait a moment; else run `zbrain stop`.",
            )
        elif data.owner_file.exists() and (other := data.read_owner(of_any_boot=True)) is not None:
            yield warning(
                subject,
                f"{data.owner_file} is stale: it names {other.url} on another machine, or before the last boot.",
                "If another machine uses this directory now, give each machine a ZDB_DATA of its own; else ignore it.",
            )
        elif data.owner_file.exists():
            yield problem(subject, f"{data.owner_file} cannot be read.", "Remove it; a running host: `zbrain stop`.")
        return
    if holder is None:
        yield warning(
            subject,
            f"{data.owner_file} is stale: the host {owner.pid} that wrote it has ended without a word.",
            "Nothing to do: the next command starts a new host.",
        )
    elif holder != owner.pid:
        yield problem(
            subject,
            f"Two hosts: {holder} holds {data.root}, but {data.owner_file.name} names {owner.pid}.",
            f"Run `zbrain stop`, and `kill {owner.pid}` if that one is a zbrain host too.",
        )
    elif find_host(data) is None:
        yield problem(
            subject,
            f"The host {owner.pid} does not answer at {owner.url}, or somebody else does.",
            f"See {data.log}; `zbrain stop` ends it, and the next command starts another.",
        )
    elif data.token_file.exists() and data.token_file.read_text().strip() != owner.token:
        yield problem(
            subject,
            f"The token in {data.token_file} is not the one that the running host takes.",
            "Run `zbrain stop`; the next command starts a host with this token. Restart Jupyter, too.",
        )
    else:
        yield fine(subject, f"{owner.url} of the process {owner.pid}")
