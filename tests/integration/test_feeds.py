"""Stored replies of both venues, through the real ccxt, to the quotes and ticks they mean."""

import asyncio
import json
import subprocess
import sys
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from aiohttp import web

from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
from price_stream.candles import CANDLE_MS, Candle
from price_stream.feeds import CcxtFeed
from price_stream.quotes import Quote
from price_stream.stream import PriceStream
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.clock import monotonic_secs, wall_ms
from shared.errors import SymbolRefused, VenueUnavailable
from shared.messages import Regime, Tick, decode_tick
from shared.money import MarketRules
from shared.topology import PRICE_UPDATES, TICK_QUEUE, Binding
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.reply_server import Answer, ReplyServer, cut, never, serving, stored, text
from tests.unit.stream_fakes import FakeArchive, FakeDirectory

REPLIES = Path(__file__).parents[1] / "data" / "venue_replies"
CAPTURED = [path for path in [Path(__file__).parents[3] / "shared" / "wire"] if path.exists()]
LAST_CLOSE_MS = 1_642_006_800_000
"""The stored candles end here; the stored server time is 10 s later."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A venue with stored replies, and a loaded feed on it."""

    venue: Venue
    server: ReplyServer
    feed: CcxtFeed
    rules: Mapping[str, MarketRules]


@asynccontextmanager
async def opened(venue: Venue) -> AsyncIterator[Opened]:
    async with serving(venue.name, stored(REPLIES, venue.name)) as server:
        feed = CcxtFeed(venue, url=server.base_url, timeout_secs=5.0)
        try:
            yield Opened(venue, server, feed, await feed.load())
        finally:
            await feed.close()


@pytest.fixture
async def kraken() -> AsyncIterator[Opened]:
    async with opened(KRAKEN) as one:
        yield one


@pytest.fixture
async def binance() -> AsyncIterator[Opened]:
    async with opened(BINANCE) as one:
        yield one


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    async with opened(request.param) as one:
        yield one


# What is asked, and what comes of it


async def test_kraken_quotes_are_one_request(kraken: Opened) -> None:
    before_ms = wall_ms()
    quotes = await kraken.feed.quotes(["BTC/USD", "ETH/USD", "DOGE/USD"])
    assert quotes.by_pair == {
        "BTC/USD": Quote(price=43197.9, bid=43198.0, ask=43198.1),
        "ETH/USD": Quote(price=3302.5, bid=3302.18, ask=3302.19),
        "DOGE/USD": Quote(price=0.171, bid=0.170958, ask=0.171042),
    }
    assert quotes.refused == {}
    assert before_ms <= quotes.observed_at_ms <= wall_ms()
    (query,) = kraken.server.queries("ticker")
    assert set(query["pair"].split(",")) == {"XXBTZUSD", "XETHZUSD", "XDGUSD"}


async def test_binance_quotes_are_one_request(binance: Opened) -> None:
    quotes = await binance.feed.quotes(["BTC/USDT", "ETH/USDT"])
    assert quotes.by_pair == {
        "BTC/USDT": Quote(price=43197.89, bid=43197.89, ask=43197.9),
        "ETH/USDT": Quote(price=3302.5, bid=3302.4, ask=3302.6),
    }
    (query,) = binance.server.queries("ticker_24hr")
    assert json.loads(query["symbols"]) == ["BTCUSDT", "ETHUSDT"]


async def test_no_path_but_the_expected_ones_is_asked(kraken: Opened, binance: Opened) -> None:
    for venue, pair in ((kraken, "BTC/USD"), (binance, "BTC/USDT")):
        await venue.feed.quotes([pair])
        await venue.feed.server_time()
        await venue.feed.candles(pair, LAST_CLOSE_MS - CANDLE_MS)
    assert [name for name, _ in kraken.server.asked] == ["asset_pairs", "ticker", "time", "ohlc"]
    assert [name for name, _ in binance.server.asked] == [
        *("exchange_info", "ticker_24hr", "time", "klines")
    ]


