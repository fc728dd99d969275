# %% [markdown]
# # The order that can't be processed
#
# **The question.** Nine of ten orders go through. The tenth has no address, or its ferry does not run today, or it takes down the program that touches it. What becomes of that order, and what becomes of the ones behind it?
#
# This notebook takes about 75 minutes; a good place for a break is before *The order that kills*. After it you can
#
# - say what a message that is put back again and again does to its queue,
# - send away what can't be processed, read why it died, and put it back without losing it,
# - try again later, with growing delays, and give up after the last,
# - stop a message that kills its consumer, with a delivery limit,
# - let a handler work for longer than a heartbeat.

# %%
import contextlib
import json
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pika
import pika.exceptions

import labkit
from labkit import dead_letters, plots
from labkit.exercises import retries_and_dead_letters as exercises

lab = labkit.Lab("retries-and-dead-letters").start()
connection = lab.connect()
channel = connection.channel()
channel.confirm_delivery()

# %% [markdown]
# ## The desk
#
# The whole shop is not needed today. One desk will do, the one that prints shipping labels. It takes orders from a queue, one at a time. A label takes 0.1 shop seconds. Two things can go wrong, and they are of different kinds: an order **without an address** can't be shipped today or ever, and an order for an island **without a ferry** can't be shipped now, and perhaps can be later.


# %%
class NoAddressError(Exception):
    """This order can't be shipped at all."""


class NoFerryError(Exception):
    """This order can't be shipped now."""


no_ferry = set()  # islands whose ferry does not run
labels = []  # orders whose label is printed


def print_label(order):
    if not order["address"]:
        raise NoAddressError
    if order["address"] in no_ferry:
        raise NoFerryError
    lab.pace.wait(0.1)
    labels.append(order["order_id"])


# %% [markdown]
# Some plumbing for the experiments. Most of them begin with empty queues of their own making, so you can run them again; where one goes on from the cell before, run both. `put` publishes orders straight to a queue, through the default exchange.


# %%
def fresh(queue, arguments=None):
    """A durable queue, declared anew and empty."""
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True, arguments=arguments)


def orders_for(*addresses):
    """An order for each address: order-01, order-02 and so on."""
    return [{"order_id": f"order-{n:02}", "address": a} for n, a in enumerate(addresses, start=1)]


def put(queue, orders):
    labels.clear()
    for order in orders:
        properties = pika.BasicProperties(delivery_mode=2, correlation_id=order["order_id"])
        channel.basic_publish("", queue, json.dumps(order), properties, mandatory=True)


# %% [markdown]
# And three ways to look: how many messages are ready in a queue, how often one order was delivered, and a wait for something to come true.


# %%
def ready(queue):
    return channel.queue_declare(queue, passive=True).method.message_count


def times(recorder, order_id, *kinds):
    """How many events of these kinds a consumer has recorded about an order."""
    return sum(event.order_id == order_id and event.kind in kinds for event in recorder)


def wait_until(condition):
    deadline = time.monotonic() + 90
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError("waited in vain")
        time.sleep(0.01)


# %% [markdown]
# ## Put it back, at once
#
# Here is the first idea that everyone has. The label can't be printed, so the order goes back into the queue, and is tried again.


# %%
def put_back_at_once(channel, method, properties, body):
    try:
        print_label(json.loads(body))
    except NoAddressError:
        channel.basic_reject(method.delivery_tag, requeue=True)
    else:
        channel.basic_ack(method.delivery_tag)


ten = orders_for("Bath", "York", "", "Leeds", "Ely", "Hull", "Deal", "Wells", "Ripon", "Truro")

# %%
guess = labkit.predict(
    "Ten orders, the third without an address. The desk puts it back with requeue=True.\n"
    "How many of the nine labels are printed?",
    {
        "a": "nine: the third goes to the end of the queue, and the others come first",
        "b": "two: those of the orders before it",
        "c": "nine, but late: it is tried again between the others",
    },
    answer=None,
)

# %% [markdown]
# It would go on for ever, so we end it when the order has been put back 500 times. `labkit.Consumer` runs the handler in the background with a prefetch of 1, and its recorder notes each delivery and each answer.

# %%
fresh("labels")
put("labels", ten)
loop = labkit.Recorder(lab.pace)
with labkit.Consumer(put_back_at_once, "labels", lab.url, name="desk", recorder=loop):
    wait_until(lambda: loop.count("requeued") >= 500)
wait_until(lambda: ready("labels") == 8)

print("Labels printed:", len(labels), "of 9")
print("Put back 500 times or more:", times(loop, "order-03", "requeued") >= 500)
print(
    "Deliveries of the seven orders behind it:",
    sum(times(loop, f"order-{n:02}", "delivered") for n in range(4, 11)),
)
guess.reveal(
    "b" if len(labels) == 2 else "a" if labels[-1] != "order-03" else "c",
    because=f"printed: {', '.join(labels)}",
)

# %% [markdown]
# How fast that went, on this machine, in real time. Beside it is what the desk could have done in that time.

# %% tags=["nbval-ignore-output"]
seen = [event.wall for event in loop if event.kind in ("delivered", "redelivered")]
took_wall_s = seen[-1] - seen[0]
print(f"{len(seen) / took_wall_s:,.0f} deliveries in a real second")
print(
    f"Labels that the desk could have printed meanwhile: {took_wall_s / lab.pace.to_wall(0.1):.0f}"
)

