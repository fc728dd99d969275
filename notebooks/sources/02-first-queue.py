# %% [markdown]
# # A mailbox between two programs
#
# The owner of the shop asks: *An order no longer goes from hand to hand. It goes into a mailbox, and somebody takes it out later. Where is it in the meantime? Who gets it? And how would I notice if nobody does?*
#
# This notebook takes about 45 minutes. After it you can
#
# - follow one message from the program that sends it to the program that deals with it, and say at each step who has it,
# - choose between three types of exchange, and write bindings that route as you mean them,
# - say what it costs to ask for messages, compared with being sent them,
# - give work to one of several programs, or news to all of them,
# - find out that a message reached nobody.
#
# In [notebook 00](00-start-here.ipynb) you saw the mailroom: publisher, exchange, binding, queue, consumer. Here you build it piece by piece, with the calls of [pika](https://pika.readthedocs.io), Python's client for RabbitMQ.

# %% [markdown]
# ## A connection and a channel
#
# A program talks to the broker over a **connection**, which is one TCP connection. Inside it, it opens one or more **channels**. All calls are made on a channel: think of the connection as a telephone line, and of the channel as the conversation on it.
#
# Two more lines prepare what follows. `confirm_delivery()` has the broker answer each message that we publish, so that the next line of a cell finds it where it belongs. And `persistent` marks a message as one to be written to disk. [Notebook 05](05-outage-and-recovery.ipynb) shows when that matters.

# %%
import random
import threading
import time

import pika
import pika.exceptions

import labkit
from labkit import measure, plots
from labkit.exercises import first_queue as exercises

lab = labkit.Lab("first-queue").start()
connection = lab.connect()
channel = connection.channel()
channel.confirm_delivery()
persistent = pika.BasicProperties(delivery_mode=2)

# %% [markdown]
# ## 1. The way of one message
#
# Three calls make a small mailroom. `exchange_declare` makes the counter where messages come in. `queue_declare` makes the queue that keeps them. `queue_bind` is the rule that joins the two: messages with the key `order.created` go to this queue. The **routing key** is a word or a few that the publisher writes on a message, as an address is written on a letter.
#
# To **declare** means: make it, unless it is there already. So both sides may declare the same queue, and it doesn't matter who comes first, as long as both give the same arguments. Where they differ, the broker refuses the second declaration with the code 406.
#
# `durable=True` lets a queue or an exchange survive a restart of the broker. It keeps the queue; `persistent` keeps the messages in it. With `passive=True` the call makes nothing. It only looks, and its answer holds the number of messages that are **ready**: those that wait to be taken. `queue_purge` empties the queue, so that you can run the cell twice.

# %%
mailbox = "email_notifications"

channel.exchange_declare("shop", exchange_type="direct", durable=True)
channel.queue_declare(mailbox, durable=True)
channel.queue_bind(mailbox, exchange="shop", routing_key="order.created")
channel.queue_purge(mailbox)


def ready(queue):
    """How many messages wait in a queue, as the broker says now."""
    return channel.queue_declare(queue, passive=True).method.message_count


print("Ready before anybody publishes:", ready(mailbox))

# %% [markdown]
# Now publish one order: the exchange, the routing key, the body, and how to keep it. The body is bytes or text. RabbitMQ doesn't look into it.

# %%
channel.basic_publish("shop", "order.created", "order 1: a lamp", persistent)

depth = ready(mailbox)
ax = plots.topology([("shop", "order.created", mailbox)], depths={mailbox: depth}, consumers=[])
plots.show(
    ax,
    alt="The exchange shop at the left. One arrow, labelled order.created, leads to the queue "
    "email_notifications, in which one message waits. It has no consumer.",
)
print("Ready now:", depth)

# %% [markdown]
# The exchange has handed the message on and kept nothing. The message waits in the queue. At the right nobody is there to take it, and that does no harm: `basic_publish` has returned, and the order service would be on its way to the next customer.
#
# Next, the email department comes in, on a connection of its own. It takes the message by `basic_get`, and begins to work. It has not said yet that it is done. What does the queue say at that moment?

# %%
guess = labkit.predict(
    "Email has taken the only message and is at work on it. What is in the queue now?",
    {
        "a": "still one ready message: it leaves the queue when the work is done",
        "b": "nothing: a message that was taken has left the broker for good",
        "c": "no ready message, but the broker keeps the one that email has, and can bring it back",
    },
    answer=None,
)

# %% [markdown]
# To tell b from c, let email's program end in the middle of its work. Closing the connection does the same as a crash would: the broker learns that email is gone. The first two lines put a fresh message into the mailbox, so that you can run the cell again.

# %%
channel.queue_purge(mailbox)
channel.basic_publish("shop", "order.created", "order 1: a lamp", persistent)

email_connection = lab.connect("email")
email_channel = email_connection.channel()
delivery, properties, body = email_channel.basic_get(mailbox)
in_hand = ready(mailbox)
email_connection.close()  # email ends, and never said that it was done
back = ready(mailbox)

