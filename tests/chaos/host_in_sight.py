"""A host that often checkpoints its write-ahead log and folds its jobs, and shows what its writer does at each moment.

``python -m tests.chaos.host_in_sight SHOWN ...`` writes one letter to the file SHOWN: ``a`` while it appends to
the store, ``c`` while it checkpoints, ``-`` else. Who kills it can read there in the middle of what it died.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from zbrain_nb.queue import loading
from zbrain_nb.server.serving import main
from zbrain_nb.store import database

#: So small that every few commits are followed by a checkpoint.
CHECKPOINT_BYTES = 128 * 1024
#: So short that the log of a host that is killed holds folds of jobs from before a checkpoint and after it.
FOLD_PAUSE_SECS = 0.05


def shows(letter: bytes, method: Callable[..., Any], shown: int) -> Callable[..., Any]:
    """Return `method`, showing `letter` while it runs."""

    def shown_method(*args: Any, **kwargs: Any) -> Any:
        os.pwrite(shown, letter, 0)
        try:
            return method(*args, **kwargs)
        finally:
            os.pwrite(shown, b"-", 0)

    return shown_method


if __name__ == "__main__":
    assert hasattr(database, "CHECKPOINT_BYTES"), "the store has another way to say when it checkpoints"
    assert hasattr(loading, "FOLD_PAUSE_SECS"), "the queue has another way to say when it folds"
    database.CHECKPOINT_BYTES = CHECKPOINT_BYTES
    loading.FOLD_PAUSE_SECS = FOLD_PAUSE_SECS
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
    for name, sign in (("append", b"a"), ("_checkpoint_if_due", b"c")):
        setattr(database.Database, name, shows(sign, getattr(database.Database, name), file))
    sys.exit(main(sys.argv[2:]))
