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
from zbrain_nb.model.payload import Reader, load_value
from zbrain_nb.notebook.capture import assigned_by
from zbrain_nb.notebook.reporting import report_failure

_ABSENT = object()


class OutBindings:
    """The names of one notebook that wait for jobs; of several jobs that shall bind a name, the latest does.

    Parameters
    ----------
    client : Client
        Fetches the variables.
    namespace : dict
        The notebook's variables.
    cells : dict of str to int
        Takes the file names of the cells that code comes from, and their numbers.
    """

    def __init__(self, client: Client, namespace: dict[str, Any], cells: dict[str, int]) -> None:
        self._client = client
        self._cells = cells
        self._namespace = namespace
        self._lock = threading.RLock()
        #: Which job shall bind a name, and the value that the name had before.
        self._waiting: dict[str, tuple[str, Any]] = {}
        #: Which job has bound a name, or given back its old value, and that value.
        self._settled: dict[str, tuple[str, Any]] = {}

    def add(self, handle: JobHandle, names: Iterable[str]) -> None:
        """Unbind `names` now, so that nobody takes an old value for the new one, and bind them at the job's end.

        The handle's `wait` and `result` return after that; a retry of it binds those names that are still its own.
        """
        names = list(names)
        with self._lock:
            for name in names:
                _, before = self._waiting.get(name, ("", _ABSENT))
                self._waiting[name] = (handle.id, self._namespace.pop(name, before))
                self._settled.pop(name, None)
        handle.before_return.append(lambda: self.finish(handle))
        handle.after_retry.append(lambda again: self._move(handle, again, names))
        # `wait` and `result` raise the same
        report_failure(handle.add_done_callback(self.finish), f"--out of {handle.name!r} is not bound")

    def _move(self, old: JobHandle, again: JobHandle, names: Iterable[str]) -> None:
        """Let a retry bind the names that still are as `old` left them; what was assigned since is the notebook's own.

        Others that repeat `old` may have had them meanwhile: the latest binds.
        """
        jobs = {old.id, *old.repeats}
        with self._lock:
            self.forget_reassigned()
            unsettled = {name for name, (job_id, _) in self._waiting.items() if job_id in jobs}
            settled = {name for name, (job_id, _) in self._settled.items() if job_id in jobs}
            mine = [name for name in names if name in settled or (name in unsettled and name not in self._namespace)]
            if mine:
                self.add(again, mine)

    def names_of(self, handle: JobHandle) -> list[str]:
        """Return the names that a job shall bind, or has bound and that still are as it left them."""
        with self._lock:
            return [name for held in (self._waiting, self._settled) for name in held if held[name][0] == handle.id]

    def forget_reassigned(self) -> None:
        """Let go of values whose names were assigned or deleted since, so that they do not stay in memory for this.

        Asked before each cell. It waits for nobody: while values are fetched, all are kept.
        """
        if self._lock.acquire(blocking=False):
            try:
                for name, (_, value) in list(self._settled.items()):
                    if self._namespace.get(name, _ABSENT) is not value:
                        del self._settled[name]
            finally:
                self._lock.release()

    def finish(self, handle: JobHandle) -> None:
        """Bind the names that still wait for this job, or give back the old values if it did not succeed.

        A name that was assigned meanwhile keeps that value.

        Raises
        ------
        BlobMismatch
            If what arrived is not what the job kept.
        UntrustedResult
            If the job is somebody else's.
        ZBrainError
            If a variable cannot be fetched or loaded.
        """
        job = handle.refresh().job
        if not job.state.ended:
            return
        with self._lock:
            names = [name for name, (job_id, _) in self._waiting.items() if job_id == job.id]
            kept = self._fetch(handle, names) if job.state is JobState.SUCCEEDED else {}
            for name in names:
                _, before = self._waiting.pop(name)
                if name in self._namespace:
                    continue
                value = kept.get(name, before)
                self._settled[name] = (job.id, value)
                if value is not _ABSENT:
                    self._namespace[name] = value

    def _fetch(self, handle: JobHandle, names: list[str]) -> dict[str, Any]:
        known = {variable.name: variable for variable in handle.job.variables}
        if names:
            hint = "`job.vars.load(NAME, trust=True)` if you trust both."
            self._client.check_trusted([handle.job], "What --out binds", hint)
        assigned = assigned_by(handle.job.spec.code or "")
        values = {}
        for name in names:
            if name not in known:
                raise ZBrainError(f"The job succeeded, but did not keep {name!r}.", "Its log says why.")
            data = self._client.call(self._client.asynchronous.read, f"jobs/{handle.id}/variables/{name}")
            if hashlib.sha256(data).hexdigest() != known[name].sha256:
                raise BlobMismatch(f"The bytes of {name!r} are not those that the job kept.", "Try wait() again.")
            values[name] = self._load(data, names, assigned)
        return values

    def _load(self, data: bytes, names: list[str], assigned: set[str]) -> Any:
        """Load a value; its functions become the notebook's own wherever that changes nothing in what they read.

        That is so if each name that they read is bound too, or not assigned by the cell, or new to the notebook
        (then it is bound along with them). Otherwise they keep to what the job had.
        """
        reader = Reader(data, "value")
        self._cells.update(reader.header.get("cells", {}))
        reads = [name for name in reader.header["names"] if name and name not in names]
        if any(name in assigned and name in self._namespace for name in reads):
            return load_value(data)
        values = reader.load(self._namespace)
        for name in reads:
            self._namespace.setdefault(name, values[name])
        return values[""]
