"""``sys.stdout`` and ``sys.stderr`` of a cell: whole lines at once, partial text after 50 ms, both in one order."""

from __future__ import annotations

import codecs
import io
import os
import queue
import threading
import time
from collections.abc import Iterable
from typing import Any

from zbrain_nb.worker.cell.frames import STDERR, STDOUT, FrameWriter

PARTIAL_SECS = 0.05
_MAX_PENDING = 65536


class JobStreams:
    """The two streams of a cell.

    Parameters
    ----------
    writer : FrameWriter
        Where the text goes; in a process forked by the cell it goes to file descriptors 1 and 2 instead.
    """

    def __init__(self, writer: FrameWriter) -> None:
        self.writer = writer
        self.lock = threading.RLock()
        self.stdout = JobStream(self, STDOUT, "<stdout>")
        self.stderr = JobStream(self, STDERR, "<stderr>")
        self._expected = False
        self._partial: queue.SimpleQueue[None] = queue.SimpleQueue()
        threading.Thread(target=self._flush_partial, name="zbrain-flush", daemon=True).start()

    def flush(self) -> None:
        """Send what both streams hold."""
        with self.lock:
            self.stdout.send_pending()
            self.stderr.send_pending()

    def other(self, stream: JobStream) -> JobStream:
        """Return the other one."""
        return self.stderr if stream is self.stdout else self.stdout

    def expect_more(self) -> None:
        """Arrange that partial text is sent soon; called with the lock held."""
        if self.writer.is_open and not self._expected:
            self._expected = True
            self._partial.put(None)

    def forked(self) -> None:
        """Start anew in a process forked by the cell: pending text is its parent's, locks may be held."""
        self.lock = threading.RLock()
        self.writer.forked()
        for stream in (self.stdout, self.stderr):
            stream.drop_pending()

    def _flush_partial(self) -> None:
        while True:
            self._partial.get()
            time.sleep(PARTIAL_SECS)
            self._expected = False
            self.flush()


class JobStream(io.TextIOBase):
    """A text stream without buffering beyond the line.

    Parameters
    ----------
    streams : JobStreams
        Holds the lock and the other stream.
    kind : int
        Which frames to write; also the file descriptor that `fileno` gives.
    name : str
        As ``sys.stdout.name``.
    """

    encoding = "UTF-8"  # as a kernel's says it
    errors = "backslashreplace"
    line_buffering = True
    write_through = False
    mode = "w"

    def __init__(self, streams: JobStreams, kind: int, name: str) -> None:
        self._streams = streams
        self._kind = kind
        self._pending = ""
        self.name = name
        self.buffer = _Bytes(self)

    def write(self, text: str) -> int:
        """Write text; whole lines and what a carriage return ends are sent before this returns."""
        if not isinstance(text, str):
            raise TypeError(f"write() argument must be str, not {type(text).__name__}")
        if not text:
            return 0
        with self._streams.lock:
            if self._streams.writer.is_open:
                self._streams.other(self).send_pending()
            held = self._pending + text
            end = max(text.rfind("\n"), text.rfind("\r"))
            if end < 0 and len(held) < _MAX_PENDING:
                self._pending = held
                self._streams.expect_more()
            elif end < 0:
                self._pending = ""
                self._send(held)
            else:
                end += len(held) - len(text) + 1
                self._pending = held[end:]
                self._send(held[:end])
                if self._pending:
                    self._streams.expect_more()
        return len(text)

    def writelines(self, lines: Iterable[str]) -> None:  # type: ignore[override]
        """Write each of `lines`."""
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        """Send partial text now."""
        with self._streams.lock:
            self.send_pending()

    def send_pending(self) -> None:
        """Send what is held; called with the lock held."""
        if self._pending:
            text, self._pending = self._pending, ""
            self._send(text)

    def drop_pending(self) -> None:
        """Forget what is held."""
        self._pending = ""

    def fileno(self) -> int:
        """Return 1 or 2: what is written there comes from the same process, beside this stream's order."""
        return self._kind

    def isatty(self) -> bool:
        """Say that nobody sits at a terminal."""
        return False

    def writable(self) -> bool:
        """Say that it can be written to."""
        return True

    def close(self) -> None:
        """Send what is held; the stream stays open, as a notebook's does."""
        self.flush()

    def reconfigure(self, **_: Any) -> None:
        """Accept what `io.TextIOWrapper` accepts; encoding and buffering stay."""
        self.flush()

    def _send(self, text: str) -> None:
        if self._streams.writer.is_open:
            self._streams.writer.text(self._kind, text)
            return
        data = text.encode("utf-8", "backslashreplace")
        while data:
            data = data[os.write(self._kind, data) :]


class _Bytes(io.BufferedIOBase):
    """``sys.stdout.buffer``: bytes join the text of the stream, in order."""

    def __init__(self, stream: JobStream) -> None:
        self._stream = stream
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self.name = stream.name
        self.mode = "wb"

    @property
    def raw(self) -> Any:
        return self

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        self._stream.write(self._decoder.decode(bytes(view)))
        return view.nbytes

    def flush(self) -> None:
        self._stream.flush()

    def fileno(self) -> int:
        return self._stream.fileno()

    def isatty(self) -> bool:
        return False

    def writable(self) -> bool:
        return True

    def close(self) -> None:
        self.flush()
