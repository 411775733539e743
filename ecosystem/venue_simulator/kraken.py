"""Kraken spot's public REST replies (https://docs.kraken.com/api-reference/market-data). Pure."""

from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any, Final

from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.market import Quote, trade_count
from ecosystem.venue_simulator.minutes import CLOSE, HIGH, LOW, OPEN, VOLUME
from ecosystem.venue_simulator.venue_api import (
    EVER_MS,
    Call,
    Endpoint,
    Query,
    VenueApi,
    VenueRefusal,
    closes,
    decimals,
    nothing,
)
from shared.money import plain
from shared.venues import KRAKEN, base_of, quote_of

MAX_CANDLES: Final = 720
_INTERVALS: Final = (1, 5, 15, 30, 60, 240, 1440)

_ALTNAMES: Final = {"BTC": "XBT", "DOGE": "XDG"}
_CRYPTO_WITH_X: Final = frozenset({"BTC", "DOGE", "ETH", "LTC", "XRP", "XLM", "ETC", "XMR", "ZEC"})
_FIAT_WITH_Z: Final = frozenset({"USD", "EUR", "GBP", "CAD", "JPY"})
_SHORT_PAIRS: Final = frozenset({"DOGE"})
"""Bases whose pairs go without the letters, though the assets have them: XDGUSD."""

_TAKER_TIERS: Final = ((0, 0.4), (10_000, 0.35), (50_000, 0.24), (100_000, 0.22), (250_000, 0.2))
_MAKER_TIERS: Final = ((0, 0.25), (10_000, 0.2), (50_000, 0.14), (100_000, 0.12), (250_000, 0.1))
_TICKER_DECIMALS: Final = 5


def asset_id(code: str) -> str:
    """Kraken's name of an asset: XXBT of BTC, ZUSD of USD, SOL of SOL."""
    prefix = "X" if code in _CRYPTO_WITH_X else "Z" if code in _FIAT_WITH_Z else ""
    return prefix + altname(code)


def altname(code: str) -> str:
    return _ALTNAMES.get(code, code)


def pair_id(pair: str) -> str:
    """Kraken's name of a pair: XXBTZUSD of BTC/USD, XBTUSDT of BTC/USDT, SOLUSD of SOL/USD."""
    base, quote = base_of(pair), quote_of(pair)
    both_old = base in _CRYPTO_WITH_X - _SHORT_PAIRS and quote in _FIAT_WITH_Z
    return asset_id(base) + asset_id(quote) if both_old else pair_altname(pair)


def pair_altname(pair: str) -> str:
    return altname(base_of(pair)) + altname(quote_of(pair))


def _wsname(pair: str) -> str:
    return f"{altname(base_of(pair))}/{altname(quote_of(pair))}"


def refusal(*errors: str) -> VenueRefusal:
    """Kraken's errors; they come with HTTP 200."""
    return VenueRefusal({"error": list(errors)}, status=200)


def _reply(result: object) -> dict[str, object]:
    return {"error": [], "result": result}


def named(names: str, listings: Sequence[Listing]) -> list[Listing]:
    """The listings of pairs in any of Kraken's spellings, separated by commas.

    Raises `VenueRefusal` for one that is unknown.
    """
    known = {
        name: listing
        for listing in listings
        for name in (pair_id(listing.pair), pair_altname(listing.pair), _wsname(listing.pair))
    }
    try:
        # Kraken answers for a market once, however often it is named.
        return list(dict.fromkeys(known[name.strip()] for name in names.split(",")))
    except KeyError:
        raise refusal("EQuery:Unknown asset pair") from None


def _some_or_all(query: Query, listings: Sequence[Listing]) -> Sequence[Listing]:
    return named(query["pair"], listings) if query.get("pair") else listings


def _one(query: Query, listings: Sequence[Listing]) -> Sequence[Listing]:
    if not query.get("pair"):
        raise refusal("EGeneral:Invalid arguments")
    return named(query["pair"], listings)[:1]


