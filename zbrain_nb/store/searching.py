"""Looks for text in a job's log, window by window of its lines, so that no read transaction lasts long.

Takes a reader's cursor and blocks, as `queries` do.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from typing import Any

import msgspec

from zbrain_nb.model.events import LogEntry, LogStream
from zbrain_nb.store.queries import Cursor, page_end
from zbrain_nb.store.texts import batches, fetch_whole, is_apart, one_view, size_of, texts

#: A search that has taken so long ends where it is; one window more may be under way then.
BUDGET_SECS = 0.4
#: Lines in the first window; the next ones are larger or smaller, so that each takes about as long as it shall.
FIRST_WINDOW, LAST_WINDOW = 50_000, 2_000_000
WINDOW_SECS = 0.1

# What a view shows of a line: escape sequences say how it looks, not what it says. Few lines have any.
_ESCAPES = r"\x1b\[[0-?]*[ -/]*[@-~]|\x1b\][^\x07\x1b]*(?:\x07|\x1b\\)?"
_ESCAPE = re.compile(_ESCAPES)
_MATCHES = f"contains(lower(if(contains(line, chr(27)), regexp_replace(line, '{_ESCAPES}', '', 'g'), line)), lower(?))"


class Found(msgspec.Struct, frozen=True):
    """Lines that hold a text, in order, and the number of the line at which to go on looking."""

    entries: list[LogEntry]
    next_seq: int


def search_log(
    cursor: Cursor,
    job_id: str,
    text: str,
    from_seq: int,
    end: int,
    limit: int,
    stream: str | None,
    clock: Callable[[], float] = time.monotonic,
) -> Found:
    """Look for `text`, in either case, in the lines ``from_seq <= seq < end`` of the job's log.

    Returns
    -------
    Found
        Up to `limit` lines, fewer if they are long (see `LOG_PAGE_BYTES`) or if `BUDGET_SECS` are over: then maybe
        none, and what was not looked at yet begins at ``next_seq``.
    """
    where = f"job_id = ?::UUID AND log_seq >= ? AND log_seq < ? {'AND stream = ?' if stream else ''}"
    more = [stream] if stream else []
    sizes: list[tuple[int, int]] = []
    window, at, started = FIRST_WINDOW, from_seq, clock()
    now = started
    while at < end and len(sizes) < limit and now - started < BUDGET_SECS:
        to = min(end, at + window)
        # what is sorted is held in memory, however long the lines: so numbers and lengths come first
        found = cursor.execute(
            f"SELECT log_seq, strlen(line) FROM logs WHERE {where} AND NOT {is_apart('line')} AND {_MATCHES} "
            "ORDER BY log_seq LIMIT ?",
            [job_id, at, to, *more, text, limit - len(sizes)],
        ).fetchall()
        long, to = _search_long(cursor, where, [job_id, at, to, *more], text, lambda: clock() - started < BUDGET_SECS)
        found = [(seq, size) for seq, size in [*found, *long] if seq < to]
        sizes += sorted(found)[: limit - len(sizes)]
        spent, now = clock() - now, clock()
        at = to
        window = max(1, min(LAST_WINDOW, window * 4, round(window * WINDOW_SECS / max(spent, 1e-6))))
    last = page_end(sizes)
    if len(sizes) == limit or (sizes and last < sizes[-1][0]):
        at = last + 1
    wanted = [seq for seq, _ in sizes if seq <= last]
    rows = (
        fetch_whole(
            cursor,
            "logs",
            "SELECT log_seq, attempt, stream, epoch_us(ts), line FROM logs "
            "WHERE job_id = ?::UUID AND log_seq BETWEEN ? AND ? AND log_seq IN (SELECT unnest(?)) ORDER BY log_seq",
            [job_id, wanted[0], last, wanted],
            4,
        )
        if wanted
        else []
    )
    return Found([LogEntry(seq, attempt, LogStream(name), ts / 1e6, line) for seq, attempt, name, ts, line in rows], at)


def _search_long(
    cursor: Cursor, where: str, values: list[Any], text: str, has_time: Callable[[], bool]
) -> tuple[list[tuple[int, int]], int]:
    """Look for the text in those lines of the window ``values[1] <= seq < values[2]`` that lie apart.

    Returns
    -------
    list of tuple
        Number and size of those in which it is found.
    int
        At which line to go on: lines are many at first, however long they are, so time may end before the window.
    """
    query = f"SELECT line, log_seq FROM logs WHERE {where} AND {is_apart('line')} ORDER BY log_seq"
    end: int = values[2]
    if not cursor.execute(query, values).fetchall():
        return [], end
    found: list[tuple[int, int]] = []
    wanted = text.lower()
    with one_view(cursor):
        seqs = dict(cursor.execute(query, values).fetchall())
        for number, some in enumerate(batches(seqs)):
            if number and not has_time():
                return found, seqs[some[0]]
            found += [
                (seqs[reference], size_of(reference))
                for reference, line in (dict(zip(some, some, strict=True)) | texts(cursor, "logs", some)).items()
                if wanted in _ESCAPE.sub("", line).lower()
            ]
    return found, end
