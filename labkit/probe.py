"""Samples how many messages wait in each queue, on a connection of its own."""

from __future__ import annotations

import threading
from collections.abc import Iterable

import pika.exceptions

from labkit import amqp
from labkit.background import Background
from labkit.errors import BrokerError, InputError
from labkit.events import Recorder


class Probe(Background):
    """Records a `depth` event for each queue, again and again, until it is stopped.

    The number is what a passive declare answers: the ready messages at that moment, without the
    unacknowledged ones. (The management API knows both, and is up to 5 s late.) A queue that is
    not there counts as empty; while no broker answers, nothing is recorded.

    Args:
        queues: the queues' names.
        url: the broker's AMQP URL.
        recorder: where the samples go.
        every_wall_s: real seconds from one sample to the next.

    A context manager.
    """

    def __init__(
        self, queues: Iterable[str], url: str, recorder: Recorder, every_wall_s: float = 0.05
    ) -> None:
        if every_wall_s <= 0:
            raise InputError(
                "A probe needs time between samples.", f"every_wall_s={every_wall_s!r}"
            )
        self.queues = list(queues)
        self._url = url
        self._recorder = recorder
        self._every_wall_s = every_wall_s
        super().__init__("probe", self._sample)

    def _sample(self, stop: threading.Event) -> None:
        while not stop.is_set():
            try:
                connection = amqp.connect(self._url, "probe")
            except BrokerError:
                stop.wait(self._every_wall_s)
                continue
            try:
                channel = connection.channel()
                while True:
                    last = stop.is_set()  # one more look after that, so that a plot ends there
                    for queue in self.queues:
                        try:
                            ready = channel.queue_declare(queue, passive=True).method.message_count
                        except pika.exceptions.ChannelClosedByBroker:
                            ready, channel = 0, connection.channel()
                        self._recorder.record("depth", queue, None, ready)
                    if last:
                        connection.close()
                        return
                    stop.wait(self._every_wall_s)
            except (pika.exceptions.AMQPError, OSError):
                continue
