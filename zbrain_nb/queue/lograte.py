"""How fast the logs of an org and an owner are taken: what comes faster stays with its worker for a while.

A debt per org and owner grows by each event that is taken and shrinks by the limit every second. While it is over
`BURST_SECS` of the limit, events that carry output are put off: the worker keeps them in its spool, and reads on
only when there is room. So nothing is lost, the job is slowed down at last, and others are not touched.
"""

from __future__ import annotations

from zbrain_nb.model.events import JobDisplayed, JobLogged, JobProgress, WorkerEvent
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.queue.clock import Clock
from zbrain_nb.queue.quotas import QuotaBook
from zbrain_nb.store.rows import encode

#: Output for so many seconds at the limit is taken at once.
BURST_SECS = 10.0
#: Once it is put off, there shall be room for so many seconds of output before more of it comes.
ROOM_SECS = 0.5
#: Debts are looked through for paid ones when there are so many.
DEBTS = 1_000

Name = tuple[str, str]


class LogRates:
    """The debts.

    Parameters
    ----------
    quotas : QuotaBook
        The limits.
    clock : Clock
        Tells how much is paid.
    """

    def __init__(self, quotas: QuotaBook, clock: Clock) -> None:
        self._quotas = quotas
        self._clock = clock
        self._debts: dict[Name, tuple[float, float]] = {}  # bytes, and when they were that many
        self._sweep_at = DEBTS

    @property
    def are_limited(self) -> bool:
        """Whether anybody has a limit."""
        return self._quotas.limits("log_bytes_per_sec")

    def wait_secs(self, org_id: str, owner: str) -> float:
        """Return for how long output is put off, 0 if it is not."""
        over = max(self._over_secs(("org", org_id)), self._over_secs(("owner", owner)))
        return over + ROOM_SECS if over >= 0 else 0.0

    def why(self, org_id: str, owner: str) -> str:
        """Return which limit puts output off, in a sentence."""
        of_org, of_owner = ("org", org_id), ("owner", owner)
        name = max(of_org, of_owner, key=self._over_secs)
        whose = f"the org {org_id}" if name is of_org else owner
        return (
            f"The logs of {whose} come faster than {format_kib((self._limit(name) or 0) / 1024)} a second, their limit."
        )

    def _over_secs(self, name: Name) -> float:
        limit = self._limit(name)
        return -BURST_SECS if limit is None else self._debt(name, limit) / limit - BURST_SECS

    def charge(self, org_id: str, owner: str, size: int) -> None:
        """Hear that output of `size` bytes was taken."""
        for name in (("org", org_id), ("owner", owner)):
            limit = self._limit(name)
            if limit is not None:
                self._debts[name] = self._debt(name, limit) + size, self._clock.monotonic()
        if len(self._debts) > self._sweep_at:
            names = [name for name in self._debts if self._debt(name, self._limit(name) or 1) > 0]
            self._debts = {name: self._debts[name] for name in names}
            self._sweep_at = 2 * len(self._debts) + DEBTS

    def rate(self, what: str, name: str) -> int:
        """Return about how many bytes a second an ``org`` or ``owner`` sends of late, up to its limit."""
        limit = self._limit((what, name))
        return 0 if limit is None else round(min(1.0, self._debt((what, name), limit) / limit / BURST_SECS) * limit)

    def _limit(self, name: Name) -> int | None:
        return self._quotas.of(*name).log_bytes_per_sec

    def _debt(self, name: Name, limit: int) -> float:
        debt, since = self._debts.get(name, (0.0, 0.0))
        return max(0.0, debt - limit * (self._clock.monotonic() - since)) if debt else 0.0


def carries_output(event: WorkerEvent) -> bool:
    """Whether an event carries output, and does not only say how the job stands."""
    if isinstance(event, JobProgress):
        return bool(event.stdout or event.stderr)
    return isinstance(event, (JobLogged, JobDisplayed))


def size_of(event: WorkerEvent) -> int:
    """Return about how many bytes of output an event carries, which was found to hold."""
    if isinstance(event, JobLogged):
        return sum(len(line) + 1 for _, _, line in event.lines)
    if isinstance(event, JobDisplayed):
        return len(encode(event.outputs))
    return len(event.stdout or "") + len(event.stderr or "") if isinstance(event, JobProgress) else 0
