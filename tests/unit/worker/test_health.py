"""What a worker says of itself is taken, whatever went wrong: a heartbeat that is refused renews no lease."""

from __future__ import annotations

from pathlib import Path

import msgspec

from zbrain_nb.model.protocol import Health, check_health
from zbrain_nb.worker.health import Checkup


def test_whatever_went_wrong_can_be_said(tmp_path: Path) -> None:
    checkup = Checkup(tmp_path, [tmp_path], lambda: None)
    checkup.problem = "Jobs cannot write to \udc80."
    health = checkup.health(last_error="no room\0" * 1_000)
    check_health(msgspec.json.decode(msgspec.json.encode(health), type=Health))
    assert health.problem == "Jobs cannot write to ?."
    assert health.last_error.startswith("no room?no room?")
