"""All settings that come from the environment, read in this one place."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import platformdirs

from zbrain_nb.model.access import GroupRole, Role
from zbrain_nb.model.checks import check_org_id
from zbrain_nb.model.errors import InvalidSpec, ZBrainError
from zbrain_nb.model.quotas import Quota, Quotas

#: The first is the default; with "none" the host leaves the jobs to workers that come by themselves.
WORKER_MODES = ("local", "none")
_DAY, _HOUR = 86_400.0, 3_600.0


class Lifetimes(msgspec.Struct, frozen=True, kw_only=True):
    """How long things are kept, each in seconds. What living jobs need is kept in any case.

    Attributes
    ----------
    jobs_secs : float
        ``ZBRAIN_KEEP_JOBS_DAYS``: rows of jobs, from their submit on.
    events_secs : float
        ``ZBRAIN_KEEP_EVENTS_DAYS``: transitions and rich outputs.
    logs_secs : float
        ``ZBRAIN_KEEP_LOGS_DAYS``: log lines.
    audit_secs : float
        ``ZBRAIN_KEEP_AUDIT_DAYS``: who did what.
    blobs_secs : float
        ``ZBRAIN_KEEP_BLOBS_HOURS``: files that no kept job names, from when somebody last relied on them.
    keys_secs : float
        ``ZBRAIN_KEEP_KEYS_HOURS``: how long an idempotency key answers with its first job.
    """

    jobs_secs: float = 90 * _DAY
    events_secs: float = 30 * _DAY
    logs_secs: float = 30 * _DAY
    audit_secs: float = 365 * _DAY
    blobs_secs: float = 24 * _HOUR
    keys_secs: float = 7 * 24 * _HOUR

    def of(self, kind: str) -> float:
        """Return the life time of a kind of segment: ``jobs``, ``transitions``, ``logs`` or ``audit``."""
        return {
            "jobs": self.jobs_secs,
            "transitions": self.events_secs,
            "logs": self.logs_secs,
            "audit": self.audit_secs,
        }[kind]


class Settings(msgspec.Struct, kw_only=True):
    """Settings of host, worker and client.

    Attributes
    ----------
    data : str
        ``ZDB_DATA``: the data directory.
    artifacts : str or None
        ``ZBRAIN_ARTIFACTS``: where blobs lie; None is within the data directory.
    lease_ttl_secs : float
        ``ZBRAIN_LEASE_TTL``: how long a silent worker keeps its jobs.
    poll_interval_secs : float
        ``ZBRAIN_POLL_INTERVAL``: the pause of `FifoScheduler` when nothing waits.
    max_retries : int
        ``ZBRAIN_MAX_RETRIES``: fills the field when a raw HTTP request that runs a command omits it.
    default_timeout_secs : float
        ``ZBRAIN_DEFAULT_TIMEOUT``: fills ``timeout_secs`` likewise.
    worker_mode : str
        ``ZWORKER_MODE``: which kind of worker the host supervises, one of `WORKER_MODES`.
    worker_concurrency : int
        ``ZWORKER_CONCURRENCY``: how many jobs it runs at once.
    worker_runs_others : bool
        ``ZWORKER_RUNS_OTHERS``: whether a worker with the data directory's token runs the jobs of everybody in its
        account; without it the jobs of its owner alone.
    worker_temp_dir : str or None
        ``ZWORKER_TEMP_DIR``: where jobs without a ``cwd`` run.
    default_org_id : str
        ``ZDEFAULT_ORG_ID``: the org of a single user.
    quotas : Quotas
        ``ZBRAIN_MAX_RUNNING``, ``ZBRAIN_MAX_PENDING``, ``ZBRAIN_MAX_LOG_KB_PER_SEC``,
        ``ZBRAIN_MAX_SOCKETS``, ``ZBRAIN_MAX_STORED_MB``, and each with ``_PER_OWNER``: how much one org, or one owner,
        may use.
    url, token : str or None
        ``ZBRAIN_URL``, ``ZBRAIN_TOKEN``: a server's root and its token, for clients.
    server_key : str
        ``ZBRAIN_SERVER_KEY``: set in jobs on JupyterHub; the public key of the server at ``ZBRAIN_URL``.
    host_data : str or None
        ``ZBRAIN_HOST_DATA``: set in jobs whose host serves a data directory of this machine; its owner file says where
        that is, also after a restart.
    trust_pools : tuple of str
        ``ZBRAIN_TRUST_POOLS``: the pools whose results clients load, by name, separated by commas.
    warm_pool : bool
        ``ZBRAIN_WARM_POOL``: whether the worker forks cells from processes that have imported what they need.
    wait : bool or None
        ``ZBRAIN_WAIT``: whether the magic waits; None is when nobody watches.
    log_transitions : bool
        ``ZBRAIN_LOG_TRANSITIONS``: whether the host's log has a line for each change of a job's state.
    hub_url : str or None
        ``ZBRAIN_HUB_URL``: root of the Hub's zbrain service, to which a user's own Jupyter server relays; for the
        service itself, which proves itself for that port, where the users' servers reach it by another than its own.
    hub_key : str
        ``ZBRAIN_HUB_KEY``: public key of that service, by which it proves itself before it is told a token.
    hub_token, hub_user, hub_server : str or None
        ``JUPYTERHUB_API_TOKEN``, ``JUPYTERHUB_USER``, ``JUPYTERHUB_SERVER_NAME``: set by the Hub for the server of a
        user; the last is None for the one without a name.
    hub_roles : dict of str to GroupRole
        ``ZBRAIN_HUB_ROLES``: roles that Hub groups give to their members, as ``GROUP=ROLE,GROUP=ORG:ROLE``.
    hub_cache_secs : float
        ``ZBRAIN_HUB_CACHE_SECS``: how long the service believes what the Hub said of a token: its user, and the groups.
    webhooks : str or None
        ``ZBRAIN_WEBHOOKS``: the file that says who is told that jobs ended (see `zbrain_nb.model.webhooks`).
    keep : Lifetimes
        ``ZBRAIN_KEEP_...``: how long the host keeps what has ended.
    """

    data: str
    artifacts: str | None = None
    lease_ttl_secs: float = 300.0
    poll_interval_secs: float = 5.0
    max_retries: int = 3
    default_timeout_secs: float = 300.0
    worker_mode: str = "local"
    worker_concurrency: int = 4
    worker_runs_others: bool = False
    worker_temp_dir: str | None = None
    default_org_id: str = "default"
    quotas: Quotas = Quotas()
    url: str | None = None
    token: str | None = None
    server_key: str = ""
    host_data: str | None = None
    trust_pools: tuple[str, ...] = ()
    warm_pool: bool = True
    wait: bool | None = None
    log_transitions: bool = False
    hub_url: str | None = None
    hub_key: str = ""
    hub_token: str | None = None
    hub_user: str | None = None
    hub_server: str | None = None
    hub_roles: dict[str, GroupRole] = {}
    hub_cache_secs: float = 30.0
    webhooks: str | None = None
    keep: Lifetimes = Lifetimes()


def read_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from environment variables.

    Parameters
    ----------
    environ : mapping of str to str
        The environment; empty values count as absent.

    Raises
    ------
    ZBrainError
        If a value does not hold; the message names the variable and what it takes.
    """
    number = _Reader(environ)
    return Settings(
        data=environ.get("ZDB_DATA") or platformdirs.user_data_dir("zbrain"),
        artifacts=environ.get("ZBRAIN_ARTIFACTS") or None,
        lease_ttl_secs=number("ZBRAIN_LEASE_TTL", 300.0, low=0.5),
        poll_interval_secs=number("ZBRAIN_POLL_INTERVAL", 5.0, low=0.001),
        max_retries=int(number("ZBRAIN_MAX_RETRIES", 3, low=0, whole=True)),
        default_timeout_secs=number("ZBRAIN_DEFAULT_TIMEOUT", 300.0, low=0.001),
        worker_mode=number.choice("ZWORKER_MODE", WORKER_MODES),
        worker_concurrency=int(number("ZWORKER_CONCURRENCY", 4, low=1, whole=True)),
        worker_runs_others=number.flag("ZWORKER_RUNS_OTHERS") or False,
        worker_temp_dir=_absolute(environ.get("ZWORKER_TEMP_DIR")),
        default_org_id=number.org("ZDEFAULT_ORG_ID", "default"),
        quotas=Quotas(org=_read_quota(number, ""), owner=_read_quota(number, "_PER_OWNER")),
        url=environ.get("ZBRAIN_URL") or None,
        token=environ.get("ZBRAIN_TOKEN") or None,
        server_key=environ.get("ZBRAIN_SERVER_KEY", ""),
        host_data=environ.get("ZBRAIN_HOST_DATA") or None,
        trust_pools=tuple(name.strip() for name in environ.get("ZBRAIN_TRUST_POOLS", "").split(",") if name.strip()),
        warm_pool=number.flag("ZBRAIN_WARM_POOL") is not False,
        wait=number.flag("ZBRAIN_WAIT"),
        log_transitions=number.flag("ZBRAIN_LOG_TRANSITIONS") or False,
        hub_url=number.url("ZBRAIN_HUB_URL"),
        hub_key=environ.get("ZBRAIN_HUB_KEY", ""),
        hub_token=environ.get("JUPYTERHUB_API_TOKEN") or None,
        hub_user=environ.get("JUPYTERHUB_USER") or None,
        hub_server=environ.get("JUPYTERHUB_SERVER_NAME") or None,
        hub_cache_secs=number("ZBRAIN_HUB_CACHE_SECS", 30, low=1, whole=True),
        hub_roles=number.roles("ZBRAIN_HUB_ROLES"),
        webhooks=_absolute(environ.get("ZBRAIN_WEBHOOKS")),
        keep=_read_lifetimes(number),
    )


