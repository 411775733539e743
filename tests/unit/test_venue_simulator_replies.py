"""Replies have the venues' shapes: same nesting, same names, strings where they send strings."""

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import pytest

from ecosystem.venue_simulator.binance import BINANCE_API
from ecosystem.venue_simulator.fault_fields import fault_of
from ecosystem.venue_simulator.faults import Spoiled
from ecosystem.venue_simulator.kraken import KRAKEN_API, pair_altname, pair_id
from ecosystem.venue_simulator.listings import ASSETS, synthetic_listings
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.synthetic import SyntheticTape
from ecosystem.venue_simulator.venue_api import Call, VenueRefusal
from shared.venues import VENUES, base_of

WIRE: Final = Path(__file__).parents[1] / "data" / "wire"
NOW_MS: Final = 1_762_820_224_123
MARKET: Final = Market(
    {
        listed: SyntheticTape(seed=1, venue=venue, asset=ASSETS[base_of(listed.pair)])
        for venue in VENUES
        for listed in synthetic_listings(venue, 40)
    }
)
APIS: Final = {api.venue: api for api in (KRAKEN_API, BINANCE_API)}


def ask(venue: str, path: str, *faults: Mapping[str, Any], **query: str) -> Any:
    (endpoint,) = (each for each in APIS[venue].endpoints if each.path == path)
    call = Call(
        query=query,
        listings=endpoint.select(query, MARKET.listings(venue)),
        market=MARKET,
        now_ms=NOW_MS,
        spoiled=Spoiled(tuple(fault_of({"venue": venue, **fault}) for fault in faults)),
    )
    return json.loads(json.dumps(endpoint.answer(call)))


def refusal(venue: str, path: str, **query: str) -> VenueRefusal:
    with pytest.raises(VenueRefusal) as refused:
        ask(venue, path, **query)
    return refused.value


def shape(value: object) -> object:
    """Names, nesting and kinds; a decimal keeps how many digits follow its point."""
    match value:
        case dict():
            return {name: shape(each) for name, each in value.items()}
        case list():
            return [shape(each) for each in value]
        case bool() | None:
            return value if value is None else "boolean"
        case int() | float():
            return "number"
        case str() if re.fullmatch(r"-?\d+(\.\d+)?", value):
            return f"decimal as text, {len(value.partition('.')[2])} digits"
        case _:
            return "text"


def captured(name: str) -> Any:
    return json.loads((WIRE / f"{name}.json").read_text())


@pytest.mark.parametrize(
    ("path", "query", "name"),
    [
        ("Time", {}, "kraken_time"),
        ("SystemStatus", {}, "kraken_system_status"),
        ("Ticker", {"pair": "XBTUSD"}, "kraken_ticker"),
    ],
)
def test_kraken_reply_has_its_shape(path: str, query: dict[str, str], name: str) -> None:
    assert shape(ask("kraken", f"/0/public/{path}", **query)) == shape(captured(name))


def test_kraken_assets_and_pairs_have_their_shapes() -> None:
    assert shape(ask("kraken", "/0/public/Assets", pair="XXBTZUSD")) == shape(
        captured("kraken_assets")
    )
    pairs = ask("kraken", "/0/public/AssetPairs", pair="XXBTZUSD")
    expected = captured("kraken_asset_pairs")
    for reply in (pairs, expected):  # how many fee tiers there are is no part of the shape
        for fees in ("fees", "fees_maker"):
            reply["result"]["XXBTZUSD"][fees] = reply["result"]["XXBTZUSD"][fees][:2]
    assert shape(pairs) == shape(expected)


def test_kraken_candles_have_their_shape() -> None:
    reply = ask("kraken", "/0/public/OHLC", pair="XBT/USD", interval="15")
    rows = reply["result"]["XXBTZUSD"]
    assert len(rows) == 720
    expected = captured("kraken_ohlc")["result"]
    assert shape(rows[0]) == shape(expected["XXBTZUSD"][0])
    assert shape(reply["result"]["last"]) == shape(expected["last"])
    assert rows[-1][0] == NOW_MS // 900_000 * 900
    assert reply["result"]["last"] == rows[-2][0]


def test_kraken_candles_since_a_time_are_those_later_than_it() -> None:
    since = NOW_MS // 900_000 * 900 - 1800
    reply = ask("kraken", "/0/public/OHLC", pair="XBTUSD", interval="15", since=str(since))
    assert [row[0] for row in reply["result"]["XXBTZUSD"]] == [since + 900, since + 1800]


def test_kraken_names_pairs_as_it_does() -> None:
    names = {
        "BTC/USD": "XXBTZUSD",
        "ETH/USD": "XETHZUSD",
        "BTC/USDT": "XBTUSDT",
        "SOL/USD": "SOLUSD",
    }
    assert {pair: pair_id(pair) for pair in names} == names
    assert pair_altname("BTC/USD") == "XBTUSD"
    assert pair_id("DOGE/USD") == "XDGUSD"


@pytest.mark.parametrize("path", ["Ticker", "OHLC", "AssetPairs"])
def test_one_unknown_pair_fails_the_whole_request_on_kraken(path: str) -> None:
    refused = refusal("kraken", f"/0/public/{path}", pair="XXBTZUSD,NOPEUSD")
    assert (refused.status, refused.body) == (200, captured("kraken_unknown_pair"))


