"""A running venue simulator, accounts at it, and unmodified ccxt to trade with."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
from shared.ccxt_classes import ccxt_classes


@dataclass(frozen=True, slots=True, kw_only=True)
class Customer:
    """An API key that the simulator drew, with its secret."""

    venue: str
    key: str
    secret: str = field(repr=False)


@asynccontextmanager
async def running(**options: Any) -> AsyncIterator[VenueSimulator]:
    simulator = VenueSimulator(SimulatorOptions(**options))
    await simulator.start()
    try:
        yield simulator
    finally:
        await simulator.close()


async def request(method: str, url: str, **arguments: Any) -> tuple[int, Any]:
    """The status and JSON body of one request."""
    async with (
        aiohttp.ClientSession() as session,
        session.request(method, url, **arguments) as response,
    ):
        return response.status, await response.json()


async def open_account(
    simulator: VenueSimulator, venue: str, balances: Mapping[str, str], **fields: object
) -> Customer:
    status, body = await request(
        "POST",
        f"{simulator.base_url}/simulator/accounts",
        json={"venue": venue, "balances": balances, **fields},
    )
    assert status == 201, body
    return Customer(venue=venue, key=body["key"], secret=body["secret"])


async def break_it(simulator: VenueSimulator, **fault: object) -> None:
    status, body = await request("POST", f"{simulator.base_url}/simulator/faults", json=fault)
    assert status == 201, body


@asynccontextmanager
async def trader(
    simulator: VenueSimulator, customer: Customer, **settings: Any
) -> AsyncIterator[Any]:
    """ccxt with the customer's key, its markets loaded without it."""
    client = ccxt_classes()[customer.venue](
        {
            "enableRateLimit": False,
            "options": {"fetchMarkets": {"types": ["spot"]}, "fetchMargins": False},
            **settings,
        }
    )
    base_url = simulator.base_url
    if customer.venue == "kraken":
        client.urls["api"] = {"public": base_url, "private": base_url}
    else:
        client.urls["api"] = {
            "public": f"{base_url}/api/v3",
            "private": f"{base_url}/api/v3",
            "sapi": f"{base_url}/sapi/v1",
        }
    try:
        await client.load_markets()
        client.apiKey, client.secret = customer.key, customer.secret
        yield client
    finally:
        await client.close()
