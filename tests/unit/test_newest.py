"""Skipping to the newest tick, and dropping what is outdated."""

from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from shared.messages import Indicators, Tick
from trade_worker.newest import NewestTicks

TICK = Tick(
    venue="kraken",
    pair="BTC/USD",
    price=1.0,
    bid=1.0,
    ask=1.0,
    market_time_ms=0,
    observed_at_ms=0,
    published_at_ms=0,
    stream_epoch=1,
    sequence=0,
    indicators=Indicators(),
    regime=None,
    confidence=None,
)


def tick(sequence: int, epoch: int = 1, pair: str = "BTC/USD", venue: str = "kraken") -> Tick:
    return replace(TICK, sequence=sequence, stream_epoch=epoch, pair=pair, venue=venue)


def test_a_lagging_worker_skips_to_the_newest_tick_of_each_market_and_counts() -> None:
    newest = NewestTicks()
    here = [tick(1), tick(1, pair="ETH/USD"), tick(2), tick(3)]
    assert newest.of(here) == [tick(1, pair="ETH/USD"), tick(3)]
    assert newest.skipped == 2


def test_the_same_pair_on_two_venues_is_two_markets() -> None:
    newest = NewestTicks()
    assert len(newest.of([tick(1), tick(1, venue="binance")])) == 2


def test_a_redelivered_or_reordered_tick_is_outdated() -> None:
    newest = NewestTicks()
    assert newest.of([tick(5)]) == [tick(5)]
    assert newest.of([tick(5), tick(4)]) == []
    assert newest.outdated == 2


def test_a_new_stream_deposes_the_old_one_across_markets() -> None:
    newest = NewestTicks()
    newest.of([tick(100), tick(100, pair="ETH/USD")])
    assert newest.of([tick(1, epoch=2)]) == [tick(1, epoch=2)]
    assert newest.of([tick(101, pair="ETH/USD")]) == []
    assert newest.of([tick(1, epoch=2, pair="ETH/USD")]) == [tick(1, epoch=2, pair="ETH/USD")]


@given(
    st.lists(
        st.lists(
            st.builds(
                tick,
                sequence=st.integers(0, 5),
                epoch=st.integers(1, 3),
                pair=st.sampled_from(["A/B", "C/D"]),
            )
        )
    )
)
def test_what_comes_through_only_ever_grows(batches: list[list[Tick]]) -> None:
    newest, through = NewestTicks(), []
    for batch in batches:
        got = newest.of(batch)
        assert len({one.market for one in got}) == len(got)
        through.extend(got)
    for market in {one.market for one in through}:
        orders = [one.order for one in through if one.market == market]
        assert orders == sorted(set(orders))
    assert len(through) + newest.skipped + newest.outdated == sum(map(len, batches))


def test_a_forgotten_market_takes_a_lower_sequence_of_the_same_stream() -> None:
    newest = NewestTicks()
    newest.of([tick(100), tick(100, pair="ETH/USD")])
    newest.forget(tick(1).market)
    assert newest.of([tick(1), tick(1, pair="ETH/USD")]) == [tick(1)]


def test_forgetting_every_market_takes_back_a_deposed_stream() -> None:
    newest = NewestTicks()
    newest.of([tick(100, epoch=5)])
    newest.forget(tick(1).market)
    assert newest.of([tick(1, epoch=4)]) == []
    newest.forget()
    assert newest.of([tick(1, epoch=4)]) == [tick(1, epoch=4)]
