"""Unmodified ccxt against the running simulator, and the simulator's own life."""

import asyncio
import logging
import math
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
from shared.ccxt_classes import ccxt_classes, ccxt_errors
from shared.errors import InvalidSettings, VenueUnavailable
from shared.venues import VENUES

errors: Final = ccxt_errors()

START_MS: Final = 1_762_820_224_123
QUARTER_MS: Final = 900_000


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[VenueSimulator]:
    simulator = VenueSimulator(SimulatorOptions(**options))
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.close()


@asynccontextmanager
async def client_of(venue: str, base_url: str) -> AsyncIterator[Any]:
    client = ccxt_classes()[venue](
        {"enableRateLimit": False, "options": {"fetchMarkets": {"types": ["spot"]}}}
    )
    if venue == "kraken":
        client.urls["api"] = {"public": base_url, "private": base_url}
    else:
        client.urls["api"] = {
            "public": f"{base_url}/api/v3",
            "private": f"{base_url}/api/v3",
            "sapi": f"{base_url}/sapi/v1",
        }
    try:
        yield client
    finally:
        await client.close()


async def request(method: str, url: str, **arguments: Any) -> tuple[int, Any]:
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **arguments) as response,
    ):
        return response.status, await response.json()


async def break_it(simulator: VenueSimulator, **fault: object) -> None:
    status, body = await request("POST", f"{simulator.base_url}/simulator/faults", json=fault)
    assert status == 201, body


async def status_of(simulator: VenueSimulator) -> Any:
    return (await request("GET", f"{simulator.base_url}/simulator/status"))[1]


@pytest.fixture(params=VENUES)
def venue(request: pytest.FixtureRequest) -> str:
    return str(request.param)


