"""The way into a cell's process: `preload` in the zygote, `run` in the process forked for one job.

The zygote only imports: one that has computed with OpenMP would hang its children. `run` takes over the
process: streams, environment and signals are the job's from then on, and the caller ends it with `os._exit`.
"""

from __future__ import annotations

import asyncio
import faulthandler
import importlib
import os
import signal
import sys
import traceback
from base64 import b64decode
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Protocol

from zbrain_nb.model.errors import ValueNotKept, ZBrainError
from zbrain_nb.model.payload import Reader, load_call, pack_exception
from zbrain_nb.worker import inside
from zbrain_nb.worker.cell import ending, preloading, surroundings
from zbrain_nb.worker.cell.bars import Bars
from zbrain_nb.worker.cell.frames import FrameWriter
from zbrain_nb.worker.cell.imports import after_import
from zbrain_nb.worker.cell.keeping import Keeper
from zbrain_nb.worker.cell.running import INTERRUPTED, Outcome, run_call, run_cell
from zbrain_nb.worker.cell.shell import Shell, connect_shell, make_shell
from zbrain_nb.worker.cell.streams import JobStreams
from zbrain_nb.worker.cell.widgets import patch_output

#: Imported in the zygote when installed; ``ZBRAIN_PRELOAD`` (names with commas between them) replaces them.
PRELOAD = ("numpy", "pandas", "matplotlib.pyplot", "matplotlib_inline.backend_inline")
CELL_INPUT = "cell"
ARGUMENTS_INPUT = "arguments"


class CellRequest(Protocol):
    """What `run` reads of a request."""

    @property
    def code(self) -> str | None:
        """Text of the cell."""

    @property
    def function(self) -> str | None:
        """Path of the file with the pickled call."""

    @property
    def arguments(self) -> str | None:
        """More arguments of the call, or variables to set before the cell, as Base64; large ones are an input."""

    @property
    def inputs(self) -> Mapping[str, str]:
        """Paths by name; ``cell`` is the payload that the magic shipped, ``arguments`` more of a call's."""

    @property
    def env(self) -> Mapping[str, str]:
        """The complete environment."""

    @property
    def cwd(self) -> str:
        """Folder to run in."""

    @property
    def keep(self) -> list[str] | str | None:
        """Variables to keep."""

    @property
    def outbox(self) -> str:
        """Folder for files of results."""

    @property
    def result_cap_bytes(self) -> int:
        """The most that the value may take."""


class _Warm:
    """What `preload` leaves for the forked processes."""

    cwd = ""
    local_modules: tuple[str, ...] = ()


def preload(more: Iterable[str] = (), before: Callable[[str], None] = lambda name: None) -> None:
    """Import what cells need and make the shell; called once, in the zygote, on its only thread.

    Parameters
    ----------
    more, before
        What jobs of this environment have needed besides (see `preloading.import_ahead`).
    """
    os.environ["MPLBACKEND"] = surroundings.INLINE
    shell = make_shell()
    ours = set(sys.modules)
    chosen = os.environ.get("ZBRAIN_PRELOAD")
    for name in PRELOAD if chosen is None else filter(None, map(str.strip, chosen.split(","))):
        try:
            importlib.import_module(name)
        except ImportError:
            if chosen is not None:
                sys.stderr.write(f"zbrain: {name}, named in ZBRAIN_PRELOAD, cannot be imported.\n")
    preloading.import_ahead(more, before)
    _Warm.cwd = os.getcwd()
    _Warm.local_modules = tuple(surroundings.local_modules(sys.modules.keys() - ours))
    surroundings.remember_ahead(sys.modules.keys() - ours - set(_Warm.local_modules))
    _warm_up(shell)


def _warm_up(shell: Shell) -> None:
    """Fill the caches of what every cell goes through, and of the first traceback; plain Python, no threads."""
    importlib.import_module("multiprocessing.util")
    shell.should_run_async("", transformed_cell=shell.transform_cell("%time\n!true\n1 / 0"))
    shell.run_cell("None")
    shell.display_formatter.format(0)
    asyncio.new_event_loop().close()
    try:
        compile("def broken(:", "<cell>", "exec")
    except SyntaxError as error:
        shell.InteractiveTB.structured_traceback(type(error), error, error.__traceback__, tb_offset=0)


def run(request: CellRequest, events_fd: int) -> int:
    """Run one cell or function in this process, which then is of no other use.

    Parameters
    ----------
    request : CellRequest
        What to run.
    events_fd : int
        Takes frames (see `frames`); the last is the event ``finished``.

    Returns
    -------
    int
        The exit code: 0, 1 after an exception, n after ``sys.exit(n)``, 130 after an interrupt.
    """
    writer, streams, shell = enter(request.env, request.cwd, events_fd)
    job = _Job(request, shell)
    try:
        job.live()
    except ZBrainError as error:
        job.fail(error)
    except KeyboardInterrupt as error:  # between the end of the code and the end of the job
        job.outcome = Outcome(raised=error, interrupted=True)
    exit_code, failure = job.outcome.exit_code, error_of(shell, job.outcome, is_call=request.function is not None)
    try:
        ending.finish_process()
    except KeyboardInterrupt:
        exit_code = exit_code or INTERRUPTED
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    streams.flush()
    writer.event(
        {
            "kind": "finished",
            "exit_code": exit_code,
            "error": failure,
            "output": shell.outputs.output,
            "result": job.result,
            "not_kept": job.not_kept,
            "is_final": job.is_final,
            "variables": job.variables,
        }
    )
    writer.close()
    return exit_code


