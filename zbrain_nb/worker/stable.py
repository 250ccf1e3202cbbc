"""The spawner's zygotes: warm interpreters, one for each Python and environment, and the next ones in the making.

A zygote never changes: what it has imported when it begins to take requests is all that it ever has. When jobs
need more modules than that, or it has served for long, a successor is started beside it when things are quiet, and
takes its place when it is ready. One that was started before packages were installed is not used any more. Jobs
that shall not be forked from a warm process get a zygote of their own each, which imports nothing ahead.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import time
from collections.abc import Iterator
from pathlib import Path

from zbrain_nb.worker.notes import Note
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.warmth import NEVER_AHEAD, lasting_environment
from zbrain_nb.worker.zygotes import Order, Zygote

#: A zygote that gave up by itself will do so again; one that was killed had bad luck.
_FAILURES, _TRIES = 2, 5
#: A request waits for so many zygotes that see what is installed just now.
_DELAYS = 3
#: So many kinds of zygotes are kept warm, and so many modules imported ahead in each.
_STALLS, _MODULES = 4, 200
#: After so many forks a zygote is replaced.
_FORKS = 1000
#: A successor starts when nothing was asked for so long, or it was due for so long.
_QUIET_SECS, _OVERDUE_SECS = 1.0, 10.0
_SETTLED_SECS = 2.0
#: A zygote that is not ready after so long is given up.
_READY_SECS = 60.0
Key = tuple[str, tuple[tuple[str, str], ...]]


class Stable:
    """Starts zygotes, hands them requests and remembers which of these were taken.

    Parameters
    ----------
    folder : Path
        The worker folder; what zygotes print goes to files in it.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._stalls: dict[Key, _Stall] = {}
        self._leaving: list[Zygote] = []  # they take what they were handed, and end
        self._last_notes: list[Note] = []

    @property
    def sources(self) -> list[int]:
        """The descriptors that notes come in at."""
        return [zygote.box.fileno() for zygote in self._all()]

    @property
    def pids(self) -> set[int]:
        """The living zygotes."""
        return {zygote.pid for zygote in self._all()}

    def warm(self, python: str) -> None:
        """Start the zygote of an interpreter before it is needed, for jobs with this process's environment."""
        key = python, tuple(sorted(lasting_environment(os.environ).items()))
        self._stall(key).serving = self._start(key, [])

    def send(self, request: RunRequest, name: str) -> bool:
        """Hand a request, named by its file, to a zygote; return False if there is none and can be none."""
        return self._hand_over(Order(name, request))

    def take_notes(self) -> list[Note]:
        """Return what the supervisors have said since the last call; take in what the zygotes have."""
        notes, self._last_notes = self._last_notes, []
        for zygote in self._all():
            notes += zygote.take_notes()
        for stall in list(self._stalls.values()):
            if stall.coming is not None and stall.coming.ready is not None:
                self._replace(stall, stall.coming)
                stall.coming = None
            elif stall.serving is not None and stall.serving.waiting and stall.serving.is_stale:
                self._delay(stall, stall.serving)
        for zygote in self._all():
            zygote.send()
        return notes

    def tend(self) -> None:
        """Start the successors that are due, and give up zygotes that do not get ready."""
        now = time.monotonic()
        for zygote in self._all():
            if zygote.ready is None and now - zygote.started_at > _READY_SECS:
                zygote.kill()
        for key, stall in list(self._stalls.items()):
            if stall.coming is not None:
                continue
            if stall.serving is not None and stall.serving.is_stale:
                if stall.serving.secs_since_installed >= _SETTLED_SECS:
                    self._replace(stall, None)
                    stall.serving = stall.serving or self._start(key, [])
            elif stall.serving is not None and stall.is_due(now):
                stall.coming = self._start(key, [*stall.serving.asked, *stall.due])
                stall.due = []

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
        zygote = next((zygote for zygote in self._all() if zygote.pid == pid), None)
        if zygote is None:
            return []
        self._last_notes += zygote.take_notes()
        zygote.box.close()
        if zygote in self._leaving:
            self._leaving.remove(zygote)
        for stall in self._stalls.values():
            if stall.serving is zygote:
                stall.serving = None
                stall.want(zygote.asked)
            elif stall.coming is zygote:
                stall.coming = None
                stall.blame(zygote)
        hopeless: list[str] = []
        for order in zygote.orders.values():
            order.ends += 1
            order.failures += exit_code > 0
            if order.failures >= _FAILURES or order.ends >= _TRIES or not self._hand_over(order):
                hopeless.append(order.name)
        return hopeless

    def last_words(self, request: RunRequest) -> str:
        """Return the end of what the last zygote for such a request printed."""
        try:
            return self._log(_key(request)).read_text(errors="replace")[-2000:].strip()
        except FileNotFoundError:
            return ""

    def _all(self) -> list[Zygote]:
        own = [zygote for stall in self._stalls.values() for zygote in (stall.serving, stall.coming) if zygote]
        return own + self._leaving

    def _hand_over(self, order: Order) -> bool:
        key = _key(order.request)
        if not order.request.is_pooled:
            own = self._start(key, [], standard=False)
            if own is not None:
                self._leaving.append(own)
                own.take(order)
                own.dismiss()
            return own is not None
        stall = self._stall(key)
        stall.used_at = time.monotonic()
        stall.want(order.request.modules)
        if stall.serving is not None and stall.serving.is_stale:
            self._replace(stall, None)
        if stall.serving is None:
            stall.serving = self._start(key, [])
        if stall.serving is None:
            return False
        stall.serving.take(order)
        return True

    def _stall(self, key: Key) -> _Stall:
        stall = self._stalls.get(key)
        if stall is None:
            idle = [one for one, stall in self._stalls.items() if stall.is_idle]
            if len(self._stalls) >= _STALLS and idle:
                self._dismiss(self._stalls.pop(min(idle, key=lambda one: self._stalls[one].used_at)))
            stall = self._stalls[key] = _Stall()
        return stall

    def _dismiss(self, stall: _Stall) -> None:
        for zygote in filter(None, (stall.serving, stall.coming)):
            self._leaving.append(zygote)
            zygote.dismiss()

    def _replace(self, stall: _Stall, successor: Zygote | None) -> None:
        """Put a zygote in the place of another; without one, what the other was not sent goes to a new one."""
        old, stall.serving = stall.serving, successor
        if old is None:
            return
        back = old.take_back()
        self._leaving.append(old)
        old.dismiss()
        if successor is None:  # other packages are there now: what could not be imported may be possible
            stall.refused.clear()
            stall.want(old.asked)
        for order in back:
            self._hand_over(order)

    def _delay(self, stall: _Stall, serving: Zygote) -> None:
        """Start anew for what waits, for packages were installed meanwhile; while they are, not again and again."""
        if all(order.delays < _DELAYS for order in serving.waiting):
            for order in serving.waiting:
                order.delays += 1
            self._replace(stall, None)

    def _start(self, key: Key, modules: list[str], *, standard: bool = True) -> Zygote | None:
        python, environ = key
        own = {name: value for name, value in os.environ.items() if name not in lasting_environment(os.environ)}
        own |= dict(environ) | ({} if standard else {"ZBRAIN_PRELOAD": ""})
        log = self._log(key, "-next" if modules else "")
        try:
            return Zygote(self._folder, python, own, modules, log)
        except OSError as error:
            with contextlib.suppress(OSError):
                log.write_text(f"{error.strerror}: {python}\n")
            return None

    def _log(self, key: Key, which: str = "") -> Path:
        return self._folder / f"zygote-{hashlib.sha256(repr(key).encode(errors='replace')).hexdigest()[:12]}{which}.log"


