"""What the pictures hold, read from their artists."""

import io
import json

import pandas as pd
import pytest
from matplotlib import colors
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from PIL import Image
from test_measure import frame_of

from labkit import measure, plots
from labkit.clock import Pace
from labkit.errors import InputError
from labkit.events import Recorder
from labkit.plots.style import OWNERS, apart

QUEUES = {"payment": "payment_processing", "shipping": "shipping_labels"}


def one_after_the_other(customers=8, workers=2):
    """Orders through a chain of calls: 3 s payment, 2 s shipping, a customer a second."""
    rows, free = [], [0.0] * workers
    for n in range(customers):
        order = f"order-{n + 1:03d}"
        begun = max(float(n), min(free))
        free[free.index(min(free))] = begun + 5
        rows += [
            (n, "intended", "customer", order, n + 1),
            (n, "sent", "customer", order, n + 1),
            (begun, "started", "order_service", order),
            (begun, "status", "order_service", order, "pending"),
            (begun, "started", "payment", order),
            (begun + 3, "done", "payment", order, "charged"),
            (begun + 3, "started", "shipping", order),
            (begun + 5, "done", "shipping", order, "label"),
            (begun + 5, "status", "order_service", order, "completed"),
            (begun + 5, "done", "order_service", order, "ok"),
            (begun + 5, "answered", "customer", order, 200),
        ]
    return frame_of(*sorted(rows, key=lambda row: row[0]))


def through_queues():
    """One order through two queues; it waits 4 s for payment and 1 s for shipping."""
    return frame_of(
        (10.0, "intended", "customer", "a", 1),
        (10.0, "started", "order_service", "a"),
        (10.1, "published", "order_service", "a", "order.created"),
        (10.2, "done", "order_service", "a", "accepted"),
        (10.2, "answered", "customer", "a", 202),
        (14.1, "delivered", "payment", "a", QUEUES["payment"]),
        (14.1, "started", "payment", "a"),
        (17.1, "done", "payment", "a", "charged"),
        (17.1, "published", "payment", "a", "payment.completed"),
        (18.1, "delivered", "shipping", "a", QUEUES["shipping"]),
        (18.1, "started", "shipping", "a"),
        (20.1, "done", "shipping", "a", "label"),
        (20.2, "status", "order_service", "a", "completed"),
    )


def depths(*rows):
    """A frame of samples of payment_processing, `(time, ready)`, and whatever else is given."""
    return frame_of(
        *(
            row if len(row) > 2 else (row[0], "depth", QUEUES["payment"], None, row[1])
            for row in rows
        )
    )


def two_hands(crash=False):
    """Three messages and two consumers: anna's first takes so long that the others pass it."""
    rows = [
        (n / 10, "published", "shop", order)
        for n, order in enumerate(("anna-1", "anna-2", "ben-1"))
    ]
    rows += [
        (1.0, "started", "first", "anna-1"),
        (1.0, "started", "second", "anna-2"),
        (2.0, "done", "second", "anna-2"),
        (2.0, "started", "second", "ben-1"),
        (3.0, "done", "second", "ben-1"),
    ]
    if not crash:
        return frame_of(*rows, (5.0, "done", "first", "anna-1"))
    return frame_of(
        *rows,
        (4.0, "crashed", "first"),
        (4.0, "started", "second", "anna-1"),
        (8.0, "done", "second", "anna-1"),
    )


def three_orders():
    """What three arrangements did, and in what order."""
    return pd.DataFrame(
        {"per_s": [2.0, 7.8, 5.1], "overtaken": [0, 31, 40], "overtaken_by_own": [0, 9, 0]},
        index=["one consumer", "four", "by customer"],
    )


def four_designs():
    """What became of 300 orders under each of four designs."""
    return pd.DataFrame(
        {"lost": [41, 20, 0, 0], "doubled": [0, 23, 1, 0], "done once": [259, 257, 299, 300]},
        index=["auto-ack", "ack after work", "with confirms", "with outbox and inbox"],
    )


