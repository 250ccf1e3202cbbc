"""Finding and opening the files that a job leaves: no path escapes its folder, no link is followed."""

from __future__ import annotations

import contextlib
import errno
import glob
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from io import BufferedReader
from pathlib import Path
from typing import NamedTuple

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")


class Found(NamedTuple):
    """A file to keep: the name it gets, and where it lies (a path within a folder)."""

    name: str
    root: str
    path: str

    @property
    def size(self) -> int:
        """Its size in bytes now, a link not followed.

        Raises
        ------
        OSError
            If it is gone.
        """
        return os.lstat(os.path.join(self.root, self.path)).st_size


def find_artifacts(folder: str, cwd: str, globs: list[str]) -> tuple[list[Found], list[str]]:
    """Return the files that a job wants kept.

    Parameters
    ----------
    folder : str
        All files in it are kept, under their paths in it.
    cwd : str
        What `globs` are relative to.
    globs : list of str
        Patterns; one that names a folder takes all files in it.

    Returns
    -------
    list of Found
        Each name once; files of `folder` win.
    list of str
        Sentences about patterns that took nothing.
    """
    # What is opened begins above the folder: a job may have put a link in its place.
    above, own = os.path.split(folder)
    found = {name: Found(name, above, os.path.join(own, path)) for path in _walk(folder, "") for name in [_text(path)]}
    warnings: list[str] = []
    for pattern in globs:
        if os.path.isabs(pattern) or ".." in pattern.split("/"):
            warnings.append(f"Artifacts {pattern!r} were not kept: the pattern leaves the job's folder.")
            continue
        taken = 0
        for match in sorted(glob.glob(pattern, root_dir=cwd, recursive=True, include_hidden=pattern.startswith("."))):
            for path in _files_at(cwd, match):
                name = _text(path)
                found.setdefault(name, Found(name, cwd, path))
                taken += 1
        if not taken:
            warnings.append(f"Artifacts {pattern!r} matched no file.")
    return list(found.values()), warnings


def _files_at(root: str, path: str) -> Iterator[str]:
    full = os.path.join(root, path)
    if os.path.isdir(full) and not os.path.islink(full):
        yield from _walk(root, os.path.normpath(path))
    elif os.path.lexists(full):
        yield os.path.normpath(path)


def _walk(root: str, below: str) -> Iterator[str]:
    for parent, _, names in os.walk(os.path.join(root, below)):
        for name in sorted(names):
            yield os.path.relpath(os.path.join(parent, name), root)


def _text(path: str) -> str:
    return _CONTROL.sub("_", os.fsencode(path).decode(errors="replace"))


def open_beneath(root: str, path: str) -> BufferedReader:
    """Open a regular file for reading, component by component, without following a link.

    Raises
    ------
    OSError
        If a component is a link or missing, or the path names no regular file within `root`.
    """
    parts = Path(path).parts
    if not parts or os.path.isabs(path) or ".." in parts:
        raise OSError(errno.EXDEV, "the path leaves the folder", path)
    with contextlib.ExitStack() as stack:
        flags = os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
        folder = os.open(root, os.O_RDONLY | os.O_CLOEXEC | os.O_DIRECTORY)
        stack.callback(os.close, folder)
        for part in parts[:-1]:
            folder = os.open(part, flags | os.O_DIRECTORY, dir_fd=folder)
            stack.callback(os.close, folder)
        # without O_NONBLOCK a FIFO would hang the open
        descriptor = os.open(parts[-1], flags, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.close(descriptor)
            raise OSError(errno.EINVAL, "not a regular file", path)
        return os.fdopen(descriptor, "rb")


def hash_file(file: BufferedReader) -> tuple[str, int]:
    """Return the SHA-256 of an open file and its size in bytes."""
    file.seek(0)
    digest = hashlib.file_digest(file, "sha256").hexdigest()
    return digest, file.tell()
