"""The attempts of one worker: prepares, launches, follows and ends each, in a task of its own.

What the processes say arrives by their spools; wake-ups come by ``worker.sock``. Nothing here waits on a process or
talks to the queue: events wait in each run's `Delivery`, and `Runs.changed` is called when there are some.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import time
from collections.abc import Awaitable, Callable
from typing import TypeVar

import msgspec

from zbrain_nb.model.datadir import is_locked
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.events import JobCanceled, JobFailed
from zbrain_nb.model.job import Job
from zbrain_nb.model.kernels import UnusableKernel
from zbrain_nb.model.protocol import Lease
from zbrain_nb.worker.crew import Crew
from zbrain_nb.worker.delivery import Delivery
from zbrain_nb.worker.finishing import Ending, lost
from zbrain_nb.worker.folder import Launcher, WorkerFolder
from zbrain_nb.worker.grip import Grip
from zbrain_nb.worker.masking import Mask
from zbrain_nb.worker.preparing import SecretsGone
from zbrain_nb.worker.request import LOG_BYTES, RunRequest, read_request, write_private
from zbrain_nb.worker.run import Key, Run
from zbrain_nb.worker.session import not_begun
from zbrain_nb.worker.sockets import HERE, bind
from zbrain_nb.worker.spool import Begin, End, Kind, SpoolReader, write_closed
from zbrain_nb.worker.starting import Starter

log = logging.getLogger(__name__)
#: A run's spool is read no further while so much of it waits for the queue.
_WINDOW_BYTES = 8 * 1024 * 1024
_TICK_SECS = 1.0
#: When the worker fails at a run it takes the run up again so often, after pauses that double from the first one.
_RETRIES = 6
_FIRST_PAUSE_SECS = 0.5
#: How long the processes of a run that is given up get to end.
_GIVE_UP_SECS = 30.0
#: How much of a spool is read in one go: the other runs wait for so long.
_READ_BYTES = 256 * 1024
_NOTHING_HERE = "Its worker was stopped before the job could start."
T = TypeVar("T")


def _unstarted(run: Run) -> Ending:
    """Return the ending of an attempt of which nothing lies here: it never ran if it was never told of either."""
    return lost(run.job_id, _NOTHING_HERE, unstarted=run.start == 0)


class Runs:
    """All attempts of one worker.

    Parameters
    ----------
    folder, launcher : WorkerFolder, Launcher
        Where they run and who starts them.
    worker_id : str
        Who runs them.
    prepare : callable
        Makes the request of a lease: fetches its inputs, say. May raise `ZBrainError`.
    finish : callable
        Gathers what a run left when its processes are gone.
    changed : callable
        Called when a run has events to send, or its processes have ended.
    slots : int
        How many run at once, for the `crew`.
    temp_dir : str, optional
        Where calls without a ``cwd`` run.

    Attributes
    ----------
    crew : Crew
        Runs calls.
    """

    def __init__(
        self,
        folder: WorkerFolder,
        launcher: Launcher,
        worker_id: str,
        *,
        prepare: Callable[[Lease], Awaitable[RunRequest]],
        finish: Callable[[Run, RunRequest, End], Awaitable[Ending]],
        changed: Callable[[], None],
        slots: int = 0,
        temp_dir: str | None = None,
    ) -> None:
        self._folder = folder
        self._launcher = launcher
        self._worker_id = worker_id
        self._prepare = prepare
        self._finish = finish
        self._changed = changed
        self._box: socket.socket | None = None
        self._runs: dict[Key, Run] = {}
        self._starter = Starter(folder, launcher)
        self.crew = Crew(
            folder,
            launcher,
            worker_id,
            slots=slots,
            temp_dir=temp_dir,
            others=lambda: len(self.active),
            launch=self._starter.launch,
            see_gone=self._starter.see_gone,
            finish=finish,
            told=changed,
            over=self._forget,
        )
        #: What went wrong last, in one sentence.
        self.last_error = ""

    def open(self) -> None:
        """Begin to hear wake-ups; the caller holds the worker's lock."""
        self._box = bind(self._folder.root, "worker.sock")
        asyncio.get_running_loop().add_reader(self._box.fileno(), self._on_wake, self._box)

    async def close(self) -> None:
        """Let go of all runs; their processes go on."""
        await self.crew.close()
        tasks = [run.task for run in self._runs.values() if run.task]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self._box is not None:
            asyncio.get_running_loop().remove_reader(self._box.fileno())
            self._box.close()
            self._box = None

    def __contains__(self, key: Key) -> bool:
        return key in self._runs

    def all(self) -> list[Run]:
        """Return all runs, ended or not, that are not over yet."""
        return list(self._runs.values())

    @property
    def active(self) -> list[Run]:
        """The runs that take up a slot each; calls do not, their sessions do (see `busy`)."""
        return [run for run in self._runs.values() if run.task is not None and not run.ended]

    @property
    def busy(self) -> int:
        """How many slots are taken up."""
        return len(self.active) + self.crew.busy

    def get(self, key: Key) -> Run | None:
        """Return a run that is not over yet."""
        return self._runs.get(key)

    def start_all(self, leases: list[Lease]) -> None:
        """Run leased jobs (see `start`); what cannot be written down goes back."""
        calls = []
        for lease in leases:
            job = lease.job
            if self.crew.takes(job):
                delivery = Delivery(job.id, job.attempt, self._worker_id, mask=Mask.of(lease))
                run = Run(job.id, job.attempt, job, delivery, lease=lease)
                self._runs[run.key] = run
                calls.append(run)
            else:
                try:
                    self.start(lease)
                except OSError as error:
                    self.last_error = f"Job {job.id} could not be written down: {error}."
                    self.turn_away([lease])
        if calls:
            self.crew.start(calls)

    def start(self, lease: Lease) -> Run:
        """Run a leased job; a new worker goes on from here if this one dies."""
        job = lease.job
        write_private(self._folder.lease_path(job.id, job.attempt), msgspec.json.encode(lease))
        return self._add(job.id, job.attempt, lease, 0)

    def adopt(self, job_id: str, attempt: int, high: int) -> Run:
        """Go on with an attempt that lies in the folder."""
        lease: Lease | None = None
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError, ZBrainError):
            lease = msgspec.json.decode(self._folder.lease_path(job_id, attempt).read_bytes(), type=Lease)
        return self._add(job_id, attempt, lease, high)

    def adopt_sessions(self, listed: dict[Key, int]) -> None:
        """Go on with the sessions that lie in the folder, and with their calls that the queue counts on."""
        for session_id in self._folder.sessions():
            self._runs |= {run.key: run for run in self.crew.adopt(session_id, listed)}

    def cancel(self, key: Key) -> bool:
        """End a run's processes; its ending is delivered as usual. Return False if there is nothing new to do."""
        run = self._runs.get(key)
        if run is None or run.canceled:
            return False
        run.canceled = True
        run.delivery.hurry()
        self._end_job(run)
        run.wake.set()
        if run.session is not None and run.stale:
            run.session.heard(run)
        return True

    def discard(self, key: Key) -> None:
        """End a run's processes and tell nobody: it is not ours any more."""
        run = self._runs.get(key)
        if run is not None:
            run.stale = True
            self.cancel(key)
            self.heard(run)

    def heard(self, run: Run) -> None:
        """Hear that events of a run were acknowledged, or that it is not ours any more."""
        run.wake.set()
        if run.session is not None:
            run.session.heard(run)
        elif run.task is None and run.ended and (run.delivery.done or run.stale):
            self._forget(run)

    def _forget(self, run: Run) -> None:
        if self._runs.get(run.key) is run:
            del self._runs[run.key]

    def restart(self, run: Run, high: int) -> None:
        """Take a run up again from the folder, sending what follows `high`."""
        if self._runs.get(run.key) is run:
            if run.session is not None:
                run.session.feed_again(run, high)
                return
            if run.task is not None and run.task is not asyncio.current_task():
                run.task.cancel()
            again = self._add(run.job_id, run.attempt, run.lease, high)
            again.canceled, again.stale, again.failures = run.canceled, run.stale, run.failures
            again.stopped = run.stopped
            if again.canceled:
                again.delivery.hurry()

    def turn_away(self, leases: list[Lease]) -> None:
        """Give jobs that were leased and not begun back to the queue."""
        for job in (lease.job for lease in leases):
            run = Run(job.id, job.attempt, job, Delivery(job.id, job.attempt, self._worker_id))
            self._runs[run.key] = run
            run.ended = True
            run.delivery.close(not_begun(run).event)
        self._changed()

    def withdraw(self) -> None:
        """Take no more calls, and give those back that were taken ahead."""
        self.crew.withdraw()

    def stop_all(self) -> None:
        """End what runs, because the worker stops: the queue is told that these attempts are lost."""
        self.crew.stop_all()
        for run in self._runs.values():
            if run.task is not None and not (run.ended or run.canceled):
                run.stopped = True
                run.wake.set()
                if run.grip is not None:
                    run.grip.stop_job()

    def terminate_all(self) -> None:
        """End the processes of all runs, without waiting."""
        self.crew.terminate_all()
        for run in self._runs.values():
            self._end_job(run)

    def _add(self, job_id: str, attempt: int, lease: Lease | None, high: int) -> Run:
        job = None if lease is None else lease.job
        log_cap_bytes = LOG_BYTES if job is None else job.spec.limits.log_bytes
        delivery = Delivery(job_id, attempt, self._worker_id, high, log_cap_bytes, Mask.of(lease))
        run = Run(job_id, attempt, job, delivery, high, lease=lease)
        self._runs[run.key] = run
        run.task = asyncio.create_task(self._live(run), name=f"run {job_id}.{attempt}")
        return run

    def _on_wake(self, box: socket.socket) -> None:
        with contextlib.suppress(BlockingIOError):
            while said := box.recv(16):
                if said.startswith(HERE):
                    self._starter.heard(said.removeprefix(HERE))
                    continue
                self.crew.wake()
                for run in self._runs.values():
                    if run.task is not None:
                        run.wake.set()

    async def _live(self, run: Run) -> None:
        """Bring one attempt from its lease to the acknowledged end, whatever comes between."""
        try:
            await self._live_once(run)
        except Exception as error:
            # all that matters lies in the folder, so the attempt can be taken up again from there
            if run.delivery.high > run.start:
                run.failures = 0  # it got further than the last time
            run.failures += 1
            fields = {"job": run.job_id, "attempt": run.attempt, "failures": run.failures}
            if run.failures > _RETRIES:
                log.exception("run is given up", extra=fields)
                self.last_error = f"Job {run.job_id} was given up: {error!r}."
                await self._give_up(run, error)
            else:
                log.exception("run is taken up again", extra=fields)
                self.last_error = f"Job {run.job_id} had to be taken up again: {error!r}."
                await asyncio.sleep(_FIRST_PAUSE_SECS * 2 ** (run.failures - 1))
                self.restart(run, run.delivery.high)
        finally:
            if run.reader is not None:
                run.reader.close()
            if run.grip is not None:
                run.grip.release()

    async def _give_up(self, run: Run, error: Exception) -> None:
        """End an attempt at which the worker fails again and again, and say why."""
        run.canceled = True
        self._end_job(run)
        with contextlib.suppress(OSError):  # TimeoutError too
            spool = self._folder.spool_path(*run.key)
            write_closed(spool, End(reason="canceled"))  # bars a launch that is under way
            async with asyncio.timeout(_GIVE_UP_SECS):
                while is_locked(spool):
                    await run.wait(0.1)
        run.ended = True
        run.delivery = Delivery(run.job_id, run.attempt, self._worker_id, run.delivery.high, mask=run.delivery.mask)
        what = f"{type(error).__name__}: {error}".splitlines()[0][:500]
        reason = f"Its worker failed at it {run.failures} times, the last time with {what}"
        run.delivery.close(JobFailed(job_id=run.job_id, reason=reason))
        self._changed()
        while not (run.delivery.done or run.stale):
            await run.wait(60)
        with contextlib.suppress(OSError):
            await asyncio.to_thread(self._folder.remove, run.request, *run.key)
        if self._runs.get(run.key) is run:
            del self._runs[run.key]
        self._changed()

    async def _live_once(self, run: Run) -> None:
        ending = await self._run(run)
        run.ended = True
        if ending is not None:
            run.delivery.close(ending.event, ending.sentences)
        self._changed()
        while not (run.delivery.done or run.stale):
            await run.wait(60)
        while run.reader is not None and run.reader.is_locked():
            await run.wait(0.05)
        await asyncio.to_thread(self._folder.remove, run.request, *run.key)
        del self._runs[run.key]
        self._changed()

    async def _run(self, run: Run) -> Ending | None:
        """Run the processes and return the ending; None if there is nobody to tell it."""
        path = self._folder.spool_path(*run.key)
        self._read_request(run)
        if not path.exists():
            try:
                await self._make_request(run)
            except (UnusableKernel, SecretsGone) as error:
                return Ending(JobFailed(job_id=run.job_id, reason=str(error), final=True), [])
            except (ZBrainError, OSError) as error:
                log.warning("run cannot be prepared", extra={"job": run.job_id, "why": str(error)})
                self.last_error = f"Job {run.job_id} could not be prepared: {error}"
                return Ending(JobFailed(job_id=run.job_id, reason=f"It could not be prepared: {error}"), [])
            if run.request is None:
                return Ending(JobCanceled(job_id=run.job_id), []) if run.canceled else _unstarted(run)
            await self._starter.launch(run)
        run.reader = SpoolReader(path)
        await self._follow(run)
        run.ended = True
        self._changed()
        end = run.delivery.end
        if end is None or run.request is None:
            await self._starter.see_gone(run)
            run.delivery.lose(time.time())
            return lost(run.job_id)
        return await self._unless(run, self._finish(run, run.request, end), lambda: run.stale)

    async def _make_request(self, run: Run) -> None:
        """Have a request on disk; leaves None if the job shall not run or is not known any more."""
        if run.request is None and run.job is not None and run.lease is not None:
            request = await self._unless(run, self._prepare(run.lease), lambda: run.canceled or run.stopped)
            if request is not None:
                self._launcher.write(request, msgspec.json.encode(run.job.spec.input))
                run.request = request

    def _read_request(self, run: Run) -> None:
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            run.request = read_request(self._folder.request_path(*run.key))

    async def _follow(self, run: Run) -> None:
        """Read the spool until its end, or until its supervisor is gone without one."""
        assert run.reader is not None
        began_at = None
        while run.delivery.end is None:
            if run.delivery.waiting_bytes > _WINDOW_BYTES and not run.stale:
                await run.wait(_TICK_SECS)
                continue
            locked = run.reader.is_locked()  # before the read: the end is written before the lock is freed
            frames = run.reader.read(_READ_BYTES)
            for frame in frames:
                if frame.kind == Kind.BEGIN:
                    began_at = frame.ts
                    self._take_grip(run, msgspec.json.decode(frame.payload, type=Begin))
                if not run.stale or frame.kind == Kind.END:
                    run.delivery.feed(frame)
                if frame.kind == Kind.END and began_at is not None and run.job is not None:
                    self._learn(run.job, frame.ts - began_at)
            if frames:
                self._changed()
                await asyncio.sleep(0)
            elif not locked:
                return
            else:
                await run.wait(_TICK_SECS)

    def _learn(self, job: Job, secs: float) -> None:
        """Let the crew know how long commands take that it might run."""
        if job.spec.is_plain_call:
            self.crew.learn(secs)

    async def _unless(self, run: Run, work: Awaitable[T], given_up: Callable[[], bool]) -> T | None:
        """Return what `work` gives, or None if it is given up before."""
        task = asyncio.ensure_future(work)
        try:
            while not (task.done() or given_up()):
                waking = asyncio.ensure_future(run.wake.wait())
                await asyncio.wait({task, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
                run.wake.clear()
            return task.result() if task.done() else None
        finally:
            task.cancel()

    def _take_grip(self, run: Run, begin: Begin) -> None:
        if run.grip is None and run.reader is not None:
            run.grip = Grip.take(begin, run.reader, run.wake.set)
            if run.canceled:
                self._end_job(run)
            elif run.stopped and run.grip is not None:
                run.grip.stop_job()

    def _end_job(self, run: Run) -> None:
        if run.session is not None:
            run.session.cancel(run)
        if run.grip is not None:
            run.grip.end_job()
