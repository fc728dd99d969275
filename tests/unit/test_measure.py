"""Measures against cases that can be worked out by hand, and properties that must always hold."""

import random

import numpy as np
import pandas as pd
import pytest

from labkit import measure
from labkit.clock import Pace
from labkit.errors import InputError
from labkit.events import KINDS, Recorder
from labkit.measure.queues import matches


def frame_of(*rows):
    """A frame as the recorder makes it, from `(time, kind, service[, order[, detail]])`."""
    filled = [tuple(row) + (None,) * (5 - len(row)) for row in rows]
    columns = list(zip(*filled, strict=True)) or [()] * 5
    return pd.DataFrame(
        {
            "time_s": np.array(columns[0], dtype=float),
            "kind": pd.Categorical(columns[1], categories=list(KINDS)),
            "service": pd.Categorical(columns[2]),
            "order_id": pd.Series(columns[3], dtype=object),
            "detail": pd.Series(columns[4], dtype=object),
        }
    )


def test_these_tests_frames_are_like_the_recorders():
    recorder = Recorder(Pace(1))
    recorder.record("answered", "customer", "a", 200)
    made = frame_of((1, "answered", "customer", "a", 200))
    pd.testing.assert_series_equal(recorder.frame().dtypes, made.dtypes)


def test_a_response_time_counts_from_the_intended_moment_not_from_the_late_sending():
    table = measure.response_times(
        frame_of(
            (1.0, "intended", "customer", "a", 1),
            (4.0, "sent", "customer", "a", 1),
            (6.5, "answered", "customer", "a", 200),
        )
    )
    assert table.to_dict("records") == [
        {
            "order_id": "a",
            "intended_s": 1.0,
            "sent_s": 4.0,
            "answered_s": 6.5,
            "response_s": 5.5,
            "outcome": 200,
        }
    ]


def test_an_order_without_an_answer_stays_in_the_table():
    table = measure.response_times(
        frame_of(
            (1, "intended", "customer", "a"),
            (2, "intended", "customer", "b"),
            (3, "answered", "customer", "b", "timeout"),
        )
    )
    assert list(table["order_id"]) == ["a", "b"]
    assert table["response_s"].isna().tolist() == [True, False]
    assert table["outcome"].tolist() == [None, "timeout"]


def test_a_status_is_a_number_even_where_it_was_recorded_as_text():
    table = measure.response_times(frame_of((1, "answered", "customer", "a", "503")))
    assert table["outcome"].tolist() == [503]


def test_a_customer_who_orders_twice_under_one_id_has_two_response_times():
    table = measure.response_times(
        frame_of(
            (0, "intended", "customer", "a"),
            (5, "answered", "customer", "a", 502),
            (6, "intended", "customer", "a"),
            (9, "answered", "customer", "a", 200),
        )
    )
    assert table["response_s"].tolist() == [5, 3]
    assert table["outcome"].tolist() == [502, 200]


def test_arrivals_are_in_the_order_of_time_even_where_threads_recorded_them_otherwise():
    table = measure.response_times(
        frame_of(
            (2, "intended", "customer", "late"),
            (1, "intended", "customer", "early"),
            (4, "answered", "customer", "late", 200),
            (3, "answered", "customer", "early", 200),
        )
    )
    assert list(table["order_id"]) == ["early", "late"]
    assert table["response_s"].tolist() == [2, 2]


def test_completion_counts_from_the_customers_intention_to_the_first_terminal_status():
    table = measure.completion_times(
        frame_of(
            (1, "intended", "customer", "a"),
            (1.2, "status", "order_service", "a", "pending"),
            (4, "status", "order_service", "a", "paid"),
            (6, "status", "order_service", "a", "completed"),
            (7, "status", "order_service", "a", "completed"),
        )
    )
    assert table.to_dict("records") == [
        {
            "order_id": "a",
            "created_s": 1.0,
            "completed_s": 6.0,
            "completion_s": 5.0,
            "status": "completed",
        }
    ]


