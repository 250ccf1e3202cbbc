"""Which job goes next: between orgs in fair turns, within one by rank, and never one that has to wait.

The orgs share by virtual time (start-time fair queuing, Goyal, Vin and Cheng 1996): each lease moves its org's
time on by the CPUs it takes, at least one, and the org whose time is least goes first. This is deficit round-robin
without rounds: a job as large as many rounds needs no walk over them. An org that had nothing to do catches up with the
others and saves nothing.
"""

from __future__ import annotations

import heapq
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from itertools import count
from typing import TYPE_CHECKING

from zbrain_nb.model.job import Job
from zbrain_nb.queue.branches import Branch, Want
from zbrain_nb.queue.lanes import Account, Lane, LaneKey, Place
from zbrain_nb.queue.memory import Memory
from zbrain_nb.queue.quotas import QuotaBook

if TYPE_CHECKING:
    from zbrain_nb.queue.index import Entry

#: Jobs of a lane in memory, and of all lanes that have more in the store.
WINDOW = 1_000
WINDOWS = 40_000
SMALLEST_WINDOW = 50
#: Places in line are told up to this one. A look takes no longer for the jobs behind it, and goes through no more jobs
#: and lanes than these: every view of a waiting job asks each few seconds.
MAX_PLACE = 1_000
MAX_LOOKED_AT = 2_000
MAX_LANES_LOOKED_AT = 5_000
#: Orgs are looked through for idle ones when there are so many.
ORGS = 256


class _Org(Account):
    __slots__ = ("branches", "time")

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.branches: dict[str, Branch] = {}
        self.time = 0.0


