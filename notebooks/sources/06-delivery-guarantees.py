# %% [markdown]
# # Once, at least once, at most once
#
# *Machines crash, lines go dead, brokers are killed. Can the shop promise that each order is paid for once, no more and no less?*
#
# The broker of notebook 05 came back with its messages. That is half of the story. A message passes through three hands, the publisher's, the broker's and the consumer's, and each of them can die with it, at any line of its code. This notebook goes through those lines one by one. At the end four designs of the same shop sail through the same storm, and you count what each has lost and what it has done twice.
#
# It takes about 60 minutes; a good place for a break is before *Save, and tell the others*. After it you can
#
# - tell from a few lines of code which guarantee they give: at most once, at least once, effectively once, or none,
# - say what an acknowledgement and a confirm mean, and what they don't,
# - publish in three ways, and say what each has in doubt when the broker dies,
# - save an order and tell the others of it, so that no crash can part the two,
# - write a handler that may be given a message any number of times, and works once.

# %%
import inspect
import time
from concurrent.futures import ThreadPoolExecutor, wait

import pandas as pd
import pika
from IPython.display import display

import labkit
from labkit import confirms, faults, plots
from labkit.exercises import delivery_guarantees as exercises
from labkit.load import basket
from labkit.shop import DESIGNS, Order, OrderEvent, ReliableShop, Request, audit

lab = labkit.Lab("delivery-guarantees").start()
channel = lab.connect().channel()
channel.confirm_delivery()

# %% [markdown]
# One experiment kills a broker. It gets one of its own, which takes some seconds to start, and does so in the background from now on. `new_room` makes a virtual host there with a queue for each of four publishers. A broker that is killed within three seconds of a declaration may have forgotten it, so it waits for a moment more. Where there can be no broker of one's own, such as in a classroom with a given address, that experiment is left out.

# %%
STYLES = ["fire and forget", "one by one", "in batches", "in a window"]
helper = ThreadPoolExecutor(max_workers=1)


def new_room(broker):
    room = broker.virtual_host("killed").start()
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    for style in STYLES:
        connection.channel().queue_declare(style, durable=True)
    connection.close()
    time.sleep(3.5)
    return room


booting = helper.submit(labkit.own_broker)
prepared = helper.submit(lambda: new_room(booting.result()))

# %% [markdown]
# ## When is a message done?
#
# A desk prints shipping labels. A hundred orders lie in its queue. After the tenth label its program crashes.
#
# The broker keeps a message until it is **acknowledged**. A consumer may leave that to the broker: with `auto_ack=True` it takes each message for acknowledged as it sends it. That saves a line of code. What else does it change?


# %%
def orders_into(queue, count):
    """A new queue with so many orders in it."""
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True)
    for number in range(1, count + 1):
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", queue, f"order-{number:03d}".encode(), persistent)


def ready_in(queue):
    """How many messages wait, once five looks in a row have found the same number."""
    looks = []
    while len(looks) < 5 or len(set(looks[-5:])) > 1:
        time.sleep(0.05)
        looks.append(channel.queue_declare(queue, passive=True).method.message_count)
    return looks[-1]


# %% [markdown]
# This is the desk. `basic_qos` sets its prefetch to ten: it wants to hold ten messages at a time. To crash, it breaks its own socket, without closing the connection.


# %%
def print_labels(auto_ack, crash_after):
    """Prints so many labels, then crashes; gives the labels, and what was ready just before."""
    connection = lab.connect("label-desk")
    desk = connection.channel()
    desk.basic_qos(prefetch_count=10)
    printed = []
    for method, _, body in desk.consume("labels", auto_ack=auto_ack, inactivity_timeout=1):
        if method is None:  # nothing has come for a second
            break
        printed.append(body.decode())
        if not auto_ack:
            desk.basic_ack(method.delivery_tag)
        if len(printed) == crash_after:
            break
    ready = ready_in("labels")
    labkit.amqp.drop_socket(connection)
    return printed, ready


# %%
guess = labkit.predict(
    "With auto_ack=True, ten of a hundred labels are printed when the desk crashes. How many of "
    "the other ninety will the next desk find?",
    {
        "a": "ninety: they are in the queue",
        "b": "eighty: ten were in the desk's hands, by its prefetch",
        "c": "none",
    },
    answer=None,
)

# %% [markdown]
# The cell lets it crash after ten labels, then starts it again for whatever is left, and compares both ways.

# %%
lost = {}
for auto_ack in (True, False):
    orders_into("labels", 100)
    first, ready = print_labels(auto_ack, crash_after=10)
    second, _ = print_labels(auto_ack, crash_after=90)
    lost[auto_ack] = 100 - len({*first, *second})
    print(f"auto_ack={auto_ack!s:5}  ready in the queue at the crash: {ready:2},", end=" ")
    print(f"printed: {len(first)} and then {len(second)}, lost: {lost[auto_ack]}")

guess.reveal({0: "a", 10: "b", 90: "c"}[lost[True]], because=f"{lost[True]} orders were lost")

