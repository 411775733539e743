"""Binance spot's public REST replies
(https://github.com/binance/binance-spot-api-docs, rest-api.md and errors.md). Pure."""

import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

from ecosystem.venue_simulator.binance_weights import day_tickers_weight, prices_weight
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
from shared.venues import BINANCE, base_of, quote_of

DEFAULT_CANDLES: Final = 500
MAX_CANDLES: Final = 1000
_INTERVALS: Final = {"1m": 1, "5m": 5, "15m": 15, "30m": 30, "1h": 60, "4h": 240, "1d": 1440}

_DIGITS: Final = 8
"""Binance writes every amount with eight decimals."""

_ORDER_TYPES: Final = (
    *("LIMIT", "LIMIT_MAKER", "MARKET", "STOP_LOSS", "STOP_LOSS_LIMIT"),
    *("TAKE_PROFIT", "TAKE_PROFIT_LIMIT"),
)
_MAX_QUANTITY: Final = "90000000.00000000"


def symbol_of(pair: str) -> str:
    """Binance's name of a pair: BTCUSDT of BTC/USDT."""
    return base_of(pair) + quote_of(pair)


def refusal(
    code: int, message: str, *, status: int = 400, headers: Mapping[str, str] | None = None
) -> VenueRefusal:
    """Binance's error with its code."""
    return VenueRefusal({"code": code, "msg": message}, status=status, headers=headers)


def named(symbols: Sequence[object], listings: Sequence[Listing]) -> list[Listing]:
    """The listings of Binance's symbols. Raises `VenueRefusal` for one that is unknown."""
    known = {symbol_of(listing.pair): listing for listing in listings}
    try:
        return [known[str(symbol)] for symbol in symbols]
    except KeyError:
        raise refusal(-1121, "Invalid symbol.") from None


def _some_or_all(query: Query, listings: Sequence[Listing]) -> Sequence[Listing]:
    if "symbol" in query:
        return named([query["symbol"]], listings)
    if "symbols" not in query:
        return listings
    try:
        symbols = json.loads(query["symbols"])
    except ValueError:
        symbols = None
    if not isinstance(symbols, list) or not symbols:
        raise refusal(-1100, "Illegal characters found in parameter 'symbols'.")
    return named(symbols, listings)


def _one(query: Query, listings: Sequence[Listing]) -> Sequence[Listing]:
    if not query.get("symbol"):
        raise refusal(
            -1102, "Mandatory parameter 'symbol' was not sent, was empty/null, or malformed."
        )
    return named([query["symbol"]], listings)


def _ping(_: Call) -> object:
    return {}


def _time(call: Call) -> object:
    return {"serverTime": call.now_ms}


def _system_status(call: Call) -> object:
    if closes(call.spoiled):
        return {"status": 1, "msg": "system_maintenance"}
    return {"status": 0, "msg": "normal"}


def _exchange_info(call: Call) -> object:
    return {
        "timezone": "UTC",
        "serverTime": call.now_ms,
        "rateLimits": [
            {
                "rateLimitType": "REQUEST_WEIGHT",
                "interval": "MINUTE",
                "intervalNum": 1,
                "limit": 6000,
            },
            {"rateLimitType": "ORDERS", "interval": "SECOND", "intervalNum": 10, "limit": 100},
            {"rateLimitType": "ORDERS", "interval": "DAY", "intervalNum": 1, "limit": 200000},
        ],
        "exchangeFilters": [],
        "symbols": [_symbol(listing) for listing in call.listings],
        "sors": [],
    }


