"""Sizes of memory and files as people write and read them."""

from __future__ import annotations

import re

_TEXT = re.compile(r"(\d+(?:\.\d*)?|\.\d+)\s*([KMGT])(?:i?B)?\Z", re.IGNORECASE)
_MIB = {"K": 1 / 1024, "M": 1, "G": 1024, "T": 1024 * 1024}
_UNITS = ("KiB", "MiB", "GiB", "TiB")
#: So much of a disk is kept free of new jobs, or on a small disk this part of it.
FLOOR_BYTES, FLOOR_PART = 512 << 20, 0.05


def disk_floor(total_bytes: int) -> int:
    """Return how much of a disk of `total_bytes` has to be free for new jobs to be taken."""
    return min(FLOOR_BYTES, int(total_bytes * FLOOR_PART))


def parse_mib(text: str) -> int:
    """Return how many MiB a text such as ``16G``, ``512M`` or ``1.5 GiB`` says, at least 1.

    Raises
    ------
    ValueError
        If it is no size: a number without a unit could mean bytes or MiB.
    """
    match = _TEXT.match(text.strip())
    if match is None:
        raise ValueError(f"{text!r} is no size such as 16G or 512M")
    return max(1, round(float(match[1]) * _MIB[match[2].upper()]))


def format_kib(kib: float) -> str:
    """Return a size given in KiB for a person, with two or three digits: ``1.2 GiB``, ``512 MiB``."""
    size = float(kib)
    unit = 0
    while size >= 1000 and unit < len(_UNITS) - 1:
        size /= 1024
        unit += 1
    shown = f"{size:.1f}" if size < 10 else f"{size:.0f}"
    return f"{shown.removesuffix('.0')} {_UNITS[unit]}"
