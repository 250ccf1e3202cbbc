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
from zbrain_nb.queue.index import Entry, FirstOf, Index, KeyOf
from zbrain_nb.queue.loglines import Columns
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import Change, encode, job_row

Command = Callable[["Turn"], Any]


class Fact(msgspec.Struct, gc=False):
    """What happened to a job, as an event before anybody was found to want it.

    Attributes
    ----------
    data : bytes or Lines
        The event's data as JSON, or what becomes ``{"entries": [...]}``.
    job, before : Job or None
        For a change of the job: as it is now, and as it was.
    """

    seq: int
    kind: str
    job_id: str
    org_id: str
    attempt: int
    ts: float
    data: bytes | Lines
    job: Job | None = None
    before: Job | None = None


class Stage:
    """One commit while it is decided.

    Parameters
    ----------
    index : Index
        Jobs as they were committed.
    next_seq : callable
        Gives the next ``event_seq``.
    now : float
        Time of the commit, seconds since the epoch.
    """

    __slots__ = ("firsts", "index", "next_seq", "now", "overlay")

    def __init__(self, index: Index, next_seq: Callable[[], int], now: float) -> None:
        self.index = index
        self.next_seq = next_seq
        self.now = now
        self.overlay: dict[str, Entry] = {}
        self.firsts: dict[KeyOf, FirstOf] = {}


_NOTHING: Any = ()


class Turn(Change):
    """What one command decides.

    Parameters
    ----------
    command : callable
        Called with this turn; returns the answer.
    subject : object
        What the command is about, if it does not know by itself.
    future : Future
        Gets the answer once all is durable.

    Attributes
    ----------
    entries : dict of str to Entry
        Jobs as they will be, by id.
    facts : list of Fact or Job
        What to publish; a new job stands for its own submit.
    claims : list of (owner, key) and (job id, payload hash)
        Idempotency keys that are taken when this is committed.
    answer : object
        What the caller gets.
    error : ZBrainError or None
        What the caller gets instead.
    """

    __slots__ = ("_command", "_stage", "answer", "claims", "entries", "error", "facts", "future", "subject")
    facts: list[Fact | Job]
    claims: list[tuple[KeyOf, FirstOf]]

    def __init__(self, command: Command, subject: Any, future: asyncio.Future[Any]) -> None:
        # Most turns are one submit: lists are made when something is put into them.
        self.touched = self.jobs = self.transitions = self.logs = self.facts = self.claims = _NOTHING
        self.entries: dict[str, Entry] = {}
        self.answer: Any = None
        self.error: ZBrainError | None = None
        self.future = future
        self.subject = subject
        self._command = command
        self._stage: Stage

    def take(self, stage: Stage) -> None:
        """Let the command decide."""
        self._stage = stage
        self.answer = self._command(self)

    @property
    def now(self) -> float:
        """When the commit is decided, seconds since the epoch."""
        return self._stage.now

    @property
    def keys(self) -> list[str]:
        """Ids of the jobs that the turn reads or writes."""
        return [*self.entries, *self.touched]

    def entry(self, job_id: str) -> Entry | None:
        """Return the job as decided so far, or None if it is neither live nor lately ended."""
        return self._stage.overlay.get(job_id) or self._stage.index.get(job_id)

    def borrow(self, entries: dict[str, Entry]) -> None:
        """Let the command see ended jobs that were read from the store."""
        stage = self._stage
        for job_id, entry in entries.items():
            if job_id not in stage.overlay and job_id not in stage.index.live:
                stage.overlay[job_id] = entry

    def put(self, entry: Entry) -> None:
        """Remember the job as it will be."""
        job_id = entry.job.id
        self.entries[job_id] = self._stage.overlay[job_id] = entry

    def touch(self, job_id: str) -> None:
        """Note that what is decided here rests on this job."""
        if self.touched is _NOTHING:
            self.touched = []
        self.touched.append(job_id)

    def first_of(self, key: KeyOf) -> FirstOf | None:
        """Return who took an idempotency key, as decided so far; older ones only the store knows."""
        return self._stage.firsts.get(key) or self._stage.index.keys.get(key)

    def claim(self, key: KeyOf, first: FirstOf) -> None:
        """Take an idempotency key."""
        if self.claims is _NOTHING:
            self.claims = []
        self.claims.append((key, first))
        self._stage.firsts[key] = first

    def create(
        self, job: Job, blockers: set[str] | frozenset[str], payload_hash: str | None = None, spec: bytes | None = None
    ) -> Entry:
        """Add a new job; `job` is the queue's own copy, `spec` its encoded spec, if it is at hand."""
        seq = job.event_seq = self._stage.next_seq()
        row = job_row(job, seq, payload_hash, spec)
        if self.jobs is _NOTHING:
            self.jobs = [row]
        else:
            self.jobs.append(row)
        entry = Entry(job, seq, blockers)
        self.put(entry)
        self._say(job)
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
        seq = self._stage.next_seq()
        patch = {name: value for name, value in patch.items() if value != getattr(entry.job, name)}
        patch["event_seq"] = seq
        job = advance(entry.job, patch)
        data = encode(patch)
        self._record(seq, job, kind, data, worker_seq)
        self._say(Fact(seq, kind, job.id, job.org_id, job.attempt, self.now, data, job, entry.job))
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
        seq = self._stage.next_seq()
        data = encode({"outputs": outputs})
        job = entry.job
        self._record(seq, job, "job_displayed", data, worker_seq)
        self._say(Fact(seq, "job_displayed", job.id, job.org_id, job.attempt, self.now, data))
        return self._advance_high(entry, worker_seq)

    def note(self, entry: Entry, worker_seq: int) -> Entry:
        """Remember that a worker's event was taken which changes nothing else."""
        self._record(self._stage.next_seq(), entry.job, "noted", b"{}", worker_seq)
        return self._advance_high(entry, worker_seq)

    def append_log(self, entry: Entry, lines: Columns, worker_seq: int | None) -> Entry:
        """Append lines to the job's log."""
        seq = self._stage.next_seq()
        job = entry.job
        appended = Lines(
            job.id,
            entry.log_seq,
            job.attempt,
            worker_seq,
            seq,
            lines.streams,
            lines.micros,
            lines.texts,
            lines.text_chars,
        )
        if self.logs is _NOTHING:
            self.logs = []
        self.logs.append(appended)
        self._say(Fact(seq, "job_logged", job.id, job.org_id, job.attempt, appended.ts, appended))
        logged = entry.copy()
        logged.log_seq = appended.end
        if worker_seq is not None:
            logged.high = worker_seq
        self.put(logged)
        return logged

    def _advance_high(self, entry: Entry, worker_seq: int) -> Entry:
        moved = entry.copy()
        moved.high = worker_seq
        self.put(moved)
        return moved

    def _say(self, fact: Fact | Job) -> None:
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
