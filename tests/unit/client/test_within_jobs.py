"""What the code of a job may do with the queue: as its owner, in its org, with a token that ends with its attempt."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

import zbrain_nb
from tests.unit.client.conftest import until
from zbrain_nb import Client, JobHandle
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.tokens import has_secret_form

#: Submits a child, and says who it is and what it saw of it; the token goes to a file, for no log shows it.
SCRIPT = """
import os, sys, zbrain_nb
client = zbrain_nb.connect()
child = client.submit(["echo", "child"], name="child")
child.wait()
me = client.job(os.environ["ZBRAIN_JOB_ID"]).refresh().job
open(sys.argv[1], "w").write(os.environ["ZBRAIN_TOKEN"] + " " + os.environ["ZBRAIN_URL"])
print(me.state, child.job.state, child.job.org_id, [entry.line for entry in child.logs()])
print("it shows", os.environ["ZBRAIN_TOKEN"])
sys.stdout.flush()
if len(sys.argv) > 2:
    import time
    while not os.path.exists(sys.argv[2]):
        time.sleep(0.01)
"""
ALLOWED = "running succeeded {org} ['child']"


def speaking() -> Callable[[], tuple[str, str, str]]:
    def speak() -> tuple[str, str, str]:
        import os

        import zbrain_nb

        with zbrain_nb.connect() as client:
            me = client.job(os.environ["ZBRAIN_JOB_ID"]).job.state
        return os.environ["ZBRAIN_TOKEN"], os.environ["ZBRAIN_JOB_ID"], str(me)

    return speak


def test_command_and_cell_speak_for_their_owner_and_their_token_is_in_no_log(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "token"
    words = [sys.executable, "-c", SCRIPT, str(file)]
    command = client.submit(words, org_id="lab")
    cell = client.submit(code=f"import sys\nsys.argv = ['', {str(file) + '2'!r}]\n{SCRIPT}")
    command.wait(), cell.wait()
    for job, org in ((command, "lab"), (cell, "default")):
        lines = [entry.line for entry in job.logs()]
        assert lines == [ALLOWED.format(org=org), "it shows ***"], (job.job, lines)
    for name in ("token", "token2"):
        assert has_secret_form((tmp_path / name).read_text().split()[0])


def test_each_call_in_a_used_process_has_a_token_of_its_own(client: Client) -> None:
    speak = speaking()
    group = client.map(lambda _: speak(), range(6))
    said = group.results()
    assert [(job_id, state) for _, job_id, state in said] == [(job.id, "running") for job in group]
    assert len({token for token, _, _ in said}) == 6


@pytest.fixture
def token_at_work(client: Client, tmp_path: Path, gate: Path) -> tuple[str, str, JobHandle]:
    """A running job's token and address, and the job."""
    file = tmp_path / "token"
    job = client.submit([sys.executable, "-c", SCRIPT, str(file), str(gate)], org_id="lab")
    until(lambda: file.exists() and len(file.read_text().split()) == 2)
    token, url = file.read_text().split()
    return token, url, job


def test_token_opens_nothing_else_and_nothing_after_the_end(
    client: Client, token_at_work: tuple[str, str, JobHandle], gate: Path
) -> None:
    token, url, job = token_at_work
    other = client.submit(["true"])
    headers = {"Authorization": f"token {token}"}
    worker = client.workers()[0].id
    tried = {
        ("GET", f"jobs/{job.id}"): 200,
        ("GET", f"jobs/{other.id}"): 404,
        ("POST", f"jobs/{other.id}/cancel"): 404,
        ("GET", "jobs?org=default"): 200,
        ("GET", "tokens"): 403,
        ("POST", "tokens"): 403,
        ("GET", "audit"): 403,
        ("POST", "backup"): 403,
        ("GET", "metrics"): 403,
        ("POST", "queues/lab/local/pause"): 403,
        ("POST", "workers"): 403,
        ("POST", f"workers/{worker}/leases"): 403,
        ("POST", f"workers/{worker}/events"): 403,
        ("POST", f"workers/{worker}/heartbeat"): 403,
    }
    with httpx.Client(base_url=f"{url}zbrain/api/", headers=headers, trust_env=False) as api:
        got = {
            (method, path): api.request(method, path, json={} if method == "POST" else None) for method, path in tried
        }
        assert {key: answer.status_code for key, answer in got.items()} == tried
        assert got["GET", "jobs?org=default"].json()["jobs"] == []
        assert api.post("jobs", json={"cmd": ["true"], "org_id": "default"}).status_code == 403
        gate.touch()
        job.wait()
        assert api.get(f"jobs/{job.id}").status_code == 401


def test_directory_token_is_in_no_environment_of_a_job(client: Client) -> None:
    look = """
import os
from pathlib import Path
pid, found = os.getpid(), []
while pid > 1:
    try:
        found.append(Path(f"/proc/{pid}/environ").read_bytes())
    except OSError:
        break
    pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
secret = Path(os.environ["ZBRAIN_HOST_DATA"], "token").read_text().strip()
print(len(found) > 1, any(secret.encode() in one for one in found))
"""
    job = client.submit([sys.executable, "-c", look])
    job.wait()
    assert [entry.line for entry in job.logs()] == ["True False"]


def test_job_finds_the_host_again_that_was_started_anew(
    data_dir: DataDir, tmp_path: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is at another port then; the job was told the old one."""
    monkeypatch.setenv("ZDB_DATA", str(data_dir.root))
    client = zbrain_nb.connect()
    code = f"""
import os, time, zbrain_nb
client = zbrain_nb.connect()
client.jobs()
open({str(tmp_path / "met")!r}, "w").close()
while not os.path.exists({str(gate)!r}):
    time.sleep(0.01)
print("found", client.submit(["true"], name="after").wait().job.state)
"""
    job = client.submit([sys.executable, "-c", code])
    until((tmp_path / "met").exists)
    endpoint = client.call(client.asynchronous.transport.endpoint)
    old = endpoint.pid
    os.kill(old, signal.SIGKILL)
    until(lambda: lock_holder(endpoint.lock) != old)
    client.jobs()  # finds no host, and starts one
    gate.touch()
    job.wait(timeout=60)
    assert [entry.line for entry in job.logs()] == ["found succeeded"], [entry.line for entry in job.logs()]
    client.close()
