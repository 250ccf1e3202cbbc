"""A queue's side of the worker protocol in memory, strict about numbers, with outages and verdicts on demand."""

from __future__ import annotations

import asyncio
import hashlib
import shutil
import time
from pathlib import Path
from typing import Any, BinaryIO

import msgspec

from zbrain_nb.model.errors import ServerUnreachable, WorkerNotFound
from zbrain_nb.model.events import ENDINGS, AnyWorkerEvent, JobLogged, LogStream
from zbrain_nb.model.job import Job, JobSpec
from zbrain_nb.model.protocol import (
    AttemptRef,
    EventBatch,
    EventBatchAnswer,
    EventResult,
    HeartbeatAnswer,
    HeartbeatRequest,
    Lease,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    Verdict,
    WorkerInfo,
)


class Tracked:
    def __init__(self, job: Job) -> None:
        self.job = job
        self.events: list[AnyWorkerEvent] = []
        self.high = 0
        self.leased = False
        self.cancel = False
        self.stale = False

    @property
    def ended(self) -> bool:
        return bool(self.events) and isinstance(self.events[-1], ENDINGS)

    @property
    def ending(self) -> Any:
        assert self.ended
        return self.events[-1]

    def lines(self, stream: LogStream | None = LogStream.STDOUT) -> list[str]:
        logged = [line for event in self.events if isinstance(event, JobLogged) for line in event.lines]
        return [text for kind, _, text in logged if stream is None or kind == stream]


class MemoryQueue:
    """State that outlives links and workers."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.jobs: dict[tuple[str, int], Tracked] = {}
        self.answered: dict[str, list[tuple[str, int]]] = {}
        self.known: set[str] = set()
        self.away = False
        self.changed = asyncio.Event()
        self.heard: list[EventBatch] = []
        self.beats: list[HeartbeatRequest] = []
        self.is_fenced = False
        self.lease_ttl_secs = 5.0
        self.blobs: Path | None = None

    def submit(self, **spec: Any) -> Tracked:
        job = msgspec.structs.replace(Job(JobSpec(**spec)), attempt=1, org_id="default")
        tracked = self.jobs[job.id, 1] = Tracked(job)
        self.poke()
        return tracked

    def cancel(self, tracked: Tracked) -> None:
        tracked.cancel = True
        self.poke()

    def poke(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, condition: Any, secs: float = 20.0) -> None:
        deadline = time.monotonic() + secs
        while not condition():
            async with asyncio.timeout(deadline - time.monotonic()):
                await self.changed.wait()


class MemoryLink:
    def __init__(self, queue: MemoryQueue) -> None:
        self.queue = queue

    def _check(self, worker_id: str | None = None) -> None:
        if self.queue.away:
            raise ServerUnreachable("The queue is away.")
        if worker_id is not None and worker_id not in self.queue.known:
            raise WorkerNotFound("Who?")

    async def register(self, info: WorkerInfo) -> Registered:
        self._check()
        self.queue.known.add(info.id)
        refs = [AttemptRef(*key, high=t.high) for key, t in self.queue.jobs.items() if t.leased and not t.ended]
        known = [ref for ref in refs if not self.queue.jobs[ref.job_id, 1].stale]
        blobs = None if self.queue.blobs is None else str(self.queue.blobs)
        return Registered(self.queue.lease_ttl_secs, known, self.queue.is_fenced, blobs)

    async def lease(self, worker_id: str, request: LeaseRequest) -> LeaseAnswer:
        deadline = time.monotonic() + request.wait_secs
        while True:
            self._check(worker_id)
            answer = self._answer(request)
            if answer.leases or answer.cancels or time.monotonic() >= deadline:
                return answer
            changed = self.queue.changed
            try:
                await asyncio.wait_for(changed.wait(), deadline - time.monotonic())
            except TimeoutError:
                continue

    def _answer(self, request: LeaseRequest) -> LeaseAnswer:
        jobs = self.queue.jobs
        keys = self.queue.answered.get(request.request_id)
        if not keys:
            waiting = [key for key, t in jobs.items() if not t.leased]
            keys, rest = waiting[: request.limit], waiting[request.limit :]
            keys += [key for key in rest if jobs[key].job.spec.is_plain_call][: request.ahead]
            self.queue.answered[request.request_id] = keys
        for key in keys:
            jobs[key].leased = True
        cancels = [AttemptRef(*key) for key, t in jobs.items() if t.leased and t.cancel and not t.ended]
        return LeaseAnswer([Lease(jobs[key].job) for key in keys], cancels)

    async def heartbeat(self, worker_id: str, request: HeartbeatRequest) -> HeartbeatAnswer:
        self._check(worker_id)
        self.queue.beats.append(request)
        verdicts = []
        for ref in request.attempts:
            tracked = self.queue.jobs.get((ref.job_id, ref.attempt))
            stale = tracked is None or tracked.stale or tracked.ended
            verdict = "stale" if stale else "cancel" if tracked and tracked.cancel else "ok"
            verdicts.append(Verdict(ref.job_id, ref.attempt, verdict))  # type: ignore[arg-type]
        return HeartbeatAnswer(verdicts)

    async def send_events(self, worker_id: str, batch: EventBatch) -> EventBatchAnswer:
        await asyncio.sleep(0.001)
        self._check(worker_id)
        batch = msgspec.json.decode(msgspec.json.encode(batch), type=EventBatch)
        self.queue.heard.append(batch)
        results: dict[tuple[str, int], EventResult] = {}
        for event in batch.events:
            key = event.job_id, event.attempt or 0
            tracked = self.queue.jobs.get(key)
            if tracked is None or tracked.stale:
                results[key] = EventResult(*key, status="stale")
                continue
            assert event.after is not None and event.seq is not None
            if event.seq <= tracked.high:
                results[key] = EventResult(*key, status="ok", high=tracked.high)
            elif event.after != tracked.high:
                results[key] = EventResult(*key, status="gap", high=tracked.high)
            elif tracked.ended:
                results[key] = EventResult(*key, status="stale")
            else:
                tracked.events.append(event)
                tracked.high = event.seq
                results[key] = EventResult(*key, status="ok", high=tracked.high)
        self.queue.poke()
        return EventBatchAnswer(list(results.values()))

    async def has_blob(self, sha256: str) -> bool:
        self._check()
        return (self.queue.folder / sha256).exists()

    async def put_blob(self, sha256: str, file: BinaryIO) -> None:
        self._check()
        file.seek(0)
        content = file.read()
        assert hashlib.sha256(content).hexdigest() == sha256
        (self.queue.folder / sha256).write_bytes(content)

    async def fetch_input(self, job_id: str, attempt: int, name: str, sha256: str, target: Path) -> None:
        self._check()
        await asyncio.to_thread(shutil.copyfile, self.queue.folder / sha256, target)

    async def has_job(self, job_id: str) -> bool:
        self._check()
        return (job_id, 1) in self.queue.jobs

    def way_back(self) -> dict[str, str]:
        return {"ZBRAIN_URL": "http://127.0.0.1:9/"}

    async def close(self) -> None:
        pass
