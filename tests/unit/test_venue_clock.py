"""A venue's clock is never taken to be ahead of what it is."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from shared.clock import monotonic_secs
from shared.errors import VenueUnavailable
from shared.venues import KRAKEN
from trade_worker.venues.venue_clock import (
    GOOD_ENOUGH_MS,
    ServerTime,
    VenueClock,
    offset_of,
)


def told(true_offset_ms: float, *, asked_at: float, there: float, back: float) -> ServerTime:
    """What a venue says that tells whole seconds; ways there and back in seconds."""
    at_venue_ms = 1000 * (asked_at + there) + true_offset_ms
    return ServerTime(
        told_ms=int(at_venue_ms // 1000) * 1000,
        resolution_ms=1000,
        asked_at_secs=asked_at,
        read_at_secs=asked_at + there + back,
    )


delays = st.floats(0, 2)


@given(
    offset_ms=st.floats(0, 2e12),
    trips=st.lists(st.tuples(st.floats(0, 500), delays, delays), min_size=1, max_size=8),
)
def test_the_truth_stays_between_the_bounds(
    offset_ms: float, trips: list[tuple[float, float, float]]
) -> None:
    first, *others = [
        told(offset_ms, asked_at=asked_at, there=there, back=back)
        for asked_at, there, back in sorted(trips)
    ]
    known = offset_of(first)
    for reply in others:
        known = known.narrowed(reply)
    slack_ms = 0.01  # of floats of this size
    assert known.low_ms - slack_ms <= offset_ms <= known.high_ms + slack_ms


@given(offset_ms=st.floats(0, 2e12), start=st.floats(0, 1e6))
def test_four_questions_tell_whole_seconds_to_an_eighth(offset_ms: float, start: float) -> None:
    now = start
    known = offset_of(told(offset_ms, asked_at=now, there=0.0, back=0.0))
    for _ in range(3):
        now += known.telling_pause_secs(now)
        known = known.narrowed(told(offset_ms, asked_at=now, there=0.0, back=0.0))
    # The clocks may have parted a little during the three seconds.
    assert known.width_ms <= 1000 / 8 + 10


def test_a_clock_that_was_set_is_believed_anew() -> None:
    known = offset_of(told(5_000, asked_at=10, there=0.01, back=0.01))
    known = known.narrowed(told(-60_000, asked_at=20, there=0.01, back=0.01))
    assert known.low_ms <= -60_000 <= known.high_ms


def test_what_is_known_gets_less_certain() -> None:
    known = offset_of(told(5_000, asked_at=10, there=0.0, back=0.0))
    later = known.drifted(10 + 1000)
    assert later.low_ms == known.low_ms - 100
    assert later.high_ms == known.high_ms + 100


class Venue:
    """A clock to ask for; `down` makes it fail."""

    def __init__(self, offset_ms: float = 0.0) -> None:
        self.offset_ms = offset_ms
        self.down = False
        self.asked = 0

    async def ask(self) -> ServerTime:
        self.asked += 1
        if self.down:
            raise VenueUnavailable("down")
        now_secs = monotonic_secs()
        return ServerTime(
            told_ms=int(1000 * now_secs + self.offset_ms),
            resolution_ms=1,
            asked_at_secs=now_secs,
            read_at_secs=now_secs,
        )


async def test_it_is_asked_once_for_many_and_not_again() -> None:
    venue = Venue(offset_ms=90_000)
    clock = VenueClock(KRAKEN, ask=venue.ask)
    await asyncio.gather(*(clock.ready() for _ in range(5)))
    await clock.ready()
    assert venue.asked == 1
    now_secs = monotonic_secs()
    assert 0 <= 1000 * now_secs + 90_000 - clock.at_ms(now_secs) <= GOOD_ENOUGH_MS
    await clock.close()


async def test_a_venue_that_is_down_is_asked_again() -> None:
    venue = Venue()
    venue.down = True
    clock = VenueClock(KRAKEN, ask=venue.ask)
    await clock.ready()
    try:
        clock.at_ms(monotonic_secs())
    except VenueUnavailable:
        venue.down = False
    await clock.ready()
    assert clock.at_ms(1000.0) <= 1_000_000
    await clock.close()


async def test_in_doubt_the_venue_is_waited_for() -> None:
    venue = Venue(offset_ms=0)
    clock = VenueClock(KRAKEN, ask=venue.ask)
    await clock.ready()
    venue.offset_ms = -5_000
    clock.doubt()
    await clock.ready()
    assert clock.at_ms(100.0) <= 95_000
    await clock.close()


async def test_doubt_that_was_unfounded_costs_no_precision() -> None:
    known = offset_of(told(5_000, asked_at=10, there=0.0, back=0.0))
    again = known.narrowed(told(5_000, asked_at=11.3, there=0.0, back=0.0))
    assert again.width_ms <= known.width_ms + 1
