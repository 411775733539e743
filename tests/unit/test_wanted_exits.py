"""A position that a person wants sold is sold at the next tick, and only that one."""

from dataclasses import replace
from decimal import Decimal

import pytest

from shared.orders import BotStatus, Mode, PositionStatus
from trade_worker.accounts import Accounts
from trade_worker.bot_row import BotRow, PositionSnapshot
from trade_worker.bot_table import BotTable
from trade_worker.row_state import Flag, Phase

POSITION = PositionSnapshot(
    sequence=3,
    version=1,
    status=PositionStatus.OPEN,
    mode=Mode.PAPER,
    average_entry=100.0,
    cost=100.0,
    held=Decimal(1),
    opened_market_ms=1_000,
)
BOT = BotRow(
    bot_id=7,
    user_id=1,
    shard=0,
    status=BotStatus.ACTIVE,
    mode="paper",
    capital=1_000.0,
    taker_fee=0.004,
    last_sequence=3,
    position=POSITION,
)
WANTED = replace(BOT, position=replace(POSITION, exit_wanted=True))


@pytest.fixture
def table() -> BotTable:
    table = BotTable("kraken", "BTC/USD", Accounts())
    table.put(BOT)
    return table


def is_to_be_sold(table: BotTable) -> bool:
    return bool(table.flags[0] & Flag.SELL)


def test_a_loaded_position_that_is_wanted_sold_is_marked() -> None:
    table = BotTable("kraken", "BTC/USD", Accounts())
    table.put(WANTED)
    assert is_to_be_sold(table)


def test_a_wish_is_followed_while_the_bot_stays_active(table: BotTable) -> None:
    assert not is_to_be_sold(table)
    table.put(WANTED)
    assert is_to_be_sold(table)
    assert not table.flags[0] & Flag.NOT_ACTIVE


def test_a_wish_also_sells_what_an_inactive_bot_keeps(table: BotTable) -> None:
    table.put(replace(BOT, status=BotStatus.INACTIVE))
    assert table.flags[0] & Flag.EXITS_OFF
    table.put(replace(WANTED, status=BotStatus.INACTIVE))
    assert is_to_be_sold(table)
    assert not table.flags[0] & Flag.EXITS_OFF


def test_a_wish_survives_an_exit_that_sold_nothing(table: BotTable) -> None:
    table.put(WANTED)
    table.exit_decided(0)
    table.exit_ended_unfilled(
        7, sequence=3, attempt=0, version=2, held=Decimal(1), market_time_ms=2_000
    )
    assert table.phase[0] == Phase.OPEN
    assert is_to_be_sold(table)


def test_the_next_position_is_not_meant(table: BotTable) -> None:
    table.put(WANTED)
    table.exit_decided(0)
    table.exit_filled(7, sequence=3, realised=1.0, market_time_ms=2_000)
    assert not is_to_be_sold(table)
    table.entry_decided(0, reserve=100.0)
    assert not is_to_be_sold(table)


def test_a_wish_read_before_the_position_was_sold_comes_too_late(table: BotTable) -> None:
    table.exit_decided(0)
    table.exit_filled(7, sequence=3, realised=1.0, market_time_ms=2_000)
    table.put(WANTED)
    assert not is_to_be_sold(table)
    table.entry_decided(0, reserve=100.0)
    table.put(WANTED)
    assert not is_to_be_sold(table)


def test_an_entry_that_is_under_way_is_sold_once_it_has_filled(table: BotTable) -> None:
    table.exit_decided(0)
    table.exit_filled(7, sequence=3, realised=1.0, market_time_ms=2_000)
    table.entry_decided(0, reserve=100.0)
    opened = replace(POSITION, sequence=4)
    table.put(replace(BOT, position=replace(opened, exit_wanted=True)))
    table.entry_filled(7, opened)
    assert is_to_be_sold(table)


def test_an_entry_that_is_under_way_and_ends_unfilled_leaves_no_wish(table: BotTable) -> None:
    table.exit_decided(0)
    table.exit_filled(7, sequence=3, realised=1.0, market_time_ms=2_000)
    table.entry_decided(0, reserve=100.0)
    table.put(replace(BOT, position=replace(POSITION, sequence=4, exit_wanted=True)))
    table.entry_ended_unfilled(7, sequence=4, market_time_ms=2_000)
    assert not is_to_be_sold(table)
