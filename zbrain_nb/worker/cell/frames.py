"""Frames from the cell's process to its supervisor: text of Python's streams and events, in exact order.

A frame is a header ``<BdI`` (kind, seconds since the epoch, length of the payload) and a payload. One lock makes
frames whole between threads. A signal handler may raise in the middle of any Python code, so a frame that a
pipe takes in one piece (`PIPE_BUF`) is written by one call, and longer ones by a thread, where no handler runs.
The threads are started before the cell is: starting one cannot bear an exception in the middle either.
"""

from __future__ import annotations

import _thread
import json
import os
import queue
import select
import struct
import threading
import time
from collections.abc import Mapping
from typing import Any

from jupyter_client.jsonutil import json_clean, json_default

STDOUT, STDERR, EVENT = 1, 2, 3
HEADER = struct.Struct("<BdI")
_WHOLE = select.PIPE_BUF - HEADER.size


class FrameWriter:
    """Writes frames to a file descriptor.

    Parameters
    ----------
    descriptor : int
        The writing end of the supervisor's pipe.
    """

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        os.set_inheritable(descriptor, False)
        self._lock = threading.RLock()
        self._open = True
        self._holder = 0
        self._long: queue.SimpleQueue[tuple[int, bytes, Any]] = queue.SimpleQueue()
        threading.Thread(target=self._write_long, name="zbrain-frames", daemon=True).start()

    @property
    def is_open(self) -> bool:
        """Whether frames are still taken: not after `close`, and not in a process forked from this one."""
        return self._open

    def text(self, kind: int, text: str) -> None:
        """Send text of a stream (`STDOUT` or `STDERR`)."""
        data = text.encode("utf-8", "backslashreplace")
        start = 0
        while start < len(data):
            end = start + _WHOLE
            while end < len(data) and data[end] & 0xC0 == 0x80:  # not inside a character
                end -= 1
            self._write(kind, data[start:end])
            start = end

    def event(self, event: Mapping[str, Any]) -> None:
        """Send an event; bytes in it become base64, dates ISO 8601, numbers that JSON lacks text."""
        self._write(EVENT, _as_json(event))

    def last_event(self, event: Mapping[str, Any], kind: int, payload: bytes) -> None:
        """Send an event and a short frame of another kind after it, at once if they fit."""
        text = _as_json(event)
        if len(text) + HEADER.size + len(payload) <= _WHOLE:
            # its header says where the event ends, so the other frame may stand behind it
            self._write(EVENT, text, HEADER.pack(kind, time.time(), len(payload)) + payload)
        else:
            self._write(EVENT, text)
            self._write(kind, payload)

    def mark(self, kind: int, payload: bytes) -> None:
        """Send a short frame of another kind, as between a runner and its foreman."""
        self._write(kind, payload)

    def close(self) -> None:
        """Take no more frames."""
        with self._lock:
            self._open = False

    def forked(self) -> None:
        """Fall silent: this is a process forked by the cell, whose frames would mix with its parent's."""
        self._open = False
        self._lock = threading.RLock()

    def _write(self, kind: int, payload: bytes, more: bytes = b"") -> None:
        if len(payload) <= _WHOLE:
            with self._lock:
                self._holder = threading.get_ident()
                if self._open:
                    os.write(self._descriptor, HEADER.pack(kind, time.time(), len(payload)) + payload + more)
                self._holder = 0
            return
        if not self._open:
            return
        if self._holder == threading.get_ident():  # in a signal handler that came while a frame was written
            self._write_all(kind, payload)
            return
        # each of these calls is one step of C: a handler that raises between them ends the wait, nothing else
        written = _thread.allocate_lock()
        written.acquire()
        self._long.put((kind, payload, written))
        written.acquire()

    def _write_long(self) -> None:
        while True:
            kind, payload, written = self._long.get()
            with self._lock:
                self._write_all(kind, payload)
            written.release()

    def _write_all(self, kind: int, payload: bytes) -> None:
        data = memoryview(HEADER.pack(kind, time.time(), len(payload)) + payload)
        while data and self._open:
            data = data[os.write(self._descriptor, data) :]


def _as_json(event: Mapping[str, Any]) -> bytes:
    try:
        text = json.dumps(event, default=json_default, ensure_ascii=False, allow_nan=False)
    except (TypeError, ValueError):
        text = json.dumps(json_clean(event), ensure_ascii=False, allow_nan=False)
    return text.encode("utf-8", "replace")  # a lone surrogate is no JSON text
