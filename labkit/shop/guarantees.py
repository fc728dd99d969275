"""What a shop promises about each message, as switches; four designs have names."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Guarantees:
    """Which gaps a shop closes, through which messages get lost or doubled.

    Attributes:
        ack_after_work: a department acknowledges a message when its work is done. Without it the
            broker takes a message for done as it sends it (`auto_ack=True`).
        confirms: whoever publishes waits until the broker has taken charge. Without it a publish
            is fire and forget.
        inbox: a department notes each message that it has worked on, together with the work, and
            does nothing for one that it knows. It asks the companies outside with a key, so that
            they know a repeated request, too. Without it a message delivered twice is worked on
            twice.
        outbox: what a service has to tell the others is saved together with its data, and a relay
            publishes it. Without it a service saves, then publishes.
        retries: what can't be done now is tried again later, after growing delays. Without it the
            message goes back to the head of its queue after a pause.
    """

    ack_after_work: bool = True
    confirms: bool = True
    inbox: bool = True
    outbox: bool = True
    retries: bool = True


AUTO_ACK = Guarantees(
    ack_after_work=False, confirms=False, inbox=False, outbox=False, retries=False
)
ACK_AFTER_WORK = Guarantees(confirms=False, inbox=False, outbox=False, retries=False)
CONFIRMED = Guarantees(inbox=False, outbox=False, retries=False)
EFFECTIVELY_ONCE = Guarantees()

#: The four designs of notebook 06, by name; each closes a gap that the one before leaves open.
DESIGNS = {
    "auto-ack": AUTO_ACK,
    "ack after work": ACK_AFTER_WORK,
    "with confirms": CONFIRMED,
    "with outbox and inbox": EFFECTIVELY_ONCE,
}
