"""The worker's grip on the supervisor of a run: hears its end, and can ask it to end its job."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from collections.abc import Callable

from zbrain_nb.model.datadir import boot_id
from zbrain_nb.worker.processes import start_time
from zbrain_nb.worker.spool import Begin, SpoolReader


class Grip:
    """A supervisor, held by its pidfd.

    Parameters
    ----------
    descriptor : int
        The pidfd; belongs to the grip.
    on_end : callable
        Called once when the supervisor has ended.
    """

    def __init__(self, descriptor: int, on_end: Callable[[], None]) -> None:
        self._descriptor = descriptor
        self._on_end = on_end
        asyncio.get_running_loop().add_reader(descriptor, self._ended)

    @classmethod
    def take(cls, begin: Begin, reader: SpoolReader, on_end: Callable[[], None]) -> Grip | None:
        """Take hold of the supervisor that a spool names; None if it is gone.

        The pid alone may be somebody else's by now: the lock is held, and the process started when the spool
        says and on this boot.
        """
        if not begin.supervisor_pid or begin.boot_id != boot_id():
            return None
        try:
            descriptor = os.pidfd_open(begin.supervisor_pid)
        except ProcessLookupError:
            return None
        if start_time(begin.supervisor_pid) != begin.start_time or not reader.is_locked():
            os.close(descriptor)
            return None
        return cls(descriptor, on_end)

    @property
    def is_over(self) -> bool:
        """Whether the supervisor has ended, or was let go."""
        return self._descriptor < 0

    def end_job(self) -> None:
        """Have the supervisor end its job; harmless if it is gone."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGTERM)

    def stop_job(self) -> None:
        """Have the supervisor end its job because its worker stops; harmless if it is gone."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGUSR2)

    def wake(self) -> None:
        """Have a foreman look at its orders; harmless if it is gone."""
        if self._descriptor >= 0:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._descriptor, signal.SIGUSR1)

    def release(self) -> None:
        """Let go; the supervisor goes on."""
        if self._descriptor >= 0:
            asyncio.get_running_loop().remove_reader(self._descriptor)
            os.close(self._descriptor)
            self._descriptor = -1

    def _ended(self) -> None:
        self.release()
        self._on_end()
