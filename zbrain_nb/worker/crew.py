"""The sessions of one worker: which call goes to which, how many calls are taken ahead, what goes back.

Where calls are so brief that a round trip to the queue takes longer than they do, more are leased than there are slots,
and wait in the order books of the sessions. When one of them turns out to be long, what waits behind it is taken back:
it goes to another session, or to the queue, as if it had never been leased.
"""

from __future__ import annotations

import asyncio
import logging
import os
import time
from collections.abc import Awaitable, Callable, Mapping
from pathlib import Path

import msgspec

from zbrain_nb.model.ids import new_id
from zbrain_nb.model.job import Job
from zbrain_nb.worker.calls import PACKET_BYTES, SESSION_PREFIX, Call, OrderReader, unpack_numbers
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.finishing import Ending
from zbrain_nb.worker.folder import Launcher, WorkerFolder
from zbrain_nb.worker.masking import Mask
from zbrain_nb.worker.preparing import session_request
from zbrain_nb.worker.request import RunRequest, read_request
from zbrain_nb.worker.run import Key, Run
from zbrain_nb.worker.session import Session, not_begun
from zbrain_nb.worker.spool import End, Kind, SpoolReader

log = logging.getLogger(__name__)
#: Calls are taken ahead for so many seconds of work of each slot, and back when nothing has moved for longer.
AHEAD_SECS = 0.1
BACK_SECS = 0.1
AHEAD_CALLS = 256
#: Commands have a supervisor of their own each while they take longer: starting it is not what takes the time.
BRIEF_SECS = 0.05
#: While no slot was free for so long none are taken ahead: they drain, and what else waits at the queue gets its turn.
TURN_SECS = 1.0
#: So many sessions without calls are kept for more of their kind.
IDLE_SESSIONS = 4
#: What a call costs besides its own time, about.
_OVERHEAD_SECS = 0.0003
_DECAY = 0.8


