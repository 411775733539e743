"""Faults as data: what they touch, how long they last, and which are refused."""

import math
from typing import Any

import pytest

from ecosystem.venue_simulator.faults import Fault, FaultBoard, FaultKind, fault_of
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
    ],
)
def test_bad_fault_is_refused_with_its_field(fields: dict[str, Any], complaint: str) -> None:
    with pytest.raises(Refused, match=complaint):
        fault_of({"venue": "kraken", "kind": "slow", **fields})
