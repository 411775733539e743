"""The demo's users and bots: made up from a seed, always the same ones."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from random import Random
from typing import Final

from console.fields import profile
from console.import_file import ImportedBot

USER_PREFIX: Final = "demo-"
"""Marks users that nobody owns: `botfleet demo` writes into no database that has others."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Character:
    """A way to trade. `profile` holds ranges: a bot draws each value from its range."""

    name: str
    pairs: int
    profile: Mapping[str, tuple[float, float]]


CHARACTERS: Final = (
    Character(name="steady", pairs=2, profile={}),
    Character(
        name="careful",
        pairs=3,
        profile={
            "min_adx": (24, 30),
            "max_spread": (0.001, 0.003),
            "max_rsi": (68, 78),
            "min_confidence": (72, 82),
            "stake_fraction": (0.3, 0.6),
            "emergency_stop": (-0.04, -0.025),
        },
    ),
    Character(
        name="bold",
        pairs=3,
        profile={
            "min_adx": (12, 18),
            "min_momentum_1h": (0.001, 0.003),
            "max_price_to_high": (0.997, 1.003),
            "min_confidence": (40, 60),
            "min_volume_ratio": (0.3, 0.45),
            "stake_fraction": (0.8, 1.0),
        },
    ),
    # Small targets, little patience: what a person sees open and close within a minute.
    Character(
        name="quick",
        pairs=4,
        profile={
            "min_adx": (12, 20),
            "min_momentum_1h": (0.0005, 0.003),
            "max_price_to_high": (0.997, 1.002),
            "min_confidence": (35, 60),
            "cost_multiplier": (0.4, 0.7),
            "profit_target_choppy": (0.006, 0.009),
            "profit_target_weak": (0.006, 0.01),
            "profit_target_moderate": (0.007, 0.012),
            "profit_target_strong": (0.008, 0.015),
            "erosion_min_peak": (0.001, 0.004),
            "erosion_cap": (0.15, 0.3),
            # A position starts at the loss of both taker fees: 0.8 % on Kraken.
            "early_loss_5m": (-0.022, -0.016),
            "early_loss_15m": (-0.022, -0.016),
            "early_loss_30m": (-0.024, -0.016),
            "early_loss_3h": (-0.025, -0.016),
        },
    ),
)

_CAPITALS: Final = (250, 500, 1_000, 2_500, 5_000, 10_000, 25_000)


def demo_bots(
    *, users: int, bots: int, seed: int, markets: Mapping[str, Sequence[str]]
) -> list[ImportedBot]:
    """`bots` bots spread evenly over `users` users and the pairs of each venue.

    Every pair of `markets` (venue → pairs) has a bot if there are enough of them. The same
    arguments give the same fleet.
    """
    chance = Random(seed)  # noqa: S311 - a demo, and it must repeat
    made = []
    for number in range(bots):
        character = CHARACTERS[number % len(CHARACTERS)]
        venue = tuple(markets)[number // len(CHARACTERS) % len(markets)]
        listed = markets[venue]
        pairs = {listed[number % len(listed)]: None}
        pairs.update(dict.fromkeys(chance.sample(listed, min(character.pairs, len(listed)))))
        made.append(
            ImportedBot(
                line=number + 1,
                user=f"{USER_PREFIX}{number % users + 1:02}",
                bot=f"{character.name}-{number + 1:03}",
                venue=venue,
                pairs=tuple(pairs)[: character.pairs],
                capital=Decimal(chance.choice(_CAPITALS)),
                risk_profile=profile(_drawn(character, chance)),
            )
        )
    return made


def _drawn(character: Character, chance: Random) -> dict[str, object]:
    return {
        name: float(f"{chance.uniform(low, high):.3g}")
        for name, (low, high) in character.profile.items()
    }
