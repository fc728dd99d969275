"""What all departments share: what a department is, whoever asks it to work.

A department's `handle(order)` is one function. It neither knows nor cares whether an HTTP request
or a message called it. The work has two parts: what is asked of the world outside, which takes
its time and can't be undone, and what is noted in the department's database, in one transaction.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import ClassVar

from labkit.background import checkpoint
from labkit.clock import Pace
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.shop.database import Database
from labkit.shop.orders import Order


class DepartmentError(ServiceError):
    """A department could not do its work now; it may work later."""


class Department:
    """What all departments share: a name, a database, a pace, and a note of each piece of work.

    Args:
        folder: where the SQLite file `<name>.db` lies.
        pace: shop time.
        recorder: gets `started`, then `done` or `failed`, for each order.

    Attributes:
        name: as events, queues and plots call it.
        workers: how many orders it works on at the same time, in either flow.
        prefetch: how many messages each worker may hold in the decoupled flow.
        takes_s: how long its own work takes, in shop seconds.
        refuses: whether it is closed for now: `handle()` raises a `DepartmentError`.
        schema: its tables.
    """

    name: ClassVar[str]
    workers: ClassVar[int] = 1
    prefetch: ClassVar[int] = 1
    schema: ClassVar[str]
    takes_s: float = 0.0
    refuses: bool = False

    def __init__(self, folder: Path, pace: Pace, recorder: Recorder) -> None:
        self.pace = pace
        self.recorder = recorder
        self.database = Database(folder / f"{self.name}.db", self.schema)

    def ask(self, order: Order) -> str:
        """The first part of the work: takes the time, and asks whom it must; the answer in a word.

        Raises:
            DepartmentError: it can't be done now.
        """
        raise NotImplementedError

    def note(self, connection: sqlite3.Connection, order: Order, answer: str) -> str:
        """The second part: notes what was done, in the caller's transaction; the result in a word.

        Args:
            connection: of this department's database, inside a transaction.
            order: what was worked on.
            answer: what `ask()` gave.
        """
        raise NotImplementedError

    def work(self, order: Order) -> str:
        """Does the work, both parts; the result in a word.

        Raises:
            DepartmentError: it can't be done now.
        """
        answer = self.ask(order)
        with self.database.transaction() as connection:
            return self.note(connection, order, answer)

    def handle(self, order: Order, work: Callable[[Order], str] | None = None) -> str:
        """Does the work, and records when it began and how it ended.

        Args:
            order: what to work on.
            work: a way of its own to do both parts; as `work()` does them if left out.

        Returns:
            The result in a word, such as `charged` or `declined`.

        Raises:
            DepartmentError: it can't be done now.
        """
        self.recorder.record("started", self.name, order.order_id)
        try:
            if self.refuses:
                raise DepartmentError(
                    f"{self.name} is closed for now.",
                    "its `refuses` is set",
                    f"open it again: departments[{self.name!r}].refuses = False",
                )
            result = (work or self.work)(order)
        except Exception as exc:
            why = (str(exc) or type(exc).__name__).splitlines()[0]
            self.recorder.record("failed", self.name, order.order_id, why)
            raise
        checkpoint()  # a program that crashed after its commit tells nobody of it
        self.recorder.record("done", self.name, order.order_id, result)
        return result

    def close(self) -> None:
        """Closes the database."""
        self.database.close()
