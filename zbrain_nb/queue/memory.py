"""How many bytes the jobs in memory take, and how many more may come in.

The index counts them; the ready queues ask whether a job belongs into a window or is left to the store.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from zbrain_nb.model.errors import OverQuota
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.queue.lanes import Account, Lane
from zbrain_nb.queue.quotas import over_first, over_kept
from zbrain_nb.store.footprint import JOB_BYTES

#: What the jobs in all windows may take together; a lane may have a little, and its first job, whatever others have.
WINDOWS_BYTES = 192 * 1024 * 1024
LANE_BYTES = 128 * 1024
#: What the largest jobs of one owner's lanes may take beside `JOB_BYTES` each: each may come to be its lane's first.
FIRST_BYTES_EACH = 256 * 1024 * 1024
#: The same of waiting jobs that cannot be parked, beside `JOB_BYTES` each: small ones, such as the many of a large
#: graph, are bounded by their number alone. The second is one owner's; the third may take whoever has no more, also
#: while others take all there is.
KEPT_BYTES, KEPT_BYTES_EACH, KEPT_BYTES_FREE = 512 * 1024 * 1024, 256 * 1024 * 1024, 16 * 1024 * 1024
#: What one owner's jobs may take beside `JOB_BYTES` each that run or are tried again, until no more of theirs begin
#: beside one that runs; twice as much, until none begins.
BEGUN_BYTES_EACH = 256 * 1024 * 1024


class Memory:
    """The bytes of all jobs in memory.

    Attributes
    ----------
    held : int
        About how many bytes the jobs take that wait in windows and could be parked.
    kept : int
        About how many bytes those take beside `JOB_BYTES` each that wait and cannot be parked.
    """

    def __init__(self) -> None:
        self.held = 0
        self.kept = 0

    def hold(self, lane: Lane, size: int) -> None:
        """Count the bytes of a job that came into memory to wait, or left it (less than 0)."""
        lane.note_size(size - JOB_BYTES)
        lane.held += size
        self.held += size

    def keep(self, lane: Lane, size: int) -> None:
        """Count bytes of a job that waits in memory and cannot be parked, or no longer does (less than 0)."""
        lane.owner.kept += size
        self.kept += size

    def begin(self, lane: Lane, size: int) -> None:
        """Count bytes of a job that runs or is tried again, or no longer does (less than 0)."""
        lane.owner.begun += size

    def is_full(self, owner: Account, running: int, more: int = 0) -> bool:
        """Whether the jobs that have begun of an owner, of whose `running` run, take so much that no other begins.

        Those that the commit under way begins take `more` bytes besides.

        When none runs one begins, though not without end: what is tried again may wait for what never comes, such as a
        worker of its kind.
        """
        return owner.begun + more > (BEGUN_BYTES_EACH if running else 2 * BEGUN_BYTES_EACH)

    def why_full(self, owner: Account) -> str:
        """Return for what an owner's other jobs wait, in words."""
        takes, most = format_kib(owner.begun / 1024), BEGUN_BYTES_EACH / 1024
        return (
            f"Waiting for others of {owner.name} to end: those that run or are tried again take {takes} of the host's "
            f"memory, and beyond {format_kib(most)} others begin only when none runs, beyond {format_kib(2 * most)} "
            "none do. Cancel what need not be tried again, and send what is large in jobs as blobs."
        )

    def check_kept(self, owners: Mapping[str, Account], more: Mapping[str, int], coming: Counter[str]) -> None:
        """Refuse new jobs that could not be parked and take too much.

        Parameters
        ----------
        owners : mapping of str to Account
            Those that have jobs.
        more, coming : mapping of str to int
            How many bytes they take, and the commit under way adds besides, by owner.

        Raises
        ------
        OverQuota
            Naming the limit and how much of it is used.
        """
        in_all, all_more = self.kept + coming.total(), sum(more.values())
        for name, size in more.items():
            owner = owners.get(name)
            used = (owner.kept if owner is not None else 0) + coming[name]
            if size and used + size > KEPT_BYTES_EACH:
                raise over_kept(name, KEPT_BYTES_EACH, used, size)
            if size and used + size > KEPT_BYTES_FREE and in_all + all_more > KEPT_BYTES:
                raise over_kept(None, KEPT_BYTES, in_all, all_more)

    def refuse_first(self, largest: Mapping[Lane, int]) -> OverQuota | None:
        """Return the refusal of new jobs of which too much could come to be first in its lane, where it is not parked.

        Parameters
        ----------
        largest : mapping of Lane to int
            How many bytes the largest of them takes in each lane, beside `JOB_BYTES`.
        """
        more: Counter[Account] = Counter()
        for lane, size in largest.items():
            more[lane.owner] += max(0, size - lane.largest)
        for owner, size in more.items():
            if size and owner.first + size > FIRST_BYTES_EACH:
                return over_first(owner.name, FIRST_BYTES_EACH, owner.first, size)
        return None

    def room(self, lane: Lane) -> int:
        """Return how many bytes more of a lane's jobs may come into memory."""
        return max(0, LANE_BYTES - lane.held, WINDOWS_BYTES - self.held)

    def is_roomy(self, lane: Lane) -> bool:
        """Whether there is so much room that the lane's window should be filled again."""
        return lane.held < LANE_BYTES // 2 or self.held < WINDOWS_BYTES // 2

    def is_heavy(self, lane: Lane) -> bool:
        """Whether the lane's jobs in memory take more than there is room for."""
        return lane.held > 2 * LANE_BYTES and self.held > WINDOWS_BYTES


def window_bytes_for(lanes: int) -> int:
    """Return what the jobs of each window may take that is filled when the queue opens, if there are so many lanes."""
    return max(LANE_BYTES, WINDOWS_BYTES // 2 // max(1, lanes))
