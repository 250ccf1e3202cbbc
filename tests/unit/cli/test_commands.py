"""`zbrain` as a shell sees it: real processes, exit codes, streams apart."""

from __future__ import annotations

import json
import os
import signal
import stat
import subprocess
from pathlib import Path

import httpx
import pytest

import zbrain_nb
from tests.conftest import end_everything
from tests.unit.cli.conftest import ZBRAIN, environ_of, zbrain
from zbrain_nb.model.datadir import DataDir, lock_holder

UMASK = os.umask(0o022)
os.umask(UMASK)


def begin(data: DataDir, *words: str) -> subprocess.Popen[str]:
    """Start `zbrain` with these words, and return when it has said that it is on."""
    process = subprocess.Popen(
        [*ZBRAIN, *words], env=environ_of(data), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "on\n"
    return process


def test_run_without_server_streams_and_exits_with_the_commands_code_and_a_second_reuses_it(data: DataDir) -> None:
    first = zbrain(data, "run", "--", "sh", "-c", "echo hi; echo oh >&2; exit 3")
    assert (first.returncode, first.stdout, first.stderr) == (3, "hi\n", "oh\n")
    owner = data.read_owner()
    second = zbrain(data, "run", "--", "sh", "-c", "echo again")
    assert (second.returncode, second.stdout) == (0, "again\n")
    assert data.read_owner() == owner


def test_run_uses_the_callers_folder_and_program(data: DataDir, tmp_path: Path) -> None:
    tool = tmp_path / "bin" / "my-tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\npwd")
    tool.chmod(0o755)
    ran = zbrain(data, "run", "--", "my-tool", PATH=f"{tool.parent}:{os.environ['PATH']}")
    assert (ran.returncode, ran.stdout) == (0, f"{Path.cwd()}\n")


def test_run_past_its_time_exits_124_and_says_so(data: DataDir) -> None:
    ran = zbrain(data, "run", "--timeout", "0.3", "--", "sleep", "30")
    assert (ran.returncode, ran.stderr) == (124, "zbrain: Ran over its limit of 0.3 s.\n")


def test_run_killed_command_exits_with_the_shells_code_for_its_signal(data: DataDir) -> None:
    ran = zbrain(data, "run", "--", "sh", "-c", "kill -KILL $$")
    assert (ran.returncode, ran.stderr) == (137, "zbrain: Killed by SIGKILL.\n")


def test_run_of_what_cannot_start_says_so_and_what_a_command_said_itself_is_not_repeated(data: DataDir) -> None:
    ran = zbrain(data, "run", "--name", "absent", "--", "nosuchcmd")
    assert (ran.returncode, ran.stderr) == (127, "zbrain: The program 'nosuchcmd' was not found on the worker.\n")
    ran = zbrain(data, "run", "--name", "itself", "--", "sh", "-c", "exit 127")
    assert (ran.returncode, ran.stderr) == (127, "")
    asked = zbrain(data, "result", "itself")
    assert (asked.returncode, asked.stderr) == (127, "zbrain: Exited with code 127.\n")


def test_result_of_a_cell_that_failed_says_why_and_tells_its_limit_from_an_error_of_its_own(data: DataDir) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZDB_DATA", str(data.root))
        with zbrain_nb.connect() as client:
            client.submit(code="{}['k']", name="keyless")
            client.submit(code="raise TimeoutError('mine')", name="mine")
            client.submit(code="import time\ntime.sleep(60)", name="late", timeout_secs=0.5)
    for name, code, last in (
        ("keyless", 1, "KeyError: 'k'"),
        ("mine", 1, "TimeoutError: mine"),
        ("late", 124, "Ran over its limit of 0.5 s."),
    ):
        for verb in (["result"], ["logs", "-f"]):
            asked = zbrain(data, *verb, name)
            assert (asked.returncode, asked.stdout) == (code, ""), asked.stderr
            assert "Traceback (most recent call last)" in asked.stderr
            assert asked.stderr.endswith(f"\nzbrain: {last}\n")
            assert "\x1b" not in asked.stderr


def test_run_past_its_time_exits_124_whatever_its_command_makes_of_the_end(data: DataDir) -> None:
    ran = zbrain(data, "run", "--timeout", "0.5", "--", "sh", "-c", "trap 'exit 7' INT TERM; sleep 30")
    assert (ran.returncode, ran.stderr) == (124, "zbrain: Ran over its limit of 0.5 s.\n")


