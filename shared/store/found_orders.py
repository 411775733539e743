"""Orders that a venue has and a restored database has not: where they belong, and writing them."""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime, timedelta
from decimal import Decimal
from typing import Final

from sqlalchemy import and_, func, insert, or_, select, text, update

from shared.clock import datetime_of
from shared.errors import Refused
from shared.money import exact
from shared.orders import UNCLOSED, Leg, LiveOrder, Mode, OrderStatus, PositionStatus
from shared.recovery import KnownPair, Place
from shared.risk_profile import DEFAULTS
from shared.store import live_orders, trading
from shared.store.engine import Transaction
from shared.store.recovery import Debt
from shared.store.tables import (
    UNCLOSED_POSITION,
    UNSETTLED_ORDER,
    bot_pairs,
    bots,
    orders,
    positions,
)
from shared.venues import base_of

FOUND: Final = "found_after_restore"
"""The reason of an order that the restored database did not know."""

_ANCHORS: Final = 5
_ANCHORS_WITHIN: Final = timedelta(hours=24)
_WATCHED_SECS: Final = 24 * 3600.0
_SENT_WITHIN: Final = timedelta(seconds=3)


@dataclass(frozen=True, slots=True, kw_only=True)
class RestoredPair:
    """A bot's pair as it was restored. `live` is whether it may have traded for real: its bot
    is live, or its last position was."""

    known: KnownPair
    user_id: int
    shard: int
    venue: str
    live: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class FoundOrder:
    """An order that the venue has and the restored database has not.

    `limit_price` None is an order at market; `opened_at_ms` is the venue's clock.
    """

    client_order_id: str
    pair: RestoredPair
    place: Place
    credential_id: int
    quantity: Decimal
    limit_price: Decimal | None
    average_price: Decimal
    opened_at_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownOrder:
    """What is known of an order; `position_closed` is whether its own position is."""

    filled_quantity: Decimal
    position_closed: bool


async def pairs_of(tx: Transaction, debt: Debt) -> list[RestoredPair]:
    """Every pair of every bot that may have traded on the account, as it was restored."""
    last = (
        select(func.max(positions.c.sequence))
        .where(
            positions.c.bot_id == bot_pairs.c.bot_id,
            positions.c.pair == bot_pairs.c.pair,
            positions.c.created_at <= debt.begun_at,
        )
        .correlate(bot_pairs)
        .scalar_subquery()
    )
    exits = (
        select(func.count())
        .where(
            orders.c.bot_id == positions.c.bot_id,
            orders.c.pair == positions.c.pair,
            orders.c.position_sequence == positions.c.sequence,
            orders.c.leg == Leg.EXIT,
            orders.c.committed_at <= debt.begun_at,
        )
        .correlate(positions)
        .scalar_subquery()
    )
    query = (
        select(
            *(bots.c[name] for name in ("user_id", "shard", "venue", "risk_profile")),
            bots.c.mode.label("bot_mode"),
            bot_pairs.c.bot_id,
            bot_pairs.c.pair,
            *(positions.c[name] for name in ("sequence", "mode", "status", "closed_at")),
            positions.c.entry_quantity,
            exits.label("exit_attempts"),
        )
        .join_from(bots, bot_pairs, bot_pairs.c.bot_id == bots.c.id)
        .outerjoin(
            positions,
            and_(
                positions.c.bot_id == bot_pairs.c.bot_id,
                positions.c.pair == bot_pairs.c.pair,
                positions.c.sequence == last,
            ),
        )
        .where(
            bots.c.user_id == debt.user_id,
            bots.c.venue == debt.venue,
            bots.c.removed_at.is_(None),
        )
        .order_by(bots.c.id, bot_pairs.c.pair)
    )
    found = []
    for row in await tx.execute(query):
        was_live = row.mode == Mode.LIVE
        unclosed = row.status in UNCLOSED or (row.closed_at or debt.begun_at) > debt.begun_at
        # What never bought anything was never sold.
        unclosed &= row.status == PositionStatus.OPENING or bool(row.entry_quantity)
        known = KnownPair(
            bot_id=row.bot_id,
            pair=row.pair,
            sequence=row.sequence or 0,
            unclosed=was_live and unclosed,
            exit_attempts=row.exit_attempts or 0,
            retry_cooldown_secs=_retry_cooldown_secs(row.risk_profile),
        )
        found.append(
            RestoredPair(
                known=known,
                user_id=row.user_id,
                shard=row.shard,
                venue=row.venue,
                live=was_live or row.bot_mode == Mode.LIVE,
            )
        )
    return found


