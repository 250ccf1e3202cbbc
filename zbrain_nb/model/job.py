"""What a job is: the spec that a caller writes, the job that the queue keeps, and the words for both.

`JobSpec` checks itself when it is made, from Python and from JSON alike, so a spec that exists is valid.
`Job` is a snapshot: the queue hands out new ones, nobody changes one in place. Both are kept from the garbage
collector (``gc=False``), which would otherwise walk a hundred thousand waiting jobs again and again; they never
form a cycle.
"""

from __future__ import annotations

import datetime as dt
import re
from enum import StrEnum
from functools import cache
from typing import Any

import msgspec

from zbrain_nb.model.checks import (
    brief,
    check_depth,
    check_mapping,
    check_number,
    check_org_id,
    check_text,
    check_texts,
    is_sha256,
)
from zbrain_nb.model.errors import InvalidSpec
from zbrain_nb.model.ids import new_id
from zbrain_nb.model.limits import MAX_SECS, Limits, limits_of

MAX_NAME = 200
MAX_CODE_BYTES = 8 * 1024 * 1024
MAX_SPEC_BYTES = 10 * 1024 * 1024
MAX_ARGUMENTS = 64 * 1024
#: How the names of tags begin that are zbrain's own: by them views and groups are found again.
PRIVATE_TAG = "zbrain."
#: The id of the token that a job was submitted with, set by the queue alone, and read by `Job.origin`.
TOKEN_TAG = f"{PRIVATE_TAG}token"
#: Of jobs that are sent to no pool: their owner's own workers run them, or the host's.
OWN_KIND = "local"
#: Results up to this size travel and stay with the job itself: a file for each would cost more than the call.
INLINE_BYTES = 4096
#: Characters.
MAX_ARTIFACT_NAME = 1000
_UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}\Z")
_CONTROL = re.compile(r"[\x00-\x1f\x7f]")
_BASE64 = re.compile(r"[A-Za-z0-9+/]+={0,2}\Z")
_SECRET_NAME = re.compile(r"(?!ZBRAIN_)[A-Za-z_][A-Za-z0-9_]*")
_ENV_NAME = re.compile(r"[^=\x00]+\Z")


class JobState(StrEnum):
    """The six states of a job; `transitions.py` holds the moves between them."""

    PENDING = "pending"
    RUNNING = "running"
    SUCCEEDED = "succeeded"
    FAILED = "failed"
    RETRYING = "retrying"
    CANCELED = "canceled"

    @property
    def ended(self) -> bool:
        """Whether the state is terminal: it never changes again."""
        return self in _ENDED


_ENDED = frozenset({JobState.SUCCEEDED, JobState.FAILED, JobState.CANCELED})


class CancelResult(StrEnum):
    """What a cancel did: the job ended at once, will end soon, had ended before, or is unknown."""

    CANCELED = "canceled"
    CANCELING = "canceling"
    ALREADY_FINISHED = "already_finished"
    NOT_FOUND = "not_found"


class Resources(msgspec.Struct, frozen=True, forbid_unknown_fields=True, gc=False):
    """What a job asks for.

    Parameters
    ----------
    cpus : float
        CPU cores, more than 0 (0.5 is half of one).
    memory_mb : int or None
        Memory in MiB, or None for no stated need.
    gpus : int
        Whole GPUs, 0 or more.
    """

    cpus: float = 1
    memory_mb: int | None = None
    gpus: int = 0

    def __post_init__(self) -> None:
        check_number("resources.cpus", self.cpus, low=0.001, high=1e6)
        check_number("resources.gpus", self.gpus, low=0, high=1e6, whole=True)
        if self.memory_mb is not None:
            check_number("resources.memory_mb", self.memory_mb, low=1, high=1e12, whole=True)


