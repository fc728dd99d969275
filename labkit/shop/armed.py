"""Points at which a service of the shop can be made to crash, once."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from labkit.background import Crashed
from labkit.errors import InputError


class Armed:
    """Crashes the service that passes a point, if that point is armed; costs next to nothing else.

    Args:
        points: the names of the points, and what a crash there leaves behind.
        crash: what a crash of the service is; it gets the event to set once it has happened.
    """

    def __init__(
        self, points: Mapping[str, str], crash: Callable[[threading.Event], object]
    ) -> None:
        self.points = points
        self._crash = crash
        self._armed: tuple[str, threading.Event] | None = None

    def arm(self, point: str) -> threading.Event:
        """Has the next one that passes the point crash; the event is set once it has.

        Raises:
            InputError: there is no such point.
        """
        if point not in self.points:
            raise InputError(
                "There is no such point to crash at.",
                f"point={point!r}",
                f"choose one of {', '.join(map(repr, self.points))}",
            )
        crashed = threading.Event()
        self._armed = (point, crashed)
        return crashed

    def disarm(self) -> bool:
        """Has nobody crash any more; False where nothing was armed."""
        armed, self._armed = self._armed, None
        return armed is not None

    def passes(self, point: str) -> None:
        """Says that the service is at this point; it goes no further where that is armed."""
        armed = self._armed
        if armed is not None and armed[0] == point:
            self._armed = None
            self._crash(armed[1])
            raise Crashed
