"""Telling running services that a command has changed something, as well as it can."""

import asyncio
import contextlib
from typing import TYPE_CHECKING, Final

from console.wiring import opened_bus
from shared.errors import BotfleetError
from shared.signals import ConfigChanged, Signal, encode
from shared.topology import SYSTEM, config_key

if TYPE_CHECKING:
    from shared.settings import Settings

TIMEOUT_SECS: Final = 1.0


async def announce(settings: "Settings", change: str) -> None:
    """Publish that `change` ("bots") was committed, so that services look now."""
    from shared.clock import wall_ms

    await wake(settings, config_key(change), ConfigChanged(change=change, at_ms=wall_ms()))


async def wake(settings: "Settings", routing_key: str, signal: Signal) -> None:
    """Publish on `system` what only wakes.

    Services look by themselves a little later, so a broker that is away costs a second and no
    more.
    """
    if settings.broker_url is None or settings.broker_url.startswith("memory:"):
        return
    from shared.bus import Message

    message = Message(exchange=SYSTEM, routing_key=routing_key, body=encode(signal))
    with contextlib.suppress(BotfleetError, TimeoutError):
        async with asyncio.timeout(TIMEOUT_SECS), opened_bus(settings) as bus:
            await bus.publish(message)
