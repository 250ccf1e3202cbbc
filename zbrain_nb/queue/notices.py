"""`Notice`: an event on its way to followers, made into JSON or an object when the first asks, and once for all."""

from __future__ import annotations

from typing import Any

import msgspec

from zbrain_nb.model.events import Event
from zbrain_nb.model.job import Job, shown
from zbrain_nb.queue.turn import Fact
from zbrain_nb.store.events import StoredEvent
from zbrain_nb.store.lines import Lines

#: What an event takes beside its data, about.
FRAME_BYTES = 250

_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder().decode


class Notice:
    """One event, shared by all who follow it.

    Parameters
    ----------
    about : tuple
        ``(seq, kind, job_id, org_id, attempt, ts)`` of the event.
    data : bytes, Lines or dict
        Its data: as JSON, as log lines, or as it is.

    Attributes
    ----------
    seq : int
        Its ``event_seq``.
    size_bytes : int
        About what it takes in memory, and as JSON.
    """

    __slots__ = ("_about", "_data", "_event", "_raw", "seq", "size_bytes")

    def __init__(self, about: tuple[int, str, str, str, int, float], data: bytes | Lines | dict[str, Any]) -> None:
        if isinstance(data, dict):
            data = _encode(data)
        self._about = about
        self._data = data
        self._raw: bytes | None = None
        self._event: Event | None = None
        self.seq = about[0]
        self.size_bytes = FRAME_BYTES + (len(data) if isinstance(data, bytes) else data.size_bytes)

    @property
    def kind(self) -> str:
        """What happened."""
        return self._about[1]

    @property
    def org_id(self) -> str:
        """Whose job it was; empty for what concerns the subscription itself."""
        return self._about[3]

    @property
    def job_id(self) -> str:
        """Of which job; empty for what concerns the subscription itself."""
        return self._about[2]

    @classmethod
    def of(cls, said: Fact | Job) -> Notice:
        """Return the notice of a committed fact; a job stands for its submit."""
        if isinstance(said, Job):
            about = (said.event_seq, "job_submitted", said.id, said.org_id, 0, said.created_at.timestamp())
            return cls(about, shown(said))
        return cls((said.seq, said.kind, said.job_id, said.org_id, said.attempt, said.ts), said.data)

    @classmethod
    def read(cls, event: StoredEvent) -> Notice:
        """Return the notice of an event that was read back from the store."""
        about = (event.seq, event.kind, event.job_id, event.org_id, event.attempt, event.ts)
        if event.job is not None:
            return cls(about, shown(event.job))
        if event.kind == "job_logged":
            return cls(about, _encode({"entries": event.entries}))
        return cls(about, event.data or {})

    @classmethod
    def told(cls, kind: str, seq: int, ts: float, data: dict[str, Any]) -> Notice:
        """Return a notice about the subscription itself (see `SUBSCRIPTION_KINDS`)."""
        return cls((seq, kind, "", "", 0, ts), data)

    def raw(self) -> bytes:
        """Return the event as JSON."""
        if self._raw is None:
            self._raw = _encode(self._make(msgspec.Raw(self._json())))
        return self._raw

    def event(self) -> Event:
        """Return the event."""
        if self._event is None:
            self._event = self._make(_decode(self._json()))
        return self._event

    def _json(self) -> bytes:
        return self._data if isinstance(self._data, bytes) else self._data.as_json()

    def _make(self, data: Any) -> Event:
        seq, kind, job_id, org_id, attempt, ts = self._about
        return Event(seq, f"jobs/{job_id}" if job_id else "", kind, job_id, attempt, ts, data, org_id)
