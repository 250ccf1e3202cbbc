"""A kernel of a Jupyter server, driven over its REST API and its WebSocket, as a front end without a page does."""

from __future__ import annotations

import json
import uuid
from typing import Any

import httpx
from websockets.sync.client import ClientConnection, connect

from tests.jupyter import Lab

START_SECS = 60.0


class RemoteKernel:
    """The kernel that belongs to a notebook, or will once it is asked for.

    Parameters
    ----------
    lab : Lab
        The server; it may be restarted between two calls, which ends the kernel.
    name : str
        The notebook's path.
    """

    def __init__(self, lab: Lab, name: str) -> None:
        self._lab = lab
        self._name = name

    def run(self, code: str) -> None:
        """Run a cell as a person does who may be asked, and return when the kernel is idle again."""
        session = uuid.uuid4().hex
        header = {"msg_id": uuid.uuid4().hex, "msg_type": "execute_request", "username": "", "session": session}
        content = {"code": code, "silent": False, "store_history": True, "user_expressions": {}, "allow_stdin": True}
        request = {"channel": "shell", "parent_header": {}, "metadata": {}, "buffers": [], "content": content}
        with self._channels(session) as socket:
            socket.send(json.dumps({**request, "header": header | {"version": "5.3", "date": ""}}))
            while True:
                message = json.loads(socket.recv(START_SECS))
                if message["parent_header"].get("msg_id") != header["msg_id"]:
                    continue
                assert message["msg_type"] != "error", message["content"]
                if message["msg_type"] == "status" and message["content"]["execution_state"] == "idle":
                    return

    def start(self) -> str:
        """Have it started if it is not there, and return its id."""
        body = {"path": self._name, "name": self._name, "type": "notebook", "kernel": {"name": "python3"}}
        return str(self._ask("POST", "api/sessions", json=body)["kernel"]["id"])

    def restart(self) -> None:
        """Restart it; one that has gone with its server is started."""
        sessions = self._ask("GET", "api/sessions")
        kernel = next((each["kernel"]["id"] for each in sessions if each["path"] == self._name), None)
        if kernel is None:
            self.start()
        else:
            self._ask("POST", f"api/kernels/{kernel}/restart")

    def _ask(self, method: str, route: str, **options: Any) -> Any:
        url = f"{self._lab.url}{route}"
        answer = httpx.request(method, url, headers=self._authorization, timeout=START_SECS, trust_env=False, **options)
        answer.raise_for_status()
        return answer.json()

    def _channels(self, session: str) -> ClientConnection:
        url = f"{self._lab.url.replace('http', 'ws', 1)}api/kernels/{self.start()}/channels?session_id={session}"
        return connect(url, additional_headers=self._authorization, max_size=None, proxy=None)

    @property
    def _authorization(self) -> dict[str, str]:
        return {"Authorization": f"token {self._lab.token}"}