def three_messages():
    """One is done at once, one after two retries, one is put back and then rejected."""
    return frame_of(
        (10.0, "delivered", "desk", "a", "labels"),
        (10.1, "acked", "desk", "a", "labels"),
        (10.1, "delivered", "desk", "b", "labels"),
        (10.2, "acked", "desk", "b", "labels"),
        (10.2, "delivered", "desk", "c", "labels"),
        (10.3, "requeued", "desk", "c", "labels"),
        (10.3, "redelivered", "desk", "c", "labels"),
        (10.4, "rejected", "desk", "c", "labels"),
        (11.2, "delivered", "desk", "b", "labels"),
        (11.3, "acked", "desk", "b", "labels"),
        (13.4, "delivered", "desk", "b", "labels"),
        (13.5, "acked", "desk", "b", "labels"),
    )


def texts(ax):
    return [text.get_text() for text in ax.texts if text.get_text()]


def bars(ax):
    """Each bar as `(row, start, length)`."""
    return [
        (round(bar.get_y() + bar.get_height() / 2, 6), bar.get_x(), bar.get_width())
        for bar in ax.patches
    ]


def rows_of(ax):
    return [label.get_text() for label in ax.get_yticklabels()]


EVERY = {
    "gantt": lambda ax=None: plots.gantt(one_after_the_other(), "order-008", ax=ax),
    "response_timeline": lambda ax=None: plots.response_timeline(one_after_the_other(), ax=ax),
    "ecdf": lambda ax=None: plots.ecdf({"synchronous": [5, 6, 9]}, ax=ax),
    "completion_against_response": lambda ax=None: plots.completion_against_response(
        {"synchronous": one_after_the_other(), "decoupled": through_queues()}, ax=ax
    ),
    "backlog": lambda ax=None: plots.backlog(depths((0, 0), (1, 3), (2, 1)), ax=ax),
    "deliveries": lambda ax=None: plots.deliveries(three_messages(), ax=ax),
    "sequence": lambda ax=None: plots.sequence(two_hands(), ax=ax),
    "costs_of_order": lambda ax=None: plots.costs_of_order(three_orders(), ax=ax),
    "outcomes": lambda ax=None: plots.outcomes(four_designs(), ax=ax),
    "swimlanes": lambda ax=None: plots.swimlanes(through_queues(), "a", ax=ax),
    "totals": lambda ax=None: plots.totals(
        through_queues(), {"orders": ("published", "order_service")}, ax=ax
    ),
    "topology": lambda ax=None: plots.topology(
        [("orders", "order.created", "payment_processing")], {"payment_processing": 3}, ax=ax
    ),
}


@pytest.mark.parametrize("name", EVERY)
def test_every_picture_has_a_title_and_units_and_its_own_figure(name):
    ax = EVERY[name]()
    assert isinstance(ax, Axes)
    assert ax.get_title(loc="left")
    assert name in ("topology", "outcomes") or "shop seconds" in ax.get_xlabel()
    assert ax.figure is not EVERY[name]().figure


@pytest.mark.parametrize("name", EVERY)
def test_every_picture_is_drawn_on_the_axes_that_it_is_given(name):
    ax = Figure().add_subplot()
    assert EVERY[name](ax=ax) is ax
    assert ax.has_data()


@pytest.mark.parametrize("name", EVERY)
def test_every_picture_fits_a_notebook(name):
    data = plots.png(EVERY[name]())
    assert len(data) < 60_000
    assert Image.open(io.BytesIO(data)).width <= 900


@pytest.mark.parametrize("name", EVERY)
def test_no_text_leaves_the_picture_and_no_two_overlap(name):
    ax = EVERY[name]()
    figure = ax.figure
    figure.canvas.draw()
    labels = ax.get_yticklabels() if ax.axison else []
    boxes = [
        text.get_window_extent()
        for text in [*ax.texts, ax.title, ax._left_title, *labels]
        if text.get_text() and text.get_visible()
    ]
    for n, box in enumerate(boxes):
        assert box.x0 >= -1
        assert box.x1 <= figure.bbox.width + 1
        assert not any(box.overlaps(other) for other in boxes[:n])


