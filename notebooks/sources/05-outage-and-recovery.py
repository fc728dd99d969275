# %% [markdown]
# # Payment is down
#
# *Payment crashes in the middle of the afternoon. What becomes of the customers who order meanwhile? And what if it is the broker that goes down?*
#
# In notebook 03 email was away for a moment, and nobody noticed. This time it is payment, under load, and then the broker itself. You take them down by hand and count afterwards.
#
# It takes about 45 minutes. After it you can
#
# - say what an outage of one department does to the customers, to the other departments and to the orders,
# - work out beforehand how long a backlog takes to drain,
# - take a consumer down so that no work is done twice, and write one that stops when it is told to,
# - say what survives when a broker is stopped or killed, and what four things that takes.

# %%
import itertools
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor

import pandas as pd
import pika
from IPython.display import display

import labkit
from labkit import load, measure, plots
from labkit.exercises import outage_and_recovery as exercises
from labkit.shop import DecoupledShop, audit

lab = labkit.Lab("outage-and-recovery").start()
crowds = Counter()  # how many crowds of each name there were; `crowd` below counts them

# %% [markdown]
# Later on you stop one broker and kill another. That must not happen to the broker that other notebooks use, so this notebook gets two of its own. They take some seconds to start, and do so in the background from now on. Where there can be none, such as in a classroom with a given address, those experiments are left out.

# %%
helper = ThreadPoolExecutor(max_workers=8)
booting = {end: helper.submit(labkit.own_broker) for end in ("stopped", "killed")}

# %% [markdown]
# ## An ordinary afternoon
#
# The shop is the one from notebook 03: an order service, and a queue each for payment, inventory, email and shipping. Payment has four workers, and the gateway is a little slow today: 4 shop seconds for an order. So payment can do 4 / 4 = 1 order a second. A customer comes every 2 seconds, which makes 0.5 a second. That is half of what payment can do.

# %%
staff = ("payment", "inventory", "email", "shipping")
shop = lab.use(
    DecoupledShop(lab.new_folder("shop"), lab.pace, lab.recorder, lab.url, departments=staff)
)
shop.gateway.takes_s = 4.0
payment = shop.consumers["payment"]
channel = lab.connect().channel()
channel.confirm_delivery()

PER_S = 0.5  # customers in a shop second
print("Payment's workers:", payment.threads)

# %% [markdown]
# Three helpers, much as you know them from notebooks 03 and 04. `crowd` gives a crowd of customers a name that was not there before, so that you can run a cell a second time. `customers` lets a crowd come at given times, each with an order, whether or not those before them have an answer. `waiting_in` asks the broker how many messages are ready in a queue.


# %%
def crowd(name):
    """A name for a crowd: `rush`, and `rush2` where one of that name has been there."""
    crowds[name] += 1
    return name if crowds[name] == 1 else f"{name}{crowds[name]}"


def customers(arrivals, name):
    """Customers who order at these times, in shop seconds, in a `with` block."""

    def body(number):
        return load.basket(number) | {"basket": f"{name}-{number:03d}"}

    return load.Customers(load.http_door(shop.url), arrivals, lab.pace, lab.recorder, body)


def waiting_in(queue):
    return channel.queue_declare(queue, passive=True).method.message_count


# %% [markdown]
# ## Payment crashes
#
# After 5 seconds payment crashes: all four workers at once, in the middle of whatever they do, as if somebody had killed the process. For 20 seconds nobody notices. Customers go on ordering. Then payment is started again, and customers still go on ordering. Two things are worth a prediction.

# %%
guess_customers = labkit.predict(
    "What do the customers get who order while payment is down?",
    {
        "a": "an error, as in the synchronous shop",
        "b": "an answer, but only when payment is back",
        "c": "the same answer as always, at once",
    },
    answer=None,
)

# %%
guess_drain = labkit.predict(
    "Payment was down for 20 seconds, and has twice as many hands as it needs. When, after its "
    "return, is its queue empty again?",
    {
        "a": "at once, or within 5 seconds",
        "b": "after a while, though customers keep coming",
        "c": "not as long as customers keep coming",
    },
    answer=None,
)

# %% [markdown]
# `crash()` breaks the sockets of payment's four connections and lets its handlers go no further: no acknowledgement, no goodbye. `restart()` starts four new workers. The probe samples the queues meanwhile. When payment's queue is empty for the first time after the return, the cell sets a mark, and 3 seconds later customers stop coming.

