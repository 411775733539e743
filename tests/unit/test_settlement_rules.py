"""What news makes of an order, and fills of a position, without a database."""

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.money import MarketRules
from shared.orders import TRANSITIONS, Leg, OrderStatus, PositionStatus, PositionTotals
from shared.settlement_rules import position_after, status_after

COMMITTED, OPEN, UNKNOWN = OrderStatus.COMMITTED, OrderStatus.OPEN, OrderStatus.UNKNOWN
FILLED, CANCELLED, EXPIRED = OrderStatus.FILLED, OrderStatus.CANCELLED, OrderStatus.EXPIRED
REJECTED, NOT_PLACED = OrderStatus.REJECTED, OrderStatus.NOT_PLACED
FINAL = (FILLED, CANCELLED, EXPIRED, REJECTED)

RULES = MarketRules(
    lot_step=Decimal("0.001"),
    price_tick=Decimal("0.1"),
    min_quantity=Decimal("0.01"),
    min_notional=Decimal(5),
)

statuses = st.sampled_from(OrderStatus)
amounts = st.integers(0, 3).map(Decimal)


def after(
    now: OrderStatus,
    told: OrderStatus,
    executed: int | None = 0,
    filled: int = 0,
    *,
    blocked: bool = False,
) -> OrderStatus:
    return status_after(
        now,
        told,
        executed=None if executed is None else Decimal(executed),
        filled=Decimal(filled),
        blocked=blocked,
    )


@pytest.mark.parametrize(
    ("now", "told", "executed", "filled", "then"),
    [
        (COMMITTED, OPEN, 0, 0, OPEN),
        (COMMITTED, UNKNOWN, None, 0, UNKNOWN),
        (COMMITTED, FILLED, 1, 1, FILLED),
        (COMMITTED, REJECTED, None, 0, REJECTED),
        (COMMITTED, EXPIRED, None, 0, EXPIRED),
        (COMMITTED, NOT_PLACED, None, 0, NOT_PLACED),
        (UNKNOWN, NOT_PLACED, None, 0, NOT_PLACED),
        (UNKNOWN, CANCELLED, 0, 0, CANCELLED),
        (UNKNOWN, CANCELLED, 1, 1, CANCELLED),
        (OPEN, UNKNOWN, None, 0, OPEN),
        (OPEN, NOT_PLACED, None, 0, OPEN),
        (OPEN, REJECTED, None, 0, OPEN),
        (NOT_PLACED, UNKNOWN, None, 0, NOT_PLACED),
        (NOT_PLACED, FILLED, 1, 1, FILLED),
        (NOT_PLACED, OPEN, 0, 0, OPEN),
        # What was executed and what is known of it differ: it is asked for again.
        (COMMITTED, FILLED, 2, 1, OPEN),
        (UNKNOWN, CANCELLED, 1, 2, OPEN),
        (UNKNOWN, FILLED, None, 1, OPEN),
        (UNKNOWN, CANCELLED, None, 0, OPEN),
        (UNKNOWN, FILLED, 0, 0, OPEN),
        (UNKNOWN, REJECTED, None, 1, OPEN),
        (UNKNOWN, NOT_PLACED, 0, 1, OPEN),
        (NOT_PLACED, CANCELLED, 2, 1, OPEN),
    ],
)
def test_news_moves_an_order(
    now: OrderStatus, told: OrderStatus, executed: int | None, filled: int, then: OrderStatus
) -> None:
    assert after(now, told, executed, filled) is then


@given(st.sampled_from(FINAL), statuses, st.none() | amounts, amounts, st.booleans())
def test_an_end_stays(
    now: OrderStatus, told: OrderStatus, executed: Decimal | None, filled: Decimal, blocked: bool
) -> None:
    then = status_after(now, told, executed=executed, filled=filled, blocked=blocked)
    assert then is now


