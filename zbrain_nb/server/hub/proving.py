"""The Hub's service proves itself to the users' servers: its key, and their relays' connections to it.

`service_key` stands in ``jupyterhub_config.py``. Here is what `zbrain_nb.model.proving` is for tornado's clients.
"""

from __future__ import annotations

import asyncio
import os
from typing import Any

from tornado.httpclient import HTTPRequest
from tornado.httputil import HTTPHeaders
from tornado.iostream import IOStream, StreamClosedError
from tornado.tcpclient import TCPClient
from tornado.websocket import WebSocketClientConnection

from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.proving import PROVE_SECS, Challenge, Unproven, key_of

CONNECT_SECS = 20.0


def service_key(data: str | os.PathLike[str]) -> str:
    """Return the public key of the service of a data directory, for the ``ZBRAIN_HUB_KEY`` of the users' servers.

    To be called by the account that runs the service; the first call makes the directory.

    Raises
    ------
    ZBrainError
        If the directory cannot be made, or is another account's.
    """
    return key_of(DataDir(data).token())


class ProvingClient(TCPClient):
    """Makes connections on which the service has proved itself.

    Parameters
    ----------
    url : str
        Its root.
    key : str
        Its public key.
    """

    def __init__(self, url: str, key: str) -> None:
        super().__init__()
        self._url = url
        self._key = key

    async def connect(self, *args: Any, **options: Any) -> IOStream:
        """Connect as `TCPClient` does.

        Raises
        ------
        Unproven
            If it is not the service that answers.
        OSError
            As there.
        """
        stream = await super().connect(*args, **options)
        challenge = Challenge(self._url, self._key)
        try:
            async with asyncio.timeout(PROVE_SECS):
                await stream.write(challenge.request)
                while not challenge.take(await stream.read_bytes(65536, partial=True)):
                    pass
        except StreamClosedError as error:
            raise Unproven(f"who answers at {self._url} hangs up when asked to prove to be the service") from error
        except BaseException:
            stream.close()
            raise
        return stream


async def connect_socket(url: str, headers: dict[str, str], dialer: TCPClient | None) -> WebSocketClientConnection:
    """Return a WebSocket, connected by `dialer` if there is one.

    Raises
    ------
    OSError
        If nobody answers; `Unproven` if somebody else does.
    HTTPClientError
        If it is refused.
    """
    request = HTTPRequest(
        url,
        headers=HTTPHeaders(headers),
        connect_timeout=CONNECT_SECS,
        request_timeout=CONNECT_SECS,
        validate_cert=True,
    )
    connection = WebSocketClientConnection(request, max_message_size=1 << 30, ping_interval=20)
    if dialer is not None:  # `websocket_connect` takes none; it dials in the loop's next turn
        connection.tcp_client = dialer
    return await connection.connect_future
