"""`Client`: the blocking face of `AsyncClient`, and what `zbrain_nb.connect` returns."""

from __future__ import annotations

import concurrent.futures
import datetime as dt
import inspect
import os
import sys
import uuid
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from zbrain_nb.client.asynchronous import AsyncClient
from zbrain_nb.client.calls import function_fields, label_of, pack_function, pack_items, upload_function
from zbrain_nb.client.executor import JobExecutor
from zbrain_nb.client.group import GROUP_TAG, PLACE_TAG, JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.client.locating import Locator
from zbrain_nb.client.loop import shared_loop
from zbrain_nb.client.naming import Params
from zbrain_nb.client.trust import check_pool, check_trusted
from zbrain_nb.model.environment import travelling_environ
from zbrain_nb.model.errors import InvalidSpec, JobNotFound, ZBrainError
from zbrain_nb.model.job import OWN_KIND, Job, JobSpec, JobState
from zbrain_nb.model.payload import parcel_call
from zbrain_nb.model.protocol import WorkerInfo
from zbrain_nb.model.queues import QueueInfo
from zbrain_nb.model.settings import read_settings

if TYPE_CHECKING:
    from zbrain_nb.client.history import History

T = TypeVar("T")
#: Jobs in one submit of `Client.map`.
SUBMIT_MANY = 1_000


