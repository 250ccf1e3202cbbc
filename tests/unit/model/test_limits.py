"""Limits and sizes as people write them."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.limits import Limits, limits_from_pairs
from zbrain_nb.model.sizes import format_kib, parse_mib


def test_limits_from_a_dict_are_checked_and_travel() -> None:
    spec = JobSpec(cmd=["true"], limits={"cpu_secs": 60, "log_mb": 0.5})  # type: ignore[arg-type]
    assert spec.limits == Limits(cpu_secs=60, log_mb=0.5)
    assert msgspec.json.decode(msgspec.json.encode(spec), type=JobSpec) == spec
    assert (spec.limits.log_bytes, spec.limits.result_bytes) == (524_288, 100 << 20)


@pytest.mark.parametrize(
    ("limits", "field"),
    [
        ({"cpu_secs": 0}, "limits.cpu_secs"),
        ({"cpu_secs": float("nan")}, "limits.cpu_secs"),
        ({"open_files": 3}, "limits.open_files"),
        ({"log_mb": -1}, "limits.log_mb"),
        ({"grace_secs": 1e9}, "limits.grace_secs"),
        ({"artifacts_mb": True}, "limits"),
        ({"coffee": 1}, "limits"),
        (5, "limits"),
    ],
)
def test_limit_that_does_not_hold_is_named(limits: Any, field: str) -> None:
    with pytest.raises(InvalidSpec) as caught:
        JobSpec(cmd=["true"], limits=limits)
    assert caught.value.details["field"] == field


def test_limits_from_words_of_a_command_line() -> None:
    assert limits_from_pairs(["cpu_secs=1.5", "open_files=64"]) == Limits(cpu_secs=1.5, open_files=64)
    with pytest.raises(InvalidSpec, match="not 'cpu_secs'"):
        limits_from_pairs(["cpu_secs"])


@pytest.mark.parametrize(
    ("text", "mib"), [("16G", 16384), ("512M", 512), ("1.5 GiB", 1536), ("1t", 1 << 20), ("10kB", 1)]
)
def test_size_is_read(text: str, mib: int) -> None:
    assert parse_mib(text) == mib


@pytest.mark.parametrize("text", ["16", "", "G", "-1G", "1e3M", "16GX"])
def test_size_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="is no size"):
        parse_mib(text)


@pytest.mark.parametrize(
    ("kib", "text"),
    [(500, "500 KiB"), (1024, "1 MiB"), (1.2 * 1024**2, "1.2 GiB"), (2000, "2 MiB"), (102.4, "102 KiB")],
)
def test_size_is_written(kib: float, text: str) -> None:
    assert format_kib(kib) == text
