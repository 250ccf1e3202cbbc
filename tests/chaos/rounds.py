"""Rounds of kill -9 against a host and a worker at work, and the proof that nothing acknowledged was lost."""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import os
import random
import subprocess
import sys
import threading
import time
import urllib.parse
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.chaos.stub_worker import LINES, ends_with, line
from zbrain_nb import Event, JobQueue, JobSpec, JobState, Storage
from zbrain_nb.model.datadir import DataDir
from zbrain_nb.model.hosting import find_host

LEASE_TTL_SECS = 5
MAX_WAITING = 150
VICTIMS = (("host",), ("host",), ("worker",), ("host", "worker"))
START_SECS = 60.0


@dataclass
class Tally:
    """What the rounds saw."""

    rounds: int = 0
    jobs: int = 0
    lines: int = 0
    killed: Counter[str] = field(default_factory=Counter)
    #: In the middle of what the writer was when its host died.
    dying: Counter[str] = field(default_factory=Counter)
    restart_secs: list[float] = field(default_factory=list)


class Arena:
    """A data directory, a host and a worker as processes, and a client that submits all the time.

    Attributes
    ----------
    acknowledged : dict of str to str or None
        Jobs by id, with their idempotency key.
    doubtful : set of str
        Keys whose submit was not answered: sent again, they have to be one job.
    """

    def __init__(self, folder: Path, seed: int) -> None:
        self.data = DataDir(folder / "data")
        self.notes = folder / "notes"
        self.shown = folder / "shown"
        self.dice = random.Random(seed)
        self._whom_to_cancel = random.Random(seed)  # another thread's
        self.acknowledged: dict[str, str | None] = {}
        self.by_key: dict[str, str] = {}
        self.canceled: set[str] = set()
        self.tally = Tally()
        self.host: subprocess.Popen[bytes] | None = None
        self.worker: subprocess.Popen[bytes] | None = None
        self._stop = threading.Event()
        self._submitting = threading.Thread(target=self._submit_all_the_time)
        self._failure: BaseException | None = None
        self._read_to = 0
        self._highs: dict[tuple[str, int], int] = {}

    # Processes

    def start(self) -> None:
        self._start_host()
        self._start_worker()
        self._submitting.start()

    def _start_host(self) -> None:
        began = time.monotonic()
        environ = os.environ | {"ZWORKER_MODE": "none", "ZBRAIN_LEASE_TTL": str(LEASE_TTL_SECS)}
        command = [sys.executable, "-m", "tests.chaos.host_in_sight", str(self.shown), "--data", str(self.data.root)]
        with self.data.log.open("ab") as log:
            self.host = subprocess.Popen(command, env=environ, stderr=log)
        while (owner := find_host(self.data)) is None or owner.pid != self.host.pid:
            assert self.host.poll() is None, self.data.log.read_text()[-3000:]
            assert time.monotonic() - began < START_SECS, "the host did not come back"
            time.sleep(0.005)  # it says that it is there by a file
        self.tally.restart_secs.append(time.monotonic() - began)

    def _start_worker(self) -> None:
        command = [sys.executable, "-m", "tests.chaos.stub_worker", str(self.data.root), str(self.notes)]
        self.worker = subprocess.Popen(command)

    def round(self) -> None:
        """Let all work for a random while, kill, start again, and look for what was acknowledged."""
        self._work_for(self.dice.uniform(0.02, 0.6))
        victims = self.dice.choice(VICTIMS)
        for name in victims:
            process: subprocess.Popen[bytes] = getattr(self, name)
            process.kill()
            process.wait()
        self.tally.killed[" and ".join(victims)] += 1
        if "host" in victims:
            self.tally.dying[self.shown.read_text()] += 1
            self._start_host()
        if "worker" in victims:
            self._start_worker()
        self.tally.rounds += 1
        self._find_what_was_acknowledged()

    def _work_for(self, secs: float) -> None:
        assert not self._stop.wait(secs), self._failure

    def end(self) -> None:
        """Let the worker finish what there is, and end all processes."""
        self._stop.set()
        self._submitting.join()
        try:
            if self._failure is not None:
                raise self._failure
            deadline = time.monotonic() + 120
            with self.client() as client:
                # counted in one look: between two, a job may go from one of these states to another
                while any(map(client.get("overview")["states"].get, ("pending", "running", "retrying"))):
                    assert time.monotonic() < deadline, "what was submitted does not come to an end"
                    time.sleep(0.1)  # all ends at last; it is the end that is waited for
        finally:
            self.end_processes()

    def end_processes(self) -> None:
        self._stop.set()
        for process in (self.worker, self.host):
            if process is not None and process.poll() is None:
                (process.kill if process is self.worker else process.terminate)()
                process.wait(60)

    # The client

    @contextlib.contextmanager
    def client(self) -> Iterator[Caller]:
        owner = self.data.read_owner()
        if owner is None:
            raise ConnectionError("nobody serves")
        address = urllib.parse.urlsplit(owner.url)
        connection = http.client.HTTPConnection(address.hostname or "", address.port, timeout=30)
        try:
            yield Caller(connection, owner.token)
        finally:
            connection.close()

    def _submit_all_the_time(self) -> None:
        try:
            for number in range(10**9):
                if self._stop.is_set():
                    return
                while not self._stop.is_set() and len(self.acknowledged) - self._ended() > MAX_WAITING:
                    self._stop.wait(0.01)
                self._submit(number)
        except BaseException as error:
            self._failure = error
            self._stop.set()

    def _submit(self, number: int) -> None:
        """Submit one job with a key, or a batch without; ask again until it was answered."""
        spec: dict[str, Any] = {"cmd": ["true"], "worker": "stub", "max_retries": 2, "timeout_secs": None}
        key = f"key {number}"
        while not self._stop.is_set():
            try:
                with self.client() as client:
                    if number % 5 == 4:
                        for job in client.post("jobs", [spec] * 10):
                            self.acknowledged[job["id"]] = None
                    else:
                        job = client.post("jobs", spec | {"idempotency_key": key})
                        assert self.by_key.setdefault(key, job["id"]) == job["id"], "one key became two jobs"
                        self.acknowledged[job["id"]] = key
                    if number % 7 == 6:
                        answer = client.post(
                            f"jobs/{self._whom_to_cancel.choice(list(self.acknowledged))}/cancel", None
                        )
                        if answer["result"] == "canceled":
                            self.canceled.add(answer["job"]["id"])
                return
            except (OSError, http.client.HTTPException):
                if number % 5 == 4:
                    return  # nobody knows whether this batch was taken
                self._stop.wait(0.02)

    def _ended(self) -> int:
        highs = self._read_notes()
        return sum(high > LINES for high in highs.values()) + len(self.canceled)

    def _read_notes(self) -> dict[tuple[str, int], int]:
        """Return how far each attempt was acknowledged, as the worker wrote it down."""
        if self.notes.exists():
            with self.notes.open("rb") as file:
                file.seek(self._read_to)
                whole, found, _ = file.read().rpartition(b"\n")
            self._read_to += len(whole) + len(found)
            for noted in whole.decode().splitlines():
                job_id, attempt, high = noted.split()
                key = job_id, int(attempt)
                self._highs[key] = max(int(high), self._highs.get(key, 0))
        return dict(self._highs)

    # The proof

    def _find_what_was_acknowledged(self) -> None:
        """Ask the host for a sample of the newest that was acknowledged; all is looked at in the end."""
        acknowledged = list(self.acknowledged)[-25:]
        highs = list(self._read_notes().items())[-10:]
        with self.client() as client:
            for job_id in acknowledged:
                assert client.get(f"jobs/{job_id}")["id"] == job_id
            for (job_id, attempt), high in highs:
                entries = client.get(f"jobs/{job_id}/logs")["entries"]
                assert [entry["seq"] for entry in entries] == list(range(len(entries)))
                assert sum(entry["attempt"] == attempt for entry in entries) >= min(high, LINES)

    def prove(self) -> Tally:
        """Open the store and hold everything in it against everything that was acknowledged."""
        asyncio.run(self._prove())
        return self.tally

    async def _prove(self) -> None:
        highs = self._read_notes()
        async with JobQueue(Storage(self.data.database), self.data.artifacts) as queue:
            history = await read_history(queue)
            submitted = {event.job_id for event in history if event.kind == "job_submitted"}
            lost = set(self.acknowledged) - submitted
            assert not lost, f"{len(lost)} acknowledged jobs are lost"
            endings = Counter(e.job_id for e in history if JobState(e.data.get("state", "pending")).ended)
            odd = {job_id: endings[job_id] for job_id in submitted if endings[job_id] != 1}
            assert not odd, f"one terminal state each, but {[(j, n, await queue.get(j)) for j, n in odd.items()][:3]}"
            assert endings == Counter(submitted), "one terminal state each"
            keys = Counter(e.data["spec"]["idempotency_key"] for e in history if e.kind == "job_submitted")
            del keys[None]
            assert set(keys.values()) <= {1}, "one job for each key"
            for job_id in submitted:
                job = await queue.get(job_id)
                assert job is not None
                assert job.state.ended
                if job_id in self.canceled:
                    assert job.state is JobState.CANCELED
                said = await self._log_of(queue, job_id)
                for attempt, numbers in said.items():
                    assert numbers == list(range(1, len(numbers) + 1)), "a gap, or a repeat"
                    acknowledged = min(highs.get((job_id, attempt), 0), LINES)
                    assert len(numbers) >= acknowledged, "an acknowledged line is lost"
                if job.state is JobState.SUCCEEDED:
                    assert len(said[job.attempt]) == LINES
                    assert ends_with(job_id, job.attempt) == "completed"
                self.tally.lines += sum(map(len, said.values()))
        self.tally.jobs = len(self.acknowledged)

    @staticmethod
    async def _log_of(queue: JobQueue, job_id: str) -> dict[int, list[int]]:
        """Return the numbers of the lines that each attempt is on record with, after checking their text."""
        entries = await queue.get_logs(job_id)
        assert [entry.seq for entry in entries] == list(range(len(entries)))
        said: dict[int, list[int]] = {}
        for entry in entries:
            number = int(entry.line.split()[2])
            assert entry.line == line(job_id, entry.attempt, number)
            said.setdefault(entry.attempt, []).append(number)
        return said


