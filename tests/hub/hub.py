"""A real JupyterHub in subprocesses: its proxy, the zbrain service as the README configures it, and its users."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.conftest import end_everything
from tests.jupyter import free_port
from zbrain_nb.model.datadir import LEAVE_SIGNAL, lock_holder

README = Path(__file__).parents[2] / "README.md"
START_SECS = 40
#: Who is in which Hub group.
GROUPS = {
    "physics": ["alice", "bob", "dora"],
    "chemistry": ["carol"],
    "leads": ["bob"],
    "wardens": ["dora"],
}
PASSWORD = "a password for tests"
_CONFIG = """
c.JupyterHub.bind_url = "http://127.0.0.1:{port}"
c.JupyterHub.hub_bind_url = "http://127.0.0.1:{hub_port}"
c.ConfigurableHTTPProxy.api_url = "http://127.0.0.1:{proxy_port}"
c.ConfigurableHTTPProxy.command = ["{proxy}"]
c.JupyterHub.authenticator_class = "dummy"
c.DummyAuthenticator.password = "{password}"
c.Authenticator.allow_all = True
c.JupyterHub.spawner_class = "simple"
c.SimpleLocalProcessSpawner.home_dir_template = "{homes}/{{username}}"
c.Spawner.args = ["--allow-root"]
c.LocalProcessSpawner.interrupt_timeout = c.LocalProcessSpawner.term_timeout = 2
c.Spawner.environment = {{
    "ZWORKER_CONCURRENCY": "2",
    "JUPYTERHUB_ACTIVITY_INTERVAL": "1",
    "JUPYTERHUB_SINGLEUSER_APP": "jupyter_server.serverapp.ServerApp",
    "JUPYTER_CONFIG_PATH": "{folder}",
}}
c.Spawner.default_url = "/zbrain"
c.JupyterHub.load_groups = {{name: {{"users": users}} for name, users in {groups}.items()}}
c.JupyterHub.load_roles = [
    {{"name": "tests", "services": ["tests"], "scopes": ["admin:users", "admin:groups", "admin:servers", "tokens"]}},
    {{"name": "helpers", "users": ["bob"], "scopes": ["access:servers!user=alice"]}},
]
c.JupyterHub.services = [{{"name": "tests", "api_token": "{token}"}}]
"""
#: Added behind the documented configuration, so that tests of what ends in time take less of it.
_BRISK = """
c.JupyterHub.services[-1]["environment"] |= {
    "ZBRAIN_HUB_CACHE_SECS": "1",
    "ZBRAIN_HUB_ROLES": "leads=operator,wardens=admin",
}
"""


def proxy_path() -> str | None:
    """Return the Hub's proxy (configurable-http-proxy, from npm), beside this Python or on the path."""
    beside = Path(sys.executable).with_name("configurable-http-proxy")
    return str(beside) if beside.exists() else shutil.which("configurable-http-proxy")


def documented_configuration() -> str:
    """Return what the README tells to add to ``jupyterhub_config.py``."""
    section = README.read_text().partition("## On JupyterHub\n")[2]
    found = re.search(r"```python\n(.+?)```", section, re.DOTALL)
    assert found, "README.md shows no configuration of the Hub"
    return found[1]


