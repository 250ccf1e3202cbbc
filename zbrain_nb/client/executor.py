"""`JobExecutor`: jobs behind Python's own interface for calls elsewhere (``concurrent.futures``).

Futures change state, and run their callbacks, in one thread of the executor, as those of the standard library do.
"""

from __future__ import annotations

import atexit
import os
import queue
import re
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, Any, TypeVar

from zbrain_nb.client.calls import function_fields, pack_function
from zbrain_nb.client.dispatch import Call, Dispatch
from zbrain_nb.client.handle import error_of, said_of
from zbrain_nb.model.chunks import run_chunk
from zbrain_nb.model.errors import JobFailedError, NotPicklable
from zbrain_nb.model.job import Job, JobSpec, JobState
from zbrain_nb.model.packing import Parcel
from zbrain_nb.model.payload import load_exception, load_value, pack_arguments, unfit_call

if TYPE_CHECKING:
    from zbrain_nb.client.client import Client

T = TypeVar("T")
#: When nothing was to be done for so long, the executor's thread ends and its socket is closed, until the next call.
IDLE_SECS = 10.0
_ESCAPES = re.compile(r"\x1b\[[0-9;]*m")


class RemoteTraceback(Exception):
    """The cause of an exception that was raised in a job: the traceback there, as text."""

    def __str__(self) -> str:
        return f'\n"""\n{self.args[0]}\n"""'


class JobFuture(Future[T]):
    """The future of a job's call.

    Attributes
    ----------
    job_id : str or None
        The job, once it was submitted.
    """

    def __init__(self, executor: JobExecutor, call: Call | None) -> None:
        super().__init__()
        self._executor = executor
        self._call = call  # until the future is done
        self._job_id: str | None = None
        #: Whether the future has left the states in which it may be canceled; the executor's thread alone sets it.
        self._is_settled = False

    @property
    def job_id(self) -> str | None:
        """The job, once it was submitted."""
        call = self._call
        if call is None:
            return self._job_id
        return None if call.job is None else call.job.id

    def cancel(self) -> bool:
        """Cancel the job if it waits; return False if it runs or has ended."""
        return self._executor.cancel_all([self])[0]


