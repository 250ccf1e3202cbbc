"""Streams of the history, fetched into temporary files: what is there is whole."""

from __future__ import annotations

import os
from tempfile import SpooledTemporaryFile
from urllib.parse import urlencode

from zbrain_nb.client.transport import Transport
from zbrain_nb.model.errors import ServerUnreachable
from zbrain_nb.model.history import END_OF_STREAM, HistoryQuery

#: So often a stream is begun anew when the server breaks off.
TRIES = 3
#: So much of it stays in memory.
SPOOLED_BYTES = 16 * 1024 * 1024

Spool = SpooledTemporaryFile[bytes]


async def spool(transport: Transport, wanted: HistoryQuery) -> Spool:
    """Return what ``GET history`` streams, as a file to be read from its beginning.

    Raises
    ------
    ServerUnreachable
        If the server stays away, or breaks off again and again.
    """
    query = {
        "table": wanted.table,
        "columns": ",".join(wanted.columns),
        "since": wanted.since and wanted.since.isoformat(),
        "after": wanted.after,
        "epoch": wanted.epoch,
        "org": wanted.org_id,
        "job": wanted.job_id,
        "limit": wanted.limit,
    }
    path = f"history?{urlencode({name: value for name, value in query.items() if value is not None})}"
    for _ in range(TRIES):
        file: Spool = SpooledTemporaryFile(SPOOLED_BYTES)  # noqa: SIM115 - the caller closes it
        try:
            if await _fetch(transport, path, file):
                return file
        except BaseException:
            file.close()
            raise
        file.close()
    raise ServerUnreachable("The server broke off in the middle of the history, again and again.", "See its log.")


async def _fetch(transport: Transport, path: str, file: Spool) -> bool:
    """Write the stream; return whether it is whole."""
    try:
        async for chunk in transport.download(path, resumes=False):
            file.write(chunk)
    except ServerUnreachable:
        if file.tell() == 0:  # it was waited for already
            raise
        return False
    file.seek(-len(END_OF_STREAM), os.SEEK_END)
    is_whole = file.read() == END_OF_STREAM
    file.seek(0)
    return is_whole
