"""Which job a person means."""

from __future__ import annotations

import os
from collections.abc import Iterable
from typing import TYPE_CHECKING

from zbrain_nb.cli.options import LAST
from zbrain_nb.model.environment import SECRET_NAMES
from zbrain_nb.model.errors import JobNotFound

if TYPE_CHECKING:
    from zbrain_nb.client.client import Client
    from zbrain_nb.client.handle import JobHandle


def connected(secrets: Iterable[str] = ()) -> Client:
    """Return a client of the server that is there; if there is none, one is started.

    That one does not get the variables that `secrets` names: all later jobs would see them.
    """
    from zbrain_nb.client.connecting import connect

    if names := [*os.environ.get(SECRET_NAMES, "").split(), *secrets]:
        os.environ[SECRET_NAMES] = " ".join(names)
    return connect()


def find_job(text: str, client: Client | None = None) -> JobHandle:
    """Return the job of an id, the head of one, or a name; ``-1`` is the last submitted.

    Raises
    ------
    JobNotFound
        If there is none, or several fit.
    """
    client = client or connected()
    if text != LAST:
        return client.job(text)
    newest = client.jobs(limit=1)
    if not newest:
        raise JobNotFound("There are no jobs yet.", "`zbrain run -- CMD` runs one.")
    return newest[0]
