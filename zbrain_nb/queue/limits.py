"""How many jobs an org or an owner may have."""

from __future__ import annotations

import msgspec

from zbrain_nb.model.errors import OverQuota


class Limits(msgspec.Struct, kw_only=True, frozen=True):
    """Quotas; None is no limit.

    Parameters
    ----------
    org_running, owner_running : int or None
        How many jobs of one org, and of one owner, run at once. More wait, and say so.
    org_pending, owner_pending : int or None
        How many jobs of one org, and of one owner, wait at once. More are refused.
    """

    org_running: int | None = None
    owner_running: int | None = None
    org_pending: int | None = None
    owner_pending: int | None = None

    @property
    def limits_pending(self) -> bool:
        """Whether a submit has to count."""
        return self.org_pending is not None or self.owner_pending is not None


def over_pending(what: str, name: str, limit: int, used: int, more: int) -> OverQuota:
    """Return the refusal of `more` jobs that would go over a limit."""
    jobs = "one more" if more == 1 else f"{more:,} more"
    return OverQuota(
        f"{what.capitalize()} {name!r} has {used:,} waiting jobs and cannot add {jobs}: its limit is {limit:,}.",
        "Submit again when some of them have started, or cancel some.",
        quota=f"{what}_pending",
        limit=limit,
        used=used,
    )
