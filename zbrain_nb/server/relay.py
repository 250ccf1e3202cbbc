"""The relay: shows the host under Jupyter's own URL, behind Jupyter's login.

It has one fixed upstream and a list of routes, passes no cookie and no hop-by-hop header on, follows no
redirect, and streams bodies both ways. A kernel may come with the data directory's token instead of a login: it
opens these routes and nothing of Jupyter. Who comes with a token of zbrain's own (`zbrain token create`) is let
through as that, for the host to judge: the relay never lends them its own.
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import logging
import re
from typing import Any
from urllib.parse import quote, unquote_plus

import msgspec
from jupyter_server.auth.decorator import allow_unauthenticated
from jupyter_server.base.handlers import JupyterHandler
from jupyter_server.base.websocket import WebSocketMixin
from jupyter_server.utils import ensure_async
from tornado import web, websocket
from tornado.httpclient import AsyncHTTPClient, HTTPClientError, HTTPRequest, HTTPResponse
from tornado.httputil import HTTPHeaders, HTTPInputError, parse_response_start_line, url_concat
from tornado.iostream import StreamClosedError

from zbrain_nb.model.datadir import Upstream
from zbrain_nb.model.errors import (
    Forbidden,
    Malformed,
    NotFound,
    ServerUnreachable,
    Unauthorized,
    ZBrainError,
    error_from_json,
)
from zbrain_nb.model.events import SocketEnd
from zbrain_nb.model.protocol import LENGTH_HEADER, LOGIN_HEADER, OFFSET_HEADER, SECRETS_HEADER
from zbrain_nb.model.tokens import has_secret_form, hide_secrets, shows_secret
from zbrain_nb.server.application import PAGES, ROUTES, pattern_of
from zbrain_nb.server.handlers.base import MAX_BODY_BYTES, as_zbrain_error
from zbrain_nb.server.handlers.bodies import StreamedBody
from zbrain_nb.server.handlers.events import check_upgrade
from zbrain_nb.server.handlers.files import MAX_BLOB_BYTES
from zbrain_nb.server.hostlink import Link
from zbrain_nb.server.hub.proving import connect_socket

log = logging.getLogger(__name__)
_ALLOWED = [re.compile(rf"/api/{pattern_of(route)}\Z") for route, _ in ROUTES if route != "events"]
#: What changes things and makes no code run, not even by way of a token or a worker. All other acts are ``execute``.
_HARMLESS = re.compile(
    r"/api/(jobs/(lookup|cancel)|jobs/[^/]+/(cancel|detach)|blobs/[^/]+|tokens/[^/]+"
    r"|queues/[^/]+/[^/]+/pause|orgs/[^/]+/limits)\Z"
)
#: The same for all. JupyterHub takes a cookie only beside the XSRF token, which no `<script src>` can send.
_PUBLIC_PAGES = re.compile(r"/(static/.+|frame)\Z")
#: Parts of a path that servers and proxies resolve, so that an address would not be the one that was looked at.
_DOTS = re.compile(r"(?:/|\\|%2f|%5c)(?:\.|%2e){1,2}(?=/|\\|%2f|%5c|;|\Z)", re.IGNORECASE)
_ALLOWED_PAGES = [re.compile(rf"{pattern}\Z") for pattern, _ in PAGES]
#: Names that Jupyter makes up for logins by token or password, which tell nobody apart.
_ANONYMOUS = re.compile(r"[0-9a-f]{32}")
_REQUEST_HEADERS = (
    "Content-Type",
    "Idempotency-Key",
    "Range",
    "If-None-Match",
    "If-Range",
    "Accept",
    "X-ZBrain-Nonce",
    "Content-Encoding",
    LENGTH_HEADER,
    OFFSET_HEADER,
    SECRETS_HEADER,
)
_ANSWER_HEADERS = (
    "Content-Type",
    "Content-Length",
    "Content-Range",
    "Content-Disposition",
    "Content-Security-Policy",
    "Accept-Ranges",
    "Etag",
    "X-Content-Type-Options",
    "Cache-Control",
    "Referrer-Policy",
    "Cross-Origin-Resource-Policy",
    OFFSET_HEADER,
    "Retry-After",
)
_BODILESS = ("GET", "HEAD", "DELETE")
_NO_ANSWER = 599  # tornado's status for a request that got no answer
TRIES = 3
#: What the host says with it holds for who is behind the relay too.
_PASSED_ON = (SocketEnd.UNKNOWN_CALLER, SocketEnd.NO_MEMBER, SocketEnd.TRY_AGAIN_LATER)


class _RelayHandler(JupyterHandler):
    """Admits by Jupyter's login or the kernel's token, and writes errors in zbrain's shape."""

    @property
    def link(self) -> Link:
        link: Link = self.settings["zbrain_link"]
        return link

    @property
    def rest(self) -> str:
        """What stands behind ``zbrain`` in the path, escaped as it was sent: names may hold any character."""
        return (self.request.path or "").removeprefix(f"{self.base_url}zbrain")

    def address(self, upstream: Upstream) -> str:
        """Return the address at the host; Jupyter's own tokens in the query are not for it."""
        parts = (self.request.query or "").split("&")
        query = "&".join(part for part in parts if unquote_plus(part.partition("=")[0]) not in ("token", "_xsrf"))
        return f"{upstream.url}zbrain{self.rest}" + (f"?{query}" if query else "")

    def _has_kernel_token(self) -> bool:
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        token: str = self.settings["zbrain_token"]
        return scheme.lower() in ("token", "bearer") and hmac.compare_digest(given.strip().encode(), token.encode())

    def own_token(self) -> dict[str, str]:
        """Return the caller's own header, if it bears a token of zbrain's; it goes on in place of the relay's."""
        scheme, _, given = self.request.headers.get("Authorization", "").partition(" ")
        is_ours = scheme.lower() in ("token", "bearer") and has_secret_form(given.strip())
        return {"Authorization": f"token {given.strip()}"} if is_ours else {}

    def opening(self, upstream: Upstream) -> dict[str, str]:
        """Return what opens the host's routes: the caller's own token, or the relay's and whose login it is lent to."""
        if own := self.own_token():
            return own
        headers = {"Authorization": f"token {upstream.token}"}
        name = "" if self._has_kernel_token() or self.current_user is None else self.current_user.username
        if name and not _ANONYMOUS.fullmatch(name):
            headers[LOGIN_HEADER] = quote(name)
        return headers

    def check_xsrf_cookie(self) -> None:
        """Ask for the XSRF token where cookies could speak for the caller."""
        if not self.own_token() and not self._has_kernel_token():
            super().check_xsrf_cookie()

    def refuse_address(self) -> None:
        """Refuse one that shows a token of zbrain's to all who read addresses, or that may lead elsewhere than it says.

        A token is kept out of Jupyter's own log too.

        Raises
        ------
        Malformed
            If a token stands there: as the host would say, which does not see a ``token`` in the query.
        NotFound
            If the path has dot segments, percent-encoded or not.
        """
        address = self.request.uri or ""
        if shows_secret(address):
            self.request.uri = hide_secrets(address)
            raise Malformed(
                "A token stands in the address, where logs and histories keep it.",
                "Send it as `Authorization: token ...`, and have this one revoked.",
            )
        if _DOTS.search(self.rest):
            raise NotFound("There is nothing at an address with dot segments.")

    async def prepare(self, *, _redirect_to_login: bool = False) -> None:
        """Admit the caller."""
        self.refuse_address()
        await super().prepare(_redirect_to_login=False)
        if self.own_token() or self._has_kernel_token():
            return
        if self.current_user is None:
            raise Unauthorized("This request carries no login and no valid token.", "Open it from Jupyter.")
        await self.authorize()

    async def authorize(self) -> None:
        """Refuse what Jupyter's authorizer does not allow, and the token of anybody for whom the relay cannot speak.

        Raises
        ------
        Forbidden
            If the user may not do this.
        """
        user, person = self.current_user, self.link.person
        if person is not None and self.token_authenticated and user.username != person:
            raise Forbidden(
                f"This server speaks to the queue for {person} alone, and the token is one of {user.username}.",
                "Send it to the Hub's zbrain service itself.",
            )
        action = self.action()
        if not await ensure_async(self.authorizer.is_authorized(self, user, action, "zbrain")):
            raise Forbidden(f"{user.username} is not authorized to {action} zbrain on this server.")

    def action(self) -> str:
        """Return the request's action in the terms of Jupyter's authorizer.

        What can make code run is ``execute``: to submit, and to get a token or a worker's leases, by which one could.
        """
        if self.request.method in ("GET", "HEAD"):
            return "read"
        return "write" if _HARMLESS.match(self.rest) else "execute"

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write any failure in the one shape."""
        error = as_zbrain_error(kwargs["exc_info"][1] if "exc_info" in kwargs else None, status_code)
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(error.as_json()))

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log only what is ours to mend."""
        if not isinstance(value, ZBrainError):
            super().log_exception(typ, value, tb)

    def _handle_request_exception(self, e: BaseException) -> None:
        if isinstance(e, ZBrainError) and not self._finished:
            self.send_error(e.status, exc_info=(type(e), e, e.__traceback__))
        else:
            super()._handle_request_exception(e)


