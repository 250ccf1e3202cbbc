"""`zbrain doctor`: each of the usual troubles, made for real where a test may, is found and explained."""

from __future__ import annotations

import email.utils
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import duckdb
import pytest

import zbrain_nb
from tests.conftest import end_everything
from zbrain_nb.client.diagnosis import Diagnosis, Level, diagnose
from zbrain_nb.client.diagnosis.database import check_database
from zbrain_nb.client.diagnosis.directory import (
    check_directory,
    check_disk,
    check_owner_file,
    check_token,
    file_system_of,
)
from zbrain_nb.client.diagnosis.installation import check_extension, check_kernels
from zbrain_nb.client.diagnosis.machine import check_memory, check_session
from zbrain_nb.client.diagnosis.service import Service, check_service
from zbrain_nb.client.locating import Endpoint
from zbrain_nb.model.culling import Culling
from zbrain_nb.model.datadir import DataDir, Owner, lock_holder
from zbrain_nb.model.hosting import find_or_start_host
from zbrain_nb.model.protocol import Health, WorkerInfo
from zbrain_nb.model.settings import Settings
from zbrain_nb.model.tokens import TokenKind, new_secret
from zbrain_nb.store.opening import open_connection
from zbrain_nb.store.schema import SCHEMA_VERSION


def said(found: Iterator[Diagnosis] | list[Diagnosis], subject: str) -> list[tuple[str, str, str]]:
    return [(one.level, one.text, one.hint) for one in found if one.subject == subject]


def the_one(found: Iterator[Diagnosis] | list[Diagnosis], subject: str, level: Level, text: str) -> str:
    """See that `subject` was found once, so bad, with `text` in it; return the hint."""
    (one,) = said(found, subject)
    assert one[0] == level, one
    assert text in one[1], one
    assert bool(one[2]) == (level is not Level.OK), one
    return one[2]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[DataDir]:
    """A data directory whose host has no worker."""
    data = DataDir(tmp_path_factory.mktemp("served") / "data")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("ZWORKER_MODE", "none")
        find_or_start_host(data)
    yield data
    end_everything(data.root)


def check_server(data: DataDir, **settings: str) -> list[Diagnosis]:
    given = Settings(data=str(data.root), **settings)
    return list(check_service(Service.find(given), given, data))


# ---- server


def test_no_server_is_no_problem(tmp_path: Path) -> None:
    the_one(check_server(DataDir(tmp_path)), "server", Level.OK, "none runs")


def test_server_that_answers_is_named_and_lack_of_workers_is_a_problem(served: DataDir) -> None:
    found = check_server(served)
    the_one(found, "server", Level.OK, f"answers (zbrain_nb {zbrain_nb.__version__}, {sys.executable})")
    the_one(found, "workers", Level.PROBLEM, "None has registered")
    the_one(check_owner_file(served), "owner file", Level.OK, "of the process")
    the_one(check_database(served), "database", Level.OK, "open in the host")