print(f"Email took {body.decode()!r}, for the first time: {not delivery.redelivered}")
outcome = "a" if in_hand else "c" if back else "b"
guess.reveal(outcome, because=f"ready while email has it: {in_hand}; after email has gone: {back}")

# %% [markdown]
# While a consumer has a message, the message is **unacknowledged**. The count of ready messages doesn't show it, so the queue looks empty. But the broker still has it. If the consumer's channel or connection closes, the message becomes ready again. After a crash that is at once. After a power cut the broker must first miss some heartbeats, the signs of life that both sides send, which can take a minute or more. A program that fails but stays connected keeps the message (on most versions of RabbitMQ for half an hour, see notebook 07).
#
# What ends this is the **acknowledgement**, `basic_ack`. It names the message by its **delivery tag**, a number that the broker gave to this delivery. Only now is the message gone.
#
# There is a short cut, which you will see in many examples. With `auto_ack=True` the broker counts a message as acknowledged the moment it is sent. If the consumer fails after that, the message is lost.
#
# Email comes back, then, and finishes. (To see this a second time, run the cell above first: it puts the message there.)

# %%
email_connection = lab.connect("email")
email_channel = email_connection.channel()
delivery, properties, body = email_channel.basic_get(mailbox)
email_channel.basic_ack(delivery.delivery_tag)
email_connection.close()

print(f"Email took {body.decode()!r} again. Marked as redelivered: {delivery.redelivered}")
print("Ready after the acknowledgement and the end of email:", ready(mailbox))

# %% [markdown]
# The second delivery carries a flag, `redelivered`. It says: somebody had this before you, and it is not known how far they got. Perhaps the mail was sent, and only the acknowledgement is missing. So a message may be dealt with twice. Notebook 06 is about that.
#
# | step | ready | unacknowledged |
# |---|---|---|
# | published | 1 | 0 |
# | taken by `basic_get` | 0 | 1 |
# | the consumer's connection ends | 1 | 0 |
# | taken again | 0 | 1 |
# | acknowledged | 0 | 0 |

# %% [markdown]
# ## 2. Three types of exchange
#
# Who gets a message depends on three things: its routing key, the keys of the bindings, and the type of the exchange.
#
# - **direct**: the routing key equals the binding's key, letter by letter.
# - **fanout**: every queue that is bound, whatever the keys.
# - **topic**: the binding's key is a pattern. A key is made of words with dots between them. In a pattern, `*` stands for exactly one word, and `#` for any number of words, even none.
#
# The experiment binds the same four queues, by the same four keys, to one exchange of each type. So what differs is the type alone. These are the bindings, and the routing keys of the messages:

# %%
bindings = {
    "payment_processing": "order.created",
    "email_notifications": "order.*",
    "inventory_updates": "order.#",
    "analytics_events": "#",
}
keys = ["order", "order.created", "order.item.returned", "payment.completed"]

guess = labkit.predict(
    "Topic exchange, routing key order.item.returned. Which queues get it?",
    {
        "a": "email, inventory and analytics: order.*, order.# and # all begin as it does",
        "b": "inventory and analytics: order.# and #",
        "c": "analytics alone: #",
    },
    answer=None,
)

# %% [markdown]
# `route` declares an exchange of one type, binds the queues, and publishes one message for each key. After each message it looks which queues have grown.

# %%
for queue in bindings:
    channel.queue_declare(queue, durable=True)


def route(kind):
    """Publishes each key to an exchange of this type, and tells which queues it reached."""
    exchange = f"shop.{kind}"
    channel.exchange_declare(exchange, exchange_type=kind, durable=True)
    for queue, pattern in bindings.items():
        channel.queue_bind(queue, exchange, routing_key=pattern)
        channel.queue_purge(queue)
    reached = {}
    for key in keys:
        before = {queue: ready(queue) for queue in bindings}
        channel.basic_publish(exchange, key, f"news of {key}", persistent)
        reached[key] = [queue for queue in bindings if ready(queue) > before[queue]]
    return reached


# %% [markdown]
# First the direct exchange. The picture is drawn from the broker's counts after the four messages.

# %%
reached = {"direct": route("direct")}
wires = [("shop.direct", pattern, queue) for queue, pattern in bindings.items()]
plots.show(
    plots.topology(wires, depths=lab.vhost.depths(bindings)),
    alt="The exchange shop.direct, bound to four queues by the keys order.created, order.*, "
    "order.# and #. One message waits in payment_processing, none in the other three.",
)

# %% [markdown]
# One of four messages has arrived, and only at payment. The stars and hashes mean nothing here: to a direct exchange, `order.*` is a key like any other, and no message carries it. Where the other three messages have gone is a question for the last experiment.
#
# Now fanout, with the same bindings.

