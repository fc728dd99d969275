"""The synchronous flow: the customer waits while one HTTP call follows the other."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

import requests
from flask import Flask, jsonify, request

from labkit.background import checkpoint, stop_all
from labkit.clock import Pace
from labkit.errors import MessageError
from labkit.events import Recorder
from labkit.shop.departments import Department, DepartmentError
from labkit.shop.door import door_app
from labkit.shop.orders import Order, Request
from labkit.shop.premises import WEB_WORKERS, Premises
from labkit.web import HttpService

#: Whom the order service calls, one after the other. It has to know them all.
CHAIN = ("payment", "inventory", "email", "shipping")
TIMEOUT_S = 10.0

Call = Callable[[str, Order], str]


class CallError(Exception):
    """A call to a department failed: it is down, too slow, or answered with an error."""


class DeclinedError(Exception):
    """The customer's payment was declined."""


def place_order(order: Order, call: Call) -> None:
    """Has each department do its work, one after the other.

    Args:
        order: the order, saved already.
        call: `call(department, order)` returns the department's answer when it is there.

    Raises:
        DeclinedError: the payment was declined; nobody else was asked.
        CallError: a department could not be reached, or not in time. What those before it have
            done stays done.
    """
    for department in CHAIN:
        if call(department, order) == "declined":
            raise DeclinedError


def department_app(department: Department) -> Flask:
    """A department behind HTTP: `POST /work` with an order answers with the result."""
    app = Flask(department.name)
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.post("/work")
    def work() -> Any:
        try:
            return jsonify(result=department.handle(Order.read(request.get_data())))
        except MessageError as exc:
            return jsonify(error=str(exc)), 422
        except DepartmentError as exc:
            return jsonify(error=str(exc)), 503

    return app


class SynchronousShop(Premises):
    """The shop whose customers wait for the whole chain.

    Its door is `POST /orders`, which answers 201 when everything is done, 402 where the payment
    was declined, 502 where a department failed, 504 where one took longer than `timeout_s`; and
    `GET /orders/<id>`.

    Args:
        folder: an empty folder for the databases.
        pace: shop time.
        recorder: where everything that happens is noted.
        web_workers: how many customers the order service's web server serves at the same time.
        timeout_s: how long the order service waits for a department, in shop seconds.
        place_order: the chain of calls; another one may be tried.

    Attributes:
        services: each department's HTTP service, by name: `services["email"].crash()`.
        door: the order service's HTTP service.

    A context manager.
    """

    def __init__(
        self,
        folder: Path,
        pace: Pace,
        recorder: Recorder,
        *,
        web_workers: int = WEB_WORKERS,
        timeout_s: float = TIMEOUT_S,
        place_order: Callable[[Order, Call], object] = place_order,
    ) -> None:
        super().__init__(folder, pace, recorder)
        self.timeout_s = timeout_s
        self.place_order = place_order
        self.services = {
            name: HttpService(
                department_app(self.departments[name]),
                name,
                self.departments[name].workers,
                recorder,
            )
            for name in CHAIN
        }
        self.door = HttpService(self._app(), "order_service", web_workers, recorder)

    @property
    def url(self) -> str:
        """The address of the door."""
        return self.door.url

    def call(self, department: str, order: Order) -> str:
        """One HTTP call to a department; its answer in a word.

        Raises:
            CallError: it is down, slower than `timeout_s`, or answered with an error.
        """
        checkpoint()
        try:
            answer = requests.post(
                f"{self.services[department].url}/work",
                data=order.model_dump_json(),
                timeout=self.pace.to_wall(self.timeout_s),
            )
        except requests.Timeout:
            raise CallError(f"{department} did not answer in {self.timeout_s:g} s") from None
        except requests.ConnectionError:
            raise CallError(f"{department} can't be reached") from None
        if answer.status_code != 200:
            raise CallError(f"{department} answered {answer.status_code}")
        return str(answer.json()["result"])

    def _app(self) -> Flask:
        app = door_app(self.orders)

        @app.post("/orders")
        def create_order() -> Any:
            try:
                order = self.orders.save(Request.read(request.get_data()))
            except MessageError as exc:
                return jsonify(error=str(exc)), 422
            self.recorder.record("started", "order_service", order.order_id)
            self.recorder.record("status", "order_service", order.order_id, "pending")
            try:
                self.place_order(order, self.call)
                status, code, error = "completed", 201, None
            except DeclinedError:
                status, code, error = "declined", 402, "the payment was declined"
            except CallError as exc:
                status, error = "failed", str(exc)
                code = 504 if "did not answer" in error else 502
            self.orders.advance(order.order_id, status)
            self.orders.tell(order.order_id, status)
            self.recorder.record("status", "order_service", order.order_id, status)
            self.recorder.record("done", "order_service", order.order_id, status)
            return jsonify(order_id=order.order_id, status=status, error=error), code

        return app

    def start(self) -> Self:
        """Opens the shop; `url` is its door."""
        self.open()
        for service in self.services.values():
            service.start()
        self.door.start()
        return self

    def stop(self) -> None:
        """Lets the orders under way end, and closes; may be called twice.

        Raises:
            ServiceError: something did not stop, or had failed.
        """
        try:
            stop_all([self.door], timeout_wall_s=30.0)
            stop_all(self.services.values(), timeout_wall_s=30.0)
        finally:
            self.close()
