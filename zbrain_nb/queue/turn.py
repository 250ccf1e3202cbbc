"""One command's turn with the decider: what it sees, and what it wants written, remembered and said.

A command sees the index through the overlay of the commit being decided, so that it builds on what earlier
commands of the same commit decided. It raises before it changes anything, or not at all.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Sequence
from typing import Any

import msgspec

from zbrain_nb.model.amounts import VALUE_BYTES, WIDE_BYTES
from zbrain_nb.model.errors import Unavailable, ZBrainError
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.transitions import advance
from zbrain_nb.queue.branches import Want
from zbrain_nb.queue.index import Entry, Index, left_bytes
from zbrain_nb.queue.keys import FirstOf, KeyOf
from zbrain_nb.queue.lanes import MAX_LANES_EACH, Account, Lane, rank_of
from zbrain_nb.queue.loglines import Columns
from zbrain_nb.queue.moments import Moment
from zbrain_nb.queue.quotas import over_lanes, over_pending
from zbrain_nb.store.footprint import JOB_BYTES, extra_bytes, extra_bytes_of_spec
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import JOBS, Change, encode, job_row

_EXTRA = JOBS.names.index("extra_bytes")

Command = Callable[["Turn"], Any]


class LookAgain(Unavailable):
    """What was read from the store for a command went out of date before its turn: it is read again."""


class Borrowed(msgspec.Struct):
    """Jobs that may not be in memory at the turn of a command, as they were when it was prepared.

    Attributes
    ----------
    entries : dict of str to Entry
        By id.
    moment : Moment
        The last before they were read.
    in_memory : frozenset of str
        Jobs that were not read because they were in memory, and had not ended.
    absent : frozenset of str
        Jobs that the store does not have.
    """

    entries: dict[str, Entry]
    moment: Moment
    in_memory: frozenset[str] = frozenset()
    absent: frozenset[str] = frozenset()


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

    Attributes
    ----------
    leased : Counter of Account
        How many jobs the commit starts, which no account counts yet.
    begun : Counter of Account
        How many bytes of `Account.begun` it adds.
    created : Counter of (str, str)
        How many it adds, by ``("org", name)`` and ``("owner", name)``.
    spec_bytes : Counter of (str, str)
        How many bytes their specs have, likewise.
    kept : Counter of str
        How many bytes of `Account.kept` it adds, by owner.
    """

    __slots__ = (
        "base",
        "begun",
        "created",
        "firsts",
        "index",
        "kept",
        "leased",
        "next_seq",
        "now",
        "overlay",
        "spec_bytes",
    )

    def __init__(self, index: Index, next_seq: Callable[[], int], now: float) -> None:
        self.index = index
        self.next_seq = next_seq
        self.now = now
        self.base = index.rank_base(now)
        self.overlay: dict[str, Entry] = {}
        self.leased: Counter[Account] = Counter()
        self.begun: Counter[Account] = Counter()
        self.created: Counter[tuple[str, str]] = Counter()
        self.spec_bytes: Counter[tuple[str, str]] = Counter()
        self.kept: Counter[str] = Counter()
        self.firsts: dict[KeyOf, FirstOf] = {}


_NOTHING: Any = ()


def _is_any(job_id: str) -> bool:
    return True


