"""Market data of a venue: the port, and its adapter on ccxt.

ccxt's exceptions end here. Nothing but public calls without credentials is made.
"""

import asyncio
import math
import re
import ssl
from collections.abc import AsyncIterator, Collection, Mapping, Sequence
from contextlib import asynccontextmanager
from contextvars import ContextVar
from dataclasses import dataclass, field
from decimal import Decimal
from typing import Any, Final, Protocol, cast

import aiohttp
import certifi

from price_stream.candles import CANDLE_MS, Candle
from price_stream.quotes import Quote
from shared.ccxt_classes import ccxt_classes, ccxt_errors
from shared.clock import monotonic_secs, wall_ms
from shared.errors import RetryLater, SymbolRefused, VenueUnavailable
from shared.money import MarketRules
from shared.venues import Venue

MAX_TIMEOUT_SECS: Final = 10.0
MIN_TIMEOUT_SECS: Final = 1.0
LOAD_TIMEOUT_SECS: Final = 30.0
MAX_CANDLES: Final = 500


@dataclass(frozen=True, slots=True, kw_only=True)
class Quotes:
    """One reply of a venue.

    `observed_at_ms` (wall clock) and `read_at_secs` (monotonic) are the moment at which the
    reply was read, before it was parsed. `refused` are pairs that were not asked for, with the
    reason; a pair in neither was missing in the reply.
    """

    by_pair: Mapping[str, Quote]
    refused: Mapping[str, str]
    observed_at_ms: int
    read_at_secs: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerTime:
    """The venue's clock, and the monotonic moment at which its reply was read."""

    market_time_ms: int
    read_at_secs: float


class Feed(Protocol):
    """One venue's public market data.

    Every call raises `VenueUnavailable` when the venue is slow, fails or answers what cannot
    be read, and `SymbolRefused` when it refuses a request because of a symbol in it. No call
    retries by itself.
    """

    async def load(self) -> Mapping[str, MarketRules]:
        """Learn which markets the venue trades, with their rules. Must come first; repeat it
        to see new ones. A failure leaves what was known."""
        ...

    async def quotes(self, pairs: Collection[str]) -> Quotes:
        """The prices of all pairs, in at most one request."""
        ...

    async def server_time(self) -> ServerTime: ...

    async def candles(self, pair: str, since_ms: int) -> list[Candle]:
        """The 15 m candles from `since_ms` on, oldest first, at most `MAX_CANDLES`; the last
        one may still be forming."""
        ...

    async def close(self) -> None: ...


def request_timeout_secs(poll_interval_secs: float) -> float:
    """Below the poll interval, at most 10 s; at least 1 s, for replays that poll faster.

    >>> request_timeout_secs(5), request_timeout_secs(60), request_timeout_secs(0.05)
    (4.5, 10.0, 1.0)
    """
    return max(MIN_TIMEOUT_SECS, min(MAX_TIMEOUT_SECS, 0.9 * poll_interval_secs))


@dataclass(slots=True)
class _Reading:
    """What one request's reply said outside its body; filled in by the client's hook."""

    observed_at_ms: int = 0
    read_at_secs: float = 0.0
    headers: Mapping[str, str] = field(default_factory=dict)
    is_json: bool = False


_reading: ContextVar[_Reading] = ContextVar("_reading")


