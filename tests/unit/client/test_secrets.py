"""Secrets: their values reach the job that names them and nobody else, and stand nowhere when it has ended."""

from __future__ import annotations

import getpass
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.unit.client.conftest import until
from zbrain_nb import Client, JobFailedError, JobSpec
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.protocol import SECRETS_HEADER
from zbrain_nb.model.sealing import seal

VALUE = "correct-horse-battery"
#: What is looked for on disk: one of the bytes that compression would not part.
LOOK = f"import os; print(os.environ['CALM'] == {VALUE[:7]!r} + {VALUE[7:]!r}, os.environ['CALM'])"


@pytest.fixture
def endpoint(client: Client) -> Endpoint:
    endpoint: Endpoint = client.call(client.asynchronous.transport.endpoint)
    return endpoint


@pytest.fixture
def root(endpoint: Endpoint) -> Path:
    """The host's data directory."""
    return Path(endpoint.lock).parent


@pytest.fixture
def api(endpoint: Endpoint) -> Iterator[httpx.Client]:
    headers = {"Authorization": f"token {endpoint.token}"}
    with httpx.Client(base_url=endpoint.api, headers=headers, trust_env=False) as api:
        yield api


def held(root: Path) -> list[Path]:
    return list((root / "secrets").glob("*"))


def files_with(root: Path, text: str) -> list[str]:
    return [str(path) for path in root.rglob("*") if path.is_file() and text.encode() in path.read_bytes()]


def test_secret_reaches_the_job_and_is_masked_and_gone(
    client: Client, root: Path, gate: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, api: httpx.Client
) -> None:
    monkeypatch.setenv("CALM", VALUE)
    wait = f"\nimport time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)"
    first = client.submit([sys.executable, "-c", LOOK + wait], secrets=["CALM"])
    until(lambda: list(first.logs()))
    waiting = client.submit([sys.executable, "-c", LOOK], secrets=["CALM"], after=[first.id])
    assert first.refresh().job.spec.secrets == ["CALM"]
    assert "CALM" not in first.job.spec.env
    assert {path.stat().st_mode & 0o777 for path in held(root)} == {0o600}
    assert len(held(root)) == 2
    # while it runs, only the worker's own file of the attempt has it, and what an answer says has not
    assert {Path(path).parent.name for path in files_with(root, VALUE)} == {"runs"}
    for path in (f"jobs/{first.id}", f"jobs/{first.id}/logs", "jobs", "history?table=jobs&columns=id,env"):
        assert VALUE.encode() not in api.get(path).content
    gate.touch()
    first.wait(), waiting.wait()
    for job in (first, waiting):
        assert [entry.line for entry in job.logs()] == ["True ***"]
    until(lambda: not held(root))
    until(lambda: not files_with(root, VALUE))


def test_secret_in_what_a_cell_shows_returns_and_raises_is_masked(client: Client) -> None:
    code = "import os\nfrom IPython.display import display, HTML\nvalue = os.environ['CALM']\ndisplay(HTML(value))\n"
    job = client.submit(code=f"{code}value", secrets={"CALM": VALUE})
    job.wait()
    assert VALUE not in json.dumps(job.outputs) and "***" in json.dumps(job.outputs)
    assert job.job.output == "'***'"
    failed = client.submit(code=f"{code}raise ValueError(value)", secrets=["CALM"])
    with pytest.raises(JobFailedError, match=r"\*\*\*") as raised:
        failed.result()
    assert VALUE not in str(raised.value)
    assert VALUE not in json.dumps(failed.job.error)


def test_function_with_a_secret_has_a_process_of_its_own(client: Client) -> None:
    def look() -> str | None:
        import os

        return os.environ.get("CALM")

    assert client.submit(look, secrets={"CALM": VALUE}).result() == VALUE
    assert client.submit(look).result() is None


def test_retry_keeps_the_secret_and_a_persons_retry_has_none(client: Client, tmp_path: Path) -> None:
    file = tmp_path / "again"
    script = f"echo $CALM; test -e {file} && exit; touch {file}; exit 1"
    job = client.submit(["sh", "-c", script], secrets={"CALM": VALUE}, max_retries=1)
    job.wait()
    assert [entry.line for entry in job.logs() if entry.stream == "stdout"] == ["***", "***"]
    with pytest.raises(InvalidSpec, match="forgotten"):
        job.retry()


def test_what_a_job_submits_does_not_carry_its_secret(client: Client) -> None:
    code = "import zbrain_nb; job = zbrain_nb.connect().submit(['true']).job; print({'CALM'} & set(job.spec.env))"
    job = client.submit([sys.executable, "-c", code], secrets={"CALM": VALUE})
    job.wait()
    assert [entry.line for entry in job.logs()] == ["set()"]