# %%
plots.show(
    plots.deliveries(loop.frame(), messages=[order["order_id"] for order in ten]),
    alt="A row for each of ten orders over time. order-01 and order-02 have one mark each, done. "
    "order-03 has hundreds of marks, close together up to the right end, each put back at once. The "
    "seven rows below it are empty: never delivered.",
)

# %% [markdown]
# Read it row by row. The first two orders are done at once. From then on each mark is `order-03`, hundreds of them, so close that they make a bar. The seven rows below say it: never delivered.
#
# `requeue=True` is no retry. The broker puts the message back where it was, at the head of this classic queue, and delivers it again at once, since there is a consumer that has nothing to do. No time passes in which anything could get better. This is a **poison message** in a **hot loop**: the broker and the desk are as busy as they can be, and nothing is done. With a higher prefetch some good orders slip past, as you saw in notebook 04, until enough poison has come together.
#
# Many programs put a message back only once: `requeue=not method.redelivered`. That ends the loop. But `redelivered` says only that the message *may* have been delivered before, to a consumer that crashed, say, and it can't count to two.

# %% [markdown]
# ## Send it away
#
# So the desk must get rid of it, without losing it: reject it with `requeue=False`, in a queue that has a **dead letter exchange**: there the broker publishes what dies in that queue. (That exchange must have a queue for it. A dead message for which there is none is thrown away, without a word.) Here it is the default exchange, which routes by queue name, with a routing key that names the queue `dead_letters`. The queue `labels` was declared without one, though. And it is in use: eight orders are waiting in it.

# %%
guess = labkit.predict(
    "The desk's next version declares the queue labels with a dead letter exchange. What happens?",
    {
        "a": "the queue has a dead letter exchange from then on",
        "b": "the queue stays as it was, and nobody is told",
        "c": "the broker refuses, and the channel is closed",
    },
    answer=None,
)

# %% [markdown]
# It is one argument more. The channel for it is one of its own, so that ours is not at stake.

# %%
dying = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "dead_letters"}
its_channel = connection.channel()
try:
    its_channel.queue_declare("labels", durable=True, arguments=dying)
    refused = None
except pika.exceptions.ChannelClosedByBroker as refusal:
    refused = refusal.reply_code
    print(refusal.reply_code, refusal.reply_text.split(" for ")[0])

print("Is the channel closed?", "yes" if its_channel.is_closed else "no")
print("Orders in the queue:", ready("labels"))
guess.reveal("c" if refused else "a", because=f"answer of the broker: {refused or 'declared'}")

# %% [markdown]
# To declare a queue means: *there shall be such a queue.* Where there is one, and it is just so, all is well; that is why each of your programs may declare what it needs. Where there is one that is otherwise, the broker refuses with **406 PRECONDITION_FAILED** and closes the channel, with everything that was going on in it. It changes nothing: which of two programs would be right?
#
# Two ways lead out.
#
# - **A new queue with a new name**, `labels.v2`. Bind it, unbind the old one, move over what waits there, delete the old one. You do that in exercise 2.
# - **A policy.** An operator can set the dead letter exchange, the time to live and the length limit of existing queues from outside: `rabbitmqctl set_policy`. Then no program declares them. What may change belongs in a policy, and what must never change into the declaration.
#
# Here are the same ten orders, in a new queue. The desk now says what it means.


# %%
def send_away(channel, method, properties, body):
    try:
        print_label(json.loads(body))
    except NoAddressError:
        channel.basic_reject(method.delivery_tag, requeue=False)
    else:
        channel.basic_ack(method.delivery_tag)


fresh("dead_letters")
fresh("labels.v2", dying)
put("labels.v2", ten)
away = labkit.Recorder(lab.pace)
with labkit.Consumer(send_away, "labels.v2", lab.url, name="desk", recorder=away):
    wait_until(lambda: away.count("acked") + away.count("rejected") == 10)
wait_until(lambda: ready("dead_letters") == 1)
print("Labels printed:", len(labels), "of 9")
print("First deliveries:", away.count("delivered"), "and again:", away.count("redelivered"))

# %% [markdown]
# Ten orders, ten deliveries, nine labels, one dead letter. Let us read it. `basic_get` takes one message, and `basic_nack` puts it back.

# %%
method, properties, body = channel.basic_get("dead_letters")
death = properties.headers["x-death"][0]
print("Order:", properties.correlation_id, json.loads(body))
print("Died in:", death["queue"])
print("Because:", death["reason"])
print("Has a time:", "time" in death)
channel.basic_nack(method.delivery_tag, requeue=True)

# %% [markdown]
# The broker adds the header **x-death** when a message dies: where, why, and when. There are four reasons: `rejected`, `expired` (its time to live was over), `maxlen` (the queue was full) and `delivery_limit`, which you will see below. Where a message has died several times, the latest death comes first; deaths of one kind in one queue share an entry, with a count.
#
# The header does not say what was wrong with the order. The broker can't know that; `rejected` is all that the desk has told it. So log the error where you reject, with the order's id.

