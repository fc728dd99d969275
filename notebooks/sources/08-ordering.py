# %% [markdown]
# # Who is first?
#
# *A customer corrects the address of her order. The correction is sent after the address, and the parcel goes to the old one all the same. How can that be, and what does it cost to rule it out?*
#
# A queue gives its messages out in the order in which they came. That is true, and it is less than most people take it for. In this notebook you see where the order gets lost behind the queue, count by how much, and try the two ways to keep it.
#
# It takes about 40 minutes. After it you can
#
# - say when a queue keeps an order, and name two everyday things that break it,
# - measure disorder, instead of arguing about it,
# - let several consumers stand ready while one works,
# - keep each customer's messages in order and work on many customers at once,
# - weigh what each of that costs.

# %%
import contextlib
import json
import time

import pandas as pd
import pika

import labkit
from labkit import measure, partitions, plots
from labkit.exercises import ordering as exercises

lab = labkit.Lab("ordering").start()
channel = lab.connect().channel()
channel.confirm_delivery()

# %% [markdown]
# ## Changes of address
#
# The shop keeps an address book, and a customer can change her address at any time. Each change is a message. Before a clerk writes it down, the postal service looks the address up. It knows most of them, which takes half a second. Where it does not know one, it searches, which takes 14 seconds, and in the end lets it pass.
#
# Anna is in a hurry and types *1 Elm Stret*, with the wrong number and a letter short. She sees it at once and sends a second change, *2 Elm Street*. Leo does the same. The others type well. `STREAM` is what is sent, in this order: 24 changes by seven customers. `anna-2` is Anna's second change, her version 2.


# %%
def change(customer, version, typo=False):
    """A message's content: a customer's new address, and how long it takes to look it up."""
    return {
        "id": f"{customer}-{version}",
        "customer": customer,
        "version": version,
        "address": f"{version} Elm Stret" if typo else f"{version} Elm Street",
        "takes_s": 14.0 if typo else 0.5,
    }


STREAM = []
for hasty, versions in (("anna", (1, 2)), ("leo", (3, 4))):
    STREAM += [change(hasty, 1, typo=True), change(hasty, 2)]
    others = ("carla", "dora", "emil", "hugo", "max")
    STREAM += [change(customer, version) for version in versions for customer in others]
print(len(STREAM), "changes:", *(each["id"] for each in STREAM[:8]), "and so on")

# %% [markdown]
# `send` publishes the changes in this order, one after the other; each is confirmed before the next is sent, and `mandatory` makes it an error if no queue takes it. The routing key comes from a function, since it will not always be the name of a queue.


# %%
def send(changes, exchange, key_of):
    for each in changes:
        lab.recorder.record("published", "order_service", each["id"])
        properties = pika.BasicProperties(correlation_id=each["id"], delivery_mode=2)
        body = json.dumps(each).encode()
        channel.basic_publish(exchange, key_of(each), body, properties, mandatory=True)


# %% [markdown]
# And this is a clerk: a consumer that has each address looked up, writes the change into the book, and acknowledges. What is written last stays in the book. The recorder notes when a clerk began with a change and when it was done.

# %%
book = {}


def write_down(book, change):
    book[change["customer"]] = change


def clerk(name, queue, prefetch=1, threads=1):
    def on_change(channel, method, properties, body):
        change = json.loads(body)
        lab.recorder.record("started", name, change["id"])
        lab.pace.wait(change["takes_s"])  # the postal service looks it up
        write_down(book, change)
        lab.recorder.record("done", name, change["id"], "noted")
        channel.basic_ack(method.delivery_tag)

    options = {"name": name, "prefetch": prefetch, "threads": threads, "recorder": lab.recorder}
    return labkit.Consumer(on_change, queue, lab.url, **options)


# %% [markdown]
# Three small helpers remain. `empty_queue` declares a queue anew, so that you can run an experiment again. `wait_until_done` waits until so many changes are done. `outdated` names the customers for whom the book has something other than the last change that they sent.


# %%
def empty_queue(queue, **arguments):
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True, arguments=arguments)
    book.clear()
    lab.recorder.clear()