# %%
lab.recorder.clear()
afternoon = crowd("afternoon")
with (
    labkit.Probe(shop.queues, lab.url, lab.recorder),
    customers(load.constant(PER_S, 200), afternoon),
):
    lab.pace.wait(5)
    payment.crash()
    lab.pace.wait(20)
    backlog = waiting_in("payment_processing")
    payment.restart()
    while waiting_in("payment_processing") > 0:
        time.sleep(0.01)
    lab.recorder.record("mark", "payment", detail="drained")
    lab.pace.wait(3)

# %% [markdown]
# First the customers. `during` holds what happened in the 20 seconds between the crash and the order to return.

# %%
shop.wait_until_done()
outage = lab.recorder.frame()
crash_s, back_s, drained_s = (
    outage.query(f"kind == '{kind}'")["time_s"].iloc[0] for kind in ("crashed", "up", "mark")
)
during = outage[outage["time_s"].between(crash_s, crash_s + 20)]
came = measure.response_times(outage).query("@crash_s < intended_s < @back_s")
answered_meanwhile = came["answered_s"] < back_s

errors = set(came["outcome"]) != {202}
guess_customers.reveal(
    "a" if errors else "c" if answered_meanwhile.mean() > 0.5 else "b",
    because="each was told 202, received, and was not kept waiting for payment",
)


# %% [markdown]
# They get what they get on any other day. The order service saves the order and publishes it, and neither needs payment. What else went on during the outage?


# %%
def count(events, kind, service):
    return ((events["kind"] == kind) & (events["service"] == service)).sum()


orders_taken = count(during, "published", "order_service")
mails_sent = count(during, "done", "email")
print("Answers during the outage:", set(came["outcome"]))
print("Five orders or more were taken:", orders_taken >= 5)
print("Mails went out meanwhile:", mails_sent > 0)
print("Payments made:", count(during, "done", "payment"))

# %% tags=["nbval-ignore-output"]
print(f"During the outage: {orders_taken} orders taken, {mails_sent} mails sent")
print(f"Waiting for payment at its return: {backlog}")

# %% [markdown]
# The next picture counts three things from the beginning on. Where a line is level, nothing of its kind happens.

# %%
counted = {
    "orders": ("published", "order_service"),
    "mails": ("done", "email"),
    "payments": ("done", "payment"),
}
plots.show(
    plots.totals(outage, counted, title="While payment is down, orders and mails go on"),
    alt="Three rising lines over time, with dashed lines where payment crashes, is back, and has "
    "drained. The line of orders rises evenly throughout. The line of mails rises more slowly "
    "during the outage. The line of payments is level during the outage, then climbs steeply "
    "until it has caught up with the orders.",
)

# %% [markdown]
# The line of orders does not show the outage at all. The line of mails, at the top, goes on beside it: in the outage each order gets one mail, "we have your order". The second one, about the payment, is missing until the return, and then they come all the faster. The line of payments is level from the crash on, and for 4 seconds more after the return, since that is how long the first payments take. Then it climbs twice as steeply as the orders, until it has caught up.
#
# ## Where the orders were meanwhile
#
# Now the queues.

# %%
ax = plots.backlog(outage)
forecast_s = backlog / (4 / 4 - PER_S)
from_s = back_s - outage.query("kind == 'intended'")["time_s"].min()  # in the picture's time
ax.plot([from_s, from_s + forecast_s], [backlog, 0], ":", color="#222222")
ax.text(from_s + forecast_s / 4, backlog * 3 / 4, " forecast", va="bottom", fontsize=10)
ax.set_xlim(right=max(ax.get_xlim()[1], from_s + forecast_s))
plots.show(
    ax,
    alt="Messages waiting over time. The line of payment_processing is at zero until payment "
    "crashes, rises evenly until it is back, and falls to zero again, near a dotted straight line, the forecast. "
    "The other queues stay near zero all the time.",
)

# %% [markdown]
# Until the crash nothing waits. At the crash, the two or three orders that payment had in hand come back into its queue at once: they were not acknowledged, and the broker saw the connections break. (Had the whole machine died, the broker would have seen it only by the missing heartbeats, a minute or so later.) Then the line climbs by an order every 2 seconds. From the return on it falls, four at a time, since four workers take one each. The other queues stay flat all the time: email, inventory, shipping and the order service are not held up by a queue that is not theirs.
#
# The dotted line is the forecast. When payment is back, it does 4 / 4 = 1 order a second, and 0.5 a second still come. So the backlog shrinks by the difference:
#
# **drain time = backlog / (service rate - arrival rate)**

# %%
waiting = measure.backlog(outage).loc[crash_s:back_s].mean()
of_others = waiting.drop("payment_processing").max()
longer = waiting["payment_processing"] > 3 * of_others
print("Payment's queue, three times as long as any other on average of the outage:", longer)

