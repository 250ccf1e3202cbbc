"""How much an org or an owner may use of a queue: the words of the settings, of ``orgs/{org}/limits`` and overviews."""

from __future__ import annotations

from typing import Annotated, Any

import msgspec
from msgspec import Meta

#: Numbers of jobs, bytes and sockets.
Amount = Annotated[int, Meta(ge=1, le=2**53)]


class Quota(msgspec.Struct, kw_only=True, frozen=True, forbid_unknown_fields=True):
    """What one org, or one owner, may use at most; None is no limit, or leaves it to the host's settings.

    Attributes
    ----------
    running : int or None
        Jobs that run at once. More wait, and say so.
    pending : int or None
        Jobs that wait at once. More are refused.
    log_bytes_per_sec : int or None
        Bytes of log and rich outputs that are taken a second, in the long run. More wait with their worker.
    sockets : int or None
        Followers of events at once: each open view holds one. More are refused.
    stored_bytes : int or None
        Bytes of files that were sent or that jobs left, each file once for its owner, and of what the database keeps of
        jobs but for their log lines. More are refused to who sends
        them; what running jobs leave may be as many again.
    """

    running: Amount | None = None
    pending: Amount | None = None
    log_bytes_per_sec: Amount | None = None
    sockets: Amount | None = None
    stored_bytes: Amount | None = None

    def over(self, usual: Quota) -> Quota:
        """Return `usual`, with what is given here in its place."""
        return msgspec.structs.replace(usual, **self.given())

    def within(self, most: Quota) -> Quota:
        """Return the lower of this and `most`, limit by limit."""
        given, ceiling = self.given(), most.given()
        return Quota(**ceiling | {name: min(value, ceiling.get(name, value)) for name, value in given.items()})

    def given(self) -> dict[str, Any]:
        """Return the limits that are set, by name."""
        return {name: value for name, value in msgspec.structs.asdict(self).items() if value is not None}


class Quotas(msgspec.Struct, frozen=True):
    """What each org, and each owner, may use.

    Attributes
    ----------
    org, owner : Quota
        Of any one.
    """

    org: Quota = Quota()
    owner: Quota = Quota()


class OrgQuota(msgspec.Struct, kw_only=True, frozen=True):
    """What was set for one org.

    Attributes
    ----------
    granted : Quota
        By who holds the host's data directory, in place of the host's settings: more than those allow, or less.
    own : Quota
        By the org's admins: less.
    """

    granted: Quota = Quota()
    own: Quota = Quota()

    def over(self, usual: Quota) -> Quota:
        """Return what holds where the host's settings are `usual`."""
        return self.own.within(self.granted.over(usual))


class QuotaUse(msgspec.Struct, kw_only=True, frozen=True):
    """How much is used of one limit.

    Attributes
    ----------
    quota : str
        Which limit: a field of `Quota`.
    of : str
        ``org`` or ``owner``.
    name : str
        Of which org or owner.
    limit, used : int
        In jobs, bytes, bytes a second, or sockets.
    """

    quota: str
    of: str
    name: str
    limit: int
    used: int


class OrgLimits(OrgQuota, kw_only=True, frozen=True):
    """The limits of an org, and how much of them is used.

    Attributes
    ----------
    limits : Quota
        What holds.
    used : list of QuotaUse
        Of each limit that holds.
    """

    org_id: str
    limits: Quota
    used: list[QuotaUse]