@web.stream_request_body
class RelayHandler(StreamedBody, _RelayHandler):
    """Forwards one request to the host."""

    #: What may stand behind ``zbrain``.
    allowed = _ALLOWED
    _body: asyncio.Queue[bytes | None] | None = None
    _is_broken = False  # whether the sender is gone
    _is_unread = False  # whether the reader is gone
    _chunks: list[bytes]

    async def prepare(self, *, _redirect_to_login: bool = False) -> None:
        """Admit the caller before the first byte of the body is taken."""
        self._chunks = []
        self._large = self.request.method == "PUT"
        limit = MAX_BLOB_BYTES if self._large else MAX_BODY_BYTES
        self.request.connection.set_max_body_size(limit)  # type: ignore[union-attr]
        try:
            await super().prepare()
            if self._large and "file" in self.request.query_arguments:  # files of its disk are named to the host alone
                raise NotFound("Uploads through Jupyter name no files.", "Send the bytes in the body.")
            if not any(pattern.match(self.rest) for pattern in self.allowed):
                raise NotFound(f"There is nothing at {self.request.path}.")
        except (ZBrainError, web.HTTPError) as error:
            self.refuse(error)
            return
        if self._large:
            self._body = asyncio.Queue(maxsize=4)
            self._relaying = asyncio.ensure_future(self._forward())

    async def data_received(self, chunk: bytes) -> None:
        """Take a piece of the body; a slow host slows the sender."""
        if self._body is not None:
            await self._hand_over(self._body, chunk)
        elif self._refusal is None:
            self._chunks.append(chunk)

    async def _hand_over(self, body: asyncio.Queue[bytes | None], piece: bytes | None) -> None:
        """Let the host have a piece of the body, unless it has answered already."""
        putting = asyncio.ensure_future(body.put(piece))
        await asyncio.wait({putting, self._relaying}, return_when=asyncio.FIRST_COMPLETED)
        putting.cancel()

    def on_connection_close(self) -> None:
        """Break off the upload of a sender that is gone: what the host has of it can be gone on with."""
        super().on_connection_close()
        if self._body is not None:
            self._is_broken = True
            with contextlib.suppress(asyncio.QueueFull):  # then it is not waited for
                self._body.put_nowait(None)

    @allow_unauthenticated  # by Jupyter: `prepare` admits the caller, by login or by token
    async def _relay(self, *args: str) -> None:
        self.raise_refusal()
        if self._body is not None:
            await self._hand_over(self._body, None)
            await self._relaying
        else:
            await self._forward()

    get = head = post = put = delete = _relay

    async def _forward(self) -> None:
        for attempt in range(1, TRIES + 1):
            upstream = await self.link.upstream()
            try:
                await self._fetch(upstream)
            except OSError as error:
                self.link.lost(upstream)
                # The same request may go to the host that comes next if nothing was delivered, or does no harm twice.
                again = isinstance(error, ConnectionRefusedError) or self.request.method in ("GET", "HEAD")
                if attempt == TRIES or self._body is not None or self._started or not again:
                    raise ServerUnreachable("The zbrain host broke off.", "Try again in a moment.") from error
            else:
                return

    async def _fetch(self, upstream: Upstream) -> None:
        headers = HTTPHeaders(self.opening(upstream))
        for name in _REQUEST_HEADERS:
            if name in self.request.headers:
                headers[name] = self.request.headers[name]
        request = HTTPRequest(
            self.address(upstream),
            method=self.request.method or "GET",
            headers=headers,
            body=None if self._body is not None or self.request.method in _BODILESS else b"".join(self._chunks),
            body_producer=self._produce if self._body is not None else None,  # type: ignore[arg-type] # may be a coroutine
            follow_redirects=False,
            decompress_response=False,
            request_timeout=0,
            header_callback=self._take_header,
            streaming_callback=self._take_chunk,
        )
        if self._body is not None and "Content-Length" in self.request.headers:
            headers["Content-Length"] = self.request.headers["Content-Length"]
        self._started = False
        self._answer = HTTPHeaders()
        client: AsyncHTTPClient = self.settings["zbrain_http"]
        try:
            answer: HTTPResponse = await client.fetch(request, raise_error=False)
        except HTTPClientError as error:
            raise ConnectionResetError(str(error)) from error
        if self._is_unread:
            return  # the host is not to blame
        if answer.code == _NO_ANSWER:
            raise answer.error if isinstance(answer.error, OSError) else ConnectionResetError(str(answer.error))
        self._begin(answer.code)
        if not self._finished:
            with contextlib.suppress(StreamClosedError):
                await self.finish()

    async def _produce(self, write: Any) -> None:
        assert self._body is not None
        while (chunk := await self._body.get()) is not None:
            await write(chunk)
            if self._is_broken:
                break
        if self._is_broken:
            raise ConnectionResetError("The sender went away.")

    def _take_header(self, line: str) -> None:
        line = line.rstrip("\r\n")
        if line.startswith("HTTP/"):
            self._answer = HTTPHeaders()
            self._code = parse_response_start_line(line).code
        elif line:
            self._answer.parse_line(line)

    def _begin(self, code: int) -> None:
        if self._started:
            return
        self._started = True
        self.set_status(code)
        for name in _ANSWER_HEADERS:
            if name in self._answer:
                self.set_header(name, self._answer[name])

    async def _take_chunk(self, chunk: bytes) -> None:
        self._begin(self._code)
        self.write(chunk)
        try:
            await self.flush()
        except StreamClosedError as error:
            self._is_unread = True
            # what tornado's client takes, unlogged, as a reason to hang up
            raise HTTPInputError("The reader went away.") from error


