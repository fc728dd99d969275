# %% [markdown]
# # One order, one customer waiting
#
# You own an online shop. Customers complain: the page hangs for seconds when they click *Buy*, on busy days for much longer, and some say that they paid for something that never came. Each department says that it does its work properly. **What is wrong?**
#
# This notebook takes about 40 minutes. After it you can
#
# - say where a customer's seconds go, and how many orders a second a shop can take,
# - find the queue that nobody planned, in front of the web server,
# - show what one department that is down, or slow, does to all the others,
# - find the orders about which the shop has told its customers something untrue,
# - say what parallel calls mend, and what they don't.
#
# No message broker yet. You first need to see what it is for.

# %%
import math
import sqlite3
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing

import requests

import labkit
from labkit import load, measure, plots
from labkit.exercises import synchronous_orders as exercises
from labkit.shop import DeclinedError, SynchronousShop, audit

lab = labkit.Lab("synchronous-orders").start()

# %% [markdown]
# ## The shop
#
# Four departments have work to do before a parcel can leave:
#
# | department | what it does | shop seconds | workers |
# |---|---|---|---|
# | payment | has a payment company charge the customer | 3 | 4 |
# | inventory | takes the goods from the stock | 0.05 | 1 |
# | email | writes to the customer | 0.1 | 1 |
# | shipping | registers the parcel with a carrier and prints the label | 2 | 4 |
#
# A **worker** does one order at a time, so payment can charge four customers at once.
#
# Each is a program of its own, with a database of its own, and answers requests over HTTP. A fifth program, the **order service**, is the shop's door. It takes the customer's order, calls the four, and answers. All of this is real: real web servers on this machine, real databases, a real mail server. Only the clock runs faster than yours, as notebook 00 explains.
#
# This is the heart of the order service. `call` sends an HTTP request to a department and **waits for the answer**, for a shop minute at most. If the department is down or too slow, `call` raises a `CallError`.

# %%
DEPARTMENTS = ("payment", "inventory", "email", "shipping")


def one_after_the_other(order, call):
    for department in DEPARTMENTS:
        if call(department, order) == "declined":
            raise DeclinedError


def new_shop(name, place_order=one_after_the_other, timeout_s=60, **settings):
    """A shop for one experiment, with empty databases and an empty record of events."""
    lab.recorder.clear()
    settings |= {"place_order": place_order, "timeout_s": timeout_s}
    return SynchronousShop(lab.new_folder(name), lab.pace, lab.recorder, **settings)


# %% [markdown]
# ## 1. One order
#
# One customer buys one mug. Nobody else is in the shop. Commit to an answer before you measure: put its letter in place of `None`.

# %%
guess = labkit.predict(
    "How long does the customer wait for the answer?",
    {
        "a": "as long as all four parts take together",
        "b": "as long as the longest part, payment",
        "c": "hardly at all: the order is taken, and the rest is done afterwards",
    },
    answer=None,
)

# %% [markdown]
# The next cell opens the shop, sends one order and closes the shop. `requests.post` is what the customer's browser does: it sends the order and waits. The loop before it only wakes the servers up, since a program's first request is slower than all others.

# %%
with new_shop("one-order") as shop:
    for service in (shop.door, *shop.services.values()):
        requests.get(service.url)
    clicked_s = lab.pace.now()
    answer = requests.post(f"{shop.url}/orders", json=load.basket(1))
    wait_s = lab.pace.now() - clicked_s

one_events = lab.recorder.frame()
parts = (
    measure.spans(one_events, "order-001").set_index("service")["duration_s"].drop("order_service")
)

candidates = {"a": parts.sum(), "b": parts.max(), "c": 0.0}
nearest = min(candidates, key=lambda letter: abs(candidates[letter] - wait_s))
guess.reveal(nearest, because="the wait is nearest to the sum of the four parts")

# %% [markdown]
# `measure.spans` is the record of who worked on what, from when to when. Here it is as a **Gantt chart**: a row for each program, a bar from the start to the end of its work.

