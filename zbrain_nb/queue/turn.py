"""One command's turn with the decider: what it sees, and what it wants written, remembered and said.

A command sees the index through the overlay of the commit being decided, so that it builds on what earlier
commands of the same commit decided. It raises before it changes anything, or not at all.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import msgspec

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import Job
from zbrain_nb.model.transitions import advance
from zbrain_nb.queue.index import Entry, Index
from zbrain_nb.store.rows import Change, encode, job_row

_NOTHING: Any = ()


class Fact(msgspec.Struct, gc=False):
    """An event before anybody was found to want it; `job` is set instead of `data` for a submit."""

    seq: int
    kind: str
    job_id: str
    org_id: str
    attempt: int
    ts: float
    data: dict[str, Any] | None
    job: Job | None = None


class Turn(Change):
    """What one command decided.

    Attributes
    ----------
    now : float
        When the commit is decided, seconds since the epoch.
    entries : dict of str to Entry
        Jobs as they will be, by id.
    facts : list of Fact
        What to publish.
    answer : object
        What the caller gets once all is durable.
    error : ZBrainError or None
        What the caller gets instead.
    """

    __slots__ = ("_index", "_next_seq", "_overlay", "_undo", "answer", "entries", "error", "facts", "future", "now")
    facts: list[Fact]

    def __init__(
        self,
        index: Index,
        overlay: dict[str, Entry],
        next_seq: Callable[[], int],
        now: float,
        future: asyncio.Future[Any] | None,
    ) -> None:
        self.now = now
        # Most turns are one submit: lists are made when something is put into them.
        self.keys = self.jobs = self.transitions = self.logs = self.facts = _NOTHING
        self.entries: dict[str, Entry] = {}
        self.answer: Any = None
        self.error: ZBrainError | None = None
        self.future = future
        self._index = index
        self._overlay = overlay
        self._next_seq = next_seq
        self._undo: list[Callable[[], None]] | None = None

    def entry(self, job_id: str) -> Entry | None:
        """Return the job as decided so far, or None if it is neither live nor lately ended."""
        return self._overlay.get(job_id) or self._index.get(job_id)

    def borrow(self, entries: dict[str, Entry]) -> None:
        """Let the command see ended jobs that were read from the store."""
        for job_id, entry in entries.items():
            if job_id not in self._overlay and job_id not in self._index.live:
                self._overlay[job_id] = entry

    def put(self, entry: Entry) -> None:
        """Remember the job as it will be."""
        job_id = entry.job.id
        self.touch(job_id)
        self.entries[job_id] = entry
        self._overlay[job_id] = entry

    def touch(self, job_id: str) -> None:
        """Note that what is decided here rests on this job."""
        if self.keys is _NOTHING:
            self.keys = [job_id]
        else:
            self.keys.append(job_id)

    def on_discard(self, undo: Callable[[], None]) -> None:
        """Have `undo` called if the commit fails."""
        if self._undo is None:
            self._undo = []
        self._undo.append(undo)

    def discard(self) -> None:
        """Take back what was remembered outside the overlay."""
        for undo in reversed(self._undo or ()):
            undo()

    def create(
        self, job: Job, blockers: set[str] | frozenset[str], payload_hash: str | None = None, spec: bytes | None = None
    ) -> Entry:
        """Add a new job; `job` is the queue's own copy, `spec` its encoded spec, if it is at hand."""
        seq = job.event_seq = self._next_seq()
        row = job_row(job, seq, payload_hash, spec)
        if self.jobs is _NOTHING:
            self.jobs = [row]
        else:
            self.jobs.append(row)
        entry = Entry(job, seq, blockers)
        self.put(entry)
        ts = job.created_at.timestamp()
        self._say(Fact(seq, "job_submitted", job.id, job.org_id, 0, ts, None, job))
        return entry

    def move(self, entry: Entry, kind: str, patch: dict[str, Any], worker_seq: int | None = None) -> Entry:
        """Change fields of a job.

        Parameters
        ----------
        kind : str
            Of the event that says so.
        patch : dict
            New values by field name; those that are no change are left out, ``event_seq`` is added.
        worker_seq : int, optional
            The worker's number for this event.

        Raises
        ------
        WrongState
            If the state machine does not allow it.
        """
        seq = self._next_seq()
        patch = {name: value for name, value in patch.items() if value != getattr(entry.job, name)}
        patch["event_seq"] = seq
        job = advance(entry.job, patch)
        data = encode(patch)
        self._record(seq, job, kind, data, worker_seq)
        self._say(Fact(seq, kind, job.id, job.org_id, job.attempt, self.now, msgspec.json.decode(data)))
        moved = entry.copy()
        moved.job = job
        if worker_seq is not None:
            moved.high = worker_seq
        if job.attempt != entry.job.attempt:
            moved.past = {**entry.past, entry.job.attempt: entry.high}
            moved.high = 0
        self.put(moved)
        return moved

    def display(self, entry: Entry, outputs: list[dict[str, Any]], worker_seq: int) -> Entry:
        """Append rich outputs."""
        seq = self._next_seq()
        data = encode({"outputs": outputs})
        job = entry.job
        self._record(seq, job, "job_displayed", data, worker_seq)
        said = msgspec.json.decode(data)
        self._say(Fact(seq, "job_displayed", job.id, job.org_id, job.attempt, self.now, said))
        return self._advance_high(entry, worker_seq)

    def note(self, entry: Entry, worker_seq: int) -> Entry:
        """Remember that a worker's event was taken which changes nothing else."""
        self._record(self._next_seq(), entry.job, "noted", b"{}", worker_seq)
        return self._advance_high(entry, worker_seq)

    def append_log(self, entry: Entry, lines: list[tuple[str, float, str]], worker_seq: int | None) -> Entry:
        """Append lines, ``(stream, ts, line)``, to the job's log."""
        seq = self._next_seq()
        job, log_seq = entry.job, entry.log_seq
        job_id, attempt = job.id, job.attempt
        if self.logs is _NOTHING:
            self.logs = []
        self.logs.extend(
            (job_id, log_seq + i, attempt, worker_seq, seq, stream, round(ts * 1e6), line)
            for i, (stream, ts, line) in enumerate(lines)
        )
        entries = [
            {"seq": log_seq + i, "attempt": attempt, "stream": stream, "ts": ts, "line": line}
            for i, (stream, ts, line) in enumerate(lines)
        ]
        self._say(Fact(seq, "job_logged", job_id, job.org_id, attempt, lines[0][1], {"entries": entries}))
        logged = entry.copy()
        logged.log_seq = log_seq + len(lines)
        if worker_seq is not None:
            logged.high = worker_seq
        self.put(logged)
        return logged

    def _advance_high(self, entry: Entry, worker_seq: int) -> Entry:
        moved = entry.copy()
        moved.high = worker_seq
        self.put(moved)
        return moved

    def _say(self, fact: Fact) -> None:
        if self.facts is _NOTHING:
            self.facts = [fact]
        else:
            self.facts.append(fact)

    def _record(self, seq: int, job: Job, kind: str, data: bytes, worker_seq: int | None) -> None:
        if self.transitions is _NOTHING:
            self.transitions = []
        self.transitions.append(
            (seq, job.id, job.org_id, job.attempt, kind, round(self.now * 1e6), data.decode(), worker_seq)
        )
