"""A host whose write-ahead log is checkpointed often, and which shows what its writer does at each moment.

``python -m tests.chaos.host_in_sight SHOWN ...`` writes one letter to the file SHOWN: ``a`` while it appends to
the store, ``c`` while it checkpoints, ``-`` else. Who kills it can read there in the middle of what it died.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from zbrain_nb.server.serving import main
from zbrain_nb.store import database

#: So small that every few commits are followed by a checkpoint.
CHECKPOINT_BYTES = 128 * 1024


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
    database.CHECKPOINT_BYTES = CHECKPOINT_BYTES
    file = os.open(sys.argv[1], os.O_WRONLY | os.O_CREAT, 0o600)
    for name, sign in (("append", b"a"), ("_checkpoint_if_due", b"c")):
        setattr(database.Database, name, shows(sign, getattr(database.Database, name), file))
    sys.exit(main(sys.argv[2:]))
