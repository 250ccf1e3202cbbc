"""Where the server is: the lookup order of `connect`, told step by step for `zbrain doctor`."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from urllib.parse import urlsplit

import msgspec

from zbrain_nb.model.datadir import DataDir, Owner, lock_holder
from zbrain_nb.model.errors import ServerUnreachable, ZBrainError
from zbrain_nb.model.hosting import find_host, find_or_start_host
from zbrain_nb.model.settings import Settings, read_settings

EMBEDDED_IDLE_SECS = 300.0


class Endpoint(msgspec.Struct, frozen=True):
    """A server's root (ending in ``/``), the token that opens it, and how it was found.

    If it serves a data directory of this account on this machine, `artifacts` is its artifact store's folder, and
    `lock` the file that process `pid` holds while it lives. A server whose public `key` is known is told nothing before
    it has proved that it has it (see `zbrain_nb.model.proving`).
    """

    url: str
    token: str
    found: str = ""
    artifacts: str = ""
    lock: str = ""
    pid: int = 0
    key: str = ""

    @property
    def has_ended(self) -> bool:
        """Whether the host is known to be dead: who listens on its port then must not be told the token."""
        return bool(self.lock) and lock_holder(self.lock) != self.pid

    @property
    def is_here(self) -> bool:
        """Whether it is addressed on this machine."""
        host = urlsplit(self.url).hostname or ""
        try:
            return ip_address(host).is_loopback
        except ValueError:
            return host == "localhost"

    @property
    def api(self) -> str:
        """Root of the routes."""
        return f"{self.url}zbrain/api/"


class Finding(msgspec.Struct, frozen=True):
    """One step of the search: where was looked, what was there, and the endpoint if it will do."""

    where: str
    what: str
    endpoint: Endpoint | None = None


Locator = Callable[[], Endpoint]


def search(settings: Settings, url: str | None = None, token: str | None = None) -> Iterator[Finding]:
    """Look for a server, place by place, and yield what is found at each; starts nothing.

    Parameters
    ----------
    settings : Settings
        Names the data directory and the addresses set in the environment.
    url, token : str, optional
        What the caller gave; nothing else is looked at then.
    """
    if url is not None:
        yield Finding("argument", url, Endpoint(_root(url), token or settings.token or "", "argument"))
        return
    if settings.host_data and settings.token:
        data = DataDir(settings.host_data)
        owner = find_host(data)
        if owner is not None:  # it has proved to know the directory's token, so it may be told the job's
            endpoint = msgspec.structs.replace(direct(data, owner, "ZBRAIN_HOST_DATA"), token=settings.token)
            yield Finding("ZBRAIN_HOST_DATA", f"{data.owner_file}: {owner.url}", endpoint)
            return
    data = DataDir(settings.data, settings.artifacts)
    owner = find_host(data)
    if settings.url:
        if owner is not None and settings.token == owner.token:
            yield Finding("ZBRAIN_URL", f"{settings.url}, whose host answers directly", direct(data, owner))
        else:
            endpoint = Endpoint(_root(settings.url), settings.token or "", "ZBRAIN_URL", key=settings.server_key)
            yield Finding("ZBRAIN_URL", settings.url, endpoint)
        return
    if owner is not None:
        yield Finding("owner file", f"{data.owner_file}: {owner.url}", direct(data, owner))
        return
    yield Finding("owner file", f"{data.owner_file}: no host answers")
    yield _jupyter()


def may_be_there(settings: Settings) -> bool:
    """Whether a server is set, or a host serves the data directory, as far as can be told without asking anybody.

    It takes about 0.1 ms; `search` may wait for seconds for who does not answer. A Jupyter server that is not set is
    not known here.
    """
    folders = filter(None, (settings.data, settings.host_data))
    return bool(settings.url) or any(lock_holder(DataDir(folder).host_lock) is not None for folder in folders)


def locator(url: str | None = None, token: str | None = None, *, start: bool = True) -> Locator:
    """Return a function that finds the server; it is called again whenever the server was lost.

    Parameters
    ----------
    url, token : str, optional
        Look nowhere else.
    start : bool
        Start an embedded host when nothing is found.
    """

    def locate() -> Endpoint:
        settings = read_settings()
        for finding in search(settings, url, token):
            if finding.endpoint is not None:
                return finding.endpoint
        if not start:
            raise ServerUnreachable(
                f"No zbrain server runs for {settings.data}.", "`zbrain serve` starts one, and so does Jupyter."
            )
        data = DataDir(settings.data, settings.artifacts)
        return direct(data, find_or_start_host(data, idle_secs=EMBEDDED_IDLE_SECS), "embedded host")

    return locate


def direct(data: DataDir, owner: Owner, found: str = "owner file") -> Endpoint:
    """Return the endpoint of a host that has proved itself, good for as long as it lives."""
    return Endpoint(owner.url, owner.token, found, owner.artifacts, str(data.host_lock), owner.pid)


def _root(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ZBrainError(f"{url!r} is no server's address.", "It starts with http:// or https://.")
    return url if url.endswith("/") else f"{url}/"


def _jupyter() -> Finding:
    """Look at the Jupyter server that started this kernel, if one did."""
    pid = os.environ.get("JPY_PARENT_PID")
    if not pid:
        return Finding("Jupyter", "this process was not started by a Jupyter server")
    if not _lives(pid):  # its port may be another's by now
        return Finding("Jupyter", f"the server {pid} that started this process has ended")
    import httpx  # not before it is needed: completion in a shell only looks at the owner file
    from jupyter_core.paths import jupyter_runtime_dir

    try:
        info = msgspec.json.decode((Path(jupyter_runtime_dir()) / f"jpserver-{pid}.json").read_bytes())
        endpoint = Endpoint(_root(info["url"]), info.get("token", ""), "Jupyter")
        answer = httpx.get(
            f"{endpoint.api}health", headers={"Authorization": f"token {endpoint.token}"}, timeout=5, trust_env=False
        )
    except (OSError, msgspec.DecodeError, KeyError, httpx.HTTPError) as error:
        return Finding("Jupyter", f"its server {pid} cannot be asked ({type(error).__name__})")
    if answer.status_code != 200:
        return Finding("Jupyter", f"{endpoint.url} runs without zbrain_nb (installed after it started? restart it)")
    return Finding("Jupyter", endpoint.url, endpoint)


def _lives(pid: str) -> bool:
    """Whether a process of this account has this number."""
    try:
        os.kill(int(pid), 0)
    except (ValueError, OSError):
        return False
    return True
