"""The tables: what a database holds, and how one of an earlier version becomes one of this.

Jobs, transitions, logs and the audit lie in *segments*, tables of their own (``jobs_1``, ``jobs_2``, ...): rows are
appended to the last of a kind, and what is too old goes with its whole segment. Views named ``jobs``,
``transitions``, ``logs`` and ``audit`` show all segments of a kind as one table. Beside each segment, but for those of
the audit, lies a table of the long texts of its rows (see `zbrain_nb.store.texts`), and beside the views their views.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from pathlib import Path

import duckdb

from zbrain_nb.model.amounts import VALUE_BYTES, WIDE_BYTES
from zbrain_nb.model.errors import ZBrainError
from zbrain_nb.store import texts
from zbrain_nb.store.footprint import SHORT_TEXT
from zbrain_nb.store.queries import last_seq
from zbrain_nb.store.texts import texts_of
from zbrain_nb.store.waiting import FOLDED_SEQ

SCHEMA_VERSION = 11

#: How text is stored that is null at first and set later by an update. As DuckDB 2.0 packs text by itself (DICT_FSST),
#: such an update is lost when the write-ahead log is replayed: in a table with an index, of rows from before the last
#: checkpoint that share their vector with rows from after it, null stays null.
_SET_LATER = "VARCHAR USING COMPRESSION zstd"

_FIXED = """
CREATE TABLE meta (key VARCHAR PRIMARY KEY, value VARCHAR NOT NULL);