def test_completion_tells_declined_unfinished_and_unknown_orders_apart():
    table = measure.completion_times(
        frame_of(
            (1, "intended", "customer", "unknown"),
            (2, "status", "order_service", "declined", "pending"),
            (3, "status", "order_service", "under way", "pending"),
            (4, "status", "order_service", "under way", "paid"),
            (5, "status", "order_service", "declined", "declined"),
        )
    ).set_index("order_id")
    assert table["status"].to_dict() == {
        "unknown": None,
        "declined": "declined",
        "under way": "paid",
    }
    assert table.loc["declined", "completion_s"] == 3
    assert table.loc[["unknown", "under way"], "completion_s"].isna().all()


def test_spans_of_one_service_and_order_pair_first_in_first_out():
    table = measure.spans(
        frame_of(
            (0, "started", "email", "a"),
            (1, "started", "email", "a"),
            (1.5, "started", "email", "b"),
            (2, "done", "email", "a", "first"),
            (5, "failed", "email", "a", "smtp is down"),
            (6, "done", "email", "b", "ok"),
        )
    )
    assert table["order_id"].tolist() == ["a", "a", "b"]
    assert table["duration_s"].tolist() == [2, 4, 4.5]
    assert table["result"].tolist() == ["first", "failed", "ok"]


def test_a_span_that_has_not_ended_is_kept():
    table = measure.spans(frame_of((0, "started", "email", "a")))
    assert table["duration_s"].isna().all()
    assert table["result"].tolist() == [None]


def test_a_crash_ends_the_spans_of_its_service_alone_and_the_redelivery_starts_anew():
    table = measure.spans(
        frame_of(
            (0, "started", "payment", "a"),
            (0, "started", "email", "a"),
            (1, "crashed", "payment"),
            (5, "started", "payment", "a"),
            (8, "done", "payment", "a", "ok"),
            (9, "done", "email", "a", "ok"),
        ),
        "a",
    )
    payment = table[table["service"] == "payment"]
    assert payment["duration_s"].tolist() == [1, 3]
    assert payment["result"].tolist() == ["crashed", "ok"]
    assert table.loc[table["service"] == "email", "duration_s"].tolist() == [9]


def test_spans_of_an_unknown_order_list_the_known_ones():
    with pytest.raises(InputError, match=r"(?s)'nope'.*choose one of: a, b"):
        measure.spans(frame_of((0, "started", "x", "a"), (1, "started", "x", "b")), "nope")


@pytest.mark.parametrize("seed", range(5))
def test_whatever_was_started_is_in_one_span_and_durations_add_up(seed):
    chance = random.Random(seed)
    rows, under_way, time_s = [], [], 0.0
    for _ in range(300):
        time_s += chance.random()
        key = (chance.choice(["x", "y"]), chance.choice("abc"))
        if under_way and chance.random() < 0.5:
            rows.append((time_s, "done", *under_way.pop(chance.randrange(len(under_way))), "ok"))
        else:
            rows.append((time_s, "started", *key))
            under_way.append(key)
    table = measure.spans(frame_of(*rows))
    ends = sum(row[0] for row in rows if row[1] == "done")
    assert len(table) == sum(row[1] == "started" for row in rows)
    assert table["end_s"].isna().sum() == len(under_way)
    assert table["end_s"].sum() == pytest.approx(ends)
    assert (table["duration_s"].dropna() > 0).all()
    for _, mine in table.dropna(subset="end_s").groupby(["service", "order_id"]):
        assert mine["end_s"].is_monotonic_increasing


def test_a_wait_lasts_from_the_orders_latest_message_to_the_delivery():
    table = measure.waits(
        frame_of(
            (0, "published", "order_service", "a", "order.created"),
            (4, "delivered", "payment", "a", "payment_processing"),
            (7, "published", "payment", "a", "payment.completed"),
            (9, "delivered", "shipping", "a", "shipping_labels"),
        )
    )
    assert table["wait_s"].tolist() == [4, 2]
    assert table["publisher"].tolist() == ["order_service", "payment"]
    assert table["routing_key"].tolist() == ["order.created", "payment.completed"]