class RelayPageHandler(RelayHandler):
    """Forwards the console's pages to a person who is logged in to Jupyter, and sends others to its login."""

    SUPPORTED_METHODS = ("GET", "HEAD")
    allowed = _ALLOWED_PAGES

    async def prepare(self, *, _redirect_to_login: bool = False) -> None:
        """Learn who it is; the kernels' token opens no pages."""
        self._chunks = []
        self.refuse_address()
        await JupyterHandler.prepare(self)

    async def _page(self, *args: str) -> None:
        if self.link.person is not None and _PUBLIC_PAGES.match(self.rest):
            await self._forward()
            return
        if self.current_user is None:
            self.redirect(url_concat(self.get_login_url(), {"next": self.request.uri or ""}))
            return
        await self.authorize()
        if not any(pattern.match(self.rest) for pattern in self.allowed):
            raise web.HTTPError(404)
        self.xsrf_token  # noqa: B018 # sets the cookie that the page sends back with what it asks to be done
        await self._forward()

    get = head = _page

    def address(self, upstream: Upstream) -> str:
        """Return the address at the host; pages take no query."""
        return f"{upstream.url}zbrain{self.rest}"


class RelayEventsHandler(WebSocketMixin, websocket.WebSocketHandler, _RelayHandler):
    """Forwards the events of the host's WebSocket to a browser or a kernel."""

    _upstream: websocket.WebSocketClientConnection | None = None
    _pumping: asyncio.Task[None] | None = None

    @allow_unauthenticated  # by Jupyter: `prepare` admits the caller, by login or by token
    async def get(self, *args: Any, **kwargs: Any) -> None:
        """Connect to the host first, so that its refusal can still be told."""
        check_upgrade(self)
        self._upstream = await self._connect()
        try:
            await super().get(*args, **kwargs)
        finally:
            if self._pumping is None:  # no upgrade came of it
                self._upstream.close()

    async def _connect(self) -> websocket.WebSocketClientConnection:
        for _ in range(TRIES):
            upstream = await self.link.upstream()
            url = f"ws{self.address(upstream).removeprefix('http')}"
            try:
                return await connect_socket(url, self.opening(upstream), self.link.dialer)
            except HTTPClientError as error:
                raise _refusal_of(error) from error
            except OSError:
                self.link.lost(upstream)
        raise ServerUnreachable("The zbrain host does not answer.", "Try again in a moment.")

    def open(self, *args: Any, **kwargs: Any) -> None:
        """Begin to pass on."""
        self.set_nodelay(True)
        self._pumping = asyncio.ensure_future(self._pump())

    async def _pump(self) -> None:
        assert self._upstream is not None
        with contextlib.suppress(websocket.WebSocketClosedError):
            while (message := await self._upstream.read_message()) is not None:
                await self.write_message(message)
        code, reason = self._upstream.close_code, self._upstream.close_reason
        if code in _PASSED_ON:
            self.close(code, reason)
        else:
            self.close(1012, "the host went away")

    def on_message(self, message: str | bytes) -> None:
        """Ignore what clients say: this socket only speaks."""

    def on_close(self) -> None:
        """Close the way to the host too."""
        if self._pumping is not None:
            self._pumping.cancel()
        if self._upstream is not None:
            self._upstream.close()


def _refusal_of(error: HTTPClientError) -> Exception:
    """Return what the host says in place of an upgrade."""
    body = error.response.body if error.response is not None else b""
    try:
        said = msgspec.json.decode(body)
    except msgspec.DecodeError:
        return web.HTTPError(error.code, str(error))
    return error_from_json(said, error.code)


def relay_routes() -> list[tuple[str, Any]]:
    """Return the routes to add to Jupyter, relative to its base URL."""
    return [
        (r"zbrain/api/events", RelayEventsHandler),
        (r"zbrain/(api/.*)", RelayHandler),
        (r"zbrain(/.*|)", RelayPageHandler),
    ]