def test_run_interrupted_cancels_the_job(data: DataDir) -> None:
    process = begin(data, "run", "--name", "long", "--", "sh", "-c", "echo on; sleep 60")
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 130
    assert errors.startswith("zbrain: canceled ")
    listed = json.loads(zbrain(data, "ls", "--json").stdout)
    assert next(job for job in listed if job["name"] == "long")["cancel_requested_at"]


def test_run_detached_says_how_to_go_on_and_the_job_goes_on(data: DataDir, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo on; until [ -e {gate} ]; do sleep 0.02; done"
    process = begin(data, "run", "--name", "left", "--org", "lab", "--", "sh", "-c", script)
    assert zbrain(data, "detach", "left").stderr.endswith(": 1 detached\n")
    _, errors = process.communicate(timeout=30)
    assert process.returncode == 1
    assert errors.startswith("zbrain: Nobody waits here any more for the job 'left'; it goes on. `zbrain logs -f ")
    (job,) = (job for job in json.loads(zbrain(data, "ls", "--json").stdout) if job["name"] == "left")
    assert (job["state"], job["org_id"]) == ("running", "lab")
    gate.touch()
    assert zbrain(data, "result", "left").returncode == 0


def test_submit_ls_logs_retry_and_cancel_agree(data: DataDir) -> None:
    job_id = zbrain(data, "submit", "--name", "one", "--", "sh", "-c", "echo line").stdout.strip()
    assert zbrain(data, "logs", "-f", "one").stdout == "line\n"
    jobs = json.loads(zbrain(data, "ls", "--state", "succeeded", "--json").stdout)
    assert jobs[0]["id"] == job_id
    assert "one" in zbrain(data, "ls").stdout
    assert zbrain(data, "cancel", job_id).stderr == f"zbrain: {job_id}: already finished\n"
    assert zbrain(data, "retry", job_id[:13]).returncode in (0, 1)  # a prefix may fit two jobs of one millisecond
    assert [entry["line"] for entry in json.loads(zbrain(data, "logs", "--json", job_id).stdout)] == ["line"]


def test_unknown_job_is_one_line_and_its_own_exit_code(data: DataDir) -> None:
    ran = zbrain(data, "logs", "nothing")
    says = "zbrain: There is no job 'nothing'. `zbrain ls` shows the jobs that exist.\n"
    assert (ran.returncode, ran.stdout, ran.stderr) == (3, "", says)


def test_wrong_usage_is_told_apart_from_failure(data: DataDir) -> None:
    ran = zbrain(data, "ls", "--state", "odd")
    assert ran.returncode == 2
    assert "'odd' is none of pending, running, succeeded, failed, retrying, canceled." in ran.stderr
    assert zbrain(data, "ls", "--watch").returncode == 2  # there is no terminal


def test_server_that_is_not_there_is_one_line_and_its_own_exit_code(data: DataDir) -> None:
    ran = zbrain(data, "ls", ZBRAIN_URL="http://127.0.0.1:9/", ZBRAIN_TOKEN="x")
    assert ran.returncode == 4
    assert ran.stderr.startswith("zbrain: No zbrain server answers at http://127.0.0.1:9/")
    assert ran.stderr.count("\n") == 1


def test_bad_setting_names_the_variable(data: DataDir) -> None:
    ran = zbrain(data, "ls", ZBRAIN_LEASE_TTL="soon")
    assert ran.returncode == 1
    assert ran.stderr == "zbrain: ZBRAIN_LEASE_TTL='soon' does not hold: it takes a number of at least 0.5.\n"


def test_run_into_a_closed_pipe_cancels_the_job(data: DataDir) -> None:
    process = subprocess.Popen(
        [*ZBRAIN, "run", "--name", "unread", "--", "sh", "-c", "while :; do echo y; sleep 0.02; done"],
        env=environ_of(data),
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == b"y\n"
    process.stdout.close()
    assert process.wait(30) != 0
    listed = json.loads(zbrain(data, "ls", "--json").stdout)
    assert next(job for job in listed if job["name"] == "unread")["cancel_requested_at"]


def test_serve_beside_a_host_says_so_and_fails_only_if_a_port_was_asked_for(data: DataDir) -> None:
    zbrain(data, "run", "--", "true")
    assert zbrain(data, "serve").returncode == 0
    beside = zbrain(data, "serve", "--port", "18999")
    assert beside.returncode == 1
    assert f"port 18999 is not used: {data.root} is served already at http://127.0.0.1:" in beside.stderr


def test_stop_ends_the_worker_of_a_killed_host_too(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    zbrain(data, "run", "--", "true")
    host, worker = lock_holder(data.host_lock), lock_holder(data.worker / "worker.lock")
    assert host is not None
    os.kill(host, signal.SIGKILL)
    stopped = zbrain(data, "stop")
    assert stopped.returncode == 0
    assert f"worker {worker} ended" in stopped.stderr
    assert lock_holder(data.worker / "worker.lock") is None
    assert "no host serves" in zbrain(data, "stop").stderr
    end_everything(data.root)


def test_paused_queue_starts_nothing_until_it_is_resumed(data: DataDir) -> None:
    paused = zbrain(data, "pause", "--org", "lab")
    assert (paused.returncode, paused.stdout) == (0, "")
    assert "The queue local of the org lab is paused" in paused.stderr
    (queue,) = json.loads(zbrain(data, "queues", "--json").stdout)
    assert (queue["org_id"], queue["kind"], queue["waiting"]) == ("lab", "local", 0)
    assert "paused" in zbrain(data, "queues").stdout
    resumed = zbrain(data, "resume", "--org", "lab")
    assert "goes on" in resumed.stderr
    assert json.loads(zbrain(data, "queues", "--json").stdout) == []


def test_dashboard_prints_an_address_that_a_browser_can_open_once(data: DataDir) -> None:
    shown = zbrain(data, "dashboard", "--no-browser")
    assert shown.returncode == 0, shown.stderr
    owner = data.read_owner()
    assert owner is not None
    assert shown.stdout.startswith(f"{owner.url}zbrain/login?code=")
    assert owner.token not in shown.stdout
    with httpx.Client(trust_env=False) as browser:
        assert browser.get(shown.stdout.strip()).status_code == 200
        assert browser.get(f"{owner.url}zbrain").status_code == 200
        browser.cookies.clear()
        assert browser.get(shown.stdout.strip()).status_code == 401


def test_dashboard_opens_a_browser_whose_command_line_holds_no_code(data: DataDir, tmp_path: Path) -> None:
    opened = tmp_path / "opened"
    browser = tmp_path / "browser"
    browser.write_text(f'#!/bin/sh\nprintf %s "$*" > {opened}\n')
    browser.chmod(0o755)
    shown = zbrain(data, "dashboard", BROWSER=f"{browser} %s")
    assert (shown.returncode, shown.stdout) == (0, ""), shown.stderr
    page = data.root / "console.html"
    assert opened.read_text() == page.as_uri()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    owner = data.read_owner()
    assert owner is not None
    assert f"url={owner.url}zbrain/login?code=" in page.read_text()


def test_host_keeps_its_files_to_its_account_and_jobs_keep_the_umask(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "open")
    data.root.chmod(0o755)
    try:
        asked = zbrain(data, "run", "--", "sh", "-c", "umask")
        assert int(asked.stdout, 8) == UMASK
        files = [path for path in data.root.iterdir() if path.is_file()]
        assert {data.database, data.log} <= set(files)
        assert [path for path in files if path.stat().st_mode & 0o077] == []
    finally:
        end_everything(data.root)


def test_host_that_a_run_with_a_secret_starts_shows_it_to_no_later_job(tmp_path: Path) -> None:
    """Whatever it is called: by its name alone it would travel."""
    data = DataDir(tmp_path / "fresh")
    try:
        first = zbrain(data, "run", "--secret", "CALM", "--", "sh", "-c", "echo $CALM", CALM="hunter2")
        assert (first.returncode, first.stdout) == (0, "***\n"), first.stderr
        assert zbrain(data, "run", "--", "sh", "-c", "echo [$CALM]").stdout == "[]\n"
    finally:
        end_everything(data.root)


def test_dashboard_under_jupyter_is_at_jupyters_address(data: DataDir) -> None:
    owner = data.read_owner()
    assert owner is not None
    url = "http://jupyter.example/base/"
    shown = zbrain(data, "dashboard", "--no-browser", ZBRAIN_URL=url, ZBRAIN_TOKEN=owner.token)
    assert shown.stdout == f"{url}zbrain\n"
