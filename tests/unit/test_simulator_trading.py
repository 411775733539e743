"""The simulated venues' engine: what fills, at what price, what it costs, what is refused."""

import re
from decimal import Decimal
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ecosystem.venue_simulator.accounts import ApiKey, key_of
from ecosystem.venue_simulator.orders import OrderRefused, RefusalKind, VenueOrderStatus
from tests.unit.venue_desk import START_MS, VenueDesk, free, request, spoiled

D = Decimal


def key_at(desk: VenueDesk, venue: str, **fields: Any) -> ApiKey:
    accounts = desk.customers.accounts
    key = key_of({"venue": venue, **fields}, accounts)
    accounts.add(key)
    return key


@pytest.fixture
def desk() -> VenueDesk:
    return VenueDesk()


@pytest.fixture
def kraken(desk: VenueDesk) -> ApiKey:
    return key_at(desk, "kraken", balances={"USD": "10000", "BTC": "1"})


@pytest.fixture
def binance(desk: VenueDesk) -> ApiKey:
    return key_at(desk, "binance", balances={"USDT": "10000"})


def refusal(desk: VenueDesk, key: ApiKey, **fields: Any) -> RefusalKind:
    with pytest.raises(OrderRefused) as refused:
        desk.place(key, **fields)
    return refused.value.kind


def test_market_buy_pays_the_ask_and_its_fee_in_the_quote(desk: VenueDesk, kraken: ApiKey) -> None:
    order = desk.placed(kraken)
    assert order.status is VenueOrderStatus.FILLED
    (trade,) = order.trades
    assert (trade.price, trade.quantity) == (D("60030"), D("0.01"))
    assert (trade.fee, trade.fee_currency) == (D("2.4012"), "USD")
    assert free(kraken.account, ["USD", "BTC"]) == [D("9397.2988"), D("1.01")]
    assert kraken.account.balance("USD").held == 0


def test_binance_takes_the_fee_of_a_buy_from_the_coin(desk: VenueDesk, binance: ApiKey) -> None:
    (trade,) = desk.placed(binance, pair="BTC/USDT").trades
    assert (trade.fee, trade.fee_currency) == (D("0.00001"), "BTC")
    assert free(binance.account, ["USDT", "BTC"]) == [D("9399.7"), D("0.00999")]
    # What was bought cannot be sold whole: the fee is missing.
    sell = {"pair": "BTC/USDT", "side": "sell"}
    assert refusal(desk, binance, **sell) is RefusalKind.INSUFFICIENT_FUNDS
    (sold,) = desk.placed(binance, **sell, quantity="0.00999").trades
    assert (sold.price, sold.fee, sold.fee_currency) == (D("59970"), D("0.5991003"), "USDT")
    assert free(binance.account, ["BTC"]) == [D(0)]


def test_fee_asset_pays_while_there_is_enough_of_it(desk: VenueDesk) -> None:
    key = key_at(desk, "binance", balances={"USDT": "10000", "BNB": "0.002"}, fee_asset="BNB")
    first, second = (desk.placed(key, pair="BTC/USDT").trades[0] for _ in range(2))
    # 0.6003 USDT at 550.28 to the BNB.
    assert (first.fee, first.fee_currency) == (D("0.00109089"), "BNB")
    assert second.fee_currency == "BTC"


@pytest.mark.parametrize(
    ("side", "price", "status"),
    [
        ("buy", "60030", VenueOrderStatus.FILLED),
        ("buy", "60029.9", VenueOrderStatus.CANCELLED),
        ("sell", "59970", VenueOrderStatus.FILLED),
        ("sell", "59970.1", VenueOrderStatus.CANCELLED),
    ],
)
def test_limit_is_honoured_to_the_tick(
    desk: VenueDesk, kraken: ApiKey, side: str, price: str, status: VenueOrderStatus
) -> None:
    order = desk.placed(kraken, side=side, price=price)
    assert order.status is status
    assert not kraken.account.balance("USD").held
    assert not kraken.account.balance("BTC").held


def test_better_price_than_the_limit_is_given(desk: VenueDesk, kraken: ApiKey) -> None:
    assert desk.placed(kraken, price="61000").trades[0].price == D("60030")


def test_binance_lets_an_unfilled_ioc_order_expire(desk: VenueDesk, binance: ApiKey) -> None:
    order = desk.placed(binance, pair="BTC/USDT", price="50000")
    assert (order.status, order.trades) == (VenueOrderStatus.EXPIRED, [])


