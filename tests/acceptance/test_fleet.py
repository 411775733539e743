"""The fleet as its operator runs it, on a replayed market: every trade follows from the data."""

import asyncio
import csv
import math
import random
import signal
from collections import defaultdict
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal, localcontext
from itertools import pairwise
from pathlib import Path
from typing import Any, Final

import aio_pika
import orjson
import pytest

from shared.clock import ms_of
from shared.messages import Indicators, Regime, Tick
from shared.reasons import Reason
from shared.risk_profile import DEFAULTS
from shared.venues import VENUES
from tests.acceptance import checker
from tests.acceptance.fleet import ROOT, Fleet, Member, fleet_of
from tests.reference import Bot, Life, exit_reason, first_denial, single

REAL: Final = ROOT.parent / "shared" / "market" / "btc_perp_1m_2022-01a.csv"
"""A month's first half as it was, where it lies beside the repository."""

BOTS: Final = 300
SPEED: Final = 3600.0
POLL_SECS: Final = 0.2
LEASE_TTL_SECS: Final = 10.0
PATIENCE_SECS: Final = 90.0
PAIRS: Final = {"kraken": "BTC/USD", "binance": "BTC/USDT"}

TICK_FIELDS: Final[Mapping[str, frozenset[type]]] = {
    "version": frozenset({int}),
    "venue": frozenset({str}),
    "pair": frozenset({str}),
    "price": frozenset({float}),
    "bid": frozenset({float}),
    "ask": frozenset({float}),
    "market_time_ms": frozenset({int}),
    "observed_at_ms": frozenset({int}),
    "published_at_ms": frozenset({int}),
    "stream_epoch": frozenset({int}),
    "sequence": frozenset({int}),
    "indicators": frozenset({dict}),
    "regime": frozenset({str, type(None)}),
    "confidence": frozenset({float, type(None)}),
}
INDICATORS: Final = frozenset(
    ("adx", "rsi", "momentum_1h", "momentum_4h", "btc_momentum_1h", "volume_ratio", "recent_high")
)

Row = Mapping[str, Any]


@pytest.mark.timeout(300)
@pytest.mark.parametrize("market", ["made", *(["real"] if REAL.exists() else [])])
async def test_a_fleet_trades_for_reasons_that_the_data_explains(
    market: str, migrated_database_url: str, fresh_rabbitmq_url: str, tmp_path: Path
) -> None:
    replay = REAL
    if market == "made":
        replay = tmp_path / "candles.csv"
        write_candles(replay, random.Random(7))
    async with fleet_of(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        lease_ttl_secs=LEASE_TTL_SECS,
        poll_secs=POLL_SECS,
    ) as fleet:
        await fleet.command("migrate")
        state = tmp_path / "simulator.state"
        simulator = await fleet.start_simulator(
            "--speed", str(SPEED), "--replay", str(replay), "--state", str(state)
        )
        (tmp_path / "bots.csv").write_text("\n".join(bots_csv(random.Random(1))))
        await fleet.command("bots", "import", str(tmp_path / "bots.csv"), "--unlisted-ok")

        async with foreign_listener(fresh_rabbitmq_url, "BTC/USD", "#") as heard:
            first = await stopped_with_something_open(fleet, migrated_database_url)
        judge(first)
        judge_ticks(heard)

        members = [await fleet.start_price_stream("stream"), await fleet.start_worker("1")]
        left = [position["id"] for position in first.positions if position["status"] == "open"]
        await sold(fleet, at_least=1, of=left)
        await stopped(*members, simulator)
        second = await checker.read(migrated_database_url)
        judge(second)
        judge_continuation(first, second)


# The fleet


async def stopped_with_something_open(fleet: Fleet, database_url: str) -> checker.History:
    """Trade until twenty positions are sold, then stop while at least one is open.

    At this speed minutes of the market pass between a look and the stop, and everything may be
    sold in them: then it trades on and is stopped again.
    """
    async with asyncio.timeout(PATIENCE_SECS):
        while True:
            members = [await fleet.start_price_stream("stream"), await fleet.start_worker("1")]
            await sold(fleet, at_least=20)
            await stopped(*members)
            history = await checker.read(database_url)
            if any(position["status"] == "open" for position in history.positions):
                return history


async def sold(fleet: Fleet, *, at_least: int, of: Sequence[int] | None = None) -> None:
    """Wait until so many positions (of these ids) are closed, and one is open."""
    counts = """
        SELECT count(*) FILTER (WHERE status = 'open') AS open,
            count(*) FILTER (WHERE status = 'closed' AND id = ANY (coalesce($1, ARRAY[id])))
                AS closed
        FROM positions
    """
    async with asyncio.timeout(PATIENCE_SECS):
        while True:
            (row,) = await fleet.query(counts, of)
            if row["closed"] >= at_least and row["open"]:
                return
            await asyncio.sleep(0.1)