drain_s = drained_s - back_s
ended = len(measure.response_times(outage)) == 200  # all have come, and then it drained
guess_drain.reveal(
    "c" if ended else "a" if drain_s < 5 else "b",
    because="each second payment does more than comes, so each second the backlog shrinks a little",
)
done = measure.spans(outage).query("service == 'payment' and @back_s < start_s < @drained_s")
service_rate = payment.threads / done["duration_s"].mean()
by_measured_rate_s = backlog / (service_rate - PER_S)
print("Five orders or more had waited:", backlog >= 5)
print("Customers still came when it was drained:", not ended)
alone_s = (backlog - 4) / (4 / 4)  # when the queue is empty, four orders are still in work
print("Longer than the backlog alone would have taken:", drain_s > alone_s)

# %% tags=["nbval-ignore-output"]
print(
    f"On average {waiting['payment_processing']:.1f} waited for payment, {of_others:.1f} elsewhere"
)
print(f"Backlog {backlog}; drained {drain_s:.1f} s after the return")
print(f"Forecast with 4 s for a payment: {forecast_s:.1f} s")
print(f"Forecast with {done['duration_s'].mean():.2f} s, as measured: {by_measured_rate_s:.1f} s")

# %% [markdown]
# Those who come meanwhile are what makes it long: the backlog alone would be through in half the time. Two things part the forecast from what happens. When the last message leaves the queue, four orders are still in work, and the forecast counts those in: that makes it too late. And a payment takes more than 4 seconds, with all that belongs to it: that makes it too early, and the more so the busier your machine is. The last line takes the time for a payment as it was measured. That mends the second alone: on a slow machine it comes closer, and on a quick one, where the first weighs more, it may not.
#
# The formula says more than one number. Backlog is arrival rate times outage, and what payment had in hand comes on top, which in a long outage doesn't count. So a shop that works at half of its capacity needs as long to recover as the outage lasted. What if it works closer to its limit?

# %%
for busy in (0.5, 0.8, 0.9, 0.95):
    print(
        f"load {busy:.0%} of capacity: the backlog of a 1-hour outage takes {busy / (1 - busy):4.1f} hours"
    )

# %% [markdown]
# An hour's outage at 95 % keeps you busy until the next day. Spare capacity is what you recover with. At 100 % you never do.
#
# ## The audit
#
# The queue is drained, and all customers have long gone. Is anything lost, and was anybody charged twice? `audit` reads the databases of all departments and the ledger of the payment gateway.

# %%
orders = audit(shop.folder).orders.filter(like=f"{afternoon}-", axis="index")
print("Every order is completed:", (orders["status"] == "completed").all())
print("Charges for each order:", set(orders["charges"]))
print(
    "Every order has a label and two mails:", min(orders["labels"]) > 0, min(orders["emails"]) > 1
)
print("Wrong, says the audit:", sum(map(len, orders["findings"])))

# %% tags=["nbval-ignore-output"]
print("Orders with a second label:", sum(orders["labels"] > 1))

# %% [markdown]
# Nothing lost, nobody charged twice, and nobody had to do anything about it that afternoon. It was done before, when payment was written: it acknowledges after its work. Each message stayed with the broker until payment acknowledged it. What payment had in hand when it crashed was never acknowledged, so it came again.
#
# But look closer at those. Payment had begun with them, and the gateway had been asked for the money. The new worker asked for it once more. That no customer paid twice is the gateway's doing: payment sends the order's id as an **idempotency key**, and the gateway charges once for each key. Nobody does the same for labels and mails. If the crash falls between payment's news and its acknowledgement, the order is announced as paid a second time, and gets a second label. That is a matter of milliseconds, and most likely the count above is 0. Keep it in mind for the maintenance window below, and for notebook 06.

# %% [markdown]
# ## The evening: two brokers
#
# So the broker is what keeps the orders when payment is down. And who keeps them when the broker is down? "The queue is durable" is what most people say, and it is a quarter of the answer. Four things have a say in it:
#
# - the **exchange**, which is declared durable or not,
# - the **queue**, the same,
# - the **message**, which is published as persistent (`delivery_mode=2`) or not,
# - the **confirm**: whether the publisher waits until the broker says that it has the message.
#
# You try them all, also those that nobody should use: from 4.3 on RabbitMQ makes a queue that is neither durable nor exclusive only where its operator permits it. Our two brokers do. There are two ways to choose each of the four, which makes sixteen rows.

# %%
choices = ("durable", "-"), ("durable", "-"), ("persistent", "-"), ("yes", "-")
rows = list(itertools.product(*choices))
names = [f"row-{number}" for number in range(1, len(rows) + 1)]
print("Rows:", len(rows))

