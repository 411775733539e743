"""The fleet as it stands, read in one transaction: what `status` and the demo's screen show."""

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import datetime
from decimal import Decimal
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import select

from console import kill_switch
from console.kill_switch import ShownSwitch
from shared.leases import LeaseKind
from shared.limits import BreakerScope
from shared.messages import Tick
from shared.money import decimal_of
from shared.orders import UNCLOSED, BotStatus, Mode, OrderStatus, PositionStatus
from shared.reasons import RISK_FILTER, Reason, Stage
from shared.store import (
    bots,
    breakers,
    credentials,
    leases,
    orders,
    outbox,
    positions,
    ticks,
    workers,
)
from shared.store.leases import LeaseState
from shared.store.outbox import Backlog
from shared.store.positions import Position, PositionFilter, Results
from shared.store.types import database_now
from shared.store.workers import Heartbeat, ProcessKind
from shared.venues import VENUES, quote_of

if TYPE_CHECKING:
    from shared.store.engine import Store

ALIVE_SECS: Final = 15.0
"""A process that was silent for longer is gone; each beats every few seconds."""

MARKED_POSITIONS: Final = 500
"""Open positions that are valued at the latest bid."""

SHOWN_TRADES: Final = 50
SHOWN_STUCK: Final = 20

_REASONS: Final = {reason.value: reason for reason in Reason}
_PERCENTILES: Final = ("p50_ms", "p95_ms", "p99_ms", "max_ms")


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenPosition:
    """An unclosed position, valued at its market's latest bid after the taker fee.

    `profit` is the fraction that the exits go by, `gain` the amount in the quote currency;
    both None without a tick.
    """

    position: Position
    profit: float | None
    gain: Decimal | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetStatus:
    """One reading of the whole fleet. `at` is the database's clock, `database` hides passwords.

    `open_positions` are the newest, `trades` those that closed last. `dead_letters` is None
    where no broker was asked or none answered. `kill_switches` are on, `breakers` open.
    `stuck` are the newest positions whose exits keep failing. `live_results` are the part of
    `results` that was real money; `keys_in_trouble` are user, venue and why.
    """

    at: datetime
    database: str
    processes: Sequence[Heartbeat]
    leases: Sequence[LeaseState]
    ticks: Sequence[Tick]
    bots: Mapping[BotStatus, int]
    positions: Mapping[PositionStatus, int]
    open_positions: Sequence[OpenPosition]
    trades: Sequence[Position]
    results: Results
    orders: Mapping[OrderStatus, int]
    outbox: Backlog
    dead_letters: int | None = None
    kill_switches: Sequence[ShownSwitch] = ()
    breakers: Mapping[BreakerScope, int] = field(default_factory=dict)
    stuck: Sequence[Position] = ()
    live_results: Results | None = None
    keys_in_trouble: Sequence[tuple[str, str, str]] = ()

    def alive(self, kind: ProcessKind) -> list[Heartbeat]:
        """The processes of a kind that gave a sign of life lately."""
        return [beat for beat in self.processes if beat.process.kind is kind and is_alive(beat)]

    @property
    def price_stream(self) -> Heartbeat | None:
        """The leading price stream, if one is alive: of two that say so, the later epoch's."""
        leading = [
            beat
            for beat in self.alive(ProcessKind.PRICE_STREAM)
            if beat.report.get("role", "leading") == "leading"
        ]
        return max(leading, key=lambda beat: beat.report.get("stream_epoch") or 0, default=None)

    @property
    def standbys(self) -> list[Heartbeat]:
        """The price streams that follow, ready to take over."""
        return [
            beat
            for beat in self.alive(ProcessKind.PRICE_STREAM)
            if beat.report.get("role") == "following"
        ]

    @property
    def shards(self) -> list[LeaseState]:
        """The lease of every shard."""
        return [lease for lease in self.leases if lease.kind is LeaseKind.SHARD]

    @property
    def shards_held_by_nobody(self) -> list[int]:
        """The numbers of the shards whose bots nobody judges."""
        return [lease.number for lease in self.shards if not lease.held]

    @property
    def verdicts(self) -> dict[Reason, int]:
        """How many rows (bot and pair) met which verdict on their market's latest tick."""
        total = Counter[Reason]()
        for worker in self.alive(ProcessKind.TRADE_WORKER):
            for code, count in worker.report.get("verdicts", {}).items():
                # A newer worker may know reasons that this code does not.
                if (reason := _REASONS.get(code)) is not None:
                    total[reason] += count
        return dict(total.most_common())

    @property
    def latency(self) -> dict[str, float | None]:
        """Price observed → order committed, in ms: of several workers the slowest's figures."""
        reports = [
            worker.report.get("latency", {}) for worker in self.alive(ProcessKind.TRADE_WORKER)
        ]
        return {
            name: max((figures[name] for figures in reports if figures.get(name)), default=None)
            for name in _PERCENTILES
        }

    @property
    def market_time_ms(self) -> int | None:
        """The latest market time that any tick carries."""
        return max((tick.market_time_ms for tick in self.ticks), default=None)


def is_alive(beat: Heartbeat) -> bool:
    """Whether a process gave a sign of life lately."""
    return beat.silent_secs <= ALIVE_SECS


