"""Connections of clients and workers to a server that has to prove itself first (see `zbrain_nb.model.proving`)."""

from __future__ import annotations

import asyncio
import socket
import urllib.parse
from typing import Any

import httpx

from zbrain_nb.client.locating import Endpoint
from zbrain_nb.model.proving import PROVE_SECS, Challenge, Unproven, needs_proof


async def proven_socket(endpoint: Endpoint) -> socket.socket | None:
    """Return a new connection to a server that has proved itself on it; None if none is asked to.

    Raises
    ------
    OSError
        If it cannot be reached; `Unproven` if it is not who it should be.
    """
    if not needs_proof(endpoint.url, endpoint.key):
        return None
    loop = asyncio.get_running_loop()
    parts = urllib.parse.urlsplit(endpoint.url)
    failure: OSError = ConnectionRefusedError(f"{parts.hostname} has no address")
    for family, kind, protocol, _, address in await loop.getaddrinfo(
        parts.hostname, parts.port or 80, type=socket.SOCK_STREAM
    ):
        connection = socket.socket(family, kind, protocol)
        connection.setblocking(False)
        try:
            async with asyncio.timeout(PROVE_SECS):
                await loop.sock_connect(connection, address)
                challenge = Challenge(endpoint.url, endpoint.key)
                await loop.sock_sendall(connection, challenge.request)
                while not challenge.take(await loop.sock_recv(connection, 65536)):
                    pass
            return connection
        except OSError as error:  # its next address may do
            connection.close()
            failure = error
        except BaseException:
            connection.close()
            raise
    raise failure


def proving(endpoint: Endpoint) -> dict[str, Any]:
    """Return the extensions of a request to a server: it is sent on no new connection that is not proven.

    The library tells of each connection that it makes before it uses it.
    """
    if not needs_proof(endpoint.url, endpoint.key):
        return {}

    async def trace(event: str, info: dict[str, Any]) -> None:
        if event == "connection.connect_tcp.complete":
            await _prove(endpoint, info["return_value"])

    return {"trace": trace}


async def _prove(endpoint: Endpoint, stream: Any) -> None:
    challenge = Challenge(endpoint.url, endpoint.key)
    try:
        await stream.write(challenge.request, PROVE_SECS)
        while not challenge.take(await stream.read(65536, PROVE_SECS)):
            pass
    except Unproven as error:
        await stream.aclose()
        raise httpx.ConnectError(str(error)) from error
    except BaseException:
        await stream.aclose()
        raise