async def stopped(*members: Member) -> None:
    """Send SIGTERM, the last one first, and expect that each ends well."""
    for member in reversed(members):
        member.signal(signal.SIGTERM)
    assert {member.name: await member.ended() for member in members} == {
        member.name: 0 for member in members
    }


@asynccontextmanager
async def foreign_listener(url: str, *keys: str) -> AsyncIterator[dict[str, list[bytes]]]:
    """Somebody else's client, bound to `price_updates` with each key: the bodies it receives."""
    heard: dict[str, list[bytes]] = {key: [] for key in keys}
    async with await aio_pika.connect(url) as connection:
        channel = await connection.channel()
        exchange = await channel.declare_exchange("price_updates", "topic", durable=True)
        for key, bodies in heard.items():
            queue = await channel.declare_queue(exclusive=True)
            await queue.bind(exchange, key)

            async def take(
                message: aio_pika.abc.AbstractIncomingMessage, bodies: list[bytes] = bodies
            ) -> None:
                assert message.content_type == "application/json"
                bodies.append(message.body)

            await queue.consume(take, no_ack=True)
        yield heard


def bots_csv(draw: random.Random) -> list[str]:
    """Bots with risk profiles from eager to choosy, on both venues."""
    thresholds = (
        "min_adx,min_confidence,cost_multiplier,min_momentum_1h,max_price_to_high,"
        "stake_fraction,profit_target_weak,max_loss_streak,max_tick_age_secs"
    )
    lines = [f"user,bot,venue,pairs,capital,mode,status,{thresholds}"]
    for number in range(BOTS):
        venue = draw.choice(sorted(PAIRS))
        values = (
            *(f"user{number // 5}", f"bot{number}", venue, PAIRS[venue]),
            *(draw.choice(["500", "1000", "5000.5"]), "paper", "active"),
            *(draw.randint(5, 30), draw.randint(30, 75), draw.choice([0.5, 1, 2])),
            *(draw.choice([0.0005, 0.002, 0.005]), draw.choice([0.995, 1.0, 1.02])),
            *(draw.choice([0.3, 0.8]), draw.choice([0.01, 0.02, 0.045]), 1000),
            draw.choice([2, 15]),
        )
        lines.append(",".join(map(str, values)))
    return lines


def write_candles(path: Path, draw: random.Random) -> None:
    """Five days of one-minute candles with trends, quiet hours and sudden drops."""
    price, left, drift = 40_000.0, 0, 0.0
    with path.open("w", newline="") as file:
        candles = csv.writer(file)
        candles.writerow(["timestamp", "open", "high", "low", "close", "volume"])
        for minute in range(5 * 24 * 60):
            if not left:
                left = draw.randint(45, 240)
                drift = draw.choice([0.0003, 0.0002, 0.0, -0.0002, -0.0006])
            left -= 1
            opened = price
            price *= math.exp(draw.gauss(drift, 0.0006))
            high = max(opened, price) * (1 + abs(draw.gauss(0, 0.0003)))
            low = min(opened, price) * (1 - abs(draw.gauss(0, 0.0003)))
            volume = 1e6 * draw.lognormvariate(0, 0.6) * (1 + 2000 * abs(drift))
            candles.writerow([1_640_995_200 + 60 * minute, opened, high, low, price, volume])


# What must hold


def closed_ones(positions: Sequence[Row]) -> list[Row]:
    return [position for position in positions if position["status"] == "closed"]


def judge(history: checker.History) -> None:
    """What one run left behind: it is whole, exact, and every order follows from its facts."""
    patient = checker.Promise(
        lease_ttl_secs=LEASE_TTL_SECS, poll_secs=POLL_SECS, margin_secs=PATIENCE_SECS
    )
    broken = checker.violations(history, patient)
    assert broken == []
    profiles = {bot["id"]: orjson.loads(bot["risk_profile"]) for bot in history.bots}
    for order in history.orders:
        times = [
            order[name]
            for name in ("observed_at", "received_at", "decided_at", "committed_at", "settled_at")
        ]
        assert times == sorted(times), order
        assert order["facts"]["tick"]["observed_at_ms"] == ms_of(order["observed_at"])
        judged = judge_entry if order["leg"] == "entry" else judge_exit
        judged(order, profiles[order["bot_id"]])
    assert {order["leg"] for order in history.orders} == {"entry", "exit"}
    judge_results(history)


