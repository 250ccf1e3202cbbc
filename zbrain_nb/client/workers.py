"""Workers in words: what a person wants to know of each, for tables and for `zbrain doctor`."""

from __future__ import annotations

import datetime as dt
import time

from zbrain_nb.client.printing import printable
from zbrain_nb.model.job import Resources
from zbrain_nb.model.protocol import WorkerInfo, WorkerState
from zbrain_nb.model.sizes import format_kib

#: Headings of `worker_row`.
COLUMNS = ("Id", "Kind", "Host", "State", "Slots", "Free", "Resources free", "Load", "Disk free", "Heard", "Remark")


def worker_row(info: WorkerInfo, now: float | None = None) -> tuple[str, ...]:
    """Return what a table says of a worker, one text for each of `COLUMNS`.

    Parameters
    ----------
    info : WorkerInfo
        As the queue lists it.
    now : float, optional
        Seconds since the epoch; None is the present.
    """
    health = info.health
    heard = max(0.0, (time.time() if now is None else now) - info.seen_at)
    texts = (
        info.id,
        info.kind,
        info.host,
        str(info.state),
        str(info.slots),
        str(info.free),
        _resources(health.free, info.resources) if health is not None and health.free is not None else "",
        f"{health.load:.1f}" if health is not None and health.load is not None else "",
        format_kib(health.disk_free_bytes / 1024) if health is not None and health.disk_free_bytes is not None else "",
        f"{heard:.0f} s ago",
        " ".join(filter(None, (worker_remark(info), culling_remark(info, now)))),
    )
    return tuple(map(printable, texts))


def worker_remark(info: WorkerInfo) -> str:
    """Return what is the matter with a worker, in a sentence or two; empty if nothing is."""
    jobs = "1 job" if info.running == 1 else f"{info.running} jobs"
    said = {
        WorkerState.DRAINING: f"It takes no more jobs, and ends after {jobs}.",
        WorkerState.STOPPED: f"It has ended, and left {jobs} to the next worker on its folder.",
        WorkerState.STALE: "It has missed heartbeats.",
        WorkerState.LOST: "It has fallen silent.",
    }.get(info.state, "")
    health = info.health
    trouble = "" if health is None else health.problem or (health.last_error and f"Last trouble: {health.last_error}")
    return " ".join(text for text in (said, trouble) if text)


def culling_remark(info: WorkerInfo, now: float | None = None) -> str:
    """Return how long the worker's jobs keep the person's server beside it from being culled; empty if none runs.

    Parameters
    ----------
    info : WorkerInfo
        As the queue lists it.
    now : float, optional
        Seconds since the epoch; None is the present.
    """
    culling = info.health.culling if info.health is not None else None
    if culling is None or not info.running:
        return ""
    now = time.time() if now is None else now
    if not culling.cap_secs:
        return "Running jobs do not keep the server beside it from being culled (keep_server_hours is 0)."
    if not culling.is_over(now):
        until = dt.datetime.fromtimestamp(culling.kept_until).strftime("%a %H:%M")
        return f"Running jobs keep the server beside it from being culled until {until}."
    minutes = (now - culling.active_at) / 60
    idle = f"{minutes / 60:.0f} h" if minutes > 120 else f"{minutes:.0f} min"
    return f"The server beside it may be culled while jobs run: nobody did anything there for {idle}."


def _resources(free: Resources, offered: Resources) -> str:
    parts = [f"{free.cpus:.3g} of {offered.cpus:.3g} CPUs"]
    if free.memory_mb is not None and offered.memory_mb is not None:
        parts.append(f"{format_kib(free.memory_mb * 1024)} of {format_kib(offered.memory_mb * 1024)}")
    if offered.gpus:
        parts.append(f"{free.gpus:g} of {offered.gpus:g} GPUs")
    return ", ".join(parts)