def test_each_service_has_a_colour_of_its_own():
    services = list(OWNERS.values())
    assert len({plots.COLOURS[service] for service in services}) == len(services) == 7


def test_a_service_has_the_same_colour_in_every_picture():
    wanted = colors.to_rgba(plots.COLOURS["payment"])
    gantt = plots.gantt(one_after_the_other(), "order-001")
    payment = gantt.patches[1 + rows_of(gantt).index("payment") - 1]
    lanes = plots.swimlanes(through_queues(), "a")
    line = plots.backlog(depths((0, 0), (1, 3))).lines[0]
    assert payment.get_facecolor() == wanted
    assert wanted in [bar.get_facecolor() for bar in lanes.patches]
    assert colors.to_rgba(line.get_color()) == wanted


def test_gantt_has_a_row_a_department_with_its_duration_and_the_total():
    ax = plots.gantt(one_after_the_other(), "order-001")
    assert rows_of(ax) == ["order service", "payment", "shipping"]
    assert bars(ax) == [(0, 0, 5), (1, 0, 3), (2, 3, 2)]
    assert texts(ax) == ["5.00 s", "3.00 s", "2.00 s", "total 5.00 s"]


def test_gantt_shows_the_wait_before_the_order_service():
    ax = plots.gantt(one_after_the_other(), "order-003")
    assert bars(ax)[:2] == [(0, 0, 3), (0, 3, 5)]
    assert "waits 3.00 s" in texts(ax)
    assert "total 8.00 s" in texts(ax)


def test_gantt_names_what_failed_and_what_has_not_ended():
    ax = plots.gantt(
        frame_of(
            (0, "intended", "customer", "a"),
            (0, "started", "payment", "a"),
            (1, "failed", "payment", "a", "down"),
            (1, "started", "email", "a"),
            (9, "status", "order_service", "a", "pending"),
        ),
        "a",
    )
    assert "1.00 s, failed" in texts(ax)
    assert "not finished" in texts(ax)
    assert all(bar.get_hatch() for bar in ax.patches)


def test_gantt_of_an_unknown_order_lists_the_known_ones():
    with pytest.raises(InputError, match="order-001, order-002"):
        plots.gantt(one_after_the_other(2), "nope")


def test_gantt_of_an_order_without_work_says_so():
    with pytest.raises(InputError, match="No department has worked"):
        plots.gantt(frame_of((0, "intended", "customer", "a")), "a")


def test_timeline_has_a_bar_a_customer_with_the_wait_for_a_worker_in_front():
    ax = plots.response_timeline(one_after_the_other(4))
    waiting, served = (bars(ax)[:4], bars(ax)[4:])
    assert waiting == [(1, 0, 0), (2, 1, 0), (3, 2, 3), (4, 3, 3)]
    assert served == [(1, 0, 5), (2, 1, 5), (3, 5, 5), (4, 6, 5)]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == ["answered: 4", "waits for a worker"]
    assert ax.get_title(loc="left") == "4 customers: the first waits 5.00 s, the longest 8.00 s"


def test_timeline_colours_and_counts_the_outcomes():
    ax = plots.response_timeline(
        frame_of(
            *((n, "intended", "customer", f"o{n}") for n in range(4)),
            (5, "answered", "customer", "o0", 202),
            (6, "answered", "customer", "o1", 503),
            (7, "answered", "customer", "o2", "timeout"),
        )
    )
    wanted = ["answered", "error", "timeout", "no answer"]
    assert [bar.get_facecolor() for bar in ax.patches] == [
        colors.to_rgba(plots.OUTCOMES[name]) for name in wanted
    ]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert labels == [f"{name}: 1" for name in wanted]
    assert "no answer yet" in texts(ax)


def test_timeline_of_many_customers_has_dots_over_the_arrival():
    ax = plots.response_timeline(one_after_the_other(80))
    table = measure.response_times(one_after_the_other(80))
    assert not ax.patches
    assert list(ax.lines[0].get_xdata()) == list(table["intended_s"])
    assert list(ax.lines[0].get_ydata()) == list(table["response_s"])


