"""The Jupyter server extension: wires the relay into Jupyter and tells kernels where it is."""

from __future__ import annotations

import os
from typing import Any

import msgspec
from jupyter_server.extension.application import ExtensionApp
from tornado.httpclient import AsyncHTTPClient
from traitlets import Enum, Unicode

from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.settings import read_settings
from zbrain_nb.server.hostlink import HostLink
from zbrain_nb.server.relay import relay_routes


class ZBrainExtension(ExtensionApp):
    """Finds or starts the host of the data directory and relays to it under Jupyter's URL and login."""

    name = "zbrain_nb"
    load_other_extensions = True

    data = Unicode("", help="Data directory; empty takes ZDB_DATA, else the user's own.").tag(config=True)
    host_mode = Enum(
        ["process", "inline"],
        default_value="process",
        help="Where the queue runs: in a process of its own, or inline in Jupyter's (no second process, but a busy "
        "queue then slows notebooks).",
    ).tag(config=True)

    _link: HostLink | None = None

    def initialize_settings(self) -> None:
        """Put the link to the host where the relay's handlers find it."""
        settings = read_settings()
        if self.data:
            settings = msgspec.structs.replace(settings, data=self.data)
        data = DataDir(settings.data, settings.artifacts)
        self._link = HostLink(data, settings, inline=self.host_mode == "inline")
        self.settings["zbrain_link"] = self._link
        self.settings["zbrain_token"] = data.token()
        self.settings["zbrain_http"] = AsyncHTTPClient(force_instance=True, max_clients=1000, max_body_size=1 << 40)

    def initialize_handlers(self) -> None:
        """Add the relay's routes."""
        self.handlers.extend([(rf"/{pattern}", handler) for pattern, handler in relay_routes()])

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Tell kernels the address once the port is final, and see to the host."""
        os.environ["ZBRAIN_URL"] = serverapp.connection_url
        os.environ["ZBRAIN_TOKEN"] = self.settings["zbrain_token"]
        assert self._link is not None
        self._link.start()

    async def stop_extension(self) -> None:
        """Let go of the host when Jupyter ends; it outlives Jupyter."""
        if self._link is not None:
            await self._link.stop()
        self.settings["zbrain_http"].close()
