"""Listening on the bus for ever, whatever becomes of the broker."""

import logging
from collections.abc import Callable, Sequence
from typing import Final

from price_stream.schedule import Clock
from shared.bus import Bus, Delivery
from shared.errors import BrokerUnavailable
from shared.topology import Binding, Queue

log = logging.getLogger(__name__)

RETRY_SECS: Final = 1.0


async def listen(
    bus: Bus,
    queue: Queue,
    bindings: frozenset[Binding],
    heard: Callable[[Sequence[Delivery]], None],
    *,
    clock: Clock,
) -> None:
    """Hand over what arrives in a queue of our own, batch by batch, until cancelled.

    What is published while the broker is away is missed.
    """
    while True:
        try:
            subscription = await bus.subscribe(queue, bindings)
            try:
                while batch := await subscription.batch():
                    heard(batch)
                    await subscription.acknowledge(batch)
            finally:
                await subscription.close()
        except BrokerUnavailable as exc:
            patterns = ", ".join(sorted(binding.pattern for binding in bindings))
            log.debug("not listening to %s: %s", patterns, exc)
        await clock.sleep_until(clock.monotonic_secs() + RETRY_SECS)
