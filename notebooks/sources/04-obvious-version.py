# %% [markdown]
# # The first version that everyone writes
#
# **The question.** You know what a queue is for, and you have seen the shop run on one. So you sit down and write it: an exchange, a queue for each department, a few callbacks. It works on your machine. What will be wrong with it in a month?
#
# This notebook takes about 75 minutes; a good place for a break is before experiment 4. It looks at such a first version, finds nine defects in it, and mends them one by one. Each is something that tutorials leave out, or that reads as if it did something else. After it you can
#
# - tell from queue counts and databases that one of them is at work,
# - route messages by topic, so that a service never hears itself,
# - declare and publish so that a restart of the broker loses nothing,
# - deal with a message that can't be processed, without a loop and without a loss,
# - say why threads must not share a connection, and what prefetch does and does not do.

# %% [markdown]
# ## The shop, as it was first written
#
# The code is [labkit/shop/obvious.py](../labkit/shop/obvious.py), not quite 250 lines. Have a look at it first; it reads well, and that is the point. It has an order service and three departments: payment, email and shipping. They share one exchange. Each comment says what its author takes the line for. The headings below say which defects an experiment is about; they are numbered as in the table at the end.
#
# Only two things in it are ours. Some defects make a message go round and round, and would never end. So there are two **brakes**: payment stops after 5 charges for one order, and email stops after 500 redeliveries. Where a brake ends an experiment, the notebook says so.
#
# The first cell opens the lab. It also begins to start a second broker, in a thread of its own, since one experiment restarts a broker and must not do that to the one that everybody uses.

# %%
import inspect
from concurrent.futures import ThreadPoolExecutor

import pika

import labkit
from labkit import plots
from labkit.exercises import obvious_version as exercises
from labkit.load import basket
from labkit.shop import ObviousShop, Order, OrderEvent, Request, audit, topology

lab = labkit.Lab("obvious-version").start()
channel = lab.connect().channel()
channel.confirm_delivery()

helper = ThreadPoolExecutor(max_workers=1)
booting = helper.submit(labkit.own_broker)

# %% [markdown]
# Each experiment opens a shop of its own, and needs an empty mailroom for it. `open_shop` clears away what the shop before has left, declares what the new one needs, and gives it an empty folder for its databases. Today the payment gateway takes 2 seconds for a charge, where it takes 3 on other days.


# %%
def clear_mailroom(kind):
    """Removes all queues and exchanges, and declares what this kind of shop uses."""
    for queue in [*topology.QUEUES, "dead_letters"]:
        channel.queue_delete(queue)
    for exchange in ["orders", "orders.dead"]:
        channel.exchange_delete(exchange)
    kind.declare_exchange(channel)
    kind.declare_queues(channel)


def open_shop(kind):
    clear_mailroom(kind)
    shop = kind(lab.new_folder(kind.__name__), lab.pace, labkit.Recorder(lab.pace), lab.url)
    shop.gateway.takes_s = 2.0  # a quick day
    return shop


# %% [markdown]
# And a look into a queue, which asks the broker without changing anything: a **passive** declare. Its answer holds the number of messages that wait, which are called **ready**. `found` collects what we count in this notebook: for each defect, with it and without it.


# %%
def waiting_in(queue):
    """How many messages are ready in a queue, now."""
    return channel.queue_declare(queue, passive=True).method.message_count


found = {}

# %% [markdown]
# ## Experiment 1: one exchange for everything (defect 1)
#
# This is how the shop tells its parts what has happened. A **fanout** exchange gives a copy of each message to every queue that is bound to it, so whoever is interested binds a queue and gets it all. And this is what payment does with what it gets.

# %%
print(inspect.getsource(ObviousShop.declare_exchange))
print(inspect.getsource(ObviousShop.on_payment))

# %% [markdown]
# It charges the customer, then publishes `PAYMENT_COMPLETED` to the same exchange, so that shipping can go on. That is all. Now one customer orders one mug.

# %%
guess_charges = labkit.predict(
    "One customer places one order. How often is the customer charged?",
    {
        "a": "once",
        "b": "twice: for the order, and for the news that it is paid",
        "c": "again and again, until something stops it",
    },
    answer=None,
)

# %% [markdown]
# `wait_until_quiet` returns when no message waits and nothing happens any more. The number of charges comes from the ledger of the payment gateway, which is what the customer's bank goes by.

# %%
with open_shop(ObviousShop) as obvious:
    obvious.create_order(Request(**basket(1)))
    obvious.wait_until_quiet()

order_before = audit(obvious.folder).orders.loc["order-001"]
braked = obvious.brakes["payment"] > 0
print("Orders placed: 1")
print("Messages that payment got:", obvious.recorder.count("delivered", "payment"))
print("Charges in the gateway's ledger:", order_before.charges)
print("Labels that shipping printed:", order_before.labels)
print("Ended by the brake:", "yes" if braked else "no")
measured = "c" if braked else "b" if order_before.charges == 2 else "a"
guess_charges.reveal(measured, because=f"charges in the ledger: {order_before.charges}")

# %% [markdown]
# Payment's queue is bound to the exchange that payment publishes to. So its own `PAYMENT_COMPLETED` comes back to it, and it charges again, and says so again. **A service that publishes to the exchange that it listens to feeds itself**, unless something keeps its own news away. Without the brake the customer is charged until the account is empty, and even then it goes on: a `PAYMENT_FAILED` comes back to payment in the same way.
#
# Here is the life of that one order, as it was recorded.

# %%
ax = plots.gantt(obvious.recorder.frame(), "order-001")
plots.show(
    ax,
    alt="Bars over time for one order. Payment works on it five times in a row. After each "
    "payment, shipping prints a label and email writes to the customer.",
)

# %% [markdown]
# Read payment's row. It works, and when it has finished it works again, on the same order. In its own row, shipping takes each of the five payments for a new parcel. Email writes to the customer once for the order and once for each payment. Nobody made an error that shows in a log: each part does what its code says.
#
# ### Mended: routing by topic
#
# The exchange should not hand out everything. In a **topic** exchange each message carries a **routing key**, words with dots between them such as `payment.completed`, and each binding says which keys it takes. `*` stands for one word, `#` for any number of words. So the queues say what they need, and payment does not need to hear of payments.

# %%
KEYS = {
    "payment_processing": ["order.created"],
    "email_notifications": ["order.created", "payment.completed", "payment.failed"],
    "shipping_labels": ["payment.completed"],
    "order_updates": ["payment.completed", "payment.failed"],
}

