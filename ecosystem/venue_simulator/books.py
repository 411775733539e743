"""What a venue knows of one account's orders."""

from dataclasses import dataclass, field

from ecosystem.venue_simulator.accounts import Account
from ecosystem.venue_simulator.filling import Planned
from ecosystem.venue_simulator.orders import Trade, VenueOrder


@dataclass(slots=True)
class Course:
    """How an open order goes on: the trades that are planned, next first. What remains after
    them ends or rests; a `starved` order rests without ever finding a counterparty."""

    planned: list[Planned] = field(default_factory=list)
    starved: bool = False


@dataclass(slots=True, kw_only=True)
class Book:
    """One account's orders and trades, in the order in which they came."""

    account: Account
    orders: dict[str, VenueOrder] = field(default_factory=dict)
    """By the venue's id."""
    by_client_id: dict[str, list[VenueOrder]] = field(default_factory=dict)
    open: dict[str, VenueOrder] = field(default_factory=dict)
    courses: dict[str, Course] = field(default_factory=dict)
    """Of open orders."""
    trades: list[Trade] = field(default_factory=list)

    def add(self, order: VenueOrder) -> None:
        """Take in an order with the trades that it has."""
        self.orders[order.order_id] = order
        if order.request.client_order_id is not None:
            self.by_client_id.setdefault(order.request.client_order_id, []).append(order)
        if order.is_open:
            self.open[order.order_id] = order
        self.trades.extend(order.trades)

    def close(self, order: VenueOrder) -> None:
        """The order is open no more."""
        del self.open[order.order_id]
        self.courses.pop(order.order_id, None)

    def open_in(self, pair: str) -> int:
        """How many orders are open in one pair."""
        return sum(order.request.pair == pair for order in self.open.values())
