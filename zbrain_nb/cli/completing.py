"""Completion in a shell: states, jobs and their files, asked of the server that is there.

A person waits for it at every Tab, so it imports no more than it needs, starts nothing, and gives up in time; a
failure completes nothing, and prints nothing.
"""

from __future__ import annotations

import http.client
import shlex
import urllib.parse
from collections.abc import Iterator
from typing import Any

import msgspec
import typer

from zbrain_nb.client.locating import Endpoint, search
from zbrain_nb.client.printing import printable, short_ids
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.model.job import JobState
from zbrain_nb.model.settings import read_settings

ASK_SECS = 1.0
_MOST = 200


def complete_state(incomplete: str) -> Iterator[str]:
    """Yield the states that begin so."""
    return (state for state in JobState if state.startswith(incomplete))


def complete_job(incomplete: str) -> Iterator[tuple[str, str]]:
    """Yield names and ids of recent jobs that begin so, with what the job is."""
    jobs = _get(f"jobs?limit={_MOST}").get("jobs", [])
    seen = set()
    for job in jobs:
        name = job["spec"].get("name")
        if name and name not in seen and name.startswith(incomplete) and _is_one_word(name):
            seen.add(name)
            yield name, job["state"]
    heads = short_ids(job["id"] for job in jobs)
    for job in jobs:
        # A bare Tab shows names, where there are any; who begins with an id gets ids.
        if job["id"].startswith(incomplete) and (incomplete or job["spec"].get("name") not in seen):
            yield heads[job["id"]], printable(f"{job['state']} {job['name']}")


def complete_artifact(ctx: typer.Context, incomplete: str) -> Iterator[str]:
    """Yield the names of the job's files that begin so."""
    wanted = ctx.params.get("job") or next(iter(ctx.args), "")
    for job in _get(f"jobs?limit={_MOST}").get("jobs", []):
        if wanted and (job["id"].startswith(wanted) or job["spec"].get("name") == wanted):
            names = (artifact["name"] for artifact in job["artifacts"])
            yield from (name for name in names if name.startswith(incomplete) and _is_one_word(name))
            return


def _is_one_word(text: str) -> bool:
    """Whether a shell takes `text` for one word as it stands; what completes a line is not quoted again."""
    return shlex.quote(text) == text


def _get(path: str) -> dict[str, Any]:
    """Ask the server that is there; an empty answer if there is none, or it does not answer in time."""
    try:
        endpoint = next((one.endpoint for one in search(read_settings()) if one.endpoint is not None), None)
        return {} if endpoint is None else _ask(endpoint, path)
    except (ZBrainError, OSError, http.client.HTTPException, msgspec.DecodeError):
        return {}


def _ask(endpoint: Endpoint, path: str) -> dict[str, Any]:
    parts = urllib.parse.urlsplit(endpoint.api)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    connection = kind(parts.hostname or "", parts.port, timeout=ASK_SECS)
    try:
        connection.request("GET", f"{parts.path}{path}", headers={"Authorization": f"token {endpoint.token}"})
        answer = connection.getresponse()
        return msgspec.json.decode(answer.read(), type=dict[str, Any]) if answer.status == 200 else {}
    finally:
        connection.close()
