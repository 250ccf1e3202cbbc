"""What a job leaves: artifacts, output, and paths that try to escape."""

from __future__ import annotations

import asyncio
import hashlib
import os
import sys
import threading
from pathlib import Path
from typing import Any

import pytest

from tests.unit.worker.conftest import Station
from tests.unit.worker.memory_link import MemoryLink
from zbrain_nb.model.events import JobCompleted, JobFailed, LogStream
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.protocol import Lease
from zbrain_nb.worker.collect import find_artifacts, open_beneath
from zbrain_nb.worker.preparing import Preparer


def names(artifacts: list[dict[str, object]]) -> set[object]:
    return {artifact["name"] for artifact in artifacts}


@pytest.mark.anyio
async def test_artifacts_by_glob_folder_and_save_are_kept(station: Station) -> None:
    script = (
        "import os, zbrain_nb as z\n"
        "os.makedirs('out/deep'); open('out/deep/a.txt', 'w').write('A'); open('b.csv', 'w').write('B')\n"
        "z.save_artifact(b'bytes', 'sub/c.bin'); z.save_artifact({'k': 1}); open('mine.txt', 'w').write('m')\n"
        "import pathlib; z.save_artifact(pathlib.Path('mine.txt')); z.save_artifact('text', 't.txt')\n"
        "open(os.environ['ZBRAIN_OUTPUT'], 'w').write('[1, 2]')"
    )
    job = await station.run(sys.executable, "-c", script, artifacts=["out", "*.csv", "none*.x"])
    assert isinstance(job.ending, JobCompleted), job.lines(None)
    assert names(job.ending.artifacts) == {"out/deep/a.txt", "b.csv", "sub/c.bin", "dict.pkl", "mine.txt", "t.txt"}
    assert job.ending.output == [1, 2]
    by_name = {artifact["name"]: artifact for artifact in job.ending.artifacts}
    digest = hashlib.sha256(b"bytes").hexdigest()
    assert by_name["sub/c.bin"] == {"name": "sub/c.bin", "sha256": digest, "size": 5}
    assert (station.queue.folder / digest).read_bytes() == b"bytes"
    assert job.lines(LogStream.SYSTEM) == ["Artifacts 'none*.x' matched no file."]


@pytest.mark.anyio
async def test_artifacts_are_kept_on_failure_too(station: Station) -> None:
    job = await station.run("sh", "-c", "echo x > a.log; exit 1", artifacts=["*.log"])
    assert isinstance(job.ending, JobFailed)
    assert names(job.ending.artifacts) == {"a.log"}