async def known_orders(
    tx: Transaction, bot_ids: Collection[int], *, since: datetime
) -> dict[str, KnownOrder]:
    """The live orders of these bots that were written down since then, by client order id."""
    query = (
        select(orders.c.client_order_id, orders.c.filled_quantity, positions.c.status)
        .outerjoin_from(
            orders,
            positions,
            and_(
                positions.c.bot_id == orders.c.bot_id,
                positions.c.pair == orders.c.pair,
                positions.c.sequence == orders.c.position_sequence,
            ),
        )
        .where(
            orders.c.bot_id.in_(sorted(bot_ids)),
            orders.c.mode == Mode.LIVE,
            orders.c.committed_at >= since,
        )
    )
    return {
        row.client_order_id: KnownOrder(
            filled_quantity=row.filled_quantity,
            position_closed=row.status == PositionStatus.CLOSED,
        )
        for row in await tx.execute(query)
    }


async def newest_at_venue(
    tx: Transaction, *, user_id: int, venue: str, before: datetime
) -> dict[str, datetime]:
    """When the newest orders that the venue has for certain were committed, by client order id.

    Of the day before `before`, and a few only: whoever lists the account's orders must see them.
    """
    query = (
        select(orders.c.client_order_id, orders.c.committed_at)
        .where(
            orders.c.user_id == user_id,
            orders.c.venue == venue,
            orders.c.mode == Mode.LIVE,
            orders.c.venue_order_id.is_not(None),
            orders.c.committed_at <= before,
            orders.c.committed_at > before - _ANCHORS_WITHIN,
        )
        .order_by(orders.c.committed_at.desc())
        .limit(_ANCHORS)
    )
    return {row.client_order_id: row.committed_at for row in await tx.execute(query)}


async def without_outcome(tx: Transaction, *, user_id: int, venue: str) -> list[LiveOrder]:
    """A user's live orders at a venue that are unsettled, or watched since they were not found."""
    shards = list(await tx.scalars(select(bots.c.shard).where(bots.c.user_id == user_id).limit(1)))
    found = await live_orders.unsettled(tx, shards)
    found += await live_orders.watched(tx, shards, for_secs=_WATCHED_SECS)
    return [order for order in found if order.user_id == user_id and order.venue == venue]


async def held_by_positions(tx: Transaction, *, user_id: int, venue: str) -> dict[str, Decimal]:
    """What a user's unclosed live positions at a venue hold, by coin."""
    names = ("pair", "entry_quantity", "exit_quantity", "fee_quantity")
    query = select(*(positions.c[name] for name in names)).where(
        positions.c.user_id == user_id,
        positions.c.venue == venue,
        positions.c.mode == Mode.LIVE,
        text(UNCLOSED_POSITION),
    )
    held: defaultdict[str, Decimal] = defaultdict(Decimal)
    with exact():
        for row in await tx.execute(query):
            held[base_of(row.pair)] += row.entry_quantity - row.exit_quantity - row.fee_quantity
    return dict(held)


async def insert_found(tx: Transaction, found: FoundOrder, *, owner: str) -> str | None:
    """Write an order and its position as unsettled, for a settlement in the same transaction.

    None where that is done, or was before. Else why it cannot be: nothing is changed then.
    Raises `Refused` if `owner` does not hold the shard.
    """
    pair, place = found.pair, found.place
    epochs = await trading.hold_leases(tx, {pair.shard}, owner)
    if pair.shard not in epochs:
        raise Refused(f"shard {pair.shard} was taken by somebody else: run recover again")
    own = orders.c.client_order_id == found.client_order_id
    if await tx.scalar(select(orders.c.id).where(own)) is not None:
        return None
    pairs = orders.c.bot_id == pair.known.bot_id, orders.c.pair == pair.known.pair
    waits_for = await tx.scalar(
        select(orders.c.client_order_id).where(*pairs, text(UNSETTLED_ORDER))
    )
    if waits_for is not None:
        return f"order {waits_for} of the same pair is not settled yet"
    problem = await (_open if place.leg is Leg.ENTRY else _reopen)(tx, found)
    if problem is None:
        price = found.limit_price or found.average_price or await _average_entry(tx, found)
        row = _order(found, decided_price=price, lease_epoch=epochs[pair.shard])
        await tx.execute(insert(orders).values(row))
    return problem


