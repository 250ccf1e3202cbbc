"""What workers and the queue say to each other, over HTTP or in process.

A worker registers, holds one lease request open at a time (a long poll, which also brings cancels), sends
heartbeats from a timer of their own, and delivers events in batches. Who has events and wants jobs at the same
time says both in one lease request: one round trip and one commit for the end of a job and the next one's lease.
Each request may be sent twice: a lease request with the same `request_id` gets the same leases, an event already
taken is acknowledged again.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Literal

import msgspec

from zbrain_nb.model.access import Role
from zbrain_nb.model.checks import check_number, check_org_id, check_text, check_texts
from zbrain_nb.model.culling import Culling
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.events import AnyWorkerEvent
from zbrain_nb.model.job import Job, Resources

#: How far an upload has come (see `BlobHandler`).
OFFSET_HEADER = "Upload-Offset"
#: How long it is as a whole; needed of one that comes compressed, whose own length says nothing.
LENGTH_HEADER = "Upload-Length"
#: Of a submit: the values of the secrets that its specs name, sealed for the host's key (``GET health``).
SECRETS_HEADER = "ZBrain-Secrets"
#: From Jupyter's relay, with the data directory's own token: whose login that is lent to, percent-encoded.
LOGIN_HEADER = "ZBrain-Login"
MAX_PID = 2**31 - 1
MAX_SLOTS = 1_000_000
#: The longest that a lease request may ask to be held open.
MAX_WAIT_SECS = 3600.0
MAX_KIND = 200
MAX_PATH = 4096
#: Seconds since the epoch, far in the future.
MAX_TIME = 1e12
MAX_LISTED_JOBS = 100
_WORKER_ID = re.compile(r"[A-Za-z0-9_.:@-]{1,200}\Z")


class WorkerState(StrEnum):
    """What a worker says of itself (the first three), and what the queue says of it."""

    LIVE = "live"
    #: It takes no more jobs, and ends when those that run have ended.
    DRAINING = "draining"
    #: It said that it ends, and has left jobs to the next worker on its folder.
    STOPPED = "stopped"
    #: Some of its heartbeats did not come.
    STALE = "stale"
    #: None came for as long as a lease lasts.
    LOST = "lost"


_SAID = (WorkerState.LIVE, WorkerState.DRAINING, WorkerState.STOPPED)


class Health(msgspec.Struct, kw_only=True):
    """How a worker is, as it says itself with its heartbeats.

    Attributes
    ----------
    problem : str
        Why it takes no job now, in one sentence; empty if it is well.
    free : Resources or None
        What of its `WorkerInfo.resources` is free.
    load : float or None
        Load average of its machine over the last minute.
    disk_free_bytes : int or None
        Free on the disk where its jobs run.
    last_error : str
        What went wrong last at running jobs, if anything did.
    culling : Culling or None
        Of a worker beside a person's own server on JupyterHub: how long running jobs keep that from being culled.
    """

    problem: str = ""
    free: Resources | None = None
    load: float | None = None
    disk_free_bytes: int | None = None
    last_error: str = ""
    culling: Culling | None = None


def check_health(health: Health) -> None:
    """Refuse what no machine could be like.

    Raises
    ------
    InvalidSpec
        Naming the field.
    """
    for name in ("problem", "last_error"):
        check_text(f"health.{name}", getattr(health, name), MAX_PATH, empty=True)
    if health.load is not None:
        check_number("health.load", health.load, low=0, high=MAX_SLOTS)
    if health.disk_free_bytes is not None:
        check_number("health.disk_free_bytes", health.disk_free_bytes, low=0, high=2**63 - 1, whole=True)
    if health.culling is not None:
        for name in ("active_at", "cap_secs"):
            check_number(f"health.culling.{name}", getattr(health.culling, name), low=0, high=MAX_TIME)


class WorkerInfo(msgspec.Struct, kw_only=True):
    """A worker as it registers (``POST workers``) and as ``GET workers`` lists it.

    Attributes
    ----------
    id : str
        Stable over restarts of one worker on one folder, so that a new process goes on with its leases.
    kind : str
        Which jobs it takes (`JobSpec.kind`).
    host, boot_id : str
        Machine name and the kernel's boot id, to tell whether queue and worker share a machine.
    pid : int
        Process id of the worker.
    slots, free : int
        How many jobs it runs at once, and how many more it would take now.
    resources : Resources
        What it offers in all.
    folder : str or None
        Where its spools and their locks lie, for a queue on the same machine.
    org_id : str or None
        Takes jobs of this org only.
    isolates : bool
        Whether it runs each person's jobs under an account or in a container of their own, so that they cannot reach
        those of others. Only such a worker gets jobs of several people. Its token says so (`EVERYBODY`); its own word
        counts only of who holds the data directory.
    runs_others : bool
        Whether it runs the jobs of everybody in its one account nevertheless, which opens to each of them all that
        this account can read. It counts only of who holds the data directory.
    is_shared : bool
        Registered with a token that is for the jobs of several people; set by the queue.
    owner, orgs : str and list of str, or None
        Gets jobs of this person and these orgs only; set by the queue, which knows who registered it, and lists of the
        orgs those that the reader sees.
    holder : str
        Who registered it (`Principal.holder`); set by the queue, and kept to itself.
    python : str
        Its interpreter.
    version : str
        Of zbrain_nb.
    started_at : float
        When its process started, seconds since the epoch.
    health : Health or None
        As it said last; None if it never said.
    state : WorkerState
        Set by the queue, which knows whether it is heard.
    seen_at : float
        When it was last heard, seconds since the epoch; set by the queue.
    running : int
        How many jobs are leased to it; set by the queue.
    jobs : list of str
        The first `MAX_LISTED_JOBS` of these; set by the queue.
    """

    id: str
    kind: str = "local"
    host: str = ""
    boot_id: str = ""
    pid: int = 0
    slots: int = 1
    free: int = 0
    resources: Resources = Resources()
    folder: str | None = None
    org_id: str | None = None
    isolates: bool = False
    runs_others: bool = False
    is_shared: bool = False
    owner: str | None = None
    orgs: list[str] | None = None
    holder: str = ""
    python: str = ""
    version: str = ""
    started_at: float = 0.0
    health: Health | None = None
    state: WorkerState = WorkerState.LIVE
    seen_at: float = 0.0
    running: int = 0
    jobs: list[str] = []


def check_worker(info: WorkerInfo) -> None:
    """Refuse a worker that no route could address, or whose numbers and texts nobody could have.

    Raises
    ------
    InvalidSpec
        Naming the field.
    """
    if type(info.id) is not str or not _WORKER_ID.match(info.id) or info.id in (".", ".."):
        raise InvalidSpec(
            f"{str(info.id)[:80]!r} cannot name a worker.", "Use up to 200 of A-Z a-z 0-9 _ . : @ and -.", field="id"
        )
    check_number("pid", info.pid, low=0, high=MAX_PID, whole=True)
    for name in ("slots", "free"):
        check_number(name, getattr(info, name), low=0, high=MAX_SLOTS, whole=True)
    check_text("kind", info.kind, MAX_KIND)
    for name in ("host", "boot_id", "python", "version", "folder"):
        if getattr(info, name) is not None:
            check_text(name, getattr(info, name), MAX_PATH, empty=True)
    if info.org_id is not None:
        check_org_id("org_id", info.org_id)
    check_number("started_at", info.started_at, low=0, high=MAX_TIME)
    if info.health is not None:
        check_health(info.health)


class AttemptRef(msgspec.Struct, frozen=True, gc=False):
    """One attempt of one job, with the highest ``worker_seq`` that the queue has committed (`high`)."""

    job_id: str
    attempt: int
    high: int = 0


class Registered(msgspec.Struct):
    """Answer to a registration: how to behave, and the attempts that the queue thinks this worker runs.

    Attributes
    ----------
    lease_ttl_secs : float
        How long after the last renewal an attempt may go to another worker.
    attempts : list of AttemptRef
        What the worker runs, in the queue's eyes; registering has renewed their leases.
    is_fenced : bool
        Whether the queue cannot see the locks in the worker's folder, so that the clock alone decides: then the
        worker has to end an attempt before its lease does, counted from before it sent the last renewal.
    blobs : str or None
        Folder of the artifact store, for a worker that shares the machine and the account: it reads inputs there.
    notice : str or None
        What the person should know who started it, in words.
    """

    lease_ttl_secs: float
    attempts: list[AttemptRef] = []
    is_fenced: bool = False
    blobs: str | None = None
    notice: str | None = None


class LeaseRequest(msgspec.Struct, kw_only=True):
    """Body of ``POST workers/{id}/leases``.

    Attributes
    ----------
    request_id : str
        Random; a repeat of the same request carries the same.
    limit : int
        How many jobs it would take now; 0 waits for cancels only.
    sure : int or None
        Of `limit`, how many are begun at once. The others may wait at the worker for a moment, and if it is lost
        nobody knows which of them had begun: only jobs that are run again when lost are among them. None is all.
    ahead : int
        How many more it would take if these are plain calls (`JobSpec.is_plain_call`), to run them one after the
        other as soon as it can. Nobody waits for these: what is there at the moment is given.
    wait_secs : float
        How long the answer may be held back when there is nothing to say.
    kinds : list of str or None
        Kinds of jobs it takes; None is its registered kind.
    resources : Resources or None
        What is free; None is no limit.
    events : list of events
        Taken first, as ``POST workers/{id}/events`` takes them; the answer is then not held back, whatever
        `wait_secs` says. What is free counts as after these.
    seal_key : str or None
        Public key of who asks, for the values of secrets (see `SealingKey`).
    """

    request_id: str
    limit: int = 1
    sure: int | None = None
    ahead: int = 0
    wait_secs: float = 20.0
    kinds: list[str] | None = None
    resources: Resources | None = None
    events: list[AnyWorkerEvent] = []
    seal_key: str | None = None


def check_lease_request(request: LeaseRequest) -> None:
    """Refuse a lease request that no worker could mean.

    Raises
    ------
    InvalidSpec
        Naming the field.
    """
    check_text("request_id", request.request_id, MAX_KIND)
    for name in ("limit", "ahead", "sure"):
        if getattr(request, name) is not None:
            check_number(name, getattr(request, name), low=0, high=MAX_SLOTS, whole=True)
    check_number("wait_secs", request.wait_secs, low=0, high=MAX_WAIT_SECS)
    if request.kinds is not None:
        check_texts("kinds", request.kinds, MAX_KIND)
    if request.seal_key is not None:
        check_text("seal_key", request.seal_key, MAX_KIND)


class Lease(msgspec.Struct):
    """A job handed to a worker; ``job.attempt`` is the fencing token.

    Attributes
    ----------
    token : str
        The attempt's own: for the code of the job, worth something while the attempt runs. Empty in one process.
    sealed : str
        The values of the secrets that the job names, sealed for the request's `seal_key`; empty if it names none, or
        they are kept no more.
    secrets : dict of str to str
        The same, opened: only within the worker.
    """

    job: Job
    token: str = ""
    sealed: str = ""
    secrets: dict[str, str] = {}


class LeaseAnswer(msgspec.Struct):
    """New leases, and attempts of this worker that shall be canceled (repeated until they ended).

    Attributes
    ----------
    results : list of EventResult
        What became of the request's events, one result for each attempt among them.
    """

    leases: list[Lease] = []
    cancels: list[AttemptRef] = []
    results: list[EventResult] = []


class HeartbeatRequest(msgspec.Struct):
    """Body of ``POST workers/{id}/heartbeat``: the attempts that run, and how many more would be taken.

    Attributes
    ----------
    state : WorkerState
        Whether the worker takes jobs, drains, or ends now.
    health : Health or None
        How it is; None says nothing new.
    """

    attempts: list[AttemptRef] = []
    free: int = 0
    state: WorkerState = WorkerState.LIVE
    health: Health | None = None


def check_heartbeat(request: HeartbeatRequest) -> None:
    """Refuse a heartbeat that no worker could mean.

    Raises
    ------
    InvalidSpec
        Naming the field.
    """
    check_number("free", request.free, low=0, high=MAX_SLOTS, whole=True)
    if len(request.attempts) > MAX_SLOTS:
        raise InvalidSpec(f"attempts has more than {MAX_SLOTS:,} entries.", field="attempts")
    if request.state not in _SAID:
        raise InvalidSpec(f"state must be {', '.join(_SAID)}: no worker says {request.state}.", field="state")
    if request.health is not None:
        check_health(request.health)


class Verdict(msgspec.Struct):
    """What the queue says of one attempt: go on (``ok``), end it (``cancel``), or it is not yours (``stale``)."""

    job_id: str
    attempt: int
    verdict: Literal["ok", "cancel", "stale"]
    high: int = 0


class HeartbeatAnswer(msgspec.Struct):
    """One verdict for each attempt asked about."""

    verdicts: list[Verdict] = []


class EventBatch(msgspec.Struct):
    """Body of ``POST workers/{id}/events``; events of one attempt stand in the order of their numbers."""

    events: list[AnyWorkerEvent] = []


class EventResult(msgspec.Struct):
    """What became of the events of one attempt in a batch.

    Attributes
    ----------
    status : str
        ``ok``: all are committed (now or before). ``gap``: those up to `high` are committed, send again from
        there. ``stale``: none was taken, the attempt is over; end its processes. ``invalid``: the event cannot
        be taken as it is, `message` says why. ``later``: those up to `high` are committed, the next carries output
        and the log comes too fast, as `message` says; keep it and all behind it, and send again in `wait_secs`.
    high : int
        The highest ``worker_seq`` that is committed.
    wait_secs : float
        See ``later``.
    """

    job_id: str
    attempt: int
    status: Literal["ok", "later", "gap", "stale", "invalid"]
    high: int = 0
    message: str = ""
    wait_secs: float = 0.0


class EventBatchAnswer(msgspec.Struct):
    """One result for each attempt in the batch. Over HTTP the status is 409 when all are stale."""

    results: list[EventResult] = []


class Identified(msgspec.Struct):
    """As whom the server sees the caller.

    Attributes
    ----------
    owner : str
        Owner of the jobs that they submit.
    home : str
        The org of jobs that name none.
    roles : dict of str to Role, or None
        By org; None is all of them.
    """

    owner: str
    home: str
    roles: dict[str, Role] | None