def test_bindings_tell_two_messages_apart_that_wait_at_the_same_time():
    events = frame_of(
        (0, "published", "order_service", "a", "order.created"),
        (3, "published", "payment", "a", "payment.completed"),
        (5, "delivered", "email", "a", "email_notifications"),
        (6, "delivered", "email", "a", "email_notifications"),
        (7, "delivered", "shipping", "a", "shipping_labels"),
    )
    bindings = [
        ("orders", "order.*", "email_notifications"),
        ("orders", "payment.*", "email_notifications"),
        ("orders", "payment.completed", "shipping_labels"),
    ]
    assert measure.waits(events, bindings)["wait_s"].tolist() == [5, 3, 4]
    assert measure.waits(events)["wait_s"].tolist() == [2, 3, 4]


def test_a_delivery_noted_just_before_its_publishing_has_waited_for_nothing():
    table = measure.waits(
        frame_of(
            (5.00, "delivered", "payment", "a", "payment_processing"),
            (5.01, "published", "order_service", "a", "order.created"),
        )
    )
    assert table["wait_s"].tolist() == [0]


def test_a_delivery_of_a_message_that_nobody_noted_has_no_wait():
    table = measure.waits(frame_of((5, "delivered", "payment", "a", "q")))
    assert table["wait_s"].isna().all()
    assert table["publisher"].tolist() == [None]


@pytest.mark.parametrize(
    ("pattern", "key", "taken"),
    [
        ("#", "", True),
        ("#", "a.b", True),
        ("*", "a", True),
        ("*", "a.b", False),
        ("a.*", "a.b", True),
        ("a.*", "a", False),
        ("a.#", "a", True),
        ("a.#", "a.b.c", True),
        ("#.c", "a.b.c", True),
        ("#.c", "c", True),
        ("#.c", "c.d", False),
        ("a", "b", False),
        ("", "", True),
        ("a", "", False),
    ],
)
def test_patterns_match_as_a_topic_exchange_does(pattern, key, taken):
    assert matches(pattern, key) is taken


def test_backlog_holds_each_queues_level_until_its_next_sample():
    table = measure.backlog(
        frame_of(
            (0, "depth", "b", None, 3),
            (1, "depth", "a", None, 5),
            (2, "depth", "b", None, 0),
        )
    )
    assert table.index.tolist() == [0, 1, 2]
    assert table.columns.tolist() == ["a", "b"]
    assert table["a"].tolist() == [0, 5, 5]
    assert table["b"].tolist() == [3, 3, 0]
    assert (table.dtypes == np.int64).all()


def test_backlog_keeps_the_last_of_several_samples_at_one_moment():
    table = measure.backlog(
        frame_of((1, "depth", "a", None, 3), (1, "depth", "b", None, 7), (1, "depth", "a", None, 4))
    )
    assert table.to_dict("records") == [{"a": 4, "b": 7}]


def test_peak_tells_how_high_when_first_and_what_is_left():
    table = measure.peak(
        frame_of(
            (0, "depth", "a", None, 1),
            (2, "depth", "a", None, 9),
            (3, "depth", "a", None, 9),
            (4, "depth", "a", None, 2),
        )
    )
    assert table.loc["a"].to_dict() == {"peak": 9, "at_s": 2, "last": 2}


def test_in_flight_goes_up_with_a_delivery_and_down_with_any_answer():
    table = measure.in_flight(
        frame_of(
            (0, "delivered", "email", "a", "q"),
            (1, "delivered", "email", "b", "q"),
            (2, "acked", "email", "a", "q"),
            (3, "requeued", "email", "b", "q"),
        )
    )
    assert table["q"].tolist() == [1, 2, 1, 0]


def test_a_crash_returns_what_was_in_hand_and_a_redelivery_counts_once():
    table = measure.in_flight(
        frame_of(
            (0, "delivered", "email", "a", "q"),
            (1, "crashed", "email"),
            (2, "redelivered", "email", "a", "q"),
            (3, "redelivered", "email", "a", "q"),
            (4, "acked", "email", "a", "q"),
        )
    )
    assert table["q"].tolist() == [1, 0, 1, 1, 0]


