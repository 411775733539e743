"""Rows that trade for real: which mode, which key, what is sold, at which limit, how often."""

from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import MarketRules
from shared.orders import Mode, PositionStatus, Side
from tests.unit.fleet import (
    MARKET_MS,
    NOW_MS,
    RULES,
    bot_row,
    new_table,
    open_position,
    tick_with,
)
from trade_worker.bot_table import BotTable
from trade_worker.decide import Decision, decide
from trade_worker.limit_price import limit_price
from trade_worker.row_state import Flag, Key, Phase

READY: Final = Key(31, live=True, in_trouble=False)
PROFIT: Final[dict[str, Any]] = {"bid": 2095.0}
CRASH: Final[dict[str, Any]] = {"bid": 1880.0}


def live_row(bot_id: int = 1, **changes: Any) -> Any:
    return bot_row(bot_id, **{"mode": "live", "key": READY, **changes})


def live_position(**changes: Any) -> Any:
    return open_position(**{"mode": Mode.LIVE, **changes})


def table_with(*rows: Any) -> BotTable:
    table = new_table()
    for row in rows:
        assert table.put(row) == ()
    return table


def decided(
    table: BotTable, *, rules: MarketRules | None = RULES, **tick: Any
) -> tuple[Decision, ...]:
    decisions = decide(table, tick_with(**tick), now_ms=NOW_MS, rules=rules)
    return (*decisions.exits, *decisions.entries)


def end_exit(table: BotTable, attempt: int) -> bool:
    return table.exit_ended_unfilled(
        1, sequence=4, attempt=attempt, version=9, held=Decimal("0.3"), market_time_ms=0
    )


# What an order needs to know


def test_a_live_entry_names_its_key_and_its_limit() -> None:
    (entry,) = decided(table_with(live_row()))
    assert (entry.mode, entry.credential_id) == (Mode.LIVE, 31)
    assert (entry.decided_price, entry.limit_price) == (Decimal("2000.25"), Decimal("2006.25"))
    assert not entry.at_market


def test_a_paper_entry_has_neither() -> None:
    (entry,) = decided(table_with(live_row(mode="paper")))
    assert (entry.mode, entry.credential_id, entry.limit_price) == (Mode.PAPER, 0, None)


def test_what_is_bought_for_real_could_still_be_sold_after_fee_and_loss() -> None:
    """1,000.125 buys 0.5 at 2,000.25; 0.4995 of it are left after 0.1 %."""
    small = replace(RULES, min_quantity=Decimal("0.4996"), lot_step=Decimal("0.0001"))
    profile = {"stake_fraction": 1.0, "size_weak": 1.0, "max_slippage": 0.0001}
    for mode, entries in ((Mode.PAPER, 1), (Mode.LIVE, 0)):
        row = live_row(mode=mode, capital=1001.3, profile=profile)
        found = decided(table_with(row), rules=small)
        assert [each.quantity for each in found] == [Decimal("0.5")] * entries


def test_a_live_exit_has_a_limit_the_third_and_the_emergency_stop_go_at_market() -> None:
    for attempts, tick, at_market in ((0, PROFIT, False), (1, PROFIT, False), (2, PROFIT, True)):
        table = table_with(live_row(position=live_position(exit_attempts=attempts)))
        (exit_,) = decided(table, **tick)
        assert (exit_.attempt, exit_.credential_id) == (attempts, 31)
        assert exit_.at_market == at_market
        assert exit_.limit_price == (None if at_market else Decimal("2088.72"))
    (exit_,) = decided(table_with(live_row(position=live_position())), **CRASH)
    assert (exit_.at_market, exit_.limit_price) == (True, None)


def test_live_sells_whole_lots_and_leaves_dust_alone() -> None:
    held = Decimal("0.2996999")
    for lot_step, quantity in (("0.00001", "0.29969"), ("0.1", "0.2"), ("1", None)):
        rules = replace(RULES, lot_step=Decimal(lot_step))
        table = table_with(live_row(position=live_position(held=held)))
        found = decided(table, rules=rules, **PROFIT)
        assert [each.quantity for each in found] == ([Decimal(quantity)] if quantity else [])
        assert table.phase[0] == (Phase.EXITING if quantity else Phase.OPEN)
        table = table_with(live_row(position=open_position(held=held)))
        assert [each.quantity for each in decided(table, rules=rules, **PROFIT)] == [held]


@given(
    decided_ticks=st.integers(1, 10**9),
    tick=st.sampled_from(["0.01", "0.5", "0.00000001", "3"]),
    slippage=st.decimals(0, Decimal("0.1"), places=5),
    side=st.sampled_from(list(Side)),
)
def test_a_limit_is_on_the_tick_and_never_beyond_the_slippage(
    decided_ticks: int, tick: str, slippage: Decimal, side: Side
) -> None:
    rules = replace(RULES, price_tick=Decimal(tick))
    price = decided_ticks * rules.price_tick
    limit = limit_price(price, side, max_slippage=slippage, rules=rules)
    assert limit % rules.price_tick == 0
    if side is Side.BUY:
        assert price <= limit <= price * (1 + slippage)
    else:
        assert price >= limit >= price * (1 - slippage)
    assert abs(limit - price * (1 + slippage if side is Side.BUY else 1 - slippage)) < Decimal(tick)


def test_a_limit_where_the_rules_are_not_known_is_exact() -> None:
    limit = limit_price(Decimal("2000.25"), Side.BUY, max_slippage=Decimal("0.003"), rules=None)
    assert limit == Decimal("2006.25075")


# Which mode


