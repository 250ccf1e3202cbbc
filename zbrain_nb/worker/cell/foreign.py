"""Runs a cell in the kernel of another language, through the Jupyter messaging protocol.

`run` is called in the process forked for the job, instead of `runtime.run`. The kernel is a child of this process
and so below the job's supervisor, which ends both; what the kernel publishes becomes the same events as a cell of
Python makes. It starts as Jupyter would start it: on loopback, or, if it can, on sockets in a private folder.
"""

from __future__ import annotations

import asyncio
import json
import os
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import zmq.asyncio
from jupyter_client.asynchronous.client import AsyncKernelClient
from jupyter_client.kernelspec import KernelSpecManager
from jupyter_client.manager import AsyncKernelManager
from jupyter_client.provisioning.provisioner_base import KernelProvisionerBase

from zbrain_nb.model.errors import TooLarge
from zbrain_nb.model.packing import Packing
from zbrain_nb.model.sizes import format_kib
from zbrain_nb.worker.cell.displays import MAX_OUTPUT_CHARS, OutputSession
from zbrain_nb.worker.cell.frames import STDERR, STDOUT, FrameWriter
from zbrain_nb.worker.processes import oom_kills

#: How long a kernel may take to start: Julia compiles first.
START_SECS = 180
#: A kernel that has replied, and publishes nothing for so long, will not say that it is idle.
_SILENCE_SECS = 10.0
#: So long one that has died, or waits for input, has to be silent: nothing more is on its way then.
_REST_SECS = 2.0
_INTERRUPTED = 130
#: Programs that start another one beside them, where the same files are.
_LAUNCHERS = frozenset({"conda", "env", "mamba", "micromamba", "nice", "pixi", "poetry", "uv"})


class KernelRequest(Protocol):
    """What `run` reads of a request."""

    @property
    def kernel(self) -> str | None:
        """Folder of the kernelspec."""

    @property
    def code(self) -> str | None:
        """Text of the cell."""

    @property
    def env(self) -> Mapping[str, str]:
        """The complete environment."""

    @property
    def cwd(self) -> str:
        """Folder to run in."""

    @property
    def outbox(self) -> str:
        """Folder for files of results."""

    @property
    def result_cap_bytes(self) -> int:
        """The most that the value may take."""


class _Failed(Exception):
    """The kernel could not run the cell to its end.

    Parameters
    ----------
    ename, message : str
        As the job's error shows it.
    exit_code : int
        Of the job.
    """

    def __init__(self, ename: str, message: str, exit_code: int = 1) -> None:
        super().__init__(message)
        self.ename = ename
        self.exit_code = exit_code


def run(request: KernelRequest, events_fd: int) -> int:
    """Run one cell in a kernel of its own, and end that kernel.

    Parameters
    ----------
    request : KernelRequest
        What to run.
    events_fd : int
        Takes frames (see `frames`); the last is the event ``finished``.

    Returns
    -------
    int
        The exit code: 0, 1 after an error, 130 after an interrupt, -n if the kernel died by signal n.
    """
    # held back until there is a loop that hears it
    signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGINT])
    os.environ.clear()
    os.environ.update(request.env)
    writer = FrameWriter(events_fd)
    outputs = OutputSession()
    outputs.connect(writer)
    session = _Session(request, writer, outputs)
    try:
        exit_code = asyncio.run(session.live())
    except _Failed as error:
        exit_code = error.exit_code
        content = {"ename": error.ename, "evalue": str(error), "traceback": [f"{error.ename}: {error}"]}
        outputs.send(None, "error", content)
    shown, result = session.keep_value() if exit_code == 0 else (None, None)
    writer.event(
        {
            "kind": "finished",
            "exit_code": exit_code,
            "error": outputs.error if exit_code != 0 else None,
            "output": shown,
            "result": result,
            "variables": [],
        }
    )
    writer.close()
    return exit_code


