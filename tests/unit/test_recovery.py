"""The ids that a lost time could have used: nothing that was placed is walked past."""

from collections.abc import Mapping
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from shared.orders import Leg, client_order_id
from shared.recovery import (
    Answer,
    KnownPair,
    Place,
    id_at,
    look_ahead,
    places_within,
    walk,
)

NAMESPACE = UUID(int=7)


def known(**changes: object) -> KnownPair:
    plain: dict[str, object] = {
        "bot_id": 3,
        "pair": "BTC/USD",
        "sequence": 4,
        "unclosed": False,
        "exit_attempts": 0,
        "retry_cooldown_secs": 60.0,
    }
    return KnownPair(**{**plain, **changes})  # type: ignore[arg-type]


def asked(
    pair: KnownPair, there: Mapping[Place, Answer], *, entries: int, exits: int
) -> list[Place]:
    """Every place that a walk asks for at a venue that has these orders."""
    steps = walk(pair, entries_ahead=entries, exits_ahead=exits)
    places = [next(steps)]
    while True:
        try:
            places.append(steps.send(there.get(places[-1], Answer.NOTHING)))
        except StopIteration:
            return places


def test_a_flat_pair_is_asked_for_its_next_entries_only() -> None:
    places = asked(known(), {}, entries=3, exits=2)
    assert places == [Place(sequence, Leg.ENTRY, 0) for sequence in (5, 6, 7)]


def test_an_open_position_is_asked_for_exits_after_the_known_ones() -> None:
    places = asked(known(unclosed=True, exit_attempts=2), {}, entries=1, exits=2)
    assert places == [Place(4, Leg.EXIT, 2), Place(4, Leg.EXIT, 3), Place(5, Leg.ENTRY, 0)]


def test_an_entry_that_bought_nothing_has_no_exits() -> None:
    there = {Place(5, Leg.ENTRY, 0): Answer.UNFILLED, Place(6, Leg.ENTRY, 0): Answer.FILLED}
    exits = {
        place.sequence
        for place in asked(known(), there, entries=2, exits=1)
        if place.leg is Leg.EXIT
    }
    assert exits == {6}


def test_an_exit_that_sold_the_rest_is_the_last_one() -> None:
    there = {Place(4, Leg.EXIT, 1): Answer.CLOSED}
    places = asked(known(unclosed=True), there, entries=1, exits=3)
    assert places == [Place(4, Leg.EXIT, 0), Place(4, Leg.EXIT, 1), Place(5, Leg.ENTRY, 0)]


@st.composite
def histories(draw: st.DrawFn) -> tuple[KnownPair, dict[Place, Answer], int, int]:
    """What a lost time did, its gaps shorter than the look-ahead."""
    entries, exits = draw(st.integers(1, 6)), draw(st.integers(1, 6))
    pair = known(
        sequence=draw(st.integers(0, 5)),
        unclosed=draw(st.booleans()),
        exit_attempts=draw(st.integers(0, 3)),
    )
    there: dict[Place, Answer] = {}

    def sell(sequence: int, attempt: int) -> None:
        for _ in range(draw(st.integers(0, 4))):
            attempt += draw(st.integers(0, exits - 1))
            there[Place(sequence, Leg.EXIT, attempt)] = draw(
                st.sampled_from((Answer.UNFILLED, Answer.FILLED))
            )
            attempt += 1

    if pair.unclosed:
        sell(pair.sequence, pair.exit_attempts)
    sequence = pair.sequence
    for _ in range(draw(st.integers(0, 4))):
        sequence += draw(st.integers(1, entries))
        bought = draw(st.booleans())
        there[Place(sequence, Leg.ENTRY, 0)] = Answer.FILLED if bought else Answer.UNFILLED
        if bought:
            sell(sequence, 0)
    return pair, there, entries, exits


@given(histories())
def test_a_walk_asks_for_every_order_there_is_once_and_in_order(
    history: tuple[KnownPair, dict[Place, Answer], int, int],
) -> None:
    pair, there, entries, exits = history
    places = asked(pair, there, entries=entries, exits=exits)
    assert set(there) <= set(places)
    assert places == sorted(set(places))


@given(histories())
def test_listed_orders_are_told_by_more_than_a_walk_would_ask_for(
    history: tuple[KnownPair, dict[Place, Answer], int, int],
) -> None:
    pair, there, _, _ = history
    every = list(places_within(pair, lost_secs=3600))
    assert len(every) == len(set(every))
    assert set(there) <= set(every)


def test_a_long_lost_time_looks_further_ahead_within_bounds() -> None:
    assert look_ahead(known(), lost_secs=-5) == 8
    assert look_ahead(known(), lost_secs=20 * 60) == 21
    assert look_ahead(known(retry_cooldown_secs=0.0), lost_secs=1e9) == 64


def test_an_id_is_the_one_that_a_worker_gives() -> None:
    given_by_a_worker = client_order_id(
        NAMESPACE, bot_id=3, pair="BTC/USD", position_sequence=5, leg=Leg.EXIT, attempt=2
    )
    assert id_at(NAMESPACE, known(), Place(5, Leg.EXIT, 2)) == given_by_a_worker
