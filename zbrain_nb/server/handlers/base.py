"""What all handlers of the host share: the token, the allowed host names, JSON in and out, one error shape."""

from __future__ import annotations

import logging
import re
import sys
from dataclasses import dataclass, field
from typing import Any, ClassVar, TypeVar

import msgspec
from prometheus_client import CollectorRegistry
from tornado import httputil, routing, web

from zbrain_nb.model.access import Credential, Principal
from zbrain_nb.model.checks import brief
from zbrain_nb.model.errors import (
    Forbidden,
    InvalidSpec,
    JobNotFound,
    Malformed,
    MethodNotAllowed,
    NotFound,
    TooLarge,
    Unauthorized,
    ZBrainError,
)
from zbrain_nb.model.job import Job
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.tokens import shows_secret
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.server.handlers.arguments import read_arguments
from zbrain_nb.server.handlers.audited import Audited
from zbrain_nb.server.handlers.declaration import operation_of
from zbrain_nb.server.identity import Identity
from zbrain_nb.server.job_tokens import JobTokens
from zbrain_nb.server.secrets import Secrets
from zbrain_nb.server.sessions import Sessions
from zbrain_nb.server.tokens import Tokens

log = logging.getLogger(__name__)
MAX_BODY_BYTES = 256 * 1024 * 1024
MAX_DRAINED_BYTES = 4 * 1024 * 1024
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
_AT = re.compile(r"`\$\.([^`]*)`")
_NAMED = re.compile(r"field `([^`]*)`")


@dataclass
class HostContext:
    """What handlers reach through their application's settings.

    Attributes
    ----------
    queue : JobQueue
        The queue served.
    maintenance : Maintenance
        What passes with time, and backups.
    settings : Settings
        Defaults for raw requests.
    token : str
        The data directory's.
    identity : Identity
        Knows who sends a request.
    sessions : Sessions
        Browsers that a person sent here.
    tokens : Tokens
        Those that are kept.
    job_tokens : JobTokens
        Those of attempts.
    secrets : Secrets
        Keeps the values of jobs' secrets.
    audit : AuditLog
        Is told who did what.
    instance : str
        Random, new for each host process.
    host_names : set of str or None
        Names by which this host may be addressed (DNS rebinding); None is any.
    requests : int
        Requests of clients so far (not of workers): the host's idle watch looks at it.
    followers : int
        WebSockets open now.
    metrics : CollectorRegistry
        What ``GET metrics`` shows.
    """

    queue: JobQueue
    maintenance: Maintenance
    settings: Settings
    token: str
    identity: Identity
    sessions: Sessions
    tokens: Tokens
    job_tokens: JobTokens
    secrets: Secrets
    audit: AuditLog
    instance: str
    host_names: set[str] | None
    requests: int = 0
    followers: int = 0
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)


