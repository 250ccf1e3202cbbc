"""Which jobs ended and left the memory since a moment: a read that began before may show them as waiting.

The index notes each as it goes. Who reads jobs from the store (`refill.py`, `core.py`) holds the moment before the
read until what was read is taken over.
"""

from __future__ import annotations


class Moment:
    """A moment in the order in which ended jobs leave the memory.

    Each moment holds the next, and none the one before: what nobody looks back to any more is freed by itself,
    however a read came to its end.
    """

    __slots__ = ("_job_id", "_next")

    def __init__(self, job_id: str = "") -> None:
        self._job_id = job_id
        self._next: Moment | None = None

    def pass_on(self, job_id: str) -> Moment:
        """Return the moment after this one, at which a job left; called once."""
        self._next = Moment(job_id)
        return self._next

    def gone_since(self) -> set[str]:
        """Return the ids of the jobs that left since."""
        found = set()
        moment = self._next
        while moment is not None:
            found.add(moment._job_id)
            moment = moment._next
        return found
