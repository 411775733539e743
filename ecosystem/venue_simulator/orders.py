"""What is traded at a simulated venue: requests, orders, trades, refusals. Pure."""

from dataclasses import dataclass, field
from decimal import Decimal
from enum import StrEnum, unique

from shared.money import exact
from shared.orders import Side


@unique
class OrderType(StrEnum):
    LIMIT = "limit"
    MARKET = "market"


@unique
class TimeInForce(StrEnum):
    IOC = "ioc"
    """What does not fill at once ends: expired on Binance, cancelled on Kraken."""
    GTC = "gtc"
    """What does not fill at once rests until the price comes, or it is cancelled."""


@unique
class VenueOrderStatus(StrEnum):
    """Where an order is. A partial fill is an open, cancelled or expired order with trades."""

    OPEN = "open"
    FILLED = "filled"
    CANCELLED = "cancelled"
    EXPIRED = "expired"


@unique
class RefusalKind(StrEnum):
    """Why the engine refuses; the faces turn it into each venue's own code and text."""

    SPEED = "speed"
    """The venue's clock does not run at speed 1: nobody trades then."""
    DEADLINE = "deadline"
    """At the moment of acceptance the request's own time was over."""
    UNKNOWN_PAIR = "unknown_pair"
    INVALID_QUANTITY = "invalid_quantity"
    """Not above 0."""
    INVALID_PRICE = "invalid_price"
    """A limit order without a price above 0, or a market order with one."""
    LOT_STEP = "lot_step"
    PRICE_TICK = "price_tick"
    MIN_QUANTITY = "min_quantity"
    MIN_NOTIONAL = "min_notional"
    DUPLICATE_CLIENT_ID = "duplicate_client_id"
    """An OPEN order of the account has it: that of an ended order may be used again."""
    INSUFFICIENT_FUNDS = "insufficient_funds"
    TOO_MANY_ORDERS = "too_many_orders"
    UNKNOWN_ORDER = "unknown_order"
    """Of cancels: there is no such open order."""


class OrderRefused(Exception):
    """The engine refuses an order or a cancel: nothing has changed but the journal."""

    def __init__(self, kind: RefusalKind, detail: str) -> None:
        super().__init__(f"{kind}: {detail}")
        self.kind = kind
        self.detail = detail


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderRequest:
    """An order as a venue's face has understood it.

    `quantity` is in the base currency, `price` the limit (None of market orders, whose
    `time_in_force` means nothing). `client_order_id` and `userref` are the client's, as sent.
    `expires_at_ms`, on the venue's clock, is the last moment at which it may be accepted.
    """

    pair: str
    side: Side
    type: OrderType
    quantity: Decimal
    price: Decimal | None = None
    time_in_force: TimeInForce = TimeInForce.GTC
    client_order_id: str | None = None
    userref: int | None = None
    expires_at_ms: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trade:
    """One fill. `at_ms` is on the venue's clock; `fee` is in `fee_currency`."""

    trade_id: str
    order_id: str
    client_order_id: str | None
    pair: str
    side: Side
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    at_ms: int
    is_maker: bool = False

    @property
    def cost(self) -> Decimal:
        """What it moved in the quote currency, without the fee; exact."""
        with exact():
            return self.price * self.quantity


@dataclass(slots=True, kw_only=True)
class VenueOrder:
    """An order that the venue accepted. It changes while it is open.

    `accepted_at_ms` and `ended_at_ms` are on the venue's clock. `trades` are in the order in
    which they happened. `held` is what the account has set aside for what remains.
    """

    order_id: str
    account: str
    """The name of the account that it belongs to."""
    request: OrderRequest
    accepted_at_ms: int
    status: VenueOrderStatus = VenueOrderStatus.OPEN
    ended_at_ms: int | None = None
    trades: list[Trade] = field(default_factory=list)
    held: Decimal = Decimal(0)

    @property
    def is_open(self) -> bool:
        return self.status is VenueOrderStatus.OPEN

    @property
    def filled(self) -> Decimal:
        """Executed so far, in the base currency."""
        with exact():
            return sum((trade.quantity for trade in self.trades), Decimal(0))

    @property
    def remaining(self) -> Decimal:
        with exact():
            return self.request.quantity - self.filled

    @property
    def cost(self) -> Decimal:
        """What its trades moved in the quote currency, without fees."""
        with exact():
            return sum((trade.cost for trade in self.trades), Decimal(0))

    @property
    def fee(self) -> Decimal:
        """The sum of its trades' fees; all of them are in one currency unless a fee asset ran
        out between two."""
        with exact():
            return sum((trade.fee for trade in self.trades), Decimal(0))

    @property
    def updated_at_ms(self) -> int:
        """When it last changed."""
        last = self.trades[-1].at_ms if self.trades else self.accepted_at_ms
        return max(last, self.ended_at_ms or 0)
