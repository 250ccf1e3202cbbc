"""Workers in words."""

from __future__ import annotations

import pytest

from zbrain_nb.client.workers import COLUMNS, worker_remark, worker_row
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


def test_row_of_a_hostile_worker_steers_no_terminal() -> None:
    row = worker_row(WorkerInfo(id="w", host="\x1b[2Jbox", health=Health(problem="\x1b]0;title\x07")))
    assert not any("\x1b" in text or "\x07" in text for text in row)
