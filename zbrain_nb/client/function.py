"""`function`: a decorator for functions that are often run as jobs."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Generic, ParamSpec, TypeVar, overload

from zbrain_nb.client.calls import function_fields
from zbrain_nb.client.client import Client
from zbrain_nb.client.connecting import connect
from zbrain_nb.client.group import JobGroup
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.payload import parcel_call

P = ParamSpec("P")
R = TypeVar("R")


class Function(Generic[P, R]):
    """A function that runs here when it is called, and elsewhere when it is submitted.

    Parameters
    ----------
    call : callable
        What runs.
    options : dict
        Fields of `JobSpec` for each job.
    """

    _client: ClassVar[Client | None] = None

    def __init__(self, call: Callable[P, R], options: dict[str, Any]) -> None:
        functools.update_wrapper(self, call)
        self._call = call
        self._options = options

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> R:
        """Call it here."""
        return self._call(*args, **kwargs)

    def __repr__(self) -> str:
        return f"<zbrain function {getattr(self._call, '__name__', self._call)}>"

    def submit(self, *args: P.args, **kwargs: P.kwargs) -> JobHandle:
        """Submit a call as a job (see `Client.submit`); all arguments are the function's."""
        client = self._connected()
        fields = function_fields(self._call, self._options)
        packed = parcel_call(self._call, args, kwargs)
        digest, apart = client.call(client.asynchronous.put_parcel, packed)
        fields["inputs"] = {**fields.get("inputs", {}), **apart}
        return client.submit(JobSpec(function=digest, **fields))

    def map(self, *iterables: Iterable[Any], max_parallel: int | None = None) -> JobGroup:
        """Submit a call for each of the items, as a job each (see `Client.map`)."""
        return self._connected().map(self._call, *iterables, max_parallel=max_parallel, **self._options)

    @classmethod
    def _connected(cls) -> Client:
        if Function._client is None:
            Function._client = connect()
        return Function._client


@overload
def function(call: Callable[P, R], /) -> Function[P, R]: ...
@overload
def function(**options: Any) -> Callable[[Callable[P, R]], Function[P, R]]: ...
def function(call: Any = None, /, **options: Any) -> Any:
    """Give a function the methods `Function.submit` and `Function.map`; calling it stays as it was.

    Parameters
    ----------
    **options
        Fields of `JobSpec` for each job, as in ``@zbrain_nb.function(max_retries=2, timeout_secs=60)``.
    """
    if call is None:
        return functools.partial(Function, options=options)
    return Function(call, options)
