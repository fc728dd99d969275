"""The message inbox: an event that was worked on is known from then on, and not before."""

import contextlib

import pytest

from labkit.shop.database import Database
from labkit.shop.inbox import MessageInbox, first_time


@pytest.fixture
def database(tmp_path):
    database = Database(tmp_path / "department.db", "CREATE TABLE work (event_id TEXT)")
    yield database
    database.close()


def work(database, event_id, then=None):
    """Notes one piece of work and the event, together; whether it was new."""
    with database.transaction() as connection:
        new = first_time(connection, event_id)
        if new:
            connection.execute("INSERT INTO work VALUES (?)", (event_id,))
        if then is not None:
            raise then
    return new


def test_an_event_is_new_once(database):
    inbox = MessageInbox(database)
    assert not inbox.knows("one")
    assert work(database, "one")
    assert inbox.knows("one")
    assert not work(database, "one")
    assert work(database, "two")
    assert database.rows("SELECT event_id FROM work") == [("one",), ("two",)]


def test_an_event_whose_work_is_rolled_back_is_still_new(database):
    inbox = MessageInbox(database)
    with contextlib.suppress(RuntimeError):
        work(database, "one", then=RuntimeError("the department dies here"))
    assert not inbox.knows("one")
    assert database.rows("SELECT 1 FROM work") == []
    assert work(database, "one")


def test_it_counts_the_copies_that_came_for_nothing(database):
    inbox = MessageInbox(database)
    assert inbox.copies == 0
    work(database, "one")
    work(database, "one")
    inbox.stop_copy("one")
    assert inbox.copies == 2


def test_what_it_has_seen_outlives_the_process(database, tmp_path):
    MessageInbox(database)
    work(database, "one")
    database.close()
    again = Database(tmp_path / "department.db", "")
    assert MessageInbox(again).knows("one")
    again.close()