class ApiHandler(Audited, web.RequestHandler):
    """Base of the routes: authenticated, and every error in the one shape.

    Attributes
    ----------
    admits : frozenset of Credential
        To whom methods are open that declare no operation: to nobody, if it does not say so.
    principal : Principal
        Who sends the request; set before any method of the route runs.
    """

    admits: ClassVar[frozenset[Credential]] = frozenset()
    counts_as_client = True
    principal: Principal
    _query: msgspec.Struct

    @property
    def context(self) -> HostContext:
        """The host's context."""
        context: HostContext = self.application.settings["context"]
        return context

    @property
    def queue(self) -> JobQueue:
        """The queue served."""
        return self.context.queue

    @property
    def audit(self) -> AuditLog:
        """The host's audit."""
        return self.context.audit

    def set_default_headers(self) -> None:
        """Let no browser guess types or keep answers."""
        self.set_header("Server", "zbrain")
        self.set_header("X-Content-Type-Options", "nosniff")
        self.set_header("Cache-Control", "no-store")
        self.set_header("Content-Type", "application/json")

    async def prepare(self) -> None:
        """Admit only callers that name this host and are known to it; read the query as the method declares it."""
        name = httputil.split_host_and_port(self.request.host.lower())[0]
        names = self.context.host_names
        if names is not None and name not in names and name.strip("[]") != self._arrived_at():
            raise Forbidden(
                f"This host does not answer to the name {name[:200]!r}.",
                "`zbrain serve --name` gives it further names.",
            )
        self._operation = operation_of(type(self), (self.request.method or "").lower())
        if shows_secret(self.request.uri or ""):
            raise Malformed(
                "A token stands in the address, where logs and histories keep it.",
                "Send it as `Authorization: token ...`, and have this one revoked.",
            )
        await self.authenticate()
        if self.counts_as_client:
            self.context.requests += 1
        if self._operation is not None:
            self._query = read_arguments(self._operation.query, self.request.query_arguments)

    def _arrived_at(self) -> str:
        """Return the address at which the connection came in: no page of strangers can stand at that (rebinding)."""
        plain = self.request.connection.stream.socket  # type: ignore[union-attr]
        return str(plain.getsockname()[0]).removeprefix("::ffff:") if plain is not None else ""

    async def authenticate(self) -> None:
        """Find out who sends the request, and whether the route is for them.

        Raises
        ------
        Unauthorized
            If it carries no token that is known here, and comes from no browser whose person showed one before.
        Forbidden
            If the route is not for the kind of token.
        """
        self.principal = await self.identify()
        method = self.request.method or ""
        admitted = self.admits if self._operation is None else self._operation.admits
        if self.principal.credential not in admitted and method in self.methods().split(", "):
            raise Forbidden(f"{_WITH[self.principal.credential]} does not open {method} {self.request.path}.")

    async def identify(self) -> Principal:
        """Return who sends the request, as far as is known now; it may be asked again while a socket is open.

        Raises
        ------
        Unauthorized
            As `authenticate` does.
        """
        found = await self.context.identity.identify(self.request, by_session=self.takes_session())
        if found is None:
            raise Unauthorized("This request carries no valid token.", "Send it as `Authorization: token ...`.")
        return found

    def takes_session(self) -> bool:
        """Whether a session counts for this request: only if a page of this host sends it.

        The cookie alone would not tell: other ports of one machine are the same site for a browser, whatever
        ``SameSite`` says.
        """
        return self.is_same_origin()

    def is_same_origin(self) -> bool:
        """Whether the browser says that a page of this very host sends the request, or that a person does."""
        headers = self.request.headers
        site = headers.get("Sec-Fetch-Site")
        if site is not None and site not in ("same-origin", "none"):
            return False
        origin = headers.get("Origin")
        if origin is not None:
            return origin == f"{self.request.protocol}://{self.request.host}"
        return site is not None or self.request.method in ("GET", "HEAD")

    def check_xsrf_cookie(self) -> None:
        """Pass: a token in a header cannot be forged across sites, and `takes_session` looks at the origin."""

    def decode(self, kind: type[T]) -> T:
        """Decode and validate the JSON body.

        Raises
        ------
        Malformed
            If the body is not JSON.
        InvalidSpec
            If it is JSON of another shape.
        """
        try:
            return msgspec.json.decode(self.request.body, type=kind)
        except InvalidSpec:
            raise
        except msgspec.ValidationError as error:
            raise InvalidSpec(f"The body does not hold: {brief(error)}.", field=field_of(error)) from error
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
            raise Malformed(f"The body is not JSON: {error}.") from error

    def reply(self, value: Any, status: int = 200) -> None:
        """Answer with `value` as JSON."""
        self.set_status(status)
        self.finish(msgspec.json.encode(value))

    def query(self, kind: type[S]) -> S:
        """Return the arguments of the query, which `prepare` has read as the route declares them."""
        assert isinstance(self._query, kind), f"{type(self).__name__} declares other arguments"
        return self._query

    async def job(self, job_id: str) -> Job:
        """Return the job.

        Raises
        ------
        JobNotFound
            If there is none with this id that the principal sees.
        """
        job = await self.queue.get(job_id.lower(), scope=self.principal)
        if job is None:
            raise JobNotFound(f"There is no job {job_id}.", "`zbrain ls` shows the jobs that exist.")
        self.note_jobs([job])
        return job

    def on_finish(self) -> None:
        """Tell the audit."""
        self.tell_audit()

    def log_exception(self, typ: Any, value: Any, tb: Any) -> None:
        """Log only what is ours to mend."""
        if not isinstance(value, (ZBrainError, web.HTTPError)):
            log.error("request failed", exc_info=(typ, value, tb), extra={"path": self.request.path})

    def write_error(self, status_code: int, **kwargs: Any) -> None:
        """Write any failure in the one shape; the edge where foreign errors are translated."""
        error = kwargs["exc_info"][1] if "exc_info" in kwargs else None
        self._refused_with = error = as_zbrain_error(error, status_code)
        if isinstance(error, MethodNotAllowed):
            allowed = self.methods()
            error = MethodNotAllowed(f"This address does not take {self.request.method}.", f"It takes {allowed}.")
            self.set_header("Allow", allowed)
        if "retry_after_secs" in error.details:
            self.set_header("Retry-After", str(error.details["retry_after_secs"]))
        self.set_status(error.status)
        self.set_header("Content-Type", "application/json")
        self.finish(msgspec.json.encode(error.as_json()))

    def methods(self) -> str:
        """Return the methods that the route takes, as in an ``Allow`` header (RFC 9110, 10.2.1)."""
        classes = [cls for cls in type(self).__mro__ if cls not in (web.RequestHandler, CollectedBody)]
        return ", ".join(m for m in self.SUPPORTED_METHODS if any(m.lower() in vars(cls) for cls in classes))

    def _handle_request_exception(self, e: BaseException) -> None:
        if isinstance(e, ZBrainError) and not self._finished:
            self.send_error(e.status, exc_info=(type(e), e, e.__traceback__))
        else:
            super()._handle_request_exception(e)


