"""A JupyterLab of its own in a subprocess, and a person's hands in it."""

from __future__ import annotations

import os
import re
import secrets
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import nbformat
from playwright.sync_api import Locator, Page, expect

from tests.conftest import end_everything
from zbrain_nb.notebook.bundle import MIME_TYPE

START_SECS = 60


def free_port() -> int:
    """Return a port of the loopback that is free now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


class Lab:
    """A Jupyter server on a folder; as a context manager, started, and ended with the host of its data directory.

    Parameters
    ----------
    folder : Path
        Its root; notebooks go here.
    data : Path
        ``ZDB_DATA`` of the server and its kernels.
    app : str
        ``lab``, ``notebook`` or ``server``.
    **environ
        Environment variables of the server and its kernels.
    """

    def __init__(self, folder: Path, data: Path, app: str = "lab", **environ: str) -> None:
        self.environ = environ
        self.folder = folder
        self.data = data
        self.app = app
        self.port = free_port()
        self.token = secrets.token_hex(16)
        self.url = f"http://127.0.0.1:{self.port}/base/"
        self.process: subprocess.Popen[bytes] | None = None
        folder.mkdir(parents=True, exist_ok=True)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()
        end_everything(self.data)

    def start(self) -> None:
        """Start the server, and return when it answers."""
        settings = self.folder / ".settings"
        announcements = settings / "@jupyterlab" / "apputils-extension" / "notification.jupyterlab-settings"
        announcements.parent.mkdir(parents=True, exist_ok=True)
        announcements.write_text('{"fetchNews": "false"}')  # its question lies over the page
        page = self.folder / ".config" / "labconfig" / "page_config.json"
        page.parent.mkdir(parents=True, exist_ok=True)
        page.write_text('{"exposeAppInBrowser": true}')
        environ = {
            **os.environ,
            "JUPYTERLAB_SETTINGS_DIR": str(settings),
            "JUPYTER_CONFIG_DIR": str(page.parent.parent),
            "ZDB_DATA": str(self.data),
            "IPYTHONDIR": str(self.folder / ".ipython"),
        } | self.environ
        module, name = {
            "lab": ("jupyterlab", "LabApp"),
            "notebook": ("notebook", "JupyterNotebookApp"),
            "server": ("jupyter_server", ""),
        }[self.app]
        command = [sys.executable, "-m", module]
        command += ["--no-browser", "--allow-root", "--ServerApp.ip=127.0.0.1", f"--ServerApp.port={self.port}"]
        command += ["--ServerApp.port_retries=0", f"--IdentityProvider.token={self.token}"]
        command += [f"--ServerApp.root_dir={self.folder}", "--ServerApp.base_url=/base/"]
        if name:
            command += [f"--{name}.check_for_updates_class=jupyterlab.NeverCheckForUpdate"]
        log = (self.folder / "server.log").open("ab")
        self.process = subprocess.Popen(
            command, env=environ, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
        )
        log.close()
        deadline = time.monotonic() + START_SECS
        while True:
            try:
                urllib.request.urlopen(f"{self.url}api/status?token={self.token}", timeout=5).close()
                return
            except OSError as error:
                assert time.monotonic() < deadline, (self.folder / "server.log").read_text()
                assert self.process.poll() is None, (self.folder / "server.log").read_text()
                del error
                time.sleep(0.1)  # a foreign server has no other sign of being ready

    def kill(self) -> None:
        """End the server at once, as a crash does."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def stop(self) -> None:
        """End the server as Ctrl-C does, with its kernels."""
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(15)
            except subprocess.TimeoutExpired:
                # Jupyter's own file threads (anyio's) sometimes outlive its loop, and the process waits for them.
                self.kill()

    def write_notebook(self, name: str, *cells: str) -> None:
        """Write a notebook with these code cells."""
        notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(cell) for cell in cells])
        notebook.metadata["kernelspec"] = {"name": "python3", "display_name": "Python 3", "language": "python"}
        nbformat.write(notebook, self.folder / name)

    def open(self, page: Page, name: str, *, kernel: bool = True) -> Notebook:
        """Open a notebook in the browser, and return when its kernel is idle (without `kernel`: when it is shown)."""
        path = (
            f"lab/tree/{name}?reset&token={self.token}" if self.app == "lab" else f"notebooks/{name}?token={self.token}"
        )
        page.goto(f"{self.url}{path}")
        notebook = Notebook(page, self.app)
        notebook.cell(0).wait_for(timeout=60_000)
        if kernel:
            notebook.wait_until_idle()
        return notebook


