# %% [markdown]
# # Start here
#
# **Message queues, for real.** In this course you run an online shop twice. First its departments call each other while the customer waits. Then a message queue stands between them. Same departments, same work, same failures: you measure what changes and what doesn't, on a real RabbitMQ that runs on this machine.
#
# This notebook takes about 15 minutes. After it you know
#
# - that your set-up works,
# - the five words that the course is built from: publisher, exchange, binding, queue, consumer,
# - how a notebook goes: predict, run, explain, and exercises that check themselves.

# %% [markdown]
# ## What you need
#
# Some Python: functions, classes, dictionaries. A little SQL and pandas helps to read along. No knowledge of message queues, threads or web servers: where an exercise needs some, its hints show how.
#
# You run a cell with **Shift+Enter**. Go from top to bottom; each cell builds on those before it. Try it on the one below. It loads the course's helper package, `labkit`, and opens a lab: a corner of the message broker that belongs to this notebook alone.

# %%
import time

import pika

import labkit
from labkit import plots
from labkit.exercises import start_here as exercises

lab = labkit.Lab("start-here").start()

# %% [markdown]
# ## Is everything there?
#
# A **broker** is the server that keeps messages until somebody wants them. Ours is RabbitMQ. `labkit` takes the first that it finds: one whose address you set in `LABKIT_AMQP_URL`, the one of the course's `docker-compose.yml`, a container that it starts itself, or a RabbitMQ installed on this machine. If none is there yet, the next cell starts one, which can take some seconds.
#
# Should it end in an error, read its last lines: they name what was tried, and how to mend each. On a command line, in the course's folder, `.venv/bin/labkit doctor` runs the same checks, and more.
#
# The cell says which of the four was found: `url`, `compose`, `container`, or `node` for a RabbitMQ installed here. It also says whether the course may stop and start that broker. Some later experiments do, to see what a queue survives; where it may not, as on a broker that others use, they are left out.

# %% tags=["nbval-ignore-output"]
print(f"RabbitMQ {lab.broker.version}, found as: {lab.broker.kind}")
print(f"Can this course stop and start it? {'yes' if lab.broker.can_restart else 'no'}")

# %% [markdown]
# What is printed there may differ from what is stored here, and so may measured times, and that is fine. Many other lines must come out the same on every machine. We call such a line a **claim**. The course's tests run each claim and compare it, on several versions of RabbitMQ. If one of yours differs from the stored one, something is worth a closer look. The next cell prints two.
#
# Don't try to understand each argument yet: notebook 02 takes the calls one by one. `connection` and `channel` are our line to the broker. `lab.vhost`, a little later, is this notebook's corner of it, which RabbitMQ calls a virtual host.

# %%
version = tuple(int(part) for part in lab.broker.version.split(".")[:2])
connection = lab.connect()
channel = connection.channel()
channel.confirm_delivery()

print("RabbitMQ is 3.10 or later:", version >= (3, 10))
print("It lets us in:", connection.is_open)

# %% [markdown]
# ## The mailroom
#
# Think of a large company's mailroom. You drop a letter at the counter and go back to work. The clerk looks at the address and puts it, or copies of it, into pigeonholes. Each department empties its own, when it has time. You don't wait for them. You don't even know who they are.
#
# | in the mailroom | in RabbitMQ | what it does |
# |---|---|---|
# | you | **publisher** | hands over a message and goes on |
# | the counter | **exchange** | takes messages in, keeps none |
# | the clerk's rule | **binding** | says which messages go to which queue |
# | a pigeonhole | **queue** | keeps messages, in order, until they are taken |
# | a department | **consumer** | takes messages, and says when each is dealt with |
#
# The next cell sets up such a mailroom for three departments of the shop. The calls are those of [pika](https://pika.readthedocs.io), the Python client for RabbitMQ. You will use them throughout. For now it is enough to recognise the words of the table in them.

# %%
queues = ["payment_processing", "email_notifications", "inventory_updates"]

channel.exchange_declare("orders", exchange_type="fanout", durable=True)
for queue in queues:
    channel.queue_declare(queue, durable=True)
    channel.queue_bind(queue, exchange="orders")

print("Queues that are there now:", ", ".join(lab.vhost.depths(queues)))

# %% [markdown]
# ## Predict, run, explain
#
# Before an experiment, the course asks what you expect. Commit to an answer: put its letter in place of `None`, as in `answer="a"`, and run the cell. Nobody keeps the score. A guess that turns out wrong is what you will remember.

# %%
guess = labkit.predict(
    "One order is published to an exchange that three queues are bound to. What is kept?",
    {
        "a": "one message, which the three departments share",
        "b": "three messages, one in each queue",
        "c": "nothing, as long as nobody is there to take it",
    },
    answer=None,
)

# %% [markdown]
# Now run the experiment. The cell first empties the queues, so that it can be run again. `depths()` asks the broker how many messages wait in each queue.

# %%
for queue in queues:
    channel.queue_purge(queue)

persistent = pika.BasicProperties(delivery_mode=2)
channel.basic_publish("orders", routing_key="", body="order 1: a lamp", properties=persistent)
kept = sum(lab.vhost.depths(queues).values())

guess.reveal(
    {1: "a", 3: "b", 0: "c"}[kept], because=f"{kept} messages wait now, and none did before"
)

# %% [markdown]
# The exchange made a copy for each queue, because its type is `fanout`: "to all of them". Each department has its own message now, in its own queue, and takes it in its own time. That holds although no department is running yet. Here is the mailroom as the broker sees it at this moment.

