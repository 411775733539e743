"""When losses open a breaker: streaks per bot, a day's losses per bot and per user.

A day is a UTC day in market time. Amounts are per mode and quote currency and never converted:
what is lost on paper is compared with capital on paper.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Final, NamedTuple

from shared.limits import BreakerKind, BreakerScope
from shared.money import exact, plain

DAY_MS: Final = 86_400_000


class Purse(NamedTuple):
    """What losses and capital are summed over."""

    mode: str
    currency: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Trip:
    """Losses that open a breaker until `open_until_ms` (market time); `facts` say which."""

    scope: BreakerScope
    scope_id: int
    kind: BreakerKind
    open_until_ms: int
    facts: Mapping[str, object]


def day_start_ms(market_time_ms: int) -> int:
    """The UTC midnight at or before this market time."""
    return market_time_ms - market_time_ms % DAY_MS


def next_day_ms(market_time_ms: int) -> int:
    """The first UTC midnight after this market time: until then a breaker stays open."""
    return day_start_ms(market_time_ms) + DAY_MS


def streak_trip(bot_id: int, *, losses: int, limit: int, market_time_ms: int) -> Trip | None:
    """The trip of a bot whose last `losses` positions all lost, None below its limit."""
    if losses < limit:
        return None
    return Trip(
        scope=BreakerScope.BOT,
        scope_id=bot_id,
        kind=BreakerKind.LOSS_STREAK,
        open_until_ms=next_day_ms(market_time_ms),
        facts={"losses": losses, "limit": limit},
    )


def daily_trip(
    scope: BreakerScope,
    scope_id: int,
    *,
    results: Iterable[tuple[Purse, Decimal]],
    capital: Mapping[Purse, Decimal],
    touched: Collection[Purse],
    max_daily_loss: Decimal,
    market_time_ms: int,
) -> Trip | None:
    """The trip of a bot or user whose day cost it too much, None if it did not.

    `results` are the day's realised results so far, gains included. A purse trips when its sum
    is a loss of at least `max_daily_loss` (a fraction) of its capital: with 1,000 and 0.05,
    results of -60 and +10 trip, -60 and +20 do not. Purses without capital trip on any loss.
    Only `touched` purses are judged: those that lost something just now.
    """
    lost: defaultdict[Purse, Decimal] = defaultdict(Decimal)
    counted: defaultdict[Purse, int] = defaultdict(int)
    with exact():
        for purse, realised in results:
            lost[purse] -= realised
            counted[purse] += 1
        for purse in sorted(touched):
            at_stake = capital.get(purse, Decimal(0))
            limit = max_daily_loss * at_stake
            if lost[purse] > 0 and lost[purse] >= limit:
                return Trip(
                    scope=scope,
                    scope_id=scope_id,
                    kind=BreakerKind.DAILY_LOSS,
                    open_until_ms=next_day_ms(market_time_ms),
                    facts={
                        "mode": purse.mode,
                        "currency": purse.currency,
                        "loss": plain(lost[purse]),
                        "limit": plain(limit),
                        "capital": plain(at_stake),
                        "max_daily_loss": plain(max_daily_loss),
                        "positions": counted[purse],
                    },
                )
    return None
