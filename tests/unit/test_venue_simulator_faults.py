"""Faults as data: what they touch, how long they last, and which are refused."""

import math
from typing import Any

import pytest

from ecosystem.venue_simulator.fault_fields import fault_of, faults_of
from ecosystem.venue_simulator.faults import (
    Fault,
    FaultBoard,
    FaultKind,
    FillPlan,
    Spoiled,
)
from ecosystem.venue_simulator.listings import listing
from ecosystem.venue_simulator.market import Quote
from shared.errors import Refused

SOL = listing(venue="kraken", pair="SOL/USD", price=140)
QUOTE = Quote(price=140.0, bid=139.9, ask=140.1)


def board(**fields: Any) -> FaultBoard:
    faults = FaultBoard()
    faults.set(fault_of({"venue": "kraken", **fields}))
    return faults


def told(faults: FaultBoard, pair: str = "SOL/USD", *, endpoint: str = "tickers") -> Quote:
    return faults.spoil(venue="kraken", endpoint=endpoint, pairs=[pair]).quote(SOL, QUOTE)


def test_missing_bid_is_left_out() -> None:
    assert told(board(kind="missing_bid")).bid is None


def test_zero_and_nan_spoil_the_last_price_only() -> None:
    assert told(board(kind="zero_price")) == Quote(price=0.0, bid=139.9, ask=140.1)
    assert math.isnan(told(board(kind="nan_price")).price)


def test_jump_multiplies_the_whole_quote_so_many_times() -> None:
    faults = board(kind="jump", factor=1.5, times=2)
    assert told(faults) == Quote(price=210.0, bid=139.9 * 1.5, ask=140.1 * 1.5)
    assert told(faults) != QUOTE
    assert told(faults) == QUOTE
    assert faults.all() == []


def test_fault_of_one_pair_leaves_the_others_alone() -> None:
    faults = board(kind="zero_price", pair="ETH/USD", times=1)
    assert told(faults) == QUOTE
    spoiled = faults.spoil(venue="kraken", endpoint="tickers", pairs=["ETH/USD", "SOL/USD"])
    assert spoiled.quote(SOL, QUOTE) == QUOTE
    assert faults.all() == []


def test_quote_faults_are_not_used_up_by_other_endpoints() -> None:
    faults = board(kind="zero_price", times=1)
    assert told(faults, endpoint="candles") == QUOTE
    assert told(faults).price == 0


def test_fault_of_one_venue_and_endpoint_stays_there() -> None:
    faults = board(kind="fail", endpoint="candles")
    assert faults.spoil(venue="kraken", endpoint="candles", pairs=["SOL/USD"]).fails
    assert not faults.spoil(venue="kraken", endpoint="tickers", pairs=["SOL/USD"]).fails
    assert not faults.spoil(venue="binance", endpoint="candles", pairs=["SOL/USDT"]).fails


def test_delays_add_up() -> None:
    faults = board(kind="slow", delay_secs=1.5)
    faults.set(Fault(venue="kraken", kind=FaultKind.SLOW, delay_secs=0.5))
    assert faults.spoil(venue="kraken", endpoint="time", pairs=[]).delay_secs == 2.0


