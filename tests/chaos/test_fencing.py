"""Workers that are cut off or suspended, and hosts that stop: no attempt overlaps where it can be helped.

Jobs write what time it is, by the clock that leases go by, every few milliseconds; what they wrote tells when an
attempt began and when its last process was gone.
"""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import urlsplit

import psutil
import pytest

from tests.chaos.cable import Cable
from tests.chaos.conftest import wait_for
from tests.conftest import end_everything
from tests.unit.worker.conftest import pids_with
from zbrain_nb.client.client import Client
from zbrain_nb.client.connecting import connect
from zbrain_nb.model.datadir import DataDir, is_locked, lock_holder
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.job import Job, JobState

TTL_SECS = 3.0
#: Attempt 1 never ends by itself; a process of its own session stamps too, for the whole tree has to go.
STAMPING = """
import os, sys, time
attempt = os.environ["ZBRAIN_ATTEMPT"]
begun = time.monotonic()
child = os.fork()
if not child:
    os.setsid()
def stamp():
    with open(os.path.join(sys.argv[1], f"{attempt}.{os.getpid()}"), "a") as file:
        file.write(f"{time.clock_gettime(time.CLOCK_BOOTTIME):.4f}\\n")
while attempt == "1" or time.monotonic() - begun < float(sys.argv[2]):
    stamp()
    if child:
        print(attempt, flush=True)
    time.sleep(0.01)
"""