# %% [markdown]
# With `auto_ack` the broker has nothing to wait for, so it sends everything that it has, at once. The prefetch limit is a limit of *unacknowledged* messages, and there are none. The ninety were on their way, in the desk's memory and in the buffers of its socket, and nobody else had them any more. The broker had done all that was asked of it.
#
# Without it, ten labels were acknowledged, ten orders were in the desk's hands, and eighty waited. The ten came back. So `auto_ack` is not less typing. It is another promise: **at most once**. It suits messages of which each makes the one before it worthless, such as a temperature that is read every second.

# %% [markdown]
# ## Two lines, and a crash between them
#
# To acknowledge by hand is two lines: print the label, acknowledge. They can stand in one order or in the other.

# %%
printed = []


def ack_first(channel, method, properties, body):
    channel.basic_ack(method.delivery_tag)
    printed.append(body.decode())


def work_first(channel, method, properties, body):
    printed.append(body.decode())
    channel.basic_ack(method.delivery_tag)


# %%
guess = labkit.predict(
    "Work first, then acknowledge. The desk crashes between the two lines, and is started again. "
    "How many labels does that order get?",
    {"a": "none", "b": "one", "c": "two"},
    answer=None,
)

# %% [markdown]
# `labkit.Consumer` runs a handler in the background. Its `crash_at` arms a crash at an exact point of the next delivery: `before work`, when the handler is not called yet; `after work`, when it is about to acknowledge; `after ack`, when the broker has the acknowledgement. So "between the two lines" is `after ack` for the one handler and `after work` for the other.


# %%
def labels_after_a_crash(handler, point):
    """How many labels one order gets, whose desk crashes at this point and is started again."""
    orders_into("labels", 0)
    printed.clear()
    with labkit.Consumer(handler, "labels", lab.url) as desk:
        crashed = desk.crash_at(point)
        channel.basic_publish("", "labels", b"order-001")
        crashed.wait()
        while channel.queue_declare("labels", passive=True).method.consumer_count:
            time.sleep(0.01)  # the broker is about to notice
        desk.restart()
        channel.basic_publish("", "labels", b"order-002")
        while "order-002" not in printed:
            time.sleep(0.01)
    return printed.count("order-001")


# %%
points = {
    "before both lines": ("before work", "before work"),
    "between them": ("after ack", "after work"),
}
labels = {}
for crash, (of_ack_first, of_work_first) in points.items():
    ack_then_work = labels_after_a_crash(ack_first, of_ack_first)
    labels[crash] = ack_then_work, labels_after_a_crash(work_first, of_work_first)

print(f"{'labels after a crash':22}{'ack, then work':>16}{'work, then ack':>16}")
for crash, (first, second) in labels.items():
    print(f"{crash:22}{first:16}{second:16}")

between = labels["between them"][1]
guess.reveal("abc"[between], because="the broker could not know that the work was done")

# %% [markdown]
# Before both lines a crash does no harm: the broker has no acknowledgement, so the message comes again. Between the lines it does, in either order. Acknowledge first, and the label is never printed: **at most once**. Work first, and it is printed twice: **at least once**.
#
# There is no third order. Work and acknowledgement are in two places, the desk and the broker, and no line of code is in both. Whoever can't stand a loss has to choose *at least once*, and learn to live with what comes twice. The rest of this notebook is about how.

# %% [markdown]
# ## An acknowledgement belongs to one delivery
#
# A **delivery tag** is a number that counts the deliveries of one channel. It is good for one answer, on that channel. Here is what happens to those who answer twice, or on another channel. Three orders are fetched each time, and the first one is answered.


# %%
def fetch_three():
    """Three orders in the hands of a new channel, the first of them answered."""
    orders_into("labels", 3)
    desk = lab.connect("clumsy-desk").channel()
    tags = [desk.basic_get("labels")[0].delivery_tag for _ in range(3)]
    desk.basic_ack(tags[0])
    return desk, tags