def test_ecdf_gives_the_fraction_up_to_each_value():
    table = measure.ecdf([3, 1, 3, 2])
    assert table["value"].tolist() == [1, 2, 3]
    assert table["fraction"].tolist() == [0.25, 0.5, 1]


def test_what_never_came_counts_as_longer_than_everything():
    assert measure.ecdf([1, np.nan])["fraction"].tolist() == [0.5]
    assert measure.percentiles([1, np.nan]).to_dict() == {"p50": 1, "p95": np.inf, "p99": np.inf}


def test_percentiles_are_nearest_ranks():
    values = range(1, 101)
    assert measure.percentiles(values).to_dict() == {"p50": 50, "p95": 95, "p99": 99}
    assert measure.percentiles(values, [0, 7, 99.5, 100]).tolist() == [1, 7, 100, 100]


@pytest.mark.parametrize("seed", range(5))
def test_percentiles_agree_with_numpys_nearest_rank_and_with_the_ecdf(seed):
    values = np.random.default_rng(seed).exponential(size=37)
    wanted = np.percentile(values, [50, 95, 99], method="inverted_cdf")
    assert measure.percentiles(values).to_numpy() == pytest.approx(wanted)
    table = measure.ecdf(values)
    reached = table.loc[table["fraction"] >= 0.95, "value"].iloc[0]
    assert reached == measure.percentiles(values)["p95"]


@pytest.mark.parametrize("values", [[], [np.nan, np.nan], pd.Series(dtype=float)])
@pytest.mark.parametrize("function", [measure.ecdf, measure.percentiles])
def test_no_values_are_a_clear_error(function, values):
    with pytest.raises(InputError, match="nothing to count"):
        function(values)


def test_values_that_are_no_numbers_are_a_clear_error():
    with pytest.raises(InputError, match="not numbers"):
        measure.ecdf(["a"])


def test_a_percentile_outside_0_to_100_is_a_clear_error():
    with pytest.raises(InputError, match="q=101"):
        measure.percentiles([1], [50, 101])


def test_throughput_counts_by_window_and_shows_silent_ones():
    table = measure.throughput(
        frame_of(
            (10.1, "done", "email", "a"),
            (10.2, "done", "email", "b"),
            (12.9, "done", "payment", "a"),
            (14.0, "up", "email"),
        ),
        window_s=2,
    )
    assert table["time_s"].tolist() == [10, 12, 14]
    assert table["per_s"].tolist() == [1, 0.5, 0]


def test_throughput_of_one_service_leaves_the_others_out():
    events = frame_of((0, "done", "email", "a"), (0.5, "done", "payment", "a"))
    assert measure.throughput(events, service="payment")["per_s"].tolist() == [1]


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "finished"}, "choose one of: intended, sent"),
        ({"service": "nobody"}, "choose one of: email"),
        ({"window_s": 0}, "window_s=0"),
    ],
)
def test_bad_input_to_throughput_says_what_there_is(options, told):
    with pytest.raises(InputError, match=told):
        measure.throughput(frame_of((0, "done", "email", "a")), **options)


FROM_EVENTS = [
    measure.response_times,
    measure.completion_times,
    measure.spans,
    measure.waits,
    measure.backlog,
    measure.peak,
    measure.throughput,
    measure.in_flight,
]


@pytest.mark.parametrize("function", FROM_EVENTS)
def test_no_events_give_an_empty_table_with_the_same_columns(function):
    empty = function(Recorder(Pace(1)).frame())
    assert len(empty) == 0


@pytest.mark.parametrize("function", FROM_EVENTS)
def test_the_events_stay_as_they_are(function):
    events = frame_of(
        (2, "intended", "customer", "a", 1),
        (1, "depth", "q", None, 1),
        (3, "started", "payment", "a"),
        (4, "done", "payment", "a", "ok"),
    )
    before = events.copy(deep=True)
    function(events)
    pd.testing.assert_frame_equal(events, before)


