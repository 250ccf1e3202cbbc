"""Servers of users that stop, start again and are culled, while jobs run beside them. Takes minutes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator

import pytest

from tests.hub.hub import Hub
from tests.hub.test_hub import ended, submit, wait_until

pytestmark = pytest.mark.slow
#: Longer than it takes the server to tell of its activity.
CULL_SECS = 30


@pytest.fixture
def culler(hub: Hub) -> Iterator[None]:
    """The Hub's own culler of idle servers."""
    command = [sys.executable, "-m", "jupyterhub_idle_culler", f"--url={hub.url}hub/api"]
    process = subprocess.Popen(
        [*command, f"--timeout={CULL_SECS}", "--cull-every=2"], env=os.environ | {"JUPYTERHUB_API_TOKEN": hub.token}
    )
    yield
    process.terminate()
    process.wait(10)


def test_job_goes_on_while_its_server_is_stopped_and_started_again(hub: Hub) -> None:
    hub.start_servers("alice")
    folder = hub.data_of("alice") / "hub-worker"
    with hub.client("alice") as alice:
        go_on = hub.folder / "go on"
        loop = f'while [ ! -e "{go_on}" ]; do sleep 0.1; done; echo done'
        job_id = submit(alice, cmd=["sh", "-c", loop], artifacts=[])["id"]
        wait_until(lambda: alice.get(f"jobs/{job_id}").json()["state"] == "running")
        before = (folder / "hub.json").read_text()
        hub.stop_server("alice")
        wait_until(lambda: not hub.api.get("users/alice").json()["servers"])
        assert alice.get(f"jobs/{job_id}").json()["state"] == "running"
        hub.start_servers("alice")
        assert (folder / "hub.json").read_text() != before  # another token
        go_on.touch()
        job = ended(alice, job_id)
        assert (job["state"], job["attempt"]) == ("succeeded", 1)
        assert [entry["line"] for entry in alice.get(f"jobs/{job_id}/logs").json()["entries"]] == ["done"]


@pytest.mark.timeout(240)
def test_culler_leaves_the_server_alone_beside_which_jobs_run(hub: Hub, culler: None) -> None:
    hub.start_servers("alice", "carol")

    def servers_of(user: str) -> list[str]:
        return list(hub.api.get(f"users/{user}").json()["servers"])

    with hub.client("alice") as alice:
        job_id = submit(alice, cmd=["sleep", "600"], timeout_secs=600)["id"]
        wait_until(lambda: not servers_of("carol"), 3 * CULL_SECS)
        assert alice.get(f"jobs/{job_id}").json()["state"] == "running"
        assert servers_of("alice") == [""]
        assert "so this server counts as active and is not culled" in hub.log()
        (worker,) = (one for one in alice.get("workers").json()["workers"] if one["running"])
        assert worker["health"]["culling"]["cap_secs"] == 86_400
        alice.post(f"jobs/{job_id}/cancel")
        wait_until(lambda: not servers_of("alice"), 3 * CULL_SECS)