def hears(on_channel):
    """What the broker has to say to a channel, at the next call on it."""
    try:
        on_channel.queue_declare("labels", passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        return f"{error.reply_code} {error.reply_text}"
    return "nothing"


# %%
desk, tags = fetch_three()
desk.basic_ack(tags[0])  # once more
print("Answered twice:", hears(desk))
print("Ready again:", ready_in("labels"))

desk, tags = fetch_three()
other = desk.connection.channel()
other.basic_ack(tags[1])  # it was delivered on the other one
print("On another channel:", hears(other))
print("And the channel that has the two orders:", hears(desk))
print("Ready again:", ready_in("labels"))

# %% [markdown]
# The broker does not overlook it. It **closes the channel** with `406`, and pika says so at the next call on it, not at the line with the mistake. With the channel goes everything that it had in hand: the two orders that were in work went back into the queue, and will be worked on again. In the second case the channel that holds them has done nothing wrong. It is still open and still holds them, and whoever thinks that they were answered waits for nothing, until that channel is closed. It can be worse. Each channel counts its deliveries from 1 on. Had the other channel a delivery of the same number in hand, the broker would acknowledge that one, without a word.
#
# This bites those who acknowledge from several threads, those whose handler has an `except` that rejects what was acknowledged before, and those who add `basic_ack` to a consumer with `auto_ack`.

# %% [markdown]
# ## What a confirm says
#
# So much for the consumer's side. On the other side, a publisher's message can be lost on its way to the broker. After `channel.confirm_delivery()` the broker answers each publish with a **confirm**, and `basic_publish` waits for it. What has happened when it returns?

# %%
guess = labkit.predict(
    "A publisher waits for confirms. It publishes an order with a routing key for which no queue "
    "is bound. What is it told?",
    {
        "a": "an exception: nobody got the order",
        "b": "nothing: basic_publish waits until a queue is bound",
        "c": "the order is confirmed",
    },
    answer=None,
)

# %% [markdown]
# Two queues are made for it: one that nobody consumes from, and one with room for a single message that refuses the next.


# %%
def two_queues():
    for queue, limits in (
        ("nobody_looks", None),
        ("full", {"x-max-length": 1, "x-overflow": "reject-publish"}),
    ):
        channel.queue_delete(queue)
        channel.queue_declare(queue, durable=True, arguments=limits)


def told(exchange, key, mandatory=False):
    """What the publisher is told: the exception's name, or that the order is confirmed."""
    try:
        channel.basic_publish(exchange, key, b"an order", mandatory=mandatory)
    except pika.exceptions.AMQPError as error:
        return type(error).__name__
    return "confirmed"


# %%
two_queues()
unroutable = told("amq.topic", "nobody.asked.for.this")
print("To a queue that nobody consumes from:", told("", "nobody_looks"))
print("To no queue at all:                  ", unroutable)
print("To no queue at all, mandatory:       ", told("amq.topic", "nobody.asked.for.this", True))
print("To a queue for one order, the first: ", told("", "full"))
print("To the same queue, the second:       ", told("", "full"))

guess.reveal("c" if unroutable == "confirmed" else "a", because="it was routed, to nobody")

# %% [markdown]
# A confirm says: **the broker has taken charge**. For a persistent message in a durable queue that means that it is written to a file, and survives a kill of the broker. (Is it on the disk, too, should the machine lose its power? That depends on the queue and the version. RabbitMQ has two types of queue for orders like ours: *classic*, as all have been so far, and *quorum*, which notebook 07 introduces. We watched the broker ask the operating system to put its files on the disk. For a quorum queue it did so before each confirm; for a classic queue it did in RabbitMQ 3.10, and no longer in 4.0 and 4.3.) It does not say that anybody has got it, or ever will. A message for which there is no queue is dealt with at once, by throwing it away, and confirmed. With `mandatory=True` the broker gives it back before it confirms it, and pika's `BlockingConnection` raises `UnroutableError`. A queue that refuses is another matter: the broker says no, a *nack*, and pika raises `NackError`.
#
# That somebody has *worked on* an order, a publisher learns only from a message that comes back, such as `payment.completed`.

# %% [markdown]
# ## Four ways to publish
#
# To wait for each confirm costs a round trip and a write for each message. The broker doesn't need that: it confirms when it suits it, many at a time, while more messages come in. So a publisher may wait less often. Each function below publishes the same messages, given as `(exchange, routing_key, body)`.


# %%
plain = lab.connect().channel()


def fire_and_forget(messages):
    for exchange, key, body in messages:
        plain.basic_publish(exchange, key, body, pika.BasicProperties(delivery_mode=2))


def one_by_one(messages):
    for exchange, key, body in messages:
        channel.basic_publish(exchange, key, body, pika.BasicProperties(delivery_mode=2))


# %% [markdown]
# The two look alike, but `channel` has `confirm_delivery()` switched on, and `plain` has not. The next two use a `ConfirmWindow` of [labkit/confirms.py](../labkit/confirms.py), which has at most so many messages **outstanding**, that is published and not confirmed.


# %%
def in_batches(messages):
    for number, message in enumerate(messages, start=1):
        window.publish(*message)
        if number % 100 == 0:
            window.flush()


def in_a_window(messages):
    for message in messages:
        window.publish(*message)
    window.flush()


# %% [markdown]
# In **batches** the publisher hands over a hundred, waits until all are confirmed (`flush`), and hands over the next hundred. In a **window** it only waits when a hundred are outstanding, until half of them are confirmed; confirms come in while messages go out. pika's `BlockingConnection` can't do that, since its `basic_publish` is either without confirms or waits for each. So `ConfirmWindow` runs a `SelectConnection`, whose callbacks hear of each confirm, in a thread of its own.

#
# Each has five turns, one after the other, and its median counts, so that a slow moment of the machine does not decide.

# %%
orders_into("rates", 0)
ways = (fire_and_forget, 600), (one_by_one, 40), (in_batches, 600), (in_a_window, 600)
turns = pd.DataFrame(0.0, index=range(5), columns=STYLES)
with confirms.ConfirmWindow(lab.url, size=100) as window:
    for turn in turns.index:
        for style, (publish, count) in zip(STYLES, ways, strict=True):
            started = time.perf_counter()
            publish([("", "rates", b"x" * 200)] * count)
            turns.loc[turn, style] = count / (time.perf_counter() - started)
rates_per_s = turns.median()

print("In the queue:", ready_in("rates"))
for style in ("in batches", "in a window"):
    print(
        f"Twice as fast {style} as one by one:", rates_per_s[style] > 2 * rates_per_s["one by one"]
    )

# %% tags=["nbval-ignore-output"]
for style, rate_per_s in rates_per_s.items():
    print(f"{style:16} {rate_per_s:8,.0f} persistent messages a real second")

# %% [markdown]
# A window is several times as fast as one by one, and on a quiet machine about ten times. Its confirms cost little beside fire and forget; it may even be faster, since it puts many messages into one write to the socket. So what is there to be said against a large window? And what is wrong with fire and forget?

# %% [markdown]
# ## The broker is killed
#
# Four publishers, one for each way, publish as fast as they can, each into a queue of its own on the broker that is ours. Then that broker is killed.

# %%
try:
    own, room = booting.result(), prepared.result()
except labkit.BrokerError:
    own = None
    print("There is no broker here that may be killed: this experiment is left out.")
else:
    print("Ready for four publishers:", set(room.depths()) == set(STYLES))

# %%
guess_kill = labkit.predict(
    "Which publishers take orders for safe that are gone once the broker is back?",
    {
        "a": "all four: nobody can know when a broker dies",
        "b": "fire and forget alone",
        "c": "all but the one that waits for each confirm",
    },
    answer=None,
)

# %% [markdown]
# Each publisher goes on until its connection breaks. Its orders are numbered. It keeps those that it takes for **safe**: confirmed ones, and for fire and forget those that raised no error. And it keeps those that are **in doubt**: handed over, and never answered. Fire and forget has none in doubt, since it asks for no answer. The two windows are told not to publish anything again by themselves (`again=False`), and report such messages as `unknown`.


# %%
def publish_plainly(style, url):
    connection = pika.BlockingConnection(pika.URLParameters(url))
    plain, number, persistent = connection.channel(), 0, pika.BasicProperties(delivery_mode=2)
    if style == "one by one":
        plain.confirm_delivery()
    try:
        while True:
            plain.basic_publish("", style, b"%d" % number, persistent)
            number += 1
            sent[style] = number
    except pika.exceptions.AMQPError:
        return set(range(number)), {number} if style == "one by one" else set()


# %%
def publish_by_window(style, url):
    window = windows[style] = confirms.ConfirmWindow(url, size=100, again=False).start()
    orders = []
    try:
        while window.connected:
            orders.append(window.publish("", style, b"%d" % len(orders)))
            sent[style] = len(orders)
            if style == "in batches" and len(orders) % 100 == 0:
                window.flush()
    except labkit.LabError:  # it was stopped meanwhile
        pass
    window.stop()
    safe = {n for n, order in enumerate(orders) if order.outcome == "confirmed"}
    return safe, set(range(len(orders))) - safe


# %% [markdown]
# They begin one after the other, each when the one before has published forty or more. Fire and forget is the last, since it is so fast. When it has its forty, the kill comes. After that the broker is started again, in the background, and we go on meanwhile.

# %%
if own:
    sent, windows = dict.fromkeys(STYLES, 0), {}
    with ThreadPoolExecutor(4) as publishers:
        went = {}
        for style in ("one by one", "in batches", "in a window", "fire and forget"):
            way = publish_by_window if style.startswith("in ") else publish_plainly
            went[style] = publishers.submit(way, style, room.url)
            while sent[style] < 40 and not went[style].done():
                time.sleep(0.001)
        own.kill()
        for window in windows.values():
            window.stop()
    outcome = {style: went[style].result() for style in STYLES}
    restarting = helper.submit(own.start)
    print("Publishers that have stopped:", len(outcome))

# %% [markdown]
# ## Save, and tell the others
#
# The order service does two things with an order: it saves it in its database, and it publishes `order.created`. Notebook 04 has found the crash in between, and mended it by a flag that the order service looks at when it starts. The third way below takes that idea to its end. Each function below is one way to do it. A `yield` stands wherever the power may fail: the experiment stops the function there, for good, and what was not committed is rolled back.

# %%
from labkit.shop import topology
from labkit.shop.database import Database
from labkit.shop.outbox import Outbox, Relay

topology.declare_exchanges(channel)
books = Database(
    lab.new_folder("books") / "orders.db", "CREATE TABLE IF NOT EXISTS orders (order_id TEXT)"
)
outbox = Outbox(books)


def save(connection, event):
    connection.execute("INSERT INTO orders VALUES (?)", (event.order_id,))


def tell(event):
    channel.basic_publish("orders", event.routing_key, event.to_json())


# %%
def save_then_tell(event):
    with books.transaction() as connection:
        save(connection, event)
    yield
    tell(event)


def tell_then_save(event):
    tell(event)
    yield
    with books.transaction() as connection:
        save(connection, event)


# %% [markdown]
# The third way does not publish at all. It writes the message into a table of the same database, the **outbox**, in the same transaction as the order. Somebody else, the **relay**, publishes what it finds there, and marks it as sent.


# %%
def save_with_outbox(event):
    with outbox.transaction() as connection:
        save(connection, event)
        yield
        outbox.add(connection, event)
        yield
    yield


print(inspect.getsource(Outbox.add).split('"""')[2])

# %%
guess = labkit.predict(
    "A crash comes between the two lines. With which order of the two is nothing lost, and "
    "nothing told that is not so?",
    {
        "a": "save first, then tell",
        "b": "tell first, then save",
        "c": "neither, but the third way, with an outbox",
    },
    answer=None,
)

# %% [markdown]
# Ten orders crash at each `yield`, and ten get through. Then the relay runs, as it would after a restart. `heard` counts what the others have been told, by a queue bound with `order.created`.


# %%
def ten_orders(way, crash_at):
    """Ten orders whose function is stopped at its n-th `yield`, or never for None."""
    for number in range(1, 11):
        name = f"{way.__name__}-{crash_at or 'end'}-{number:02d}"
        order = Order(order_id=name, amount=1200, **(basket(number) | {"basket": name}))
        steps = way(OrderEvent.about(order, "ORDER_CREATED"))
        for _ in range(crash_at or 99):
            next(steps, None)
        steps.close()  # the power fails


def heard():
    """The orders that the others were told of since the last call."""
    bodies = iter(lambda: channel.basic_get("heard", auto_ack=True)[2], None)
    return [OrderEvent.read(body).order_id for body in bodies]


# %%
books.write("DELETE FROM orders")
channel.queue_declare("heard", durable=True)
channel.queue_bind("heard", "orders", routing_key="order.created")
heard()  # what an earlier run has left
ways = {save_then_tell: [1, None], tell_then_save: [1, None], save_with_outbox: [1, 2, 3, None]}
for way, ends in ways.items():
    for crash_at in ends:
        ten_orders(way, crash_at)
with Relay(outbox, lab.url, "order_service", lab.recorder):
    while outbox.unsent:
        time.sleep(0.01)
saved, told_of = [order_id for (order_id,) in books.rows("SELECT order_id FROM orders")], heard()

# %%
table = {}
for way in ways:
    mine = {n for n in (*saved, *told_of) if n.startswith(way.__name__)}
    both = mine & {*saved} & {*told_of}
    table[way.__name__] = {
        "saved and told": len(both),
        "saved, nobody told": len((mine & {*saved}) - both),
        "told, not saved": len((mine & {*told_of}) - both),
    }
display(pd.DataFrame.from_dict(table, orient="index"))

wrong = {way: row["saved, nobody told"] + row["told, not saved"] for way, row in table.items()}
right = [way for way, count in wrong.items() if count == 0]
measured_way = {"save_then_tell": "a", "tell_then_save": "b", "save_with_outbox": "c"}[right[0]]
guess.reveal(measured_way, because="one transaction holds both, or neither")

# %% [markdown]
# *Save first* loses: ten orders are in the database, whoever asks for one finds it, and no department will ever hear of it. *Tell first* is worse: payment charges for ten orders that do not exist. With an outbox, the twenty that crashed inside the transaction are neither saved nor told of, which is right: their customers got an error. Those that crashed after it are both: the message was in the database with the order, and the relay found it.
#
# What if the relay crashes? It reads, publishes, waits for the confirms, marks. It may crash between any two of these.

# %%
for point in ("before publish", "between publish and mark", "after mark"):
    with Relay(outbox, lab.url, "order_service", lab.recorder) as relay:
        crashed = relay.crash_at(point)
        for number in range(1, 11):
            name = f"{point}-{number}"
            order = Order(order_id=name, amount=1200, **(basket(number) | {"basket": name}))
            with outbox.transaction() as connection:
                outbox.add(connection, OrderEvent.about(order, "ORDER_CREATED"))
        crashed.wait()
        relay.restart()
        while outbox.unsent:
            time.sleep(0.01)
    orders = heard()
    twice = any(orders.count(name) > 1 for name in orders)
    print(f"Crash {point:25} told of {len({*orders}):2} of 10, some of them twice: {twice}")

# %% [markdown]
# No crash of the relay loses anything, since a message is marked only after the broker has taken charge. Where it crashes between the two, it publishes some a second time: it can't know that it had. A relay is *at least once*, too.

# %% [markdown]
# ## The broker is back
#
# And so is the broker that was killed. Each queue is emptied, to see which orders have survived.

# %%
if own:
    restarting.result()
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    look = connection.channel()
    there = {style: set() for style in STYLES}
    for style in STYLES:
        while (body := look.basic_get(style, auto_ack=True)[2]) is not None:
            there[style].add(int(body))
    connection.close()
    prepared = helper.submit(new_room, own)  # for another run

# %%
if own:
    most = {"one by one": 1, "in batches": 100, "in a window": 101}
    for style, (safe, doubt) in outcome.items():
        print(
            f"{style:16} taken for safe, and gone:",
            "some" if safe - there[style] else "none",
            end="",
        )
        if style in most:
            print(f"; in doubt at most {most[style]}:", len(doubt) <= most[style], end="")
        print()

# %% tags=["nbval-ignore-output"]
if own:
    for style, (safe, doubt) in outcome.items():
        print(
            f"{style:16} taken for safe {len(safe):6,}, of them gone {len(safe - there[style]):6,};",
            end=" ",
        )
        print(f"in doubt {len(doubt):3}, of them there {len(doubt & there[style]):3}")

# %%
if own:
    bad = [style for style, (safe, _) in outcome.items() if safe - there[style]]
    options = {("fire and forget",): "b", tuple(STYLES): "a"}
    guess_kill.reveal(options.get(tuple(bad), "c"), because=f"gone, though safe: {', '.join(bad)}")

# %% [markdown]
# Not one confirmed order is gone, whichever way it was published. That is what a confirm is worth. Fire and forget took everything for safe that it had handed to the operating system, and most or all of that is gone: messages for whose fate nobody asks are written to disk when it suits the broker.
#
# What differs between the three others is what is **in doubt**: one order, a batch, a window and the one order that waited for room in it. Of these some may have arrived and some not, and the publisher can't tell. So it has two choices. It can leave them, and some are lost. Or it can publish all of them again, and some arrive twice. A larger window is faster up to a point, and leaves more of them. Whoever publishes again, as the relay does, gives *at least once*.

# %% [markdown]
# ## Once after all: the inbox
#
# Both sides can promise *at least once* now, so copies will come. A copy can't be told from a new message by its look, and the broker's mark `redelivered` is of no use: it says that the message was delivered before, not that the work was done; and what a publisher has sent twice does not bear it. But both copies carry the same **event id**. A department can keep the ids of what it has worked on, in a table of its own database: its **inbox**.

# %%
from labkit.shop.inbox import MessageInbox, first_time

inbox = MessageInbox(books)
print(inspect.getsource(first_time).split('"""')[2])

# %% [markdown]
# `first_time` notes an id and says whether it is new. What makes it useful is that it does so in the *caller's* transaction. The third time below, something fails after it.

# %%
books.write("DELETE FROM seen_messages")
for attempt in (1, 2):
    with books.transaction() as connection:
        print(f"event-1, time {attempt}, new:", first_time(connection, "event-1"))

try:
    with books.transaction() as connection:
        print("event-2, time 1, new:", first_time(connection, "event-2"))
        raise RuntimeError("the power fails")
except RuntimeError:
    pass
with books.transaction() as connection:
    print("event-2, time 2, new:", first_time(connection, "event-2"))
books.close()

# %% [markdown]
# The transaction was rolled back, and the id with it. So if the department's work is in that transaction as well, then both are there or neither. The message comes at least once, the work takes effect once: **effectively once**. "Exactly once" is what this is called in brochures. But the messages still come at least once; it is the effect that is there once. How the lines go together is the second exercise.
#
# Some work can't be rolled back: a charge, a mail, a parcel. There the company outside has to keep the inbox. The gateway takes an **idempotency key** with each charge, and answers a second request with the same key without charging; this shop's mail server drops a mail whose message id it has seen (yours may not).

# %% [markdown]
# ## Four shops, one storm
#
# Now for all of it together. `ReliableShop` is the decoupled shop with a switch for each gap, and four designs that close them step by step. With the inbox goes the key for the gateway: the first three designs send none.

# %%
switches = ["ack_after_work", "confirms", "inbox", "outbox"]
designs = pd.DataFrame(
    {name: [getattr(design, switch) for switch in switches] for name, design in DESIGNS.items()},
    index=switches,
).T
display(designs.replace({True: "yes", False: "-"}))

# %% [markdown]
# Each shop takes 300 orders as fast as it can, with payment and inventory at work. On the way, nine times, one of the two crashes, before its work, after it or after the acknowledgement. And twice the line to the broker goes **dead** for ten orders. A dead line swallows all that is sent one way, and whoever sends does not notice; only after those ten orders do the connections break. The first time it is dead on the way to the broker, which swallows publishes and acknowledgements, the second time on the way back, which swallows deliveries and confirms.
#
# The crashes come from a plan that a seed decides: the same seed, the same storm. `faults.plan` gives a time in seconds for each, which we take for the number of the order.

# %%
POINTS = ["crash before work", "crash after work", "crash after ack"]
plan = faults.plan(seed=6, number=9, over_s=300.0, targets=("payment", "inventory"), kinds=POINTS)
crashes = {round(fault.at_s): fault for fault in plan}
dead_lines = {65: "to broker", 220: "from broker"}
for number, fault in crashes.items():
    print(f"at order {number:3}: {fault.target:9} {fault.kind}")
for number, way in dead_lines.items():
    print(f"from order {number:3} to {number + 9}: line dead {way}")


# %% [markdown]
# Four customers order at the same time, by calling the order service. `place` gives the crash time to happen before it goes on, and starts the consumer again.


# %%
def place(shop, customers, number):
    """Hands the next order to a customer; a crash that is due is waited for, and mended."""
    fault = crashes.get(number)
    if fault:
        consumer = shop.consumers[fault.target]
        crashed = consumer.crash_at(fault.kind.removeprefix("crash "))
    placed = customers.submit(shop.service.create_order, Request(**basket(number)))
    if fault:
        crashed.wait()
        consumer.restart()
    return placed


# %% [markdown]
# The dead lines need a little care. Before one begins, all orders so far are in. After ten more orders it breaks, and is sound again: whoever waits for a confirm would wait for ever otherwise.


# %%
def through_the_storm(shop, wire):
    with ThreadPoolExecutor(4) as customers:
        placed = []
        for number in range(1, 301):
            if number in dead_lines:
                wait(placed)  # those before are in
                wire.go_dead(dead_lines[number])
            placed.append(place(shop, customers, number))
            if number - 9 in dead_lines:
                wait(placed, timeout=1)
                wire.mend()
    shop.wait_until_quiet()


# %%
guess_storm = labkit.predict(
    "Three hundred orders in each design. Which of them loses nothing and does nothing twice?",
    {
        "a": "from acknowledging after the work on, each",
        "b": "from confirms on, both",
        "c": "the one with outbox and inbox alone",
        "d": "none: with so many faults something always gets through",
    },
    answer=None,
)

# %% [markdown]
# Each shop has a virtual host of its own, reached by a line of its own, a `Wire`. The departments are quick today, since this is not about their pace. It takes a while.

# %%
from labkit.faults.wire import Wire

folders, copies = {}, {}
for name, design in DESIGNS.items():
    folder = folders[name] = lab.new_folder("storm")
    with lab.broker.virtual_host("storm") as place_of_its_own, Wire(place_of_its_own.url) as wire:
        shop = ReliableShop(
            folder, lab.pace, labkit.Recorder(lab.pace), wire.url,
            guarantees=design, departments=("payment", "inventory"),
        )  # fmt: skip
        shop.gateway.takes_s, shop.departments["inventory"].takes_s = 0.02, 0.0
        with shop:
            through_the_storm(shop, wire)
            copies[name] = sum(inbox.copies for inbox in shop.inboxes.values())
print("Shops that are through:", len(folders))

# %% [markdown]
# The audit reads the databases of each, and the gateway's ledger. An order is **lost** if it was accepted, and either not charged or not taken from the stock. It is **doubled** if it was charged twice or taken from the stock twice, and **done once** otherwise. (One that is both, charged twice and never taken from the stock, counts as lost.)


# %%
def became(folder):
    """How many orders were lost, doubled, done once."""
    orders = audit(folder).orders
    lost = (orders.charges == 0) | (orders.stock == 0)
    doubled = ((orders.charges > 1) | (orders.stock > 1)) & ~lost
    return {
        "lost": lost.sum(),
        "doubled": doubled.sum(),
        "done once": (~lost & ~doubled).sum(),
    }


results = pd.DataFrame({name: became(folder) for name, folder in folders.items()}).T

# %% tags=["nbval-ignore-output"]
display(results)

# %%
for name, row in results.iterrows():
    print(f"{name:22} {row.sum()} orders;", end=" ")
    print("lost: ", "some" if row["lost"] else "none", end="; ")
    print("doubled:", "some" if row["doubled"] else "none")

sound = [name for name, row in results.iterrows() if row["done once"] == 300]
options = {3: "a", 2: "b", 1: "c", 0: "d"}
guess_storm.reveal(options[len(sound)], because=f"300 of 300 done once: {', '.join(sound)}")
print("Copies that its inboxes have stopped, at least one:", copies["with outbox and inbox"] > 0)

# %%
plots.show(
    plots.outcomes(results),
    alt="A bar of 300 orders for each design. With auto-ack a large part is lost and nothing is "
    "doubled. With acknowledgements after the work some are lost and some doubled. With confirms "
    "some are doubled and none is lost. With outbox and inbox the whole bar is orders done once.",
)

# %% [markdown]
# Read the bars from the top.
#
# - **auto-ack** loses, in each crash, all that was on its way to the consumer, and the order in hand as well if the work was not done. It also loses what was published into the dead line. Since orders come faster than payment works, that is often half of all orders or more. It doubles none: at most once.
# - **Acknowledging after the work** keeps those. But now it does some twice: a crash after the work charges the customer again, and so does an acknowledgement that the dead line has swallowed, with all that the consumer had in hand. And what was published into the dead line is still lost, new orders and payment's news alike, since nobody waited for an answer: that shop gives no guarantee at all.
# - **With confirms** nothing that was published is lost: at least once. Orders are still doubled, and for one reason more: while the line was dead on the way back, confirms did not come for orders that the broker had, so the order service published those again. (It did not crash in this storm. Had it crashed between saving and publishing, that order would be lost here, as you have seen above: none of these designs has notebook 04's flag.)
# - **With outbox and inbox** the same copies came, and were stopped. The gateway did the same by its idempotency keys. 300 orders, 300 charges, 300 times goods from the stock.
#
# This storm is a short one, and its broker stays up. The last design also has to stand longer ones with brokers that are killed. `make storm` in a terminal sends it through one of your own making.

# %% [markdown]
# ## Exercises
#
# ### 1. Name the guarantee
#
# Six desks print labels. `label(order)` prints one and notes it in the desk's database, in D in the transaction that is open. Count the labels that the database knows of. Take it that each order comes into the queue and is confirmed, once, except in E, where the publisher does not wait for confirms. Crashes of the desk come whenever they like. What does each desk guarantee for the label: `"at most once"`, `"at least once"`, `"effectively once"`, or `"none"`?
#
# ```python
# # A: the consumer has auto_ack=True
# label(order)
#
# # B
# label(order)
# channel.basic_ack(method.delivery_tag)
#
# # C
# with transaction() as connection:
#     new = first_time(connection, event_id)
# if new:
#     label(order)
# channel.basic_ack(method.delivery_tag)
#
# # D
# with transaction() as connection:
#     if first_time(connection, event_id):
#         label(order)  # in the same transaction
# channel.basic_ack(method.delivery_tag)
#
# # E: the publisher has not waited for a confirm
# label(order)
# channel.basic_ack(method.delivery_tag)
#
# # F
# if not method.redelivered:
#     label(order)
# channel.basic_ack(method.delivery_tag)
# ```

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: answers = {"A": None, "B": None, "C": None, "D": None, "E": None, "F": None}
answers = {
    "A": "at most once",
    "B": "at least once",
    "C": "at most once",
    "D": "effectively once",
    "E": "none",
    "F": "at most once",
}
# END SOLUTION

exercises.guarantees.check(answers)

# %%
# exercises.guarantees.hint()
# exercises.guarantees.solution()

# %% [markdown]
# ### 2. Book it once
#
# Bookkeeping writes a line into its ledger for each event of an order: one when it is created, one when it is paid. Write its handler. `OrderEvent.read(body)` gives the event, with its `event_id`. `database.transaction()` is a transaction, used as above. `first_time(connection, event_id)` you know, and `book(connection, event)` writes the line, in the transaction whose connection it gets.
#
# The check sends events of several orders, and one of the events twice. Then it does so again and again, and pulls the plug at each point that your code passes: before and after every statement, commit and acknowledgement. After each it starts your handler again, and counts the lines.

# %%
from labkit.exercises.delivery_guarantees import book


# %% tags=["exercise"]
def on_event(channel, method, properties, body, database):
    """Writes a line for the event, once, however often its message comes."""
    # BEGIN SOLUTION
    event = OrderEvent.read(body)
    with database.transaction() as connection:
        if first_time(connection, event.event_id):
            book(connection, event)
    channel.basic_ack(method.delivery_tag)
    # END SOLUTION


exercises.on_event.check(on_event, url=lab.url)

# %%
# exercises.on_event.hint()
# exercises.on_event.solution()

# %% [markdown]
# ### 3. A relay that loses nothing
#
# Write one round of a relay. `outbox.waiting(100)` gives up to a hundred messages that are not sent yet, in their order; each has an `event_id`, a `routing_key` and a `body`. `outbox.mark_sent([message])` marks some as sent. Publish each to the exchange, so that it survives a restart of the broker, and mark what is *there*. A publish that fails may end the round with its exception: the next round goes on from there.
#
# The check fills a queue so that the broker refuses a message, leaves an exchange without a queue, saves an order while your relay is at work, and pulls the plug at each point. Nothing may be marked that has not reached a queue.


# %% tags=["exercise"]
def relay_round(outbox, channel, exchange):
    """Publishes what waits in the outbox, and marks it; `channel` is a new one of pika's."""
    # BEGIN SOLUTION
    channel.confirm_delivery()
    for message in outbox.waiting(100):
        persistent = pika.BasicProperties(delivery_mode=2, message_id=message.event_id)
        channel.basic_publish(
            exchange, message.routing_key, message.body, persistent, mandatory=True
        )
        outbox.mark_sent([message])
    # END SOLUTION


exercises.relay.check(relay_round, url=lab.url)

# %%
# exercises.relay.hint()
# exercises.relay.solution()

# %% [markdown]
# ## What it costs
#
# Effectively once is not free. Here is what the last of the four shops has kept beside its data, for 300 orders.

# %%
from contextlib import closing
from sqlite3 import connect

for service, table in (
    ("order_service", "outbox"),
    ("payment", "outbox"),
    ("payment", "seen_messages"),
    ("inventory", "seen_messages"),
):
    with closing(connect(folders["with outbox and inbox"] / f"{service}.db")) as database:
        count = database.execute(f"SELECT count(*) FROM {table}").fetchone()[0]
    print(f"{service:14} {table:14} {count} rows")

# %% [markdown]
# - **Tables that grow.** A row for each message, in the outbox of whoever tells and in the inbox of whoever listens. Sent rows can be deleted at once. Ids in the inbox must be kept for longer than a copy may be late, a week, say, and then deleted by their age.
# - **One more hop.** With an outbox a message leaves when the relay next looks, some milliseconds after the commit, and the relay is one more thing that can stand still. Watch its backlog: `outbox.unsent`.
# - **One database.** Work and id must be in the same transaction, so in the same database. Where a department's data is spread over two, or lies with a company outside, you need keys there, as with the gateway.
# - **An id that stays.** The publisher must give an event its id once, when it happens, and not each time that it publishes. A new id for each attempt, and no inbox in the world can help.
# - **Work for rare cases.** Most shops could live with a second mail and not with a second charge. Choose for each department: *at most once* for a measurement, *at least once* where doing it twice does no harm, such as setting a status, and an inbox where it does.

# %%
lab.stop()
helper.shutdown()
if own:
    own.close()
print("Done.")

# %% [markdown]
# ## What you have seen
#
# - `auto_ack` hands everything over at once and forgets it. What the consumer has not done when it crashes is lost.
# - Work and acknowledgement are two lines. Acknowledge first: at most once. Work first: at least once. There is no third order.
# - An acknowledgement belongs to one delivery of one channel. A second one closes the channel. One on another channel closes that one, or acknowledges another delivery.
# - A confirm says that the broker has taken charge. `mandatory` says that there was a queue. Only a message that comes back says that somebody has worked on it.
# - When the broker is killed, confirmed persistent messages in durable queues are still there. One by one leaves one message in doubt, a batch as many as it holds, a window one more.
# - To save and to publish needs a note in the transaction that saves, such as an outbox, or a crash parts the two.
# - To publish what is in doubt again makes copies, and so does every redelivery. An inbox stops them, if it is in the same transaction as the work: effectively once.
#
# **Next**: [07 The order that can't be processed](07-retries-and-dead-letters.ipynb). Here every order could be worked on, sooner or later. The next one can't be, and it comes back, and back.
