"""Candles: rolled from ticks, overwritten by the venue's, whatever the order and the gaps."""

from random import Random

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from price_stream.candles import (
    CANDLE_MS,
    SETTLED_AFTER_MS,
    WINDOW,
    Candle,
    CandleSeries,
    open_of,
)

START_MS = 1_700_000_000_000 - 1_700_000_000_000 % CANDLE_MS


def candle(number: int, close: float = 100.0, volume: float = 1.0) -> Candle:
    """The candle that opens `number` periods after the start."""
    return Candle(
        open_ms=START_MS + number * CANDLE_MS,
        open=close,
        high=close + 1,
        low=close - 1,
        close=close,
        volume=volume,
    )


def at(number: float) -> int:
    return START_MS + round(number * CANDLE_MS)


def history(count: int) -> list[Candle]:
    return [candle(number, close=100.0 + number) for number in range(count)]


def test_nothing_is_known_of_a_new_market() -> None:
    series = CandleSeries()
    assert series.window() is None
    assert series.completed() == []
    assert series.missing_since(at(200)) == at(100), "100 completed candles are asked for"


def test_a_window_needs_a_hundred_candles() -> None:
    series = CandleSeries()
    series.correct(history(WINDOW - 1), asked_at_ms=at(WINDOW - 1))
    assert series.window() is None
    series.correct([candle(WINDOW - 1)], asked_at_ms=at(WINDOW))
    assert series.window() is not None


def test_ticks_make_a_candle_that_completes_with_the_first_tick_after_it() -> None:
    series = CandleSeries()
    for moment, price in ((0.0, 10.0), (0.3, 12.0), (0.5, 9.0), (0.9999, 11.0)):
        series.roll(at(moment), price)
    assert series.completed() == []
    series.roll(at(1), 13.0)
    assert series.completed() == [
        Candle(open_ms=at(0), open=10.0, high=12.0, low=9.0, close=11.0, volume=0.0)
    ]


def test_the_forming_candle_of_a_reply_is_left_out() -> None:
    series = CandleSeries()
    series.correct(history(3), asked_at_ms=at(2.9))
    assert series.completed() == history(2)


def test_a_candle_followed_by_another_is_complete_whatever_our_clock_says() -> None:
    series = CandleSeries()
    series.correct(history(3), asked_at_ms=at(0.5))
    assert series.completed() == history(2)


def test_the_venue_overwrites_what_ticks_made() -> None:
    series = CandleSeries()
    series.correct(history(2), asked_at_ms=at(2))
    series.roll(at(2.1), 500.0)
    series.roll(at(3.1), 501.0)
    assert series.completed()[-1].close == 500.0
    series.correct(history(3), asked_at_ms=at(3))
    assert series.completed() == history(3)


def test_a_correction_keeps_newer_candles_that_ticks_made() -> None:
    series = CandleSeries()
    series.correct(history(2), asked_at_ms=at(2))
    series.roll(at(2.1), 500.0)
    series.roll(at(3.1), 501.0)
    series.roll(at(4.1), 502.0)
    series.correct(history(3), asked_at_ms=at(3))
    assert [made.close for made in series.completed()] == [100.0, 101.0, 102.0, 501.0]


def test_a_late_tick_changes_no_completed_candle() -> None:
    series = CandleSeries()
    series.roll(at(0.5), 10.0)
    series.roll(at(1.5), 11.0)
    before = series.completed()
    series.roll(at(0.7), 99.0)
    series.roll(at(2.0), 12.0)
    assert series.completed()[0] == before[0]
    assert series.completed()[1].high == 11.0


def test_a_jump_of_the_clock_carries_the_close_with_volume_zero() -> None:
    series = CandleSeries()
    series.correct(history(2), asked_at_ms=at(2))
    series.roll(at(2.5), 200.0)
    series.roll(at(6.2), 300.0)
    closes = [(made.close, made.high, made.volume) for made in series.completed()[2:]]
    assert closes == [(200.0, 200.0, 0.0)] * 4


def test_a_jump_past_the_whole_window_leaves_carried_candles_only() -> None:
    series = CandleSeries()
    series.correct(history(WINDOW), asked_at_ms=at(WINDOW))
    series.roll(at(1000.5), 7.0)
    window = series.window()
    assert window is not None
    assert window.last_open_ms == at(999)
    assert set(window.close) == {199.0}
    assert not window.confirmed.any()


def test_ticks_before_the_first_history_do_not_hide_it() -> None:
    series = CandleSeries()
    series.roll(at(WINDOW + 0.5), 1.0)
    series.roll(at(WINDOW + 1.5), 2.0)
    series.correct(history(WINDOW + 1), asked_at_ms=at(WINDOW + 1))
    assert series.completed() == history(WINDOW + 1)[1:]


def test_a_quiet_period_is_filled_once_it_has_settled() -> None:
    series = CandleSeries()
    series.correct(history(2), asked_at_ms=at(3) + SETTLED_AFTER_MS - 1)
    assert series.completed() == history(2)
    series.correct(history(2), asked_at_ms=at(3) + SETTLED_AFTER_MS)
    assert series.completed()[2:] == [
        Candle(open_ms=at(2), open=101.0, high=101.0, low=101.0, close=101.0, volume=0.0)
    ]
    assert series.missing_since(at(3) + SETTLED_AFTER_MS) is None