class Hub:
    """A Hub on a folder.

    Parameters
    ----------
    folder : Path
        Where its database lies, the service's data directory, and the homes of its users.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.homes = folder / "homes"
        self.data = folder / "service data"
        self.port = free_port()
        self.service_port = free_port()
        self.url = f"http://127.0.0.1:{self.port}/"
        self.service_url = f"http://127.0.0.1:{self.service_port}/services/zbrain/"
        self.token = secrets.token_hex(16)
        self.api = httpx.Client(
            base_url=f"{self.url}hub/api/",
            headers={"Authorization": f"token {self.token}"},
            trust_env=False,
            timeout=30,
        )
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, brisk: bool = True) -> None:
        """Start it, and return when it and the service answer; not `brisk` it is as the README configures it."""
        proxy = proxy_path()
        if proxy is None:
            message = "configurable-http-proxy is missing: npm install -g configurable-http-proxy"
            if os.environ.get("CI"):
                pytest.fail(message)
            pytest.skip(message)
        self.homes.mkdir(parents=True)
        text = _CONFIG.format(
            port=self.port,
            hub_port=free_port(),
            proxy_port=free_port(),
            proxy=proxy,
            password=PASSWORD,
            homes=self.homes,
            groups=GROUPS,
            folder=self.folder,
            token=self.token,
        )
        ours = (
            documented_configuration().replace("10101", str(self.service_port)).replace("/srv/zbrain", str(self.data))
        )
        # what is not needed here costs seconds at each start of a server
        others = ("jupyterlab", "notebook", "notebook_shim", "jupyter_lsp", "jupyter_server_terminals")
        unwanted = {"ServerApp": {"jpserver_extensions": dict.fromkeys(others, False)}}
        (self.folder / "jupyter_server_config.json").write_text(json.dumps(unwanted))
        (self.folder / "jupyterhub_config.py").write_text(text + ours + (_BRISK if brisk else ""))
        environ = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
        with (self.folder / "hub.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "jupyterhub"],
                cwd=self.folder,
                env=environ,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        self._wait_for(lambda: httpx.get(f"{self.url}services/zbrain/zbrain/api/health", trust_env=False, timeout=5))

    def _wait_for(self, ask: Any) -> None:
        deadline = time.monotonic() + START_SECS
        while True:
            try:
                if ask().status_code == 200:
                    return
            except httpx.HTTPError as error:
                del error
            assert time.monotonic() < deadline, self.log()
            assert self.process is not None and self.process.poll() is None, self.log()
            time.sleep(0.05)  # a foreign server has no other sign of being ready

    def log(self) -> str:
        """Return what Hub, proxy, service and users' servers have said."""
        return (self.folder / "hub.log").read_text()

    def start_servers(self, *users: str) -> None:
        """Start the users' own servers, and return when all answer."""
        for user in users:
            answer = self.api.post(f"users/{user}/server")
            assert answer.status_code in (201, 202) or "already running" in answer.text, answer.text
        for user in users:
            self._wait_for(lambda user=user: httpx.get(f"{self.url}user/{user}/api", trust_env=False, timeout=5))

    def client(self, user: str, at: str = "") -> httpx.Client:
        """Return a client of zbrain's API with a token of the user; `at` names a user's server, else the service."""
        root = f"user/{at}" if at else "services/zbrain"
        return httpx.Client(
            base_url=f"{self.url}{root}/zbrain/api/",
            headers={"Authorization": f"token {self.token_of(user)}"},
            trust_env=False,
            timeout=30,
        )

    def stop_server(self, user: str) -> None:
        """Stop a user's own server."""
        self.api.delete(f"users/{user}/server").raise_for_status()

    def token_of(self, user: str, *scopes: str) -> str:
        """Return a new Hub token of a user, with all that the user may do unless `scopes` are given."""
        body = {"scopes": list(scopes)} if scopes else {}
        answer = self.api.post(f"users/{user}/tokens", json=body)
        answer.raise_for_status()
        token: str = answer.json()["token"]
        return token

    def data_of(self, user: str) -> Path:
        """Return the data directory of a user's own server."""
        return self.homes / user / ".local" / "share" / "zbrain"

    def stop(self) -> None:
        """End it, and all that it started."""
        self.api.close()
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(30)
        for user in self.homes.iterdir() if self.homes.exists() else ():
            _end_worker(self.data_of(user.name) / "hub-worker")
        end_everything(self.data)


def _end_worker(folder: Path) -> None:
    for lock, number in ((folder / "worker.lock", LEAVE_SIGNAL), (folder / "spawner.lock", signal.SIGTERM)):
        deadline = time.monotonic() + 20
        while (pid := lock_holder(lock)) is not None:
            assert time.monotonic() < deadline, f"{lock} is still held by {pid}"
            os.kill(pid, number)
            time.sleep(0.05)  # the end of a process that is not our child has no event
