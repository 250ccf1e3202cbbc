"""``%%zbrain``: takes the cell out of the kernel."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import msgspec
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, cell_magic, magics_class

from zbrain_nb.client.client import Client
from zbrain_nb.client.connecting import connect
from zbrain_nb.client.handle import JobHandle
from zbrain_nb.model.environment import travelling_environ
from zbrain_nb.model.errors import UsageError
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.limits import limits_from_pairs
from zbrain_nb.model.settings import read_settings
from zbrain_nb.notebook.arguments import PARSER, CellOptions, parse_line
from zbrain_nb.notebook.binding import OutBindings
from zbrain_nb.notebook.capture import check_syntax
from zbrain_nb.notebook.shipping import Shipment, ship_cell
from zbrain_nb.notebook.waiting import wait_and_show


@magics_class
class ZBrainMagics(Magics):
    """The magics of zbrain, one set for each shell."""

    shell: InteractiveShell
    _client: Client | None = None
    _bindings: OutBindings | None = None

    @property
    def client(self) -> Client:
        """The client of this shell, connected when first needed."""
        if self._client is None:
            self._client = connect()
        return self._client

    @cell_magic
    def zbrain(self, line: str, cell: str) -> None:  # noqa: D102 - its docstring is the help of its flags
        options = parse_line(line)
        if not cell.strip():
            raise UsageError("The cell under %%zbrain is empty.", "Put the code to run below the line.")
        handle = self._submit(options, cell)
        namespace = self.shell.user_ns
        namespace["_zb"] = handle
        if options.job:
            namespace[options.job] = handle
        if isinstance(options.keep, list):
            self._bindings = self._bindings or OutBindings(self.client, namespace, self.shell.compile._filename_map)
            self._bindings.add(handle, options.keep)
        if self._waits(options):
            wait_and_show(self.shell, handle)
        else:
            handle.display()

    zbrain.__doc__ = f"Run this cell as a job, outside the kernel, and show it live here.\n\n{PARSER.format_help()}"

    def _submit(self, options: CellOptions, cell: str) -> JobHandle:
        fields: dict[str, Any] = {
            "name": options.name,
            "timeout_secs": options.timeout,
            "max_retries": options.retries,
            "priority": options.priority,
            "cwd": str(Path(options.cwd or ".").expanduser().absolute()),
            "env": travelling_environ() | dict(pair.split("=", 1) for pair in options.env),
            "artifacts": options.artifacts,
            "after": [self._job_id(text) for text in options.after],
            "resources": options.resources,
            "limits": limits_from_pairs(options.limit),
        }
        if options.shell:
            shell = shutil.which("bash") or "sh"
            fields["name"] = options.name or next(filter(None, map(str.strip, cell.splitlines())))[:60]
            return self.client.submit_many([JobSpec(cmd=[shell, "-c", cell], **fields)])[0]
        check_syntax(self.shell, cell)
        shipment = ship_cell(self.shell, cell, options.ship)
        keep = None if options.keep == "none" else options.keep
        # The spec is checked before the first byte leaves: what cannot run is not uploaded.
        spec = JobSpec(code=cell, keep=keep, kernel=sys.executable, inputs={"cell": "0" * 64}, **fields)
        return self._send(spec, shipment)

    def _send(self, spec: JobSpec, shipment: Shipment) -> JobHandle:
        digest = self.client.call(self.client.asynchronous.put_blob, shipment.data)
        handle = self.client.submit_many([msgspec.structs.replace(spec, inputs={"cell": digest})])[0]
        handle.shipped = shipment.said
        return handle

    def _job_id(self, text: str) -> str:
        value = self.shell.user_ns.get(text)
        return value.id if isinstance(value, JobHandle) else self.client.job(text).id

    def _waits(self, options: CellOptions) -> bool:
        if options.wait is not None:
            return options.wait
        setting = read_settings().wait
        return not self._watched() if setting is None else setting

    def _watched(self) -> bool:
        """Whether a person sits at the kernel: nbclient, papermill and nbval run it without ``allow_stdin``."""
        kernel = getattr(self.shell, "kernel", None)
        return kernel is None or bool(getattr(kernel, "_allow_stdin", True))
