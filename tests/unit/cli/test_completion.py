"""Completion in a shell: what Tab offers, and that it starts nothing and imports little."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.unit.cli.conftest import environ_of, zbrain
from zbrain_nb.model.datadir import DataDir

COMPLETE = [sys.executable, "-c", "import sys; sys.argv[0] = 'zbrain'; from zbrain_nb.cli import main; main()"]
HEAVY = ("httpx", "rich.console", "asyncio", "jupyter_client", "zbrain_nb.client.client")


def offered(data: DataDir, line: str) -> list[str]:
    environ = environ_of(data, _ZBRAIN_COMPLETE="complete_bash", COMP_WORDS=line, COMP_CWORD=str(line.count(" ")))
    ran = subprocess.run(COMPLETE, env=environ, capture_output=True, text=True, timeout=60, check=True)
    assert ran.stderr == ""
    return ran.stdout.split()


def test_jobs_states_and_files_complete(data: DataDir, tmp_path: Path) -> None:
    script = ("sh", "-c", "echo 1 > kept.txt; echo 1 > 'two words'")
    job_id = zbrain(data, "submit", "--name", "tab-me", "--artifacts", "*", "--", *script, cwd=tmp_path).stdout.strip()
    zbrain(data, "submit", "--name", "tab me; reboot", "--", "true")
    assert zbrain(data, "result", job_id).returncode == 0
    assert offered(data, "zbrain logs tab") == ["tab-me"]
    assert any(job_id.startswith(one) for one in offered(data, f"zbrain cancel {job_id[:6]}"))
    assert offered(data, "zbrain ls --state pe") == ["pending"]
    assert offered(data, "zbrain artifacts tab-me -d k") == ["kept.txt"]


def test_without_server_nothing_completes_and_nothing_is_started(tmp_path: Path) -> None:
    data = DataDir(tmp_path / "data")
    assert offered(data, "zbrain logs ") == []
    assert not data.host_lock.exists()


def test_what_completion_imports_is_little() -> None:
    look = f"import sys, zbrain_nb.cli; print([name for name in {HEAVY} if name in sys.modules])"
    ran = subprocess.run([sys.executable, "-c", look], capture_output=True, text=True, timeout=60, check=True)
    assert ran.stdout == "[]\n"
