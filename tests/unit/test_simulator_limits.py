"""What the simulated venues count of their callers."""

from typing import Final

from hypothesis import given
from hypothesis import strategies as st

from ecosystem.venue_simulator.limits import (
    BINANCE_ORDERS_PER_10_SECS,
    BINANCE_WEIGHT_PER_MINUTE,
    BinanceOrders,
    BinanceWeights,
    Bucket,
    KrakenCounters,
    kraken_cancel_cost,
)

MINUTE: Final = 1_762_820_220_000 // 60_000 * 60_000


def test_kraken_key_makes_fifteen_calls_and_then_one_every_three_seconds() -> None:
    counters = KrakenCounters()
    assert all(counters.call("key", 1, MINUTE) for _ in range(15))
    assert not counters.call("key", 1, MINUTE)
    assert counters.call("other key", 1, MINUTE)
    assert not counters.call("key", 1, MINUTE + 2_900)
    assert counters.call("key", 1, MINUTE + 3_100)
    assert not counters.call("key", 2, MINUTE + 6_200)


def test_kraken_orders_are_not_calls_but_count_per_pair() -> None:
    counters = KrakenCounters()
    assert all(counters.call("key", 0, MINUTE) for _ in range(100))
    assert all(counters.order("key", "BTC/USD", 1, MINUTE) for _ in range(60))
    assert not counters.order("key", "BTC/USD", 1, MINUTE)
    assert counters.order("key", "ETH/USD", 1, MINUTE)
    assert counters.order("key", "BTC/USD", 1, MINUTE + 1_000)


def test_cancelling_a_young_order_costs_more() -> None:
    ages = (0, 4_999, 5_000, 12_000, 44_000, 89_000, 299_999, 300_000)
    assert [kraken_cancel_cost(age) for age in ages] == [8, 8, 6, 5, 4, 2, 1, 0]


@given(
    steps=st.lists(st.tuples(st.integers(0, 5_000), st.floats(0.1, 5)), max_size=50),
)
def test_no_bucket_gives_more_than_its_top_and_what_sank(steps: list[tuple[int, float]]) -> None:
    bucket = Bucket(top=15, sinks_per_sec=0.33)
    now_ms, taken = 0, 0.0
    for wait_ms, cost in steps:
        now_ms += wait_ms
        taken += cost if bucket.take(cost, now_ms) else 0
        assert taken <= 15 + now_ms / 1000 * 0.33 + 1e-6


def test_binance_refuses_weight_above_the_limit_until_the_minute_is_over() -> None:
    weights = BinanceWeights()
    last = weights.weigh("10.0.0.1", BINANCE_WEIGHT_PER_MINUTE, MINUTE + 20_000)
    assert (last.used, last.retry_after_secs) == (BINANCE_WEIGHT_PER_MINUTE, None)
    refused = weights.weigh("10.0.0.1", 1, MINUTE + 20_500)
    assert (refused.retry_after_secs, refused.banned_until_ms) == (40, None)
    assert weights.weigh("10.0.0.2", 1, MINUTE + 20_500).retry_after_secs is None
    assert weights.weigh("10.0.0.1", 1, MINUTE + 60_000).used == 1


def test_binance_bans_an_address_that_goes_on_and_the_next_ban_is_longer() -> None:
    weights = BinanceWeights()

    def banned_at(now_ms: int) -> int:
        weights.weigh("10.0.0.1", BINANCE_WEIGHT_PER_MINUTE, now_ms)
        for _ in range(10):
            assert weights.weigh("10.0.0.1", 1, now_ms).banned_until_ms is None
        until_ms = weights.weigh("10.0.0.1", 1, now_ms).banned_until_ms
        assert until_ms is not None
        return until_ms

    first = banned_at(MINUTE)
    assert first == MINUTE + 120_000
    still = weights.weigh("10.0.0.1", 1, MINUTE + 119_000)
    assert (still.banned_until_ms, still.retry_after_secs) == (first, 1)
    assert weights.weigh("10.0.0.1", 1, first).retry_after_secs is None
    assert banned_at(MINUTE + 180_000) == MINUTE + 180_000 + 240_000


def test_binance_counts_orders_without_a_fill_per_account() -> None:
    orders = BinanceOrders()
    for _ in range(BINANCE_ORDERS_PER_10_SECS):
        assert orders.retry_after_secs("key", MINUTE) is None
        orders.placed("key", MINUTE)
    assert orders.retry_after_secs("key", MINUTE + 1_000) == 9
    assert orders.retry_after_secs("other", MINUTE + 1_000) is None
    orders.filled("key", MINUTE + 1_000)
    assert orders.retry_after_secs("key", MINUTE + 1_000) is None
    count = orders.count("key", MINUTE + 10_000)
    assert (count.ten_secs, count.day) == (0, BINANCE_ORDERS_PER_10_SECS - 1)