# %%
reached["fanout"] = route("fanout")
wires = [("shop.fanout", pattern, queue) for queue, pattern in bindings.items()]
plots.show(
    plots.topology(wires, depths=lab.vhost.depths(bindings)),
    alt="The exchange shop.fanout, bound to the same four queues by the same keys. Four messages "
    "wait in each of the four queues.",
)

# %% [markdown]
# Four messages went in, and sixteen are waiting: a copy in each queue. The keys on the arrows have had no effect. And last, topic.

# %%
reached["topic"] = route("topic")
wires = [("shop.topic", pattern, queue) for queue, pattern in bindings.items()]
plots.show(
    plots.topology(wires, depths=lab.vhost.depths(bindings)),
    alt="The exchange shop.topic, bound to the same four queues by the same keys. One message "
    "waits in payment_processing, one in email_notifications, three in inventory_updates and "
    "four in analytics_events.",
)

# %% [markdown]
# The counts grow from top to bottom, as the patterns widen: 1, 1, 3 and 4. Which message went where is in this table. A letter stands for a queue that got the message: **P**ayment, **E**mail, **I**nventory, **A**nalytics.

# %%
print((f"{'routing key':22}" + "".join(f"{kind:9}" for kind in reached)).rstrip())
for key in keys:
    row = f"{key:22}"
    for by_key in reached.values():
        letters = [queue[0].upper() if queue in by_key[key] else "-" for queue in bindings]
        row += f"{''.join(letters):9}"
    print(row.rstrip())

print()
got = "".join(queue[0] for queue in reached["topic"]["order.item.returned"])
guess.reveal({"eia": "a", "ia": "b", "a": "c"}[got], because="* is one word, # is any number")

# %% [markdown]
# Read the topic column from the top. `order` matches `order.#`, because `#` may stand for no word at all, and not `order.*`, which asks for a second word. `order.item.returned` has three words, so `order.*` doesn't take it, and `order.#` does.
#
# A topic exchange can do what the other two do: without wildcards it is direct, with `#` everywhere it is fanout. That is why the shop uses one from notebook 03 on.

# %% [markdown]
# ### Exercise: three desks
#
# Write `connect_desks`. It declares a topic exchange named `desks` and three queues, all of them durable, and binds them so that
#
# - `eu_desk` gets what happens to an order in the EU: keys of exactly three words, such as `order.created.eu` or `order.cancelled.eu`,
# - `failed_payments` gets each failed payment, whatever reason follows: `payment.failed`, `payment.failed.card`, `payment.failed.card.expired`,
# - `archive` gets everything.
#
# The check sends messages of its own through your exchange, and looks where they arrive.


# %% tags=["exercise"]
def connect_desks(channel):
    """Declares the exchange `desks` and its three queues, and binds them."""
    # BEGIN SOLUTION
    channel.exchange_declare("desks", exchange_type="topic", durable=True)
    patterns = {"eu_desk": "order.*.eu", "failed_payments": "payment.failed.#", "archive": "#"}
    for queue, pattern in patterns.items():
        channel.queue_declare(queue, durable=True)
        channel.queue_bind(queue, exchange="desks", routing_key=pattern)
    # END SOLUTION


exercises.connect_desks.check(connect_desks, url=lab.url)

# %% [markdown]
# Take the `#` away from a line below for a hint, or for one way to do it.

# %%
# exercises.connect_desks.hint()
# exercises.connect_desks.solution()

# %% [markdown]
# ## 3. Asking, or being told
#
# There are two ways to get messages. With `basic_get` a program asks: is there one? This is **pull**. If the answer is no, it waits a while and asks again. With `basic_consume` it says once: send me what comes. From then on the broker sends each message when it is there. This is **push**.
#
# To compare them, `trickle` publishes 20 messages at uneven intervals, from a thread of its own. A pika connection belongs to one thread, so it opens its own. Each message carries the time at which it was sent.
#
# It publishes to the exchange with the empty name, the **default exchange**. That one is always there. Every queue is bound to it under the queue's own name, so the routing key says which queue is meant.

# %%
inbox = "inventory_updates"
channel.queue_purge(inbox)
chance = random.Random(2)
gaps_wall_s = [chance.uniform(0.05, 0.25) for _ in range(20)]


def trickle():
    """Publishes a message after each gap; its body is the time of sending."""
    with pika.BlockingConnection(pika.URLParameters(lab.url)) as trickle_connection:
        trickle_channel = trickle_connection.channel()
        for gap_wall_s in gaps_wall_s:
            time.sleep(gap_wall_s)
            trickle_channel.basic_publish("", inbox, repr(time.monotonic()), persistent)


guess = labkit.predict(
    "20 messages come in 3 s. Inventory asks every 50 ms. How often is the answer 'nothing'?",
    {"a": "hardly ever", "b": "about once for each message", "c": "several times as often"},
    answer=None,
)

# %% [markdown]
# Pull first. The loop asks. If there is a message, it notes how old the message is and asks again at once. If there is none, it sleeps for 50 ms. These are real milliseconds, not shop time: what is measured is the broker and the network themselves.

