"""Who may do what: principals, their roles in orgs, and the one table that decides.

The server makes a `Principal` of whoever sends a request; the queue takes it as ``scope=`` and asks it. Nothing else
in the package decides about access.

::

    role       sees   submits   cancels and retries own   cancels others', pauses   tokens, quotas, pools, audit
    viewer      x
    submitter   x        x                x
    operator    x        x                x                         x
    admin       x        x                x                         x                          x

What is not seen is answered as if it did not exist (404); what is seen but not allowed is refused (403). Whoever may
submit may also run the code of another's job that they see, but as their own job and only if they say so (see
`JobQueue.retry_job`).
"""

from __future__ import annotations

from collections.abc import Mapping
from enum import StrEnum
from typing import NamedTuple

import msgspec

from zbrain_nb.model.errors import Forbidden


class Role(StrEnum):
    """What a member of an org may do there; each may what the ones before it may."""

    VIEWER = "viewer"
    SUBMITTER = "submitter"
    OPERATOR = "operator"
    ADMIN = "admin"

    def reaches(self, other: Role) -> bool:
        """Whether it may do what `other` may."""
        return _RANK[self] >= _RANK[other]


_RANK = {role: rank for rank, role in enumerate(Role)}


class GroupRole(NamedTuple):
    """The role that a Hub group gives to its members, in all their orgs or in the one that is named."""

    role: Role
    org: str | None = None


class Verb(StrEnum):
    """What can be done in an org."""

    READ = "read"
    SUBMIT = "submit"
    CANCEL_OWN = "cancel own jobs"
    OPERATE = "operate"
    ADMINISTER = "administer"


_LEAST: dict[Verb, Role] = {
    Verb.READ: Role.VIEWER,
    Verb.SUBMIT: Role.SUBMITTER,
    Verb.CANCEL_OWN: Role.SUBMITTER,
    Verb.OPERATE: Role.OPERATOR,
    Verb.ADMINISTER: Role.ADMIN,
}


class Credential(StrEnum):
    """What kind of token or login a principal came with: it bounds which routes are open to it."""

    PERSON = "person"  # a login, a kernel's token, one made by `zbrain token create`
    WORKER = "worker"  # leases and reports, and reads what its leases need; nothing else
    JOB = "job"  # of one attempt: what its code may do for its owner while it runs


class WorkerBinding(msgspec.Struct, frozen=True, kw_only=True):
    """Whose jobs a worker may have; None lets every value pass.

    Attributes
    ----------
    orgs : frozenset of str or None
        Jobs of these orgs.
    owner : str or None
        Jobs of this person.
    pool : str or None
        Jobs of this kind (`JobSpec.kind`).
    isolates : bool
        Whether who gave the token to the worker says that it runs each person's jobs under an account or in a container
        of their own. It says nothing itself: whoever holds the token would.
    """

    orgs: frozenset[str] | None = None
    owner: str | None = None
    pool: str | None = None
    isolates: bool = False

    def admits(self, org_id: str, owner: str, kind: str) -> bool:
        """Whether the worker may have a job of this org, person and kind."""
        return (self.orgs is None or org_id in self.orgs) and self.owner in (None, owner) and self.pool in (None, kind)


#: Whose a blob is: an owner in an org; of a worker's token, its principal in none.
Party = tuple[str, str]