# %% [markdown]
# ## Try it later
#
# Now for the other kind. The ferry to Tern Island does not run in this weather. To put that order back makes a hot loop, and to send it away makes a dead letter of an order that could be shipped in a few seconds. It should be tried again **after a while**, and after a longer while if that fails, too: a service that has trouble is not helped by clients that knock every second. And at some point somebody has to give up: no ferry goes to Atlantis.
#
# Most RabbitMQs in use have no "deliver this later" (4.3 has, for what is given back to a quorum queue). But all have the parts. A queue with a **time to live** and no consumer keeps each message for that time, and then the message dies, as `expired`. Its dead letter exchange brings it back to the desk's queue. So a queue whose messages die is a clock.


# %%
DELAYS_S = [1, 2, 4, 8]


def waiting_queue(queue, delay_s):
    return f"{queue}.retry.{1000 * lab.pace.to_wall(delay_s):.0f}ms"


def declare_waiting_queues(queue):
    for delay_s in DELAYS_S:
        arguments = {
            "x-message-ttl": round(1000 * lab.pace.to_wall(delay_s)),
            "x-dead-letter-exchange": "",
            "x-dead-letter-routing-key": queue,
        }
        channel.queue_declare(waiting_queue(queue, delay_s), durable=True, arguments=arguments)


# %% [markdown]
# The time to live is in real milliseconds, so at speed 10 a delay of 1 shop second is 100. It is part of the queue's name. Whoever changes the delays one day gets new queues, and not a 406.
#
# This is how an order gets into one of them. The desk publishes a **copy** to the waiting queue and then acknowledges the original. Both lines matter, and so does their order: `labkit.Consumer` switches confirms on for its channel, so `basic_publish` returns when the broker has the copy. A crash between the two lines may leave two copies, and never none.


# %%
def try_later(queue, channel, method, properties, body):
    tried = (properties.headers or {}).get("x-retries", 0)
    if tried == len(DELAYS_S):
        channel.basic_reject(method.delivery_tag, requeue=False)
        return
    copy = pika.BasicProperties(
        delivery_mode=2,
        correlation_id=properties.correlation_id,
        headers={"x-retries": tried + 1},
    )
    waiting = waiting_queue(queue, DELAYS_S[tried])
    channel.basic_publish("", waiting, body, copy, mandatory=True)
    channel.basic_ack(method.delivery_tag)


# %% [markdown]
# The count is a header of our own, `x-retries`. The broker's `x-death` counts as well, but RabbitMQ 3.10 goes on counting in a copy that you publish with that header, and 4.0 and later begin at 1 each time. After the last delay the order is rejected, and the dead letter exchange has it.
#
# The desk now gives each kind of failure the answer that fits it.


# %%
def desk(channel, method, properties, body):
    try:
        print_label(json.loads(body))
    except NoAddressError:
        channel.basic_reject(method.delivery_tag, requeue=False)
    except NoFerryError:
        try_later("labels.v2", channel, method, properties, body)
    else:
        channel.basic_ack(method.delivery_tag)


islands = orders_for(
    "Bath", "York", "Tern Island", "Leeds", "Atlantis", "Hull", "", "Wells", "Ripon", "Truro"
)

# %%
guess = labkit.predict(
    "order-03 goes to Tern Island, whose ferry does not run. The desk takes one at a time.\n"
    "What becomes of the orders behind it?",
    {
        "a": "they wait until order-03 is through",
        "b": "they are printed while order-03 waits",
        "c": "they are tried as often as order-03",
    },
    answer=None,
)

# %% [markdown]
# The ferry to Tern Island runs again when `order-03` has been put aside three times and the others are through. The one to Atlantis never runs.

# %%
fresh("dead_letters")
fresh("labels.v2", dying)
declare_waiting_queues("labels.v2")
no_ferry.update(["Tern Island", "Atlantis"])
put("labels.v2", islands)
later = labkit.Recorder(lab.pace)
with labkit.Consumer(desk, "labels.v2", lab.url, name="desk", recorder=later):
    wait_until(lambda: times(later, "order-03", "acked") >= 3 and len(labels) >= 7)
    no_ferry.discard("Tern Island")
    wait_until(lambda: later.count("rejected") == 2 and "order-03" in labels)

before = labels.index("order-03")
guess.reveal(
    "b" if before == 7 else "a", because=f"labels printed before that of order-03: {before}"
)

# %%
islands_ids = [order["order_id"] for order in islands]
plots.show(
    plots.deliveries(
        later.frame(),
        messages=islands_ids,
        planned={"order-03": [0, 1, 3, 7], "order-05": [0, 1, 3, 7, 15]},
    ),
    alt="Ten orders over time. Seven have one mark each near the left edge, done. order-03 and "
    "order-05 have marks at growing distances, on the hollow diamonds of the plan or just to "
    "their right. order-03 ends as done, order-05 after its fifth delivery as a dead letter. "
    "order-07 is a dead letter at once.",
)

# %% [markdown]
# The hollow diamonds are the plan: 1, 2, 4 and 8 seconds after the try before, so 1, 3, 7 and 15 seconds after the first. The other marks are what happened. Each lies on its diamond or a little to the right of it.
#
# `order-03` is put aside, and in the meantime the desk is free for the others. When the ferry runs again, the order's next try finds it. `order-05` to Atlantis is tried five times, at growing distances, and then given up. `order-07` has no address: no delay would help, so it went at once.

