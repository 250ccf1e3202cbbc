"""Peak memory of processes, as the kernel keeps it, from a moment on."""

from __future__ import annotations

import os
import re
import threading
from pathlib import Path

_SAMPLE_SECS = 0.2


def _kib(pid: int, field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    return int(found[1]) if found else 0  # an ended process has none


def resident_kib(pid: int) -> int:
    """Return how much memory a process has now."""
    return _kib(pid, "VmRSS")


class Peaks:
    """How much processes grow at most between `watch` and `growth_mib`, by name.

    Supervisors are found by the command line that they have of their spawner, and sampled, for they end.
    """

    def __init__(self, root: Path) -> None:
        self._root = os.fsencode(root)
        self._begun: dict[int, tuple[str, int]] = {}
        self._others = 0
        self._over = threading.Event()
        self._sampler = threading.Thread(target=self._sample)

    def watch(self) -> None:
        """Forget the peaks of host, worker and this process so far."""
        for name, module in (("host", "zbrain_nb.server"), ("worker", "zbrain_nb.worker")):
            for pid in self._pids(module):
                self._watch(pid, name)
        self._watch(os.getpid(), "client")
        self._sampler.start()

    def _watch(self, pid: int, name: str) -> None:
        Path(f"/proc/{pid}/clear_refs").write_text("5")
        self._begun[pid] = name, _kib(pid, "VmRSS")

    def _pids(self, module: str) -> list[int]:
        """Return the processes of a module that were told the folder."""
        found = []
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{entry}/cmdline").read_bytes().split(b"\0")
                if module.encode() in words and any(word.startswith(self._root) for word in words):
                    found.append(int(entry))
            except (FileNotFoundError, ProcessLookupError):
                continue
        return found

    def _sample(self) -> None:
        while not self._over.wait(_SAMPLE_SECS):
            for pid in self._pids("zbrain_nb.worker.spawner"):
                try:
                    self._others = max(self._others, _kib(pid, "VmHWM"))
                except (FileNotFoundError, ProcessLookupError):
                    continue

    def growth_mib(self) -> dict[str, float]:
        """Return by how much each has grown at most; of ``supervisor`` the whole of the largest."""
        self._over.set()
        self._sampler.join()
        growth = {name: (_kib(pid, "VmHWM") - begun) / 1024 for pid, (name, begun) in self._begun.items()}
        return growth | {"supervisor": self._others / 1024}