def test_resting_order_holds_its_money_until_the_price_comes(
    desk: VenueDesk, kraken: ApiKey
) -> None:
    trading = desk.tradings["kraken"]
    order = desk.placed(kraken, price="50000", ioc=False)
    usd = kraken.account.balance("USD")
    assert (usd.free, usd.held) == (D("9498"), D("502"))
    desk.price("kraken", "BTC/USD", 49_000.0)
    trading.advance()
    assert order.status is VenueOrderStatus.FILLED
    assert (usd.free, usd.held) == (D("9498"), D("0"))
    assert order.trades[0].is_maker


def test_cancel_gives_the_money_back_and_works_once(desk: VenueDesk, kraken: ApiKey) -> None:
    trading = desk.tradings["kraken"]
    order = desk.placed(kraken, price="50000", ioc=False)
    assert trading.cancel(kraken, order_id=order.order_id).status is VenueOrderStatus.CANCELLED
    assert free(kraken.account, ["USD"]) == [D("10000")]
    with pytest.raises(OrderRefused) as refused:
        trading.cancel(kraken, order_id=order.order_id)
    assert refused.value.kind is RefusalKind.UNKNOWN_ORDER


def test_nobody_cancels_or_sees_what_is_anothers(desk: VenueDesk, kraken: ApiKey) -> None:
    other = key_at(desk, "kraken", balances={"USD": "10000"})
    trading = desk.tradings["kraken"]
    order = desk.placed(kraken, price="50000", ioc=False)
    with pytest.raises(OrderRefused):
        trading.cancel(other, order_id=order.order_id)
    assert trading.orders(other.account) == []
    assert trading.order(other.account, order_id=order.order_id) is None


def test_client_id_is_unique_among_open_orders_only(desk: VenueDesk, kraken: ApiKey) -> None:
    id_ = {"client_order_id": "a" * 32}
    resting = desk.placed(kraken, price="50000", ioc=False, **id_)
    assert refusal(desk, kraken, **id_) is RefusalKind.DUPLICATE_CLIENT_ID
    desk.tradings["kraken"].cancel(kraken, order_id=resting.order_id)
    # A blind second sending IS a second order.
    assert desk.placed(kraken, **id_).order_id != desk.placed(kraken, **id_).order_id
    assert free(kraken.account, ["BTC"]) == [D("1.02")]


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"pair": "ETH/USD"}, RefusalKind.UNKNOWN_PAIR),
        ({"quantity": "0"}, RefusalKind.INVALID_QUANTITY),
        ({"quantity": "-1"}, RefusalKind.INVALID_QUANTITY),
        ({"price": "0"}, RefusalKind.INVALID_PRICE),
        ({"quantity": "0.010000001"}, RefusalKind.LOT_STEP),
        ({"price": "60000.01"}, RefusalKind.PRICE_TICK),
        ({"quantity": "0.00001"}, RefusalKind.MIN_QUANTITY),
        ({"price": "0.1"}, RefusalKind.MIN_NOTIONAL),
        ({"quantity": "1"}, RefusalKind.INSUFFICIENT_FUNDS),
        ({"side": "sell", "quantity": "1.00000001"}, RefusalKind.INSUFFICIENT_FUNDS),
    ],
)
def test_bad_order_is_refused_and_nothing_moves(
    desk: VenueDesk, kraken: ApiKey, fields: dict[str, Any], kind: RefusalKind
) -> None:
    assert refusal(desk, kraken, **fields) is kind
    assert free(kraken.account, ["USD", "BTC"]) == [D("10000"), D("1")]
    assert desk.tradings["kraken"].orders(kraken.account) == []


def test_money_must_suffice_for_the_fee_too(desk: VenueDesk) -> None:
    key = key_at(desk, "kraken", balances={"USD": "602.7011"})
    assert refusal(desk, key) is RefusalKind.INSUFFICIENT_FUNDS
    key = key_at(desk, "kraken", balances={"USD": "602.7012"})
    assert desk.placed(key).status is VenueOrderStatus.FILLED
    assert free(key.account, ["USD"]) == [D(0)]


def test_order_past_its_time_is_refused(desk: VenueDesk, kraken: ApiKey) -> None:
    assert desk.placed(kraken, expires_at_ms=START_MS)
    assert refusal(desk, kraken, expires_at_ms=START_MS - 1) is RefusalKind.DEADLINE