class JobSpec(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, gc=False):
    """What to run and how; exactly one of `cmd`, `code` and `function`.

    Parameters
    ----------
    org_id : str or None
        The org that the job belongs to; None is the caller's own.
    cmd : list of str or None
        A command and its arguments, run without a shell.
    code : str or None
        Source of a notebook cell, run in IPython.
    function : str or None
        SHA-256 of the blob holding a pickled call.
    arguments : str or None
        Base64 of a small payload that travels in the spec itself: more arguments of `function`, or variables to
        set before `code` runs. Many jobs with one function or one cell then share its blobs.
    input : object
        JSON value, read by the job from the file named in ``ZBRAIN_INPUT``.
    inputs : dict of str to str
        Names and SHA-256 of blobs that the job reads.
    env : dict of str to str
        Environment variables, over those of the worker.
    timeout_secs : float or None
        Seconds that one attempt may run, more than 0; None is no limit.
    max_retries : int
        How many times a failed attempt is tried again, 0 or more.
    name : str or None
        Any text up to 200 characters without control characters.
    priority : int
        Higher runs first.
    after : list of str
        Ids of jobs that have to end first.
    after_any : bool
        Run even if a job of `after` did not succeed.
    idempotency_key : str or None
        Two submits of one owner with the same key are one job.
    cache_key : str or None
        SHA-256 of all that decides what the job gives, as its submitter sees it; the owner's later jobs under the
        same key may take what this one gave.
    artifacts : list of str
        Globs, relative to `cwd`, of files to keep.
    keep : list of str, "auto" or None
        Variables of a cell to keep with the job.
    cwd : str or None
        Absolute folder to run in; None is a fresh folder for each attempt.
    secrets : list of str
        Names of secrets that the lease hands over; the job finds them as environment variables.
    worker : str
        Which kind of worker runs it, with its argument after a colon.
    kernel : str or None
        What a cell runs in: a kernelspec's name, or the absolute path of a Python or of a kernelspec's folder; None
        is the worker's own Python. In a kernel of another language a cell has no variables of Python.
    resources : Resources or dict
        What the job asks for.
    limits : Limits or dict
        What it may use at most, and how patiently it is ended.
    rerun_if_lost : bool or None
        Run again when a worker vanished; None is yes for commands with retries, else no.
    concurrency_group : str or None
        Jobs of one group run one at a time, or as many as `concurrency_limit` says.
    concurrency_limit : int
        The job starts when fewer jobs of its group than this run, 1 or more.
    tags : dict of str to str
        Free labels. Names that begin with ``zbrain.`` are zbrain's own (see `PRIVATE_TAG`).

    Raises
    ------
    InvalidSpec
        If a value does not hold; ``details["field"]`` names it.
    """

    org_id: str | None = None
    cmd: list[str] | None = None
    code: str | None = None
    function: str | None = None
    arguments: str | None = None
    input: Any = msgspec.field(default_factory=dict)
    inputs: dict[str, str] = {}
    env: dict[str, str] = {}
    timeout_secs: float | None = None
    max_retries: int = 0
    name: str | None = None
    priority: int = 0
    after: list[str] = []
    after_any: bool = False
    idempotency_key: str | None = None
    cache_key: str | None = None
    artifacts: list[str] = []
    keep: list[str] | str | None = None
    cwd: str | None = None
    secrets: list[str] = []
    worker: str = OWN_KIND
    kernel: str | None = None
    resources: Resources = Resources()
    limits: Limits = Limits()
    rerun_if_lost: bool | None = None
    concurrency_group: str | None = None
    concurrency_limit: int = 1
    tags: dict[str, str] = {}

    def __post_init__(self) -> None:
        if (self.cmd is None) + (self.code is None) + (self.function is None) != 2:
            given = [n for n in ("cmd", "code", "function") if getattr(self, n) is not None]
            raise InvalidSpec(
                f"A job needs exactly one of cmd, code and function; this one has {' and '.join(given) or 'none'}.",
                "Leave one.",
                field=given[-1] if given else "cmd",
            )
        if isinstance(self.resources, dict):
            msgspec.structs.force_setattr(self, "resources", _resources(self.resources))
        if isinstance(self.limits, dict):
            msgspec.structs.force_setattr(self, "limits", limits_of(self.limits))
        _check(self)

    @property
    def kind(self) -> str:
        """The kind of worker, without its argument: ``docker`` of ``docker:python``."""
        return self.worker.partition(":")[0]

    @property
    def title(self) -> str:
        """A short text to show: the name, else the head of what runs."""
        if self.name:
            return self.name
        if self.cmd is not None:
            return " ".join(self.cmd)[:60]
        if self.code is not None:
            return next((line.strip() for line in self.code.splitlines() if line.strip()), "cell")[:60]
        return "function"

    @property
    def labels(self) -> dict[str, str]:
        """The tags that people gave, without zbrain's own."""
        return {name: value for name, value in self.tags.items() if not name.startswith(PRIVATE_TAG)}

    @property
    def blobs(self) -> list[str]:
        """The blobs that the job reads, in order."""
        return [*self.inputs.values(), *([] if self.function is None else [self.function])]

    @property
    def is_plain_call(self) -> bool:
        """Whether it is a function that needs nothing but a Python, or a command that needs nothing special.

        Such may run one after the other in one slot, without going through the queue in between. A field that is not
        known to be heeded there (`_OF_PLAIN_CALLS`) makes it another kind of job.
        """
        return (
            self.code is None
            and (self.kernel is None or self.kernel.startswith("/"))
            and self.resources.cpus <= 1
            and self.resources.memory_mb is None
            and not self.resources.gpus
            and all(getattr(self, name) == default for name, default in _not_of_plain_calls())
        )

    @property
    def reruns_if_lost(self) -> bool:
        """Whether a vanished worker means another attempt (see `rerun_if_lost`)."""
        if self.rerun_if_lost is None:
            return self.cmd is not None and self.max_retries > 0
        return self.rerun_if_lost