# %%
publisher = threading.Thread(target=trickle)
publisher.start()
pulled_s, requests, empty = [], 0, 0
while len(pulled_s) < len(gaps_wall_s):
    delivery, properties, body = channel.basic_get(inbox)
    requests += 1
    if delivery is None:
        empty += 1
        time.sleep(0.05)
    else:
        pulled_s.append(time.monotonic() - float(body))
        channel.basic_ack(delivery.delivery_tag)
publisher.join()

outcome = "a" if empty <= 10 else "b" if empty <= 25 else "c"
guess.reveal(outcome, because="each question is a round trip to the broker, and most find nothing")

# %% [markdown]
# Now push, with the same messages at the same intervals. `basic_consume` names a function, the **callback**, which pika calls with each message. `start_consuming()` waits for messages and calls it, until the callback says stop.

# %%
pushed_s = []


def on_message(channel, delivery, properties, body):
    pushed_s.append(time.monotonic() - float(body))
    channel.basic_ack(delivery.delivery_tag)
    if len(pushed_s) == len(gaps_wall_s):
        channel.stop_consuming()


publisher = threading.Thread(target=trickle)
publisher.start()
channel.basic_consume(inbox, on_message)  # the one request
channel.start_consuming()
publisher.join()

# %% [markdown]
# How old was a message when its consumer had it? And how many requests did it take? Both counts leave out the acknowledgements, one for each message either way. Delays are given as **percentiles**: half of the messages were at most as old as `p50`, the median, and 95 of 100 at most as old as `p95`.

# %% tags=["nbval-ignore-output"]
print("             requests   found nothing   delay p50   delay p95   (real ms)")
for name, asked, nothing, delays_s in [
    ("pull", requests, empty, pulled_s),
    ("push", 1, 0, pushed_s),
]:
    p50, p95 = 1000 * measure.percentiles(delays_s, [50, 95])
    print(f"{name:12} {asked:8} {nothing:15} {p50:11.1f} {p95:11.1f}")

# %% [markdown]
# Percentiles are two points of each distribution. Here is the whole of both: each curve shows, for each age, which share of the messages was at most that old.

# %%
ax = plots.ecdf(
    {"pull": [1000 * s for s in pulled_s], "push": [1000 * s for s in pushed_s]},
    xlabel="from published to delivered, real milliseconds",
    unit="ms",
    title="How old a message is when its consumer has it",
)
ax.set_ylabel("messages at most this old")
plots.show(
    ax,
    alt="Two rising curves of delivery delay, one for pull and one for push. At the median, the "
    "curve of push lies to the left of the one of pull: its messages are younger.",
)

# %% [markdown]
# The consumer that asks gets a message when it next happens to look. On average that is half an interval later: 25 ms of 50. At worst the message comes just after a look, and waits for the whole interval. The pause and the next question take a little longer than 50 ms together, so `p95` may lie above it. The one that is sent its messages waits only for the way through the broker.
#
# You could ask less often, and pay with longer delays. You could ask more often, and pay with more questions in vain. Push needs no such choice. The claims are cautious, so that they hold on a busy machine, too.

# %%
p50_pull_s, p50_push_s = (measure.percentiles(each, [50])["p50"] for each in (pulled_s, pushed_s))
print("Pull: requests = messages + answers in vain:", requests == len(pulled_s) + empty)
print("Pull: more answers in vain than messages:", empty > len(pulled_s))
print("Pull: the median delay is at least an eighth of the interval:", p50_pull_s >= 0.00625)
print("Push: the median delay is shorter than with pull:", p50_push_s < p50_pull_s)
print("Push: messages from one request:", len(pushed_s))

# %% [markdown]
# `basic_get` has its place: to look once, as in section 1, or in a job that runs at night and empties a queue. For a service that is to react, use `basic_consume`. How many messages it may be sent ahead of its acknowledgements is the **prefetch**, which you will meet in a moment.

# %% [markdown]
# ## 4. First in, first out
#
# A queue keeps messages in the order in which they came. Publish a hundred, numbered, and let one consumer take them. `channel.consume` is push too: it is `basic_consume` with a loop in place of the callback. `channel.cancel()` ends it.

# %%
shelf = "shipping_labels"
channel.queue_declare(shelf, durable=True)
channel.queue_purge(shelf)
for number in range(100):
    channel.basic_publish("", shelf, str(number), persistent)

numbers = []
for delivery, _properties, body in channel.consume(shelf):
    numbers.append(int(body))
    channel.basic_ack(delivery.delivery_tag)
    if len(numbers) == 100:
        break
channel.cancel()

print("Taken:", len(numbers), "- in the order of publishing:", numbers == list(range(100)))

# %% [markdown]
# With one consumer, the order is kept. That is a promise with conditions: with a second consumer, or with a message that comes back as in section 1, it no longer holds as you may think. Notebook 08 breaks it and mends it.

