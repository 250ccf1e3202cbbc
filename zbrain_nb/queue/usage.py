"""The face that shows and sets limits: how much an org and an owner use, and what is set for an org."""

from __future__ import annotations

import msgspec

from zbrain_nb.model.access import Principal, Verb
from zbrain_nb.model.checks import check_org_id
from zbrain_nb.model.errors import Forbidden
from zbrain_nb.model.quotas import OrgLimits, Quota, QuotaUse
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.queue.quotas import save_quota


class UsageSide(QueueCore):
    """Methods about limits."""

    async def limits(self, org_id: str, *, scope: Principal | None = None) -> OrgLimits:
        """Return the limits of an org, and how much of them is used.

        Raises
        ------
        InvalidSpec
            If `org_id` cannot be one.
        Forbidden
            If who asks is no member of the org.
        """
        check_org_id("org", org_id)
        if scope is not None:
            scope.check(Verb.READ, org_id)
        await self.open()
        return self._org_limits(org_id)

    async def set_limits(self, org_id: str, quota: Quota, *, scope: Principal | None = None) -> OrgLimits:
        """Limit an org, over restarts too.

        Parameters
        ----------
        quota : Quota
            In place of what was set by the likes of who asks: admins of the org set its own limits, which are lower
            than the host's; who holds the data directory, and trusted code, sets what replaces the host's.

        Raises
        ------
        InvalidSpec
            If `org_id` cannot be one.
        Forbidden
            If who asks is no admin of the org, or would allow it more than the host does.
        """
        check_org_id("org", org_id)
        await self.open()
        was = self.quotas.set_for(org_id)
        if scope is None or scope.is_holder:
            now = msgspec.structs.replace(was, granted=quota)
        else:
            scope.check(Verb.ADMINISTER, org_id)
            _check_lower(quota, was.granted.over(self.quotas.usual.org), org_id)
            now = msgspec.structs.replace(was, own=quota)
        await save_quota(self.storage, org_id, now)
        self.quotas.replace(org_id, now)
        if not self.stored.rows.is_counting:
            await self.stored.count_rows(self.storage)
        self._index.ready.release_all()
        self._serve()
        return self._org_limits(org_id)

    def uses(self, org_id: str, owner: str) -> list[QuotaUse]:
        """Return how much is used of each limit that an org and an owner have."""
        return [*self._uses("org", org_id), *self._uses("owner", owner)]

    def _org_limits(self, org_id: str) -> OrgLimits:
        quota = self.quotas.set_for(org_id)
        limits, used = self.quotas.of_org(org_id), self._uses("org", org_id)
        return OrgLimits(org_id=org_id, granted=quota.granted, own=quota.own, limits=limits, used=used)

    def _uses(self, of: str, name: str) -> list[QuotaUse]:
        ready = self._index.ready
        account = (ready.orgs if of == "org" else ready.owners).get(name)
        used = {
            "running": account.running if account is not None else 0,
            "pending": account.waiting if account is not None else 0,
            "log_bytes_per_sec": self._rates.rate(of, name),
            "sockets": self._bus.count_followers(of, name),
            "stored_bytes": self.stored.used(of, name),
        }
        limits = self.quotas.of(of, name).given()
        return [
            QuotaUse(quota=quota, of=of, name=name, limit=limit, used=used[quota]) for quota, limit in limits.items()
        ]


def _check_lower(quota: Quota, most: Quota, org_id: str) -> None:
    ceiling = most.given()
    for name, limit in quota.given().items():
        if limit > ceiling.get(name, limit):
            raise Forbidden(
                f"The host allows the org {org_id} no more than {name}={ceiling[name]}, not {limit}.",
                "Whoever holds the host's data directory may allow more.",
                org_id=org_id,
            )
