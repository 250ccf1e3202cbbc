"""The audit as the host keeps it: acts are noted in memory and written in the background, a few times a second.

A submit waits for no row of the audit: of a host that is killed the last half second of it is lost. What makes or
revokes a token is written together with its record. What is repeated, or too much, is counted and not kept one by one
(`_Window`), so that nobody can fill the disk with it; what is old goes with its segment
(``ZBRAIN_KEEP_AUDIT_DAYS``).
"""

from __future__ import annotations

import asyncio
import datetime as dt
import logging
from collections import Counter
from collections.abc import Callable, Sequence

import msgspec

from zbrain_nb.model.audit import Outcome, Record
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.queue.background import Background
from zbrain_nb.queue.clock import Clock, as_datetime
from zbrain_nb.store.audit import AuditQuery, audit_records, audit_row, last_audit_seq
from zbrain_nb.store.queries import Cursor
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)

#: Acts are written so long after the first of them.
FLUSH_SECS = 0.5
#: While the store refuses, so many records wait for it; older ones are given up, and counted.
MAX_HELD = 50_000
#: How long is counted, before the count is written.
WINDOW_SECS = 60.0
#: Acts of one caller in one org in a window that have records of their own; of those of one verb, so many in any case.
#: What is done to others' jobs has as many again, that what is done to one's own takes nothing from.
MOST_ACTS, MOST_OF_VERB = 6_000, 100
#: Beyond them acts on others' jobs are counted by owner, for so many owners.
MOST_OWNERS = 1000
#: Different refusals and failures in a window that have records of their own: of one caller (all who are not known
#: are one), and of all.
MOST_OF_ONE, MOST = 20, 1000
#: Characters of what a caller sent that a record repeats.
MAX_TEXT = 300


class AuditLog:
    """Takes records, writes them, and reads them.

    Parameters
    ----------
    storage : Storage
        Open while this is.
    clock : Clock
        For tests.
    """

    def __init__(self, storage: Storage, clock: Clock | None = None) -> None:
        self._storage = storage
        self._clock = clock or Clock()
        self._seq = 0
        self._held: list[Record] = []
        self._lost = 0
        self._is_failing = False
        self._window = _Window()
        self._flushing = asyncio.Lock()
        self._due = asyncio.Event()
        self._writing = Background(self._run)
        self._closing: asyncio.TimerHandle | None = None

    def now(self) -> dt.datetime:
        """Return the time of what happens now."""
        return as_datetime(self._clock.time())

    async def start(self) -> None:
        """Go on after the last record of the store, and write in the background from now on."""
        self._seq = max(self._seq, await self._storage.read(last_audit_seq))
        self._writing.start()

    async def stop(self) -> None:
        """Write what is held, and write no more by itself; harmless if it does not run."""
        if self._closing is not None:
            self._closing.cancel()
            self._close_window()
        if await self._writing.stop():
            await self.flush()

    def note(self, record: Record, other: str = "") -> None:
        """Take the record of an act; what was refused or failed again, or is too much, is counted.

        Parameters
        ----------
        other : str
            Whose job it is about, if not the caller's own.
        """
        if self._window.keeps(record, other):
            self._hold(record)
        if self._closing is None:
            self._closing = asyncio.get_running_loop().call_later(WINDOW_SECS, self._close_window)

    def _hold(self, record: Record) -> None:
        self._seq += 1
        record.seq = self._seq
        self._held.append(record)
        if len(self._held) > MAX_HELD:
            self._lost += len(self._held) - MAX_HELD
            del self._held[:-MAX_HELD]
        self._due.set()

    def _close_window(self) -> None:
        self._closing = None
        window, self._window = self._window, _Window()
        for record in window.counts():
            self._hold(record)

    async def _run(self) -> None:
        while True:
            await self._due.wait()
            await asyncio.sleep(FLUSH_SECS)
            await self.flush()

    async def flush(self) -> None:
        """Write what is held; what the store refuses is kept, and tried again with what comes next."""
        async with self._flushing:
            self._due.clear()
            held, self._held = self._held, []
            if not held:
                return
            if self._lost:
                held.append(self._loss())
            try:
                await self._storage.write(lambda database: database.append_audit([audit_row(one) for one in held]))
            except ZBrainError as error:
                self._held = [*held, *self._held]
                if not self._is_failing:
                    log.error("The audit cannot be written; it is held in memory.", extra={"why": error.message})
                self._is_failing = True
                return
            if self._is_failing:
                log.warning("The audit is written again.", extra={"lost": self._lost})
            self._is_failing, self._lost = False, 0

    def _loss(self) -> Record:
        self._seq += 1
        return Record(
            seq=self._seq,
            ts=self.now(),
            who="",
            verb="audit",
            outcome=Outcome.FAILED,
            reason="So many records could not be kept while the store refused.",
            count=self._lost,
        )

    async def commit(self, records: Sequence[Record], change: Callable[[Cursor], None]) -> None:
        """Make a change of the store together with its records.

        Raises
        ------
        Unavailable
            If the store refused: neither is kept.
        """
        for record in records:
            self._seq += 1
            record.seq = self._seq
        await self._storage.write(lambda database: database.append_audit([audit_row(one) for one in records], change))

    async def read(self, wanted: AuditQuery) -> list[Record]:
        """Return records, newest first, up to this moment."""
        await self.flush()
        return await self._storage.read(audit_records, wanted)