# %%
ax = plots.gantt(one_events, "order-001")
plots.show(
    ax,
    alt="Gantt chart of one order. The bar of the order service spans the whole time, until the "
    "answer. Below it payment, inventory, email and shipping follow one another like "
    "stairs, payment the longest, then shipping.",
)

# %% [markdown]
# Read it from the top. The order service's bar begins when one of its workers takes the order and ends when the answer is ready. In between the order service does next to nothing itself: it waits. Below, the departments form stairs. Each starts where the one before has ended, so every step pushes the answer further away. Your own figures:

# %% tags=["nbval-ignore-output"]
print(f"The customer waited {wait_s:.2f} shop seconds. The parts took:")
print(parts.round(2).to_string())
print(f"together        {parts.sum():.2f}")

# %% [markdown]
# By the table above the parts make 5.15. Measured, they took a little more, since each department also writes to its database. The order service's bar is longer than their sum by four calls over the network, and the customer's own wait has the way there and back as well. Each of these costs some real milliseconds, more on a busy machine. Now the **claims**: what holds on every run, at every speed.

# %%
spans = measure.spans(one_events, "order-001").set_index("service")
chain = spans.drop("order_service")

in_turn = (chain["start_s"] >= chain["end_s"].shift(fill_value=0)).all()

print("Answer:", answer.status_code, answer.json()["status"])
print("Called in this order:", ", ".join(chain.index))
print("Each began after the one before had ended:", in_turn)
print("The customer waited at least the sum of the parts, 5.15 s:", wait_s >= 5.15)
print("The parts make up more than half of the wait:", parts.sum() > 0.5 * wait_s)

# %% [markdown]
# Such a call, in which the caller waits for the answer before it goes on, is **synchronous**. A chain of synchronous calls takes the sum of its parts, also of those that the customer does not care about. The customer needs to know that the payment went through. Whether the label has been printed is of no interest this second.

# %% [markdown]
# ## 2. Thirty customers
#
# An ordinary Tuesday: one customer arrives every shop second, thirty in all. They come when they come, whether or not the ones before have been served. That is an **open loop**, as in life: your shop's slowness does not make the next customer stay at home.
#
# The order service's web server has four workers. Each serves one customer at a time, from the request to the answer. Whoever finds all four busy waits in a line that the server keeps inside, first come, first served.

# %%
guess = labkit.predict(
    "The shop does the same 5.15 s of work for each. How long does the 30th customer wait?",
    {
        "a": "about as long as the first: the work is the same",
        "b": "at least half as long again",
        "c": "less: by then everything is warmed up",
    },
    answer=None,
)


# %% [markdown]
# `load.Customers` sends each order at its time, from a thread of its own, and notes when the customer meant to come and when the answer was there.


# %%
def serve(shop, customers, rate=1):
    """Lets customers arrive, `rate` a shop second, and returns the events when all are served."""
    arrivals = load.constant(rate, customers)
    door = load.http_door(shop.url)
    with load.Customers(door, arrivals, lab.pace, lab.recorder) as crowd:
        crowd.wait()
    return lab.recorder.frame()


with new_shop("four-workers", web_workers=4) as shop:
    four_events = serve(shop, customers=30)

four_times = measure.response_times(four_events)
letter = "b" if four_times["response_s"].iloc[-1] > 1.5 * 5.15 else "a"
guess.reveal(
    letter, because="the 30th customer waits more than 1.5 times as long as the work takes"
)

# %% [markdown]
# The **response time** is what the customer feels: from the click to the answer. The picture has a bar for each customer, from the click at its left end to the answer at its right.

# %%
ax = plots.response_timeline(four_events)
plots.show(
    ax,
    alt="A bar for each of 30 customers, from click to answer. The dark parts, the work, are "
    "equally long. From the fifth customer on a pale part comes before it, the wait for a worker, "
    "and it grows from group of four to group of four.",
)