class Crew:
    """All sessions of one worker (an `Employer`).

    Parameters
    ----------
    folder, launcher : WorkerFolder, Launcher
        Where they run and who starts them.
    worker_id : str
        Who runs them.
    temp_dir : str, optional
        Where calls without a ``cwd`` run.
    slots : int
        How many calls run at once, at most.
    others : callable
        Returns how many slots are taken up by other runs.
    launch, see_gone, finish, told, over : callable
        See `Employer`.

    Attributes
    ----------
    blobs : Path or None
        The queue's artifact store, if it is on this disk; without it there are no sessions.
    way_back : mapping of str to str
        See `Link.way_back`.
    """

    def __init__(
        self,
        folder: WorkerFolder,
        launcher: Launcher,
        worker_id: str,
        *,
        slots: int,
        temp_dir: str | None = None,
        others: Callable[[], int],
        launch: Callable[[Run], Awaitable[None]],
        see_gone: Callable[[Run], Awaitable[None]],
        finish: Callable[[Run, RunRequest, End], Awaitable[Ending]],
        told: Callable[[], None],
        over: Callable[[Run], None],
    ) -> None:
        self.blobs: Path | None = None
        self.way_back: Mapping[str, str] = {}
        self.launch, self.finish, self.told, self.over = launch, finish, told, over
        self.see_gone = see_gone
        self._folder = folder
        self._launcher = launcher
        self._worker_id = worker_id
        self._temp_dir = temp_dir
        self._slots = slots
        self._others = others
        self._sessions: list[Session] = []
        self._call_secs = AHEAD_SECS  # how long calls take of late; a guess on the long side
        self._looking: asyncio.TimerHandle | None = None
        self._is_leaving = False
        self._turn_ends = time.monotonic() + TURN_SECS  # from then on none are taken ahead until a slot is free

    @property
    def busy(self) -> int:
        """How many slots its calls take up."""
        return sum(bool(session.open) for session in self._sessions)

    def _free(self) -> int:
        return max(0, self._slots - self._others() - self.busy)

    def takes(self, job: Job) -> bool:
        """Whether a job is a call for a session; a command is one when such have been brief, or no slot is free."""
        spec = job.spec
        if self.blobs is None or not spec.is_plain_call:
            return False
        if (spec.input or spec.cmd) and len(msgspec.json.encode((spec.input, spec.cmd))) > PACKET_BYTES // 2:
            return False
        if spec.cmd is not None:
            return self._call_secs < BRIEF_SECS or not self._free()
        return os.path.exists(self._path(job))

    def _path(self, job: Job) -> str:
        if job.spec.function is None:
            return ""
        digest = job.spec.function
        return f"{self.blobs}/{digest[:2]}/{digest[2:]}"

    def ahead(self) -> int:
        """Return how many calls to lease beyond one for each free slot."""
        free, moment = self._free(), time.monotonic()
        if free:
            self._turn_ends = moment + TURN_SECS
        elif moment >= self._turn_ends:
            return 0
        each = min(AHEAD_CALLS, int(AHEAD_SECS / (self._call_secs + _OVERHEAD_SECS)))
        if self.blobs is None or each <= 1:
            return 0
        brisk = [one for one in self._sessions if one.open and not (one.is_closed or one.is_stuck(BACK_SECS))]
        most = each * (len(brisk) + free) - free
        room = most - sum(len(session.open) for session in brisk)
        return room if room >= most // 2 else 0

    def start(self, runs: list[Run]) -> None:
        """Give calls that were leased to sessions; those for which there is none go back."""
        shares: dict[Session, list[Run]] = {}
        for run in runs:
            session = self._choose(run, shares)
            if session is None:
                self._turn_ends = time.monotonic()  # more of the kind would come and go for nothing
                self._return(run)
            else:
                shares.setdefault(session, []).append(run)
        for session, share in shares.items():
            self._hand_over(session, share)
        if self._looking is None:
            self._look_later()

    def _choose(self, run: Run, shares: dict[Session, list[Run]]) -> Session | None:
        assert run.job is not None
        if self._is_leaving:
            return None
        key = _key(run.job)

        def load(session: Session) -> int:
            return len(session.open) + len(shares.get(session, ()))

        mine = [one for one in self._sessions if one.key == key and not (one.is_closed or one.is_stuck(BACK_SECS))]
        best = min(mine, key=load, default=None)
        free = self._free() - sum(not session.open for session in shares)
        if free > 0 and (best is None or load(best)):
            self._close_idle(shares)
            return self._open(run.job, key)
        if best is not None and (free > 0 or load(best)):
            return best
        return None

    def _close_idle(self, shares: dict[Session, list[Run]]) -> None:
        """Close the sessions that have had nothing to do for longest, but for a few."""
        idle = [one for one in self._sessions if not (one.open or one.is_closed or one in shares)]
        idle.sort(key=lambda one: one.moved_at, reverse=True)
        for session in idle[IDLE_SESSIONS:]:
            session.close()

    def _open(self, job: Job, key: object) -> Session | None:
        session_id = f"{SESSION_PREFIX}{new_id()}"
        request = session_request(self._folder, job, session_id, self._temp_dir, self.way_back)
        try:
            self._launcher.write(request, b"{}")
            own = Run(session_id, 0, None, Delivery(session_id, 0, self._worker_id), request=request)
            session = Session(self._folder, own, key, self)
        except OSError as error:
            log.warning("session cannot be opened", extra={"why": str(error)})
            return None
        self._sessions.append(session)
        session.begin()
        return session

    def _hand_over(self, session: Session, runs: list[Run]) -> None:
        try:
            session.take([(run, self._path(run.job)) for run in runs if run.job is not None])
        except OSError as error:
            log.warning("calls cannot be handed over", extra={"why": str(error)})
            for run in runs:
                self._return(run)

    def _return(self, run: Run) -> None:
        """Give a call back to the queue that was not begun."""
        run.ended = True
        run.delivery.close(not_begun(run).event)
        self.told()

    def withdrawn(self, runs: list[Run]) -> None:
        """Find another session for calls that one has given back."""
        if not runs:
            return
        self._call_secs = max(self._call_secs, AHEAD_SECS)
        again = []
        for run in runs:
            if run.stale:
                self.over(run)
            elif run.canceled or run.job is None:
                self._return(run)  # the queue knows that it was canceled; of an adopted one only the queue has the job
            else:
                again.append(run)
        self.start(again)

    def learn(self, secs: float) -> None:
        """Hear how long a call took: long ones are believed at once, short ones slowly."""
        self._call_secs = max(secs, _DECAY * self._call_secs + (1 - _DECAY) * secs)

    def _look_later(self) -> None:
        self._looking = asyncio.get_running_loop().call_later(BACK_SECS / 2, self._look)

    def _look(self) -> None:
        """Take back what waits behind a call that is long."""
        self._looking = None
        for session in self._sessions:
            if len(session.open) > 1 and session.is_stuck(BACK_SECS) and not session.is_withdrawing:
                session.withdraw()
        if self.busy:
            self._look_later()

    def ended(self, session: Session) -> None:
        """Forget a session."""
        self._sessions.remove(session)
        self.told()

    def wake(self) -> None:
        """Let all sessions look at their spools."""
        for session in self._sessions:
            session.own.wake.set()

    async def close(self) -> None:
        """Let go of all sessions; their foremen go on with what they have."""
        if self._looking is not None:
            self._looking.cancel()
        tasks = [session.own.task for session in self._sessions if session.own.task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        for session in self._sessions:
            session.let_go()

    def terminate_all(self) -> None:
        """End all calls, without waiting."""
        for session in self._sessions:
            session.end_all()

    def withdraw(self) -> None:
        """Give all calls back that were not begun, and take no more."""
        self._is_leaving = True
        for session in self._sessions:
            if session.open and not session.is_withdrawing:
                session.withdraw()

    def stop_all(self) -> None:
        """End all calls because the worker stops, without waiting."""
        for session in self._sessions:
            if session.own.grip is not None:
                session.own.grip.stop_job()

    # After another worker

    def adopt(self, session_id: str, listed: dict[Key, int]) -> list[Run]:
        """Go on with a session that lies in the folder.

        Parameters
        ----------
        listed : dict
            The attempts that the queue counts on, with the highest number that it has of each.

        Returns
        -------
        list of Run
            Its calls among these.
        """
        if any(session.own.job_id == session_id for session in self._sessions):
            return []
        try:
            request = read_request(self._folder.request_path(session_id, 0))
            calls, withdrawn = self._read(request, session_id)
        except (FileNotFoundError, msgspec.DecodeError):
            self._folder.remove(None, session_id, 0)  # it was not whole when its worker died: nothing of it ran
            return []
        own = Run(session_id, 0, None, Delivery(session_id, 0, self._worker_id), request=request)
        session = Session(self._folder, own, None, self)
        runs = []
        for call in calls:
            key = call.job_id, call.attempt
            if call.number in withdrawn:
                continue
            if key in listed:
                delivery = Delivery(*key, self._worker_id, listed[key], mask=Mask([call.token]))
                run = Run(*key, None, delivery, listed[key])
                session.adopt(call, run)
                runs.append(run)
            else:
                session.cancel(Run(*key, None, Delivery(*key, self._worker_id), number=call.number))
                self._folder.spool_path(*key).unlink(missing_ok=True)
        session.close()
        self._sessions.append(session)
        session.begin()
        if self._looking is None:
            self._look_later()
        return runs

    def _read(self, request: RunRequest, session_id: str) -> tuple[list[Call], set[int]]:
        """Return what stands in a session's book, and which of it its foreman has given back."""
        orders = OrderReader(request.orders or "")
        try:
            calls = [order for order in orders.read() if isinstance(order, Call)]
        finally:
            orders.close()
        withdrawn: set[int] = set()
        try:
            reader = SpoolReader(self._folder.spool_path(session_id, 0))
        except FileNotFoundError:
            return calls, withdrawn
        try:
            while frames := reader.read():
                for frame in frames:
                    if frame.kind == Kind.WITHDRAWN:
                        withdrawn.update(unpack_numbers(frame))
        finally:
            reader.close()
        return calls, withdrawn


def _key(job: Job) -> object:
    """Return what calls of one process have in common: whose they are, and all that is around them."""
    spec = job.spec
    return job.owner, job.org_id, spec.cmd is None, spec.kernel, spec.cwd, tuple(sorted(spec.env.items()))
