"""Bots that trade at given prices, straight in the store: a worker's transactions without one."""

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from shared.leases import LeaseKind
from shared.orders import Fill, Intent, Leg, Mode, client_order_id
from shared.reasons import Reason
from shared.store import bot_import, bots, leases, trading
from shared.store.bot_import import BotSpec
from shared.store.engine import Store
from shared.store.trading import Committed, Proposal

NAMESPACE: Final = UUID(int=1)
OWNER: Final = "worker 1"
NOON_MS: Final = 1_642_334_400_000
"""Midday, UTC: market time."""


@dataclass(kw_only=True)
class Trader:
    """One bot on one pair. Each `entry` is that of its next position, each `exit` closes it."""

    bot_id: int
    user_id: int
    shard: int
    epoch: int
    venue: str
    pair: str
    sequence: int = 0

    def entry(self, price: str = "100", *, market_time_ms: int = NOON_MS) -> Proposal:
        """Buy one at this price, without a fee."""
        self.sequence += 1
        return self._proposal(Leg.ENTRY, price, market_time_ms)

    def exit(self, price: str, *, market_time_ms: int = NOON_MS) -> Proposal:
        """Sell it at this price."""
        return self._proposal(Leg.EXIT, price, market_time_ms)

    def _proposal(self, leg: Leg, price: str, market_time_ms: int) -> Proposal:
        order_id = client_order_id(
            NAMESPACE,
            bot_id=self.bot_id,
            pair=self.pair,
            position_sequence=self.sequence,
            leg=leg,
            attempt=0,
        )
        intent = Intent(
            client_order_id=order_id,
            bot_id=self.bot_id,
            user_id=self.user_id,
            shard=self.shard,
            lease_epoch=self.epoch,
            mode=Mode.PAPER,
            venue=self.venue,
            pair=self.pair,
            position_sequence=self.sequence,
            position_version=1 if leg is Leg.EXIT else 0,
            leg=leg,
            attempt=0,
            quantity=Decimal(1),
            limit_price=None,
            decided_price=Decimal(price),
            taker_fee=Decimal(0),
            reason=Reason.ENTRY_SIGNAL if leg is Leg.ENTRY else Reason.EARLY_LOSS,
            market_time_ms=market_time_ms,
            observed_at_ms=market_time_ms,
            received_at_ms=market_time_ms,
            decided_at_ms=market_time_ms,
        )
        fill = Fill(
            client_order_id=order_id,
            trade_id=order_id,
            leg=leg,
            quantity=Decimal(1),
            price=Decimal(price),
            fee=Decimal(0),
            fee_currency=self.pair.partition("/")[2],
            at_ms=market_time_ms,
        )
        return Proposal(intent=intent, fills=(fill,))


def spec(user: str = "ann", name: str = "bot", **changes: Any) -> BotSpec:
    """An active paper bot on Kraken's BTC/USD with 1,000 to spend."""
    fields = {"venue": "kraken", "pairs": ("BTC/USD",), "capital": Decimal(1000), **changes}
    return BotSpec(user=user, name=name, **fields)


async def traders(store: Store, *specs: BotSpec) -> list[Trader]:
    """Add bots, take the leases of every shard, and return a trader for each pair of each."""
    async with store.begin() as tx:
        added = [await bots.get(tx, await bot_import.add(tx, each)) for each in specs]
        held = await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
    epochs = {lease.number: lease.epoch for lease in held}
    return [
        Trader(
            bot_id=bot.id,
            user_id=bot.user_id,
            shard=bot.shard,
            epoch=epochs[bot.shard],
            venue=bot.venue,
            pair=pair,
        )
        for bot in added
        for pair in bot.pairs
    ]


async def commit(store: Store, *proposals: Proposal) -> Committed:
    async with store.begin() as tx:
        return await trading.commit(tx, proposals, owner=OWNER)


async def trade(
    store: Store, trader: Trader, prices: Sequence[str], *, market_time_ms: int = NOON_MS
) -> None:
    """Buy at 100 and sell at each of these prices, one position after the other."""
    for price in prices:
        bought = trader.entry(market_time_ms=market_time_ms)
        sold = trader.exit(price, market_time_ms=market_time_ms)
        for proposal in (bought, sold):
            done = await commit(store, proposal)
            assert list(done.positions) == [proposal.intent.client_order_id], done.denied


def denied(done: Committed, *proposals: Proposal) -> list[Reason | None]:
    """Why each of these was denied, None where it was not."""
    return [done.denied.get(proposal.intent.client_order_id) for proposal in proposals]
