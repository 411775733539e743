"""What is polled, believed, silenced and backed off; the venue's clock; the slots."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from price_stream.candle_keeper import Pacer
from price_stream.market_clock import MarketClock
from price_stream.markets import (
    MAX_BACKOFF_SECS,
    RETRY_REFUSED_SECS,
    VenueHealth,
    VenueMarkets,
    backoff_secs,
)
from price_stream.quotes import BelievedQuote, Quote, QuoteCheck
from price_stream.schedule import Schedule

finite = st.floats(allow_nan=False, allow_infinity=False)


def quote(price: float | None, bid: float | None = None, ask: float | None = None) -> Quote:
    return Quote(price=price, bid=price if bid is None else bid, ask=price if ask is None else ask)


# Quotes


@pytest.mark.parametrize(
    ("nonsense", "reason"),
    [
        (Quote(price=None, bid=1.0, ask=1.0), "price is missing"),
        (Quote(price=1.0, bid=None, ask=1.0), "bid is missing"),
        (Quote(price=1.0, bid=1.0, ask=None), "ask is missing"),
        (quote(0.0), "price is not above 0"),
        (quote(1.0, bid=-1.0), "bid is not above 0"),
        (quote(1.0, ask=math.nan), "ask is not a finite number"),
        (quote(math.inf), "price is not a finite number"),
        (quote(1.0, bid=1.01, ask=1.0), "bid is above ask"),
    ],
)
def test_nonsense_is_named_and_changes_nothing(nonsense: Quote, reason: str) -> None:
    check = QuoteCheck()
    assert check.judge(quote(1.0)) == BelievedQuote(price=1.0, bid=1.0, ask=1.0)
    assert check.judge(nonsense) == reason
    assert isinstance(check.judge(quote(1.1)), BelievedQuote)


def test_a_jump_is_believed_when_the_next_poll_confirms_it() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0))
    assert isinstance(check.judge(quote(121.0)), str)
    assert isinstance(check.judge(quote(122.0)), BelievedQuote)
    assert isinstance(check.judge(quote(123.0)), BelievedQuote)


def test_a_jump_that_is_taken_back_was_never_believed() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0))
    assert isinstance(check.judge(quote(50.0)), str)
    assert isinstance(check.judge(quote(101.0)), BelievedQuote)
    assert isinstance(check.judge(quote(50.0)), str), "the old doubt must not count"


def test_a_second_jump_elsewhere_confirms_nothing() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0))
    assert isinstance(check.judge(quote(1.0)), str)
    assert isinstance(check.judge(quote(1000.0)), str)
    assert isinstance(check.judge(quote(1001.0)), BelievedQuote)


def test_nonsense_in_between_confirms_nothing() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0))
    assert isinstance(check.judge(quote(50.0)), str)
    assert check.judge(quote(None)) == "price is missing"
    assert isinstance(check.judge(quote(50.0)), str)


def test_a_bid_that_jumps_is_doubted_although_the_price_stays() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0, bid=99.0, ask=101.0))
    assert isinstance(check.judge(quote(100.0, bid=1.0, ask=101.0)), str)


def test_twenty_percent_is_not_yet_a_jump() -> None:
    check = QuoteCheck()
    check.judge(quote(100.0))
    assert isinstance(check.judge(quote(80.0)), BelievedQuote)


@given(
    st.lists(
        st.builds(
            Quote,
            price=st.none() | st.floats(),
            bid=st.none() | st.floats(),
            ask=st.none() | st.floats(),
        )
    )
)
def test_what_is_believed_is_always_sound(quotes: list[Quote]) -> None:
    check = QuoteCheck()
    for one in quotes:
        judged = check.judge(one)
        if isinstance(judged, BelievedQuote):
            assert 0 < judged.bid <= judged.ask < math.inf
            assert 0 < judged.price < math.inf


# Markets


def test_the_reference_is_followed_whatever_is_wanted() -> None:
    markets = VenueMarkets("BTC/USD")
    assert markets.due(0.0) == [["BTC/USD"]]
    assert markets.follow({"ETH/USD"}) == {"ETH/USD"}
    assert markets.due(0.0) == [["BTC/USD", "ETH/USD"]]
    assert markets.follow(set()) == frozenset()
    assert markets.due(0.0) == [["BTC/USD"]]


def test_a_market_that_comes_back_goes_on_with_its_sequence() -> None:
    markets = VenueMarkets("BTC/USD")
    markets.follow({"ETH/USD"})
    market = markets.get("ETH/USD")
    assert market is not None
    assert [market.next_sequence(), market.next_sequence()] == [1, 2]
    markets.follow(set())
    markets.follow({"ETH/USD"})
    again = markets.get("ETH/USD")
    assert again is not None
    assert again.next_sequence() == 3


def test_a_refused_market_is_left_out_then_asked_for_apart() -> None:
    markets = VenueMarkets("BTC/USD")
    markets.follow({"LUNA/USD"})
    assert markets.was_refused("LUNA/USD", "not listed", at_ms=7, now_secs=100.0)
    assert markets.report() == [{"pair": "LUNA/USD", "reason": "not listed", "since_ms": 7}]
    assert markets.due(100.0 + RETRY_REFUSED_SECS - 0.1) == [["BTC/USD"]]
    assert markets.due(100.0 + RETRY_REFUSED_SECS) == [["BTC/USD"], ["LUNA/USD"]]
    assert not markets.was_refused("LUNA/USD", "not listed", at_ms=9, now_secs=400.0)
    assert markets.report()[0]["since_ms"] == 7, "the same silence goes on"
    assert markets.heard("LUNA/USD")
    assert markets.report() == []
    assert markets.refused == frozenset()


def test_fresh_listings_bring_refused_markets_into_the_next_poll() -> None:
    markets = VenueMarkets("BTC/USD")
    markets.follow({"NEW/USD"})
    markets.was_refused("NEW/USD", "not listed", at_ms=1, now_secs=100.0)
    markets.listings_are_fresh()
    assert markets.due(101.0) == [["BTC/USD"], ["NEW/USD"]]


def test_a_silence_is_news_only_when_its_reason_changes() -> None:
    markets = VenueMarkets("BTC/USD")
    assert markets.silenced("BTC/USD", "bid is missing", at_ms=1)
    assert not markets.silenced("BTC/USD", "bid is missing", at_ms=2)
    assert markets.silenced("BTC/USD", "ask is missing", at_ms=3)
    assert markets.heard("BTC/USD")
    assert not markets.heard("BTC/USD")
    assert not markets.silenced("XRP/USD", "not followed any more", at_ms=4)


# Health


def test_a_venue_that_fails_is_left_alone_for_longer_each_time() -> None:
    health = VenueHealth(5.0)
    moment = 0.0
    for pause in (5.0, 10.0, 20.0, 40.0, 60.0, 60.0):
        assert health.may_ask(moment)
        health.failed("did not answer", now_secs=moment, at_ms=1, jitter=0.0)
        assert not health.may_ask(moment + pause - 0.001)
        moment += pause
    assert health.answered()
    assert not health.answered()
    assert health.report() == {
        "state": "ok",
        "reason": None,
        "since_ms": None,
        "last_error": "did not answer",
        "polls": 8,
        "failures": 6,
    }


def test_a_failure_is_news_only_when_its_reason_changes() -> None:
    health = VenueHealth(5.0)
    assert health.failed("is slow", now_secs=0.0, at_ms=1, jitter=0.0)
    assert not health.failed("is slow", now_secs=9.0, at_ms=2, jitter=0.0)
    assert health.failed("throttles", now_secs=20.0, at_ms=3, jitter=0.0)


def test_the_venues_own_wish_is_honoured_beyond_our_limit() -> None:
    health = VenueHealth(5.0)
    health.failed("throttles", now_secs=0.0, at_ms=1, jitter=0.5, retry_after_secs=7200.0)
    assert not health.may_ask(7199.0)
    assert health.may_ask(7200.0)


@given(failed=st.integers(1, 10_000), interval=st.floats(0.05, 3600), jitter=st.floats(0, 1))
def test_a_pause_is_bounded(failed: int, interval: float, jitter: float) -> None:
    pause = backoff_secs(failed, interval, jitter)
    assert min(interval, MAX_BACKOFF_SECS) / 2 <= pause <= MAX_BACKOFF_SECS


# The venue's clock


def test_market_time_runs_on_from_the_newest_time_told() -> None:
    clock = MarketClock()
    assert not clock.known
    with pytest.raises(LookupError):
        clock.at(1.0)
    clock.told(1_000_000, 10.0)
    assert clock.at(10.5) == 1_000_500
    assert clock.told_ms == 1_000_000


def test_market_time_never_goes_back() -> None:
    clock = MarketClock()
    clock.told(1_000_000, 10.0)
    assert clock.at(12.0) == 1_002_000
    clock.told(1_001_500, 12.0)
    assert clock.at(12.1) == 1_002_000
    clock.told(900_000, 12.5)
    assert clock.told_ms == 1_001_500


def test_a_clock_that_tells_whole_seconds_runs_in_real_time() -> None:
    clock = MarketClock()
    for step in range(40):
        moment = step * 0.25
        clock.told(int(moment) * 1000, moment)
        assert clock.rate == 1.0


def test_the_speed_of_a_replay_is_found_out() -> None:
    clock = MarketClock()
    for step in range(10):
        clock.told(1_000_000 + step * 60_000, step * 0.1)
    assert clock.rate == pytest.approx(600.0)
    assert clock.at(1.0) == 1_000_000 + 600_000


@given(st.lists(st.tuples(st.integers(1, 10**13), st.floats(0, 1e6)), min_size=1))
def test_market_time_is_monotonic_whatever_is_told(told: list[tuple[int, float]]) -> None:
    clock = MarketClock()
    last = 0
    for server_time_ms, moment in told:
        clock.told(server_time_ms, moment)
        now = clock.at(moment + 0.1)
        assert now >= last
        last = now


# Slots and pace


def test_slots_do_not_drift() -> None:
    slots = Schedule(start_secs=1000.0, interval_secs=0.1)
    now = 1000.0
    for number in range(1000):
        slot = slots.next_slot(now)
        assert slot == 1000.0 + number * 0.1
        now = slot + 0.07
    assert slots.skipped == 0


@given(interval=st.floats(0.05, 3600), durations=st.lists(st.floats(0, 10_000), max_size=50))
def test_an_overrun_skips_to_a_slot_ahead_and_is_counted(
    interval: float, durations: list[float]
) -> None:
    slots = Schedule(start_secs=0.0, interval_secs=interval)
    now, last = 0.0, -1.0
    for duration in durations:
        slot = slots.next_slot(now)
        assert slot > last
        assert slot >= now - 1e-6, "never made up for"
        assert slot <= max(now, last + interval) + interval * (1 + 1e-9)
        last, now = slot, max(now, slot) + duration
    taken = round(last / interval) + 1 if durations else 0
    assert slots.skipped == taken - len(durations)


def test_requests_are_paced_to_what_a_second_earns() -> None:
    pacer = Pacer()
    now, gone = 0.0, 0
    while now < 100.0:
        if delay := pacer.delay_secs(now, per_sec=0.8):
            now += delay
        else:
            gone += 1
    assert gone == pytest.approx(81, abs=1)


def test_a_pause_earns_no_burst_beyond_a_second() -> None:
    pacer = Pacer()
    pacer.delay_secs(0.0, per_sec=10.0)
    gone = 0
    while not pacer.delay_secs(1000.0, per_sec=10.0):
        gone += 1
    assert gone == 10
