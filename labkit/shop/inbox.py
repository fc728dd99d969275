"""A department's message inbox: what it has worked on already, so that a copy does no harm.

A broker delivers a message again where an acknowledgement got lost, and whoever publishes sends
it again where a confirm got lost. No broker can tell a copy from a new message; the department
can, by the id of the event, if it keeps the ids that it has seen. An id goes into the same
transaction as the work: either both are there or neither.
"""

from __future__ import annotations

import sqlite3

from labkit.shop.database import Database


def first_time(connection: sqlite3.Connection, event_id: str) -> bool:
    """Notes an event id, and says whether it is new.

    Args:
        connection: inside a transaction, which holds the work for that event, too. Where it is
            rolled back, the id is as new as before.
        event_id: the event's own; a copy of the message carries the same one.
    """
    # OR IGNORE: the id is the table's key, so a second row under it is not made.
    new = connection.execute(
        "INSERT OR IGNORE INTO seen_messages VALUES (?, 1)", (event_id,)
    ).rowcount
    if not new:
        connection.execute(
            "UPDATE seen_messages SET times = times + 1 WHERE event_id = ?", (event_id,)
        )
    return bool(new)


class MessageInbox:
    """The table `seen_messages` in a department's database: event ids, and how often each came.

    Args:
        database: the one that the department's work is noted in, since a transaction can't span
            two of them.
    """

    first_time = staticmethod(first_time)

    def __init__(self, database: Database) -> None:
        self.database = database
        # One tree in place of a table and its index: half the pages to write at each commit.
        database.write(
            "CREATE TABLE IF NOT EXISTS seen_messages (event_id TEXT PRIMARY KEY, times INTEGER)"
            " WITHOUT ROWID"
        )

    def knows(self, event_id: str) -> bool:
        """Whether the work for it is done; a quick look, before anybody outside is asked."""
        return bool(
            self.database.rows("SELECT 1 FROM seen_messages WHERE event_id = ?", (event_id,))
        )

    def stop_copy(self, event_id: str) -> None:
        """Counts one more copy that came for nothing."""
        with self.database.transaction() as connection:
            self.first_time(connection, event_id)

    @property
    def copies(self) -> int:
        """How many messages it has stopped, since the work for them was done already."""
        total = self.database.rows("SELECT coalesce(sum(times - 1), 0) FROM seen_messages")
        return int(total[0][0])