@pytest.mark.parametrize("function", FROM_EVENTS)
def test_a_frame_that_holds_no_events_is_a_clear_error(function):
    with pytest.raises(InputError, match=r"no column time_s.*there are: a"):
        function(pd.DataFrame({"a": [1]}))
    with pytest.raises(InputError, match="a list where a frame was expected"):
        function([1, 2])


def test_overtakings_are_counted_by_who_was_overtaken_by_how_many():
    assert measure.overtaken([1, 2, 3, 4]).tolist() == [0, 0, 0, 0]
    assert measure.overtaken([4, 3, 2, 1]).tolist() == [3, 2, 1, 0]
    # The first was done third: two that were sent later went before it.
    assert measure.overtaken([3, 1, 2, 4]).tolist() == [2, 0, 0, 0]
    assert measure.overtaken([3, 1, 2, 4], ["anna", "ben", "anna", "ben"]).tolist() == [1, 0, 0, 0]
    assert measure.overtaken([]).tolist() == []


def test_what_is_not_done_overtakes_nobody_and_is_overtaken_by_all_that_are():
    nan = float("nan")
    assert measure.overtaken([nan, 1, nan, 2]).tolist() == [2, 0, 1, 0]


def test_each_message_needs_its_group():
    with pytest.raises(InputError, match="needs its group"):
        measure.overtaken([1, 2], ["anna"])


def test_overtakings_are_the_pairs_that_came_in_the_other_order():
    chance = random.Random(8)
    for _ in range(50):
        places = chance.sample(range(30), 30)
        groups = [chance.randrange(4) for _ in places]
        every = [(i, j) for j in range(30) for i in range(j) if places[i] > places[j]]
        own = [(i, j) for i, j in every if groups[i] == groups[j]]
        assert measure.overtaken(places).sum() == len(every)
        assert measure.overtaken(places, groups).sum() == len(own)


def test_a_sequence_has_the_places_in_which_messages_were_sent_and_done():
    table = measure.sequence(
        frame_of(
            (0.0, "published", "order_service", "anna-1"),
            (0.1, "published", "order_service", "ben-1"),
            (0.2, "published", "order_service", "anna-2"),
            (0.3, "published", "order_service", "ben-2"),
            (1.0, "started", "first", "anna-1"),
            (1.0, "started", "second", "ben-1"),
            (2.0, "done", "second", "ben-1"),
            (2.0, "started", "second", "anna-2"),
            (3.0, "done", "second", "anna-2"),
            (4.0, "done", "first", "anna-1"),
        )
    ).set_index("order_id")
    assert table["customer"].tolist() == ["anna", "ben", "anna", "ben"]
    assert table["sent"].tolist() == [1, 2, 3, 4]
    assert table["done"].tolist()[:3] == [3, 1, 2]
    assert table["overtaken"].tolist() == [2, 0, 0, 0]
    assert table["overtaken_by_own"].tolist() == [1, 0, 0, 0]
    assert table.loc["anna-1", ["started_s", "done_s", "service"]].tolist() == [1.0, 4.0, "first"]
    assert table.loc["ben-2", ["done", "done_s", "started_s"]].isna().all()
    assert table.loc["ben-2", "service"] is None


def test_work_that_was_done_twice_counts_the_first_time():
    table = measure.sequence(
        frame_of(
            (0.0, "published", "order_service", "anna-1"),
            (1.0, "started", "first", "anna-1"),
            (2.0, "done", "first", "anna-1"),
            (3.0, "started", "second", "anna-1"),
            (4.0, "done", "second", "anna-1"),
        )
    )
    assert table[["done", "done_s", "service"]].values.tolist() == [[1, 2.0, "first"]]


def test_a_sequence_of_nothing_is_a_clear_error():
    with pytest.raises(InputError, match="Nothing was sent"):
        measure.sequence(frame_of((1, "done", "first", "anna-1")))
