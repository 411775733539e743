"""Judges a fleet by what it left in its database: plain SQL, plain rules, none of the fleet's code.

`read` fetches the rows of a drained fleet, `violations` says what they prove against it. Each
rule takes rows and yields what breaks it, so that a test can hand it broken rows.
"""

import json
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from decimal import Context, Decimal, localcontext
from itertools import pairwise
from typing import Any, Final

import asyncpg  # type: ignore[import-untyped]

Row = Mapping[str, Any]

TABLES: Final = ("lease_grants", "orders", "positions", "fills", "outbox", "bots")
UNSETTLED: Final = ("committed", "open", "unknown")
EXACT: Final = Context(prec=200)


@dataclass(frozen=True, slots=True, kw_only=True)
class Lost:
    """A worker was killed or paused at this moment, without a chance to give anything back."""

    worker: str
    at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Outage:
    """The database was away: nothing can be taken meanwhile."""

    since: datetime
    until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Promise:
    """How long a shard may be served by nobody, and what happened that counts."""

    lease_ttl_secs: float
    poll_secs: float
    handover_secs: float = 1.0
    margin_secs: float = 0.0
    lost: Sequence[Lost] = ()
    outages: Sequence[Outage] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """The rows of `TABLES`, as the database has them."""

    lease_grants: Sequence[Row] = ()
    orders: Sequence[Row] = ()
    positions: Sequence[Row] = ()
    fills: Sequence[Row] = ()
    outbox: Sequence[Row] = ()
    bots: Sequence[Row] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """A promise that was broken, with the rows that show it."""

    rule: str
    text: str
    rows: Sequence[Row] = field(default=(), repr=False)

    def __str__(self) -> str:
        shown = "".join(f"\n    {dict(row)}" for row in self.rows)
        return f"{self.rule}: {self.text}{shown}"


Found = Iterator[tuple[str, Sequence[Row]]]


async def read(database_url: str) -> History:
    """What a fleet on PostgreSQL left behind."""
    connection = await asyncpg.connect(database_url)
    try:
        await connection.set_type_codec(
            "json", encoder=json.dumps, decoder=json.loads, schema="pg_catalog"
        )
        rows = {
            table: [dict(row) for row in await connection.fetch(f"SELECT * FROM {table}")]
            for table in TABLES
        }
    finally:
        await connection.close()
    return History(**rows)


def violations(history: History, promise: Promise) -> list[Violation]:
    """Everything that a drained fleet broke, rule by rule."""
    found = [
        Violation(rule=rule.__name__, text=text, rows=rows)
        for rule in RULES
        for text, rows in rule(history)
    ]
    late = served_again_in_time(history, promise)
    return found + [
        Violation(rule=served_again_in_time.__name__, text=text, rows=rows) for text, rows in late
    ]


def unfair(shares: Mapping[str, int], shard_count: int) -> str | None:
    """What is wrong with the shares of all living workers once things have settled."""
    if sum(shares.values()) != shard_count:
        return f"{sum(shares.values())} of {shard_count} shards are held: {dict(shares)}"
    if max(shares.values()) - min(shares.values()) > 1:
        return f"shares differ by more than one shard: {dict(shares)}"
    return None


def no_shard_was_held_twice(history: History) -> Found:
    for grants in grants_by_lease(history).values():
        for earlier, later in pairwise(grants):
            until = earlier["granted_until"]
            if until is None or later["granted_from"] < until:
                yield "granted again before the grant before it ended", (earlier, later)


def every_epoch_is_one_above_the_last(history: History) -> Found:
    for lease, grants in grants_by_lease(history).items():
        epochs = [grant["epoch"] for grant in grants]
        if epochs != list(range(1, len(epochs) + 1)):
            yield f"{lease} had the epochs {epochs}", grants


def every_grant_ended_after_it_began(history: History) -> Found:
    for grant in history.lease_grants:
        until = grant["granted_until"]
        if until is None or grant["ended_why"] is None:
            yield "still granted after every process has ended", (grant,)
        elif until < grant["granted_from"]:
            yield "ended before it began", (grant,)


