"""Segments as the writer sees them: into which of each kind it appends, and when the next is due."""

from __future__ import annotations

from collections.abc import Iterable

import duckdb
import msgspec

from zbrain_nb.store.rows import AUDIT, JOBS, LOGS, TRANSITIONS, Layout
from zbrain_nb.store.schema import COLUMNS, KINDS, close_segment, create_segment, show_segments, tables_of
from zbrain_nb.store.texts import PIECES, texts_of

#: Rows after which a segment is closed.
SEGMENT_ROWS = {"jobs": 500_000, "transitions": 1_000_000, "logs": 2_000_000, "audit": 1_000_000}
#: With so many segments of a kind, the next take twice as many rows, and so on: queries look into each.
MANY_SEGMENTS = 16
#: Rows of living jobs that are carried over, in one transaction, from a segment that is dropped.
MAX_CARRIED = 20_000
#: Lines, and events of each kind that has many, that are carried of one attempt.
MAX_CARRIED_OF_ATTEMPT = 1_000
#: Kinds of transitions of which only the last are carried: each of them replaces or follows the one before.
_PLENTIFUL = "('job_progressed', 'job_displayed', 'noted')"

#: What is carried over of the jobs ``$1`` from a segment that is dropped.
CARRIED = {
    "jobs": "SELECT * FROM {table} WHERE id IN (SELECT unnest($1::UUID[]))",
    "transitions": "SELECT * FROM {table} WHERE job_id IN (SELECT unnest($1::UUID[])) "
    f"QUALIFY kind NOT IN {_PLENTIFUL} OR "
    "row_number() OVER (PARTITION BY job_id, attempt, kind ORDER BY event_seq DESC) "
    f"<= {MAX_CARRIED_OF_ATTEMPT}",
    "logs": "SELECT * FROM {table} WHERE job_id IN (SELECT unnest($1::UUID[])) "
    "QUALIFY row_number() OVER (PARTITION BY job_id, attempt ORDER BY log_seq DESC) "
    f"<= {MAX_CARRIED_OF_ATTEMPT}",
}
#: Likewise, of the pieces of long texts.
CARRIED_TEXTS = {
    "jobs": "SELECT * FROM {table}_texts WHERE job_id IN (SELECT unnest($1::UUID[]))",
    "transitions": "SELECT * FROM {table}_texts "
    f"WHERE event_seq IN (SELECT event_seq FROM ({CARRIED['transitions']}))",
    "logs": "SELECT * FROM {table}_texts "
    f"WHERE (event_seq, number) IN (SELECT (event_seq, log_seq) FROM ({CARRIED['logs']}))",
}


class Segment(msgspec.Struct, frozen=True):
    """One segment, named ``{kind}_{number}``, with the table of its long texts.

    Attributes
    ----------
    kind : str
        ``jobs``, ``transitions``, ``logs`` or ``audit``.
    number : int
        Grows with each segment of its kind.
    first_seq : int
        The least ``event_seq`` that may be in it, but for rows carried over from a dropped one.
    opened_at, closed_at : float
        Seconds since the epoch; the one that is appended to is not closed.
    """

    kind: str
    number: int
    first_seq: int
    opened_at: float
    closed_at: float | None = None

    @property
    def table(self) -> str:
        """Name of its table."""
        return f"{self.kind}_{self.number}"


def read_segments(cursor: duckdb.DuckDBPyConnection) -> list[Segment]:
    """Return all segments, oldest first within their kind."""
    rows = cursor.execute(
        "SELECT kind, number, first_seq, epoch_us(opened_at) / 1e6, epoch_us(closed_at) / 1e6 FROM segments "
        "ORDER BY kind, number"
    ).fetchall()
    return [Segment(*row) for row in rows]