def _read_quota(number: _Reader, tail: str) -> Quota:
    return Quota(
        running=number.limit("ZBRAIN_MAX_RUNNING" + tail),
        pending=number.limit("ZBRAIN_MAX_PENDING" + tail),
        log_bytes_per_sec=number.limit("ZBRAIN_MAX_LOG_KB_PER_SEC" + tail, 1 << 10),
        sockets=number.limit("ZBRAIN_MAX_SOCKETS" + tail),
        stored_bytes=number.limit("ZBRAIN_MAX_STORED_MB" + tail, 1 << 20),
    )


def _read_lifetimes(number: _Reader) -> Lifetimes:
    usual = Lifetimes()
    return Lifetimes(
        jobs_secs=_DAY * number("ZBRAIN_KEEP_JOBS_DAYS", usual.jobs_secs / _DAY, low=0.01),
        events_secs=_DAY * number("ZBRAIN_KEEP_EVENTS_DAYS", usual.events_secs / _DAY, low=0.01),
        logs_secs=_DAY * number("ZBRAIN_KEEP_LOGS_DAYS", usual.logs_secs / _DAY, low=0.01),
        audit_secs=_DAY * number("ZBRAIN_KEEP_AUDIT_DAYS", usual.audit_secs / _DAY, low=0.01),
        # Long enough for any submit that relies on a blob found here.
        blobs_secs=_HOUR * number("ZBRAIN_KEEP_BLOBS_HOURS", usual.blobs_secs / _HOUR, low=1),
        keys_secs=_HOUR * number("ZBRAIN_KEEP_KEYS_HOURS", usual.keys_secs / _HOUR, low=0.01),
    )