class JobExecutor(Executor):
    """Runs each call as a job.

    Unlike processes of a pool, jobs go on when the executor and its process are gone; the process ends when all that
    it has submitted is with the server.

    Parameters
    ----------
    client : Client
        Whose server runs the jobs.
    max_workers : int, optional
        How many of its jobs run at once at most; None leaves it to the workers' slots.
    fields : dict
        Fields of `JobSpec` for each job.
    """

    def __init__(self, client: Client, fields: dict[str, Any]) -> None:
        spec = JobSpec(function="0" * 64, **fields)  # what does not hold is refused here, not by every future
        client.check_pool(spec.kind, "What an executor loads")
        self._client = client
        self._fields = fields
        self._lock = threading.Lock()
        self._dispatch = Dispatch(client.asynchronous, self)
        self._open: dict[Call, JobFuture[Any]] = {}
        self._acts: queue.SimpleQueue[Callable[[], object]] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._is_shut = False
        self._pumping: Future[None] | None = None
        self._pid = os.getpid()

    # The interface of concurrent.futures

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> Future[T]:
        """Submit the call ``fn(*args, **kwargs)``; what cannot travel is the future's exception.

        Raises
        ------
        RuntimeError
            If the executor was shut down.
        """
        return self._submit(fn, partial(pack_function, fn), args, kwargs, function_fields(fn, self._fields))

    def map(
        self, fn: Callable[..., T], *iterables: Iterable[Any], timeout: float | None = None, chunksize: int = 1
    ) -> Iterator[T]:
        """Yield ``fn(*items)`` in the order of the items; all calls are submitted at once.

        Parameters
        ----------
        fn : callable
            Packed once, however many the calls.
        *iterables
            As for the built-in `map`.
        timeout : float, optional
            Seconds from now in which all have to be there.
        chunksize : int
            Calls in one job.

        Raises
        ------
        TimeoutError
            By the iterator; calls that wait are canceled.
        ValueError
            If `chunksize` is below 1.
        """
        if chunksize < 1:
            raise ValueError("chunksize must be >= 1.")
        deadline = None if timeout is None else time.monotonic() + timeout
        calls: Iterable[tuple[Any, ...]] = zip(*iterables, strict=False)
        fields = function_fields(fn, self._fields)
        if chunksize == 1:
            pack = _Once(partial(pack_function, fn))
            return self._results([self._submit(fn, pack, args, {}, fields) for args in calls], deadline)
        run = partial(run_chunk, fn)
        pack = _Once(partial(pack_function, run))
        chunks = iter(partial(_take, iter(calls), chunksize), [])
        lists = self._results([self._submit(run, pack, (chunk,), {}, fields) for chunk in chunks], deadline)
        return (value for values in lists for value in values)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Take no more calls; with `wait`, return when all have ended. Harmless when repeated."""
        with self._lock:
            self._is_shut = True
            waiting, thread = list(self._open.values()), self._thread
        if cancel_futures:
            self.cancel_all(waiting)
        if thread is None:
            return
        self._acts.put(lambda: None)  # it sees that there is nothing left
        if wait and thread is not threading.current_thread():
            thread.join()

    def cancel_all(self, futures: list[JobFuture[Any]]) -> list[bool]:
        """Cancel those of the futures whose jobs wait; return for each whether it is canceled now."""
        sent: dict[Call, JobFuture[Any]] = {}
        for future in futures:
            call = future._call
            if call is None or future.running() or future.done():
                continue
            if self._dispatch.withdraw(call):
                self._cancel(future)  # at once: of these nobody else would tell, whatever the server says of the others
            else:
                sent[call] = future
        answers = self._client.call(self._dispatch.cancel, list(sent)) if sent else []
        for future, is_canceled in zip(sent.values(), answers, strict=True):
            if is_canceled:
                self._cancel(future)
        return [future.cancelled() for future in futures]

    def _cancel(self, future: JobFuture[Any]) -> None:
        if Future.cancel(future):
            self._acts.put(partial(self._close, future))

    # How a call goes out

    def _submit(
        self,
        fn: Callable[..., Any],
        pack: Callable[[], bytes],
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        fields: dict[str, Any],
    ) -> JobFuture[Any]:
        try:
            call = Call(pack(), pack_arguments(args, kwargs).snapshot(), fields)
            problem = None
        except NotPicklable as error:
            call, problem = Call(b"", Parcel(b"", {}), fields), unfit_call(error, fn, args, kwargs)
        future: JobFuture[Any] = JobFuture(self, call)
        with self._lock:
            if self._is_shut:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._open[call] = future
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, name="zbrain-executor", daemon=True)
                self._thread.start()
                atexit.register(self._flush)
        if problem is not None:
            self.refused(call, problem)
        elif self._dispatch.add(call):
            self._pumping = self._client.start(self._dispatch.pump)
        return future

    def _flush(self) -> None:
        """See that what is in line gets to the server; called at the process's end."""
        if self._pumping is not None and self._pid == os.getpid():  # a forked child has no loop that would do it
            self._pumping.result()

    def _results(self, futures: list[JobFuture[Any]], deadline: float | None) -> Iterator[Any]:
        def results() -> Iterator[Any]:
            futures.reverse()
            try:
                while futures:
                    yield futures[-1].result(None if deadline is None else deadline - time.monotonic())
                    futures.pop()
            finally:
                self.cancel_all(futures)

        return results()

    # What becomes of it: told in the client's loop, done in the executor's thread

    def started(self, call: Call) -> None:
        """See `Desk`."""
        self._tell(call, self._settle)

    def ended(self, call: Call, job: Job, data: bytes | None) -> None:
        """See `Desk`."""
        self._tell(call, self._finish, job, data)

    def refused(self, call: Call, error: Exception) -> None:
        """See `Desk`."""
        self._tell(call, self._fail, error)

    def _tell(self, call: Call, act: Callable[..., object], *args: Any) -> None:
        future = self._open.get(call)
        if future is not None:  # else it was canceled
            self._acts.put(partial(act, future, *args))

    def _run(self) -> None:
        """Do what there is to do; end when all is done after a shutdown, or nothing was for a while."""
        while True:
            try:
                self._acts.get(timeout=IDLE_SECS)()
                is_idle = False
            except queue.Empty:
                is_idle = True
            with self._lock:
                if (self._is_shut or is_idle) and not self._open and self._acts.empty():
                    self._thread = None
                    break
        atexit.unregister(self._flush)
        self._client.start(self._stop)

    async def _stop(self) -> None:
        if not self._open:  # else a call has come meanwhile, and is followed
            await self._dispatch.stop()

    def _settle(self, future: JobFuture[Any]) -> bool:
        """Let the future run, or tell its waiters that it was canceled; return whether it may be given a result."""
        if not future._is_settled:
            future._is_settled = True
            future.set_running_or_notify_cancel()
        return not future.done()

    def _close(self, future: JobFuture[Any]) -> None:
        self._settle(future)
        call = future._call
        if call is not None:
            future._job_id = future.job_id
            future._call = None  # with its job: futures may be kept for long, and be many
            self._open.pop(call, None)

    def _fail(self, future: JobFuture[Any], error: BaseException) -> None:
        if self._settle(future):
            future.set_exception(error)
        self._close(future)

    def _finish(self, future: JobFuture[Any], job: Job, data: bytes | None) -> None:
        if job.state is JobState.CANCELED and not future._is_settled:
            Future.cancel(future)
        if not self._settle(future):
            return self._close(future)
        value = None
        try:
            error = _raised(job)
            if error is None and data is not None:
                value = load_value(data)
        except Exception as problem:  # loading runs the objects' own code, which may raise anything
            error = problem
        if error is not None:
            return self._fail(future, error)
        future.set_result(value)
        self._close(future)


class _Once:
    """Makes the same bytes for many calls, when the first asks, or fails for all of them."""

    def __init__(self, make: Callable[[], bytes]) -> None:
        self._make = make
        self._made: bytes | NotPicklable | None = None

    def __call__(self) -> bytes:
        if self._made is None:
            try:
                self._made = self._make()
            except NotPicklable as error:
                self._made = error
        if isinstance(self._made, NotPicklable):
            raise self._made
        return self._made


def _take(items: Iterator[tuple[Any, ...]], count: int) -> list[tuple[Any, ...]]:
    return list(islice(items, count))


def _raised(job: Job) -> BaseException | None:
    """Return what the call raised, with the traceback there as its cause; else what else ended the job."""
    told = job.error or {}
    if job.state is not JobState.FAILED or not told.get("traceback"):
        return error_of(job)
    raised = load_exception(told["pickled"]) if "pickled" in told else None
    if raised is None:
        hint = f"The {told['ename']} itself cannot be pickled, or not be rebuilt here."
        raised = JobFailedError(f"{said_of(job).rstrip('.')}.", hint, job_id=job.id)
    raised.__cause__ = RemoteTraceback(_ESCAPES.sub("", "\n".join(told["traceback"])))
    return raised
