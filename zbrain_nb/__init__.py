"""zbrain_nb: takes a long cell out of the notebook and never loses it.

This module is the map. Public names are loaded when first used, so that ``import zbrain_nb`` in a job costs
next to nothing. The two entry points are those of Jupyter (the server extension) and of IPython
(``%load_ext zbrain_nb``).
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "model.job": ("CancelResult", "Job", "JobArtifact", "JobSpec", "JobState", "Resources"),
    "model.limits": ("Limits",),
    "model.events": (
        "Event",
        "JobCanceled",
        "JobCompleted",
        "JobFailed",
        "JobProgress",
        "JobStarted",
        "LogEntry",
        "WorkerArtifact",
        "WorkerEvent",
    ),
    "model.errors": ("Detached", "JobCanceledError", "JobFailedError", "UntrustedResult", "ZBrainError"),
    "store.storage": ("Storage",),
    "queue.jobqueue": ("JobQueue",),
    "worker.kinds": ("LocalWorker", "Worker"),
    "worker.remote": ("RemoteQueue",),
    "worker.scheduler": ("FifoScheduler",),
    "client.asynchronous": ("AsyncClient",),
    "client.client": ("Client",),
    "client.connecting": ("connect",),
    "client.group": ("JobGroup",),
    "client.function": ("function",),
    "client.handle": ("JobHandle",),
    "notebook.custom": ("new_magic",),
    "worker.inside": ("checkpoint_dir", "current_job", "job_input", "progress", "save_artifact"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}
__all__ = sorted(_HOME_OF)  # noqa: PLE0605 - one table serves import and listing

if TYPE_CHECKING:
    from IPython.core.interactiveshell import InteractiveShell


def __getattr__(name: str) -> Any:
    home = _HOME_OF.get(name)
    if home is None:
        raise AttributeError(f"module 'zbrain_nb' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"zbrain_nb.{home}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def load_ipython_extension(shell: InteractiveShell) -> None:
    """Register ``%%zbrain`` and ``%zbrain`` (``%load_ext zbrain_nb``)."""
    from zbrain_nb.notebook.extension import load

    load(shell)


def _jupyter_server_extension_points() -> list[dict[str, Any]]:
    from zbrain_nb.server.extension import ZBrainExtension

    return [{"module": "zbrain_nb", "app": ZBrainExtension}]


def _jupyter_labextension_paths() -> list[dict[str, str]]:
    return [{"src": "notebook/labextension", "dest": "zbrain_nb"}]