def _symbol(listing: Listing) -> dict[str, Any]:
    return {
        "symbol": symbol_of(listing.pair),
        "status": "TRADING",
        "baseAsset": base_of(listing.pair),
        "baseAssetPrecision": 8,
        "quoteAsset": quote_of(listing.pair),
        "quotePrecision": 8,
        "quoteAssetPrecision": 8,
        "baseCommissionPrecision": 8,
        "quoteCommissionPrecision": 8,
        "orderTypes": _ORDER_TYPES,
        "icebergAllowed": True,
        "ocoAllowed": True,
        "otoAllowed": True,
        "opoAllowed": True,
        "quoteOrderQtyMarketAllowed": True,
        "allowTrailingStop": False,
        "cancelReplaceAllowed": False,
        "amendAllowed": False,
        "pegInstructionsAllowed": True,
        "isSpotTradingAllowed": True,
        "isMarginTradingAllowed": False,
        "filters": _filters(listing),
        "permissions": [],
        "permissionSets": [["SPOT"]],
        "defaultSelfTradePreventionMode": "NONE",
        "allowedSelfTradePreventionModes": ["NONE"],
    }


def _filters(listing: Listing) -> list[dict[str, Any]]:
    rules = listing.rules
    tick, step, smallest = (
        decimals(float(value), _DIGITS)
        for value in (rules.price_tick, rules.lot_step, rules.min_quantity)
    )
    return [
        {
            "filterType": "PRICE_FILTER",
            "minPrice": tick,
            "maxPrice": "1000000.00000000",
            "tickSize": tick,
        },
        {
            "filterType": "LOT_SIZE",
            "minQty": smallest,
            "maxQty": _MAX_QUANTITY,
            "stepSize": step,
        },
        {
            "filterType": "MARKET_LOT_SIZE",
            "minQty": "0.00000000",
            "maxQty": _MAX_QUANTITY,
            "stepSize": "0.00000000",
        },
        {
            "filterType": "NOTIONAL",
            "minNotional": plain(rules.min_notional.quantize(rules.min_notional.scaleb(-_DIGITS))),
            "applyMinToMarket": True,
            "maxNotional": "9000000.00000000",
            "applyMaxToMarket": False,
            "avgPriceMins": 5,
        },
        {"filterType": "MAX_NUM_ORDERS", "maxNumOrders": 200},
    ]


def _each(row: Callable[[Call, Listing], dict[str, Any]]) -> Callable[[Call], object]:
    """One object where the query names one `symbol`, else a list."""

    def answer(call: Call) -> object:
        rows = [row(call, listing) for listing in call.listings]
        return rows[0] if "symbol" in call.query else rows

    return answer


def _amount(value: float) -> str:
    return decimals(value, _DIGITS)


def _told(call: Call, listing: Listing) -> Quote:
    return call.spoiled.quote(listing, call.market.quote(listing, call.now_ms))


def _book_ticker(listing: Listing, quote: Quote) -> dict[str, Any]:
    best: dict[str, Any] = {"symbol": symbol_of(listing.pair)}
    if quote.bid is not None:
        best |= {"bidPrice": _amount(quote.bid), "bidQty": "1.00000000"}
    return best | {"askPrice": _amount(quote.ask), "askQty": "1.00000000"}


def _best_prices(call: Call, listing: Listing) -> dict[str, Any]:
    return _book_ticker(listing, _told(call, listing))


def _last_price(call: Call, listing: Listing) -> dict[str, Any]:
    return {
        "symbol": symbol_of(listing.pair),
        "price": _amount(_told(call, listing).price),
    }


def _day_ticker(call: Call, listing: Listing) -> dict[str, Any]:
    day = call.market.last_day(listing, call.now_ms)
    quote = _told(call, listing)
    first_id = call.now_ms // 1000

    def price(value: float) -> str:
        return _amount(round(value, listing.price_decimals))

    return {
        # From the price as it is told: ccxt repairs a last price of 0 from open and change.
        "priceChange": price(quote.price - round(day.open, listing.price_decimals)),
        "priceChangePercent": decimals((quote.price / day.open - 1) * 100, 3),
        "weightedAvgPrice": _amount(day.mean_price),
        "prevClosePrice": price(day.open),
        "lastPrice": _amount(quote.price),
        "lastQty": "0.00100000",
        **_book_ticker(listing, quote),
        "openPrice": price(day.open),
        "highPrice": price(day.high),
        "lowPrice": price(day.low),
        "volume": _amount(day.volume),
        "quoteVolume": _amount(day.quote_volume),
        "openTime": day.open_ms,
        "closeTime": call.now_ms,
        "firstId": first_id,
        "lastId": first_id + day.trades - 1,
        "count": day.trades,
    }