def test_ecdf_draws_the_measured_fractions_and_names_p50_and_p95():
    ax = plots.ecdf({"synchronous": [1.0, 2.0, 3.0, 4.0]})
    assert list(ax.lines[0].get_xdata())[:-1] == [1, 1, 2, 3, 4]
    assert list(ax.lines[0].get_ydata()) == [0, 0.25, 0.5, 0.75, 1, 1]
    assert sorted(texts(ax)) == ["synchronous p50: 2 s", "synchronous p95: 4 s"]


def test_ecdf_of_very_different_times_has_a_logarithmic_axis_and_says_so():
    near = plots.ecdf({"a": [1, 2], "b": [30, 40]})
    far = plots.ecdf({"a": [0.01, 0.02], "b": [30, 40]})
    assert (near.get_xscale(), far.get_xscale()) == ("linear", "log")
    assert "logarithmic" in far.get_xlabel()
    assert "logarithmic" not in near.get_xlabel()


def test_ecdf_stays_below_the_top_where_answers_never_came():
    ax = plots.ecdf({"synchronous": [1.0, float("nan")]})
    assert ax.lines[0].get_ydata()[-1] == 0.5
    assert texts(ax) == ["synchronous p50: 1 s"]


def test_ecdf_names_the_last_point_to_its_right_where_no_curve_runs():
    slow, quick = [5 + n / 3 for n in range(30)], [5 + n / 30 for n in range(30)]
    ax = plots.ecdf({"with 4": slow, "with 8": quick})
    (last,) = (text for text in ax.texts if "with 4 p95" in text.get_text())
    (other,) = (text for text in ax.texts if "with 8 p95" in text.get_text())
    assert (last.get_ha(), other.get_ha()) == ("left", "right")
    assert other.xyann[1] == 0
    ax.figure.draw_without_rendering()
    assert last.get_window_extent().x1 <= ax.get_window_extent().x1


@pytest.mark.parametrize("frames", [{}, [1, 2], None])
def test_ecdf_without_a_dict_of_values_shows_how_to_call_it(frames):
    with pytest.raises(InputError, match="pass a dict"):
        plots.ecdf(frames)


def test_completion_against_response_has_a_dot_an_order_for_both():
    ax = plots.completion_against_response({"decoupled": through_queues()})
    answered, _, done, _ = ax.lines
    assert list(answered.get_xdata()) == [pytest.approx(0.2)]
    assert list(done.get_xdata()) == [pytest.approx(10.2)]
    assert rows_of(ax) == ["decoupled\nanswered", "decoupled\norder done"]
    assert texts(ax) == ["median 0.20 s", "median 10.2 s"]


def test_completion_against_response_counts_the_orders_that_are_not_done():
    unfinished = through_queues().iloc[:-1]
    events = pd.concat([through_queues().replace({"order_id": {"a": "b"}}), unfinished])
    ax = plots.completion_against_response(events)
    assert "median 10.2 s, 1 not yet" in texts(ax)


def test_backlog_draws_the_samples_and_names_the_peak():
    ax = plots.backlog(depths((5, 0), (6, 3), (8, 1)))
    assert list(ax.lines[0].get_xdata()) == [0, 1, 3]
    assert list(ax.lines[0].get_ydata()) == [0, 3, 1]
    assert "payment_processing: 3" in texts(ax)
    assert ax.get_title(loc="left") == "Backlog: up to 3 messages in payment_processing"


def test_backlog_marks_crash_and_return_but_not_the_first_start_or_the_last_stop():
    ax = plots.backlog(
        depths(
            (0, "up", "payment"),
            (0, 0),
            (1, "mark", "probe", None, "sale begins"),
            (2, "crashed", "payment"),
            (4, 3),
            (5, "up", "payment"),
            (7, 0),
            (8, "stopped", "payment"),
        )
    )
    marked = [text for text in texts(ax) if "processing" not in text]
    assert marked == ["sale begins", "payment crashes", "payment is back"]
    assert [line.get_xdata()[0] for line in ax.lines[1:]] == [1, 2, 5]