# %% [markdown]
# ## 5. A consumer that was away
#
# In notebook 01, a department that was down took every order down with it. Here the email department is away the whole time while orders come in: 24 of them, a quarter of a shop second apart. Then the order service ends, too. Only after that does email arrive. It takes 0.1 shop seconds for each mail.
#
# The two programs never run at the same time. After each step the cell records how many messages are ready.

# %%
lab.recorder.clear()
channel.queue_purge(mailbox)

order_connection = lab.connect("order service")
order_channel = order_connection.channel()
order_channel.confirm_delivery()
for number in range(1, 25):
    order_channel.basic_publish("", mailbox, f"order {number}", persistent)
    lab.recorder.record("depth", mailbox, detail=ready(mailbox))
    lab.pace.wait(0.25)
order_connection.close()
lab.recorder.record("mark", "order_service", detail="orders end")

lab.pace.wait(2)
print("The order service is gone:", order_connection.is_closed)
print("Messages that wait for somebody who was never there:", ready(mailbox))

# %% [markdown]
# Now email comes. `basic_qos(prefetch_count=1)` is the prefetch: send me one message, and the next when I have acknowledged it. Without it the broker would hand over all 24 at once. They would be unacknowledged then, and no longer counted as ready.

# %%
email_connection = lab.connect("email")
email_channel = email_connection.channel()
email_channel.basic_qos(prefetch_count=1)
lab.recorder.record("mark", "email", detail="email comes")

mails = []
for delivery, _properties, body in email_channel.consume(mailbox):
    lab.pace.wait(0.1)  # write the mail, and send it
    email_channel.basic_ack(delivery.delivery_tag)
    mails.append(body.decode())
    lab.recorder.record("depth", mailbox, detail=ready(mailbox))
    if len(mails) == 24:
        break
email_connection.close()

print("Mails sent:", len(mails))
print("In the order in which customers came:", mails == [f"order {n}" for n in range(1, 25)])

# %% [markdown]
# The recorder has the number of ready messages after each step. Drawn over shop time, it is the **backlog** of the queue:

# %%
plots.show(
    plots.backlog(lab.recorder.frame()),
    alt="The number of ready messages over shop time. It climbs in steps to 24 while orders "
    "come in, stays level after the order service has ended, and falls to 0 when email comes.",
)

# %% [markdown]
# The line climbs while orders come in and nobody takes them. It takes longer than 24 quarters of a shop second: each publish and each count costs some real milliseconds, and at speed 10 one of them is a hundredth of a shop second. Then it stays level for two shop seconds, while neither program runs: the messages are the broker's alone. Then email comes and works them off, faster than they came. No order is lost, and the order service has seen nothing of the absence. What the customers saw is another matter: the first mail comes more than 8 shop seconds after its order.

# %% [markdown]
# ### Exercise: take some, and leave the rest
#
# Write `take(channel, queue, n, handle)`. It gives the next `n` messages of a queue to `handle(body)`, one after another and in order. Each is acknowledged when `handle` has returned, not before. What is left stays in the queue for others. If there are fewer than `n`, it handles those and returns: from an empty queue, `basic_get` returns `(None, None, None)`. If `handle` raises an exception, don't catch it: it must reach whoever called `take`.
#
# The check counts what was handled and what is left in the queue. It also gives you a `handle` that fails.


# %% tags=["exercise"]
def take(channel, queue, n, handle):
    """Handles the next n messages of a queue, and acknowledges each once that is done."""
    # BEGIN SOLUTION
    for _ in range(n):
        delivery, _properties, body = channel.basic_get(queue)
        if delivery is None:
            return
        handle(body)
        channel.basic_ack(delivery.delivery_tag)
    # END SOLUTION


exercises.take.check(take, url=lab.url)

# %% [markdown]
# If it says *not yet*, read what it saw in the queue. Hints are here:

# %%
# exercises.take.hint()
# exercises.take.solution()

# %% [markdown]
# ## 6. To one of them, or to all of them
#
# Shipping has too much to do, so a second program comes to help. Both take from the same queue. Analytics and recommendations, on the other hand, each want to know about every order. This is the wiring of both experiments to come:

# %%
ax = plots.topology(
    [
        ("", "shipping_labels", "shipping_labels"),
        ("news", "", "analytics_events"),
        ("news", "", "recommendation_updates"),
    ],
    consumers=[
        ("shipping_labels", "shipping 1"),
        ("shipping_labels", "shipping 2"),
        ("analytics_events", "analytics"),
        ("recommendation_updates", "recommendations"),
    ],
)
plots.show(
    ax,
    alt="The default exchange leads to the queue shipping_labels, from which two consumers take, "
    "shipping 1 and shipping 2. The exchange news leads to two queues, analytics_events "
    "and recommendation_updates, with one consumer each.",
)

# %% [markdown]
# Above, one queue with two consumers. Below, two queues with one consumer each. Take the upper half first.

# %%
guess = labkit.predict(
    "20 orders go to one queue, from which two consumers take. What does each of them get?",
    {
        "a": "all 20",
        "b": "some of the 20, and none that the other gets",
        "c": "the first gets all 20, the second waits as a reserve",
    },
    answer=None,
)

