"""A port that stays a server's own while the server is down.

The system picks a server's port from some thousands, and as soon as nobody is bound to it, it may
give it to the next program that asks. A server that is to come back where its clients look for it
must not let go of its port meanwhile.
"""

from __future__ import annotations

import contextlib
import socket

from labkit.broker import address


class HeldPort:
    """A port of the loopback address, chosen by the system at the first `listen()`.

    It belongs to this object until it is collected. While no server listens, a socket is bound to
    it that doesn't listen either: whoever connects is refused, and nobody is given the port.

    Attributes:
        number: which; 0 before the first `listen()`.
    """

    def __init__(self) -> None:
        self.number = 0
        self._holder: socket.socket | None = None

    def listen(self) -> socket.socket:
        """A socket that listens on it, for a server; whoever takes it closes it.

        Raises:
            OSError: another program has the port.
        """
        listener, self._holder = self._holder or address.bound(self.number), None
        try:
            listener.listen()
        except OSError:
            listener.close()
            raise
        self.number = int(listener.getsockname()[1])
        return listener

    def hold(self) -> None:
        """Keeps the port for the next `listen()`, once the server has closed its socket.

        Where another program was quicker, `listen()` will say so.
        """
        if self.number and self._holder is None:
            with contextlib.suppress(OSError):
                self._holder = address.bound(self.number)

    def __del__(self) -> None:
        if self._holder is not None:
            self._holder.close()