# %% [markdown]
# The mended shop is a class on top of the obvious one, and replaces three of its methods. The publisher's side now has to name the key; an event knows its own, so that `ORDER_CREATED` goes out as `order.created`. Each mend from here on is a class on top of the one before.


# %%
class Routed(ObviousShop):
    @staticmethod
    def declare_exchange(channel):
        channel.exchange_declare("orders", exchange_type="topic")

    @staticmethod
    def declare_queues(channel):
        for queue, keys in KEYS.items():
            channel.queue_declare(queue, durable=True)
            for key in keys:
                channel.queue_bind(queue, "orders", routing_key=key)

    @staticmethod
    def publish(channel, event, **properties):
        properties = pika.BasicProperties(correlation_id=event.order_id, **properties)
        channel.basic_publish("orders", event.routing_key, event.to_json(), properties)


# %% [markdown]
# The same order again:

# %%
with open_shop(Routed) as routed:
    routed.create_order(Request(**basket(1)))
    routed.wait_until_quiet()

order_after = audit(routed.folder).orders.loc["order-001"]
print("Messages that payment got:", routed.recorder.count("delivered", "payment"))
print("Charges in the gateway's ledger:", order_after.charges)
print("Labels that shipping printed:", order_after.labels)
charged = f"{order_before.charges}, then our brake"
found[1] = ("charges for one order", charged, order_after.charges)

# %% [markdown]
# One order, one message for payment, one charge, one label. The binding did the work. Payment's code has no `if` for it, which somebody would have to think of at every new event. A department that comes later can publish what it likes; payment's queue does not take it.

# %% [markdown]
# ## Experiment 2: the message that can't be processed (defects 3 and 5)
#
# One day a message is broken. Somebody renamed a field, or a form let an address through that no mail server takes. Here is how email meets it.

# %%
print(inspect.getsource(ObviousShop.on_email))

# %% [markdown]
# To **reject** a delivery is to give it back unprocessed. With `requeue=True` the broker puts it back into the queue, as near to its old place as it can: at the head. That sounds like "try again later", but the broker does not wait: it delivers the message again at once.

# %%
guess_mails = labkit.predict(
    "Ten broken messages lie in email's queue, twenty good ones behind them. Email holds up to "
    "ten at a time.\nWhat becomes of the good ones?",
    {
        "a": "all twenty mails are sent, with the broken ones tried in between",
        "b": "ten are sent, then it stops",
        "c": "none is sent",
    },
    answer=None,
)

# %% [markdown]
# `mail_round` puts the broken messages and the good ones into the queue, and opens the shop. It goes until everything is quiet, or until the brake ends email after 500 redeliveries, which does not take long.


# %%
def an_order(number):
    return Order(order_id=f"order-{number:03d}", amount=1200, **basket(number))


def mail_round(kind, broken):
    shop = open_shop(kind)
    good = [OrderEvent.about(an_order(n), "ORDER_CREATED").to_json() for n in range(1, 21)]
    for body in [b'{"order_id": '] * broken + good:
        persistent = pika.BasicProperties(delivery_mode=2)
        channel.basic_publish("", "email_notifications", body, persistent)
    with shop:
        shop.wait_until_quiet()
    print(f"{broken:2} broken: {shop.redeliveries:3} redeliveries,", end=" ")
    print(f"{len(shop.inbox.messages):2} of 20 good mails sent,", end=" ")
    print("ended by the brake" if shop.brakes["email"] else "ended by itself")
    return shop


# %% [markdown]
# One broken message first, then ten.

# %%
mail_round(Routed, broken=1)
looping = mail_round(Routed, broken=10)
mails_before = len(looping.inbox.messages)
measured = {20: "a", 10: "b", 0: "c"}[mails_before]
guess_mails.reveal(measured, because=f"{mails_before} of 20 good mails were sent")

# %% [markdown]
# A rejected message goes to the head of the queue and is delivered again at once. It is a **hot loop**: broker and consumer are as busy as they can be, and nothing comes of it. How busy, in real seconds, on this machine:

# %% tags=["nbval-ignore-output"]
seen = looping.recorder.frame()
times = seen.time_s[seen.kind.isin(["delivered", "redelivered"]) & (seen.service == "email")]
took_wall_s = (times.max() - times.min()) / lab.pace.speed
print(f"{len(times)} deliveries to email in {took_wall_s:.2f} real seconds", end=", ")
print(f"{len(times) / took_wall_s:,.0f} a second")

# %% [markdown]
# With one broken message, nine of email's ten places are free, and the good ones slip past. The loop goes on after them, for ever. With ten broken messages no place is free. Every one that is given back is delivered again before any good one, so the good ones wait behind them for as long as the loop lasts. Had email held one message at a time, a single broken one would have been enough.
#
# ### And the other way round
#
# Defect 5. Payment does the opposite, as you have seen above: where the gateway does not answer, it rejects with `requeue=False`. "Out of the way with it, so that it can't block the queue." No loop can come of that. What does?

# %%
guess_gateway = labkit.predict(
    "The payment gateway is down while three orders come in. Then it comes back. What becomes of "
    "the three?",
    {
        "a": "they are charged when the gateway is back",
        "b": "they wait in payment's queue until somebody restarts payment",
        "c": "nothing, ever: no charge, no message, no error",
    },
    answer=None,
)


# %%
def gateway_outage(kind):
    with open_shop(kind) as shop:
        shop.gateway.stop()
        for number in (1, 2, 3):
            shop.create_order(Request(**basket(number)))
        shop.wait_until_quiet()
        shop.gateway.start()
        shop.wait_until_quiet()
    return shop


dropping = gateway_outage(Routed)
lost_gateway = audit(dropping.folder).counts()["lost"]
left = waiting_in("payment_processing")
print("Charges:", audit(dropping.folder).orders.charges.sum())
print("Waiting in payment_processing:", left)
print("Lost, says the audit:", lost_gateway, "of 3")
measured = "a" if lost_gateway == 0 else "b" if left else "c"
guess_gateway.reveal(measured, because=f"3 orders saved, 3 customers told, {left} messages left")

# %% [markdown]
# A message that is rejected without requeue is **dropped**, unless its queue says where such messages go. The queue of payment does not. The `audit` reads the databases: three orders were accepted, and nothing has happened to them, nor will it. The customers have their "received, being processed".
#
# ### Mended: a dead letter exchange
#
# A queue can name a **dead letter exchange**. What is rejected without requeue is then published there, with a note of what happened to it. A queue bound to that exchange keeps such messages until somebody looks at them. So email can reject what it can't use, without a loop; and what payment rejects is no longer lost, though payment's code stays as it is.


