"""A seeded synthetic market: any minute of any asset, computed from (seed, minute) alone. Pure.

Each UTC day of an asset is a shuffled deck of regimes, so that every day has trends, rallies,
dumps, chop and hours without a real market. Midnights lie on a slow curve and the day between
them is bent to meet both ends, so that no day depends on another and prices stay near their
reference for ever. Alts follow BTC by their beta and move on their own besides.
"""

from dataclasses import dataclass
from functools import lru_cache
from typing import Final
from zlib import crc32

import numpy as np

from ecosystem.venue_simulator.minutes import Table

DAY_MINUTES: Final = 1440


@dataclass(frozen=True, slots=True, kw_only=True)
class Regime:
    """How a market behaves for a while.

    `drift_per_hour`, `swing` (height of the swings around the drift) and `noise_per_minute`
    (standard deviation) are fractions of the price; `swing_minutes` is the length of a swing.
    `volume` and `spread` are multiples of the asset's usual ones. `minutes` is how long it
    lasts, give or take a fifth.
    """

    minutes: float
    drift_per_hour: float
    swing: float = 0.0
    swing_minutes: float = 60.0
    noise_per_minute: float = 0.0004
    volume: float = 1.0
    spread: float = 1.0


_Card = tuple[Regime, ...]
"""Regimes that follow each other."""

# Climbs with pull-backs: the price is below its recent high while momentum is positive.
_CLIMB: Final[_Card] = (
    Regime(minutes=150, drift_per_hour=0.006, swing=0.025, swing_minutes=180, volume=1.3),
)
_SLIDE: Final[_Card] = (
    Regime(minutes=90, drift_per_hour=-0.008, swing=0.010, swing_minutes=180, volume=1.1),
)
# A straight run into overbought.
_RALLY: Final[_Card] = (
    Regime(minutes=80, drift_per_hour=0.040, noise_per_minute=0.0005, volume=2.2),
)
# What panic and crash guards are for, and the rebound from it.
_DUMP: Final[_Card] = (
    Regime(minutes=45, drift_per_hour=-0.048, noise_per_minute=0.001, volume=5.0, spread=4.0),
    Regime(minutes=90, drift_per_hour=0.020, swing=0.006, swing_minutes=60, volume=1.8),
)
_CHOP: Final[_Card] = (
    Regime(minutes=170, drift_per_hour=0.0, swing=0.002, swing_minutes=40, volume=0.8),
)
# Nobody is there: hardly any volume and a wide spread.
_DESERTED: Final[_Card] = (
    Regime(minutes=70, drift_per_hour=0.0, noise_per_minute=0.0003, volume=0.2, spread=40.0),
)
_ALT_DECK: Final = (*4 * (_CLIMB,), *2 * (_SLIDE,), *2 * (_RALLY,), _DUMP, _CHOP, _DESERTED)

_BTC_CLIMB: Final[_Card] = (
    Regime(minutes=120, drift_per_hour=0.006, swing=0.008, swing_minutes=120, volume=1.3),
)
_BTC_SLIDE: Final[_Card] = (
    Regime(minutes=100, drift_per_hour=-0.005, swing=0.005, swing_minutes=120, volume=1.1),
)
# Alts are denied while BTC's 1 h momentum shows the flush: it is over soon.
_BTC_FLUSH: Final[_Card] = (
    Regime(minutes=11, drift_per_hour=-0.090, noise_per_minute=0.0008, volume=5.0, spread=5.0),
    Regime(minutes=35, drift_per_hour=0.030, volume=2.0),
)
_BTC_CHOP: Final[_Card] = (
    Regime(minutes=150, drift_per_hour=0.0, swing=0.0015, swing_minutes=40, volume=0.8),
)
_BTC_DECK: Final = (
    *4 * (_BTC_CLIMB,),
    *4 * (_BTC_SLIDE,),
    *2 * (_BTC_FLUSH,),
    *3 * (_BTC_CHOP,),
)

_REFERENCE: Final = "BTC"
_FALL: Final = 0.2
"""The part of a swing in which the price falls back; in the rest it recovers."""
_LEVEL_CYCLES: Final = ((11.0, 0.03), (37.0, 0.08), (97.0, 0.12))
"""(days, amplitude) of the slow curve on which midnights lie."""
_LEVEL_NOISE: Final = 0.012
_VENUE_BASIS: Final = 0.0002
"""How far two venues' prices of one asset part."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Asset:
    """What the synthetic market trades.

    `price_usd` is the price around which it moves, `daily_volume_usd` what changes hands on one
    venue, `spread` the usual (ask - bid) / price. `phase` (0 to 1) is where its swings are:
    assets fall back one after the other, so that nearly always one of them recovers. An asset
    other than BTC moves by `beta` times what BTC moves, and on its own besides.
    """

    code: str
    price_usd: float
    beta: float
    phase: float
    daily_volume_usd: float
    spread: float


@dataclass(frozen=True, slots=True)
class _Day:
    """An asset's own day: `log_price` has shape (1441,), the others (1440,)."""

    log_price: Table
    volume: Table
    spread: Table


