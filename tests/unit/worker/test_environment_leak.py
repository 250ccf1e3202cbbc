"""Jobs of every kind, run by a worker whose own environment is full of credentials: none of them is theirs."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.unit.worker.conftest import Station, wait_for
from tests.unit.worker.function_station import Calls, value
from tests.unit.worker.memory_link import Tracked
from zbrain_nb.model.datadir import DataDir, lock_holder
from zbrain_nb.model.environment import serving_environ, travelling_environ
from zbrain_nb.model.events import JobCompleted
from zbrain_nb.model.hosting import find_or_start_host

pytestmark = pytest.mark.anyio
#: Each value holds this, so that it is found wherever it went.
MARK = "l3aked"
_NAMES = """
ANTHROPIC_API_KEY ARM_CLIENT_ID AWS_ACCESS_KEY_ID AWS_PROFILE AWS_SECRET_ACCESS_KEY AWS_SESSION_TOKEN AZURE_CLIENT_ID
CONTAINER_CREDENTIALS DATABASE_DSN DB_PASS DOCKER_AUTH_CONFIG GH_PAT GITHUB_TOKEN GOOGLE_APPLICATION_CREDENTIALS
GPG_PASSPHRASE HF_TOKEN JPY_API_TOKEN JPY_PARENT_PID JUPYTERHUB_API_TOKEN JUPYTERHUB_USER JUPYTER_TOKEN KUBECONFIG
MYSQL_PWD MY_PRIVATE PGPASSFILE PGPASSWORD SESSION_COOKIE SMTP_PASSWORD SSH_AUTH_SOCK STRIPE_KEY VAULT_ADDR
client_secret
"""
CREDENTIALS = dict.fromkeys(_NAMES.split(), MARK) | {
    "DATABASE_URL": f"postgres://me:{MARK}@db/x",
    "HARMLESS_NAME": f"ghp_{MARK}0123456789",
    "ANOTHER_NAME": f"-----BEGIN RSA PRIVATE KEY-----{MARK}",
    "THIRD_NAME": f"zbw_{MARK}{'0' * 50}",
    "ZBRAIN_TOKEN": MARK,
    "ZBRAIN_URL": f"http://{MARK}/",
}
#: All but what a job has of its own, with another value (see `Link.way_back`).
THEIRS = sorted(CREDENTIALS.keys() - {"ZBRAIN_TOKEN", "ZBRAIN_URL"})
HARMLESS = {
    "PATH_OF_MINE": "/opt",
    "TOKENIZERS_PARALLELISM": "false",
    "OLDPWD": "/",
    "AWS_REGION": "eu-1",
    "KEYBOARD": "us",
}
#: Prints where the mark is found: variables, and what the processes from here up were started with. One that is ending,
#: as a zygote does that is not kept, has no environment: the next above takes its place.
LOOK = f"""
import os
from pathlib import Path

def parent_of(pid):
    return int(Path(f"/proc/{{{{pid}}}}/stat").read_text().rpartition(")")[2].split()[1])

found = [name for name, value in os.environ.items() if {MARK!r} in value or name in {THEIRS!r}]
looked = [os.getpid()]
while True:
    try:
        environ = Path(f"/proc/{{{{looked[-1]}}}}/environ").read_bytes()
        found += ["a process"] * ({MARK!r}.encode() in environ)
        if len(looked) == {{generations}}:
            break
        looked.append(parent_of(looked[-1]))
    except (FileNotFoundError, ProcessLookupError):
        looked[-1] = parent_of(looked[-2])
print("found", found, os.environ.get("PATH_OF_MINE"))
"""


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put credentials into this process's environment, from which the worker's comes."""
    for name, text in (CREDENTIALS | HARMLESS).items():
        monkeypatch.setenv(name, text)


def test_what_travels_holds_no_credential_and_all_else() -> None:
    kept = travelling_environ(CREDENTIALS | HARMLESS)
    assert kept == HARMLESS


