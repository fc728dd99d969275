"""Finds a broker that serves, or starts one, and says what to do where there is none."""

from __future__ import annotations

import atexit
import contextlib
import os
from collections.abc import Callable

from labkit.broker import address, records, vhost
from labkit.broker.base import Broker
from labkit.broker.greeting import check_version, greet
from labkit.broker.sharing import create, obtain, shared_brokers
from labkit.errors import BrokerError, InputError

KINDS = ("url", "compose", "container", "node")
#: A host that does not answer at all is given up after this.
REACH_WALL_S = 4.0


def connect(kind: str | None = None) -> Broker:
    """The first broker that serves: given by URL, of Compose, in a container, a private node.

    What runs already is used; else one is started, and shared by all processes of this user
    until `labkit broker stop`, or until nobody has used it for half an hour.

    Args:
        kind: `url`, `compose`, `container` or `node`; what `LABKIT_BROKER` says if left out.
            Where `LABKIT_AMQP_URL` is set and no kind is named, it is that URL and nothing else.

    Raises:
        InputError: there is no such kind, or the URL is none.
        BrokerError: no broker could be found or started; it lists each attempt with its remedy.
    """
    kind = _chosen(kind)
    if kind is None and os.environ.get("LABKIT_AMQP_URL"):
        kind = "url"
    broker = _first(_ways(kind))
    _sweep_quietly(broker)
    return broker


def own_broker(kind: str | None = None) -> Broker:
    """Starts a broker that nobody else uses, for an experiment that stops or kills one.

    Args:
        kind: `container` or `node`; if left out, what `LABKIT_BROKER` says, else the kind of the
            shared broker that runs, else the first that can be started.

    Returns:
        A running broker, and a context manager: `close()` or the end of the `with` block ends it
        for good. It ends with this process in any case.

    Raises:
        BrokerError: neither Docker nor an installed RabbitMQ is there.
    """
    kind = _chosen(kind)
    if kind == "url":
        raise BrokerError(
            "There is no broker of your own to be had.",
            "LABKIT_BROKER is url: the broker that is given belongs to others, too",
            "unset LABKIT_BROKER on a machine with Docker or an installed rabbitmq-server",
        )
    ways = {"container": lambda: create("container", False), "node": lambda: create("node", False)}
    if kind in ("compose", "container"):
        order = ["container"]
    elif kind == "node":
        order = ["node"]
    else:
        order = ["container", "node"]
        if any(r.kind == "node" and r.shared for r in records.all_records()):
            order.reverse()
    broker = _first({name: ways[name] for name in order})
    atexit.register(broker.close)
    return broker


def find_running() -> Broker | None:
    """The broker that `connect()` would give without starting one, else None.

    Raises:
        LabError: a URL is given or a kind is named, and it does not serve.
    """
    kind = _chosen(None)
    if kind == "url" or (kind is None and os.environ.get("LABKIT_AMQP_URL")):
        return _given()
    if kind in (None, "compose"):
        with contextlib.suppress(BrokerError):
            return _compose()
    for broker in shared_brokers():
        if kind in (None, broker.kind) and broker.answers():
            return broker
    return None


def _chosen(kind: str | None) -> str | None:
    told = kind or os.environ.get("LABKIT_BROKER") or None
    if told is not None and told not in KINDS:
        raise InputError(
            "There is no such kind of broker.",
            f"{'kind' if kind else 'LABKIT_BROKER'} is {told!r}",
            f"choose one of {', '.join(KINDS)}, or none to take the first that serves",
        )
    return told


def _ways(kind: str | None) -> dict[str, Callable[[], Broker]]:
    ways: dict[str, Callable[[], Broker]] = {
        "url": _given,
        "compose": _compose,
        "container": lambda: obtain("container"),
        "node": lambda: obtain("node"),
    }
    if kind is not None:
        return {kind: ways[kind]}
    del ways["url"]
    # One that runs goes before one that would have to be started.
    running = [r.kind for r in records.all_records() if r.shared and r.status == "running"]
    if "node" in running and "container" not in running:
        ways["container"] = ways.pop("container")  # to the end
    return ways


def _first(ways: dict[str, Callable[[], Broker]]) -> Broker:
    failures: dict[str, BrokerError] = {}
    for name, way in ways.items():
        try:
            return way()
        except BrokerError as exc:
            if len(ways) == 1:
                raise
            failures[name] = exc
    seen = [f"{name}: {e.failed} {e.seen}".splitlines()[0] for name, e in failures.items()]
    to_do = [f"({name}) {step}" for name, e in failures.items() for step in e.to_do if step]
    raise BrokerError(
        "No RabbitMQ could be found or started.",
        "\n         ".join(seen),
        ["any one of these will do:", *to_do],
    )


def _given() -> Broker:
    from labkit.broker.given import GivenBroker, log_in

    url = os.environ.get("LABKIT_AMQP_URL", "")
    if not url:
        raise BrokerError(
            "No broker's URL is given.",
            "LABKIT_AMQP_URL is not set",
            "set it, such as amqp://user:password@host:5672/%2F",
        )
    parts = address.parse(url)
    try:
        greeting = greet(parts, REACH_WALL_S)
    except OSError as exc:
        raise BrokerError(
            "The given broker does not answer.",
            f"{parts}: {exc.strerror or exc}",
            "check host and port in LABKIT_AMQP_URL, and that the broker runs; or unset it and "
            "let labkit find or start one",
        ) from exc
    version = check_version(greeting, parts)
    log_in(parts)
    return GivenBroker(url, version)


def _compose() -> Broker:
    from labkit.broker.compose import UP, ComposeBroker, url
    from labkit.broker.given import log_in

    parts = address.parse(url())
    try:
        version = check_version(greet(parts), parts)
    except OSError as exc:
        raise BrokerError(
            "The Compose broker does not answer.",
            f"{parts.host}:{parts.port}: {exc.strerror or exc}",
            f"{UP}, in the project's folder",
        ) from exc
    try:
        log_in(parts)
    except BrokerError as exc:
        raise BrokerError(
            "Another RabbitMQ holds the Compose broker's port.",
            f"{exc.seen}",
            f"end it, then {UP}; or give its URL by LABKIT_AMQP_URL",
        ) from exc
    return ComposeBroker(version)


def _sweep_quietly(broker: Broker) -> None:
    """Removes dead processes' virtual hosts, where there can be any and the broker lets us."""
    if getattr(broker, "new", False):
        return
    with contextlib.suppress(BrokerError):
        if broker.management_url is not None:
            vhost.sweep(broker.admin)
