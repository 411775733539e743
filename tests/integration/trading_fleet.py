"""A trade worker on a real store and bus, with bots to serve and ticks to meet."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Row, Table, select, text, update

from shared.bus import Bus, Message
from shared.clock import wall_ms
from shared.leases import LeaseKind
from shared.messages import Indicators, Regime, Tick, encode
from shared.money import MarketRules
from shared.orders import BotStatus, Mode
from shared.store import bot_import, fleet, markets
from shared.store.bot_import import BotSpec
from shared.store.engine import Store
from shared.store.tables import bot_pairs, bots, leases
from shared.store.types import seconds_from_now
from shared.store.workers import Process, ProcessKind
from shared.topology import PRICE_UPDATES
from shared.venues import VENUES
from trade_worker.venues.paper import PaperOrders
from trade_worker.worker import Worker

PATIENCE_SECS: Final = 60.0
MINUTE_MS: Final = 60_000
MARKET_START_MS: Final = 1_700_000_000_000

RULES: Final = MarketRules(
    lot_step=Decimal("0.0001"),
    price_tick=Decimal("0.01"),
    min_quantity=Decimal("0.0001"),
    min_notional=Decimal(5),
)

GOOD: Final = Indicators(
    adx=27.0,
    rsi=60.0,
    momentum_1h=0.01,
    momentum_4h=0.02,
    btc_momentum_1h=0.001,
    volume_ratio=1.2,
    recent_high=1_000_000.0,
)
"""Indicators on which a bot with default settings enters."""


def spec(number: int = 0, **changes: Any) -> BotSpec:
    """An active paper bot on Kraken's BTC/USD, a user of its own, 1,000 to spend, all defaults."""
    plain = BotSpec(
        user=f"user {number}",
        name=f"bot {number}",
        venue="kraken",
        pairs=("BTC/USD",),
        capital=Decimal(1000),
    )
    return replace(plain, **changes)


async def add_bots(store: Store, *specs: BotSpec) -> list[int]:
    """Import bots and the rules of their markets; their ids, in the order of the specs."""
    for venue, pair in {(each.venue, pair) for each in specs for pair in each.pairs}:
        await list_market(store, venue, pair)
    async with store.begin() as tx:
        return [await bot_import.add(tx, each) for each in specs]


async def list_market(store: Store, venue: str, pair: str) -> None:
    """Let the venue trade one more pair."""
    async with store.read() as tx:
        known = {
            of: stored.rules for (at, of), stored in (await markets.read(tx)).items() if at == venue
        }
    async with store.begin() as tx:
        await markets.save(tx, venue, {**known, pair: RULES})


class Ticks:
    """The ticks of one market, as a price stream makes them: a minute apart on its clock."""

    def __init__(self, pair: str = "BTC/USD", *, venue: str = "kraken", epoch: int = 1) -> None:
        self.venue = venue
        self.pair = pair
        self.epoch = epoch
        self.sequence = 0
        self.market_time_ms = MARKET_START_MS

    def tick(
        self, price: float, *, minutes: float = 1, age_secs: float = 0, **changes: Any
    ) -> Tick:
        """The next tick; indicators say "enter" unless changed."""
        self.sequence += 1
        self.market_time_ms += round(minutes * MINUTE_MS)
        now_ms = wall_ms()
        indicators = {
            name: changes.pop(name) for name in list(changes) if name in Indicators.__slots__
        }
        fields: dict[str, Any] = {
            "venue": self.venue,
            "pair": self.pair,
            "price": price,
            "bid": price,
            "ask": price,
            "market_time_ms": self.market_time_ms,
            "observed_at_ms": now_ms - round(1000 * age_secs),
            "published_at_ms": now_ms,
            "stream_epoch": self.epoch,
            "sequence": self.sequence,
            "indicators": replace(GOOD, **indicators),
            "regime": Regime.WEAK,
            "confidence": 80.0,
        }
        return Tick(**{**fields, **changes})


class Prices(Ticks):
    """The same, published."""

    def __init__(self, bus: Bus, pair: str = "BTC/USD", *, epoch: int = 1) -> None:
        super().__init__(pair, epoch=epoch)
        self._bus = bus

    def message(self, price: float, **changes: Any) -> Message:
        return tick_message(self.tick(price, **changes))

    async def publish(self, price: float, **changes: Any) -> Tick:
        """Publish the next tick. Fails if no worker's queue took it."""
        tick = self.tick(price, **changes)
        assert await self._bus.publish(tick_message(tick), mandatory=True)
        return tick


def tick_message(tick: Tick) -> Message:
    return Message(exchange=PRICE_UPDATES, routing_key=tick.pair, body=encode(tick))