def served_again_in_time(history: History, promise: Promise) -> Found:
    """A released shard within the handover time, a lost one within lease time and poll.

    The lease time of a lost one counts from when its holder was lost. One that was lost for no
    reason that we know has been unserved for longer than anybody promised, unless the database
    was away.
    """
    for grants in shard_grants(history).values():
        for earlier, later in pairwise(grants):
            if earlier["granted_until"] is None:
                continue  # another rule's
            due = _due(earlier, later, promise) + timedelta(seconds=promise.margin_secs)
            if later["granted_from"] > due:
                late_secs = (later["granted_from"] - due).total_seconds()
                yield f"served again {late_secs:.3f} s too late", (earlier, later)


def every_order_was_committed_under_the_grant_of_its_time(history: History) -> Found:
    by_shard = shard_grants(history)
    for order in history.orders:
        grants = by_shard.get(order["shard"], [])
        own = [grant for grant in grants if grant["epoch"] == order["lease_epoch"]]
        if not own or order["committed_at"] < own[0]["granted_from"]:
            yield "committed before, or without, the grant of its epoch", (order, *own)
        superseding = [
            grant
            for grant in grants
            if grant["epoch"] > order["lease_epoch"]
            and grant["granted_from"] <= order["committed_at"]
        ]
        if superseding:
            yield "committed under a superseded epoch", (order, *own, superseding[0])


def no_position_was_opened_twice(history: History) -> Found:
    for of, positions in _grouped(history.positions, "bot_id", "pair").items():
        in_order = sorted(positions, key=lambda position: position["sequence"])
        sequences = [position["sequence"] for position in in_order]
        # An entry that the database refused uses up its number: gaps are no harm.
        if len(set(sequences)) < len(sequences):
            yield f"{of} has the sequences {sequences}", in_order
        for earlier, later in pairwise(in_order):
            if earlier["closed_at"] is None or later["created_at"] < earlier["closed_at"]:
                yield "opened while the one before it was open", (earlier, later)


def every_position_was_bought_once_and_sold_once(history: History) -> Found:
    known = {_position(position): position for position in history.positions}
    filled = Counter(
        (*_position_of(order), order["leg"])
        for order in history.orders
        if order["status"] == "filled"
    )
    for key, position in known.items():
        legs = {leg: filled[*key, leg] for leg in ("entry", "exit")}
        if legs != {"entry": 1, "exit": int(position["status"] == "closed")}:
            yield f"{position['status']}, with filled orders {legs}", (position,)
    for order in history.orders:
        if _position_of(order) not in known:
            yield "an order of no position", (order,)


def every_order_is_settled_and_its_times_are_in_order(history: History) -> Found:
    stages = ("observed_at", "received_at", "decided_at", "committed_at", "settled_at")
    for order in history.orders:
        times = [order[stage] for stage in stages]
        if order["status"] in UNSETTLED or None in times:
            yield f"not settled: {order['status']}", (order,)
        elif times != sorted(times):
            yield "its times are out of order", (order,)


def no_entry_was_decided_on_a_stale_tick(history: History) -> Found:
    for order in history.orders:
        if order["leg"] == "entry":
            age = order["decided_at"] - order["observed_at"]
            if age.total_seconds() > order["facts"]["thresholds"]["max_tick_age_secs"]:
                yield f"decided on a tick that was {age} old", (order,)


def fills_explain_every_order_and_position(history: History) -> Found:
    by_order = _grouped(history.fills, "client_order_id")
    by_position = _grouped(history.fills, "bot_id", "pair", "position_sequence")
    with localcontext(EXACT):
        for order in history.orders:
            fills = by_order.get((order["client_order_id"],), [])
            if (order["filled_quantity"], order["fee"]) != (
                sum(fill["quantity"] for fill in fills),
                sum(fill["fee"] for fill in fills),
            ):
                yield "an order differs from its fills", (order, *fills)
        for position in history.positions:
            fills = by_position.pop(_position(position), [])
            if wrong := _differences(position, _sums(fills)):
                yield f"a position differs from its fills: {wrong}", (position, *fills)
    for fills in by_position.values():
        yield "fills of no position", fills


def every_bot_has_what_its_positions_brought(history: History) -> Found:
    by_bot = _grouped(history.positions, "bot_id")
    with localcontext(EXACT):
        for bot in history.bots:
            positions = by_bot.get((bot["id"],), [])
            brought = sum(
                (each["realised_pnl"] for each in positions if each["status"] == "closed"),
                Decimal(0),
            )
            if bot["realised"] != brought:
                yield f"realised {bot['realised']}, its positions {brought}", (bot, *positions)