def submitted_with(spec: JobSpec, token_id: str) -> JobSpec:
    """Return the spec bearing the id of the token it came with, none if empty, whatever it said of that itself."""
    if spec.tags.get(TOKEN_TAG) == (token_id or None):
        return spec
    tags = {name: value for name, value in spec.tags.items() if name != TOKEN_TAG}
    return msgspec.structs.replace(spec, tags=tags | ({TOKEN_TAG: token_id} if token_id else {}))


class JobArtifact(msgspec.Struct, frozen=True, omit_defaults=True):
    """A file kept with a job.

    Attributes
    ----------
    name : str
        What it is called.
    sha256 : str
        Of its bytes.
    size : int
        In bytes.
    data : bytes or None
        The bytes themselves, of a result so small (`INLINE_BYTES`) that it is kept with the job and is no blob.
    """

    name: str
    sha256: str
    size: int
    data: bytes | None = None


class Variable(msgspec.Struct, frozen=True):
    """A variable kept with a cell's job: a pickle in the blob `sha256`, described in words for people."""

    name: str
    type: str
    summary: str
    sha256: str
    size: int


class Job(msgspec.Struct, kw_only=False, gc=False):
    """A job as the queue knows it at one moment.

    ``Job(spec)`` makes a new pending job with an id of its own. Times are aware datetimes in UTC (ISO 8601 in
    JSON).

    Attributes
    ----------
    id : str
        UUIDv7.
    spec : JobSpec
        What to run.
    owner : str
        Who submitted it.
    org_id : str
        The org it belongs to.
    state : JobState
        Where it stands.
    attempt : int
        0 until first leased, then 1, 2, ...; only grows.
    created_at, started_at, finished_at : datetime or None
        When it was submitted, when the current attempt started, when the job ended.
    worker_id : str or None
        Who runs or ran the current attempt.
    exit_code : int or None
        Of the last attempt's process; negative is a signal.
    peak_memory_mb : float or None
        The most memory that the processes of the last attempt were seen to take, in MiB; None while it runs, or if
        nobody has seen it.
    cpu_secs : float or None
        CPU time of all processes of the last attempt; None while it runs, or if nobody has counted it.
    error : dict or None
        ``ename``, ``evalue`` and ``traceback`` (list of str) of the failure; shortened while the job is tried again,
        when long lists of `variables` and `artifacts` are left out too.
    output : object
        JSON result of a command, or the text form of a cell's value.
    progress : dict or None
        ``fraction`` (0 to 1 or None) and ``note``. With a fraction also ``at``, when it was first told, and ``since``,
        the ``fraction`` and ``at`` from which it has grown in this attempt; both times in seconds since the epoch.
    reason : str or None
        One sentence for a person: why it waits, why it failed.
    retry_of : str or None
        The job that this one repeats.
    failures, losses : int
        How many attempts failed, and how many vanished with their worker.
    event_seq : int
        Number of the last event that changed the job: a follower ignores patches up to it.
    """

    spec: JobSpec
    id: str = msgspec.field(default_factory=new_id)
    owner: str = ""
    org_id: str = ""
    state: JobState = JobState.PENDING
    attempt: int = 0
    created_at: dt.datetime = msgspec.field(default_factory=lambda: dt.datetime.now(dt.UTC))
    started_at: dt.datetime | None = None
    finished_at: dt.datetime | None = None
    worker_id: str | None = None
    exit_code: int | None = None
    peak_memory_mb: float | None = None
    cpu_secs: float | None = None
    error: dict[str, Any] | None = None
    output: Any = None
    result: JobArtifact | None = None
    variables: list[Variable] = []
    artifacts: list[JobArtifact] = []
    progress: dict[str, Any] | None = None
    reason: str | None = None
    retry_of: str | None = None
    failures: int = 0
    losses: int = 0
    not_before: dt.datetime | None = None
    cancel_requested_at: dt.datetime | None = None
    canceled_by: str | None = None
    event_seq: int = 0

    @property
    def name(self) -> str:
        """A short text to show (see `JobSpec.title`)."""
        return self.spec.title

    @property
    def origin(self) -> str:
        """The kept token that it was submitted with; empty for a login."""
        return self.spec.tags.get(TOKEN_TAG, "")