@given(statuses, statuses, st.none() | amounts, amounts, st.booleans())
def test_no_transition_is_made_that_does_not_exist(
    now: OrderStatus, told: OrderStatus, executed: Decimal | None, filled: Decimal, blocked: bool
) -> None:
    then = status_after(now, told, executed=executed, filled=filled, blocked=blocked)
    via_unknown = TRANSITIONS[UNKNOWN] if now is COMMITTED else frozenset()
    assert then is now or then in TRANSITIONS[now] | via_unknown


@given(statuses, statuses, st.none() | amounts, amounts)
def test_an_end_is_only_reached_with_every_fill(
    now: OrderStatus, told: OrderStatus, executed: Decimal | None, filled: Decimal
) -> None:
    then = status_after(now, told, executed=executed, filled=filled, blocked=False)
    if then is not now and then in {*FINAL, NOT_PLACED}:
        assert filled == (executed or 0)


def test_beside_another_unsettled_order_a_late_one_only_ends() -> None:
    assert after(NOT_PLACED, OPEN, blocked=True) is NOT_PLACED
    assert after(NOT_PLACED, FILLED, 2, 1, blocked=True) is NOT_PLACED
    assert after(NOT_PLACED, FILLED, 1, 1, blocked=True) is FILLED


def totals(bought: str, sold: str = "0", fee_quantity: str = "0") -> PositionTotals:
    return PositionTotals(
        entry_quantity=Decimal(bought),
        entry_cost=Decimal(bought) * 100,
        exit_quantity=Decimal(sold),
        exit_proceeds=Decimal(sold) * 110,
        fees=Decimal(0),
        fee_quantity=Decimal(fee_quantity),
    )


OPENING, HELD = PositionStatus.OPENING, PositionStatus.OPEN
CLOSING, CLOSED = PositionStatus.CLOSING, PositionStatus.CLOSED


@pytest.mark.parametrize(
    ("now", "of", "waits_for", "then", "dust"),
    [
        (OPENING, totals("0"), Leg.ENTRY, OPENING, "0"),
        (OPENING, totals("1"), Leg.ENTRY, OPENING, "0"),
        (OPENING, totals("1"), None, HELD, "0"),
        (OPENING, totals("0"), None, CLOSED, "0"),
        (CLOSING, totals("1", "1"), Leg.EXIT, CLOSING, "0"),
        (CLOSING, totals("1", "1"), None, CLOSED, "0"),
        (CLOSING, totals("1", "0.4"), None, HELD, "0"),
        (HELD, totals("1"), Leg.EXIT, CLOSING, "0"),
        (HELD, totals("1", "2"), None, CLOSED, "0"),
        (CLOSED, totals("1"), None, CLOSED, "1"),
        (CLOSED, totals("1", "3"), None, CLOSED, "0"),
        (CLOSED, totals("1"), Leg.ENTRY, CLOSED, "1"),
        (CLOSING, totals("1", "0.999", "0.001"), None, CLOSED, "0"),
        # 0.05 at 100 are the 5 that the venue wants at least, 0.0509 are 0.05 in whole lots.
        (CLOSING, totals("1", "0.95"), None, HELD, "0"),
        (CLOSING, totals("1", "0.9491"), None, HELD, "0"),
        (CLOSING, totals("1", "0.951"), None, CLOSED, "0.049"),
        (CLOSING, totals("1", "0.9509"), None, CLOSED, "0.0491"),
    ],
)
def test_a_position_is_what_its_totals_say(
    now: PositionStatus,
    of: PositionTotals,
    waits_for: Leg | None,
    then: PositionStatus,
    dust: str,
) -> None:
    outcome = position_after(now, of, waits_for=waits_for, rules=RULES, price=Decimal(100))
    assert outcome == (then, Decimal(dust))


def test_where_the_rules_are_unknown_everything_can_be_sold() -> None:
    tiny = totals("0.00000001")
    outcome = position_after(OPENING, tiny, waits_for=None, rules=None, price=Decimal(100))
    assert outcome == (HELD, Decimal(0))