@dataclass(frozen=True, slots=True)
class Serving:
    """A worker that has taken its shards, loaded its bots and listens to ticks."""

    worker: Worker
    task: "asyncio.Task[None]"

    @property
    def committed(self) -> int:
        """Orders committed so far."""
        count: int = self.worker.report()["orders"]["committed"]
        return count

    @property
    def dropped(self) -> Mapping[str, int]:
        """Decisions that did not become orders, by cause."""
        causes: dict[str, int] = self.worker.report()["orders"]["dropped"]
        return causes

    @property
    def verdicts(self) -> Mapping[str, int]:
        """How many rows met which verdict on the last tick of each market."""
        counts: dict[str, int] = self.worker.report()["verdicts"]
        return counts

    def ticks(self, kind: str) -> int:
        count: int = self.worker.report()["ticks"][kind]
        return count

    async def serves(self, pairs: Counter[str], bus: Bus) -> None:
        """Wait until so many rows of each pair are loaded and their ticks are listened to."""
        await self.until(lambda: self.worker.report()["rows"] == pairs.total())
        for pair in pairs:
            # Of a venue that nobody trades on: it is routed, and then no bot's.
            probe = tick_message(Ticks(pair, venue="nowhere").tick(1.0))

            async def routed(probe: Message = probe) -> bool:
                return await bus.publish(probe, mandatory=True)

            await until(routed)

    async def commits(self, count: int) -> None:
        """Wait until so many orders were committed since the start."""
        await self.until(lambda: self.committed >= count)
        assert self.committed == count

    async def judges(self, count: int) -> None:
        """Wait until so many ticks were judged since the start."""
        await self.until(lambda: self.ticks("judged") >= count)

    async def until(self, condition: Callable[[], bool]) -> None:
        """Wait for what the worker reports. Fails with the worker's error if it ends."""

        async def holds() -> bool:
            if self.task.done():
                self.task.result()
                raise AssertionError("the worker ended")
            return condition()

        await until(holds)

    async def stop(self) -> None:
        """Stop gracefully, as SIGTERM does."""
        self.worker.stop()
        async with asyncio.timeout(PATIENCE_SECS):
            await self.task


async def new_worker(
    store: Store, bus: Bus, *, name: str = "1", lease_ttl_secs: float = 5.0
) -> Worker:
    """A worker of a fresh process called `name`, not running yet."""
    async with store.read() as tx:
        namespace = (await fleet.read(tx)).namespace
    return Worker(
        store=store,
        bus=bus,
        process=Process(
            kind=ProcessKind.TRADE_WORKER, name=name, instance=uuid4().hex[:8], host="test", pid=1
        ),
        namespace=namespace,
        ports={Mode.PAPER: PaperOrders()},
        lease_ttl_secs=lease_ttl_secs,
    )


@contextlib.asynccontextmanager
async def serving(
    store: Store, bus: Bus, *, name: str = "1", lease_ttl_secs: float = 5.0
) -> AsyncIterator[Serving]:
    """A worker that serves every bot there is; stopped gracefully at the end if it still runs."""
    worker = await new_worker(store, bus, name=name, lease_ttl_secs=lease_ttl_secs)
    task = asyncio.create_task(worker.run(), name=f"worker {name}")
    running = Serving(worker, task)
    try:
        await running.serves(await _traded_pairs(store), bus)
        yield running
        if not task.done():
            await running.stop()
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def _traded_pairs(store: Store) -> Counter[str]:
    """How many bots want each pair."""
    query = select(bot_pairs.c.pair).join(bots, bots.c.id == bot_pairs.c.bot_id)
    async with store.read() as tx:
        return Counter(
            await tx.scalars(
                query.where(bots.c.status != BotStatus.INACTIVE, bots.c.venue.in_(list(VENUES)))
            )
        )


async def until(condition: Callable[[], Awaitable[bool]]) -> None:
    """Ask again and again what nobody announces."""
    async with asyncio.timeout(PATIENCE_SECS):
        while not await condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)


async def rows(store: Store, table: Table) -> Sequence[Row[Any]]:
    """Everything in a table, in the order in which it was written."""
    async with store.read() as tx:
        return (await tx.execute(select(table).order_by(table.c.id))).all()


async def execute(store: Store, statement: str) -> None:
    """Change the database behind everybody's back."""
    async with store.begin() as tx:
        await tx.exec_driver_sql(statement)


async def end_leases(store: Store, *, new_owner: str | None = None) -> None:
    """Let every shard's lease run out now, or be taken by another under its next epoch."""
    values: dict[str, Any] = {"expires_at": seconds_from_now(text("0"))}
    if new_owner is not None:
        values = {
            "owner": new_owner,
            "epoch": leases.c.epoch + 1,
            "expires_at": seconds_from_now(text("60")),
        }
    async with store.begin() as tx:
        await tx.execute(update(leases).where(leases.c.kind == LeaseKind.SHARD).values(values))