def every_order_was_announced_and_every_event_sent(history: History) -> Found:
    for event in history.outbox:
        if event["sent_at"] is None:
            yield "never sent", (event,)
    announced = Counter(
        json.loads(event["body"])["client_order_id"]
        for event in history.outbox
        if event["exchange"] == "orders"
    )
    for order in history.orders:
        if announced[order["client_order_id"]] != 1:
            yield f"announced {announced[order['client_order_id']]} times", (order,)


RULES: Final[Sequence[Callable[[History], Found]]] = (
    no_shard_was_held_twice,
    every_epoch_is_one_above_the_last,
    every_grant_ended_after_it_began,
    every_order_was_committed_under_the_grant_of_its_time,
    no_position_was_opened_twice,
    every_position_was_bought_once_and_sold_once,
    every_order_is_settled_and_its_times_are_in_order,
    no_entry_was_decided_on_a_stale_tick,
    fills_explain_every_order_and_position,
    every_bot_has_what_its_positions_brought,
    every_order_was_announced_and_every_event_sent,
)


def grants_by_lease(history: History) -> dict[tuple[Hashable, ...], list[Row]]:
    """The grants of each (kind, number), by epoch."""
    grouped = _grouped(history.lease_grants, "kind", "number")
    return {
        lease: sorted(grants, key=lambda grant: int(grant["epoch"]))
        for lease, grants in grouped.items()
    }


def shard_grants(history: History) -> dict[int, list[Row]]:
    """The grants of each shard, by epoch."""
    return {
        grants[0]["number"]: grants
        for (kind, _), grants in grants_by_lease(history).items()
        if kind == "shard"
    }


def lost_within(grant: Row, lost: Iterable[Lost]) -> Lost | None:
    """How the holder of a grant was lost while it held it, if it was."""
    until = grant["granted_until"]
    for each in lost:
        held = grant["granted_from"] <= each.at and (until is None or each.at <= until)
        if held and str(grant["owner"]).startswith(f"{each.worker} ("):
            return each
    return None


def _due(earlier: Row, later: Row, promise: Promise) -> datetime:
    ended: datetime = earlier["granted_until"]
    poll, ttl = timedelta(seconds=promise.poll_secs), timedelta(seconds=promise.lease_ttl_secs)
    if loss := lost_within(earlier, promise.lost):
        due = loss.at + ttl + poll
    elif earlier["ended_why"] == "released":
        due = ended + timedelta(seconds=promise.handover_secs)
    else:
        due = ended + poll
    for outage in promise.outages:
        if outage.since - ttl <= later["granted_from"] and ended <= outage.until + ttl:
            due = max(due, outage.until + ttl + poll)
    return due


def _grouped(rows: Iterable[Row], *columns: str) -> dict[tuple[Any, ...], list[Row]]:
    groups: defaultdict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        groups[tuple(row[column] for column in columns)].append(row)
    return dict(groups)


def _position(position: Row) -> tuple[Any, ...]:
    return position["bot_id"], position["pair"], position["sequence"]


def _position_of(order: Row) -> tuple[Any, ...]:
    return order["bot_id"], order["pair"], order["position_sequence"]


def _sums(fills: Iterable[Row]) -> dict[str, Decimal]:
    zero = Decimal(0)
    sums = dict.fromkeys(
        ("entry_quantity", "entry_cost", "exit_quantity", "exit_proceeds", "fees"), zero
    )
    for fill in fills:
        value = "entry_cost" if fill["leg"] == "entry" else "exit_proceeds"
        sums[f"{fill['leg']}_quantity"] += fill["quantity"]
        sums[value] += fill["quantity"] * fill["price"]
        sums["fees"] += fill["fee"]
    return sums


def _differences(position: Row, sums: Mapping[str, Decimal]) -> dict[str, tuple[Any, Any]]:
    closed = position["status"] == "closed"
    result = sums["exit_proceeds"] - sums["entry_cost"] - sums["fees"]
    expected = {**sums, "realised_pnl": result if closed else Decimal(0)}
    wrong = {
        name: (position[name], value) for name, value in expected.items() if position[name] != value
    }
    if closed and sums["entry_quantity"] != sums["exit_quantity"] + position["dust_quantity"]:
        wrong["exit_quantity"] = position["exit_quantity"], sums["entry_quantity"]
    return wrong
