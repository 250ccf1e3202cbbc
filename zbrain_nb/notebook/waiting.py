"""``--wait``: blocks the cell and shows the job as if it ran here."""

from __future__ import annotations

import sys
import time
from typing import Any

from IPython.core.interactiveshell import InteractiveShell
from IPython.display import clear_output, publish_display_data

from zbrain_nb.client.following import Update
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.errors import Detached, JobFailedError, ZBrainError
from zbrain_nb.model.events import LogStream
from zbrain_nb.notebook.lookalikes import lookalike

_ERROR = ("ename", "evalue", "traceback")
_PATIENCE_SECS = 2.0


def wait_and_show(shell: InteractiveShell, handle: JobHandle) -> None:
    """Print the job's log and show its outputs as they come; raise what it raised.

    The value of its last expression becomes ``_`` and ``Out[n]``. An interrupt detaches, and so does Detach: the job
    goes on.

    Raises
    ------
    KeyboardInterrupt
        If it was interrupted.
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
    except (KeyboardInterrupt, Detached) as stop:
        view.show_held()
        let_go(stop, "the job goes on. _zb.cancel() ends it, _zb.wait() waits again.")
        return
    error = handle.exception()
    if error is None:
        view.show_held()
        _remember(shell, handle)
        return
    raised = handle.job.error
    if raised and isinstance(error, JobFailedError):
        is_held = view.holds(raised)
        # what is on the screen already is not shown a second time
        trace = raised["traceback"] if is_held else [f"{raised['ename']}: {raised['evalue']}"]
        error = lookalike(error, raised["ename"], raised["evalue"], trace)
        if is_held:
            view.show_rest_behind_error()
    view.show_held()
    raise error


def let_go(stop: KeyboardInterrupt | Detached, how: str) -> None:
    """Say that the cell does not wait any more, and how it goes on; raise an interrupt, without our own frames.

    After Detach the cells queued behind it run. After an interrupt they shall not, as after any other cell's.
    """
    sys.stderr.write(f"zbrain: detached; {how}\n")
    if isinstance(stop, KeyboardInterrupt):
        stop._render_traceback_ = lambda: ["KeyboardInterrupt"]  # type: ignore[attr-defined]
        raise stop


class _View:
    """What was shown of a job.

    An error is held back for a moment, with what follows it: if it ends the job it is raised, not shown.
    """

    def __init__(self, shell: InteractiveShell) -> None:
        self._shell = shell
        self._held: list[Update] = []
        self._held_at = 0.0

    def take(self, update: Update) -> None:
        """Show an update, or hold it back."""
        if self._held and time.monotonic() - self._held_at > _PATIENCE_SECS:
            self.show_held()
        errors = (i for i, output in enumerate(update.outputs) if output.get("output_type") == "error")
        first = next(errors, None)
        if self._held or first is not None:
            self._held_at = self._held_at if self._held else time.monotonic()
            place = 0 if self._held else first
            self._show(Update(outputs=update.outputs[:place]))
            self._held.append(Update(entries=update.entries, outputs=update.outputs[place:]))
        else:
            self._show(update)

    def show_held(self) -> None:
        """Show what was held back."""
        held, self._held = self._held, []
        for update in held:
            self._show(update)

    def holds(self, raised: dict[str, Any]) -> bool:
        """Whether the error held back is this one."""
        return bool(self._held) and all(self._held[0].outputs[0].get(name) == raised.get(name) for name in _ERROR)

    def show_rest_behind_error(self) -> None:
        """Show what followed the error where a kernel does: behind its traceback, once that is shown."""
        first, *rest = self._held
        self._held = []
        rest.insert(0, Update(outputs=first.outputs[1:]))
        if not any(update.entries or update.outputs for update in rest):
            return

        def show() -> None:
            self._shell.events.unregister("post_execute", show)
            for update in rest:
                self._show(update)

        self._shell.events.register("post_execute", show)

    def _show(self, update: Update) -> None:
        for entry in update.entries:
            target = sys.stdout if entry.stream is LogStream.STDOUT else sys.stderr
            target.write(f"{entry.line}\n")
        for output in update.outputs:
            _show(self._shell, output)


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
