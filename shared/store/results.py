"""What closed positions bring: their bots' results and streaks, and the breakers of losses."""

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from functools import cache
from typing import TypeVar

from sqlalchemy import Executable, Integer, and_, select, update

from shared import risk_profile
from shared.breakers import DAY_MS, Purse, Trip, daily_trip, day_start_ms, streak_trip
from shared.clock import datetime_of
from shared.errors import Refused
from shared.limits import BreakerScope
from shared.money import decimal_of, exact
from shared.orders import BotStatus, OrderFacts, PositionStatus
from shared.store import breakers
from shared.store.breakers import Subject
from shared.store.bulk import Rows, dialect_of
from shared.store.database_url import Dialect
from shared.store.engine import Transaction
from shared.store.tables import bot_pairs, bots, positions
from shared.store.trading_statements import BOT_IDS
from shared.store.types import Id, Moment, Money
from shared.venues import quote_of

T = TypeVar("T")
K = TypeVar("K", bound=Hashable)

_RESULTS = Rows("results", id=Id, realised=Money, loss_streak=Integer)
_DAYS = Rows("days", user_id=Id, starts=Moment, ends=Moment)
_USER_IDS = Rows("user_ids", id=Id)


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """A position that an order closed, and what it realised, in its quote currency.

    `correction`: it was closed before, and `realised_pnl` is what a late fill adds to its result.
    """

    closed_by: OrderFacts
    realised_pnl: Decimal
    correction: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class _Loss:
    """A result below zero. `streak` counts the bot's losses in a row, this one included."""

    closed_by: OrderFacts
    streak: int
    capital: Decimal
    risk_profile: object

    @property
    def purse(self) -> Purse:
        return Purse(self.closed_by.mode, quote_of(self.closed_by.pair))

    @property
    def day_ms(self) -> int:
        return day_start_ms(self.closed_by.market_time_ms)

    def threshold(self, name: str) -> float:
        """One of the bot's thresholds; a stored value that makes no sense is the default."""
        default = risk_profile.DEFAULTS[name]
        stored = self.risk_profile if isinstance(self.risk_profile, dict) else {}
        try:
            return risk_profile.check(name, stored.get(name, default))
        except Refused:
            return default


@dataclass(frozen=True, slots=True, kw_only=True)
class _DayResult:
    """What a position of a user realised that day. `closed_at` is the database's clock."""

    bot_id: int
    purse: Purse
    realised_pnl: Decimal
    closed_at: datetime


async def book(tx: Transaction, results: Sequence[Result]) -> None:
    """Add results to their bots, once per closed position, and open the breakers they trip.

    Call it in the transaction that closes the positions, under their users' leases. Where
    nothing lost, it costs two statements. Reads and then writes, under the bots' locks: SQLite
    keeps amounts as text.
    """
    if not results:
        return
    dialect = dialect_of(tx)
    ids = BOT_IDS.parameters((bot_id,) for bot_id in {r.closed_by.bot_id for r in results})
    accounts = {row.id: row for row in await tx.execute(_lock_bots(dialect), ids)}
    booked = {bot_id: (row.realised, row.loss_streak) for bot_id, row in accounts.items()}
    losses = []
    for result in results:
        bot_id = result.closed_by.bot_id
        realised, streak = booked[bot_id]
        lost = result.realised_pnl < 0
        with exact():
            realised += result.realised_pnl
        if not result.correction:
            streak = streak + 1 if lost else 0
        booked[bot_id] = realised, streak
        if lost:
            losses.append(
                _Loss(
                    closed_by=result.closed_by,
                    streak=streak,
                    capital=_usable(accounts[bot_id].capital),
                    risk_profile=accounts[bot_id].risk_profile,
                )
            )
    rows = ((bot_id, *values) for bot_id, values in booked.items())
    await tx.execute(_update_bots(dialect), _RESULTS.parameters(rows))
    if losses:
        await _trip(tx, losses)


async def _trip(tx: Transaction, losses: Sequence[_Loss]) -> None:
    by_user = _grouped(losses, lambda loss: loss.closed_by.user_id)
    by_bot = _grouped(losses, lambda loss: loss.closed_by.bot_id)
    # Venues' clocks may stand on either side of midnight: the later day is judged.
    days = {user_id: max(loss.day_ms for loss in lost) for user_id, lost in by_user.items()}
    realised = await _read_days(tx, days)
    capital = await _read_capital(tx, realised)
    resets = await breakers.read_resets(
        tx,
        [
            *((BreakerScope.BOT, bot_id) for bot_id in by_bot),
            *((BreakerScope.USER, user_id) for user_id in by_user),
        ],
    )
    trips: list[tuple[Trip, OrderFacts]] = []
    for bot_id, lost in by_bot.items():
        last = lost[-1]
        trips += _streak(bot_id, lost)
        if last.day_ms == days[last.closed_by.user_id]:
            today = (r for r in realised[last.closed_by.user_id] if r.bot_id == bot_id)
            own = {loss.purse: loss.capital for loss in lost}
            fraction = last.threshold("max_daily_loss")
            trips += _daily((BreakerScope.BOT, bot_id), lost, today, own, fraction, resets)
    for user_id, lost in by_user.items():
        subject = BreakerScope.USER, user_id
        fraction = risk_profile.DEFAULTS["max_daily_loss"]
        trips += _daily(subject, lost, realised[user_id], capital[user_id], fraction, resets)
    if trips:
        await breakers.open_tripped(tx, trips)


