"""The helper package of the course "Message queues, for real".

It finds or starts a RabbitMQ, runs services in the background, records what happens and draws it.
Importing it starts nothing, and loads each part when it is first used.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from labkit.clock import Pace
from labkit.errors import BrokerError, InputError, LabError, MessageError, ServiceError
from labkit.events import Recorder

if TYPE_CHECKING:
    from labkit.broker import Broker, VirtualHost, connect, own_broker
    from labkit.checks import predict
    from labkit.consumer import Consumer
    from labkit.lab import Lab
    from labkit.load import Customers
    from labkit.probe import Probe
    from labkit.start_consuming import in_background
    from labkit.web import HttpService

__version__ = "0.1.0"

_WHERE = {
    "Broker": "broker",
    "Consumer": "consumer",
    "Customers": "load",
    "HttpService": "web",
    "Lab": "lab",
    "Probe": "probe",
    "VirtualHost": "broker",
    "connect": "broker",
    "in_background": "start_consuming",
    "own_broker": "broker",
    "predict": "checks",
}
#: Modules that are reached by their name alone; those of the classes above, whether used yet or not.
_MODULES = {"amqp", "exercises", "faults", "measure", "plots", "shop", *_WHERE.values()}

__all__ = [
    "Broker",
    "BrokerError",
    "Consumer",
    "Customers",
    "HttpService",
    "InputError",
    "Lab",
    "LabError",
    "MessageError",
    "Pace",
    "Probe",
    "Recorder",
    "ServiceError",
    "VirtualHost",
    "connect",
    "in_background",
    "own_broker",
    "predict",
]


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        return importlib.import_module(f"labkit.{name}")
    if name in _WHERE:
        return getattr(importlib.import_module(f"labkit.{_WHERE[name]}"), name)
    raise AttributeError(f"module 'labkit' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*__all__, *_MODULES, "__version__"])