def shown(job: Job) -> dict[str, Any]:
    """Return a job as readers see it, in answers and in events: all but the values of ``env``."""
    body: dict[str, Any] = msgspec.to_builtins(job)
    body["spec"]["env"] = dict.fromkeys(job.spec.env, "***")
    return body


#: What a plain call may say: the queue heeds it, or the worker does for calls in processes that are used again.
_OF_PLAIN_CALLS = frozenset(
    {
        "org_id",
        "cmd",
        "function",
        "arguments",
        "input",
        "env",
        "timeout_secs",
        "max_retries",
        "name",
        "priority",
        "after",
        "after_any",
        "idempotency_key",
        "cache_key",
        "cwd",
        "worker",
        "kernel",
        "resources",
        "rerun_if_lost",
        "concurrency_group",
        "concurrency_limit",
        "tags",
    }
)


@cache
def _not_of_plain_calls() -> list[tuple[str, Any]]:
    """Return all other fields, each with the value that says nothing."""
    others = [field for field in msgspec.structs.fields(JobSpec) if field.name not in _OF_PLAIN_CALLS]
    return [
        (field.name, field.default_factory() if field.default is msgspec.NODEFAULT else field.default)
        for field in others
    ]


def _resources(value: dict[str, Any]) -> Resources:
    try:
        return msgspec.convert(value, Resources)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, InvalidSpec):
            raise cause from None
        raise InvalidSpec(f"resources: {brief(error)}.", field="resources") from None


