"""`HostContext`: what the host's parts are, for the handlers, which reach them through their application's settings."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.settings import Settings
from zbrain_nb.queue.jobqueue import JobQueue
from zbrain_nb.queue.maintenance import Maintenance
from zbrain_nb.server.audit import AuditLog
from zbrain_nb.server.bodies import BodyRoom
from zbrain_nb.server.identity import Identity
from zbrain_nb.server.job_tokens import JobTokens
from zbrain_nb.server.secrets import Secrets
from zbrain_nb.server.sessions import Sessions
from zbrain_nb.server.tokens import Tokens


@dataclass
class HostContext:
    """What handlers reach through their application's settings.

    Attributes
    ----------
    queue : JobQueue
        The queue served.
    maintenance : Maintenance
        What passes with time, and backups.
    settings : Settings
        Defaults for raw requests.
    token : str
        The data directory's.
    identity : Identity
        Knows who sends a request.
    sessions : Sessions
        Browsers that a person sent here.
    tokens : Tokens
        Those that are kept.
    job_tokens : JobTokens
        Those of attempts.
    secrets : Secrets
        Keeps the values of jobs' secrets.
    audit : AuditLog
        Is told who did what.
    instance : str
        Random, new for each host process.
    host_names : set of str or None
        Names by which this host may be addressed (DNS rebinding); None is any.
    trouble : callable
        Returns what is wrong with the login that stands before the routes, or None.
    requests : int
        Requests of clients so far (not of workers): the host's idle watch looks at it.
    followers : int
        WebSockets open now.
    metrics : CollectorRegistry
        What ``GET metrics`` shows.
    bodies : BodyRoom
        For long bodies.
    """

    queue: JobQueue
    maintenance: Maintenance
    settings: Settings
    token: str
    identity: Identity
    sessions: Sessions
    tokens: Tokens
    job_tokens: JobTokens
    secrets: Secrets
    audit: AuditLog
    instance: str
    host_names: set[str] | None
    trouble: Callable[[], Awaitable[ZBrainError | None]]
    requests: int = 0
    followers: int = 0
    metrics: CollectorRegistry = field(default_factory=CollectorRegistry)
    bodies: BodyRoom = field(default_factory=BodyRoom)