class Principal(msgspec.Struct, frozen=True, kw_only=True):
    """Somebody who asks, and what they may do where.

    Attributes
    ----------
    owner : str
        The person: owner of what they submit.
    roles : mapping of str to Role, or None
        Role by org. None is whoever holds the data directory: admin of every org.
    home : str
        The org of jobs that name none.
    credential : Credential
        What they came with.
    worker : WorkerBinding or None
        Of a worker's token: what it may lease. Its `roles` are empty, for it reads nothing but what it leased.
    token_id : str
        Which token, for the audit; empty for a login.
    job_id, attempt : str and int
        Of the attempt whose token it is.
    job_origin : str
        Which token that attempt's job was submitted with; empty for a login.
    submits_to : str or None
        The only kind of jobs that it submits. Of an attempt that somebody else's worker runs, whose operator could
        else use its token to have code run by the owner's own worker.
    """

    owner: str
    roles: Mapping[str, Role] | None
    home: str
    credential: Credential = Credential.PERSON
    worker: WorkerBinding | None = None
    token_id: str = ""
    job_id: str = ""
    attempt: int = 0
    job_origin: str = ""
    submits_to: str | None = None

    @property
    def origin(self) -> str:
        """The kept token that it rests on, and ends with; empty for a login, and for a job submitted by one."""
        return self.job_origin if self.credential is Credential.JOB else self.token_id

    @property
    def orgs(self) -> frozenset[str] | None:
        """The orgs that it sees; None is all."""
        return None if self.roles is None else frozenset(self.roles)

    @property
    def is_holder(self) -> bool:
        """Whether it holds the data directory, and so may do everything."""
        return self.roles is None

    @property
    def binding(self) -> WorkerBinding:
        """What a worker of it may lease: what its token says; of a person, own jobs where it may submit.

        For a lease gives what a submit takes: environment, secrets, a token of the attempt, and the result's author.
        """
        if self.worker is not None:
            return self.worker
        return EVERY_JOB if self.roles is None else WorkerBinding(orgs=self._where(Verb.SUBMIT), owner=self.owner)

    @property
    def holder(self) -> str:
        """Who is meant by "the same worker's principal": empty for who holds the data directory.

        Not the token: a worker goes on with its leases when its token is replaced by another for the same.
        """
        if self.worker is not None:
            orgs = None if self.worker.orgs is None else sorted(self.worker.orgs)
            whose = "*" if self.worker.isolates else self.worker.owner
            return msgspec.json.encode(["pool", self.owner, orgs, whose, self.worker.pool]).decode()
        return "" if self.roles is None else msgspec.json.encode(["person", self.owner]).decode()

    @property
    def parties(self) -> frozenset[Party]:
        """As whom it sends blobs for its jobs; empty for who holds the data directory, who needs no grants."""
        if self.worker is not None:
            return frozenset({("", self.holder)})
        return frozenset((org_id, self.owner) for org_id in self._where(Verb.SUBMIT))

    @property
    def payer(self) -> Party | None:
        """Whose limits what it sends counts for: its home's, or another org's if it may submit only there, and its own.

        None for who holds the data directory, and for a worker's token: what its workers send counts for the owner of
        the job that leaves it.
        """
        if self.is_holder or self.worker is not None:
            return None
        where = self._where(Verb.SUBMIT)
        return (self.home if self.home in where else min(where, default=self.home), self.owner)

    def among(self, org_id: str | None) -> frozenset[str] | None:
        """Return which orgs are meant by who names one, or all with None: those of them that it sees; None is all."""
        if org_id is None:
            return self.orgs
        return frozenset((org_id,)) if self.sees(org_id) else frozenset()

    def role_in(self, org_id: str) -> Role | None:
        """Return its role there, or None if it is no member."""
        return Role.ADMIN if self.roles is None else self.roles.get(org_id)

    def _where(self, verb: Verb) -> frozenset[str]:
        """Return those of the orgs of its roles that allow `verb`."""
        return frozenset(org_id for org_id in self.roles or () if self.may(verb, org_id))

    def sees(self, org_id: str) -> bool:
        """Whether what belongs to the org exists for it."""
        return self.roles is None or org_id in self.roles

    def may(self, verb: Verb, org_id: str) -> bool:
        """Whether its role in the org allows `verb`."""
        role = self.role_in(org_id)
        return role is not None and role.reaches(_LEAST[verb])

    def check(self, verb: Verb, org_id: str) -> None:
        """Refuse what its role in the org does not allow.

        Raises
        ------
        Forbidden
            If it does not.
        """
        if not self.may(verb, org_id):
            role = self.role_in(org_id)
            who = f"{self.owner} is {role} in the org {org_id}" if role else f"{self.owner} is not in the org {org_id}"
            raise Forbidden(
                f"{who}, which does not allow to {verb}.", f"It takes the role {_LEAST[verb]}.", org_id=org_id
            )

    def check_submit(self, org_id: str, kind: str) -> None:
        """Refuse to submit a job of a kind into an org to who may not.

        Raises
        ------
        Forbidden
            If it may not.
        """
        self.check(Verb.SUBMIT, org_id)
        if self.submits_to not in (None, kind):
            raise Forbidden(
                f"A job that a pool runs submits to that pool alone: {self.submits_to}, not {kind}.",
                "Who operates the pool could else have code run elsewhere as its owner.",
            )

    def check_cancel(self, org_id: str, owner: str) -> None:
        """Refuse to cancel a job of `owner` in the org to who is neither that person nor an operator.

        Raises
        ------
        Forbidden
            If it may not.
        """
        if owner != self.owner or not self.may(Verb.CANCEL_OWN, org_id):
            self.check(Verb.OPERATE, org_id)

    def check_works(self) -> None:
        """Refuse to have workers to who may lease in no org.

        Raises
        ------
        Forbidden
            If it may not.
        """
        if self.binding.orgs == frozenset():
            raise Forbidden(
                f"{self.owner} may submit nowhere, and so have no workers.", f"It takes a {Role.SUBMITTER}."
            )

    def check_sends(self) -> None:
        """Refuse the bytes of who may submit in no org, and so has no job to read them.

        Raises
        ------
        Forbidden
            If they are refused.
        """
        if not (self.is_holder or self.parties):
            raise Forbidden(f"{self.owner} may submit nowhere, and so send no files.", f"It takes a {Role.SUBMITTER}.")

    def check_holder(self, act: str) -> None:
        """Refuse what concerns the host as a whole to who does not hold the data directory.

        Raises
        ------
        Forbidden
            If it does not.
        """
        if not self.is_holder:
            raise Forbidden(f"{self.owner} may not {act}.", "It takes the token of the host's data directory.")


def among(scope: Principal | None, org_id: str | None) -> frozenset[str] | None:
    """Return `Principal.among` of a scope, where None is trusted code, which sees all."""
    if scope is None:
        return None if org_id is None else frozenset((org_id,))
    return scope.among(org_id)


#: Of a worker that may have any job.
EVERY_JOB = WorkerBinding()
