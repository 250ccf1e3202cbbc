"""``%%zbrain``: takes the cell out of the kernel."""

from __future__ import annotations

import shutil
import sys
import uuid
from base64 import b64encode
from pathlib import Path
from typing import Any

import msgspec
from IPython.core.interactiveshell import InteractiveShell
from IPython.core.magic import Magics, line_cell_magic, magics_class

from zbrain_nb.client.client import Client, parallel_fields
from zbrain_nb.client.connecting import connect
from zbrain_nb.client.group import GROUP_TAG, PLACE_TAG, JobGroup
from zbrain_nb.client.handle import JobHandle, error_of
from zbrain_nb.client.printing import age, printable
from zbrain_nb.model.environment import travelling_environ
from zbrain_nb.model.errors import Detached, UsageError
from zbrain_nb.model.job import JobSpec
from zbrain_nb.model.kernels import Kernel
from zbrain_nb.model.limits import limits_from_pairs
from zbrain_nb.model.payload import pack
from zbrain_nb.model.settings import read_settings
from zbrain_nb.notebook.arguments import PARSER, CellOptions, parse_line, split
from zbrain_nb.notebook.attaching import find_group
from zbrain_nb.notebook.binding import OutBindings
from zbrain_nb.notebook.caching import cache_key, imports_of
from zbrain_nb.notebook.capture import check_syntax, parse_cell
from zbrain_nb.notebook.defaults import Defaults, Preferences, preferences_of
from zbrain_nb.notebook.environments import differences, find_kernel, refuse_cache, refuse_variables
from zbrain_nb.notebook.following import Follower
from zbrain_nb.notebook.grid import combinations, label
from zbrain_nb.notebook.line import ID_CHARS, Desk, run_line
from zbrain_nb.notebook.line import PARSER as LINE_PARSER
from zbrain_nb.notebook.origin import (
    CELL_TAG,
    NOTEBOOK_TAG,
    NOTIFY_GROUP_TAG,
    NOTIFY_TAG,
    PRINT_TAG,
    VARIABLE_TAG,
    cell_of,
    notebook_of,
    print_of,
)
from zbrain_nb.notebook.runs import NotebookRuns
from zbrain_nb.notebook.setup import configure, show_diagnosis
from zbrain_nb.notebook.shipping import Shipment, ship_cell
from zbrain_nb.notebook.sql import run_sql
from zbrain_nb.notebook.waiting import let_go, wait_and_show


