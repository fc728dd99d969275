"""What an order and an event about an order hold, and how they are checked."""

from __future__ import annotations

import time
import uuid
from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    FiniteFloat,
    StringConstraints,
    ValidationError,
)

from labkit.errors import MessageError

#: Product id and price in cents.
CATALOGUE = {"mug": 1200, "teapot": 3900, "kettle": 8900}

EventType = Literal["ORDER_CREATED", "PAYMENT_COMPLETED", "PAYMENT_FAILED", "LABEL_PRINTED"]

#: No control characters: a line break in an address would end the mail's header there.
NO_CONTROL = r"^[^\x00-\x1f\x7f-\x9f\u2028\u2029]*$"
Text = Annotated[str, StringConstraints(min_length=1, max_length=200, pattern=NO_CONTROL)]


class _Checked(BaseModel):
    model_config = ConfigDict(frozen=True, strict=True)

    @classmethod
    def read(cls, data: bytes | str | dict[str, Any]) -> Self:
        """Makes one from JSON text or a mapping.

        Raises:
            MessageError: it is not JSON, a field is missing, or a value makes no sense.
        """
        try:
            if isinstance(data, dict):
                return cls.model_validate(data)
            return cls.model_validate_json(data)
        except (ValidationError, UnicodeDecodeError) as exc:
            raise MessageError(
                f"This is no {cls.__name__}.", _first_problem(exc), "mend whoever sent it"
            ) from exc


def _first_problem(error: ValidationError | UnicodeDecodeError) -> str:
    if isinstance(error, UnicodeDecodeError):
        return f"not UTF-8 text: {error.reason}"
    first = error.errors(include_url=False)[0]
    where = ".".join(str(part) for part in first["loc"])
    return f"{where}: {first['msg']}" if where else str(first["msg"])


class Request(_Checked):
    """What a customer sends to the shop's door.

    Attributes:
        customer_email: where the confirmation goes.
        product_id: one of `CATALOGUE`.
        quantity: how many, 1 or more.
        basket: what the customer is about to buy, by name. A second try to buy the same basket
            carries the same name, and becomes an order of its own.
    """

    customer_email: Text
    product_id: Text
    quantity: Annotated[int, Field(gt=0, le=1000)]
    basket: Text = Field(default_factory=lambda: uuid.uuid4().hex[:12])

    @property
    def amount(self) -> int:
        """What it costs, in cents.

        Raises:
            MessageError: the shop does not sell this.
        """
        if self.product_id not in CATALOGUE:
            raise MessageError(
                "The shop does not sell this.",
                f"product_id is {self.product_id!r}",
                f"choose one of {', '.join(CATALOGUE)}",
            )
        return CATALOGUE[self.product_id] * self.quantity


class Order(_Checked):
    """An order that the shop has accepted.

    Attributes:
        order_id: the basket's name, with a number behind it where the basket is bought again.
        basket: what the customer meant to buy.
        customer_email: where the confirmation goes.
        product_id: what.
        quantity: how many.
        amount: the price in cents.
    """

    order_id: Text
    basket: Text
    customer_email: Text
    product_id: Text
    quantity: Annotated[int, Field(gt=0, le=1000)]
    amount: Annotated[int, Field(ge=0, le=10**12)]


class OrderEvent(Order):
    """A message: something that has happened to an order, with all that a department needs.

    Attributes:
        event_id: unique; a copy of the message carries the same one.
        type: what happened.
        time: when, in seconds since 1970 (UTC).
    """

    event_id: Text
    type: EventType
    time: FiniteFloat

    @classmethod
    def about(cls, order: Order, type: EventType) -> OrderEvent:
        """A new event about an order."""
        fields = {name: getattr(order, name) for name in Order.model_fields}
        return cls(**fields, event_id=uuid.uuid4().hex, type=type, time=time.time())

    @property
    def routing_key(self) -> str:
        """The type as a routing key: ORDER_CREATED is `order.created`."""
        return self.type.lower().replace("_", ".")

    def to_json(self) -> bytes:
        """The message's body."""
        return self.model_dump_json().encode()
