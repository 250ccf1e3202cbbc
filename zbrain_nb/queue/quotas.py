"""Which limits hold for which org and owner, the refusals that name them, and how what was set for an org is kept.

Who counts what is used looks here for what may be: the ready queues (running), a turn (pending), the bus (sockets),
the intake of worker events (log), `StoredBytes`. What was set for an org outlives restarts.
"""

from __future__ import annotations

import msgspec

from zbrain_nb.model.errors import OverQuota, TooLarge
from zbrain_nb.model.quotas import OrgQuota, Quota, Quotas
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.store import waiting
from zbrain_nb.store.storage import Storage

_NOTHING_SET = OrgQuota()
#: Under keys that begin so the store keeps what was set for orgs.
_HEAD = "quota:"
#: When to try again what is refused: until others have ended, or (stored bytes) until files are collected.
PENDING_RETRY_SECS, SOCKET_RETRY_SECS, WORKER_RETRY_SECS, STORED_RETRY_SECS = 10, 30, 60, 3600


class QuotaBook:
    """The limits of all orgs and owners.

    Parameters
    ----------
    usual : Quotas
        What holds for an org for which nothing was set, and for each owner.
    """

    def __init__(self, usual: Quotas) -> None:
        self.usual = usual
        self._set: dict[str, OrgQuota] = {}
        self._merged: dict[str, Quota] = {}
        self._limited = self._all_given()

    def of_org(self, org_id: str) -> Quota:
        """Return what holds for an org."""
        return self._merged.get(org_id, self.usual.org) if self._merged else self.usual.org

    @property
    def of_owner(self) -> Quota:
        """What holds for each owner."""
        return self.usual.owner

    def of(self, what: str, name: str) -> Quota:
        """Return what holds for ``org`` or ``owner`` of that name."""
        return self.of_org(name) if what == "org" else self.of_owner

    def limits(self, quota: str) -> bool:
        """Whether anybody has a limit of this name, so that it has to be counted."""
        return quota in self._limited

    def set_for(self, org_id: str) -> OrgQuota:
        """Return what was set for an org."""
        return self._set.get(org_id, _NOTHING_SET)

    def replace(self, org_id: str, quota: OrgQuota) -> None:
        """Let other limits hold for an org from now on."""
        if quota == _NOTHING_SET:
            self._set.pop(org_id, None)
            self._merged.pop(org_id, None)
        else:
            self._set[org_id] = quota
            self._merged[org_id] = quota.over(self.usual.org)
        self._limited = self._all_given()

    def _all_given(self) -> set[str]:
        quotas = (self.usual.org, self.usual.owner, *self._merged.values())
        return {name for quota in quotas for name in quota.given()}


async def read_quotas(storage: Storage) -> dict[str, OrgQuota]:
    """Return what was set for orgs."""
    found = await storage.read(waiting.metas, _HEAD)
    return {org_id: msgspec.json.decode(text, type=OrgQuota) for org_id, text in found.items()}


async def save_quota(storage: Storage, org_id: str, quota: OrgQuota) -> None:
    """Keep what was set for an org."""
    text = None if quota == _NOTHING_SET else msgspec.json.encode(quota).decode()
    await storage.write(lambda database: database.save_meta(_HEAD + org_id, text))


def over_pending(what: str, name: str, limit: int, used: int, more: int) -> OverQuota:
    """Return the refusal of `more` jobs that would go over a limit."""
    jobs = "one more" if more == 1 else f"{more:,} more"
    message = f"{what.capitalize()} {name!r} has {used:,} waiting jobs and cannot add {jobs}: its limit is {limit:,}."
    hint = "Submit again when some of them have started, or cancel some."
    if more > limit:
        hint = "Submit them in parts, each when some have started."
    return _refusal(what, "pending", message, hint, limit, used, PENDING_RETRY_SECS)


def over_lanes(owner: str, limit: int) -> OverQuota:
    """Return the refusal of a job that differs from too many of its owner's in where and how it may run."""
    message = (
        f"{owner}'s active jobs differ in {limit:,} ways in kind, org, resources and concurrency group: "
        "no more are kept apart at once."
    )
    hint = "Let some end first, or ask for fewer different resources, and use fewer groups."
    return _refusal("owner", "lanes", message, hint, limit, limit, PENDING_RETRY_SECS)