# %% [markdown]
# Each row gets an exchange and a queue of its own, bound to each other, and ten orders. Where there are confirms, `confirm_delivery()` puts the channel into confirm mode, and `basic_publish` then returns only when the broker has answered.


# %%
def fill(channel, name, exchange, queue, message, confirm):
    """One row: declares what it needs and publishes ten orders."""
    channel.exchange_declare(name, durable=exchange == "durable")
    channel.queue_declare(name, durable=queue == "durable")
    channel.queue_bind(name, name, routing_key="order.created")
    if confirm == "yes":
        channel.confirm_delivery()
    mode = 2 if message == "persistent" else 1
    for _ in range(10):
        properties = pika.BasicProperties(delivery_mode=mode)
        channel.basic_publish(name, "order.created", b"an order", properties)


# %% [markdown]
# `evening` does that on one broker, in a virtual host of its own, and waits until all is in the queues. It declares two more queues, of which you read more in a moment.


# %%
def evening(broker):
    """All rows on one broker, ten orders in each; gives the virtual host they are in."""
    room = broker.virtual_host("evening").start()
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    for name, row in zip(names, rows, strict=True):
        fill(connection.channel(), name, *row)
    for queue in ("with confirms", "without confirms"):
        connection.channel().queue_declare(queue, durable=True)
    connection.close()
    while set(room.depths(names).values()) != {10}:
        time.sleep(0.05)
    return room


# %% [markdown]
# The two brokers have started by now; if not, the next cell waits for them.

# %%
try:
    own = {end: future.result() for end, future in booting.items()}
except labkit.BrokerError:
    own = {}
    print("There is no broker here that may be stopped: the rows are left out.")

rooms = {end: evening(broker) for end, broker in own.items()}
for end, room in rooms.items():
    print(f"To be {end}: {sum(room.depths(names).values())} orders wait in {len(names)} queues")

# %% [markdown]
# In the night one broker is **stopped** in good order, as for an update, and started again. The other is **killed** by SIGKILL, as a program ends for which the machine has no memory left: it has no chance to write anything down. And while it dies, two publishers are at work on it. Both publish persistent orders to a durable queue, one after the other, as fast as they can. One waits for the confirm of each, the other does not. Each notes how many it takes for safe.


# %%
def publish_on(url, queue, confirm, safe):
    """Publishes orders until the connection breaks; counts in `safe` what went well."""
    channel = pika.BlockingConnection(pika.URLParameters(url)).channel()
    if confirm:
        channel.confirm_delivery()
    try:
        while True:
            persistent = pika.BasicProperties(delivery_mode=2)
            channel.basic_publish("", queue, b"an order", persistent)
            safe[queue] += 1
    except (pika.exceptions.AMQPError, OSError):
        return  # the broker is gone


# %% [markdown]
# The publisher without confirms begins when the other one has a hundred orders safe, and the kill comes when it has a hundred, too. Before all that there are 3 real seconds of rest, since on RabbitMQ up to 4.1 even a durable queue may be lost that was declared a moment before the kill.


# %%
def stop_and_start():
    own["stopped"].stop()
    own["stopped"].start()


def kill_and_start():
    time.sleep(3)
    url = rooms["killed"].url
    for queue, confirm in (("with confirms", True), ("without confirms", False)):
        publisher = helper.submit(publish_on, url, queue, confirm, safe)
        while safe[queue] < 100 and not publisher.done():
            time.sleep(0.001)
    own["killed"].kill()
    own["killed"].start()


# %% [markdown]
# Both nights begin now, in the background, and take some 10 to 20 real seconds. We go on with two smaller experiments meanwhile. If you want a second night later on, run the cells again from `rooms = ...` on.

# %%
safe = Counter()
nights = [helper.submit(night) for night in (stop_and_start, kill_and_start) if own]

# %% [markdown]
# ## A maintenance window
#
# Payment gets a new version. That is an outage, too, but one that you choose. You can take payment down by killing it; the queue keeps the orders, as you have seen. Or you can ask it to stop. What is the difference?

# %%
guess_window = labkit.predict(
    "Payment has four orders in hand and is taken down, once by a crash, once by a stop in good "
    "order. What is the difference for the customers?",
    {
        "a": "none: each is charged once, either way",
        "b": "after the crash, some are charged twice",
        "c": "after the crash, some are never charged",
    },
    answer=None,
)

# %% [markdown]
# Eight orders wait in payment's queue. Payment starts and takes one with each of its four workers. A second later it is taken down. The maintenance lasts 3 seconds, then payment starts again.


