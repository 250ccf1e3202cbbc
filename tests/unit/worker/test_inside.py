from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from zbrain_nb.worker import inside


@pytest.fixture
def events(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[dict[str, Any]]]:
    monkeypatch.setattr(inside, "_reporter", inside._Reporter())
    seen: list[dict[str, Any]] = []
    inside.set_channel(seen.append)
    yield seen


def test_outside_a_job_all_is_harmless(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    inside.progress(1, 2)
    assert inside.current_job() is None
    assert inside.job_input() == {}
    assert inside.save_artifact(b"x", "x.bin") is None
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "fraction", "note"),
    [
        ((0.25,), 0.25, None),
        ((1, 4), 0.25, None),
        ((5, 4, "over"), 1.0, "over"),
        ((-1, 4), 0.0, None),
        ((3, 0), None, None),
        ((17,), None, "17"),
        ((17, None, "rows"), None, "rows"),
    ],
)
def test_progress_fraction(events: list[dict[str, Any]], arguments: Any, fraction: Any, note: Any) -> None:
    inside.progress(*arguments)
    assert events == [{"kind": "progress", "fraction": fraction, "note": note}]


def test_progress_is_rate_limited_and_the_last_step_goes(events: list[dict[str, Any]]) -> None:
    for i in range(1000):
        inside.progress(i, 2000)
    deadline = time.monotonic() + 5
    while events[-1]["fraction"] != 999 / 2000:
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert len(events) < 20
    inside.progress(3, 2000)
    inside.flush()
    assert events[-1]["fraction"] == 3 / 2000


@pytest.mark.parametrize("name", ["/etc/x", "../x", "a/../../x", "", "a\x00b"])
def test_save_artifact_name_that_leaves_the_folder_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match="relative path"):
        inside.save_artifact(b"x", name)


def test_save_artifact_text_without_a_name_is_refused() -> None:
    with pytest.raises(ValueError, match="need a name"):
        inside.save_artifact("some text")


def test_current_job_reads_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("JOB_ID", "j"), ("ATTEMPT", "2"), ("ORG", "o")):
        monkeypatch.setenv(f"ZBRAIN_{name}", value)
    assert inside.current_job() == inside.JobInfo("j", 2, "o")
