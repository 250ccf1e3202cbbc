"""Unix datagrams between the processes of one worker folder.

The address of a Unix socket holds 107 bytes, less than many a path. Through ``/proc/self/fd`` an open folder
has a short name, however deep it lies.
"""

from __future__ import annotations

import contextlib
import os
import socket

#: What the worker asks a spawner that seems to do nothing, and what that answers. With anything behind the question
#: the spawner first kills what has lost its supervisor, and repeats that in its answer.
ARE_YOU_THERE, HERE = b"?", b"!"


class Post:
    """Sends datagrams to a socket in a folder; never blocks, and a receiver that is away is no error."""

    def __init__(self, folder: str | os.PathLike[str], name: str) -> None:
        self._folder = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.setblocking(False)
        self._address = f"/proc/self/fd/{self._folder}/{name}"

    def send(self, message: bytes) -> bool:
        """Send one datagram; return whether it was taken."""
        try:
            self._socket.sendto(message, self._address)
        except (FileNotFoundError, ConnectionRefusedError, BlockingIOError):
            return False
        return True

    @property
    def descriptors(self) -> tuple[int, int]:
        """The open files, for a forked child to close."""
        return self._folder, self._socket.fileno()

    def close(self) -> None:
        """Close both."""
        self._socket.close()
        if self._folder >= 0:
            os.close(self._folder)
            self._folder = -1


def bind(folder: str | os.PathLike[str], name: str) -> socket.socket:
    """Receive datagrams at a socket in a folder; who calls holds the lock that goes with it."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(name, dir_fd=descriptor)
        receiver = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        receiver.bind(f"/proc/self/fd/{descriptor}/{name}")
        receiver.setblocking(False)
        return receiver
    finally:
        os.close(descriptor)
