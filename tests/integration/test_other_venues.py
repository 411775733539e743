"""Unmodified ccxt trades at the other venues: what they answer has the venues' shapes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.test_utils import TestServer

from shared.ccxt_classes import ccxt_classes
from tests.other_venues.app import application
from tests.other_venues.books import Books

CASH = {"kraken": "USD", "binance": "USDT"}


@asynccontextmanager
async def trader(venue: str, journal: Path) -> AsyncIterator[Any]:
    """A ccxt client with an account of its own."""
    app = application(Books(journal=journal, seed=1, fault_rate=0.0))
    async with TestServer(app) as server, aiohttp.ClientSession() as session:
        url = str(server.make_url("")).rstrip("/")
        asked = {"venue": venue, "balances": {CASH[venue]: "10000"}}
        async with session.post(f"{url}/accounts", json=asked) as reply:
            opened = await reply.json()
        client = ccxt_classes()[venue](
            {
                "apiKey": opened["key"],
                "secret": opened["secret"],
                "enableRateLimit": False,
                "session": session,
                "options": {"fetchMargins": False, "fetchMarkets": {"types": ["spot"]}},
            }
        )
        client.has["fetchCurrencies"] = False
        client.urls["api"] = {
            name: api.replace("https://api.kraken.com", url).replace("https://api.binance.com", url)
            for name, api in client.urls["api"].items()
        }
        await client.load_markets()
        if venue == "binance":
            await client.load_time_difference()
        yield client
        client.session = None


@pytest.mark.parametrize("venue", CASH)
async def test_ccxt_reads_the_market_and_trades(venue: str, tmp_path: Path) -> None:
    pair = f"ETH/{CASH[venue]}"
    async with trader(venue, tmp_path / "journal") as client:
        assert len(await client.fetch_ohlcv(pair, "15m")) > 100
        ticker = (await client.fetch_tickers([pair]))[pair]
        assert 0 < ticker["bid"] < ticker["ask"]
        terms = (pair, "limit", "buy", 0.5, round(ticker["ask"] * 1.003, 2))
        named = {"clientOrderId": "a" * 32, "timeInForce": "IOC"}
        placed = await client.create_order(*terms, named)
        order = await client.fetch_order(placed["id"], pair)
        trades = await client.fetch_my_trades(pair)
        balance = await client.fetch_balance()
        by_hand = await client.fetch_open_orders(pair)
    assert order["filled"] == pytest.approx(0.5)
    assert order["status"] == "closed"
    assert sum(t["amount"] for t in trades if t["order"] == placed["id"]) == pytest.approx(0.5)
    assert 0.49 < balance["total"]["ETH"] <= 0.5
    assert placed["id"] not in [other["id"] for other in by_hand]
