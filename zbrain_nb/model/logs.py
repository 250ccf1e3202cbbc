"""How the project's processes log: one line a record on stderr, its fields behind the message."""

from __future__ import annotations

import logging

_PLAIN = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}

#: The logger that tells of each change of a job's state.
TRANSITIONS = "zbrain_nb.queue.watch"


def configure_logging(program: str, level: int = logging.INFO) -> None:
    """Log to stderr, which the starter of a process has pointed at its log file.

    Parameters
    ----------
    program : str
        Stands in each line: ``host``, ``worker``.
    level : int
        The lowest level that is written.
    """
    handler = logging.StreamHandler()
    handler.setFormatter(_FieldFormatter(f"%(asctime)s {program} %(levelname)s %(name)s: %(message)s"))
    logging.basicConfig(level=level, handlers=[handler])
    logging.getLogger("httpx").setLevel(logging.WARNING)


def log_transitions() -> None:
    """Write a line for each change of a job's state, which are too many for any day."""
    logging.getLogger(TRANSITIONS).setLevel(logging.DEBUG)


class _FieldFormatter(logging.Formatter):
    """One line a record, its `extra` fields behind the message."""

    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return text + "".join(f" {name}={value}" for name, value in vars(record).items() if name not in _PLAIN)