class Caller:
    """JSON in and out over one connection."""

    def __init__(self, connection: http.client.HTTPConnection, token: str) -> None:
        self._connection = connection
        self._headers = {"Authorization": f"token {token}"}

    def get(self, path: str) -> Any:
        return self._ask("GET", path, None)

    def post(self, path: str, body: Any) -> Any:
        return self._ask("POST", path, json.dumps(body).encode())

    def _ask(self, method: str, path: str, body: bytes | None) -> Any:
        self._connection.request(method, f"/zbrain/api/{path}", body, self._headers)
        answer = self._connection.getresponse()
        said = answer.read()
        assert answer.status < 300, (method, path, answer.status, said[:500])
        return json.loads(said)


async def read_history(queue: JobQueue) -> list[Event]:
    """Return every event that there is; one more is made, to know the last."""
    last = await queue.submit(JobSpec(cmd=["true"], worker="nobody"))
    history: list[Event] = []
    async with queue.subscribe(after=0) as events:
        while not history or history[-1].job_id != last:
            history += await events.next_batch()
    await queue.cancel_job(last)
    history.pop()
    seqs = [event.seq for event in history]
    assert seqs == sorted(set(seqs))
    return history


def run_rounds(folder: Path, rounds: int, seed: int) -> Tally:
    """Run so many rounds in `folder`, prove that nothing was lost, and return what was seen."""
    arena = Arena(folder, seed)
    try:
        arena.start()
        for _ in range(rounds):
            arena.round()
        arena.end()
    finally:
        arena.end_processes()
    return arena.prove()