# %%
class DeadLetters(Routed):
    @staticmethod
    def declare_queues(channel):
        channel.exchange_declare("orders.dead", exchange_type="fanout", durable=True)
        channel.queue_declare("dead_letters", durable=True)
        channel.queue_bind("dead_letters", "orders.dead")
        for queue, keys in KEYS.items():
            arguments = {"x-dead-letter-exchange": "orders.dead"}
            channel.queue_declare(queue, durable=True, arguments=arguments)
            for key in keys:
                channel.queue_bind(queue, "orders", routing_key=key)

    def on_email(self, channel, method, properties, body):
        try:
            self.departments["email"].handle(OrderEvent.read(body))
        except Exception:
            channel.basic_reject(method.delivery_tag, requeue=False)
        else:
            channel.basic_ack(method.delivery_tag)


# %% [markdown]
# The same twenty good mails behind the same ten broken messages:

# %%
mails_after = len(mail_round(DeadLetters, broken=10).inbox.messages)
print("In dead_letters:", waiting_in("dead_letters"))
counts = [f"{mails} of 20" for mails in (mails_before, mails_after)]
found[3] = ("good mails sent behind ten broken messages", *counts)

# %% [markdown]
# No redelivery, twenty mails, and the ten broken messages are kept for whoever has to find out who sent them. Now the outage of the gateway again. The cell looks at the first dead letter without taking it away: `basic_get` fetches one message, and `basic_nack` gives it back, as `basic_reject` does (it can also give back several at a time).

# %%
keeping = gateway_outage(DeadLetters)
print("In dead_letters:", waiting_in("dead_letters"))

method, properties, body = channel.basic_get("dead_letters")
death = properties.headers["x-death"][0]
print("The first one:", OrderEvent.read(body).order_id)
print("It was in:", death["queue"])
print("It is here because:", death["reason"])
channel.basic_nack(method.delivery_tag, requeue=True)

# %% [markdown]
# The header `x-death` is the note that the broker adds. It names the queue that the message comes from, so it can be put back there: published to that queue, then acknowledged here. In this order: a crash in between then leaves the message in both places, and the other way round in none. The gateway is well again, so the shop opens once more on the same databases, and the three orders go on as if nothing had happened.

# %%
while (letter := channel.basic_get("dead_letters"))[0]:
    method, properties, body = letter
    queue = properties.headers["x-death"][0]["queue"]
    back = pika.BasicProperties(correlation_id=properties.correlation_id, delivery_mode=2)
    channel.basic_publish("", queue, body, back)
    channel.basic_ack(method.delivery_tag)

with DeadLetters(keeping.folder, lab.pace, labkit.Recorder(lab.pace), lab.url) as reopened:
    reopened.wait_until_quiet()

still_lost = audit(keeping.folder).counts()["lost"]
print("Charges:", audit(keeping.folder).orders.charges.sum())
print("Lost, says the audit:", still_lost, "of 3")
counts = [f"{lost} of 3" for lost in (lost_gateway, still_lost)]
found[5] = ("orders lost while the gateway was down", *counts)

# %% [markdown]
# A dead letter queue is no cure. It is a place where nothing gets lost and nobody is in the way, and it needs somebody who looks at it. How to try again after a while, and how often, is the subject of notebook 07.

# %% [markdown]
# ## Experiment 3: a restart in the night (defects 2 and 4)
#
# This experiment has two parts, the evening now and the morning after experiment 5, since a restart takes a while.
#
# The queues are durable: `durable=True`, so they are there after a restart of the broker. Is that enough? The exchange was declared without it. That is easily done, since pika takes `durable=False` unless you say otherwise. And there is a second thing of this kind. `ORDER_CREATED` is published with `delivery_mode=2`, which makes a message **persistent**: the broker writes it to disk. `PAYMENT_COMPLETED` is not. After all, it goes into durable queues.
#
# This experiment restarts a broker. It uses the one that has been starting since the first cell, which belongs to this notebook alone. Where there can be none, such as in a classroom with a given address and no Docker, the cell says so, and this one experiment is left out.

# %%
try:
    own = booting.result()
except labkit.BrokerError:
    own = None
    print("There is no broker here that may be restarted: experiment 3 is left out.")
else:
    print("A broker of our own runs:", own.answers())

# %% [markdown]
# Here is the mend. The exchange is durable, and whatever is published is persistent, whoever publishes it.


# %%
class Durable(DeadLetters):
    @staticmethod
    def declare_exchange(channel):
        channel.exchange_declare("orders", exchange_type="topic", durable=True)

    @staticmethod
    def publish(channel, event, **properties):
        DeadLetters.publish(channel, event, **(properties | {"delivery_mode": 2}))


# %% [markdown]
# It is evening. The version to compare is `DeadLetters`, which has routing and dead letters and neither of the two mends above. Each version gets a **virtual host** of its own on that broker, a corner with its own exchanges and queues. There it declares what it needs, and publishes six messages for email: three orders and three payments. No department runs, so the messages stay where they are.


# %%
def evening(kind):
    room = own.virtual_host(kind.__name__).start()
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    channel, confirmed = connection.channel(), 0
    channel.confirm_delivery()
    kind.declare_exchange(channel)
    kind.declare_queues(channel)
    for order in (an_order(1), an_order(2), an_order(3)):
        kind.publish(channel, OrderEvent.about(order, "ORDER_CREATED"), delivery_mode=2)
        kind.publish(channel, OrderEvent.about(order, "PAYMENT_COMPLETED"))
        confirmed += 2  # publish returns once the broker has confirmed, or raises
    connection.close()
    waiting = room.depths(["email_notifications"])["email_notifications"]
    print(f"{kind.__name__:12} {confirmed} confirmed, {waiting} messages wait for email")
    return room


if own:
    rooms = {kind: evening(kind) for kind in (DeadLetters, Durable)}

# %% [markdown]
# Twelve messages are in durable queues, and each of them was confirmed by the broker. If you want a second night later on, begin again at this cell above: it makes new virtual hosts.

# %%
guess_messages = labkit.predict(
    "In the night the broker is restarted, in good order. How many of the six are there in the "
    "morning, in the version that publishes payments without delivery mode 2?",
    {"a": "six: the queue is durable", "b": "three: those with delivery mode 2", "c": "none"},
    answer=None,
)