def test_what_is_missing_is_the_oldest_unconfirmed_candle() -> None:
    series = CandleSeries()
    series.correct(history(WINDOW), asked_at_ms=at(WINDOW))
    assert series.missing_since(at(WINDOW + 0.9)) is None
    assert series.missing_since(at(WINDOW + 1)) == at(WINDOW), "without any tick"
    series.roll(at(WINDOW + 0.5), 1.0)
    series.roll(at(WINDOW + 2.5), 1.0)
    assert series.missing_since(at(WINDOW + 2.5)) == at(WINDOW), "although ticks made two"


def test_a_young_market_is_asked_once_per_close_only() -> None:
    series = CandleSeries()
    series.correct(history(5), asked_at_ms=at(5))
    assert series.missing_since(at(5.5)) is None
    assert series.missing_since(at(6)) == at(5)


def test_the_version_changes_with_the_candles_and_only_then() -> None:
    series = CandleSeries()
    series.correct(history(3), asked_at_ms=at(3))
    version = series.version
    series.roll(at(3.1), 50.0)
    series.roll(at(3.2), 51.0)
    series.correct(history(3), asked_at_ms=at(3))
    assert series.version == version
    series.roll(at(4.0), 52.0)
    assert series.version > version


def test_a_reply_from_long_ago_is_ignored() -> None:
    series = CandleSeries()
    series.correct([candle(5000 + number) for number in range(3)], asked_at_ms=at(5003))
    before = series.completed()
    series.correct([candle(0), candle(1)], asked_at_ms=at(2))
    assert series.completed() == before


prices = st.floats(min_value=0.01, max_value=1e6)
venue_candles = st.dictionaries(
    st.integers(min_value=0, max_value=150),
    st.tuples(prices, st.floats(min_value=0, max_value=1e6)),
    min_size=1,
    max_size=150,
)
ticks = st.lists(st.tuples(st.floats(min_value=0, max_value=151), prices), max_size=60)


def truth(candles: dict[int, tuple[float, float]], through: int) -> list[Candle]:
    """What the venue's candles say of every period up to `through`, straight from DESIGN.md."""
    filled: list[Candle] = []
    for number in range(min(candles), through + 1):
        if number in candles:
            close, volume = candles[number]
            filled.append(candle(number, close, volume))
        else:
            close = filled[-1].close
            filled.append(
                Candle(
                    open_ms=at(number), open=close, high=close, low=close, close=close, volume=0.0
                )
            )
    return filled[-WINDOW:]


@given(candles=venue_candles, ticks=ticks, order=st.randoms(use_true_random=False))
def test_ticks_and_a_whole_correction_leave_the_venues_candles(
    candles: dict[int, tuple[float, float]], ticks: list[tuple[float, float]], order: Random
) -> None:
    series = CandleSeries()
    for moment, price in ticks:
        series.roll(at(moment), price)
    reply = [candle(number, *values) for number, values in candles.items()]
    order.shuffle(reply)
    series.correct(reply + reply[:3], asked_at_ms=at(152) + SETTLED_AFTER_MS)
    made = series.completed()
    expected = truth(candles, 151)
    assert made[-len(expected) :] == expected
    assert series.missing_since(at(152)) is None or len(made) > len(expected)


@given(candles=venue_candles, ticks=ticks, cuts=st.lists(st.integers(0, 151), max_size=6))
def test_many_partial_corrections_between_ticks_end_as_one(
    candles: dict[int, tuple[float, float]], ticks: list[tuple[float, float]], cuts: list[int]
) -> None:
    series = CandleSeries()
    for moment, price in sorted(ticks):
        series.roll(at(moment), price)
        for cut in cuts:
            reply = [candle(n, *values) for n, values in candles.items() if cut <= n <= moment]
            series.correct(reply, asked_at_ms=at(moment))
    series.correct(
        [candle(number, *values) for number, values in candles.items()],
        asked_at_ms=at(152) + SETTLED_AFTER_MS,
    )
    expected = truth(candles, 151)
    assert series.completed()[-len(expected) :] == expected


@given(
    steps=st.lists(
        st.one_of(
            st.tuples(st.just("roll"), st.floats(0, 400), prices),
            st.tuples(st.just("correct"), st.integers(0, 400), st.integers(1, 120)),
        ),
        max_size=40,
    )
)
def test_completed_candles_are_contiguous_finite_and_at_most_a_hundred(
    steps: list[tuple[str, float, float]],
) -> None:
    series = CandleSeries()
    for kind, where, what in steps:
        if kind == "roll":
            series.roll(at(where), what)
        else:
            first, count = int(where), int(what)
            reply = [candle(first + offset) for offset in range(0, count, 2)]
            series.correct(reply, asked_at_ms=at(first + count))
        made = series.completed()
        assert len(made) <= WINDOW
        opens = [one.open_ms for one in made]
        assert opens == [opens[0] + index * CANDLE_MS for index in range(len(opens))]
        assert np.isfinite([one.close for one in made]).all()
        assert all(one.low <= one.close <= one.high for one in made)


@given(st.integers(min_value=0, max_value=2**45))
def test_a_moment_belongs_to_one_candle(moment_ms: int) -> None:
    assert open_of(moment_ms) <= moment_ms < open_of(moment_ms) + CANDLE_MS
    assert open_of(moment_ms) % CANDLE_MS == 0


def test_a_candle_of_our_own_is_not_asked_for_before_it_ended_by_that_time() -> None:
    series = CandleSeries()
    series.correct(history(WINDOW), asked_at_ms=at(WINDOW))
    series.roll(at(WINDOW), 5.0)
    series.roll(at(WINDOW + 1), 6.0)
    assert series.missing_since(at(WINDOW + 1) - 1) is None
    assert series.missing_since(at(WINDOW + 1)) == at(WINDOW)
