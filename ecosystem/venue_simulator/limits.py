"""What each venue counts of its callers, and when it has had enough. Pure.

Every time is in milliseconds of one clock (`MarketClock.counting_ms`).
"""

import math
from dataclasses import dataclass, field
from typing import Final

KRAKEN_MAX_CALLS: Final = 15.0
KRAKEN_CALLS_PER_SEC: Final = 0.33
"""The "Starter" tier: a new key's (docs.kraken.com, guides/rest/ratelimits)."""
KRAKEN_MAX_PAIR_ORDERS: Final = 60.0
KRAKEN_PAIR_ORDERS_PER_SEC: Final = 1.0
"""The same tier's threshold of the matching engine (docs.kraken.com, guides/general/ratelimits)."""
_CANCEL_COSTS: Final = ((5, 8.0), (10, 6.0), (15, 5.0), (45, 4.0), (90, 2.0), (300, 1.0))
"""A cancelled order that is younger than so many seconds costs so much."""

BINANCE_WEIGHT_PER_MINUTE: Final = 6000
BINANCE_ORDERS_PER_10_SECS: Final = 100
BINANCE_ORDERS_PER_DAY: Final = 200_000
_MINUTE_MS: Final = 60_000
_TEN_SECS_MS: Final = 10_000
_DAY_MS: Final = 86_400_000
_PATIENCE: Final = 10
"""Refusals with 429 that one address may collect in a minute before it is banned."""
_FIRST_BAN_MS: Final = 120_000


def kraken_cancel_cost(age_ms: int) -> float:
    """What cancelling an order of this age adds to its pair's counter."""
    return next((cost for secs, cost in _CANCEL_COSTS if age_ms < secs * 1000), 0.0)


@dataclass(slots=True)
class Bucket:
    """A counter that rises with use, sinks by itself, and refuses what would lift it over its
    top."""

    top: float
    sinks_per_sec: float
    _level: float = 0.0
    _seen_ms: int | None = None

    def take(self, cost: float, now_ms: int) -> bool:
        """Whether this much more fits; it is counted if so, and always where `cost` is 0."""
        if self._seen_ms is not None:
            sunk = max(0, now_ms - self._seen_ms) / 1000 * self.sinks_per_sec
            self._level = max(0.0, self._level - sunk)
        self._seen_ms = now_ms
        if cost and self._level + cost > self.top:
            return False
        self._level += cost
        return True


class KrakenCounters:
    """One counter per API key, and one per account and pair."""

    def __init__(self) -> None:
        self._calls: dict[str, Bucket] = {}
        self._orders: dict[tuple[str, str], Bucket] = {}

    def call(self, key: str, cost: float, now_ms: int) -> bool:
        bucket = self._calls.setdefault(key, Bucket(KRAKEN_MAX_CALLS, KRAKEN_CALLS_PER_SEC))
        return bucket.take(cost, now_ms)

    def order(self, key: str, pair: str, cost: float, now_ms: int) -> bool:
        bucket = self._orders.setdefault(
            (key, pair), Bucket(KRAKEN_MAX_PAIR_ORDERS, KRAKEN_PAIR_ORDERS_PER_SEC)
        )
        return bucket.take(cost, now_ms)


@dataclass(slots=True)
class _Address:
    minute: int = -1
    weight: int = 0
    refusals: int = 0
    bans: int = 0
    banned_until_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Weighed:
    """What became of one request's weight.

    `used` is the address's weight in this minute. A refused request has `retry_after_secs`, and
    `banned_until_ms` if the address is banned.
    """

    used: int
    retry_after_secs: int | None = None
    banned_until_ms: int | None = None


class BinanceWeights:
    """The weight that each address used of the current minute.

    Whoever goes on after 429 is banned: two minutes at first, twice as long each further time,
    up to three days.
    """

    def __init__(self) -> None:
        self._addresses: dict[str, _Address] = {}

    def weigh(self, address: str, weight: int, now_ms: int) -> Weighed:
        state = self._addresses.setdefault(address, _Address())
        if now_ms < state.banned_until_ms:
            return _banned(state, now_ms)
        minute = now_ms // _MINUTE_MS
        if state.minute != minute:
            state.minute, state.weight, state.refusals = minute, 0, 0
        state.weight += weight
        if state.weight <= BINANCE_WEIGHT_PER_MINUTE:
            return Weighed(used=state.weight)
        state.refusals += 1
        if state.refusals > _PATIENCE:
            ban_ms = min(_FIRST_BAN_MS << state.bans, 3 * _DAY_MS)
            state.bans += 1
            state.banned_until_ms = now_ms + ban_ms
            return _banned(state, now_ms)
        return Weighed(used=state.weight, retry_after_secs=_secs_left(now_ms, _MINUTE_MS))


def _banned(state: _Address, now_ms: int) -> Weighed:
    left_ms = state.banned_until_ms - now_ms
    return Weighed(
        used=state.weight,
        retry_after_secs=math.ceil(left_ms / 1000),
        banned_until_ms=state.banned_until_ms,
    )


def _secs_left(now_ms: int, interval_ms: int) -> int:
    return math.ceil((interval_ms - now_ms % interval_ms) / 1000)


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderCount:
    """How many orders without a fill an account has placed in these ten seconds and this day."""

    ten_secs: int
    day: int


@dataclass(slots=True)
class _Orders:
    ten_secs_number: int = -1
    day_number: int = -1
    ten_secs: int = 0
    day: int = 0


@dataclass(slots=True)
class BinanceOrders:
    """Binance's count of unfilled orders per account (binance-spot-api-docs,
    faqs/order_count_decrement.md): an order's first fill gives it back."""

    _accounts: dict[str, _Orders] = field(default_factory=dict)

    def count(self, key: str, now_ms: int) -> OrderCount:
        orders = self._now(key, now_ms)
        return OrderCount(ten_secs=orders.ten_secs, day=orders.day)

    def retry_after_secs(self, key: str, now_ms: int) -> int | None:
        """How long no further order is taken; None if one is."""
        orders = self._now(key, now_ms)
        if orders.day >= BINANCE_ORDERS_PER_DAY:
            return _secs_left(now_ms, _DAY_MS)
        if orders.ten_secs >= BINANCE_ORDERS_PER_10_SECS:
            return _secs_left(now_ms, _TEN_SECS_MS)
        return None

    def placed(self, key: str, now_ms: int) -> None:
        orders = self._now(key, now_ms)
        orders.ten_secs += 1
        orders.day += 1

    def filled(self, key: str, now_ms: int) -> None:
        """An order of this account was filled for the first time."""
        orders = self._now(key, now_ms)
        orders.ten_secs = max(0, orders.ten_secs - 1)
        orders.day = max(0, orders.day - 1)

    def _now(self, key: str, now_ms: int) -> _Orders:
        orders = self._accounts.setdefault(key, _Orders())
        ten_secs_number, day_number = now_ms // _TEN_SECS_MS, now_ms // _DAY_MS
        if orders.ten_secs_number != ten_secs_number:
            orders.ten_secs_number, orders.ten_secs = ten_secs_number, 0
        if orders.day_number != day_number:
            orders.day_number, orders.day = day_number, 0
        return orders
