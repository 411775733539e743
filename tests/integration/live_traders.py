"""Bots that trade for real, straight in the store: intents, and what a venue may tell of them."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from sqlalchemy import Row, Table, insert, select

from shared.leases import LeaseKind
from shared.orders import Fill, Intent, Leg, LiveOrder, Mode, OrderStatus, client_order_id
from shared.reasons import Reason
from shared.store import bot_import, bots, leases, settlement, trading
from shared.store.engine import Store
from shared.store.settlement import Settled, Settlement
from shared.store.tables import credentials, markets
from shared.store.trading import Committed, Proposal
from tests.integration.traders import OWNER, spec

NAMESPACE: Final = UUID(int=7)
NOON_MS: Final = 1_642_334_400_000
PAIR: Final = "BTC/USD"


@dataclass(kw_only=True)
class LiveTrader:
    """One live bot on BTC/USD at Kraken, its owner's key and its shard's lease."""

    bot_id: int
    user_id: int
    shard: int
    epoch: int
    credential_id: int
    orders: dict[str, Intent] = field(default_factory=dict)

    def entry(self, sequence: int = 1, *, quantity: str = "1", price: str = "100") -> Intent:
        """Buy at most at this price."""
        return self._intent(Leg.ENTRY, sequence, 0, 0, Decimal(quantity), Decimal(price))

    def exit(
        self,
        sequence: int = 1,
        *,
        version: int = 2,
        attempt: int = 0,
        quantity: str = "1",
        price: str = "110",
    ) -> Intent:
        """Sell at least at this price what the position held at `version`."""
        of = (Decimal(quantity), Decimal(price))
        return self._intent(Leg.EXIT, sequence, version, attempt, *of)

    def _intent(
        self,
        leg: Leg,
        sequence: int,
        version: int,
        attempt: int,
        quantity: Decimal,
        price: Decimal,
    ) -> Intent:
        order_id = client_order_id(
            NAMESPACE,
            bot_id=self.bot_id,
            pair=PAIR,
            position_sequence=sequence,
            leg=leg,
            attempt=attempt,
        )
        return Intent(
            client_order_id=order_id,
            bot_id=self.bot_id,
            user_id=self.user_id,
            shard=self.shard,
            lease_epoch=self.epoch,
            mode=Mode.LIVE,
            credential_id=self.credential_id,
            venue="kraken",
            pair=PAIR,
            position_sequence=sequence,
            position_version=version,
            leg=leg,
            attempt=attempt,
            quantity=quantity,
            limit_price=price,
            decided_price=price,
            taker_fee=Decimal(0),
            reason=Reason.ENTRY_SIGNAL if leg is Leg.ENTRY else Reason.PROFIT_TARGET,
            market_time_ms=NOON_MS,
            observed_at_ms=NOON_MS,
            received_at_ms=NOON_MS,
            decided_at_ms=NOON_MS,
            regime="weak",
        )


async def live_traders(store: Store, *names: str, **changes: Any) -> list[LiveTrader]:
    """Add live bots, each of an owner of its name with a key, and take every shard's lease.

    Kraken's BTC/USD trades in lots of 0.001, at least 0.01 and 5 USD.
    """
    wanted = [spec(user=name, **{"mode": Mode.LIVE, **changes}) for name in names]
    async with store.begin() as tx:
        added = [await bots.get(tx, await bot_import.add(tx, each)) for each in wanted]
        keys = [
            (
                await tx.execute(
                    insert(credentials)
                    .values(user_id=bot.user_id, venue="kraken", live=True)
                    .returning(credentials.c.id)
                )
            ).scalar_one()
            for bot in added
        ]
        await tx.execute(
            insert(markets).values(
                venue="kraken",
                pair=PAIR,
                status="listed",
                lot_step=Decimal("0.001"),
                price_tick=Decimal("0.1"),
                min_quantity=Decimal("0.01"),
                min_notional=Decimal(5),
            )
        )
        held = await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
    epochs = {lease.number: lease.epoch for lease in held}
    return [
        LiveTrader(
            bot_id=bot.id,
            user_id=bot.user_id,
            shard=bot.shard,
            epoch=epochs[bot.shard],
            credential_id=key,
        )
        for bot, key in zip(added, keys, strict=True)
    ]


def fill(
    order: Intent | LiveOrder,
    trade_id: str,
    quantity: str = "1",
    *,
    price: str | None = None,
    fee: str = "0",
    fee_currency: str = "USD",
) -> Fill:
    """A trade of this order, at its own price unless one is given."""
    return Fill(
        client_order_id=order.client_order_id,
        trade_id=trade_id,
        leg=order.leg,
        quantity=Decimal(quantity),
        price=order.decided_price if price is None else Decimal(price),
        fee=Decimal(fee),
        fee_currency=fee_currency,
        at_ms=NOON_MS,
    )


def told(
    order: Intent | LiveOrder,
    status: OrderStatus,
    *fills: Fill,
    executed: str | None = None,
    **more: Any,
) -> Settlement:
    """What a venue tells of an order; it executed what the fills sum to unless said otherwise."""
    total = sum((each.quantity for each in fills), Decimal(0))
    return Settlement(
        client_order_id=order.client_order_id,
        status=status,
        executed=total if executed is None else Decimal(executed),
        fills=fills,
        **more,
    )


def said(order: Intent | LiveOrder, status: OrderStatus, **more: Any) -> Settlement:
    """What we say of an order of which the venue has told nothing."""
    return Settlement(client_order_id=order.client_order_id, status=status, **more)


async def commit(store: Store, *intents: Intent, owner: str = OWNER) -> Committed:
    """Write these and make sure that all of them are."""
    async with store.begin() as tx:
        done = await trading.commit(
            tx, [Proposal(intent=intent) for intent in intents], owner=owner
        )
    assert set(done.positions) == {intent.client_order_id for intent in intents}, done
    return done


async def settle(store: Store, *settlements: Settlement, owner: str = OWNER) -> dict[str, Settled]:
    async with store.begin() as tx:
        return await settlement.settle(tx, settlements, owner=owner)


async def settle_one(store: Store, news: Settlement) -> Settled:
    return (await settle(store, news))[news.client_order_id]


async def buy(store: Store, trader: LiveTrader, sequence: int = 1, **fees: str) -> Settled:
    """Buy one at 100 and have it filled: the position is open at version 2."""
    entry = trader.entry(sequence)
    await commit(store, entry)
    bought = fill(entry, f"bought {sequence}", **fees)
    return await settle_one(store, told(entry, OrderStatus.FILLED, bought))


async def rows(store: Store, table: Table) -> Sequence[Row[Any]]:
    async with store.read() as tx:
        return (await tx.execute(select(table).order_by(table.c.id))).all()


def changed(intent: Intent, **changes: Any) -> Intent:
    return replace(intent, **changes)
