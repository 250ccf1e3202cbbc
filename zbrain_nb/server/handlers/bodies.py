"""Bodies that are not read as tornado would: streamed, in chunks of no announced length, or over the limit.

A refusal in tornado's own way closes the connection, and its sender sees a broken pipe instead of the reason.
"""

from __future__ import annotations

import sys
from typing import Any

import msgspec
from tornado import httputil, routing, web

from zbrain_nb.model.errors import TooLarge, ZBrainError
from zbrain_nb.server.handlers.base import ApiHandler, as_zbrain_error

MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_DRAINED_BYTES = 4 * 1024 * 1024


class StreamedBody:
    """For handlers of streamed uploads: a refusal waits for a small body to end, else its sender never reads it.

    tornado closes a connection whose body was not read, and the sender then sees a broken pipe instead of the
    answer. A large body is not worth reading for that.
    """

    request: httputil.HTTPServerRequest
    _refusal: BaseException | None = None

    def refuse(self, error: BaseException) -> None:
        """Keep `error` for `raise_refusal`, or raise it now if the body is large."""
        headers = self.request.headers
        length = headers.get("Content-Length", "0")
        if "Transfer-Encoding" in headers or not length.isdecimal() or int(length) > MAX_DRAINED_BYTES:
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
        self.write(answer)
        self.flush()


def over_limit() -> TooLarge:
    """Return the refusal of a body that is too long."""
    return TooLarge(f"The request is over {MAX_BODY_BYTES >> 20} MiB.", "Send inputs as blobs.")


class OverLimit(routing.Matcher):
    """Matches requests whose announced body no ordinary route takes.

    tornado would answer them, before any handler is made, with a bare 400.
    """

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        """Look at the length alone."""
        length = request.headers.get("Content-Length", "")
        return {} if length.isdecimal() and int(length) > MAX_BODY_BYTES else None


@web.stream_request_body
class TooLargeHandler(ApiHandler):
    """What is over the limit: 413 in the one shape, before the body is read."""

    async def prepare(self) -> None:
        """Authenticate first, so that strangers learn nothing."""
        # tornado shall not add a refusal of its own behind this one
        self.request.connection.set_max_body_size(sys.maxsize)  # type: ignore[union-attr]
        await super().prepare()
        raise over_limit()

    def data_received(self, chunk: bytes) -> None:
        """Drop what its sender had sent already."""


class Unannounced(routing.Matcher):
    """Matches requests that come in chunks and do not say how long they are."""

    def match(self, request: httputil.HTTPServerRequest) -> dict[str, Any] | None:
        """Look at the encoding alone."""
        return {} if "Transfer-Encoding" in request.headers else None


@web.stream_request_body
class CollectedBody(OwnStreamedBody):
    """Gathers a body that comes in chunks for a route that wants it whole.

    tornado would answer one that turns out too long with a bare 400, and only when it had read all the rest.
    """

    async def prepare(self) -> None:
        """Lift tornado's limit for ours; a refused sender may finish a small body, to read why."""
        self.request.connection.set_max_body_size(sys.maxsize)  # type: ignore[union-attr]
        self._received = 0
        self._collected = bytearray()
        try:
            await super().prepare()
        except ZBrainError as error:
            if self.request.method != "POST":  # `post` alone looks for a refusal
                raise
            self._refusal = error

    def data_received(self, chunk: bytes) -> None:
        """Add a piece, or answer once it is too much."""
        self._received += len(chunk)
        if self._refusal is None and self._received <= MAX_BODY_BYTES:
            self._collected += chunk
        elif not self._headers_written and self._received > (MAX_DRAINED_BYTES if self._refusal else MAX_BODY_BYTES):
            self._collected.clear()
            self.refuse_early(self._refusal or over_limit())
        elif self._refusal is not None and self._received > 2 * MAX_BODY_BYTES:
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
        self.request.body = bytes(self._collected)
        done = super().post(*args)
        if done is not None:
            await done