class ReadyQueues:
    """The lanes of all orgs.

    Attributes
    ----------
    quotas : QuotaBook
        How many jobs an org or an owner may run.
    paused : dict of (org, kind) to str
        Queues from which nothing is leased, and why, in words.
    lanes : dict of LaneKey to Lane
        Lanes with jobs that have not ended.
    hungry : dict of Lane to None
        Lanes whose window should be filled from the store.
    fresh : dict of Lane to None
        Lanes that have something to give since it was last taken (`take_fresh`).
    parked : int
        How many waiting jobs are in the store alone.
    window_size : int
        How many jobs of a lane are kept in memory, now.
    memory : Memory
        What the jobs in memory take.
    """

    def __init__(self, quotas: QuotaBook) -> None:
        self.quotas = quotas
        self.paused: dict[tuple[str, str], str] = {}
        self.lanes: dict[LaneKey, Lane] = {}
        self.hungry: dict[Lane, None] = {}
        self.fresh: dict[Lane, None] = {}
        self.orgs: dict[str, _Org] = {}
        self.owners: dict[str, Account] = {}
        self.groups: dict[tuple[str, str], Account] = {}
        self.parked = 0
        self.window_size = WINDOW
        self.memory = Memory()
        self._parking = 0
        self._lines: dict[tuple[str, str], dict[Lane, None]] = {}  # by org and kind
        self._numbers = count()
        self._last: Lane | None = None
        self._new: list[Lane] = []
        self._sweep_orgs_at = ORGS
        self._time = 0.0

    # The lanes and who counts their jobs

    def lane(self, job: Job) -> Lane:
        """Return the lane in which `job` waits; made if there is none."""
        last, spec = self._last, job.spec
        if (
            last is not None  # the next job is most often like the last one
            and last.is_known
            and spec.resources is last.key.resources
            and (spec.worker, job.org_id, job.owner, spec.concurrency_group, spec.concurrency_limit) == last.names
        ):
            return last
        key = LaneKey.of(job)
        lane = self._last = self.lanes.get(key) or self.open_lane(key)
        return lane

    def open_lane(self, key: LaneKey) -> Lane:
        """Make a lane."""
        org = self.orgs.get(key.org_id) or self.orgs.setdefault(key.org_id, _Org(key.org_id))
        owner = self.owners.get(key.owner) or self.owners.setdefault(key.owner, Account(key.owner))
        group = None
        if key.group is not None:
            name = (key.org_id, key.group)
            group = self.groups.get(name) or self.groups.setdefault(name, Account(key.group))
        lane = self.lanes[key] = Lane(key, org, owner, group)
        self._lines.setdefault((key.org_id, key.kind), {})[lane] = None
        self._new.append(lane)
        return lane

    def sweep(self) -> None:
        """Forget the lanes that were made for jobs that did not come; called between commits."""
        new, self._new = self._new, []
        for lane in new:
            if lane.is_known and lane.members <= 0:
                self._forget(lane)

    def count(self, lane: Lane, waiting: int, running: int) -> None:
        """Add to the numbers of jobs that wait and run; a lane without any is forgotten."""
        if running < 0 and self._is_full(lane.org):
            self._look_again_in(lane.org)
        lane.members += waiting + running
        lane.running += running
        for account in (lane.org, lane.owner, lane.group):
            if account is not None:
                account.waiting += waiting
                account.running += running
                if running < 0 and account.held:
                    self._release(account)
        if lane.members <= 0:
            self._forget(lane)

    def _forget(self, lane: Lane) -> None:
        lane.is_known = False
        if self.lanes.get(lane.key) is lane:
            del self.lanes[lane.key]
        line = self._lines[lane.key.org_id, lane.key.kind]
        line.pop(lane, None)
        if not line:
            del self._lines[lane.key.org_id, lane.key.kind]
        self._unlist(lane)
        owner, group = lane.owner, lane.group
        owner.first -= lane.largest
        for account in (lane.org, owner, group):
            if account is not None:
                account.lanes -= 1
                account.held.pop(lane, None)
        if not owner.lanes:
            self.owners.pop(owner.name, None)
        if group is not None and not group.lanes:
            self.groups.pop((lane.key.org_id, group.name), None)
        if len(self.orgs) > self._sweep_orgs_at:
            self._sweep_orgs()

    def _sweep_orgs(self) -> None:
        """Forget orgs that have nothing to do and owe nothing: they save nothing either."""
        self.orgs = {name: org for name, org in self.orgs.items() if org.lanes or org.time > self._time}
        self._sweep_orgs_at = 2 * len(self.orgs) + ORGS

    def park(self, lane: Lane, entry: Entry) -> None:
        """Count a job that is in the store alone from now on."""
        self.parked += 1
        if not lane.parked:
            self._count_parking(1)
        lane.park(entry)

    def park_stored(self, lane: Lane, jobs: int, bound: Place) -> None:
        """Count jobs that the store had behind `bound` when the queue opened."""
        self.parked += jobs
        lane.parked, lane.bound = jobs, bound
        self._count_parking(1)

    def empty_store(self, lane: Lane) -> None:
        """Note that the store has none of the lane's jobs any more that are not in memory."""
        if lane.parked:
            self.parked -= lane.parked
            lane.parked = 0
            self._count_parking(-1)
        lane.bound = None

    def unpark(self, lane: Lane) -> None:
        """Count out a job that is parked no more."""
        if not lane.parked:
            return
        self.parked -= 1
        lane.parked -= 1
        if not lane.parked:
            self._count_parking(-1)

    def _count_parking(self, lanes: int) -> None:
        self._parking += lanes
        self.window_size = window_for(self._parking)

    # What windows take

    def begin(self, lane: Lane, size: int) -> None:
        """Count bytes of a job that runs or is tried again, or no longer does (less than 0): then others may begin."""
        self.memory.begin(lane, size)
        if size < 0 and lane.owner.held and not self.memory.is_full(lane.owner, lane.owner.running):
            self._release(lane.owner)

    def admits(self, lane: Lane, place: Place, size: int) -> bool:
        """Whether a new job at `place`, of so many bytes, belongs into the lane's window, not among the parked."""
        fits = len(lane.window) < self.window_size and size <= self.memory.room(lane)
        return lane.admits(place, has_room=fits)

    def is_overfull(self, lane: Lane) -> bool:
        """Whether the far end of a window should be left to the store."""
        return len(lane.window) > 2 * self.window_size or (len(lane.window) > 1 and self.memory.is_heavy(lane))

    def is_hungry(self, lane: Lane) -> bool:
        """Whether a window should be filled from the store."""
        if not lane.parked or lane.arrived is not None:
            return False
        if lane.head() is None:
            return True
        return self.memory.is_roomy(lane) and len(lane.window) < self.window_size // 2

    # Who can be served

    def push(self, lane: Lane, place: Place, job_id: str) -> None:
        """Add a job that could run now."""
        lane.push(place, job_id)
        if lane.listed_at is None or place < lane.listed_at:
            self._list(lane)

    def look_again(self, lane: Lane) -> None:
        """List a lane whose window or bound changed; note it if the window runs low."""
        self._list(lane)
        if self.is_hungry(lane):
            self.hungry[lane] = None

    def _list(self, lane: Lane) -> None:
        place = lane.head()
        if place is None or place == lane.listed_at:
            return
        branch = self._branch(lane)
        if lane.listed_at is None:
            branch.add(lane)
        lane.listed_at = place
        self.fresh[lane] = None
        heapq.heappush(branch.heads, (*place, next(self._numbers), lane))
        branch.sweep()

    def _unlist(self, lane: Lane) -> None:
        if lane.listed_at is None:
            return
        lane.listed_at = None
        self._branch(lane).remove(lane)

    def _branch(self, lane: Lane) -> Branch:
        org = self.orgs[lane.key.org_id]
        branch = org.branches.get(lane.key.kind)
        if branch is None:
            branch = org.branches[lane.key.kind] = Branch()
        return branch

    def _release(self, account: Account) -> None:
        held, account.held = account.held, {}
        for lane in held:
            if lane.is_known:
                self._list(lane)

    def release_all(self) -> None:
        """List every lane again that is held back: what held it may not have come true."""
        for account in [*self.orgs.values(), *self.owners.values(), *self.groups.values()]:
            self._release(account)

    def take_fresh(self) -> list[Lane]:
        """Return the lanes that have something to give since this was asked."""
        fresh, self.fresh = self.fresh, {}
        return list(fresh)

    def _is_full(self, org: Account) -> bool:
        most = self.quotas.of_org(org.name).running
        return most is not None and org.running >= most

    def _look_again_in(self, org: Account) -> None:
        """Note what an org has to give that was held back by its limit."""
        for branch in self.orgs[org.name].branches.values():
            for lanes in branch.by_owner.values():
                self.fresh.update(lanes)

    def may_give(self, lane: Lane, want: Want) -> bool:
        """Whether the lane has what is wanted by who takes its kind; its jobs may turn out to be gone."""
        key = lane.key
        return (
            lane.listed_at is not None
            and want.fits(key.resources)
            and key.owner not in want.without
            and (want.orgs is None or key.org_id in want.orgs)
            and not self.is_paused(key.org_id, key.kind)
            and not self._is_full(lane.org)
        )

    def _open_branches(self, org: _Org, want: Want) -> Iterator[Branch]:
        for kind in want.kinds:
            branch = org.branches.get(kind)
            if branch is not None and branch.needs and not self.is_paused(org.name, kind):
                yield branch

    def is_paused(self, org_id: str, kind: str) -> bool:
        """Whether nothing of the kind is leased in the org."""
        return bool(self.paused) and (org_id, kind) in self.paused

    def why_held(self, job: Job) -> str | None:
        """Return one sentence if a pause or a limit makes `job` wait, else None."""
        spec = job.spec
        if self.is_paused(job.org_id, spec.kind):
            return self.paused[job.org_id, spec.kind]
        org, owner = self.orgs.get(job.org_id), self.owners.get(job.owner)
        most = self.quotas.of_org(job.org_id).running
        if most is not None and org is not None and org.running >= most:
            return f"Over the limit of the org {job.org_id}: {most} may run at once."
        most = self.quotas.of_owner.running
        if most is not None and owner is not None and owner.running >= most:
            return f"Over the limit of {job.owner}: {most} may run at once."
        if owner is not None and not job.attempt and self.memory.is_full(owner, owner.running):
            return self.memory.why_full(owner)
        group = self.groups.get((job.org_id, spec.concurrency_group)) if spec.concurrency_group else None
        most = spec.concurrency_limit
        if group is not None and group.running >= most:
            if most == 1:
                return f"Waiting for another job of the group {group.name!r} to end; they run one at a time."
            return f"Waiting for others of the group {group.name!r} to end; {most} run at a time."
        return None

    def place_of(self, entry: Entry, live: Mapping[str, Entry]) -> int | None:
        """Return the place of a waiting job among those of its kind and org, from 1; `MAX_PLACE` + 1 is that or more.

        None if it stands behind what is in memory, or if there is too much to look through.
        """
        line = self._lines.get((entry.job.org_id, entry.job.spec.kind), {})
        if entry.lane is None or len(line) > MAX_LANES_LOOKED_AT:
            return None
        mine, ahead, looked_at = entry.place, 0, 0
        for lane in line:
            if not lane.window or lane.window[0] >= mine:
                continue
            for job_id in lane.before(mine):
                looked_at += 1
                ahead += (other := live.get(job_id)) is not None and not other.blockers
                if ahead == MAX_PLACE:
                    return ahead + 1
                if looked_at == MAX_LOOKED_AT:  # most of them have moved on
                    return None
        return ahead + 1

    def _wanted(self, want: Want) -> Iterable[_Org]:
        if want.orgs is None:
            return self.orgs.values()
        return [org for name in want.orgs if (org := self.orgs.get(name)) is not None]

    def may_fit(self, want: Want) -> bool:
        """Whether some lane has what is wanted; its jobs may turn out to be gone."""
        if want.owner is not None and want.owner not in self.owners:
            return False
        return any(
            branch.may_fit(want)
            for org in self._wanted(want)
            if not self._is_full(org)
            for branch in self._open_branches(org, want)
        )

    # Taking

    def take(
        self,
        want: Want,
        is_ready: Callable[[str], bool],
        has_begun: Callable[[str], bool],
        leased: Counter[Account],
        begun: Counter[Account],
        is_wanted: Callable[[str], bool],
    ) -> str | None:
        """Remove and return the id of the job that goes next, or None.

        Parameters
        ----------
        want : Want
            What the worker takes.
        is_ready : callable
            Whether a job still waits and may run.
        has_begun : callable
            Whether it has been tried before.
        leased : Counter of Account
            What the commit under way has leased already, which no account counts yet.
        begun : Counter of Account
            How many bytes of `Account.begun` that adds.
        is_wanted : callable
            Whether a job that is ready is one of those that `want` is restricted to.
        """
        of_org = self.quotas.of_org
        # Time moves on with the leases of all kinds: of orgs that it overtook, the one served least goes first.
        turns = [(max(org.time, self._time), org.time, n, org) for n, org in enumerate(self._wanted(want))]
        best: tuple[float, Lane, _Org] | None = None
        for turn, time, _, org in sorted(turns):
            if best is not None and (turn, time) > (best[0], best[2].time):
                break
            most = of_org(org.name).running
            if most is not None and org.running + leased[org] >= most:
                continue
            for branch in self._open_branches(org, want):
                lane = self._first(branch, want, is_ready, has_begun, leased, begun, is_wanted)
                if lane is not None and (best is None or lane.window[0] < best[1].window[0]):
                    best = turn, lane, org
        if best is None:
            return None
        self._time, lane, org = best
        org.time = self._time + max(1.0, lane.key.resources.cpus)  # who names less gets no more turns
        job_id = heapq.heappop(lane.window)[2]
        self._relist(lane)
        return job_id

    def _first(
        self,
        branch: Branch,
        want: Want,
        is_ready: Callable[[str], bool],
        has_begun: Callable[[str], bool],
        leased: Counter[Account],
        begun: Counter[Account],
        is_wanted: Callable[[str], bool],
    ) -> Lane | None:
        """Return the branch's first lane that may be served, its head ready."""
        passed: list[tuple[int, int, int, Lane]] = []
        found = None
        heads = branch.heads if want.owner is None else branch.heads_of(want.owner)
        while heads:
            rank, order, _, lane = heads[0]
            if lane.listed_at != (rank, order):
                heapq.heappop(heads)  # the lane is listed elsewhere, or not at all
                continue
            if not want.fits(lane.key.resources) or lane.key.owner in want.without:
                passed.append(heapq.heappop(heads))
                continue
            holder = self._holder(lane, leased)
            owner = lane.owner
            is_full = self.memory.is_full(owner, owner.running + leased[owner], begun[owner])
            is_kept_back = is_full and bool(lane.window) and not has_begun(lane.window[0][2])
            if is_kept_back and not _bring_forward(lane, is_ready):
                holder = owner
            if holder is not None:
                heapq.heappop(heads)
                self._unlist(lane)
                holder.held[lane] = None
                continue
            if not is_kept_back and lane.window and is_ready(lane.window[0][2]):
                if not is_wanted(lane.window[0][2]):
                    passed.append(heapq.heappop(heads))
                    continue
                found = lane
                break
            while lane.window and not is_ready(lane.window[0][2]):
                heapq.heappop(lane.window)
            self._relist(lane)
            if heads is not branch.heads and lane.listed_at is not None:
                heapq.heapreplace(heads, (*lane.listed_at, next(self._numbers), lane))
        for item in passed:
            heapq.heappush(heads, item)
        return found

    def _relist(self, lane: Lane) -> None:
        """Put a lane whose head was taken where it stands now."""
        if lane.head() is None:
            self._unlist(lane)
        self.look_again(lane)

    def _holder(self, lane: Lane, leased: Counter[Account]) -> Account | None:
        """Return the account whose limit holds the lane back."""
        group, owner, most = lane.group, lane.owner, self.quotas.of_owner.running
        if group is not None and group.running + leased[group] >= lane.key.limit:
            return group
        if most is not None and owner.running + leased[owner] >= most:
            return owner
        return None


def _bring_forward(lane: Lane, is_ready: Callable[[str], bool]) -> bool:
    """Let a job of a lane go next that has been tried before; return False if there is none.

    It is in memory in any case, and may be all that keeps others from it. Where it stood, it is passed over.
    """
    while lane.again:
        job_id = next(iter(lane.again))
        del lane.again[job_id]
        if is_ready(job_id):
            rank, order, _ = lane.window[0]
            lane.push((rank, order - 1), job_id)
            return True
    return False


def window_for(lanes: int) -> int:
    """Return how many jobs of each lane are kept in memory if so many lanes have more."""
    return max(SMALLEST_WINDOW, min(WINDOW, WINDOWS // max(1, lanes)))
