"""The companies that the shop depends on: a payment gateway, a carrier, a mail server.

They are real servers on loopback, and they fail as real ones do: take one down with `stop()`,
bring it back with `start()`, make it slow by setting `takes_s`.
"""

from __future__ import annotations

import contextlib
import threading
from email import policy
from email.message import EmailMessage
from email.parser import BytesHeaderParser
from pathlib import Path
from typing import Any

from flask import Flask, jsonify, request

from labkit.clock import Pace
from labkit.events import Recorder
from labkit.held_port import HeldPort
from labkit.shop.database import NOW, Database
from labkit.web import HttpService


class Gateway(HttpService):
    """Takes the customers' money, over HTTP. What it has charged is charged.

    `POST /charges` with `order_id`, `customer_email` and `amount` takes `takes_s` shop seconds
    and answers 201, or 402 for a customer in `declines`. With the header `Idempotency-Key`, a
    second request with the same key gives the first one's answer and charges nothing, as the
    payment companies' interfaces do (draft-ietf-httpapi-idempotency-key-header).

    Args:
        folder: where its ledger, `gateway.db`, lies.
        pace: shop time.
        recorder: where its starts and crashes are noted.
    """

    def __init__(self, folder: Path, pace: Pace, recorder: Recorder) -> None:
        self.takes_s = 3.0
        self.declines: set[str] = set()
        self.ledger = Database(
            folder / "gateway.db",
            f"""CREATE TABLE IF NOT EXISTS charges (
                order_id TEXT, amount INTEGER, key TEXT UNIQUE, at REAL DEFAULT {NOW})""",
        )
        app = Flask("gateway")
        app.config["PROPAGATE_EXCEPTIONS"] = True

        @app.post("/charges")
        def charge() -> Any:
            wanted = request.get_json()
            pace.wait(self.takes_s)
            if wanted["customer_email"] in self.declines:
                return jsonify(result="declined"), 402
            # OR IGNORE: the key is unique, so a second charge under the same key does nothing.
            self.ledger.write(
                "INSERT OR IGNORE INTO charges (order_id, amount, key) VALUES (?, ?, ?)",
                (wanted["order_id"], wanted["amount"], request.headers.get("Idempotency-Key")),
            )
            return jsonify(result="charged"), 201

        super().__init__(app, "gateway", workers=32, recorder=recorder)

    def close(self) -> None:
        """Stops for good."""
        self.stop()
        self.ledger.close()


class Carrier(HttpService):
    """Registers parcels, over HTTP: `POST /parcels` takes `takes_s` shop seconds, answers 201."""

    def __init__(self, pace: Pace, recorder: Recorder) -> None:
        self.takes_s = 2.0
        app = Flask("carrier")
        app.config["PROPAGATE_EXCEPTIONS"] = True

        @app.post("/parcels")
        def parcel() -> Any:
            pace.wait(self.takes_s)
            return jsonify(parcel=f"P-{request.get_json()['order_id']}"), 201

        super().__init__(app, "carrier", workers=32, recorder=recorder)


class Inbox:
    """A real SMTP server on loopback, and the customers' mail that has arrived at it.

    `start()` listens, on the same port as before; while it is stopped, senders are refused.

    A mail whose Message-ID it has seen is accepted and dropped, as the duplicate delivery
    suppression of mail servers does (Cyrus IMAP: imapd.conf, `duplicatesuppression`).

    Attributes:
        duplicates: how many mails it has dropped.
    """

    def __init__(self) -> None:
        self._port = HeldPort()
        self.duplicates = 0
        self._seen: set[str] = set()
        self._mail: list[EmailMessage] = []
        self._lock = threading.Lock()
        self._controller: Any = None

    @property
    def port(self) -> int:
        """Where it listens; 0 until it has been started."""
        return self._port.number

    @property
    def messages(self) -> list[EmailMessage]:
        """All mail so far, in the order of arrival."""
        with self._lock:
            return list(self._mail)

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:  # noqa: N802
        """Takes a mail in; aiosmtpd calls it by this name."""
        # The shop's mail is plain text. To look for parts in it would take most of a mail's time.
        mail = BytesHeaderParser(EmailMessage, policy=policy.default).parsebytes(envelope.content)
        message_id = mail["Message-ID"]
        with self._lock:
            if message_id is not None and message_id in self._seen:
                self.duplicates += 1
            else:
                self._mail.append(mail)
                if message_id is not None:
                    self._seen.add(message_id)
        return "250 Message accepted for delivery"

    def start(self) -> Inbox:
        """Listens; does nothing where it does."""
        if self._controller is None:
            from aiosmtpd.controller import Controller

            listener = self._port.listen()

            class OnItsPort(Controller):
                def _create_server(self) -> Any:
                    return self.loop.create_server(self._factory_invoker, sock=listener)

            self._controller = OnItsPort(self, hostname="127.0.0.1", port=self.port)
            self._controller.start()
        return self

    def stop(self) -> None:
        """Stops listening and keeps the mail; may be called twice."""
        if self._controller is not None:
            controller, self._controller = self._controller, None
            with contextlib.suppress(RuntimeError):
                controller.stop()
            self._port.hold()