class Site:
    """A host in a process of its own, and workers that are told to be on other machines."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.data = DataDir(root / "data")
        self.stamps = root / "stamps"
        self.stamps.mkdir()
        self.processes: list[subprocess.Popen[bytes]] = []
        self.folders: list[Path] = []
        self.cables: list[Cable] = []
        self.host = self.start_host()
        self.client: Client = connect(self.url, self.data.token())

    @property
    def url(self) -> str:
        return wait_for(lambda: find_host(self.data), "the host").url

    def start_host(self, port: int = 0) -> subprocess.Popen[bytes]:
        environ = os.environ | {"ZWORKER_MODE": "none", "ZBRAIN_LEASE_TTL": str(TTL_SECS)}
        command = [sys.executable, "-m", "zbrain_nb.server", "--data", str(self.data.root), "--port", str(port)]
        return self._start(command, environ)

    def start_worker(self, name: str, *, cable: Cable | None = None, fenced: bool = True) -> Path:
        url = self.url if cable is None else f"http://127.0.0.1:{cable.port}/"
        folder = self.root / name
        self.folders.append(folder)
        command = [sys.executable, "-m", "zbrain_nb.worker", "--url", url, "--folder", str(folder)]
        command += ["--fenced"] if fenced else []
        self._start(command, os.environ | {"ZBRAIN_TOKEN": self.data.token(), "ZBRAIN_PRELOAD": ""})
        return folder

    def cable(self) -> Cable:
        parts = urlsplit(self.url)
        cable = Cable(parts.hostname or "", parts.port or 0)
        self.cables.append(cable)
        return cable

    def _start(self, command: list[str], environ: dict[str, str]) -> subprocess.Popen[bytes]:
        with (self.root / "log").open("ab") as log:
            process = subprocess.Popen(command, env=environ, stdout=log, stderr=log, start_new_session=True)
        self.processes.append(process)
        return process

    def submit_stamping(self, secs: float = 2.0) -> str:
        command = [sys.executable, "-c", STAMPING, str(self.stamps), str(secs)]
        return self.client.submit(command, max_retries=1).id

    def stamped(self, attempt: int) -> list[float]:
        """When an attempt's processes lived, in order."""
        times: list[float] = []
        for file in self.stamps.glob(f"{attempt}.*"):
            times += map(float, file.read_text().split("\n")[:-1])
        return sorted(times)

    def wait_for_stamps(self, attempt: int) -> None:
        wait_for(lambda: len(list(self.stamps.glob(f"{attempt}.*"))) == 2, f"attempt {attempt}")

    def lines(self, job_id: str) -> list[tuple[int, str]]:
        return [(entry.attempt, entry.line) for entry in self.client.job(job_id).logs() if entry.stream == "stdout"]

    def ended(self, job_id: str) -> Job:
        return self.client.job(job_id).wait(60).job

    def tree(self, folder: Path) -> set[int]:
        """All processes of a worker's folder: worker, spawner, supervisors, jobs."""
        heads = {lock_holder(folder / f"{who}.lock") for who in ("worker", "spawner")} - {None}
        below = {child.pid for pid in heads for child in psutil.Process(pid).children(recursive=True)}
        return {pid for pid in heads | below if pid is not None}

    def end(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            self.host.send_signal(signal.SIGCONT)
        self.client.close()
        for cable in self.cables:
            cable.close()
        for folder in self.folders:
            send(self.tree(folder), signal.SIGKILL)
        end_everything(self.data.root)
        for process in self.processes:
            process.terminate()
            process.wait(20)
        for folder in self.folders:
            wait_for(lambda folder=folder: not is_locked(folder / "spawner.lock"), "the spawner's end")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    site = Site(tmp_path)
    yield site
    site.end()


def send(pids: set[int], number: signal.Signals) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.kill(pid, number)


def test_fenced_worker_cut_off_its_tree_is_gone_before_another_attempt_begins(
    site: Site, record_property: Callable[[str, object], None]
) -> None:
    cable = site.cable()
    folder = site.start_worker("far", cable=cable)
    job_id = site.submit_stamping()
    site.wait_for_stamps(1)
    site.start_worker("near")
    cable.cut()
    job = site.ended(job_id)
    first, second = site.stamped(1), site.stamped(2)
    assert (job.state, job.attempt, job.losses) == (JobState.SUCCEEDED, 2, 1)
    record_property("secs_between_attempts", second[0] - first[-1])
    print(f"cut off: {second[0] - first[-1]:.3f} s between the last of attempt 1 and the first of attempt 2")
    assert first[-1] < second[0]
    before = site.lines(job_id)
    cable.mend()
    # what it had written meanwhile is refused, and the worker clears it away
    wait_for(lambda: not [name for name in os.listdir(folder / "runs") if job_id in name], "the end of attempt 1")
    assert site.lines(job_id) == before
    assert [attempt for attempt, _ in before] == sorted(attempt for attempt, _ in before)


def test_fenced_worker_killed_and_cut_off_its_supervisor_ends_the_tree(site: Site) -> None:
    folder = site.start_worker("far")
    job_id = site.submit_stamping()
    site.wait_for_stamps(1)
    worker = wait_for(lambda: lock_holder(folder / "worker.lock"), "the worker")
    os.kill(worker, signal.SIGKILL)
    site.start_worker("near")
    assert site.ended(job_id).attempt == 2
    assert site.stamped(1)[-1] < site.stamped(2)[0]


@pytest.mark.parametrize("with_job", [True, False], ids=["with the job", "without the job"])
def test_fenced_worker_suspended_past_its_lease_writes_nothing_stale(
    site: Site, record_property: Callable[[str, object], None], with_job: bool
) -> None:
    folder = site.start_worker("far")
    job_id = site.submit_stamping(secs=4.0)
    site.wait_for_stamps(1)
    site.start_worker("near")
    tree = site.tree(folder)
    jobs = pids_with(f"ZBRAIN_JOB_ID={job_id}")
    send(tree if with_job else tree - jobs, signal.SIGSTOP)
    site.wait_for_stamps(2)
    before = [line for line in site.lines(job_id) if line[0] == 1]
    woken = time.clock_gettime(time.CLOCK_BOOTTIME)
    send(tree, signal.SIGCONT)
    first = f"ZBRAIN_JOB_ID={job_id}", "ZBRAIN_ATTEMPT=1"
    wait_for(lambda: not pids_with(first[0]) & pids_with(first[1]), "the end of attempt 1")
    job = site.ended(job_id)
    assert (job.state, job.attempt) == (JobState.SUCCEEDED, 2)
    wait_for(lambda: not [name for name in os.listdir(folder / "runs") if job_id in name], "the end of attempt 1")
    assert [line for line in site.lines(job_id) if line[0] == 1] == before
    began = site.stamped(2)[0]
    overlap = [moment for moment in site.stamped(1) if moment >= began]
    awake = max(0.0, overlap[-1] - woken) if overlap else 0.0
    whole = overlap[-1] - overlap[0] if overlap else 0.0
    record_property("overlap_secs", whole)
    print(f"suspended, {with_job=}: overlap {whole:.3f} s; attempt 1 lived {awake:.3f} s after it was woken")


@pytest.mark.parametrize("way", ["stopped", "killed"])
def test_host_away_for_three_leases_local_job_goes_on_and_nothing_is_rerun(site: Site, way: str) -> None:
    site.start_worker("local", fenced=False)
    count = 600
    job = site.client.submit(
        [sys.executable, "-c", f"import time\nfor i in range({count}): print(i, flush=True); time.sleep(0.02)"],
        max_retries=3,
    )
    wait_for(lambda: site.lines(job.id), "the first line")
    port = urlsplit(site.url).port or 0
    away_until = time.monotonic() + 3 * TTL_SECS
    site.host.send_signal(signal.SIGSTOP if way == "stopped" else signal.SIGKILL)
    if way == "killed":
        site.host.wait()
    time.sleep(away_until - time.monotonic())  # the time that passes is what is tested
    if way == "stopped":
        site.host.send_signal(signal.SIGCONT)
    else:
        site.host = site.start_host(port)
        assert site.url.endswith(f":{port}/")
    ended = site.ended(job.id)
    assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 1, 0)
    assert site.lines(job.id) == [(1, str(number)) for number in range(count)]


def test_fenced_worker_in_reach_its_job_outlives_many_leases(site: Site) -> None:
    site.start_worker("far")
    command = [sys.executable, "-c", f"import time; time.sleep({2.5 * TTL_SECS}); print('done')"]
    job = site.client.submit(command, max_retries=1)
    ended = site.ended(job.id)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert site.lines(job.id) == [(1, "done")]