class _Session:
    """One kernel, from its start to its end, and the one cell that it runs."""

    def __init__(self, request: KernelRequest, writer: FrameWriter, outputs: OutputSession) -> None:
        assert request.kernel is not None
        self._request = request
        self._writer = writer
        self._outputs = outputs
        self._folder = Path(request.kernel)
        self._interrupt = asyncio.Event()
        self._was_interrupted = False
        self._is_idle = False
        self._published = 0  # messages so far
        self._oom_kills = oom_kills()
        self._value: Any = None  # as JSON, else as text

    async def live(self) -> int:
        """Start the kernel, run the cell, end the kernel; return the exit code.

        Raises
        ------
        _Failed
            If the kernel does not start, dies, or asks for input.
        """
        asyncio.get_running_loop().add_signal_handler(signal.SIGINT, self._interrupt.set)
        signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGINT])
        # nothing is dropped of what the kernel publishes faster than it is read here
        with zmq.asyncio.Context() as context, tempfile.TemporaryDirectory(prefix="zbrain-") as private:
            context.rcvhwm = 0
            manager = AsyncKernelManager(
                kernel_name=self._folder.name,
                kernel_spec_manager=KernelSpecManager(kernel_dirs=[str(self._folder.parent)]),
                connection_file=f"{private}/kernel.json",
                context=context,
            )
            if _speaks_ipc(manager):
                manager.transport, manager.ip = "ipc", f"{private}/kernel"
            provisioner = await self._start(manager)
            client = manager.client(context=context)
            client.start_channels(hb=False)
            died = asyncio.create_task(provisioner.wait())
            try:
                if not await self._is_ready(client, died):
                    return _INTERRUPTED
                return await self._execute(manager, client, died)
            finally:
                client.stop_channels()
                if died.done():
                    await manager.cleanup_resources()
                else:
                    died.cancel()  # the manager waits for the process itself
                    await self._shut_down(manager)

    async def _shut_down(self, manager: AsyncKernelManager) -> None:
        if not self._is_idle:
            await manager.shutdown_kernel(now=True)
            return
        # not `shutdown_kernel`, which interrupts first: an idle kernel only complains about that in the job's log
        await manager.request_shutdown()
        await manager.finish_shutdown()
        await manager.cleanup_resources()

    async def _start(self, manager: AsyncKernelManager) -> KernelProvisionerBase:
        spec = manager.kernel_spec
        assert spec is not None
        if spec.argv and shutil.which(spec.argv[0]) is None:
            raise self._not_started(f"its program {spec.argv[0]!r} was not found on the worker.")
        try:
            await manager.start_kernel(cwd=self._request.cwd, env=dict(self._request.env), stdin=subprocess.DEVNULL)
        except (OSError, ImportError, RuntimeError, ValueError) as error:  # the provisioner's own troubles too
            raise self._not_started(f"{error}.") from error
        assert manager.provisioner is not None
        return manager.provisioner

    def _not_started(self, why: str) -> _Failed:
        return _Failed("DeadKernelError", f"The kernel {self._folder.name!r} did not start: {why}")

    async def _is_ready(self, client: AsyncKernelClient, died: asyncio.Task[int | None]) -> bool:
        """Wait for a kernel that starts; return False if the job was interrupted before."""
        ready = asyncio.create_task(client.wait_for_ready())
        interrupted = asyncio.create_task(self._interrupt.wait())
        try:
            await asyncio.wait({ready, died, interrupted}, timeout=START_SECS, return_when=asyncio.FIRST_COMPLETED)
            if died.done():
                raise self._not_started(f"it ended {_how(died.result())}; see the log for what it said.")
            if interrupted.done():
                return False
            if not ready.done():
                raise self._not_started(f"it was silent for {START_SECS} s.")
            ready.result()
        except RuntimeError as error:  # the client's word for a kernel that is gone
            raise self._not_started(f"{error}.") from error
        finally:
            ready.cancel()
            interrupted.cancel()
        return True

    async def _execute(
        self, manager: AsyncKernelManager, client: AsyncKernelClient, died: asyncio.Task[int | None]
    ) -> int:
        message_id = client.execute(self._request.code or "", allow_stdin=False)
        published = asyncio.create_task(self._publish(client, message_id))
        replied = asyncio.create_task(self._reply(client, message_id))
        asked = asyncio.create_task(client.get_stdin_msg())
        forward = asyncio.create_task(self._forward_interrupts(manager))
        try:
            await asyncio.wait({replied, asked, died}, return_when=asyncio.FIRST_COMPLETED)
            await self._hear_out(published, replied, died)
            if not replied.done() and asked.done():
                prompt = str(asked.result()["content"].get("prompt", "")).strip()
                raise _Failed(
                    "StdinNotImplementedError",
                    f"The cell asks for input{f' ({prompt})' if prompt else ''}, and a job has nobody to talk to. "
                    "Write what it shall read to a file, or pass it with --env.",
                )
            if not replied.done():
                raise self._death(died.result())
            self._is_idle = True
            return self._take_reply(replied.result())
        finally:
            for task in (published, replied, asked, forward):
                task.cancel()

    async def _hear_out(
        self, published: asyncio.Task[None], replied: asyncio.Task[dict[str, Any]], died: asyncio.Task[int | None]
    ) -> None:
        """Wait until all that the kernel has published is heard, however much that is: it is idle then, or silent."""
        while not published.done():
            is_dead, heard = died.done(), self._published
            is_orderly = replied.done() and not is_dead
            done, _ = await asyncio.wait(
                {published} if is_dead else {published, died},
                timeout=_SILENCE_SECS if is_orderly else _REST_SECS,
                return_when=asyncio.FIRST_COMPLETED,
            )
            if done or self._published != heard:
                continue
            if is_orderly:
                said = f"never said that it is idle, and was silent for {_SILENCE_SECS:.0f} s"
                self._writer.text(STDERR, f"zbrain: the kernel {said}; what else it had to say is not here.\n")
            return
        published.result()
        if died.done():
            await asyncio.wait({replied}, timeout=_REST_SECS)

    async def _forward_interrupts(self, manager: AsyncKernelManager) -> None:
        """Interrupt the kernel as its kernelspec wants it, by a signal or a message, each time the job is."""
        while await self._interrupt.wait():
            self._interrupt.clear()
            self._was_interrupted = True
            await manager.interrupt_kernel()

    async def _publish(self, client: AsyncKernelClient, message_id: str) -> None:
        """Turn what the kernel publishes into events until it is idle again."""
        while True:
            message = await client.get_iopub_msg()
            self._published += 1
            kind, content = message["msg_type"], message["content"]
            if message["parent_header"].get("msg_id") != message_id:
                continue
            if kind == "status" and content.get("execution_state") == "idle":
                return
            if kind == "stream":
                self._writer.text(STDERR if content.get("name") == "stderr" else STDOUT, str(content.get("text", "")))
            elif kind == "error":
                self._outputs.send(None, kind, _whole_error(content))
            else:
                if kind == "execute_result":
                    data = content.get("data") or {}
                    self._value = data.get("application/json", data.get("text/plain"))
                self._outputs.send(None, {"msg_type": kind, "content": content})

    async def _reply(self, client: AsyncKernelClient, message_id: str) -> dict[str, Any]:
        while True:
            message = await client.get_shell_msg()
            if message["parent_header"].get("msg_id") == message_id:
                content: dict[str, Any] = message["content"]
                return content

    def _take_reply(self, content: Mapping[str, Any]) -> int:
        for payload in content.get("payload") or []:
            if payload.get("source") == "page":  # help, which a notebook shows in its pager
                self._outputs.send(None, "display_data", {"data": payload.get("data") or {}})
        if content.get("status") == "ok":
            return 0
        if self._outputs.error is None:
            self._outputs.send(None, "error", _whole_error(content))
        return _INTERRUPTED if self._was_interrupted else 1

    def _death(self, exit_code: int | None) -> _Failed:
        why = _how(exit_code)
        if exit_code == -signal.SIGKILL and oom_kills() > self._oom_kills:
            why += ", for the machine ran out of memory"
        # a kernel that ends with 0 has not run the cell to its end either
        return _Failed("DeadKernelError", f"The kernel {self._folder.name!r} died {why}.", exit_code or 1)

    def keep_value(self) -> tuple[Any, str | None]:
        """Return the value as it is shown, and the path of the file that keeps it whole."""
        if self._value is None:
            return None, None
        value = self._value
        is_short = len(value if isinstance(value, str) else json.dumps(value)) <= MAX_OUTPUT_CHARS
        shown = value if is_short else self._outputs.output
        try:
            packing = Packing({"": value}, None, self._request.result_cap_bytes)
        except TooLarge:
            cap = format_kib(self._request.result_cap_bytes / 1024)
            self._writer.text(STDERR, f"zbrain: the value was not kept: it is over {cap} (limits.result_mb).\n")
            return shown, None
        path = Path(self._request.outbox, "result.pickle")
        path.write_bytes(packing.tobytes("value"))
        return shown, str(path)