class CcxtFeed:
    """A `Feed` on ccxt's client of the venue, with a session and timeouts of its own."""

    def __init__(self, venue: Venue, *, url: str, timeout_secs: float) -> None:
        self._venue = venue
        self._timeout_secs = timeout_secs
        self._client = _client(venue, url)
        self._session: aiohttp.ClientSession | None = None

    async def load(self) -> Mapping[str, MarketRules]:
        async with self._asking(LOAD_TIMEOUT_SECS):
            markets = await self._client.load_markets(True, dict(_MARKET_PARAMS[self._venue.name]))
            return {
                symbol: _rules_of(market)
                for symbol, market in markets.items()
                if market["spot"] and market["active"] and _rules_known(market)
            }

    async def quotes(self, pairs: Collection[str]) -> Quotes:
        markets = self._client.markets or {}
        refused = {pair: why for pair in pairs if (why := _not_traded(markets.get(pair)))}
        asked = sorted(set(pairs) - refused.keys())
        if not asked:
            return Quotes(
                by_pair={},
                refused=refused,
                observed_at_ms=wall_ms(),
                read_at_secs=monotonic_secs(),
            )
        async with self._asking(self._timeout_secs) as reading:
            tickers = await self._client.fetch_tickers(asked)
            by_pair = {pair: _quote_of(tickers[pair]) for pair in asked if pair in tickers}
        return Quotes(
            by_pair=by_pair,
            refused=refused,
            observed_at_ms=reading.observed_at_ms,
            read_at_secs=reading.read_at_secs,
        )

    async def server_time(self) -> ServerTime:
        async with self._asking(self._timeout_secs) as reading:
            market_time_ms = await self._client.fetch_time()
        if not isinstance(market_time_ms, int) or market_time_ms <= 0:
            raise VenueUnavailable("told no server time")
        return ServerTime(market_time_ms=market_time_ms, read_at_secs=reading.read_at_secs)

    async def candles(self, pair: str, since_ms: int) -> list[Candle]:
        if why := _not_traded((self._client.markets or {}).get(pair)):
            raise SymbolRefused(why)
        async with self._asking(self._timeout_secs):
            rows = await self._client.fetch_ohlcv(pair, "15m", since_ms, MAX_CANDLES)
            return [_candle_of(row) for row in rows]

    async def close(self) -> None:
        # ccxt's own close() sleeps a quarter of a second for sessions that it does not own.
        self._client.session = None
        if self._session is not None:
            await self._session.close()
            self._session = None

    @asynccontextmanager
    async def _asking(self, timeout_secs: float) -> AsyncIterator[_Reading]:
        """One request: its reading, and whatever goes wrong as an error of ours."""
        if self._session is None:
            context = ssl.create_default_context(cafile=certifi.where())
            self._session = aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=context))
            self._client.session = self._session
        reading = _Reading()
        token = _reading.set(reading)
        try:
            # Not ccxt's own timeout: that one is shared by all requests of a client.
            async with asyncio.timeout(timeout_secs):
                yield reading
            if not reading.is_json:
                raise VenueUnavailable("answered something else than JSON")
        except (RetryLater, SymbolRefused):
            raise
        except Exception as exc:
            raise _translated(exc, reading.headers) from exc
        finally:
            _reading.reset(token)


_MARKET_PARAMS: Final[Mapping[str, Mapping[str, str]]] = {
    "kraken": {},
    # A tenth of the reply's size (github.com/binance/binance-spot-api-docs, rest-api.md).
    "binance": {"symbolStatus": "TRADING", "showPermissionSets": "false"},
}


class _CcxtClient(Protocol):
    """What is used of ccxt, which brings no types."""

    markets: dict[str, dict[str, Any]] | None
    session: aiohttp.ClientSession | None

    async def load_markets(
        self, reload: bool, params: Mapping[str, str]
    ) -> dict[str, dict[str, Any]]: ...
    async def fetch_tickers(self, symbols: Sequence[str]) -> dict[str, dict[str, Any]]: ...
    async def fetch_time(self) -> int | None: ...
    async def fetch_ohlcv(
        self, symbol: str, timeframe: str, since: int, limit: int
    ) -> list[list[Any]]: ...


def _client(venue: Venue, url: str) -> _CcxtClient:
    class Client(ccxt_classes()[venue.name]):  # type: ignore[misc]
        def on_rest_response(self, *parts: object) -> str:
            # ccxt calls it between reading the body and parsing it.
            reading = _reading.get()
            reading.observed_at_ms = wall_ms()
            reading.read_at_secs = monotonic_secs()
            reading.headers = cast("Mapping[str, str]", parts[4])
            return cast("str", super().on_rest_response(*parts))

        def parse_json(self, body: str) -> object:
            # ccxt takes garbage with status 200 for a reply that says nothing.
            parsed: object = super().parse_json(body)
            _reading.get().is_json = isinstance(parsed, dict | list)
            return parsed

    client = Client(
        {
            "enableRateLimit": False,
            "enableLastHttpResponse": False,
            "timeout": LOAD_TIMEOUT_SECS * 1000,
            "session": None,
            "options": {
                "maxRetriesOnFailure": 0,
                "fetchMarkets": {"types": ["spot"]},
                "fetchMargins": False,
                "fetchCurrencies": False,
            },
        }
    )
    client.has["fetchCurrencies"] = False
    client.urls["api"] = {
        name: re.sub(r"^https?://[^/]+", url, api) for name, api in client.urls["api"].items()
    }
    return cast("_CcxtClient", client)


