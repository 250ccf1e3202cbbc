"""What is around a cell besides its variables: environment, folder, import path, signals, seeds, options."""

from __future__ import annotations

import ctypes
import importlib
import importlib.machinery
import logging
import os
import pickle
import signal
import site
import sys
import sysconfig
import time
import warnings
from base64 import b64decode
from collections.abc import Iterable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.worker.cell.preloading import PACKAGES
from zbrain_nb.worker.cell.shell import EXIT_WARNING, Shell

INLINE = "module://matplotlib_inline.backend_inline"
OPTIONS = "@options"


def enter(environ: Mapping[str, str], cwd: str, zygote_cwd: str) -> None:
    """Make this process a fresh one for a job: nothing of the zygote's own state is left."""
    os.environ.clear()
    os.environ.update(environ)
    os.environ.setdefault("MPLBACKEND", INLINE)
    time.tzset()
    os.chdir(cwd)
    set_path([cwd, *(entry for entry in sys.path if entry not in ("", zygote_cwd, cwd))])
    sys.argv[:] = [""]
    signal.set_wakeup_fd(-1)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    libc = ctypes.CDLL(None)
    for name in ("stdout", "stderr"):  # C's buffers would be lost at os._exit
        libc.setvbuf(ctypes.c_void_p.in_dll(libc, name), None, 2, 0)
    sys.stdin = open(0, closefd=False)  # the zygote's own object may hold text that it has read  # noqa: SIM115
    for stream in (sys.__stdout__, sys.__stderr__):
        if stream is not None:
            stream.reconfigure(line_buffering=True)
    if os.environ["MPLBACKEND"] != INLINE and "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].switch_backend(os.environ["MPLBACKEND"])
    if "numpy.random" in sys.modules:
        sys.modules["numpy.random"].seed()  # else every job would draw what the zygote would have drawn


class _Ahead:
    """The modules that this process got from its zygote, and the folders that do not hide them."""

    names: frozenset[str] = frozenset()
    folders: frozenset[str] = frozenset()


def remember_ahead(names: Iterable[str]) -> None:
    """Note in the zygote what it has imported ahead of its jobs."""
    _Ahead.names, _Ahead.folders = frozenset(names), frozenset(sys.path)


def set_path(entries: list[str]) -> None:
    """Set ``sys.path``; what was imported ahead, but would be found in the user's own folders now, is forgotten."""
    sys.path[:] = entries
    fresh = [entry for entry in entries if entry not in _Ahead.folders]
    if not fresh:  # as for nearly every call of a function
        return
    roots = {name.partition(".")[0] for name in _Ahead.names}
    hidden = {root for entry in fresh for root in roots & _importable(entry)}
    hides = frozenset(name for name in _Ahead.names if name.partition(".")[0] in hidden)
    forget(hides)
    _Ahead.names, _Ahead.folders = _Ahead.names - hides, _Ahead.folders | set(entries)


def _importable(folder: str) -> set[str]:
    """Return the names of the modules and packages in a folder."""
    try:
        found = os.listdir(folder)
    except OSError:  # it is none, or an archive
        return set()
    ends = tuple(importlib.machinery.all_suffixes())
    packages = {name for name in found if "." not in name and os.path.exists(os.path.join(folder, name, "__init__.py"))}
    return packages | {name.partition(".")[0] for name in found if name.endswith(ends)}


def local_modules(names: Iterable[str]) -> list[str]:
    """Return those of the loaded modules that come from neither the standard library nor site-packages.

    They may be edited before a job imports them. Folders of packages are told by their names too: a ``.pth`` file
    may lead to those of another installation.
    """
    fixed = tuple({*sysconfig.get_paths().values(), *site.getsitepackages(), site.getusersitepackages()})
    return [
        name
        for name in names
        if (path := getattr(sys.modules[name], "__file__", None))
        and not path.startswith(fixed)
        and PACKAGES.isdisjoint(Path(path).parts)
        and name.partition(".")[0] not in ("zbrain_nb", "__main__")
    ]


def forget(modules: Iterable[str]) -> None:
    """Drop modules, so that the job imports them anew."""
    for name in modules:
        sys.modules.pop(name, None)


def take_path(header: Mapping[str, Any]) -> None:
    """Take over the notebook's ``sys.path``: all of it from the same installation, else what is the user's own."""
    shipped: list[str] = header.get("sys_path") or []
    if not shipped:
        return
    if header.get("prefix") == sys.prefix:
        set_path(shipped)
        return
    theirs = str(header.get("prefix"))
    own = [p for p in shipped if p not in sys.path and "site-packages" not in p and not p.startswith(theirs)]
    set_path([*own, *sys.path])


def repeat_imports(modules: Iterable[str]) -> None:
    """Import what the notebook has imported.

    Raises
    ------
    ZBrainError
        If a module is not installed here.
    """
    for name in modules:
        try:
            importlib.import_module(name)
        except ImportError as error:
            raise ZBrainError(
                f"The notebook has imported {name}, which the worker cannot: {error}.",
                "Install it for the worker's Python, or name another with --kernel.",
            ) from error


def take_options(shell: Shell, options: Mapping[str, Any]) -> None:
    """Set what the notebook has set differently from the defaults (see `notebook.options`)."""
    for name, value in options.get("shell", {}).items():
        setattr(shell, name, value)
    if "xmode" in options:
        shell.InteractiveTB.set_mode(options["xmode"])
    if "float_precision" in options:
        shell.display_formatter.formatters["text/plain"].float_precision = options["float_precision"]
    if "logging" in options:
        _take_logging(options["logging"])
    if "numpy" in options:
        import numpy as np

        np.set_printoptions(**options["numpy"])
    if "numpy_errors" in options:
        import numpy as np

        np.seterr(**options["numpy_errors"])
    if "pandas" in options:
        import pandas as pd

        for name, value in options["pandas"].items():
            with suppress(KeyError, ValueError):  # another version may not know it
                pd.set_option(name, value)
    if "inline" in options:
        from matplotlib_inline.config import InlineBackend

        backend = InlineBackend.instance(parent=shell)
        for name, value in options["inline"].items():
            setattr(backend, name, value)
    if "matplotlib" in options:
        import matplotlib as mpl

        for name, value in options["matplotlib"].items():
            with suppress(KeyError, ValueError):
                mpl.rcParams[name] = value


def _take_logging(options: Mapping[str, Any]) -> None:
    root = logging.getLogger()
    root.setLevel(options["level"])
    for entry in options["handlers"]:
        handler = logging.StreamHandler(getattr(sys, entry["stream"]))
        handler.setLevel(entry["level"])
        handler.setFormatter(logging.Formatter(entry["format"], entry["datefmt"]))
        root.addHandler(handler)


def take_warning_filters(pickled: Iterable[str]) -> None:
    """Put the notebook's filters of `warnings` in place of ours."""
    found = []
    for text in pickled:
        with suppress(ImportError, AttributeError):  # a category of a library that is not here
            found.append(pickle.loads(b64decode(text)))
    # the public functions only add filters, one by one
    warnings.filters[:] = found  # type: ignore[index]
    warnings._filters_mutated()  # type: ignore[attr-defined]
    warnings.filterwarnings("ignore", message=EXIT_WARNING)
