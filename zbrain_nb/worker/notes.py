"""What zygotes and the supervisors forked by them tell the spawner."""

from __future__ import annotations

import msgspec


class Note(msgspec.Struct, kw_only=True):
    """A supervisor took a request, or (without `taken`) ended.

    Attributes
    ----------
    pid : int
        The supervisor.
    taken : str or None
        File name of the request.
    """

    pid: int
    taken: str | None = None
