"""``zbrain doctor``: looks where clients look, and says what is wrong."""

from __future__ import annotations

import platform
import shutil
import sys

import msgspec

from zbrain_nb.client.client import Client
from zbrain_nb.client.locating import search
from zbrain_nb.client.workers import worker_remark
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.protocol import WorkerState
from zbrain_nb.model.settings import read_settings

LOW_DISK_BYTES = 1 << 30


class Diagnosis(msgspec.Struct, frozen=True):
    """One thing looked at: what, whether it is as it should be, and in words."""

    subject: str
    good: bool
    text: str


def diagnose() -> list[Diagnosis]:
    """Look at settings, data directory, disk, server and worker; changes nothing."""
    found = [Diagnosis("python", True, f"{sys.executable} ({platform.python_version()})")]
    try:
        settings = read_settings()
        data = DataDir(settings.data, settings.artifacts)
    except ZBrainError as error:
        return [*found, Diagnosis("settings", False, str(error))]
    found.append(Diagnosis("data directory", True, str(data.root)))
    free = shutil.disk_usage(data.root).free
    found.append(Diagnosis("disk", free > LOW_DISK_BYTES, f"{free / 2**30:.1f} GiB free"))
    aside = sorted(data.root.glob("*.unreadable-*"))
    if aside:
        names = ", ".join(file.name for file in aside)
        found.append(Diagnosis("database", False, f"one was damaged and set aside; blobs are kept meanwhile: {names}"))
    if sys.platform != "linux":
        found.append(Diagnosis("platform", False, "only on Linux is a job's whole process tree ended for certain"))
    endpoint = None
    for finding in search(settings):
        found.append(Diagnosis(f"server by {finding.where}", True, finding.what))
        endpoint = endpoint or finding.endpoint
    if endpoint is None:
        found.append(Diagnosis("server", True, "none runs; `zbrain run` or `zbrain_nb.connect()` starts one"))
        return found
    try:
        server = endpoint
        client = Client(lambda: server)
        client.call(client.asynchronous.check)
        workers = client.workers()
    except ZBrainError as error:
        return [*found, Diagnosis("server", False, str(error))]
    found.append(Diagnosis("server", True, f"{endpoint.url} answers"))
    serving = [one for one in workers if one.state in (WorkerState.LIVE, WorkerState.DRAINING)]
    names = ", ".join(f"{w.id} ({w.slots} slots, {w.free} free)" for w in serving)
    found.append(Diagnosis("workers", bool(serving), names or f"none is here; see {data.log}"))
    found += [Diagnosis(f"worker {w.id}", False, remark) for w in workers if (remark := worker_remark(w))]
    pid = lock_holder(data.worker / "worker.lock")
    if pid is not None:
        found.append(Diagnosis("local worker", True, f"pid {pid}"))
    return found
