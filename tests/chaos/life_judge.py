"""What must hold after every step of an order's life: plain sums, none of the fleet's rules."""

from collections import Counter, defaultdict
from collections.abc import Iterator
from decimal import Decimal

from shared.orders import Fill
from tests.chaos.life import World
from tests.chaos.life_venue import ENDED, VenueOrder

UNSETTLED = frozenset({"committed", "open", "unknown"})


def violations(world: World) -> Iterator[str]:
    """Everything that is wrong now."""
    yield from _orders(world)
    yield from _settled(world)
    yield from _pairs(world)
    yield from _positions(world)
    yield from _leases(world)


def left_over(world: World) -> Iterator[str]:
    """What a drained world has not brought to its end."""
    for order in world.books.orders.values():
        if order.status in UNSETTLED:
            yield f"{_name(order)} is still {order.status}"
        if order.status == "not_placed" and world.venue.of(order.client_order_id):
            yield f"{_name(order)} showed up late, and was not adopted"
    for taken in world.venue.orders:
        if taken.status not in ENDED:
            yield f"{_name(taken.order)} is still open at the venue"
    for key, position in world.books.positions.items():
        if position.status in ("opening", "closing"):
            yield f"position {key} is still {position.status}"


def _orders(world: World) -> Iterator[str]:
    accepted = Counter(taken.order.client_order_id for taken in world.venue.orders)
    for id_, times in accepted.items():
        if times > 1:
            yield f"{id_} was accepted {times} times"
        if id_ not in world.books.orders:
            yield f"{id_} was accepted, and nobody knows of it"
    for taken in world.venue.orders:
        if taken.accepted_ms > taken.order.send_by_ms:
            yield f"{_name(taken.order)} was accepted after its time"
    for order, epoch, lease in world.committed:
        if (lease.epoch, lease.expires_ms > order.committed_at_ms) != (epoch, True):
            yield f"{_name(order)} was committed under epoch {epoch} while {lease} stood"


def _settled(world: World) -> Iterator[str]:
    """An order that has ended is as it ended at the venue."""
    ours: defaultdict[str, dict[str, Fill]] = defaultdict(dict)
    for (_, trade_id), (_, fill) in world.books.fills.items():
        ours[fill.client_order_id][trade_id] = fill
    for id_, order in world.books.orders.items():
        taken = world.venue.of(id_)
        theirs = {fill.trade_id: fill for each in taken for fill in each.trades}
        if ours[id_].items() - theirs.items():
            yield f"{_name(order)} has fills that the venue knows nothing of"
        if order.status in UNSETTLED:
            continue
        if order.status == "not_placed":
            if any(not each.hidden_too_long for each in taken):
                yield f"{_name(order)} was given up, and the venue has it"
        elif order.status == "rejected" or order.venue_order_id is None:
            if taken:
                yield f"{_name(order)} is {order.status}, and the venue has it"
        elif not taken or not _same(order.status, taken[0]) or ours[id_] != theirs:
            yield f"{_name(order)} is {order.status}, at the venue {taken}"


def _same(status: str, taken: VenueOrder) -> bool:
    return status == taken.status and taken.status in ENDED


def _pairs(world: World) -> Iterator[str]:
    waiting = Counter(o.bot_id for o in world.books.orders.values() if o.status in UNSETTLED)
    open_ = Counter(key[0] for key, p in world.books.positions.items() if p.status != "closed")
    for bot, count in (waiting | open_).items():
        if count > 1:
            yield f"bot {bot} has {waiting[bot]} unsettled orders, {open_[bot]} open positions"
    at_venue = Counter(
        taken.order.bot_id for taken in world.venue.orders if taken.status not in ENDED
    )
    for bot, count in at_venue.items():
        excused = any(taken.hidden_too_long for taken in world.venue.orders)
        if count > 1 and not excused:
            yield f"bot {bot} has {count} orders open at the venue at once"


def _positions(world: World) -> Iterator[str]:
    sums: dict[tuple[int, int], list[Decimal]] = defaultdict(lambda: [Decimal(0)] * 5)
    bots = {order.client_order_id: order.bot_id for order in world.books.orders.values()}
    for (pair, _), (sequence, fill) in world.books.fills.items():
        sign = 0 if fill.leg == "entry" else 2
        total = sums[bots[fill.client_order_id], sequence]
        total[sign] += fill.quantity
        total[sign + 1] += fill.quantity * fill.price
        total[4] += fill.fee if pair.startswith(f"{fill.fee_currency}/") else 0
    excused = any(taken.hidden_too_long for taken in world.venue.orders)
    for key, position in world.books.positions.items():
        t, (bought, cost, sold, proceeds, coin_fees) = position.totals, sums[key]
        if (t.entry_quantity, t.entry_cost, t.exit_quantity, t.exit_proceeds, t.fee_quantity) != (
            *(bought, cost, sold, proceeds, coin_fees),
        ):
            yield f"position {key} is {t}, its fills say {sums[key]}"
        if bought - sold - coin_fees < 0 and not excused:
            yield f"position {key} has sold more than it bought"
        if position.status == "closed" and bought - sold - coin_fees >= 1:
            yield f"position {key} is closed, and somebody could sell {bought - sold - coin_fees}"
    for key in sums.keys() - world.books.positions.keys():
        yield f"fills of position {key}, which does not exist"


def _leases(world: World) -> Iterator[str]:
    """Who believes to hold a shard does: the database says so."""
    for process in world.processes:
        if process.owner in world.thought_dead:
            continue
        for lease in process.holdings.leases:
            epoch = process.holdings.epoch(lease.number, world.now_ms / 1000)
            if epoch is not None and not world.books.holds(
                lease.number, process.owner, world.now_ms, epoch=epoch
            ):
                yield f"{process.owner} believes to hold shard {lease.number}"


def _name(order: object) -> str:
    names = ("client_order_id", "bot_id", "position_sequence", "leg", "attempt")
    return "order " + " ".join(str(getattr(order, name)) for name in names)
