"""When losses open a breaker: exactly at the limit, per purse, per UTC day of the market."""

from datetime import UTC, datetime
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.breakers import DAY_MS, Purse, Trip, daily_trip, day_start_ms, next_day_ms, streak_trip
from shared.limits import BreakerKind, BreakerScope

PAPER_USD = Purse("paper", "USD")
LIVE_USD = Purse("live", "USD")
PAPER_EUR = Purse("paper", "EUR")
PURSES = (PAPER_USD, LIVE_USD, PAPER_EUR)
NOON_MS = 1_642_334_400_000
MIDNIGHT_MS = 1_642_377_600_000

amounts = st.decimals("-1000", "1000", places=8)


def daily(
    *results: tuple[Purse, str],
    capital: str = "1000",
    touched: tuple[Purse, ...] = (PAPER_USD,),
) -> Trip | None:
    return daily_trip(
        BreakerScope.USER,
        7,
        results=[(purse, Decimal(amount)) for purse, amount in results],
        capital=dict.fromkeys(PURSES, Decimal(capital)),
        touched=touched,
        max_daily_loss=Decimal("0.05"),
        market_time_ms=NOON_MS,
    )


@pytest.mark.parametrize(("losses", "trips"), [(0, False), (2, False), (3, True), (4, True)])
def test_a_streak_trips_at_its_limit(losses: int, trips: bool) -> None:
    trip = streak_trip(5, losses=losses, limit=3, market_time_ms=NOON_MS)
    assert (trip is not None) is trips
    if trip is not None:
        assert (trip.scope, trip.scope_id) == (BreakerScope.BOT, 5)
        assert trip.kind is BreakerKind.LOSS_STREAK
        assert trip.open_until_ms == MIDNIGHT_MS
        assert trip.facts == {"losses": losses, "limit": 3}


@pytest.mark.parametrize(
    ("second", "trips"), [("10", True), ("10.00000001", False), ("20", False), ("-1", True)]
)
def test_a_day_trips_where_its_losses_less_its_gains_reach_the_limit(
    second: str, trips: bool
) -> None:
    trip = daily((PAPER_USD, "-60"), (PAPER_USD, second))
    assert (trip is not None) is trips


def test_the_facts_say_what_was_lost_and_what_was_allowed() -> None:
    trip = daily((PAPER_USD, "-60"), (PAPER_USD, "-1.50"))
    assert trip is not None
    assert (trip.scope, trip.scope_id, trip.kind) == (
        BreakerScope.USER,
        7,
        BreakerKind.DAILY_LOSS,
    )
    assert trip.open_until_ms == MIDNIGHT_MS
    assert trip.facts == {
        "mode": "paper",
        "currency": "USD",
        "loss": "61.50",
        "limit": "50.00",
        "capital": "1000",
        "max_daily_loss": "0.05",
        "positions": 2,
    }


def test_paper_money_and_other_currencies_do_not_count() -> None:
    assert daily((PAPER_USD, "-49"), (LIVE_USD, "-49"), (PAPER_EUR, "-49")) is None


def test_a_gain_elsewhere_does_not_hide_a_loss() -> None:
    assert daily((PAPER_USD, "-50"), (LIVE_USD, "500"), (PAPER_EUR, "500")) is not None


def test_what_lost_nothing_just_now_is_not_judged() -> None:
    assert daily((LIVE_USD, "-500"), (PAPER_USD, "-1"), touched=(PAPER_USD,)) is None


def test_without_capital_any_loss_trips_and_no_loss_does_not() -> None:
    assert daily((PAPER_USD, "-0.00000001"), capital="0") is not None
    assert daily((PAPER_USD, "0"), capital="0") is None


@given(st.lists(st.tuples(st.sampled_from(PURSES), amounts)), st.sampled_from(PURSES))
def test_a_day_trips_exactly_when_a_touched_purse_lost_its_limit(
    results: list[tuple[Purse, Decimal]], touched: Purse
) -> None:
    trip = daily(*((purse, str(amount)) for purse, amount in results), touched=(touched,))
    loss = -sum((amount for purse, amount in results if purse == touched), Decimal(0))
    assert (trip is not None) is (loss >= 50)


@given(st.permutations([(PAPER_USD, "-30"), (PAPER_USD, "5"), (PAPER_USD, "-25.5")]))
def test_the_order_of_the_results_does_not_matter(results: list[tuple[Purse, str]]) -> None:
    assert daily(*results) == daily((PAPER_USD, "-30"), (PAPER_USD, "-25.5"), (PAPER_USD, "5"))


@given(st.datetimes(datetime(1970, 1, 1), datetime(2200, 1, 1), timezones=st.just(UTC)))  # noqa: DTZ001
def test_a_day_ends_at_the_next_utc_midnight(moment: datetime) -> None:
    at_ms = int(moment.timestamp() * 1000)
    start = datetime.fromtimestamp(day_start_ms(at_ms) / 1000, UTC)
    assert (start.hour, start.minute, start.second, start.microsecond) == (0, 0, 0, 0)
    assert day_start_ms(at_ms) <= at_ms < next_day_ms(at_ms) == day_start_ms(at_ms) + DAY_MS


def test_midnight_belongs_to_the_new_day() -> None:
    assert day_start_ms(MIDNIGHT_MS) == MIDNIGHT_MS
    assert next_day_ms(MIDNIGHT_MS) == MIDNIGHT_MS + DAY_MS
    assert next_day_ms(MIDNIGHT_MS - 1) == MIDNIGHT_MS