def test_skewed_clock_judges_the_time(desk: VenueDesk, kraken: ApiKey) -> None:
    desk.faults.set(spoiled("kraken", {"kind": "clock_skew", "skew_secs": 5}).faults[0])
    assert refusal(desk, kraken, expires_at_ms=START_MS + 4_999) is RefusalKind.DEADLINE
    assert desk.placed(kraken, expires_at_ms=START_MS + 5_000).accepted_at_ms == START_MS + 5_000


def test_nobody_trades_at_another_speed() -> None:
    desk = VenueDesk(speed=60)
    key = key_at(desk, "kraken", balances={"USD": "10000"})
    assert refusal(desk, key) is RefusalKind.SPEED


def test_late_order_is_accepted_when_it_comes(desk: VenueDesk, kraken: ApiKey) -> None:
    late = {"kind": "late", "delay_secs": 3}
    assert desk.place(kraken, late, expires_at_ms=START_MS + 3_000) is None
    trading = desk.tradings["kraken"]
    desk.wall_ms += 2_999
    assert trading.orders(kraken.account) == []
    desk.wall_ms += 1
    (order,) = trading.orders(kraken.account)
    assert (order.status, order.accepted_at_ms) == (VenueOrderStatus.FILLED, START_MS + 3_000)


def test_late_order_is_never_accepted_past_its_time(desk: VenueDesk, kraken: ApiKey) -> None:
    late = {"kind": "late", "delay_secs": 3}
    assert desk.place(kraken, late, expires_at_ms=START_MS + 2_999) is None
    desk.wall_ms += 60_000
    assert desk.tradings["kraken"].orders(kraken.account) == []
    assert free(kraken.account, ["USD"]) == [D("10000")]


def test_partial_ioc_order_fills_bit_by_bit_and_ends(desk: VenueDesk, kraken: ApiKey) -> None:
    partial = {"kind": "partial", "parts": 3, "fraction": 0.7, "delay_secs": 1}
    order = desk.placed(kraken, partial, quantity="0.1", price="60030.1")
    trading, seen = desk.tradings["kraken"], []
    for _ in range(3):
        seen.append((order.status, order.filled))
        desk.wall_ms += 1_000
        trading.advance()
    assert seen[0] == (VenueOrderStatus.OPEN, D("0.02333333"))
    assert seen[1] == (VenueOrderStatus.OPEN, D("0.04666666"))
    assert (order.status, order.filled) == (VenueOrderStatus.CANCELLED, D("0.07"))
    # Each a tick worse, and none past the limit.
    assert [trade.price for trade in order.trades] == [D("60030"), D("60030.1"), D("60030.1")]
    assert len({trade.trade_id for trade in order.trades}) == 3
    assert kraken.account.balance("USD").held == 0


def test_partly_filled_order_can_be_cancelled(desk: VenueDesk, kraken: ApiKey) -> None:
    partial = {"kind": "partial", "parts": 2, "fraction": 0.5}
    order = desk.placed(kraken, partial, price="61000", ioc=False)
    desk.wall_ms += 60_000
    trading = desk.tradings["kraken"]
    assert trading.open_orders(kraken.account) == [order]
    trading.cancel(kraken, order_id=order.order_id)
    assert (order.status, order.filled) == (VenueOrderStatus.CANCELLED, D("0.005"))
    assert kraken.account.balance("USD").held == 0


def test_lag_hides_orders_and_trades_from_queries_only(desk: VenueDesk, kraken: ApiKey) -> None:
    trading, lag = desk.tradings["kraken"], spoiled("kraken", {"kind": "lag", "delay_secs": 5})
    id_ = {"client_order_id": "b" * 32}
    order = desk.placed(kraken, price="50000", ioc=False, **id_)
    desk.placed(kraken)
    desk.wall_ms += 4_999
    assert trading.open_orders(kraken.account, lag) == []
    assert trading.closed_orders(kraken.account, lag) == []
    assert trading.trades(kraken.account, lag) == []
    assert trading.order(kraken.account, lag, order_id=order.order_id) is None
    assert trading.open_orders(kraken.account) == [order]
    assert refusal(desk, kraken, **id_) is RefusalKind.DUPLICATE_CLIENT_ID
    desk.wall_ms += 1
    assert trading.open_orders(kraken.account, lag) == [order]
    assert len(trading.closed_orders(kraken.account, lag)) == 1
    assert len(trading.trades(kraken.account, lag)) == 1


