"""The part of the shop's door that both flows share: whoever ordered may ask for the status."""

from __future__ import annotations

from typing import Any

from flask import Flask, jsonify

from labkit.shop.premises import OrderBook


def door_app(orders: OrderBook) -> Flask:
    """The order service's app with `GET /orders/<id>`; a flow adds its own `POST /orders`."""
    app = Flask("order_service")
    app.config["PROPAGATE_EXCEPTIONS"] = True

    @app.get("/orders/<order_id>")
    def order_status(order_id: str) -> Any:
        status = orders.status(order_id)
        if status is None:
            return jsonify(error=f"there is no order {order_id}"), 404
        return jsonify(order_id=order_id, status=status)

    return app