def bands(ax):
    """From when to when each fault is drawn."""
    return [(each.get_x(), each.get_x() + each.get_width()) for each in ax.patches]


def test_backlog_has_a_band_a_fault_from_its_beginning_until_it_is_mended():
    ax = plots.backlog(
        depths(
            (0, 0),
            (1, "planned", "broker", None, "kill broker after 2.0 s for 3.0 s"),
            (2, "fault", "broker", None, "kill broker"),
            (3, "fault", "email", None, "refuse"),
            (5, "mended", "broker", None, "kill broker"),
            (5.5, "missed", "email", None, "crash after work"),
            (6, "fault", "email", None, "drop connection"),
            (6, "mended", "email", None, "drop connection"),
            (10, 3),
        )
    )
    killed, refused, dropped = bands(ax)
    assert killed == (2, 5)
    assert refused == (3, 10)  # it is not mended
    assert dropped[0] == 6
    assert 0 < dropped[1] - dropped[0] < 0.1  # momentary, and still to be seen
    assert {"kill broker", "refuse: email", "drop connection: email", "grey: 3 faults"} <= set(
        texts(ax)
    )


def test_a_crash_in_a_storm_is_named_once():
    rows = [(2, "fault", "email", None, "crash after work"), (2, "crashed", "email")]
    ax = plots.backlog(depths((0, 0), *rows, (3, 1)))
    assert [text for text in texts(ax) if "crash" in text] == ["email crashes"]
    assert len(bands(ax)) == 1


def test_a_long_storm_has_bands_without_words_and_marks_with_theirs():
    faults = [
        (n, kind, "email", None, "refuse")
        for n in range(1, 30)
        for kind in ("fault", "mended", "crashed", "up")
    ]
    ax = plots.backlog(depths((0, 0), *faults, (30, "mark", "x", None, "calm"), (31, 5)))
    assert len(bands(ax)) == 29
    assert [text for text in texts(ax) if "processing" not in text] == ["calm", "grey: 29 faults"]


def test_backlog_names_the_small_queues_in_one_line():
    ax = plots.backlog(depths((0, 50), (1, "depth", "email_notifications", None, 2)))
    assert "never more than 2 in email_notifications" in texts(ax)


def test_backlog_keeps_the_peak_when_there_are_more_samples_than_pixels():
    rows = [(n / 100, 7 if n % 2 else 3) for n in range(20_000)]
    rows[12_345] = (123.45, 999)
    line = plots.backlog(depths(*rows)).lines[0]
    assert len(line.get_xdata()) < 5000
    assert max(line.get_ydata()) == 999
    assert line.get_xdata()[list(line.get_ydata()).index(999)] == pytest.approx(123.45)
    assert line.get_xdata()[-1] == pytest.approx(199.99)


def test_backlog_without_samples_says_what_records_them():
    with pytest.raises(InputError, match=r"labkit\.Probe"):
        plots.backlog(one_after_the_other(1))


def test_swimlanes_show_waiting_work_messages_and_statuses():
    ax = plots.swimlanes(through_queues(), "a")
    assert rows_of(ax) == ["customer", "order service", "payment", "shipping"]
    drawn = [tuple(round(part, 6) for part in bar) for bar in bars(ax)]
    assert (2, 0.1, 4.0) in drawn
    assert (2, 4.1, 3.0) in drawn
    assert (3, 7.1, 1.0) in drawn
    assert (3, 8.1, 2.0) in drawn
    assert {"waits 4.00 s", "3.00 s", "order.created", "completed"} <= set(texts(ax))
    assert ax.get_title(loc="left") == "a: answered after 0.20 s, done after 10.2 s"
    assert "pale: waits, queued or fetched ahead" in " ".join(texts(ax))


def test_swimlanes_put_a_consumer_named_after_its_queue_into_its_departments_lane():
    events = through_queues()
    delivered = events["kind"] == "delivered"
    events["service"] = events["service"].astype(object).where(~delivered, events["detail"])
    assert rows_of(plots.swimlanes(events, "a")) == [
        "customer",
        "order service",
        "payment",
        "shipping",
    ]


