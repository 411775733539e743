"""A few markets whose prices walk at random."""

import math
import random
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

CANDLE_MS: Final = 900_000
HISTORY: Final = 240
STEP_MS: Final = 250
STEP: Final = 0.0002
"""The walk's deviation in one step, as a fraction."""

HALF_SPREAD: Final = Decimal("0.0001")


@dataclass(frozen=True, slots=True)
class Listing:
    """What a venue lists. `symbol` and `code` are its names of the market (Kraken has two),
    `base` and `quote` its names of the currencies, `pair` ours of all that."""

    pair: str
    symbol: str
    code: str
    base: str
    quote: str
    tick: Decimal
    lot: Decimal
    least: Decimal
    least_cost: Decimal
    start: float

    @property
    def coins(self) -> tuple[str, str]:
        base, _, quote = self.pair.partition("/")
        return base, quote


def _listing(pair: str, names: str, rules: str, start: float) -> Listing:
    symbol, code, base, quote = names.split()
    tick, lot, least, least_cost = map(Decimal, rules.split())
    return Listing(pair, symbol, code, base, quote, tick, lot, least, least_cost, start)


LISTINGS: Final = {
    "kraken": (
        _listing("BTC/USD", "XBTUSD XXBTZUSD XXBT ZUSD", "0.1 1e-8 0.00005 0.5", 64000.0),
        _listing("ETH/USD", "ETHUSD XETHZUSD XETH ZUSD", "0.01 1e-8 0.001 0.5", 3100.0),
        _listing("SOL/USD", "SOLUSD SOLUSD SOL ZUSD", "0.01 1e-8 0.02 0.5", 150.0),
        _listing("XRP/USD", "XRPUSD XXRPZUSD XXRP ZUSD", "0.00001 1e-8 2 0.5", 0.61),
    ),
    "binance": (
        _listing("BTC/USDT", "BTCUSDT BTCUSDT BTC USDT", "0.01 0.00001 0.00001 5", 64000.0),
        _listing("ETH/USDT", "ETHUSDT ETHUSDT ETH USDT", "0.01 0.0001 0.0001 5", 3100.0),
        _listing("SOL/USDT", "SOLUSDT SOLUSDT SOL USDT", "0.01 0.001 0.001 5", 150.0),
        _listing("BNB/USDT", "BNBUSDT BNBUSDT BNB USDT", "0.1 0.001 0.001 5", 580.0),
    ),
}


@dataclass(slots=True)
class Candle:
    open_ms: int
    open: float
    high: float
    low: float
    close: float
    volume: float


class Market:
    """One market's walk: it has a past of `HISTORY` candles, and goes on when it is looked at."""

    def __init__(self, listing: Listing, draw: random.Random, *, now_ms: int) -> None:
        self.listing = listing
        self._draw = draw
        self._price = listing.start
        self._at_ms = now_ms
        self.candles: list[Candle] = []
        first = now_ms - now_ms % CANDLE_MS - HISTORY * CANDLE_MS
        for open_ms in range(first, now_ms, CANDLE_MS):
            self._begin_candle(open_ms)
            for _ in range(15):
                self._step(10 * STEP)

    def look(self, now_ms: int) -> Decimal:
        """The price now, on the price step."""
        while self._at_ms + STEP_MS <= now_ms:
            self._at_ms += STEP_MS
            open_ms = self._at_ms - self._at_ms % CANDLE_MS
            if open_ms != self.candles[-1].open_ms:
                self._begin_candle(open_ms)
            self._step(STEP)
        return self._on_tick(Decimal(self._price))

    def bid(self, now_ms: int) -> Decimal:
        return self._on_tick(self.look(now_ms) * (1 - HALF_SPREAD)) - self.listing.tick

    def ask(self, now_ms: int) -> Decimal:
        return self._on_tick(self.look(now_ms) * (1 + HALF_SPREAD)) + self.listing.tick

    def _begin_candle(self, open_ms: int) -> None:
        price = self._price
        self.candles.append(Candle(open_ms, price, price, price, price, 0.0))

    def _step(self, deviation: float) -> None:
        self._price *= math.exp(self._draw.gauss(0.0, deviation))
        candle = self.candles[-1]
        candle.close = self._price
        candle.high, candle.low = max(candle.high, self._price), min(candle.low, self._price)
        candle.volume += self._draw.expovariate(1.0) * 1000 / self._price

    def _on_tick(self, price: Decimal) -> Decimal:
        return price.quantize(self.listing.tick)