async def test_ccxt_loads_markets_with_their_rules(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        assert len(client.markets) == 12
        assert {"BTC", "ETH", "SOL"} <= {market["base"] for market in client.markets.values()}
        btc = client.market(VENUES[venue].reference_pair)
        assert btc["active"] is True
        assert btc["spot"] is True
        assert btc["precision"]["price"] == {"kraken": 0.1, "binance": 0.01}[venue]
        assert btc["precision"]["amount"] == {"kraken": 1e-8, "binance": 1e-5}[venue]
        assert btc["limits"]["cost"]["min"] == {"kraken": 0.5, "binance": 5.0}[venue]
        assert btc["taker"] == float(VENUES[venue].taker_fee)


async def test_many_markets_for_load_tests(venue: str) -> None:
    async with running(markets=40) as simulator, client_of(venue, simulator.base_url) as client:
        assert len(await client.load_markets()) == 40
        assert len(await client.fetch_tickers(list(client.markets))) == 40


async def test_ccxt_fetches_tickers_in_one_request(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        pairs = list(client.markets)[:5]
        tickers = await client.fetch_tickers(pairs)
        assert sorted(tickers) == sorted(pairs)
        for ticker in tickers.values():
            assert 0 < ticker["bid"] <= ticker["last"] <= ticker["ask"]
            assert ticker["low"] <= ticker["last"] <= ticker["high"]
            assert ticker["baseVolume"] > 0


async def test_ccxt_fetches_the_markets_own_time(venue: str) -> None:
    options = {"start_ms": START_MS, "speed": 0.001}
    async with running(**options) as simulator, client_of(venue, simulator.base_url) as client:
        assert await client.fetch_time() == pytest.approx(START_MS, abs=1000)
        assert (await client.fetch_status())["status"] == "ok"


async def test_clock_at_speed_one_is_the_wall_clock(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        before_ms = time.time() * 1000
        seen_ms = await client.fetch_time()
        assert before_ms - 1000 <= seen_ms <= time.time() * 1000


@pytest.mark.parametrize(("timeframe", "minutes"), [("1m", 1), ("5m", 5), ("15m", 15), ("1h", 60)])
async def test_ccxt_fetches_candles_that_end_with_the_present(
    venue: str, timeframe: str, minutes: int
) -> None:
    options = {"start_ms": START_MS, "speed": 0.001}
    async with running(**options) as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        pair = VENUES[venue].reference_pair
        candles = await client.fetch_ohlcv(pair, timeframe)
        step_ms = minutes * 60_000
        assert len(candles) == {"kraken": 720, "binance": 500}[venue]
        assert candles[-1][0] == START_MS // step_ms * step_ms
        assert {later[0] - earlier[0] for earlier, later in pairwise(candles)} == {step_ms}
        assert candles[-1][4] == pytest.approx((await client.fetch_ticker(pair))["last"], rel=1e-4)


async def test_ccxt_fetches_candles_since_a_time(venue: str) -> None:
    options = {"start_ms": START_MS, "speed": 0.001}
    async with running(**options) as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        since = (START_MS // QUARTER_MS - 100) * QUARTER_MS
        candles = await client.fetch_ohlcv(VENUES[venue].reference_pair, "15m", since, 101)
        assert [candle[0] for candle in candles] == [since + n * QUARTER_MS for n in range(101)]


async def test_unlisted_symbol_is_refused_as_the_venue_does(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        pairs = list(client.markets)[:3]
        await break_it(simulator, venue=venue, kind="refuse", pair=pairs[1])
        with pytest.raises(errors.ExchangeError) as refused:
            await client.fetch_tickers(pairs)
        # ccxt knows Binance's code; Kraken's text is a bare ExchangeError to it.
        expected = {
            "kraken": (errors.ExchangeError, "EQuery:Unknown asset pair"),
            "binance": (errors.BadSymbol, "-1121"),
        }
        error, text = expected[venue]
        assert type(refused.value) is error
        assert text in str(refused.value)
        assert len(await client.fetch_tickers([pairs[0], pairs[2]])) == 2
        await client.load_markets(reload=True)
        assert pairs[1] not in client.markets


async def test_faults_of_a_pair_reach_ccxt_and_can_be_cleared(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        await client.load_markets()
        bidless, zero, jumping, sound = pairs = list(client.markets)[:4]
        sane = await client.fetch_tickers(pairs)
        await break_it(simulator, venue=venue, kind="missing_bid", pair=bidless)
        await break_it(simulator, venue=venue, kind="zero_price", pair=zero)
        await break_it(simulator, venue=venue, kind="jump", pair=jumping, factor=1.5, times=1)
        tickers = await client.fetch_tickers(pairs)
        assert tickers[bidless]["bid"] is None
        assert not tickers[zero]["last"]
        assert tickers[jumping]["last"] == pytest.approx(sane[jumping]["last"] * 1.5, rel=0.02)
        assert tickers[sound]["last"] == pytest.approx(sane[sound]["last"], rel=0.02)
        assert (await client.fetch_tickers(pairs))[jumping]["last"] == pytest.approx(
            sane[jumping]["last"], rel=0.02
        )
        await request("DELETE", f"{simulator.base_url}/simulator/faults", params={"venue": venue})
        assert (await client.fetch_tickers(pairs))[bidless]["bid"] > 0


async def test_failing_venue_is_unavailable_and_the_other_is_not(venue: str) -> None:
    (other,) = VENUES.keys() - {venue}
    async with (
        running() as simulator,
        client_of(venue, simulator.base_url) as client,
        client_of(other, simulator.base_url) as neighbour,
    ):
        await break_it(simulator, venue=venue, kind="fail")
        with pytest.raises(errors.NetworkError):
            await client.fetch_time()
        await neighbour.fetch_time()


async def test_slow_venue_times_out(venue: str) -> None:
    async with running() as simulator, client_of(venue, simulator.base_url) as client:
        await break_it(simulator, venue=venue, kind="slow", delay_secs=30)
        client.timeout = 200
        with pytest.raises(errors.RequestTimeout):
            await client.fetch_time()


async def test_garbage_and_nan_come_as_they_are(venue: str) -> None:
    async with running() as simulator:
        path = {
            "kraken": "/0/public/Ticker?pair=XBTUSD",
            "binance": "/api/v3/ticker/24hr?symbol=BTCUSDT",
        }[venue]
        await break_it(simulator, venue=venue, kind="garbage", endpoint="tickers", times=1)
        await break_it(simulator, venue=venue, kind="nan_price", endpoint="tickers", times=2)
        with pytest.raises(ValueError, match="Unterminated string"):
            await request("GET", simulator.base_url + path)
        _, body = await request("GET", simulator.base_url + path)
        last = body["lastPrice"] if venue == "binance" else body["result"]["XXBTZUSD"]["c"][0]
        assert math.isnan(float(last))
        assert (await request("GET", f"{simulator.base_url}/simulator/faults"))[1] == []


@pytest.mark.parametrize("body", ["[]", "{", '{"venue": "kraken"}'])
async def test_bad_fault_is_answered_with_what_is_wrong(body: str) -> None:
    async with running() as simulator:
        url = f"{simulator.base_url}/simulator/faults"
        status, reply = await request("POST", url, data=body)
        assert status == 400
        assert reply["error"]
        assert (await request("DELETE", url, params={"venue": "mtgox"}))[0] == 400


async def test_status_says_what_is_played() -> None:
    async with running(start_ms=START_MS, speed=2, seed=7, markets=3) as simulator:
        status = await status_of(simulator)
        assert START_MS <= status.pop("clock") < START_MS + 60_000
        assert status == {
            "speed": 2,
            "ended": False,
            "seed": 7,
            "replay": None,
            "markets": {
                "kraken": ["BTC/USD", "ETH/USD", "SOL/USD"],
                "binance": ["BTC/USDT", "ETH/USDT", "SOL/USDT"],
            },
        }


async def test_restart_goes_on_with_clock_and_prices(tmp_path: Path) -> None:
    options: dict[str, Any] = {"state": tmp_path / "state.json", "start_ms": START_MS, "speed": 600}
    async with running(**options) as simulator, client_of("kraken", simulator.base_url) as client:
        await client.load_markets()
        last_ms = (await status_of(simulator))["clock"]
        known = await client.fetch_ohlcv("SOL/USD", "15m", START_MS - 10 * QUARTER_MS, 5)
    async with running(**options) as simulator, client_of("kraken", simulator.base_url) as client:
        await client.load_markets()
        assert last_ms <= (await status_of(simulator))["clock"]
        assert known == await client.fetch_ohlcv("SOL/USD", "15m", START_MS - 10 * QUARTER_MS, 5)


async def test_a_crash_never_turns_the_clock_back(tmp_path: Path) -> None:
    state, left_behind = tmp_path / "state.json", tmp_path / "left_behind.json"
    options: dict[str, Any] = {"start_ms": START_MS, "speed": 100_000}
    async with running(state=state, **options) as simulator:
        last_ms = (await status_of(simulator))["clock"]
        left_behind.write_bytes(state.read_bytes())  # what a kill -9 would leave at this moment
    async with running(state=left_behind, **options) as simulator:
        assert (await status_of(simulator))["clock"] >= last_ms


async def test_state_of_another_seed_is_refused(tmp_path: Path) -> None:
    state = tmp_path / "state.json"
    async with running(state=state, seed=1):
        pass
    with pytest.raises(InvalidSettings, match="belongs to the market 'synthetic seed 1'"):
        await VenueSimulator(SimulatorOptions(state=state, seed=2)).start()


@pytest.mark.parametrize("speed", [0.0, -1.0, math.inf, math.nan])
async def test_impossible_speed_is_refused(speed: float) -> None:
    with pytest.raises(InvalidSettings, match="speed must be above 0"):
        await VenueSimulator(SimulatorOptions(speed=speed)).start()


async def test_taken_port_is_reported() -> None:
    async with running() as simulator:
        port = int(simulator.base_url.rpartition(":")[2])
        with pytest.raises(VenueUnavailable, match=f"cannot listen on 127.0.0.1:{port}"):
            await VenueSimulator(SimulatorOptions(port=port)).start()


async def test_close_ends_waiting_requests_and_can_come_twice() -> None:
    simulator = VenueSimulator(SimulatorOptions())
    await simulator.start()
    await break_it(simulator, venue="kraken", kind="slow", delay_secs=60, times=1)
    url = f"{simulator.base_url}/0/public/Time"
    waiting = asyncio.create_task(request("GET", url))
    while (await request("GET", f"{simulator.base_url}/simulator/faults"))[1]:
        pass  # until the request has met the fault
    await simulator.close()
    await simulator.close()
    with pytest.raises(aiohttp.ClientError):
        await waiting


@pytest.fixture
def recording(tmp_path: Path) -> Path:
    """1,510 minutes: ten more than the history, a rise of 1 in each minute."""
    begin = datetime(2022, 1, 1, tzinfo=UTC)
    lines = ["timestamp,open,high,low,close,volume"]
    for number in range(1510):
        moment = begin + timedelta(minutes=number)
        price = 40_000 + number
        lines.append(f"{moment:%Y-%m-%d %H:%M:%S.%f},{price},{price + 1},{price},{price + 1},8e6")
    path = tmp_path / "recording.csv"
    path.write_text("\n".join(lines) + "\n")
    return path


async def test_replay_serves_its_file_on_both_venues(recording: Path) -> None:
    async with running(replay=recording, speed=0.001) as simulator:
        for name, venue in VENUES.items():
            async with client_of(name, simulator.base_url) as client:
                await client.load_markets()
                assert list(client.markets) == [venue.reference_pair]
                candles = await client.fetch_ohlcv(venue.reference_pair, "15m")
                assert len(candles) == 101
                assert candles[0][1:5] == [40_000, 40_015, 40_000, 40_015]
                assert candles[0][5] == pytest.approx(sum(8e6 / (40_001 + n) for n in range(15)))
                ticker = await client.fetch_ticker(venue.reference_pair)
                assert ticker["last"] == pytest.approx(41_500, abs=1)
                spread = (ticker["ask"] - ticker["bid"]) / ticker["bid"]
                assert spread == pytest.approx(0.0002, rel=0.05)


async def test_replay_plays_under_other_names(recording: Path) -> None:
    options: dict[str, Any] = {
        "replay_kraken_pair": "ETH/EUR",
        "replay_binance_pair": "SOL/USDC",
    }
    async with running(replay=recording, **options) as simulator:
        for venue, pair in (("kraken", "ETH/EUR"), ("binance", "SOL/USDC")):
            async with client_of(venue, simulator.base_url) as client:
                assert list(await client.load_markets()) == [pair]


async def test_replay_stops_at_its_end_and_says_so_once(
    recording: Path,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("ecosystem.venue_simulator.simulator._SAVE_EVERY_SECS", 0.01)
    caplog.set_level(logging.INFO, logger="ecosystem.venue_simulator")
    end_ms = round(datetime(2022, 1, 2, 1, 10, tzinfo=UTC).timestamp() * 1000) - 1
    options: dict[str, Any] = {"replay": recording, "state": tmp_path / "state.json"}
    async with running(speed=100_000, **options) as simulator:
        while not (status := await status_of(simulator))["ended"]:
            pass
        assert status["clock"] == end_ms
        async with client_of("binance", simulator.base_url) as client:
            ticker = await client.fetch_ticker("BTC/USDT")
            assert ticker["last"] == 41_510
            assert await client.fetch_ticker("BTC/USDT") == ticker
        saves: set[int] = set()
        while len(saves) < 3:
            await status_of(simulator)
            if "the replay ended" in caplog.text:
                saves.add(options["state"].stat().st_mtime_ns)
    assert caplog.text.count("the replay ended") == 1
    async with running(speed=1, **options) as simulator:
        status = await status_of(simulator)
        assert (status["clock"], status["ended"]) == (end_ms, True)
        assert status["replay"] == "recording.csv"
