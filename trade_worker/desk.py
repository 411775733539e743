"""The live desk: each committed order is sent once, and what came of it is written down."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from typing import Final

from shared import failpoints
from shared.clock import monotonic_secs, wall_ms
from shared.errors import BotfleetError
from shared.failpoints import Point
from shared.orders import LiveOrder
from shared.telemetry import Histogram
from trade_worker import sending
from trade_worker.settling import Settling
from trade_worker.venues import Sent, VenueOrders, Verdict

log = logging.getLogger(__name__)

MOST_AT_ONCE: Final = 200
"""Orders on their way at the same time; the others wait, until their time is over."""


class Desk:
    """Sends orders that this process committed. Nothing here ever sends one twice.

    Each order is a task of its own: a slow venue keeps nobody else waiting. `drain` waits for
    all of them; a task that is cancelled leaves its order to whoever reconciles.
    """

    def __init__(
        self,
        *,
        port: VenueOrders,
        settling: Settling,
        forbidden: Callable[[LiveOrder], str | None],
        on_unsettled: Callable[[LiveOrder], None],
        on_refused_key: Callable[[LiveOrder, str], None],
    ) -> None:
        """`forbidden` says, at the last moment, why an order must not go out. `on_unsettled` takes
        an order whose outcome must be asked for, `on_refused_key` one whose key failed."""
        self._port = port
        self._settling = settling
        self._forbidden = forbidden
        self._on_unsettled = on_unsettled
        self._on_refused_key = on_refused_key
        self._room = asyncio.Semaphore(MOST_AT_ONCE)
        self._tasks: set[asyncio.Task[None]] = set()
        self.verdicts: dict[Verdict, int] = dict.fromkeys(Verdict, 0)
        self.send_time = Histogram()
        """Milliseconds from the decision to trade being durable to the venue's answer."""

    @property
    def busy(self) -> int:
        """How many orders are on their way."""
        return len(self._tasks)

    def take(self, order: LiveOrder, *, send_by_secs: float) -> None:
        """Send this order soon, or never: not after `send_by_secs` (monotonic)."""
        task = asyncio.create_task(
            self._place(order, send_by_secs), name=f"order {order.client_order_id}"
        )
        self._tasks.add(task)
        task.add_done_callback(partial(self._ended, order))

    async def drain(self) -> None:
        """Wait until every order that was taken before has an outcome that is written."""
        if self._tasks:
            await asyncio.wait(tuple(self._tasks))

    async def abandon(self) -> None:
        """Stop waiting for answers: what was sent is for the next owner to find out."""
        for task in tuple(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def _place(self, order: LiveOrder, send_by_secs: float) -> None:
        started_secs = monotonic_secs()
        sent_at_ms = None
        async with self._room:
            withheld = sending.withheld(
                monotonic_secs(), send_by_secs=send_by_secs, forbidden=self._forbidden(order)
            )
            if withheld is not None:
                sent = withheld
            else:
                failpoints.hit(Point.BEFORE_SEND)
                sent_at_ms = wall_ms()
                sent = await self._send(order, send_by_secs)
                failpoints.hit(Point.AFTER_SEND)
        self.verdicts[sent.verdict] += 1
        self.send_time.add(1000 * (monotonic_secs() - started_secs))
        if sent.verdict is not Verdict.ACCEPTED:
            log.warning(
                "order %s of bot %d: %s: %s",
                *(order.client_order_id, order.bot_id, sent.verdict, sent.text),
            )
        if sent.credential_refused:
            self._on_refused_key(order, sent.text)
        news = sending.news_of(order, sent, sent_at_ms=sent_at_ms)
        settled = await self._settling.settle(order, news)
        left = sending.left_to_ask(order, news, None if settled is None else settled.status)
        if left is not None:
            self._on_unsettled(left)

    async def _send(self, order: LiveOrder, send_by_secs: float) -> Sent:
        try:
            return await self._port.send(order, send_by_secs=send_by_secs)
        except Exception as exc:  # whatever went wrong, the venue may have the order
            if not isinstance(exc, BotfleetError):
                log.exception("sending order %s failed", order.client_order_id)
            return Sent(verdict=Verdict.UNKNOWN, text=type(exc).__name__)

    def _ended(self, order: LiveOrder, task: asyncio.Task[None]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (error := task.exception()) is not None:
            log.error("%s is left to be asked for", task.get_name(), exc_info=error)
            self._on_unsettled(order)
