"""Schedules of an order's life as data: drawn from a seed, played, and shortened when one fails."""

from collections.abc import Callable, Sequence
from random import Random
from typing import Any, Final

from tests.chaos.life import LONG_MS, WORKERS, Fate, Luck, Trouble, World
from tests.chaos.life_books import BOTS, TTL_MS
from tests.chaos.life_judge import left_over, violations
from tests.chaos.life_venue import Deal, Hidden, Reply

STEPS: Final = 40

Step = tuple[str, tuple[Any, ...]]
"""The name of a method of `World`, and what it is called with."""


def schedule(seed: int) -> list[Step]:
    """The same steps for the same seed."""
    random = Random(seed)
    draw = random.choices(tuple(_DRAWN), weights=[weight for weight, _ in _DRAWN.values()], k=STEPS)
    return [(name, _DRAWN[name][1](random)) for name in draw]


def play(steps: Sequence[Step]) -> list[str]:
    """Everything that is wrong at the first step after which something is, or in the end."""
    world = World()
    world.keep_leases(0)
    world.calm()
    try:
        for name, arguments in steps:
            getattr(world, name)(*arguments)
            if found := list(violations(world)):
                return found
            world.now_ms += 1
        world.drain()
    except AssertionError as exc:  # the model's own: an order that nothing could have led to
        return [str(exc)]
    return [*violations(world), *left_over(world)]


def shortest(steps: Sequence[Step]) -> list[Step]:
    """A failing schedule without the steps that it fails without, too."""
    kept = list(steps)
    for place in reversed(range(len(steps))):
        without = kept[:place] + kept[place + 1 :]
        if play(without):
            kept = without
    return kept


def _luck(random: Random) -> Luck:
    return Luck(
        fate=random.choices(tuple(Fate), weights=(6, 1, 1, 2))[0],
        deal=random.choices(tuple(Deal), weights=(4, 2, 1, 2, 1))[0],
        hidden=random.choices(tuple(Hidden), weights=(6, 2, 3, 1))[0],
        reply=random.choice(tuple(Reply)),
    )


def _chain(random: Random) -> tuple[list[Luck]]:
    return ([_luck(random) for _ in range(random.randint(0, 4))],)


_DRAWN: Final[dict[str, tuple[int, Callable[[Random], tuple[Any, ...]]]]] = {
    "tick": (6, lambda random: (random.choice((BOTS[:1], BOTS[1:], BOTS)),)),
    "go_on": (10, lambda random: (random.randrange(8), _luck(random), random.random() < 0.7)),
    "chain": (8, _chain),
    "time_out": (1, lambda random: (random.randrange(8),)),
    "ask": (3, lambda _: ()),
    "calm": (2, lambda _: ()),
    "pass_time": (5, lambda random: (random.choice((100, 1_000, TTL_MS, 15_000, LONG_MS)),)),
    "jump": (1, lambda random: (random.choice((1_000, TTL_MS, LONG_MS)),)),
    "keep_leases": (2, lambda random: (random.randrange(WORKERS), random.random() < 0.5)),
    "befall": (
        3,
        lambda random: (
            random.randrange(WORKERS),
            random.choice((*Trouble, Trouble.THAWS)),
            random.randrange(WORKERS),
        ),
    ),
    "back_up": (1, lambda _: ()),
    "restore": (1, lambda _: ()),
    "trade": (
        2,
        lambda random: (random.randrange(4), random.choice((1, 99)), random.random() < 0.3),
    ),
}