async def test_the_venues_clocks(kraken: Opened, binance: Opened) -> None:
    before = monotonic_secs()
    told = await kraken.feed.server_time()
    assert told.market_time_ms == 1_642_006_810_000
    assert before <= told.read_at_secs <= monotonic_secs()
    assert (await binance.feed.server_time()).market_time_ms == 1_642_006_810_123


async def test_candles(either: Opened) -> None:
    pair = either.venue.reference_pair
    candles = await either.feed.candles(pair, LAST_CLOSE_MS - 101 * CANDLE_MS)
    assert len(candles) == 102
    assert candles[100:] == [
        Candle(
            open_ms=LAST_CLOSE_MS - CANDLE_MS,
            open=43096.0,
            high=43105.0,
            low=43095.0,
            close=43100.0,
            volume=5.0,
        ),
        Candle(
            open_ms=LAST_CLOSE_MS,
            open=43106.0,
            high=43115.0,
            low=43105.0,
            close=43110.0,
            volume=0.4,
        ),
    ]


async def test_the_rules_of_the_markets(kraken: Opened, binance: Opened) -> None:
    assert set(kraken.rules) == {"BTC/USD", "ETH/USD", "DOGE/USD"}, "REP/USD is not traded"
    assert kraken.rules["BTC/USD"] == MarketRules(
        lot_step=Decimal("1E-8"),
        price_tick=Decimal("0.1"),
        min_quantity=Decimal("0.00005"),
        min_notional=Decimal("0.5"),
    )
    assert binance.rules["BTC/USDT"] == MarketRules(
        lot_step=Decimal("0.00001"),
        price_tick=Decimal("0.01"),
        min_quantity=Decimal("0.00001"),
        min_notional=Decimal(5),
    )


async def test_pairs_that_are_not_traded_are_refused_without_a_request(kraken: Opened) -> None:
    quotes = await kraken.feed.quotes(["BTC/USD", "NONE/USD", "REP/USD"])
    assert set(quotes.by_pair) == {"BTC/USD"}
    assert quotes.refused == {
        "NONE/USD": "not listed at the venue",
        "REP/USD": "not traded at the venue at present",
    }
    kraken.server.asked.clear()
    assert set((await kraken.feed.quotes(["REP/USD"])).refused) == {"REP/USD"}
    with pytest.raises(SymbolRefused):
        await kraken.feed.candles("REP/USD", 0)
    assert kraken.server.asked == []