class Segments:
    """The open segment of each kind.

    Parameters
    ----------
    connection : Connection
        The writer's.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection) -> None:
        self._connection = connection
        self._load()

    def _load(self) -> None:
        found = read_segments(self._connection)
        self.all = {kind: [s for s in found if s.kind == kind] for kind in COLUMNS}
        self._rows = {kind: self._count(segments[-1]) for kind, segments in self.all.items()}
        layouts = {layout.table: layout for layout in (JOBS, TRANSITIONS, LOGS, AUDIT)}
        #: How to insert into the open segment of each kind.
        self.layouts: dict[str, Layout] = {kind: layouts[kind].of(self.all[kind][-1].table) for kind in COLUMNS}
        #: Likewise, the pieces of long texts.
        self.texts: dict[str, Layout] = {kind: PIECES.of(texts_of(self.layouts[kind].table)) for kind in KINDS}
        #: From here on no event was dropped.
        self.oldest_seq = max(self.all[kind][0].first_seq for kind in KINDS)
        #: Up to this id older segments may hold it; of greater ones the index of the open segment tells.
        self.last_old_id = self._last_id(self.all["jobs"][:-1])

    def _count(self, segment: Segment) -> int:
        row = self._connection.execute(f"SELECT count(*) FROM {segment.table}").fetchone()
        return row[0] if row else 0

    def _last_id(self, segments: list[Segment]) -> str:
        parts = " UNION ALL ".join(f"SELECT max(id) AS id FROM {segment.table}" for segment in segments)
        row = self._connection.execute(f"SELECT max(id)::VARCHAR FROM ({parts})").fetchone() if parts else None
        return (row and row[0]) or ""

    def note(self, kind: str, rows: int) -> None:
        """Note that so many rows were appended."""
        self._rows[kind] += rows

    def is_full(self, kind: str) -> bool:
        """Whether the open segment has as many rows as it takes."""
        return self._rows[kind] >= SEGMENT_ROWS[kind] << len(self.all[kind]) // MANY_SEGMENTS

    def is_empty(self, kind: str) -> bool:
        """Whether the open segment has no rows."""
        return self._rows[kind] == 0

    def open_next(self, kinds: Iterable[str], now: float) -> None:
        """Close the open segments of these kinds and open the next ones, in one transaction."""
        connection = self._connection
        first_seq = self.last_seq() + 1
        connection.execute("BEGIN")
        try:
            for kind in kinds:
                last = self.all[kind][-1]
                close_segment(connection, kind, last.number, now)
                create_segment(connection, kind, last.number + 1, first_seq, now)
                show_segments(connection, kind)
            connection.execute("COMMIT")
        except BaseException:
            roll_back(connection)
            raise
        self._load()

    def last_seq(self) -> int:
        """Return the highest ``event_seq`` that is committed."""
        last = [self.all[kind][-1] for kind in KINDS]
        parts = ", ".join(f"(SELECT max(event_seq) FROM {segment.table})" for segment in last)
        firsts = max(segment.first_seq for segment in last)
        row = self._connection.execute(f"SELECT greatest(?, {parts})", [firsts - 1]).fetchone()
        return row[0] if row else 0

    def drop(self, segment: Segment, job_ids: list[str]) -> None:
        """Drop a closed segment; rows of these jobs are carried over into the open one in the same transaction.

        Carried are all rows of jobs, and of transitions and logs what keeps numbers exact and the end in sight:
        of each attempt the last lines, and the last of those events that replace each other.
        """
        connection, kind, oldest = self._connection, segment.kind, self.oldest_seq
        connection.execute("BEGIN")
        try:
            following = [s for s in self.all[kind] if s.number > segment.number]
            if kind in KINDS:
                self.oldest_seq = max(oldest, following[0].first_seq)  # before a reader can miss what is dropped
            if job_ids:
                carried = CARRIED[kind].format(table=segment.table)
                into = self.all[kind][-1].table
                connection.execute(f"INSERT INTO {into} BY NAME {carried}", [job_ids])
                if kind in KINDS:
                    carried = CARRIED_TEXTS[kind].format(table=segment.table)
                    connection.execute(f"INSERT INTO {texts_of(into)} BY NAME {carried}", [job_ids])
            connection.execute("DELETE FROM segments WHERE kind = ? AND number = ?", [kind, segment.number])
            show_segments(connection, kind)
            for table in tables_of(kind, segment.table):
                connection.execute(f"DROP TABLE {table}")
            connection.execute("COMMIT")
        except BaseException:
            self.oldest_seq = oldest
            roll_back(connection)
            raise
        self._load()


def roll_back(connection: duckdb.DuckDBPyConnection) -> None:
    """Roll back, if a transaction is open: a failed COMMIT has done so already."""
    try:
        connection.execute("ROLLBACK")
    except duckdb.TransactionException:
        return


def id_time(job_id: str) -> float:
    """Return when an id was made (UUIDv7), in seconds since the epoch."""
    return int(job_id[:8] + job_id[9:13], 16) / 1000
