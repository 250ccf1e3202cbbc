"""Checks of the server: where one is found, whether it answers, and whether it is the right one."""

from __future__ import annotations

import email.utils
import os
import sys
import time
from collections.abc import Iterator

import msgspec

import zbrain_nb
from zbrain_nb.client.client import Client
from zbrain_nb.client.diagnosis.findings import Diagnosis, fine, problem, warning
from zbrain_nb.client.locating import Endpoint, Finding, search
from zbrain_nb.client.workers import culling_remark, worker_remark
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.errors import Unauthorized, ZBrainError
from zbrain_nb.model.hosting import find_host, last_log_line
from zbrain_nb.model.protocol import WorkerInfo, WorkerState
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.tokens import PREFIXES, is_secret

SKEW_SECS = 5.0


class _Trouble(msgspec.Struct):
    message: str
    hint: str


class _Health(msgspec.Struct):
    version: str | None = None
    python: str | None = None
    pid: int | None = None
    trouble: _Trouble | None = None


class Service(msgspec.Struct):
    """What the search for a server found, and what the server said.

    Attributes
    ----------
    findings : list of Finding
        Where was looked, in order.
    endpoint : Endpoint or None
        The server that clients use from here.
    error : ZBrainError or None
        Why it does not answer.
    version, python, pid : str, str, int or None
        Of the server.
    trouble : _Trouble or None
        What is wrong with it, as it says itself.
    skew_secs : float
        By how much its clock is ahead of ours.
    workers : list of WorkerInfo
        That it knows.
    """

    findings: list[Finding] = []
    endpoint: Endpoint | None = None
    error: ZBrainError | None = None
    version: str | None = None
    python: str | None = None
    pid: int | None = None
    trouble: _Trouble | None = None
    skew_secs: float = 0.0
    workers: list[WorkerInfo] = []

    @classmethod
    def find(cls, settings: Settings) -> Service:
        """Search for a server, and ask it; none is started."""
        self = cls()
        try:
            self.findings = list(search(settings))
        except ZBrainError as error:
            self.error = error
            return self
        self.endpoint = next((one.endpoint for one in self.findings if one.endpoint is not None), None)
        if self.endpoint is not None:
            try:
                self._ask(self.endpoint)
            except ZBrainError as error:
                self.error = error
        return self

    def _ask(self, endpoint: Endpoint) -> None:
        # As if given by argument: an address of which nobody expects that its server is being restarted.
        with Client(lambda: msgspec.structs.replace(endpoint, found="argument")) as client:
            self.workers = client.workers()
            answer = client.call(client.asynchronous.transport.request, "GET", "health")
        said = msgspec.json.decode(answer.content, type=_Health)
        self.version, self.python, self.pid = said.version, said.python, said.pid
        self.trouble = said.trouble
        date = email.utils.parsedate_tz(answer.headers.get("Date", ""))
        if date is not None:
            self.skew_secs = email.utils.mktime_tz(date) + 0.5 - time.time()  # it counts in whole seconds

    @property
    def local_pid(self) -> int | None:
        """The host's process, if it is one of this machine."""
        return self.pid if self.pid is not None and os.path.exists(f"/proc/{self.pid}") else None


def check_service(service: Service, settings: Settings, data: DataDir) -> Iterator[Diagnosis]:
    """Say where a server was looked for and found, and see whether it answers as it should."""
    for finding in service.findings:
        yield fine(f"server by {finding.where}", finding.what)
    if service.endpoint is None:
        yield _no_server(service, data)
        return
    yield from _other_server(settings, data)
    if service.error is not None:
        yield _no_answer(service.endpoint, service.error)
        return
    about = f" (zbrain_nb {service.version}, {service.python})" if service.version else ""
    yield fine("server", f"{service.endpoint.url} answers{about}")
    if service.version not in (None, zbrain_nb.__version__):
        yield warning(
            "version",
            f"The server runs zbrain_nb {service.version}, this is {zbrain_nb.__version__} ({sys.executable}).",
            "Install the same version in both; after an upgrade run `zbrain stop` and restart Jupyter.",
        )
    if service.trouble is not None:
        yield problem("login", service.trouble.message, service.trouble.hint)
    if abs(service.skew_secs) > SKEW_SECS:
        ahead = "ahead of" if service.skew_secs > 0 else "behind"
        yield warning(
            "clock",
            f"The server's clock is {abs(service.skew_secs):.0f} s {ahead} this one; times shown are wrong by that.",
            "Let both machines take their time from the network (`timedatectl set-ntp true`).",
        )
    yield from _check_workers(service.workers, data)


