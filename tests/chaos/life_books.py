"""A database as the model of an order's life has it: atomic transactions, fenced by leases.

Rules that the product has as pure functions are the product's own; what it says in SQL is said
again here, in the plainest words.
"""

from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final
from uuid import UUID

from shared.leases import Lease, LeaseKind
from shared.money import MarketRules
from shared.orders import (
    UNCLOSED,
    UNSETTLED,
    Fill,
    Leg,
    LiveOrder,
    Mode,
    OrderStatus,
    PositionStatus,
    PositionTotals,
    client_order_id,
    totals_of,
)
from shared.settlement_rules import (
    Home,
    Settlement,
    home_of,
    new_home_status,
    position_after,
    status_after,
)
from shared.store.trading_statements import LEASE_MARGIN_SECS, SEND_WITHIN_SECS

TTL_MS: Final = 5_000
WATCHED_MS: Final = 24 * 3_600_000

LOTS: Final = MarketRules(
    lot_step=Decimal(1), price_tick=Decimal(1), min_quantity=Decimal(1), min_notional=Decimal(1)
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Bot:
    """One bot with one pair; its user's shard has nobody else."""

    id: int
    shard: int
    venue: str
    pair: str


BOTS: Final = (
    Bot(id=1, shard=0, venue="kraken", pair="BTC/USD"),
    Bot(id=2, shard=1, venue="binance", pair="BTC/USDT"),
)


@dataclass(frozen=True, slots=True)
class LeaseRow:
    owner: str | None = None
    epoch: int = 0
    expires_ms: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Proposal:
    """What a worker decided, and wants to have written before it is sent."""

    bot: Bot
    epoch: int
    sequence: int
    version: int
    leg: Leg
    attempt: int
    quantity: Decimal
    decided_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Position:
    status: PositionStatus
    version: int
    totals: PositionTotals


@dataclass(frozen=True, slots=True, kw_only=True)
class Found:
    """A bot's pair as it is loaded; `position` is the unclosed one."""

    bot: Bot
    sequence: int
    position: Position | None
    attempts: int
    waits: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a settlement left."""

    status: OrderStatus
    sequence: int
    position: Position
    adopted: bool
    changed: bool


Key = tuple[int, int]
"""(bot id, sequence)."""


@dataclass(slots=True, kw_only=True)
class Books:
    """All values are immutable, so that a shallow copy is a backup."""

    namespace: UUID
    leases: dict[int, LeaseRow] = field(default_factory=dict)
    orders: dict[str, LiveOrder] = field(default_factory=dict)
    decisions: dict[str, tuple[int, int]] = field(default_factory=dict)
    """By client order id: the lease's epoch, and when it was decided."""
    positions: dict[Key, Position] = field(default_factory=dict)
    fills: dict[tuple[str, str], tuple[int, Fill]] = field(default_factory=dict)
    """By pair and trade id: the sequence of the position that it belongs to, and the trade."""

    def copy(self) -> "Books":
        return Books(
            namespace=self.namespace,
            leases=dict(self.leases),
            orders=dict(self.orders),
            decisions=dict(self.decisions),
            positions=dict(self.positions),
            fills=dict(self.fills),
        )

    def take(self, owner: str, *, replacing: str | None, now_ms: int) -> list[Lease]:
        """Grant what nobody holds, or all that `replacing` has."""
        taken = []
        for bot in BOTS:
            row = self.leases.get(bot.shard, LeaseRow())
            free = row.owner is None or row.expires_ms <= now_ms
            if row.owner == replacing if replacing is not None else free:
                row = LeaseRow(owner, row.epoch + 1, now_ms + TTL_MS)
                self.leases[bot.shard] = row
                taken.append(_lease(bot.shard, row, owner))
        return taken

    def renew(self, held: Iterable[Lease], *, now_ms: int) -> list[Lease]:
        kept = []
        for lease in held:
            if self.holds(lease.number, lease.owner, now_ms, epoch=lease.epoch):
                row = replace(self.leases[lease.number], expires_ms=now_ms + TTL_MS)
                self.leases[lease.number] = row
                kept.append(lease)
        return kept

    def release(self, held: Iterable[Lease], *, now_ms: int) -> None:
        for lease in held:
            if self.holds(lease.number, lease.owner, now_ms, epoch=lease.epoch):
                self.leases[lease.number] = LeaseRow(None, lease.epoch, 0)

    def holds(self, shard: int, owner: str, now_ms: int, *, epoch: int | None = None) -> bool:
        row = self.leases.get(shard, LeaseRow())
        own = row.owner == owner and row.expires_ms > now_ms
        return own and (epoch is None or epoch == row.epoch)

    def commit(self, wanted: Proposal, owner: str, *, now_ms: int) -> LiveOrder | None:
        """Write an order with its position; None: its lease or its position is not as it was."""
        bot, key = wanted.bot, (wanted.bot.id, wanted.sequence)
        if not self.holds(bot.shard, owner, now_ms, epoch=wanted.epoch):
            return None
        before = self.positions.get(key)
        if self.unsettled(bot.id) is not None:
            return None
        if wanted.leg is Leg.ENTRY:
            if before is not None or self.unclosed(bot.id) is not None:
                return None
            empty = totals_of((), pair=bot.pair)
            after = Position(status=PositionStatus.OPENING, version=1, totals=empty)
        else:
            if before is None or before.status is not PositionStatus.OPEN:
                return None
            if before.version != wanted.version:
                return None
            after = replace(before, status=PositionStatus.CLOSING, version=before.version + 1)
        expires_ms = self.leases[bot.shard].expires_ms
        send_by_ms = min(
            now_ms + round(1000 * SEND_WITHIN_SECS), expires_ms - round(1000 * LEASE_MARGIN_SECS)
        )
        order = _order(self.namespace, wanted, now_ms=now_ms, send_by_ms=send_by_ms)
        assert order.client_order_id not in self.orders, "an id is used twice"
        self.positions[key] = after
        self.orders[order.client_order_id] = order
        self.decisions[order.client_order_id] = wanted.epoch, wanted.decided_ms
        return order

    def written(self, wanted: Proposal) -> LiveOrder | None:
        """That order, if it is this very decision, and not another one under the same id."""
        id_ = _id(self.namespace, wanted)
        own = self.decisions.get(id_) == (wanted.epoch, wanted.decided_ms)
        return self.orders[id_] if own else None

    def load(self, shards: Collection[int]) -> list[Found]:
        found = []
        for bot in BOTS:
            if bot.shard in shards:
                sequence, position = self.unclosed(bot.id) or (self.last_sequence(bot.id), None)
                found.append(
                    Found(
                        bot=bot,
                        sequence=sequence,
                        position=position,
                        attempts=self.exits(bot.id, sequence),
                        waits=self.unsettled(bot.id) is not None,
                    )
                )
        return found

    def to_ask_for(self, shards: Collection[int], *, now_ms: int) -> list[LiveOrder]:
        """What is unsettled, or was not found within the last day."""
        return [
            order
            for order in self.orders.values()
            if order.shard in shards
            and (
                order.status in UNSETTLED
                or (
                    order.status is OrderStatus.NOT_PLACED
                    and (order.settled_at_ms or 0) > now_ms - WATCHED_MS
                )
            )
        ]

    def settle(self, news: Settlement, owner: str, *, now_ms: int) -> Written | None:
        """Write news of an order; None: its shard is not the owner's."""
        order = self.orders.get(news.client_order_id)
        if order is None or not self.holds(order.shard, owner, now_ms):
            return None
        own_key = order.bot_id, order.position_sequence
        own = self.positions.get(own_key)
        late = own is None or own.status is PositionStatus.CLOSED
        new = {f.trade_id: f for f in news.fills if (order.pair, f.trade_id) not in self.fills}
        touched = {own_key}
        if new:
            home = self._home(order)
            touched.add(home)
            self.fills |= {(order.pair, id_): (home[1], fill) for id_, fill in new.items()}
        waiting = self.unsettled(order.bot_id)
        status = status_after(
            order.status,
            news.status,
            executed=news.executed,
            filled=sum((fill.quantity for fill in self.fills_of(order)), Decimal(0)),
            blocked=waiting is not None and waiting.client_order_id != order.client_order_id,
        )
        self._write(order, status, news, now_ms=now_ms)
        changed = bool(new) or status is not order.status
        if changed:
            for key in touched & self.positions.keys():
                self._follow(key, order)
        sequence = max(touched)[1]
        return Written(
            status=status,
            sequence=sequence,
            position=self.positions[order.bot_id, sequence],
            adopted=status is not order.status is OrderStatus.NOT_PLACED or bool(new and late),
            changed=changed,
        )

    def _write(
        self, order: LiveOrder, status: OrderStatus, news: Settlement, *, now_ms: int
    ) -> None:
        settled_ms = order.settled_at_ms
        if status is not order.status:
            settled_ms = None if status in UNSETTLED else now_ms
        self.orders[order.client_order_id] = replace(
            order,
            status=status,
            venue_order_id=news.venue_order_id or order.venue_order_id,
            settled_at_ms=settled_ms,
        )

    def _home(self, order: LiveOrder) -> Key:
        key = order.bot_id, order.position_sequence
        own, current = self.positions.get(key), self.unclosed(order.bot_id)
        mode = None if current is None else Mode.LIVE
        status = None if own is None else own.status
        home = home_of(order.leg, Mode.LIVE, own=status, current=mode)
        if home is Home.OWN:
            return key
        if home is Home.CURRENT:
            assert current is not None
            return order.bot_id, current[0]
        if own is not None:
            key = order.bot_id, self.last_sequence(order.bot_id) + 1
        empty = totals_of((), pair=order.pair)
        made = Position(status=new_home_status(order.leg, current=mode), version=0, totals=empty)
        self.positions[key] = made
        return key

    def _follow(self, key: Key, order: LiveOrder) -> None:
        """Recompute a position from all its fills."""
        before, waiting = self.positions[key], self.unsettled(key[0])
        totals = totals_of(self.fills_at(key), pair=order.pair)
        outcome = position_after(
            before.status,
            totals,
            waits_for=waiting.leg if waiting and waiting.position_sequence == key[1] else None,
            rules=LOTS,
            price=order.decided_price,
        )
        after = replace(before, status=outcome.status, totals=totals)
        if after != before:
            self.positions[key] = replace(after, version=before.version + 1)

    def fills_of(self, order: LiveOrder) -> list[Fill]:
        id_ = order.client_order_id
        return [fill for _, fill in self.fills.values() if fill.client_order_id == id_]

    def fills_at(self, key: Key) -> list[Fill]:
        pair = next(bot.pair for bot in BOTS if bot.id == key[0])
        every = self.fills.items()
        return [fill for (at, _), (sequence, fill) in every if (at, sequence) == (pair, key[1])]

    def unsettled(self, bot_id: int) -> LiveOrder | None:
        every = (o for o in self.orders.values() if o.bot_id == bot_id and o.status in UNSETTLED)
        return next(every, None)

    def unclosed(self, bot_id: int) -> tuple[int, Position] | None:
        for (bot, sequence), position in self.positions.items():
            if bot == bot_id and position.status in UNCLOSED:
                return sequence, position
        return None

    def last_sequence(self, bot_id: int) -> int:
        return max((sequence for bot, sequence in self.positions if bot == bot_id), default=0)

    def exits(self, bot_id: int, sequence: int) -> int:
        """How many exits a position had."""
        wanted = bot_id, sequence, Leg.EXIT
        return sum((o.bot_id, o.position_sequence, o.leg) == wanted for o in self.orders.values())


def _lease(shard: int, row: LeaseRow, owner: str) -> Lease:
    """As the database tells it; until when it counts its holder has to say."""
    return Lease(kind=LeaseKind.SHARD, number=shard, owner=owner, epoch=row.epoch, valid_until=0.0)


def _id(namespace: UUID, wanted: Proposal) -> str:
    return client_order_id(
        namespace,
        bot_id=wanted.bot.id,
        pair=wanted.bot.pair,
        position_sequence=wanted.sequence,
        leg=wanted.leg,
        attempt=wanted.attempt,
    )


def _order(namespace: UUID, wanted: Proposal, *, now_ms: int, send_by_ms: int) -> LiveOrder:
    return LiveOrder(
        client_order_id=_id(namespace, wanted),
        bot_id=wanted.bot.id,
        user_id=wanted.bot.id,
        shard=wanted.bot.shard,
        credential_id=wanted.bot.id,
        venue=wanted.bot.venue,
        pair=wanted.bot.pair,
        position_sequence=wanted.sequence,
        leg=wanted.leg,
        attempt=wanted.attempt,
        quantity=wanted.quantity,
        limit_price=Decimal(100),
        decided_price=Decimal(100),
        status=OrderStatus.COMMITTED,
        venue_order_id=None,
        market_time_ms=now_ms,
        committed_at_ms=now_ms,
        send_by_ms=send_by_ms,
    )
