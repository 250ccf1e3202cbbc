"""Checkpoints: they outlive attempts and a job's end, a Retry has them, and they go with the last job kept."""

from __future__ import annotations

import os
import time
from pathlib import Path

import msgspec
import pytest

from tests.unit.worker.conftest import Station, eventually
from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.errors import ServerUnreachable
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.job import Job
from zbrain_nb.worker import inside
from zbrain_nb.worker.checkpoints import Checkpoints

STEP = (
    "import zbrain_nb\nfolder = zbrain_nb.checkpoint_dir()\n"
    "print(sorted(path.name for path in folder.iterdir()))\n"
    "(folder / f'step-{len(list(folder.iterdir()))}').touch()"
)


def again(station: Station, job: Tracked, **changes: object) -> Tracked:
    """Have another attempt, or a Retry, of a job leased."""
    changed = msgspec.structs.replace(job.job, **changes)
    tracked = station.queue.jobs[changed.id, changed.attempt] = Tracked(changed)
    station.queue.poke()
    return tracked


@pytest.mark.anyio
async def test_checkpoints_are_found_by_the_next_attempt_and_by_a_retry_of_a_retry(station: Station) -> None:
    first = await station.run(code=STEP)
    assert isinstance(first.ending, JobCompleted), first.lines(None)
    second = again(station, first, attempt=2)
    await station.until(lambda: second.ended)
    third = again(station, first, id=Job(first.job.spec).id, retry_of=first.job.id)
    await station.until(lambda: third.ended)
    fourth = again(station, first, id=Job(first.job.spec).id, retry_of=third.job.id)
    await station.until(lambda: fourth.ended)
    seen = [job.lines()[0] for job in (first, second, third, fourth)]
    assert seen == ["[]", "['step-0']", "['step-0', 'step-1']", "['step-0', 'step-1', 'step-2']"]


@pytest.mark.anyio
async def test_command_finds_the_folder_in_its_environment(station: Station) -> None:
    first = await station.run("sh", "-c", 'echo 7 > "$ZBRAIN_CHECKPOINTS/epoch"; exit 1')
    second = again(station, first, id=Job(first.job.spec).id, retry_of=first.job.id)
    await station.until(lambda: second.ended)
    folder = station.folder.root / "checkpoints"
    assert (folder / first.job.id / "epoch").read_text() == "7\n"
    assert os.readlink(folder / second.job.id) == first.job.id


@pytest.mark.anyio
async def test_folder_that_stayed_empty_goes_with_its_job(station: Station) -> None:
    await station.run("sh", "-c", 'test -d "$ZBRAIN_CHECKPOINTS"')
    folder = station.folder.root / "checkpoints"
    await eventually(lambda: folder.is_dir() and not list(folder.iterdir()))


class Kept:
    def __init__(self, *ids: str) -> None:
        self.ids = set(ids)

    async def __call__(self, job_id: str) -> bool:
        return job_id in self.ids


def lineage(root: Path) -> Checkpoints:
    """Job b is a Retry of a, whose folder holds a file; c has one of its own."""
    for name in ("a", "c"):
        (root / name).mkdir()
        (root / name / "file").touch()
    (root / "b").symlink_to("a")
    return Checkpoints(root)


@pytest.mark.anyio
@pytest.mark.parametrize(
    ("kept", "left"),
    [("abc", ["a", "b", "c"]), ("a", ["a"]), ("b", ["a", "b"]), ("c", ["c"]), ("", [])],
)
async def test_sweep_leaves_what_a_kept_job_needs(tmp_path: Path, kept: str, left: list[str]) -> None:
    await lineage(tmp_path).sweep(Kept(*kept), time.time() + 1)
    assert sorted(os.listdir(tmp_path)) == left
    assert all((tmp_path / name / "file").exists() for name in left)


@pytest.mark.anyio
async def test_sweep_lets_young_folders_be(tmp_path: Path) -> None:
    assert await lineage(tmp_path).sweep(Kept(), time.time() - 60) == 0
    assert len(os.listdir(tmp_path)) == 3


@pytest.mark.anyio
async def test_sweep_removes_nothing_when_the_queue_is_away(tmp_path: Path) -> None:
    async def away(job_id: str) -> bool:
        if job_id == "c":
            raise ServerUnreachable("away")
        return False

    (tmp_path / "z").mkdir()
    with pytest.raises(ServerUnreachable):
        await lineage(tmp_path).sweep(away, time.time() + 1)
    assert {"a", "c", "z"} <= set(os.listdir(tmp_path))


def test_checkpoint_dir_outside_of_a_job_is_in_the_current_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ZBRAIN_CHECKPOINTS", raising=False)
    monkeypatch.chdir(tmp_path)
    assert inside.checkpoint_dir() == tmp_path / "zbrain_checkpoints"
    assert (tmp_path / "zbrain_checkpoints").is_dir()
