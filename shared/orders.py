"""The life of an order and of a position: states, their transitions, and what fills add up to.

    committed ─▶ open ─▶ filled | cancelled | expired
       │  └────▶ rejected (the venue proved that it refused)
       └───────▶ unknown ─▶ (asked) any of the above, or not_placed

An order that was not placed and shows up late is adopted. `committed` means *may have been
sent*. A partial fill is a filled_quantity below quantity.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum
from typing import Any, Final, Protocol
from uuid import UUID, uuid5

from shared.money import exact
from shared.reasons import Reason
from shared.venues import base_of, quote_of


class Mode(StrEnum):
    """Whether an order goes to a venue or is filled on paper."""

    PAPER = "paper"
    LIVE = "live"


class BotStatus(StrEnum):
    """What its owner wants of a bot."""

    ACTIVE = "active"
    PAUSED = "paused"
    """No entries; exits go on."""
    STOPPING = "stopping"
    """No entries; what is open is sold, then the bot is inactive."""
    INACTIVE = "inactive"


class Side(StrEnum):
    BUY = "buy"
    SELL = "sell"


class Leg(StrEnum):
    """Which half of a position an order is: botfleet buys to enter and sells to exit."""

    ENTRY = "entry"
    EXIT = "exit"

    @property
    def side(self) -> Side:
        return Side.BUY if self is Leg.ENTRY else Side.SELL


class OrderStatus(StrEnum):
    COMMITTED = "committed"
    OPEN = "open"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"
    REJECTED = "rejected"
    UNKNOWN = "unknown"
    NOT_PLACED = "not_placed"


_AT_THE_VENUE = frozenset(
    {OrderStatus.OPEN, OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED}
)

TRANSITIONS: Final[Mapping[OrderStatus, frozenset[OrderStatus]]] = {
    OrderStatus.COMMITTED: _AT_THE_VENUE | {OrderStatus.REJECTED, OrderStatus.UNKNOWN},
    OrderStatus.UNKNOWN: _AT_THE_VENUE | {OrderStatus.REJECTED, OrderStatus.NOT_PLACED},
    OrderStatus.OPEN: _AT_THE_VENUE - {OrderStatus.OPEN},
    OrderStatus.FILLED: frozenset(),
    OrderStatus.CANCELLED: frozenset(),
    OrderStatus.EXPIRED: frozenset(),
    OrderStatus.REJECTED: frozenset(),
    # Only if it shows up at the venue after all: it is adopted, with an alarm.
    OrderStatus.NOT_PLACED: _AT_THE_VENUE,
}

UNSETTLED: Final = frozenset({OrderStatus.COMMITTED, OrderStatus.OPEN, OrderStatus.UNKNOWN})
"""An order in one of these blocks its (bot, pair)."""

STUCK_AFTER_ATTEMPTS: Final = 7
"""An open position with so many exits behind it is stuck: the back-off of 5 s has reached 5 min."""


class PositionStatus(StrEnum):
    OPENING = "opening"
    OPEN = "open"
    CLOSING = "closing"
    CLOSED = "closed"


UNCLOSED: Final = frozenset(set(PositionStatus) - {PositionStatus.CLOSED})


@dataclass(frozen=True, slots=True, kw_only=True)
class Intent:
    """An order that a worker decided: made durable before anything is sent.

    `quantity` is in the base currency. `limit_price` None is an order at market. `credential_id`
    0 is paper.
    `position_version` is the version of the position that an exit was decided on; 0 for an
    entry. `facts` are the tick's identity, the indicators and the thresholds met. Times are
    milliseconds of the worker's clock, but `observed_at_ms` (the price stream's) and
    `market_time_ms` (the venue's).
    """

    client_order_id: str
    bot_id: int
    user_id: int
    shard: int
    lease_epoch: int
    mode: Mode
    venue: str
    pair: str
    position_sequence: int
    position_version: int
    leg: Leg
    attempt: int
    quantity: Decimal
    limit_price: Decimal | None
    decided_price: Decimal
    taker_fee: Decimal
    reason: Reason
    market_time_ms: int
    observed_at_ms: int
    received_at_ms: int
    decided_at_ms: int
    credential_id: int = 0
    regime: str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveOrder:
    """An order that was, or may have been, sent to a venue, as the database has it.

    `limit_price` None is an order at market. `committed_at_ms`, `send_by_ms` and
    `settled_at_ms` are the database's clock, `market_time_ms` the venue's. After `send_by_ms`
    nothing is sent, and the venue refuses what arrives. `regime` is that of its position's entry.
    """

    client_order_id: str
    bot_id: int
    user_id: int
    shard: int
    credential_id: int
    venue: str
    pair: str
    position_sequence: int
    leg: Leg
    attempt: int
    quantity: Decimal
    limit_price: Decimal | None
    decided_price: Decimal
    status: OrderStatus
    venue_order_id: str | None
    market_time_ms: int
    committed_at_ms: int
    send_by_ms: int
    settled_at_ms: int | None = None
    regime: str | None = None

    @property
    def mode(self) -> Mode:
        return Mode.LIVE


class OrderFacts(Protocol):
    """What an `Intent` and an order as it is stored have in common: what never changes."""

    @property
    def client_order_id(self) -> str: ...
    @property
    def bot_id(self) -> int: ...
    @property
    def user_id(self) -> int: ...
    @property
    def shard(self) -> int: ...
    @property
    def mode(self) -> Mode: ...
    @property
    def venue(self) -> str: ...
    @property
    def credential_id(self) -> int: ...
    @property
    def pair(self) -> str: ...
    @property
    def position_sequence(self) -> int: ...
    @property
    def leg(self) -> Leg: ...
    @property
    def attempt(self) -> int: ...
    @property
    def quantity(self) -> Decimal: ...
    @property
    def limit_price(self) -> Decimal | None: ...
    @property
    def decided_price(self) -> Decimal: ...
    @property
    def reason(self) -> str: ...
    @property
    def market_time_ms(self) -> int: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Fill:
    """One trade of one order. `trade_id` is unique per venue, credential and pair.

    `price` is in the quote currency, `quantity` in the base currency, `fee` in `fee_currency`:
    the quote, the base (Binance takes it from what was bought), or any other. `at_ms` is the
    venue's clock.
    """

    client_order_id: str
    trade_id: str
    leg: Leg
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PositionTotals:
    """What a position's distinct fills add up to, to the last digit.

    `entry_cost` and `exit_proceeds` are without fees; all but the quantities are in the quote
    currency. `fees` are those taken in the quote currency, `fee_quantity` those taken in the
    coin: they are not there to sell. Fees in any other currency are in the fills alone.
    `realised_pnl` = exit_proceeds - entry_cost - fees: while a position is open it is the cash
    that has flowed so far.
    """

    entry_quantity: Decimal
    entry_cost: Decimal
    exit_quantity: Decimal
    exit_proceeds: Decimal
    fees: Decimal
    fee_quantity: Decimal

    @property
    def held(self) -> Decimal:
        """What is still there to sell, in the base currency."""
        with exact():
            return self.entry_quantity - self.exit_quantity - self.fee_quantity

    @property
    def realised_pnl(self) -> Decimal:
        with exact():
            return self.exit_proceeds - self.entry_cost - self.fees


def totals_of(fills: Iterable[Fill], *, pair: str) -> PositionTotals:
    """Sum a position's fills. The same trade twice counts once; order does not matter."""
    zero = Decimal(0)
    quantity = {Leg.ENTRY: zero, Leg.EXIT: zero}
    value = {Leg.ENTRY: zero, Leg.EXIT: zero}
    fees = {base_of(pair): zero, quote_of(pair): zero}
    distinct = {(fill.client_order_id, fill.trade_id): fill for fill in fills}
    with exact():
        for fill in distinct.values():
            quantity[fill.leg] += fill.quantity
            value[fill.leg] += fill.quantity * fill.price
            if fill.fee_currency in fees:
                fees[fill.fee_currency] += fill.fee
    return PositionTotals(
        entry_quantity=quantity[Leg.ENTRY],
        entry_cost=value[Leg.ENTRY],
        exit_quantity=quantity[Leg.EXIT],
        exit_proceeds=value[Leg.EXIT],
        fees=fees[quote_of(pair)],
        fee_quantity=fees[base_of(pair)],
    )


def client_order_id(
    namespace: UUID, *, bot_id: int, pair: str, position_sequence: int, leg: Leg, attempt: int
) -> str:
    """The id under which a venue knows an order: 32 hexadecimal digits, both venues take them.

    The same order has the same id on every worker; `namespace` is drawn once per database, so
    a wiped or restored database never meets its old ids.
    """
    return uuid5(namespace, f"{bot_id}|{pair}|{position_sequence}|{leg}|{attempt}").hex