# %% [markdown]
# `reader` starts a consumer with a prefetch of one. It notes the orders that it is sent. To keep the page short, the programs are channels of this notebook here, one for each. To the broker that makes no difference: it sees consumers.

# %%
taken = {}


def reader(name, queue):
    """A consumer that notes the orders that it gets."""
    taken[name] = []

    def on_message(channel, delivery, properties, body):
        taken[name].append(int(body))
        channel.basic_ack(delivery.delivery_tag)

    reader_channel = connection.channel()
    reader_channel.basic_qos(prefetch_count=1)
    reader_channel.basic_consume(queue, on_message)
    return reader_channel


# %% [markdown]
# Several programs that take from one queue are **competing consumers**, and a message that goes to one of them travels **point-to-point**. `process_data_events` lets pika wait for messages and call the callbacks, for a moment at a time; the loop repeats it until all orders are taken.

# %%
channel.queue_purge(shelf)
readers = [reader("shipping 1", shelf), reader("shipping 2", shelf)]
for order in range(1, 21):
    channel.basic_publish("", shelf, str(order), persistent)

while len(taken["shipping 1"] + taken["shipping 2"]) < 20:
    connection.process_data_events(time_limit=0.1)
for reader_channel in readers:
    reader_channel.close()

one, two = set(taken["shipping 1"]), set(taken["shipping 2"])
every = sorted(taken["shipping 1"] + taken["shipping 2"])
print("Each order went to exactly one of them:", every == [*range(1, 21)])
outcome = "a" if one == two else "b" if one and two and not one & two else "c"
guess.reveal(outcome, because="both got some, and none went to both")

# %% [markdown]
# Nobody had to divide the work. Whoever acknowledges gets the next message. Here both are equally quick, so they take turns. With a prefetch of one, a slower one would get fewer. That is how a queue spreads work over several programs, and notebook 10 measures what it brings.
#
# Now two queues behind a fanout exchange, one for each reader: **publish-subscribe**.

# %%
channel.exchange_declare("news", exchange_type="fanout", durable=True)
audience = {"analytics": "analytics_events", "recommendations": "recommendation_updates"}
readers = []
for name, queue in audience.items():
    channel.queue_declare(queue, durable=True)
    channel.queue_purge(queue)
    channel.queue_bind(queue, exchange="news")
    readers.append(reader(name, queue))
for order in range(1, 21):
    channel.basic_publish("news", "", str(order), persistent)

while len(taken["analytics"] + taken["recommendations"]) < 2 * 20:
    connection.process_data_events(time_limit=0.1)
for reader_channel in readers:
    reader_channel.close()

for name in audience:
    print(f"{name} got all 20, in order:", taken[name] == [*range(1, 21)])

# %% [markdown]
# The next picture sets the two side by side. A dot says that this consumer got this order.

# %%
ax = plots.new_axes(2.7)
ax.spines[["top", "right"]].set_visible(False)
for row, (name, orders) in enumerate(taken.items()):
    colour = plots.COLOURS[name.split()[0]]
    ax.plot(orders, [row] * len(orders), "o", color=colour, markersize=9)
ax.set_yticks(range(4), [f"{name}: {len(orders)}" for name, orders in taken.items()])
ax.set_ylim(3.6, -0.6)
ax.set_xticks([1, 5, 10, 15, 20])
ax.set_xlabel("order")
ax.set_title("Who got which order", loc="left", fontweight="bold")
plots.show(
    ax,
    alt="A row of dots for each consumer, over the orders 1 to 20. The dots of shipping 1 and "
    "shipping 2 fill each other's gaps. Analytics and recommendations have a dot for every order.",
)

# %% [markdown]
# In the two upper rows, each order has one dot: it went to one of the two. In the two lower rows, each order has a dot in both. The rule to remember: **consumers of one queue share its messages; queues of one exchange each get a copy.** So ask how many *different* things must happen to a message. Each of them needs a queue. If more hands should do the same thing, add consumers, not queues.

# %% [markdown]
# ## 7. The message that reached nobody
#
# Marketing announces a sale. It publishes to a new exchange, `promotions`. Its team has declared the exchange, and each department believed that another would bind a queue to it.

# %%
guess = labkit.predict(
    "A message is published to an exchange to which no queue is bound. What happens?",
    {
        "a": "basic_publish raises an exception",
        "b": "the exchange keeps the message until a queue is bound",
        "c": "no error, and the message is gone",
    },
    answer=None,
)

# %% [markdown]
# The cell publishes twice: on a plain channel, as most first programs do, and on our own, on which the broker confirms each message. There, `basic_publish` returns once the confirm has come, and raises an exception if the broker refuses. The cell notes first how many messages are ready in all queues. (`exchange_delete` makes a second run of the cell begin as the first.)