def test_serving_processes_get_settings_and_no_credential() -> None:
    kept = serving_environ(CREDENTIALS | HARMLESS | {"ZWORKER_CONCURRENCY": "2", "ZBRAIN_LEASE_TTL": "9"})
    assert kept == HARMLESS | {"ZWORKER_CONCURRENCY": "2", "ZBRAIN_LEASE_TTL": "9"}


def test_what_a_job_got_as_a_secret_does_not_travel_on() -> None:
    environ = {"CALM": "1", "PLAIN": "2", "ZBRAIN_SECRETS": "CALM OTHER"}
    assert travelling_environ(environ) == {"PLAIN": "2"}


def _said(job: Tracked) -> list[str]:
    assert isinstance(job.ending, JobCompleted), (job.ending, job.lines(None))
    return job.lines()


def look(generations: int) -> str:
    return LOOK.format(generations=generations)


def looking(code: str) -> Callable[[], int]:
    def look_around() -> int:
        exec(code, {})
        import os

        return os.getpid()

    return look_around


@pytest.mark.parametrize("pooled", [True, False], ids=["warm", "cold"])
async def test_no_job_sees_credentials_of_its_worker(
    idle_station: Station, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, pooled: bool
) -> None:
    folder = tmp_path / "jupyter" / "kernels" / "bash"
    folder.mkdir(parents=True)
    words = f'["{sys.executable}", "-m", "bash_kernel", "-f", "{{connection_file}}"]'
    (folder / "kernel.json").write_text(f'{{"argv": {words}, "language": "bash", "display_name": "bash"}}')
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path / "jupyter"))
    await idle_station.start(warm=pooled, pooled=pooled, concurrency=4)
    # up to the spawner: what is above that is the worker itself, here this very process
    jobs = [idle_station.submit(code=look(3)), idle_station.submit(sys.executable, "-c", look(3))]
    shell = f"env | grep -c {MARK}; cat /proc/$$/environ /proc/$PPID/environ | grep -c {MARK}; echo $PATH_OF_MINE"
    jobs.append(idle_station.submit("sh", "-c", shell))
    if pooled:  # a kernel of another language is never forked
        jobs.append(idle_station.submit(code=shell, kernel="bash"))
    await idle_station.until(lambda: all(job.ended for job in jobs), 60)
    await idle_station.stop()
    assert [_said(job) for job in jobs[:2]] == [["found [] /opt"]] * 2
    assert [_said(job) for job in jobs[2:]] == [["0", "0", "/opt"]] * len(jobs[2:])


async def test_no_function_or_command_in_a_used_slot_sees_credentials(calls: Calls) -> None:
    await calls.warm_up()
    first, second = await calls.run(looking(look(3))), await calls.run(looking(look(3)))
    for _ in range(40):
        calls.crew.learn(0.001)
    commands = [await calls.station.run(sys.executable, "-c", look(3), cwd=str(calls.folder)) for _ in range(2)]
    assert value(first) == value(second), "the slot was not used again"
    assert [_said(job) for job in (first, second, *commands)] == [["found [] /opt"]] * 4


def test_host_and_worker_carry_none(data_dir: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """What serves a queue is of the account that its jobs run in, so they can read its environment."""
    for name in ("ZBRAIN_TOKEN", "ZBRAIN_URL"):
        monkeypatch.delenv(name)
    host = find_or_start_host(data_dir).pid
    folder = data_dir.worker
    worker = wait_for(lambda: lock_holder(folder / "worker.lock"))
    spawner = wait_for(lambda: lock_holder(folder / "spawner.lock"))
    for pid in (host, worker, spawner):
        environ = Path(f"/proc/{pid}/environ").read_bytes()
        assert MARK.encode() not in environ
        assert b"PATH_OF_MINE=/opt" in environ
    assert os.environ["GITHUB_TOKEN"] == MARK
