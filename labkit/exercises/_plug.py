"""Pulls the plug on a learner's code at each point that it passes, one run after the other.

A check that crashes the code once, somewhere, proves little. Here a first run notes every point
that the code passes: each statement, commit, publish and acknowledgement, before and after. Then
there is a run for each of them that ends there, as if the machine had gone dark.
"""

from __future__ import annotations

import contextlib
import functools
import sqlite3
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from pika.adapters.blocking_connection import BlockingChannel

from labkit.shop.database import Database


class PulledPlug(BaseException):
    """What was running goes no further; not an `Exception`, so that no handler goes on."""


class Plug:
    """Notes the points that are passed, and pulls the plug at one of them.

    Args:
        at: the number of the point at which the plug is pulled, from 1; None for never.

    Attributes:
        points: the points so far, in words that follow "the plug was pulled".
        pulled: whether it was pulled.
    """

    def __init__(self, at: int | None = None) -> None:
        self.at = at
        self.points: list[str] = []
        self.pulled = False
        self._ended = False

    def reach(self, point: str) -> None:
        """Says that the code is at this point.

        Raises:
            PulledPlug: it goes no further.
        """
        if self._ended:
            return
        if self.pulled:
            raise PulledPlug(point)
        self.points.append(point)
        if self.at == len(self.points):
            self.pulled = True
            raise PulledPlug(point)

    def end(self) -> None:
        """The program that was running has ended; what starts now passes no points."""
        self.at, self._ended = None, True

    def watch(self, channel: BlockingChannel, *methods: str) -> None:
        """From now on, calls of these methods of a channel are points, before and after."""
        for name in methods:
            setattr(channel, name, self._around(name, getattr(channel, name)))

    def _around(self, name: str, method: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(method)
        def watched(*args: Any, **kwargs: Any) -> Any:
            self.reach(f"just before {name}")
            result = method(*args, **kwargs)
            self.reach(f"just after {name}")
            return result

        return watched


class _Watched:
    """An SQLite connection whose statements are points."""

    def __init__(self, connection: sqlite3.Connection, plug: Plug) -> None:
        self._connection = connection
        self._plug = plug

    def execute(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._run(self._connection.execute, sql, *values)

    def executemany(self, sql: str, *values: Any) -> sqlite3.Cursor:
        return self._run(self._connection.executemany, sql, *values)

    def _run(self, run: Callable[..., sqlite3.Cursor], sql: str, *values: Any) -> sqlite3.Cursor:
        words = " ".join(sql.split()[:2])
        self._plug.reach(f"just before the statement {words} ...")
        cursor = run(sql, *values)
        self._plug.reach(f"just after the statement {words} ...")
        return cursor

    def commit(self) -> None:
        self._plug.reach("just before a commit")
        self._connection.commit()
        self._plug.reach("just after a commit")

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)


class WatchedDatabase(Database):
    """A department's database whose statements and commits are points of a plug.

    Attributes:
        plug: the one that counts; set another for the next run.
    """

    def __init__(self, path: Path, schema: str, plug: Plug) -> None:
        self.plug = plug
        super().__init__(path, schema)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """As of every database: rolled back where the block, or the plug, raises."""
        connection = self._connection()
        watched = _Watched(connection, self.plug)
        try:
            yield watched  # type: ignore[misc]  # does what a connection does
            watched.commit()
        except BaseException:
            connection.rollback()
            raise


@contextlib.contextmanager
def database(schema: str) -> Iterator[WatchedDatabase]:
    """An empty database in a folder of its own, gone at the end; its plug is never pulled.

    One database serves all runs of a check: to make one takes many writes to the disk.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = WatchedDatabase(Path(folder) / "check.db", schema, Plug())
        made.relax()
        try:
            yield made
        finally:
            made.close()
