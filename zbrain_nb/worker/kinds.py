"""Kinds of workers, for callers that have a queue in their own process: the protocol, and the local one."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import weakref
from collections.abc import Awaitable, Callable
from typing import Any, Protocol, runtime_checkable

import msgspec

from zbrain_nb.model.events import WorkerArtifact, WorkerEvent
from zbrain_nb.model.job import Job, JobArtifact
from zbrain_nb.model.protocol import Lease
from zbrain_nb.model.settings import read_settings
from zbrain_nb.worker.collect import Found, open_beneath
from zbrain_nb.worker.finishing import Ending, finish
from zbrain_nb.worker.folder import Launcher, WorkerFolder
from zbrain_nb.worker.health import LOW_DISK_BYTES
from zbrain_nb.worker.keeping import UploadKeeper
from zbrain_nb.worker.link import Link
from zbrain_nb.worker.preparing import Preparer
from zbrain_nb.worker.request import RunRequest
from zbrain_nb.worker.run import Run
from zbrain_nb.worker.runs import Runs
from zbrain_nb.worker.sender import BATCH_BYTES
from zbrain_nb.worker.spool import End


class EventSender:
    """Sends the events of one attempt; stamps and numbers them.

    Parameters
    ----------
    job : Job
        As it was leased: its `attempt` goes on every event.
    forward : callable
        Takes the stamped event, for example ``queue.handle_worker_event``.
    """

    def __init__(self, job: Job, forward: Callable[[Any], Awaitable[Any]]) -> None:
        self._job = job
        self._forward = forward
        self._seq = 0
        self._turn = asyncio.Lock()

    async def send(self, event: WorkerEvent) -> None:
        """Send one event; returns when it was taken. Whatever the receiver raises is raised here."""
        async with self._turn:
            stamped = msgspec.structs.replace(event, attempt=self._job.attempt, after=self._seq, seq=self._seq + 1)
            await self._forward(stamped)
            self._seq += 1


class Cancel(Protocol):
    """What tells a worker to give up a job; an `asyncio.Event` will do."""

    async def wait(self) -> Any:
        """Return when the job shall be given up."""
        ...


@runtime_checkable
class Worker(Protocol):
    """Runs jobs, one call of `execute` for each.

    Attributes
    ----------
    id : str
        Who it is, in leases and events.

    Notes
    -----
    With an attribute ``is_over_at_ending = True`` it promises that a job has let go of all that it held when its
    ending is sent: its slot takes the next job then, and not only when `execute` returns.
    """

    id: str

    async def execute(self, job: Job, events: EventSender, cancel: Cancel) -> None:
        """Run a job and send its events, the last of which ends it.

        Parameters
        ----------
        job : Job
            As it was leased.
        events : EventSender
            Bound to the job and its attempt.
        cancel : Cancel
            Set when the job shall be given up; the ending is then `JobCanceled`.
        """
        ...

    async def health_check(self) -> bool:
        """Return whether it could run a job now."""
        ...


class LocalWorker:
    """Runs jobs as processes of this machine, in a private folder that is removed with it.

    Parameters
    ----------
    id : str
        Who it is.
    link : Link, optional
        Where inputs come from and artifacts go. Without one, artifacts are sent as `WorkerArtifact`, jobs with
        inputs fail, and values of cells are told as text only.
    """

    is_over_at_ending = True

    def __init__(self, id: str = "local", *, link: Link | None = None) -> None:
        self.id = id
        self._link = link
        self._loop: asyncio.AbstractEventLoop | None = None
        self._opened: _Opened | None = None

    def use_link(self, link: Link) -> None:
        """Take inputs from and bring artifacts to `link`, unless there is one already."""
        self._link = self._link or link

    async def health_check(self) -> bool:
        """Return whether it could run a job now: whether it may write where jobs run, and there is room."""
        with contextlib.suppress(OSError):
            place = tempfile.gettempdir()
            return os.access(place, os.W_OK) and shutil.disk_usage(place).free >= LOW_DISK_BYTES
        return False

    async def execute(self, job: Job, events: EventSender, cancel: Cancel) -> None:
        """Run a job to its end (see `Worker.execute`); if this is cancelled, its processes are killed."""
        runs, changed = self._open()
        run = runs.start(Lease(job))
        watch = asyncio.ensure_future(cancel.wait())
        watch.add_done_callback(lambda task: task.cancelled() or runs.cancel(run.key))
        try:
            while run.key in runs:
                moment = changed.next()
                for event in run.delivery.take(BATCH_BYTES)[0]:
                    await events.send(event)
                    run.delivery.acknowledge(event.seq or 0)
                    run.wake.set()
                if not run.delivery.waiting and run.key in runs:
                    await moment.wait()
        finally:
            watch.cancel()
            if run.key in runs:
                runs.discard(run.key)
                if run.task is not None:
                    await asyncio.shield(run.task)

    async def close(self) -> None:
        """End what runs, and remove the folder."""
        opened, self._opened = self._opened, None
        if opened is not None:
            await opened.close()

    def _open(self) -> tuple[Runs, _Moments]:
        loop = asyncio.get_running_loop()
        if self._opened is None or self._loop is not loop:
            self._loop, self._opened = loop, _Opened(self.id, self._link)
        return self._opened.runs, self._opened.changed


class _Moments:
    """Lets many tasks wait for the next change."""

    def __init__(self) -> None:
        self._event = asyncio.Event()

    def next(self) -> asyncio.Event:
        return self._event

    def happen(self) -> None:
        self._event.set()
        self._event = asyncio.Event()


class _Opened:
    """A private folder in use, bound to one event loop."""

    def __init__(self, worker_id: str, link: Link | None) -> None:
        root = tempfile.mkdtemp(prefix="zbrain-worker-")
        self._remove = weakref.finalize(self, shutil.rmtree, root, True)
        self._link = link
        self._folder = WorkerFolder(root)
        self._folder.lock.acquire()
        self._launcher = Launcher(self._folder, warm=[], tied=True, pooled=read_settings().warm_pool)
        self.changed = _Moments()
        self.runs = Runs(
            self._folder,
            self._launcher,
            worker_id,
            prepare=Preparer(self._folder, link).prepare,
            finish=self._finish,
            changed=self.changed.happen,
        )
        self.runs.open()

    async def _finish(self, run: Run, request: RunRequest, end: End) -> Ending:
        keeper = UploadKeeper(self._link) if self._link is not None else _InPlace()
        return await finish(request, end, run.delivery.finished, keeper)

    async def close(self) -> None:
        await self.runs.close()
        self._launcher.close()
        self._folder.lock.release()
        self._remove()


class _InPlace:
    """A keeper that leaves files where they are, for a queue in this process to take from there."""

    async def keep(self, found: Found) -> JobArtifact | WorkerArtifact:
        file = await asyncio.to_thread(open_beneath, found.root, found.path)
        file.close()
        return WorkerArtifact(name=found.name, path=os.path.join(found.root, found.path))