# %%
tried = {n: times(later, f"order-{n:02}", "delivered", "redelivered") for n in (3, 5, 7)}
wait_until(lambda: ready("dead_letters") == 2)
letters = dead_letters.look(channel, "dead_letters")
print("order-03, Tern Island: four tries or more:", tried[3] >= 4)
print("order-05, Atlantis:", tried[5], "tries")
print("order-07, no address:", tried[7], "try")
for letter in letters:
    print(f"Dead: {letter.order_id}, {letter.reason}, retries: {letter.retries}")

# %% [markdown]
# How well does a queue keep time? Here is each try of `order-05`, planned and actual. A try can be late, since the broker, the desk and this machine have other things to do, and the delay of one try carries over to the next. It can't be early.

# %% tags=["nbval-ignore-output"]
actual = [e.wall for e in later if e.order_id == "order-05" and e.kind == "delivered"]
planned_s = [0, 1, 3, 7, 15]
for plan_s, wall in zip(planned_s, actual, strict=True):
    at_s = lab.pace.to_shop(wall - actual[0])
    late_ms = 1000 * lab.pace.to_wall(at_s - plan_s)
    print(f"planned {plan_s:5.1f} s   actual {at_s:6.2f} s   late by {late_ms:4.0f} real ms")

# %%
late_s = [
    wall - actual[0] - lab.pace.to_wall(plan_s)
    for plan_s, wall in zip(planned_s, actual, strict=True)
]
print("Earlier than planned:", sum(late < -0.002 for late in late_s), "of", len(late_s))

# %% [markdown]
# What you have just read is `labkit.retries.Retries` in short. The real one, in [labkit/retries.py](../labkit/retries.py), keeps the message's other properties and notes why it was tried again. Its waiting queues serve the whole shop: a message carries the name of the queue it goes back to as its routing key, which it keeps when it expires. And it declares the waiting queues so that they lose nothing when the broker is *killed*. A classic queue lets an expired message go before it has arrived at the other end. We measured it on 3.10: of some hundreds of messages that were about to come back when the broker was killed, 43 to 72 were lost, in each of three kills. A quorum queue, of which more below, can be told to keep an expired message until it has arrived (**at least once** dead-lettering). That one lost none.

# %% [markdown]
# ## "Remind me in 30 seconds"
#
# A clock made of a queue is good for more than retries: an order that was not paid, a basket that was left, a parcel to be asked about. Let us build reminders. A message can carry a time to live of its own, the property `expiration`. So one waiting queue ought to be enough for all of them, however long each is to wait.

# %%
guess = labkit.predict(
    "One waiting queue. First a reminder that expires in 30 s, then one that expires in 5 s.\n"
    "When does the second one arrive?",
    {"a": "after 5 s", "b": "after 30 s, behind the first", "c": "never"},
    answer=None,
)

# %% [markdown]
# The next two cells do it twice at the same time: once with one queue for both, once with a queue for each delay. All four reminders come to the queue `reminders`.


# %%
def set_reminders():
    back = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "reminders"}
    fresh("reminders")
    fresh("waiting", back)
    for delay_s in (30, 5):
        ttl_ms = round(1000 * lab.pace.to_wall(delay_s))
        fresh(f"waiting.{delay_s}s", back | {"x-message-ttl": ttl_ms})
        own = pika.BasicProperties(expiration=str(ttl_ms), correlation_id=f"one, {delay_s} s")
        channel.basic_publish("", "waiting", b"ring", own)
        plain = pika.BasicProperties(correlation_id=f"each, {delay_s} s")
        channel.basic_publish("", f"waiting.{delay_s}s", b"ring", plain)


def on_reminder(channel, method, properties, body):
    channel.basic_ack(method.delivery_tag)


# %%
rings = labkit.Recorder(lab.pace)
started_s = lab.pace.now()
set_reminders()
with labkit.Consumer(on_reminder, "reminders", lab.url, recorder=rings):
    wait_until(lambda: rings.count("acked") == 4)
waited_s = {e.order_id: lab.pace.at(e.wall) - started_s for e in rings if e.kind == "delivered"}

in_one, in_each = ([name for name in waited_s if name.startswith(kind)] for kind in ("one", "each"))
print("One queue for both:", " before ".join(in_one))
print("A queue for each:  ", " before ".join(in_each))
late = waited_s["one, 5 s"] > 25
print("In one queue, the reminder for 5 s was more than 20 s late:", late)
guess.reveal("b" if late else "a", because=f"the first that came: {in_one[0]}")

# %% tags=["nbval-ignore-output"]
for name, waited in waited_s.items():
    print(f"{name:10} arrived after {waited:5.2f} s")

# %% [markdown]
# A queue's messages expire **at its head**, and nowhere else. The broker does not look behind the first message: that would mean to search the whole queue all the time. So a short time waits behind a long one. Where all messages of a queue have the same time to live, the first one is always the first to expire, and the trouble is gone. That is why each delay has its queue. `deliver_later` in [labkit/waiting.py](../labkit/waiting.py) is the same for any queue, and loses nothing in a killed broker.
#
# It also shows the limit. Ten delays are ten queues, and that is nothing. "At a quarter past nine on the third of May" is not a delay but a date. Keep such things in a database, and publish them when they are due. (There was a plugin for delayed messages. It is no longer maintained.)

