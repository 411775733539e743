"""Which client order ids the time that a restored backup has lost could have used.

An id follows from its place: (bot, pair, sequence, leg, attempt). What the database knows of a
pair says where its next places are; a walk over them goes on while something is found, and looks
over gaps, since an intent that the venue refused has used its place too.
"""

import math
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from enum import Enum
from typing import Final
from uuid import UUID

from shared.orders import Leg, client_order_id

LEAST_LOOK_AHEAD: Final = 8
MOST_LOOK_AHEAD: Final = 64
EXIT_LOOK_AHEAD: Final = 8
LISTED_LOOK_AHEAD: Final = 2
"""How far to look over gaps where the venue's own list of orders was seen to be complete."""

_MOST_SEQUENCES: Final = 4_096
_MOST_ATTEMPTS: Final = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class KnownPair:
    """A bot's pair as the restored database knows it.

    `sequence` is that of its last position, 0 without one; `unclosed` whether that may still
    have exits, `exit_attempts` how many exits it had. `retry_cooldown_secs` is the shortest time
    between two entries.
    """

    bot_id: int
    pair: str
    sequence: int
    unclosed: bool
    exit_attempts: int
    retry_cooldown_secs: float


@dataclass(frozen=True, slots=True, order=True)
class Place:
    """Which order of a (bot, pair): in the order in which they were committed."""

    sequence: int
    leg: Leg
    """`entry` sorts before `exit`."""
    attempt: int


class Answer(Enum):
    """What a venue says of a place."""

    NOTHING = "nothing"
    UNFILLED = "unfilled"
    FILLED = "filled"
    """Of an entry: there is something to sell, so there may be exits."""
    CLOSED = "closed"
    """It traded, and nothing of its position is left to sell: no exit follows."""


def id_at(namespace: UUID, known: KnownPair, place: Place) -> str:
    """The client order id that a worker gave, or would have given, to the order at this place."""
    return client_order_id(
        namespace,
        bot_id=known.bot_id,
        pair=known.pair,
        position_sequence=place.sequence,
        leg=place.leg,
        attempt=place.attempt,
    )


def look_ahead(known: KnownPair, *, lost_secs: float) -> int:
    """How many entries in a row may have left nothing at the venue in the lost time.

    One that fails keeps its pair from the next for the retry cool-down: 8 at least, in case the
    time is not known well, and 64 at most.

    >>> pair = KnownPair(bot_id=1, pair="BTC/USD", sequence=0, unclosed=False, exit_attempts=0,
    ...                  retry_cooldown_secs=60)
    >>> [look_ahead(pair, lost_secs=lost) for lost in (60, 1800, 86_400)]
    [8, 31, 64]
    """
    entries = _entries_within(known, lost_secs)
    return min(max(entries, LEAST_LOOK_AHEAD), MOST_LOOK_AHEAD)


def walk(
    known: KnownPair, *, entries_ahead: int, exits_ahead: int
) -> Generator[Place, Answer, None]:
    """Yield each place to ask for, and be sent the answer, until nothing more can follow.

    First further exits of the last position, then the next entries, each that bought something
    with its exits.
    """
    if known.unclosed:
        yield from _exits(known.sequence, first=known.exit_attempts, ahead=exits_ahead)
    sequence, missed = known.sequence, 0
    while missed < entries_ahead:
        sequence += 1
        answer = yield Place(sequence, Leg.ENTRY, 0)
        missed = missed + 1 if answer is Answer.NOTHING else 0
        if answer is Answer.FILLED:
            yield from _exits(sequence, first=0, ahead=exits_ahead)


def places_within(known: KnownPair, *, lost_secs: float) -> Iterator[Place]:
    """Every place that the lost time could have used, and some more: to tell listed orders by."""
    if known.unclosed:
        for attempt in range(known.exit_attempts, known.exit_attempts + _MOST_ATTEMPTS):
            yield Place(known.sequence, Leg.EXIT, attempt)
    most = max(_entries_within(known, lost_secs), MOST_LOOK_AHEAD)
    for sequence in range(known.sequence + 1, known.sequence + 1 + min(most, _MOST_SEQUENCES)):
        yield Place(sequence, Leg.ENTRY, 0)
        for attempt in range(_MOST_ATTEMPTS):
            yield Place(sequence, Leg.EXIT, attempt)


def _exits(sequence: int, *, first: int, ahead: int) -> Generator[Place, Answer, None]:
    attempt, missed = first, 0
    while missed < ahead:
        answer = yield Place(sequence, Leg.EXIT, attempt)
        if answer is Answer.CLOSED:
            return
        missed = missed + 1 if answer is Answer.NOTHING else 0
        attempt += 1


def _entries_within(known: KnownPair, lost_secs: float) -> int:
    return math.ceil(max(lost_secs, 0.0) / max(known.retry_cooldown_secs, 1.0)) + 1
