"""``GET health``: whether a host is here, and whether it knows the token."""

from __future__ import annotations

import os
import sys
from typing import Any

from zbrain_nb import __version__
from zbrain_nb.model.datadir import proof
from zbrain_nb.model.hosting import NONCE_HEADER
from zbrain_nb.model.proving import CHALLENGE_HEADER, port_of
from zbrain_nb.server.handlers.answers import HealthReport
from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import Header, OpenTo, operation


class HealthHandler(ApiHandler):
    """``GET health``: open to all, for it is how a host proves itself before it is told the token."""

    counts_as_client = False

    async def authenticate(self) -> None:
        """Admit everybody: the answer tells nothing but that a host is here."""

    @operation(
        headers=(
            Header(NONCE_HEADER, str, "Random text, which the host's proof is made of."),
            Header(
                CHALLENGE_HEADER,
                str,
                "A fresh X25519 public key in Base64: the host proves that it has its own, for its port.",
            ),
        ),
        answers={200: HealthReport},
        open_to=OpenTo.ALL,
    )
    async def get(self) -> None:
        """Say that the host lives, prove who it is if asked to, and tell its holder what runs here and what is bad."""
        body: dict[str, Any] = {"status": "ok", "instance": self.context.instance}
        body["secrets_key"] = self.context.secrets.public_key
        known = await self.context.identity.identify(self.request, by_session=False)
        if known is not None and known.is_holder:
            body |= {"version": __version__, "python": sys.executable, "pid": os.getpid()}
            trouble = await self.context.trouble()
            if trouble is not None:
                body["trouble"] = {"message": trouble.message, "hint": trouble.hint or "See its log."}
        nonce = self.request.headers.get(NONCE_HEADER, "")
        if nonce:  # who looks for a host means to use it
            self.context.requests += 1
            body["proof"] = proof(self.context.token, nonce[:200])
        if challenge := self.request.headers.get(CHALLENGE_HEADER):
            body["key_proof"] = self.context.secrets.prove(challenge, self._port())
        self.reply(body)

    def _port(self) -> int:
        """Return where callers are told to ask: where this host listens, unless a port on the way leads here."""
        if self.context.settings.hub_url:
            return port_of(self.context.settings.hub_url)
        socket = self.request.connection.stream.socket  # type: ignore[union-attr]
        return int(socket.getsockname()[1]) if socket is not None else 0  # who asked has hung up