def denied_by_stage(verdicts: Mapping[Reason, int]) -> dict[Stage, dict[Reason, int]]:
    """The funnel: what each of the five stages denied, most frequent first, then sizing."""
    stages = (*RISK_FILTER, Stage.SIZING)
    return {
        stage: {
            reason: count
            for reason, count in sorted(verdicts.items(), key=lambda item: -item[1])
            if reason.stage is stage and reason is not Reason.ENTRY_SIGNAL
        }
        for stage in stages
    }


async def read(store: "Store") -> FleetStatus:
    """Read everything but the broker. Raises `StoreUnavailable`."""
    async with store.read() as tx:
        newest = await ticks.read(tx)
        unclosed = await positions.page(tx, PositionFilter(unclosed=True), limit=MARKED_POSITIONS)
        return FleetStatus(
            at=(await tx.execute(select(database_now()))).scalar_one(),
            database=str(store),
            processes=await workers.read(tx),
            leases=await leases.states(tx),
            ticks=newest,
            bots=await bots.count(tx),
            positions=await positions.count(tx),
            open_positions=marked(unclosed, newest),
            trades=await positions.trades(tx, limit=SHOWN_TRADES),
            results=await positions.results(tx),
            orders={**await orders.count(tx), **await orders.count_unsettled(tx)},
            outbox=await outbox.backlog(tx),
            kill_switches=await kill_switch.shown(tx),
            breakers=await breakers.count_open(tx),
            stuck=await positions.page(tx, PositionFilter(stuck=True), limit=SHOWN_STUCK),
            live_results=await positions.results(tx, mode=Mode.LIVE),
            keys_in_trouble=await credentials.troubled(tx),
        )


def marked(unclosed: Sequence[Position], newest: Sequence[Tick]) -> list[OpenPosition]:
    """Value positions at the bids of the newest ticks, after the venue's usual taker fee."""
    bids = {tick.market: decimal_of(tick.bid) for tick in newest}
    return [_marked(position, bids.get((position.venue, position.pair))) for position in unclosed]


def _marked(position: Position, bid: Decimal | None) -> OpenPosition:
    if bid is None or not position.entry_quantity:
        return OpenPosition(position=position, profit=None, gain=None)
    fee = VENUES[position.venue].taker_fee
    average = position.entry_cost / position.entry_quantity
    held = position.entry_quantity - position.exit_quantity
    worth = held * bid * (1 - fee)
    return OpenPosition(
        position=position,
        profit=float(bid * (1 - fee) / (average * (1 + fee)) - 1),
        gain=worth + position.exit_proceeds - position.entry_cost - position.fees,
    )


def unrealised(open_positions: Sequence[OpenPosition]) -> dict[str, Decimal]:
    """What the open positions would bring now, by quote currency."""
    total: defaultdict[str, Decimal] = defaultdict(Decimal)
    for open_position in open_positions:
        if open_position.gain is not None:
            total[quote_of(open_position.position.pair)] += open_position.gain
    return dict(total)


def document(status: FleetStatus) -> dict[str, Any]:
    """The status as one JSON document with stable keys."""
    held = Counter(lease.owner for lease in status.shards if lease.held)
    kinds = {"price_streams": ProcessKind.PRICE_STREAM, "workers": ProcessKind.TRADE_WORKER}
    processes = {
        key: [_process(beat) for beat in status.processes if beat.process.kind is kind]
        for key, kind in kinds.items()
    }
    return {
        "at": status.at,
        "database": status.database,
        **processes,
        "standbys": [beat.process.name for beat in status.standbys],
        "shards": {"held": held, "held_by_nobody": status.shards_held_by_nobody},
        "markets": [_market(tick, status.at) for tick in status.ticks],
        "bots": {name: status.bots.get(name, 0) for name in BotStatus},
        "positions": {name: status.positions.get(name, 0) for name in sorted(UNCLOSED)},
        "stuck_positions": [position.id for position in status.stuck],
        "unrealised_pnl": unrealised(status.open_positions),
        "results": asdict(status.results),
        "live_results": None if status.live_results is None else asdict(status.live_results),
        "keys_in_trouble": [
            {"user": user, "venue": venue, "why": why}
            for user, venue, why in status.keys_in_trouble
        ],
        "orders": {name: status.orders.get(name, 0) for name in OrderStatus},
        "verdicts": status.verdicts,
        "latency": status.latency,
        "outbox": asdict(status.outbox),
        "dead_letters": status.dead_letters,
        "kill_switches": [kill_switch.document(shown) for shown in status.kill_switches],
        "breakers": {scope: status.breakers.get(scope, 0) for scope in BreakerScope},
    }


def _process(beat: Heartbeat) -> dict[str, Any]:
    return {
        "name": beat.process.name,
        "instance": beat.process.instance,
        "host": beat.process.host,
        "pid": beat.process.pid,
        "alive": is_alive(beat),
        "started_at": beat.started_at,
        "silent_secs": round(beat.silent_secs, 3),
        "report": beat.report,
    }


def _market(tick: Tick, now: datetime) -> dict[str, Any]:
    return {
        "venue": tick.venue,
        "pair": tick.pair,
        "price": tick.price,
        "age_secs": round(now.timestamp() - tick.observed_at_ms / 1000, 3),
        "market_time_ms": tick.market_time_ms,
        "stream_epoch": tick.stream_epoch,
        "sequence": tick.sequence,
    }
