"""A desk: what a worker decides and commits, one tick at a time."""

import asyncio
from typing import Any
from uuid import UUID

from shared.clock import wall_ms
from shared.leases import LeaseKind
from shared.messages import Tick
from shared.orders import Mode
from shared.store import fleet, leases
from shared.store.engine import Store
from tests.integration.trading_fleet import (
    PATIENCE_SECS,
    Ticks,
)
from tests.integration.unreliable_store import UnreliableStore
from trade_worker.bot_table import BotTable
from trade_worker.decide import Decisions, decide
from trade_worker.execution import Execution
from trade_worker.roster import Roster
from trade_worker.row_state import Phase
from trade_worker.venues.paper import PaperOrders

OWNER = "worker 1 (test)"


class Desk:
    """The inside of a worker without its loops: one tick at a time, on an unreliable database."""

    def __init__(self, store: Store, namespace: UUID) -> None:
        self.store = UnreliableStore(store)
        self.namespace = namespace
        self.roster = Roster(self.store)
        self.announced = 0
        self.execution = Execution(
            self.store,
            owner=OWNER,
            namespace=namespace,
            ports={Mode.PAPER: PaperOrders()},
            epoch=lambda _shard: 1,
            on_committed=self._on_committed,
            on_outdated=self.roster.reload,
        )
        self.ticks = Ticks()

    @property
    def table(self) -> BotTable:
        table = self.roster.table(("kraken", "BTC/USD"))
        assert table is not None
        return table

    def phases(self) -> list[Phase]:
        """Where each bot stands, by id."""
        found = [self.table.row_of(bot_id) for bot_id in self.table.bot_ids()]
        return [Phase(int(self.table.phase[row])) for row in found if row is not None]

    def submit(self, tick: Tick, *, now_ms: int | None = None) -> Decisions:
        """Decide the tick (at another time than now) and queue what it led to."""
        rules = self.roster.rules[tick.market]
        decisions = decide(self.table, tick, now_ms=now_ms or wall_ms(), rules=rules)
        self.execution.submit(self.table, tick, decisions, received_ms=wall_ms())
        return decisions

    async def trade(self, price: float, **changes: Any) -> Decisions:
        """Decide the next tick and wait for what becomes of it."""
        decisions = self.submit(self.ticks.tick(price, **changes))
        await self.settled()
        return decisions

    async def settled(self) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            await self.execution.drain()

    def _on_committed(self) -> None:
        self.announced += 1


async def desk_on(store: Store) -> Desk:
    """A desk that holds every shard; nothing runs its execution yet."""
    async with store.begin() as tx:
        await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=300)
        namespace = (await fleet.read(tx)).namespace
    return Desk(store, namespace)