def _absolute(path: str | None) -> str | None:
    return str(Path(path).expanduser().absolute()) if path else None


class _Reader:
    def __init__(self, environ: Mapping[str, str]) -> None:
        self._environ = environ

    def __call__(self, name: str, default: float, *, low: float, whole: bool = False) -> float:
        text = self._environ.get(name)
        if not text:
            return default
        convert: Any = int if whole else float
        try:
            value: float = convert(text)
        except ValueError:
            value = float("nan")
        if not low <= value < float("inf"):
            raise ZBrainError(
                f"{name}={text!r} does not hold: it takes a {'whole ' if whole else ''}number of at least {low:g}."
            )
        return value

    def limit(self, name: str, unit: int = 1) -> int | None:
        return unit * int(self(name, 0, low=1, whole=True)) or None

    def choice(self, name: str, choices: tuple[str, ...]) -> str:
        text = self._environ.get(name) or choices[0]
        if text not in choices:
            raise ZBrainError(f"{name}={text!r} does not hold: it takes {' or '.join(choices)}.")
        return text

    def org(self, name: str, default: str) -> str:
        text = self._environ.get(name) or default
        try:
            check_org_id(name, text)
        except InvalidSpec as error:
            raise ZBrainError(
                f"{name}={text[:200]!r} does not hold: it takes a name without control characters, commas and slashes."
            ) from error
        return text

    def url(self, name: str) -> str | None:
        text = self._environ.get(name)
        if text and not text.startswith(("http://", "https://")):
            raise ZBrainError(
                f"{name}={text!r} does not hold: it takes an address that starts with http:// or https://."
            )
        return f"{text.rstrip('/')}/" if text else None

    def roles(self, name: str) -> dict[str, GroupRole]:
        pairs = [pair.rpartition("=") for pair in self._environ.get(name, "").split(",") if pair.strip()]
        parts = [(group.strip(), *given.rpartition(":")[::2]) for group, _, given in pairs]
        try:
            return {group: GroupRole(Role(role.strip()), org.strip() or None) for group, org, role in parts}
        except ValueError as error:
            raise ZBrainError(
                f"{name}={self._environ[name]!r} does not hold: it takes GROUP=ROLE or GROUP=ORG:ROLE, separated "
                f"by commas; a role is one of {', '.join(Role)}."
            ) from error

    def flag(self, name: str) -> bool | None:
        text = self._environ.get(name, "").lower()
        if not text:
            return None
        if text in ("1", "true", "yes", "on"):
            return True
        if text in ("0", "false", "no", "off"):
            return False
        raise ZBrainError(f"{name}={text!r} does not hold: it takes 1 or 0.")
