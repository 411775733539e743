"""Bots that trade for real at simulated venues, and a database that is restored behind them."""

from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from decimal import ROUND_DOWN, Decimal
from functools import partial
from typing import Any, Final

from ecosystem.venue_simulator import VenueSimulator
from shared.clock import monotonic_secs, wall_ms
from shared.leases import LeaseKind
from shared.money import MarketRules
from shared.orders import Intent, Leg, LiveOrder, Mode, client_order_id
from shared.reasons import Reason
from shared.store import (
    bot_import,
    bots,
    credential_changes,
    fleet,
    leases,
    markets,
    settlement,
    trading,
)
from shared.store.bot_import import BotSpec
from shared.store.credential_changes import NewCredential
from shared.store.engine import Store, connect
from shared.store.settlement import Settled, Settlement
from shared.store.trading import Proposal
from shared.vault import ApiKey, Vault
from shared.venues import VENUES
from tests.integration.simulated_venue import open_account
from tests.servers.names import new_name
from tests.servers.session import PostgresSession
from trade_worker.key_ring import KeyRing
from trade_worker.venues import Verdict
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders

OWNER: Final = "worker of the lost time"
QUANTITY: Final = Decimal("0.001")
PAIRS: Final = {"kraken": "BTC/USD", "binance": "BTC/USDT"}
ENOUGH: Final = Decimal(500_000)
"""A limit at which every buyer finds a seller."""
TOO_LITTLE: Final = Decimal(15_000)
"""A limit at which none does."""

RULES: Final = MarketRules(
    lot_step=Decimal("0.00001"),
    price_tick=Decimal("0.1"),
    min_quantity=Decimal("0.00001"),
    min_notional=Decimal(5),
)


@contextmanager
def copy_of(url: str, session: PostgresSession) -> Iterator[str]:
    """A backup, restored: a database as `url` is now. Nobody may be connected there."""
    name = new_name()
    session.databases.create(name, template=url.rpartition("/")[2])
    try:
        yield session.databases.url(name)
    finally:
        session.databases.drop(name)


@dataclass(kw_only=True)
class Trader:
    """A live bot; `sequence` is that of its last position, `version` what it is at."""

    name: str
    venue: str
    bot_id: int
    user_id: int
    shard: int
    credential_id: int
    sequence: int = 0
    version: int = 0
    attempt: int = 0
    held: Decimal = Decimal(0)


