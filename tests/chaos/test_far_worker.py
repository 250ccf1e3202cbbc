"""`zbrain worker` on another machine: with a token and an address it runs jobs, whatever becomes of the cable."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

import zbrain_nb
from tests.chaos.conftest import wait_for
from tests.chaos.far_machine import FarMachine, is_possible
from tests.conftest import end_everything
from zbrain_nb.client.client import Client
from zbrain_nb.client.connecting import connect
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.hosting import find_host
from zbrain_nb.model.job import Job, JobState
from zbrain_nb.model.protocol import WorkerInfo

pytestmark = pytest.mark.skipif(not is_possible(), reason="needs root and network namespaces")
TTL_SECS = 5.0
COUNT = "import time\nfor i in range({}): print(i, flush=True); time.sleep(0.02)"


class Two:
    """A host here, and a machine at the other end of a cable on which workers run."""

    def __init__(self, root: Path, disk_size: str = "512m") -> None:
        self.data = DataDir(root / "data")
        self.disk = root / "disk"
        self.far = FarMachine(self.disk, disk_size)
        self._log = root / "log"
        self._home = 0
        self._workers: list[subprocess.Popen[bytes]] = []
        environ = os.environ | {"ZWORKER_MODE": "none", "ZBRAIN_LEASE_TTL": str(TTL_SECS)}
        command = [sys.executable, "-m", "zbrain_nb.server", "--data", str(self.data.root), "--bind", "0.0.0.0"]
        with self._log.open("ab") as log:
            self._host = subprocess.Popen(command, env=environ, stdout=log, stderr=log)
        port = urlsplit(wait_for(lambda: find_host(self.data), "the host").url).port
        self.url = f"http://{self.far.address}:{port}"
        self.client: Client = connect(f"http://127.0.0.1:{port}/", self.data.token())

    @property
    def home(self) -> Path:
        """The data directory of workers there."""
        return self.disk / f"zbrain-{self._home}"

    def popen(self, token: str, **options: Any) -> subprocess.Popen[bytes]:
        """Start a worker there as a user does."""
        environ = os.environ | {"ZDB_DATA": str(self.home), "ZBRAIN_TOKEN": token, "ZBRAIN_PRELOAD": ""}
        command = [str(Path(sys.executable).with_name("zbrain")), "worker", "--url", self.url, "--concurrency", "2"]
        worker = self.far.start(command, env=environ | {"TMPDIR": str(self.disk)}, **options)
        self._workers.append(worker)
        return worker

    def start_worker(self) -> subprocess.Popen[bytes]:
        """Start a worker and wait until it takes jobs."""
        with self._log.open("ab") as log:
            worker = self.popen(self.data.token(), stdout=log, stderr=log)
        wait_for(lambda: self.info.pid == worker.pid and self.info.state == "live", "the worker")
        return worker

    @property
    def info(self) -> WorkerInfo:
        """The worker that started last, as the host lists it."""
        return max(self.client.workers(), key=lambda info: info.started_at, default=WorkerInfo(id="none"))

    def wait_for_state(self, state: str) -> None:
        wait_for(lambda: self.info.state == state, f"a worker that is {state}", 60)

    def wait_for_words(self, words: str) -> None:
        wait_for(lambda: words in self._log.read_text(), words)

    def submit(self, *cmd: str, **fields: Any) -> JobHandle:
        return self.client.submit(list(cmd), cwd=None, **fields)

    def lines(self, job: JobHandle) -> list[str]:
        return [entry.line for entry in job.logs() if entry.stream == "stdout"]

    def ended(self, job: JobHandle) -> Job:
        return job.wait(60).job

    def renew(self) -> None:
        """End what runs there; the next worker has a home of its own."""
        self.far.mend()
        self.far.kill_all()
        for worker in self._workers:
            worker.wait(20)
        self._workers.clear()
        self._home += 1
        for state in ("pending", "running"):
            for job in self.client.jobs(state=state):
                job.cancel()
        self._log.write_bytes(b"")

    def close(self) -> None:
        self.client.close()
        self.far.close()
        for worker in self._workers:
            worker.wait(20)
        self._host.terminate()
        self._host.wait(20)
        end_everything(self.data.root)


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Two]:
    two = Two(tmp_path_factory.mktemp("two"))
    yield two
    two.close()


@pytest.fixture
def two(both: Two) -> Iterator[Two]:
    yield both
    both.renew()


def test_job_on_another_machine_gets_its_input_and_its_log_and_files_come_back(two: Two) -> None:
    two.start_worker()
    data = os.urandom(20 << 20)
    digest = two.client.call(two.client.asynchronous.put_blob, data)
    code = (
        "import socket, sys\nprint(socket.gethostname())\n"
        "open('back', 'wb').write(open(sys.argv[1], 'rb').read()[::-1])"
    )
    script = f'exec "$0" -c "$1" {two.home}/worker-*/blobs/{digest}'
    job = two.submit("sh", "-c", script, sys.executable, code, inputs={"data": digest}, artifacts=["back"])
    ended = two.ended(job)
    assert ended.state is JobState.SUCCEEDED, (ended.reason, [str(line) for line in job.logs()])
    assert two.lines(job) == ["far"]
    assert job.artifacts["back"].read() == data[::-1]
    info = two.info
    assert (info.host, info.state, info.slots, info.version) == ("far", "live", 2, zbrain_nb.__version__)
    assert info.health is not None
    assert 0 < (info.health.disk_free_bytes or 0) < 512 << 20
    assert not list(two.disk.iterdir())  # nothing of it lies here


def test_cable_pulled_for_less_than_a_lease_job_goes_on_and_each_line_comes_once(two: Two) -> None:
    two.start_worker()
    job = two.submit(sys.executable, "-c", COUNT.format(200), max_retries=1)
    wait_for(lambda: len(two.lines(job)) > 5, "lines")
    two.far.cut()
    before = len(two.lines(job))
    time.sleep(2)  # the time that passes is what is tested
    assert len(two.lines(job)) <= before + 5
    two.far.mend()
    ended = two.ended(job)
    assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 1, 0)
    assert two.lines(job) == [str(number) for number in range(200)]
    two.wait_for_state("live")


def test_cable_pulled_for_longer_job_is_killed_before_its_lease_ends_and_counted_lost(two: Two) -> None:
    two.start_worker()
    stamps = two.disk / "stamps"
    stamping = f"import time\nwhile 1: print(time.clock_gettime(7), file=open('{stamps}', 'w')); time.sleep(0.01)"
    job = two.submit(sys.executable, "-c", stamping)
    wait_for(lambda: two.far.shell(f"cat {stamps} 2>&1 | grep -v such"), "a stamp")
    two.far.cut()
    ended = two.ended(job)
    lost_at = time.clock_gettime(time.CLOCK_BOOTTIME)
    assert float(two.far.shell(f"cat {stamps}")) < lost_at
    assert (ended.state, ended.attempt, ended.losses) == (JobState.FAILED, 1, 1)
    assert "was not heard of for 5 s" in (ended.reason or "")
    two.wait_for_state("lost")
    time_there = two.far.shell(f"cat {stamps}; sleep 0.1; cat {stamps}").split()
    assert time_there[0] == time_there[1]
    two.far.mend()
    two.wait_for_state("live")
    again = two.submit("echo", "well again")
    assert two.ended(again).state is JobState.SUCCEEDED
    assert two.lines(again) == ["well again"]


def test_worker_told_to_end_while_the_cable_is_pulled_delivers_when_it_is_back(two: Two) -> None:
    worker = two.start_worker()
    job = two.submit(sys.executable, "-c", COUNT.format(60), name="train")
    wait_for(lambda: two.lines(job), "a line")
    two.far.cut()
    worker.send_signal(signal.SIGTERM)
    two.wait_for_words(f"draining: 1 job still runs ({job.id[:18]} train); press Ctrl-C again to stop it")
    two.wait_for_words("the queue is still to be told")
    two.far.mend()
    assert worker.wait(60) == 0
    ended = two.ended(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert two.lines(job) == [str(number) for number in range(60)]
    assert worker.pid not in [info.pid for info in two.client.workers()]


def test_worker_with_a_wrong_token_or_none_says_so_and_ends(two: Two) -> None:
    for token, sentence in (("", "needs the token"), ("wrong", "carries no valid token")):
        process = two.popen(token, stderr=subprocess.PIPE)
        assert sentence in process.communicate(timeout=30)[1].decode()
        assert process.returncode == 4  # as of all commands that find no server that takes them


@pytest.mark.slow
def test_worker_killed_while_it_drains_its_successor_brings_the_job_to_its_end(two: Two) -> None:
    worker = two.start_worker()
    job = two.submit(sys.executable, "-c", COUNT.format(100))
    wait_for(lambda: two.lines(job), "a line")
    worker.send_signal(signal.SIGTERM)
    two.wait_for_state("draining")
    worker.kill()
    worker.wait()
    two.start_worker()
    ended = two.ended(job)
    assert (ended.state, ended.attempt) == (JobState.SUCCEEDED, 1)
    assert two.lines(job) == [str(number) for number in range(100)]


@pytest.mark.slow
def test_second_signal_ends_the_job_there_and_it_runs_again(two: Two) -> None:
    worker = two.start_worker()
    job = two.submit("sh", "-c", "echo $ZBRAIN_ATTEMPT; [ $ZBRAIN_ATTEMPT = 2 ] || sleep 1000", max_retries=1)
    wait_for(lambda: two.lines(job) == ["1"], "the line")
    worker.send_signal(signal.SIGINT)
    two.wait_for_words("press Ctrl-C again to stop it")
    worker.send_signal(signal.SIGINT)
    assert worker.wait(30) == 0
    assert job.refresh().job.losses == 1  # told, not found out when the lease ran out
    two.start_worker()
    ended = two.ended(job)
    assert (ended.state, ended.attempt, ended.losses) == (JobState.SUCCEEDED, 2, 1)
    assert two.lines(job) == ["1", "2"]


@pytest.mark.slow
def test_job_fills_the_disk_there_and_worker_and_job_live_on(tmp_path: Path) -> None:
    filling = """
import os, time
print('up', flush=True)
with open('big', 'wb') as file:
    try:
        while True: file.write(bytes(65536)); file.flush()
    except OSError as error: full = error
    for number in range(1000): print(number, 'y' * 100, flush=True)
    while not os.path.exists('../go'): time.sleep(0.05)
    os.truncate('big', 0)
time.sleep(1)
print('room again', full.strerror, flush=True)
"""
    two = Two(tmp_path, "120m")
    try:
        worker = two.start_worker()
        job = two.submit(sys.executable, "-c", filling)
        wait_for(lambda: two.info.health and two.info.health.problem, "the trouble")
        other = two.submit("echo", "waited")
        two.far.shell(f"cd {two.home}/worker-*/runs/{job.id}.1.out && touch go")
        assert two.ended(job).state is JobState.SUCCEEDED
        assert two.lines(job)[-1] == "room again No space left on device"
        assert any("Output was dropped: No space left" in str(entry) for entry in job.logs())
        assert two.ended(other).state is JobState.SUCCEEDED
        assert worker.poll() is None
    finally:
        two.close()
