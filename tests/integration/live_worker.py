"""A worker that trades for real at a simulated venue: one user, one key, one bot."""

import asyncio
import contextlib
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from dataclasses import dataclass, field, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

from sqlalchemy import Row

from ecosystem.venue_simulator import VenueSimulator
from shared.bus import Bus
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.orders import LiveOrder, Mode
from shared.store import bot_import, fleet, markets, users
from shared.store import bots as bot_store
from shared.store import credential_changes as changes
from shared.store import tables as t
from shared.store.bot_import import BotSpec
from shared.store.credential_changes import NewCredential
from shared.store.engine import Store, connect
from shared.store.workers import Process, ProcessKind
from shared.vault import ApiKey, Vault, new_master_key, parse_master_keys
from shared.venues import VENUES, Venue, base_of, quote_of
from tests.acceptance import checker, live_judge
from tests.integration.simulated_venue import Customer, break_it, open_account, request, running
from tests.integration.trading_fleet import RULES, Serving, Ticks, rows, spec, tick_message, until
from trade_worker.egress import Egress
from trade_worker.key_ring import KeyRing
from trade_worker.live_trading import LiveAccess
from trade_worker.venues import Sent
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders
from trade_worker.venues.paper import PaperOrders
from trade_worker.worker import Worker

USER: Final = "ann"
FUNDS: Final = "100000"
NOT_FOUND_SECS: Final = dict.fromkeys(VENUES, 0.3)
"""The simulator answers for sure at once: an order's time is over a little later."""

PAUSE_SECS: Final = 0.05


class HeldOrders(LiveOrders):
    """The live adapter, with requests that get stuck in this process.

    An order waits for `may_leave` before the adapter has it, and its answer for `may_return`.
    """

    may_leave: asyncio.Event
    may_return: asyncio.Event
    answered: int

    def __init__(self, **facts: Any) -> None:
        super().__init__(**facts)
        self.may_leave, self.may_return = asyncio.Event(), asyncio.Event()
        self.may_leave.set()
        self.may_return.set()
        self.taken = self.answered = 0

    async def send(self, order: LiveOrder, *, send_by_secs: float) -> Sent:
        self.taken += 1
        await self.may_leave.wait()
        sent = await super().send(order, send_by_secs=send_by_secs)
        self.answered += 1
        await self.may_return.wait()
        return sent


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveServing(Serving):
    """A worker that trades for real, its adapter and its keys."""

    port: HeldOrders
    keys: KeyRing

    @property
    def live(self) -> Mapping[str, Any]:
        """What it reports of real orders."""
        told: dict[str, Any] = self.worker.report()["live"]
        return told

    async def sends(self) -> None:
        """Wait until an order is on its way to the venue."""
        await self.until(lambda: self.port.taken > 0)

    async def kill(self) -> None:
        """End it without a chance to finish anything."""
        self.task.cancel()
        await asyncio.gather(self.task, return_exceptions=True)