@pytest.mark.anyio
async def test_artifacts_that_escape_are_refused_and_said(station: Station, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    script = f"ln -s '{tmp_path}/secret' link.txt; ln -s '{tmp_path}' folder; mkfifo pipe.txt; echo ok > ok.txt"
    globs = ["*.txt", "folder/secret", "../*", f"{tmp_path}/*"]
    job = await station.run("sh", "-c", script, artifacts=globs)
    assert isinstance(job.ending, JobCompleted)
    assert names(job.ending.artifacts) == {"ok.txt"}
    said = job.lines(LogStream.SYSTEM)
    assert sum("leaves the job's folder" in line for line in said) == 2
    assert any("'link.txt' was not kept" in line for line in said)
    assert any("'folder/secret' was not kept" in line for line in said)
    assert any("'pipe.txt' was not kept" in line for line in said)


@pytest.mark.anyio
async def test_link_in_place_of_the_folder_of_artifacts_leads_nowhere(station: Station, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("s")
    script = f'rmdir "$ZBRAIN_ARTIFACTS"; ln -s \'{tmp_path}\' "$ZBRAIN_ARTIFACTS"; echo ok > ok.txt'
    job = await station.run("sh", "-c", script, artifacts=["*.txt"])
    assert isinstance(job.ending, JobCompleted)
    assert names(job.ending.artifacts) == {"ok.txt"}
    assert any("'secret' was not kept" in line for line in job.lines(LogStream.SYSTEM))


@pytest.mark.anyio
@pytest.mark.parametrize("put", ["echo x >", "ln -s artifacts", "mkfifo"])
async def test_job_that_put_something_else_in_place_of_its_folder_of_artifacts_ends(station: Station, put: str) -> None:
    script = f'cd "$ZBRAIN_ARTIFACTS"/..; rmdir artifacts; {put} artifacts'
    job = await station.run("sh", "-c", script)
    assert isinstance(job.ending, JobCompleted)
    assert names(job.ending.artifacts) == set()


@pytest.mark.anyio
async def test_output_that_is_no_json_is_said_and_left(station: Station) -> None:
    job = await station.run("sh", "-c", "echo '{oops' > $ZBRAIN_OUTPUT")
    assert job.ending.output is None
    assert "it is no JSON" in job.lines(LogStream.SYSTEM)[0]


@pytest.mark.anyio
async def test_inputs_are_fetched_and_read_only(station: Station) -> None:
    content = b"shipped"
    digest = hashlib.sha256(content).hexdigest()
    (station.queue.folder / digest).write_bytes(content)
    job = await station.run("true", inputs={"data": digest})
    assert isinstance(job.ending, JobCompleted)
    assert (station.folder.blobs / digest).read_bytes() == content


@pytest.mark.anyio
async def test_input_in_the_store_is_read_in_place_until_it_is_damaged(idle_station: Station, tmp_path: Path) -> None:
    queue, content = idle_station.queue, b"as it was stored"
    digest = hashlib.sha256(content).hexdigest()
    lying = tmp_path / digest[:2] / digest[2:]
    lying.parent.mkdir()
    for path in (lying, queue.folder / digest):
        path.write_bytes(content)
    preparer = Preparer(idle_station.folder, MemoryLink(queue))
    preparer.blobs = tmp_path
    job = Job(JobSpec(cmd=["true"], inputs={"data": digest}))
    assert (await preparer.prepare(Lease(job))).inputs == {"data": str(lying)}
    before = lying.stat()
    while lying.stat().st_ctime_ns == before.st_ctime_ns:  # its clock ticks slowly
        lying.write_bytes(content.upper())
    os.utime(lying, ns=(before.st_atime_ns, before.st_mtime_ns))
    elsewhere = (await preparer.prepare(Lease(job))).inputs["data"]
    assert elsewhere != str(lying)
    assert Path(elsewhere).read_bytes() == content


@pytest.mark.anyio
async def test_input_of_many_jobs_leased_together_is_hashed_once(
    idle_station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = b"of many"
    digest = hashlib.sha256(content).hexdigest()
    lying = tmp_path / digest[:2] / digest[2:]
    lying.parent.mkdir()
    lying.write_bytes(content)
    preparer = Preparer(idle_station.folder, None)
    preparer.blobs = tmp_path
    hashed: list[str] = []
    again = threading.Event()
    digest_of = hashlib.file_digest

    def count(file: Any, name: str) -> Any:
        hashed.append(file.name)
        if len(hashed) > 1:
            again.set()
        again.wait(0.3)  # the others have their chance
        return digest_of(file, name)

    monkeypatch.setattr(hashlib, "file_digest", count)
    job = Job(JobSpec(cmd=["true"], inputs={"data": digest}))
    requests = await asyncio.gather(*(preparer.prepare(Lease(job)) for _ in range(8)))
    assert {request.inputs["data"] for request in requests} == {str(lying)}
    assert hashed == [str(lying)]


@pytest.mark.parametrize("path", ["link", "folder/secret", "../secret", "/etc/passwd", "pipe", "sub", "", "none"])
def test_open_beneath_refuses(tmp_path: Path, path: str) -> None:
    root = tmp_path / "root"
    (root / "sub").mkdir(parents=True)
    (tmp_path / "secret").write_text("s")
    (root / "link").symlink_to("../secret")
    (root / "folder").symlink_to("..")
    os.mkfifo(root / "pipe")
    with pytest.raises(OSError):
        open_beneath(str(root), path)


def test_find_artifacts_names_that_are_no_text_are_made_text(tmp_path: Path) -> None:
    folder, cwd = tmp_path / "a", tmp_path / "b"
    folder.mkdir()
    cwd.mkdir()
    (folder / os.fsdecode(b"bad\xff\n\x1b\xc2\x9b.txt")).write_text("x")
    found, _ = find_artifacts(str(folder), str(cwd), [])
    assert [one.name for one in found] == ["bad\ufffd___.txt"]
    with open_beneath(found[0].root, found[0].path) as file:
        assert file.read() == b"x"


@pytest.mark.parametrize("what", ["folder", "file"])
@pytest.mark.parametrize("step", range(4))
def test_open_beneath_reads_nothing_outside_whenever_a_link_takes_a_parts_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, what: str, step: int
) -> None:
    root, secrets = tmp_path / "root", tmp_path / "secrets"
    for folder, text in ((root / "a" / "b", "the job's"), (secrets / "b", "secret")):
        folder.mkdir(parents=True)
        (folder / "file").write_text(text)
    (one,), _ = find_artifacts(str(tmp_path / "none"), str(root), ["a"])
    opened, steps = os.open, []

    def swap() -> None:
        target, to = (root / "a", secrets) if what == "folder" else (root / "a" / "b" / "file", secrets / "b" / "file")
        target.rename(tmp_path / "moved")
        target.symlink_to(to)

    def open_and_swap(*args: Any, **more: Any) -> int:
        if len(steps) == step:
            swap()
        steps.append(args)
        return opened(*args, **more)

    monkeypatch.setattr(os, "open", open_and_swap)
    try:
        with open_beneath(one.root, one.path) as file:
            assert file.read() == b"the job's"
    except OSError:
        pass
    assert len(steps) > step