@pytest.mark.parametrize("wanted", list(Mode))
def test_a_changed_mode_waits_until_the_row_is_flat(wanted: Mode) -> None:
    held = Mode.PAPER if wanted is Mode.LIVE else Mode.LIVE
    table = table_with(live_row(mode=held, position=open_position(mode=held)))
    table.put(live_row(mode=wanted))
    (exit_,) = decided(table, **PROFIT)
    assert exit_.mode is held
    assert table.exit_filled(1, sequence=4, realised=1.0, market_time_ms=0)
    (entry,) = decided(table)
    assert entry.mode is wanted
    assert entry.credential_id == (31 if wanted is Mode.LIVE else 0)


def test_a_flat_row_takes_its_new_mode_at_once_and_an_entering_one_when_it_is_dropped() -> None:
    table = table_with(live_row(mode="paper"))
    table.put(live_row())
    assert [each.mode for each in decided(table)] == [Mode.LIVE]
    table.put(live_row(mode="paper"))
    assert table.live[0]
    assert table.entry_dropped(1)
    assert [each.mode for each in decided(table)] == [Mode.PAPER]


def test_a_key_that_cannot_be_used_keeps_live_positions_only() -> None:
    table = table_with(live_row(position=live_position()))
    table.put(live_row(mode="paper", key=None))
    assert decided(table, **PROFIT) == ()
    table.put(live_row(mode="paper", key=READY))
    table.exit_decided(0)
    table.put(live_row(mode="paper", key=None))
    assert table.flags[0] & Flag.KEY_UNUSABLE
    assert table.exit_filled(1, sequence=4, realised=1.0, market_time_ms=0)
    (entry,) = decided(table)
    assert table.entry_filled(1, open_position(sequence=5, opened_market_ms=MARKET_MS))
    assert entry.mode is Mode.PAPER
    (exit_,) = decided(table, **PROFIT)
    assert (exit_.mode, exit_.position_sequence) == (Mode.PAPER, 5)


def test_exits_go_on_with_the_key_that_replaced_another() -> None:
    table = table_with(live_row(position=live_position()))
    table.put(live_row(key=READY._replace(id=32)))
    assert [each.credential_id for each in decided(table, **PROFIT)] == [32]


# Rows that were loaded while their order was on its way


def test_a_loaded_entry_that_fills_is_open_and_can_be_sold() -> None:
    opening = live_position(status=PositionStatus.OPENING, held=Decimal(0), cost=600.0)
    table = table_with(live_row(position=opening, unsettled=True, last_sequence=4))
    assert table.accounts.bots.free[0] == 400.0
    filled = live_position(version=2, cost=300.0)
    assert not table.entry_filled(1, replace(filled, sequence=3))
    assert table.entry_filled(1, filled)
    assert table.accounts.bots.free[0] == 700.0
    (exit_,) = decided(table, **PROFIT)
    assert (exit_.position_sequence, exit_.position_version, exit_.attempt) == (4, 2, 0)


def test_a_loaded_entry_that_fails_frees_its_row() -> None:
    opening = live_position(status=PositionStatus.OPENING, held=Decimal(0), cost=600.0)
    table = table_with(live_row(position=opening, unsettled=True, last_sequence=4))
    assert not table.entry_ended_unfilled(1, sequence=3, market_time_ms=0)
    assert table.entry_ended_unfilled(1, sequence=4, market_time_ms=0)
    assert table.accounts.bots.free[0] == 1000.0
    (entry,) = decided(table)
    assert entry.position_sequence == 5


def closing(attempts: int) -> BotTable:
    position = live_position(status=PositionStatus.CLOSING, exit_attempts=attempts, version=5)
    return table_with(live_row(position=position, unsettled=True, last_sequence=4))


def test_a_loaded_exit_that_sold_nothing_is_followed_by_the_next_attempt() -> None:
    table = closing(attempts=2)  # 0, which ended, and 1, which is on its way
    assert not end_exit(table, attempt=0)
    assert end_exit(table, attempt=1)
    assert not end_exit(table, attempt=1)
    (exit_,) = decided(table, **PROFIT)
    assert (exit_.attempt, exit_.position_version) == (2, 9)


def test_a_loaded_exit_that_filled_leaves_a_flat_row() -> None:
    position = live_position(
        status=PositionStatus.CLOSING, exit_attempts=1, held=Decimal(0), version=5
    )
    table = table_with(live_row(position=position, unsettled=True, last_sequence=4))
    assert not table.exit_filled(1, sequence=3, realised=7.0, market_time_ms=0)
    assert table.exit_filled(1, sequence=4, realised=7.0, market_time_ms=0)
    assert table.accounts.bots.free[0] == 1007.0
    assert [each.position_sequence for each in decided(table)] == [5]


def test_an_unsettled_order_beside_an_open_row_blocks_it_until_it_is_loaded_again() -> None:
    table = table_with(live_row(position=live_position(), unsettled=True))
    assert decided(table, **PROFIT) == ()
    table.set_unsettled(1, False)
    assert len(decided(table, **PROFIT)) == 1


# How often


def test_exits_that_were_dropped_before_they_were_committed_do_not_count() -> None:
    table = table_with(live_row(position=live_position()))
    for attempt in (0, 1, 2):
        for never_committed in (table.exit_dropped, None):
            (exit_,) = decided(table, **PROFIT)
            assert exit_.attempt == attempt
            if never_committed is not None:
                assert never_committed(1)
        assert end_exit(table, attempt)


def test_what_the_database_refuses_waits_and_gets_another_id() -> None:
    table = table_with(live_row(position=live_position(exit_attempts=1)))
    assert len(decided(table, **PROFIT)) == 1
    assert table.exit_denied(1, market_time_ms=MARKET_MS)
    assert decided(table, **PROFIT) == ()
    assert table.not_before_ms[0] == MARKET_MS + 10_000
    (exit_,) = decided(table, market_time_ms=MARKET_MS + 10_000, **PROFIT)
    assert exit_.attempt == 2
