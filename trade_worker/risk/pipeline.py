"""The five stages over many rows at once, and over one row for people."""

from typing import Final

import numpy as np

from shared.messages import Tick
from shared.reasons import Reason
from trade_worker.bot_table import NOT_JUDGED, BotTable
from trade_worker.columns import Int64s, Mask, Uint8s
from trade_worker.risk import CHECKS, STAGES
from trade_worker.risk.check import CheckResult, results_of
from trade_worker.risk.market_facts import MarketFacts, facts_of
from trade_worker.rows import Rows

PASSED: Final = len(CHECKS)
"""The verdict of a row that no stage denied."""

VERDICTS: Final = (
    *(check.reason for check in CHECKS),
    Reason.MARKET_UNKNOWN,
    Reason.USER_POSITION_LIMIT,
    Reason.SIZE_TOO_SMALL,
    Reason.ENTRY_SIGNAL,
)
"""What the numbers in a table's `verdict` column mean."""

CODE_OF: Final = {reason: code for code, reason in enumerate(VERDICTS)}


def judge(rows: Rows, market: MarketFacts, verdicts: Uint8s, counts: Int64s) -> Mask:
    """Which rows pass all five stages.

    Writes each row's first denial to `verdicts` as its number in `VERDICTS` (`PASSED` where
    there is none) and adds the denials to `counts`, indexed alike. Rows in nobody's use are
    neither counted nor passed.
    """
    alive = rows.in_use
    standing = int(np.count_nonzero(alive))
    verdicts[:] = 0
    for number, check in enumerate(CHECKS):
        if not standing:
            break
        outcome = check.passes(rows, market)
        if outcome is False:
            counts[number] += standing
            return np.zeros_like(alive)
        if outcome is not True:
            alive &= outcome
            before, standing = standing, int(np.count_nonzero(alive))
            counts[number] += before - standing
        # A row that still stands has passed one check more: the sum is its first denial.
        verdicts += alive.view(np.uint8)
    return alive


def verdict_of(table: BotTable, row: int) -> Reason | None:
    """Why the row did not enter on the last tick (or that it did); None before any tick."""
    code = int(table.verdict[row])
    return None if code == NOT_JUDGED else VERDICTS[code]


def explain(table: BotTable, row: int, tick: Tick, now_ms: int) -> list[CheckResult]:
    """Every check of the five stages for one row, in order, denials after the first included."""
    rows = Rows(table, slice(row, row + 1))
    market = facts_of(tick, now_ms)
    return [
        result
        for checks in STAGES.values()
        for check in checks
        for result in results_of(
            check.reason, check.readings(rows, market), passed=_passes(check.passes(rows, market))
        )
    ]


def _passes(outcome: Mask | bool) -> bool:
    return outcome if isinstance(outcome, bool) else bool(outcome[0])