def test_topology_shows_counts_consumers_and_what_is_missing():
    ax = plots.topology(
        [("orders", "order.created", "payment_processing"), ("orders", "#", "analytics_events")],
        {"payment_processing": 17, "analytics_events": 2},
        [("payment_processing", "payment")] * 4,
    )
    assert {
        "orders",
        "order.created",
        "#",
        "payment_processing:  17",
        "payment \u00d7 4",
        "analytics_events:  2",
        "no consumer",
    } <= set(texts(ax))
    assert texts(ax).count("no consumer") == 1
    assert ax.get_title(loc="left") == "Who gets which messages: 19 are waiting"


def test_topology_says_that_nobody_consumes_only_where_it_is_told_of_consumers():
    orders = [("orders", "#", "analytics_events")]
    assert {"consumers", "no consumer"} <= set(texts(plots.topology(orders, consumers=[])))
    without = plots.topology(orders)
    assert not {"consumers", "no consumer"} & set(texts(without))
    width_in, full_in = (
        ax.figure.get_figwidth() for ax in (without, plots.topology(orders, consumers=[]))
    )
    assert width_in < full_in


def test_topology_speaks_of_ready_messages_only_where_it_has_counts():
    orders = [("orders", "#", "analytics_events")]
    assert "queue" in texts(plots.topology(orders))
    assert "queue: ready messages" in texts(plots.topology(orders, {"analytics_events": 0}))


def test_topology_shows_an_exchange_to_which_nothing_is_bound():
    ax = plots.topology([("orders", "", None)], [("mailbox", 1)])
    assert any("nothing bound" in text for text in texts(ax))
    assert ax.get_title(loc="left").endswith("1 is waiting")


def test_topology_of_nothing_and_of_half_a_binding_are_clear_errors():
    with pytest.raises(InputError, match="nothing to draw"):
        plots.topology([])
    with pytest.raises(InputError, match="three parts"):
        plots.topology([("orders", "payment_processing")])


def test_a_sequence_has_a_row_a_message_and_marks_what_was_overtaken_by_its_own_customer():
    ax = plots.sequence(two_hands())
    assert rows_of(ax) == ["anna-1", "anna-2", "ben-1"]
    assert bars(ax) == [(0, 0, 4), (1, 0, 1), (2, 1, 1)]
    marks = {line.get_label(): line.get_xydata().tolist() for line in ax.lines}
    assert marks["overtaken by own customer"] == [[4, 0]]
    assert marks["not overtaken"] == [[1, 1], [2, 2]]
    assert marks["overtaken"] == []
    assert "2 overtakings, 1 of them" in ax.get_title(loc="left")
    assert [text.get_text() for text in ax.get_legend().get_texts()] == [
        "first",
        "second",
        "not overtaken",
        "overtaken by own customer",
    ]


def test_a_sequence_hatches_what_a_crash_has_cut_off_and_says_when():
    ax = plots.sequence(two_hands(crash=True))
    assert bars(ax) == [(0, 0, 3), (1, 0, 1), (2, 1, 1), (0, 3, 4)]
    assert [bar.get_hatch() is not None for bar in ax.patches] == [True, False, False, False]
    assert texts(ax) == ["first crashes"]


def test_a_sequence_that_was_kept_says_so_and_one_of_many_numbers_its_rows():
    rows = []
    for n in range(40):
        rows += [(0, "published", "shop", f"c{n}-1"), (n, "started", "one", f"c{n}-1")]
        rows += [(n + 1, "done", "one", f"c{n}-1")]
    ax = plots.sequence(frame_of(*rows))
    assert ax.get_title(loc="left") == "Done in the order in which they were sent"
    assert rows_of(ax) == ["1", *(str(n) for n in range(5, 41, 5))]


def test_a_sequence_on_which_nobody_worked_is_a_clear_error():
    with pytest.raises(InputError, match="Nobody has worked"):
        plots.sequence(frame_of((0, "published", "shop", "anna-1")))


