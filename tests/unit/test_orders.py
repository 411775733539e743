"""The pure state machine of orders and positions, and what fills add up to."""

from decimal import Decimal
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.orders import (
    TRANSITIONS,
    UNSETTLED,
    Fill,
    Leg,
    OrderStatus,
    client_order_id,
    totals_of,
)

NAMESPACE = UUID("6ba7b810-9dad-11d1-80b4-00c04fd430c8")

amounts = st.decimals(min_value="1e-8", max_value="1e9", places=8)
fills = st.builds(
    Fill,
    client_order_id=st.sampled_from(["a", "b"]),
    trade_id=st.text(min_size=1, max_size=6),
    leg=st.sampled_from(Leg),
    quantity=amounts,
    price=amounts,
    fee=amounts,
    fee_currency=st.just("USD"),
    at_ms=st.just(0),
)


def test_every_status_has_its_transitions_and_settled_ones_have_none() -> None:
    assert set(TRANSITIONS) == set(OrderStatus)
    assert {
        OrderStatus.COMMITTED,
        OrderStatus.OPEN,
        OrderStatus.UNKNOWN,
    } == UNSETTLED


def test_an_unknown_order_is_never_sent_again() -> None:
    assert OrderStatus.COMMITTED not in {
        later for laters in TRANSITIONS.values() for later in laters
    }


def test_only_an_unknown_order_can_turn_out_not_placed() -> None:
    before = {status for status, later in TRANSITIONS.items() if OrderStatus.NOT_PLACED in later}
    assert before == {OrderStatus.UNKNOWN}


@given(st.lists(fills, max_size=8), st.randoms(use_true_random=False))
def test_repeated_and_reordered_fills_change_nothing(trades: list[Fill], random: object) -> None:
    distinct = list({(fill.client_order_id, fill.trade_id): fill for fill in trades}.values())
    shuffled = distinct + distinct
    random.shuffle(shuffled)  # type: ignore[attr-defined]
    assert totals_of(shuffled, pair="BTC/USD") == totals_of(distinct, pair="BTC/USD")


def test_totals_by_hand() -> None:
    def fill(trade: str, leg: Leg, quantity: str, price: str, fee: str) -> Fill:
        return Fill(
            client_order_id="x",
            trade_id=trade,
            leg=leg,
            quantity=Decimal(quantity),
            price=Decimal(price),
            fee=Decimal(fee),
            fee_currency="USD",
            at_ms=0,
        )

    totals = totals_of(
        [
            fill("1", Leg.ENTRY, "0.3", "100.01", "0.12"),
            fill("2", Leg.ENTRY, "0.7", "100.02", "0.28"),
            fill("3", Leg.EXIT, "0.6", "110", "0.264"),
        ],
        pair="BTC/USD",
    )
    assert totals.entry_cost == Decimal("100.017")
    assert totals.exit_proceeds == Decimal("66.0")
    assert totals.held == Decimal("0.4")
    assert totals.fees == Decimal("0.664")
    assert totals.realised_pnl == Decimal("-34.681")


def test_sums_keep_every_digit() -> None:
    tiny, huge = Decimal("1e-18"), Decimal(123456789012345678)
    legs = [
        Fill(
            client_order_id="x",
            trade_id=str(number),
            leg=Leg.ENTRY,
            quantity=quantity,
            price=Decimal("1.000000000000000001"),
            fee=Decimal(0),
            fee_currency="USD",
            at_ms=0,
        )
        for number, quantity in enumerate((tiny, huge))
    ]
    totals = totals_of(legs, pair="BTC/USD")
    assert totals.entry_quantity == Decimal("123456789012345678.000000000000000001")
    assert totals.entry_cost == Decimal("123456789012345678.123456789012345679000000000000000001")


def test_a_client_order_id_is_32_hexadecimal_digits_and_repeats() -> None:
    def id_of(**changes: object) -> str:
        order = {
            "bot_id": 7,
            "pair": "BTC/USD",
            "position_sequence": 1,
            "leg": Leg.ENTRY,
            "attempt": 0,
        } | changes
        return client_order_id(NAMESPACE, **order)  # type: ignore[arg-type]

    assert id_of() == id_of()
    assert len(id_of()) == 32
    int(id_of(), 16)
    others: dict[str, object] = {
        "bot_id": 8,
        "pair": "ETH/USD",
        "position_sequence": 2,
        "leg": Leg.EXIT,
        "attempt": 1,
    }
    ids = {id_of(), *(id_of(**{name: value}) for name, value in others.items())}
    assert len(ids) == 6


@pytest.mark.parametrize("leg", Leg)
def test_entries_buy_and_exits_sell(leg: Leg) -> None:
    assert leg.side == {"entry": "buy", "exit": "sell"}[leg]