def test_secret_without_a_value_is_refused_or_asked_for(client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(InvalidSpec, match="The secret NOWHERE has no value here"):
        client.submit(["true"], secrets=["NOWHERE"])
    monkeypatch.setattr(sys.stdin, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(getpass, "getpass", lambda prompt: VALUE if prompt == "NOWHERE: " else "")
    job = client.submit([sys.executable, "-c", "import os; print(os.environ['NOWHERE'])"], secrets=["NOWHERE"])
    job.wait()
    assert [entry.line for entry in job.logs()] == ["***"]


def test_secret_that_does_not_hold_is_refused(client: Client, api: httpx.Client, endpoint: Endpoint) -> None:
    spec = {"cmd": ["true"], "secrets": ["CALM"]}
    key = api.get("health").json()["secrets_key"]
    for value, status in (("", 422), (seal(key, {}), 422), (seal(key, {"CALM": "abc"}), 422), ("garbage", 400)):
        answer = api.post("jobs", json=spec, headers={SECRETS_HEADER: value})
        assert answer.status_code == status, answer.text
    for names, env in ((["A B"], {}), (["ZBRAIN_TOKEN"], {}), (["CALM"], {"CALM": "x"})):
        with pytest.raises(InvalidSpec):
            JobSpec(cmd=["true"], secrets=names, env=env)


def test_repeated_submit_is_one_job_and_keeps_the_first_value(client: Client, api: httpx.Client, root: Path) -> None:
    key = api.get("health").json()["secrets_key"]
    specs = [{"cmd": ["sh", "-c", "test $CALM = first"], "secrets": ["CALM"]}, {"cmd": ["true"]}]
    said = [
        api.post("jobs", json=specs, headers={SECRETS_HEADER: seal(key, {"CALM": value}), "Idempotency-Key": "once"})
        for value in ("first", "second")
    ]
    assert [answer.status_code for answer in said] == [201, 200]
    assert [job["id"] for job in said[0].json()] == [job["id"] for job in said[1].json()]
    assert client.job(said[0].json()[0]["id"]).wait().job.state == "succeeded"
    until(lambda: not held(root))


def test_command_line_takes_secrets(root: Path, client: Client, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ZDB_DATA", str(root))
    monkeypatch.setenv("CALM", VALUE)
    done = subprocess.run(
        [Path(sys.executable).with_name("zbrain"), "run", "--secret", "CALM", "--", "sh", "-c", "echo got $CALM"],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert (done.returncode, done.stdout) == (0, "got ***\n"), done.stderr


def test_batch_keeps_one_file_until_its_last_job_has_ended(
    client: Client, root: Path, gate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CALM", VALUE)
    monkeypatch.setenv("OTHER", "battery-staple")
    until(lambda: not held(root))
    wait = f"import os, time, pathlib\nwhile not pathlib.Path({str(gate)!r}).exists(): time.sleep(0.01)\n"
    show = "print(sorted(name for name in os.environ if name in ('CALM', 'OTHER')))"
    first, *others = client.submit_many(
        [JobSpec(cmd=[sys.executable, "-c", f"import os\n{show}"], secrets=["CALM"])]
        + [JobSpec(cmd=[sys.executable, "-c", wait + show], secrets=names) for names in (["OTHER"], ["OTHER", "CALM"])]
    )
    assert len(held(root)) == 1
    first.wait()
    assert len(held(root)) == 1
    gate.touch()
    for job in others:
        job.wait()
    shown = [[entry.line for entry in job.logs()] for job in (first, *others)]
    assert shown == [["['CALM']"], ["['OTHER']"], ["['CALM', 'OTHER']"]]
    until(lambda: not held(root))


def test_nothing_is_written_for_who_may_not_submit(api: httpx.Client, root: Path) -> None:
    until(lambda: not held(root))
    made = api.post("tokens", json={"owner": "vic", "roles": {"lab": "viewer", "art": "submitter"}}).json()
    sealed = seal(api.get("health").json()["secrets_key"], {"CALM": VALUE})
    headers = {"Authorization": f"token {made['secret']}", SECRETS_HEADER: sealed}
    specs = [{"cmd": ["true"], "secrets": ["CALM"], "org_id": "lab"}] * 2
    before = (root / "secrets").exists() and (root / "secrets").stat().st_mtime_ns
    refused = api.post("jobs", json=specs, headers=headers)
    assert (refused.status_code, refused.json()["error"]["index"]) == (403, 0)
    assert ((root / "secrets").exists() and (root / "secrets").stat().st_mtime_ns) == before
