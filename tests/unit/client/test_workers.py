"""Workers in words."""

from __future__ import annotations

import pytest

from zbrain_nb.client.workers import COLUMNS, culling_remark, worker_remark, worker_row
from zbrain_nb.model.culling import Culling
from zbrain_nb.model.job import Resources
from zbrain_nb.model.protocol import Health, WorkerInfo, WorkerState


def test_row_says_what_is_free_of_what_is_there() -> None:
    health = Health(free=Resources(cpus=1.5, memory_mb=512, gpus=1), load=0.25, disk_free_bytes=3 << 30)
    info = WorkerInfo(
        id="w",
        host="box",
        slots=4,
        free=1,
        resources=Resources(cpus=2, memory_mb=2048, gpus=2),
        health=health,
        seen_at=90,
    )
    row = dict(zip(COLUMNS, worker_row(info, now=93), strict=True))
    assert row["Resources free"] == "1.5 of 2 CPUs, 512 MiB of 2 GiB, 1 of 2 GPUs"
    assert (row["State"], row["Load"], row["Disk free"], row["Heard"]) == ("live", "0.2", "3 GiB", "3 s ago")
    assert row["Remark"] == ""


@pytest.mark.parametrize(
    ("fields", "remark"),
    [
        ({"state": WorkerState.DRAINING, "running": 1}, "It takes no more jobs, and ends after 1 job."),
        ({"state": WorkerState.LOST}, "It has fallen silent."),
        ({"health": Health(problem="Its disk is full.", last_error="old")}, "Its disk is full."),
        ({"health": Health(last_error="Job 1 failed.")}, "Last trouble: Job 1 failed."),
        ({}, ""),
    ],
)
def test_remark_says_what_is_the_matter(fields: dict, remark: str) -> None:
    assert worker_remark(WorkerInfo(id="w", **fields)) == remark


@pytest.mark.parametrize(
    ("cap_hours", "idle_hours", "running", "remark"),
    [
        (24, 2, 1, "Running jobs keep the server beside it from being culled until "),
        (24, 25, 1, "The server beside it may be culled while jobs run: nobody did anything there for 25 h."),
        (0.5, 1, 1, "The server beside it may be culled while jobs run: nobody did anything there for 60 min."),
        (0, 1, 1, "Running jobs do not keep the server beside it from being culled (keep_server_hours is 0)."),
        (24, 25, 0, ""),
    ],
)
def test_remark_says_how_long_jobs_keep_the_server_beside_their_worker(
    cap_hours: float, idle_hours: float, running: int, remark: str
) -> None:
    health = Health(culling=Culling(active_at=1_000_000, cap_secs=3600 * cap_hours))
    info = WorkerInfo(id="w", running=running, health=health)
    said = culling_remark(info, 1_000_000 + 3600 * idle_hours)
    assert said == remark or (remark.endswith("until ") and said.startswith(remark))
    assert dict(zip(COLUMNS, worker_row(info, 1_000_000 + 3600 * idle_hours), strict=True))["Remark"] == said


def test_row_of_a_hostile_worker_steers_no_terminal() -> None:
    row = worker_row(WorkerInfo(id="w", host="\x1b[2Jbox", health=Health(problem="\x1b]0;title\x07")))
    assert not any("\x1b" in text or "\x07" in text for text in row)
