"""What the venues allow in requests, and what each kind of request costs there.

Sources: Binance's exchange information and github.com/binance/binance-spot-api-docs,
rest-api.md; Kraken's docs.kraken.com/exchange/guides/rest/ratelimits and
docs.kraken.com/exchange/guides/general/ratelimits (the lowest tier's figures).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Final


class Request(StrEnum):
    """Every kind of request that a trade worker makes of a venue."""

    ADD_ORDER = "add_order"
    CANCEL_ORDER = "cancel_order"
    ORDER_QUERY = "order_query"
    """One order, by an id."""
    OPEN_ORDERS = "open_orders"
    CLOSED_ORDERS = "closed_orders"
    TRADES = "trades"
    """The trades of one order."""
    BALANCES = "balances"
    PERMISSIONS = "permissions"
    """What a key may do."""
    SERVER_TIME = "server_time"
    MARKETS = "markets"


class Scope(StrEnum):
    """Whom a venue counts requests for."""

    ADDRESS = "address"
    KEY = "key"


@dataclass(frozen=True, slots=True, kw_only=True)
class WindowLimit:
    """At most `most` in any `window_secs`.

    `reserve` (a fraction of `most`) is left to others: of an address to the price stream, of a
    key to its owner. `header` is the reply header that tells what all have used in the venue's
    window.
    """

    scope: Scope
    most: float
    window_secs: float
    reserve: float = 0.0
    header: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class CounterLimit:
    """A counter that each request raises, that falls by `decay_per_sec`, and never is above
    `most`."""

    scope: Scope
    most: float
    decay_per_sec: float
    reserve: float = 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class RequestLimits:
    """One venue's limits by name, and the cost of each request in each limit that counts it.

    `pause_secs` is how long a venue that throttles, and `ban_secs` how long one that bans an
    address (HTTP 418), is left alone where it does not say how long itself.
    """

    limits: Mapping[str, WindowLimit | CounterLimit]
    costs: Mapping[Request, Mapping[str, float]]
    pause_secs: float
    ban_secs: float


KRAKEN_LIMITS: Final = RequestLimits(
    limits={
        # Kraken names no limit of an address for private requests: this only keeps a burst of
        # many keys from looking like an attack.
        "pace": CounterLimit(scope=Scope.ADDRESS, most=200.0, decay_per_sec=100.0),
        "calls": CounterLimit(scope=Scope.KEY, most=15.0, decay_per_sec=0.33),
        # Kraken's is per key and pair. Counted per key it is stricter, and needs no pair.
        "trading": CounterLimit(scope=Scope.KEY, most=60.0, decay_per_sec=1.0),
    },
    costs={
        Request.ADD_ORDER: {"pace": 1, "trading": 1},
        # What cancelling an order younger than 5 s costs.
        Request.CANCEL_ORDER: {"pace": 1, "trading": 8},
        Request.ORDER_QUERY: {"pace": 1, "calls": 1},
        Request.OPEN_ORDERS: {"pace": 1, "calls": 1},
        # Two: "ledger and trade history", which does not say whether these are that.
        Request.CLOSED_ORDERS: {"pace": 1, "calls": 2},
        Request.TRADES: {"pace": 1, "calls": 2},
        Request.BALANCES: {"pace": 1, "calls": 1},
        Request.PERMISSIONS: {"pace": 1, "calls": 1},
        Request.SERVER_TIME: {"pace": 1},
        Request.MARKETS: {"pace": 1},
    },
    pause_secs=5.0,
    ban_secs=120.0,
)

BINANCE_LIMITS: Final = RequestLimits(
    limits={
        "weight": WindowLimit(
            scope=Scope.ADDRESS,
            most=6000.0,
            window_secs=60.0,
            reserve=0.2,  # the price stream's: see shared.venues.BINANCE
            header="x-mbx-used-weight-1m",
        ),
        "orders": WindowLimit(
            scope=Scope.KEY,
            most=100.0,
            window_secs=10.0,
            reserve=0.1,
            header="x-mbx-order-count-10s",
        ),
        "orders a day": WindowLimit(
            scope=Scope.KEY,
            most=200_000.0,
            window_secs=86_400.0,
            reserve=0.1,
            header="x-mbx-order-count-1d",
        ),
    },
    costs={
        Request.ADD_ORDER: {"weight": 1, "orders": 1, "orders a day": 1},
        Request.CANCEL_ORDER: {"weight": 1},
        Request.ORDER_QUERY: {"weight": 4},
        Request.OPEN_ORDERS: {"weight": 6},
        Request.CLOSED_ORDERS: {"weight": 20},
        Request.TRADES: {"weight": 5},
        Request.BALANCES: {"weight": 20},
        Request.PERMISSIONS: {"weight": 1},
        Request.SERVER_TIME: {"weight": 1},
        Request.MARKETS: {"weight": 20},
    },
    pause_secs=60.0,
    ban_secs=120.0,
)

REQUEST_LIMITS: Final[Mapping[str, RequestLimits]] = {
    "kraken": KRAKEN_LIMITS,
    "binance": BINANCE_LIMITS,
}
"""By venue."""