def _speaks_ipc(manager: AsyncKernelManager) -> bool:
    """Whether a kernel is known to speak over sockets in a private folder, which other accounts cannot listen to.

    Kernels in Python are made with ipykernel, which does. One that a program of unknown kind starts may run elsewhere,
    as in a container, where the folder is not.
    """
    spec = manager.kernel_spec
    words = spec.argv if spec is not None else []
    program = Path(words[0]).name if words else ""
    if program in _LAUNCHERS:
        return any("ipykernel" in word for word in words)
    return program.startswith("python") or program in ("R", "julia")


def _whole_error(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return an error as the protocol wants it; kernels leave out parts."""
    ename = str(content.get("ename") or ("Aborted" if content.get("status") in ("abort", "aborted") else "Error"))
    evalue = str(content.get("evalue") or "")
    traceback = [str(line) for line in content.get("traceback") or [f"{ename}: {evalue}"]]
    return {"ename": ename, "evalue": evalue, "traceback": traceback}


def _how(exit_code: int | None) -> str:
    """Say how a process ended, behind the words ``it ended``."""
    if exit_code is None or exit_code >= 0:
        return f"with exit code {exit_code}"
    try:
        return f"by {signal.Signals(-exit_code).name}"
    except ValueError:
        return f"by signal {-exit_code}"