class SyntheticTape:
    """One asset on one venue, for ever in both directions."""

    def __init__(self, *, seed: int, venue: str, asset: Asset) -> None:
        self._seed = seed
        self._venue = venue
        self._asset = asset

    def minutes(self, first: int, count: int) -> Table:
        first_day, last_day = first // DAY_MINUTES, (first + count - 1) // DAY_MINUTES
        days = [
            _venue_day(self._seed, self._venue, self._asset, day)
            for day in range(first_day, last_day + 1)
        ]
        table = days[0] if len(days) == 1 else np.concatenate(days, axis=1)
        start = first - first_day * DAY_MINUTES
        return table[:, start : start + count]


@lru_cache(maxsize=600)  # 70 kB each: nine days of 66 markets
def _venue_day(seed: int, venue: str, asset: Asset, day: int) -> Table:
    own = _asset_day(seed, asset.code, asset.phase, day)
    log_price = own.log_price
    volume = own.volume
    if asset.code != _REFERENCE:
        btc = _asset_day(seed, _REFERENCE, 0.0, day)
        log_price = log_price + asset.beta * btc.log_price
        volume = volume * (0.7 + 0.3 * btc.volume)
    random = _random(seed, f"{venue} {asset.code}", day)
    minutes = np.arange(DAY_MINUTES + 1) + day * DAY_MINUTES
    basis = _VENUE_BASIS * np.sin(minutes / 47.0 + crc32(venue.encode()) % 7)
    price = asset.price_usd * np.exp(log_price + basis)
    opens, closes = price[:-1], price[1:]
    wicks = np.abs(random.normal(0.0, 0.0003, (2, DAY_MINUTES)))
    usual_volume = asset.daily_volume_usd / DAY_MINUTES / asset.price_usd
    table = np.stack(
        [
            opens,
            np.maximum(opens, closes) * (1 + wicks[0]),
            np.minimum(opens, closes) * (1 - wicks[1]),
            closes,
            usual_volume * volume * random.lognormal(0.0, 0.35, DAY_MINUTES),
            asset.spread * own.spread,
        ]
    )
    table.flags.writeable = False  # it is shared through the cache
    return table


@lru_cache(maxsize=600)
def _asset_day(seed: int, code: str, phase: float, day: int) -> _Day:
    random = _random(seed, code, day)
    deck = _BTC_DECK if code == _REFERENCE else _ALT_DECK
    hand = [regime for index in random.permutation(len(deck)) for regime in deck[index]]
    lengths = np.array([regime.minutes for regime in hand]) * random.uniform(0.8, 1.2, len(hand))
    ends = np.rint(np.cumsum(lengths) / lengths.sum() * DAY_MINUTES).astype(np.int64)
    regime_of_minute = np.searchsorted(ends, np.arange(DAY_MINUTES), side="right")

    def column(name: str) -> Table:
        return np.array([getattr(regime, name) for regime in hand], dtype=np.float64)[
            regime_of_minute
        ]

    minutes = np.arange(DAY_MINUTES) + day * DAY_MINUTES
    falls = (minutes / column("swing_minutes") + phase) % 1 < _FALL
    swing_per_minute = column("swing") / column("swing_minutes")
    steps = column("drift_per_hour") / 60
    steps += swing_per_minute * np.where(falls, -1 / _FALL, 1 / (1 - _FALL))
    steps += random.normal(0.0, 1.0, DAY_MINUTES) * column("noise_per_minute")
    log_price = np.concatenate([[0.0], np.cumsum(steps)])
    start, end = _level(seed, code, day), _level(seed, code, day + 1)
    bend = (end - start - log_price[-1]) / DAY_MINUTES
    log_price += start + bend * np.arange(DAY_MINUTES + 1)
    return _Day(log_price, column("volume"), column("spread"))


def _level(seed: int, code: str, day: int) -> float:
    """The log price, relative to the reference, at a day's first midnight."""
    turns = _random(seed, f"{code} cycles", 0).uniform(0.0, 1.0, len(_LEVEL_CYCLES))
    curve = sum(
        amplitude * np.cos(2 * np.pi * (day / days + turn))
        for (days, amplitude), turn in zip(_LEVEL_CYCLES, turns, strict=True)
    )
    return float(curve + _random(seed, f"{code} midnight", day).normal(0.0, _LEVEL_NOISE))


def _random(seed: int, name: str, day: int) -> np.random.Generator:
    return np.random.Generator(np.random.PCG64([seed, crc32(name.encode()), day]))
