"""`JobGroup`: a user's hold on many jobs at once; `submit_many`, `map` and ``--grid`` return it.

Whatever their number, its jobs are looked at in one request and followed on one socket.
"""

from __future__ import annotations

import concurrent.futures
import warnings
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Sequence
from contextlib import aclosing
from typing import TYPE_CHECKING, Any, Literal, overload

import anyio
import anyio.to_thread

from zbrain_nb.client.handle import JobHandle, error_of, unkept
from zbrain_nb.client.viewed import Viewed
from zbrain_nb.client.watching import outlast
from zbrain_nb.model.errors import UsageError, ZBrainError
from zbrain_nb.model.job import PRIVATE_TAG, Job, JobState
from zbrain_nb.model.payload import load_value

if TYPE_CHECKING:
    from zbrain_nb.client.client import Client

#: The tag that jobs of one group share, and the one that says where in the group a job stands.
GROUP_TAG = f"{PRIVATE_TAG}group"
PLACE_TAG = f"{PRIVATE_TAG}place"
#: Results up to this size are shown in `JobGroup.df`.
SMALL_BYTES = 16 * 1024


class JobGroup(Viewed, Sequence[JobHandle]):
    """Many jobs as their submitter holds them, in the order of their submit.

    Parameters
    ----------
    client : Client
        Who asks the server.
    handles : iterable of JobHandle
        The jobs.
    """

    def __init__(self, client: Client, handles: Iterable[JobHandle]) -> None:
        self._client = client
        #: By place, all that ran there, oldest first.
        self._runs = [[handle] for handle in handles]
        self._places: dict[str, list[int]] = {}
        for place, (handle,) in enumerate(self._runs):
            self._places.setdefault(handle.id, []).append(place)

    @property
    def _handles(self) -> list[JobHandle]:
        return [_standing(runs) for runs in self._runs]

    @property
    def client(self) -> Client:
        """Who asks the server."""
        return self._client

    @property
    def name(self) -> str:
        """The name that all jobs share, else that of the first."""
        return self[0].name if self else ""

    @property
    def ids(self) -> list[str]:
        """The ids of the jobs, in order."""
        return [handle.id for handle in self._handles]

    def __len__(self) -> int:
        return len(self._runs)

    @overload
    def __getitem__(self, place: int) -> JobHandle: ...
    @overload
    def __getitem__(self, place: slice) -> JobGroup: ...
    def __getitem__(self, place: int | slice) -> JobHandle | JobGroup:
        if isinstance(place, slice):
            return JobGroup(self._client, self._handles[place])
        return _standing(self._runs[place])

    def __iter__(self) -> Iterator[JobHandle]:
        return iter(self._handles)

    def __add__(self, more: Iterable[JobHandle]) -> JobGroup:
        return JobGroup(self._client, [*self._handles, *more])

    def __repr__(self) -> str:
        try:
            counts = self.counts()
        except ZBrainError:  # a repr shows what was last seen rather than raise
            counts = self.last_counts()
        told = ", ".join(f"{number:,} {state}" for state, number in counts.items())
        return f"<zbrain group {self.name!r} of {len(self):,}{': ' if told else ''}{told}>"

    def refresh(self) -> JobGroup:
        """Look at the server again, in one request; returns itself."""
        if active := self._active():
            self._update(self._client.call(self._client.asynchronous.lookup, active)[0])
        return self

    def counts(self) -> dict[str, int]:
        """Return how many jobs are in each state now, without the states in which there are none."""
        return self.refresh().last_counts()

    def last_counts(self) -> dict[str, int]:
        """Return `counts` as last seen."""
        counted = Counter(handle.job.state for handle in self._handles)
        return {str(state): counted[state] for state in JobState if counted[state]}

    def done(self) -> bool:
        """Whether all have ended."""
        return all(handle.job.state.ended for handle in self.refresh())

    def wait(self, timeout: float | None = None) -> JobGroup:
        """Block until all have ended, however they end; returns itself.

        Raises
        ------
        TimeoutError
            If some have not ended after `timeout` seconds; they go on.
        Detached
            If somebody pressed Detach, or called `detach`; they go on.
        """
        if any(not handle.job.state.ended for handle in self._handles):
            self._client.call(self._wait, timeout, True)
        for handle in self._handles:
            for call in handle.before_return:
                call()
        return self

    async def _wait(self, timeout: float | None, waits: bool = False) -> None:
        try:
            with anyio.fail_after(timeout):
                async for _ in self.changes(waits=waits):
                    pass
        except TimeoutError:
            left = sum(not handle.job.state.ended for handle in self._handles)
            raise TimeoutError(
                f"{left:,} of {len(self):,} jobs have not ended after {timeout:g} s; they go on."
            ) from None

    async def changes(self, *, waits: bool = False) -> AsyncIterator[list[Job]]:
        """Yield the jobs that have changed, until all have ended; for code in the client's own loop.

        Of `waits` see `AsyncClient.follow_many`.
        """
        followed: set[str] = set()
        while active := {handle.id for handle in self._handles if not handle.job.state.ended} - followed:
            followed |= active  # when they have ended, others may stand in their places
            jobs = [handle.job for handle in self._handles]
            async with aclosing(self._client.asynchronous.follow_many(jobs, waits=waits)) as changes:
                async for changed in changes:
                    self._update(changed)
                    yield changed

    def add_done_callback(self, call: Callable[[JobGroup], object]) -> concurrent.futures.Future[None]:
        """Call `call` with this group, in a thread of its own, once all its jobs have ended.

        It waits for a server that is away, for ever.
        """

        async def notify() -> None:
            await outlast(self._wait, None)
            await anyio.to_thread.run_sync(call, self)

        return self._client.start(notify)

    def _active(self) -> list[str]:
        """Return the ids of the jobs that have not ended, also of those that wait for a place."""
        return [handle.id for runs in self._runs for handle in runs if not handle.job.state.ended]

    def _update(self, jobs: Iterable[Job]) -> None:
        for job in jobs:
            for place in self._places.get(job.id, ()):
                for handle in self._runs[place]:
                    handle.update(job)

    def results(
        self, errors: Literal["raise", "return"] = "raise", timeout: float | None = None, *, trust: bool = False
    ) -> list[Any]:
        """Wait, and return what the jobs gave, in order (see `JobHandle.result`).

        Parameters
        ----------
        errors : str
            ``raise`` raises the error of the first job that did not succeed, ``return`` puts each in its place.
        timeout : float, optional
            Seconds to wait.
        trust : bool
            Load the values of somebody else's jobs too (see `JobHandle.result`).

        Raises
        ------
        JobFailedError, JobCanceledError, ValueNotKept
            With ``errors="raise"``.
        UntrustedResult
            If one is the value of a cell or function of somebody else.
        TimeoutError
            If some have not ended after `timeout` seconds; they go on.
        Detached
            As for `wait`.
        """
        if errors not in ("raise", "return"):
            raise UsageError(f"errors is 'raise' or 'return', not {errors!r}.")
        self.wait(timeout)
        jobs = [handle.job for handle in self._handles]
        found = [error_of(job) or unkept(job) for job in jobs]
        if errors == "raise":
            first = next((error for error in found if error is not None), None)
            if first is not None:
                raise first
        good = [job for job, error in zip(jobs, found, strict=True) if error is None and job.spec.cmd is None]
        if not trust:
            loaded = [job for job in good if job.result is not None]
            self._client.check_trusted(loaded, "The value", "`.results(trust=True)` if you trust both.")
        data = self._client.call(self._client.asynchronous.results, good)
        return [_value(job, data) if error is None else error for job, error in zip(jobs, found, strict=True)]

    def df(self) -> Any:
        """Return a pandas DataFrame with one row for each job, as they are now.

        Returns
        -------
        pandas.DataFrame
            ``id``, ``name``, a column for each parameter or tag, ``state``, the times, ``seconds`` that the job
            ran, ``attempt``, ``result`` (of one's own jobs that succeeded with a small one) and ``reason``.

        Raises
        ------
        ZBrainError
            If pandas is not installed.
        """
        try:
            import pandas as pd
        except ModuleNotFoundError:
            raise ZBrainError("df() needs pandas, which is not installed here.", "pip install pandas") from None
        jobs = [handle.job for handle in self.refresh()]
        small = [job for job in jobs if job.result is not None and job.result.size <= SMALL_BYTES]
        me = self._client.call(self._client.asynchronous.whoami).owner
        small = [job for job in small if job.owner == me]
        data = self._client.call(self._client.asynchronous.results, small)
        return pd.DataFrame([_row(job, data if job.owner == me else {}) for job in jobs])

    def cancel(self) -> JobGroup:
        """Cancel all that have not ended, in one request; returns itself."""
        if active := self._active():
            self._update(self._client.call(self._client.asynchronous.cancel_many, active))
        return self

    def detach(self) -> int:
        """Let go on who waits for the jobs, here or elsewhere (see `Detached`); returns how many these are."""
        return self[0].detach() if self else 0

    def retry_failed(self) -> JobGroup:
        """Submit one's own jobs that failed again; the new ones take the places of the old ones here.

        Returns
        -------
        JobGroup
            The new jobs alone.
        """
        failed = {h.id: place for place, h in enumerate(self.refresh()) if h.job.state is JobState.FAILED}
        jobs = self._client.call(self._client.asynchronous.retry_many, list(failed)) if failed else []
        if len(jobs) < len(failed):
            warnings.warn(
                f"{len(failed) - len(jobs):,} of {len(failed):,} were passed over: they are other people's. "
                "job.retry(others=True) runs such a job as you.",
                stacklevel=2,
            )
        again = []
        for job in jobs:
            again.append(self[failed[job.retry_of or ""]].repeated_by(job))
            self.put(again[-1])
        return JobGroup(self._client, again)

    def put(self, again: JobHandle) -> bool:
        """Take a job that repeats one of these, or one that stood in its place; return whether it stands there now.

        What stands there gives way to what repeats it, and to any later run of the place if it has ended without
        success: neither pushes out what runs or has succeeded, nor hides what runs behind what came to nothing.
        """
        places = self._places.get(again.job.retry_of or "", [])
        for runs in (self._runs[place] for place in places):
            if all(run.id != again.id for run in runs):
                runs[:] = sorted([*runs, again], key=lambda run: run.id)  # ids grow with time
        if places:
            self._places.setdefault(again.id, places)
        return any(self[place].id == again.id for place in places)


