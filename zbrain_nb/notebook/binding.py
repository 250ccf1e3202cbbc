"""``--out``: binds a job's variables in the notebook when it has succeeded."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterable
from typing import Any

from zbrain_nb.client.client import Client
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.errors import BlobMismatch, ZBrainError
from zbrain_nb.model.job import JobState
from zbrain_nb.model.payload import load_value

_ABSENT = object()


class OutBinding:
    """Unbinds the names now, so that nobody takes the old value for the new one, and binds them at the end.

    Parameters
    ----------
    client : Client
        Fetches the variables.
    handle : JobHandle
        Whose variables; its `wait` and `result` return after they are bound.
    namespace : dict
        The notebook's variables.
    names : iterable of str
        What to bind.
    """

    def __init__(self, client: Client, handle: JobHandle, namespace: dict[str, Any], names: Iterable[str]) -> None:
        self._client = client
        self._namespace = namespace
        self._old = {name: namespace.pop(name, _ABSENT) for name in names}
        self._lock = threading.Lock()
        self._done = False
        self._handle = handle
        handle.before_return.append(self.finish)
        handle.add_done_callback(lambda ended: self.finish())

    def finish(self) -> None:
        """Bind the names, or give back the old values if the job did not succeed; the first call does it.

        Raises
        ------
        BlobMismatch
            If what arrived is not what the job kept.
        ZBrainError
            If a variable cannot be fetched or loaded.
        """
        with self._lock:
            if self._done:
                return
            job = self._handle.refresh().job
            if not job.state.ended:
                return
            values = self._fetch() if job.state is JobState.SUCCEEDED else self._old
            for name, value in values.items():
                if name not in self._namespace and value is not _ABSENT:
                    self._namespace[name] = value
            self._done = True

    def _fetch(self) -> dict[str, Any]:
        known = {variable.name: variable for variable in self._handle.job.variables}
        values = {}
        for name in self._old:
            if name not in known:
                raise ZBrainError(f"The job succeeded, but did not keep {name!r}.", "Its log says why.")
            data = self._client.call(self._client.asynchronous.read, f"jobs/{self._handle.id}/variables/{name}")
            if hashlib.sha256(data).hexdigest() != known[name].sha256:
                raise BlobMismatch(f"The bytes of {name!r} are not those that the job kept.", "Try result() again.")
            values[name] = load_value(data)
        return values