def wait_until_done(count):
    while lab.recorder.count("done") < count:
        time.sleep(0.02)


def outdated():
    newest = {each["customer"]: each for each in STREAM}
    return [customer for customer in sorted(book) if book[customer] != newest[customer]]


# %% [markdown]
# ## One clerk
#
# First the plain case: one queue, one clerk.

# %%
empty_queue("changes")
with clerk("clerk 1", "changes"):
    send(STREAM, "", lambda each: "changes")
    wait_until_done(len(STREAM))
alone = lab.recorder.frame()

# %%
plots.show(
    plots.sequence(alone),
    alt="A row for each of 24 changes, the first that was sent at the top. Each bar begins where the "
    "one above it ends, so that the bars go down to the right like stairs. Two bars are long, those "
    "of anna-1 and leo-1.",
)

# %% [markdown]
# Each row is a message, the first one at the top. The bar is the clerk's work on it, and the mark at its end is the moment at which it was done. The marks go down to the right and never back: what was sent first was done first. This is what people have in mind when they say that a queue is **first in, first out**, FIFO for short.
#
# To say how much disorder there is, count **overtakings**: pairs of messages of which the later one was done first. `measure.sequence` gives one row per message, with its place in the order of sending and in the order of being done. `overtaken` counts the later ones that were done before it, and `overtaken_by_own` those among them that come from the same customer.

