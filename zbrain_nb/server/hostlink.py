"""Jupyter's link to the host: finds it, starts it, starts it again when it died, keeps it from idling out."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from typing import Protocol

from tornado.tcpclient import TCPClient

from zbrain_nb.model.datadir import DataDir, Owner, Upstream
from zbrain_nb.model.errors import Conflict, ServerUnreachable, ZBrainError
from zbrain_nb.model.hosting import find_or_start_host, probe
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.background import Background
from zbrain_nb.server.host import Host

log = logging.getLogger(__name__)
CHECK_SECS = 2.0
IDLE_SECS = 600.0
READY_SECS = 20.0
PROBE_SECS = 10.0


class Link(Protocol):
    """What the relay asks: where the queue is.

    Attributes
    ----------
    person : str or None
        For whom alone the upstream's token speaks; None where all callers are one.
    dialer : TCPClient or None
        Makes the connections to it, if not tornado's own does.
    """

    person: str | None
    dialer: TCPClient | None

    def start(self) -> None:
        """Begin to look after the upstream."""
        ...

    async def stop(self) -> None:
        """Cease to look after it; harmless if not started."""
        ...

    async def upstream(self) -> Upstream:
        """Return where the queue is now, waiting for a host that is being started."""
        ...

    def lost(self, upstream: Upstream) -> None:
        """Say that it did not answer."""
        ...


class HostLink:
    """Knows where the host of a data directory is, and sees to it that there is one.

    Parameters
    ----------
    data : DataDir
        Whose host.
    settings : Settings
        For a host run inline.
    inline : bool
        Run the host in this process instead of starting one.
    """

    person: str | None = None
    dialer: TCPClient | None = None  # the lock tells whether the host that has proved itself lives

    def __init__(self, data: DataDir, settings: Settings, *, inline: bool = False) -> None:
        self._data = data
        self._settings = settings
        self._inline = inline
        self._host: Host | None = None
        self._owner: Owner | None = None
        self._finding: asyncio.Task[Owner] | None = None
        self._supervision = Background(self._supervise)

    def start(self) -> None:
        """Begin to look after the host."""
        self._supervision.start()

    async def stop(self) -> None:
        """Cease to look after it; a host of its own process lives on until it is idle."""
        await self._supervision.stop()
        if self._host is not None:
            await self._host.stop()
            self._host = None

    async def upstream(self) -> Owner:
        """Return where the host is now, waiting for one that is being started.

        Raises
        ------
        ServerUnreachable
            If none answers in time.
        """
        if self._owner is not None and self._data.is_served_by(self._owner):
            return self._owner
        if self._finding is None or self._finding.done():
            self._finding = asyncio.ensure_future(self._find())
        try:
            return await asyncio.wait_for(asyncio.shield(self._finding), READY_SECS)
        except TimeoutError as error:
            raise ServerUnreachable("The zbrain host is still starting.", "Try again in a moment.") from error

    def lost(self, upstream: Upstream) -> None:
        """Say that `upstream` did not answer: the next `upstream()` looks anew."""
        if self._owner == upstream:
            self._owner = None

    async def _find(self) -> Owner:
        if self._inline:
            with contextlib.suppress(Conflict):  # somebody else serves this directory: then relay to them
                if self._host is None:
                    host = Host(self._data, self._settings)
                    await host.start()
                    self._host = host
        self._owner = owner = await asyncio.to_thread(find_or_start_host, self._data, idle_secs=IDLE_SECS)
        log.info("relaying to host", extra={"url": owner.url, "pid": owner.pid})
        return owner

    async def _supervise(self) -> None:
        while True:
            try:
                owner = await self.upstream()
                if await asyncio.to_thread(probe, owner.url, owner.token, timeout_secs=PROBE_SECS) is None:
                    log.warning("host does not answer", extra={"url": owner.url})
                    self.lost(owner)
            except ZBrainError as error:
                log.error("no host", extra={"why": str(error)})
            await asyncio.sleep(CHECK_SECS)