# %% [markdown]
# ## The order that kills
#
# All that was said so far needs one thing: that the handler lives to give an answer. Some messages take the program with them. A picture needs more memory than there is, a driver crashes, the kernel kills the process. No `except` runs and no `x-retries` is counted. The broker sees a connection break and does what it must: it delivers the message again, to the next consumer or to the next life of the same one.
#
# Here is such a desk. The address `a novel` crashes the printer's driver, and the program with it. `drop_socket` stands for that: the connection just breaks.


# %%
def one_life(queue, deliveries):
    """Serves a queue until an order takes the program with it, or until nothing comes."""
    link = pika.BlockingConnection(pika.URLParameters(lab.url))
    its_channel = link.channel()
    its_channel.basic_qos(prefetch_count=1)
    for method, _, body in its_channel.consume(queue, inactivity_timeout=10):
        if method is None:
            break
        order = json.loads(body)
        deliveries[order["order_id"]] += 1
        if order["address"] == "a novel":
            labkit.amqp.drop_socket(link)
            break
        print_label(order)
        its_channel.basic_ack(method.delivery_tag)
        if len(labels) == 4:
            break
    with contextlib.suppress(pika.exceptions.AMQPError):
        link.close()


# %% [markdown]
# Something always starts the program again when it has died: systemd, Docker, Kubernetes. Ours does so up to ten times, or until all four good labels are printed, each time when the broker has noticed the end of the last life.


# %%
def keep_alive(queue):
    """Starts the desk again and again; how often each order was delivered."""
    deliveries = Counter()
    put(queue, orders_for("Bath", "York", "a novel", "Leeds", "Ely"))
    for _ in range(10):
        one_life(queue, deliveries)
        wait_until(lambda: channel.queue_declare(queue, passive=True).method.consumer_count == 0)
        if len(labels) == 4:
            break
    return deliveries


# %%
guess = labkit.predict(
    "Five orders, the third kills the desk. It has ten lives.\nHow many of the other four labels "
    "are printed?",
    {
        "a": "four: at the next start the broker skips what has failed",
        "b": "two: those before it",
        "c": "none",
    },
    answer=None,
)

# %%
fresh("dead_letters")
fresh("labels.v2", dying)
deliveries = keep_alive("labels.v2")
print("Deliveries of order-03:", deliveries["order-03"], "in ten lives")
print("Labels printed:", len(labels), "of 4")
guess.reveal({4: "a", 2: "b", 0: "c"}[len(labels)], because=f"printed: {', '.join(labels)}")

# %% [markdown]
# Ten lives, ten deaths, and had there been a thousand lives, there would have been a thousand deaths. It is a hot loop again, a slower one, at the speed at which programs start. The dead letter exchange does not help, since nobody rejects anything.
#
# Somebody has to count who is not in the program, and that is the broker. A **quorum queue** counts how often a message came back, and with `x-delivery-limit` it has a limit. Above that the message dies, with the reason `delivery_limit`. Quorum queues keep copies on several machines, which is the subject of notebook 12; with one machine they work as well.

# %%
fresh("dead_letters")
limited = dying | {"x-queue-type": "quorum", "x-delivery-limit": 3}
fresh("labels.v3", limited)
deliveries = keep_alive("labels.v3")
wait_until(lambda: ready("dead_letters") == 1)

(letter,) = dead_letters.look(channel, "dead_letters")
print("Deliveries of order-03:", deliveries["order-03"])
print("Labels printed:", len(labels), "of 4")
print("Dead:", letter.order_id, "in", letter.queue, "because of", letter.reason)

# %% [markdown]
# A limit of 3 allows three deliveries after the first. Then the order is out of the way, and the desk lives. Whoever reads `delivery_limit` among the dead letters knows what to look for: a message that came back too often, and most likely one that nobody could answer.
#
# Set the limit yourself, since versions differ in what they do without it, and in what they count.
#
# | RabbitMQ, as measured | limit if you set none | counts |
# |---|---|---|
# | 3.10 | none | a lost consumer, `basic_reject` and `basic_nack` with requeue |
# | 4.0 | 20 | the same |
# | 4.3 | 20 | a lost consumer and `basic_reject`; **not** `basic_nack` |
#
# So on 4.3 a loop with `basic_nack(requeue=True)` has no end, not even on a quorum queue. On a quorum queue `basic_reject` is counted in all three versions; a classic queue counts nothing. And a queue's type can't be changed: a classic queue becomes a quorum queue by way of a new name, or you get a 406.

# %% [markdown]
# ## Put it back, this time for good
#
# A dead letter queue is where orders wait for somebody to look at them. One morning there are five in it. Yesterday's release of the desk had a bug, and rejected orders that were all right.


# %%
def a_bad_morning():
    """Five dead letters: four orders that the desk rejected, and a reminder that has expired."""
    fresh("dead_letters")
    fresh("labels.v2", dying)
    fresh("reminders.v2", dying | {"x-message-ttl": 1})
    put("labels.v2", orders_for("Bath", "", "Leeds", "Ely"))
    for _ in range(4):
        method, _, _ = channel.basic_get("labels.v2")
        channel.basic_reject(method.delivery_tag, requeue=False)
    wait_until(lambda: ready("dead_letters") == 4)
    put("reminders.v2", [{"order_id": "order-05", "address": "Hull"}])
    wait_until(lambda: ready("dead_letters") == 5)