@pytest.mark.parametrize("query", [{}, {"pair": "XBTUSD", "interval": "7"}])
def test_kraken_refuses_impossible_candles(query: dict[str, str]) -> None:
    refused = refusal("kraken", "/0/public/OHLC", **query)
    assert refused.body == {"error": ["EGeneral:Invalid arguments"]}


@pytest.mark.parametrize(
    ("path", "name"),
    [("ticker/24hr", "binance_ticker_24hr"), ("ticker/bookTicker", "binance_book_ticker")],
)
def test_binance_tickers_have_their_shapes(path: str, name: str) -> None:
    one = ask("binance", f"/api/v3/{path}", symbol="BTCUSDT")
    assert shape(one) == shape(captured(name))
    several = ask("binance", f"/api/v3/{path}", symbols='["ETHUSDT","BTCUSDT"]')
    assert [each["symbol"] for each in several] == ["ETHUSDT", "BTCUSDT"]
    assert several[1] == one
    assert len(ask("binance", f"/api/v3/{path}")) == 40


def test_binance_time_and_symbols_have_their_shapes() -> None:
    assert shape(ask("binance", "/api/v3/time")) == shape(captured("binance_time"))
    reply = ask("binance", "/api/v3/exchangeInfo", symbol="BTCUSDT")
    expected = captured("binance_exchange_info")
    for info in (reply, expected):  # neither are the numbers of limits and order types
        info["rateLimits"] = info["rateLimits"][:1]
        info["symbols"][0]["orderTypes"] = info["symbols"][0]["orderTypes"][:2]
    assert shape(reply) == shape(expected)


def test_binance_candles_have_their_shape() -> None:
    rows = ask("binance", "/api/v3/klines", symbol="BTCUSDT", interval="15m")
    assert len(rows) == 500
    assert shape(rows[0]) == shape(captured("binance_klines")[0])
    assert rows[-1][0] == NOW_MS // 900_000 * 900_000
    assert rows[-1][6] - rows[-1][0] == 899_999


@pytest.mark.parametrize(
    ("query", "opens"),
    [
        ({"limit": "2"}, [-1, 0]),
        ({"start": -5, "limit": "2"}, [-5, -4]),
        ({"start": -1}, [-1, 0]),
        ({"start": -5, "end": -3}, [-5, -4, -3]),
        ({"end": -3, "limit": "2"}, [-4, -3]),
        ({"start": 1}, []),
    ],
)
def test_binance_candles_keep_to_start_end_and_limit(
    query: dict[str, Any], opens: list[int]
) -> None:
    latest_ms = NOW_MS // 900_000 * 900_000
    words = {"start": "startTime", "end": "endTime"}
    asked = {
        words.get(name, name): str(latest_ms + value * 900_000) if name in words else value
        for name, value in query.items()
    }
    rows = ask("binance", "/api/v3/klines", symbol="BTCUSDT", interval="15m", **asked)
    assert [(row[0] - latest_ms) // 900_000 for row in rows] == opens


@pytest.mark.parametrize(
    ("path", "query"),
    [
        ("ticker/24hr", {"symbols": '["BTCUSDT","NOPEUSDT"]'}),
        ("ticker/price", {"symbol": "NOPEUSDT"}),
        ("klines", {"symbol": "NOPEUSDT", "interval": "15m"}),
        ("exchangeInfo", {"symbol": "NOPEUSDT"}),
    ],
)
def test_one_unknown_symbol_fails_the_whole_request_on_binance(
    path: str, query: dict[str, str]
) -> None:
    refused = refusal("binance", f"/api/v3/{path}", **query)
    assert (refused.status, refused.body) == (400, captured("binance_unknown_symbol"))


@pytest.mark.parametrize(
    ("path", "query", "code"),
    [
        ("klines", {"interval": "15m"}, -1102),
        ("klines", {"symbol": "BTCUSDT", "interval": "7m"}, -1120),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "many"}, -1100),
        ("klines", {"symbol": "BTCUSDT", "interval": "1m", "limit": "0"}, -1130),
        ("ticker/24hr", {"symbols": "BTCUSDT"}, -1100),
    ],
)
def test_binance_refuses_bad_parameters_with_its_code(
    path: str, query: dict[str, str], code: int
) -> None:
    refused = refusal("binance", f"/api/v3/{path}", **query)
    assert refused.status == 400
    assert isinstance(refused.body, dict)
    assert refused.body["code"] == code


def test_faults_show_in_tickers_of_both_venues() -> None:
    faults = [{"kind": "missing_bid"}, {"kind": "nan_price"}]
    kraken = ask("kraken", "/0/public/Ticker", *faults, pair="XBTUSD")["result"]["XXBTZUSD"]
    assert "b" not in kraken
    assert kraken["c"][0] == "NaN"
    binance = ask("binance", "/api/v3/ticker/24hr", *faults, symbol="BTCUSDT")
    assert "bidPrice" not in binance
    assert binance["lastPrice"] == "NaN"
    zero = ask("binance", "/api/v3/ticker/price", {"kind": "zero_price"}, symbol="BTCUSDT")
    assert zero["price"] == "0.00000000"
