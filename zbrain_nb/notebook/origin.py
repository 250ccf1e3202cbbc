"""Which notebook and which cell a job came from: tags by which its jobs are found again after a kernel restart."""

from __future__ import annotations

import hashlib
import os
import uuid

from IPython.core.interactiveshell import InteractiveShell

from zbrain_nb.model.job import PRIVATE_TAG

#: The notebook; the cell in it; what the cell runs on; and the variable that holds the handle.
NOTEBOOK_TAG = f"{PRIVATE_TAG}notebook"
CELL_TAG = f"{PRIVATE_TAG}cell"
PRINT_TAG = f"{PRIVATE_TAG}print"
VARIABLE_TAG = f"{PRIVATE_TAG}variable"
#: After how many seconds the views tell that the job, or the last run of its group, has ended (``notices.js``).
NOTIFY_TAG = f"{PRIVATE_TAG}notify_after"
NOTIFY_GROUP_TAG = f"{PRIVATE_TAG}notify_group_after"


def notebook_of(shell: InteractiveShell) -> str:
    """Return what names the notebook, also after a restart of its kernel: a path, or else its connection's file.

    A shell that is no kernel's has a name of its own.
    """
    session = os.environ.get("JPY_SESSION_NAME")  # set by jupyter_server: the notebook's path
    if session:
        return session
    config = getattr(getattr(shell, "kernel", None), "config", None)
    file = config.get("IPKernelApp", {}).get("connection_file") if config is not None else None
    if isinstance(file, str):
        return file
    found: str | None = getattr(shell, "_zbrain_notebook", None)
    if found is None:
        found = shell._zbrain_notebook = uuid.uuid4().hex  # type: ignore[attr-defined]
    return found


def cell_of(shell: InteractiveShell) -> str | None:
    """Return the id of the cell that runs, if the front end says it."""
    kernel = getattr(shell, "kernel", None)
    if kernel is None:
        return None
    metadata = kernel.get_parent("shell").get("metadata") or {}
    cell = metadata.get("cellId")
    return cell if isinstance(cell, str) else None


def print_of(*parts: str) -> str:
    """Return a hash of what decides what a cell does."""
    digest = hashlib.sha256()
    for part in parts:
        digest.update(f"{len(part)}:".encode() + part.encode(errors="surrogatepass"))
    return digest.hexdigest()
