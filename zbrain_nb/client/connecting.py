"""`connect`: the way in for users."""

from __future__ import annotations

from zbrain_nb.client.client import Client
from zbrain_nb.client.locating import locator


def connect(url: str | None = None, token: str | None = None) -> Client:
    """Return a client of the server that is there; if there is none, one is started for this data directory.

    Looked for in this order: the arguments; ``ZBRAIN_URL`` and ``ZBRAIN_TOKEN``; the owner file in the data
    directory (``ZDB_DATA``); the Jupyter server that started this kernel. ``zbrain doctor`` prints the search.

    Parameters
    ----------
    url : str, optional
        A server's root, such as ``http://127.0.0.1:8888/``.
    token : str, optional
        Opens that server.

    Raises
    ------
    ServerUnreachable
        If no server answers at the address given, or none could be started.
    """
    client = Client(locator(url, token))
    client.call(client.asynchronous.check)
    return client