def _klines(call: Call) -> object:
    (listing,) = call.listings
    interval = _INTERVALS.get(call.query.get("interval", ""))
    if interval is None:
        raise refusal(-1120, "Invalid interval.")
    limit = min(_whole(call.query, "limit", DEFAULT_CANDLES), MAX_CANDLES)
    step_ms = interval * 60_000
    if limit < 1:
        raise refusal(-1130, "Data sent for parameter 'limit' is not valid.")
    end_ms = min(_whole(call.query, "endTime", EVER_MS), call.now_ms)
    if "startTime" in call.query:
        # From the start on, and no more than `limit`, however many there are until now.
        start_ms = -(-_whole(call.query, "startTime", 0) // step_ms) * step_ms
        end_ms = min(end_ms, start_ms + (limit - 1) * step_ms)
    else:
        start_ms = (end_ms // step_ms - limit + 1) * step_ms
    candles = call.market.candles(
        listing, interval_minutes=interval, now_ms=call.now_ms, from_ms=start_ms, to_ms=end_ms
    )
    return [
        _kline(at, step_ms, values, listing.price_decimals)
        for at, values in zip(candles.open_ms.tolist(), candles.table.T.tolist(), strict=True)
    ]


def _kline(at_ms: int, step_ms: int, values: list[float], digits: int) -> list[Any]:
    opened, high, low, close = (round(values[row], digits) for row in (OPEN, HIGH, LOW, CLOSE))
    volume = values[VOLUME]
    quote_volume = volume * (opened + high + low + close) / 4
    return [
        at_ms,
        *(_amount(price) for price in (opened, high, low, close)),
        _amount(volume),
        at_ms + step_ms - 1,
        _amount(quote_volume),
        trade_count(quote_volume),
        _amount(volume / 2),
        _amount(quote_volume / 2),
        "0",
    ]


def _whole(query: Query, name: str, default: int) -> int:
    try:
        return int(query.get(name, default))
    except ValueError:
        raise refusal(
            -1100,
            f"Illegal characters found in parameter '{name}'; legal range is '^[0-9]{{1,20}}$'.",
        ) from None


BINANCE_API: Final = VenueApi(
    venue=BINANCE.name,
    endpoints=(
        Endpoint(path="/api/v3/ping", name="status", select=nothing, answer=_ping),
        Endpoint(path="/api/v3/time", name="time", select=nothing, answer=_time),
        Endpoint(
            path="/sapi/v1/system/status", name="status", select=nothing, answer=_system_status
        ),
        Endpoint(
            path="/api/v3/exchangeInfo",
            name="markets",
            select=_some_or_all,
            answer=_exchange_info,
            weight=lambda _: 20,
        ),
        Endpoint(
            path="/api/v3/ticker/24hr",
            name="tickers",
            select=_some_or_all,
            answer=_each(_day_ticker),
            weight=day_tickers_weight,
        ),
        Endpoint(
            path="/api/v3/ticker/bookTicker",
            name="tickers",
            select=_some_or_all,
            answer=_each(_best_prices),
            weight=prices_weight,
        ),
        Endpoint(
            path="/api/v3/ticker/price",
            name="tickers",
            select=_some_or_all,
            answer=_each(_last_price),
            weight=prices_weight,
        ),
        Endpoint(
            path="/api/v3/klines", name="candles", select=_one, answer=_klines, weight=lambda _: 2
        ),
    ),
)
