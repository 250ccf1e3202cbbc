"""Finding the host of a data directory, and starting it when there is none.

Called by clients and by Jupyter's extension alike. The owner file may lie (a shared home, a port taken over by
somebody else), so a host has to prove that it knows the directory's token before the token is sent to it.
"""

from __future__ import annotations

import hmac
import http.client
import os
import secrets
import subprocess
import sys
import time
import urllib.parse
from typing import Any

import msgspec

from zbrain_nb.model.datadir import DataDir, Owner, proof
from zbrain_nb.model.environment import serving_environ
from zbrain_nb.model.errors import ServerUnreachable

START_SECS = 30.0
PROBE_SECS = 5.0
NONCE_HEADER = "X-ZBrain-Nonce"
#: Hosts that this process started and that outlive its interest; kept so that they are reaped when they end.
_started: list[subprocess.Popen[bytes]] = []


def probe(url: str, token: str, *, timeout_secs: float = PROBE_SECS) -> dict[str, Any] | None:
    """Ask whether a host that knows `token` answers at `url`, without sending the token.

    Parameters
    ----------
    url : str
        The host's root, ending in ``/``.
    token : str
        The secret that both sides should know.
    timeout_secs : float
        How long to wait for an answer.

    Returns
    -------
    dict or None
        What ``GET health`` answered; None if nobody answers, or somebody who does not know the token.
    """
    parts = urllib.parse.urlsplit(url)
    nonce = secrets.token_hex(16)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_secs)
    try:
        connection.request("GET", f"{parts.path}zbrain/api/health", headers={NONCE_HEADER: nonce})
        answer = connection.getresponse()
        body = msgspec.json.decode(answer.read(65536), type=dict[str, Any])
    except (OSError, http.client.HTTPException, msgspec.DecodeError):
        return None
    finally:
        connection.close()
    given = body.get("proof")
    if not isinstance(given, str) or not hmac.compare_digest(given, proof(token, nonce)):
        return None
    return body


def find_host(data: DataDir) -> Owner | None:
    """Return who serves `data` now, proven; None if nobody does."""
    owner = data.read_owner()
    if owner is None or not owner.url.startswith("http://"):
        return None
    return owner if probe(owner.url, owner.token) else None


def start_host(data: DataDir, *, idle_secs: float | None = None) -> subprocess.Popen[bytes]:
    """Start a host process for `data`, in a session of its own; it logs to ``host.log``.

    If another host holds the directory by then, the new one ends at once with exit code 0.

    Parameters
    ----------
    data : DataDir
        What to serve.
    idle_secs : float, optional
        The host ends itself after so many seconds without jobs, clients and Jupyter.
    """
    command = [sys.executable, "-m", "zbrain_nb.server", "--data", str(data.root)]
    if data.artifacts != data.root / "artifacts":
        command += ["--artifacts", str(data.artifacts)]
    if idle_secs is not None:
        command += ["--idle-secs", str(idle_secs)]
    _started[:] = [process for process in _started if process.poll() is None]
    with os.fdopen(os.open(data.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600), "ab") as log:
        process = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=log,
            start_new_session=True,
            cwd=data.root,
            env=serving_environ(),
        )
    _started.append(process)
    return process


def find_or_start_host(data: DataDir, *, idle_secs: float | None = None, timeout_secs: float = START_SECS) -> Owner:
    """Return the host of `data`, started if there was none.

    Raises
    ------
    ServerUnreachable
        If no host answers within `timeout_secs`; the message holds the end of its log.
    """
    owner = find_host(data)
    if owner is not None:
        return owner
    process = start_host(data, idle_secs=idle_secs)
    deadline = time.monotonic() + timeout_secs
    while time.monotonic() < deadline:
        owner = find_host(data)
        if owner is not None:
            return owner
        if process.poll() not in (None, 0):
            break
        time.sleep(0.02)  # the host announces itself by a file: there is no event to wait for
    raise ServerUnreachable(
        f"The zbrain host for {data.root} did not start: {last_log_line(data)}",
        f"Its log is {data.log}; `zbrain doctor` looks for the cause.",
    )


def last_log_line(data: DataDir) -> str:
    """Return the end of the host's log: why it did not start, as a rule."""
    try:
        with data.log.open("rb") as log:
            log.seek(max(0, os.fstat(log.fileno()).st_size - 4096))
            lines = log.read().decode(errors="replace").strip().splitlines()
    except OSError as error:
        return f"its log cannot be read ({error.strerror})."
    return lines[-1] if lines else "it said nothing."
