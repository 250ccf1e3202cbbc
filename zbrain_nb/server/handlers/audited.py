"""What the handlers' base tells the audit of each request, once it is answered.

A method that does something names its act in `verbs`. Refusals (401, 403) are told of every route. Reads that take
something away, such as a result, are told of all but who holds the data directory: those files lie open to them.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import Any, ClassVar

from tornado import httputil

from zbrain_nb.model.access import Principal
from zbrain_nb.model.audit import Outcome, Record
from zbrain_nb.model.errors import Forbidden, Unauthorized, ZBrainError
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.server.audit import MAX_TEXT, AuditLog


def audited_as(**verbs: str) -> Mapping[str, str]:
    """Return how the audit calls what each method of a route does."""
    return MappingProxyType(verbs)


class Audited:
    """Mixed into `ApiHandler`.

    Attributes
    ----------
    verbs : mapping of str to str
        By method. Of one that is not named only refusals are told.
    """

    verbs: ClassVar[Mapping[str, str]] = audited_as()
    request: httputil.HTTPServerRequest
    principal: Principal
    _object: Mapping[str, Any] = MappingProxyType({})
    _answered: ZBrainError | None = None

    def note_object(self, kind: str, object_id: str = "", org_id: str = "", count: int = 1) -> None:
        """Say what the act is about, and how many such."""
        self._object = {"object_kind": kind, "object_id": object_id[:MAX_TEXT], "org_id": org_id, "count": count}

    def record(self, verb: str) -> Record:
        """Return a record of this request, of an act that was allowed."""
        by: Principal | None = getattr(self, "principal", None)
        return Record(
            ts=as_datetime(self.audit.clock.time()),
            who=by.owner if by else "",
            credential=by.credential.value if by else "",
            token_id=by.token_id if by else "",
            address=self.request.remote_ip or "",
            verb=verb,
            **self._object,
        )

    @property
    def audit(self) -> AuditLog:
        """The host's."""
        raise NotImplementedError

    def tell_audit(self, status: int) -> None:
        """Tell what this request was and what became of it; nothing, if it is not for the audit."""
        method, error = self.request.method or "", self._answered
        verb = self.verbs.get(method)
        is_read = method in ("GET", "HEAD")
        if isinstance(error, Unauthorized | Forbidden):
            record = self.record(verb or ("read" if is_read else method.lower()))
            record.outcome, record.reason = Outcome.REFUSED, error.message[:MAX_TEXT]
            record.org_id = str(error.details.get("org_id", record.org_id))
        elif verb is None or (is_read and (error is not None or self.principal.is_holder)):
            return
        else:
            record = self.record(verb)
            if error is not None:
                record.outcome, record.reason = Outcome.FAILED, f"{error.code}: {error.message}"[:MAX_TEXT]
        if record.outcome is not Outcome.ALLOWED:
            record.count = 1
        self.audit.note(record)
