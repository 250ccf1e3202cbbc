"""The host: one process (or Jupyter's own, inline) that owns a data directory and serves its queue.

Started by the command line, by `zbrain_nb.model.hosting`, or by Jupyter's extension. It takes the directory's
lock, opens the queue, listens on loopback, says so in the owner file, and looks after the local worker.
"""

from __future__ import annotations

import asyncio
import logging
import os
import secrets
import socket
import time
from collections.abc import Collection

from tornado.httpserver import HTTPServer
from tornado.netutil import bind_sockets

from zbrain_nb.model.access import Principal
from zbrain_nb.model.datadir import DataDir, FileLock, Owner, boot_id
from zbrain_nb.model.errors import Conflict, Unavailable, ZBrainError
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.webhooks import read_webhooks
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.server.application import Gate, make_application
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.server.handlers.bodies import SMALL_BODY_BYTES
from zbrain_nb.server.handlers.context import HostContext
from zbrain_nb.server.handlers.metrics import registry_of
from zbrain_nb.server.holder import holder_name
from zbrain_nb.server.identity import Identity
from zbrain_nb.server.job_tokens import JobTokens
from zbrain_nb.server.local_worker import LocalWorkerWatch, host_worker_command
from zbrain_nb.server.secrets import Secrets
from zbrain_nb.server.sessions import Sessions
from zbrain_nb.server.standing import Standing
from zbrain_nb.server.tokens import Tokens
from zbrain_nb.server.webhooks import Notifier
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.storage import Storage

log = logging.getLogger(__name__)
IDLE_CHECK_SECS = 1.0


