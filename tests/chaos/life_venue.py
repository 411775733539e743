"""A venue as the model of an order's life has it: the truth about what was traded."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import Enum
from typing import Final

from shared.orders import Fill, Leg, LiveOrder, OrderStatus
from shared.venues import base_of, quote_of
from trade_worker.answers import Report, Sent, Verdict
from trade_worker.asking import NOT_FOUND_SECS

ENDED: Final = frozenset({OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED})


class Deal(Enum):
    """What the venue makes of an order that reaches it in time."""

    FILL = "fill"
    PART = "part"
    """Some of it, and the rest is gone."""
    NOTHING = "nothing"
    REST = "rest"
    """It stays open, although it was not to."""
    REFUSE = "refuse"


class Hidden(Enum):
    """How long an accepted order is not shown to who asks."""

    NOT = "not"
    A_SECOND = "a second"
    TO_THE_LAST = "to the last moment at which it may be"
    TOO_LONG = "longer than any venue is known to"


class Reply(Enum):
    """How much of what the venue knows it says."""

    ALL = "all"
    """Its trades twice, in the wrong order."""
    SOME_TRADES = "some trades"
    ONLY_ITS_ID = "only its id"


@dataclass(slots=True, kw_only=True)
class VenueOrder:
    order: LiveOrder
    venue_order_id: str
    accepted_ms: int
    shown_from_ms: int
    status: OrderStatus = OrderStatus.OPEN
    trades: list[Fill] = field(default_factory=list)

    @property
    def executed(self) -> Decimal:
        return sum((trade.quantity for trade in self.trades), Decimal(0))

    @property
    def hidden_too_long(self) -> bool:
        return self.shown_from_ms > _last_moment_ms(self.order)


@dataclass(slots=True)
class Venue:
    """Accepts an id again once the order that had it has ended, as Binance does."""

    orders: list[VenueOrder] = field(default_factory=list)

    def place(
        self,
        order: LiveOrder,
        *,
        deadline_ms: float,
        now_ms: int,
        deal: Deal,
        hidden: Hidden,
        reply: Reply,
    ) -> Sent:
        if now_ms > deadline_ms or deal is Deal.REFUSE:
            return Sent(verdict=Verdict.REJECTED, text="refused")
        if any(each.status is OrderStatus.OPEN for each in self.of(order.client_order_id)):
            return Sent(verdict=Verdict.UNKNOWN, text="duplicate id")
        shown_from_ms = {
            Hidden.NOT: now_ms,
            Hidden.A_SECOND: now_ms + 1_000,
            Hidden.TO_THE_LAST: _last_moment_ms(order),
            Hidden.TOO_LONG: _last_moment_ms(order) + 120_000,
        }[hidden]
        taken = VenueOrder(
            order=order,
            venue_order_id=f"V{len(self.orders)}",
            accepted_ms=now_ms,
            shown_from_ms=shown_from_ms,
        )
        self.orders.append(taken)
        if deal is Deal.FILL:
            self.trade(taken, 1, now_ms=now_ms)
            self.trade(taken, 99, now_ms=now_ms)
        elif deal is not Deal.REST:
            self.trade(taken, 1 if deal is Deal.PART else 0, now_ms=now_ms)
            self.end(taken)
        if reply is Reply.ONLY_ITS_ID:
            return Sent(verdict=Verdict.ACCEPTED, venue_order_id=taken.venue_order_id)
        return Sent(verdict=Verdict.ACCEPTED, report=_report(taken, reply))

    def trade(self, taken: VenueOrder, most: int, *, now_ms: int) -> None:
        """Trade at most so much of an open order."""
        left = taken.order.quantity - taken.executed
        # Half a lot now and then: what cannot be sold is dust.
        quantity = min(Decimal(most) + Decimal("0.5") * (len(self.orders) % 2), left)
        if most and quantity and taken.status is OrderStatus.OPEN:
            taken.trades.append(self._trade(taken, quantity, now_ms=now_ms))
            if quantity == left:
                taken.status = OrderStatus.FILLED

    def end(self, taken: VenueOrder) -> None:
        """Cancel what is left of it."""
        if taken.status is OrderStatus.OPEN:
            taken.status = OrderStatus.CANCELLED if taken.trades else OrderStatus.EXPIRED

    def ask(self, order: LiveOrder, *, now_ms: int, reply: Reply) -> Report | None:
        shown = [e for e in self.of(order.client_order_id) if e.shown_from_ms <= now_ms]
        return _report(shown[-1], reply) if shown else None

    def of(self, client_order_id: str) -> list[VenueOrder]:
        return [e for e in self.orders if e.order.client_order_id == client_order_id]

    def _trade(self, taken: VenueOrder, quantity: Decimal, *, now_ms: int) -> Fill:
        order = taken.order
        in_coin = order.venue == "binance" and order.leg is Leg.ENTRY
        return Fill(
            client_order_id=order.client_order_id,
            trade_id=f"{taken.venue_order_id}-{len(taken.trades)}",
            leg=order.leg,
            quantity=quantity,
            price=Decimal(100),
            fee=quantity / 100 if in_coin else quantity,
            fee_currency=base_of(order.pair) if in_coin else quote_of(order.pair),
            at_ms=now_ms,
        )


def _last_moment_ms(order: LiveOrder) -> int:
    return order.send_by_ms + round(1000 * NOT_FOUND_SECS[order.venue])


def _report(taken: VenueOrder, reply: Reply) -> Report:
    told = [*reversed(taken.trades), *taken.trades]
    if reply is not Reply.ALL:
        told = taken.trades[1:]
    return Report(
        status=taken.status,
        venue_order_id=taken.venue_order_id,
        executed=taken.executed,
        fills=tuple(told),
    )
