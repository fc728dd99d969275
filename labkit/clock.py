"""Shop time: how long the shop's work takes, apart from how long we are willing to watch."""

from __future__ import annotations

import math
import os
import threading
import time

from labkit.background import checkpoint, sleep
from labkit.errors import InputError

DEFAULT_SPEED = 10.0


def default_speed() -> float:
    """The speed that `LABKIT_SPEED` asks for, else 10.

    Raises:
        InputError: the variable is not a positive number.
    """
    text = os.environ.get("LABKIT_SPEED", "")
    if not text:
        return DEFAULT_SPEED
    try:
        return _checked(float(text))
    except ValueError:
        raise InputError(
            "The speed of shop time can't be read.",
            f"LABKIT_SPEED is {text!r}",
            "set LABKIT_SPEED to a positive number such as 1, 10 or 20, or unset it",
        ) from None


def _checked(speed: float) -> float:
    if not (speed > 0 and math.isfinite(speed)):
        raise InputError(
            "Shop time can't run at this speed.",
            f"speed={speed!r}",
            "choose a number above 0, such as 10: ten shop seconds then pass in one real second",
        )
    return speed


class Pace:
    """The rate at which shop time passes.

    Args:
        speed: shop seconds in one real second. At 1 a payment takes 3 s, as in life; at 10 it
            takes 0.3 s of yours. Left out, it is what `LABKIT_SPEED` says, else 10.

    Raises:
        InputError: the speed is zero, negative or not finite.
    """

    def __init__(self, speed: float | None = None) -> None:
        self.speed = _checked(default_speed() if speed is None else speed)
        self._origin = time.monotonic()

    def __repr__(self) -> str:
        return f"Pace(speed={self.speed:g})"

    def now(self) -> float:
        """Shop seconds since this pace was made."""
        return self.to_shop(time.monotonic() - self._origin)

    def at(self, monotonic: float) -> float:
        """Shop time of a reading of `time.monotonic()`, in shop seconds."""
        return self.to_shop(monotonic - self._origin)

    def to_wall(self, shop_s: float) -> float:
        """Real seconds that `shop_s` shop seconds take."""
        return shop_s / self.speed

    def to_shop(self, wall_s: float) -> float:
        """Shop seconds that pass in `wall_s` real seconds."""
        return wall_s * self.speed

    def wait(self, shop_s: float, until: threading.Event | None = None) -> bool:
        """Lets `shop_s` shop seconds pass, as work does.

        Args:
            shop_s: how long, in shop seconds.
            until: an event that ends the wait early.

        Returns:
            True where `until` ended the wait.

        Raises:
            Crashed: the service that this thread works for has crashed.
        """
        wall_s = self.to_wall(shop_s)
        if until is None:
            sleep(wall_s)
            return False
        ended = until.wait(max(0.0, wall_s))
        checkpoint()
        return ended