def _not_traded(market: Mapping[str, Any] | None) -> str | None:
    if market is None:
        return "not listed at the venue"
    return None if market["active"] else "not traded at the venue at present"


def _quote_of(ticker: Mapping[str, Any]) -> Quote:
    return Quote(price=ticker["last"], bid=ticker["bid"], ask=ticker["ask"])


def _candle_of(row: Sequence[Any]) -> Candle:
    open_ms, prices, volume = row[0], row[1:5], row[5]
    if open_ms % CANDLE_MS or volume < 0 or min(prices) <= 0 or not all(map(math.isfinite, row)):
        raise VenueUnavailable("sent a candle that makes no sense")
    return Candle(
        open_ms=open_ms,
        open=prices[0],
        high=max(prices),
        low=min(prices),
        close=prices[3],
        volume=volume,
    )


def _rules_known(market: Mapping[str, Any]) -> bool:
    return bool(market["precision"]["amount"] and market["precision"]["price"])


def _rules_of(market: Mapping[str, Any]) -> MarketRules:
    # Kraken names the price step apart from the number of decimals, which ccxt goes by.
    tick = market["info"].get("tick_size") or market["precision"]["price"]
    limits = market["limits"]
    return MarketRules(
        lot_step=Decimal(str(market["precision"]["amount"])),
        price_tick=Decimal(str(tick)),
        min_quantity=Decimal(str(limits["amount"]["min"] or 0)),
        min_notional=Decimal(str(limits["cost"]["min"] or 0)),
    )


_SYMBOL_PROBLEMS: Final = re.compile(
    r"""EQuery:(Unknown|Invalid)\ asset(\ pair)?      # Kraken
      | "code":\s*-(1121|1100|1101)\b                 # Binance: invalid symbol, or its letters
    """,
    re.VERBOSE,
)


def _translated(exc: Exception, headers: Mapping[str, str]) -> VenueUnavailable | SymbolRefused:
    """An error of ours, with a text that says what happened and never where to.

    ccxt's texts name the URL and quote the whole body: only what is known to be harmless is
    taken from them.
    """
    errors = ccxt_errors()
    text = str(exc)
    if isinstance(exc, errors.BadSymbol) or _SYMBOL_PROBLEMS.search(text):
        return SymbolRefused("the venue does not know the symbol")
    if isinstance(exc, TimeoutError | errors.RequestTimeout):
        return VenueUnavailable("did not answer in time")
    if isinstance(exc, errors.BaseError):
        # ccxt calls a cut body an ExchangeError; what it came from says more.
        cause = exc.__cause__
        name = type(cause if isinstance(cause, aiohttp.ClientError) else exc).__name__
        own_code = _VENUE_CODE.search(text)
        detail = f"{name}, {own_code.group(0)}" if own_code else name
        return VenueUnavailable(f"failed ({detail})", retry_after_secs=_retry_after(headers))
    return VenueUnavailable(f"answered what cannot be read ({type(exc).__name__})")


_VENUE_CODE: Final = re.compile(
    r"""E[A-Z][A-Za-z]+:[A-Za-z ]{1,40}(?=") | (?<="code":)-?\d{1,5}\b | \b[45]\d\d\b""", re.VERBOSE
)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of the `Retry-After` header. The other form, a date, is not used by the venues."""
    value = next((headers[name] for name in headers if name.lower() == "retry-after"), "")
    return float(value) if re.fullmatch(r"\d{1,6}", value) else None