class _Stall:
    """The place of the zygotes for one Python and environment.

    Attributes
    ----------
    serving : Zygote or None
        Takes requests, as soon as it is ready.
    coming : Zygote or None
        Its successor, until it is ready.
    due : list of str
        Modules that the next successor shall import besides what `serving` was asked to.
    refused : set of str
        Modules that ended a successor.
    used_at : float
        When a request came last.
    """

    def __init__(self) -> None:
        self.serving: Zygote | None = None
        self.coming: Zygote | None = None
        self.due: list[str] = []
        self.refused: set[str] = set()
        self.used_at = time.monotonic()
        self._due_since = 0.0
        self._wanted: dict[str, None] = {}  # in order, and not looked at yet

    @property
    def is_idle(self) -> bool:
        """Whether nothing waits for it."""
        return self.serving is None or not self.serving.orders

    def want(self, modules: list[str]) -> None:
        """Hear what jobs need."""
        self._wanted |= dict.fromkeys(modules)

    def is_due(self, now: float) -> bool:
        """Whether a successor shall be started now."""
        assert self.serving is not None
        if self.serving.ready is None:
            return False
        was_due = bool(self.due)
        self._look(self.serving)
        is_due = bool(self.due) or self.serving.forks >= _FORKS
        if is_due and not was_due:
            self._due_since = now
        return is_due and (now - self.used_at >= _QUIET_SECS or now - self._due_since >= _OVERDUE_SECS)

    def _look(self, serving: Zygote) -> None:
        """See which of the modules wanted are installed, and lack."""
        assert serving.ready is not None
        wanted, self._wanted = self._wanted, {}
        known = {*serving.ready.modules, *serving.asked, *self.refused, *self.due}
        if unknown := [name for name in wanted if name not in known]:
            installed = set(_roots(serving.ready.installed)) - NEVER_AHEAD
            self.due += [name for name in unknown if name.partition(".")[0] in installed]
            del self.due[max(0, _MODULES - len(serving.asked)) :]

    def blame(self, successor: Zygote) -> None:
        """Hear that a successor has ended before it was ready; the next does without what it imported just then."""
        if successor.importing is not None:
            self.refused.add(successor.importing)
            self.want([name for name in successor.asked if name not in self.refused])
        else:
            self.refused.update(successor.asked)  # it did not come so far, and the next would not either


def _key(request: RunRequest) -> Key:
    return request.python, tuple(sorted(lasting_environment(request.env, request.modules).items()))


def _roots(folders: dict[str, int]) -> Iterator[str]:
    """Yield the names of the packages and modules in folders."""
    for folder in folders:
        with contextlib.suppress(OSError):
            yield from (entry.partition(".")[0] for entry in os.listdir(folder))
