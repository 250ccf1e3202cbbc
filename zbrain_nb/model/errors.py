"""Every error of ZBrain, as one tree under `ZBrainError`.

An error carries what a program needs (`code`, `status`) and what a person needs (`message`, one sentence,
and `hint`, what to do). Handlers write `as_json`, the client turns it back with `error_from_json`, so an error
reads the same on both sides of the network.
"""

from __future__ import annotations

from typing import Any, ClassVar


class ZBrainError(Exception):
    """Root of all errors raised by zbrain_nb.

    Parameters
    ----------
    message : str
        What went wrong, in one sentence.
    hint : str, optional
        What the reader can do about it.
    **details
        Further JSON values, sent along in the error's body (for example ``field``).
    """

    code: ClassVar[str] = "error"
    status: ClassVar[int] = 500

    def __init__(self, message: str, hint: str = "", **details: Any) -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint
        self.details = details

    def __str__(self) -> str:
        return f"{self.message} {self.hint}" if self.hint else self.message

    def __reduce__(self) -> tuple[Any, ...]:
        return _rebuild, (type(self), self.message, self.hint, self.details)

    def _render_traceback_(self) -> list[str]:
        """IPython prints this in place of a traceback: one sentence, none of our frames."""
        return [f"{type(self).__name__}: {self}"]

    def as_json(self) -> dict[str, Any]:
        """Return the body that every route answers with: ``{"error": {...}}``."""
        return {"error": {"code": self.code, "message": self.message, "hint": self.hint, **self.details}}


def _rebuild(cls: type[ZBrainError], message: str, hint: str, details: dict[str, Any]) -> ZBrainError:
    return cls(message, hint, **details)


class Malformed(ZBrainError):
    """The request cannot be read (not JSON, wrong query argument)."""

    code = "malformed"
    status = 400


class Unauthorized(ZBrainError):
    """No valid token or login came with the request."""

    code = "unauthorized"
    status = 401


class Forbidden(ZBrainError):
    """The caller is known, but may not do this."""

    code = "forbidden"
    status = 403


class NotFound(ZBrainError):
    """Nothing stands at this address."""

    code = "not_found"
    status = 404


class JobNotFound(NotFound):
    """No job has this id, or it belongs to another org (the two look alike)."""

    code = "job_not_found"


class WorkerNotFound(NotFound):
    """The queue does not know this worker: it has to register (again)."""

    code = "worker_not_found"


class TokenNotFound(NotFound):
    """No token has this id, or the caller does not see it (the two look alike)."""

    code = "token_not_found"


class MethodNotAllowed(ZBrainError):
    """The address exists, but does not take this method."""

    code = "method_not_allowed"
    status = 405


class Conflict(ZBrainError):
    """The request contradicts what is already so."""

    code = "conflict"
    status = 409


class StaleAttempt(Conflict):
    """A worker reported for an attempt that is no longer the job's running one."""

    code = "stale_attempt"


class KeyConflict(Conflict):
    """The idempotency key was used before, with another payload."""

    code = "key_conflict"


class MissingBlobs(Conflict):
    """A spec names blobs that were never uploaded; upload ``details["blobs"]`` and submit again."""

    code = "missing_blobs"


class WrongOffset(Conflict):
    """An upload was to be gone on with elsewhere than where it broke off; ``details["offset"]`` may say where."""

    code = "wrong_offset"


class WrongState(Conflict):
    """The job's state does not allow this (for example a retry of an active job)."""

    code = "wrong_state"


class TooLarge(ZBrainError):
    """A body, spec or variable is over its limit."""

    code = "too_large"
    status = 413


class RangeNotSatisfiable(ZBrainError):
    """The ``Range`` lies outside of the bytes; ``details["size"]`` says how many there are."""

    code = "range_not_satisfiable"
    status = 416


class InvalidSpec(ZBrainError):
    """A job spec (or another value) does not hold; ``details["field"]`` names the field."""

    code = "invalid_spec"
    status = 422


class OverQuota(ZBrainError):
    """A limit of the org or the owner is reached.

    ``details`` has ``quota``, ``limit``, ``used`` and ``retry_after_secs``.
    """

    code = "over_quota"
    status = 429


class BlobMismatch(ZBrainError):
    """The bytes do not hash to the name they were given."""

    code = "blob_mismatch"
    status = 422


class Unavailable(ZBrainError):
    """The queue cannot answer now; the same request may go through later."""

    code = "unavailable"
    status = 503


class DiskFloor(ZBrainError):
    """The disk is too full to take new jobs safely."""

    code = "disk_floor"
    status = 507


class ServerUnreachable(ZBrainError):
    """No zbrain server answers where one was expected (raised by clients, never sent)."""

    code = "server_unreachable"
    status = 503


class JobFailedError(ZBrainError):
    """The job failed; the message ends with the remote traceback. Raised by ``result()`` only."""

    code = "job_failed"

    def __repr__(self) -> str:
        """Leave the traceback out: among the results of a group it would bury the others, colours and all."""
        head, _, _ = self.message.partition("\n")
        return f"{type(self).__name__}({head!r})"


class JobCanceledError(ZBrainError):
    """The job was canceled. Raised by ``result()`` only."""

    code = "job_canceled"


class Detached(ZBrainError):
    """Somebody asked that who waits for a job does so no longer; the job goes on. Raised by clients, never sent."""

    code = "detached"
    status = 409


class UntrustedResult(ZBrainError):
    """A pickle made by somebody else was about to be loaded."""

    code = "untrusted_result"
    status = 403


class Unreadable(ZBrainError):
    """A file does not hold what it is to be opened as, or what opens it is not installed."""

    code = "unreadable"
    status = 422


class UsageError(ZBrainError):
    """A magic or command line cannot be understood."""

    code = "usage"
    status = 400


class QueryError(ZBrainError):
    """SQL over the history does not hold; DuckDB says why. Raised by ``client.sql`` only."""

    code = "query"
    status = 400


class NotPicklable(ZBrainError):
    """A variable cannot travel to the job; ``details["names"]`` lists all culprits."""

    code = "not_picklable"
    status = 422


class ValueNotKept(ZBrainError):
    """The value of a cell or function was too large to be kept, or cannot be pickled."""

    code = "value_not_kept"
    status = 422


def _all_errors(cls: type[ZBrainError]) -> list[type[ZBrainError]]:
    return [cls, *(found for child in cls.__subclasses__() for found in _all_errors(child))]


def error_from_json(body: Any, status: int) -> ZBrainError:
    """Turn an error body back into the exception that made it.

    Parameters
    ----------
    body : object
        The decoded JSON body; anything but ``{"error": {...}}`` gives a plain `ZBrainError`.
    status : int
        The HTTP status, used in the message when the body says nothing.
    """
    error = body.get("error") if isinstance(body, dict) else None
    if not isinstance(error, dict):
        return ZBrainError(f"The server answered {status} without saying why.")
    fields = dict(error)
    by_code = {cls.code: cls for cls in _all_errors(ZBrainError)}
    cls = by_code.get(fields.pop("code", ""), ZBrainError)
    message, hint = str(fields.pop("message", "")), str(fields.pop("hint", ""))
    return cls(message or f"The server answered {status}.", hint, **fields)
