"""A venue, a clock and a database for the price stream, all turned by hand."""

import asyncio
import heapq
from collections.abc import Collection, Mapping, Sequence
from decimal import Decimal
from itertools import count

from price_stream.candles import CANDLE_MS, Candle, open_of
from price_stream.feeds import Quotes, ServerTime
from price_stream.quotes import Quote
from shared.errors import SymbolRefused
from shared.messages import Tick
from shared.money import MarketRules

MARKET_START_MS = 1_700_000_000_000 - 1_700_000_000_000 % CANDLE_MS + 60_000
WALL_START_MS = 1_800_000_000_000
RULES = MarketRules(
    lot_step=Decimal("0.0001"),
    price_tick=Decimal("0.1"),
    min_quantity=Decimal("0.0001"),
    min_notional=Decimal(5),
)


class ManualClock:
    """Time stands still but for `advance`."""

    def __init__(self) -> None:
        self._now_secs = 1000.0
        self._sleepers: list[tuple[float, int, asyncio.Event]] = []
        self._order = count()

    @property
    def passed_secs(self) -> float:
        return self._now_secs - 1000.0

    def wall_ms(self) -> int:
        return WALL_START_MS + round(self.passed_secs * 1000)

    def monotonic_secs(self) -> float:
        return self._now_secs

    async def sleep_until(self, moment_secs: float) -> None:
        if moment_secs > self._now_secs:
            woken = asyncio.Event()
            heapq.heappush(self._sleepers, (moment_secs, next(self._order), woken))
            await woken.wait()

    async def advance(self, secs: float) -> None:
        """Let time pass; whoever wakes on the way does all it can before time goes on."""
        until_secs = self._now_secs + secs
        await settle()
        while self._sleepers and self._sleepers[0][0] <= until_secs:
            self._now_secs, _, woken = heapq.heappop(self._sleepers)
            woken.set()
            await settle()
        self._now_secs = until_secs


async def settle() -> None:
    """Let every task run until it waits for time or for the test."""
    for _ in range(60):
        await asyncio.sleep(0)


class FakeFeed:
    """A venue that says what the test tells it to."""

    def __init__(self, clock: ManualClock, *, speed: float = 1.0) -> None:
        self.prices: dict[str, float] = {}
        self.quotes_told: dict[str, Quote] = {}
        self.history: dict[str, list[Candle]] = {}
        self.refused_by_venue: set[str] = set()
        self.unlisted: set[str] = set()
        self.failure: Exception | None = None
        self.time_failure: Exception | None = None
        self.candle_failure: Exception | None = None
        self.answering = asyncio.Event()
        self.answering.set()
        self.telling_time = asyncio.Event()
        self.telling_time.set()
        self.asked: list[tuple[float, list[str]]] = []
        self.candles_asked: list[tuple[float, str, int]] = []
        self.loads = 0
        self.setback_ms = 0
        self.closed = False
        self._clock = clock
        self._speed = speed

    @property
    def market_time_ms(self) -> int:
        passed_ms = round(self._clock.passed_secs * 1000 * self._speed)
        return MARKET_START_MS + passed_ms - self.setback_ms

    async def load(self) -> Mapping[str, MarketRules]:
        if self.failure is not None:
            raise self.failure
        self.loads += 1
        self.unlisted -= self.prices.keys()
        return dict.fromkeys(self.prices, RULES)

    async def quotes(self, pairs: Collection[str]) -> Quotes:
        self.asked.append((self._clock.passed_secs, list(pairs)))
        await self.answering.wait()
        if self.failure is not None:
            raise self.failure
        if self.refused_by_venue & set(pairs):
            raise SymbolRefused("the venue does not know the symbol")
        told = {pair: quote for pair in pairs if (quote := self._quote(pair)) is not None}
        return Quotes(
            by_pair=told,
            refused={pair: "not listed" for pair in pairs if pair in self.unlisted},
            observed_at_ms=self._clock.wall_ms(),
            read_at_secs=self._clock.monotonic_secs(),
        )

    async def server_time(self) -> ServerTime:
        await self.telling_time.wait()
        if self.time_failure is not None:
            raise self.time_failure
        return ServerTime(
            market_time_ms=self.market_time_ms, read_at_secs=self._clock.monotonic_secs()
        )

    async def candles(self, pair: str, since_ms: int) -> list[Candle]:
        self.candles_asked.append((self._clock.passed_secs, pair, since_ms))
        if not self.loads:
            raise SymbolRefused("not listed at the venue")
        if self.candle_failure is not None:
            raise self.candle_failure
        if pair in self.history:
            now_ms = self.market_time_ms
            return [one for one in self.history[pair] if since_ms <= one.open_ms <= now_ms]
        return flat_candles(since_ms, self.market_time_ms)

    async def close(self) -> None:
        self.closed = True

    def _quote(self, pair: str) -> Quote | None:
        if pair in self.unlisted:
            return None
        if pair in self.quotes_told:
            return self.quotes_told[pair]
        price = self.prices.get(pair)
        return None if price is None else Quote(price=price, bid=price, ask=price * 1.001)


def flat_candles(since_ms: int, now_ms: int, close: float = 100.0) -> list[Candle]:
    """Candles that all look alike, the one that forms included."""
    return [
        Candle(open_ms=at, open=close, high=close + 1, low=close - 1, close=close, volume=2.0)
        for at in range(open_of(since_ms), now_ms + 1, CANDLE_MS)
    ]


class FakeDirectory:
    """Which markets are wanted, as the test says."""

    def __init__(self, *wanted: tuple[str, str]) -> None:
        self.markets = frozenset(wanted)
        self.failure: Exception | None = None
        self.asked = 0

    async def wanted(self) -> frozenset[tuple[str, str]]:
        self.asked += 1
        if self.failure is not None:
            raise self.failure
        return self.markets


class FakeArchive:
    """What was saved; blocks while `open` is not set."""

    def __init__(self) -> None:
        self.open = asyncio.Event()
        self.open.set()
        self.failure: Exception | None = None
        self.saves: list[list[Tick]] = []
        self.rules: dict[str, Mapping[str, MarketRules]] = {}

    async def save(self, ticks: Sequence[Tick]) -> None:
        await self.open.wait()
        if self.failure is not None:
            raise self.failure
        self.saves.append(list(ticks))

    async def save_rules(self, venue: str, rules: Mapping[str, MarketRules]) -> None:
        if self.failure is not None:
            raise self.failure
        self.rules[venue] = rules