def _check(spec: JobSpec) -> None:
    """Check all but the exactly-one rule; each branch is taken only for a field that was given."""
    if spec.org_id is not None:
        check_org_id("org_id", spec.org_id)
    if spec.cmd is not None:
        check_texts("cmd", spec.cmd, 131_071)
        if not spec.cmd or not spec.cmd[0]:
            raise InvalidSpec("cmd must name a program.", field="cmd")
    elif spec.code is not None:
        check_text("code", spec.code, MAX_CODE_BYTES, empty=True)
    elif not is_sha256(spec.function):
        raise InvalidSpec("function must be the SHA-256 of an uploaded blob.", field="function")
    if spec.arguments is not None:
        check_text("arguments", spec.arguments, MAX_ARGUMENTS)
        if spec.cmd is not None or not _BASE64.match(spec.arguments):
            raise InvalidSpec("arguments must be Base64, and go with function or code.", field="arguments")
    if spec.input:
        check_depth("input", spec.input)
    if spec.inputs:
        check_mapping("inputs", spec.inputs, 64)
        for name, digest in spec.inputs.items():
            if not is_sha256(digest):
                raise InvalidSpec(f"inputs.{name} must be a SHA-256.", field=f"inputs.{name}")
    if spec.env:
        check_mapping("env", spec.env, 131_071)
        for name in spec.env:
            if not _ENV_NAME.match(name):
                raise InvalidSpec(f"env has the impossible name {name!r}.", field="env")
    if spec.timeout_secs is not None:
        check_number("timeout_secs", spec.timeout_secs, low=0.001, high=MAX_SECS)
    if spec.max_retries:
        check_number("max_retries", spec.max_retries, low=0, high=1000, whole=True)
    if spec.name is not None:
        check_text("name", spec.name, MAX_NAME)
        if _CONTROL.search(spec.name):
            raise InvalidSpec("name holds a control character.", field="name")
    if spec.priority:
        check_number("priority", spec.priority, low=-1e6, high=1e6, whole=True)
    if spec.after:
        check_texts("after", spec.after, 36)
        for parent in spec.after:
            if not _UUID.match(parent):
                raise InvalidSpec(f"after holds {parent!r}, which is no job id.", field="after")
    if spec.idempotency_key is not None:
        check_text("idempotency_key", spec.idempotency_key, MAX_NAME)
    if spec.cache_key is not None and not is_sha256(spec.cache_key):
        raise InvalidSpec("cache_key must be a SHA-256.", field="cache_key")
    if spec.artifacts:
        check_texts("artifacts", spec.artifacts, 4096)
    if spec.keep is not None and spec.keep != "auto":
        check_texts("keep", spec.keep, 1000)
    if spec.cwd is not None:
        check_text("cwd", spec.cwd, 4096)
        if not spec.cwd.startswith("/"):
            raise InvalidSpec(f"cwd must be an absolute path, not {spec.cwd!r}.", field="cwd")
    if spec.secrets:
        check_texts("secrets", spec.secrets, MAX_NAME)
        for name in spec.secrets:
            if not _SECRET_NAME.fullmatch(name):
                raise InvalidSpec(f"secrets has the impossible name {name!r}.", field="secrets")
            if name in spec.env:
                raise InvalidSpec(f"{name} is in env and in secrets.", "Its value would be kept: drop it from env.")
    if spec.worker != OWN_KIND:
        check_text("worker", spec.worker, MAX_NAME)
        if not spec.kind or _CONTROL.search(spec.worker):
            raise InvalidSpec("worker must begin with a kind and hold no control character.", field="worker")
    if spec.kernel is not None:
        check_text("kernel", spec.kernel, 4096)
    if spec.concurrency_group is not None:
        check_text("concurrency_group", spec.concurrency_group, MAX_NAME)
    if spec.concurrency_limit != 1:
        check_number("concurrency_limit", spec.concurrency_limit, low=1, high=1e6, whole=True)
        if spec.concurrency_group is None:
            raise InvalidSpec(
                "concurrency_limit says how many jobs of a group run at once; this job is in none.",
                "Name one with concurrency_group.",
                field="concurrency_limit",
            )
    if spec.tags:
        check_mapping("tags", spec.tags, 4096)
    if spec.after_any is not False or spec.rerun_if_lost is not None:
        for flag in ("after_any", "rerun_if_lost"):
            if getattr(spec, flag) not in (True, False, None):
                raise InvalidSpec(f"{flag} must be true or false.", field=flag)
    if not isinstance(spec.resources, Resources):
        raise InvalidSpec("resources must map cpus, memory_mb and gpus to numbers.", field="resources")
    if not isinstance(spec.limits, Limits):
        raise InvalidSpec("limits must map names of limits to numbers.", field="limits")
