"""A fleet's database at venues that remember, what a lost time did there, and recovering it."""

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from sqlalchemy import text, update

from console.__main__ import botfleet
from ecosystem.venue_simulator import VenueSimulator, limits
from shared.request_limits import KRAKEN_LIMITS, REQUEST_LIMITS, CounterLimit, Scope
from shared.store import recovery
from shared.store.engine import Store, connect
from shared.store.tables import orders
from shared.vault import Vault
from shared.venues import VENUES
from tests.acceptance import checker, live_judge
from tests.integration.lost_time import (
    ENOUGH,
    PAIRS,
    TOO_LITTLE,
    Trader,
    add_traders,
    trading_on,
)
from tests.servers.session import PostgresSession
from trade_worker.key_ring import KeyRing
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders


@dataclass(frozen=True, kw_only=True)
class World:
    """Venues that remember, and a fleet's database at them."""

    simulator: VenueSimulator
    journal: Path
    vault: Vault
    url: str
    session: PostgresSession
    environment: pytest.MonkeyPatch

    async def recover(self, url: str, *arguments: str, exit_code: int = 0) -> Any:
        """What `botfleet recover` prints."""
        self.environment.setenv("DATABASE_URL", url)
        run = await asyncio.to_thread(
            CliRunner().invoke,
            botfleet,
            ("recover", "--json", *arguments),
            catch_exceptions=False,
        )
        assert run.exit_code == exit_code, run.output
        return json.loads(run.stdout)

    async def judged(self, url: str) -> list[checker.Violation]:
        """What the database and the venues' journal disagree about."""
        return live_judge.violations(await checker.read(url), live_judge.truth_of(self.journal))


def give_more_calls(environment: pytest.MonkeyPatch) -> None:
    """Keys of a tier that Kraken does not sell: its lowest one makes a test wait for minutes."""
    environment.setattr(limits, "KRAKEN_MAX_CALLS", 10_000.0)
    many = CounterLimit(scope=Scope.KEY, most=10_000.0, decay_per_sec=1_000.0)
    kraken = replace(KRAKEN_LIMITS, limits={**KRAKEN_LIMITS.limits, "calls": many})
    environment.setitem(REQUEST_LIMITS, "kraken", kraken)


NAMES = ("seller", "gaps", "unlucky", "unsettled", "never-sent", "idle")


async def trade_before(world: World, venue: str) -> dict[str, Trader]:
    """What the backup knows."""
    made = await add_traders(world.url, world.vault, world.simulator, venue, *NAMES)
    by_name = {trader.name: trader for trader in made}
    async with trading_on(world.url, world.vault, world.simulator) as traders:
        await traders.enter(by_name["seller"])
        await traders.enter(by_name["unlucky"])
        await traders.leave_position(by_name["unlucky"])
        sent = await traders.commit_entry(by_name["unsettled"])
        await traders.send(sent)
        lost = await traders.commit_entry(by_name["never-sent"])
        async with traders.store.begin() as tx:
            early = text("committed_at - interval '1 minute'")
            own = orders.c.client_order_id == lost.client_order_id
            await tx.execute(update(orders).where(own).values(send_by=early))
    return by_name


async def lost_time(world: World, by_name: Mapping[str, Trader]) -> None:
    """What the backup does not know."""
    async with trading_on(world.url, world.vault, world.simulator) as traders:
        seller, gaps, unlucky = (by_name[name] for name in NAMES[:3])
        await traders.leave_position(seller, limit=ENOUGH)  # nobody buys at that
        await traders.leave_position(seller)
        await traders.enter(seller)
        # Two entries that never reached the venue, and one that did.
        gaps.sequence += 2
        await traders.enter(gaps)
        await traders.enter(unlucky, limit=TOO_LITTLE)
        await traders.enter(unlucky)
        await traders.leave_position(unlucky)


@contextlib.asynccontextmanager
async def asking_from(url: str, world: World) -> AsyncIterator[tuple[Store, LiveOrders]]:
    """A restored database, and the venues with its keys."""
    store = connect(url, application_name="test")
    venue = LiveOrders(
        urls=dict.fromkeys(PAIRS, world.simulator.base_url),
        keys=KeyRing(store, world.vault).open,
        limiters={name: Limiter(one) for name, one in VENUES.items()},
        proxy_url=None,
    )
    try:
        await venue.start()
        yield store, venue
    finally:
        await venue.close()
        await store.close()


async def lost_since(store: Store) -> datetime:
    async with store.read() as tx:
        newest = await recovery.newest_time(tx)
    assert newest is not None
    return newest


def found_ids(document: Mapping[str, Any]) -> set[str]:
    """The orders that a recovery found and the database did not know."""
    return {
        order["client_order_id"] for account in document["accounts"] for order in account["found"]
    }
