"""`JobHandle`: a user's hold on one job; `connect().submit(...)` and the magic return it."""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable, Generator, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import anyio
import anyio.to_thread

from zbrain_nb.client.artifacts import Artifact, Artifacts
from zbrain_nb.client.viewed import Viewed
from zbrain_nb.client.watching import outlast
from zbrain_nb.model.errors import JobCanceledError, JobFailedError, NotFound, ValueNotKept, ZBrainError
from zbrain_nb.model.events import LogEntry
from zbrain_nb.model.job import CancelResult, Job, JobState
from zbrain_nb.model.payload import load_value

if TYPE_CHECKING:
    from zbrain_nb.client.client import Client


class JobHandle(Viewed):
    """A job as its submitter holds it.

    Parameters
    ----------
    client : Client
        Who asks the server.
    job : Job
        The job as last seen.
    cached : bool
        Whether nothing ran: it is an earlier job that did the same (``--cache``).
    """

    def __init__(self, client: Client, job: Job, *, cached: bool = False) -> None:
        self._client = client
        self._job = job
        self.cached = cached
        self._born = job.event_seq if job.attempt == 0 else None
        self._watch: asyncio.Task[Job] | None = None
        #: The variables that went along with the job and their sizes, in words; the view says them.
        self.shipped = ""
        #: Called before `result` and `wait` return; the magic binds ``--out`` names here.
        self.before_return: list[Callable[[], None]] = []
        #: Called with the new handle by `repeated_by`; the magic moves ``--out`` names to it.
        self.after_retry: list[Callable[[JobHandle], None]] = []
        #: The jobs that repeat this one, by id, as far as is known here.
        self.repeats: dict[str, JobHandle] = {}

    @property
    def client(self) -> Client:
        """Who asks the server."""
        return self._client

    @property
    def id(self) -> str:
        """The job's id."""
        return self._job.id

    @property
    def name(self) -> str:
        """The job's name, or the head of what it runs."""
        return self._job.name

    @property
    def job(self) -> Job:
        """The job as last seen; `refresh` looks again."""
        return self._job

    def update(self, job: Job) -> None:
        """Take the job as it was seen elsewhere, unless this handle has seen more."""
        if job.id == self.id and job.event_seq >= self._job.event_seq:
            self._job = job

    @property
    def state(self) -> JobState:
        """The state now."""
        return self.refresh()._job.state

    def __repr__(self) -> str:
        return f"<zbrain job {self.name!r} {self._job.id}>"

    def refresh(self) -> JobHandle:
        """Look at the server again; returns itself."""
        if not self._job.state.ended:
            self._job = self._client.call(self._client.asynchronous.get, self.id)
        return self

    def done(self) -> bool:
        """Whether the job has ended."""
        return self.refresh()._job.state.ended

    def wait(self, timeout: float | None = None) -> JobHandle:
        """Block until the job ends, however it ends; returns itself.

        Raises
        ------
        TimeoutError
            If it has not ended after `timeout` seconds; the job goes on.
        Detached
            If somebody pressed Detach, or called `detach`; the job goes on.
        """
        if not self._job.state.ended:
            self._job = self._client.call(self._wait, timeout)
        for call in self.before_return:
            call()
        return self

    async def _wait(self, timeout: float | None) -> Job:
        try:
            with anyio.fail_after(timeout):
                return await self._client.asynchronous.wait(self.id, waits=True)
        except TimeoutError:
            raise TimeoutError(f"Job {self.name!r} has not ended after {timeout:g} s; it goes on.") from None

    def exception(self, timeout: float | None = None) -> ZBrainError | None:
        """Wait, and return what `result` would raise, or None if the job succeeded."""
        return error_of(self.wait(timeout)._job)

    def result(self, timeout: float | None = None, *, trust: bool = False) -> Any:
        """Wait, and return what the job gave.

        Parameters
        ----------
        timeout : float, optional
            Seconds to wait.
        trust : bool
            Load the value of somebody else's job too: loading it runs whatever its maker put in.

        Returns
        -------
        object
            Of a command its JSON output, of a cell the value of its last expression, of a function what it returned.

        Raises
        ------
        ValueNotKept
            If the job succeeded, but its value was too large or cannot be pickled; the message says which.
        UntrustedResult
            If it is the value of a cell or function of somebody else.
        JobFailedError
            If the job failed; the message ends with the remote traceback.
        JobCanceledError
            If it was canceled.
        TimeoutError
            If it has not ended after `timeout` seconds; the job goes on.
        Detached
            As for `wait`.
        """
        error = self.exception(timeout)
        if error is not None:
            raise error
        if self._job.spec.cmd is not None:
            return self._job.output
        if self._job.result is None:
            if missing := unkept(self._job):
                raise missing
            return None
        if not trust:
            self._client.check_trusted([self._job], "The value", "`.result(trust=True)` if you trust both.")
        if self._job.result.data is not None:
            return load_value(self._job.result.data)
        return load_value(self._client.call(self._client.asynchronous.read, f"jobs/{self.id}/result"))

    def __await__(self) -> Generator[Any, None, Any]:
        return asyncio.to_thread(self.result).__await__()

    def cancel(self) -> CancelResult:
        """Cancel the job; harmless if it has ended."""
        return self._client.call(self._client.asynchronous.cancel, self.id)

    def detach(self) -> int:
        """Let go on who waits for the job, here or elsewhere (see `Detached`); returns how many these are."""
        return self._client.call(self._client.asynchronous.detach, self.id)

    def retry(self, *, others: bool = False) -> JobHandle:
        """Submit the ended job's spec again; returns the new job's handle.

        Parameters
        ----------
        others : bool
            Repeat the job of another person too. Its code then runs as you, and what it gives counts as yours.

        Raises
        ------
        WrongState
            If the job is still active.
        Forbidden
            If it is another person's and `others` is not set.
        """
        return self.repeated_by(self._client.call(self._client.asynchronous.retry, self.id, others))

    def repeated_by(self, job: Job) -> JobHandle:
        """Return the handle of a job that repeats this one; what hangs on this one goes over to it, once."""
        if job.id not in self.repeats:
            again = self.repeats[job.id] = JobHandle(self._client, job)
            again.shipped, again.earlier = self.shipped, self.earlier
            for call in self.after_retry:
                call(again)
        return self.repeats[job.id]

    def logs(self, *, follow: bool = False, from_seq: int = 0) -> Iterator[LogEntry]:
        """Yield the log's lines in order; with `follow`, until the job ends."""

        async def pages() -> list[LogEntry]:
            return [e async for page in self._client.asynchronous.logs(self.id, from_seq) for e in page]

        if not follow:
            yield from self._client.call(pages)
            return
        for update in self.updates(from_seq=from_seq):
            yield from update.entries

    def updates(self, *, from_seq: int = 0, whole: bool = False) -> Iterator[Any]:
        """Yield `Update` after `Update` until the job ended (see `AsyncClient.follow`).

        With `whole`, lines and outputs come in the order in which the job made them, none left out, if this handle
        is as old as the job; a younger one gets what there is first.

        Raises
        ------
        Detached
            As for `wait`.
        """
        after = self._born if whole else None
        stream = self._client.asynchronous.follow(self.id, from_seq=from_seq, after=after, waits=True)
        try:
            while True:
                try:
                    update = self._client.call(stream.__anext__)
                except StopAsyncIteration:
                    return
                if update.job is not None:
                    self._job = update.job
                yield update
        finally:
            self._client.call(stream.aclose)

    @property
    def outputs(self) -> list[dict[str, Any]]:
        """The rich outputs so far, as nbformat output dicts."""
        return self._client.call(self._client.asynchronous.outputs, self.id)

    @property
    def artifacts(self) -> Mapping[str, Artifact]:
        """The files kept with the job, by name."""
        found = self._client.call(self._client.asynchronous.artifacts, self.id)
        return Artifacts((artifact.name, Artifact(self._client, self._job, artifact)) for artifact in found)

    @property
    def vars(self) -> Variables:
        """The variables kept with the job, by name; each is fetched when looked up.

        Those of somebody else's job raise `UntrustedResult`; ``vars.load(name, trust=True)`` loads one nevertheless.
        """
        self.refresh()
        return Variables(self._client, self._job)

    def add_done_callback(self, call: Callable[[JobHandle], object]) -> concurrent.futures.Future[None]:
        """Call `call` with this handle, in a thread of its own, once the job has ended.

        However many there are, one socket is held for them; and it waits for a server that is away, for ever.

        Returns
        -------
        concurrent.futures.Future
            Done when the call has returned; holds what it raised.
        """

        async def notify() -> None:
            self.update(await self._ended())
            await anyio.to_thread.run_sync(call, self)

        return self._client.start(notify)

    async def _ended(self) -> Job:
        """Return the job once it has ended; all who ask wait for one watch."""
        if self._watch is None or self._watch.done():
            self._watch = asyncio.create_task(outlast(self._client.asynchronous.wait, self.id))
        return await asyncio.shield(self._watch)


