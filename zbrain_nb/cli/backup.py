"""``zbrain backup``: asks the host to copy everything, or does it where no host runs."""

from __future__ import annotations

import asyncio
from pathlib import Path

import httpx
import msgspec

from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.errors import ServerUnreachable, error_from_json
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.settings import read_settings


def back_up(destination: Path) -> Path:
    """Copy database and blobs of the data directory to a new one; return where it is.

    Raises
    ------
    ZBrainError
        If the destination is not empty or cannot be written.
    ServerUnreachable
        If the host went away meanwhile.
    """
    to = destination.expanduser().absolute()
    settings = read_settings()
    data = DataDir(settings.data, settings.artifacts)
    owner = find_host(data)
    if owner is None:
        from zbrain_nb.server.serving import back_up as directly

        asyncio.run(directly(data, settings, to))
        return to
    try:
        answer = httpx.post(
            f"{owner.url}zbrain/api/backup",
            json={"to": str(to)},
            headers={"Authorization": f"token {owner.token}"},
            timeout=None,  # as long as the copy takes
            trust_env=False,
        )
    except httpx.HTTPError as error:
        raise ServerUnreachable(f"The host {owner.url} went away: {type(error).__name__}.", "Try again.") from error
    if answer.status_code != 201:
        raise error_from_json(msgspec.json.decode(answer.content), answer.status_code)
    return to