# %%
channel.exchange_delete("promotions")
channel.exchange_declare("promotions", exchange_type="topic", durable=True)
queues = [*bindings, shelf, "recommendation_updates"]
before = sum(ready(queue) for queue in queues)

plain = connection.channel()
errors = []
for each in (plain, channel):
    try:
        each.basic_publish("promotions", "sale.started", "all lamps at half price", persistent)
    except pika.exceptions.AMQPError as error:
        errors.append(error)
plain.close()
print("Two messages published, and errors raised:", len(errors))
print("Messages that arrived in any queue:", sum(ready(queue) for queue in queues) - before)

# %% [markdown]
# No exception, so it isn't a. The second call has returned as well, so its message was confirmed. Does the exchange keep messages for a queue that comes later? Marketing publishes once more while nothing is bound. (The first line takes the binding away that an earlier run of this cell has made.) Then email binds its queue, and looks. Then marketing publishes a last message.

# %%
channel.queue_unbind(mailbox, exchange="promotions", routing_key="sale.#")
before = sum(ready(queue) for queue in queues)
channel.basic_publish("promotions", "sale.started", "all lamps at half price", persistent)

channel.queue_bind(mailbox, exchange="promotions", routing_key="sale.#")
late = sum(ready(queue) for queue in queues) - before
channel.basic_publish("promotions", "sale.ended", "lamps at their old price", persistent)
after = sum(ready(queue) for queue in queues) - before

print("Found after binding:", late)
print("Found after one more message:", after)
guess.reveal("b" if late else "c", because="only what was published after the binding arrived")

# %% [markdown]
# The first three messages are gone, and nobody was told. An exchange keeps nothing: what no binding takes, the broker drops. That is its normal way to work, not a fault. A news channel without listeners is no error. An order without a payment department is.
#
# And the second and the third were even *confirmed*. A confirm says that the broker has taken charge of the message and done with it what its rules say. It doesn't say that a queue got it.
#
# There are several ways to address a message wrongly. What does a publisher hear of each? Below, three of them are tried in three ways of publishing. `mandatory=True` asks the broker to give a message back if no queue takes it.


# %%
def told(exchange, key, confirm, mandatory):
    """What a publisher hears of a message, up to its next call on the channel."""
    own_channel = connection.channel()
    try:
        if confirm:
            own_channel.confirm_delivery()
        own_channel.basic_publish(exchange, key, "hello", persistent, mandatory=mandatory)
        own_channel.queue_declare(mailbox, passive=True)
    except pika.exceptions.UnroutableError:
        return "UnroutableError"
    except pika.exceptions.ChannelClosedByBroker as error:
        return f"channel closed, {error.reply_code}"
    finally:
        if own_channel.is_open:
            own_channel.close()
    return "nothing"


# %% [markdown]
# The first mistake is a key that no binding takes. The second is a typing error in a queue's name, which on the default exchange is the key. The third is an exchange that isn't there.

# %%
mistakes = {
    "a key that nobody takes": ("promotions", "Sale.started"),
    "a wrong queue name": ("", "emial_notifications"),
    "a wrong exchange name": ("promotion", "sale.started"),
}
ways = {"plain": (False, False), "confirm": (True, False), "confirm + mandatory": (True, True)}

print(f"{'':25}" + "".join(f"{way:21}" for way in ways).rstrip())
for mistake, (exchange, key) in mistakes.items():
    heard = [told(exchange, key, *how) for how in ways.values()]
    print(f"{mistake:25}" + "".join(f"{each:21}" for each in heard).rstrip())

# %% [markdown]
# A wrong exchange name is loud: the broker closes the channel with the code 404, not found. With a plain publish the exception comes at the *next* call on the channel, which may be much later. The other two mistakes are silent, unless you ask for both: confirms, so that `basic_publish` waits for the broker's answer, and `mandatory`, so that the broker sends the message back before it confirms. pika raises `UnroutableError` then.
#
# Two details. Keys are compared letter by letter, capitals included: `Sale` is not `sale`. And `mandatory` without confirms doesn't help: the message comes back later and by itself, to a callback that you must have set with `add_on_return_callback`.
#
# ### The other remedy: an exchange for what nobody takes
#
# Sometimes the publisher is the wrong one to be told. It can't mend a binding. Then give the exchange an **alternate exchange**: whatever no binding takes goes there. Behind it stands a queue that somebody looks into. (Here that is the last part of the cell. It takes the message with `auto_ack=True`, as there is no work that could fail.)

# %%
channel.exchange_declare("unrouted", exchange_type="fanout", durable=True)
channel.queue_declare("unrouted", durable=True)
channel.queue_bind("unrouted", exchange="unrouted")
channel.queue_purge("unrouted")
channel.exchange_declare(
    "offers",
    exchange_type="topic",
    durable=True,
    arguments={"alternate-exchange": "unrouted"},
)
channel.basic_publish("offers", "sale.started", "a new offer", persistent, mandatory=True)

