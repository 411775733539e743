"""Each reason is met by a bot and a tick that differ from a good pair in one thing only."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any

import numpy as np
import pytest

from shared.messages import Regime
from shared.orders import Leg, Mode, PositionStatus
from shared.reasons import RISK_FILTER, Reason
from tests.unit.fleet import (
    KEYS,
    MARKET_MS,
    NOW_MS,
    RULES,
    bot_row,
    new_table,
    open_position,
    tick_with,
)
from trade_worker.decide import decide
from trade_worker.exits import RULES as EXIT_RULES
from trade_worker.exits import explain_exit
from trade_worker.risk import CHECKS, STAGES
from trade_worker.risk.pipeline import VERDICTS, explain, verdict_of


def verdict(tick: dict[str, Any], **bot: Any) -> Reason | None:
    table = new_table()
    table.put(bot_row(**bot))
    decide(table, tick_with(**tick), now_ms=NOW_MS, rules=RULES)
    return verdict_of(table, 0)


NOT_READY = ("missing", "not live", "in trouble")

BOTS = [
    (Reason.ENTRY_SIGNAL, {}),
    (Reason.ROW_INVALID, {"capital": -1.0}),
    (Reason.ROW_INVALID, {"status": "asleep"}),
    (Reason.ROW_INVALID, {"profile": {"min_adx": math.nan}}),
    (Reason.ROW_INVALID, {"profile": {"min_adx": "many"}}),
    (Reason.BOT_NOT_ACTIVE, {"status": "paused"}),
    (Reason.POSITION_UNCLOSED, {"position": open_position()}),
    (Reason.POSITION_UNCLOSED, {"position": open_position(status=PositionStatus.OPENING)}),
    (Reason.ORDER_UNSETTLED, {"unsettled": True}),
    (Reason.COOLING_DOWN, {"cooldown_until_ms": MARKET_MS + 1}),
    (Reason.ENTRY_SIGNAL, {"cooldown_until_ms": MARKET_MS}),
    (Reason.BREAKER_OPEN, {"breaker_open": True}),
    (Reason.KILL_SWITCH_ON, {"entries_off": True}),
    (Reason.KILL_SWITCH_ON, {"all_off": True}),
    *((Reason.CREDENTIAL_NOT_READY, {"mode": "live", "key": KEYS[key]}) for key in NOT_READY),
    (Reason.ENTRY_SIGNAL, {"mode": "live", "key": KEYS["ready"]}),
    (Reason.ENTRY_SIGNAL, {"mode": "paper", "key": KEYS["in trouble"]}),
    (Reason.TARGET_BELOW_MINIMUM, {"profile": {"min_profit_target": 0.046}}),
    (Reason.ENTRY_SIGNAL, {"profile": {"min_profit_target": 0.045}}),
    (Reason.TARGET_BELOW_COSTS, {"taker_fee": 0.0074}),
    (Reason.USER_POSITION_LIMIT, {"max_open_positions": 0}),
    (Reason.SIZE_TOO_SMALL, {"capital": 8.33}),
    (Reason.ENTRY_SIGNAL, {"capital": 8.4}),
    # Live, what is left after the fee and a loss of 10 % must be worth 5, too: 9.28 × 0.6 × 0.9.
    (Reason.SIZE_TOO_SMALL, {"capital": 9.26, "mode": "live", "key": KEYS["ready"]}),
    (Reason.ENTRY_SIGNAL, {"capital": 9.32, "mode": "live", "key": KEYS["ready"]}),
]

TICKS = [
    (Reason.CLOCK_SKEW, {"observed_at_ms": NOW_MS + 1001}),
    (Reason.ENTRY_SIGNAL, {"observed_at_ms": NOW_MS + 1000}),
    (Reason.TICK_STALE, {"observed_at_ms": NOW_MS - 15_001}),
    (Reason.ENTRY_SIGNAL, {"observed_at_ms": NOW_MS - 15_000}),
    (Reason.ADX_MISSING, {"adx": None}),
    (Reason.ADX_MISSING, {"adx": math.inf}),
    (Reason.ADX_MISSING, {"adx": 1e300}),
    (Reason.ADX_BELOW_MINIMUM, {"adx": 19.99999}),
    (Reason.ENTRY_SIGNAL, {"adx": 20.0}),
    (Reason.MOMENTUM_4H_MISSING, {"momentum_4h": math.nan}),
    (Reason.CRASH_GUARD, {"momentum_4h": -0.0300001}),
    (Reason.ENTRY_SIGNAL, {"momentum_4h": -0.03}),
    (Reason.BTC_MOMENTUM_MISSING, {"btc_momentum_1h": None}),
    (Reason.BTC_DUMPING, {"btc_momentum_1h": -0.0150001}),
    (Reason.ENTRY_SIGNAL, {"btc_momentum_1h": -0.015}),
    (Reason.VOLUME_RATIO_MISSING, {"volume_ratio": None}),
    (Reason.MOMENTUM_1H_MISSING, {"momentum_1h": None}),
    (Reason.PANIC_SELLING, {"volume_ratio": 3.01, "momentum_1h": -0.0050001}),
    (Reason.NO_MOMENTUM, {"volume_ratio": 3.0, "momentum_1h": -0.0050001}),
    (Reason.NO_MOMENTUM, {"volume_ratio": 3.01, "momentum_1h": -0.005}),
    (Reason.VOLUME_BELOW_FLOOR, {"volume_ratio": 0.4999}),
    (Reason.ENTRY_SIGNAL, {"volume_ratio": 0.5}),
    (Reason.SPREAD_MISSING, {"bid": 0.0}),
    (Reason.SPREAD_MISSING, {"ask": math.nan}),
    (Reason.SPREAD_ABOVE_MAXIMUM, {"bid": 1990.0, "ask": 2000.0}),
    (Reason.ENTRY_SIGNAL, {"bid": 2000.0, "ask": 2010.0}),
    (Reason.RECENT_HIGH_MISSING, {"recent_high": 0.0}),
    (Reason.RECENT_HIGH_MISSING, {"price": -2000.0}),
    (Reason.BUYING_THE_TOP, {"price": 1990.001, "recent_high": 2000.0}),
    (Reason.ENTRY_SIGNAL, {"price": 1990.0, "recent_high": 2000.0}),
    (Reason.RSI_MISSING, {"rsi": None}),
    (Reason.RSI_OVERBOUGHT, {"rsi": 85.0001}),
    (Reason.ENTRY_SIGNAL, {"rsi": 85.0}),
    (Reason.NO_MOMENTUM, {"momentum_1h": 0.005}),
    (Reason.ENTRY_SIGNAL, {"momentum_1h": 0.001, "volume_ratio": 1.31}),
    (Reason.NO_MOMENTUM, {"momentum_1h": 0.001, "volume_ratio": 1.3}),
    (Reason.NO_MOMENTUM, {"momentum_1h": 0.0, "volume_ratio": 2.0}),
    (Reason.CONFIDENCE_MISSING, {"confidence": None}),
    (Reason.CONFIDENCE_BELOW_MINIMUM, {"confidence": 69.9}),
    (Reason.ENTRY_SIGNAL, {"confidence": 70.0}),
    (Reason.REGIME_MISSING, {"regime": None}),
]


@pytest.mark.parametrize(("reason", "bot"), BOTS)
def test_a_bot_gets_its_verdict(reason: Reason, bot: dict[str, Any]) -> None:
    assert verdict({}, **bot) == reason


@pytest.mark.parametrize(("reason", "tick"), TICKS)
def test_a_tick_gets_its_verdict(reason: Reason, tick: dict[str, Any]) -> None:
    assert verdict(tick) == reason


def test_every_verdict_has_an_example() -> None:
    examples = {reason for reason, _ in (*BOTS, *TICKS)} | {Reason.MARKET_UNKNOWN}
    assert examples == set(VERDICTS)


def test_an_unknown_market_buys_nothing() -> None:
    for rules in (None, replace(RULES, lot_step=Decimal(0)), replace(RULES, price_tick=Decimal(0))):
        table = new_table()
        table.put(bot_row())
        decisions = decide(table, tick_with(), now_ms=NOW_MS, rules=rules)
        assert decisions.verdicts == {Reason.MARKET_UNKNOWN: 1}
        assert decisions.entries == ()


@pytest.mark.parametrize("momentum", [None, -0.5])
def test_a_btc_market_does_not_ask_about_btc(momentum: float | None) -> None:
    table = new_table()
    table.put(bot_row())
    tick = tick_with(pair="BTC/USDT", btc_momentum_1h=momentum)
    assert decide(table, tick, now_ms=NOW_MS, rules=RULES).verdicts == {Reason.ENTRY_SIGNAL: 1}


@pytest.mark.parametrize(
    ("limits", "fits"),
    [
        # 600 to spend at 2,000.25 buys 0.29996, worth 599.99499.
        ({"min_quantity": Decimal("0.29996")}, True),
        ({"min_quantity": Decimal("0.29997")}, False),
        ({"min_notional": Decimal("599.99499")}, True),
        ({"min_notional": Decimal("599.99500")}, False),
        ({"lot_step": Decimal("0.29997")}, False),
    ],
)
def test_an_order_meets_the_venues_minima_exactly(limits: dict[str, Decimal], fits: bool) -> None:
    table = new_table()
    table.put(bot_row())
    decisions = decide(table, tick_with(), now_ms=NOW_MS, rules=replace(RULES, **limits))
    assert [decision.quantity for decision in decisions.entries] == [Decimal("0.29996")] * fits


def test_an_entry_carries_what_its_intent_needs() -> None:
    table = new_table()
    table.put(bot_row(8, user_id=5, last_sequence=3, profile={"min_adx": 26.5}))
    (entry,) = decide(table, tick_with(), now_ms=NOW_MS, rules=RULES).entries
    assert (entry.bot_id, entry.user_id, entry.shard, entry.mode) == (8, 5, 7, Mode.PAPER)
    assert (entry.leg, entry.reason, entry.regime) == (Leg.ENTRY, Reason.ENTRY_SIGNAL, Regime.WEAK)
    assert (entry.position_sequence, entry.position_version, entry.attempt) == (4, 0, 0)
    assert (entry.decided_price, entry.taker_fee) == (Decimal("2000.25"), Decimal("0.001"))
    assert entry.facts["tick"]["sequence"] == 1841
    assert entry.facts["indicators"]["adx"] == 27.0
    assert entry.facts["thresholds"]["min_adx"] == 26.5
    assert table.accounts.bots.free[0] == pytest.approx(
        1000 - 0.29996 * 2000.25 * 1.003 * 1.001, abs=1e-9
    )


def test_users_reach_their_limit_in_the_order_of_bot_ids() -> None:
    table = new_table()
    for bot_id in (9, 2, 5):
        table.put(bot_row(bot_id, user_id=1, max_open_positions=2))
    decisions = decide(table, tick_with(), now_ms=NOW_MS, rules=RULES)
    assert [entry.bot_id for entry in decisions.entries] == [2, 5]
    assert decisions.verdicts == {Reason.ENTRY_SIGNAL: 2, Reason.USER_POSITION_LIMIT: 1}


def test_stages_and_checks_stand_in_the_order_of_the_reasons() -> None:
    assert tuple(STAGES) == RISK_FILTER
    assert [check.reason for check in CHECKS] == [
        reason for reason in Reason if reason.stage in RISK_FILTER
    ]
    assert all(check.reason.stage is stage for stage in STAGES for check in STAGES[stage])
    assert [rule.reason for rule in EXIT_RULES] == [
        reason for reason in Reason if reason.stage == "exit"
    ]


def test_a_nan_threshold_denies() -> None:
    for check in CHECKS:
        for name in check.thresholds:
            if name.startswith("profit_target") and name != "profit_target_weak":
                continue
            table = new_table()
            table.put(bot_row())
            table.threshold(name, slice(0, 1))[:] = np.nan
            tick = tick_with(momentum_1h=0.001, volume_ratio=1.31)
            if check.reason in (Reason.PANIC_SELLING, Reason.NO_MOMENTUM):
                # Two conditions: one that cannot be judged leaves the other to decide.
                tick = tick_with(momentum_1h=-0.01, volume_ratio=3.1)
            decisions = decide(table, tick, now_ms=NOW_MS, rules=RULES)
            assert decisions.entries == (), name


EXITS = [
    (None, 2010.0, {}),
    (Reason.OPERATOR_EXIT, 2010.0, {"status": "stopping"}),
    (None, 2010.0, {"status": "stopping", "all_off": True}),
    (Reason.EMERGENCY_STOP, 1880.0, {}),
    (Reason.EARLY_LOSS, 1972.0, {}),
    (None, 1976.0, {}),
    (Reason.EARLY_LOSS, 1972.0, {"age_ms": 300_000}),
    (None, 1972.0, {"age_ms": 300_001}),
    (Reason.EARLY_LOSS, 1962.0, {"age_ms": 900_000}),
    (None, 1962.0, {"age_ms": 900_001}),
    (Reason.EARLY_LOSS, 1952.0, {"age_ms": 1_800_000}),
    (None, 1952.0, {"age_ms": 1_800_001}),
    (Reason.EARLY_LOSS, 1932.0, {"age_ms": 10_800_000}),
    (None, 1932.0, {"age_ms": 10_800_001}),
    (Reason.EARLY_LOSS, 1913.0, {"age_ms": 10_800_001}),
    (Reason.EROSION_CAP, 2017.0, {"peak": 0.01}),
    (None, 2019.0, {"peak": 0.01}),
    (None, 2005.0, {"peak": 0.0049}),
    (None, 2003.0, {"peak": 0.01}),
    (Reason.PROFIT_TARGET, 2095.0, {}),
    (None, 2095.0, {"regime": Regime.STRONG}),
    (Reason.PROFIT_TARGET, 2045.0, {"regime": Regime.CHOPPY}),
    (Reason.PROFIT_TARGET, 2045.0, {"regime": None}),
    (None, 2095.0, {"status": "inactive"}),
    (Reason.PROFIT_TARGET, 2095.0, {"status": "paused"}),
    (Reason.PROFIT_TARGET, 2095.0, {"entries_off": True}),
    (None, 2095.0, {"unsettled": True}),
    (Reason.PROFIT_TARGET, 2095.0, {"status": "asleep"}),
    (None, 2095.0, {"mode": "imaginary"}),
    *(
        (None, 2095.0, {"in_mode": Mode.LIVE, "mode": mode, "key": KEYS[key]})
        for mode in Mode
        for key in ("missing", "in trouble")
    ),
    (Reason.PROFIT_TARGET, 2095.0, {"in_mode": Mode.LIVE, "key": KEYS["not live"]}),
    (Reason.PROFIT_TARGET, 2095.0, {"mode": "live", "key": KEYS["in trouble"]}),
    (None, math.nan, {"status": "stopping"}),
    (None, math.inf, {}),
    (None, 0.0, {}),
]


@pytest.mark.parametrize(("reason", "bid", "changes"), EXITS)
def test_an_open_position_is_sold_for_a_reason(
    reason: Reason | None, bid: float, changes: dict[str, Any]
) -> None:
    changes = dict(changes)
    in_position = {name: changes.pop(name) for name in ("peak", "regime") if name in changes}
    position = open_position(
        opened_market_ms=MARKET_MS - changes.pop("age_ms", 60_000),
        mode=changes.pop("in_mode", Mode.PAPER),
        **in_position,
    )
    table = new_table()
    table.put(bot_row(position=position, **changes))
    # However stale: exits do not ask for the tick's age.
    tick = tick_with(bid=bid, observed_at_ms=0)
    decisions = decide(table, tick, now_ms=NOW_MS, rules=RULES)
    assert [decision.reason for decision in decisions.exits] == ([reason] if reason else [])
    for decision in decisions.exits:
        assert decision.quantity == Decimal("0.3")
        assert decision.decided_price == Decimal(str(bid))
        assert (decision.position_sequence, decision.position_version) == (4, 2)


def test_explain_shows_each_threshold_beside_its_value() -> None:
    table = new_table()
    table.put(bot_row(profile={"min_adx": 30}))
    results = explain(table, 0, tick_with(), NOW_MS)
    adx = next(result for result in results if result.reason is Reason.ADX_BELOW_MINIMUM)
    assert (adx.value, adx.comparison, adx.threshold, adx.passed) == (27.0, "below", 30.0, False)
    assert [result.reason for result in results if not result.passed] == [adx.reason]
    assert {result.stage for result in results} == set(RISK_FILTER)
    assert verdict_of(table, 0) is None


def test_explain_shows_what_an_open_position_waits_for() -> None:
    table = new_table()
    table.put(bot_row(position=open_position(peak=0.01)))
    results = explain_exit(table, 0, tick_with(bid=2010.0))
    shown = {result.threshold_name: result.threshold for result in results}
    assert shown["early_loss_5m"] == -0.015
    assert shown["profit_target_weak"] == 0.045
    assert shown["erosion_cap"] == 0.3
    assert {result.reason for result in results if not result.passed} == {Reason.EROSION_CAP}
    assert table.peak[0] == 0.01
