"""Requests to the server, over HTTP and WebSocket: finds it again when it moved, turns its errors into ours."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncGenerator, AsyncIterable
from typing import TYPE_CHECKING, Any, TypeVar

import httpx
import msgspec

from zbrain_nb.client.locating import Endpoint, Locator
from zbrain_nb.client.proving import proven_socket, proving
from zbrain_nb.model.errors import (
    BlobMismatch,
    Forbidden,
    OverQuota,
    ServerUnreachable,
    Unauthorized,
    Unavailable,
    ZBrainError,
    error_from_json,
)
from zbrain_nb.model.events import Event, SocketEnd

if TYPE_CHECKING:
    import websockets

T = TypeVar("T")
PATIENCE_SECS = 30.0
FIRST_PATIENCE_SECS = 3.0
FIRST_PAUSE_SECS = 0.05
LONGEST_PAUSE_SECS = 2.0
CONNECT_SECS = 5.0
WRITE_SECS = 60.0  # for a piece of a body
CHUNK_BYTES = 1 << 20


class Transport:
    """One server, however often it restarts.

    Parameters
    ----------
    locate : callable
        Finds the server; called at the first request and whenever the server was lost.
    patience_secs : float
        How long a request waits for a server that is being restarted.

    Attributes
    ----------
    patience_secs : float
        As above.
    """

    def __init__(self, locate: Locator, *, patience_secs: float = PATIENCE_SECS) -> None:
        self._locate = locate
        self.patience_secs = patience_secs
        self._was_heard = False
        self._endpoint: Endpoint | None = None
        self._http: httpx.AsyncClient | None = None
        self._finding = asyncio.Lock()

    async def close(self) -> None:
        """Close the connections; harmless if there are none."""
        if self._http is not None:
            await self._http.aclose()
            self._http = None

    async def endpoint(self) -> Endpoint:
        """Return where the server is, looking for it if need be, and again when the host that was found has ended.

        Raises
        ------
        ServerUnreachable
            If none is found.
        """
        async with self._finding:
            if self._endpoint is None or self._endpoint.has_ended:
                self._endpoint = await asyncio.to_thread(self._locate)
            return self._endpoint

    @property
    def is_connected(self) -> bool:
        """Whether a server was found that is not known to have ended; else the next request looks for one."""
        return self._endpoint is not None and not self._endpoint.has_ended

    def forget(self, endpoint: Endpoint) -> None:
        """Look for the server anew, unless that was done meanwhile."""
        if self._endpoint is endpoint:
            self._endpoint = None

    async def request(
        self,
        method: str,
        path: str,
        *,
        repeatable: bool = True,
        expect: tuple[int, ...] = (200, 201),
        timeout: float | None = 60.0,
        content: bytes | AsyncIterable[bytes] | None = None,
        headers: dict[str, str] | None = None,
        **options: Any,
    ) -> httpx.Response:
        """Send one request and return the answer, its body read.

        Parameters
        ----------
        method, path : str
            `path` is relative to the routes' root.
        repeatable : bool
            Whether it may be sent again when the connection broke after it was sent.
        expect : tuple of int
            Statuses that are no error.
        timeout : float or None
            Seconds to wait for the answer.

        Raises
        ------
        ZBrainError
            What the server answered.
        ServerUnreachable
            If no server answered in time.
        """
        # A server that never answered is not being restarted: it is not there.
        deadline = time.monotonic() + (self.patience_secs if self._was_heard else FIRST_PATIENCE_SECS)
        pause = FIRST_PAUSE_SECS
        is_stream = isinstance(content, AsyncIterable)  # which can be read once
        while True:
            endpoint = await self.endpoint()
            try:
                answer = await self._client().request(
                    method,
                    f"{endpoint.api}{path}",
                    headers=_authorization(endpoint) | (headers or {}),
                    content=content,
                    timeout=httpx.Timeout(timeout, connect=CONNECT_SECS, write=WRITE_SECS),
                    extensions=proving(endpoint),
                    **options,
                )
                if answer.status_code in expect:
                    self._was_heard = True
                    return answer
                error = error_from_json(_body(answer), answer.status_code)
                if not isinstance(error, (Unauthorized, Unavailable, ServerUnreachable)):
                    raise error
                again = not is_stream
            except httpx.ConnectError as failure:
                error, again = _unreachable(endpoint, failure), True
            except httpx.TransportError as failure:
                error, again = _unreachable(endpoint, failure), repeatable and not is_stream
            self.forget(endpoint)
            if not again or endpoint.found == "argument" or time.monotonic() + pause > deadline:
                raise error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECS)

    async def get(self, path: str, kind: type[T], **options: Any) -> T:
        """Return what ``GET path`` answers, decoded as `kind`."""
        answer = await self.request("GET", path, **options)
        return msgspec.json.decode(answer.content, type=kind)

    async def post(self, path: str, body: Any, kind: type[T], **options: Any) -> T:
        """Return what ``POST path`` answers, decoded as `kind`."""
        answer = await self.request("POST", path, content=msgspec.json.encode(body), **options)
        return msgspec.json.decode(answer.content, type=kind)

    async def download(self, path: str, start: int = 0, *, resumes: bool = True) -> AsyncGenerator[bytes, None]:
        """Yield the bytes that ``GET path`` answers, in pieces; a broken connection goes on where it broke.

        Parameters
        ----------
        start : int
            How many bytes are to be left out, fewer than there are.
        resumes : bool
            Whether the route gives the same bytes again; if not, a connection that broke midway is an error.

        Raises
        ------
        ServerUnreachable
            If the server stays away.
        BlobMismatch
            If there are other bytes after a break than before.
        """
        at, tag = start, None
        deadline, pause = time.monotonic() + self.patience_secs, FIRST_PAUSE_SECS
        while True:
            endpoint = await self.endpoint()
            headers = _authorization(endpoint) | ({"Range": f"bytes={at}-"} if at else {})
            try:
                async with self._client().stream(
                    "GET",
                    f"{endpoint.api}{path}",
                    headers=headers,
                    timeout=httpx.Timeout(60, connect=CONNECT_SECS),
                    extensions=proving(endpoint),
                ) as answer:
                    if answer.status_code not in (200, 206):
                        await answer.aread()
                        raise error_from_json(_body(answer), answer.status_code)
                    if (at and answer.status_code != 206) or tag not in (None, answer.headers.get("ETag")):
                        raise BlobMismatch("The bytes changed while they were fetched.", "Begin again.")
                    tag = answer.headers.get("ETag")
                    async for chunk in answer.aiter_bytes(CHUNK_BYTES):
                        at += len(chunk)
                        deadline, pause = time.monotonic() + self.patience_secs, FIRST_PAUSE_SECS
                        yield chunk
                    return
            except (Unauthorized, Unavailable, ServerUnreachable) as refusal:
                error: ZBrainError = refusal
            except httpx.TransportError as failure:
                error = _unreachable(endpoint, failure)
            self.forget(endpoint)
            gets_on = resumes if at > start else endpoint.found != "argument"
            if not gets_on or time.monotonic() + pause > deadline:
                raise error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECS)

    async def events(
        self, topics: list[str], after: int | None = None, *, waits: bool = False, beats: bool = False
    ) -> AsyncGenerator[list[Event], None]:
        """Yield batches of events of `topics`, for ever.

        After a broken connection it goes on behind the last event seen, without gap or repeat.

        Parameters
        ----------
        topics : list of str
            ``jobs/{id}``, ``states/{id}`` and ``orgs/{org}``.
        after : int, optional
            Begin behind this ``event_seq``; None begins now.
        waits : bool
            Whether somebody is held up until a job ends, whom a ``detached`` event shall let go on.
        beats : bool
            Yield an empty batch whenever the connection was made, and when the server says that it still lives.

        Raises
        ------
        ServerUnreachable
            If the server stays away.
        Unauthorized
            If the token is good no more, and no other is found.
        Forbidden
            If who follows is no member any more of an org of which they follow something.
        """
        import websockets
        from websockets.asyncio.client import connect as ws_connect  # half of what a short command would import

        lost_at: float | None = None
        pause = FIRST_PAUSE_SECS
        while True:
            endpoint = await self.endpoint()
            query = f"topics={','.join(topics)}{'&waits=1' if waits else ''}"
            query += "" if after is None else f"&after={after}"
            try:
                async with ws_connect(
                    f"ws{endpoint.api.removeprefix('http')}events?{query}",
                    additional_headers=_authorization(endpoint),
                    max_size=None,
                    open_timeout=CONNECT_SECS,
                    compression=None,
                    proxy=None,
                    sock=await proven_socket(endpoint),
                ) as socket:
                    lost_at, pause = None, FIRST_PAUSE_SECS
                    if beats:
                        yield []
                    async for frame in socket:
                        batch = msgspec.json.decode(frame, type=list[Event])
                        if batch:
                            after = batch[-1].seq
                        if batch or beats:
                            yield batch
            except websockets.InvalidStatus as failure:
                status = failure.response.status_code
                error = error_from_json(_decoded(failure.response.body or b""), status)
                if not isinstance(error, (Unauthorized, OverQuota, Unavailable, ServerUnreachable)):
                    raise error from failure
            except websockets.ConnectionClosed as failure:
                error = _closed(endpoint, failure)
                if isinstance(error, Forbidden):
                    raise error from failure
            except (OSError, TimeoutError, websockets.WebSocketException) as failure:
                error = _unreachable(endpoint, failure)
            else:
                error = _unreachable(endpoint, ConnectionError("it closed the connection"))
            self.forget(endpoint)
            now = time.monotonic()
            lost_at = lost_at or now
            if now - lost_at > self.patience_secs or endpoint.found == "argument":
                raise error
            await asyncio.sleep(pause)
            pause = min(pause * 2, LONGEST_PAUSE_SECS)

    def _client(self) -> httpx.AsyncClient:
        if self._http is None:
            # Proxies of the environment are for the outside world; zbrain's server is on this machine or named.
            self._http = httpx.AsyncClient(
                trust_env=False, limits=httpx.Limits(max_connections=100, keepalive_expiry=30)
            )
        return self._http


def _authorization(endpoint: Endpoint) -> dict[str, str]:
    return {"Authorization": f"token {endpoint.token}"} if endpoint.token else {}


def _unreachable(endpoint: Endpoint, failure: Exception) -> ServerUnreachable:
    why = str(failure) or type(failure).__name__
    return ServerUnreachable(
        f"No zbrain server answers at {endpoint.url} ({why}).",
        "Start it, or unset ZBRAIN_URL; `zbrain doctor` shows where it was looked for.",
    )


def _closed(endpoint: Endpoint, failure: websockets.ConnectionClosed) -> ZBrainError:
    """Return what the server meant that closed a socket of events."""
    kinds = {SocketEnd.UNKNOWN_CALLER: Unauthorized, SocketEnd.NO_MEMBER: Forbidden}
    said = failure.rcvd
    if said is None or said.code not in kinds:
        return _unreachable(endpoint, failure)
    return kinds[SocketEnd(said.code)](said.reason)


def _body(answer: httpx.Response) -> Any:
    return _decoded(answer.content)


def _decoded(content: bytes | bytearray) -> Any:
    try:
        return msgspec.json.decode(content)
    except msgspec.DecodeError:
        return None