@dataclass(kw_only=True)
class Traders:
    """What trades on one database, as a worker does: intent, request, settlement."""

    store: Store
    venue: LiveOrders
    epochs: dict[int, int] = field(default_factory=dict)

    async def take_over(self) -> None:
        async with self.store.begin() as tx:
            held = await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
        self.epochs = {lease.number: lease.epoch for lease in held}

    async def leave(self) -> None:
        async with self.store.begin() as tx:
            await leases.release_all(tx, LeaseKind.SHARD, OWNER)

    async def enter(self, bot: Trader, *, limit: Decimal = ENOUGH) -> LiveOrder:
        """Commit and send the next entry, and write down what came of it."""
        order = await self.send(await self.commit_entry(bot, limit=limit))
        await self.settle(bot, order)
        return order

    async def leave_position(self, bot: Trader, *, limit: Decimal | None = None) -> LiveOrder:
        """The same for an exit, at market unless there is a limit."""
        order = await self._commit(bot, Leg.EXIT, limit)
        bot.attempt += 1
        order = await self.send(order)
        await self.settle(bot, order)
        return order

    async def commit_entry(self, bot: Trader, *, limit: Decimal = ENOUGH) -> LiveOrder:
        """An intent that nobody has sent."""
        bot.sequence += 1
        bot.version = bot.attempt = 0
        return await self._commit(bot, Leg.ENTRY, limit)

    async def send(self, order: LiveOrder) -> LiveOrder:
        """The order with the venue's own id."""
        sent = await self.venue.send(order, send_by_secs=monotonic_secs() + 2.9)
        assert sent.verdict is Verdict.ACCEPTED, sent.text
        return replace(order, venue_order_id=sent.venue_order_id)

    async def settle(self, bot: Trader, order: LiveOrder) -> None:
        told = await self.venue.ask(order)
        assert told is not None
        news = Settlement(
            client_order_id=order.client_order_id,
            status=told.status,
            venue_order_id=told.venue_order_id,
            executed=told.executed,
            fills=told.fills,
            sent_at_ms=wall_ms(),
        )
        async with self.store.begin() as tx:
            done = await settlement.settle(tx, [news], owner=OWNER)
        settled: Settled = done[order.client_order_id]
        bot.version, bot.held = settled.position.version, settled.position.totals.held

    async def _commit(self, bot: Trader, leg: Leg, limit: Decimal | None) -> LiveOrder:
        async with self.store.read() as tx:
            namespace = (await fleet.read(tx)).namespace
        now_ms = wall_ms()
        attempt = bot.attempt if leg is Leg.EXIT else 0
        id_ = client_order_id(
            namespace,
            bot_id=bot.bot_id,
            pair=PAIRS[bot.venue],
            position_sequence=bot.sequence,
            leg=leg,
            attempt=attempt,
        )
        intent = Intent(
            client_order_id=id_,
            bot_id=bot.bot_id,
            user_id=bot.user_id,
            shard=bot.shard,
            lease_epoch=self.epochs[bot.shard],
            mode=Mode.LIVE,
            venue=bot.venue,
            pair=PAIRS[bot.venue],
            position_sequence=bot.sequence,
            position_version=bot.version,
            leg=leg,
            attempt=attempt,
            quantity=QUANTITY
            if leg is Leg.ENTRY
            else bot.held.quantize(RULES.lot_step, ROUND_DOWN),
            limit_price=limit,
            decided_price=limit or ENOUGH,
            taker_fee=Decimal(0),
            reason=Reason.ENTRY_SIGNAL if leg is Leg.ENTRY else Reason.EARLY_LOSS,
            market_time_ms=now_ms,
            observed_at_ms=now_ms,
            received_at_ms=now_ms,
            decided_at_ms=now_ms,
            credential_id=bot.credential_id,
        )
        async with self.store.begin() as tx:
            done = await trading.commit(tx, [Proposal(intent=intent)], owner=OWNER)
        assert id_ in done.live, done
        return done.live[id_]


@asynccontextmanager
async def trading_on(url: str, vault: Vault, simulator: VenueSimulator) -> AsyncIterator[Traders]:
    """Everything that trades on a database; all its connections end with the block."""
    store = connect(url, application_name="test")
    venue = LiveOrders(
        urls=dict.fromkeys(VENUES, simulator.base_url),
        keys=KeyRing(store, vault).open,
        limiters={name: Limiter(one) for name, one in VENUES.items()},
        proxy_url=None,
    )
    try:
        await venue.start()
        traders = Traders(store=store, venue=venue)
        await traders.take_over()
        yield traders
        await traders.leave()
    finally:
        await venue.close()
        await store.close()


async def add_traders(
    url: str, vault: Vault, simulator: VenueSimulator, venue: str, *names: str, **changes: Any
) -> list[Trader]:
    """Live bots at a venue, each of a user of its own with an account and a key there."""
    store = connect(url, application_name="test")
    currency = PAIRS[venue].partition("/")[2]
    found = []
    try:
        async with store.begin() as tx:
            await markets.save(tx, venue, {PAIRS[venue]: RULES})
        for name in names:
            customer = await open_account(simulator, venue, {currency: "10000"})
            spec = BotSpec(
                user=name,
                name=name,
                venue=venue,
                pairs=(PAIRS[venue],),
                capital=Decimal(100_000),
                **{"mode": Mode.LIVE, **changes},
            )
            async with store.begin() as tx:
                bot = await bots.get(tx, await bot_import.add(tx, spec))
                key = await credential_changes.add(
                    tx,
                    NewCredential(user=name, venue=venue, live=True, facts={}),
                    partial(vault.seal, ApiKey(key=customer.key, secret=customer.secret)),
                )
            found.append(
                Trader(
                    name=name,
                    venue=venue,
                    bot_id=bot.id,
                    user_id=bot.user_id,
                    shard=bot.shard,
                    credential_id=key.id,
                )
            )
    finally:
        await store.close()
    return found