class Host:
    """Serves the queue of one data directory.

    Parameters
    ----------
    data : DataDir
        What to serve.
    settings : Settings
        Lease time, defaults, the local worker.
    bind : str
        Address to listen on; loopback unless remote workers shall come.
    port : int
        Port to listen on; 0 takes a free one.
    names : collection of str
        Under which it answers besides its addresses and, where it listens beyond loopback, the machine's own name.
    worker_umask : int
        The local worker's and its jobs'; -1 leaves them this process's.
    gate : Gate, optional
        Another login than the token; then it answers to every name, for the login tells who may ask.
    """

    def __init__(
        self,
        data: DataDir,
        settings: Settings,
        *,
        bind: str = "127.0.0.1",
        port: int = 0,
        names: Collection[str] = (),
        worker_umask: int = -1,
        gate: Gate | None = None,
    ) -> None:
        self.data = data
        self.settings = settings
        self._bind = bind
        self._port = port
        self._names = names
        self._worker_umask = worker_umask
        self._gate = gate
        self._lock = FileLock(data.host_lock)
        self._http: HTTPServer | None = None
        self._worker: LocalWorkerWatch | None = None
        self._notifier: Notifier | None = None
        self.context: HostContext | None = None

    async def start(self) -> Owner:
        """Open the queue and serve it.

        Raises
        ------
        Conflict
            If another host serves the directory.
        ZBrainError
            If the address cannot be bound, or the webhooks file does not hold.
        """
        if not self._lock.acquire():
            raise Conflict(f"Another host serves {self.data.root}.", "Use that one: its address is in owner.json.")
        try:
            return await self._start()
        except BaseException:
            self._lock.release()
            raise

    async def _start(self) -> Owner:
        token = self.data.token()
        webhooks = read_webhooks(self.settings.webhooks) if self.settings.webhooks else None
        storage = Storage(self.data.database)
        name = await holder_name(storage, has_logins=self._gate is not None)
        queue = JobQueue(
            storage,
            ArtifactStore(self.data.artifacts, storage.room),
            lease_ttl_secs=self.settings.lease_ttl_secs,
            default_org_id=self.settings.default_org_id,
            owner=name,
            quotas=self.settings.quotas,
        )
        await queue.open()
        queue.start_lease_cleanup()
        maintenance = Maintenance.of(queue, self.settings.keep)
        maintenance.start()
        holder = Principal(owner=name, roles=None, home=self.settings.default_org_id)
        sessions = Sessions()
        identity = Identity(token, holder, sessions)
        audit = AuditLog(storage)
        await audit.start()

        def end_tokens(ids: Collection[str]) -> None:
            queue.expel(lambda principal: principal.origin in ids)
            sessions.end(lambda principal: principal.origin in ids)

        tokens = Tokens(
            storage,
            audit,
            end_tokens,
            home=self.settings.default_org_id,
            only_holder_mints=self._gate is not None,
        )
        await tokens.start()
        queue.is_out = lambda principal: bool(principal.origin) and not tokens.lives(principal.origin)
        standing = Standing(holder, None if self._gate is None else self._gate.person)
        queue.may_run = standing.may_run
        job_tokens = JobTokens(
            token,
            queue.running_attempt,
            lives=tokens.lives,
            role_of=standing.role_of,
            is_at_owners=queue.runs_at_owners,
        )
        kept_secrets = Secrets(self.data.secrets, token, queue)
        await kept_secrets.start()

        async def find(secret: str) -> Principal | None:
            return tokens.find(secret) or await job_tokens.find(secret)

        identity.finders.append(find)
        self.context = context = HostContext(
            queue=queue,
            maintenance=maintenance,
            settings=self.settings,
            token=token,
            identity=identity,
            sessions=sessions,
            tokens=tokens,
            job_tokens=job_tokens,
            secrets=kept_secrets,
            audit=audit,
            instance=secrets.token_hex(8),
            host_names=None if self._gate else self._host_names(),
            trouble=self._trouble,
            metrics=registry_of(queue),
        )
        try:
            sockets = bind_sockets(self._port, self._bind)
        except OSError as error:
            await kept_secrets.stop()
            await tokens.stop()
            await audit.stop()
            await maintenance.stop()
            await queue.close()
            raise ZBrainError(
                f"The host cannot listen on {self._bind}:{self._port}: {error.strerror}.", "Choose another --port."
            ) from error
        self._http = HTTPServer(make_application(context, self._gate), max_body_size=SMALL_BODY_BYTES)
        self._http.add_sockets(sockets)
        address = {"0.0.0.0": "127.0.0.1", "": "127.0.0.1", "::": "::1"}.get(self._bind, self._bind)
        address = f"[{address}]" if ":" in address else address
        root = self._gate.prefix if self._gate else "/"
        owner = Owner(
            url=f"http://{address}:{sockets[0].getsockname()[1]}{root}",
            token=token,
            pid=os.getpid(),
            boot_id=boot_id(),
            instance=context.instance,
            artifacts=str(queue.artifacts.folder),
        )
        self.data.write_owner(owner)
        if webhooks is not None:
            self._notifier = Notifier(queue, webhooks, self.data.told)
            self._notifier.start()
        if self.settings.worker_mode == "local":
            self._worker = LocalWorkerWatch(
                self.data.worker, host_worker_command(self.data, self.settings), umask=self._worker_umask
            )
            self._worker.start()
        log.info("host serves", extra={"url": owner.url, "data": str(self.data.root), "pid": owner.pid})
        trouble = await self._trouble()
        if trouble is not None:
            log.error(
                "jobs wait at pools and their tokens open nothing: it is not known what their owners may do",
                extra={"why": trouble.message, "hint": trouble.hint},
            )
        return owner

    async def _trouble(self) -> ZBrainError | None:
        try:
            if self._gate is not None:
                await self._gate.check()
        except Unavailable as error:
            return error
        return None

    def _host_names(self) -> set[str]:
        names = {"127.0.0.1", "localhost", "::1", self._bind, *self._names}
        if self.is_open:
            names.add(socket.gethostname())
        return {name.lower() for name in names if name}

    @property
    def is_open(self) -> bool:
        """Whether it listens beyond loopback."""
        return self._bind not in ("127.0.0.1", "localhost", "::1")

    async def wait_until_idle(self, idle_secs: float) -> None:
        """Return when for `idle_secs` there was no active job, no open socket and no request of a client.

        It returns too when the data directory is gone: nobody can find this host any more.
        """
        assert self.context is not None
        context, seen, since = self.context, -1, time.monotonic()
        while time.monotonic() - since < idle_secs:
            await asyncio.sleep(min(IDLE_CHECK_SECS, idle_secs / 4))
            if not self.data.host_lock.exists():
                log.warning("data directory is gone", extra={"data": str(self.data.root)})
                return
            if context.requests != seen or context.followers or context.queue.active_jobs():
                seen, since = context.requests, time.monotonic()
        log.info("host ends itself: idle", extra={"idle_secs": idle_secs})

    async def stop(self, *, end_worker: bool = True) -> None:
        """Stop serving; harmless if not started."""
        if self.context is None:
            return
        context, self.context = self.context, None
        if self._http is not None:
            self._http.stop()
        if self._notifier is not None:
            await self._notifier.stop()
        if self._worker is not None:
            await self._worker.stop(end_worker=end_worker)
        if self._http is not None:
            await self._http.close_all_connections()
        await context.secrets.stop()
        await context.tokens.stop()
        await context.audit.stop()
        await context.maintenance.stop()
        await context.queue.close()
        owner = self.data.read_owner()
        if owner is not None and owner.instance == context.instance:
            self.data.owner_file.unlink(missing_ok=True)
        self._lock.release()