# %% [markdown]
# The dark part of a bar is the time in which a worker has the order in hand. It is as long for the last customer as for the first. The pale part is the time at the door, before any worker took the request. The first four have none. Then it grows, group by group of four, and nothing in the shop has become slower.
#
# **This is a queue.** Nobody designed it, no department sees it, and none of their logs mentions it. To each department, every order took as long as always. It lives in the web server's memory, so a crash of the server takes it along.
#
# The next cell splits each response time. `intended_s` is the moment of the customer's click. `start_s` is noted by the order service when a worker takes the order.


# %% tags=["nbval-ignore-output"]
def split(events):
    """Response times of all customers, and their two parts: at the door, and in a worker's hands."""
    times = measure.response_times(events).set_index("order_id")
    worker = measure.spans(events).query("service == 'order_service'").set_index("order_id")
    times["door_s"] = worker["start_s"] - times["intended_s"]
    times["work_s"] = worker["duration_s"]
    return times[["door_s", "work_s", "response_s"]]


four = split(four_events)
print(four.iloc[[0, 3, 4, 9, 19, 29]].round(1).to_string())

# %% [markdown]
# Why does the line grow? A worker is busy for 5.15 s with each order, so it serves 1/5.15 orders in a second. Four workers serve four times as many. That is the shop's **capacity**, and it can be worked out without any measurement.

# %%
capacity_per_s = 4 / 5.15
served_per_s = 30 / (four_times["answered_s"].max() - four_events["time_s"].min())

door = four["door_s"]
grows = door.tail(5).min() > door.head(4).max()
longer_s = {part: four[part].tail(5).median() - four[part].head(4).median() for part in four}
queued = longer_s["door_s"] > longer_s["work_s"]

print(f"Capacity: {capacity_per_s:.2f} orders a second. Arrivals: 1 a second.")
print("Served no faster than the capacity, 10 % allowed:", served_per_s < 1.1 * capacity_per_s)
print("Everyone got an answer:", four["response_s"].notna().all())
print("The last five waited longer at the door than the first four:", grows)
print("The wait at the door has grown by more than the work:", queued)

# %% [markdown]
# Each second, one customer comes and 0.78 are served. The rest, 0.22 customers a second, stays in the line. After 30 s that is more than six people, and each of them waits for all who stand before. Had the stream gone on, the line would have grown without end.
#
# ## 3. More workers
#
# So let us have eight web workers. Then up to eight customers are served at the same time.

# %%
guess = labkit.predict(
    "With 8 web workers, what becomes of the response times?",
    {
        "a": "all are halved: twice the workers, half the time",
        "b": "nobody waits long at the door any more, and each order takes its 5 s as before",
        "c": "nothing changes: the departments are what is slow",
    },
    answer=None,
)

# %% [markdown]
# The same thirty customers, the same departments, twice the workers at the door.

# %%
with new_shop("eight-workers", web_workers=8) as shop:
    eight = split(serve(shop, customers=30))

# Half of the customers, and the last five: a machine that stalls for a second moves one of them.
half_shorter = eight["door_s"].median() < four["door_s"].median()
last_shorter = eight["door_s"].tail(5).median() < four["door_s"].tail(5).median()
shorter = half_shorter or last_shorter
fastest_s = eight["response_s"].min()
letter = "c" if not shorter else "b" if fastest_s >= 5.15 else "a"
guess.reveal(
    letter, because="the wait at the door is shorter, and nobody has an answer before 5.15 s"
)

# %% [markdown]
# To compare two runs, look at all customers at once. An **ECDF** (empirical cumulative distribution function) does that. Choose a time on the horizontal axis; the curve's height says which part of the customers waited at most that long. The marks are **percentiles**: p50, the median, is what half of the customers did not exceed; p95 what 95 % did not exceed. The mean is of little use here. No customer is the average one, and those at the far end are the ones who complain.

# %%
ax = plots.ecdf(
    {"with 4": four["response_s"], "with 8": eight["response_s"]},
    title="How long the customers wait, with 4 and with 8 web workers",
)
plots.show(
    ax,
    alt="Two curves of response times. With 8 web workers all customers wait a little over 5 shop "
    "seconds, and the curve rises steeply there. With 4 the curve starts there too and leans far "
    "to the right.",
)