def enter(environ: Mapping[str, str], cwd: str, events_fd: int) -> tuple[FrameWriter, JobStreams, Shell]:
    """Make this process, forked from the zygote, one in which a job's code finds all as in a kernel."""
    writer = FrameWriter(events_fd)
    streams = JobStreams(writer)
    surroundings.forget(_Warm.local_modules)
    surroundings.enter(environ, cwd, _Warm.cwd)
    sys.stdout, sys.stderr = streams.stdout, streams.stderr
    faulthandler.enable(2)
    os.register_at_fork(after_in_child=streams.forked)
    shell = make_shell()
    connect_shell(shell, writer)
    inside.set_channel(writer.event)
    bars = Bars(writer)
    after_import(
        {
            "tqdm.std": bars.patch_console,
            "tqdm.notebook": bars.patch_notebook,
            "ipywidgets.widgets.widget_output": lambda module: patch_output(module, shell.outputs),
        }
    )
    return writer, streams, shell


def error_of(shell: Shell, outcome: Outcome, *, is_call: bool) -> dict[str, Any] | None:
    """Return how code failed as the event ``finished`` carries it, or None; a call's with the exception itself."""
    raised = outcome.raised
    if raised is None or outcome.exit_code == 0:
        return None
    pickled = pack_exception(raised) if is_call else None
    return {**_told(shell, raised), **({} if pickled is None else {"pickled": pickled})}


def _told(shell: Shell, raised: BaseException) -> dict[str, Any]:
    shown: dict[str, Any] | None = shell.outputs.error
    if shown is not None and shown["ename"] == type(raised).__name__:
        return shown
    lines = traceback.format_exception(type(raised), raised, None)
    return {"ename": type(raised).__name__, "evalue": str(raised), "traceback": "".join(lines).splitlines()}


class _Job:
    """One job from loading its inputs to writing its results."""

    def __init__(self, request: CellRequest, shell: Shell) -> None:
        self._request = request
        self._shell = shell
        self.outcome = Outcome()
        self.result: str | None = None
        self.not_kept: str | None = None  # why there is no result
        self.is_final = False  # another attempt would end like this one
        self.variables: list[dict[str, Any]] = []

    def live(self) -> None:
        """Load, run, wait for what the code has started, keep.

        Raises
        ------
        ZBrainError
            If inputs cannot be loaded, or variables asked for cannot be kept.
        """
        loop = asyncio.new_event_loop()
        asyncio.set_event_loop(loop)
        run_code = self._prepare(loop)
        keeper = Keeper(self._shell, self._request.outbox, self._request.keep, self._request.result_cap_bytes)
        self.outcome = run_code()
        failed = self.outcome.exit_code != 0
        ending.finish_tasks(loop, cancel=failed)
        ending.finish_threads()
        self._shell.events.trigger("post_execute")  # figures drawn by tasks and threads
        if not failed:
            self._keep_result(keeper)
        self.variables = keeper.write_variables(self._request.code or "", failed=failed)

    def _keep_result(self, keeper: Keeper) -> None:
        """Write the value; a function that is run for its value fails without it, a cell does not."""
        try:
            self.result = keeper.write_result(self.outcome.value)
        except ValueNotKept as error:
            self.not_kept = str(error)
            if self._request.function is not None:
                self.fail(error)
                self.is_final = True
            else:
                sys.stderr.write(f"zbrain: {self.not_kept[0].lower()}{self.not_kept[1:]}\n")

    def fail(self, error: ZBrainError) -> None:
        """Show an error of ours as a cell's error, and let the job fail with it."""
        if self.outcome.raised is None:
            self.outcome = Outcome(raised=error)
            self._shell.showtraceback((type(error), error, None))

    def _prepare(self, loop: asyncio.AbstractEventLoop) -> Callable[[], Outcome]:
        shell, request = self._shell, self._request
        if CELL_INPUT in request.inputs:
            self._take_cell(Reader(request.inputs[CELL_INPUT], "cell", request.inputs))
        if request.function is not None:
            surroundings.take_path(Reader(request.function, "call", request.inputs).header)
            function, args, kwargs = load_call(request.function, shell.user_ns, self._arguments(), request.inputs)
            return lambda: run_call(shell, loop, function, args, kwargs)
        variables = self._arguments()
        if variables is not None:
            shell.user_ns.update(Reader(variables, "names", request.inputs).load(shell.user_ns))
        return lambda: loop.run_until_complete(run_cell(shell, request.code or ""))

    def _arguments(self) -> bytes | str | None:
        inline = self._request.arguments
        return self._request.inputs.get(ARGUMENTS_INPUT) if inline is None else b64decode(inline)

    def _take_cell(self, reader: Reader) -> None:
        """Bring over what the magic shipped: variables, imports, options, the cell's number."""
        header = reader.header
        surroundings.take_path(header)
        surroundings.repeat_imports(header.get("imports", ()))
        values = reader.load(self._shell.user_ns)
        options = values.pop(surroundings.OPTIONS, {})
        self._shell.user_ns.update(values)
        for extension in header.get("extensions", ()):
            self._shell.extension_manager.load_extension(extension)
        surroundings.take_options(self._shell, options)
        surroundings.take_warning_filters(header.get("warnings", ()))
        self._shell.compile._filename_map.update(header.get("cells", {}))
        self._shell.execution_count = header.get("execution_count", 1)