delivery, properties, body = channel.basic_get("unrouted", auto_ack=True)
print("Caught:", body.decode())
print("Published to:", delivery.exchange, "with the key:", delivery.routing_key)

# %% [markdown]
# The message was caught, and it still says where it was meant to go. So whoever looks after the queue can see which binding is missing, add it, and publish the message again. Note that `mandatory=True` raised nothing this time: a queue has taken the message, if not the one that was meant.

# %% [markdown]
# ### Exercise: publish, and know
#
# Write `publish_safely(channel, exchange, key, body)`. It publishes one message. It returns `True` if the message reached a queue, and `False` if it reached none. The exchange exists. The channel is new, and you may be called more than once with the same one.


# %% tags=["exercise"]
def publish_safely(channel, exchange, key, body):
    """Publishes a message; True if a queue got it, False if none did."""
    # BEGIN SOLUTION
    channel.confirm_delivery()
    try:
        channel.basic_publish(exchange, key, body, persistent, mandatory=True)
    except pika.exceptions.UnroutableError:
        return False
    return True
    # END SOLUTION


exercises.publish_safely.check(publish_safely, url=lab.url)

# %% [markdown]
# The check publishes with keys that a queue takes, and with one that none takes. Hints are here:

# %%
# exercises.publish_safely.hint()
# exercises.publish_safely.solution()

# %% [markdown]
# ## What it costs
#
# Nothing in this notebook came for free. The first cost can be measured: to be sure that the broker has a message, the publisher waits for its answer. The cell publishes 200 messages in each of the three ways, in mixed order, so that whatever else the machine does meets all three alike.

# %%
channel.queue_purge(shelf)
channels = {}
for way, (confirm, _) in ways.items():
    channels[way] = connection.channel()
    if confirm:
        channels[way].confirm_delivery()

cost_s = {way: [] for way in ways}
for _ in range(200):
    for way in chance.sample(list(ways), k=len(ways)):
        begin = time.perf_counter()
        channels[way].basic_publish("", shelf, "x" * 200, persistent, mandatory=ways[way][1])
        cost_s[way].append(time.perf_counter() - begin)

median_s = {way: measure.percentiles(times_s, [50])["p50"] for way, times_s in cost_s.items()}
print("A confirm at least doubles the median:", median_s["confirm"] > 2 * median_s["plain"])

# %% [markdown]
# And this is how much longer, on this machine:

# %% tags=["nbval-ignore-output"]
print(f"{'one basic_publish, real ms':28}{'p50':>8}{'p95':>8}{'p99':>8}")
for way, times_s in cost_s.items():
    p50, p95, p99 = 1000 * measure.percentiles(times_s, [50, 95, 99])
    print(f"{way:28}{p50:8.2f}{p95:8.2f}{p99:8.2f}")

# %% [markdown]
# *Plain* times only the hand-over to the socket: when the call returns, the broker may not have read the message yet. A confirm adds the way to the broker and back, and the time until the message is written to a file: on a machine that has little else to do, about a millisecond. At the median, `mandatory` adds nothing that could be seen. (Only two of 200 messages are slower than `p99`, so it differs from run to run.) Over a network, add the network's round trip. For an order that is little: the customer of notebook 01 waited for the departments, and that took seconds. For a million measurements a minute it would be much, and notebook 06 shows how to confirm many at once.
#
# The other costs don't fit into a column of milliseconds:
#
# - **A further program to run.** The broker must be installed, watched, updated and backed up. If it is down, nobody can publish. Notebook 12 is about that.
# - **The answer comes later, if at all.** The publisher knows that the message is in a queue. It doesn't know whether the mail was sent. Whoever needs the result must be told in another way.
# - **Once is not guaranteed.** A message whose consumer ends comes again. The work must bear that.
# - **Mistakes are quiet.** A call to a department that isn't there fails at once. A message to it waits, or vanishes. You have to look: at bindings, at the depth of queues, at what comes back.

# %% [markdown]
# ## What you have seen
#
# - A message is **ready**, then **unacknowledged** while a consumer has it, and gone only after the **acknowledgement**. If the consumer ends before, it is ready again, marked as redelivered.
# - A **direct** exchange compares keys, a **fanout** ignores them, a **topic** exchange matches patterns: `*` one word, `#` any number.
# - **Pull** asks many times in vain and gets messages late; **push** takes one request, and messages come as they are published.
# - One consumer gets messages in order. A consumer that was away finds them waiting.
# - Consumers of one queue share its messages. Queues of one exchange each get a copy.
# - What no binding takes vanishes without a word, even if it was confirmed. `mandatory=True` together with confirms tells the publisher; an alternate exchange catches the message.

# %%
lab.stop()
print("The connection is closed:", connection.is_closed)

# %% [markdown]
# ## What comes next
#
# In [notebook 03](03-decoupled-orders.ipynb) this mailbox goes into the middle of the shop. The same thirty customers come as in notebook 01, with the same departments and the same capacity. You measure how long they wait now, and who does the waiting instead.
