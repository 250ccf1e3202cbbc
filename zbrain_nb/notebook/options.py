"""What the notebook has set differently from the defaults, outside its namespace: options of libraries.

Such state does not travel with variables; the job sets it again (`worker.cell.surroundings.take_options`). Only
libraries that the notebook has imported are looked at.
"""

from __future__ import annotations

import logging
import pickle
import sys
import warnings
from base64 import b64encode
from typing import Any

from IPython.core.interactiveshell import InteractiveShell

_NUMPY_PRINT = {
    "edgeitems": 3,
    "threshold": 1000,
    "floatmode": "maxprec",
    "precision": 8,
    "suppress": False,
    "linewidth": 75,
    "nanstr": "nan",
    "infstr": "inf",
    "sign": "-",
    "formatter": None,
    "legacy": False,
    "override_repr": None,
}
_NUMPY_ERRORS = {"divide": "warn", "over": "warn", "under": "ignore", "invalid": "warn"}
_INLINE = ("figure_formats", "print_figure_kwargs", "close_figures", "rc")


def set_options(shell: InteractiveShell) -> dict[str, Any]:
    """Return what is set differently from the defaults, by library; what cannot be pickled is left out."""
    found = {
        "shell": _shell_options(shell),
        "xmode": _if_other(shell.InteractiveTB.mode, "Context"),
        "float_precision": _float_precision(shell),
        "numpy": _numpy_print(),
        "numpy_errors": _numpy_errors(),
        "pandas": _pandas_options(),
        "matplotlib": _matplotlib_options(),
        "inline": _inline_options(),
        "logging": _logging(),
    }
    return {name: value for name, value in found.items() if value}


def warning_filters() -> list[str]:
    """Return the filters of `warnings`, each pickled alone, as text: the job leaves out those it cannot load."""
    return [b64encode(pickle.dumps(entry)).decode() for entry in warnings.filters if _travels(entry)]


def _shell_options(shell: InteractiveShell) -> dict[str, Any]:
    defaults = {"ast_node_interactivity": "last_expr", "autoawait": True}
    return {name: value for name, default in defaults.items() if (value := getattr(shell, name)) != default}


def _float_precision(shell: InteractiveShell) -> str | None:
    formatter = shell.display_formatter
    return None if formatter is None else formatter.formatters["text/plain"].float_precision or None


def _if_other(value: Any, default: Any) -> Any:
    return None if value == default else value


def _numpy_print() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    if numpy is None:
        return {}
    return _different(numpy.get_printoptions(), _NUMPY_PRINT)


def _numpy_errors() -> dict[str, Any]:
    numpy = sys.modules.get("numpy")
    return {} if numpy is None else _different(numpy.geterr(), _NUMPY_ERRORS)


def _pandas_options() -> dict[str, Any]:
    config = sys.modules.get("pandas._config.config")
    if config is None:
        return {}
    found = {}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # reading a deprecated option warns
        # pandas has no public list of options with their defaults
        for name, option in getattr(config, "_registered_options", {}).items():
            value = config.get_option(name)
            if value != option.defval and _travels(value):
                found[name] = value
    return found


def _matplotlib_options() -> dict[str, Any]:
    matplotlib = sys.modules.get("matplotlib")
    if matplotlib is None:
        return {}
    defaults = matplotlib.rcParamsDefault
    return {
        name: value
        for name, value in matplotlib.rcParams.items()
        if not name.startswith(("backend", "interactive", "toolbar", "webagg", "datapath"))
        and value != defaults.get(name)
        and _travels(value)
    }


def _inline_options() -> dict[str, Any]:
    module = sys.modules.get("matplotlib_inline.config")
    if module is None or not module.InlineBackend.initialized():
        return {}
    backend = module.InlineBackend.instance()
    traits = backend.traits()
    return {
        name: value
        for name in _INLINE
        if name in traits and (value := getattr(backend, name)) != traits[name].default(backend)
    }


def _logging() -> dict[str, Any]:
    """Return level and console handlers of the root logger: what ``logging.basicConfig`` sets."""
    root = logging.getLogger()
    handlers = []
    for handler in root.handlers:
        if type(handler) is logging.StreamHandler and handler.stream in (sys.stdout, sys.stderr):
            form = handler.formatter
            handlers.append(
                {
                    "stream": "stdout" if handler.stream is sys.stdout else "stderr",
                    "level": handler.level,
                    "format": getattr(form, "_fmt", None),
                    "datefmt": getattr(form, "datefmt", None),
                }
            )
    return {"level": root.level, "handlers": handlers} if handlers or root.level != logging.WARNING else {}


def _different(values: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    return {
        name: value
        for name, value in values.items()
        if name in defaults and value != defaults[name] and _travels(value)
    }


def _travels(value: Any) -> bool:
    try:
        pickle.dumps(value)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True