# %% [markdown]
# With eight workers the curve is almost a wall: everyone waits about the same. With four, it starts at the same place and leans far to the right. The distance between the curves is the time at the door. The distance from zero to the wall is the chain of calls, and **no number of workers makes that shorter**.

# %%
print(f"Capacity with 8 workers: {8 / 5.15:.2f} orders a second, more than 1:", 8 / 5.15 > 1)
print("The wait at the door is shorter than with 4 (p50, or the last five):", shorter)
print("Nobody waited less than the sum of the parts:", fastest_s >= 5.15)
p95_s = measure.percentiles(four["response_s"])["p95"]
print("With 4, p95 of the response times is more than 1.5 times that sum:", p95_s > 1.5 * 5.15)

# %% [markdown]
# A useful rule comes out of this. The number of workers that are busy on average is *arrivals a second* times *seconds for each*. This is **Little's law**, and it holds for any line that does not grow for ever. Here that is 1 times 5.15, so a little over five workers are busy, and four can't do it.
#
# ## 4. A department is down
#
# Now the email department's program crashes, as programs do. Four customers come, shortly one after the other. `crash()` ends the email department's service at once; the three others are well.

# %%
guess = labkit.predict(
    "Email is down. What becomes of an order?",
    {
        "a": "it goes through, and the mail is missing",
        "b": "it fails, and the customer pays nothing",
        "c": "it fails, and the customer has paid",
    },
    answer=None,
)

# %% [markdown]
# `lab.use` opens the shop and leaves it open for the cells that follow; it is closed with the lab at the latest. The **audit** does not ask the order service what it believes. It reads all the databases, the payment company's ledger among them, and says what is true.

# %%
broken = lab.use(new_shop("email-down"))
broken.services["email"].crash()
codes = measure.response_times(serve(broken, customers=4, rate=4))["outcome"].value_counts()

down = audit(broken.folder)
print("HTTP answers, and how many of each:", codes.to_dict())
print(down.orders[["told", "charges", "stock", "emails", "labels"]].sort_index().to_string())

charged = down.orders["charges"].sum()
guess.reveal("a" if 201 in codes else "c" if charged else "b", because=f"{charged} of 4 paid")

# %% [markdown]
# Read a line of the table: the customer was *told* that the order failed. The payment company has *charged* once. The goods have been taken from the *stock*. There is no *email* and no *label*. 502 is HTTP's word for "I got no usable answer from a server behind me".
#
# The order service called payment, and that worked. It called inventory, and that worked. It called email, and gave up. But **what was done before the failure stays done.** There is no undo across four programs and four databases. And for want of a mail that could have been sent an hour later, not one order went through.

# %%
print(down)
print("Orders that went through:", (down.orders["told"] == "completed").sum(), "of 4")
print("Shipping was never called:", lab.recorder.count("started", "shipping") == 0)

# %% [markdown]
# What does a customer do who reads "failed, please try again"? Email is repaired, and the four try again. To the shop, that is a new order for the same basket.

# %%
broken.services["email"].start()
serve(broken, customers=4, rate=4)
broken.stop()

retried = audit(broken.folder)
print(retried)
per_basket = retried.orders.groupby("basket")["charges"].sum()
print("Charges for each basket:", per_basket.to_dict())
print(
    f"Goods worth 12.00 each, sold to 4 customers. Money taken: {retried.charged_cents / 100:.2f}"
)

# %% [markdown]
# Every one of them **paid twice for one mug**. The audit counts orders: four first tries and four second ones, all eight belong to a basket that was charged twice. The shop's own order book shows four failed orders and four good ones, and nothing suspicious.
#
# (The payment company offers a remedy: send the same key with both tries, and the second charges nothing. But the second try is a new order here, and has a new key. Notebook 06 takes this up.)
#
# You can look into the databases yourself. Each department has one, and none can see another's.


# %%
def ask(database, query):
    """The values of a query's only column, as a list."""
    with closing(sqlite3.connect(database)) as connection:
        return [value for (value,) in connection.execute(query)]