# %% [markdown]
# `dead_letters.look` takes all letters out, reads their headers, and gives them back.

# %%
import pandas as pd

a_bad_morning()
letters = dead_letters.look(channel, "dead_letters")
pd.DataFrame(
    [(each.order_id, each.queue, each.reason, each.body.decode()) for each in letters],
    columns=["order", "died in", "because", "body"],
)

# %% [markdown]
# Three of them are good orders, and the bug is mended. So they can go back. There are two steps for each: it must be published where it came from, and it must be acknowledged here. Either can come first. Suppose that the program ends between the two.

# %%
guess = labkit.predict(
    "A program puts one letter back, and ends between its two steps. Where is the letter then?",
    {
        "a": "acknowledged first: nowhere. Published first: in both queues",
        "b": "acknowledged first: in both queues. Published first: nowhere",
        "c": "in the dead letter queue, either way: half a transaction does not count",
    },
    answer=None,
)


# %%
def half_way(first_step):
    """Takes one letter, does the first step alone, and ends; how many letters there are then."""
    a_bad_morning()
    link = pika.BlockingConnection(pika.URLParameters(lab.url))
    its_channel = link.channel()
    its_channel.confirm_delivery()
    method, properties, body = its_channel.basic_get("dead_letters")
    if first_step == "acknowledge":
        its_channel.basic_ack(method.delivery_tag)
    else:
        copy = pika.BasicProperties(delivery_mode=2, correlation_id=properties.correlation_id)
        its_channel.basic_publish("", "labels.v2", body, copy, mandatory=True)
    link.close()
    left = 4 if first_step == "acknowledge" else 5
    wait_until(lambda: ready("dead_letters") == left)
    return ready("dead_letters") + ready("labels.v2")


# %%
found = {first: half_way(first) for first in ("acknowledge", "publish")}
for first, number in found.items():
    print(f"{first} first: of 5 letters there are {number}")
guess.reveal(
    "a" if found == {"acknowledge": 4, "publish": 6} else "b" if found["publish"] < 5 else "c",
    because="one less than there were, and one more",
)

# %% [markdown]
# AMQP has transactions, but RabbitMQ does not promise that a publish and an acknowledgement in one take effect together. So choose which of two mishaps you can live with. An order that is there twice can be found and left out, which is the subject of notebook 06. An order that is nowhere can't be found at all. **Publish, wait for the confirm, then acknowledge**, here and in `try_later` and wherever a message goes from one queue to another.
#
# `dead_letters.put_back` does that for each letter that you choose, and sends each to the queue that its `x-death` names. First *some*: rejected by the desk, and with an address.


# %%
def is_good(letter):
    return letter.reason == "rejected" and json.loads(letter.body)["address"]


a_bad_morning()
some = dead_letters.put_back(channel, "dead_letters", is_good)
print("Put back:", ", ".join(letter.order_id for letter in some.done))
print("Still dead:", some.left)
print("Waiting for the desk:", ready("labels.v2"))

# %% [markdown]
# Then *all* that is left, although nothing about these two has been mended. The desk is at work meanwhile.

# %%
labels.clear()
morning = labkit.Recorder(lab.pace)
with labkit.Consumer(desk, "labels.v2", lab.url, name="desk", recorder=morning):
    rest = dead_letters.put_back(channel, "dead_letters")
    wait_until(lambda: morning.count("acked") == 3 and morning.count("rejected") == 1)
wait_until(lambda: ready("dead_letters") == 2)

print("Labels printed:", ", ".join(labels))
print("Put back:", len(rest.done), "and dead again:", ready("dead_letters"))
again = dead_letters.look(channel, "dead_letters")
print("Put back before, says their header:", [letter.put_back for letter in again])

# %% [markdown]
# The three good orders have their labels. The two others are where they were: what killed them is still so. To put everything back "and see" costs nothing with two letters, and with two hundred thousand it is the hot loop once more, with a person in it. `put_back` leaves a count in the header `x-put-back`, so that the next one who looks can see that this was tried. It also looks only at the letters that are there when it begins, or it would never end.

# %% [markdown]
# ## Long work
#
# The last order of the day wants the whole catalogue printed. That takes 5 real seconds. The connection is opened with a **heartbeat** of 1 second: each side says "I am here" at least once a second, and whoever hears nothing for two heartbeats in a row takes the other for dead. The default is 60 seconds, and then only work that takes minutes gets into trouble; the rest is the same.

# %%
guess = labkit.predict(
    "A handler works for 5 s, then acknowledges. The heartbeat is 1 s. What happens?",
    {
        "a": "nothing special: the work takes as long as it takes",
        "b": "the work is done, the acknowledgement fails, and the message comes again",
        "c": "the work is interrupted when the heartbeat is missed",
    },
    answer=None,
)


# %%
def in_the_callback(channel, method, properties, body):
    time.sleep(5)  # the work, in real seconds
    printed.append("in the callback")
    channel.basic_ack(method.delivery_tag)
    acknowledged.append(method.routing_key)


