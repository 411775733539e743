"""What people tell running services on `system`: heard, checked, handed on."""

import logging
from collections.abc import Callable
from typing import Final

from shared.bus import Bus, Delivery, Subscription
from shared.bus.dead_letters import dead_letter
from shared.errors import BrokerUnavailable, UndecodableMessage
from shared.signals import Control, decode_control
from shared.topology import SYSTEM, Binding, config_key, control_key, matches

log = logging.getLogger(__name__)

NEWS: Final = frozenset(
    Binding(exchange=SYSTEM, pattern=pattern) for pattern in (control_key("#"), config_key("#"))
)
"""What a service binds its listener queue to."""


async def hear(
    bus: Bus,
    news: Subscription,
    *,
    on_control: Callable[[Control], None],
    on_change: Callable[[str], None],
) -> None:
    """Hand on what arrives until the subscription is closed.

    `on_change` gets what has changed ("bots"): the body of such an announcement means nothing.
    A control message that does not decode goes to `dead_letters` and is obeyed by nobody.
    """
    while deliveries := await news.batch():
        for delivery in deliveries:
            change = delivery.routing_key.removeprefix(config_key(""))
            if change != delivery.routing_key:
                on_change(change)
            else:
                await _hear_control(bus, delivery, on_control)
        await news.acknowledge(deliveries)


async def _hear_control(
    bus: Bus, delivery: Delivery, on_control: Callable[[Control], None]
) -> None:
    try:
        control = decode_control(delivery.body)
        if not matches(control_key(control.verb), delivery.routing_key):
            raise UndecodableMessage(f"the body says {control.verb}, the routing key does not")
    except UndecodableMessage as exc:
        log.warning("a control message makes no sense: %s", exc)
        try:
            await dead_letter(bus, delivery, str(exc))
        except BrokerUnavailable as away:
            log.warning("and could not be dead-lettered: %s", away)
        return
    log.info("told to %s %s", control.verb, control.target or "everything")
    on_control(control)