# %% [markdown]
# The restart takes some ten seconds. It runs in the background, and we go on with the next two experiments meanwhile. The morning comes after them.


# %%
def restart():
    own.stop()
    own.start()


night = helper.submit(restart) if own else None

# %% [markdown]
# ## Experiment 4: the order that stays pending (defects 6 and 7)
#
# While that broker restarts, back to the shop. A customer asks for the status of an order. The order service keeps it, and learns from the queue `order_updates` how far the order has come. This is how it listens:

# %%
print(inspect.getsource(ObviousShop.listen))

# %% [markdown]
# `on_update` sets the order's status to what the message says, and acknowledges. There is nothing wrong with it.

# %%
guess_status = labkit.predict(
    "Three orders are placed and paid, and the news of it goes to order_updates. What is their "
    "status?",
    {
        "a": "paid",
        "b": "pending, and the news waits in the queue",
        "c": "pending, and no message is ready in the queue",
    },
    answer=None,
)

# %% [markdown]
# A passive declare answers with two numbers: the messages that are ready, and the consumers. We ask while the shop is open, and once more when it has closed.

# %%
with open_shop(Durable) as deaf:
    for number in (1, 2, 3):
        deaf.create_order(Request(**basket(number)))
    deaf.wait_until_quiet()
    pending = deaf.orders.count("pending")
    opened = channel.queue_declare("order_updates", passive=True).method

closed = channel.queue_declare("order_updates", passive=True).method
print("Payments made:", deaf.recorder.count("done", "payment"))
print("Orders that are pending:", pending, "of 3")
print(f"While open: {opened.consumer_count} consumer, {opened.message_count} messages ready")
print(f"When closed: {closed.consumer_count} consumers, {closed.message_count} messages ready")
measured = "a" if pending == 0 else "b" if opened.message_count else "c"
guess_status.reveal(
    measured, because="three updates were with a consumer that never looked at them"
)

# %% [markdown]
# `basic_consume` tells the broker: send me what comes into this queue. The broker does, and all three messages go to the order service, where they lie **unacknowledged** in its connection. But pika calls the callback from within `start_consuming()`, which serves the connection until it is stopped, or `process_data_events()`, which serves it for a moment, and nobody calls either. The queue looks healthy: a consumer, nothing waiting. Only when the channel or the connection closes does the broker see that nothing was acknowledged, and the three messages are ready again.
#
# The mend is to do what `basic_consume` promised. It takes a thread that does nothing but consume, with a connection of its own. `labkit.Consumer` is that: in a thread it connects, calls `basic_consume`, then serves the connection until it is stopped.


# %%
class Listening(Durable):
    def listen(self):
        self.consumers["order_service"] = labkit.Consumer(
            self.on_update, "order_updates", self.amqp_url, recorder=self.recorder
        )


with open_shop(Listening) as listening:
    for number in (1, 2, 3):
        listening.create_order(Request(**basket(number)))
    listening.wait_until_quiet()
    paid = listening.orders.count("paid")

print("Orders that are paid:", paid, "of 3")
found[6] = ("orders that stay pending, though paid", f"{pending} of 3", f"{3 - paid} of 3")

# %% [markdown]
# ### Saved, and then a crash
#
# The same service has one more gap, defect 7. `create_order` saves the order, then publishes it. That is the better order of the two, since nobody hears of an order that does not exist. But between the two lies a moment, and a crash or a power cut can fall into it. The next cell cuts the order service's connection before the second order comes. So that order is saved, and can't be published.

# %%
with open_shop(Listening) as cut_off:
    cut_off.create_order(Request(**basket(1)))
    labkit.amqp.drop_socket(cut_off.connection)
    try:
        cut_off.create_order(Request(**basket(2)))
    except pika.exceptions.AMQPError:
        print("order-002 was saved, and could not be published")
    cut_off.wait_until_quiet()

with Listening(cut_off.folder, lab.pace, labkit.Recorder(lab.pace), lab.url) as next_start:
    next_start.wait_until_quiet()

lost_crash = list(audit(cut_off.folder).with_finding("lost").index)
print("Lost, also after the next start:", ", ".join(lost_crash))

# %% [markdown]
# The order is in the database, and no department will ever hear of it. A restart does not help: nothing in the shop knows that a message is missing.
#
# Mended: `OrderService` in [labkit/shop/order_service.py](../labkit/shop/order_service.py), which ran in notebook 03's shop, though you did not see its code there. It saves each order with a flag, *announced: no*, in the same transaction. At each start, it announces what is not flagged as announced yet. This is how it announces an order, and how it starts:

# %%
from labkit.shop.order_service import OrderService
from labkit.shop.premises import OrderBook

print(inspect.getsource(OrderService._announce))
print(inspect.getsource(OrderService.start))

# %% [markdown]
# `_publisher.publish` returns once the broker has confirmed the message, and only then does the order join those to be flagged, which the marker's thread does twice a second. Here an order is saved, the crash comes, and then the service starts.

# %%
clear_mailroom(Listening)
crash_folder = lab.new_folder("after-the-crash")
book = OrderBook(crash_folder)
book.save(Request(**basket(2)), told="received")
print("Before: announced no:", len(book.unannounced()), "order")

service = OrderService(book, lab.url, lab.recorder)
service.start()
service.stop()
print("After:  announced no:", len(book.unannounced()), "orders")
print("Waiting for payment: ", waiting_in("payment_processing"), "message")
book.database.close()

# %% [markdown]
# The departments open on the same folder, and the audit looks whether the order is lost.

# %%
with Listening(crash_folder, lab.pace, labkit.Recorder(lab.pace), lab.url) as after_crash:
    after_crash.wait_until_quiet()

crash = audit(crash_folder)
print("Charges:", crash.orders.charges.sum())
print("Lost, says the audit:", crash.counts()["lost"], "of 1")
found[7] = ("orders lost by a crash after saving", len(lost_crash), crash.counts()["lost"])

# %% [markdown]
# The price: a crash after the publish and before the flag publishes the order twice. So the departments must stand a message that comes a second time. Notebook 06 is about that.

# %% [markdown]
# ## Experiment 5: ten at once? (defect 8)
#
# A mail takes a while. So the author gave email a **prefetch** of 10, with a comment: "Ten mails are sent at the same time." Prefetch is the number of messages that the broker gives a consumer ahead, before it has acknowledged the first. Today the mail server is slow, 2 seconds a mail, and eight mails are to be sent.

