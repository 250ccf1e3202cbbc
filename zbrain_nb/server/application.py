"""The host's routes as one tornado application; the relay forwards to exactly these."""

from __future__ import annotations

import hashlib
import hmac
import re
from functools import cache
from typing import Any, Protocol

import msgspec
from tornado import routing, web

from zbrain_nb.model.access import Principal
from zbrain_nb.server.handlers.audit import AuditHandler
from zbrain_nb.server.handlers.backup import BackupHandler
from zbrain_nb.server.handlers.base import ApiHandler, UnknownRoute
from zbrain_nb.server.handlers.bodies import Collected, CollectedBody
from zbrain_nb.server.handlers.console import FrameHandler, LoginHandler, ModuleHandler, PageHandler, SessionsHandler
from zbrain_nb.server.handlers.context import HostContext
from zbrain_nb.server.handlers.events import EventsHandler
from zbrain_nb.server.handlers.files import (
    ArtifactHandler,
    ArtifactsHandler,
    BlobHandler,
    InputHandler,
    ResultHandler,
    VariableHandler,
)
from zbrain_nb.server.handlers.health import HealthHandler
from zbrain_nb.server.handlers.history import HistoryHandler
from zbrain_nb.server.handlers.jobs import (
    CachedHandler,
    CancelHandler,
    DetachHandler,
    JobHandler,
    JobsHandler,
    LogsHandler,
    ManyHandler,
    OutputsHandler,
    RetryHandler,
)
from zbrain_nb.server.handlers.limits import LimitsHandler
from zbrain_nb.server.handlers.metrics import MetricsHandler
from zbrain_nb.server.handlers.openapi import OpenApiHandler
from zbrain_nb.server.handlers.overview import AttemptsHandler, OverviewHandler
from zbrain_nb.server.handlers.queues import PauseHandler, QueuesHandler, ResumeHandler
from zbrain_nb.server.handlers.tokens import TokenHandler, TokensHandler
from zbrain_nb.server.handlers.whoami import WhoAmIHandler
from zbrain_nb.server.handlers.workers import HeartbeatHandler, LeasesHandler, WorkerEventsHandler, WorkersHandler
from zbrain_nb.server.openapi import document

#: What may stand in an address for each part that varies, as a regular expression over the escaped address.
PARTS = {
    "job_id": "[0-9a-fA-F-]{36}",
    "worker_id": r"[\w.:@-]{1,200}",
    "verb": "lookup|cancel|retry",
    "name": ".+",
    "sha256": "[0-9a-f]{64}",
    "cache_key": "[0-9a-f]{64}",
    "org": "[^/]+",
    "kind": "[^/]+",
    "token_id": r"zb[pwa]_[0-9a-f]{16}",
}
JOB, WORKER = "jobs/{job_id}", "workers/{worker_id}"
ROUTES: list[tuple[str, type[ApiHandler]]] = [
    ("jobs", JobsHandler),
    ("jobs/{verb}", ManyHandler),
    ("cached/{cache_key}", CachedHandler),
    (JOB, JobHandler),
    (JOB + "/cancel", CancelHandler),
    (JOB + "/detach", DetachHandler),
    (JOB + "/retry", RetryHandler),
    (JOB + "/logs", LogsHandler),
    (JOB + "/outputs", OutputsHandler),
    (JOB + "/attempts", AttemptsHandler),
    (JOB + "/result", ResultHandler),
    (JOB + "/artifacts", ArtifactsHandler),
    (JOB + "/artifacts/{name}", ArtifactHandler),
    (JOB + "/variables/{name}", VariableHandler),
    (JOB + "/inputs/{name}", InputHandler),
    ("blobs/{sha256}", BlobHandler),
    ("workers", WorkersHandler),
    (WORKER + "/leases", LeasesHandler),
    (WORKER + "/heartbeat", HeartbeatHandler),
    (WORKER + "/events", WorkerEventsHandler),
    ("queues", QueuesHandler),
    ("queues/{org}/{kind}/pause", PauseHandler),
    ("queues/{org}/{kind}/resume", ResumeHandler),
    ("orgs/{org}/limits", LimitsHandler),
    ("history", HistoryHandler),
    ("overview", OverviewHandler),
    ("events", EventsHandler),
    ("metrics", MetricsHandler),
    ("tokens", TokensHandler),
    ("tokens/{token_id}", TokenHandler),
    ("audit", AuditHandler),
    ("whoami", WhoAmIHandler),
    ("health", HealthHandler),
    ("openapi.json", OpenApiHandler),
]
#: Of this host alone; a relay does not show them.
OWN_ROUTES: list[tuple[str, type[ApiHandler]]] = [("backup", BackupHandler), ("sessions", SessionsHandler)]


def pattern_of(route: str) -> str:
    """Return a route as a regular expression, with a group for each part that varies."""
    literals = re.split(r"{(\w+)}", route)
    return "".join(f"({PARTS[each]})" if n % 2 else re.escape(each) for n, each in enumerate(literals))


#: The console's pages and what they load, behind ``/zbrain``.
PAGES: list[tuple[str, Any]] = [
    (r"/?", PageHandler),
    (r"/jobs/([^/]+)", PageHandler),  # whatever a person asks for: the page says that there is no such job
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

    async def person(self, name: str) -> Principal | None:
        """Return what a person may do by now, or None if the login knows nobody of that name."""
        ...

    async def check(self) -> None:
        """Raise `Unavailable` if the login does not tell what people may do who do not ask themselves."""
        ...

    def routes(self) -> list[tuple[Any, ...]]:
        """Return further routes that the login needs."""
        ...


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
    served = [route for route in ROUTES + OWN_ROUTES if gate is None or route[1] is not SessionsHandler]
    routes: list[tuple[str, Any]] = [(f"{api}{pattern_of(route)}", wrap(handler)) for route, handler in served]
    blobs = [route for route in routes if issubclass(route[1], BlobHandler)]  # the one that streams what it takes
    routes += [(f"{root}zbrain{pattern}", wrap(handler)) for pattern, handler in PAGES]
    if gate is None:
        routes.append((f"{root}zbrain/login", LoginHandler))
    unknown = wrap(UnknownRoute)
    collecting = [(pattern, _collecting(handler)) for pattern, handler in [*routes, (r".*", unknown)]]
    return web.Application(
        [
            *(gate.routes() if gate is not None else ()),
            *blobs,
            routing.Rule(Collected(), collecting),
            *routes,
        ],
        default_handler_class=unknown,
        context=context,
        cookie_secret=hmac.digest(context.token.encode(), b"zbrain-cookies", hashlib.sha256),
        document=_document,
        websocket_ping_interval=20,
        log_function=lambda handler: None,
    )


def _as_it_is(handler: type[ApiHandler]) -> type[ApiHandler]:
    return handler


@cache
def _document() -> msgspec.Raw:
    return msgspec.Raw(msgspec.json.encode(document(ROUTES + OWN_ROUTES, PARTS)))


def _collecting(handler: type[ApiHandler]) -> type[ApiHandler]:
    """Return `handler` for bodies that are collected when their sender is known."""
    return type(f"{handler.__name__}Collecting", (CollectedBody, handler), {})
