"""The runner's side of calls: takes one after the other, and sees that each finds the process as the first one did.

A call that leaves anything behind that the next would see (a thread, a process, another folder, a signal handler, a
limit: see `Imprint`) is the last one of its process. What it reads by value is its own: no call sees the globals of
another. Modules that calls import stay imported, unless a file of the user's own has changed since, or the next call
comes with another ``sys.path``, where the same name may be another module.
"""

from __future__ import annotations

import asyncio
import atexit
import hashlib
import os
import random
import resource
import shutil
import signal
import socket
import sys
import threading
import time
from base64 import b64decode, b64encode
from pathlib import Path
from typing import Any, Protocol

import msgspec

from zbrain_nb.model.errors import BlobMismatch, ValueNotKept, ZBrainError
from zbrain_nb.model.job import INLINE_BYTES
from zbrain_nb.model.payload import Reader, load_call
from zbrain_nb.worker import inside
from zbrain_nb.worker.calls import LAST, MORE, NUMBER, PACKET_BYTES, RETIRED, Call, HighMark
from zbrain_nb.worker.cell import ending, surroundings
from zbrain_nb.worker.cell.frames import FrameWriter
from zbrain_nb.worker.cell.imprint import Imprint
from zbrain_nb.worker.cell.keeping import Keeper
from zbrain_nb.worker.cell.running import Outcome, run_call
from zbrain_nb.worker.cell.runtime import enter, error_of
from zbrain_nb.worker.cell.shell import Shell
from zbrain_nb.worker.cell.streams import JobStreams
from zbrain_nb.worker.processes import become_subreaper
from zbrain_nb.worker.spool import Kind

#: After so many calls, or when it has grown by so much, a runner is replaced.
MOST_CALLS = 5_000
MOST_GROWTH_KIB = 256 * 1024
#: Files up to this size are read, larger ones are mapped.
_READ_BYTES = 1 << 20
#: What the clock of a file system may be behind the clock of the process.
_CLOCK_SLACK_SECS = 0.1


class SessionRequest(Protocol):
    """What `serve` reads of a request."""

    @property
    def env(self) -> dict[str, str]:
        """The complete environment, but for what says which job it is."""

    @property
    def cwd(self) -> str:
        """Folder to run in."""

    @property
    def scratch(self) -> str | None:
        """The same, if each call shall have an empty one."""

    @property
    def outbox(self) -> str:
        """Folder for the files of all calls."""


def serve(request: SessionRequest, events_fd: int, feed_fd: int, marker: bytes) -> int:
    """Run calls in this process until one of them was the last.

    Parameters
    ----------
    request : SessionRequest
        Of the session.
    events_fd : int
        Takes frames: ``BEGIN`` before each call, ``END`` after it, its last event ``finished`` between.
    feed_fd : int
        Gives the calls, one in each packet.
    marker : bytes
        Ends the part of each call in what is written to the file descriptors 1 and 2.

    Returns
    -------
    int
        The exit code.
    """
    raw = [os.dup(1), os.dup(2)]
    become_subreaper()  # whatever leaves the session, it stays in sight
    writer, streams, shell = enter(request.env, request.cwd, events_fd)
    feed = socket.socket(fileno=feed_fd)
    runner = _Runner(request, writer, streams, shell)
    packet = memoryview(bytearray(PACKET_BYTES))
    try:
        while True:
            size = feed.recv_into(packet)
            if not size or not runner.is_fresh():
                break
            finished, goes_on = runner.run(msgspec.json.decode(packet[:size], type=Call))
            if not goes_on:
                ending.finish_process()
                streams.flush()
            for descriptor in raw:
                os.set_blocking(descriptor, True)  # the call may have changed that, for all that have the pipe
                os.write(descriptor, marker)
            writer.last_event(finished, Kind.END, MORE if goes_on else LAST)
            if not goes_on:
                writer.close()
                return 0
    except KeyboardInterrupt:
        pass
    ending.finish_process()
    return RETIRED


def _environ() -> dict[bytes, bytes]:
    return dict(getattr(os.environ, "_data", {}))  # the public ways decode each value


#: No file has this version.
_UNKNOWN = -1