@magics_class
class ZBrainMagics(Magics):
    """The magics of zbrain, one set for each shell."""

    shell: InteractiveShell
    _desk: Desk | None = None
    _follower: Follower | None = None
    _explained: frozenset[str] = frozenset()

    @property
    def desk(self) -> Desk:
        """What the magics of this shell work with; connected when first needed."""
        if self._desk is None:
            client = connect()
            namespace = self.shell.user_ns
            bindings = OutBindings(client, namespace, self.shell.compile._filename_map)
            self._desk = Desk(client, namespace, NotebookRuns(client, notebook_of(self.shell)), bindings)
            self._follower = Follower(self._desk)
        return self._desk

    @property
    def desk_if_there(self) -> Desk | None:
        """The desk, if something needed it already."""
        return self._desk

    def before_cell(self, info: object) -> None:
        """Let names follow what was retried elsewhere; IPython calls this before each cell."""
        if self._follower is not None:
            self._follower.look()

    @property
    def client(self) -> Client:
        """The client of this shell."""
        return self.desk.client

    @line_cell_magic
    def zbrain(self, line: str, cell: str | None = None) -> Any:  # noqa: D102 - see below
        if cell is not None:
            self.run_cell(line, cell)
            return None
        verb, _, rest = line.strip().partition(" ")
        if verb == "sql":  # as it stands: its quotes are SQL's
            return run_sql(lambda: self.client, rest.strip())
        words = split(line, "%zbrain")
        if verb == "config":
            return configure(preferences_of(self.shell), words[1:])
        if verb == "doctor":
            return show_diagnosis()
        return run_line(self.desk, words)

    def run_cell(self, line: str, cell: str, *defaults: Defaults) -> None:
        """Do what ``%%zbrain`` does; flags that the line does not say are taken from the last of `defaults`."""
        options = parse_line(line, preferences_of(self.shell).defaults, *defaults)
        if not cell.strip():
            raise UsageError("The cell under %%zbrain is empty.", "Put the code to run below the line.")
        sent = self._submit(options, cell)
        namespace = self.shell.user_ns
        namespace["_zb"] = sent
        if options.job:
            namespace[options.job] = sent
        if isinstance(sent, JobGroup):
            self._show_group(sent, options)
            return
        if isinstance(options.keep, list):
            self.desk.bindings.add(sent, options.keep)
            if sent.cached:
                sent.wait()  # it has ended: this binds
        if self._waits(options):
            wait_and_show(self.shell, sent)
        elif options.quiet:
            sys.stdout.write(f"zbrain: {printable(sent.name)} is {sent.job.state}, job {sent.id}.\n")
        else:
            sent.display()

    def _show_group(self, group: JobGroup, options: CellOptions) -> None:
        if options.quiet:
            sys.stdout.write(f"zbrain: {printable(group.name)}, {len(group):,} runs.\n")
        else:
            group.display()
        if self._waits(options):
            try:
                group.wait()
            except (KeyboardInterrupt, Detached) as stop:
                let_go(stop, "the runs go on. _zb.cancel() ends them, _zb.wait() waits again.")
                return
            error = next(filter(None, (error_of(handle.job) for handle in group)), None)
            if error is not None:
                raise error

    def _submit(self, options: CellOptions, cell: str) -> JobHandle | JobGroup:
        fields: dict[str, Any] = {
            "name": options.name,
            "timeout_secs": options.timeout,
            "max_retries": options.retries,
            "priority": options.priority,
            "cwd": str(Path(options.cwd or ".").expanduser().absolute()),
            "env": _without(travelling_environ(), options.secret) | dict(pair.split("=", 1) for pair in options.env),
            "secrets": list(dict.fromkeys(options.secret)),
            "artifacts": options.artifacts,
            "after": [self._job_id(text) for text in options.after],
            "resources": options.resources,
            "limits": limits_from_pairs(options.limit),
            "worker": options.on or "local",
            "org_id": options.org,
        }
        if options.shell:
            shell = shutil.which("bash") or "sh"
            fields["name"] = options.name or next(filter(None, map(str.strip, cell.splitlines())))[:60]
            spec = JobSpec(cmd=[shell, "-c", cell], **fields)
            return self._find_or_send(spec, None, options)
        own = Kernel(sys.executable, python=sys.executable)
        kernel = own if options.kernel is None else find_kernel(options.kernel, fields["env"])
        refuse_cache(kernel, options)
        if kernel.python is None:
            refuse_variables(kernel, options)
            self._say_what_stays(kernel)
            return self._find_or_send(JobSpec(code=cell, kernel=kernel.folder, **fields), None, options)
        check_syntax(self.shell, cell)
        shipment = ship_cell(self.shell, cell, options.ship)
        if kernel.python != sys.executable and (differs := differences(kernel.python, shipment.modules)):
            sys.stdout.write(f"zbrain: it runs with other versions there: {differs}.\n")
        keep = None if options.keep == "none" else options.keep
        # The spec is checked before the first byte leaves: what cannot run is not uploaded.
        spec = JobSpec(code=cell, keep=keep, kernel=kernel.python, inputs={"cell": "0" * 64}, **fields)
        if options.grid:
            return self._send_grid(spec, shipment, options)
        return self._find_or_send(spec, shipment, options)

    def _say_what_stays(self, kernel: Kernel) -> None:
        """Say once for each kernel that its cells know nothing of the notebook's variables."""
        if kernel.folder not in self._explained:
            self._explained |= {kernel.folder}
            there = f"{printable(kernel.name)} runs {printable(kernel.language)}"
            sys.stdout.write(f"zbrain: {there}: no variables travel to it or back; files and --env do.\n")

    def _send_grid(self, spec: JobSpec, shipment: Shipment, options: CellOptions) -> JobGroup:
        """Return the active group that does the very same, or submit a job for each combination.

        What the cell takes along travels once.
        """
        tags = self._tags(options) | {GROUP_TAG: uuid.uuid4().hex}
        tags[PRINT_TAG] = self._print_of(spec, shipment, tags, repr(options.grid), options.max_parallel)
        same, earlier = self._active(tags, options)
        if same is not None:
            group = find_group(self.client, same.job.spec.tags[GROUP_TAG])
            group.earlier = earlier
            return group
        digest, apart = self.client.call(self.client.asynchronous.put_parcel, shipment.parcel)
        more = {"inputs": {"cell": digest, **apart}, **parallel_fields(options.max_parallel, "grid")}
        specs = [
            msgspec.structs.replace(
                spec,
                arguments=b64encode(pack(values)).decode(),
                tags={**{name: label(value)[:4096] for name, value in values.items()}, **tags, PLACE_TAG: str(place)},
                **more,
            )
            for place, values in enumerate(combinations(options.grid))
        ]
        group = self.client.submit_many(specs)
        group.earlier = earlier
        for handle in group:
            handle.shipped, handle.earlier = shipment.said, earlier
            self.desk.runs.add(handle)
        return group

    def _tags(self, options: CellOptions) -> dict[str, str]:
        """Return the tags by which a job is found again."""
        notebook, cell = notebook_of(self.shell), cell_of(self.shell)
        tags = {NOTEBOOK_TAG: notebook}
        if cell is not None:
            tags[CELL_TAG] = print_of(notebook, cell)
        if options.job:
            tags[VARIABLE_TAG] = options.job
        if options.notify_after is not None:
            tags[NOTIFY_GROUP_TAG if options.grid else NOTIFY_TAG] = f"{options.notify_after:g}"
        return tags

    def _find_or_send(self, spec: JobSpec, shipment: Shipment | None, options: CellOptions) -> JobHandle:
        """Return the active job that does the very same, or one that did (with ``--cache``), or submit."""
        tags = self._tags(options)
        tags[PRINT_TAG] = self._print_of(spec, shipment, tags)
        same, earlier = self._active(tags, options)
        if same is not None:
            return same
        if options.cache:
            imported = imports_of(parse_cell(self.shell, spec.code)) if shipment and spec.code else ()
            spec = msgspec.structs.replace(spec, cache_key=cache_key(spec, shipment, imported))
            if (cached := self._cached(spec, options)) is not None:
                cached.earlier = earlier
                return cached
        spec = msgspec.structs.replace(spec, tags=tags)
        if shipment is not None:
            digest, apart = self.client.call(self.client.asynchronous.put_parcel, shipment.parcel)
            spec = msgspec.structs.replace(spec, inputs={"cell": digest, **apart})
        handle = self.client.submit_many([spec])[0]
        handle.earlier = earlier
        if shipment is not None:
            handle.shipped = shipment.said
        self.desk.runs.add(handle)
        return handle

    def _cached(self, spec: JobSpec, options: CellOptions) -> JobHandle | None:
        """Return a job that gave what this one would give, and say so; None if there is none, or with ``--new``."""
        if options.new or spec.cache_key is None:
            return None
        job = self.client.call(self.client.asynchronous.cached, spec.cache_key)
        if job is None:
            return None
        handle = JobHandle(self.client, job, cached=True)
        said = f"{printable(handle.name)} did the same {age(job.finished_at or job.created_at)} ago"
        sys.stdout.write(f"zbrain: nothing ran: {said} (--new: run it anyway).\n")
        self.desk.runs.add(handle)
        return handle

    def _print_of(self, spec: JobSpec, shipment: Shipment | None, tags: dict[str, str], *more: object) -> str:
        """Return what is equal for two runs of a cell that do the very same."""
        said = msgspec.json.encode(msgspec.structs.replace(spec, inputs={}), order="sorted").decode()
        fingerprint = shipment.fingerprint if shipment else ""
        return print_of(tags[NOTEBOOK_TAG], tags.get(CELL_TAG, ""), said, fingerprint, *map(str, more))

    def _active(self, tags: dict[str, str], options: CellOptions) -> tuple[JobHandle | None, JobGroup | None]:
        """Return an active job that does the very same, and the earlier ones of the cell that are active; say so."""
        if options.new:
            return None, None
        runs = self.desk.runs
        if (same := runs.same(tags[PRINT_TAG])) is not None:
            sys.stdout.write(f"zbrain: attached to {printable(same.name)}, which runs already (--new: another).\n")
            tag = NOTIFY_GROUP_TAG if options.grid else NOTIFY_TAG
            if options.notify_after is not None and tags[tag] != same.job.spec.tags.get(tag):
                sys.stdout.write("zbrain: --notify-after is as it was when the job was submitted.\n")
            return same, same.earlier
        earlier = runs.earlier(tags.get(CELL_TAG))
        if len(earlier) == 1:
            still = f"an earlier {printable(earlier.name)} of this cell is still {earlier[0].job.state}"
            sys.stdout.write(f"zbrain: {still}; `%zbrain cancel {earlier[0].id[:ID_CHARS]}` ends it.\n")
        elif earlier:
            still = f"{len(earlier):,} earlier jobs of this cell are still active"
            sys.stdout.write(f"zbrain: {still}; `{options.job or '_zb'}.earlier.cancel()` ends them.\n")
        return None, earlier

    def _job_id(self, text: str) -> str:
        return self.desk.job(text).id

    def _waits(self, options: CellOptions) -> bool:
        if options.wait is not None:
            return options.wait
        setting = read_settings().wait
        return not self._watched() if setting is None else setting

    def _watched(self) -> bool:
        """Whether a person sits at the kernel: nbclient, papermill and nbval run it without ``allow_stdin``."""
        kernel = getattr(self.shell, "kernel", None)
        return kernel is None or bool(getattr(kernel, "_allow_stdin", True))


def explain(preferences: Preferences) -> None:
    """Say in ``%%zbrain?`` what there is, the user's own magics included."""
    parts = [
        "Run this cell as a job, outside the kernel, and show it live here.",
        PARSER.format_help(),
        *(f"%%{name} is %%zbrain {' '.join(flags.words())}" for name, flags in preferences.magics.items()),
        "The line `%zbrain` alone looks at jobs:",
        LINE_PARSER.format_help(),
    ]
    ZBrainMagics.zbrain.__doc__ = "\n\n".join(parts)


explain(Preferences())


def _without(environ: dict[str, str], names: list[str]) -> dict[str, str]:
    """Return variables without those that are secrets: their values stand in no spec."""
    return {name: value for name, value in environ.items() if name not in names}