class _Window:
    """One window: which records are kept, and how often the others stood for the like.

    What one does in one org, by one verb, or to one's own jobs takes no records from anything else, so that nobody
    hides an act behind it. The orgs of acts are those that the caller sees, and the jobs counted one by one are no more
    than have records; the orgs and reasons of refusals may be anything, so there is a limit to them.
    """

    def __init__(self) -> None:
        self._acts: Counter[tuple[str, ...]] = Counter()
        self._more: dict[tuple[str, ...], Record] = {}
        self._others: Counter[tuple[str, ...]] = Counter()
        self._objects: dict[tuple[str, ...], Record] = {}
        self._owners: set[str] = set()
        self._kinds: Counter[str] = Counter()
        self._refusals: dict[tuple[str, ...], Record] = {}
        self._folded: dict[tuple[str, str], Record] = {}

    def keeps(self, record: Record, other: str = "") -> bool:
        """Whether the record is to be kept; else it is counted. `other` is whose job it is about."""
        if record.outcome is not Outcome.ALLOWED:
            return self._keeps_refusal(record)
        return self._keeps_act_on_other(record, other) if other else self._keeps_act(record)

    def _keeps_act(self, record: Record) -> bool:
        caller = record.who, record.reason, record.org_id  # the reason of an act is through whose login it was
        key = *caller, record.verb
        self._acts[caller] += 1
        self._acts[key] += 1
        if self._acts[caller] <= MOST_ACTS or self._acts[key] <= MOST_OF_VERB:
            return True
        self._fold(key, record)
        return False

    def _keeps_act_on_other(self, record: Record, other: str) -> bool:
        caller = record.who, record.reason, record.org_id
        key = *caller, record.verb, record.object_id
        counted = self._objects.get(key)
        if counted is not None:
            self._add(counted, record)
            return False
        if self._others[caller] < MOST_ACTS:
            self._others[caller] += 1
            self._objects[key] = msgspec.structs.replace(record, count=0)
            return True
        if other not in self._owners and len(self._owners) >= MOST_OWNERS:
            other = ""
        self._owners.add(other)
        self._fold((*caller, record.verb, other), record, object_kind="owner", object_id=other)
        return False

    def _fold(self, key: tuple[str, ...], record: Record, **about: str) -> None:
        counted = self._more.get(key)
        if counted is None:
            reason = f"{record.reason}: more" if record.reason else "More"
            about = {"object_id": "", **about, "reason": f"{reason} acts than have records of their own."}
            self._more[key] = msgspec.structs.replace(record, **about)
        else:
            self._add(counted, record)

    def _add(self, counted: Record, record: Record) -> None:
        if counted.count == 0:
            counted.ts, counted.token_id = record.ts, record.token_id
        counted.count += record.count
        if counted.token_id != record.token_id:
            counted.token_id = ""

    def _keeps_refusal(self, record: Record) -> bool:
        who = record.who
        key = who, record.token_id, record.verb, record.org_id, record.reason, record.address
        counted = self._refusals.get(key)
        if counted is not None:
            if counted.count == 0:
                counted.ts = record.ts
            counted.count += record.count
            return False
        if self._kinds[who] < MOST_OF_ONE and len(self._refusals) < MOST:
            self._kinds[who] += 1
            self._refusals[key] = msgspec.structs.replace(record, count=0)
            return True
        fold = (who if self._kinds[who] >= MOST_OF_ONE else "", record.org_id)
        if fold not in self._folded and len(self._folded) >= MOST:
            fold = "", ""
        if fold in self._folded:
            self._folded[fold].count += record.count
        else:
            who, org_id = fold
            self._folded[fold] = Record(
                ts=record.ts,
                who=who,
                org_id=org_id,
                verb="",
                outcome=record.outcome,
                reason="Many different ones.",
                count=record.count,
            )
        return False

    def counts(self) -> list[Record]:
        """Return a record for all of a kind that were counted."""
        counted = (*self._refusals.values(), *self._folded.values(), *self._objects.values(), *self._more.values())
        return [record for record in counted if record.count]