told = ask(broken.folder / "order_service.db", "SELECT told FROM orders ORDER BY order_id")
charges = ask(broken.folder / "gateway.db", "SELECT order_id FROM charges")
print("What customers were told:", told)
print("Charges in the ledger:", len(charges))

# %% [markdown]
# ## 5. A carrier that is slow
#
# A program that is down at least says so at once. Now the carrier, a company outside that shipping depends on, is merely slow: 20 s for a parcel in place of 2. The shop of this section waits for no department as long as a minute, but for 10 s at most: that is its **time-out**. Eight customers come.
#
# After eight seconds, somebody whose order went through this morning asks a small question: *where is my order?* The order service can answer that from its own database. It calls nobody, and on a good day the answer takes some real milliseconds. Two predictions.

# %%
parcel = labkit.predict(
    "The time-out passes. What becomes of the order?",
    {
        "a": "the customer is told that it failed, and nothing is sent",
        "b": "the customer is told that it failed, and the parcel goes out",
        "c": "the customer waits on, until the carrier has answered",
    },
    answer=None,
)
question = labkit.predict(
    "How long does the small question take?",
    {
        "a": "some milliseconds: it needs neither carrier nor shipping",
        "b": "longer than a whole order takes on a good day",
    },
    answer=None,
)

# %% [markdown]
# This is the question. An order of this morning, `order-000`, is the one asked about.


# %%
def where_is_my_order(shop):
    """Asks, and returns the status, and how long the answer took, in shop seconds."""
    asked_s = lab.pace.now()
    answer = requests.get(f"{shop.url}/orders/order-000")
    return answer.json()["status"], lab.pace.now() - asked_s


# %% [markdown]
# The customers come in the background this time, so that the cell can ask its question meanwhile. The morning's order is placed first, while the carrier is still well, and the question is asked a few times before the others come, too. Leaving the first `with` closes the shop, which lets all work under way come to its end.

# %%
with new_shop("slow-carrier", timeout_s=10) as slow:
    requests.post(f"{slow.url}/orders", json=load.basket(0))
    idle_s = min(where_is_my_order(slow)[1] for _ in range(3))
    slow.carrier.takes_s = 20
    lab.recorder.clear()
    arrivals, door = load.constant(rate=1, customers=8), load.http_door(slow.url)
    with load.Customers(door, arrivals, lab.pace, lab.recorder) as crowd:
        lab.pace.wait(8)
        while lab.recorder.count("started", "order_service") < 4:
            time.sleep(0.01)
        status, question_s = where_is_my_order(slow)
        question_answered_s = lab.pace.now()
        crowd.wait()

slow_events = lab.recorder.frame()
print("Where is order-000?", status)

# %% [markdown]
# That order is done. What became of the eight that came after it?

# %%
slow_audit = audit(slow.folder)
print(slow_audit.orders[["told", "charges", "labels"]].sort_index().to_string())

failed = slow_audit.orders.query("told == 'failed'")
printed = failed["labels"].sum()
parcel.reveal(
    "c" if failed.empty else "b" if printed else "a",
    because=f"{len(failed)} told failed, and {printed} labels printed for them",
)

# %% [markdown]
# Each of the eight was told that the order failed. Each has paid. And every parcel is on its way, as the labels say. Here is the first of them; note where the order service's bar ends, and where shipping's does.

# %%
ax = plots.gantt(slow_events, "order-001")
plots.show(
    ax,
    alt="Gantt chart of the first order with a slow carrier. The order service ends after its "
    "time-out of 10 shop seconds for shipping, while shipping's bar goes on for ten seconds more.",
)

# %% [markdown]
# At about 13 s the order service's bar ends: it has hung up, and the customer has read "failed". Shipping does not know that. It is still waiting for the carrier, gets its answer ten seconds later, and prints the label. (The total in the picture counts until then. The customer was answered ten seconds before it.) **A time-out says that you have stopped waiting. It does not say that the work was not done.** If the customer tries again, a second parcel goes out and a second charge is made.
#
# And whoever asked the small question?

