"""A user's own server's link to the Hub's zbrain service: the address, the user's Hub token, and the user's worker.

Used by the extension and its relay in place of `HostLink` where ``ZBRAIN_HUB_URL`` is set. The service runs nothing:
the jobs of a person run here, beside the person's own server, in the person's account.
"""

from __future__ import annotations

import logging
import sys
from pathlib import Path

from tornado.tcpclient import TCPClient

from zbrain_nb.model.datadir import DataDir, HubUpstream, Upstream, write_upstream
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.proving import needs_proof
from zbrain_nb.model.settings import Settings
from zbrain_nb.server.hub.proving import ProvingClient
from zbrain_nb.server.local_worker import LocalWorkerWatch

log = logging.getLogger(__name__)


class HubLink:
    """Knows the Hub's service, and keeps the user's worker running.

    Parameters
    ----------
    data : DataDir
        The user's, where the worker's folder lies.
    settings : Settings
        `hub_url` and `hub_key`, and what the Hub says of this server: `hub_token` and `hub_user`.

    Attributes
    ----------
    person : str
        Whose server this is.
    folder : Path
        The worker's.
    dialer : TCPClient or None
        Makes the connections to the service, where it has to prove itself.

    Raises
    ------
    ZBrainError
        If the Hub did not start this server.
    """

    def __init__(self, data: DataDir, settings: Settings) -> None:
        if not (settings.hub_url and settings.hub_token and settings.hub_user):
            raise ZBrainError(
                "ZBRAIN_HUB_URL is set, but JUPYTERHUB_API_TOKEN and JUPYTERHUB_USER are not.",
                "It is meant for servers that JupyterHub starts; unset it here.",
            )
        self.person: str | None = settings.hub_user
        self.folder = data.hub_worker(settings.hub_server or "")
        self._upstream = HubUpstream(settings.hub_url, settings.hub_token, settings.hub_key)
        self.dialer: TCPClient | None = None
        if needs_proof(settings.hub_url, settings.hub_key):
            self.dialer = ProvingClient(settings.hub_url, settings.hub_key)
        self._worker: LocalWorkerWatch | None = None
        if settings.worker_mode == "local":
            self._worker = LocalWorkerWatch(self.folder, _worker_command(self.folder, settings))

    def start(self) -> None:
        """Tell the worker where to report, for one that lives already too, and begin to look after it."""
        write_upstream(self.folder, self._upstream)
        if self._worker is not None:
            self._worker.start()
        if self.dialer is None and not self._upstream.url.startswith("https://"):
            log.warning(
                "ZBRAIN_HUB_KEY is not set: whoever listens on the service's port while it is down is told Hub tokens",
                extra={"url": self._upstream.url},
            )
        log.info("relaying to the Hub's service", extra={"url": self._upstream.url, "user": self.person})

    async def stop(self) -> None:
        """End the worker: the token ends with this server. Its jobs go on until their leases end."""
        if self._worker is not None:
            await self._worker.stop(end_worker=True)

    async def upstream(self) -> HubUpstream:
        """Return the service."""
        return self._upstream

    def lost(self, upstream: Upstream) -> None:
        """Take note that it did not answer: there is no other place to look."""


def _worker_command(folder: Path, settings: Settings) -> list[str]:
    """Return what runs the user's worker.

    Its service sees none of its locks, so it is fenced as one on another machine.
    """
    command = [sys.executable, "-m", "zbrain_nb.worker", "--hub", "--fenced", "--folder", str(folder)]
    return [*command, "--concurrency", str(settings.worker_concurrency)]