def _most_extra_bytes(spec: bytes) -> int:
    """Return what `extra_bytes_of_spec` never goes beyond."""
    return (VALUE_BYTES + WIDE_BYTES) * (len(spec) + 1)


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

    __slots__ = (
        "_absent",
        "_command",
        "_expected",
        "_stage",
        "answer",
        "claims",
        "entries",
        "error",
        "facts",
        "future",
        "subject",
    )
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
        self._expected: frozenset[str] = frozenset()
        self._absent: frozenset[str] = frozenset()
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
        """Return the job as decided so far, or None if it is neither in memory nor borrowed.

        Raises
        ------
        LookAgain
            If it was in memory when the command was prepared.
        """
        found = self._stage.overlay.get(job_id) or self._stage.index.get(job_id)
        if found is None and job_id in self._expected:
            raise LookAgain("The job has to be looked up again.", "Try again.")
        return found

    def borrow(self, borrowed: Borrowed) -> None:
        """Let the command see jobs that were read from the store.

        Raises
        ------
        LookAgain
            If one has ended, and left the memory, since it was read.
        """
        stage, self._expected, self._absent = self._stage, borrowed.in_memory, borrowed.absent
        gone = borrowed.moment.gone_since()
        for job_id, entry in borrowed.entries.items():
            if job_id in stage.overlay or stage.index.get(job_id) is not None:
                continue
            if not entry.job.state.ended and job_id in gone:
                raise LookAgain("The job has to be looked up again.", "Try again.")
            stage.overlay[job_id] = entry

    def is_absent(self, job_id: str) -> bool:
        """Whether the store was asked for the job and does not have it (any more)."""
        return job_id in self._absent

    def undo(self, earlier: Sequence[Turn]) -> None:
        """Forget all that was decided, for the command raised midway; `earlier` are the turns before this one."""
        overlay = self._stage.overlay
        for job_id in self.entries:
            before = next((turn.entries[job_id] for turn in reversed(earlier) if job_id in turn.entries), None)
            if before is None:
                overlay.pop(job_id, None)
            else:
                overlay[job_id] = before
        for key, _ in self.claims:
            self._stage.firsts.pop(key, None)
        self.entries = {}
        self.jobs = self.transitions = self.logs = self.facts = self.claims = _NOTHING

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
        stage = self._stage
        ready = stage.index.ready
        lane = ready.lane(job)
        seq = job.event_seq = stage.next_seq()
        rank = rank_of(stage.base, job.spec.priority)
        row = job_row(job, seq, payload_hash, spec, None if job.spec.after else lane.text, rank)
        if self.jobs is _NOTHING:
            self.jobs = [row]
        else:
            self.jobs.append(row)
        entry = Entry(job, seq, rank, lane, blockers, size=JOB_BYTES + (row[_EXTRA] or 0))
        if not job.spec.after:
            lane.note_size(row[_EXTRA] or 0)
        self.put(entry)
        self._say(job)
        return entry

    def check_room(self, jobs: Sequence[Job], specs: Sequence[bytes]) -> None:
        """Refuse new jobs for which an org or an owner has too many that wait already, or stores too much.

        Those that wait for others stay in memory, as the first of each lane, and are refused where these take too much
        of it. One owner's jobs wait in no more than `MAX_LANES_EACH` lanes: all are looked through for who takes theirs
        alone.

        Parameters
        ----------
        specs : sequence of bytes
            Theirs, encoded.

        Raises
        ------
        OverQuota
            Naming the limit and how much of it is used.
        """
        self._stage.index.stored.check_jobs(jobs, specs, self._stage.spec_bytes)
        self._check_kept(jobs, specs)
        ready, created = self._stage.index.ready, self._stage.created
        for owner in {job.owner for job in jobs}:
            account = ready.owners.get(owner)
            if len(jobs) + (account.lanes if account is not None else 0) > MAX_LANES_EACH:
                self._check_lanes([job for job in jobs if job.owner == owner])
        self._check_first(jobs, specs)
        if not ready.quotas.limits("pending"):
            return
        more = Counter(("org", job.org_id) for job in jobs) + Counter(("owner", job.owner) for job in jobs)
        for (what, name), number in more.items():
            account = (ready.orgs if what == "org" else ready.owners).get(name)
            used = (account.waiting if account is not None else 0) + created[what, name]
            most = ready.quotas.of(what, name).pending
            if most is not None and used + number > most:
                raise over_pending(what, name, most, used, number)
        created.update(more)

    def _check_kept(self, jobs: Sequence[Job], specs: Sequence[bytes]) -> None:
        more: Counter[str] = Counter()
        for job, spec in zip(jobs, specs, strict=True):
            if job.spec.after:
                more[job.owner] += extra_bytes_of_spec(spec)
        if more:
            ready = self._stage.index.ready
            ready.memory.check_kept(ready.owners, more, self._stage.kept)
            self._stage.kept.update(more)

    def _check_first(self, jobs: Sequence[Job], specs: Sequence[bytes]) -> None:
        ready, refusal = self._stage.index.ready, None
        for size_of in (_most_extra_bytes, extra_bytes_of_spec):  # the first is told at once, and most often enough
            largest: dict[Lane, int] = {}
            for job, spec in zip(jobs, specs, strict=True):
                if not job.spec.after:
                    lane = ready.lane(job)
                    largest[lane] = max(size_of(spec), largest.get(lane, 0))
            refusal = ready.memory.refuse_first(largest)
            if refusal is None:
                return
        if refusal is not None:
            raise refusal

    def _check_lanes(self, jobs: Sequence[Job]) -> None:
        for job in jobs:
            lane = self._stage.index.ready.lane(job)
            if lane.owner.lanes > MAX_LANES_EACH and lane.members <= 0:
                raise over_lanes(job.owner, MAX_LANES_EACH)

    def next_ready(self, want: Want) -> Entry | None:
        """Take the job that goes next out of its lane, or None."""
        is_wanted = _is_any
        if want.only_calls:
            is_wanted = self._is_plain_call
        elif want.only_rerunnable:
            is_wanted = self._is_rerunnable
        stage = self._stage
        job_id = stage.index.ready.take(want, self._is_ready, self._has_begun, stage.leased, stage.begun, is_wanted)
        return None if job_id is None else self.entry(job_id)

    def _is_plain_call(self, job_id: str) -> bool:
        entry = self.entry(job_id)
        return entry is not None and entry.job.spec.is_plain_call

    def _is_rerunnable(self, job_id: str) -> bool:
        entry = self.entry(job_id)
        return entry is not None and entry.job.spec.reruns_if_lost

    def _is_ready(self, job_id: str) -> bool:
        entry = self.entry(job_id)
        if entry is None:
            return False
        if entry.is_ready(self.now):
            return True
        if entry.job.state is JobState.RETRYING:  # the clock was set back since its back-off was over
            self._stage.index.line_up(entry)
        return False

    def _has_begun(self, job_id: str) -> bool:
        entry = self.entry(job_id)
        return entry is not None and entry.job.attempt > 0

    def count_leased(self, entry: Entry) -> None:
        """Let later leases of this commit know that this one is given."""
        lane = entry.lane
        if lane is not None:
            self._stage.leased.update([lane.org, lane.owner, *([lane.group] if lane.group else [])])
            if not entry.job.attempt:
                self._stage.begun[lane.owner] += entry.size - JOB_BYTES

    def move(self, entry: Entry, kind: str, patch: dict[str, Any], worker_seq: int | None = None) -> Entry:
        """Change fields of a job.

        Parameters
        ----------
        kind : str
            Of the event that says so.
        patch : dict
            New values by field name; those that are no change are left out, ``event_seq`` is added, and of a job that
            waited ``reason``.
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
        if entry.job.state is JobState.PENDING:
            patch.setdefault("reason", None)  # takes back why it waits, which readers see but no job keeps
        job = advance(entry.job, patch)
        data = encode(patch)
        self._record(seq, job, kind, data, worker_seq)
        self._say(Fact(seq, kind, job.id, job.org_id, job.attempt, self.now, data, job, entry.job))
        moved = entry.copy()
        moved.job = job
        if job.state.ended:
            moved.size += extra_bytes(data)
        elif job.state is not entry.job.state:
            moved.size += left_bytes(job) - left_bytes(entry.job)
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
