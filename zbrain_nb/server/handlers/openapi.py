"""``GET openapi.json``: what this host takes and answers, as an OpenAPI document."""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.server.handlers.base import ApiHandler
from zbrain_nb.server.handlers.declaration import ALL, operation


class OpenApiHandler(ApiHandler):
    """``GET openapi.json``."""

    @operation(admits=ALL, answers={200: dict[str, Any]})
    def get(self) -> None:
        """Show this document."""
        document: msgspec.Raw = self.application.settings["document"]()
        self.reply(document)
