"""Job ids: UUID version 7 (RFC 9562), so that ids sort by the time they were made.

Neighbours in time are neighbours on disk, which is what makes DuckDB's updates of recent jobs cheap.
"""

from __future__ import annotations

import os
import threading
import time

_lock = threading.Lock()
_last = 0
#: Random bytes for the next ids: each look into the system's source lets another thread take over meanwhile.
_random = b""
_RANDOM_BYTES = 4096


def new_id() -> str:
    """Return a new UUIDv7 string; later calls in one process give greater strings.

    The 12 bits after the version hold a counter of 1/4096 ms (RFC 9562, section 6.2, method 3), so ids stay
    in order within a millisecond too.
    """
    global _last, _random  # noqa: PLW0603 - the one counter that keeps ids in order
    with _lock:
        if not _random:
            _random = os.urandom(_RANDOM_BYTES)
        random, _random = _random[:8], _random[8:]
        now = time.time_ns()
        stamp = (now // 1_000_000) << 12 | (now % 1_000_000 * 4096 // 1_000_000)
        stamp = max(stamp, _last + 1)
        _last = stamp
    value = (stamp >> 12) << 80 | 0x7 << 76 | (stamp & 0xFFF) << 64
    value |= 0b10 << 62 | int.from_bytes(random, "big") >> 2
    text = f"{value:032x}"
    return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"


def _forget_random() -> None:
    """Have a forked process draw its own bytes."""
    global _lock, _random
    _lock, _random = threading.Lock(), b""


os.register_at_fork(after_in_child=_forget_random)