# %%
def maintain(take_down):
    """Eight orders, and payment taken down with four in hand; gives events and orders."""
    payment.stop()
    lab.recorder.clear()
    eight = crowd("maintenance")
    with customers([0.0] * 8, eight) as coming:
        coming.wait()
    payment.start()
    while lab.recorder.count("started", "payment") < 4:
        time.sleep(0.001)
    lab.pace.wait(1)
    take_down()
    lab.pace.wait(3)
    payment.restart()
    shop.wait_until_done()
    return lab.recorder.frame(), audit(shop.folder).orders.filter(like=f"{eight}-", axis="index")


# %% [markdown]
# `stop()` tells each worker to take no new message, lets it finish the one in hand, and gives back what it has fetched ahead. It returns when all four have done so.

# %%
windows = {"crash": maintain(payment.crash), "stop": maintain(payment.stop)}
charged = [set(orders["charges"]) for _, orders in windows.values()]
guess_window.reveal(
    "a" if charged == [{1}, {1}] else "c" if any(0 in each for each in charged) else "b",
    because="eight orders each time, and one charge for each of them in the gateway's ledger",
)

# %% [markdown]
# So no customer has paid twice. Payment can tell the difference, and so can the gateway. Did payment begin a second time with any of the orders?


# %%
def begun(events):
    """How often payment has begun to work, by order."""
    return events.query("kind == 'started' and service == 'payment'")["order_id"].value_counts()


for how, (events, orders) in windows.items():
    print(f"{how:5}  charges {sum(orders['charges'])} for {len(orders)} orders.", end=" ")
    print("Work begun a second time:", "yes" if begun(events).max() > 1 else "no")

# %% [markdown]
# Here is one of the orders that payment had in hand when it crashed.

# %%
events, _ = windows["crash"]
halved = begun(events).idxmax()
plots.show(
    plots.gantt(events, halved),
    alt="Bars over time for one order. In payment's row stand two bars: a short hatched one, which "
    "ends in the crash, and later a whole one of four seconds. Shipping follows after it.",
)

# %% [markdown]
# The hatched bar is the work that was lost. Payment had asked the gateway for the money and did not live to hear the answer. The second bar is the same work from the start. With a stop there is no hatched bar: the workers finish, which takes as long as the longest piece of work in hand, and nothing comes again.
#
# For a payment with an idempotency key the repeat is a waste of 4 seconds, and a second request to the gateway. For a mail it is a second mail, for a label a second parcel. So stop in good order where you can, and write each consumer so that it stands a crash, since you can't always choose. On a server this is what the signal SIGTERM is for. The system that runs your service sends it, waits a while, and kills what is still there.

# %% [markdown]
# ## A consumer that does not stop
#
# To stop in good order, a consumer must be able to hear that it should. Here is one as in RabbitMQ's tutorials: a callback, and `start_consuming()`, which does not return. It labels parcels, each of which takes 0.3 seconds. It may hold 50 at a time.


# %%
class Labeller:
    def __init__(self, url):
        self.connection = pika.BlockingConnection(pika.URLParameters(url))
        self.channel = self.connection.channel()
        self.channel.basic_qos(prefetch_count=50)
        self.labelled = 0

    def run(self):
        self.channel.basic_consume("parcels", self.on_parcel)
        self.channel.start_consuming()
        self.connection.close()

    def on_parcel(self, channel, method, properties, body):
        lab.pace.wait(0.3)  # the work
        self.labelled += 1
        channel.basic_ack(method.delivery_tag)


# %% [markdown]
# `start_consuming()` has a counterpart, `stop_consuming()`. The labeller works in a thread, and the command to stop comes from another one. A connection belongs to one thread, so we don't call it ourselves. We ask the connection to call it in its own thread, by `add_callback_threadsafe`, which is the one method that other threads may use. All by the book.

# %%
guess_loop = labkit.predict(
    "80 parcels wait. When five are labelled, stop_consuming() is asked for. How many does the "
    "labeller label before its loop ends?",
    {
        "a": "five or six: it finishes the one in hand",
        "b": "about 55: those that it has fetched ahead as well",
        "c": "all 80",
    },
    answer=None,
)


# %% [markdown]
# `stop_after_five` puts 80 parcels into the queue, runs a labeller in a thread, and tells it to stop when five are labelled. It gives back how many were labelled after that, and how many are in the queue at the end. (What a closed connection held comes back a moment later, so it looks again until the numbers add up.)