# %%
bindings = [("orders", "", queue) for queue in queues]
ax = plots.topology(bindings, depths=lab.vhost.depths(queues), consumers=[])
plots.show(
    ax,
    alt="The exchange orders at the left; arrows lead from it to three queues, payment_processing, "
    "email_notifications and inventory_updates. One message waits in each, and none has a consumer.",
)

# %% [markdown]
# Read it from left to right, the way a message goes. At the left is the exchange `orders`. The arrows are the bindings. In the middle are the three queues, each with the number of messages that wait in it. At the right, where the consumers belong, nobody is there yet.
#
# Let the email department come in and deal with its message. It gets the message, works on it, and then tells the broker so with `basic_ack`, the **acknowledgement**. Only then is the message gone for good.

# %%
delivery, properties, body = channel.basic_get("email_notifications")
if delivery:
    print("Email has:", body.decode())
    channel.basic_ack(delivery.delivery_tag)

for queue, waiting in lab.vhost.depths(queues).items():
    print(f"{queue:20} {waiting} waiting")

# %% [markdown]
# Email is done, and the other two have their copies still. No department waits for another. That is the idea that the whole course turns around. What it is good for, and what it costs, is what the notebooks measure.

# %% [markdown]
# ## Exercises
#
# An exercise asks you to write a few lines where the cell says `raise NotImplementedError`. Run the cell, and it tells you one of three things: *not attempted*, *not yet* with the reason, or *correct*. Run it as often as you like. If you leave it, the notebook goes on all the same.
#
# Here is a small one, to try it on. In the shop without a queue, an order passes through payment, inventory, email and shipping, **one after the other**, and the customer waits for all of them. Given how long each part takes, how long does the customer wait?


# %% tags=["exercise"]
def total_wait(parts_s):
    """How long a customer waits for all parts, one after another.

    `parts_s` is a list of durations in seconds, such as [3.0, 0.05, 0.1, 2.0].
    """
    # BEGIN SOLUTION
    return sum(parts_s)
    # END SOLUTION


exercises.total_wait.check(total_wait)

# %% [markdown]
# Stuck? Take the `#` away from a line below and run the cell. Each call of `hint()` says a little more than the one before; `solution()` shows one way to do it. Before you look, answer with something wrong on purpose, such as `return max(parts_s)`, and see what the check makes of it.

# %%
# exercises.total_wait.hint()
# exercises.total_wait.solution()

# %% [markdown]
# ## Shop time
#
# A payment takes 3 seconds in life. Nobody wants to sit through thirty of them, so the shop has a clock of its own that runs faster: ten shop seconds pass in one real second. Every time on an axis or in a table is in shop seconds, unless it says *real*.
#
# To slow down or to speed up, set `LABKIT_SPEED` (1 is life, 20 is the fastest that the course is tested at) before you start Jupyter. The claims hold at any speed in between, as long as the machine keeps up: at 20, a time-out of ten shop seconds is half a real second, and a machine with much else to do may miss it.

# %%
started = time.monotonic()
lab.pace.wait(2)
real_s = time.monotonic() - started

print("Two shop seconds took as long as the speed says:", real_s >= 2 / lab.pace.speed)

# %% [markdown]
# At speed 10 that was a fifth of a real second. What the network and the broker take is not part of this: it is what it is, and the notebooks show it in real milliseconds.

# %% [markdown]
# ## Stopping
#
# - **A cell that runs too long**: the square in the toolbar (*Interrupt the kernel*) ends it. Services that the notebook started in the background go on.
# - **A notebook that behaves oddly**: *Kernel*, *Restart Kernel and Run All Cells* begins afresh. Nothing of the old run gets in the way: each run has a corner of its own on the broker, and what a dead run left there is swept away.
# - **At the end**: the last cell of each notebook stops what the notebook started. Run it. The broker itself stays up for the next notebook. One that the course has started ends by itself after 30 idle minutes, with JupyterLab where `make lab` started both, or at once with `.venv/bin/labkit broker stop`, in the course's folder.
#
# Two notebooks can be open side by side. They share the broker and don't see each other's queues.

# %%
lab.stop()
print("Our connection is closed:", connection.is_closed)

# %% [markdown]
# ## Where to go from here
#
# | notebook | the question | time |
# |---|---|---|
# | [01 One order, one customer waiting](01-synchronous-orders.ipynb) | why is the shop slow, and what happens when one department is down? | 40&nbsp;min |
# | [02 A mailbox between two programs](02-first-queue.ipynb) | what does a queue do, exactly, and where does a message go that nobody asked for? | 45&nbsp;min |
# | [03 The same shop, with a queue in the middle](03-decoupled-orders.ipynb) | what does the customer gain, and who does the waiting now? | 45&nbsp;min |
# | [04 The first version that everyone writes](04-obvious-version.ipynb) | nine ways to get it wrong, each caught in the act and mended | 75&nbsp;min |
# | [05 Payment is down](05-outage-and-recovery.ipynb) | what waits, what goes on, and what is left when the broker itself dies? | 45&nbsp;min |
# | [06 Once, at least once, at most once](06-delivery-guarantees.ipynb) | what is lost, what is done twice, and how is neither? | 60&nbsp;min |
# | [07 The order that can't be processed](07-retries-and-dead-letters.ipynb) | where does it go, when is it tried again, and how does it come back? | 75&nbsp;min |
# | [08 Who is first?](08-ordering.ipynb) | when is the order of messages lost, and what does it cost to keep it? | 40&nbsp;min |
#
# Notebooks from 09 on are still being written. Where a text speaks of one of them, it is to come.
#
# Take them in this order. Each opens with a question that a shop's owner would ask, and closes with what the answer costs.
