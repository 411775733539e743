"""Work that is done again and again."""

import asyncio
import contextlib
import logging
from collections.abc import Awaitable, Callable

from shared.errors import BrokerUnavailable, StoreUnavailable

log = logging.getLogger(__name__)


async def repeat(
    interval_secs: float, work: Callable[[], Awaitable[None]], wake: asyncio.Event | None = None
) -> None:
    """Do the work again and again, also when woken; try again later what is away."""
    away = False
    wake = wake or asyncio.Event()
    while True:
        wake.clear()
        try:
            await work()
        except (StoreUnavailable, BrokerUnavailable) as exc:
            if not away:
                log.warning("%s", exc)
            away = True
        else:
            away = False
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(interval_secs):
                await wake.wait()
