"""Long texts lie apart, in pieces: no cell of a large table is longer than `CELL_BYTES`.

DuckDB reads, packs and holds two thousand adjacent rows of a column in one piece, however long their texts are: cells
as long as people like would decide how much memory the database needs. So of a longer text the cell holds a
*reference*, and the text lies in pieces in a table beside the segment (``jobs_1_texts`` beside ``jobs_1``), written in
the same transaction. A reference says how long the text is, and is JSON itself: SQL that looks into JSON finds nothing
in it, instead of failing.

What is read of a table with long texts goes through `fetch_whole`, or `whole` inside a transaction.
"""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import duckdb
import msgspec
from arro3.core import DataType

from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.store.lines import Lines
from zbrain_nb.store.rows import FOLDED, INT, JOBS, TEXT, TRANSITIONS, UUID, Layout

Cursor = duckdb.DuckDBPyConnection

#: The longest cell, and the longest piece, in UTF-8: two thousand of them take 32 MiB.
CELL_BYTES = 16 * 1024
#: How a reference begins. A text that does so itself lies apart too, so that none is taken for a reference.
MARK = '"zbrain:text:'
#: How much text is put together at once where one is looked at after the other, in bytes.
BATCH_BYTES = 4 * 1024 * 1024
#: Which text of its event one is; a line's is its number in the log.
SPEC, FIELDS, DATA = 0, 1, 0

_WIDEST = 4
_SHORT = CELL_BYTES // _WIDEST
_NUMBER = "([0-9]{1,18})"
_FORM = f'{MARK}([0-9a-f-]{{36}}):{_NUMBER}:{_NUMBER}:{_NUMBER}:"'
_REFERENCE = re.compile(_FORM)
# A piece does not end within the name of a blob or job: retention looks for names piece by piece.
_NAME = re.compile(r"[0-9a-f-]+\Z")
_NAME_WINDOW = 128

#: The columns of the tables of pieces. `number` tells apart the texts of one event.
COLUMNS = """
    job_id UUID NOT NULL,
    event_seq BIGINT NOT NULL,
    number BIGINT NOT NULL,
    part INTEGER NOT NULL,
    text VARCHAR NOT NULL
"""
PIECES = Layout(
    "texts",
    {
        "job_id": (UUID, DataType.string()),
        "event_seq": (INT, DataType.int64()),
        "number": (INT, DataType.int64()),
        "part": (INT, DataType.int64()),
        "text": (TEXT, DataType.string()),
    },
)
Piece = tuple[str, int, int, int, str]


class _Cell(msgspec.Struct, frozen=True):
    """Where the rows of a kind have their long text, and what names it."""

    text: int
    job_id: int
    event_seq: int
    number: int


def _cell(layout: Layout, text: str, job_id: str, event_seq: str, number: int) -> _Cell:
    at = layout.names.index
    return _Cell(at(text), at(job_id), at(event_seq), number)


_CELLS = {
    "jobs": _cell(JOBS, "spec", "id", "event_seq", SPEC),
    "transitions": _cell(TRANSITIONS, "data", "job_id", "event_seq", DATA),
    "folded": _cell(FOLDED, "fields", "id", "folded_seq", FIELDS),
}


def texts_of(table: str) -> str:
    """Return the name of the table (or view) that holds the long texts of another."""
    return f"{table}_texts"


def bytes_of(column: str) -> str:
    """Return how SQL says how long the text of a column is, in bytes of UTF-8, wherever it lies."""
    return f"if({is_apart(column)}, split_part({column}, ':', 6)::BIGINT, strlen({column}))"


def is_apart(column: str) -> str:
    """Return how SQL says that the text of a column lies apart."""
    # versions before left lines that begin like this as they were: those are none
    return f"(starts_with({column}, '{MARK}') AND regexp_full_match({column}, '{_FORM}'))"


def set_aside(kind: str, rows: Sequence[Any]) -> tuple[Sequence[Any], list[Piece]]:
    """Return rows of a kind (``jobs``, ``transitions``, ``logs`` or ``folded``) with short cells, and the pieces."""
    pieces: list[Piece] = []
    if kind == "logs":
        return [_without_long_lines(lines, pieces) for lines in rows], pieces
    cell = _CELLS[kind]
    at = cell.text
    if not rows or max([len(row[at]) for row in rows]) <= _SHORT:  # JSON objects: none begins as references do
        return rows, pieces
    return [_without_long_text(row, cell, pieces) if _is_long(row[at]) else row for row in rows], pieces


def _without_long_text(row: tuple[Any, ...], cell: _Cell, pieces: list[Piece]) -> tuple[Any, ...]:
    reference = _put_apart(row[cell.text], row[cell.job_id], row[cell.event_seq], cell.number, pieces)
    return (*row[: cell.text], reference, *row[cell.text + 1 :])


