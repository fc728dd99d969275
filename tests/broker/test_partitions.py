"""Queues with one active consumer, and messages parted by customer, on a real broker."""

import threading
from pathlib import Path

import pytest
import yaml

import labkit.broker
from labkit import amqp, partitions
from labkit.broker import container, node
from labkit.consumer import Consumer
from labkit.errors import BrokerError, InputError
from tests.broker.fakes import eventually

CUSTOMERS = [f"customer-{n:03d}@example.com" for n in range(60)]
#: The partition of the first eight of them, out of four.
FIRST_EIGHT = [3, 0, 1, 0, 3, 3, 0, 3]


@pytest.fixture
def channel(vhost):
    connection = amqp.connect(vhost.url, "test", heartbeat_wall_s=0)
    yield connection.channel()
    connection.close()


def ways(url):
    """How this broker's partitions can be hashed."""
    return ["publisher", "broker"] if partitions.broker_hashes(url) else ["publisher"]


def queue_of_each(channel, parted, customers):
    """Publishes one message for each customer, and says in which queues it came."""
    for customer in customers:
        amqp.publish(channel, parted.exchange, parted.routing_key(customer), customer)
    found = {customer: set() for customer in customers}
    for queue in parted.queues:
        while (letter := channel.basic_get(queue, auto_ack=True))[0]:
            found[letter[2].decode()].add(queue)
    return found


def test_labkits_own_brokers_have_the_consistent_hash_exchange(broker):
    if broker.kind == "url":
        pytest.skip("the broker was given")
    assert partitions.broker_hashes(broker.url)
    with broker.virtual_host("test") as vhost:
        assert partitions.declare(vhost.url, "parcels", 2).hashed_by == "broker"


def test_the_compose_broker_loads_the_same_plugins_as_labkits_own():
    file = yaml.safe_load((Path(__file__).parents[2] / "docker-compose.yml").read_text())
    environment = file["services"]["broker"]["environment"]
    assert environment["RABBITMQ_ENABLED_PLUGINS"].split(",") == list(node.PLUGINS)
    assert environment["RABBITMQ_ENABLED_PLUGINS_FILE"] == container.PLUGINS_FILE


@pytest.mark.kind("node")
def test_a_broker_without_the_plugin_has_its_publishers_hash(home, server, monkeypatch):
    monkeypatch.setattr(node, "PLUGINS", ("rabbitmq_management",))
    with labkit.broker.own_broker("node") as bare:
        assert not partitions.broker_hashes(bare.url)
        parted = partitions.declare(bare.url, "parcels", 2)
        assert parted.hashed_by == "publisher"
        with pytest.raises(BrokerError, match="rabbitmq-plugins enable"):
            partitions.declare(bare.url, "letters", 2, hashed_by="broker")
        assert set(bare.depths()) == set(parted.queues)


def test_each_customer_stays_in_one_queue_and_every_queue_has_customers(vhost, channel):
    for way in ways(vhost.url):
        parted = partitions.declare(vhost.url, f"by-{way}", 4, hashed_by=way)
        assert parted.queues == tuple(f"by-{way}.{n}" for n in (1, 2, 3, 4))
        first = queue_of_each(channel, parted, CUSTOMERS)
        assert all(len(queues) == 1 for queues in first.values())
        assert set.union(*first.values()) == set(parted.queues)
        again = partitions.declare(vhost.url, f"by-{way}", 4, hashed_by=way)
        assert again == parted
        assert queue_of_each(channel, again, CUSTOMERS) == first


def test_one_queue_more_takes_customers_from_all_and_moves_no_other(vhost, channel):
    for way in ways(vhost.url):
        four = partitions.declare(vhost.url, f"by-{way}", 4, hashed_by=way)
        before = queue_of_each(channel, four, CUSTOMERS)
        five = partitions.declare(vhost.url, f"by-{way}", 5, hashed_by=way)
        after = queue_of_each(channel, five, CUSTOMERS)
        moved = {
            after[customer].pop() for customer in CUSTOMERS if before[customer] != after[customer]
        }
        assert moved == {five.queues[4]}


def test_an_exchange_of_that_name_that_was_declared_otherwise_is_a_clear_error(vhost, channel):
    channel.exchange_declare("parcels", "fanout", durable=True)
    with pytest.raises(BrokerError, match="'parcels' or a queue of its") as caught:
        partitions.declare(vhost.url, "parcels", 2)
    assert "406" in caught.value.seen


@pytest.mark.parametrize("given", [{"count": 0}, {"count": 2, "hashed_by": "chance"}])
def test_what_can_not_be_declared_is_refused_before_the_broker_is_asked(given):
    with pytest.raises(InputError, match="can't be declared like this"):
        partitions.declare("amqp://nobody@127.0.0.1:1/", "parcels", **given)


def test_of_three_consumers_one_gets_everything_and_the_next_goes_on_in_order(vhost, channel):
    partitions.declare_single_active(channel, "parcels")
    seen, lock = [], threading.Lock()
    crash_now = threading.Event()

    def handler_of(name):
        def handle(channel, method, properties, body):
            with lock:
                seen.append((name, int(body)))
            if int(body) == 10 and name == "first":
                crash_now.wait(20)
            channel.basic_ack(method.delivery_tag)

        return handle

    def consumer(name):
        return Consumer(handler_of(name), "parcels", vhost.url, name=name)

    with consumer("first") as first, consumer("second"), consumer("third"):
        for n in range(20):
            amqp.publish(channel, "", "parcels", str(n))
        eventually(lambda: ("first", 10) in seen)
        first.crash()
        crash_now.set()
        eventually(lambda: any(n == 19 for _, n in seen))
    assert [n for name, n in seen if name == "first"] == list(range(11))
    # What the crashed one had not acknowledged comes again, before all that comes after it.
    assert [(name, n) for name, n in seen if name != "first"] == [
        ("second", n) for n in range(10, 20)
    ]


def test_a_queue_with_one_active_consumer_takes_further_arguments(vhost, channel):
    partitions.declare_single_active(channel, "short", x_max_length=1)
    for n in range(3):
        amqp.publish(channel, "", "short", str(n))
    assert channel.basic_get("short", auto_ack=True)[2] == b"2"


def test_a_keys_partition_is_the_same_in_every_process_and_moves_only_to_a_new_one():
    # Worked out once and written down: another process, with another salt, must say the same.
    assert [partitions.partition_of(c, 4) for c in CUSTOMERS[:8]] == FIRST_EIGHT
    keys = [f"key-{n}" for n in range(2000)]
    for count in (1, 2, 3, 7):
        before = [partitions.partition_of(key, count) for key in keys]
        after = [partitions.partition_of(key, count + 1) for key in keys]
        assert {new for old, new in zip(before, after, strict=True) if old != new} == {count}
        share = 1 / (count + 1)
        for partition in range(count + 1):
            assert 0.8 * share < after.count(partition) / len(keys) < 1.2 * share
    with pytest.raises(InputError, match="needs a partition"):
        partitions.partition_of("key", 0)