def test_costs_of_order_have_a_bar_an_arrangement_with_its_overtakings():
    ax = plots.costs_of_order(three_orders())
    assert rows_of(ax)[1:] == [
        "four\novertakings: 31, within a customer: 9",
        "by customer\novertakings: 40, within a customer: 0",
    ]
    assert [length for _, _, length in bars(ax)] == [2.0, 7.8, 5.1]
    assert texts(ax) == ["2.0 a second", "7.8 a second", "5.1 a second"]
    with pytest.raises(InputError, match="no column overtaken_by_own"):
        plots.costs_of_order(three_orders().drop(columns="overtaken_by_own"))
    with pytest.raises(InputError, match="no row"):
        plots.costs_of_order(three_orders().iloc[:0])


def test_labels_that_want_one_place_stand_apart_and_in_order():
    placed = apart([1.0, 1.0, 5.0, 1.2], 0.5)
    assert placed[2] == 5
    assert sorted(placed[n] for n in (0, 1, 3)) == pytest.approx([0.5667, 1.0667, 1.5667], abs=1e-3)
    assert max(placed[0], placed[1]) < placed[3]


@pytest.fixture
def displayed(monkeypatch):
    """What was displayed, as `(data, metadata)`."""
    shown = []
    monkeypatch.setattr(
        "IPython.display.display",
        lambda data, metadata=None, raw=False: shown.append((data, metadata)),
    )
    return shown


def test_show_displays_a_png_with_its_words(displayed):
    plots.show(EVERY["ecdf"](), alt="Half of the\n customers wait 5 s & more.")
    (picture, metadata), (description, _) = displayed
    words = "Half of the customers wait 5 s & more."
    assert picture["image/png"].startswith(b"\x89PNG")
    assert metadata == {"image/png": {"alt": words}}
    assert "wait 5 s &amp; more." in description["text/html"]


def test_show_says_the_same_on_every_run_apart_from_the_pixels(displayed):
    for _ in range(2):
        plots.show(EVERY["backlog"](), alt="It grows.")
    text = [json.dumps(data | {"image/png": ""}) for data, _ in displayed]
    assert text[:2] == text[2:]
    assert "0x" not in text[0] + text[1]


@pytest.mark.parametrize("alt", ["", "  \n", None])
def test_show_without_words_is_a_clear_error(displayed, alt):
    with pytest.raises(InputError, match="no words"):
        plots.show(EVERY["ecdf"](), alt=alt)
    assert displayed == []


def test_show_takes_a_figure_and_refuses_what_is_none(displayed):
    plots.show(EVERY["ecdf"]().figure, alt="x")
    with pytest.raises(InputError, match="a str"):
        plots.show("picture", alt="x")
    with pytest.raises(InputError, match="12 inches"):
        plots.show(plots.new_axes(width_in=12), alt="x")


@pytest.mark.parametrize(
    "draw",
    [plots.response_timeline, plots.backlog, plots.completion_against_response],
)
def test_pictures_of_no_events_are_clear_errors(draw):
    with pytest.raises(InputError):
        draw(Recorder(Pace(1)).frame())


def test_outcomes_has_a_bar_a_design_whose_parts_are_what_became_of_its_orders():
    ax = plots.outcomes(four_designs())
    assert rows_of(ax) == list(four_designs().index)
    assert [length for row, _, length in bars(ax) if row == 0] == [259, 41]
    assert [length for row, _, length in bars(ax) if row == 1] == [257, 23, 20]
    assert [length for row, _, length in bars(ax) if row == 3] == [300]
    assert texts(ax)[2] == "299 done once, 1 doubled, 0 lost"


def test_outcomes_can_be_told_apart_without_their_colours():
    hatches = [bar.get_hatch() for bar in plots.outcomes(four_designs()).patches[2:5]]
    assert len(set(hatches)) == 3


def test_outcomes_keeps_a_single_order_in_sight():
    one = [length for row, _, length in bars(plots.outcomes(four_designs())) if row == 2][1]
    assert one >= 1


def test_outcomes_refuses_what_is_none():
    with pytest.raises(InputError, match="nothing to draw"):
        plots.outcomes(pd.DataFrame({"burnt": [1]}, index=["a"]))
    with pytest.raises(InputError, match="nothing to draw"):
        plots.outcomes(four_designs().iloc[:0])


