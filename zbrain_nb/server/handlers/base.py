"""What all handlers of the host share: the token, the allowed host names, JSON in and out, one error shape."""

from __future__ import annotations

import logging
import re
from typing import Any, ClassVar, TypeVar

import msgspec
from tornado import httputil, web

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
from zbrain_nb.model.tokens import shows_secret
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.server.handlers.arguments import read_arguments
from zbrain_nb.server.handlers.audited import Audited
from zbrain_nb.server.handlers.declaration import operation_of

log = logging.getLogger(__name__)
#: The longest body that any route collects; most take `ApiHandler.max_body_bytes`.
MAX_BODY_BYTES = 32 * 1024 * 1024
T = TypeVar("T")
S = TypeVar("S", bound=msgspec.Struct)
_AT = re.compile(r"`\$\.([^`]*)`")
_NAMED = re.compile(r"field `([^`]*)`")


class ApiHandler(Audited):
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
    #: No longer body is taken, and what its sender may do instead.
    max_body_bytes = 4 * 1024 * 1024
    smaller_bodies = "Send it in several requests."
    principal: Principal
    _query: msgspec.Struct

    @property
    def queue(self) -> JobQueue:
        """The queue served."""
        return self.context.queue

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
        """Decode and validate the JSON body, as `decode_json` does."""
        return decode_json(self.request.body, kind)

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

    def methods(self, *without: type) -> str:
        """Return the methods that the route takes, as in an ``Allow`` header (RFC 9110, 10.2.1).

        Parameters
        ----------
        *without : type
            Bases whose methods are not the route's.
        """
        classes = [cls for cls in type(self).__mro__ if cls not in (web.RequestHandler, *without)]
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


def decode_json(data: bytes | msgspec.Raw, kind: type[T]) -> T:
    """Decode what a body holds as JSON, and validate it.

    Raises
    ------
    Malformed
        If it is not JSON.
    InvalidSpec
        If it is JSON of another shape.
    """
    try:
        return msgspec.json.decode(data, type=kind)
    except InvalidSpec:
        raise
    except msgspec.ValidationError as error:
        raise InvalidSpec(f"The body does not hold: {brief(error)}.", field=field_of(error)) from error
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise Malformed(f"The body is not JSON: {error}.") from error


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


class UnknownRoute(ApiHandler):
    """Anything else: 404 in the one shape."""

    async def prepare(self) -> None:
        """Authenticate first, so that strangers learn nothing."""
        await super().prepare()
        raise NotFound(f"There is nothing at {self.request.path}.")
