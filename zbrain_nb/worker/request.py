"""What the worker tells the spawner: one file for each attempt, complete in itself."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from zbrain_nb.model.limits import GRACE_SECS, Limits

#: How much of a job's output is kept, about: as much is spooled, and as much becomes its log.
LOG_BYTES = Limits().log_bytes


class RunRequest(msgspec.Struct, kw_only=True):
    """Everything that is needed to run one attempt and, after a restart of the worker, to finish it.

    Attributes
    ----------
    job_id, attempt, org_id : str, int, str
        Which attempt of which job.
    cmd : list of str or None
        A command, run without a shell; empty for a session of commands.
    code : str or None
        Source of a cell.
    function : str or None
        Path of the file with the pickled call.
    arguments : str or None
        More arguments of the call, or variables to set before a cell, as Base64.
    env : dict of str to str
        The complete environment of the job.
    cwd : str
        Folder to run in.
    scratch : str or None
        Folder made for this attempt, removed at its end.
    outbox : str
        Folder of the attempt: ``artifacts/``, ``input.json``, ``output.json``, ``events``; results go here too.
    checkpoints : str
        Folder that outlives the attempt.
    is_last : bool
        Whether no other attempt of the job follows if this one ends by itself.
    timeout_secs : float or None
        How long it may run.
    memory_mb : int or None
        Resident MiB that its processes may take together.
    cpu_secs : float or None
        Seconds of CPU time that they may take together.
    open_files : int or None
        Files that each of them may have open.
    grace_secs : float
        How long after the first interrupt they are killed.
    artifacts_cap_bytes : int or None
        Artifacts past this are not kept.
    result_cap_bytes : int
        A larger value of a cell or function is not kept.
    python : str
        Interpreter of cells and functions.
    modules : list of str
        What the job will import, as far as is known.
    is_pooled : bool
        Whether its process may be forked from a warm one.
    kernel : str or None
        Folder of the kernelspec whose kernel runs the cell, in another language than Python.
    inputs : dict of str to str
        Names and paths of the blobs that the job reads.
    keep : list of str, "auto" or None
        Variables of a cell to keep.
    artifacts : list of str
        Globs relative to `cwd`.
    spool_cap_bytes : int
        Output past this is dropped, but for its last lines.
    title : str
        A short text to show.
    orders : str or None
        Path of the order book of a session of calls (see `calls`); then there is no code of its own.
    """

    job_id: str
    attempt: int
    org_id: str = ""
    cmd: list[str] | None = None
    code: str | None = None
    function: str | None = None
    arguments: str | None = None
    env: dict[str, str] = {}
    cwd: str
    scratch: str | None = None
    outbox: str
    checkpoints: str = ""
    is_last: bool = False
    timeout_secs: float | None = None
    memory_mb: int | None = None
    cpu_secs: float | None = None
    open_files: int | None = None
    grace_secs: float = GRACE_SECS
    artifacts_cap_bytes: int | None = None
    result_cap_bytes: int = Limits().result_bytes
    python: str = ""
    modules: list[str] = []
    is_pooled: bool = True
    kernel: str | None = None
    inputs: dict[str, str] = {}
    keep: list[str] | str | None = None
    artifacts: list[str] = []
    spool_cap_bytes: int = LOG_BYTES
    title: str = ""
    orders: str | None = None

    @property
    def key(self) -> tuple[str, int]:
        """Job and attempt."""
        return self.job_id, self.attempt

    @property
    def events_path(self) -> str:
        """Path of the FIFO that takes event frames (``ZBRAIN_EVENTS``)."""
        return os.path.join(self.outbox, "events")

    @property
    def input_path(self) -> str:
        """Path of the file with the job's JSON input (``ZBRAIN_INPUT``)."""
        return os.path.join(self.outbox, "input.json")

    @property
    def output_path(self) -> str:
        """Path of the file that a command leaves its JSON result in (``ZBRAIN_OUTPUT``)."""
        return os.path.join(self.outbox, "output.json")

    @property
    def artifacts_path(self) -> str:
        """Path of the folder whose files are kept (``ZBRAIN_ARTIFACTS``)."""
        return os.path.join(self.outbox, "artifacts")


def read_request(path: str | os.PathLike[str]) -> RunRequest:
    """Read a request.

    Raises
    ------
    FileNotFoundError
        If it was withdrawn.
    msgspec.DecodeError
        If it is no request.
    """
    return msgspec.json.decode(Path(path).read_bytes(), type=RunRequest)


def write_request(path: Path, request: RunRequest) -> None:
    """Write a request in one step, readable by this account only (it holds the job's environment)."""
    write_private(path, msgspec.json.encode(request))


def write_private(path: Path, content: bytes) -> None:
    """Write a file in one step, readable by this account only."""
    fresh = path.with_name(f".{path.name}.{os.getpid()}")
    fresh.unlink(missing_ok=True)
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
    fresh.replace(path)
