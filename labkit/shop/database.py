"""A department's SQLite file."""

from __future__ import annotations

import contextlib
import sqlite3
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from labkit.background import checkpoint
from labkit.errors import ServiceError

#: For a column's default: when a row was written, in seconds since 1970 with milliseconds.
NOW = "((julianday('now') - 2440587.5) * 86400.0)"


class Database:
    """One SQLite file, for one department, used by any of its threads.

    Each thread has a connection of its own. What is committed survives a crash of the process and
    of the machine (write-ahead log, synchronous=FULL).

    Args:
        path: the file; made if it is not there.
        schema: `CREATE TABLE IF NOT EXISTS` statements.

    Attributes:
        busy_wall_s: for how many real seconds a write waits for another program that is writing,
            before it fails with `sqlite3.OperationalError`; of connections that are opened later.

    Raises:
        ServiceError: the folder can't be written.
    """

    busy_wall_s = 10.0

    def __init__(self, path: Path, schema: str) -> None:
        self.path = path
        self._local = threading.local()
        self._lock = threading.Lock()
        self._connections: list[tuple[threading.Thread, sqlite3.Connection]] = []
        try:
            self._connection().executescript(schema)
        except sqlite3.OperationalError as exc:
            self.close()
            raise ServiceError(
                f"The database {path.name} can't be opened.",
                f"{path}: {exc}",
                "check that the folder exists and may be written",
            ) from exc

    def _connection(self) -> sqlite3.Connection:
        connection: sqlite3.Connection | None = getattr(self._local, "connection", None)
        if connection is None:
            # Closed by close(), from another thread, once this one has ended.
            connection = sqlite3.connect(
                self.path, check_same_thread=False, timeout=self.busy_wall_s
            )
            self._keep(connection)
            connection.execute("PRAGMA journal_mode=WAL")
            connection.execute("PRAGMA synchronous=FULL")
            self._local.connection = connection
        return connection

    def _keep(self, connection: sqlite3.Connection) -> None:
        """Remembers a thread's connection, and closes those of threads that have ended.

        A thread that crashed may have left a transaction open, which would keep out all others.
        """
        with self._lock:
            ended = [each for thread, each in self._connections if not thread.is_alive()]
            self._connections = [pair for pair in self._connections if pair[0].is_alive()]
            self._connections.append((threading.current_thread(), connection))
        for each in ended:
            each.close()

    def open(self) -> None:
        """Opens the calling thread's connection, so that its first statement need not wait for it.

        Raises:
            sqlite3.OperationalError: the file can't be opened any more.
        """
        self._connection()

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """A transaction: committed at the end of the block, rolled back where it raises.

        It is not committed, either, where the service that this thread works for has crashed.
        """
        connection = self._connection()
        with connection:
            yield connection
            checkpoint()

    def relax(self) -> None:
        """Has the calling thread's commits survive a crash of the process, not of the machine.

        They no longer wait for the disk. For what may be done again, such as a note that
        something was sent.
        """
        # https://www.sqlite.org/pragma.html#pragma_synchronous
        self._connection().execute("PRAGMA synchronous=NORMAL")

    def write(self, sql: str, values: Sequence[Any] = ()) -> int:
        """Runs one statement in a transaction of its own; the number of rows that it changed."""
        with self.transaction() as connection:
            return connection.execute(sql, values).rowcount

    def rows(self, sql: str, values: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        """What a query finds."""
        return self._connection().execute(sql, values).fetchall()

    def close(self) -> None:
        """Closes every thread's connection; may be called twice."""
        with self._lock:
            connections, self._connections = self._connections, []
        for _, connection in connections:
            connection.close()
        self._local = threading.local()