def marks(ax):
    """Each kind of mark in a picture of deliveries, as `(time, row)` pairs."""
    return {
        line.get_label(): [(round(x, 3), y) for x, y in zip(*line.get_data(), strict=True)]
        for line in ax.lines
    }


def test_deliveries_says_what_became_of_each():
    assert marks(plots.deliveries(three_messages())) == {
        "put back at once": [(0.2, 2)],
        "to be tried later": [(0.1, 1), (1.2, 1)],
        "dead letter": [(0.3, 2)],
        "done": [(0.0, 0), (3.4, 1)],
    }


def test_deliveries_puts_the_plan_behind_what_was():
    plan = {"b": [0, 1, 3, 7]}
    ax = plots.deliveries(three_messages(), planned=plan)
    assert marks(ax)["planned"] == [(0.1, 1), (1.1, 1), (3.1, 1), (7.1, 1)]
    assert ax.get_xlim()[1] > 7.1


def test_deliveries_names_what_never_came():
    ax = plots.deliveries(three_messages(), messages=["a", "z"])
    assert rows_of(ax) == ["a", "z"]
    assert texts(ax) == ["never delivered"]
    assert texts(plots.deliveries(three_messages())) == ["3 deliveries", "2 deliveries"]


def test_deliveries_of_nothing_is_a_clear_error():
    with pytest.raises(InputError, match="No message was delivered"):
        plots.deliveries(frame_of((1.0, "acked", "desk", "a", "labels")))


def an_outage():
    """Orders at 0, 2, 4 and 6 s; payment does the first, crashes, comes back and does the others."""
    orders = [
        (t, "published", "order_service", f"order-{t}", "order.created") for t in (0, 2, 4, 6)
    ]
    payments = [(t, "done", "payment", f"order-{n}", "charged") for n, t in enumerate((1, 7, 8, 9))]
    rest = [
        (3, "crashed", "payment"),
        (5, "up", "payment"),
        (6, "done", "email", "order-0", "sent"),
    ]
    return frame_of(*sorted([*orders, *payments, *rest], key=lambda row: row[0]))


def test_totals_step_up_once_for_each_event_of_the_kind_and_service():
    which = {"orders": ("published", "order_service"), "payments": ("done", "payment")}
    ax = plots.totals(an_outage(), which)
    orders, payments = (line for line in ax.lines if line.get_label() in which)
    assert list(orders.get_xdata()) == [0, 0, 2, 4, 6, 9]
    assert list(orders.get_ydata()) == [0, 1, 2, 3, 4, 4]
    assert list(payments.get_xdata()) == [0, 1, 7, 8, 9, 9]
    assert {"orders: 4", "payments: 4"} <= set(texts(ax))


def test_totals_mark_the_crash_and_the_return():
    ax = plots.totals(an_outage(), {"payments": ("done", "payment")})
    assert {"payment crashes", "payment is back"} <= set(texts(ax))
    assert {3, 5} <= {line.get_xdata()[0] for line in ax.lines}


def test_totals_have_a_band_a_fault():
    frame = pd.concat([an_outage(), frame_of((4, "fault", "payment", None, "slow"))])
    ax = plots.totals(frame.sort_values("time_s"), {"payments": ("done", "payment")})
    assert bands(ax) == [(4, 9)]
    assert "slow: payment" in texts(ax)


def test_totals_keep_a_line_that_stays_at_nothing():
    which = {"payments": ("done", "payment"), "labels": ("done", "shipping")}
    assert "labels: 0" in texts(plots.totals(an_outage(), which))


def test_totals_of_nothing_are_clear_errors():
    with pytest.raises(InputError, match="nothing to count"):
        plots.totals(an_outage(), {})
    with pytest.raises(InputError, match="None of it has happened"):
        plots.totals(an_outage(), {"labels": ("done", "shipping")})
    with pytest.raises(InputError, match="no such kind of event"):
        plots.totals(an_outage(), {"labels": ("printed", "shipping")})