# %% [markdown]
# (A message that comes through the default exchange has its queue's name as routing key. So `acknowledged` gets to know whose message it was.)
#
# The other handler starts a thread for the work, and returns at once. When the work is done, that thread must not acknowledge by itself: a channel belongs to one thread, as you saw in notebook 04. It **asks the connection's own thread** to do it. `add_callback_threadsafe` is the only method of a connection that another thread may call.


# %%
def beside_it(channel, method, properties, body):
    def work():
        time.sleep(5)  # the same work
        printed.append("beside it")
        channel.connection.add_callback_threadsafe(acknowledge)

    def acknowledge():
        channel.basic_ack(method.delivery_tag)
        acknowledged.append(method.routing_key)

    threading.Thread(target=work).start()


# %% [markdown]
# `program` is a whole consumer around a handler. `process_data_events` serves the connection: it calls the handler, runs what other threads have asked for, and says "I am here". It tells us how it ended.


# %%
def program(queue, on_message):
    parameters = pika.URLParameters(lab.url)
    parameters.heartbeat = 1
    link = pika.BlockingConnection(parameters)
    link.channel().basic_consume(queue, on_message)
    try:
        while queue not in acknowledged:
            link.process_data_events(time_limit=0.1)
        link.close()
        return "its connection lived to the end"
    except pika.exceptions.AMQPConnectionError:
        return "its connection was lost"


# %% [markdown]
# Both at the same time, each with a queue and a message of its own.

# %%
printed, acknowledged = [], []
handlers = {"catalogue.callback": in_the_callback, "catalogue.beside": beside_it}
for queue in handlers:
    fresh(queue)
    put(queue, [{"order_id": "catalogue", "address": "Bath"}])
with ThreadPoolExecutor(max_workers=2) as pool:
    ended = dict(zip(handlers, pool.map(program, handlers, handlers.values()), strict=True))

# %%
wait_until(lambda: ready("catalogue.callback") == 1)
for queue, how in ended.items():
    print(f"{queue:18} {how}; messages in the queue: {ready(queue)}")
print("Catalogues printed:", ", ".join(sorted(printed)))
method, _, _ = channel.basic_get("catalogue.callback")
guess.reveal(
    "b" if method.redelivered else "a", because="the message is back, marked as redelivered"
)
channel.basic_nack(method.delivery_tag, requeue=True)

# %% [markdown]
# Nobody interrupts the work. The catalogue is printed in both cases. But in the first, pika's thread was busy with the work, so nobody said "I am here". After about three seconds the broker gave the connection up and put the message back, marked as redelivered. The handler learns of it two seconds later, when its acknowledgement finds no connection. The next consumer prints the catalogue once more, takes as long, and is given up as well: a loop again, and each round of it costs all the work.
#
# Some turn the heartbeat off. Then a consumer whose machine has lost its power keeps its message for a long time, since nobody notices. RabbitMQ also has a second patience, for the acknowledgement itself: 30 minutes, unless the operator says otherwise (from 4.3 on for quorum queues alone). Then it takes the message back, however the heartbeats go on: work that takes longer needs a longer patience.
#
# `labkit.long_work.LongWork`, in [labkit/long_work.py](../labkit/long_work.py), is `beside_it` with all that belongs to it: several workers, a stop that lets the work end first, and failures that reach somebody.

# %% [markdown]
# ## Five failures, five answers
#
# | what fails | answer | what does it |
# |---|---|---|
# | the message itself, and it always will | send it away at once | reject with `requeue=False`, dead letter exchange |
# | the moment: a service is closed | try later, less and less often, then give up | waiting queues, `x-retries` |
# | the program, because of the message | let the broker count | quorum queue, `x-delivery-limit` |
# | the program, because of a bug | mend it, then put the letters back | publish, confirm, acknowledge |
# | the connection, because of long work | work beside it | thread, `add_callback_threadsafe` |
#
# None of the five is `requeue=True`. It has its place where a consumer gives back what it has not begun, such as when it shuts down.

# %% [markdown]
# ## Exercises
#
# **1. Not now.** Write the part of a handler that runs when the work can't be done now. The message came from `exercise.work`, which has a dead letter exchange. Two waiting queues are there, `exercise.work.retry.1` and `exercise.work.retry.2`. The first failure sends the message to the first, the second failure to the second, and after that it is a dead letter. Count in `x-retries`, keep the correlation id, and make each copy persistent. The channel has confirms on. The check also tries it while a waiting queue is missing: the order must not be lost then, so your function may raise, and must not acknowledge it.


# %% tags=["exercise"]
def not_now(channel, method, properties, body):
    """Puts a delivery aside for a later try, or gives it up after two."""
    # BEGIN SOLUTION
    tried = (properties.headers or {}).get("x-retries", 0)
    if tried == 2:
        channel.basic_reject(method.delivery_tag, requeue=False)
        return
    copy = pika.BasicProperties(
        delivery_mode=2,
        correlation_id=properties.correlation_id,
        headers={"x-retries": tried + 1},
    )
    waiting = f"exercise.work.retry.{tried + 1}"
    channel.basic_publish("", waiting, body, copy, mandatory=True)
    channel.basic_ack(method.delivery_tag)
    # END SOLUTION


exercises.not_now.check(not_now, url=lab.url)

# %%
# exercises.not_now.hint()
# exercises.not_now.solution()