# %%
letter = "b" if question_s > 5.15 else "a"
question.reveal(letter, because="all workers were held, and the question stood in the same line")

# %% [markdown]
# Now look at all eight, and at the question, in grey below them.

# %%
ax = plots.response_timeline(slow_events)
asked_s = question_answered_s - question_s - slow_events["time_s"].min()
ax.barh(9, question_s, left=asked_s, color="grey")
ax.text(asked_s + question_s + 0.4, 9, f"the question: {question_s:.1f} s", va="center")
ax.set_ylim(9.8, 0.2)
plots.show(
    ax,
    alt="A bar for each of 8 customers; each ends in an error. The first four are in a worker's "
    "hands for 13 shop seconds. The last four first wait at the door until those four have failed, "
    "and then fail in the same way. A grey bar below them is the question, which waits as well.",
)

# %% [markdown]
# All bars have the colour of an error. The first four customers hold all four workers, and each worker stands still for ten seconds, waiting for a parcel that it will not see. The next four stand at the door until then, and fail in the same way. The question stands behind them all, and waits until one of the second four has failed, too.
#
# Your own figures, before the customers came and while the workers were held:

# %% tags=["nbval-ignore-output"]
print(f"In the empty shop it took {1000 * lab.pace.to_wall(idle_s):.0f} real milliseconds.")
print(f"With the carrier slow it took {question_s:.1f} shop seconds.")

# %% [markdown]
# The question waited in the same line as the orders. Its answer had nothing to do with the carrier, shipping or anybody else, but a worker had to give it, and there was none. This is a **cascade**: one slow company outside, and the whole shop stands still, with payment, inventory and email in perfect health.

# %%
slow_times = measure.response_times(slow_events)
outcomes = slow_times["outcome"].value_counts().to_dict()
payment_s = measure.spans(slow_events).query("service == 'payment'")["duration_s"].sum()
lasted_s = slow_events["time_s"].max() - slow_events["time_s"].min()

print("HTTP answers, and how many of each:", outcomes)
print("Orders that got through:", outcomes.get(201, 0))
print(
    "The question was answered after the first order:",
    question_answered_s > slow_times["answered_s"].min(),
)
print("Payment's four workers were idle more than half of the time:", payment_s < 2 * lasted_s)
print(slow_audit)

# %% [markdown]
# 504 is HTTP's word for "a server behind me took too long". Payment could have served many more customers in that time. Nobody could reach it, because the way there led through the workers at the door.
#
# ## 6. What the order service must know
#
# Marketing asks for figures: each order shall be noted by a new department, analytics. It takes 0.2 s and has nothing to do with the customer. Who has to change? So far the order service knows these names, with an address for each.

# %%
print("The order service calls:", ", ".join(slow.services))
print("Addresses that it must know:", len({service.url for service in slow.services.values()}))

# %% [markdown]
# Analytics is not among them, so it hears of nothing. For it to hear, the order service gets a new version, which knows one name and one address more. Then it is closed and opened again. You see the new version below. Two orders follow: one with analytics in good health, one after it has crashed.

# %%
from labkit.shop.synchronous import department_app
from labkit.web import HttpService


def with_analytics(order, call):
    one_after_the_other(order, call)
    call("analytics", order)


grown = new_shop("with-analytics", place_order=with_analytics)
app = department_app(grown.departments["analytics"])
grown.services["analytics"] = HttpService(app, "analytics", workers=1, recorder=lab.recorder)

with grown:
    healthy = requests.post(f"{grown.url}/orders", json=load.basket(1))
    grown.services["analytics"].crash()
    broken_down = requests.post(f"{grown.url}/orders", json=load.basket(2))

grown_events = lab.recorder.frame()

# %% [markdown]
# The second customer has been charged, the goods are taken, the mail is sent, the label is printed. What does this customer read?

# %%
spans = measure.spans(grown_events, "order-001").set_index("service")
second = audit(grown.folder).orders.loc["order-002"]

