"""What the handlers' base tells the audit of each request, once it is answered.

An operation that does something names its act where it is declared. Refusals (401, 403) are told of every route.
Reads that take something away, such as a result, are told of all but who holds the data directory: those files lie
open to them. A request that touches several orgs has a record in each, so that no admin misses what was done to theirs;
one that is allowed has a record for each owner of jobs that it touches.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from tornado import web

from zbrain_nb.model.access import Principal
from zbrain_nb.model.audit import Outcome, Record
from zbrain_nb.model.errors import Forbidden, Unauthorized, ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.model.protocol import LOGIN_HEADER
from zbrain_nb.server.audit import MAX_TEXT
from zbrain_nb.server.handlers.context import HostContext
from zbrain_nb.server.handlers.declaration import Operation


class Audited(web.RequestHandler):
    """The base of `ApiHandler`, which says what was answered.

    Attributes
    ----------
    is_told : bool
        Whether the audit has its record already: of what is written in one transaction with it.
    """

    principal: Principal
    is_told = False
    _operation: Operation | None = None
    _objects: Sequence[Mapping[str, Any]] = (MappingProxyType({}),)
    _refused_with: ZBrainError | None = None

    @property
    def context(self) -> HostContext:
        """The host's context."""
        context: HostContext = self.application.settings["context"]
        return context

    @property
    def act(self) -> str:
        """How the audit calls what is asked for; empty for what is only looked at."""
        return self._operation.act if self._operation is not None else ""

    def note_object(self, kind: str, object_id: str = "", org_id: str = "", count: int = 1) -> None:
        """Say what the act is about, and how many such; an org that the caller does not see is none."""
        self.note_orgs(kind, object_id, (org_id,) if self.principal.sees(org_id) else (), count)

    def note_orgs(self, kind: str, object_id: str, org_ids: Iterable[str], count: int = 1) -> None:
        """Say what the act is about that touches these orgs; of none, only who holds the data directory reads."""
        about = {"object_kind": kind, "object_id": object_id[:MAX_TEXT], "count": count}
        self._objects = [{**about, "org_id": org_id} for org_id in sorted(org_ids) or [""]]

    def note_jobs(self, jobs: Iterable[Job]) -> None:
        """Say which jobs the act is about: of each org and owner the first one and how many."""
        found: dict[tuple[str, str], dict[str, Any]] = {}
        for job in jobs:
            key = job.org_id, job.owner
            if key in found:
                found[key]["count"] += 1
            else:
                other = "" if job.owner == self.principal.owner else job.owner
                about = {"object_kind": "job", "object_id": job.id, "org_id": job.org_id, "count": 1, "other": other}
                found[key] = about
        self._objects = list(found.values()) or Audited._objects

    def record(self) -> Record:
        """Return a record of this request, of an act that was allowed."""
        return self._record(self._objects[0])

    def _record(self, about: Mapping[str, Any]) -> Record:
        by: Principal | None = getattr(self, "principal", None)
        login = unquote(self.request.headers.get(LOGIN_HEADER, ""))
        return Record(
            ts=self.context.audit.now(),
            who=by.owner if by else "",
            credential=by.credential.value if by else "",
            token_id=by.token_id if by else "",
            address=self.request.remote_ip or "",
            verb=self.act,
            reason=f"Jupyter's login of {login}"[:MAX_TEXT] if login and by and by.is_holder else "",
            **{name: value for name, value in about.items() if name != "other"},
        )

    def tell_audit(self) -> None:
        """Tell what this request was and what became of it; nothing, if that is not for the audit."""
        error = self._refused_with
        is_read = self.request.method in ("GET", "HEAD")
        if isinstance(error, Unauthorized | Forbidden):
            outcome, reason = Outcome.REFUSED, error.message
        elif self.is_told or not self.act or (is_read and (error is not None or self.principal.is_holder)):
            return
        elif error is not None:
            outcome, reason = Outcome.FAILED, f"{error.code}: {error.message}"
        else:
            for about in self._objects:
                self.context.audit.note(self._record(about), about.get("other", ""))
            return
        by_org = {about.get("org_id", ""): about for about in reversed(self._objects)}
        objects = list(by_org.values())
        if "org_id" in error.details:  # there alone, and nothing is told of the other orgs
            org_id = str(error.details["org_id"])
            about = next((one for one in objects if one.get("org_id", "") in ("", org_id)), {})
            objects = [{**about, "org_id": org_id}]
        for about in objects:
            record = self._record(about)
            record.verb = record.verb or ("read" if is_read else (self.request.method or "").lower())
            record.outcome, record.reason, record.count = outcome, reason[:MAX_TEXT], 1
            self.context.audit.note(record)
