"""What became of orders at their venues, and what that makes of their positions."""

from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime
from decimal import Decimal

from shared.clock import datetime_of, ms_of
from shared.orders import TRANSITIONS, Fill, Leg, Mode, OrderFacts, OrderStatus
from shared.settlement_rules import Settlement, status_after
from shared.store import order_events, results, trading
from shared.store import settlement_statements as sql
from shared.store.bulk import dialect_of
from shared.store.engine import Transaction
from shared.store.order_events import OrderNews, Traded, traded
from shared.store.position_changes import PositionKey, fill_of
from shared.store.settled_positions import Place, SettledPositions, own_key
from shared.store.trading import PositionState
from shared.store.trading_statements import NEW_FILLS, ORDER_IDS, SHARDS

__all__ = ["Settled", "Settlement", "settle"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Settled:
    """An order and its position as a settlement left them.

    `sequence` is that of the position which the fills went to: a later one than the order's for
    a late fill. `adopted`: it was thought not to exist, or its fill came late. `changed` false:
    all of it was known before, which also holds for news that is written again after a COMMIT
    of unknown outcome.
    """

    status: OrderStatus
    sequence: int
    position: PositionState
    adopted: bool = False
    changed: bool = True


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """An order as it is stored and locked; `now` is the database's clock since then."""

    client_order_id: str
    bot_id: int
    user_id: int
    shard: int
    mode: Mode
    venue: str
    credential_id: int
    pair: str
    position_sequence: int
    leg: Leg
    attempt: int
    quantity: Decimal
    limit_price: Decimal | None
    decided_price: Decimal
    reason: str
    market_time_ms: int
    status: OrderStatus
    venue_order_id: str | None
    detail: str | None
    sent_at: datetime | None
    now: datetime


@dataclass(slots=True, kw_only=True)
class _News:
    """One settlement with what is found out on the way."""

    order: _Order
    told: Settlement
    fills: dict[str, Fill]
    """What is recorded of the order, by trade id."""
    sequence: int
    """That of the position which the last recorded fill went to."""
    status: OrderStatus
    place: Place | None = None
    recorded: list[Fill] = field(default_factory=list)

    @property
    def new_fills(self) -> dict[str, Fill]:
        return {f.trade_id: f for f in self.told.fills if f.trade_id not in self.fills}

    @property
    def adopted(self) -> bool:
        was_not_placed = self.order.status is OrderStatus.NOT_PLACED
        if was_not_placed and self.status is not OrderStatus.NOT_PLACED:
            return True
        return bool(self.recorded and self.place and self.place.late)

    @property
    def traded_or_moved(self) -> bool:
        return bool(self.recorded) or self.status is not self.order.status


async def settle(
    tx: Transaction, settlements: Sequence[Settlement], *, owner: str
) -> dict[str, Settled]:
    """Write what became of orders, with their fills, positions, results and events.

    By client order id; orders of shards that `owner` does not hold now are left alone and
    absent, as are unknown ones. News may come in any order and again: fills count once each,
    positions are what all their fills add up to, and a status moves only as
    `shared.orders.TRANSITIONS` allows (an order that is only committed counts as unknown).
    Raises `StoreUnavailable` as any transaction, and where a late fill needs a position while
    one is being opened: try again. Raises `InvalidRow` if the data of any row is refused.
    """
    orders = await _lock_orders(tx, {told.client_order_id for told in settlements}, owner)
    if not orders:
        return {}
    positions = SettledPositions()
    await positions.lock(tx, orders.values())
    done: dict[str, list[_News]] = {}
    for batch in _one_of_each(told for told in settlements if told.client_order_id in orders):
        for news in await _settle(tx, batch, orders, positions):
            id_ = news.order.client_order_id
            done.setdefault(id_, []).append(news)
            orders[id_] = _as_written(news)
    return {id_: _settled(every, positions) for id_, every in done.items()}


async def _settle(
    tx: Transaction,
    batch: Sequence[Settlement],
    orders: Mapping[str, _Order],
    positions: SettledPositions,
) -> list[_News]:
    """Settle each order once; the results are written in the order of the news."""
    batch_of_news = await _read_news(tx, batch, orders)
    await _record_fills(tx, batch_of_news, positions)
    # One UPDATE writes them in any order: the index must have room for each before.
    blocked = {n.order.client_order_id for n in batch_of_news if positions.is_blocked(n.order)}
    for news in batch_of_news:
        id_ = news.order.client_order_id
        news.status = status_after(
            news.order.status,
            news.told.status,
            executed=news.told.executed,
            filled=traded(news.fills.values()).quantity,
            blocked=id_ in blocked or positions.is_blocked(news.order),
        )
        positions.order_is(news.order, news.status)
    await _write_orders(tx, [news for news in batch_of_news if _is_news(news)])
    moved = [news for news in batch_of_news if news.traded_or_moved]
    booked = await positions.follow(tx, _touched(moved, positions)) if moved else {}
    by_order = {result.closed_by.client_order_id: result for result in booked.values()}
    await order_events.announce(
        tx,
        [
            OrderNews(
                order=news.order,
                status=news.status,
                traded=traded(news.fills.values()),
                realised_pnl=result.realised_pnl if result else None,
                at=news.order.now,
            )
            for news in moved
            for result in (by_order.get(news.order.client_order_id),)
        ],
    )
    await results.book(tx, list(booked.values()))
    return batch_of_news


async def _lock_orders(tx: Transaction, ids: Collection[str], owner: str) -> dict[str, _Order]:
    """Lock these orders under the leases of their shards that `owner` holds."""
    dialect = dialect_of(tx)
    asked = ORDER_IDS.parameters((id_,) for id_ in ids)
    shards = set(await tx.scalars(sql.read_shards(dialect), asked))
    held = await trading.hold_leases(tx, shards, owner) if shards else {}
    if not held:
        return {}
    parameters = {**asked, **SHARDS.parameters((shard,) for shard in held)}
    return {
        row.client_order_id: _Order(
            client_order_id=row.client_order_id,
            bot_id=row.bot_id,
            user_id=row.user_id,
            shard=row.shard,
            mode=Mode(row.mode),
            venue=row.venue,
            credential_id=row.credential_id,
            pair=row.pair,
            position_sequence=row.position_sequence,
            leg=Leg(row.leg),
            attempt=row.attempt,
            quantity=row.quantity,
            limit_price=row.limit_price,
            decided_price=row.decided_price,
            reason=row.reason,
            market_time_ms=ms_of(row.market_time),
            status=OrderStatus(row.status),
            venue_order_id=row.venue_order_id,
            detail=row.detail,
            sent_at=row.sent_at,
            now=row.now,
        )
        for row in await tx.execute(sql.lock_orders(dialect), parameters)
    }


def _one_of_each(settlements: Iterable[Settlement]) -> Iterator[list[Settlement]]:
    """The news in batches with one of each order, in their order."""
    waiting = list(settlements)
    while waiting:
        now: dict[str, Settlement] = {}
        waiting = [t for t in waiting if now.setdefault(t.client_order_id, t) is not t]
        yield list(now.values())


async def _read_news(
    tx: Transaction, batch: Sequence[Settlement], orders: Mapping[str, _Order]
) -> list[_News]:
    by_id = {}
    for told in batch:
        order = orders[told.client_order_id]
        by_id[told.client_order_id] = _News(
            order=order,
            told=told,
            fills={},
            sequence=order.position_sequence,
            status=order.status,
        )
    ids = ORDER_IDS.parameters((id_,) for id_ in by_id)
    for row in await tx.execute(sql.read_order_fills(dialect_of(tx)), ids):
        news = by_id[row.client_order_id]
        news.fills[row.trade_id] = fill_of(row)
        news.sequence = max(news.sequence, row.position_sequence)
    return list(by_id.values())


async def _record_fills(
    tx: Transaction, batch: Sequence[_News], positions: SettledPositions
) -> None:
    """Store the fills that are new; a trade that another order has already is none of ours."""
    traded_now = [news for news in batch if news.new_fills]
    if not traded_now:
        return
    places = await positions.place(tx, [news.order for news in traded_now])
    rows = []
    for news in traded_now:
        news.place = places[news.order.client_order_id]
        rows += [_new_fill(news.order, fill, news.place.key) for fill in news.new_fills.values()]
    stored = await tx.execute(sql.record_fills(dialect_of(tx)), NEW_FILLS.parameters(rows))
    known = {(row.client_order_id, row.trade_id) for row in stored}
    for news in traded_now:
        for trade_id, fill in news.new_fills.items():
            if (news.order.client_order_id, trade_id) in known:
                news.recorded.append(fill)
        news.fills |= {fill.trade_id: fill for fill in news.recorded}


def _new_fill(order: _Order, fill: Fill, place: PositionKey) -> tuple[object, ...]:
    return (
        order.venue,
        order.credential_id,
        order.pair,
        fill.trade_id,
        order.client_order_id,
        order.bot_id,
        place[2],
        order.leg,
        fill.quantity,
        fill.price,
        fill.fee,
        fill.fee_currency,
        datetime_of(fill.at_ms),
    )


def _touched(moved: Sequence[_News], positions: SettledPositions) -> dict[PositionKey, OrderFacts]:
    """The positions to recompute, each with the order to blame: an exit, if there is one."""
    touched: dict[PositionKey, OrderFacts] = {}
    for news in moved:
        keys = {own_key(news.order)} if positions.exists(own_key(news.order)) else set()
        if news.recorded and news.place is not None:
            keys.add(news.place.key)
        for key in keys:
            if key not in touched or news.order.leg is Leg.EXIT:
                touched[key] = news.order
    return touched


def _is_news(news: _News) -> bool:
    return news.traded_or_moved or _as_written(news) != news.order


def _as_written(news: _News) -> _Order:
    """The order with the news in it. What is said of one that has ended is not news."""
    order, told = news.order, news.told
    ended = not TRANSITIONS[order.status]
    sent_at = order.sent_at
    if sent_at is None and told.sent_at_ms is not None:
        sent_at = datetime_of(told.sent_at_ms)
    return replace(
        order,
        status=news.status,
        venue_order_id=told.venue_order_id or order.venue_order_id,
        detail=order.detail if ended or told.detail is None else told.detail,
        sent_at=sent_at,
    )


async def _write_orders(tx: Transaction, changed: Sequence[_News]) -> None:
    if not changed:
        return
    rows = []
    for news in changed:
        order, summed = _as_written(news), traded(news.fills.values())
        rows.append(_changed_order(order, summed))
    await tx.execute(sql.update_orders(dialect_of(tx)), sql.CHANGED_ORDERS.parameters(rows))


def _changed_order(order: _Order, summed: Traded) -> tuple[object, ...]:
    return (
        order.client_order_id,
        order.status,
        summed.quantity,
        summed.average_price,
        summed.fee,
        summed.fee_currency,
        order.venue_order_id,
        order.detail,
        order.sent_at,
    )


def _settled(every: Sequence[_News], positions: SettledPositions) -> Settled:
    """What all the news of one order led to."""
    last = every[-1]
    sequence = last.place.key[2] if last.recorded and last.place else last.sequence
    return Settled(
        status=last.status,
        sequence=sequence,
        position=positions.state((last.order.bot_id, last.order.pair, sequence)),
        adopted=any(news.adopted for news in every),
        changed=any(_is_news(news) for news in every),
    )