class Notebook:
    """An open notebook in a page."""

    def __init__(self, page: Page, app: str) -> None:
        self.page = page
        self.app = app

    def wait_until_idle(self) -> None:
        """Wait until the kernel is connected and idle."""
        self.page.wait_for_function("window.jupyterapp?.shell?.currentWidget?.sessionContext")
        self.page.evaluate(
            """async () => {
                const session = window.jupyterapp.shell.currentWidget.sessionContext;
                await session.ready;
                await session.session.kernel.info;
            }"""
        )
        indicator = self.page.locator(".jp-Notebook-ExecutionIndicator").first
        expect(indicator).to_have_attribute("data-status", re.compile("idle"), timeout=60_000)

    def cell(self, index: int) -> Locator:
        """Return the code cell with this index."""
        return self.page.locator(".jp-Notebook .jp-CodeCell").nth(index)

    def view(self, index: int) -> Locator:
        """Return the live view under a cell."""
        return self.cell(index).locator(".zb").first

    def run(self, index: int) -> float:
        """Press Shift-Enter in a cell; return when, by the monotonic clock."""
        self.cell(index).locator(".jp-InputArea-editor .cm-content").click()
        now = time.monotonic()
        self.page.keyboard.press("Shift+Enter")
        return now

    def prompt(self, index: int) -> Locator:
        """Return what stands before a cell: ``[ ]:``, ``[*]:`` or ``[3]:``."""
        return self.cell(index).locator(".jp-InputPrompt").first

    def run_to_end(self, index: int) -> None:
        """Run a cell, and return when the kernel has done it."""
        self.run(index)
        expect(self.prompt(index)).to_have_text(re.compile(r"\[\d+\]"), timeout=30_000)

    def command(self, name: str) -> Any:
        """Run a command of JupyterLab by its id."""
        return self.page.evaluate("id => window.jupyterapp.commands.execute(id)", name)

    def save(self) -> None:
        """Save the notebook."""
        self.command("docmanager:save")

    def save_when(self, holds: Callable[[dict[str, Any]], bool], lab: Lab, name: str, seconds: float = 20) -> None:
        """Save until what the notebook keeps of its last job is as wanted."""
        deadline = time.monotonic() + seconds
        while True:
            self.save()
            saved = nbformat.read(lab.folder / name, as_version=4)
            kept = [
                o.data[MIME_TYPE] for c in saved.cells for o in c.get("outputs", ()) if MIME_TYPE in o.get("data", {})
            ]
            if kept and holds(kept[-1]):
                return
            assert time.monotonic() < deadline, kept
            self.page.wait_for_timeout(100)

    def restart_kernel(self) -> None:
        """Restart the kernel, or start one where it went with its server, and return when it is idle."""
        self.page.evaluate(
            """async () => {
                const { sessionContext } = window.jupyterapp.shell.currentWidget;
                await window.jupyterapp.serviceManager.sessions.refreshRunning();
                if (sessionContext.session?.kernel) await sessionContext.restartKernel();
                else await sessionContext.changeKernel({ name: 'python3' });
            }"""
        )
        self.wait_until_idle()

    def shut_down_kernel(self) -> None:
        """End the kernel."""
        self.page.evaluate("() => window.jupyterapp.shell.currentWidget.sessionContext.shutdown()")