# %%
guess_prefetch = labkit.predict(
    "Prefetch 10, eight messages, one consumer with one thread. How many mails are being sent at "
    "the same time?",
    {"a": "eight", "b": "one", "c": "as many as this machine has processor cores"},
    answer=None,
)


# %%
def send_eight(prefetch, threads):
    shop = open_shop(Listening)
    shop.departments["email"].takes_s = 2.0
    email = shop.consumers["email"]
    email.prefetch, email.threads = prefetch, threads
    with shop:
        for n in range(1, 9):
            body = OrderEvent.about(an_order(n), "ORDER_CREATED").to_json()
            channel.basic_publish("", "email_notifications", body)
        shop.wait_until_quiet()
    return labkit.measure.spans(shop.recorder.frame())


def at_once(spans):
    """The largest number of pieces of work that go on at the same time."""
    steps = [(t, +1) for t in spans.start_s] + [(t, -1) for t in spans.end_s]
    running = [sum(step for _, step in sorted(steps)[:n]) for n in range(1, len(steps) + 1)]
    return max(running)


# %% [markdown]
# First as it was written, then with four threads that hold one message each. A thread here is a consumer of its own, with a connection and a channel of its own.

# %%
runs = {"prefetch 10, one thread": send_eight(10, 1), "prefetch 1, four threads": send_eight(1, 4)}

one, four = runs.values()
ratio = (one.end_s.max() - one.start_s.min()) / (four.end_s.max() - four.start_s.min())
for name, spans in runs.items():
    print(f"{name}: {len(spans)} mails, {at_once(spans)} at a time")
print("Four threads are done sooner:", ratio > 1)
measured = {8: "a", 1: "b"}.get(at_once(one), "c")
guess_prefetch.reveal(measured, because="prefetch moves messages, not work")
found[8] = ("mails being sent at the same time", at_once(one), at_once(four))

# %% [markdown]
# The recorder has noted when each mail was begun and when it was sent. Here is a bar for each.

# %%
ax = plots.new_axes(3.4)
looks = [(-0.2, "#D55E00"), (0.2, "#0072B2")]
for (name, spans), (shift, colour) in zip(runs.items(), looks, strict=True):
    zero = spans.start_s.min()
    rows = [n + shift for n in range(len(spans))]
    ax.barh(rows, spans.duration_s, 0.36, left=spans.start_s - zero, color=colour, label=name)
ax.set_yticks(range(8), [f"mail {n}" for n in range(1, 9)])
ax.invert_yaxis()
ax.set_xlabel("shop seconds since the first mail was begun")
ax.set_title("One thread sends one mail after the other", loc="left", fontweight="bold")
ax.spines[["top", "right"]].set_visible(False)
ax.legend(frameon=False)
plots.show(
    ax,
    alt="Two sets of eight bars over time, one bar a mail. With one thread and prefetch 10, each "
    "bar begins where the one before ends. With four threads, four bars lie above each other, "
    "then four more.",
)

# %% [markdown]
# Compare the two colours. With prefetch 10 and one thread, the bars form a staircase: a mail begins when the one before has ended. All eight messages were with the consumer from the start, but they waited there instead of in the queue. With four threads, four bars begin together, then four more. Each mail takes its 2 seconds either way; on a busy machine the four get in each other's way a little.
#
# Prefetch is there to spare the consumer a wait for the network between two messages. It makes nothing run in parallel. It even does harm when there are several consumers: whoever comes first takes ten, and the others find an empty queue. What works at the same time is threads, or processes, each with its own channel.

# %% [markdown]
# ## Experiment 3, continued: the morning after (defects 2 and 4)
#
# The broker should be up again by now; if not, the next cell waits for it. What does email's queue still hold?

# %%
if own:
    night.result()
    kept = {kind: room.depths()["email_notifications"] for kind, room in rooms.items()}

# %% [markdown]
# It is counted once, before the morning's orders come into the same queues.

# %%
if own:
    for kind, count in kept.items():
        print(f"{kind.__name__:12} {count} of 6 messages are still there")
    guess_messages.reveal({6: "a", 3: "b", 0: "c"}[kept[DeadLetters]])
    found[4] = (
        "news of payments kept over a restart",
        f"{kept[DeadLetters] - 3} of 3",
        f"{kept[Durable] - 3} of 3",
    )

# %% [markdown]
# Three of six are gone: those without delivery mode 2. A durable queue survives a restart, but what lies in it survives only if the message itself is persistent.
#
# And the exchange? A passive declare tells whether it is there; where it is not, the broker closes the channel with `404`, not found. What comes out depends on the version of RabbitMQ.


# %% tags=["nbval-ignore-output"]
def is_there(room, exchange):
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    try:
        connection.channel().exchange_declare(exchange, passive=True)
    except pika.exceptions.ChannelClosedByBroker as error:
        return f"gone ({error.reply_code})"
    finally:
        connection.close()
    return "there"


if own:
    print(f"RabbitMQ {own.version}, after the restart:")
    print("the exchange that is not durable:", is_there(rooms[DeadLetters], "orders"))
    print("the durable exchange:            ", is_there(rooms[Durable], "orders"))

# %% [markdown]
# Up to RabbitMQ 4.1, an exchange that is not durable is gone after a restart, and its bindings with it. That is what "not durable" means. Since 4.2, a new broker keeps its exchanges and bindings in another store, called Khepri, which writes everything to disk, so that the exchange happens to be there still. Do not build on that. Older brokers forget it, and the day you add `durable=True` to the declaration, the broker answers `406`, since the exchange that is there was declared with other arguments.
#
# So that you see what the older ones do, whichever you have, the cell below forgets the exchange by hand where the broker has kept it. Up to 4.1 it changes nothing. The durable one stays, as it does on every version.


# %%
def forget_exchange(room):
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    connection.channel().exchange_delete("orders")
    connection.close()


if own:
    forget_exchange(rooms[DeadLetters])
    print("The exchange that is not durable:", is_there(rooms[DeadLetters], "orders"))
    print("The durable exchange:", is_there(rooms[Durable], "orders"))

# %% [markdown]
# So much for what is left in the morning. Now the shop opens.

# %%
guess_morning = labkit.predict(
    "In the morning the order service starts, declares its exchange as always, and publishes the "
    "next order. What happens, in the version whose exchange was forgotten?",
    {
        "a": "it arrives as always",
        "b": "the order service gets an error",
        "c": "it reaches nobody, and nobody is told",
    },
    answer=None,
)

