"""How long a tick takes over many rows of one market, and what a row costs in memory.

    python -m loadtests.bench_decide [ROWS]

Best of several runs on one core, in one process that does nothing else.
"""

import ctypes
import gc
import sys
import time
from collections.abc import Callable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Final

import numpy as np

from shared.messages import Indicators, Regime, Tick
from shared.money import MarketRules
from trade_worker.accounts import Accounts
from trade_worker.bot_row import BotRow
from trade_worker.bot_table import BotTable
from trade_worker.decide import Decisions, decide
from trade_worker.row_state import Phase

SIZES: Final = (1_000, 10_000, 100_000, 1_000_000)
RUNS: Final = 9
BOTS_PER_USER: Final = 4
NOW_MS: Final = 1_700_000_000_000
DAY_MS: Final = 86_400_000
RULES: Final = MarketRules(
    lot_step=Decimal("0.00001"),
    price_tick=Decimal("0.01"),
    min_quantity=Decimal("0.0001"),
    min_notional=Decimal(5),
)


def tick(adx: float = 27.0, confidence: float = 80.0) -> Tick:
    """A tick that all rows pass, unless ADX or confidence is below their minima."""
    return Tick(
        venue="binance",
        pair="ETH/USDT",
        price=2000.0,
        bid=1999.5,
        ask=2000.25,
        market_time_ms=NOW_MS,
        observed_at_ms=NOW_MS - 100,
        published_at_ms=NOW_MS - 90,
        stream_epoch=1,
        sequence=1,
        indicators=Indicators(
            adx=adx,
            rsi=60.0,
            momentum_1h=0.01,
            momentum_4h=0.02,
            btc_momentum_1h=0.001,
            volume_ratio=1.2,
            recent_high=2100.0,
        ),
        regime=Regime.WEAK,
        confidence=confidence,
    )


def fleet(rows: int) -> Iterator[BotRow]:
    """Bots with varied settings and no capital: they pass the stages but buy nothing.

    An order costs microseconds of its own; here the columns are measured.
    """
    for number in range(rows):
        yield BotRow(
            bot_id=7 * number + 1,
            user_id=number // BOTS_PER_USER,
            shard=number % 256,
            status="active",
            mode="paper",
            capital=0.0,
            taker_fee=0.001,
            profile={"min_adx": 10 + number % 10, "min_confidence": 60 + number % 10},
        )


def resident_bytes() -> int:
    """This process's resident memory, without what the allocator only keeps for reuse."""
    ctypes.CDLL("libc.so.6").malloc_trim(0)
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    return pages * 4096


def all_flat(table: BotTable) -> None:
    table.phase[: table.size] = Phase.FLAT


def all_open(table: BotTable) -> None:
    """Positions of every age and regime, in profit and in loss, none of which is to be sold."""
    rows = np.arange(table.size)
    table.phase[: table.size] = Phase.OPEN
    table.average_entry[: table.size] = 1980.0 + rows % 32
    table.opened_ms[: table.size] = NOW_MS - rows * 20 % DAY_MS
    table.regime[: table.size] = rows % len(Regime)
    table.peak[: table.size] = 0.0


def one_in_ten_open(table: BotTable) -> None:
    all_open(table)
    table.phase[: table.size] = np.where(np.arange(table.size) % 10, Phase.FLAT, Phase.OPEN)


CASES: Final[tuple[tuple[str, Callable[[BotTable], None], Tick], ...]] = (
    ("all denied early (ADX)", all_flat, tick(adx=5.0)),
    ("all denied late (confidence)", all_flat, tick(confidence=50.0)),
    ("all pass the stages", all_flat, tick()),
    ("all open", all_open, tick()),
    ("a tenth open, half denied late", one_in_ten_open, tick(confidence=64.5)),
)


def best_ns(table: BotTable, on: Tick) -> int:
    """The fastest of several decisions."""
    return min(_timed(table, on)[0] for _ in range(RUNS))


def _timed(table: BotTable, on: Tick) -> tuple[int, Decisions]:
    start = time.perf_counter_ns()
    decisions = decide(table, on, now_ms=NOW_MS, rules=RULES)
    return time.perf_counter_ns() - start, decisions


def main() -> None:
    most = int(sys.argv[1]) if len(sys.argv) > 1 else SIZES[-1]
    sizes = [size for size in SIZES if size <= most]
    gc.collect()
    before = resident_bytes()
    start = time.perf_counter()
    table = BotTable("binance", "ETH/USDT", Accounts())
    for bot in fleet(sizes[-1]):
        table.put(bot)
    took = time.perf_counter() - start
    gc.collect()
    per_row = (resident_bytes() - before) / sizes[-1]
    print(f"{sizes[-1]:,} rows loaded in {took:.1f} s; resident memory {per_row:.0f} bytes a row")
    print(f"{'case':<32}" + "".join(f"{size:>22,}" for size in sizes))
    for name, prepare, on in CASES:
        cells = []
        for size in sizes:
            # A table cut short judges only its first rows.
            table.size = size
            prepare(table)
            nanoseconds = best_ns(table, on)
            cells.append(f"{nanoseconds / 1e6:>9.3f} ms{nanoseconds / size:>7.1f} ns")
        print(f"{name:<32}" + "".join(f"{cell:>22}" for cell in cells))


if __name__ == "__main__":
    main()
