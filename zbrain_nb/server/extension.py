"""The Jupyter server extension: wires the relay into Jupyter and tells kernels where it is."""

from __future__ import annotations

import os
import secrets
from datetime import timedelta
from typing import Any

import msgspec
from jupyter_server.extension.application import ExtensionApp
from tornado.httpclient import AsyncHTTPClient
from traitlets import Enum, Float, Unicode

from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.settings import read_settings
from zbrain_nb.server.hostlink import HostLink, Link
from zbrain_nb.server.hub.keepalive import ActivityKeeper
from zbrain_nb.server.hub.link import HubLink
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

    keep_server_hours = Float(
        24.0,
        min=0.0,
        help="On JupyterHub: for how many hours after the last activity of anybody else running jobs keep this server "
        "from being culled; 0 lets it be culled. The dashboard and `zbrain doctor` say so at the worker.",
    ).tag(config=True)

    _link: Link | None = None
    _keeper: ActivityKeeper | None = None

    def initialize_settings(self) -> None:
        """Put the link to the host where the relay's handlers find it."""
        settings = read_settings()
        if self.data:
            settings = msgspec.structs.replace(settings, data=self.data)
        data = DataDir(settings.data, settings.artifacts)
        on_hub = settings.hub_url is not None
        self._link = HubLink(data, settings) if on_hub else HostLink(data, settings, inline=self.host_mode == "inline")
        self.settings["zbrain_link"] = self._link
        # on a Hub not the directory's, which opens a host that somebody starts beside
        self.settings["zbrain_token"] = secrets.token_hex(32) if on_hub else data.token()
        self.settings["zbrain_http"] = AsyncHTTPClient(force_instance=True, max_clients=1000, max_body_size=1 << 40)
        if self._link.dialer is not None:
            self.settings["zbrain_http"].tcp_client = self._link.dialer

    def initialize_handlers(self) -> None:
        """Add the relay's routes."""
        self.handlers.extend([(rf"/{pattern}", handler) for pattern, handler in relay_routes()])

    async def _start_jupyter_server_extension(self, serverapp: Any) -> None:
        """Tell kernels the address once the port is final, and see to the host."""
        os.environ["ZBRAIN_URL"] = serverapp.connection_url
        os.environ["ZBRAIN_TOKEN"] = self.settings["zbrain_token"]
        assert self._link is not None
        self._link.start()
        if isinstance(self._link, HubLink):
            cap = timedelta(hours=self.keep_server_hours)
            self._keeper = ActivityKeeper(serverapp.web_app, self._link.folder, cap, self.log)
            self._keeper.start()

    async def stop_extension(self) -> None:
        """Let go of the host when Jupyter ends; it outlives Jupyter."""
        if self._keeper is not None:
            await self._keeper.stop()
        if self._link is not None:
            await self._link.stop()
        self.settings["zbrain_http"].close()
