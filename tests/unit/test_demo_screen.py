"""The demo's screen and its one-line form: whatever the fleet and the terminal are like."""

import io
from datetime import UTC, datetime
from decimal import Decimal

import pytest
from rich.console import Console

from console.fleet_status import FleetStatus, marked
from console.screen import Picture, draw, summary
from shared.messages import Indicators, Regime, Tick
from shared.orders import BotStatus, Mode, PositionStatus
from shared.store.outbox import Backlog
from shared.store.positions import Position, Results
from shared.store.workers import Heartbeat, Process, ProcessKind

NOW = datetime(2026, 1, 5, 16, tzinfo=UTC)
PAIRS = [f"{base}/USDT" for base in ("BTC", "ETH", "SOL", "AVAX", "NEAR", "DOGE", "SUI", "TRX")]


def position(number: int, *, closed: bool) -> Position:
    return Position(
        id=number,
        bot_id=number,
        bot=f"careful-{number:03}",
        user_id=1,
        user="[red]demo-01",
        credential_id=0,
        venue="binance",
        pair=PAIRS[number % len(PAIRS)],
        sequence=1,
        mode=Mode.PAPER,
        status=PositionStatus.CLOSED if closed else PositionStatus.OPEN,
        version=1,
        regime="weak",
        entry_quantity=Decimal(2),
        entry_cost=Decimal(200),
        exit_quantity=Decimal(2 if closed else 0),
        exit_proceeds=Decimal(210 if closed else 0),
        fee_quantity=Decimal(0),
        fees=Decimal(1),
        dust_quantity=Decimal(0),
        realised_pnl=Decimal(9 if closed else 0),
        peak_profit=None,
        entry_reason="entry_signal",
        exit_reason="profit_target" if closed else None,
        entered_at=NOW,
        exited_at=NOW if closed else None,
        created_at=NOW,
        closed_at=NOW if closed else None,
    )


def tick(pair: str) -> Tick:
    at_ms = int(NOW.timestamp() * 1000)
    return Tick(
        venue="binance",
        pair=pair,
        price=101.0,
        bid=101.0,
        ask=101.1,
        market_time_ms=at_ms,
        observed_at_ms=at_ms,
        published_at_ms=at_ms,
        stream_epoch=1,
        sequence=1,
        indicators=Indicators(momentum_1h=-0.0123),
        regime=Regime.WEAK,
        confidence=None,
    )


def picture(*, busy: bool) -> Picture:
    worker = Heartbeat(
        process=Process(kind=ProcessKind.TRADE_WORKER, name="demo", instance="1", host="h", pid=1),
        started_at=NOW,
        heartbeat_at=NOW,
        silent_secs=0.5,
        report={
            "verdicts": {"adx_below_minimum": 90, "no_momentum": 9, "entry_signal": 1},
            "latency": {"p50_ms": 12.4, "p99_ms": 31.0},
        },
    )
    ticks = [tick(pair) for pair in PAIRS] if busy else []
    unclosed = [position(number, closed=False) for number in range(40)] if busy else []
    counts = {"USDT": 40} if busy else {}
    status = FleetStatus(
        at=NOW,
        database="sqlite:///var/botfleet.db",
        processes=[worker] if busy else [],
        leases=[],
        ticks=ticks,
        bots={BotStatus.ACTIVE: 200},
        positions={PositionStatus.OPEN: len(unclosed)},
        open_positions=marked(unclosed, ticks),
        trades=[position(number, closed=True) for number in range(40)] if busy else [],
        results=Results(
            of_newest=20_000,
            closed=counts,
            won=counts,
            realised_pnl={"USDT": Decimal(360)} if busy else {},
        ),
        orders={},
        outbox=Backlog(events=0, oldest_at=None),
    )
    return Picture(status=status, speed=60, up_secs=42, ticks=1234, ticks_per_sec=24)


def drawn(shown: Picture, width: int, height: int) -> list[str]:
    console = Console(
        file=io.StringIO(), width=width, height=height, force_terminal=True, color_system=None
    )
    console.print(draw(shown), height=height)
    file = console.file
    assert isinstance(file, io.StringIO)
    return file.getvalue().rstrip("\n").split("\n")


@pytest.mark.parametrize("busy", [False, True])
@pytest.mark.parametrize(("width", "height"), [(80, 24), (140, 45), (40, 12), (300, 100)])
def test_the_screen_fills_the_terminal_and_never_more(width: int, height: int, busy: bool) -> None:
    lines = drawn(picture(busy=busy), width, height)

    assert len(lines) == height
    assert {len(line) for line in lines} == {width}


def test_on_80_columns_everything_that_was_promised_is_there() -> None:
    text = "\n".join(drawn(picture(busy=True), 80, 24))

    for promised in (
        "market clock 2026-01-05 16:00 (×60)",
        "price → order p50 12 ms, p99 31 ms",
        "1 health gate     ███████████░ 90 adx below minimum 90",
        "3 entry quality",
        "● BTC/USDT  101 -1.23 %",
        "open 40, ",
        "trades 40, 40 won, +360 USDT",
        "+0.80 %",
        "careful-000",
        "profit target",
    ):
        assert promised in text


def test_before_the_first_tick_it_says_what_it_waits_for() -> None:
    text = "\n".join(drawn(picture(busy=False), 80, 24))

    assert "the worker is starting" in text
    assert "none yet" in text


def test_names_are_never_read_as_markup() -> None:
    assert "[red]demo-01" in "\n".join(drawn(picture(busy=True), 140, 45))


def test_the_summary_is_one_line_with_funnel_positions_result_and_latency() -> None:
    line = summary(picture(busy=True))

    assert "\n" not in line
    assert "health gate 90, drop protection 0, entry quality 9" in line
    assert "entering 1" in line
    assert "open positions 40 | trades 40 (40 won), P&L +360.00 USDT" in line
    assert "price to order p50 12.4 ms, p99 31.0 ms" in line