-- Where each worker keeps its spools, so that a lock on one is found before the worker reports again.
CREATE TABLE workers (id VARCHAR PRIMARY KEY, info VARCHAR NOT NULL);
"""

# `hash` is the SHA-256 of the secret, in hexadecimal; `roles` is JSON, null for all orgs. Read whole when the host
# starts and looked up in memory, so no index but the key.
_TOKENS = f"""
CREATE TABLE tokens (
    id VARCHAR PRIMARY KEY,
    hash VARCHAR NOT NULL,
    kind VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    roles VARCHAR NOT NULL,
    pool VARCHAR,
    jobs_of VARCHAR,
    label VARCHAR NOT NULL,
    created_by VARCHAR NOT NULL,
    created_with VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    expires_at TIMESTAMP NOT NULL,
    revoked_at TIMESTAMP,
    revoked_by {_SET_LATER},
    last_used_at TIMESTAMP
)
"""

# Who may name which blob (see `zbrain_nb.queue.grants`). `org_id` is empty for a worker's token. `head` is the
# beginning of the hash as a number, by which rows are found ten times as fast; an index would be held in memory.
# `size` is what the blob counts for the limits of this org and owner, in bytes: of all rows of an owner and a blob one
# has its size, the others 0.
_GRANTS = """
CREATE TABLE grants (
    head UBIGINT NOT NULL,
    org_id VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    sha256 VARCHAR NOT NULL,
    size BIGINT DEFAULT 0
)
"""

# `first_seq` is a number that every row of the segment exceeds or has, but for those carried over from a dropped
# one. No key: a row is changed in the transaction that adds the next.
_SEGMENTS = """
CREATE TABLE segments (
    kind VARCHAR NOT NULL,
    number INTEGER NOT NULL,
    first_seq BIGINT NOT NULL,
    opened_at TIMESTAMP NOT NULL,
    closed_at TIMESTAMP
)
"""

#: The columns of each kind's segments.
COLUMNS = {
    # One row per submit, appended; `lane` and `rank` are its place in line, and null if it waits for other jobs.
    # The columns from `state` to `folded_seq` are folded in later, for lists and history. `tags` are those of the
    # spec, as JSON, null if there are none: to look for one in the specs themselves takes ten times as long.
    # `extra_bytes` is what the spec takes in memory (see `zbrain_nb.store.footprint`), null if it is short: windows
    # are filled by it, and to weigh the specs themselves would mean to read a thousand of them for the few that fit.
    "jobs": f"""
    id UUID NOT NULL,
    event_seq BIGINT NOT NULL,
    org_id VARCHAR NOT NULL,
    owner VARCHAR NOT NULL,
    name VARCHAR NOT NULL,
    created_at TIMESTAMP NOT NULL,
    spec VARCHAR NOT NULL,
    idempotency_key VARCHAR,
    payload_hash VARCHAR,
    retry_of UUID,
    lane VARCHAR,
    rank BIGINT,
    state VARCHAR NOT NULL DEFAULT 'pending',
    attempt INTEGER NOT NULL DEFAULT 0,
    started_at TIMESTAMP,
    finished_at TIMESTAMP,
    worker_id {_SET_LATER},
    exit_code INTEGER,
    reason {_SET_LATER},
    fields {_SET_LATER},
    folded_seq BIGINT,
    cache_key VARCHAR,
    tags VARCHAR,
    extra_bytes BIGINT
    """,
    # Everything that happened to jobs after their submit; `data` is a JSON patch of the job's fields.
    "transitions": """
    event_seq BIGINT NOT NULL,
    job_id UUID NOT NULL,
    org_id VARCHAR NOT NULL,
    attempt INTEGER NOT NULL,
    kind VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL,
    data VARCHAR NOT NULL,
    worker_seq BIGINT
    """,
    "logs": """
    job_id UUID NOT NULL,
    log_seq BIGINT NOT NULL,
    attempt INTEGER NOT NULL,
    worker_seq BIGINT,
    event_seq BIGINT NOT NULL,
    stream VARCHAR NOT NULL,
    ts TIMESTAMP NOT NULL,
    line VARCHAR NOT NULL
    """,
    # Who did what (`zbrain_nb.model.audit.Record`); `seq` is of its own, no event's.
    "audit": """
    seq BIGINT NOT NULL,
    ts TIMESTAMP NOT NULL,
    who VARCHAR NOT NULL,
    credential VARCHAR NOT NULL,
    token_id VARCHAR NOT NULL,
    address VARCHAR NOT NULL,
    verb VARCHAR NOT NULL,
    object_kind VARCHAR NOT NULL,
    object_id VARCHAR NOT NULL,
    org_id VARCHAR NOT NULL,
    outcome VARCHAR NOT NULL,
    reason VARCHAR NOT NULL,
    count BIGINT NOT NULL
    """,
}
#: The kinds whose rows are numbered by ``event_seq``: what happened to jobs.
KINDS = ("jobs", "transitions", "logs")


def create_segment(connection: duckdb.DuckDBPyConnection, kind: str, number: int, first_seq: int, now: float) -> None:
    """Make an empty segment and enter it; the view of its kind has to be made anew (`show_segments`)."""
    for table, columns in tables_of(kind, f"{kind}_{number}").items():
        connection.execute(f"CREATE TABLE {table} ({columns})")
    index_segment(connection, kind, number)
    _enter_segment(connection, kind, number, first_seq, now)


def tables_of(kind: str, table: str) -> dict[str, str]:
    """Return the columns of the tables that a segment is made of: its own, and that of its long texts."""
    return {table: COLUMNS[kind]} | ({texts_of(table): texts.COLUMNS} if kind in KINDS else {})


def index_segment(connection: duckdb.DuckDBPyConnection, kind: str, number: int) -> None:
    """Give the open segment of jobs the index that refuses an id given twice."""
    if kind == "jobs":
        connection.execute(f"CREATE UNIQUE INDEX jobs_{number}_id ON jobs_{number} (id)")


def close_segment(connection: duckdb.DuckDBPyConnection, kind: str, number: int, now: float) -> None:
    """Note that nothing is appended to a segment any more; its index goes, for zone maps find an id as well."""
    connection.execute(
        "UPDATE segments SET closed_at = make_timestamp(?) WHERE kind = ? AND number = ?",
        [round(now * 1e6), kind, number],
    )
    if kind == "jobs":
        connection.execute(f"DROP INDEX IF EXISTS jobs_{number}_id")


def show_segments(connection: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Make the views of a kind anew, from the segments that are entered."""
    for view, of_segments in zip(tables_of(kind, kind), zip(*_tables(connection, kind), strict=True), strict=True):
        _show(connection, view, of_segments)


