"""The columns decide what the scalar reference decides, for any rows and ticks."""

import math
from dataclasses import dataclass
from decimal import Decimal

from hypothesis import example, given, settings
from hypothesis import strategies as st

from shared.messages import Regime, Tick
from shared.money import MarketRules
from shared.reasons import Reason
from shared.risk_profile import DEFAULTS
from tests.reference import Bot, Life, exit_reason, first_denial, in_lots, quantity_of
from tests.unit.fleet import HELD, NOW_MS, RULES, bots, new_table, put, tick_with, ticks
from trade_worker.decide import Decisions, decide
from trade_worker.exits import explain_exit
from trade_worker.risk.pipeline import explain, verdict_of

RULES_DRAWN = st.one_of(
    st.just(RULES),
    st.none(),
    st.builds(
        MarketRules,
        lot_step=st.sampled_from([Decimal("1E-8"), Decimal("0.1"), Decimal(1), Decimal(0)]),
        price_tick=st.sampled_from([Decimal("0.01"), Decimal("0.5"), Decimal(7000), Decimal(0)]),
        min_quantity=st.sampled_from([Decimal(0), Decimal("0.01"), Decimal(2)]),
        min_notional=st.sampled_from([Decimal(0), Decimal(5), Decimal(600)]),
    ),
)


@dataclass(frozen=True)
class Owned:
    """A reference bot with its account."""

    bot: Bot
    capital: float
    user_id: int


OWNED = st.builds(
    Owned,
    bot=bots(),
    capital=st.one_of(st.sampled_from([0.0, 4.99, 5.02, 1000.0, 1e15]), st.floats(0, 5000)),
    user_id=st.integers(1, 2),
)


def decide_all(
    fleet: list[Owned], tick: Tick, rules: MarketRules | None, limit: int
) -> tuple[Decisions, dict[int, Reason | None], dict[int, float]]:
    table = new_table()
    table.pair = tick.pair
    for bot_id, owned in enumerate(fleet, start=1):
        put(table, bot_id, owned.bot, capital=owned.capital, user_id=owned.user_id, limit=limit)
    decisions = decide(table, tick, now_ms=NOW_MS, rules=rules)
    rows = {bot_id: table.row_of(bot_id) for bot_id in range(1, len(fleet) + 1)}
    verdicts = {bot_id: verdict_of(table, row) for bot_id, row in rows.items() if row is not None}
    peaks = {bot_id: float(table.peak[row]) for bot_id, row in rows.items() if row is not None}
    return decisions, verdicts, peaks


@settings(max_examples=4 * settings().max_examples)
@given(
    fleet=st.lists(OWNED, min_size=1, max_size=6),
    tick=ticks(),
    rules=RULES_DRAWN,
    limit=st.integers(0, 3),
)
def test_columns_agree_with_the_reference(
    fleet: list[Owned], tick: Tick, rules: MarketRules | None, limit: int
) -> None:
    decisions, verdicts, peaks = decide_all(fleet, tick, rules, limit)
    exits = {decision.bot_id: (decision.reason, decision.quantity) for decision in decisions.exits}
    entries = {decision.bot_id: decision.quantity for decision in decisions.entries}
    unclosed = {
        user: sum(o.user_id == user and o.bot.life is not Life.FLAT for o in fleet)
        for user in (1, 2)
    }
    before = dict(unclosed)
    expected: dict[Reason, int] = {}
    for bot_id, owned in enumerate(fleet, start=1):
        reason, peak = exit_reason(owned.bot, tick)
        sold = in_lots(HELD, rules) if owned.bot.holds_live else HELD
        assert exits.get(bot_id) == (reason and (reason, sold) if sold else None)
        if owned.bot.life is Life.OPEN:
            assert peaks[bot_id] == peak
        verdict = first_denial(owned.bot, tick, NOW_MS)
        quantity = Decimal(0)
        if verdict is None:
            verdict, quantity = quantity_of(owned.bot, owned.capital, tick, rules)
            # A limit reached before the tick comes before the size, one reached on it after.
            at_limit = before if verdict is Reason.SIZE_TOO_SMALL else unclosed
            if verdict is not Reason.MARKET_UNKNOWN and at_limit[owned.user_id] >= limit:
                verdict, quantity = Reason.USER_POSITION_LIMIT, Decimal(0)
        if verdict is None:
            verdict = Reason.ENTRY_SIGNAL
            unclosed[owned.user_id] += 1
        assert verdicts[bot_id] == verdict
        assert entries.get(bot_id, Decimal(0)) == quantity
        expected[verdict] = expected.get(verdict, 0) + 1
    assert decisions.verdicts == expected


