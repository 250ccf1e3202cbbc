"""The IPython of a cell's process: ipykernel's shell without a kernel."""

from __future__ import annotations

import builtins
import getpass
import sys
import traceback
import types
import warnings
from typing import Any, ClassVar, NoReturn, TypeAlias

import ipykernel.zmqshell
from ipykernel.compiler import XCachingCompiler
from IPython.core.error import StdinNotImplementedError
from traitlets import Type
from traitlets.config import Config

from zbrain_nb.worker.cell.displays import JobDisplayHook, JobDisplayPublisher, OutputSession
from zbrain_nb.worker.cell.frames import FrameWriter
from zbrain_nb.worker.cell.system import run_in_terminal

#: The file name of the code that calls a function job's function.
CALL_FILE = "<zbrain call>"
EXIT_WARNING = "To exit: use 'exit', 'quit', or Ctrl-D"
#: IPython's methods are mostly without annotations.
Shell: TypeAlias = Any
_OURS = __name__.rpartition(".")[0]


class _JobShell(ipykernel.zmqshell.ZMQInteractiveShell):
    """Runs cells; displays go to the supervisor, nothing asks anybody."""

    displayhook_class = Type(JobDisplayHook)
    display_pub_class = Type(JobDisplayPublisher)
    outputs: ClassVar[OutputSession] = OutputSession()

    def init_display_pub(self) -> None:
        """Make the display publisher, and give it our session."""
        super().init_display_pub()  # type: ignore[no-untyped-call]
        self.display_pub.session = self.outputs  # type: ignore[attr-defined]

    def init_displayhook(self) -> None:
        """Make the display hook, and give it our session."""
        super().init_displayhook()  # type: ignore[no-untyped-call]
        self.displayhook.session = self.outputs  # type: ignore[attr-defined]

    def enable_gui(self, gui: Any = None) -> None:
        """Ignore the wish for a window: a job has no screen."""

    def ask_exit(self) -> NoReturn:
        """End the job (``exit`` and ``quit``)."""
        raise SystemExit(0)

    def payloadpage_page(self, strg: Any, start: int = 0, screen_lines: int = 0, pager_cmd: Any = None) -> None:
        """Display what a kernel would show in the pager."""
        self.display_pub.publish(strg if isinstance(strg, dict) else {"text/plain": strg})

    def set_next_input(self, text: str, replace: bool = False) -> None:
        """Drop the text for the next cell: there is none."""

    def system_piped(self, cmd: str) -> None:
        """Run ``!cmd`` with nothing on its standard input."""
        if cmd.rstrip().endswith("&"):
            raise OSError("Background processes not supported.")
        self.user_ns["_exit_code"] = code = run_in_terminal(
            self.var_expand(cmd, depth=1)  # type: ignore[no-untyped-call]
        )
        if getattr(self, "system_raise_on_error", False) and code != 0:
            from subprocess import CalledProcessError

            raise CalledProcessError(code, cmd)

    system = system_piped

    def showtraceback(self, exc_tuple: Any = None, *args: Any, **kwargs: Any) -> None:
        """Show an exception without our frames; an exit with success is none."""
        kind, value, trace = self._get_exc_info(exc_tuple)  # type: ignore[no-untyped-call]
        if isinstance(value, SystemExit) and value.code in (None, 0):
            return
        trace = _without_ours(trace)
        if _has_group(value):
            # IPython would print these to stderr, with its own frames
            text = "".join(traceback.format_exception(kind, value, trace.tb_next if trace else None))
            self._showtraceback(kind, value, text.splitlines())  # type: ignore[no-untyped-call]
        else:
            super().showtraceback((kind, value, trace), *args, **kwargs)

    def _format_exception_for_storage(self, *_: Any, **__: Any) -> list[str]:
        # asked for by the history, which is off; it costs as much as showing the traceback
        return []


# rich, plotly and tqdm look at the class's name and module to tell a notebook from a terminal
JobShell = type("ZMQInteractiveShell", (_JobShell,), {"__module__": "ipykernel.zmqshell", "__doc__": _JobShell.__doc__})


def make_shell() -> Shell:
    """Make the one shell of this process; its displays are dropped until `outputs` is connected."""
    config = Config()
    config.HistoryManager.enabled = False
    config.HistoryManager.hist_file = ":memory:"
    made: Any = JobShell
    return made.instance(config=config, compiler_class=XCachingCompiler)


def connect_shell(shell: Shell, writer: FrameWriter) -> None:
    """Let displays out, and refuse what would wait for a person; called once, in the forked process."""
    shell.outputs.connect(writer)
    shell.init_environment()
    builtins.input = _refusing("input()")
    getpass.getpass = _refusing("getpass()")
    sys.breakpointhook = _refusing("breakpoint()")
    warnings.filterwarnings("ignore", message=EXIT_WARNING)


def _refusing(what: str) -> Any:
    def refuse(*_: Any, **__: Any) -> NoReturn:
        raise StdinNotImplementedError(
            f"{what} has nobody to talk to in a job. Ask in a cell of the notebook and let the job read the variable."
        )

    return refuse


def _without_ours(trace: types.TracebackType | None) -> types.TracebackType | None:
    """Cut out the frames of this package."""
    entry = trace
    while entry is not None and entry.tb_next is not None:
        if _is_ours(entry.tb_next.tb_frame):
            entry.tb_next = entry.tb_next.tb_next
        else:
            entry = entry.tb_next
    return trace


def _has_group(error: BaseException | None) -> bool:
    return error is not None and (isinstance(error, BaseExceptionGroup) or _has_group(error.__context__))


def _is_ours(frame: types.FrameType) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return frame.f_code.co_filename == CALL_FILE or module.startswith(_OURS)
