"""``--wait``: blocks the cell and shows the job as if it ran here."""

from __future__ import annotations

import builtins
import sys
from contextlib import suppress
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import clear_output, publish_display_data

from zbrain_nb.client.asynchronous import Update
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.errors import JobFailedError, ZBrainError
from zbrain_nb.model.events import LogStream

_ERROR = ("ename", "evalue", "traceback")


def wait_and_show(shell: InteractiveShell, handle: JobHandle) -> None:
    """Print the job's log and show its outputs as they come; raise what it raised.

    The value of its last expression becomes ``_`` and ``Out[n]``. An interrupt detaches: the job goes on.

    Raises
    ------
    JobFailedError
        If the job failed. If its code raised, the error looks like what it raised, traceback and all, and is of
        that built-in kind too.
    JobCanceledError
        If it was canceled.
    """
    view = _View(shell)
    try:
        for update in handle.updates(whole=True):
            view.take(update)
    except KeyboardInterrupt:
        view.show_held()
        sys.stderr.write("zbrain: detached; the job goes on. _zb.cancel() ends it, _zb.wait() waits again.\n")
        return
    error = handle.exception()
    if error is None:
        view.show_held()
        _remember(shell, handle)
        return
    if view.ends_with(handle.job.error or {}):
        error = _as_raised(error, view.held[0])
        view.show_rest_behind_error()
    else:
        view.show_held()
    raise error


class _View:
    """What was shown of a job.

    An error is held back, with the displays behind it: if it is the one that ends the job it is raised, not shown.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self.held: list[dict[str, Any]] = []

    def take(self, update: Update) -> None:
        if update.entries:
            self.show_held()
        for entry in update.entries:
            target = sys.stdout if entry.stream is LogStream.STDOUT else sys.stderr
            target.write(f"{entry.line}\n")
        for output in update.outputs:
            if self.held or output.get("output_type") == "error":
                self.held.append(output)
            else:
                _show(self._shell, output)

    def show_held(self) -> None:
        held, self.held = self.held, []
        for output in held:
            _show(self._shell, output)

    def ends_with(self, raised: dict[str, Any]) -> bool:
        """Whether the error held back is the one that ended the job."""
        return bool(self.held) and all(self.held[0].get(name) == raised.get(name) for name in _ERROR)

    def show_rest_behind_error(self) -> None:
        """Show the figures of a cell that failed where a kernel does: behind its traceback."""
        rest, self.held = self.held[1:], []
        if not rest:
            return

        def show() -> None:
            self._shell.events.unregister("post_execute", show)
            for output in rest:
                _show(self._shell, output)

        self._shell.events.register("post_execute", show)


def _show(shell: InteractiveShell, output: dict[str, Any]) -> None:
    match output.get("output_type"):
        case "clear_output":
            clear_output(wait=bool(output.get("wait")))
        case "error":
            kind = type(output["ename"], (Exception,), {})
            shell._showtraceback(kind, kind(output["evalue"]), output["traceback"])
        case "execute_result" if getattr(shell.displayhook, "session", None):
            _show_result(shell.displayhook, output)
        case "display_data" | "execute_result" | "update_display_data" as kind:
            publish_display_data(
                output["data"],
                output.get("metadata") or {},
                transient=output.get("transient") or None,
                update=kind == "update_display_data",
            )


def _show_result(hook: Any, output: dict[str, Any]) -> None:
    """Show the value of a last expression as the kernel's own display hook does, not as a mere display."""
    sys.stdout.flush()
    sys.stderr.flush()
    content = {name: output.get(name) for name in ("data", "metadata", "execution_count")}
    message = hook.session.msg("execute_result", content, parent=hook.parent_header)
    hook.session.send(hook.pub_socket, message, ident=hook.topic)


def _remember(shell: InteractiveShell, handle: JobHandle) -> None:
    """Bind the value of the last expression as IPython does."""
    if handle.job.result is None:
        return
    try:
        value = handle.result()
    except ZBrainError:
        return  # it was shown; that it cannot be loaded here matters to who wants it, and `result` says it then
    if value is not None:
        shell.displayhook.update_user_ns(value)


def _as_raised(error: ZBrainError, output: dict[str, Any]) -> ZBrainError:
    """Return the job's error as one of the kind that its code raised."""
    name, text, trace = (output[part] for part in _ERROR)
    own = getattr(builtins, name, None)
    bases: list[tuple[type, ...]] = [(JobFailedError,)]
    if isinstance(own, type) and issubclass(own, Exception):
        bases.insert(0, (JobFailedError, own))
    attributes = {"__str__": lambda _: text, "_render_traceback_": lambda _: trace, "__module__": __name__}
    for kinds in bases:
        with suppress(TypeError):  # a built-in kind with fields of its own goes with no other
            made: ZBrainError = type(name, kinds, attributes)(error.message, error.hint, **error.details)
            return made
    return error
