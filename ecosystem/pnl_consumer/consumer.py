"""The consumer: from its queue into the ledger, acknowledged once it is on disk."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from typing import Final

from ecosystem.pnl_consumer.ledger import Ledger, UserResult
from shared.bus import Bus, Delivery
from shared.bus.dead_letters import dead_letter
from shared.errors import BrokerUnavailable, UndecodableMessage
from shared.messages import OrderEvent, decode_order
from shared.process import TaskGroup
from shared.topology import (
    EVENT_ID_HEADER,
    ORDERS,
    PROFIT_AND_LOSS_QUEUE,
    Binding,
    order_update_key,
)

log = logging.getLogger(__name__)

EVERY_UPDATE: Final = frozenset({Binding(exchange=ORDERS, pattern=order_update_key("*", "*"))})
"""Not only `filled`: a position also closes by an order that was filled in part, then cancelled,
where what remains is too small to be sold."""

SHOW_EVERY_SECS: Final = 1.0


class ProfitAndLoss:
    """A `shared.process.Service`. Bus and ledger stay the caller's to close."""

    name = "profit and loss"

    def __init__(
        self, *, bus: Bus, ledger: Ledger, show: Callable[[Sequence[UserResult]], None]
    ) -> None:
        self._bus = bus
        self._ledger = ledger
        self._show = show
        self._changed = asyncio.Event()
        self._stopping = asyncio.Event()

    def stop(self) -> None:
        """Ask `run` to end. What is not acknowledged comes again at the next start."""
        self._stopping.set()

    async def run(self) -> None:
        """Follow the events until `stop`."""
        tasks = TaskGroup()
        try:
            tasks.start("events", self._consume())
            tasks.start("results", self._keep_showing())
            await tasks.watch(self._stopping)
        finally:
            await tasks.cancel()
            self._show(self._ledger.results())

    async def _consume(self) -> None:
        subscription = await self._bus.subscribe(PROFIT_AND_LOSS_QUEUE, EVERY_UPDATE)
        try:
            while deliveries := await subscription.batch():
                events, bad = _read(deliveries)
                if events:
                    # Here and not in a thread: a cancellation finds it done or not begun.
                    self._ledger.record(events)
                    self._changed.set()
                for delivery, reason in bad:
                    try:
                        await dead_letter(self._bus, delivery, reason)
                    except BrokerUnavailable as exc:
                        log.warning("an undecodable event could not be set aside: %s", exc)
                        await subscription.requeue([delivery])
                await subscription.acknowledge(deliveries)
        finally:
            await subscription.close()

    async def _keep_showing(self) -> None:
        while True:
            self._show(self._ledger.results())
            await asyncio.sleep(SHOW_EVERY_SECS)
            await self._changed.wait()
            self._changed.clear()


def _read(
    deliveries: Sequence[Delivery],
) -> tuple[list[tuple[int, OrderEvent]], list[tuple[Delivery, str]]]:
    """What can be used, with its event id, and what cannot, with the reason."""
    events, bad = [], []
    for delivery in deliveries:
        try:
            events.append((_event_id(delivery), decode_order(delivery.body)))
        except UndecodableMessage as exc:
            bad.append((delivery, str(exc)))
    return events, bad


def _event_id(delivery: Delivery) -> int:
    text = delivery.headers.get(EVENT_ID_HEADER, "")
    if not text.isdecimal() or len(text) > 18:
        raise UndecodableMessage(f"the header {EVENT_ID_HEADER} must be a number, was {text!r}")
    return int(text)
