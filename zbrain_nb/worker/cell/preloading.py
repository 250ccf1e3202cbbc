"""Imports into the zygote, ahead of the jobs that need them, and what such an import must not have done.

Only installed packages are imported: a file of the user's own may change before the next job. A process that has
started a thread, a process or the driver of a GPU must not be forked any more: the threads are gone in the child,
their locks are not, and CUDA does not work there.
"""

from __future__ import annotations

import importlib
import importlib.util
import os
import sys
import threading
from collections.abc import Callable, Iterable
from pathlib import Path

from threadpoolctl import threadpool_info

from zbrain_nb.worker.processes import children
from zbrain_nb.worker.warmth import NEVER_AHEAD

PACKAGES = frozenset({"site-packages", "dist-packages"})
_DRIVERS = ("/libcuda.so", "/libcudart", "/libnvidia-", "/libnccl", "/libamdhip", "/libhsa-runtime", "/libOpenCL")


class Unfit(Exception):
    """Jobs must not be forked from this process any more."""


def package_folders() -> list[str]:
    """Return the folders on the import path that hold installed packages."""
    return [entry for entry in sys.path if Path(entry).name in PACKAGES]


def import_ahead(modules: Iterable[str], before: Callable[[str], None]) -> None:
    """Import those modules that are installed, are not known to be unfit, and are not there yet.

    Parameters
    ----------
    modules : iterable of str
        Full names; what cannot be imported is left out.
    before : callable
        Called with a name before it is imported. What the import itself does - raise, exit, crash, hang - is not
        held back: this process has to be replaced then.

    Raises
    ------
    Unfit
        If a module did what it must not.
    """
    for name in modules:
        root = name.partition(".")[0]
        if name in sys.modules or root in NEVER_AHEAD or not _is_installed(root):
            continue
        before(name)
        try:
            importlib.import_module(name)
        except ImportError as error:
            sys.stderr.write(f"zbrain: {name} is not imported ahead: {error}.\n")
        why = _unfit()
        if why is not None:
            raise Unfit(f"{name} {why}.")


def loaded() -> list[str]:
    """Return the modules of installed packages that are there, without private ones and tests."""
    return [
        name
        for name, module in sys.modules.items()
        if "._" not in name and ".test" not in name and lies_in_packages(getattr(module, "__file__", None))
    ]


def lies_in_packages(path: str | None) -> bool:
    """Whether a file is one of an installed package."""
    return path is not None and not PACKAGES.isdisjoint(Path(path).parts)


def _is_installed(root: str) -> bool:
    try:
        spec = importlib.util.find_spec(root)
    except (ImportError, ValueError):
        return False
    where = [*(spec.submodule_search_locations or ()), spec.origin or ""] if spec is not None else []
    return any(not PACKAGES.isdisjoint(Path(place).parts) for place in where)


def _unfit() -> str | None:
    """Say what was done that must not be done before a fork."""
    if named := sorted(NEVER_AHEAD & sys.modules.keys()):
        return f"imports {named[0]}"
    if threading.active_count() > 1:
        return f"starts the thread {threading.enumerate()[-1].name}"
    # OpenBLAS starts its threads when it is loaded, and takes care of forks itself
    pools = (pool for pool in threadpool_info() if pool["internal_api"] == "openblas")
    allowed = 1 + sum(pool["num_threads"] - 1 for pool in pools)
    if (count := len(os.listdir("/proc/self/task"))) > allowed:
        return f"starts {count - allowed} threads"
    if children(os.getpid()):
        return "starts a process"
    mapped = Path("/proc/self/maps").read_text(errors="replace")
    return next((f"loads {driver[1:]}" for driver in _DRIVERS if driver in mapped), None)