class _Modules:
    """The modules of the user's own that calls have imported, and whether their files are as they were."""

    def __init__(self) -> None:
        self._count = len(sys.modules)
        self._versions: dict[str, int] = {}
        self._path = list(sys.path)

    def follow(self, path: list[str]) -> None:
        """Forget them if `path`, where they are looked for from now on, is another than before."""
        if path == self._path:
            return
        self._path = list(path)
        surroundings.forget(surroundings.local_modules(list(sys.modules)))
        self._count = len(sys.modules)
        self._versions.clear()

    def look(self, begun: float) -> bool:
        """Note what was imported since the last time, by a call that began at `begun`; return whether anything was.

        What was written since then may have been imported before that: it counts as changed.
        """
        if len(sys.modules) == self._count:
            return False
        self._count = len(sys.modules)
        latest = int((begun - _CLOCK_SLACK_SECS) * 1e9)
        for name in surroundings.local_modules(list(sys.modules)):
            path = getattr(sys.modules.get(name), "__file__", None)
            if path and path not in self._versions:
                version = _version(path)
                self._versions[path] = version if version < latest else _UNKNOWN
        return True

    def are_fresh(self) -> bool:
        """Whether no file has changed since."""
        return all(_version(path) == version for path, version in self._versions.items())


def _version(path: str) -> int:
    try:
        return os.stat(path).st_mtime_ns
    except OSError:
        return 0


