"""The check of notebook 07's last exercise: who works, who acknowledges, and when."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Callable
from typing import Any

import pika

from labkit import amqp
from labkit.checks import NotYet
from labkit.exercises._answers import noting, persistent

REPORTS = "exercise.reports"
#: So long may a handler keep the connection's thread, and an acknowledgement take, in real seconds.
PATIENCE_WALL_S = 4.0

Handler = Callable[..., object]


class _Report:
    """The work of the last exercise: it notes where it runs, and takes until it is told to end."""

    def __init__(self) -> None:
        self.owner = self.thread = threading.current_thread()
        self.begun, self.go_on, self.done = (threading.Event() for _ in range(3))

    def __call__(self, body: bytes) -> None:
        self.thread = threading.current_thread()
        self.begun.set()
        if self.thread is not self.owner:  # else nobody could tell it to go on
            self.go_on.wait(2 * PATIENCE_WALL_S)
        self.done.set()


def check_on_report(on_report: Handler, url: str) -> None:
    """Returns where the work runs beside the connection, and is acknowledged by its owner, after it.

    Raises:
        NotYet: it does not.
    """
    ours = amqp.connect(url, "check")
    try:
        channel = ours.channel()
        channel.queue_delete(REPORTS)
        channel.queue_declare(REPORTS, durable=True)
        channel.confirm_delivery()
        for number in (1, 2):
            channel.basic_publish("", REPORTS, b"a report", persistent(f"report-{number}"))
            _report(on_report, url)
    finally:
        if ours.is_open:
            ours.channel().queue_delete(REPORTS)
            ours.close()


def _report(on_report: Handler, url: str) -> None:
    """Has one report worked on by the learner's handler, and watches who does what."""
    connection = amqp.connect(url, "exercise")
    work = _Report()
    try:
        channel = connection.channel()
        notes = noting(channel)
        took: list[float] = []

        def on_message(*delivery: Any) -> None:
            if took:
                return  # it was put back, and comes again
            began = time.monotonic()
            on_report(*delivery, work)
            took.append(time.monotonic() - began)

        channel.basic_consume(REPORTS, on_message)
        _serve(connection, lambda: bool(took))
        _serve(connection, work.begun.is_set)
        if work.begun.is_set() and work.thread is work.owner:
            raise NotYet(
                "The work runs in the connection's thread",
                "in a thread of its own",
                "threading.Thread(target=...) gets the function itself; work(body) with brackets "
                "calls it there and then. While it runs, nobody answers heartbeats",
            )
        if took and took[0] > PATIENCE_WALL_S:
            raise NotYet(
                f"on_report took {took[0]:.1f} s: it returned when the work was done",
                "it returns at once",
                "thread.join() waits for the work, and nobody answers heartbeats meanwhile",
            )
        if not work.begun.is_set():
            raise NotYet(
                "work(body) was not called",
                "it is called once, in a thread that on_report starts",
                "no start() of the thread, or no call of work in it",
            )
        _serve(connection, lambda: False, for_wall_s=0.1)  # an early ack has come by then
        if notes.calls:
            raise NotYet(
                f"The message was answered ({notes.calls[0]}) while the work was still going on",
                "acknowledged when the work is done",
                "a crash during the work would lose the message",
            )
        work.go_on.set()
        with contextlib.suppress(TypeError):  # of a None that was handed over as a callback
            _serve(connection, lambda: bool(notes.calls))
        _judge_answer(work, notes.calls, notes.ack_threads)
    except Exception:
        work.go_on.set()
        if work.thread is not work.owner:
            work.thread.join(PATIENCE_WALL_S)  # it may hand something over, and needs a connection
        with contextlib.suppress(Exception):  # of what it handed over; a reason is there already
            connection.process_data_events(0)
        raise
    finally:
        work.go_on.set()
        if connection.is_open:
            connection.close()


def _serve(
    connection: pika.BlockingConnection,
    until: Callable[[], bool],
    for_wall_s: float = PATIENCE_WALL_S,
) -> None:
    """Does what a consumer's own thread does, until something is so or the time is over."""
    deadline = time.monotonic() + for_wall_s
    while not until() and time.monotonic() < deadline:
        connection.process_data_events(0.02)


def _judge_answer(work: _Report, calls: list[str], threads: list[int]) -> None:
    if calls and calls != ["ack"]:
        raise NotYet(f"The delivery was answered with {', '.join(calls)}", "acknowledged, once")
    if not calls:
        raise NotYet(
            f"{PATIENCE_WALL_S:g} s after the work was done the message is not acknowledged",
            "it is",
            "add_callback_threadsafe(f) has the connection's thread call f() later. Is it called "
            "with a function, and on channel.connection?",
        )
    if threads != [work.owner.ident]:
        raise NotYet(
            "The message was acknowledged in the worker's thread",
            "in the thread that serves the connection",
            "a channel belongs to one thread: channel.connection.add_callback_threadsafe(...) asks "
            "that thread to acknowledge",
        )