def _show_rows(connection: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Make the view of a kind anew while there may be no tables of long texts yet."""
    _show(connection, kind, [table for table, *_ in _tables(connection, kind)])


def _tables(connection: duckdb.DuckDBPyConnection, kind: str) -> list[list[str]]:
    """Return the tables of each segment of a kind."""
    numbers = connection.execute("SELECT number FROM segments WHERE kind = ? ORDER BY number", [kind]).fetchall()
    return [list(tables_of(kind, f"{kind}_{number}")) for (number,) in numbers]


def _show(connection: duckdb.DuckDBPyConnection, view: str, tables: Iterable[str]) -> None:
    parts = " UNION ALL BY NAME ".join(f"SELECT * FROM {table}" for table in tables)
    connection.execute(f"CREATE OR REPLACE VIEW {view} AS {parts}")


def _enter_segment(connection: duckdb.DuckDBPyConnection, kind: str, number: int, first_seq: int, now: float) -> None:
    connection.execute(
        "INSERT INTO segments VALUES (?, ?, ?, make_timestamp(?), NULL)", [kind, number, first_seq, round(now * 1e6)]
    )


def prepare(connection: duckdb.DuckDBPyConnection, path: Path | None, now: float) -> None:
    """Give a new database its tables, and bring an old one to this version, in one transaction.

    Raises
    ------
    ZBrainError
        If a newer zbrain_nb wrote it. It is not changed.
    duckdb.Error
        If it cannot be written. It is as it was.
    """
    connection.execute("BEGIN")
    try:
        version = version_of(connection)
        if version > SCHEMA_VERSION:
            raise ZBrainError(
                f"The database {path} was written by a newer zbrain_nb.",
                "Upgrade zbrain_nb, or use another ZDB_DATA.",
            )
        if version == 0:
            _create(connection, now)
        for migrate in MIGRATIONS[max(0, version - 1) :] if version else ():
            migrate(connection, now)
        if version != SCHEMA_VERSION:
            connection.execute(
                "INSERT OR REPLACE INTO meta VALUES ('schema_version', ?)",
                [str(SCHEMA_VERSION)],
            )
        connection.execute("COMMIT")
    except BaseException:
        connection.execute("ROLLBACK")
        raise


def version_of(connection: duckdb.DuckDBPyConnection) -> int:
    """Return the version of the tables, 0 if there are none."""
    found = connection.execute("SELECT 1 FROM duckdb_tables() WHERE table_name = 'meta'").fetchone()
    row = found and connection.execute("SELECT value FROM meta WHERE key = 'schema_version'").fetchone()
    return int(row[0]) if row else 0


def create_fixed(connection: duckdb.DuckDBPyConnection) -> None:
    """Make the tables that are no segments, empty."""
    connection.execute(_FIXED)
    connection.execute(_SEGMENTS)
    connection.execute(_TOKENS)
    connection.execute(_GRANTS)


def _create(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    create_fixed(connection)
    for kind in COLUMNS:
        create_segment(connection, kind, 1, 1, now)
        show_segments(connection, kind)


def _into_segments(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Make the tables of version 1 the first, closed segments.

    The places of jobs in line are new too: `lane` and `rank` are null in what is found.
    """
    row = connection.execute(
        "SELECT greatest(0, (SELECT max(event_seq) FROM jobs), (SELECT max(event_seq) FROM transitions), "
        "(SELECT max(event_seq) FROM logs))"
    ).fetchone()
    last_seq = row[0] if row else 0
    connection.execute(_SEGMENTS)
    for kind in KINDS:
        connection.execute(f"ALTER TABLE {kind} RENAME TO {kind}_1")
        _enter_segment(connection, kind, 1, 1, now)
        close_segment(connection, kind, 1, now)
        create_segment(connection, kind, 2, last_seq + 1, now)
    columns = {name for (name,) in connection.execute("SELECT column_name FROM (DESCRIBE jobs_1)").fetchall()}
    for name, kind in (("lane", "VARCHAR"), ("rank", "BIGINT")):
        if name not in columns:
            connection.execute(f"ALTER TABLE jobs_1 ADD COLUMN {name} {kind}")
    for kind in KINDS:
        _show_rows(connection, kind)


def _add_cache_keys(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Give each segment of jobs the column `cache_key`, null in all that is found."""
    numbers = connection.execute("SELECT number FROM segments WHERE kind = 'jobs'").fetchall()
    for (number,) in numbers:
        connection.execute(f"ALTER TABLE jobs_{number} ADD COLUMN IF NOT EXISTS cache_key VARCHAR")
    _show_rows(connection, "jobs")


def _add_tags(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Give each segment of jobs the column `tags`, and fill it from the specs."""
    numbers = connection.execute("SELECT number FROM segments WHERE kind = 'jobs'").fetchall()
    for (number,) in numbers:
        connection.execute(f"ALTER TABLE jobs_{number} ADD COLUMN IF NOT EXISTS tags VARCHAR")
        connection.execute(
            f"UPDATE jobs_{number} SET tags = json_extract(spec, '$.tags')::VARCHAR WHERE contains(spec, '\"tags\":')"
        )
    _show_rows(connection, "jobs")


def _add_access(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Add tokens and the audit to version 2."""
    connection.execute(_TOKENS)
    create_segment(connection, "audit", 1, 1, now)
    show_segments(connection, "audit")


def _add_grants(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Add the table of grants, empty: what somebody else than the directory's holder sent before is sent again."""
    connection.execute(_GRANTS)


def _add_sizes(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Give the grants sizes; what is granted by now counts for nobody's limits."""
    connection.execute("ALTER TABLE grants ADD COLUMN IF NOT EXISTS size BIGINT DEFAULT 0")


def _allow_use(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Change no table: what an attempt used is told among the fields of jobs, which version 7 does not know."""


def _add_extra_bytes(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Give each segment of jobs the column `extra_bytes`, and fill it: no less than the specs take, often more."""
    numbers = connection.execute("SELECT number FROM segments WHERE kind = 'jobs'").fetchall()
    for (number,) in numbers:
        connection.execute(f"ALTER TABLE jobs_{number} ADD COLUMN IF NOT EXISTS extra_bytes BIGINT")
        connection.execute(
            f"UPDATE jobs_{number} SET extra_bytes = strlen(spec) * {WIDE_BYTES} "
            f"+ (length(spec) - length(translate(spec, ',[{{', ''))) * {VALUE_BYTES} WHERE strlen(spec) > {SHORT_TEXT}"
        )
    _show_rows(connection, "jobs")


def _keep_folds(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Let new jobs go into a segment whose folds outlive a kill (`_SET_LATER`), and have lost folds made again.

    The segment that was open loses its index, and with that the danger. A row of which a fold was half lost counts
    as not folded, so that the queue, when it opens, reads what became of the job from its transitions.
    """
    segments = connection.execute("SELECT number FROM segments WHERE kind = 'jobs' ORDER BY number").fetchall()
    lost = "folded_seq IS NOT NULL AND fields IS NULL"
    row = connection.execute(f"SELECT min(event_seq) FROM jobs WHERE {lost}").fetchone()
    if row is not None and row[0] is not None:
        for (number,) in segments:
            connection.execute(f"UPDATE jobs_{number} SET folded_seq = NULL WHERE {lost}")
        connection.execute(
            "UPDATE meta SET value = least(value::BIGINT, ?)::VARCHAR WHERE key = ?", [row[0], FOLDED_SEQ]
        )
    ((last,),) = segments[-1:]
    close_segment(connection, "jobs", last, now)
    create_segment(connection, "jobs", last + 1, last_seq(connection) + 1, now)
    _show_rows(connection, "jobs")


def _set_texts_aside(connection: duckdb.DuckDBPyConnection, now: float) -> None:
    """Give each segment a table of long texts; those that lie in the rows stay there, and go with their segment."""
    for kind in KINDS:
        for _, texts_table in _tables(connection, kind):
            connection.execute(f"CREATE TABLE IF NOT EXISTS {texts_table} ({texts.COLUMNS})")
        show_segments(connection, kind)


#: ``MIGRATIONS[n - 1]`` turns version n into version n + 1.
MIGRATIONS: list[Callable[[duckdb.DuckDBPyConnection, float], None]] = [
    _into_segments,
    _add_access,
    _add_cache_keys,
    _add_tags,
    _add_grants,
    _add_sizes,
    _allow_use,
    _add_extra_bytes,
    _keep_folds,
    _set_texts_aside,
]