print("With analytics:", healthy.status_code, healthy.json()["status"])
print("The answer had to wait for analytics:", spans["end_s"].idxmax() == "order_service")
print("Analytics down:", broken_down.status_code, broken_down.json()["status"])
print(f"Charged: {second['charges']}, labels printed: {second['labels']}, told: {second['told']}")

# %% [markdown]
# "Failed", although all that the customer wanted has been done. A department that was meant to count has become one more part that can break every order. With each department that you add, the wait grows, and the order service, which should know about orders, gets to know one more program, its address, its failures and its speed. This is **coupling**: one can't change, stop or fail without the other.

# %% [markdown]
# ## Exercises
#
# ### Exercise 1: call them all at once
#
# The departments don't need each other's answers, do they? Then why one after the other? Write a `place_order` that calls all four **at the same time** and returns when all have answered. Each `call` blocks, so each needs a thread; `ThreadPoolExecutor` of Python's [concurrent.futures](https://docs.python.org/3/library/concurrent.futures.html) has some. The rest stays as it was: each department is called exactly once, a `CallError` comes out, and where payment answers `"declined"`, `DeclinedError` is raised.


# %% tags=["exercise"]
def place_order(order, call):
    """Has the four departments do their work at the same time.

    `call(department, order)` waits for a department and returns its answer, or raises CallError.
    """
    # BEGIN SOLUTION
    with ThreadPoolExecutor(max_workers=len(DEPARTMENTS)) as pool:
        calls = [pool.submit(call, department, order) for department in DEPARTMENTS]
    answers = [each.result() for each in calls]
    if "declined" in answers:
        raise DeclinedError
    # END SOLUTION


exercises.parallel_calls.check(place_order)

# %% [markdown]
# Take the `#` away for a hint, or for one way to do it.

# %%
# exercises.parallel_calls.hint()
# exercises.parallel_calls.solution()

# %% [markdown]
# What does it mend? The next cells use the course's version, so that they work before you have solved the exercise; put your own `place_order` in its place when you have. First an ordinary order. Then one whose payment is declined. Then email crashes, and a third customer comes.

# %%
parallel = exercises.in_parallel  # or your own: place_order

with new_shop("parallel", place_order=parallel) as at_once:
    answers = [requests.post(f"{at_once.url}/orders", json=load.basket(1))]
    at_once.gateway.declines.add("customer-002@example.com")
    answers.append(requests.post(f"{at_once.url}/orders", json=load.basket(2)))
    at_once.services["email"].crash()
    answers.append(requests.post(f"{at_once.url}/orders", json=load.basket(3)))

parallel_events = lab.recorder.frame()
ax = plots.gantt(parallel_events, "order-001")
plots.show(
    ax,
    alt="Gantt chart of one order with parallel calls. All four departments begin at the same "
    "time. The order service ends soon after the longest, payment.",
)

# %% [markdown]
# No stairs any more: all four bars begin at the left, and the answer follows the longest. The wait is a little over 3 s in place of 5. That is a real gain, and for some shops it is enough.
#
# Now the other two orders. Before you run the audit: which of the four departments have done their work for a customer whose card was declined?

# %%
spans = measure.spans(parallel_events, "order-001").set_index("service")
parallel_s, sum_s = spans["duration_s"]["order_service"], spans["duration_s"].iloc[1:].sum()
overlap = spans["start_s"]["shipping"] < spans["end_s"]["payment"]

print("Shipping began before payment had ended:", overlap)
print("The work took less time than the sum of its parts:", parallel_s < sum_s)
print("It still took at least the longest part, 3 s:", parallel_s >= 3)
print("Answers:", [(answer.status_code, answer.json()["status"]) for answer in answers])
parallel_audit = audit(at_once.folder)
print(parallel_audit.orders[["told", "charges", "emails", "labels"]].to_string())
print(parallel_audit)