class Client:
    """The blocking client: what `zbrain_nb.connect` returns.

    Parameters
    ----------
    locate : callable
        Finds the server (see `zbrain_nb.client.locating.locator`).
    """

    #: Makes the dashboard in a notebook; set by `zbrain_nb.notebook`, for this room knows no notebook.
    present: ClassVar[Callable[[Client], Any] | None] = None

    def __init__(self, locate: Locator) -> None:
        self._loop = shared_loop()
        self.asynchronous = AsyncClient(locate)
        self._history: History | None = None

    def __repr__(self) -> str:
        return "<zbrain client>"

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def call(self, function: Callable[..., Awaitable[T]], *args: Any) -> T:
        """Run a coroutine function in the client's own loop and return its result.

        An interrupt (Ctrl-C, the kernel's stop button) cancels it, waits until it has ended, and is raised here.
        """
        return self._loop.run(function, *args)

    def start(self, function: Callable[..., Awaitable[T]], *args: Any) -> concurrent.futures.Future[T]:
        """Start a coroutine function in the client's own loop and return its future."""
        return self._loop.start(function, *args)

    def check_trusted(self, jobs: Iterable[Job], what: str, how: str) -> None:
        """Refuse to load what jobs of others have left (see `trust.check_trusted`)."""
        jobs = list(jobs)
        if jobs:
            check_trusted(jobs, self.call(self.asynchronous.whoami), read_settings().trust_pools, what, how)

    def check_pool(self, kind: str, what: str) -> None:
        """Refuse to load what a pool will give that is not trusted (see `trust.check_pool`)."""
        if kind != OWN_KIND:
            check_pool(kind, self.call(self.asynchronous.whoami), read_settings().trust_pools, what)

    def close(self) -> None:
        """Close the connections; the loop itself is shared and ends with the process."""
        self.call(self.asynchronous.close)

    def submit(
        self,
        command: Sequence[str] | Callable[..., Any] | JobSpec | None = None,
        /,
        *args: Any,
        code: str | None = None,
        **options: Any,
    ) -> JobHandle:
        """Submit one job: a command, a function with its arguments, or the code of a cell.

        Parameters
        ----------
        command : sequence of str, callable or JobSpec
            A command and its arguments; or a function, shipped by value and called with `args` and those of
            `options` that are no fields of `JobSpec`; or a whole spec.
        *args
            For the function.
        code : str
            A cell, instead of `command`.
        **options
            Fields of `JobSpec`. Commands run in the caller's folder unless `cwd` says otherwise.

        Returns
        -------
        JobHandle
            The job is committed.

        Raises
        ------
        InvalidSpec
            If a field does not hold.
        NotPicklable
            If the function or an argument cannot travel.
        """
        if isinstance(command, JobSpec):
            if args or options or code is not None:
                raise InvalidSpec("A whole spec takes nothing beside it.", "Put it into the JobSpec.")
            return self.submit_many([command])[0]
        fields = {name: options.pop(name) for name in list(options) if name in JobSpec.__struct_fields__}
        if isinstance(given := fields.get("secrets"), Mapping):
            self.asynchronous.secrets.give(given)
            fields["secrets"] = list(given)
        if callable(command):
            _refuse_ambiguous(command, fields)
            packed = parcel_call(command, args, options)
            fields["function"], apart = self.call(self.asynchronous.put_parcel, packed)
            fields["inputs"] = {**fields.get("inputs", {}), **apart}
            fields.setdefault("name", getattr(command, "__name__", None))
            fields.setdefault("kernel", sys.executable)
            options = {}
        if options or (args and not callable(command)):
            unknown = next(iter(options), "positional arguments")
            raise InvalidSpec(f"A job spec has no field {unknown!r}.", "See help(zbrain_nb.JobSpec).", field=unknown)
        if isinstance(command, str):
            raise InvalidSpec(
                "A command is a list of its words, not one text.", 'For a shell: ["sh", "-c", "..."].', field="cmd"
            )
        if command is not None and not callable(command):
            fields["cmd"] = _words(command)
            hidden = fields.get("secrets") or ()
            travelling = {name: value for name, value in travelling_environ().items() if name not in hidden}
            fields["env"] = travelling | fields.get("env", {})
        if code is not None:
            fields["code"] = code
            fields.setdefault("kernel", sys.executable)
        fields.setdefault("cwd", str(Path.cwd()))
        return self.submit_many([JobSpec(**fields)])[0]

    def submit_many(self, specs: Iterable[JobSpec]) -> JobGroup:
        """Submit specs, all or nothing, in one commit."""
        wanted = list(specs)
        self.asynchronous.secrets.ask(name for spec in wanted for name in spec.secrets)
        jobs = self.call(self.asynchronous.submit, wanted) if wanted else []
        return JobGroup(self, [JobHandle(self, job) for job in jobs])

    def map(
        self, function: Callable[..., Any], *iterables: Iterable[Any], max_parallel: int | None = None, **options: Any
    ) -> JobGroup:
        """Submit a job for each call ``function(*items)``, the items taken from `iterables` side by side.

        The function travels once, however many the calls.

        Parameters
        ----------
        function : callable
            Shipped by value.
        *iterables
            As for the built-in `map`: the shortest ends it.
        max_parallel : int, optional
            How many of these jobs run at once at most; the server sees to it.
        **options
            Fields of `JobSpec` for each job.

        Returns
        -------
        JobGroup
            The jobs, committed, in the order of the items.

        Raises
        ------
        InvalidSpec
            If an option does not hold.
        NotPicklable
            If the function or an item cannot travel.
        ValueError
            If `max_parallel` is below 1.
        """
        if not iterables:
            raise TypeError("map() needs at least one iterable.")
        fields = function_fields(function, options) | parallel_fields(max_parallel, "map")
        tags = fields.pop("tags", {})
        group = uuid.uuid4().hex
        packed = pack_function(function)
        calls = list(zip(*iterables, strict=False))
        arguments = pack_items(calls)

        async def send() -> list[Job]:
            call = await upload_function(self.asynchronous, packed, fields)
            specs = []
            for place, (items, data) in enumerate(zip(calls, arguments, strict=True)):
                own = {"item": label_of(items), **tags, GROUP_TAG: group, PLACE_TAG: str(place)}
                specs.append(await call.spec_of(data, tags=own))
            return await self._submit_all(specs)

        return JobGroup(self, [JobHandle(self, job) for job in self.call(send)])

    def executor(self, max_workers: int | None = None, **options: Any) -> JobExecutor:
        """Return a `concurrent.futures.Executor` whose calls are jobs.

        Parameters
        ----------
        max_workers : int, optional
            How many of its jobs run at once at most; None leaves it to the workers' slots.
        **options
            Fields of `JobSpec` for each job.

        Raises
        ------
        ValueError
            If `max_workers` is below 1.
        InvalidSpec
            If an option does not hold.
        UntrustedResult
            If they go to a pool that is not trusted: the executor would load whatever it gives.
        """
        if max_workers is not None and max_workers < 1:
            raise ValueError("max_workers must be greater than 0")
        return JobExecutor(self, options | parallel_fields(max_workers, "executor"))

    async def _submit_all(self, specs: list[JobSpec]) -> list[Job]:
        """Submit in lists of `SUBMIT_MANY`; if one is refused, those before it are canceled."""
        jobs: list[Job] = []
        try:
            for start in range(0, len(specs), SUBMIT_MANY):
                jobs += await self.asynchronous.submit(specs[start : start + SUBMIT_MANY])
        except ZBrainError:
            if jobs:
                await self.asynchronous.cancel_many([job.id for job in jobs])
            raise
        return jobs

    def jobs(
        self,
        state: JobState | str | None = None,
        limit: int = 50,
        *,
        name: str | None = None,
        q: str | None = None,
        tag: tuple[str, str] | None = None,
    ) -> list[JobHandle]:
        """Return jobs, newest first.

        Parameters
        ----------
        state : JobState or str, optional
            Only jobs in this state.
        limit : int
            How many at most, up to 1,000.
        name : str, optional
            Only jobs of exactly this name.
        q : str, optional
            Only jobs whose name contains this, or whose id begins with it.
        tag : tuple of str and str, optional
            Only jobs with this tag: its name and its value.
        """

        async def fetch() -> list[Job]:
            return await self.asynchronous.jobs(state, limit, name=name, q=q, tag=tag)

        return [JobHandle(self, job) for job in self.call(fetch)]

    def job(self, job_id: str) -> JobHandle:
        """Return the handle of a job by its id, by its name (the newest of that name), or by a prefix of its id.

        Parameters
        ----------
        job_id : str
            A prefix has four or more characters and fits one of the newest 1,000 jobs only.

        Raises
        ------
        JobNotFound
            If there is none, or if the prefix fits several.
        """
        if not isinstance(job_id, str):
            raise JobNotFound(
                f"There is no job {job_id!r}.", "A job is named by text: its id, a prefix of it, or its name."
            )
        return JobHandle(self, self.call(self._find, job_id))

    async def _find(self, text: str) -> Job:
        try:
            return await self.asynchronous.get(str(uuid.UUID(text)))
        except ValueError:
            pass
        named = await self.asynchronous.jobs(limit=1, name=text)
        if named:
            return named[0]
        found = [job for job in await self.asynchronous.jobs(limit=1000) if len(text) >= 4 and job.id.startswith(text)]
        if len(found) == 1:
            return found[0]
        if found:
            raise JobNotFound(f"{len(found)} jobs begin with {text!r}.", "Give more of the id.")
        raise JobNotFound(f"There is no job {text!r}.", "`zbrain ls` shows the jobs that exist.")

    def sql(self, query: str, params: Params = None, *, since: dt.datetime | dt.timedelta | None = None) -> Any:
        """Ask the history: SQL over the tables ``jobs``, ``attempts``, ``events`` and ``logs``.

        It runs in this process, in a DuckDB of its own in memory (https://duckdb.org/docs/sql). What a query names is
        fetched and kept; the next one fetches only what is new. Of logs, that may be much: name one job
        (``where job_id = ?``), or give `since`. ``describe jobs`` shows a table's columns; times are in UTC.

        Parameters
        ----------
        query : str
            One SELECT, as DuckDB understands it.
        params : sequence or mapping, optional
            Values for ``?`` or ``$name``.
        since : datetime or timedelta, optional
            Only what is younger: jobs submitted, attempts leased, events and lines written since. A datetime without
            a zone is in UTC.

        Returns
        -------
        pandas.DataFrame
            Or, where pandas is not installed, a list of dicts, one a row.

        Raises
        ------
        QueryError
            If the query does not hold.
        """
        if self._history is None:
            from zbrain_nb.client.history import History

            self._history = History(lambda wanted: self.call(self.asynchronous.history, wanted))
        return self._history.sql(query, params, since)

    def workers(self) -> list[WorkerInfo]:
        """Return the workers that the queue knows."""
        return self.call(self.asynchronous.workers)

    def dashboard(self) -> Any:
        """Return the live table of jobs, as a widget.

        Raises
        ------
        ZBrainError
            If this is no notebook.
        """
        if Client.present is None:
            raise ZBrainError(
                "The dashboard needs a notebook.", "Run `%load_ext zbrain_nb` in one, or `zbrain dashboard` in a shell."
            )
        return Client.present(self)

    def queues(self) -> list[QueueInfo]:
        """Return the queues, one for each org and kind of worker, that have something to do or are paused."""
        return self.call(self.asynchronous.queues)

    def pause(self, kind: str = "local", *, org_id: str | None = None) -> QueueInfo:
        """Have no more jobs of a queue started, until `resume`; what runs goes on.

        Parameters
        ----------
        kind : str
            Kind of worker.
        org_id : str, optional
            None is ``ZDEFAULT_ORG_ID``.
        """
        return self.call(self.asynchronous.pause, org_id or read_settings().default_org_id, kind)

    def resume(self, kind: str = "local", *, org_id: str | None = None) -> QueueInfo:
        """Let a paused queue go on (see `pause`)."""
        return self.call(self.asynchronous.resume, org_id or read_settings().default_org_id, kind)


def parallel_fields(max_parallel: int | None, what: str) -> dict[str, Any]:
    """Return the fields of specs of which the server runs `max_parallel` at once; None is no limit.

    Raises
    ------
    ValueError
        If it is below 1.
    """
    if max_parallel is None:
        return {}
    if max_parallel < 1:
        raise ValueError(f"At least one job has to run at once, not {max_parallel}.")
    return {"concurrency_group": f"{what}-{uuid.uuid4().hex}", "concurrency_limit": max_parallel}


def _refuse_ambiguous(function: Callable[..., Any], fields: Iterable[str]) -> None:
    """Refuse an option that could be the job's or the function's."""
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):  # some builtins have no signature
        return
    for name in fields:
        if name in parameters:
            raise InvalidSpec(
                f"{name!r} is an argument of the function and a field of the job.",
                f"Give it by position, or fix it: functools.partial(function, {name}=...).",
                field=name,
            )


def _words(command: Any) -> list[str]:
    try:
        return [os.fspath(word) for word in command]
    except TypeError:
        raise InvalidSpec(
            f"A command is a list of texts, not {command!r:.80}.", 'Such as ["python", "train.py"].', field="cmd"
        ) from None