# %% [markdown]
# In each version two orders are published: the first one as the order service does that has run all night, the second one as it does after a start of its own, at which it declares its exchange. The departments do not declare anything again. Why should they? Their queues are there.


# %%
def morning(kind, room):
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    before, answers = room.depths()["email_notifications"], []
    for order in (an_order(4), an_order(5)):
        channel = connection.channel()
        channel.confirm_delivery()
        if answers:
            kind.declare_exchange(channel)
        try:
            kind.publish(channel, OrderEvent.about(order, "ORDER_CREATED"), delivery_mode=2)
            answers.append("confirmed")
        except pika.exceptions.ChannelClosedByBroker as error:
            answers.append(f"channel closed, {error.reply_code}")
    connection.close()
    return answers, room.depths()["email_notifications"] - before


# %% [markdown]
# And the morning itself:

# %%
if own:
    forget_exchange(rooms[DeadLetters])  # a second run begins as the first
    mornings = {kind: morning(kind, room) for kind, room in rooms.items()}

# %% [markdown]
# What the publisher was told, and what came of it:

# %%
if own:
    for kind, (answers, reached) in mornings.items():
        print(f"{kind.__name__:12} first: {answers[0]}; second: {answers[1]};", end=" ")
        print(f"reached email: {reached} of 2")
    (_, second), reached = mornings[DeadLetters]
    measured = "a" if reached else "c" if second == "confirmed" else "b"
    guess_morning.reveal(
        measured, because=f"the second is {second}, and {reached} of 2 reached email"
    )
    counts = [f"{reached} of 2" for _, reached in mornings.values()]
    found[2] = ("orders that reach a queue, the morning after", *counts)

# %% [markdown]
# The first publish gets an error: there is no such exchange, and the broker closes the channel. That is the lucky case, for it is noticed. The second one is the bad one. The order service has started again and declared its exchange, as it does each time, so there is an exchange, and no error. But the bindings were the departments' business, and nobody has made them again. The queues stand there, connected to nothing. Each order is accepted, confirmed and thrown away.
#
# For a message in a queue to outlive the broker, the queue must be durable and the message persistent (`delivery_mode=2`). For the *next* message to find its way, the exchange must be durable, too; the binding lasts as long as both do. And the publisher must wait for the confirm before it takes a message for safe. Notebook 05 goes through the combinations, with a broker that is killed.

# %% [markdown]
# ## Experiment 6: one connection for all (defect 9)
#
# The last one. The order service's web server answers four customers at the same time, each in a thread of its own, and all of these threads publish on the one connection that the service has, and on its one channel. So far nobody noticed, since our orders came one by one.
#
# Many have heard that threads must not share a *channel*. So they give each thread a channel of its own, and leave all of these on the one *connection*. Is that enough?
#
# Here is a small program with eight threads that publish 100 orders each, with publisher confirms. It does it in one of three ways: all threads on one channel, or each on a channel of its own on one connection, or each on a connection of its own. It runs outside of this notebook, in a process that ends when it has taken too long. What it does to a connection is nothing to have in one's own kernel.

# %%
program = """
import collections, json, os, sys, threading, time, pika

def connect():
    return pika.BlockingConnection(pika.URLParameters(os.environ["BROKER"]))

def open_channel(connection):
    channel = connection.channel()
    channel.confirm_delivery()
    return channel

def publish_orders(channel):
    channel = channel or open_channel(connect())
    for _ in range(100):
        try:
            channel.basic_publish("", "web_orders", b"an order")
            outcomes.append("confirmed")
        except Exception as error:
            outcomes.append(type(error).__name__)
"""

# %% [markdown]
# The other half opens what is shared before the first thread begins, so that the threads share nothing but the publishing. It waits for them for two seconds at most where they share a connection (a minute where they don't), and prints what became of the publishes.

# %%
program += """
outcomes, how = [], sys.argv[1]
if how == "one channel":
    channels = 8 * [open_channel(connect())]
elif how == "a channel each":
    connection = connect()
    channels = [open_channel(connection) for _ in range(8)]
else:
    channels = 8 * [None]  # each thread connects by itself
threads = [threading.Thread(target=publish_orders, args=[c], daemon=True) for c in channels]
deadline = time.monotonic() + (60 if how == "a connection each" else 2)
for thread in threads:
    thread.start()
for thread in threads:
    thread.join(max(0, deadline - time.monotonic()))
print(json.dumps(collections.Counter(outcomes)), flush=True)
os._exit(0)
"""

# %% [markdown]
# It is all there: what each publish came to is in `outcomes`, the word `confirmed` or the name of an error.

# %%
guess_shared = labkit.predict(
    "Eight threads publish 100 orders each on one connection, each on a channel of its own. How "
    "many of the 800 are confirmed?",
    {
        "a": "800, though it takes longer than with eight connections",
        "b": "nearly all: now and then two threads get in each other's way",
        "c": "far fewer: the connection dies",
    },
    answer=None,
)

# %% [markdown]
# The cell runs it all three ways. `arrived` is what the queue holds afterwards.

# %%
import json
import os
import subprocess
import sys


def run_program(how):
    channel.queue_delete("web_orders")
    channel.queue_declare("web_orders", durable=True)
    environment = os.environ | {"BROKER": lab.url}
    command = [sys.executable, "-c", program, how]
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=90)
    return json.loads(ended.stdout), waiting_in("web_orders")


ways = ["one channel", "a channel each", "a connection each"]
eight = {how: run_program(how) for how in ways}

# %% [markdown]
# What the threads saw differs from run to run. This is what it was just now:

# %% tags=["nbval-ignore-output"]
for how, (told, arrived) in eight.items():
    print(f"{how}: {told}, no answer: {800 - sum(told.values())}, arrived: {arrived}")

# %% [markdown]
# What is the same on every run:

# %%
confirmed = {how: told.get("confirmed", 0) for how, (told, _) in eight.items()}
all_confirmed = {how: "yes" if count == 800 else "no" for how, count in confirmed.items()}
for how in ways:
    print(f"{how}: all 800 confirmed:", all_confirmed[how])
told, arrived = eight["a connection each"]
print("Arrived from a connection each:", arrived)
print("Errors on a connection each:", sum(told.values()) - told["confirmed"])
count = confirmed["a channel each"]
measured = "a" if count == 800 else "b" if count > 700 else "c"
guess_shared.reveal(measured, because="fewer than 800 were confirmed")
counts = (all_confirmed["one channel"], all_confirmed["a connection each"])
found[9] = ("800 orders from eight threads: all confirmed", *counts)