# %% [markdown]
# `order-002` was declined: no charge, and all the same a label, so the parcel goes out for nothing. The departments *did* need an answer, payment's. `order-003` met the dead email department: told failed, charged, and this time shipped too. Everything still has to be up, the customer still waits for the slowest, a worker is still held all the time, and the order service still knows everybody.

# %% [markdown]
# ### Exercise 2: how many workers?
#
# A sale is coming, and two customers a second with it. How many web workers does the order service need, at least, so that the line at the door does not grow? Take it that the departments keep up, so that an order takes as long as ever. Write it for any number of customers a second and any time that an order takes in a worker's hands.


# %% tags=["exercise"]
def workers_needed(customers_per_s, order_s):
    """The smallest number of workers that serve as many customers as arrive."""
    # BEGIN SOLUTION
    return math.ceil(customers_per_s * order_s)
    # END SOLUTION


exercises.workers_needed.check(workers_needed)

# %%
# exercises.workers_needed.hint()
# exercises.workers_needed.solution()

# %% [markdown]
# Try your function with 13.15, the seconds that an order takes while the carrier is slow. (In this shop more workers at the door would not do: payment serves four at a time, 1.33 orders a second. So the line would grow there.) And mind that a line which does not grow on average is not yet a short one: real customers don't come in equal steps. Notebook 11 works that out.
#
# ### Exercise 3, if you have time: an audit of your own
#
# Write the part of the audit that finds the orders whose customer was told `failed` and yet was charged. `folder` holds the databases. `order_service.db` has a table `orders` with the columns `order_id` and `told`; the payment company's ledger, `gateway.db`, has a table `charges` with the column `order_id`. The function `ask` from section 4 helps.


# %% tags=["exercise"]
def told_failed_yet_charged(folder):
    """The ids of the orders whose customer was told `failed` and was charged, as a list."""
    # BEGIN SOLUTION
    failed = ask(folder / "order_service.db", "SELECT order_id FROM orders WHERE told = 'failed'")
    charged = ask(folder / "gateway.db", "SELECT order_id FROM charges")
    return [order_id for order_id in failed if order_id in charged]
    # END SOLUTION


exercises.told_failed.check(told_failed_yet_charged)

# %%
# exercises.told_failed.hint()
# exercises.told_failed.solution()
# told_failed_yet_charged(slow.folder)

# %% [markdown]
# ## What it costs, and when it is right
#
# To be fair to the synchronous chain: it is the simplest thing that works. It is one function that you can read from top to bottom. When it answers *completed*, everything is done, and the customer knows it. When the payment is declined, the customer learns it at once and can take another card. For a few orders a minute and departments that hardly ever fail, it may be all that you need.
#
# | you get | you pay |
# |---|---|
# | a final answer in one step | the customer waits for the sum of the parts |
# | code that reads like the process | each order holds a worker for all that time, so capacity is workers divided by seconds |
# | nothing to run but the services | every department must be up, and fast, for every order |
# | | a failure half way leaves half an order, and nobody who knows |
#
# More workers buy capacity, at the price of memory and connections, and then the departments behind are next: payment serves four at a time, 4/3 orders a second, however many workers stand at the door. Parallel calls buy a shorter wait, and give up the order of the steps.
#
# ## What you have seen
#
# - A chain of synchronous calls takes **the sum of its parts**.
# - A server that gets more than its capacity has **a hidden queue**. It grows, nobody sees it, and it is lost when the server goes down.
# - **One department down fails every order**, and what was done before stays done. A customer's retry can charge twice.
# - **A time-out is not a failure**: the work may be done all the same.
# - One slow part **holds all workers**, and even what has nothing to do with it stands still.
# - The order service **knows everybody**.
#
# Most of this has one root: the customer's wait and the departments' work are tied together. There is a queue in this shop already. What if it were one on purpose: one that you can see, that survives a crash, and that stands where it helps?
#
# **Next:** [02 A mailbox between two programs](02-first-queue.ipynb) shows what such a queue is and does. [03 The same shop, with a queue in the middle](03-decoupled-orders.ipynb) then serves the same thirty customers with it. The last cell closes what this notebook has opened.

# %%
lab.stop()
