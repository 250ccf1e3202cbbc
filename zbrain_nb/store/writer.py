"""The writer thread: the only one that changes the database, one task after the other."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any

import duckdb

from zbrain_nb.model.errors import Unavailable
from zbrain_nb.store.database import REVIVAL_PAUSE_SECS, Database
from zbrain_nb.store.room import Room

log = logging.getLogger(__name__)

Task = Callable[[Database], Any]
Done = Callable[[Any, BaseException | None], None]


class Writer:
    """A thread that owns a `Database` from opening to closing.

    Parameters
    ----------
    path : Path or None
        The database's file; None is in memory.
    room : Room
        Of the disk on which it lies.
    """

    def __init__(self, path: Path | None, room: Room) -> None:
        self._path = path
        self._room = room
        self._tasks: SimpleQueue[tuple[Task, Done] | None] = SimpleQueue()
        self._opened = threading.Event()
        self._failure: BaseException | None = None
        self.database: Database | None = None
        self._thread = threading.Thread(target=self._run, name="zbrain-writer", daemon=True)

    def start(self) -> Database:
        """Open the database in the thread; return it once it is open.

        Raises
        ------
        ZBrainError
            If it cannot be opened.
        """
        self._thread.start()
        self._opened.wait()
        if self.database is None:
            raise self._failure or Unavailable("The store did not open.")
        return self.database

    def put(self, task: Task, done: Done) -> None:
        """Queue `task`; `done(result, error)` is called in the writer thread when it has run."""
        self._tasks.put((task, done))

    def stop(self) -> None:
        """Run what is queued, close the database and end the thread."""
        self._tasks.put(None)
        self._thread.join()

    def _run(self) -> None:
        try:
            database = self.database = Database(self._path, self._room)
        except Exception as error:
            self._failure = error
            return
        finally:
            self._opened.set()
        while True:
            try:
                item = self._tasks.get(timeout=REVIVAL_PAUSE_SECS if database.is_invalid else None)
            except Empty:
                database.revive_if_invalid()
                continue
            if item is None:
                break
            task, done = item
            database.revive_if_invalid()
            try:
                result = task(database)
            except duckdb.Error as error:
                database.note_failure(error)
                done(None, error)
            except Exception as error:
                log.exception("A task of the writer failed.")
                done(None, error)
            else:
                done(result, None)
            del item, task, done
            database.tend()
        database.close()