# %%
def stop_after_five(labeller, tell_to_stop):
    channel.queue_delete("parcels")
    channel.queue_declare("parcels", durable=True)
    for _ in range(80):
        channel.basic_publish("", "parcels", b"a parcel")
    at_work = helper.submit(labeller.run)
    while labeller.labelled < 5:
        time.sleep(0.001)
    tell_to_stop(labeller)
    told = labeller.labelled
    at_work.result()
    deadline = time.monotonic() + 5
    while labeller.labelled + waiting_in("parcels") < 80 and time.monotonic() < deadline:
        time.sleep(0.01)
    return labeller.labelled - told, waiting_in("parcels")


# %% [markdown]
# And off it goes.


# %%
def by_the_book(labeller):
    labeller.connection.add_callback_threadsafe(labeller.channel.stop_consuming)


labeller = Labeller(lab.url)
after, left = stop_after_five(labeller, by_the_book)
print(f"Labelled in all: {labeller.labelled}. Left in the queue: {left}")
measured = "c" if left == 0 else "b" if after > 10 else "a"
guess_loop.reveal(measured, because="it went on until the queue was empty, and ended then")

# %% [markdown]
# `stop_consuming()` from another thread does not end a busy loop. Look at what pika does. It reads what has come over the socket, and calls `on_parcel` for one message after the other, as long as it has any. Each acknowledgement makes the broker send another one, so with 50 fetched ahead pika always has some. What other threads have asked for is done when it has none left, and with a backlog that is never before the queue is empty. With a prefetch of 1, or with an empty queue, it works. So it passes every test on a quiet day, and fails on the day on which you stop a service that is behind.
#
# The mend is an `Event`, which any thread may set and any may look at. The callback looks before it begins. Where it is time to stop, it calls `stop_consuming()` itself, in the connection's own thread: that one cancels the consumer, and gives back what was fetched ahead.


# %%
class StoppableLabeller(Labeller):
    def __init__(self, url):
        super().__init__(url)
        self.stopping = threading.Event()

    def on_parcel(self, channel, method, properties, body):
        if self.stopping.is_set():
            channel.stop_consuming()
            return
        super().on_parcel(channel, method, properties, body)


def by_event(labeller):
    labeller.stopping.set()
    by_the_book(labeller)  # for a labeller that has nothing to do: it wakes the loop


# %% [markdown]
# The same 80 parcels, and the same moment:

# %%
labeller = StoppableLabeller(lab.url)
after, left = stop_after_five(labeller, by_event)
print("Labelled after it was told to stop, at most one:", after <= 1)
print("Labelled and left together:", labeller.labelled + left)

# %% [markdown]
# The one that it had in hand, and no more. The others are in the queue for whoever comes next. The message that the callback turned away was not acknowledged either, and went back when the connection was closed. `labkit.Consumer`, which runs the shop's departments, does the same. There is a second way to write such a loop, without a callback, and you write it in exercise 2.
#
# ## The morning after
#
# Back to the two brokers. By now they should be up again, or soon will be. Before you look, a question about the exchange.

# %%
guess_row = labkit.predict(
    "One row has a durable queue, persistent messages and confirms. Its exchange is not durable. "
    "The broker was killed. How many of the ten orders in the queue are still there?",
    {
        "a": "none: an order needs the exchange",
        "b": "some of them",
        "c": "all ten",
    },
    answer=None,
)

# %% [markdown]
# This is what is left in each row. "Gone" means that there is no queue of that name any more.

# %%
if own:
    for night in nights:
        night.result()
    left = {end: room.depths(names) for end, room in rooms.items()}
    table = pd.DataFrame(rows, columns=["exchange", "queue", "message", "confirm"], index=names)
    for end, depths in left.items():
        table[end] = [f"{depths[name]} of 10" if name in depths else "gone" for name in names]
    display(table)

# %% [markdown]
# Read it column by column. Where the queue is not durable, it is gone, with whatever was in it. Where the queue is durable and the message is not persistent, the queue is there and empty. Whether the broker was stopped with care or killed makes no difference: it throws away at the next start what was not meant to last. Ten of ten are left where queue *and* message were meant to last. The exchange and the confirm make no difference: row by row, with and without, the numbers are the same.

# %%
if own:
    row = names[rows.index(("-", "durable", "persistent", "yes"))]
    there = left["killed"].get(row, 0)
    guess_row.reveal(
        "c" if there == 10 else "b" if there else "a",
        because="the exchange is the way into the queue; what is in the queue has no more need of it",
    )

# %% [markdown]
# So does the exchange not matter? It does for the next order. Whether an exchange that is not durable is still there depends on the version: up to RabbitMQ 4.1 it is gone, with its bindings; since 4.2 a new broker keeps it. Notebook 04 shows what comes of it where it is gone: whoever publishes to it is refused, until a service declares it anew as it starts. From then on it is there without its bindings, and each new order is confirmed and reaches nobody. This is what yours did:


