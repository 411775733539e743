"""The confidence score: its worked example, its edges, and how often it lets entries pass."""

import csv
import math
from collections.abc import Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from price_stream.candles import CANDLE_MS, Candle, CandleSeries, open_of
from price_stream.confidence import PARTS, WeightedParts
from price_stream.indicators import candle_facts, indicators, momentum
from shared.messages import Indicators
from shared.risk_profile import DEFAULTS

MODEL = WeightedParts()
MINUTE_MS = 60_000
REAL_MARKETS = sorted(Path(__file__).parents[3].glob("shared/market/*_1m_*.csv"))


def test_the_worked_example() -> None:
    example = Indicators(adx=24, momentum_1h=0.006, momentum_4h=0, volume_ratio=1.4, rsi=65)
    assert MODEL.score(example) == 69.5


def test_nothing_speaks_for_a_falling_market_and_everything_for_a_strong_start() -> None:
    falling = Indicators(adx=10, momentum_1h=-0.02, momentum_4h=-0.05, volume_ratio=0.3, rsi=90)
    strong = Indicators(adx=40, momentum_1h=0.02, momentum_4h=0.03, volume_ratio=3, rsi=55)
    assert MODEL.score(falling) == 0.0
    assert MODEL.score(strong) == 100.0


def test_the_weights_sum_to_a_hundred() -> None:
    assert sum(part.weight for part in PARTS) == 100


@pytest.mark.parametrize("missing", [part.indicator for part in PARTS])
def test_a_missing_indicator_leaves_no_score(missing: str) -> None:
    known = {part.indicator: part.all_at for part in PARTS}
    del known[missing]
    assert MODEL.score(Indicators(**known)) is None


@given(
    st.fixed_dictionaries(
        {
            part.indicator: st.floats(allow_nan=False, min_value=-1e6, max_value=1e6)
            for part in PARTS
        }
    )
)
def test_the_score_stays_between_0_and_100(values: dict[str, float]) -> None:
    score = MODEL.score(Indicators(**values))
    assert score is not None
    assert 0 <= score <= 100


def synthetic_minutes(seed: int, days: int) -> list[Candle]:
    """One-minute candles of a market whose drift, noise and activity change every few hours."""
    random = Random(seed)
    price, minutes = 40_000.0, []
    drift, noise, activity = 0.0, 0.0, 0.0
    for minute in range(days * 1440):
        if minute % 240 == 0:
            drift = random.gauss(0, 6e-5)
            noise = random.uniform(2e-4, 6e-4)
            activity = random.uniform(0.5, 2.0)
        opened = price
        price *= math.exp(random.gauss(drift, noise))
        volume = activity * random.lognormvariate(0, 0.8) * (1 + 2e3 * abs(price / opened - 1))
        minutes.append(
            Candle(
                open_ms=minute * MINUTE_MS,
                open=opened,
                high=max(opened, price) * (1 + noise / 4),
                low=min(opened, price) * (1 - noise / 4),
                close=price,
                volume=volume,
            )
        )
    return minutes


def recorded_minutes(path: Path) -> list[Candle]:
    with path.open(newline="") as file:
        return [
            Candle(
                open_ms=round(
                    datetime.fromisoformat(row["timestamp"]).replace(tzinfo=UTC).timestamp() * 1000
                ),
                **{name: float(row[name]) for name in ("open", "high", "low", "close", "volume")},
            )
            for row in csv.DictReader(file)
        ]


def fifteen(minutes: Sequence[Candle]) -> Candle:
    return Candle(
        open_ms=open_of(minutes[0].open_ms),
        open=minutes[0].open,
        high=max(minute.high for minute in minutes),
        low=min(minute.low for minute in minutes),
        close=minutes[-1].close,
        volume=sum(minute.volume for minute in minutes),
    )


def indicators_per_minute(minutes: Sequence[Candle]) -> Iterator[tuple[float, Indicators]]:
    """Price and indicators at the close of every minute, the market being its own reference."""
    series = CandleSeries()
    period: list[Candle] = []
    facts, version = candle_facts(None), series.version
    for minute in minutes:
        if period and open_of(minute.open_ms) != open_of(period[0].open_ms):
            series.correct([fifteen(period)], asked_at_ms=open_of(period[0].open_ms) + CANDLE_MS)
            period = []
        period.append(minute)
        if series.version != version:
            facts, version = candle_facts(series.window()), series.version
        yield (
            minute.close,
            indicators(
                facts,
                price=minute.close,
                market_time_ms=minute.open_ms + MINUTE_MS - 1,
                btc_momentum_1h=momentum(minute.close, facts.close_1h),
            ),
        )


def passes_stages_1_to_3(price: float, known: Indicators) -> bool:
    """DESIGN.md's first three stages with default thresholds, a fresh tick and a tight spread."""
    adx, rsi, volume, high = known.adx, known.rsi, known.volume_ratio, known.recent_high
    hour, hours, btc = known.momentum_1h, known.momentum_4h, known.btc_momentum_1h
    if adx is None or rsi is None or volume is None or high is None:
        return False
    if hour is None or hours is None or btc is None:
        return False
    healthy = adx >= DEFAULTS["min_adx"] and hours >= DEFAULTS["min_momentum_4h"]
    panic = volume > DEFAULTS["max_volume_ratio"] and hour < DEFAULTS["panic_momentum_1h"]
    protected = not panic and volume >= DEFAULTS["min_volume_ratio"]
    at_top = price > high * DEFAULTS["max_price_to_high"]
    breakout = volume > DEFAULTS["breakout_volume_ratio"] and hour > 0
    good = rsi <= DEFAULTS["max_rsi"] and (hour > DEFAULTS["min_momentum_1h"] or breakout)
    return healthy and protected and btc >= DEFAULTS["min_btc_momentum_1h"] and not at_top and good


@pytest.mark.parametrize(
    "market", ["synthetic 1", "synthetic 2", *REAL_MARKETS], ids=lambda market: Path(market).name
)
def test_30_to_70_percent_of_the_minutes_that_reach_stage_4_pass_it(market: str | Path) -> None:
    if isinstance(market, Path):
        minutes = recorded_minutes(market)
    else:
        minutes = synthetic_minutes(seed=int(market[-1]), days=40)
    scores = [
        score
        for price, known in indicators_per_minute(minutes)
        if passes_stages_1_to_3(price, known) and (score := MODEL.score(known)) is not None
    ]
    assert len(scores) > 300, "too few minutes to say anything"
    share = sum(score >= DEFAULTS["min_confidence"] for score in scores) / len(scores)
    assert 0.30 <= share <= 0.70
    if isinstance(market, Path) and market.name.startswith("btc_perp_1m_2022-01a"):
        assert share == pytest.approx(0.507, abs=0.005), "the docstring says 51 %"
