"""Has the spawner start attempts, replaces one that has fallen silent, and sees what a lost attempt left go.

Used by `Runs`, and by its crew for sessions of calls. It writes no request and follows nothing that was started.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import secrets
import time

from zbrain_nb.model.datadir import is_locked
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.worker.folder import Launcher, WorkerFolder
from zbrain_nb.worker.run import Run
from zbrain_nb.worker.spool import End, write_closed

log = logging.getLogger(__name__)
#: While a launch waits, the spawner is asked so often whether it is there, and replaced when it was silent for so
#: long; after so many spawners the launch has failed.
_ASK_SECS, _SILENT_SECS, _SPAWNERS = 0.5, 10.0, 3
#: So long an attempt is not told as lost at most, while the spawner kills what it has left.
_ORPHANS_SECS = 60.0


class SpawnerSilent(ZBrainError):
    """No spawner of the worker's folder starts anything."""

    code = "spawner_silent"


class Starter:
    """The worker's side of the talk with its spawner.

    Parameters
    ----------
    folder, launcher : WorkerFolder, Launcher
        Where attempts run and who starts them.
    """

    def __init__(self, folder: WorkerFolder, launcher: Launcher) -> None:
        self._folder = folder
        self._launcher = launcher
        self._asked_at: float | None = None  # when the spawner was asked first what it has not answered
        self._answers: dict[bytes, asyncio.Event] = {}  # of questions with a token

    def heard(self, token: bytes) -> None:
        """Hear an answer of the spawner, to the question with this token if there is one."""
        self._asked_at = None
        if answer := self._answers.get(token):
            answer.set()

    async def launch(self, run: Run) -> None:
        """Have the spawner start the attempt; return when there is a spool."""
        path = self._folder.spool_path(*run.key)
        sent_to: int | None = None
        spawners = 0
        while not path.exists():
            if run.canceled or run.stopped:
                # whoever makes the spool decides: either this, or its supervisor was first
                write_closed(path, End(reason="canceled" if run.canceled else "stopped"))
                return
            self._launcher.ensure_spawner()
            if sent_to != self._launcher.generation:
                generation = self._launcher.generation
                sent_to = generation if self._launcher.send(*run.key) else None
                self._asked_at = None
            await run.wait(0.01 if sent_to is None else _ASK_SECS)
            if self._asked_at is None:
                self._asked_at = time.monotonic()
                self._launcher.ask()
            elif time.monotonic() - self._asked_at >= _SILENT_SECS:
                spawners += 1
                if spawners > _SPAWNERS:
                    raise SpawnerSilent(f"None of {spawners} spawners started it.", "See spawner.log in its folder.")
                fields = {"job": run.job_id, "attempt": run.attempt, "silent_secs": _SILENT_SECS}
                log.warning("spawner does not answer and is replaced", extra=fields)
                self._launcher.replace_spawner()
                self._asked_at = None

    async def see_gone(self, run: Run) -> None:
        """Return when nothing runs any more of an attempt whose supervisor was killed: another may follow at once."""
        lock = self._folder.root / "spawner.lock"
        token = secrets.token_hex(6).encode()
        gone = self._answers[token] = asyncio.Event()
        try:
            async with asyncio.timeout(_ORPHANS_SECS):
                while run.grip is not None and not run.grip.is_over:  # until then its children are not the spawner's
                    await run.wait(_ASK_SECS)
                while not gone.is_set() and is_locked(lock):
                    self._launcher.ask(token)
                    with contextlib.suppress(TimeoutError):
                        async with asyncio.timeout(_ASK_SECS):
                            await gone.wait()
        except TimeoutError:
            fields = {"job": run.job_id, "attempt": run.attempt, "secs": _ORPHANS_SECS}
            log.warning("processes of a lost attempt may still run", extra=fields)
        finally:
            del self._answers[token]