def _standing(runs: Sequence[JobHandle]) -> JobHandle:
    """Return which of the runs of a place, oldest first, stands there; the view says the same (`groupfeed.js`)."""
    stands = runs[0]
    for run in runs[1:]:
        if run.job.retry_of == stands.id or stands.job.state in (JobState.FAILED, JobState.CANCELED):
            stands = run
    return stands


def _value(job: Job, data: dict[str, bytes]) -> Any:
    if job.spec.cmd is not None:
        return job.output
    return None if job.result is None else load_value(data[job.result.sha256])


def parameters(job: Job) -> dict[str, Any]:
    """Return what tells a job of a group from the others: its tags, with their values as ``input`` has them."""
    given = job.spec.input if isinstance(job.spec.input, dict) else {}
    return {name: given.get(name, text) for name, text in job.spec.labels.items()}


def _row(job: Job, data: dict[str, bytes]) -> dict[str, Any]:
    small = job.state is JobState.SUCCEEDED and (job.result is None or job.result.sha256 in data)
    ran = (job.finished_at - job.started_at).total_seconds() if job.finished_at and job.started_at else None
    return {
        "id": job.id,
        "name": job.name,
        **parameters(job),
        "state": str(job.state),
        "created_at": job.created_at,
        "started_at": job.started_at,
        "finished_at": job.finished_at,
        "seconds": ran,
        "attempt": job.attempt,
        "result": _value(job, data) if small else None,
        "reason": job.reason,
    }
