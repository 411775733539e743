"""The venues' own names of markets and currencies, as ccxt knows them."""

import asyncio
import logging
import re
from collections.abc import Awaitable, Callable, Mapping
from functools import cache
from typing import Any, Final, cast

import aiohttp

from shared.ccxt_classes import ccxt_classes
from shared.clock import monotonic_secs
from shared.errors import SymbolRefused, VenueUnavailable
from shared.venues import Venue

log = logging.getLogger(__name__)

LOAD_TIMEOUT_SECS: Final = 30.0
RELOAD_SECS: Final = 6 * 3600.0
PAUSE_SECS: Final = 30.0
"""Between two loads because of a market that is not known, or that failed."""

_PARAMS: Final[Mapping[str, Mapping[str, str]]] = {
    "kraken": {},
    # A tenth of the reply's size (github.com/binance/binance-spot-api-docs, rest-api.md).
    "binance": {"showPermissionSets": "false"},
}


class Symbols:
    """One venue's names, loaded without credentials and shared by all of its clients.

    Only the names are kept: private requests are built by us, so no client needs ccxt's markets.
    """

    def __init__(self, *, load: Callable[[], Awaitable[Mapping[str, str]]]) -> None:
        """`load` returns the venue's names by pair, and raises `VenueUnavailable`."""
        self._load = load
        self._by_pair: Mapping[str, str] = {}
        self._tried_at_secs = -float("inf")
        self._loading: asyncio.Task[None] | None = None

    async def load(self) -> None:
        """Load now; a failure leaves what was known."""
        await asyncio.shield(self._start_loading())

    async def of(self, pair: str) -> str:
        """What the venue calls a pair. Raises `VenueUnavailable` where no list of markets could be
        had, and `SymbolRefused` where the pair is not on it."""
        known = self._by_pair.get(pair)
        age_secs = monotonic_secs() - self._tried_at_secs
        if age_secs > (PAUSE_SECS if known is None else RELOAD_SECS):
            self._start_loading()
        if known is None and self._loading is not None:
            await asyncio.shield(self._loading)
            known = self._by_pair.get(pair)
        if known is not None:
            return known
        if not self._by_pair:
            raise VenueUnavailable("does not tell its markets")
        raise SymbolRefused("not listed at the venue")

    async def close(self) -> None:
        if self._loading is not None:
            self._loading.cancel()
            await asyncio.gather(self._loading, return_exceptions=True)

    def _start_loading(self) -> asyncio.Task[None]:
        if self._loading is None or self._loading.done():
            self._tried_at_secs = monotonic_secs()
            self._loading = asyncio.create_task(self._reload(), name="symbols of a venue")
        return self._loading

    async def _reload(self) -> None:
        try:
            self._by_pair = await self._load()
        except VenueUnavailable as exc:
            log.info("the markets of a venue could not be loaded: %s", exc)


async def load_symbols(
    venue: Venue, *, url: str, session: aiohttp.ClientSession
) -> Mapping[str, str]:
    """The venue's names of its spot markets, by pair. Raises `VenueUnavailable`."""
    client = ccxt_classes()[venue.name](
        {
            "enableRateLimit": False,
            "enableLastHttpResponse": False,
            "timeout": LOAD_TIMEOUT_SECS * 1000,
            "session": session,
            "options": {
                "maxRetriesOnFailure": 0,
                "fetchMarkets": {"types": ["spot"]},
                "fetchMargins": False,
                "fetchCurrencies": False,
            },
        }
    )
    client.has["fetchCurrencies"] = False
    client.ssl_context = False  # the session has its own; ccxt would make another
    client.urls["api"] = {
        name: re.sub(r"^https?://[^/]+", url, api) for name, api in client.urls["api"].items()
    }
    try:
        async with asyncio.timeout(LOAD_TIMEOUT_SECS):
            markets = await client.load_markets(True, dict(_PARAMS[venue.name]))
        spot = cast("Mapping[str, Mapping[str, Any]]", markets)
        return {pair: market["id"] for pair, market in spot.items() if market["spot"]}
    except Exception as exc:  # noqa: BLE001 - ccxt's, and what it meets in replies
        raise VenueUnavailable(f"did not tell its markets ({type(exc).__name__})") from None
    finally:
        client.session = None


def currency_named(venue: Venue, code: str) -> str:
    """Our name of a currency: `BTC` of Kraken's `XXBT`.

    >>> from shared.venues import BINANCE, KRAKEN
    >>> [currency_named(KRAKEN, code) for code in ("XXBT", "ZUSD", "XDG", "SOL")]
    ['BTC', 'USD', 'DOGE', 'SOL']
    >>> currency_named(BINANCE, "BTC")
    'BTC'
    """
    return _currencies(venue.name).get(code, code)


@cache
def _currencies(venue_name: str) -> Mapping[str, str]:
    client = ccxt_classes()[venue_name]({"session": None})
    return dict(client.commonCurrencies)
