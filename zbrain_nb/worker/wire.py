"""Small requests that come often, each on a connection that is kept open: a quarter of what a full client costs.

Only for requests that may be sent twice, for a connection that the server has closed meanwhile is noticed when
the request is under way already. Redirects, proxies and cookies are not known here.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import urllib.parse

import h11

from zbrain_nb.client.locating import Endpoint
from zbrain_nb.client.proving import proven_socket

CONNECT_SECS = 5.0
#: A server whose answer is larger than this is none of ours.
MAX_ANSWER_BYTES = 512 * 1024 * 1024
Answer = tuple[int, bytes]


class BrokenWire(ConnectionError):
    """The connection ended before the answer was whole.

    Attributes
    ----------
    was_idle : bool
        Whether not a byte of the answer had come: a kept connection may have been closed before it was used.
    """

    def __init__(self, why: str, *, was_idle: bool) -> None:
        super().__init__(why)
        self.was_idle = was_idle


class Wires:
    """Connections to one server; as many as there are requests at the same time, at most.

    Parameters
    ----------
    endpoint : Endpoint
        The server, and the token that opens it.
    """

    def __init__(self, endpoint: Endpoint) -> None:
        parts = urllib.parse.urlsplit(endpoint.api)
        self._tls = ssl.create_default_context() if parts.scheme == "https" else None
        self._address = parts.hostname or "", parts.port or (443 if self._tls else 80)
        self._root = parts.path
        self._endpoint = endpoint
        self._headers = [("Host", parts.netloc), ("Content-Type", "application/json")]
        if endpoint.token:
            self._headers.append(("Authorization", f"token {endpoint.token}"))
        self._idle: list[_Wire] = []

    async def post(self, path: str, body: bytes, timeout: float) -> Answer:
        """Send ``POST path`` and return status and body of the answer.

        Parameters
        ----------
        path : str
            Relative to the routes' root.
        timeout : float
            Seconds to wait for the answer.

        Raises
        ------
        OSError
            If the server cannot be reached, does not answer in time (`TimeoutError`) or speaks no HTTP.
        """
        async with asyncio.timeout(timeout):
            while True:
                wire, is_fresh = await self._take()
                try:
                    answer = await wire.ask(f"{self._root}{path}", self._headers, body)
                except BrokenWire as broken:
                    if is_fresh or not broken.was_idle:
                        raise
                    continue
                finally:
                    if wire.is_free:
                        self._idle.append(wire)
                    else:
                        wire.close()  # broken, or given up: the server shall notice
                return answer

    async def _take(self) -> tuple[_Wire, bool]:
        while self._idle:
            wire = self._idle.pop()
            if wire.is_free:
                return wire, False
        async with asyncio.timeout(CONNECT_SECS):
            host, port = self._address
            loop = asyncio.get_running_loop()
            proven = await proven_socket(self._endpoint)
            if proven is not None:
                _, wire = await loop.create_connection(_Wire, sock=proven)
            else:
                _, wire = await loop.create_connection(_Wire, host, port, ssl=self._tls)
        if self._endpoint.has_ended:  # a kept connection broke, and the port may be another's by now
            wire.close()
            raise BrokenWire("that host has ended", was_idle=True)
        return wire, True

    def close(self) -> None:
        """Close what is not in use."""
        while self._idle:
            self._idle.pop().close()


class _Wire(asyncio.Protocol):
    """One connection; one request at a time."""

    def __init__(self) -> None:
        self._http = h11.Connection(our_role=h11.CLIENT)
        self._transport: asyncio.Transport | None = None
        self._answered: asyncio.Future[Answer] | None = None
        self._status = 0
        self._parts: list[bytes] = []
        self._size = 0

    @property
    def is_free(self) -> bool:
        """Whether it can take a request."""
        return self._transport is not None and self._answered is None and self._http.our_state is h11.IDLE

    async def ask(self, target: str, headers: list[tuple[str, str]], body: bytes) -> Answer:
        """Send one request and return its answer."""
        assert self._transport is not None
        http = self._http
        self._answered = asyncio.get_running_loop().create_future()
        head = http.send(
            h11.Request(method="POST", target=target, headers=[*headers, ("Content-Length", str(len(body)))])
        )
        parts = [head, http.send(h11.Data(data=body)), http.send(h11.EndOfMessage())]
        self._transport.write(b"".join(part for part in parts if part))
        try:
            answer = await self._answered
        except asyncio.CancelledError:
            self.close()
            raise
        finally:
            self._answered = None
        if http.our_state is h11.DONE and http.their_state is h11.DONE:
            http.start_next_cycle()
        return answer

    def close(self) -> None:
        """Close the connection; harmless when it is closed."""
        if self._transport is not None:
            self._transport.close()
            self._transport = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Send small requests at once."""
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport
        if plain := transport.get_extra_info("socket"):
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def data_received(self, data: bytes) -> None:
        """Take a piece of the answer."""
        try:
            self._http.receive_data(data)
            self._read_events()
        except h11.RemoteProtocolError as error:
            self._fail(f"it speaks no HTTP: {error}", was_idle=False)

    def _read_events(self) -> None:
        while True:
            event = self._http.next_event()
            if event is h11.NEED_DATA or event is h11.PAUSED:
                return
            if isinstance(event, h11.Response):
                self._status = event.status_code
            elif isinstance(event, h11.Data):
                self._size += len(event.data)
                if self._size > MAX_ANSWER_BYTES:
                    self._fail("its answer is too large", was_idle=False)
                    return
                self._parts.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                answer = self._status, b"".join(self._parts)
                self._parts, self._size, self._status = [], 0, 0
                if self._answered is not None and not self._answered.done():
                    self._answered.set_result(answer)
                return
            elif isinstance(event, h11.ConnectionClosed):
                self._fail("it closed the connection", was_idle=True)
                return

    def connection_lost(self, error: Exception | None) -> None:
        """Tell who waits for the answer."""
        self._fail(str(error or "it closed the connection"), was_idle=self._status == 0)

    def _fail(self, why: str, *, was_idle: bool) -> None:
        self.close()
        if self._answered is not None and not self._answered.done():
            self._answered.set_exception(BrokenWire(why, was_idle=was_idle and not self._parts))
