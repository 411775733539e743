"""A venue that answers as a test says, and settlements that are written in memory."""

import asyncio
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final, TypeVar
from uuid import uuid4

from shared.alerts import Alerts
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.clock import wall_ms
from shared.orders import (
    UNSETTLED,
    Fill,
    Intent,
    Leg,
    LiveOrder,
    OrderStatus,
    PositionStatus,
    totals_of,
)
from shared.settlement_rules import status_after
from shared.signals import Severity
from shared.store.settlement import Settled, Settlement
from shared.store.trading import PositionState
from trade_worker.settling import Settling
from trade_worker.venues import Report, Sent, VenueOrders, Verdict

PATIENCE_SECS: Final = 10.0
VENUE_ID: Final = "OABC"

T = TypeVar("T")

Answer = Sent | Exception
Told = Report | Exception | None


def live_order(**changes: Any) -> LiveOrder:
    """An entry at Kraken, committed now, with 3 s to be sent."""
    now_ms = wall_ms()
    order = LiveOrder(
        client_order_id=uuid4().hex,
        bot_id=1,
        user_id=1,
        shard=0,
        credential_id=1,
        venue="kraken",
        pair="BTC/USD",
        position_sequence=1,
        leg=Leg.ENTRY,
        attempt=0,
        quantity=Decimal(1),
        limit_price=Decimal(100),
        decided_price=Decimal(100),
        status=OrderStatus.COMMITTED,
        venue_order_id=None,
        market_time_ms=now_ms,
        committed_at_ms=now_ms,
        send_by_ms=now_ms + 3000,
    )
    return replace(order, **changes)


def trade(order: LiveOrder, trade_id: str, quantity: str = "1") -> Fill:
    return Fill(
        client_order_id=order.client_order_id,
        trade_id=trade_id,
        leg=order.leg,
        quantity=Decimal(quantity),
        price=order.decided_price,
        fee=Decimal(0),
        fee_currency="USD",
        at_ms=order.market_time_ms,
    )


def report(status: OrderStatus, *fills: Fill, executed: str | None = None) -> Report:
    """An order as its venue tells it; it executed what the fills sum to unless said otherwise."""
    total = sum((each.quantity for each in fills), Decimal(0))
    return Report(
        status=status,
        venue_order_id=VENUE_ID,
        executed=total if executed is None else Decimal(executed),
        fills=fills,
    )


class ScriptedOrders(VenueOrders):
    """Answers what a test queued; the last answer stays.

    While `open_to_senders` or `open_to_askers` is clear, such calls wait before they are answered.
    """

    def __init__(self) -> None:
        self.sending: deque[Answer] = deque([Sent(verdict=Verdict.ACCEPTED)])
        self.asking: deque[Told] = deque([None])
        self.cancelling: Exception | None = None
        self.sent: list[str] = []
        self.asked: list[LiveOrder] = []
        self.cancelled: list[str] = []
        self.most_askers = 0
        self._askers = 0
        self.open_to_senders = asyncio.Event()
        self.open_to_senders.set()
        self.open_to_askers = asyncio.Event()
        self.open_to_askers.set()

    def fill_at_commit(self, intent: Intent) -> Sequence[Fill]:
        return ()

    async def start(self) -> None: ...

    async def close(self) -> None: ...

    async def send(self, order: LiveOrder, *, send_by_secs: float) -> Sent:
        self.sent.append(order.client_order_id)
        await self.open_to_senders.wait()
        answer = _next(self.sending)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def ask(self, order: LiveOrder) -> Report | None:
        self.asked.append(order)
        self._askers += 1
        self.most_askers = max(self.most_askers, self._askers)
        try:
            await self.open_to_askers.wait()
        finally:
            self._askers -= 1
        answer = _next(self.asking)
        if isinstance(answer, Exception):
            raise answer
        return answer

    async def cancel(self, order: LiveOrder) -> None:
        self.cancelled.append(order.client_order_id)
        if self.cancelling is not None:
            raise self.cancelling

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        return {}


class Ledger(Settling):
    """Settlements by the rules of the real ones, in memory.

    `away` answers None, as for a shard that is somebody else's. While `open` is clear, nothing is
    written.
    """

    def __init__(self) -> None:
        self.written: list[Settlement] = []
        self.statuses: dict[str, OrderStatus] = {}
        self.fills: dict[str, dict[str, Fill]] = {}
        self.away = False
        self.open = asyncio.Event()
        self.open.set()

    async def settle(self, order: LiveOrder, news: Settlement) -> Settled | None:
        await self.open.wait()
        if self.away:
            return None
        self.written.append(news)
        id_ = order.client_order_id
        before = self.statuses.get(id_, order.status)
        fills = self.fills.setdefault(id_, {})
        fills |= {fill.trade_id: fill for fill in news.fills}
        now = status_after(
            before,
            news.status,
            executed=news.executed,
            filled=sum((fill.quantity for fill in fills.values()), Decimal(0)),
            blocked=False,
        )
        self.statuses[id_] = now
        totals = totals_of(fills.values(), pair=order.pair)
        status = PositionStatus.OPEN if now not in UNSETTLED else PositionStatus.OPENING
        return Settled(
            status=now,
            sequence=order.position_sequence,
            position=PositionState(status=status, version=2, totals=totals),
            adopted=before is OrderStatus.NOT_PLACED and now is not before,
            changed=now is not before,
        )

    def told(self, order: LiveOrder) -> list[OrderStatus]:
        """What was written of an order, as it was told."""
        return [n.status for n in self.written if n.client_order_id == order.client_order_id]


class HeardAlerts(Alerts):
    """Alerts that reach the test alone."""

    def __init__(self) -> None:
        super().__init__(MemoryBus(MemoryBroker()), service="test", instance="test")
        self.codes: list[str] = []

    def tell(self, severity: Severity, code: str, text: str, **facts: object) -> None:
        super().tell(severity, code, text, **facts)
        self.codes.append(code)


async def until(condition: Callable[[], bool]) -> None:
    """Wait for what nobody announces."""
    async with asyncio.timeout(PATIENCE_SECS):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.001)


async def a_few_turns() -> None:
    """Let every task go on until it waits."""
    for _ in range(20):
        await asyncio.sleep(0)


def _next(answers: "deque[T]") -> T:
    return answers.popleft() if len(answers) > 1 else answers[0]
