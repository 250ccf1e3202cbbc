"""The face that operators see: the queues, and their pauses."""

from __future__ import annotations

from zbrain_nb.model.access import Principal, Verb
from zbrain_nb.model.checks import check_org_id, check_text
from zbrain_nb.model.protocol import MAX_KIND
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.queue.clock import as_datetime
from zbrain_nb.queue.core import QueueCore
from zbrain_nb.queue.pauses import save_pause


class OperatorSide(QueueCore):
    """Methods about whole queues."""

    async def pause(
        self, org_id: str, kind: str, *, by: str | None = None, scope: Principal | None = None
    ) -> QueueInfo:
        """Lease no more jobs of `kind` in `org_id`, until `resume`, over restarts too; what runs goes on.

        Parameters
        ----------
        by : str, optional
            Who pauses, for the reason of the jobs that wait; a scope says that itself.

        Raises
        ------
        InvalidSpec
            If `org_id` or `kind` cannot be one.
        Forbidden
            If who asks is no operator of the org.
        """
        _check(org_id, kind)
        if scope is not None:
            scope.check(Verb.OPERATE, org_id)
            by = scope.owner
        await self.open()
        since = as_datetime(self._clock.time())
        who = f" by {by}" if by else ""
        why = f"The queue {kind} of the org {org_id} is paused{who} since {since:%Y-%m-%d %H:%M} UTC."
        paused = self._index.ready.paused
        if (org_id, kind) not in paused:
            await save_pause(self.storage, (org_id, kind), why)
            paused.setdefault((org_id, kind), why)
        return self._queue(org_id, kind)

    async def resume(self, org_id: str, kind: str, *, scope: Principal | None = None) -> QueueInfo:
        """End a pause; harmless if there is none.

        Raises
        ------
        InvalidSpec
            If `org_id` or `kind` cannot be one.
        Forbidden
            If who asks is no operator of the org.
        """
        _check(org_id, kind)
        if scope is not None:
            scope.check(Verb.OPERATE, org_id)
        await self.open()
        if (org_id, kind) in self._index.ready.paused:
            await save_pause(self.storage, (org_id, kind), None)
            self._index.ready.paused.pop((org_id, kind), None)
            self._serve_all()
        return self._queue(org_id, kind)

    async def queues(self, *, scope: Principal | None = None) -> list[QueueInfo]:
        """Return the queues that have jobs that have not ended, or are paused, by org and kind."""
        await self.open()
        found = self._count_queues()
        for name in self._index.ready.paused:
            found.setdefault(name, self._empty_queue(name))
        return [found[name] for name in sorted(found) if scope is None or scope.sees(name[0])]

    def _queue(self, org_id: str, kind: str) -> QueueInfo:
        name = org_id, kind
        return self._count_queues().get(name) or self._empty_queue(name)

    def _count_queues(self) -> dict[tuple[str, str], QueueInfo]:
        found: dict[tuple[str, str], QueueInfo] = {}
        for key, lane in self._index.ready.lanes.items():
            name = key.org_id, key.kind
            info = found.get(name) or found.setdefault(name, self._empty_queue(name))
            info.waiting += lane.members - lane.running
            info.running += lane.running
        return {name: info for name, info in found.items() if info.waiting or info.running}

    def _empty_queue(self, name: tuple[str, str]) -> QueueInfo:
        return QueueInfo(org_id=name[0], kind=name[1], paused=self._index.ready.paused.get(name))


def _check(org_id: str, kind: str) -> None:
    check_org_id("org", org_id)
    check_text("kind", kind, MAX_KIND)