_WITH = {
    Credential.PERSON: "A person's token",
    Credential.WORKER: "A worker's token",
    Credential.JOB: "A job's token",
}


def field_of(error: msgspec.ValidationError) -> str:
    """Return which field a message of msgspec speaks of, with its path; empty if it is the whole."""
    text = str(error)
    at, named = _AT.search(text), _NAMED.search(text)
    parts = [at.group(1).removesuffix("[...]") if at else "", named.group(1) if named else ""]
    return ".".join(part for part in parts if part)


def as_zbrain_error(error: BaseException | None, status: int) -> ZBrainError:
    """Translate whatever went wrong in a handler."""
    if isinstance(error, ZBrainError):
        return error
    if isinstance(error, web.HTTPError):
        status = error.status_code
        kinds: dict[int, type[ZBrainError]] = {
            400: Malformed,
            403: Forbidden,
            404: NotFound,
            405: MethodNotAllowed,
            413: TooLarge,
        }
        kind = kinds.get(status)
        message = error.log_message or error.reason or f"Refused with status {status}"
        if kind is not None:
            return kind(f"{message}.".replace("..", "."))
        translated = ZBrainError(f"{message}.")
        translated.status = status  # type: ignore[misc] # one-off status of tornado's own (416)
        return translated
    return ZBrainError("The host failed at this request; its log has the details.", "`zbrain doctor` shows the log.")


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
        if "retry_after_secs" in error.details:
            self.set_header("Retry-After", str(error.details["retry_after_secs"]))
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


class UnknownRoute(ApiHandler):
    """Anything else: 404 in the one shape."""

    async def prepare(self) -> None:
        """Authenticate first, so that strangers learn nothing."""
        await super().prepare()
        raise NotFound(f"There is nothing at {self.request.path}.")