@dataclass(kw_only=True)
class Floor:
    """A venue, a database and what trades there."""

    venue: Venue
    database_url: str
    store: Store
    bus: Bus
    simulator: VenueSimulator
    journal: Path
    customer: Customer
    vault: Vault
    bot_id: int
    credential_id: int
    ticks: Ticks = field(init=False)

    def __post_init__(self) -> None:
        self.ticks = Ticks(self.pair, venue=self.venue.name)

    @property
    def pair(self) -> str:
        return self.venue.reference_pair

    async def break_it(self, kind: str, **fault: object) -> None:
        await break_it(self.simulator, venue=self.venue.name, kind=kind, **fault)

    async def mend(self) -> None:
        status, _ = await request("DELETE", f"{self.simulator.base_url}/simulator/faults")
        assert status < 300

    async def add_bot(self, **changes: Any) -> None:
        """One more bot of the same user on the same pair."""
        wanted = _bot_of(self.venue, name="second", **changes)
        async with self.store.begin() as tx:
            await bot_import.add(tx, wanted)

    async def change_bot(self, **changes: Any) -> None:
        async with self.store.begin() as tx:
            await bot_store.change(tx, self.bot_id, **changes)

    @contextlib.asynccontextmanager
    async def worker(self) -> AsyncIterator[LiveServing]:
        """A fresh process of the worker `1`; stopped gracefully at the end if it still runs."""
        keys = KeyRing(self.store, self.vault)
        port = HeldOrders(
            urls={self.venue.name: self.simulator.base_url},
            keys=keys.open,
            limiters={name: Limiter(venue) for name, venue in VENUES.items()},
            proxy_url=None,
        )
        egress = Egress(self.store, host="test", proxy_url=None, alive_secs=5.0)
        live = LiveAccess(port=port, keys=keys, egress=egress, not_found_secs=NOT_FOUND_SECS)
        worker = await self._worker(live)
        task = asyncio.create_task(worker.run(), name="worker")
        serving = LiveServing(worker=worker, task=task, port=port, keys=keys)
        try:
            await serving.serves(Counter([self.pair]), self.bus)
            yield serving
            if not task.done():
                await serving.stop()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    async def _worker(self, live: LiveAccess) -> Worker:
        async with self.store.read() as tx:
            namespace = (await fleet.read(tx)).namespace
        return Worker(
            store=self.store,
            bus=self.bus,
            process=Process(
                kind=ProcessKind.TRADE_WORKER,
                name="1",
                instance=uuid4().hex[:8],
                host="test",
                pid=1,
            ),
            namespace=namespace,
            ports={Mode.PAPER: PaperOrders(), Mode.LIVE: live.port},
            lease_ttl_secs=5.0,
            live=live,
        )

    async def ask_price(self) -> float:
        """What the coin costs at the venue now."""
        if self.venue.name == "kraken":
            _, told = await request("GET", f"{self.simulator.base_url}/0/public/Ticker?pair=XBTUSD")
            (ticker,) = told["result"].values()
            return float(ticker["a"][0])
        url = f"{self.simulator.base_url}/api/v3/ticker/24hr?symbol=BTCUSDT"
        _, told = await request("GET", url)
        return float(told["askPrice"])

    async def tick(self, factor: float = 1.0) -> None:
        """Publish a tick of so many times the price; its indicators say "enter"."""
        price = factor * await self.ask_price()
        tick = self.ticks.tick(price, bid=price, ask=price)
        assert await self.bus.publish(tick_message(tick), mandatory=True)

    async def drive(self, condition: Callable[[], bool], factor: float = 1.0) -> None:
        """Publish ticks, a minute apart at the market, until something has happened."""

        async def happened() -> bool:
            if condition():
                return True
            await self.tick(factor)
            await asyncio.sleep(PAUSE_SECS)
            return condition()

        await until(happened)

    async def buy(self, worker: LiveServing) -> None:
        """Have an entry committed. The first ticks only lead to the balance being asked for."""
        wanted = worker.committed + 1
        await self.drive(lambda: worker.committed >= wanted)

    async def sell(self, worker: LiveServing) -> None:
        """Have an exit committed: at market, as in a fall."""
        wanted = worker.committed + 1
        await self.drive(lambda: worker.committed >= wanted, 0.9)

    async def trade_until(self, position: str, factor: float = 1.0) -> None:
        """Publish ticks until the last position has this status, however many orders it takes."""

        async def holds() -> bool:
            await self.tick(factor)
            await asyncio.sleep(PAUSE_SECS)
            return bool((await self.position()).status == position)

        await until(holds)

    async def order(self) -> Row[Any]:
        """The last order."""
        return (await rows(self.store, t.orders))[-1]

    async def position(self) -> Row[Any]:
        """The last position."""
        return (await rows(self.store, t.positions))[-1]

    async def becomes(self, *statuses: str) -> Row[Any]:
        """Wait until the last order has one of these statuses."""
        return await _seen(self.order, lambda row: row.status in statuses)

    async def position_becomes(self, *statuses: str) -> Row[Any]:
        """Wait until the last position has one of these statuses."""
        return await _seen(self.position, lambda row: row.status in statuses)

    async def has_trouble(self, *, said: bool = True) -> None:
        """Wait until the key is said to be in trouble, or not to be."""

        async def holds() -> bool:
            (key,) = await rows(self.store, t.credentials)
            return (key.trouble is not None) is said

        await until(holds)

    async def agrees(self) -> None:
        """See that our books and the venue's are the same, to the last digit."""
        history = await checker.read(self.database_url)
        assert not live_judge.violations(history, live_judge.truth_of(self.journal))


@contextlib.asynccontextmanager
async def live_floor(venue: Venue, database_url: str, folder: Path) -> AsyncIterator[Floor]:
    """A venue where one live bot trades its reference pair for a user with money there."""
    pair, journal = venue.reference_pair, folder / "journal.jsonl"
    store = connect(database_url, application_name="test")
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    vault = Vault(parse_master_keys(new_master_key(), "test"))
    try:
        async with running(journal=journal) as simulator:
            funds = {quote_of(pair): FUNDS, base_of(pair): "0"}
            customer = await open_account(simulator, venue.name, funds)
            credential_id, bot_id = await _enrol(store, venue, customer, vault)
            yield Floor(
                venue=venue,
                database_url=database_url,
                store=store,
                bus=bus,
                simulator=simulator,
                journal=journal,
                customer=customer,
                vault=vault,
                bot_id=bot_id,
                credential_id=credential_id,
            )
    finally:
        await bus.close()
        await store.close()


async def _enrol(store: Store, venue: Venue, customer: Customer, vault: Vault) -> tuple[int, int]:
    """The user's key and bot."""
    key = ApiKey(key=customer.key, secret=customer.secret)
    new = NewCredential(user=USER, venue=venue.name, live=True, facts={})
    async with store.begin() as tx:
        await users.add(tx, USER)
        credential = await changes.add(tx, new, lambda place: vault.seal(key, place))
        rules = replace(RULES, price_tick=Decimal("0.1"), min_notional=Decimal(10))
        await markets.save(tx, venue.name, {venue.reference_pair: rules})
    async with store.begin() as tx:
        return credential.id, await bot_import.add(tx, _bot_of(venue))


def _bot_of(venue: Venue, **changes: Any) -> BotSpec:
    pairs = (venue.reference_pair,)
    return spec(**{"user": USER, "venue": venue.name, "pairs": pairs, "mode": Mode.LIVE, **changes})


async def _seen(
    read: Callable[[], Awaitable[Row[Any]]], condition: Callable[[Row[Any]], bool]
) -> Row[Any]:
    async def holds() -> bool:
        return condition(await read())

    await until(holds)
    return await read()
