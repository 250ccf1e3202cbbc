"""How long jobs keep a person's server from the culler: said by the server, through a file, to the worker beside it.

`zbrain_nb.server.hub.keepalive` writes it, the worker reads it and says it with its heartbeats, and so people see it
where they see the worker. It decides nothing.
"""

from __future__ import annotations

import time
from pathlib import Path

import msgspec

from zbrain_nb.model.datadir import publish

CULLING_FILE = "culling.json"
#: The server writes it this often; what is older by a few times was left by one that is gone.
WRITE_SECS = 20.0
FRESH_SECS = 4 * WRITE_SECS


class Culling(msgspec.Struct, kw_only=True):
    """Until when running jobs keep the server beside a worker from being culled for idleness.

    Attributes
    ----------
    active_at : float
        When anybody last did something at the server, seconds since the epoch.
    cap_secs : float
        For how long after that running jobs keep it; 0 if they do not at all.
    """

    active_at: float
    cap_secs: float

    @property
    def kept_until(self) -> float:
        """When they cease to keep it, seconds since the epoch."""
        return self.active_at + self.cap_secs

    def is_over(self, now: float) -> bool:
        """Whether they keep it no more, though they should: nobody did anything there for too long."""
        return self.cap_secs > 0 and self.kept_until <= now


def write_culling(folder: Path, culling: Culling) -> None:
    """Tell the worker on `folder`.

    Raises
    ------
    OSError
        If it cannot be written.
    """
    publish(folder / CULLING_FILE, culling)


def read_culling(folder: Path) -> Culling | None:
    """Return what the server beside the worker on `folder` says; None if there is none that lives."""
    file = folder / CULLING_FILE
    try:
        age_secs = time.time() - file.stat().st_mtime
        return msgspec.json.decode(file.read_bytes(), type=Culling) if age_secs < FRESH_SECS else None
    except (OSError, msgspec.DecodeError):
        return None
