"""Runs a class of the learner's own in the background: anything with a `start_consuming()`."""

from __future__ import annotations

import contextlib
import threading
from typing import Protocol

import pika.exceptions

from labkit.background import Background
from labkit.errors import ServiceError


class StartsConsuming(Protocol):
    """Anything with the blocking loop that pika's tutorials end in."""

    def start_consuming(self) -> object:
        """Consumes until its connection ends."""


def in_background(service: StartsConsuming, name: str | None = None) -> Background:
    """Runs a class of your own in the background: its `start_consuming()`, in a thread.

    It is stopped by closing its connection from that same thread, so the service needs one:
    either a `connection` attribute with the pika connection, or a `stop()` method that another
    thread may call.

    Returns:
        The started `Background`; its `stop()` ends the service.
    """
    label = name or type(service).__name__
    if not hasattr(service, "stop") and not hasattr(service, "connection"):
        raise ServiceError(
            f"{label} can't be run in the background.",
            "it has neither a `connection` nor a `stop()`, so nothing could end it",
            "keep pika's connection in `self.connection`",
        )

    def wake() -> None:
        if hasattr(service, "stop"):
            service.stop()
            return
        connection = service.connection  # type: ignore[attr-defined]
        with contextlib.suppress(pika.exceptions.AMQPError):
            connection.add_callback_threadsafe(connection.close)

    def run(stop: threading.Event) -> None:
        try:
            service.start_consuming()
        except (pika.exceptions.AMQPError, OSError):
            if not stop.is_set():
                raise

    return Background(label, run, wake).start()
