"""The worker: registers, leases jobs, renews leases, and sees that every attempt is run and told of.

It may be killed at any moment: attempts run on under their supervisors, and the next worker on the same folder
goes on where this one ended. A host that is away is waited for.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import os
import socket
import sys
import time
from collections.abc import Callable
from pathlib import Path

import msgspec

from zbrain_nb import __version__
from zbrain_nb.model.datadir import boot_id
from zbrain_nb.model.errors import Forbidden, ServerUnreachable, Unauthorized, WorkerNotFound, ZBrainError
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.job import Resources
from zbrain_nb.model.protocol import (
    AttemptRef,
    Health,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
    WorkerState,
)
from zbrain_nb.worker.beats import Heart
from zbrain_nb.worker.drain import Drain
from zbrain_nb.worker.fence import Fences, now
from zbrain_nb.worker.finishing import Ending, finish
from zbrain_nb.worker.folder import Launcher, WorkerFolder
from zbrain_nb.worker.health import Checkup
from zbrain_nb.worker.keeping import UploadKeeper
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.patience import Patience
from zbrain_nb.worker.preparing import Preparer
from zbrain_nb.worker.request import RunRequest, write_private
from zbrain_nb.worker.resources import free_resources, is_more, offered_resources
from zbrain_nb.worker.run import Key, Run
from zbrain_nb.worker.runs import Runs
from zbrain_nb.worker.sender import Sender
from zbrain_nb.worker.spool import End

log = logging.getLogger(__name__)
LEASE_WAIT_SECS = 20.0
#: A worker without runs ends when nobody has answered it for so long.
HOST_GONE_SECS = 600.0
_LOCK_SECS = 1.0
_FOLDER_CHECK_SECS = 2.0
_HOST_CHECK_SECS = 1.0
_REPEAT_SECS = 0.25
_FULL_SECS = 0.05
#: When there were no more calls than slots, none are asked for ahead for so long while all slots are taken.
_AHEAD_PAUSE_SECS = 0.05


class FolderInUse(ZBrainError):
    """Another worker works on the folder."""

    code = "folder_in_use"
    status = 409


class WorkerAgent:
    """One worker on one folder.

    Parameters
    ----------
    link : Link
        To the queue.
    folder : WorkerFolder
        Where its attempts run.
    concurrency : int
        How many it runs at once, 1 or more.
    kind : str
        Which jobs it takes (`JobSpec.kind`).
    org_id : str, optional
        Takes jobs of this org only.
    runs_others : bool
        See `WorkerInfo`.
    temp_dir : str, optional
        Where jobs without a ``cwd`` run.
    linger_secs : float
        How long the spawner stays when it is not needed.
    warm : bool
        Start the zygote of this interpreter at once, so that the first cell finds it warm.
    pooled : bool
        Processes of cells and functions are forked from warm ones, for all jobs of their environment.
    host_gone_secs : float or None
        It ends when it has had no runs, and nobody has answered it, for so long; None is never.
    fenced : bool
        Let the clock end its attempts when the queue does not hear it, as on another machine.
    drain_secs : float, optional
        Draining takes no longer (see `Drain`); None is for ever.
    say : callable, optional
        Takes sentences for the person at the terminal.
    """

    def __init__(
        self,
        link: Link,
        folder: WorkerFolder,
        *,
        concurrency: int,
        kind: str = "local",
        org_id: str | None = None,
        runs_others: bool = False,
        temp_dir: str | None = None,
        linger_secs: float = 30.0,
        warm: bool = True,
        pooled: bool = True,
        host_gone_secs: float | None = HOST_GONE_SECS,
        fenced: bool = False,
        drain_secs: float | None = None,
        say: Callable[[str], None] | None = None,
    ) -> None:
        self.id = folder.worker_id()
        self._link = link
        self._folder = folder
        self._slots = concurrency
        self._kind = kind
        self._org_id = org_id
        self._runs_others = runs_others
        self._offer = offered_resources(concurrency)
        self._launcher = Launcher(
            folder, warm=[sys.executable] if warm and pooled else [], linger_secs=linger_secs, pooled=pooled
        )
        self._preparer = Preparer(folder, link, temp_dir)
        self._runs = Runs(
            folder,
            self._launcher,
            self.id,
            prepare=self._preparer.prepare,
            finish=self._finish,
            changed=self._on_change,
            slots=concurrency,
            temp_dir=temp_dir,
        )
        self._registered = asyncio.Event()
        self._sender = Sender(link, self._runs, self._registered, self.id)
        self._capacity = asyncio.Event()
        self._fences = Fences(folder.root)
        self._say = say or log.info
        self.drain = Drain(
            self._runs,
            timeout_secs=drain_secs,
            is_busy=lambda: self._open_lease is not None and self._registered.is_set(),
            is_fenced=lambda: self._fences.are_up,
            say=self._say,
        )
        writes_to = [folder.root, *([Path(temp_dir)] if temp_dir else [])]
        self._checkup = Checkup(folder.root, writes_to, self._capacity.set)
        self._heart = Heart(
            link, self.id, self._runs, self._fences, self._registered, report=self._report, unknown=self._capacity.set
        )
        self._open_lease: LeaseRequest | None = None
        self._asked_at = 0.0  # when that was sent first
        self._ahead_at = 0.0  # no calls are asked for ahead before
        self._is_fenced = fenced
        self._host_gone_secs = host_gone_secs
        self._needed_at = time.monotonic()  # when it last had runs, or a host that answered
        self._unanswered = self._was_welcome = False
        self._started_at = time.time()

    async def run(self) -> None:
        """Work until `stop` or the end of the `drain`, or until the folder is gone, or the host for long.

        Raises
        ------
        FolderInUse
            If another worker works on the folder.
        Unauthorized, Forbidden
            If the queue does not want this worker, and never did.
        """
        try:
            await self._take_folder()
            self._launcher.ensure_spawner()
            self._runs.open()
            await self._checkup.look()
            await self._work()
        finally:
            self._launcher.close()
            await self._link.close()
            self._folder.lock.release()

    async def _take_folder(self) -> None:
        """Take the folder's lock.

        A worker that was killed while it started a process leaves a copy of the lock in that process until its
        exec, so the lock is asked for more than once.
        """
        deadline = time.monotonic() + _LOCK_SECS
        while not self._folder.lock.acquire():
            if time.monotonic() > deadline:
                raise FolderInUse(
                    f"Another worker works in {self._folder.root}.",
                    "Give this one a folder of its own, or stop the other.",
                )
            await asyncio.sleep(0.02)

    async def _work(self) -> None:
        loops = (
            self._lease_for_ever(),
            self._heart.beat_for_ever(),
            self._sender.run(),
            self._watch_folder(),
            self._watch_host(),
            self._checkup.look_for_ever(),
            self.drain.until_over(),
            self._folder.checkpoints.sweep_for_ever(self._link.has_job),
        )
        tasks = [asyncio.create_task(loop) for loop in loops]
        try:
            done, _ = await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                task.result()
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await self._note_last_leases()
            await self._heart.say_goodbye()
            await self._runs.close()

    def stop(self) -> None:
        """Lease no more and end; running jobs go on, for the next worker to take up."""
        self.drain.leave()

    def begin_drain(self) -> None:
        """Lease no more, and end when all that runs has ended; a second call hurries that (see `Drain.ask`)."""
        self.drain.ask()
        self._capacity.set()

    def _on_change(self) -> None:
        self._sender.notify()
        self._capacity.set()
        self.drain.look()

    async def _finish(self, run: Run, request: RunRequest, end: End) -> Ending:
        return await finish(request, end, run.delivery.finished, UploadKeeper(self._link))

    async def _lease_for_ever(self) -> None:
        patience = Patience()
        while True:
            try:
                if not self._registered.is_set():
                    await self._register()
                await self._lease()
                if self._unanswered:
                    self._say("the queue answers again")
                self._unanswered = False
                patience.reset()
            except WorkerNotFound:
                self._registered.clear()
            except ZBrainError as error:
                if isinstance(error, (Unauthorized, Forbidden)) and not self._was_welcome:
                    raise
                log.warning("queue is away", extra={"why": str(error)})
                is_away = isinstance(error, ServerUnreachable)
                if is_away and not self._unanswered:
                    self._say(f"{error.message} Jobs go on, and what they say is kept until it does.")
                self._unanswered = is_away
                # whoever answers next may be another host: it has to be told who we are
                await self._begin_again(patience)
            except OSError as error:  # its disk is full, say: what runs shall not suffer for it
                log.warning("worker cannot write to its folder", extra={"why": str(error)})
                self._runs.last_error = f"The worker could not write to its folder: {error}."
                await self._begin_again(patience)

    async def _begin_again(self, patience: Patience) -> None:
        """Register after a pause, and so find again what was leased by a request that was not seen through."""
        self._registered.clear()
        await patience.wait()

    async def _register(self) -> None:
        """Make this worker known, and bring both sides' lists of its attempts into line."""
        held = {run.key: run for run in self._runs.all()}
        asked_at = now()
        answer = await self._link.register(self._info())
        self._heart.set_pace(answer.lease_ttl_secs)
        self._fences.set_up(answer.lease_ttl_secs if answer.is_fenced else None)
        self._preparer.blobs = self._runs.crew.blobs = Path(answer.blobs) if answer.blobs else None
        self._runs.crew.way_back = self._link.way_back()
        missing = self._compare(answer, held, asked_at)
        if missing:
            # perhaps they were leased by an answer that never arrived: the same request gets the same leases
            repeated = self._open_lease or self._last_lease()
            if repeated is not None:
                again = msgspec.structs.replace(repeated, wait_secs=0.0)
                # a host that was restarted does not remember it, and may lease others: they are ours all the same
                self._take(await self._link.lease(self.id, again), asked_at)
            for key, high in missing.items():
                if key not in self._runs:
                    self._runs.adopt(*key, high)  # nothing lies here, so it will be told as lost
        self._open_lease = None
        self._registered.set()
        if not self._was_welcome:
            self._was_welcome = True
            self._say(f"worker {self.id} takes jobs, {self._slots} at once; Ctrl-C lets it end")
            if answer.notice:
                self._say(answer.notice)
        log.info("registered", extra={"worker": self.id, "attempts": len(answer.attempts)})

    def _compare(self, answer: Registered, held: dict[Key, Run], asked_at: float) -> dict[Key, int]:
        """Adopt, go on with or discard attempts; return those the queue counts on and of which nothing lies here."""
        listed = {(ref.job_id, ref.attempt): ref.high for ref in answer.attempts}
        self._runs.adopt_sessions(listed)
        on_disk = self._folder.attempts()
        for key, run in held.items():
            if key not in listed:
                self._runs.discard(key)
            elif not run.delivery.acknowledge(listed[key]):
                self._runs.restart(run, listed[key])
            self._runs.heard(run)
        for key in on_disk:
            if key not in self._runs:
                self._runs.adopt(*key, listed.get(key, 0))
                if key not in listed:
                    self._runs.discard(key)
        for key in listed:
            if key in self._runs:
                self._fences.begin(*key, asked_at)
        return {key: high for key, high in listed.items() if key not in self._runs}

    def _info(self) -> WorkerInfo:
        return WorkerInfo(
            id=self.id,
            kind=self._kind,
            host=socket.gethostname(),
            boot_id=boot_id(),
            pid=os.getpid(),
            slots=self._slots,
            free=self._free(),
            resources=self._offer,
            folder=None if self._is_fenced else str(self._folder.root),
            org_id=self._org_id,
            runs_others=self._runs_others,
            python=sys.executable,
            version=__version__,
            started_at=self._started_at,
            state=self._state(),
            health=self._health(),
        )

    def _health(self) -> Health:
        free = free_resources(self._offer, self._needs())
        return self._checkup.health(free=free, last_error=self._runs.last_error)

    def _report(self) -> HeartbeatRequest:
        """Return a heartbeat."""
        refs = [AttemptRef(run.job_id, run.attempt, run.delivery.high) for run in self._runs.all() if not run.stale]
        return HeartbeatRequest(refs, self._free(), self._state(), self._health())

    def _state(self) -> WorkerState:
        return WorkerState.DRAINING if self.drain.is_on else WorkerState.LIVE

    def _free(self) -> int:
        """Return how many jobs it would take now."""
        return max(0, self._slots - self._runs.busy) if self._takes_jobs() else 0

    def _takes_jobs(self) -> bool:
        return not (self.drain.is_on or self._checkup.problem)

    async def _lease(self) -> None:
        """Hold one lease request open until it is answered, or until more is free than it asks for."""
        request = self._request()
        if not (request.limit or request.ahead) and await self._gets_capacity():
            return
        asked_at = now()
        if request.limit or request.ahead:
            self._open_lease, self._asked_at = request, asked_at
            write_private(self._folder.lease_file, msgspec.json.encode(request))
        asking = asyncio.ensure_future(self._link.lease(self.id, request))
        asking.add_done_callback(_let_go)
        try:
            while not asking.done() and self._registered.is_set() and not self._differs_from(request):
                self._capacity.clear()
                waking = asyncio.ensure_future(self._capacity.wait())
                await asyncio.wait({asking, waking}, return_when=asyncio.FIRST_COMPLETED)
                waking.cancel()
            if asking.done():
                answer = asking.result()
            elif (request.limit or request.ahead) and self._registered.is_set():
                answer = await self._broken_off(asking, request)
            else:
                return
        finally:
            asking.cancel()
        news = self._take(answer, asked_at)
        self._open_lease = None
        self._ahead_at = 0.0 if len(answer.leases) > request.limit else time.monotonic() + _AHEAD_PAUSE_SECS
        if not news and (answer.leases or answer.cancels):
            await asyncio.sleep(_REPEAT_SECS)  # the queue repeats what we know: no reason to ask at once

    async def _gets_capacity(self) -> bool:
        """Wait a moment for a slot: a request for nothing, only to be broken off at once, costs more than a job."""
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(_FULL_SECS):
                while not (self._free() or self._ahead()):
                    self._capacity.clear()
                    await self._capacity.wait()
        return self._free() > 0 or self._ahead() > 0

    def _ahead(self) -> int:
        """Return how many calls to ask for beyond the free slots; for a moment none if there were none just now."""
        if not self._takes_jobs():
            return 0
        if not self._free() and time.monotonic() < self._ahead_at:
            return 0
        return self._runs.crew.ahead()

    async def _broken_off(self, asking: asyncio.Future[LeaseAnswer], request: LeaseRequest) -> LeaseAnswer:
        """Give a request up; return what it was answered with all the same."""
        asking.cancel()
        await asyncio.wait({asking})
        return await self._link.lease(self.id, msgspec.structs.replace(request, wait_secs=0.0))

    def _request(self) -> LeaseRequest:
        free = free_resources(self._offer, self._needs())
        # a lease that ends by the clock counts from before the request for it was sent
        wait_secs = self._heart.pause_secs if self._fences.are_up else LEASE_WAIT_SECS
        limit, ahead = self._free(), self._ahead()
        return LeaseRequest(request_id=new_id(), limit=limit, ahead=ahead, wait_secs=wait_secs, resources=free)

    def _differs_from(self, request: LeaseRequest) -> bool:
        """Whether the worker takes more by now than it has asked for, or nothing any more."""
        if not self._takes_jobs():
            return bool(request.limit or request.ahead)
        if self._free() > request.limit:
            return True
        now, then = free_resources(self._offer, self._needs()), request.resources
        return bool(self._free()) and then is not None and is_more(now, then)

    def _needs(self) -> list[Resources]:
        needs = [run.job.spec.resources for run in self._runs.active if run.job is not None]
        return [*needs, *(Resources() for _ in range(self._runs.crew.busy))]

    def _take(self, answer: LeaseAnswer, asked_at: float) -> bool:
        """Start what was leased by a request sent at `asked_at`, cancel what was canceled; return if any was new."""
        new = []
        for lease in answer.leases:
            key = lease.job.id, lease.job.attempt
            if key not in self._runs:
                self._fences.begin(*key, asked_at)  # before the job: without it nothing would end that in time
                new.append(lease)
                log.debug("attempt leased", extra={"job": lease.job.id, "attempt": lease.job.attempt})
        if self.drain.is_on:
            self._runs.turn_away(new)
        else:
            self._runs.start_all(new)
        news = bool(new)
        for ref in answer.cancels:
            news |= self._runs.cancel((ref.job_id, ref.attempt))
        return news

    def _last_lease(self) -> LeaseRequest | None:
        """Return the lease request that the worker before this one had open."""
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._folder.lease_file.read_bytes(), type=LeaseRequest)
        return None

    async def _note_last_leases(self) -> None:
        """Before the end, see whether a request that was broken off had been answered; the next worker runs these."""
        if self._open_lease is None or not self._registered.is_set():
            return
        with contextlib.suppress(ZBrainError, TimeoutError):
            again = msgspec.structs.replace(self._open_lease, wait_secs=0.0)
            async with asyncio.timeout(2):
                self._take(await self._link.lease(self.id, again), self._asked_at)

    async def _watch_folder(self) -> None:
        """Return when the folder is gone (its data directory was deleted): then nobody wants its jobs."""
        while True:
            await asyncio.sleep(_FOLDER_CHECK_SECS)
            if not await asyncio.to_thread(self._folder.lock.path.exists):
                break
        log.error("worker folder is gone", extra={"folder": str(self._folder.root)})
        self._runs.terminate_all()

    async def _watch_host(self) -> None:
        """Return when the host is gone for long and nothing runs here: whoever starts a host starts a worker too."""
        while True:
            if not self._unanswered or self._runs.all():
                self._needed_at = time.monotonic()
            elif self._host_gone_secs is not None and time.monotonic() - self._needed_at >= self._host_gone_secs:
                break
            await asyncio.sleep(_HOST_CHECK_SECS)
        log.info("worker ends, for its host is gone", extra={"secs": self._host_gone_secs})


def _let_go(asking: asyncio.Future[LeaseAnswer]) -> None:
    """Look at how a request ended that nobody may wait for any more, so that asyncio does not report it as missed."""
    if not asking.cancelled():
        asking.exception()
