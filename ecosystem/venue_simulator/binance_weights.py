"""What Binance's requests weigh, where that depends on what they ask for
(https://github.com/binance/binance-spot-api-docs, rest-api.md). Pure."""

import json
from typing import Final

from ecosystem.venue_simulator.venue_api import Query

_SYMBOLS: Final = ((20, 2), (100, 40))
"""Day tickers of up to so many symbols weigh so much."""
_ALL_SYMBOLS: Final = 80


def day_tickers_weight(query: Query) -> int:
    if "symbol" in query:
        return 2
    count = _symbol_count(query)
    return next((weight for most, weight in _SYMBOLS if count <= most), _ALL_SYMBOLS)


def _symbol_count(query: Query) -> float:
    try:
        symbols = json.loads(query["symbols"])
    except (KeyError, ValueError):
        return float("inf")
    return len(symbols) if isinstance(symbols, list) else float("inf")


def prices_weight(query: Query) -> int:
    return 2 if "symbol" in query else 4


def open_orders_weight(query: Query) -> int:
    return 6 if query.get("symbol") else 80


def my_trades_weight(query: Query) -> int:
    return 5 if query.get("orderId") else 20