async def _open(tx: Transaction, found: FoundOrder) -> str | None:
    """Add the position of an entry."""
    known, sequence = found.pair.known, found.place.sequence
    own = positions.c.bot_id == known.bot_id, positions.c.pair == known.pair
    taken = or_(text(UNCLOSED_POSITION), positions.c.sequence == sequence)
    query = select(positions.c.id, positions.c.sequence, positions.c.status).where(*own, taken)
    row = (await tx.execute(query.order_by(positions.c.id).with_for_update())).first()
    if row is not None:
        return (
            f"position {row.id} is in its place"
            if row.sequence == sequence
            else f"position {row.id} of the same pair is still {row.status}: settle it first "
            f"(`botfleet positions close {row.id}` or `write-off`)"
        )
    await tx.execute(
        insert(positions).values(
            bot_id=known.bot_id,
            user_id=found.pair.user_id,
            credential_id=found.credential_id,
            venue=found.pair.venue,
            pair=known.pair,
            sequence=sequence,
            mode=Mode.LIVE,
            status=PositionStatus.OPENING,
            entry_reason=FOUND,
            entered_at=datetime_of(found.opened_at_ms),
        )
    )
    return None


async def _reopen(tx: Transaction, found: FoundOrder) -> str | None:
    """Let the position of an exit be closing."""
    known, sequence = found.pair.known, found.place.sequence
    closing = await tx.execute(
        update(positions)
        .where(
            positions.c.bot_id == known.bot_id,
            positions.c.pair == known.pair,
            positions.c.sequence == sequence,
            positions.c.mode == Mode.LIVE,
            positions.c.status == PositionStatus.OPEN,
        )
        .values(status=PositionStatus.CLOSING, version=positions.c.version + 1)
    )
    if closing.rowcount:
        return None
    return f"its position, number {sequence} on {known.pair} of bot {known.bot_id}, is not open"


async def _average_entry(tx: Transaction, found: FoundOrder) -> Decimal:
    """What the position was bought at: of an order at market that did not trade, nothing else
    tells what its coins are worth."""
    known = found.pair.known
    row = (
        await tx.execute(
            select(positions.c.entry_cost, positions.c.entry_quantity).where(
                positions.c.bot_id == known.bot_id,
                positions.c.pair == known.pair,
                positions.c.sequence == found.place.sequence,
            )
        )
    ).one()
    bought: Decimal = row.entry_quantity
    return row.entry_cost / bought if bought else Decimal(0)


def _order(found: FoundOrder, *, decided_price: Decimal, lease_epoch: int) -> dict[str, object]:
    pair, place = found.pair, found.place
    opened_at = datetime_of(found.opened_at_ms)
    times = dict.fromkeys(("market_time", "observed_at", "received_at", "decided_at"), opened_at)
    return {
        "client_order_id": found.client_order_id,
        "bot_id": pair.known.bot_id,
        "user_id": pair.user_id,
        "shard": pair.shard,
        "credential_id": found.credential_id,
        "mode": Mode.LIVE,
        "venue": pair.venue,
        "pair": pair.known.pair,
        "position_sequence": place.sequence,
        "leg": place.leg,
        "attempt": place.attempt,
        "side": place.leg.side,
        "quantity": found.quantity,
        "decided_price": decided_price,
        "limit_price": found.limit_price,
        "status": OrderStatus.UNKNOWN,
        "reason": FOUND,
        "facts": {"adopted": "by recover: the restored database did not know it"},
        "lease_epoch": lease_epoch,
        "send_by": opened_at + _SENT_WITHIN,
        **times,
    }


def _retry_cooldown_secs(profile: object) -> float:
    default = DEFAULTS["retry_cooldown_secs"]
    stored = profile.get("retry_cooldown_secs", default) if isinstance(profile, dict) else default
    return float(stored) if isinstance(stored, int | float) else default
