"""A department's SQLite file, and a shop whose folder can't be written."""

import gc
import threading

import psutil
import pytest

from labkit.clock import Pace
from labkit.errors import ServiceError
from labkit.events import Recorder
from labkit.shop import DecoupledShop, SynchronousShop
from labkit.shop.database import Database


@pytest.fixture
def beyond(tmp_path):
    """A folder that nobody can make or write, not even root: it would lie in a regular file."""
    file = tmp_path / "file"
    file.write_text("kept")
    yield file / "shop"
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert file.read_text() == "kept"


def test_a_database_in_a_folder_that_can_not_be_written_says_where_and_what_to_do(beyond):
    with pytest.raises(ServiceError, match=r"payment\.db can't be opened") as caught:
        Database(beyond / "payment.db", "")
    assert str(beyond / "payment.db") in caught.value.seen
    assert "may be written" in str(caught.value.to_do)


def test_a_shop_in_a_folder_that_can_not_be_written_is_refused_and_has_begun_nothing(beyond):
    process, pace = psutil.Process(), Pace(20)

    def there() -> set:
        sockets = {(one.fd, one.laddr) for one in process.net_connections()}
        return {*threading.enumerate(), *sockets, *(file.path for file in process.open_files())}

    gc.collect()  # what earlier tests have left goes now, and not in between
    before = there()
    with pytest.raises(ServiceError, match="can't be opened"):
        SynchronousShop(beyond, pace, Recorder(pace))
    with pytest.raises(ServiceError, match="can't be opened"):
        DecoupledShop(beyond, pace, Recorder(pace), "amqp://nobody@127.0.0.1:1/")
    assert there() <= before
