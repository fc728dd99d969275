"""Where a RabbitMQ comes from: found, or started in a container or as a private node."""

from labkit.broker.base import Broker
from labkit.broker.discovery import connect, own_broker
from labkit.broker.vhost import QueueState, VirtualHost

__all__ = ["Broker", "QueueState", "VirtualHost", "connect", "own_broker"]