def over_kept(owner: str | None, limit: int, used: int, more: int) -> OverQuota:
    """Return the refusal of jobs that wait for others and would take `more` bytes; None is all owners together."""
    takes, most, whose = format_kib(used / 1024), format_kib(limit / 1024), "all owners" if owner is None else owner
    message = (
        f"Large jobs of {whose} that wait for others, or to be tried again, take {takes} of the host's memory: "
        f"{format_kib(more / 1024)} more would go over the limit of {most}."
    )
    hint = "Submit again when some of them have started, or send what is large in them as blobs."
    if more > limit:
        hint = "Submit them in parts, or send what is large in them as blobs."
    return _refusal("host" if owner is None else "owner", "kept_bytes", message, hint, limit, used, PENDING_RETRY_SECS)


def over_first(owner: str, limit: int, used: int, more: int) -> OverQuota:
    """Return the refusal of large jobs, `more` bytes of them, that differ from others in where and how they may run."""
    takes, most = format_kib(used / 1024), format_kib(limit / 1024)
    message = (
        f"Large jobs of {owner} that differ in kind, org, resources or concurrency group take {takes} of the host's "
        f"memory: {format_kib(more / 1024)} more would go over the limit of {most}."
    )
    hint = "Send what is large in them as blobs, or use fewer different resources and groups for them."
    return _refusal("owner", "first_bytes", message, hint, limit, used, PENDING_RETRY_SECS)


def over_sockets(what: str, name: str, limit: int, used: int) -> OverQuota:
    """Return the refusal of one more follower of events."""
    message = f"{what.capitalize()} {name!r} follows events by {used:,} connections already: its limit is {limit:,}."
    return _refusal(what, "sockets", message, "Close views that are not needed.", limit, used, SOCKET_RETRY_SECS)


def over_stored(what: str, name: str, limit: int, used: int, more: int) -> OverQuota:
    """Return the refusal of `more` bytes that would go over a limit; with 0, of anything at all beyond it."""
    stores, most = f"{what.capitalize()} {name!r} stores {format_kib(used / 1024)}", format_kib(limit / 1024)
    if more:
        message = f"{stores} and cannot add {format_kib(more / 1024)}: its limit is {most}."
    else:
        message = f"{stores}, over its limit of {most}, and can add no jobs."
    hint = (
        "Jobs go with time (ZBRAIN_KEEP_JOBS_DAYS), files when no kept job names them any more "
        "(ZBRAIN_KEEP_BLOBS_HOURS), and what broke off on its way after a day. "
        "Whoever holds the host's data directory may allow more."
    )
    return _refusal(what, "stored_bytes", message, hint, limit, used, STORED_RETRY_SECS)


def too_much_left(what: str, name: str, limit: int, used: int, more: int) -> TooLarge:
    """Return the refusal of `more` bytes that a running job leaves."""
    stores, most = f"{what.capitalize()} {name!r} stores {format_kib(used / 1024)}", format_kib(limit / 1024)
    return TooLarge(
        f"{stores}, and a job cannot leave {format_kib(more / 1024)} more: its limit is {most}, and what jobs leave "
        "may go over it by as much again.",
        "Have the job leave less, or whoever holds the host's data directory allow more.",
        quota=f"{what}_stored_bytes",
        limit=limit,
        used=used,
    )


def over_workers(owner: str, limit: int, used: int) -> OverQuota:
    """Return the refusal of one more worker of one principal."""
    message = f"{owner} has {used:,} workers already: no more than {limit:,} are known at once."
    hint = "End workers that are not needed."
    return _refusal("owner", "workers", message, hint, limit, used, WORKER_RETRY_SECS)


def _refusal(what: str, quota: str, message: str, hint: str, limit: int, used: int, retry_after_secs: int) -> OverQuota:
    details = {"limit": limit, "used": used, "retry_after_secs": retry_after_secs}
    return OverQuota(message, hint, quota=f"{what}_{quota}", **details)