def judge_entry(order: Row, profile: Mapping[str, float]) -> None:
    """The five stages, once more, on what the order says that it met."""
    thresholds = order["facts"]["thresholds"]
    for name, value in thresholds.items():
        assert single(value) == single(profile.get(name, DEFAULTS[name])), (name, order)
    bot = Bot(thresholds={**DEFAULTS, **thresholds}, taker_fee=taker_fee(order))
    assert order["reason"] == Reason.ENTRY_SIGNAL
    assert first_denial(bot, tick_of(order), ms_of(order["decided_at"])) is None, order
    age_secs = (order["decided_at"] - order["observed_at"]).total_seconds()
    assert age_secs <= thresholds["max_tick_age_secs"]


def judge_exit(order: Row, profile: Mapping[str, float]) -> None:
    """The exit rules, once more: the first that is reached is the reason that was given."""
    position, thresholds = order["facts"]["position"], order["facts"]["thresholds"]
    for name, value in thresholds.items():
        assert single(value) == single(profile.get(name, DEFAULTS[name])), (name, order)
    bot = Bot(
        thresholds={**DEFAULTS, **thresholds},
        taker_fee=taker_fee(order),
        life=Life.OPEN,
        average_entry=position["average_entry"],
        peak=position["peak"],
        opened_ms=position["opened_market_ms"],
        regime=Regime(position["regime"]),
    )
    reason, peak = exit_reason(bot, tick_of(order))
    assert (reason, peak) == (order["reason"], position["peak"]), order


def taker_fee(order: Row) -> float:
    return float(VENUES[order["venue"]].taker_fee)


def tick_of(order: Row) -> Tick:
    """The tick that an order's facts tell of."""
    indicators = dict(order["facts"]["indicators"])
    regime, confidence = indicators.pop("regime"), indicators.pop("confidence")
    return Tick(
        venue=order["venue"],
        pair=order["pair"],
        published_at_ms=0,
        indicators=Indicators(**indicators),
        regime=Regime(regime) if regime else None,
        confidence=confidence,
        **order["facts"]["tick"],
    )


def judge_results(history: checker.History) -> None:
    """To the last decimal: positions are what the fills say, bots what their positions say."""
    flows: defaultdict[tuple[int, str, int], Decimal] = defaultdict(Decimal)
    realised = {bot["id"]: Decimal(0) for bot in history.bots}
    with localcontext(checker.EXACT):
        for fill in history.fills:
            value = fill["quantity"] * fill["price"]
            flow = (value if fill["leg"] == "exit" else -value) - fill["fee"]
            flows[fill["bot_id"], fill["pair"], fill["position_sequence"]] += flow
        for position in closed_ones(history.positions):
            bot_id, pair, sequence = (position[name] for name in ("bot_id", "pair", "sequence"))
            assert position["realised_pnl"] == flows[bot_id, pair, sequence]
            realised[bot_id] += position["realised_pnl"]
    assert {bot["id"]: bot["realised"] for bot in history.bots} == realised


def judge_ticks(heard: Mapping[str, Sequence[bytes]]) -> None:
    """What a foreign client received: every field of the design, and no other."""
    for key, markets in (("BTC/USD", {("kraken", "BTC/USD")}), ("#", set(PAIRS.items()))):
        ticks = [orjson.loads(body) for body in heard[key]]
        assert {(tick["venue"], tick["pair"]) for tick in ticks} == markets
        for tick in ticks:
            assert tick.keys() == TICK_FIELDS.keys()
            assert all(type(tick[name]) in types for name, types in TICK_FIELDS.items()), tick
            assert tick["indicators"].keys() == INDICATORS
            assert {type(value) for value in tick["indicators"].values()} <= {float, type(None)}
            assert tick["observed_at_ms"] <= tick["published_at_ms"]
        for market in markets:
            orders = [
                (tick["stream_epoch"], tick["sequence"])
                for tick in ticks
                if (tick["venue"], tick["pair"]) == market
            ]
            assert all(earlier < later for earlier, later in pairwise(orders))


def judge_continuation(first: checker.History, second: checker.History) -> None:
    """A second run has all of the first, and goes on from there."""
    before = {order["client_order_id"]: order for order in first.orders}
    after = {order["client_order_id"]: order for order in second.orders}
    assert before.items() <= after.items()
    new = [order for id_, order in after.items() if id_ not in before]

    def latest(orders: Sequence[Row], name: str) -> Any:
        return max(order["facts"]["tick"][name] for order in orders)

    epochs = {order["facts"]["tick"]["stream_epoch"] for order in new}
    assert min(epochs) > latest(first.orders, "stream_epoch")
    assert min(order["market_time"] for order in new) > max(o["market_time"] for o in first.orders)
