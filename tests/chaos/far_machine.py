"""Another machine, as far as one can have it: a network namespace behind a cable, with a disk of its own.

What runs there sees this machine's files, but for its own disk, which nobody here sees: so host and worker have
neither locks nor files in common.
"""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

_NUMBERS = itertools.count(os.getpid() % 200 * 10)


def is_possible() -> bool:
    """Whether namespaces can be made here: by root, with iproute2, on Linux."""
    if sys.platform != "linux" or os.geteuid() != 0 or not (shutil.which("ip") and shutil.which("unshare")):
        return False
    name = f"zbp{os.getpid()}"
    made = subprocess.run(["ip", "netns", "add", name], capture_output=True, check=False).returncode == 0
    if made:
        ip("netns", "del", name)
    return made


def ip(*words: str) -> None:
    """Run ``ip``."""
    subprocess.run(["ip", *words], check=True, capture_output=True)


class FarMachine:
    """A machine at the other end of a cable.

    Parameters
    ----------
    disk : Path
        Where its disk is seen from there; here the folder stays empty.
    disk_size : str
        Of the disk, for example ``512m``.

    Attributes
    ----------
    address : str
        Of this machine, as it is seen from there.
    """

    def __init__(self, disk: Path, disk_size: str = "512m") -> None:
        number = next(_NUMBERS)
        self._name = f"zbfar{os.getpid()}x{number}"
        self._near, far = f"zbn{number}", f"zbf{number}"
        self._disk = disk
        disk.mkdir()
        network = f"10.{193 + number // 250 % 60}.{number % 250}"
        self.address = f"{network}.1"
        ip("netns", "add", self._name)
        ip("link", "add", self._near, "type", "veth", "peer", "name", far, "netns", self._name)
        ip("addr", "add", f"{self.address}/24", "dev", self._near)
        ip("link", "set", self._near, "up")
        ip("-n", self._name, "addr", "add", f"{network}.2/24", "dev", far)
        ip("-n", self._name, "link", "set", far, "up")
        ip("-n", self._name, "link", "set", "lo", "up")
        # one process holds the disk, so that a worker finds what the one before it has left
        mounting = f"mount -t tmpfs -o size={disk_size},mode=700 none {disk} && echo mounted && exec sleep infinity"
        self._keeper = subprocess.Popen(
            [
                "ip",
                "netns",
                "exec",
                self._name,
                "unshare",
                "--mount",
                "--uts",
                "sh",
                "-c",
                f"hostname far && {mounting}",
            ],
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._keeper.stdout is not None
        assert self._keeper.stdout.readline() == "mounted\n"

    def start(self, command: list[str], **options: object) -> subprocess.Popen[bytes]:
        """Start a process there; its signals go to it alone."""
        enter = ["nsenter", f"--target={self._keeper.pid}", "--net", "--mount", "--uts", "--wd=/", *command]
        return subprocess.Popen(enter, start_new_session=True, **options)  # type: ignore[call-overload, no-any-return]

    def shell(self, script: str) -> str:
        """Run a script there and return what it printed."""
        process = self.start(["sh", "-c", script], stdout=subprocess.PIPE)
        return process.communicate(timeout=30)[0].decode()

    def cut(self) -> None:
        """Pull the cable: what is sent is lost, and no connection hears of it."""
        ip("link", "set", self._near, "down")

    def mend(self) -> None:
        """Put the cable back."""
        ip("link", "set", self._near, "up")

    def kill_all(self) -> None:
        """Kill all that runs there."""
        listed = subprocess.run(["ip", "netns", "pids", self._name], capture_output=True, text=True, check=True).stdout
        for pid in map(int, listed.split()):
            if pid != self._keeper.pid:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)

    def close(self) -> None:
        """End all that runs there, and take it away."""
        self.kill_all()
        self._keeper.kill()
        self._keeper.wait(20)
        self._keeper.stdout.close()  # type: ignore[union-attr]
        ip("netns", "del", self._name)