def _streak(bot_id: int, losses: Sequence[_Loss]) -> Iterator[tuple[Trip, OrderFacts]]:
    worst = max(losses, key=lambda loss: loss.streak)
    limit = int(worst.threshold("max_loss_streak"))
    at_ms = worst.closed_by.market_time_ms
    tripped = streak_trip(bot_id, losses=worst.streak, limit=limit, market_time_ms=at_ms)
    if tripped is not None:
        yield tripped, worst.closed_by


def _daily(
    subject: Subject,
    losses: Sequence[_Loss],
    today: Iterable[_DayResult],
    capital: Mapping[Purse, Decimal],
    max_daily_loss: float,
    resets: Mapping[Subject, datetime],
) -> Iterator[tuple[Trip, OrderFacts]]:
    since = resets.get(subject)
    last = max(losses, key=lambda loss: loss.closed_by.market_time_ms).closed_by
    tripped = daily_trip(
        *subject,
        results=[(r.purse, r.realised_pnl) for r in today if since is None or r.closed_at > since],
        capital=capital,
        touched={loss.purse for loss in losses},
        max_daily_loss=decimal_of(max_daily_loss),
        market_time_ms=last.market_time_ms,
    )
    if tripped is not None:
        yield tripped, last


async def _read_days(
    tx: Transaction, days: Mapping[int, int]
) -> defaultdict[int, list[_DayResult]]:
    """What each user's positions realised on its day (its start, market time), by user."""
    asked = _DAYS.parameters(
        (user_id, datetime_of(start_ms), datetime_of(start_ms + DAY_MS))
        for user_id, start_ms in days.items()
    )
    found: defaultdict[int, list[_DayResult]] = defaultdict(list)
    for row in await tx.execute(_closed_on(dialect_of(tx)), asked):
        found[row.user_id].append(
            _DayResult(
                bot_id=row.bot_id,
                purse=Purse(row.mode, quote_of(row.pair)),
                realised_pnl=row.realised_pnl,
                closed_at=row.closed_at,
            )
        )
    return found


async def _read_capital(
    tx: Transaction, realised: Mapping[int, Collection[_DayResult]]
) -> defaultdict[int, defaultdict[Purse, Decimal]]:
    """The capital of each user's bots, by purse, but for inactive ones that sold nothing today.

    A bot has its capital in the quote currency of each of its pairs.
    """
    purses: defaultdict[int, set[Purse]] = defaultdict(set)
    for result in (result for results in realised.values() for result in results):
        purses[result.bot_id].add(result.purse)
    traded = frozenset(purses)
    asked = _USER_IDS.parameters((user_id,) for user_id in realised)
    found = {}
    for row in await tx.execute(_bots_of_users(dialect_of(tx)), asked):
        if row.status != BotStatus.INACTIVE or row.id in traded:
            found[row.id] = row
            if row.pair is not None:
                purses[row.id].add(Purse(row.mode, quote_of(row.pair)))
    total: defaultdict[int, defaultdict[Purse, Decimal]] = defaultdict(lambda: defaultdict(Decimal))
    with exact():
        for row in found.values():
            for purse in purses[row.id]:
                total[row.user_id][purse] += _usable(row.capital)
    return total


def _usable(capital: Decimal) -> Decimal:
    """A stored capital that is no number counts as none: the sibling bots' exits must go on."""
    return capital if capital.is_finite() else Decimal(0)


def _grouped(things: Iterable[T], key: Callable[[T], K]) -> dict[K, list[T]]:
    groups: defaultdict[K, list[T]] = defaultdict(list)
    for thing in things:
        groups[key(thing)].append(thing)
    return dict(groups)


@cache
def _lock_bots(dialect: Dialect) -> Executable:
    ids = BOT_IDS.source(dialect)
    return (
        select(*(bots.c[n] for n in ("id", "realised", "loss_streak", "capital", "risk_profile")))
        .where(bots.c.id.in_(select(ids.c.id)))
        .order_by(bots.c.id)
        .with_for_update()
    )


@cache
def _update_bots(dialect: Dialect) -> Executable:
    """Write `_RESULTS`. `updated_at` stays: the worker that wrote this knows it already."""
    new = _RESULTS.source(dialect)
    return (
        update(bots)
        .values(realised=new.c.realised, loss_streak=new.c.loss_streak)
        .where(bots.c.id == new.c.id)
    )


@cache
def _closed_on(dialect: Dialect) -> Executable:
    days = _DAYS.source(dialect)
    names = ("user_id", "bot_id", "mode", "pair", "realised_pnl", "closed_at")
    of_the_day = and_(
        positions.c.user_id == days.c.user_id,
        positions.c.exited_at >= days.c.starts,
        positions.c.exited_at < days.c.ends,
    )
    return (
        select(*(positions.c[name] for name in names))
        .join_from(days, positions, of_the_day)
        .where(positions.c.status == PositionStatus.CLOSED)
    )


@cache
def _bots_of_users(dialect: Dialect) -> Executable:
    ids = _USER_IDS.source(dialect)
    names = ("id", "user_id", "mode", "status", "capital")
    return (
        select(*(bots.c[name] for name in names), bot_pairs.c.pair)
        .join_from(ids, bots, bots.c.user_id == ids.c.id)
        .outerjoin(bot_pairs, bot_pairs.c.bot_id == bots.c.id)
        .where(bots.c.removed_at.is_(None))
    )