def _time(call: Call) -> object:
    moment = datetime.fromtimestamp(call.now_ms // 1000, tz=UTC)
    return _reply(
        {
            "unixtime": call.now_ms // 1000,
            "rfc1123": moment.strftime("%a, %d %b %y %H:%M:%S +0000"),
        }
    )


def _system_status(call: Call) -> object:
    moment = datetime.fromtimestamp(call.now_ms // 1000, tz=UTC)
    status = "maintenance" if closes(call.spoiled) else "online"
    return _reply({"status": status, "timestamp": moment.strftime("%Y-%m-%dT%H:%M:%SZ")})


def _assets(call: Call) -> object:
    codes = dict.fromkeys(
        code
        for listing in call.listings
        for code in (base_of(listing.pair), quote_of(listing.pair))
    )
    return _reply({asset_id(code): _asset(code) for code in codes})


def _asset(code: str) -> dict[str, Any]:
    fiat = code in _FIAT_WITH_Z
    return {
        "aclass": "currency",
        "altname": altname(code),
        "decimals": 4 if fiat else 10,
        "display_decimals": 2 if fiat else 5,
        "status": "enabled",
    }


def _asset_pairs(call: Call) -> object:
    return _reply({pair_id(listing.pair): _asset_pair(listing) for listing in call.listings})


def _asset_pair(listing: Listing) -> dict[str, Any]:
    return {
        "altname": pair_altname(listing.pair),
        "wsname": _wsname(listing.pair),
        "aclass_base": "currency",
        "base": asset_id(base_of(listing.pair)),
        "aclass_quote": "currency",
        "quote": asset_id(quote_of(listing.pair)),
        "lot": "unit",
        "cost_decimals": 5,
        "pair_decimals": listing.price_decimals,
        "lot_decimals": listing.quantity_decimals,
        "lot_multiplier": 1,
        "leverage_buy": [],
        "leverage_sell": [],
        "fees": _TAKER_TIERS,
        "fees_maker": _MAKER_TIERS,
        "fee_volume_currency": "ZUSD",
        "margin_call": 80,
        "margin_stop": 40,
        "ordermin": plain(listing.rules.min_quantity),
        "costmin": plain(listing.rules.min_notional),
        "tick_size": plain(listing.rules.price_tick),
        "status": "online",
    }


def _tickers(call: Call) -> object:
    return _reply({pair_id(listing.pair): _ticker(call, listing) for listing in call.listings})


def _ticker(call: Call, listing: Listing) -> dict[str, Any]:
    today = call.market.today(listing, call.now_ms)
    day = call.market.last_day(listing, call.now_ms)
    quote = call.spoiled.quote(listing, call.market.quote(listing, call.now_ms))
    digits = max(_TICKER_DECIMALS, listing.price_decimals)

    def price(value: float) -> str:
        return decimals(round(value, listing.price_decimals), digits)

    return {
        **_best(quote, digits),
        "c": [decimals(quote.price, digits), "0.00100000"],
        "v": [decimals(span.volume, 8) for span in (today, day)],
        "p": [decimals(span.mean_price, digits) for span in (today, day)],
        "t": [span.trades for span in (today, day)],
        "l": [price(today.low), price(day.low)],
        "h": [price(today.high), price(day.high)],
        "o": price(today.open),
    }


def _best(quote: Quote, digits: int) -> dict[str, list[str]]:
    sides = {"a": quote.ask, "b": quote.bid}
    return {
        side: [decimals(price, digits), "1", "1.000"]
        for side, price in sides.items()
        if price is not None
    }


def _ohlc(call: Call) -> object:
    (listing,) = call.listings
    try:
        interval = int(call.query.get("interval") or 1)
        since = int(call.query.get("since") or 0)
    except ValueError:
        raise refusal("EGeneral:Invalid arguments") from None
    if interval not in _INTERVALS:
        raise refusal("EGeneral:Invalid arguments")
    oldest_ms = (call.now_ms // (interval * 60_000) - MAX_CANDLES + 1) * interval * 60_000
    candles = call.market.candles(
        listing,
        interval_minutes=interval,
        now_ms=call.now_ms,
        from_ms=max(oldest_ms, since * 1000 + 1),  # Kraken answers what is later than `since`
        to_ms=EVER_MS,
    )
    opens = (candles.open_ms // 1000).tolist()
    rows = [
        _candle(at, values, listing.price_decimals)
        for at, values in zip(opens, candles.table.T.tolist(), strict=True)
    ]
    committed = opens[-2] if len(opens) > 1 else since
    return _reply({pair_id(listing.pair): rows, "last": committed})


def _candle(at: int, values: list[float], digits: int) -> list[Any]:
    mean_price = sum(values[:VOLUME]) / 4 if values[VOLUME] else 0.0
    return [
        at,
        *(decimals(values[row], digits) for row in (OPEN, HIGH, LOW, CLOSE)),
        decimals(mean_price, digits),
        decimals(values[VOLUME], 8),
        trade_count(values[VOLUME] * mean_price),
    ]


KRAKEN_API: Final = VenueApi(
    venue=KRAKEN.name,
    endpoints=(
        Endpoint(path="/0/public/Time", name="time", select=nothing, answer=_time),
        Endpoint(
            path="/0/public/SystemStatus", name="status", select=nothing, answer=_system_status
        ),
        Endpoint(path="/0/public/Assets", name="assets", select=_some_or_all, answer=_assets),
        Endpoint(
            path="/0/public/AssetPairs", name="markets", select=_some_or_all, answer=_asset_pairs
        ),
        Endpoint(path="/0/public/Ticker", name="tickers", select=_some_or_all, answer=_tickers),
        Endpoint(path="/0/public/OHLC", name="candles", select=_one, answer=_ohlc),
    ),
)
