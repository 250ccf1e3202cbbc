"""What a job may use at most, and how patiently it is ended: the words of `JobSpec.limits`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import msgspec

from zbrain_nb.model.checks import brief, check_number
from zbrain_nb.model.errors import InvalidSpec

#: How much of a job's log is kept, if its spec does not say.
LOG_MB = 128
#: How large a cell's value may be, if the spec does not say.
RESULT_MB = 100
#: How long after a first interrupt everything is killed, if the spec does not say.
GRACE_SECS = 5.0
MAX_SECS = 10 * 366 * 86400
MAX_MB = 1 << 24
MAX_LOG_MB = 1 << 16
#: A cell's process has some files open before the cell runs.
MIN_FILES = 32


class Limits(msgspec.Struct, frozen=True, forbid_unknown_fields=True, omit_defaults=True, gc=False):
    """What one attempt of a job may use at most; None is the default. Its memory stands in `Resources.memory_mb`.

    Parameters
    ----------
    cpu_secs : float or None
        Seconds of CPU time that all its processes may take together, ended ones too; then it is ended as by a
        timeout, and fails.
    open_files : int or None
        Files that each of its processes may have open, 32 or more.
    log_mb : float or None
        MiB of log that are kept (default 128); past them a mark says so, its last lines are kept too, and the job
        goes on.
    artifacts_mb : float or None
        MiB of artifacts that are kept in all (default: no limit); the log names those that were not.
    result_mb : float or None
        MiB that the pickled value of a cell or function may take (default 100).
    grace_secs : float or None
        How a cancel or a limit ends it: SIGINT at once, SIGTERM after two fifths of this time, SIGKILL after all of
        it (default 5); 0 kills at once.
    """

    cpu_secs: float | None = None
    open_files: int | None = None
    log_mb: float | None = None
    artifacts_mb: float | None = None
    result_mb: float | None = None
    grace_secs: float | None = None

    def __post_init__(self) -> None:
        if self.cpu_secs is not None:
            check_number("limits.cpu_secs", self.cpu_secs, low=0.001, high=MAX_SECS)
        if self.open_files is not None:
            check_number("limits.open_files", self.open_files, low=MIN_FILES, high=1 << 30, whole=True)
        if self.log_mb is not None:
            check_number("limits.log_mb", self.log_mb, low=0.001, high=MAX_LOG_MB)
        if self.artifacts_mb is not None:
            check_number("limits.artifacts_mb", self.artifacts_mb, low=0, high=MAX_MB)
        if self.result_mb is not None:
            check_number("limits.result_mb", self.result_mb, low=0, high=MAX_MB)
        if self.grace_secs is not None:
            check_number("limits.grace_secs", self.grace_secs, low=0, high=86400)

    @property
    def log_bytes(self) -> int:
        """How many bytes of log are kept."""
        return _bytes(LOG_MB if self.log_mb is None else self.log_mb)

    @property
    def result_bytes(self) -> int:
        """How many bytes the value of a cell or function may take."""
        return _bytes(RESULT_MB if self.result_mb is None else self.result_mb)

    @property
    def artifacts_bytes(self) -> int | None:
        """How many bytes of artifacts are kept; None is no limit."""
        return None if self.artifacts_mb is None else _bytes(self.artifacts_mb)


_KNOWN = f"The limits are {', '.join(Limits.__struct_fields__)}."


def _bytes(mebibytes: float) -> int:
    return int(mebibytes * 2**20)


def limits_from_pairs(pairs: Iterable[str]) -> Limits:
    """Return the limits that texts such as ``cpu_secs=3600`` say.

    Raises
    ------
    InvalidSpec
        If one is none, or its value does not hold.
    """
    values: dict[str, Any] = {}
    for pair in pairs:
        name, _, text = pair.partition("=")
        try:
            number = float(text)
        except ValueError:
            raise InvalidSpec(
                f"A limit is a name and a number such as cpu_secs=3600, not {pair!r}.", _KNOWN, field="limits"
            ) from None
        values[name.strip()] = int(number) if number.is_integer() else number
    return limits_of(values)


def limits_of(value: dict[str, Any]) -> Limits:
    """Return the limits that a dict says.

    Raises
    ------
    InvalidSpec
        If it names something else, or a value does not hold.
    """
    try:
        return msgspec.convert(value, Limits)
    except msgspec.ValidationError as error:
        cause = error.__cause__
        if isinstance(cause, InvalidSpec):
            raise cause from None
        raise InvalidSpec(f"limits: {brief(error)}.", _KNOWN, field="limits") from None