# %% tags=["nbval-ignore-output"]
def is_there(room, exchange):
    connection = pika.BlockingConnection(pika.URLParameters(room.url))
    try:
        connection.channel().exchange_declare(exchange, passive=True)
    except pika.exceptions.ChannelClosedByBroker:
        return "gone"
    finally:
        connection.close()
    return "there"


for end, room in rooms.items():
    print(f"RabbitMQ {own[end].version}, {end}: the exchange of {row} is {is_there(room, row)}")

# %% [markdown]
# ## The last gap
#
# Half of the rows have no confirms, and have lost no more than the others. Their orders had lain in the queue for seconds before the night, which is time enough for the broker to write them down. So what are confirms for? For the orders that are on their way at the moment of the kill. That is what the two publishers were for. Each published persistent orders to a durable queue until the broker was gone. `safe` holds how many calls of `basic_publish` had come back without an error.

# %% tags=["nbval-ignore-output"]
streams = ["with confirms", "without confirms"]
found = rooms["killed"].depths(streams) if own else {}
for queue in found:
    print(f"{queue:16} taken for safe: {safe[queue]:6}", end="   ")
    print(f"there after the kill: {found[queue]:6}", end="   ")
    print(f"missing: {max(0, safe[queue] - found[queue]):6}")

# %% [markdown]
# These numbers are a race between the publishers, the broker's disk and the kill, so yours differ on each run. The publisher without confirms does not wait for the broker. In the fraction of a second that a kill takes it publishes some hundreds of orders, or thousands, and usually loses them all: what was in the sockets' buffers, or in the broker's memory and not on disk yet. No call told it so. At the end it got an error, since the connection broke; but which of its orders had come through, nobody can tell it. One thing is no race:

# %%
if own:
    missing = max(0, safe["with confirms"] - found["with confirms"])
    print("Confirmed, and missing after the kill:", missing)
    print("A hundred or more had been confirmed:", safe["with confirms"] >= 100)

# %% [markdown]
# A confirm for a persistent message in a durable queue comes when the broker has written the message down. So what was confirmed is there. (It can be one more than was confirmed: the broker had written it, and died before it could say so.) What was not confirmed may be there or not: the publisher has to publish it once more, and then it may be there twice.
#
# So each of the four has its own part. A durable queue and a persistent message keep the orders that the broker has written down. A durable exchange keeps the way in for the next ones. And a confirm tells the publisher which have arrived, before anybody is told "received". The shop's order service does all four, which is why it can answer 202.
#
# One machine stays one machine. A kill can damage what was safe: RabbitMQ 3.10 writes the list of what is in a queue in large pieces, the first after 16,384 orders, and can't read a piece that was cut short. When we let the publisher without confirms run that far, one kill in about 300 fell into such a piece, and the broker did not start again. (In 207 kills of 4.0 and 4.3 it did not happen.) That is why that publisher begins last here. A real power cut takes the operating system along, too, with what it has not yet put on the disk, and the disk itself can die. Notebook 12 puts a queue on three machines.

# %% [markdown]
# ## Exercises
#
# ### 1. When are we through?
#
# Payment was down for `outage_s` seconds. Orders come at `per_s` a second, all the time. Payment is back with `workers` hands, each of which takes `takes_s` seconds for an order. How many orders wait at its return, and how many seconds later have they drained? Take it as a flow: fractions of an order count, and nobody had an order in hand at the crash. Where it never drains, the seconds are `math.inf`.

# %% tags=["exercise"]
import math


def recovery(outage_s, per_s, workers, takes_s):
    """Returns two numbers: orders that wait at the return, and seconds until they have drained."""
    # BEGIN SOLUTION
    backlog = outage_s * per_s
    service_rate = workers / takes_s
    if service_rate <= per_s:
        return backlog, math.inf
    return backlog, backlog / (service_rate - per_s)
    # END SOLUTION


exercises.recovery.check(recovery)

# %%
# exercises.recovery.hint()
# exercises.recovery.solution()

# %% [markdown]
# ### 2. A loop that stops
#
# `channel.consume(queue, inactivity_timeout=0.1)` is pika's other way to consume: a generator, to be used in a `for`. It yields `(method, properties, body)`, and `(None, None, None)` where nothing has come for 0.1 real seconds. When you leave the loop, `channel.cancel()` cancels the consumer and gives back what was fetched ahead. (A message that the generator has yielded is not among that: it is yours to handle and acknowledge.)
#
# Write a loop that calls `handle(body)` for each message, acknowledges it, and returns soon after `stop.is_set()` becomes true: with a backlog, and on an empty queue. What it has not handled must be in the queue again.