def test_trades_are_told_twice_and_backwards(desk: VenueDesk, kraken: ApiKey) -> None:
    order = desk.placed(kraken, {"kind": "partial", "parts": 2})
    garbled = spoiled("kraken", {"kind": "duplicate_fills"}, {"kind": "reorder_fills"})
    first, second = order.trades
    told = desk.tradings["kraken"].trades(kraken.account, garbled)
    assert told == [second, second, first, first]


def test_lasting_jump_moves_the_market_itself(desk: VenueDesk, kraken: ApiKey) -> None:
    for fault in ({"kind": "jump", "factor": 1.1}, {"kind": "jump", "factor": 9, "times": 1}):
        desk.faults.set(spoiled("kraken", fault).faults[0])
    assert desk.placed(kraken).trades[0].price == D("66033")


def test_refused_pair_cannot_be_traded(desk: VenueDesk, kraken: ApiKey) -> None:
    desk.faults.set(spoiled("kraken", {"kind": "refuse", "pair": "BTC/USD"}).faults[0])
    assert refusal(desk, kraken) is RefusalKind.UNKNOWN_PAIR


def test_check_refuses_as_place_does_and_places_nothing(desk: VenueDesk, kraken: ApiKey) -> None:
    trading = desk.tradings["kraken"]
    trading.check(kraken, request())
    with pytest.raises(OrderRefused):
        trading.check(kraken, request(quantity="1"))
    assert trading.orders(kraken.account) == []


def test_ids_have_each_venues_shape(desk: VenueDesk, kraken: ApiKey, binance: ApiKey) -> None:
    shape = r"[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{6}"
    order = desk.placed(kraken)
    assert re.fullmatch("O" + shape, order.order_id)
    assert re.fullmatch("T" + shape, order.trades[0].trade_id)
    first, second = (desk.placed(binance, pair="BTC/USDT") for _ in range(2))
    assert int(first.order_id) < int(second.order_id)
    assert int(first.trades[0].trade_id) < int(second.trades[0].trade_id)


ORDERS = st.lists(
    st.fixed_dictionaries(
        {
            "side": st.sampled_from(["buy", "sell"]),
            "quantity": st.decimals("0.00011", "0.3", places=5).map(str),
            "price": st.one_of(st.none(), st.decimals("59000", "61000", places=1).map(str)),
            "ioc": st.booleans(),
            "parts": st.integers(1, 4),
            "fraction": st.floats(0, 1),
            "delay_secs": st.integers(0, 2),
        }
    ),
    min_size=1,
    max_size=8,
)


@given(
    venue=st.sampled_from(["kraken", "binance"]),
    in_coin=st.booleans(),
    orders=ORDERS,
    fee=st.decimals("0", "0.01", places=4),
)
def test_balances_are_the_sum_of_the_trades_to_the_last_digit(
    venue: str, in_coin: bool, orders: list[dict[str, Any]], fee: Decimal
) -> None:
    desk = VenueDesk()
    quote = "USD" if venue == "kraken" else "USDT"
    opening = {quote: D("30000"), "BTC": D("0.5")}
    key = key_at(desk, venue, balances=opening, taker_fee=str(fee), fee_in_coin=in_coin)
    trading, account = desk.tradings[venue], key.account
    for fields in orders:
        names = ("parts", "fraction", "delay_secs")
        plan = {"kind": "partial"} | {name: fields.pop(name) for name in names}
        try:
            desk.place(key, plan, pair=f"BTC/{quote}", **fields)
        except OrderRefused:
            continue
        desk.wall_ms += 1_000
        trading.advance()
        assert all(balance.free >= 0 for balance in account.balances.values())
    desk.wall_ms += 60_000
    for order in trading.open_orders(account):
        trading.cancel(key, order_id=order.order_id)

    moved = dict(opening)
    for trade in trading.trades(account):
        sign = 1 if trade.side == "buy" else -1
        moved["BTC"] += sign * trade.quantity
        moved[quote] -= sign * trade.quantity * trade.price
        moved[trade.fee_currency] -= trade.fee
    for currency, amount in moved.items():
        balance = account.balance(currency)
        assert (balance.free, balance.held) == (amount, D(0))
    for order in trading.orders(account):
        assert order.filled <= order.request.quantity
        assert (order.status is VenueOrderStatus.FILLED) == (order.remaining == 0)