def _no_server(service: Service, data: DataDir) -> Diagnosis:
    if service.error is not None:
        return problem("server", service.error.message, service.error.hint)
    last = last_log_line(data)
    if " host ERROR " in last or last.startswith("zbrain serve: "):
        return problem("server", f"None runs, and the last one ended so: {last}", f"See {data.log}.")
    return fine("server", "none runs; `zbrain run` or `zbrain_nb.connect()` starts one")


def _no_answer(endpoint: Endpoint, error: ZBrainError) -> Diagnosis:
    if isinstance(error, Unauthorized):
        where = "ZBRAIN_TOKEN" if endpoint.found == "ZBRAIN_URL" else f"the token of the {endpoint.found}"
        return problem("server", f"{endpoint.url} answers, but does not take {where}.", _why_refused(endpoint.token))
    return problem("server", error.message, error.hint)


def _why_refused(token: str) -> str:
    """Say what may be wrong with a token, as far as its form tells."""
    if token.startswith(PREFIXES):
        if not is_secret(token):
            return "It is mistyped or cut off, for its checksum does not hold. Set it again, whole."
        return "It was revoked, has expired, or is of another server. An admin makes another: `zbrain token create`."
    return (
        "It is of an earlier server: restart this kernel or terminal from the Jupyter that runs now, or unset "
        "ZBRAIN_URL and ZBRAIN_TOKEN."
    )


def _other_server(settings: Settings, data: DataDir) -> Iterator[Diagnosis]:
    """Say if the environment leads elsewhere than the data directory: jobs are then found in one place only."""
    owner = find_host(data) if settings.url else None
    if owner is not None and settings.url == owner.url and (settings.token or "").startswith(PREFIXES):
        return  # the same server, by a token of one's own
    if owner is not None and settings.token != owner.token:
        yield warning(
            "two servers",
            f"ZBRAIN_URL leads to {settings.url}, but {data.root} is served by {owner.url}.",
            "Jobs go to the first. Unset ZBRAIN_URL to use the second, or run `zbrain stop` to end it.",
        )


def _check_workers(workers: list[WorkerInfo], data: DataDir) -> Iterator[Diagnosis]:
    if not workers:
        yield problem(
            "workers",
            "None has registered: jobs wait for ever.",
            f"One just started needs a second. See {data.log}, or start one: `zbrain worker`.",
        )
        return
    serving = [one for one in workers if one.state in (WorkerState.LIVE, WorkerState.DRAINING)]
    if serving:
        yield fine("workers", ", ".join(f"{one.id} ({one.slots} slots, {one.free} free)" for one in serving))
    else:
        yield problem("workers", "None is here: jobs wait for ever.", f"See {data.log}, or start one: `zbrain worker`.")
    for one in workers:
        if remark := worker_remark(one):
            yield warning(f"worker {one.id}", remark, f"See {data.log}, or its own log on {one.host}.")
        yield from _check_culling(one)
    pid = lock_holder(data.worker / "worker.lock")
    if pid is not None:
        yield fine("local worker", f"process {pid}")


def _check_culling(worker: WorkerInfo) -> Iterator[Diagnosis]:
    """Say how long the jobs keep the server beside their worker, which would end them with it."""
    if not (remark := culling_remark(worker)):
        return
    assert worker.health is not None and worker.health.culling is not None
    subject = f"server beside {worker.id}"
    if worker.health.culling.is_over(time.time()):
        yield warning(subject, remark, "Do something there, or set ZBrainExtension.keep_server_hours higher.")
    else:
        yield fine(subject, remark)