class _Runner:
    """Runs calls in one process."""

    def __init__(self, request: SessionRequest, writer: FrameWriter, streams: JobStreams, shell: Shell) -> None:
        self._request = request
        self._mark = HighMark(request.outbox)
        self._writer = writer
        self._streams = streams
        self._shell = shell
        self._loop = asyncio.new_event_loop()
        self._modules = _Modules()
        self._path = list(sys.path)
        self._imprint = Imprint.take()
        self._names = dict(shell.user_ns)
        self._calls = 0
        self._boxes = 0
        self._folders = 0
        self._cwd = request.cwd
        if request.scratch is not None:
            self._new_folder()
        self._outbox, self._artifacts = Path(), ""
        self._is_box_used = True
        self._first_kib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        inside.flush_at_exit()
        self._exits = atexit._ncallbacks()
        self._environ = _environ()
        self._imprint = Imprint.take()

    def is_fresh(self) -> bool:
        """Whether a call may begin here."""
        return self._modules.are_fresh()

    def run(self, call: Call) -> tuple[dict[str, Any], bool]:
        """Run one call; return the event that says how it ended, and whether another may follow."""
        begun, begun_at = time.perf_counter(), time.time()
        self._enter(call)
        goes_on, is_final = True, False
        outcome, result = Outcome(), None
        keeper = Keeper(self._shell, self._outbox, None)
        try:
            outcome = self._call(call)
            goes_on = self._tidy(begun_at, failed=outcome.exit_code != 0)
            if outcome.exit_code == 0:
                result = self._keep(keeper, outcome.value)
        except ValueNotKept as error:  # another attempt would end like this one
            outcome, is_final = self._refused(error), True
        except KeyboardInterrupt as error:  # between the end of the code and the end of the call
            outcome = Outcome(raised=error, interrupted=True)
        signal.signal(signal.SIGINT, signal.SIG_IGN)
        inside.flush()
        self._streams.flush()
        finished = {
            "kind": "finished",
            "exit_code": outcome.exit_code,
            "error": error_of(self._shell, outcome, is_call=True),
            "output": self._shell.outputs.output,
            "result": result,
            "is_final": is_final,
            "secs": time.perf_counter() - begun,
        }
        self._is_box_used |= bool(os.listdir(self._artifacts))
        finished["files"] = self._is_box_used
        is_used_up = self._calls >= MOST_CALLS or self._has_grown()
        return finished, goes_on and not outcome.interrupted and not is_used_up and self._leave()

    def _enter(self, call: Call) -> None:
        """Make the process the call's own."""
        self._calls += 1
        if _environ() != self._environ:
            os.environ.clear()
            os.environ.update({os.fsdecode(name): os.fsdecode(value) for name, value in self._environ.items()})
            time.tzset()
        if self._is_box_used:
            self._new_box()
        os.environ["ZBRAIN_JOB_ID"] = call.job_id
        os.environ["ZBRAIN_ATTEMPT"] = str(call.attempt)
        os.environ["ZBRAIN_CHECKPOINTS"] = call.checkpoints
        if call.token:
            os.environ["ZBRAIN_TOKEN"] = call.token
        if call.input:
            self._is_box_used = True
            (self._outbox / "input.json").write_bytes(msgspec.json.encode(call.input))
        sys.path[:] = self._path
        self._shell.user_ns.clear()
        self._shell.user_ns.update(self._names)
        self._shell.outputs.error = self._shell.outputs.output = None
        asyncio.set_event_loop(self._loop)
        random.seed()
        if "numpy.random" in sys.modules:
            # as good as what it takes itself, and ten times faster
            sys.modules["numpy.random"].seed(memoryview(os.urandom(32)).cast("I").tolist())
        self._environ = _environ()
        self._mark.raise_to(call.number)
        self._writer.mark(Kind.BEGIN, NUMBER.pack(call.number) + os.fsencode(self._outbox))

    def _new_box(self) -> None:
        """Make the folder for the files of the next calls, up to the first that leaves any."""
        self._boxes += 1
        self._is_box_used = False
        self._outbox = Path(self._request.outbox, f"{os.getpid()}-{self._boxes}")
        self._artifacts = str(self._outbox / "artifacts")
        os.makedirs(self._artifacts, 0o700)
        (self._outbox / "input.json").write_bytes(b"{}")
        os.environ["ZBRAIN_ARTIFACTS"] = self._artifacts
        os.environ["ZBRAIN_INPUT"] = str(self._outbox / "input.json")
        os.environ["ZBRAIN_OUTPUT"] = str(self._outbox / "output.json")

    def _call(self, call: Call) -> Outcome:
        try:
            reader = _open(call)
            surroundings.take_path(reader.header)
            self._modules.follow(sys.path)
            more = None if call.arguments is None else b64decode(call.arguments)
            function, args, kwargs = load_call(reader, self._shell.user_ns, more)
        except ZBrainError as error:
            return self._refused(error)
        return run_call(self._shell, self._loop, function, args, kwargs)

    def _refused(self, error: ZBrainError) -> Outcome:
        """Return how a call ended that fails by an error of ours."""
        self._shell.showtraceback((type(error), error, None))
        return Outcome(raised=error)

    def _tidy(self, begun: float, *, failed: bool) -> bool:
        """Wait for what the call has started, as a process's end does; return whether anything may be left of it."""
        if asyncio.all_tasks(self._loop):
            ending.finish_tasks(self._loop, cancel=failed)
            self._shell.events.trigger("post_execute")
        exits, before = atexit._ncallbacks(), self._exits
        if self._modules.look(begun):
            self._exits = before = exits  # modules have functions called at the end too: the end of the process
        if threading.active_count() == self._imprint.threads and exits == before:
            return True
        ending.finish_threads()
        self._shell.events.trigger("post_execute")  # figures drawn by threads
        ending.finish_process()
        return False

    def _keep(self, keeper: Keeper, value: Any) -> Any:
        """Return a small value itself, packed, or the path of the file that holds it."""
        packing = keeper.pack_result(value)
        if packing is None:
            return None
        data = packing.tobytes("value") if packing.size <= INLINE_BYTES else None
        if data is not None and len(data) <= INLINE_BYTES:
            return {"data": b64encode(data).decode()}
        self._is_box_used = True
        return keeper.write_packed(packing)

    def _leave(self) -> bool:
        """Return whether the process is as it was before the call."""
        signal.signal(signal.SIGINT, signal.default_int_handler)
        if Imprint.take() != self._imprint or self._has_callbacks():
            return False
        if self._request.scratch is not None and os.listdir(self._cwd):
            old = self._cwd
            self._new_folder()
            shutil.rmtree(old, ignore_errors=True)
        return True

    def _has_callbacks(self) -> bool:
        """Whether something is left in the loop that would run amid the next call's coroutine."""
        loop: Any = self._loop  # a loop tells by no public way what it has yet to do
        return bool(loop._ready) or not all(timer.cancelled() for timer in loop._scheduled)

    def _new_folder(self) -> None:
        """Go to an empty folder; the next calls have it, up to the first that leaves anything there."""
        self._folders += 1
        self._cwd = os.path.join(self._request.cwd, f"{os.getpid()}-{self._folders}")
        os.mkdir(self._cwd, 0o700)
        os.chdir(self._cwd)
        self._path[0] = self._cwd
        self._imprint = self._imprint._replace(cwd=self._cwd)

    def _has_grown(self) -> bool:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - self._first_kib > MOST_GROWTH_KIB


def _open(call: Call) -> Reader:
    """Open the file of a call, its hash checked."""
    descriptor = os.open(call.path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        size = os.fstat(descriptor).st_size
        if size <= _READ_BYTES:
            data = os.read(descriptor, size)
            digest = hashlib.sha256(data)
        else:
            with open(descriptor, "rb", closefd=False) as file:
                digest = hashlib.file_digest(file, "sha256")
    finally:
        os.close(descriptor)
    if digest.hexdigest() != call.sha256:
        raise BlobMismatch("The stored call is damaged: its bytes are other than were shipped.")
    return Reader(call.path if size > _READ_BYTES else data, "call")
