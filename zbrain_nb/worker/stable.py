"""The spawner's zygotes: one warm interpreter each, started when first needed, and again when it died."""

from __future__ import annotations

import contextlib
import hashlib
import os
import socket
from pathlib import Path

import msgspec

from zbrain_nb.worker.notes import Note

#: A zygote that gave up by itself will do so again; one that was killed had bad luck.
_FAILURES, _TRIES = 2, 5


class Stable:
    """Starts zygotes, hands them requests and remembers which of these were taken.

    Parameters
    ----------
    folder : Path
        The worker folder; what zygotes print goes to files in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._zygotes: dict[str, _Zygote] = {}
        self._last_notes: list[Note] = []

    @property
    def sources(self) -> list[int]:
        """The descriptors that notes come in at."""
        return [zygote.box.fileno() for zygote in self._zygotes.values()]

    @property
    def pids(self) -> set[int]:
        """The living zygotes."""
        return {zygote.pid for zygote in self._zygotes.values()}

    def warm(self, python: str) -> _Zygote | None:
        """Return the zygote of an interpreter, started if need be; None if it cannot be started."""
        zygote = self._zygotes.get(python)
        if zygote is None:
            try:
                zygote = self._zygotes[python] = _Zygote(self._folder, python, self._log(python))
            except OSError as error:
                self._log(python).write_text(f"{error.strerror}: {python}\n")
        return zygote

    def send(self, python: str, name: str, tries: _Tries | None = None) -> bool:
        """Hand a request to a zygote; return False if there is none and can be none."""
        zygote = self.warm(python)
        if zygote is None:
            return False
        zygote.open_requests[name] = tries or _Tries()
        zygote.unsent.append(name)
        zygote.send()
        return True

    def take_notes(self) -> list[Note]:
        """Return what the zygotes and their supervisors have said since the last call."""
        notes, self._last_notes = self._last_notes, []
        for zygote in self._zygotes.values():
            zygote.send()
            notes += zygote.take_notes()
        return notes

    def ended(self, pid: int, exit_code: int) -> list[str]:
        """Hear that a child has ended; if it was a zygote, send its open requests again.

        Parameters
        ----------
        pid, exit_code : int
            Which, and how; negative is a signal.

        Returns
        -------
        list of str
            Requests that were tried often enough.
        """
        found = next((python for python, zygote in self._zygotes.items() if zygote.pid == pid), None)
        if found is None:
            return []
        zygote = self._zygotes.pop(found)
        self._last_notes += zygote.take_notes()
        zygote.box.close()
        hopeless: list[str] = []
        for name, tries in zygote.open_requests.items():
            tries.all += 1
            tries.failures += exit_code >= 0
            if tries.failures >= _FAILURES or tries.all >= _TRIES or not self.send(found, name, tries):
                hopeless.append(name)
        return hopeless

    def last_words(self, python: str) -> str:
        """Return the end of what the interpreter's last zygote printed."""
        try:
            return self._log(python).read_text(errors="replace")[-2000:].strip()
        except FileNotFoundError:
            return ""

    def _log(self, python: str) -> Path:
        return self._folder / f"zygote-{hashlib.sha256(os.fsencode(python)).hexdigest()[:12]}.log"


class _Tries:
    """How often the zygotes of a request have ended before they took it, and how often by themselves."""

    def __init__(self) -> None:
        self.all = self.failures = 0


class _Zygote:
    def __init__(self, folder: Path, python: str, log: Path) -> None:
        self.open_requests: dict[str, _Tries] = {}
        self.unsent: list[str] = []
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with ours, theirs, open(log, "wb") as output, open(os.devnull, "rb") as null:
            theirs.set_inheritable(True)
            self.pid = os.posix_spawn(
                python,
                [python, "-P", "-m", "zbrain_nb.worker.zygote", str(folder), str(theirs.fileno())],
                os.environ,
                file_actions=[
                    (os.POSIX_SPAWN_DUP2, null.fileno(), 0),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 1),
                    (os.POSIX_SPAWN_DUP2, output.fileno(), 2),
                ],
                setsid=True,
                setsigdef=[2, 13],
            )
            self.box = ours.dup()
        self.box.setblocking(False)

    def send(self) -> None:
        """Send what its socket takes; of a dead zygote all stays open, and goes to the next."""
        with contextlib.suppress(OSError):
            while self.unsent:
                self.box.send(self.unsent[0].encode())
                del self.unsent[0]

    def take_notes(self) -> list[Note]:
        notes: list[Note] = []
        while True:
            try:
                data = self.box.recv(65536)
            except (BlockingIOError, ConnectionResetError):
                return notes
            if not data:
                return notes
            note = msgspec.json.decode(data, type=Note)
            if note.taken is not None:
                self.open_requests.pop(note.taken, None)
            notes.append(note)