# %% [markdown]
# To publish one message, pika sends three **frames**: the method, the header, the body. It puts them into a buffer of the connection, and writes that to the connection's socket. Pika takes it for granted that one thread does so. Where two do it at once, both may write the frame at the head of the buffer, and then each takes one off: one frame goes out twice, and the next one never. The broker finds a body where a header should be, and hangs up with `505 UNEXPECTED_FRAME`, which pika reports as `StreamLostError` or `ConnectionClosedByBroker`. Or pika itself finds its buffers in disorder, with errors such as `IndexError` or `AssertionError`. Which of them you got differs from run to run. From then on the threads get `ChannelWrongStateError`, since every channel of that connection is closed. In the worst case a thread waits for a confirm that another one has read from the socket, and waits for ever: its orders are the ones under *no answer*.
#
# **A channel each is no help.** On the wire, a channel is no more than a number on each frame. It tells the broker which conversation the frame belongs to. The frames of all channels go through one buffer and one socket, and these are the connection's. Pika's documentation asks for [a connection for each thread](https://pika.readthedocs.io/en/stable/faq.html), opened in that thread. The advice to take a channel for each thread comes from RabbitMQ's Java client, which lets threads share a connection.
#
# Compare `arrived` with `confirmed`, too. Messages may have arrived although nobody was told so: without a confirm, the publisher doesn't know. It can publish them again and risk having them twice, or leave it and risk having lost them.
#
# A `BlockingConnection` belongs to one thread. A web server with four workers needs four connections; `labkit.amqp.Publisher`, the `_publisher` that you saw in `_announce`, keeps one for each thread. Some put a lock around the shared connection instead. Then the threads wait for each other. Either way nobody answers the broker's heartbeats between two orders, so the broker may close a connection that was quiet for long, and the publisher must be ready to open another.

# %% [markdown]
# ## The mended shop
#
# `DecoupledShop` from notebook 03 is the mended version of this shop, with all six departments. It gets what broke the obvious one, all at once: eleven customers in the same moment through four web threads, an order that a crash has left saved and unannounced, and ten broken messages in email's queue. The restart and the gateway's outage are not repeated here; you saw them mended above.

# %%
from labkit.load import Customers, http_door
from labkit.shop import DecoupledShop

for queue in [*topology.QUEUES, "dead_letters"]:
    channel.queue_delete(queue)
mended_folder = lab.new_folder("mended")
book = OrderBook(mended_folder)
book.save(Request(**basket(12)), told="received")
book.database.close()

mended = lab.use(DecoupledShop(mended_folder, lab.pace, labkit.Recorder(lab.pace), lab.url))
for _ in range(10):
    channel.basic_publish("", "email_notifications", b'{"order_id": ')
with Customers(http_door(mended.url), [0.0] * 11, lab.pace, mended.recorder) as customers:
    customers.wait()
depths = lab.vhost.depths([*topology.QUEUES, "dead_letters"])

# %% [markdown]
# This is its mailroom at the moment at which the last of the eleven customers had an answer.

# %%
bindings = [("orders", key, queue) for queue, (_, keys) in topology.QUEUES.items() for key in keys]
bindings.append(("orders.dead", "", "dead_letters"))
consumers = [(c.queue, name) for name, c in mended.consumers.items() for _ in range(c.threads)]
plots.show(
    plots.topology(bindings, depths, consumers),
    alt="The exchange orders at the left, with arrows to seven queues, each with the routing keys "
    "that it takes and its owner as consumer. Payment's queue takes order.created alone. The "
    "exchange orders.dead leads to the queue dead_letters, which has no consumer.",
)

# %% [markdown]
# Follow the arrow to `payment_processing`. It carries `order.created` and nothing else, so nothing that payment publishes leads back to it. That holds for each queue that you follow: no department hears itself. Payment takes 3 seconds an order with four workers, so most orders wait in its queue, while the quick departments have emptied theirs. The dead letters lie apart, with no consumer: somebody has to look at them.

# %%
mended.wait_until_done(12)
result = audit(mended_folder)
print(result)
print("Everything consistent:", result.consistent)
print("Charges for each order:", set(result.orders.charges))
print("Labels for each order:", set(result.orders.labels))
print("Completed:", sum(result.orders.status == "completed"), "of 12")
print("In dead_letters:", waiting_in("dead_letters"))
mended.stop()

# %% [markdown]
# Twelve orders, each charged once, each shipped once, each completed; whoever asks for the status is told so. The ten broken messages are kept. And here are the nine defects, with what was counted before and after.

# %%
import pandas as pd

columns = ["what was counted", "with the defect", "mended"]
table = pd.DataFrame.from_dict(found, orient="index", columns=columns).sort_index()
table.index.name = "defect"
table

# %% [markdown]
# | defect | what it was taken for | what it is |
# |---|---|---|
# | 1 one fanout for everything | whoever is interested binds a queue | payment hears itself, and charges for ever |
# | 2 exchange not durable | the queues are durable | up to RabbitMQ 4.1 a restart forgets it and its bindings; orders then reach nobody |
# | 3 `requeue=True` on any error | try it again | a hot loop at the head of the queue |
# | 4 no delivery mode 2 | it goes into a durable queue | lost by a restart |
# | 5 `requeue=False`, no dead letter exchange | out of the way | gone |
# | 6 registered, never consuming | pika calls the callback | it does so only while something serves the connection, such as `start_consuming()` |
# | 7 saved, then published | the safe order of the two | a crash in between loses the order |
# | 8 prefetch 10 | ten at once | ten in hand, one at work |
# | 9 one connection for all threads | a connection can serve all | it belongs to one thread |

# %% [markdown]
# ## Exercises
#
# **1. Declare it right.** Write the declarations for a small mailroom: the topic exchange `exercise.orders`, the queue `exercise.payment`, which is to hear of `order.created` and nothing else, and the queue `exercise.email`, which is to hear of `order.created` and of each key of two words that begins with `payment.`, such as `payment.failed`. All of it must outlive a restart of the broker. The check looks at what the broker then has, and sends messages through it.


