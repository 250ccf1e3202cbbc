"""Routes for workers: register, lease (a long poll), heartbeat, events."""

from __future__ import annotations

import asyncio

import msgspec

from zbrain_nb.model.errors import OverQuota, StaleAttempt, WorkerNotFound
from zbrain_nb.model.protocol import (
    EventBatch,
    EventBatchAnswer,
    HeartbeatAnswer,
    HeartbeatRequest,
    LeaseAnswer,
    LeaseRequest,
    Registered,
    WorkerInfo,
    check_lease_request,
)
from zbrain_nb.server.handlers.answers import Workers
from zbrain_nb.server.handlers.base import MAX_BODY_BYTES, ApiHandler
from zbrain_nb.server.handlers.declaration import PEOPLE, WORKERS, operation

#: Held open no longer than this, whatever is asked: proxies on the way may have less patience.
MAX_WAIT_SECS = 60.0


class WorkersHandler(ApiHandler):
    """``POST workers`` and ``GET workers``."""

    @operation(admits=WORKERS, act="register worker", body=WorkerInfo, answers={201: Registered}, refuses=(OverQuota,))
    async def post(self) -> None:
        """Register, or register again after a restart of either side; 201."""
        info = self.decode(WorkerInfo)
        orgs = self.principal.binding.orgs  # None is all: of that only who holds the data directory reads
        named = None if info.org_id is None else {info.org_id}
        self.note_orgs("worker", info.id, named or () if orgs is None else orgs & (named or orgs))
        self.reply(await self.queue.register_worker(info, scope=self.principal), 201)

    @operation(admits=PEOPLE, answers={200: Workers})
    def get(self) -> None:
        """List the workers that the queue knows."""
        self.reply({"workers": self.queue.workers(scope=self.principal)})

    async def prepare(self) -> None:
        """Count only readers as clients: a worker alone shall not keep an idle host alive."""
        self.counts_as_client = self.request.method == "GET"
        await super().prepare()


class LeasesHandler(ApiHandler):
    """``POST workers/{id}/leases``."""

    counts_as_client = False
    max_body_bytes = MAX_BODY_BYTES
    smaller_bodies = "Save what a job shows as an artifact."
    _waiting: asyncio.Task[LeaseAnswer] | None = None

    @operation(admits=WORKERS, body=LeaseRequest, answers={200: LeaseAnswer}, refuses=(WorkerNotFound,))
    async def post(self, worker_id: str) -> None:
        """Take the events in it, and hold the request open until a job fits, a cancel is due or the time is over."""
        request = self.decode(LeaseRequest)
        check_lease_request(request)
        request.wait_secs = min(request.wait_secs, MAX_WAIT_SECS)
        self._waiting = asyncio.ensure_future(self.queue.lease(worker_id, request, scope=self.principal))
        try:
            answer = await self._waiting
        except asyncio.CancelledError:
            if self._finished or self.request.connection.stream.closed():  # type: ignore[union-attr]
                return  # the worker went away; its repeat with the same request_id gets the leases that it has
            raise
        for lease in answer.leases:
            await self.context.secrets.hand_over(worker_id, lease, request.seal_key)
            lease.token = self.context.job_tokens.mint(lease.job.id, lease.job.attempt)
        if self.queue.is_out(self.principal):  # since secrets were read
            self.queue.take_back(answer.leases)
            answer.leases.clear()
        self.reply(answer)

    def on_connection_close(self) -> None:
        """Stop waiting for a worker that is gone."""
        if self._waiting is not None:
            self._waiting.cancel()
        super().on_connection_close()


class HeartbeatHandler(ApiHandler):
    """``POST workers/{id}/heartbeat``."""

    counts_as_client = False

    @operation(admits=WORKERS, body=HeartbeatRequest, answers={200: HeartbeatAnswer}, refuses=(WorkerNotFound,))
    async def post(self, worker_id: str) -> None:
        """Renew the leases of the attempts named; answer what is to become of each."""
        request = self.decode(HeartbeatRequest)
        self.reply(await self.queue.heartbeat(worker_id, request, scope=self.principal))


class WorkerEventsHandler(ApiHandler):
    """``POST workers/{id}/events``."""

    counts_as_client = False
    max_body_bytes = MAX_BODY_BYTES
    smaller_bodies = "Save what a job shows as an artifact."

    @operation(admits=WORKERS, body=EventBatch, answers={200: EventBatchAnswer}, refuses=(WorkerNotFound, StaleAttempt))
    async def post(self, worker_id: str) -> None:
        """Take a batch of events; 200 means that what is ``ok`` is committed, 409 that all of it was stale."""
        answer = await self.queue.take_events(worker_id, self.decode(EventBatch), scope=self.principal)
        if answer.results and all(result.status == "stale" for result in answer.results):
            raise StaleAttempt(
                "None of these attempts is the job's running one.",
                "End their processes.",
                results=msgspec.to_builtins(answer.results),
            )
        self.reply(answer)
