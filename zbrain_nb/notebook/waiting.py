"""``--wait``: blocks the cell and shows the job as if it ran here."""

from __future__ import annotations

import sys
from typing import Any

from IPython.display import clear_output, publish_display_data

from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.events import LogStream


def wait_and_show(handle: JobHandle) -> None:
    """Print the job's log and show its outputs as they come; raise what it raised.

    An interrupt detaches: the job goes on.

    Raises
    ------
    JobFailedError, JobCanceledError
        As `JobHandle.result` does.
    """
    try:
        for update in handle.updates():
            for entry in update.entries:
                target = sys.stdout if entry.stream is LogStream.STDOUT else sys.stderr
                target.write(f"{entry.line}\n")
            for output in update.outputs:
                _show(output)
    except KeyboardInterrupt:
        sys.stderr.write("zbrain: detached; the job goes on. _zb.cancel() ends it, _zb.wait() waits again.\n")
        return
    error = handle.exception()
    if error is not None:
        raise error


def _show(output: dict[str, Any]) -> None:
    kind = output.get("output_type")
    if kind == "clear_output":
        clear_output(wait=bool(output.get("wait")))
    elif kind in ("display_data", "execute_result", "update_display_data"):
        publish_display_data(
            output["data"],
            output.get("metadata") or {},
            transient=output.get("transient") or None,
            update=kind == "update_display_data",
        )