def test_other_version_of_the_server_is_a_warning(served: DataDir, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(zbrain_nb, "__version__", "99.0")
    hint = the_one(check_server(served), "version", Level.WARNING, "this is 99.0")
    assert "same version" in hint


def test_stale_token_of_the_environment_is_a_problem(served: DataDir) -> None:
    owner = served.read_owner()
    assert owner is not None
    found = check_server(served, url=owner.url, token="0" * 64)
    hint = the_one(found, "server", Level.PROBLEM, "does not take ZBRAIN_TOKEN")
    assert "restart this kernel" in hint
    the_one(found, "two servers", Level.WARNING, "is served by")


@pytest.mark.parametrize("is_whole", [True, False])
def test_token_of_ones_own_that_is_refused_is_told_from_one_that_is_mistyped(served: DataDir, is_whole: bool) -> None:
    owner = served.read_owner()
    assert owner is not None
    secret = new_secret(TokenKind.PERSON)
    found = check_server(served, url=owner.url, token=secret if is_whole else secret[:-1])
    hint = the_one(found, "server", Level.PROBLEM, "does not take ZBRAIN_TOKEN")
    assert ("revoked, has expired" in hint, "mistyped" in hint) == (is_whole, not is_whole)
    assert not said(found, "two servers")


@pytest.mark.parametrize(
    ("idle_hours", "level", "text"),
    [(1, Level.OK, "keep the server beside it"), (25, Level.WARNING, "may be culled while jobs run")],
)
def test_server_that_jobs_keep_no_longer_from_being_culled_is_a_warning(
    idle_hours: float, level: Level, text: str, tmp_path: Path
) -> None:
    culling = Culling(active_at=time.time() - 3600 * idle_hours, cap_secs=86_400)
    worker = WorkerInfo(id="w", running=1, health=Health(culling=culling), seen_at=time.time())
    endpoint = Endpoint("http://127.0.0.1:9/", "x")
    found = list(
        check_service(Service(endpoint=endpoint, workers=[worker]), Settings(data=str(tmp_path)), DataDir(tmp_path))
    )
    the_one(found, "server beside w", level, text)


def test_host_that_cannot_be_reached_is_a_problem(tmp_path: Path) -> None:
    found = check_server(DataDir(tmp_path), url="http://127.0.0.1:9/", token="x")
    the_one(found, "server", Level.PROBLEM, "No zbrain server answers at http://127.0.0.1:9/")


@pytest.fixture
def slow_clock() -> Iterator[str]:
    """A server whose clock is an hour behind."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b'{"workers": []}' if "workers" in self.path else b"{}")

        def date_time_string(self, timestamp: float | None = None) -> str:
            return email.utils.formatdate(time.time() - 3600, usegmt=True)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/"
    server.shutdown()
    thread.join()
    server.server_close()


def test_clock_that_differs_is_a_warning(tmp_path: Path, slow_clock: str) -> None:
    found = check_server(DataDir(tmp_path), url=slow_clock, token="x")
    (clock,) = said(found, "clock")
    assert clock[0] == Level.WARNING
    assert "s behind this one" in clock[1]


def test_host_that_could_not_start_is_quoted(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    data.log.write_text("zbrain serve: The host cannot listen on 1.2.3.4:80: Cannot assign requested address.\n")
    the_one(check_server(data), "server", Level.PROBLEM, "Cannot assign requested address")


# ---- data directory


def test_killed_host_leaves_a_stale_owner_file_and_a_removed_lock_hides_a_second_host(data_dir: DataDir) -> None:
    owner = find_or_start_host(data_dir)
    data_dir.owner_file.rename(data_dir.root / "kept")
    the_one(check_owner_file(data_dir), "owner file", Level.PROBLEM, f"The host {owner.pid} holds")
    data_dir.host_lock.rename(data_dir.root / "lock")
    hint = the_one(check_database(data_dir), "database", Level.PROBLEM, f"{owner.pid} (python")
    assert f"kill {owner.pid}" in hint
    (data_dir.root / "kept").rename(data_dir.owner_file)
    (data_dir.root / "lock").rename(data_dir.host_lock)
    data_dir.token_file.write_text("1" * 64)
    the_one(check_owner_file(data_dir), "owner file", Level.PROBLEM, "is not the one that the running host takes")
    os.kill(owner.pid, signal.SIGKILL)
    while lock_holder(data_dir.host_lock) is not None:
        time.sleep(0.01)  # the end of a process that is not our child has no event
    the_one(check_owner_file(data_dir), "owner file", Level.WARNING, "ended without a word")
    data_dir.write_owner(Owner("http://there/", "x", 1, "another boot", "i"))
    hint = the_one(check_owner_file(data_dir), "owner file", Level.WARNING, "on another machine, or before")
    assert "ZDB_DATA of its own" in hint


@pytest.mark.parametrize(
    ("spoil", "text"),
    [
        (lambda path: path.write_text("short"), "holds no token"),
        (lambda path: path.write_bytes(b"\xff" * 64), "cannot be read"),
        (lambda path: path.chmod(0o644), "Other accounts may read"),
    ],
)
def test_spoilt_token_is_a_problem(tmp_path: Path, spoil: object, text: str) -> None:
    data = DataDir(tmp_path)
    the_one(check_token(data), "token", Level.OK, "none yet")
    data.token()
    the_one(check_token(data), "token", Level.OK, "readable by its owner only")
    spoil(data.token_file)  # type: ignore[operator]
    the_one(check_token(data), "token", Level.PROBLEM, text)


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 16 MiB, with a blank in its path."""
    if os.geteuid() != 0:
        pytest.skip("mounting a tmpfs needs root")
    folder = tmp_path / "a disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def test_disk_that_fills_up_is_a_warning_then_a_problem(disk: Path) -> None:
    data = DataDir(disk)
    the_one(check_disk(data), "disk", Level.OK, "are free")
    filler = disk / "filler"
    filler.write_bytes(bytes(int(14.8 * 2**20)))
    the_one(check_disk(data), "disk", Level.WARNING, "new jobs are refused")
    filler.write_bytes(bytes(int(15.6 * 2**20)))
    hint = the_one(check_disk(data), "disk", Level.PROBLEM, "under which new jobs are refused")
    assert "Make room" in hint


def test_directory_that_cannot_be_written_is_a_problem(disk: Path) -> None:
    data = DataDir(disk)
    the_one(check_directory(data), "data directory", Level.OK, "(tmpfs)")
    subprocess.run(["mount", "-o", "remount,ro", disk], check=True)
    the_one(check_directory(data), "data directory", Level.PROBLEM, "Read-only file system")


def test_network_file_system_is_a_warning(tmp_path: Path) -> None:
    table = tmp_path / "mountinfo"
    data = DataDir(tmp_path / "on a share")
    point = str(data.root).replace(" ", r"\040")
    table.write_text(
        "21 1 8:1 / / rw shared:1 - ext4 /dev/sda1 rw\n"
        f"22 21 0:45 / {point} rw - nfs4 server:/home rw\n"
        f"23 21 0:46 / {point}2 rw - tmpfs tmpfs rw\n"
    )
    assert file_system_of(data.root, table) == ("nfs4", "server:/home")
    assert file_system_of(tmp_path, table) == ("ext4", "/dev/sda1")
    hint = the_one(check_directory(data, table), "data directory", Level.WARNING, "network file system (nfs4 of server")
    assert "ZDB_DATA" in hint


def test_place_that_cannot_be_made_is_a_problem(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("ZDB_DATA", str(tmp_path / "file" / "data"))
    found = diagnose()
    the_one(found, "data directory", Level.PROBLEM, "cannot be made: Not a directory")
    monkeypatch.setenv("ZBRAIN_WEBHOOKS", str(tmp_path / "none"))
    the_one(diagnose(), "settings", Level.PROBLEM, "cannot be read: No such file")


# ---- database


def test_database_of_another_version_or_damaged_is_told(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    the_one(check_database(data), "database", Level.OK, "none yet")

    def set_version(version: int) -> None:
        with duckdb.connect(str(data.database)) as connection:
            connection.execute("CREATE TABLE IF NOT EXISTS meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL)")
            connection.execute("INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)", [str(version)])

    set_version(SCHEMA_VERSION + 1)
    the_one(check_database(data), "database", Level.PROBLEM, f"its format is {SCHEMA_VERSION + 1}")
    set_version(1)
    the_one(check_database(data), "database", Level.WARNING, f"older format 1; the next host makes it {SCHEMA_VERSION}")
    with duckdb.connect(str(data.database)):
        the_one(check_database(data), "database", Level.PROBLEM, f"rocess {os.getpid()} (")
    data.database.write_bytes(b"x" * 20_000)
    (tmp_path / "zbrain.duckdb.unreadable-20260101").touch()
    aside, damaged = said(check_database(data), "database")
    assert aside[0] == Level.WARNING and "set aside" in aside[1]
    assert damaged[0] == Level.PROBLEM and "cannot be opened" in damaged[1]


def test_database_of_this_version_can_be_opened(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    open_connection(data.database).close()
    the_one(check_database(data), "database", Level.OK, "can be opened")


# ---- installation


def test_extension_that_is_switched_off_is_a_warning(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JUPYTER_CONFIG_DIR", str(tmp_path))
    monkeypatch.setenv("JUPYTER_PREFER_ENV_PATH", "0")
    assert {one.level for one in check_extension()} == {Level.OK}
    (tmp_path / "jupyter_server_config.json").write_text(
        json.dumps({"ServerApp": {"jpserver_extensions": {"zbrain_nb": False}}})
    )
    (tmp_path / "labconfig").mkdir()
    (tmp_path / "labconfig/page_config.json").write_text(json.dumps({"disabledExtensions": {"zbrain_nb": True}}))
    found = list(check_extension())
    hint = the_one(found, "server extension", Level.WARNING, "does not load zbrain_nb")
    assert "jupyter server extension enable zbrain_nb" in hint
    the_one(found, "lab extension", Level.WARNING, "switched off")


def test_kernels_without_interpreter_or_zbrain_are_warned_of(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, python in (("gone", "/gone/python"), ("bare", getattr(sys, "_base_executable", ""))):
        folder = tmp_path / "kernels" / name
        folder.mkdir(parents=True)
        spec = {"argv": [python, "-m", "ipykernel_launcher"], "display_name": name, "language": "python"}
        (folder / "kernel.json").write_text(json.dumps(spec))
    monkeypatch.setenv("JUPYTER_PATH", str(tmp_path))
    found = said(check_kernels("99.0"), "kernels")
    texts = "\n".join(text for level, text, _ in found if level == Level.WARNING)
    assert "'gone' starts /gone/python, which is not there" in texts
    assert "'bare' has no zbrain_nb" in texts
    assert f"has zbrain_nb {zbrain_nb.__version__}, the server 99.0" in texts


# ---- machine


def tree(root: Path, **files: str) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_memory_of_the_tightest_cgroup_counts(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "0::/pod/notebook\n",
        "sys/fs/cgroup/pod/memory.max": f"{4 << 30}\n",
        "sys/fs/cgroup/pod/notebook/memory.max": "max\n",
        "sys/fs/cgroup/pod/memory.current": f"{3900 << 20}\n",
        "sys/fs/cgroup/pod/memory.stat": f"anon 5\ninactive_file {1000 << 20}\n",
    }
    assert "2.8 GiB of at most 4 GiB" in said(check_memory(tree(tmp_path, **files)), "memory")[0][1]
    the_one(check_memory(tmp_path), "memory", Level.OK, "at most 4 GiB")
    tree(tmp_path, **{"sys/fs/cgroup/pod/memory.stat": "inactive_file 0\n"})
    the_one(check_memory(tmp_path), "memory", Level.WARNING, "what needs more is killed")
    tree(tmp_path, **{"sys/fs/cgroup/pod/memory.events": "oom 4\noom_kill 3\n"})
    hint = the_one(check_memory(tmp_path), "memory", Level.WARNING, "3 processes were killed")
    assert "--mem" in hint


def test_memory_of_version_1_of_cgroups(tmp_path: Path) -> None:
    files = {
        "proc/self/cgroup": "5:memory:/job\n3:cpu:/\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": f"{1 << 63}\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": f"{512 << 20}\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": f"{100 << 20}\n",
    }
    the_one(check_memory(tree(tmp_path, **files)), "memory", Level.WARNING, "little for notebooks")
    (tmp_path / "sys/fs/cgroup/memory/job/memory.limit_in_bytes").unlink()
    the_one(check_memory(tmp_path), "memory", Level.OK, "no limit but the machine's")


def test_session_that_ends_jobs_is_a_warning(tmp_path: Path) -> None:
    session = {"proc/7/cgroup": "0::/user.slice/user-1000.slice/session-3.scope\n"}
    the_one(check_session(7, tree(tmp_path, **session), {}), "session", Level.OK, "nothing found")
    tree(tmp_path, **{"etc/systemd/logind.conf": "[Login]\n#KillUserProcesses=no\nKillUserProcesses=yes\n"})
    hint = the_one(check_session(7, tmp_path, {}), "session", Level.WARNING, "when you log out")
    assert "systemd-run" in hint
    tree(tmp_path, **{"etc/systemd/logind.conf.d/50.conf": "[Login]\nKillUserProcesses=no\n"})
    the_one(check_session(7, tmp_path, {}), "session", Level.OK, "nothing found")
    tree(tmp_path, **{"proc/7/cgroup": "0::/system.slice/jupyter.service\n"})
    the_one(check_session(7, tmp_path, {}), "session", Level.WARNING, "when jupyter.service is stopped")
    tree(tmp_path, **{"proc/7/cgroup": "0::/user.slice/user-1.slice/user@1.service/app.slice/a.scope\n"})
    the_one(check_session(7, tmp_path, {}), "session", Level.WARNING, "last login")
    the_one(check_session(7, tmp_path, {"SLURM_JOB_ID": "12"}), "session", Level.WARNING, "the Slurm job 12")
    the_one(check_session(7, tmp_path, {"KUBERNETES_SERVICE_HOST": "h"}), "session", Level.WARNING, "this pod")


# ---- all together


def test_healthy_place_has_no_problem_and_nothing_is_left_behind(
    data_dir: DataDir, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("ZDB_DATA", str(data_dir.root))
    found = diagnose()
    assert [one for one in found if one.level is Level.PROBLEM] == []
    assert {"python", "data directory", "disk", "token", "database", "server", "memory", "session"} <= {
        one.subject for one in found
    }
    assert list(data_dir.root.iterdir()) == []


def test_directory_that_others_may_look_into_is_a_warning(tmp_path: Path) -> None:
    data = DataDir(tmp_path)
    tmp_path.chmod(0o755)
    the_one(check_directory(data), "access", Level.WARNING, "0755")
    tmp_path.chmod(0o700)
    assert not [found for found in check_directory(data) if found.subject == "access"]