def test_refused_pair_is_not_listed_until_cleared() -> None:
    faults = board(kind="refuse", pair="SOL/USD")
    assert faults.refused("kraken") == {"SOL/USD"}
    assert faults.refused("binance") == frozenset()
    faults.clear("binance")
    assert faults.refused("kraken")
    faults.clear("kraken")
    assert not faults.refused("kraken")


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"venue": "mtgox"}, "venue must be one of kraken, binance, was 'mtgox'"),
        ({"kind": "explode"}, "kind must be one of slow, .*, was 'explode'"),
        ({"endpoint": "orders"}, "endpoint must be one of .*, was 'orders'"),
        ({"pairs": "SOL/USD"}, "pairs is not a field of a fault"),
        ({"pair": 7}, "pair must be a text"),
        ({"times": 0}, "times must be a whole number of at least 1, was 0"),
        ({"times": 1.5}, "times must be a whole number"),
        ({"delay_secs": -1}, "delay_secs must be a number from 0 to 600, was -1"),
        ({"factor": "2"}, "factor must be a number"),
        ({"kind": "refuse"}, "refuse needs a pair"),
        ({"kind": "refuse", "pair": "SOL/USD", "times": 1}, "refuse needs a pair"),
        ({"kind": "clock_skew", "times": 1}, "clock_skew lasts until it is cleared"),
        ({"account": 7}, "account must be a text"),
        ({"after": -1}, "after must be a whole number from 0"),
        ({"probability": 1.5}, "probability must be a number from 0 to 1, was 1.5"),
        ({"status": 200}, "status must be a whole number from 400 to 599, was 200"),
        ({"parts": 0}, "parts must be a whole number from 1"),
        ({"fraction": 2}, "fraction must be a number from 0 to 1"),
    ],
)
def test_bad_fault_is_refused_with_its_field(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        fault_of({"venue": "kraken", "kind": "slow", **fields})


def private(
    faults: FaultBoard, endpoint: str = "add_order", caller: str = "ada", pair: str = "SOL/USD"
) -> Spoiled:
    return faults.spoil(venue="kraken", endpoint=endpoint, pairs=[pair], callers=["key", caller])


def test_first_requests_pass_and_then_so_many_are_spoiled() -> None:
    faults = board(kind="accept_then_drop", after=2, times=2)
    assert [bool(private(faults).faults) for _ in range(5)] == [False, False, True, True, False]
    assert faults.all() == []


def test_fault_happens_as_probably_as_it_says() -> None:
    draws = iter([0.29, 0.3, 0.99, 0.0])
    faults = FaultBoard(chance=lambda: next(draws))
    faults.set(fault_of({"venue": "kraken", "kind": "cut_body", "probability": 0.3, "times": 2}))
    # What does not happen does not count.
    assert [bool(private(faults).faults) for _ in range(4)] == [True, False, False, True]
    assert faults.all() == []


@pytest.mark.parametrize("account", ["ada", "key"])
def test_fault_of_one_account_leaves_the_others_alone(account: str) -> None:
    faults = board(kind="revoked", account=account)
    assert private(faults).turned_away
    assert not faults.spoil(
        venue="kraken", endpoint="balance", pairs=[], callers=["another key", "bob"]
    ).faults
    assert not faults.spoil(venue="kraken", endpoint="tickers", pairs=["SOL/USD"]).faults


@pytest.mark.parametrize(
    ("kind", "spoils", "spares"),
    [
        ("late", "add_order", "cancel"),
        ("partial", "add_order", "order_query"),
        ("lag", "trades", "add_order"),
        ("duplicate_fills", "add_order", "balance"),
        ("reorder_fills", "closed_orders", "cancel"),
        ("accept_then_fail", "cancel", "tickers"),
        ("cut_body", "balance", "time"),
        ("refuse_then_fail", "add_order", "candles"),
        ("maintenance", "status", ""),
        ("throttle", "tickers", ""),
        ("ban", "balance", ""),
    ],
)
def test_kinds_are_used_up_only_where_they_mean_something(
    kind: str, spoils: str, spares: str
) -> None:
    faults = board(kind=kind, times=1)
    if spares:
        assert not private(faults, spares).faults
    assert private(faults, spoils).kinds == [kind]
    assert faults.all() == []


@pytest.mark.parametrize(
    "kind",
    ["fail", "garbage", "throttle", "ban", "maintenance", "revoked", "refuse_then_fail"],
)
def test_turned_away_request_is_not_done(kind: str) -> None:
    spoiled = private(board(kind=kind, status=504, retry_after_secs=7))
    assert spoiled.turned_away is not None
    assert (spoiled.turned_away.kind, spoiled.turned_away.status) == (kind, 504)
    assert spoiled.turned_away.retry_after_secs == 7
    assert spoiled.reply is None


@pytest.mark.parametrize(
    "kind", ["accept_then_drop", "accept_then_fail", "accept_then_garbage", "cut_body", "late"]
)
def test_reply_is_spoiled_after_it_was_done(kind: str) -> None:
    spoiled = private(board(kind=kind))
    assert spoiled.reply is not None
    assert spoiled.reply.kind == kind
    assert spoiled.turned_away is None


def test_reply_of_a_late_order_is_lost_whatever_else_befalls_it() -> None:
    faults = board(kind="cut_body")
    faults.set(fault_of({"venue": "kraken", "kind": "late", "delay_secs": 2, "status": 0}))
    spoiled = private(faults)
    assert spoiled.late_secs == 2
    assert spoiled.reply is not None
    assert (spoiled.reply.kind, spoiled.reply.status) == ("late", 0)


def test_engine_learns_how_to_fill_and_what_to_hide() -> None:
    faults = board(kind="partial", parts=3, fraction=0.5, delay_secs=0.25)
    faults.set(fault_of({"venue": "kraken", "kind": "fill_first", "delay_secs": 2}))
    faults.set(fault_of({"venue": "kraken", "kind": "lag", "delay_secs": 4}))
    spoiled = private(faults)
    assert spoiled.fill_plan == FillPlan(parts=3, fraction=0.5, every_ms=250)
    assert (spoiled.reply_delay_secs, spoiled.lag_secs, spoiled.delay_secs) == (2, 0, 0)
    assert private(faults, "trades").lag_secs == 4
    assert Spoiled().fill_plan == FillPlan(parts=1, fraction=1.0, every_ms=0)


def test_clock_is_off_until_it_is_cleared() -> None:
    faults = board(kind="clock_skew", skew_secs=-2.5)
    assert not private(faults).faults
    assert (faults.skew_ms("kraken"), faults.skew_ms("binance")) == (-2500, 0)
    faults.clear("kraken")
    assert faults.skew_ms("kraken") == 0


def test_file_of_faults_is_a_list() -> None:
    kinds = [fault.kind for fault in faults_of([{"venue": "binance", "kind": "ban"}])]
    assert kinds == [FaultKind.BAN]
    with pytest.raises(Refused, match="a list of JSON objects"):
        faults_of({"venue": "binance", "kind": "ban"})
