"""`zbrain ls`, `show`, `logs`, `result`, `artifacts` and `workers`: what is asked for, in words and as JSON."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import subprocess
import time
from pathlib import Path

import pytest

from tests.unit.cli.conftest import ZBRAIN, environ_of, zbrain
from zbrain_nb.model.datadir import DataDir, lock_holder

HOSTILE = r"printf '\033[31mred\033[0m\033[2J\033]0;title\007\302\2332J\033'"


def on_terminal(data: DataDir, *words: str, columns: int = 100) -> str:
    """Run `zbrain` with a terminal as its stdout and stderr; return what the terminal got."""
    ours, theirs = pty.openpty()
    environ = environ_of(data, COLUMNS=str(columns), LINES="40", TERM="xterm-256color")
    process = subprocess.Popen([*ZBRAIN, *words], env=environ, stdout=theirs, stderr=theirs, stdin=theirs)
    os.close(theirs)
    got, deadline = b"", time.monotonic() + 60
    while (time.monotonic() < deadline and select.select([ours], [], [], 1)[0]) or process.poll() is None:
        try:
            got += os.read(ours, 65536)
        except OSError:
            break  # its last holder has closed the other end
    os.close(ours)
    assert process.wait(30) == 0
    return got.decode()


@pytest.fixture(scope="module")
def job_id(data: DataDir, tmp_path_factory: pytest.TempPathFactory) -> str:
    """A job with a tag, both streams, hostile output, a file and a JSON output."""
    script = f"{HOSTILE}; echo; echo oh >&2; mkdir -p out; echo model > out/m.txt; echo '[6, 7]' > $ZBRAIN_OUTPUT"
    words = (
        "--name",
        "looked-at",
        "--tag",
        "lr=0.1",
        "--artifacts",
        "out/*",
        "--retries",
        "2",
        "--",
        "sh",
        "-c",
        script,
    )
    ran = zbrain(data, "submit", *words, cwd=tmp_path_factory.mktemp("work"))
    assert ran.returncode == 0, ran.stderr
    assert zbrain(data, "result", "looked-at", "--json").stdout == "[\n  6,\n  7\n]\n"
    return ran.stdout.strip()


def test_ls_filters_by_tag_name_and_search(data: DataDir, job_id: str) -> None:
    for words in (["--tag", "lr=0.1"], ["--name", "looked-at"], ["-q", "oked-a"], ["-q", job_id[:13]]):
        assert job_id in [job["id"] for job in json.loads(zbrain(data, "ls", "--json", *words).stdout)], words
    none = zbrain(data, "ls", "--tag", "lr=0.2")
    assert (none.stdout, none.stderr) == ("", "zbrain: no such jobs\n")


def test_ls_is_coloured_and_as_wide_as_the_terminal_and_plain_in_a_pipe(data: DataDir, job_id: str) -> None:
    wide = on_terminal(data, "ls", "--name", "looked-at", columns=120)
    assert "\x1b[32msucceeded" in wide
    assert job_id not in wide  # the head is enough for a person
    narrow = on_terminal(data, "ls", "--name", "looked-at", columns=58)
    assert "Age" in wide and "Age" not in narrow
    piped = zbrain(data, "ls", "--name", "looked-at").stdout
    assert "\x1b" not in piped
    assert job_id in piped
    assert " 1/3 " in piped


def test_ls_on_a_narrow_terminal_cuts_name_and_reason_and_nothing_else(data: DataDir) -> None:
    name = "a-name-" + "for-which-no-terminal-has-room-" * 5
    waiting = zbrain(data, "submit", "--name", name, "--on", "nowhere", "--", "true").stdout.strip()
    for columns in (80, 140):
        shown = re.sub(r"\x1b\[[0-9;]*m", "", on_terminal(data, "ls", "--limit", "3", columns=columns)).splitlines()
        (row,) = (line for line in shown if " a-name-" in line)
        head, state, cut, *_ = row.split()
        assert len(head) >= 4 and waiting.startswith(head)
        assert (state, cut[-1]) == ("pending", "…")
        assert re.search(r" Waiting for .*…$", row)
        assert max(map(len, shown)) <= columns
    zbrain(data, "cancel", waiting)


def test_ls_says_when_there_are_more(data: DataDir, job_id: str) -> None:
    zbrain(data, "submit", "--", "true")
    asked = zbrain(data, "ls", "--limit", "1")
    assert len(asked.stdout.splitlines()) == 2
    assert asked.stderr == "zbrain: the newest only, up to --limit 1; there are more\n"
    as_json = zbrain(data, "ls", "--limit", "1", "--json")
    assert (len(json.loads(as_json.stdout)), as_json.stderr) == (1, "")
    assert zbrain(data, "ls", "--name", "looked-at", "--limit", "1").stderr == ""


def test_last_job_is_minus_one(data: DataDir) -> None:
    newest = zbrain(data, "submit", "--", "true").stdout.strip()
    assert json.loads(zbrain(data, "show", "-1", "--json").stdout)["id"] == newest


def test_show_says_how_it_went(data: DataDir, job_id: str) -> None:
    shown = zbrain(data, "show", job_id).stdout
    assert shown.startswith("succeeded  looked-at\n")
    for line in ("attempt    1/3", "exit code  0", "tags       lr=0.1"):
        assert line in shown
    assert "\x1b" not in shown


def test_show_says_what_it_used(data: DataDir) -> None:
    script = "import time\ndata = bytearray(100 << 20)\nwhile time.process_time() < 0.3: pass"
    ran = zbrain(data, "run", "--name", "used", "--mem", "2G", "--", "python3", "-c", script)
    assert ran.returncode == 0, ran.stderr
    shown = zbrain(data, "show", "used").stdout
    assert re.search(r"\nmemory +1[0-3]\d MiB of 2 GiB at most\n", shown), shown
    assert re.search(r"\ncpu time +\d+\.\d s\n", shown), shown
    told = json.loads(zbrain(data, "show", "used", "--json").stdout)
    assert 100 < told["peak_memory_mb"] < 140
    assert told["cpu_secs"] >= 0.3


def test_artifacts_are_listed_and_fetched(data: DataDir, job_id: str, tmp_path: Path) -> None:
    assert "out/m.txt" in zbrain(data, "artifacts", job_id).stdout
    fetched = zbrain(data, "artifacts", job_id, "-d", "out/m.txt", "-o", str(tmp_path))
    assert fetched.stdout == f"{tmp_path}/m.txt\n"
    assert (tmp_path / "m.txt").read_text() == "model\n"
    missing = zbrain(data, "artifacts", job_id, "-d", "other")
    assert (missing.returncode, missing.stderr) == (
        3,
        "zbrain: The job keeps no file 'other'. It keeps: out/m.txt.\n",
    )


def test_log_of_a_job_cannot_steer_the_terminal(data: DataDir, job_id: str) -> None:
    shown = on_terminal(data, "logs", "looked-at")
    assert "\x1b[31mred\x1b[0m" in shown
    for escape in ("\x1b[2J", "\x1b]", "\x9b", "\x07", "\x1b\r"):
        assert escape not in shown, escape
    piped = zbrain(data, "logs", job_id)
    assert (piped.stdout, piped.stderr) == ("red\N{REPLACEMENT CHARACTER}2J\n", "oh\n")
    raw = zbrain(data, "logs", "--raw", "--stream", "stdout", job_id)
    assert (raw.stdout, raw.stderr) == ("\x1b[31mred\x1b[0m\x1b[2J\x1b]0;title\x07\x9b2J\x1b\n", "")


def test_words_that_others_choose_cannot_steer_the_terminal(data: DataDir) -> None:
    escapes = "\x1b]0;title\x07\x1b[2J\x9b2J\u202e[link=evil.example]here"
    script = 'mkdir out; echo x > "out/$1"; printf \'{"a": "%s"}\' \'\\u001b]0;title\\u0007\' > $ZBRAIN_OUTPUT'
    folder = data.root.parent / "steering"
    folder.mkdir()
    words = ("--name", "[bold]steers", "--tag", f"k={escapes}", "--artifacts", "out/*")
    ran = zbrain(data, "submit", *words, "--", "sh", "-c", script, escapes, escapes, cwd=folder)
    assert ran.returncode == 0, ran.stderr
    for command in (["result"], ["show"], ["artifacts"], ["ls", "-q"], ["logs"]):
        shown = on_terminal(data, *command, "[bold]steers", columns=200)
        for escape in ("\x1b]", "\x1b[2J", "\x9b", "\x07", "\u202e"):
            assert escape not in shown, (command, shown)
        assert "[link=" in shown or command[0] not in ("show", "artifacts")


def test_result_ends_with_the_jobs_code(data: DataDir) -> None:
    failed = zbrain(data, "submit", "--name", "broken", "--", "sh", "-c", "exit 7").stdout.strip()
    assert zbrain(data, "result", failed).returncode == 7
    assert zbrain(data, "logs", "-f", "broken").returncode == 7


def test_workers_are_listed(data: DataDir, job_id: str) -> None:
    (worker,) = json.loads(zbrain(data, "workers", "--json").stdout)
    assert worker["slots"] == 4
    assert worker["id"] in zbrain(data, "workers").stdout


def test_followed_log_goes_on_when_the_host_is_killed(data: DataDir, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    script = f"echo before; while ! test -e {gate}; do sleep 0.05; done; echo after"
    job = zbrain(data, "submit", "--", "sh", "-c", script).stdout.strip()
    process = subprocess.Popen([*ZBRAIN, "logs", "-f", job], env=environ_of(data), stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "before\n"
    host = lock_holder(data.host_lock)
    assert host is not None
    os.kill(host, 9)
    gate.touch()
    rest, _ = process.communicate(timeout=60)
    assert (process.returncode, rest) == (0, "after\n")