@given(bot=bots(lives=(Life.FLAT, Life.OPEN)), tick=ticks())
@settings(max_examples=2 * settings().max_examples)
def test_explain_agrees_with_the_verdict_and_the_exit(bot: Bot, tick: Tick) -> None:
    table = new_table()
    row = put(table, 1, bot, capital=1000.0, user_id=1, limit=10)
    denials = [r.reason for r in explain(table, row, tick, NOW_MS) if not r.passed]
    sells = [r.reason for r in explain_exit(table, row, tick) if not r.passed]
    decisions = decide(table, tick, now_ms=NOW_MS, rules=RULES)
    if denials:
        assert verdict_of(table, row) == denials[0]
    else:
        assert verdict_of(table, row) in (Reason.ENTRY_SIGNAL, Reason.SIZE_TOO_SMALL)
    for decision in decisions.exits:
        assert decision.reason == sells[0]


@given(fleet=st.lists(OWNED, min_size=2, max_size=6), tick=ticks(), data=st.data())
@settings(max_examples=settings().max_examples)
def test_rows_do_not_touch_each_other(fleet: list[Owned], tick: Tick, data: st.DataObject) -> None:
    """Where no two bots share a user, a row's outcome is the same alone as among others."""
    kept = data.draw(st.integers(0, len(fleet) - 1))
    fleet = [Owned(owned.bot, owned.capital, number) for number, owned in enumerate(fleet)]
    together = decide_all(fleet, tick, RULES, 10)
    alone = decide_all([fleet[kept]], tick, RULES, 10)
    assert together[1][kept + 1] == alone[1][1]
    trades = [
        [(d.reason, d.quantity) for d in (*outcome.exits, *outcome.entries) if d.bot_id == bot_id]
        for outcome, bot_id in ((together[0], kept + 1), (alone[0], 1))
    ]
    assert trades[0] == trades[1]


@given(
    capital=st.floats(0, 1e9),
    share=st.floats(0, 1),
    size=st.floats(0, 10),
    fee=st.floats(0, 0.9),
    ask=st.floats(1e-6, 1e6),
)
@settings(max_examples=3 * settings().max_examples)
@example(capital=1000.0, share=1.0, size=10.0, fee=0.004, ask=2000.0)
def test_an_entry_never_reserves_more_than_is_free(
    capital: float, share: float, size: float, fee: float, ask: float
) -> None:
    table = new_table()
    changed = {"stake_fraction": share, "size_strong": size, "cost_multiplier": 0.0}
    bot = Bot(thresholds={**DEFAULTS, **changed}, taker_fee=fee)
    put(table, 1, bot, capital=capital, user_id=1, limit=10)
    rules = MarketRules(
        lot_step=Decimal("1E-8"),
        price_tick=Decimal("1E-8"),
        min_quantity=Decimal(0),
        min_notional=Decimal(0),
    )
    tick = tick_with(price=ask, bid=ask, ask=ask, recent_high=ask * 1.1, regime=Regime.STRONG)
    decisions = decide(table, tick, now_ms=NOW_MS, rules=rules)
    free = float(table.accounts.bots.free[0])
    assert 0 <= free <= capital
    for decision in decisions.entries:
        assert decision.quantity * decision.decided_price <= Decimal(capital)
        assert math.isclose(
            capital - free,
            float(decision.quantity * decision.decided_price) * 1.003 * (1 + fee),
            rel_tol=1e-9,
            abs_tol=1e-6,
        )
