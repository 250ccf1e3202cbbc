"""Bodies that are not read as tornado would: streamed, or collected when their sender is known and there is room.

A refusal in tornado's own way closes the connection, and its sender sees a broken pipe instead of the reason.
"""

from __future__ import annotations

import asyncio
import sys
from typing import Any

import msgspec
from tornado import httputil, routing, web

from zbrain_nb.model.amounts import MAX_VALUES, PIECE_BYTES, ValueCounter, decoded_bytes
from zbrain_nb.model.errors import TooLarge, ZBrainError
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.server.handlers.base import ApiHandler, as_zbrain_error

#: A longer one is read when its sender is known, and counts (see `BodyRoom`).
SMALL_BODY_BYTES = 64 * 1024
MAX_DRAINED_BYTES = 4 * 1024 * 1024
#: So much is dropped of a body that was refused: senders that read the answer only behind it do so, as if it closed
#: at once they would not.
LINGER_BYTES = 64 * 1024 * 1024
#: How long a sender may take for a body that is collected: it holds room that others could have.
BODY_SECS = 300.0


class StreamedBody:
    """For handlers of streamed uploads: a refusal waits for a small body to end, else its sender never reads it.

    tornado closes a connection whose body was not read, and the sender then sees a broken pipe instead of the
    answer. A large body is not worth reading for that.
    """

    request: httputil.HTTPServerRequest
    _refusal: BaseException | None = None

    def refuse(self, error: BaseException) -> None:
        """Keep `error` for `raise_refusal`, or raise it now if the body is large."""
        announced = announced_bytes(self.request)
        if announced is None or announced > MAX_DRAINED_BYTES:
            raise error
        self._refusal = error

    def raise_refusal(self) -> None:
        """Raise what `refuse` kept."""
        if self._refusal is not None:
            raise self._refusal


class OwnStreamedBody(StreamedBody, ApiHandler):
    """Of the host's own routes."""

    def refuse_early(self, error: BaseException) -> None:
        """Answer while the sender still sends, and let it go on for a while: a closed connection eats the answer."""
        self._refusal = self._refused_with = error = as_zbrain_error(error, 500)
        answer = msgspec.json.encode(error.as_json())
        self.set_status(error.status)
        self.set_header("Content-Length", len(answer))
        self.set_header("Connection", "close")
        if "retry_after_secs" in error.details:
            self.set_header("Retry-After", str(error.details["retry_after_secs"]))
        self.write(answer)
        self.flush()


def announced_bytes(request: httputil.HTTPServerRequest) -> int | None:
    """Return how long the body is, as its sender says; None if that is not said."""
    length = request.headers.get("Content-Length", "0")
    if "Transfer-Encoding" in request.headers or not length.isdecimal():
        return None
    return int(length) if len(length) < 16 else sys.maxsize


async def count_in_turns(body: bytes, enough: int) -> int:
    """Count values as `count_values` does, in turns with what others ask: anybody may send what takes long to count."""
    counter = ValueCounter(enough)
    for start in range(0, len(body), PIECE_BYTES):
        if counter.add(body[start : start + PIECE_BYTES]) > enough:
            break
        await asyncio.sleep(0)
    return counter.number


class Collected(routing.Matcher):
    """Matches requests whose body is collected by `CollectedBody`: it is long, or nobody knows how long."""

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        """Look at the head alone."""
        announced = announced_bytes(request)
        return {} if announced is None or announced > SMALL_BODY_BYTES else None


@web.stream_request_body
class CollectedBody(OwnStreamedBody):
    """Gathers a body for a route that wants it whole, when its sender is known and there is room for it.

    tornado would gather it first, whoever sends it, and answer one that is too long with a bare 400.
    """

    _held = 0
    _received = 0
    _is_used = False
    _patience: asyncio.TimerHandle | None = None

    async def prepare(self) -> None:
        """Lift tornado's limit for ours; a refused sender may finish a small body, to read why."""
        connection = self.request.connection
        connection.set_max_body_size(sys.maxsize)  # type: ignore[union-attr]
        self._collected = bytearray()
        announced = announced_bytes(self.request)
        try:
            await super().prepare()
            self._hold(announced or 0)
            self._patience = asyncio.get_running_loop().call_later(BODY_SECS, connection.stream.close)  # type: ignore[union-attr]
            if connection.stream.closed():  # type: ignore[union-attr] # nobody will say so again
                self._let_go()
        except ZBrainError as error:
            if self.request.method != "POST" or (announced or 0) > LINGER_BYTES:  # `post` alone looks for a refusal
                raise
            self._refusal = error
            if (announced or 0) > MAX_DRAINED_BYTES:
                self.refuse_early(error)

    def _hold(self, size: int) -> None:
        """Have room for `size` bytes in all."""
        by = getattr(self, "principal", None)  # nobody, where a route is open to all
        most = SMALL_BODY_BYTES if by is None else self.max_body_bytes
        if size > most:
            raise TooLarge(f"The body is over {format_kib(most / 1024)}.", self.smaller_bodies)
        if by is not None and size > self._held:
            self.context.bodies.take(by, size - self._held)
            self._held = size

    def data_received(self, chunk: bytes) -> None:
        """Add a piece, or answer once it is too much."""
        self._received += len(chunk)
        if self._refusal is None:
            try:
                self._hold(self._received)
            except ZBrainError as error:
                self._let_go()
                self.refuse_early(error)
            else:
                self._collected += chunk
        elif not self._headers_written and self._received > MAX_DRAINED_BYTES:
            self.refuse_early(self._refusal)
        elif self._received > LINGER_BYTES:
            self.finish()

    def methods(self, *without: type) -> str:
        """Return the methods of the route that is to have the body."""
        return super().methods(CollectedBody, *without)

    async def post(self, *args: str) -> None:
        """Let the route have the body."""
        if self._headers_written:  # it was refused early
            self.finish()
            return
        self.raise_refusal()
        self._stop_patience()
        self.request.body = body = bytes(self._collected)
        self._collected.clear()
        self._is_used = True
        try:
            await self._hold_values(body)
            await self.authenticate()  # all that took its time: the token may have ended meanwhile
            done = super().post(*args)
            if done is not None:
                await done
        finally:
            self._let_go()

    async def _hold_values(self, body: bytes) -> None:
        """Have room for what the body takes when it is decoded too; who has none else under way has enough for one."""
        values = await count_in_turns(body, MAX_VALUES)
        if values > MAX_VALUES:
            raise TooLarge(f"The body holds more than {MAX_VALUES:,} values.", self.smaller_bodies)
        by = getattr(self, "principal", None)
        if by is not None:
            more = min(decoded_bytes(body, values), self.context.bodies.most_each - self._held)
            self.context.bodies.take(by, more)
            self._held += more

    def on_finish(self) -> None:
        """Give the room back."""
        self._let_go()
        super().on_finish()

    def on_connection_close(self) -> None:
        """Give the room back, unless the body is in use: then it takes memory, whether its sender waits or not."""
        if not self._is_used:
            self._let_go()
        super().on_connection_close()

    def _let_go(self) -> None:
        self._stop_patience()
        self._collected.clear()
        if self._held:
            self.context.bodies.give_back(self.principal, self._held)
            self._held = 0

    def _stop_patience(self) -> None:
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