async def test_the_moment_is_taken_before_the_reply_is_parsed(
    kraken: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    client: Any = kraken.feed._client
    parse = client.parse_json
    parsed_at: list[float] = []

    def noting(body: str) -> object:
        parsed_at.append(monotonic_secs())
        return parse(body)

    monkeypatch.setattr(client, "parse_json", noting)
    quotes = await kraken.feed.quotes(["BTC/USD"])
    assert quotes.read_at_secs <= parsed_at[0]


async def test_concurrent_requests_keep_their_own_moments(binance: Opened) -> None:
    released = asyncio.Event()

    async def late(_: web.Request) -> web.StreamResponse:
        await released.wait()
        return web.Response(
            text=binance.server.replies["ticker_24hr"], content_type="application/json"
        )

    binance.server.instead["ticker_24hr"] = late
    quotes = asyncio.create_task(binance.feed.quotes(["BTC/USDT"]))
    told = await binance.feed.server_time()
    released.set()
    assert (await quotes).read_at_secs > told.read_at_secs


# What goes wrong


@pytest.mark.parametrize(
    ("answer", "reason", "retry_after_secs"),
    [
        (text("<html>oops</html>", status=500), "500", None),
        (text("upstream", status=502), "502", None),
        (text("", status=503), "503", None),
        (text("{}", status=429, Retry_After="7"), "failed", 7.0),
        (text("{}", status=418, Retry_After="120"), "failed", 120.0),
        (text("{}", status=429, Retry_After="Wed, 21 Oct 2026 07:28:00 GMT"), "failed", None),
        (text("not json at all"), "answered", None),
        (text(""), "", None),
        (text("[1, 2"), "", None),
        (text("null"), "", None),
        (cut, "ClientPayloadError", None),
    ],
)
async def test_a_venue_that_fails_is_unavailable(
    answer: Answer, reason: str, retry_after_secs: float | None, either: Opened
) -> None:
    either.server.instead = dict.fromkeys(("ticker", "ticker_24hr"), answer)
    with pytest.raises(VenueUnavailable) as caught:
        await either.feed.quotes([either.venue.reference_pair])
    assert reason in str(caught.value)
    assert caught.value.retry_after_secs == retry_after_secs
    assert "127.0.0.1" not in str(caught.value)
    assert len(str(caught.value)) < 120


@pytest.mark.parametrize("name", ["time", "ohlc"])
async def test_the_other_calls_fail_alike(name: str, kraken: Opened) -> None:
    kraken.server.instead[name] = text('{"error": ["EService:Unavailable"]}')
    call = (
        kraken.feed.server_time()
        if name == "time"
        else kraken.feed.candles("BTC/USD", LAST_CLOSE_MS)
    )
    with pytest.raises(VenueUnavailable, match="EService:Unavailable"):
        await call


async def test_krakens_throttling_is_told(kraken: Opened) -> None:
    kraken.server.instead["ticker"] = text('{"error": ["EGeneral:Too many requests"]}')
    with pytest.raises(VenueUnavailable, match="Too many requests"):
        await kraken.feed.quotes(["BTC/USD"])


async def test_a_venue_that_does_not_answer_is_left_after_the_timeout() -> None:
    async with serving("kraken", stored(REPLIES, "kraken")) as server:
        feed = CcxtFeed(KRAKEN, url=server.base_url, timeout_secs=0.1)
        try:
            await feed.load()
            released = asyncio.Event()
            server.instead["ticker"] = never(released)
            with pytest.raises(VenueUnavailable, match="did not answer in time"):
                await feed.quotes(["BTC/USD"])
            released.set()
        finally:
            await feed.close()


async def test_a_venue_that_is_not_there_is_unavailable() -> None:
    async with serving("kraken", {}) as server:
        url = server.base_url
    feed = CcxtFeed(KRAKEN, url=url, timeout_secs=5.0)
    with pytest.raises(VenueUnavailable, match="ClientConnector"):
        await feed.load()
    await feed.close()


@pytest.mark.parametrize("error", ["EQuery:Unknown asset pair", "EQuery:Invalid asset pair"])
async def test_kraken_refuses_a_symbol(error: str, kraken: Opened) -> None:
    kraken.server.instead["ticker"] = text(json.dumps({"error": [error]}))
    with pytest.raises(SymbolRefused):
        await kraken.feed.quotes(["BTC/USD", "ETH/USD"])


async def test_binance_refuses_a_symbol(binance: Opened) -> None:
    body = '{"code": -1121, "msg": "Invalid symbol."}'
    binance.server.instead["ticker_24hr"] = text(body, status=400)
    with pytest.raises(SymbolRefused):
        await binance.feed.quotes(["BTC/USDT"])


@pytest.mark.parametrize(
    "row",
    [
        [1_642_006_800, "nonsense", "1", "1", "1", "1", "1", 1],
        [1_642_006_800, "1", "1", "1", "NaN", "1", "1", 1],
        [1_642_006_800, "1", "1", "0", "1", "1", "1", 1],
        [1_642_006_800, "1", "1", "1", "1", "1", "-1", 1],
        [1_642_006_860, "1", "1", "1", "1", "1", "1", 1],
    ],
)
async def test_a_candle_that_makes_no_sense_spoils_the_reply(
    row: list[object], kraken: Opened
) -> None:
    body = json.dumps({"error": [], "result": {"XXBTZUSD": [row], "last": 1}})
    kraken.server.instead["ohlc"] = text(body)
    with pytest.raises(VenueUnavailable):
        await kraken.feed.candles("BTC/USD", LAST_CLOSE_MS)


async def test_a_missing_bid_is_missing(kraken: Opened) -> None:
    reply = json.loads(kraken.server.replies["ticker"])
    del reply["result"]["XETHZUSD"]["b"]
    kraken.server.replies["ticker"] = json.dumps(reply)
    quotes = await kraken.feed.quotes(["BTC/USD", "ETH/USD"])
    assert quotes.by_pair["ETH/USD"] == Quote(price=3302.5, bid=None, ask=3302.19)
    assert quotes.by_pair["BTC/USD"].bid == 43198.0


# From the replies to the ticks on the bus


async def _always() -> bool:
    return True


async def ticks_of(
    feeds: dict[Venue, CcxtFeed], *wanted: tuple[str, str], until: int
) -> dict[tuple[str, str], Tick]:
    """Run a stream on these feeds until `until` markets had a tick with known indicators."""
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    bindings = frozenset({Binding(exchange=PRICE_UPDATES, pattern="#")})
    queue = await bus.subscribe(TICK_QUEUE, bindings)
    stream = PriceStream(
        feeds=feeds,
        bus=bus,
        directory=FakeDirectory(*wanted),
        archive=FakeArchive(),
        may_publish=_always,
        instance="test",
        poll_interval_secs=0.1,
    )
    stream.lead(3)
    running = asyncio.create_task(stream.run())
    latest: dict[tuple[str, str], Tick] = {}
    try:
        async with asyncio.timeout(20):
            while sum(tick.indicators.adx is not None for tick in latest.values()) < until:
                batch = await queue.batch()
                await queue.acknowledge(batch)
                latest |= {tick.market: tick for tick in (decode_tick(one.body) for one in batch)}
    finally:
        stream.stop()
        await running
        await bus.close()
    return latest


async def test_the_replies_give_the_ticks_they_should(kraken: Opened, binance: Opened) -> None:
    before_ms = wall_ms()
    ticks = await ticks_of({KRAKEN: kraken.feed, BINANCE: binance.feed}, until=2)
    assert set(ticks) == {("kraken", "BTC/USD"), ("binance", "BTC/USDT")}

    tick = ticks["kraken", "BTC/USD"]
    assert (tick.price, tick.bid, tick.ask) == (43197.9, 43198.0, 43198.1)
    assert (tick.version, tick.stream_epoch) == (1, 3)
    assert tick.sequence >= 2
    assert tick.market_time_ms >= 1_642_006_810_000
    assert before_ms <= tick.observed_at_ms <= tick.published_at_ms <= wall_ms()
    # The closes rise by 10 per candle to 43,100: the 4th last is 43,070, the 16th last 42,950.
    known = tick.indicators
    assert known.momentum_1h == pytest.approx(43197.9 / 43070 - 1)
    assert known.momentum_4h == pytest.approx(43197.9 / 42950 - 1)
    assert known.btc_momentum_1h == known.momentum_1h
    assert known.volume_ratio == 2.5
    assert known.recent_high == 43105.0
    assert known.adx == pytest.approx(100.0)
    assert known.rsi == pytest.approx(100.0)
    assert tick.regime is Regime.STRONG
    # 25 + 30 × 0.29696 + 20 × (3 + 0.57718) / 4 + 15 + 0
    assert tick.confidence == 66.79

    other = ticks["binance", "BTC/USDT"]
    assert (other.price, other.bid, other.ask) == (43197.89, 43197.89, 43197.9)
    assert other.indicators.volume_ratio == 2.5
    assert other.market_time_ms >= 1_642_006_810_123


@pytest.mark.parametrize("folder", CAPTURED, ids=lambda folder: folder.name)
async def test_captured_kraken_replies(folder: Path) -> None:
    captured = {
        name: (folder / "kraken" / f"http_{file}.json").read_text()
        for name, file in (("asset_pairs", "asset_pairs"), ("ticker", "ticker"))
    }
    captured["time"] = (folder / "kraken" / "http_server_time.json").read_text()
    async with serving("kraken", captured) as server:
        feed = CcxtFeed(KRAKEN, url=server.base_url, timeout_secs=5.0)
        rules = await feed.load()
        assert rules["BTC/USDT"].price_tick == Decimal("0.1")
        quotes = await feed.quotes(["BTC/USDT", "BTC/USD"])
        assert quotes.by_pair == {"BTC/USDT": Quote(price=105899.4, bid=105944.2, ask=105944.3)}
        assert quotes.refused == {"BTC/USD": "not listed at the venue"}
        assert (await feed.server_time()).market_time_ms == 1_762_820_224_000
        await feed.close()


@pytest.mark.parametrize("folder", CAPTURED, ids=lambda folder: folder.name)
async def test_captured_binance_replies(folder: Path) -> None:
    def captured(name: str) -> str:
        return (folder / "binance" / f"{name}_response.json").read_text()

    replies = {
        # The captured listing is of ETHBTC, the captured ticker of BNBBTC.
        "exchange_info": captured("exchange_info").replace('"ETH', '"BNB'),
        "ticker_24hr": f"[{captured('ticker_24hr')}]",
        "time": captured("server_time"),
    }
    async with serving("binance", replies) as server:
        feed = CcxtFeed(BINANCE, url=server.base_url, timeout_secs=5.0)
        await feed.load()
        quotes = await feed.quotes(["BNB/BTC"])
        assert quotes.by_pair == {"BNB/BTC": Quote(price=4.000002, bid=4.0, ask=4.000002)}
        assert (await feed.server_time()).market_time_ms == 1_499_827_319_559
        await feed.close()


async def test_the_venue_simulator_gives_ticks_with_indicators_in_a_fast_replay() -> None:
    simulator = VenueSimulator(SimulatorOptions(speed=600, markets=3))
    await simulator.start()
    feeds = {
        venue: CcxtFeed(venue, url=simulator.base_url, timeout_secs=5.0)
        for venue in VENUES.values()
    }
    try:
        ticks = await ticks_of(feeds, ("kraken", "ETH/USD"), ("binance", "ETH/USDT"), until=4)
    finally:
        await simulator.close()
    assert len(ticks) == 4
    for tick in ticks.values():
        assert tick.indicators.btc_momentum_1h is not None
        assert tick.bid <= tick.ask
        assert tick.regime is not None


# ccxt itself


def run_python(code: str) -> None:
    run = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == 0, run.stderr


def test_only_two_venues_of_ccxt_are_imported() -> None:
    run_python("""
import sys
from shared.ccxt_classes import ccxt_classes, ccxt_errors
classes = ccxt_classes()
assert ccxt_classes() == classes
import ccxt, ccxt.async_support
assert ccxt.async_support.kraken is classes["kraken"]
assert issubclass(ccxt_errors().RateLimitExceeded, ccxt.NetworkError)
for name, made in classes.items():
    assert made().id == name
folder = "ccxt.async_support."
below = {name.removeprefix(folder) for name in sys.modules if name.startswith(folder)}
assert {name for name in below if "." not in name} == {"kraken", "binance", "base"}, below
assert "ccxt.kraken" not in sys.modules
""")


def test_a_whole_ccxt_that_is_there_already_is_used() -> None:
    run_python("""
import ccxt.async_support
from shared.ccxt_classes import ccxt_classes
assert ccxt_classes()["binance"] is ccxt.async_support.binance
""")
