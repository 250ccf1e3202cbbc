"""A user's server is kept from the culler while jobs run beside it."""

from __future__ import annotations

import logging
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

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

    def __init__(self, folder: Path) -> None:
        self.app = App()
        self.now = START
        self.keeper = ActivityKeeper(
            self.app, folder, timedelta(hours=24), logging.getLogger("jupyter"), lambda: self.now
        )
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