def _without_long_lines(lines: Lines, pieces: list[Piece]) -> Lines:
    texts = lines.texts
    if (lines.text_chars <= _SHORT or max(map(len, texts)) <= _SHORT) and MARK not in "".join(texts):
        return lines
    short = [
        _put_apart(text, lines.job_id, lines.event_seq, seq, pieces) if _is_long(text) else text
        for seq, text in enumerate(texts, lines.first)
    ]
    return msgspec.structs.replace(lines, texts=short)


def _is_long(text: str) -> bool:
    return (len(text) > _SHORT and _size(text) > CELL_BYTES) or text.startswith(MARK)


def _size(text: str) -> int:
    return len(text) if text.isascii() else len(text.encode())


def _put_apart(text: str, job_id: str, event_seq: int, number: int, pieces: list[Piece]) -> str:
    pieces += [(job_id, event_seq, number, part, piece) for part, piece in enumerate(_pieces(text))]
    return f'{MARK}{job_id}:{event_seq}:{number}:{_size(text)}:"'


def _pieces(text: str) -> Iterator[str]:
    width = CELL_BYTES if text.isascii() else _SHORT
    start = 0
    while start < len(text):
        end = start + width
        if end < len(text):
            name = _NAME.search(text, max(start + 1, end - _NAME_WINDOW), end)
            if name is not None and len(name[0]) < _NAME_WINDOW:
                end = name.start()
        yield text[start:end]
        start = end


@contextmanager
def one_view(cursor: Cursor) -> Iterator[None]:
    """Let all that is read within show one state: a job that moves on gets another text, in place of the one before."""
    cursor.execute("BEGIN")
    try:
        yield
    finally:
        cursor.execute("ROLLBACK")


def fetch_whole(
    cursor: Cursor, kind: str, query: str, values: list[Any] | dict[str, Any], *columns: int
) -> list[tuple[Any, ...]]:
    """Return the rows of a query, with the texts of these columns as they are, wherever they lie.

    Parameters
    ----------
    kind : str
        Of the segments: ``jobs``, ``transitions`` or ``logs``.
    columns : int
        Places in the row, from 0, of columns that may hold a reference.

    Raises
    ------
    ZBrainError
        If a text is missing.
    """
    rows = cursor.execute(query, values).fetchall()
    if not any(_references(rows, columns)):
        return rows
    with one_view(cursor):
        return whole(cursor, kind, cursor.execute(query, values).fetchall(), *columns)


def whole(cursor: Cursor, kind: str, rows: list[tuple[Any, ...]], *columns: int) -> list[tuple[Any, ...]]:
    """Return rows that were read in the same transaction, with the texts of these columns (see `fetch_whole`)."""
    found = texts(cursor, kind, set(_references(rows, columns)))
    if not found:
        return rows
    wanted = set(columns)
    return [
        tuple(found.get(value, value) if place in wanted else value for place, value in enumerate(row)) for row in rows
    ]


def texts(cursor: Cursor, kind: str, references: Collection[str]) -> dict[str, str]:
    """Return the texts of these references.

    Raises
    ------
    ZBrainError
        If one is not whole.
    """
    matches = filter(None, map(_REFERENCE.fullmatch, references))
    places = {(match[1], int(match[2]), int(match[3])): match[0] for match in matches}
    if not places:
        return {}
    seqs = sorted({seq for _, seq, _ in places})
    rows = cursor.execute(
        f"SELECT job_id::VARCHAR, event_seq, number, part, text FROM {texts_of(kind)} "
        "WHERE event_seq BETWEEN ? AND ? AND event_seq IN (SELECT unnest(?::BIGINT[]))",
        [seqs[0], seqs[-1], seqs],
    ).fetchall()
    parts: Mapping[tuple[str, int, int], dict[int, str]] = defaultdict(dict)
    for job_id, seq, number, part, text in rows:
        parts[job_id, seq, number][part] = text
    found = {}
    for place, reference in places.items():
        if kind == "logs" and place not in parts:  # a line that says just this, of a version before
            continue
        text = "".join(text for _, text in sorted(parts[place].items()))
        if _size(text) != size_of(reference):
            raise ZBrainError(
                f"A long text of job {place[0]} (event {place[1]}) is not whole in the database.",
                "The file was damaged, or changed by other hands: restore a backup.",
            )
        found[reference] = text
    return found


def size_of(reference: str) -> int:
    """Return how long the text of a reference is, in bytes."""
    return int(reference.split(":")[5])


def batches(references: Iterable[str]) -> Iterator[list[str]]:
    """Cut references into lists whose texts take about `BATCH_BYTES` together."""
    batch, room = list[str](), BATCH_BYTES
    for reference in references:
        room -= size_of(reference)
        if batch and room < 0:
            yield batch
            batch, room = [], BATCH_BYTES - size_of(reference)
        batch.append(reference)
    if batch:
        yield batch


def _references(rows: Iterable[tuple[Any, ...]], columns: tuple[int, ...]) -> Iterator[str]:
    for place in columns:
        for row in rows:
            text = row[place]
            if text is not None and text.startswith(MARK) and _REFERENCE.fullmatch(text):
                yield text