# %% tags=["exercise"]
def declare_orders(channel):
    """Declares exercise.orders, exercise.payment and exercise.email, and binds them."""
    # BEGIN SOLUTION
    channel.exchange_declare("exercise.orders", exchange_type="topic", durable=True)
    channel.queue_declare("exercise.payment", durable=True)
    channel.queue_bind("exercise.payment", "exercise.orders", routing_key="order.created")
    channel.queue_declare("exercise.email", durable=True)
    for key in ("order.created", "payment.*"):
        channel.queue_bind("exercise.email", "exercise.orders", routing_key=key)
    # END SOLUTION


exercises.declare_orders.check(declare_orders, url=lab.url)

# %%
# exercises.declare_orders.hint()
# exercises.declare_orders.solution()

# %% [markdown]
# **2. Neither loop nor loss.** Write email's handler. `OrderEvent.read(body)` gives the event, or raises `labkit.MessageError` where the body is none. `send(event)` sends the mail, or raises another error where the mail server refuses the address for good. `MessageError` is a kind of `labkit.LabError`, and so is that other one: catch `LabError`. The queue has a dead letter exchange. A mail that was sent is done with; a message that can't be used must neither come back nor vanish. The check gives your handler good messages and bad ones in turn.


# %% tags=["exercise"]
def on_email(channel, method, properties, body, send):
    """Sends the mail and answers the delivery, whatever happens."""
    # BEGIN SOLUTION
    try:
        send(OrderEvent.read(body))
    except labkit.LabError:
        channel.basic_reject(method.delivery_tag, requeue=False)
    else:
        channel.basic_ack(method.delivery_tag)
    # END SOLUTION


exercises.on_email.check(on_email, url=lab.url)

# %%
# exercises.on_email.hint()
# exercises.on_email.solution()

# %% [markdown]
# **3. What does a thread publish on?** The order service has opened a connection, `service`. Its web server starts four threads. Each thread calls `channel_for_thread` once, and publishes all of its orders on the channel that it gets. `url` is the broker's address. Write the function, so that all four can publish at the same time. The check has four threads call it, looks at what each got, and lets them publish.


# %% tags=["exercise"]
def channel_for_thread(service, url):
    """A channel on which the thread that calls this can publish beside the others."""
    # BEGIN SOLUTION
    return pika.BlockingConnection(pika.URLParameters(url)).channel()
    # END SOLUTION


exercises.channel_for_thread.check(channel_for_thread, url=lab.url)

# %%
# exercises.channel_for_thread.hint()
# exercises.channel_for_thread.solution()

# %% [markdown]
# **4. Name the defect.** Five shops call for help. Each has one of the nine defects. Which?
#
# - **A.** "Orders come in as ever, and the order service logs no error. At four in the morning the broker was updated. The exchange is there. Every queue has its consumers, all are idle, and no queue has grown since."
# - **B.** "Customers complain that their orders never move on. The queue `order_updates`: 1 consumer, 0 ready, 410 unacknowledged, and that number only grows. In the last twenty minutes: 410 deliveries, 0 acknowledgements."
# - **C.** "The queue `email_notifications` has 300 ready and 10 unacknowledged, and the processor is at its limit. Deliveries in the last minute: 190,000. Mails in the last minute: 0."
# - **D.** "The bank's gateway was away from ten to eleven. Of that hour we have 86 orders without a charge. The queue `payment_processing`: 4 consumers, 0 ready, 0 unacknowledged. Nothing was restarted."
# - **E.** "Twenty orders today, and payment has acknowledged 31,000 messages. None was redelivered. The customers' banks are on the phone."

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: diagnosis = {"A": None, "B": None, "C": None, "D": None, "E": None}
diagnosis = {"A": 2, "B": 6, "C": 3, "D": 5, "E": 1}
# END SOLUTION

exercises.diagnosis.check(diagnosis)

# %%
# exercises.diagnosis.hint()
# exercises.diagnosis.solution()

# %% [markdown]
# ## What it costs
#
# None of the mends is free. A persistent, confirmed message waits until the broker has written it down, and for the way back, where the obvious version just drops it into the socket and goes on. Here is what that is on this machine, in real milliseconds.

# %% tags=["nbval-ignore-output"]
import statistics
import time


def publish_ms(channel, properties):
    """The median time of one publish out of 200, in real milliseconds."""
    times = []
    for _ in range(200):
        started = time.perf_counter()
        channel.basic_publish("", "web_orders", b"x" * 200, properties)
        times.append(1000 * (time.perf_counter() - started))
    return statistics.median(times)


plain = publish_ms(lab.connect().channel(), pika.BasicProperties())
safe = publish_ms(channel, pika.BasicProperties(delivery_mode=2))
print(f"neither persistent nor confirmed: {plain:.3f} ms; both: {safe:.3f} ms")
print(f"a payment of 3 s takes {3000 / safe:,.0f} times as long as both")

# %% [markdown]
# Being safe takes many times as long, and on most machines still less than a thousandth of the 3 seconds that a payment takes in life. The rest of the bill:
#
# - **Routing keys are an agreement.** Whoever changes `payment.completed` cuts off every queue that is bound by it, and no error tells. With a fanout there was nothing to agree on.
# - **Dead letters are work.** Somebody has to look at them, find out why, and put them back or throw them away. Where nobody watches the dead letter queue, its orders are as good as lost, as with defect 5.
# - **Announced flags mean repeats.** An order may be published twice after a crash. The departments have to cope.
# - **More connections, more threads.** Each connection costs the broker some memory, on the order of 100 kB. Four of them are nothing, ten thousand are something to plan.

# %% [markdown]
# ## Recap
#
# - A service that listens to the exchange that it publishes to feeds itself. Bind by topic, and take only what you need.
# - An order that waits survives where queue and message are made to last. The next order needs the exchange and the binding as well. Where one of them is gone, an order is lost.
# - `requeue=True` makes a hot loop of a message that can't be processed, and `requeue=False` without a dead letter exchange throws it away. Reject into a dead letter exchange.
# - `basic_consume` only registers. Something has to serve the connection.
# - Between *saved* and *published* lies a crash. Note what is not announced yet.
# - Prefetch says how many messages a consumer holds, not how many it works on.
# - One connection, one thread.
#
# **What comes next.** The shop is sound now, in fair weather. From notebook 05 on the weather changes: payment is down for an hour, the broker is killed under load, the same message comes twice. Notebook 05 starts with the outage, and asks what exactly a queue promises.
#
# The last cell stops what this notebook has started.

# %%
lab.stop()
helper.shutdown()
if own:
    own.close()
print("Done.")