def error_of(job: Job) -> ZBrainError | None:
    """Return what `JobHandle.result` raises of an ended job, or None if it succeeded."""
    if job.state is JobState.SUCCEEDED:
        return None
    if job.state is JobState.CANCELED:
        return JobCanceledError(f"Job {job.name!r} was canceled.", job.reason or "", job_id=job.id)
    trace = "\n".join((job.error or {}).get("traceback") or [])
    if not trace or trace == job.reason:
        return JobFailedError(said_of(job), job_id=job.id)
    return JobFailedError(f"{said_of(job)}\n{trace}", job_id=job.id)


def said_of(job: Job) -> str:
    """Return that and why a job failed, in one line."""
    why = job.reason or (job.error or {}).get("evalue") or "no reason was given."
    return f"Job {job.name!r} failed: {why}"


def unkept(job: Job) -> ValueNotKept | None:
    """Return why the value of a job that succeeded is not there; None if it is, or if there was none."""
    if job.state is not JobState.SUCCEEDED or job.result is not None or job.reason is None:
        return None
    return ValueNotKept(job.reason)


class Variables(Mapping[str, Any]):
    """The variables kept with a job; looking one up fetches and loads it."""

    def __init__(self, client: Client, job: Job) -> None:
        self._client = client
        self._job = job
        self._known = {variable.name: variable for variable in job.variables}

    def __getitem__(self, name: str) -> Any:
        return self.load(name)

    def load(self, name: str, *, trust: bool = False) -> Any:
        """Return a variable.

        Parameters
        ----------
        trust : bool
            Load that of somebody else's job too: loading it runs whatever its maker put in.

        Raises
        ------
        NotFound
            If the job keeps none of this name.
        UntrustedResult
            If the job is somebody else's.
        """
        if name not in self._known:
            raise NotFound(
                f"Job {self._job.id} keeps no variable {name!r}.", f"It keeps: {', '.join(self._known) or 'none'}."
            )
        if not trust:
            hint = f"`.vars.load({name!r}, trust=True)` if you trust both."
            self._client.check_trusted([self._job], f"The variable {name!r}", hint)
        return load_value(self._client.call(self._client.asynchronous.read, f"jobs/{self._job.id}/variables/{name}"))

    def __iter__(self) -> Iterator[str]:
        return iter(self._known)

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, name: object) -> bool:
        return name in self._known

    def __repr__(self) -> str:
        return "{" + ", ".join(f"{v.name}: {v.summary}" for v in self._known.values()) + "}"
