"""A copy of the database while it is written, and of the blobs beside it.

Closed segments are copied one by one, each in a short transaction of a reader, so that checkpoints go on between
them; the open ones come last, in one transaction. Nothing is appended to a closed segment, and what is folded into
one after it was copied stands in the transitions that are copied later: opened, the copy reads like a database
whose process was killed in that last moment.
"""

from __future__ import annotations

import os
import secrets
import shutil
from pathlib import Path

import duckdb

from zbrain_nb.model.errors import Conflict, DiskFloor, Malformed, ZBrainError
from zbrain_nb.store.artifacts import ArtifactStore
from zbrain_nb.store.opening import open_connection, wal_of
from zbrain_nb.store.schema import COLUMNS, create_fixed, index_segment, show_segments, tables_of
from zbrain_nb.store.segments import Segment, read_segments, roll_back
from zbrain_nb.store.waiting import FOLDED_SEQ

_NAME = "zbrain_backup"
#: Left free beside a backup.
MARGIN_BYTES = 16 << 20


class Backup:
    """One backup under way, in a folder beside its destination.

    Attributes
    ----------
    to : Path
        The destination.
    folder : Path
        Becomes the destination when it is whole.
    """

    def __init__(self, to: Path, folder: Path) -> None:
        self.to = to
        self.folder = folder
        self._database = folder / "zbrain.duckdb"
        self._copied: set[str] = set()
        self._is_attached = False
        self._folded_seq: tuple[str] | None = None

    @property
    def database(self) -> Path:
        """The copy of the database."""
        return self._database

    def copy_next(self, cursor: duckdb.DuckDBPyConnection) -> bool:
        """Copy one more closed segment, or at the end all the rest; return whether there is more to do."""
        if not self._is_attached:
            cursor.execute(f"ATTACH '{_quoted(self._database)}' AS {_NAME}")
            self._is_attached = True
            self._folded_seq = cursor.execute("SELECT value FROM meta WHERE key = ?", [FOLDED_SEQ]).fetchone()
        cursor.execute("BEGIN")
        try:
            segments = read_segments(cursor)
            closed = [s for s in segments if s.closed_at is not None and s.table not in self._copied]
            if closed:
                _copy(cursor, closed[0])
                self._copied.add(closed[0].table)
            else:
                self._copy_rest(cursor, [s for s in segments if s.closed_at is None])
            cursor.execute("COMMIT")
        except BaseException:
            roll_back(cursor)
            raise
        if not closed:
            cursor.execute(f"CHECKPOINT {_NAME}")
            self.detach(cursor)
        return bool(closed)

    def _copy_rest(self, cursor: duckdb.DuckDBPyConnection, segments: list[Segment]) -> None:
        for segment in segments:
            _copy(cursor, segment)
        for table in ("meta", "workers", "tokens", "grants", "segments"):
            cursor.execute(f"INSERT INTO {_NAME}.{table} SELECT * FROM {table}")
        # closed segments were copied before: their jobs may not show what was folded since
        cursor.execute(f"DELETE FROM {_NAME}.meta WHERE key = ?", [FOLDED_SEQ])
        if self._folded_seq is not None:
            cursor.execute(f"INSERT INTO {_NAME}.meta VALUES (?, ?)", [FOLDED_SEQ, self._folded_seq[0]])

    def detach(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Let go of the copy, so that it can be opened or removed; harmless when it is not held."""
        if self._is_attached:
            self._is_attached = False
            cursor.execute(f"DETACH {_NAME}")

    def finish(self) -> None:
        """Make the copy a database like any other, and let the destination appear.

        Raises
        ------
        ZBrainError
            If it cannot be written.
        """
        with duckdb.connect(str(self._database)) as connection:
            for segment in read_segments(connection):
                if segment.closed_at is None:
                    index_segment(connection, segment.kind, segment.number)
            for kind in COLUMNS:
                show_segments(connection, kind)
        open_connection(self._database, may_set_aside=False).close()
        try:
            for place in (self._database, self.folder):
                _sync(place)
            self.folder.rename(self.to)
            _sync(self.to.parent)
        except OSError as error:
            raise ZBrainError(f"The backup cannot be put at {self.to}: {error.strerror}.") from error

    def abandon(self) -> None:
        """Remove what was copied."""
        shutil.rmtree(self.folder, ignore_errors=True)


def start_backup(to: Path, database: Path | None) -> Backup:
    """Make the folder of a backup, with an empty database in it.

    Parameters
    ----------
    to : Path
        The destination.
    database : Path or None
        What will be copied: there must be room for it.

    Raises
    ------
    Conflict
        If the destination exists and is no empty folder.
    DiskFloor
        If the disk has no room for it.
    Malformed
        If the folder cannot be made, or `to` is not absolute.
    """
    if not to.is_absolute():
        raise Malformed(f"{to} is no absolute path.", "Name the backup from the root on.")
    if to.exists() and (not to.is_dir() or any(to.iterdir())):
        raise Conflict(f"{to} exists and is not empty.", "Name a new folder.")
    folder = to.with_name(f"{to.name}.partial-{secrets.token_hex(4)}")
    try:
        to.parent.mkdir(parents=True, exist_ok=True)
        folder.mkdir(mode=0o700)
    except OSError as error:
        raise Malformed(f"The backup cannot be made at {to}: {error.strerror}.", "Name another place.") from error
    backup = Backup(to, folder)
    needed = 0 if database is None else sum(f.stat().st_size for f in (database, wal_of(database)) if f.exists())
    free = shutil.disk_usage(folder).free
    if free < needed + MARGIN_BYTES:
        backup.abandon()
        raise DiskFloor(f"{to.parent} has {free >> 20} MiB left; the backup takes {needed >> 20} MiB and some room.")
    with duckdb.connect(str(backup.database)) as connection:
        create_fixed(connection)
    return backup


def copy_blobs(store: ArtifactStore, folder: Path) -> int:
    """Copy all blobs into a folder: as links where the disk is the same; return how many.

    Raises
    ------
    ZBrainError
        If one cannot be written.
    """
    copied = 0
    target = ArtifactStore(folder / "artifacts")
    for sha256 in store:
        source, copy = store.path(sha256), target.path(sha256)
        copy.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        try:
            os.link(source, copy)
        except OSError:
            try:
                shutil.copy2(source, copy)
                _sync(copy)
            except OSError as error:
                raise ZBrainError(f"The blob {sha256[:12]}… cannot be copied: {error.strerror}.") from error
        copied += 1
    return copied


def _copy(cursor: duckdb.DuckDBPyConnection, segment: Segment) -> None:
    for table, columns in tables_of(segment.kind, segment.table).items():
        cursor.execute(f"CREATE TABLE {_NAME}.{table} ({columns})")
        cursor.execute(f"INSERT INTO {_NAME}.{table} BY NAME SELECT * FROM {table}")


def _quoted(path: Path) -> str:
    return str(path).replace("'", "''")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
