"""The ring: the newest lines of live jobs in memory, for who opens a view of a job that runs.

It is fed with what was committed and with nothing else. What it holds of a job is always the end of that job's log,
without a gap.
"""

from __future__ import annotations

from collections import OrderedDict, deque

from zbrain_nb.model.events import LogEntry
from zbrain_nb.store.lines import Lines

#: Lines kept of one job, and about what all lines take together.
MAX_LINES = 5_000
MAX_BYTES = 8 * 1024 * 1024


class Ring:
    """Recent lines by job.

    Parameters
    ----------
    max_lines : int
        Of one job; a little more are kept, for whole events are dropped.
    max_bytes : int
        Of all jobs; the job that was silent for the longest gives first.
    """

    def __init__(self, max_lines: int = MAX_LINES, max_bytes: int = MAX_BYTES) -> None:
        self._max_lines = max_lines
        self._max_bytes = max_bytes
        self._tails: OrderedDict[str, deque[Lines]] = OrderedDict()
        self.held_bytes = 0

    def __len__(self) -> int:
        return len(self._tails)

    def add(self, lines: Lines) -> None:
        """Add the lines that follow those that are here."""
        lines = lines.last(self._max_lines)
        tail = self._tails.get(lines.job_id)
        if tail is None:
            tail = self._tails[lines.job_id] = deque()
        elif tail[-1].end != lines.first:
            self.held_bytes -= sum(old.size_bytes for old in tail)
            tail.clear()
        tail.append(lines)
        self._tails.move_to_end(lines.job_id)
        self.held_bytes += lines.size_bytes
        while lines.end - tail[0].end >= self._max_lines:
            self.held_bytes -= tail.popleft().size_bytes
        while self.held_bytes > self._max_bytes and (len(self._tails) > 1 or len(tail) > 1):
            self._drop_oldest()

    def _drop_oldest(self) -> None:
        job_id, tail = next(iter(self._tails.items()))
        self.held_bytes -= tail.popleft().size_bytes
        if not tail:
            del self._tails[job_id]

    def drop(self, job_id: str) -> None:
        """Forget a job that has ended; harmless if nothing is here."""
        tail = self._tails.pop(job_id, None)
        if tail is not None:
            self.held_bytes -= sum(lines.size_bytes for lines in tail)

    def read(self, job_id: str, from_seq: int, limit: int, stream: str | None = None) -> list[LogEntry] | None:
        """Return up to `limit` lines from `from_seq` on, or None if some of them may not be here.

        Parameters
        ----------
        stream : str, optional
            Only lines of this stream.
        """
        tail = self._tails.get(job_id)
        if tail is None or from_seq < tail[0].first:
            return None
        found: list[LogEntry] = []
        for lines in tail:
            if len(found) >= limit:
                break
            if lines.end > from_seq:
                entries = lines.entries(from_seq)
                found += entries if stream is None else [entry for entry in entries if entry.stream == stream]
        return found[:limit]

    def clear(self) -> None:
        """Forget everything."""
        self._tails.clear()
        self.held_bytes = 0
