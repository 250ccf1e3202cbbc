"""What a job's own code may call: progress, artifacts, checkpoints, its input, who it is.

Outside a job all of it is harmless, so that the same code runs in a notebook and in a job. In a cell events go
through the channel that the cell's runtime sets, in other processes of a job through the FIFO named by
``ZBRAIN_EVENTS``.
"""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from zbrain_nb.worker.spool import HEADER, Kind, pack

Channel = Callable[[dict[str, Any]], None]
_PIPE_BUF = 4096
_SECS_BETWEEN = 0.1


class JobInfo(msgspec.Struct, frozen=True):
    """The job that the calling code runs in: its id, which attempt it is, its org."""

    id: str
    attempt: int
    org: str


def current_job() -> JobInfo | None:
    """Return the job that this code runs in, or None outside of one."""
    job_id = os.environ.get("ZBRAIN_JOB_ID")
    if not job_id:
        return None
    return JobInfo(job_id, int(os.environ.get("ZBRAIN_ATTEMPT") or 0), os.environ.get("ZBRAIN_ORG", ""))


def job_input() -> Any:
    """Return the job's JSON input; an empty dict outside of a job."""
    path = os.environ.get("ZBRAIN_INPUT")
    return msgspec.json.decode(Path(path).read_bytes()) if path else {}


def progress(done: float, total: float | None = None, note: str | None = None) -> None:
    """Say how far the job is; call it as often as you like.

    Parameters
    ----------
    done : float
        How much is done. Without `total`, a number from 0 to 1 is the fraction itself.
    total : float, optional
        How much there is to do.
    note : str, optional
        A few words to show beside the bar.
    """
    fraction: float | None = None
    if total is not None:
        fraction = done / total if total > 0 else None
    elif 0 <= done <= 1:
        fraction = float(done)
    elif note is None:
        note = f"{done:g}"
    if fraction is not None:
        fraction = min(1.0, max(0.0, fraction))
    _reporter.report({"kind": "progress", "fraction": fraction, "note": None if note is None else note[:500]})


def save_artifact(value: Any, name: str | None = None) -> str | None:
    """Keep a file with the job.

    Parameters
    ----------
    value : object
        A path (`os.PathLike`, or text naming a file that exists) is copied; other text and bytes are written; any
        other object is pickled.
    name : str, optional
        Relative path that it is kept under; may be left out for files and objects.

    Returns
    -------
    str or None
        The name that it is kept under; None outside of a job, where nothing is kept.

    Raises
    ------
    ValueError
        If the name leaves the folder, or text or bytes have none.
    FileNotFoundError
        If a path names no file.
    """
    is_file = isinstance(value, os.PathLike) or (isinstance(value, str) and len(value) < 4096 and os.path.isfile(value))
    if name is None:
        if is_file:
            name = os.path.basename(os.fspath(value))
        elif isinstance(value, (str, bytes)):
            raise ValueError("Text and bytes need a name: save_artifact(value, 'result.txt').")
        else:
            name = f"{type(value).__name__}.pkl"
    if not name or os.path.isabs(name) or ".." in Path(name).parts or "\x00" in name:
        raise ValueError(f"An artifact's name is a relative path without '..', not {name!r}.")
    folder = os.environ.get("ZBRAIN_ARTIFACTS")
    if not folder or current_job() is None:
        return None
    target = Path(folder, name)
    target.parent.mkdir(parents=True, exist_ok=True)
    if is_file:
        shutil.copyfile(value, target)
    elif isinstance(value, str):
        target.write_text(value, encoding="utf-8")
    elif isinstance(value, bytes):
        target.write_bytes(value)
    else:
        import cloudpickle

        target.write_bytes(cloudpickle.dumps(value))
    return name


def checkpoint_dir() -> Path:
    """Return a folder that persists: what a job leaves there, its next attempt finds.

    So does its Retry (a new job), which works in the same folder: do not run two of them at once. The folder lies on
    the machine of the worker; an attempt on another machine finds that machine's, at first an empty one. It goes
    when the job and its Retries are kept no more (``ZBRAIN_KEEP_JOBS_DAYS``); remove sooner what is large and not
    needed. Commands find its path in ``ZBRAIN_CHECKPOINTS``.

    A process may be killed at any moment: write to another name, then rename.

    Returns
    -------
    Path
        An absolute path; outside of a job that of ``zbrain_checkpoints`` in the current folder. The folder exists.
    """
    folder = Path(os.environ.get("ZBRAIN_CHECKPOINTS") or "zbrain_checkpoints").absolute()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def set_channel(channel: Channel | None) -> None:
    """Send events by `channel` from now on; the cell's runtime calls this."""
    _reporter.channel = channel


def flush_at_exit() -> None:
    """Arrange that a step that was held back is sent at the process's end."""
    _reporter.flush_at_exit()


def flush() -> None:
    """Send a step of progress that was held back."""
    _reporter.flush()


class _Reporter:
    """Sends at most about ten steps a second; the last one always goes."""

    def __init__(self) -> None:
        self.channel: Channel | None = None
        self._lock = threading.Lock()
        self._held: dict[str, Any] | None = None
        self._sent_at = float("-inf")
        self._timer: threading.Timer | None = None
        self._flushes_at_exit = False

    def report(self, event: dict[str, Any]) -> None:
        if self.channel is None and "ZBRAIN_EVENTS" not in os.environ:
            return
        with self._lock:
            wait = self._sent_at + _SECS_BETWEEN - time.monotonic()
            if wait <= 0 or event["fraction"] == 1.0:
                self._send(event)
                return
            self._held = event
            self.flush_at_exit()
            if self._timer is None:
                self._timer = threading.Timer(wait, self.flush)
                self._timer.daemon = True
                self._timer.start()

    def flush_at_exit(self) -> None:
        if not self._flushes_at_exit:
            atexit.register(self.flush)
            self._flushes_at_exit = True

    def flush(self) -> None:
        with self._lock:
            if self._held is not None:
                self._send(self._held)

    def forked(self) -> None:
        self._lock = threading.Lock()
        # a cell's channel is for its own process; others of the job have the FIFO
        self._held = self._timer = self.channel = None

    def _send(self, event: dict[str, Any]) -> None:
        self._held = self._timer = None
        self._sent_at = time.monotonic()
        if self.channel is not None:
            self.channel(event)
        else:
            _write_to_fifo(event)


def _write_to_fifo(event: dict[str, Any]) -> None:
    frame = pack(Kind.EVENT, msgspec.json.encode(event))
    assert len(frame) <= _PIPE_BUF + HEADER.size
    with contextlib.suppress(OSError):  # no supervisor, or its FIFO is full: a step of progress may be missed
        descriptor = os.open(os.environ["ZBRAIN_EVENTS"], os.O_WRONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        try:
            os.write(descriptor, frame)
        finally:
            os.close(descriptor)


_reporter = _Reporter()
os.register_at_fork(after_in_child=_reporter.forked)
