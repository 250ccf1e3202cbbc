"""A user's server is kept from the culler while jobs run beside it."""

from __future__ import annotations

import logging
import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from zbrain_nb.model.culling import FRESH_SECS, Culling, read_culling
from zbrain_nb.model.datadir import FileLock
from zbrain_nb.server.hub.keepalive import ACTIVITY, ActivityKeeper

START = datetime(2030, 1, 1, tzinfo=UTC)


class App:
    """Jupyter's web application, as far as activity goes: a person last did something at `person`."""

    def __init__(self) -> None:
        self.settings: dict[str, object] = {}
        self.person = START

    def last_activity(self) -> datetime:
        kept = self.settings.get(ACTIVITY)
        return max(self.person, kept) if isinstance(kept, datetime) else self.person


class Keeping:
    """An app, a keeper of it with a cap of a day, and a clock."""

    def __init__(self, folder: Path, cap: timedelta = timedelta(hours=24)) -> None:
        self.app = App()
        self.now = START
        self.keeper = ActivityKeeper(self.app, folder, cap, logging.getLogger("jupyter"), lambda: self.now)
        (folder / "runs").mkdir()
        self.run = FileLock(folder / "runs" / "job.1.spool")

    def look_after(self, hours: float) -> timedelta:
        """Look, so many hours after the start; return for how long the server now seems idle."""
        self.now = START + timedelta(hours=hours)
        self.keeper.look()
        return self.now - self.app.last_activity()


@pytest.fixture
def keeping(tmp_path: Path) -> Keeping:
    return Keeping(tmp_path)


def test_server_is_active_while_jobs_run_and_idles_from_their_end(keeping: Keeping) -> None:
    assert keeping.look_after(2) == timedelta(hours=2)
    keeping.run.acquire()
    assert keeping.look_after(3) == timedelta(0)
    keeping.run.release()
    assert keeping.look_after(5) == timedelta(hours=2)


def test_server_is_kept_no_longer_than_the_cap_after_a_person_did_something(
    keeping: Keeping, caplog: pytest.LogCaptureFixture
) -> None:
    keeping.run.acquire()
    with caplog.at_level(logging.INFO):
        assert [keeping.look_after(hours) for hours in (1, 23, 23.9)] == [timedelta(0)] * 3
        assert keeping.look_after(25) == timedelta(hours=1.1)
        assert keeping.look_after(30) == timedelta(hours=6.1)
    kept, culled = [record.message for record in caplog.records]
    assert kept == "zbrain: 1 jobs run here, so this server counts as active and is not culled"
    assert "may be culled: nobody did anything for 1 day, 1:00:00" in culled
    keeping.app.person = START + timedelta(hours=30)
    assert keeping.look_after(31) == timedelta(0)


def test_worker_beside_is_told_for_how_long_by_a_server_that_lives(keeping: Keeping, tmp_path: Path) -> None:
    assert read_culling(tmp_path) is None
    keeping.run.acquire()
    keeping.look_after(1)
    keeping.look_after(2)  # what jobs keep fresh is nobody's activity
    assert read_culling(tmp_path) == Culling(active_at=START.timestamp(), cap_secs=86_400)
    keeping.app.person = START + timedelta(hours=3)
    keeping.look_after(4)
    told = read_culling(tmp_path)
    assert told is not None and told.kept_until == (START + timedelta(hours=27)).timestamp()
    file = tmp_path / "culling.json"
    long_ago = file.stat().st_mtime - FRESH_SECS
    os.utime(file, (long_ago, long_ago))
    assert read_culling(tmp_path) is None


def test_server_that_jobs_shall_not_keep_is_not_kept_and_its_worker_is_told(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    keeping = Keeping(tmp_path, timedelta(0))
    keeping.run.acquire()
    with caplog.at_level(logging.INFO):
        assert keeping.look_after(3) == timedelta(hours=3)
    assert caplog.records == []  # as it was asked for
    assert read_culling(tmp_path) == Culling(active_at=START.timestamp(), cap_secs=0)


def test_server_is_kept_also_if_that_cannot_be_told(keeping: Keeping, tmp_path: Path) -> None:
    keeping.run.acquire()
    (tmp_path / "culling.json").mkdir()
    assert keeping.look_after(1) == timedelta(0)
    assert read_culling(tmp_path) is None