# %%
order = measure.sequence(alone)
print("Overtakings:", order.overtaken.sum(), "of", 24 * 23 // 2, "pairs")
print("The book says of Anna:", book["anna"]["address"])
print("Customers whose last change is not in the book:", outdated())

# %% [markdown]
# None in 276 pairs. The price is the time: the bars lie one after the other, and the last change was done when all the work before it was done, 39 shop seconds after the first one was begun.

# %% [markdown]
# ## Two clerks
#
# 39 seconds are too long for the owner. A second clerk is hired. Nothing else changes: the same queue, the same handler, the same stream.

# %%
guess = labkit.predict(
    "Two clerks take from the one queue, a message each at a time. Which address does the book have "
    "for Anna at the end?",
    {
        "a": "2 Elm Street, which she sent last",
        "b": "1 Elm Stret, which she sent first",
    },
    answer=None,
)

# %%
empty_queue("changes")
with clerk("clerk 1", "changes"), clerk("clerk 2", "changes"):
    send(STREAM, "", lambda each: "changes")
    wait_until_done(len(STREAM))
shared = lab.recorder.frame()

# %%
order = measure.sequence(shared).set_index("order_id")
measured = "a" if book["anna"]["address"] == "2 Elm Street" else "b"
guess.reveal(measured, because=f"what was written last was her change {book['anna']['version']}")
print("Changes of Anna's own that overtook anna-1:", order.overtaken_by_own["anna-1"])
print("Customers whose last change is not in the book:", outdated())

# %% tags=["nbval-ignore-output"]
print("Changes of anybody's that overtook anna-1:", order.overtaken["anna-1"])
plots.show(
    plots.sequence(shared),
    alt="The same rows with the bars of two clerks. While one of them works on anna-1, the other "
    "does anna-2 and the ten changes after it. The same happens with leo-1. The ends of both long "
    "bars have a diamond: overtaken by the customer's own later change.",
)

# %% [markdown]
# Look at the first two rows. The queue gave `anna-1` out first and `anna-2` second, as it should. But *given out* is not *done*. One clerk waited for the postal service, the other one was quick, and the correction was in the book when the mistake was written over it. The diamonds mark the changes that were overtaken by the same customer's next one. The parcels of Anna and Leo go to a street that does not exist, and nothing has failed: no error, no redelivery, no lost message.
#
# Most overtakings do no harm. That Carla's change was done before Anna's matters to nobody. What matters is the order **within one customer**. Keep that in mind for later: it is what makes the problem solvable.
#
# The time has come down, of course.


# %%
def took_s(events):
    """From the start of the first to the end of the last, in shop seconds."""
    order = measure.sequence(events)
    return order.done_s.max() - order.started_s.min()


print("Two clerks were through sooner:", took_s(shared) < took_s(alone))

# %% tags=["nbval-ignore-output"]
print(f"One clerk {took_s(alone):.1f} s, two clerks {took_s(shared):.1f} s")
print("Overtakings with two:", measure.sequence(shared).overtaken.sum())

# %% [markdown]
# ## One clerk, and a second try
#
# So the owner goes back to a single clerk. Is the order safe now?
#
# The postal service is out of reach for a moment, just when Anna's first change is looked up. The clerk gives the message back, to try it again: `basic_nack` with `requeue=True`. The broker puts it back at the head of this classic queue, as near to its old place as it can.

# %%
guess = labkit.predict(
    "One clerk with a prefetch of 10 gives the first change back. When does it come again?",
    {
        "a": "at once, before all others: it went to the head of the queue",
        "b": "after the nine that the clerk holds already",
        "c": "at the end: it went to the back of the queue",
    },
    answer=None,
)

# %% [markdown]
# Only Anna's half of the stream is sent, 12 changes, and the clerk starts when they lie in the queue. Its first look-up takes a second and fails.


# %%
def clerk_who_fails_once(name, queue, prefetch):
    """As `clerk`, but the very first look-up gets no answer."""

    def on_change(channel, method, properties, body):
        change = json.loads(body)
        lab.recorder.record("started", name, change["id"])
        if not method.redelivered and change["id"] == "anna-1":
            lab.pace.wait(1.0)
            lab.recorder.record("failed", name, change["id"], "no answer")
            channel.basic_nack(method.delivery_tag, requeue=True)
            return
        lab.pace.wait(change["takes_s"])
        write_down(book, change)
        lab.recorder.record("done", name, change["id"], "noted")
        channel.basic_ack(method.delivery_tag)

    return labkit.Consumer(on_change, queue, lab.url, name=name, prefetch=prefetch)


# %% [markdown]
# It runs twice, with a prefetch of 1 and with a prefetch of 10.

# %%
retried = {}
for prefetch in (1, 10):
    empty_queue("changes")
    send(STREAM[:12], "", lambda each: "changes")
    with clerk_who_fails_once("clerk 1", "changes", prefetch):
        wait_until_done(12)
    retried[prefetch] = lab.recorder.frame()
    order = measure.sequence(retried[prefetch]).set_index("order_id")
    passed = order.overtaken["anna-1"]
    address = book["anna"]["address"]
    by = {0: "nobody", 11: "all others"}.get(passed, "those in the clerk's hands")
    print(f"Prefetch {prefetch:2}: anna-1 was overtaken by {by}, the book says {address}")
measured = {0: "a", 11: "c"}.get(passed, "b")
guess.reveal(measured, because="with a prefetch of 10, nine were in the clerk's hands already")

# %%
plots.show(
    plots.sequence(retried[10]),
    alt="Twelve rows and one clerk. The first row begins with a short hatched bar: the try that "
    "failed. Nine other changes follow, among them anna-2. Then comes anna-1 again, as a long bar "
    "with a diamond at its end, and after it the last two changes.",
)

# %% [markdown]
# The hatched bar is the try that failed. The message did go back to the head of the queue, and it was delivered again at once, before the two that were still there. But the clerk held nine more, which had been delivered before, and a consumer does its messages in the order in which they came in. `anna-1` came in twice: first of all, and eleventh.
#
# One consumer is not enough, then. **Each redelivery breaks the order for whatever the consumer holds besides**, where it gives one message back and keeps the others. (Where its connection breaks, all go back to their places, and come again in their order.) With a prefetch of 1 it holds nothing besides, and the order stays. (In a classic queue, that is. A quorum queue that has no delivery limit puts what is given back at its *end* in RabbitMQ 3.10, where none is the rule, and in 4.0, where it must be asked for. There the order is lost all the same. In 4.3 it is not.) And every retry with a delay, as in notebook 07, lets others pass by its very nature.

# %% [markdown]
# ## One at a time, and a second one ready
#
# One clerk with a prefetch of 1 keeps the order, and when he falls ill, nobody works. For that there is the **single active consumer**. The queue is declared with the argument `x-single-active-consumer`. Any number of consumers may register then, and the broker gives everything to one of them. When that one is gone, it gives everything to the next.

# %%
guess = labkit.predict(
    "Two clerks at a queue with a single active consumer. The one at work crashes in the middle of "
    "leo-1. What then?",
    {
        "a": "nobody goes on until the first one is back",
        "b": "the other one goes on, in order, from leo-1",
        "c": "the other one goes on, and leo-1 comes at the end",
    },
    answer=None,
)

# %% [markdown]
# `crash()` breaks the clerk's connection, two seconds into the work on `leo-1`, and what he was doing goes no further.

# %%
empty_queue("changes", **{"x-single-active-consumer": True})
first, second = clerk("clerk 1", "changes"), clerk("clerk 2", "changes")
with first, second:
    send(STREAM, "", lambda each: "changes")
    while not any(e.kind == "started" and e.order_id == "leo-1" for e in lab.recorder):
        time.sleep(0.01)
    lab.pace.wait(2.0)
    first.crash()
    wait_until_done(len(STREAM))
in_turn = lab.recorder.frame()

# %%
order = measure.sequence(in_turn).sort_values("done")
followed = list(order[order.service == "clerk 2"].order_id)
measured = "b" if followed[0] == "leo-1" else "c" if followed else "a"
guess.reveal(measured, because=f"clerk 2 began with {followed[0]}")
print("Done:", order.service.value_counts().to_dict())
print("Overtakings:", order.overtaken.sum())
print("Customers whose last change is not in the book:", outdated())

# %%
plots.show(
    plots.sequence(in_turn),
    alt="Stairs again, 24 rows without a diamond. The first twelve bars are clerk 1's. His bar for "
    "leo-1 is hatched and ends at a dotted line where he crashes; there clerk 2 begins the same "
    "change anew and does all that follow.",
)

# %% [markdown]
# Up to the dotted line clerk 1 did everything, and clerk 2 did nothing at all, although he had registered and was idle. At the crash the broker took `leo-1` back, made clerk 2 the active one, and handed it to him first. The stairs go on. Not one overtaking.
#
# It depends on three conditions. The prefetch was 1; with more, a message that the clerk himself gives back is overtaken as before. The clerk who crashed had really stopped: one who is only cut off from the broker works on, and may write his change down after his successor wrote a newer one. And the crash was noticed at once, since a broken connection is seen at once. Where a machine loses its power, no connection is closed, and the broker learns of it by missing heartbeats, which takes two minutes or more with the usual settings. For that long the whole queue stands still.
#
# An *exclusive* consumer, `basic_consume(..., exclusive=True)`, is something else. It keeps the queue to itself as well, but the broker refuses a second one instead of letting it wait, so nobody is there to take over.

# %% [markdown]
# ## In order for each customer
#
# A single active consumer keeps an order that nobody asked for: that of Carla's change and Dora's. It is enough to keep **each customer's** messages in order. So divide the stream among several queues, in such a way that a customer's messages all go to the same one, and put one active consumer at each queue.
#
# What decides on the queue must give the same answer for the same customer, every time. That is what a **hash** does: it turns a text into a number, always the same one. (Python's own `hash()` is no good for that: for a text it gives another number in each process. `zlib.crc32` gives the same one.) RabbitMQ has an exchange for it, of the type `x-consistent-hash`. It takes the hash of the routing key, so the publisher uses the customer as routing key:
#
# ```python
# channel.exchange_declare("by_customer", "x-consistent-hash", durable=True)
# channel.queue_bind("by_customer.1", "by_customer", routing_key="1")  # a weight, not a key
# channel.basic_publish("by_customer", "anna", body)
# ```
#
# It is a plugin. It comes with RabbitMQ, and somebody has to enable it. Where nobody has, the publisher can do the same: hash the customer, and publish with the queue's number as routing key to a direct exchange. `partitions.declare` declares the exchange, and queues that each have a single active consumer. It uses the plugin where it is there. Its `routing_key` gives the key to publish with.

# %%
guess = labkit.predict(
    "Three queues, three clerks, each customer always in the same queue. What becomes of the order?",
    {
        "a": "it is kept altogether",
        "b": "it is kept within each customer, and lost between customers",
        "c": "it is lost in both ways, but less than with three clerks at one queue",
    },
    answer=None,
)

# %%
parted = partitions.declare(lab.url, "by_customer", 3)
for queue in parted.queues:
    channel.queue_purge(queue)
book.clear()
lab.recorder.clear()
with contextlib.ExitStack() as clerks:
    for number, queue in enumerate(parted.queues, start=1):
        clerks.enter_context(clerk(f"clerk {number}", queue))
    send(STREAM, parted.exchange, lambda each: parted.routing_key(each["customer"]))
    wait_until_done(len(STREAM))
by_customer = lab.recorder.frame()

# %%
order = measure.sequence(by_customer)
between, within = order.overtaken.sum(), order.overtaken_by_own.sum()
guess.reveal("c" if within else "b" if between else "a", because=f"within a customer: {within}")
print("Overtakings between customers, more than none:", between > within)
print("Clerks who have served any one customer:", set(order.groupby("customer").service.nunique()))
print("Clerks at work:", order.service.nunique())
print("Customers whose last change is not in the book:", outdated())

# %% tags=["nbval-ignore-output"]
print(f"Who hashes here: the {parted.hashed_by}")
for name, customers in order.groupby("service").customer.unique().items():
    print(f"{name}: {', '.join(customers)}")
print(f"Overtakings: {between}. Shop seconds: {took_s(by_customer):.1f}")

# %%
plots.show(
    plots.sequence(by_customer),
    alt="The 24 rows with the bars of three clerks. Bars of different clerks overlap, and some ends "
    "have a hollow mark: overtaken by others. There is no diamond.",
)

# %% [markdown]
# Follow one colour: its bars go down like stairs. Each clerk does his own customers' changes in order. Between the colours there is no order any more, as the hollow marks show, and there is no diamond: nobody was overtaken by himself. The book is right.
#
# Look, too, at whoever shares a clerk with Anna or Leo. Their changes wait for the postal service as well, because the queue that they were hashed to is the same. Order is kept by queue, and a queue holds several customers.
#
# Which customers share a queue is up to the hash. You can't choose it, and you need not know it.

# %% [markdown]
# ## What keeping order costs in throughput
#
# Now the same four hands for each arrangement, so that the comparison is fair, and one alone to compare them with. 20 customers send two changes each, the second right after the first. The first takes 1.4 shop seconds to look up, the second 0.2. So 40 changes are 32 seconds of work, and one consumer can do 40 / 32 = 1.25 a second at best. There are four arrangements: one consumer alone; four at one queue; four at a queue with a single active consumer; four queues with one each.

# %%
guess = labkit.predict(
    "Which of the arrangements with four consumers does more than 1.25 changes a second?",
    {
        "a": "all three: four hands are always faster",
        "b": "four at one queue, and four by customer",
        "c": "four at one queue alone: any order costs the hands",
    },
    answer=None,
)

# %%
TWICE = [change(f"customer{n:02d}", version) for n in range(1, 21) for version in (1, 2)]
for each in TWICE:
    each["takes_s"] = {1: 1.4, 2: 0.2}[each["version"]]


def arrangement(hands_at, exchange, key_of):
    """Sends the stream, then runs consumers: how many at which queue. Gives the events."""
    lab.recorder.clear()
    send(TWICE, exchange, key_of)
    with contextlib.ExitStack() as clerks:
        for number, (queue, hands) in enumerate(hands_at.items(), start=1):
            clerks.enter_context(clerk(f"clerk {number}", queue, threads=hands))
        wait_until_done(len(TWICE))
    return lab.recorder.frame()


# %% [markdown]
# It takes a few seconds.

# %%
empty_queue("changes")
empty_queue("changes.in_turn", **{"x-single-active-consumer": True})
runs = {
    "one consumer": arrangement({"changes": 1}, "", lambda each: "changes"),
    "four, one queue": arrangement({"changes": 4}, "", lambda each: "changes"),
    "four, single active": arrangement({"changes.in_turn": 4}, "", lambda each: "changes.in_turn"),
}
parted = partitions.declare(lab.url, "twice_by_customer", 4)
runs["four, by customer"] = arrangement(
    dict.fromkeys(parted.queues, 1),
    parted.exchange,
    lambda each: parted.routing_key(each["customer"]),
)

# %%
orders = {name: measure.sequence(events) for name, events in runs.items()}
table = pd.DataFrame(
    {
        name: {
            "per_s": len(TWICE) / took_s(runs[name]),
            "overtaken": order.overtaken.sum(),
            "overtaken_by_own": order.overtaken_by_own.sum(),
        }
        for name, order in orders.items()
    }
).T.astype({"overtaken": int, "overtaken_by_own": int})

# %% [markdown]
# Your prediction first, then what holds on every run.

# %%
faster = table.per_s > 1.25
measured = "a" if faster["four, single active"] else "b" if faster["four, by customer"] else "c"
guess.reveal(measured, because="of four with a single active one, three stand by")
rate = table.per_s / table.per_s["one consumer"]
own = table.overtaken_by_own
print("Four at one queue, more than 1.5 times one consumer's rate:", rate["four, one queue"] > 1.5)
print("Four by customer, more than 1.2 times:", rate["four, by customer"] > 1.2)
print("Some customers overtaken by themselves, one queue:", own["four, one queue"] > 0)
print("Overtakings, single active:", table.overtaken["four, single active"])
print("Customers overtaken by themselves, by customer:", own["four, by customer"])

# %%
plots.show(
    plots.costs_of_order(table),
    alt="Four bars: one consumer and four with a single active one are about equally short. Four at "
    "one queue and four by customer are much longer. Under each name its overtakings.",
)

# %% [markdown]
# - **One consumer and a single active one** get about the same done. The three who stand by add safety, not speed.
# - **Four at one queue** get several times as much done, and have thrown the order away. `overtaken_by_own` says how many customers have their older address in the book.
# - **By customer** almost as much gets done, and nobody is overtaken by himself. Why not quite as much? The hash does not divide 20 customers into four equal heaps of five: the fullest queue has a few more, and decides when the last change is done. With thousands of customers the heaps come out nearly even.
#
# Overtakings between customers are many in the last arrangement, and they cost nobody anything.
#
# This is the whole trade: **order is bought with hands that wait**. So ask first what has to be in order with what. The total order is the most expensive one, and it is seldom what the business needs.

# %% [markdown]
# ## Exercises
#
# ### 1. Count the overtakings
#
# You have used `measure.sequence` for it. Write it yourself. `done` holds the messages' numbers in the order in which they were done; a lower number was sent earlier, and numbers may be missing. Give back how many pairs there are of which the later one was done first.


# %% tags=["exercise"]
def overtakings(done):
    """How many pairs of messages were done in the other order than sent."""
    # BEGIN SOLUTION
    return sum(later < earlier for n, earlier in enumerate(done) for later in done[n + 1 :])
    # END SOLUTION


exercises.overtakings.check(overtakings)

# %%
# exercises.overtakings.hint()
# exercises.overtakings.solution()

# %% [markdown]
# ### 2. Choose the key
#
# Four queues behind a consistent-hash exchange. All that happens to a customer has to be done in order, whichever of the customer's orders it is about. An event is a dictionary with `event_id`, `type`, `order_id`, `customer_email`, `product_id`, `quantity`, `amount` and `time`. What is its routing key? The check asks for the keys of many events, as two programs running side by side would, and publishes them. Leave the hashing to the exchange: it spreads the customers over the queues.


# %% tags=["exercise"]
def routing_key(event):
    """The routing key that an event is published with."""
    # BEGIN SOLUTION
    return event["customer_email"]
    # END SOLUTION


exercises.routing_key.check(routing_key, url=lab.url)

# %%
# exercises.routing_key.hint()
# exercises.routing_key.solution()

# %% [markdown]
# ### 3. One works, one stands by
#
# Declare the queue `exercise.changes`: it outlives a restart of the broker, and of any number of consumers one gets everything, until that one is gone and another takes its place. The check registers two consumers there, publishes, and takes the first one away.


# %% tags=["exercise"]
def declare_changes(channel):
    """Declares exercise.changes."""
    # BEGIN SOLUTION
    channel.queue_declare(
        "exercise.changes", durable=True, arguments={"x-single-active-consumer": True}
    )
    # END SOLUTION


exercises.declare_changes.check(declare_changes, url=lab.url)

# %%
# exercises.declare_changes.hint()
# exercises.declare_changes.solution()

# %% [markdown]
# ### 4. Tolerate a late one
#
# The other way round: let them overtake each other, and see to it that it does no harm. Each change carries its `version`, which the order service counts up for each customer. `book` has for each customer the change that counts now. Write down a change that is newer than what the book has, or whose customer is not in the book yet, and leave the book alone otherwise.


# %% tags=["exercise"]
def keep_newer(book, change):
    """Writes a change (a dict with customer, version, address) down, if it is newer."""
    # BEGIN SOLUTION
    known = book.get(change["customer"])
    if known is None or change["version"] > known["version"]:
        book[change["customer"]] = change
    # END SOLUTION


exercises.keep_newer.check(keep_newer)

# %%
# exercises.keep_newer.hint()
# exercises.keep_newer.solution()

# %% [markdown]
# Once it is correct, give it to the clerks: `write_down = keep_newer`, in a cell of your own. Then run the section *Two clerks* again, from its prediction on. There are about as many overtakings as before, two clerks are as fast as before, and Anna gets her parcel.
#
# ## What it costs
#
# **A single active consumer** costs all hands but one, and a standstill after a crash that nobody notices at once.
#
# **Order by customer** can use no more hands than there are queues, and a queue is as quick as its one consumer. A customer who sends half of all messages fills one queue, and the others can't help.
#
# **The number of queues is hard to change.** With one more, some customers move to another queue. What they sent before may still wait in the old one when their next message is done in the new one, and the order is broken that one time. How many move depends on the hash. Someone's first idea is `hash % number_of_queues`. Here are 1000 customers, whose queues become five instead of four.

# %%
import zlib

customers = [f"customer-{n}@example.com" for n in range(1000)]


def moved(queue_of):
    """How many customers have another queue when there are five instead of four."""
    return sum(queue_of(name, 4) != queue_of(name, 5) for name in customers)


def by_remainder(name, queues):
    return zlib.crc32(name.encode()) % queues


print("Moved, by the remainder:  ", moved(by_remainder))
print("Moved, by consistent hash:", moved(partitions.partition_of))

# %% [markdown]
# The second line is the way that labkit takes where the broker has no such exchange; it goes by the same idea. By the remainder four out of five customers move. A **consistent** hash moves only those who go to the new queue, one in five, which is the least that is possible if the queues are to be evenly filled. That is where the exchange gets its name from. Even so, stop publishing, let the queues run empty, and add the queue then.
#
# **Retries and order don't go together.** A message that waits for its next try is overtaken, or all behind it wait along. Decide which of the two you want, for each queue.
#
# **Often the cheapest order is none.** If a message says how new it is, as a version does, the receiver can leave out what comes late, as in exercise 4. It then tolerates redeliveries, too. (Comparing and writing must be one step, such as an `UPDATE ... WHERE version < ?`. Two clerks who look first and write afterwards can still undo each other.) Where each message matters, such as *put in one more*, *take out one*, order is not even needed: the sum is the same, as long as none comes twice and none can be refused, say for want of stock. Ask first what goes wrong when two messages change places. If the answer is "nothing", you are done.

# %%
lab.stop()
print("Done.")

# %% [markdown]
# ## What you have seen
#
# - A queue gives messages out in order. Done in order is another matter: two consumers and one slow message are enough to break it.
# - A message that is given back breaks it with a single consumer, too, as soon as the consumer holds others besides.
# - Disorder can be counted, in pairs. Those within a customer are the ones that do harm.
# - A single active consumer keeps the total order, and goes on after a crash. It costs all hands but one.
# - A hash of the customer keeps each customer's order and lets queues work side by side. The fullest queue sets the time.
# - A version in the message makes late ones harmless without any order at all.
#
# **Next**: notebook 09, Black Friday. Ten times as many customers come, and order is the least of the shop's worries.