# %% [markdown]
# **2. A queue with a past.** The queue `exercise.labels` is bound to the exchange `exercise.orders` with the routing key `label`. It has no dead letter exchange, and three orders wait in it. Replace it by `exercise.labels.v2`: durable, bound in the same way, with dead letters going by the default exchange to `exercise.dead`. When your function returns, the three orders are in the new queue, the old queue is gone, and new orders come to the new one alone. No order may be lost, not even a new one, should your program end half-way. Nobody else uses the queues meanwhile, and the channel has confirms on.


# %% tags=["exercise"]
def replace_queue(channel):
    """Replaces exercise.labels by exercise.labels.v2, which has a dead letter exchange."""
    # BEGIN SOLUTION
    arguments = {"x-dead-letter-exchange": "", "x-dead-letter-routing-key": "exercise.dead"}
    channel.queue_declare("exercise.labels.v2", durable=True, arguments=arguments)
    channel.queue_bind("exercise.labels.v2", "exercise.orders", routing_key="label")
    channel.queue_unbind("exercise.labels", "exercise.orders", routing_key="label")
    while True:
        method, properties, body = channel.basic_get("exercise.labels")
        if method is None:
            break
        channel.basic_publish("", "exercise.labels.v2", body, properties, mandatory=True)
        channel.basic_ack(method.delivery_tag)
    channel.queue_delete("exercise.labels", if_empty=True)
    # END SOLUTION


exercises.replace_queue.check(replace_queue, url=lab.url)

# %%
# exercises.replace_queue.hint()
# exercises.replace_queue.solution()

# %% [markdown]
# **3. Some of them.** Write `put_back` yourself. `wanted` is a set of order ids, which the letters in `exercise.dead` bear as correlation id. Those go back to the queue where each of them died last, with their body and their correlation id, and persistent; the others stay dead letters. The channel has confirms on. The check also lets one of the queues be missing: that letter must not be lost.


# %% tags=["exercise"]
def put_back(channel, wanted):
    """Puts the wanted letters of exercise.dead back to where they died."""
    # BEGIN SOLUTION
    while True:
        method, properties, body = channel.basic_get("exercise.dead")
        if method is None:
            break
        if properties.correlation_id not in wanted:
            continue  # unanswered for now
        queue = properties.headers["x-death"][0]["queue"]
        copy = pika.BasicProperties(delivery_mode=2, correlation_id=properties.correlation_id)
        channel.basic_publish("", queue, body, copy, mandatory=True)
        channel.basic_ack(method.delivery_tag)
    channel.basic_nack(multiple=True, requeue=True)  # all that is unanswered
    # END SOLUTION


exercises.put_back.check(put_back, url=lab.url)

# %%
# exercises.put_back.hint()
# exercises.put_back.solution()

# %% [markdown]
# **4. A long report.** Write a handler for work that takes longer than a heartbeat. `work(body)` does it, and returns when it is done. The handler must leave the connection's thread free meanwhile, and the message must be acknowledged when the work is done, and not before.


# %% tags=["exercise"]
def on_report(channel, method, properties, body, work):
    """Has the work done beside the connection, then acknowledged."""

    # BEGIN SOLUTION
    def do_it():
        work(body)
        channel.connection.add_callback_threadsafe(done)

    def done():
        channel.basic_ack(method.delivery_tag)

    threading.Thread(target=do_it).start()
    # END SOLUTION


exercises.on_report.check(on_report, url=lab.url)

# %%
# exercises.on_report.hint()
# exercises.on_report.solution()

# %% [markdown]
# ## What it costs
#
# **Order.** The order to Tern Island came out last. Whatever is tried later is overtaken by what came after it. Where the order of messages counts, such as "created" before "cancelled", a retry that lets others pass is a mistake. Notebook 08 is about that.
#
# **Repeats.** Each step from one queue to another may happen twice. Consumers must cope, as in notebook 06.
#
# **Queues and code.** Four delays for each of seven queues would make 28 waiting queues. `labkit.retries` lets all of them share four, by an exchange in front of each. Each retry writes the message to disk twice more.
#
# **Somebody who looks.** A dead letter queue that nobody watches is a bin. It needs an alarm when it is not empty, a person who knows what the letters mean, and a rule for how long they are kept, since they hold customers' addresses.
#
# **Retries make a bad day worse.** While the carrier is down, each order knocks at its door five times and not once. Growing delays keep that bearable. And add them up: 1 + 2 + 4 + 8 is 15 seconds, so in an outage of a minute most orders end as dead letters. The last delays must be as long as the outages that you expect.

# %%
lab.stop()
print("Done.")

# %% [markdown]
# ## What you have seen
#
# - A message that is put back at once comes back at once. One of them is enough to stop a consumer with a prefetch of 1.
# - Reject into a dead letter exchange what will never work. `x-death` says where it died and why.
# - A declared queue can't be changed by another declaration: 406. Use a new name, or a policy.
# - A time to live and a dead letter exchange make a delay. One queue for each delay, since messages expire at the head alone.
# - Where the program itself dies of a message, the broker must count: `x-delivery-limit`, set by you.
# - From queue to queue: publish, wait for the confirm, then acknowledge.
# - Serve the connection while you work, or the broker takes you for dead.
#
# **Next**: [08 Who is first?](08-ordering.ipynb) A queue is first in, first out. What is left of that with two consumers, and after a retry?