# %% tags=["exercise"]
def work_until(stop, channel, queue, handle):
    """Handles message after message until `stop`, a threading.Event, is set."""
    # BEGIN SOLUTION
    for method, _properties, body in channel.consume(queue, inactivity_timeout=0.1):
        if method is not None:
            handle(body)
            channel.basic_ack(method.delivery_tag)
        if stop.is_set():
            break
    channel.cancel()
    # END SOLUTION


exercises.work_until.check(work_until, url=lab.url)

# %%
# exercises.work_until.hint()
# exercises.work_until.solution()

# %% [markdown]
# ### 3. Safe on return
#
# Write `hand_over`. It declares the exchange `exercise.safe` and the queue `exercise.safe.orders`, bound by `order.created`, and publishes `body` to the exchange. When it returns, the order must be as safe as the first row of your table: it outlives a kill that comes a moment later. The check looks at what you have declared and how you have published. It gives you a new channel each time.


# %% tags=["exercise"]
def hand_over(channel, body):
    """Publishes an order so that it outlives the broker from the moment of the return on."""
    # BEGIN SOLUTION
    channel.exchange_declare("exercise.safe", durable=True)
    channel.queue_declare("exercise.safe.orders", durable=True)
    channel.queue_bind("exercise.safe.orders", "exercise.safe", routing_key="order.created")
    channel.confirm_delivery()
    properties = pika.BasicProperties(delivery_mode=2)
    channel.basic_publish("exercise.safe", "order.created", body, properties)
    # END SOLUTION


exercises.hand_over.check(hand_over, url=lab.url)

# %%
# exercises.hand_over.hint()
# exercises.hand_over.solution()

# %% [markdown]
# ### 4. Read the picture
#
# Another shop, another day. Nobody has written down what happened, but a probe has sampled the queues. Read four things off the picture: when did shipping go down, when was it back, how many orders a second came, and how many could shipping do? The first two can be read directly, the third from a slope. The fourth takes a thought.

# %%
plots.show(
    plots.backlog(exercises.another_day()),
    alt="The line of shipping_labels is at zero for a while, rises in a straight line to its peak, "
    "and falls in a straight line back to zero. The other queue stays near zero.",
)

# %% tags=["exercise"]
# BEGIN SOLUTION
# STUB: reading = {"down at": None, "back at": None, "orders a second": None, "could do": None}
reading = {"down at": 40, "back at": 100, "orders a second": 1.5, "could do": 2.5}
# END SOLUTION

exercises.reading.check(reading)

# %%
# exercises.reading.hint()
# exercises.reading.solution()

# %% [markdown]
# ## What it costs
#
# **An outage that nobody sees.** In the synchronous shop the telephone rings after a minute. Here every customer has a friendly "received", every other department is busy, and payment's queue grows in silence. Whoever decouples must watch: an alarm on the length and on the age of the backlog, and on the number of a queue's consumers, which was zero for the whole outage.
#
# **Late work may be wrong work.** After an hour, the stock is sold to somebody else, the card has expired, and "your parcel arrives today" is a lie. A message can be given a time to live (notebooks 07 and 09), and a department can look at the order's age before it begins.
#
# **The backlog comes back all at once.** At its return payment sends the gateway as much as it can, for as long as it takes to drain. The gateway must stand that, and so must those who come after payment.
#
# **Spare hands cost money.** At half load they are idle half of the time, and they are what you recover with.
#
# **Safety costs time.** A publisher that waits for each confirm is slower by far than one that doesn't. By how much, and how to have most of the speed and the confirms as well, is in notebook 06.

# %%
lab.stop()
helper.shutdown()
for broker in own.values():
    broker.close()
print("Done.")

# %% [markdown]
# ## Recap
#
# - A department that is down delays its own work alone. Customers are answered as always, the other departments go on, and the orders wait.
# - Drain time = backlog / (service rate - arrival rate). At half load it is as long as the outage, and near full load it is many times as long.
# - After a crash, work that was in hand is begun again from the start. After a stop in good order it is not.
# - `stop_consuming()` asked for by another thread does not end a busy loop. An `Event` that the callback looks at does.
# - A message is in the queue after a restart if the queue is durable, the message persistent, and the broker has written it down. A durable exchange keeps the way in. A confirm tells the publisher that it is written down. Without it, a kill loses orders that the publisher takes for safe.
# - A queue keeps an outage from the customers, and from you. Watch the backlog.
#
# **Next**: [06 Once, at least once, at most once](06-delivery-guarantees.ipynb). Payment's orders came a second time after the crash. What are the ways to have each order done at least once, at most once, or effectively once, and what does each lose or double?
