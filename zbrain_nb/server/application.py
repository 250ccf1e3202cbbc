"""The host's routes as one tornado application; the relay forwards to exactly these."""

from __future__ import annotations

import hashlib
import hmac
import os
import sys
from typing import Any, Protocol

from tornado import routing, web

from zbrain_nb import __version__
from zbrain_nb.model.datadir import proof
from zbrain_nb.model.hosting import NONCE_HEADER
from zbrain_nb.server.handlers.backup import BackupHandler
from zbrain_nb.server.handlers.base import (
    ApiHandler,
    CollectedBody,
    HostContext,
    OverLimit,
    TooLargeHandler,
    Unannounced,
    UnknownRoute,
)
from zbrain_nb.server.handlers.console import FrameHandler, LoginHandler, ModuleHandler, PageHandler, SessionsHandler
from zbrain_nb.server.handlers.events import EventsHandler
from zbrain_nb.server.handlers.files import (
    ArtifactHandler,
    ArtifactsHandler,
    BlobHandler,
    InputHandler,
    ResultHandler,
    VariableHandler,
)
from zbrain_nb.server.handlers.history import HistoryHandler
from zbrain_nb.server.handlers.jobs import (
    CancelHandler,
    JobHandler,
    JobsHandler,
    LogsHandler,
    ManyHandler,
    OutputsHandler,
    RetryHandler,
)
from zbrain_nb.server.handlers.metrics import MetricsHandler
from zbrain_nb.server.handlers.overview import AttemptsHandler, OverviewHandler
from zbrain_nb.server.handlers.queues import PauseHandler, QueuesHandler, ResumeHandler
from zbrain_nb.server.handlers.workers import HeartbeatHandler, LeasesHandler, WorkerEventsHandler, WorkersHandler

JOB = r"jobs/([0-9a-fA-F-]{36})"
WORKER = r"workers/([\w.:@-]{1,200})"
ROUTES: list[tuple[str, Any]] = [
    (r"jobs", JobsHandler),
    (r"jobs/(lookup|cancel|retry)", ManyHandler),
    (JOB, JobHandler),
    (rf"{JOB}/cancel", CancelHandler),
    (rf"{JOB}/retry", RetryHandler),
    (rf"{JOB}/logs", LogsHandler),
    (rf"{JOB}/outputs", OutputsHandler),
    (rf"{JOB}/attempts", AttemptsHandler),
    (rf"{JOB}/result", ResultHandler),
    (rf"{JOB}/artifacts", ArtifactsHandler),
    (rf"{JOB}/artifacts/(.+)", ArtifactHandler),
    (rf"{JOB}/variables/(.+)", VariableHandler),
    (rf"{JOB}/inputs/(.+)", InputHandler),
    (r"blobs/([0-9a-f]{64})", BlobHandler),
    (r"workers", WorkersHandler),
    (rf"{WORKER}/leases", LeasesHandler),
    (rf"{WORKER}/heartbeat", HeartbeatHandler),
    (rf"{WORKER}/events", WorkerEventsHandler),
    (r"queues", QueuesHandler),
    (r"queues/([^/]+)/([^/]+)/pause", PauseHandler),
    (r"queues/([^/]+)/([^/]+)/resume", ResumeHandler),
    (r"history", HistoryHandler),
    (r"overview", OverviewHandler),
    (r"events", EventsHandler),
    (r"metrics", MetricsHandler),
]
#: The console's pages and what they load, behind ``/zbrain``.
PAGES: list[tuple[str, Any]] = [
    (r"/?", PageHandler),
    (rf"/{JOB}", PageHandler),
    (r"/static/(.+)", ModuleHandler),
    (r"/frame", FrameHandler),
]


class Gate(Protocol):
    """What stands before the routes where callers have another login than the host's own (see `server.hub`)."""

    @property
    def prefix(self) -> str:
        """What stands before ``zbrain`` in all addresses, with a slash at both ends."""
        ...

    def wrap(self, handler: type[ApiHandler]) -> type[ApiHandler]:
        """Return a handler that learns who asks before it looks at the request."""
        ...

    def routes(self) -> list[tuple[Any, ...]]:
        """Return further routes that the login needs."""
        ...


class HealthHandler(ApiHandler):
    """``GET health``: open to all, for it is how a host proves itself before it is told the token."""

    counts_as_client = False

    async def authenticate(self) -> None:
        """Admit everybody: the answer tells nothing but that a host is here."""

    async def get(self) -> None:
        """Say that the host lives; with a nonce, prove that it knows the token; to who shows it, say what runs here."""
        body: dict[str, Any] = {"status": "ok", "instance": self.context.instance}
        known = await self.context.identity.identify(self.request, by_session=False)
        if known is not None and known.is_holder:
            body |= {"version": __version__, "python": sys.executable, "pid": os.getpid()}
        nonce = self.request.headers.get(NONCE_HEADER, "")
        if nonce:  # who looks for a host means to use it
            self.context.requests += 1
            body["proof"] = proof(self.context.token, nonce[:200])
        self.reply(body)


def make_application(context: HostContext, gate: Gate | None = None) -> web.Application:
    """Return the host's application, serving ``/zbrain/api/`` and the console at ``/zbrain``.

    Parameters
    ----------
    context : HostContext
        What the handlers reach.
    gate : Gate, optional
        Another login than the host's own.
    """
    root, wrap = ("/", _as_it_is) if gate is None else (gate.prefix, gate.wrap)
    api = f"{root}zbrain/api/"
    routes = [(f"{api}{pattern}", wrap(handler)) for pattern, handler in ROUTES]
    blobs = [route for route in routes if issubclass(route[1], BlobHandler)]  # the one that streams what it takes
    routes += [(f"{api}health", HealthHandler), (f"{api}backup", wrap(BackupHandler))]
    routes += [(f"{root}zbrain{pattern}", wrap(handler)) for pattern, handler in PAGES]
    if gate is None:
        routes += [(f"{api}sessions", SessionsHandler), (f"{root}zbrain/login", LoginHandler)]
    unknown, too_large = wrap(UnknownRoute), wrap(TooLargeHandler)
    in_chunks = [(pattern, _collecting(handler)) for pattern, handler in [*routes, (r".*", unknown)]]
    return web.Application(
        [
            *(gate.routes() if gate is not None else ()),
            *blobs,
            routing.Rule(OverLimit(), too_large),
            routing.Rule(Unannounced(), in_chunks),
            *routes,
        ],
        default_handler_class=unknown,
        context=context,
        cookie_secret=hmac.digest(context.token.encode(), b"zbrain-cookies", hashlib.sha256),
        websocket_ping_interval=20,
        log_function=lambda handler: None,
    )


def _as_it_is(handler: type[ApiHandler]) -> type[ApiHandler]:
    return handler


def _collecting(handler: type[ApiHandler]) -> type[ApiHandler]:
    """Return `handler` for bodies that come in chunks."""
    return type(f"{handler.__name__}InChunks", (CollectedBody, handler), {})
