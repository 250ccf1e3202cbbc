"""``!cmd`` in a job: output through a pseudo-terminal, so that programs write line by line; no input, no session.

IPython's own way gives the command a session of its own, which a group kill misses, and lets ``!read x`` wait
for ever.
"""

from __future__ import annotations

import codecs
import os
import pty
import select
import signal
import subprocess
import sys
import termios
from contextlib import suppress

_CHUNK = 65536
_GRACE_SECS = 2.0


def run_in_terminal(command: str) -> int:
    """Run a shell command; what it writes goes to ``sys.stdout`` as it comes.

    Returns
    -------
    int
        The exit code; minus the signal's number if one ended it.
    """
    ours, theirs = pty.openpty()
    modes = termios.tcgetattr(theirs)
    modes[1] &= ~termios.OPOST  # lines end as the command ends them, not in "\r\n"
    termios.tcsetattr(theirs, termios.TCSANOW, modes)
    sys.stdout.flush()
    try:
        process = subprocess.Popen(
            command,
            shell=True,
            executable=os.environ.get("SHELL") or None,
            stdin=subprocess.DEVNULL,
            stdout=theirs,
            stderr=theirs,
        )
    finally:
        os.close(theirs)
    try:
        _relay(ours, process)
    except BaseException:
        _end(process)
        raise
    finally:
        os.close(ours)
    return process.wait()


def _relay(ours: int, process: subprocess.Popen[bytes]) -> None:
    """Copy output until the command ends; what it left in the background does not hold us."""
    decoder = codecs.getincrementaldecoder("utf-8")("replace")
    ended = os.pidfd_open(process.pid)
    try:
        poll = select.poll()
        poll.register(ours, select.POLLIN)
        poll.register(ended, select.POLLIN)
        while True:
            ready = {descriptor for descriptor, _ in poll.poll()}
            if ours in ready:
                try:
                    data = os.read(ours, _CHUNK)
                except OSError:  # EIO: the last holder of the terminal is gone
                    data = b""
                if data:
                    sys.stdout.write(decoder.decode(data))
                    sys.stdout.flush()
                    continue
                poll.unregister(ours)
            if ended in ready:
                break
    finally:
        os.close(ended)
    sys.stdout.write(decoder.decode(b"", final=True))


def _end(process: subprocess.Popen[bytes]) -> None:
    """Interrupt a command whose cell was interrupted; kill it if it does not mind."""
    for number in (signal.SIGINT, signal.SIGKILL):
        with suppress(ProcessLookupError):
            process.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(_GRACE_SECS)
            return
