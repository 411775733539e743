"""The worker's bots: tables per market, filled from the database and kept in step with it."""

import asyncio
import contextlib
import logging
from collections.abc import Collection, Iterator, Sequence
from datetime import datetime
from typing import Final

import numpy as np

from shared.clock import ms_of
from shared.errors import Refused
from shared.limits import KillSwitches, KillSwitchLevel, UserStatus
from shared.messages import Regime
from shared.money import MarketRules
from shared.orders import BotStatus, PositionStatus, PositionTotals, totals_of
from shared.risk_profile import DEFAULTS, check
from shared.store import bots as bot_store
from shared.store import loading, markets
from shared.store.changes import ChangeFeed
from shared.store.engine import Store
from shared.store.loading import LoadedBot, LoadedPosition
from shared.store.markets import Market
from shared.store.switches import read_kill_switches
from shared.topology import PRICE_UPDATES, Binding
from shared.venues import VENUES
from trade_worker.accounts import Accounts
from trade_worker.backoff import entry_cooldown_ms, exit_backoff_ms
from trade_worker.bot_row import BotRow, PositionSnapshot
from trade_worker.bot_table import BotTable
from trade_worker.row_state import Key, Phase

log = logging.getLogger(__name__)

MOST_COMPLAINTS_LOGGED: Final = 20
_PAGE: Final = 500

_IN_FLIGHT: Final = frozenset({Phase.ENTERING, Phase.EXITING})
"""A row in one of these waits for the outcome of an order."""

_NOT_FLAT: Final = _IN_FLIGHT | {Phase.OPEN}


class Roster:
    """Tables by market. `load` and `forget` follow the shards, `refresh` what people change."""

    def __init__(self, store: Store) -> None:
        self._store = store
        self._shards: set[int] = set()
        self._accounts = Accounts()
        self._tables: dict[Market, BotTable] = {}
        self._switches = KillSwitches()
        self._feed: ChangeFeed | None = None
        self._outdated: set[int] = set()
        self._stopping: set[int] = set()
        self._complaints: dict[tuple[int, str], tuple[str, ...]] = {}
        self._lock = asyncio.Lock()
        """One reader of the database at a time: what was read later is applied later."""
        self._changed: set[int] = set()
        """Bots to read again: here until they are, so that a failed reading forgets none."""
        self._switches_changed = False
        self.kill_switches_seen = 0
        """The newest version of the kill switches that every row here goes by."""
        self.followed_at: datetime | None = None
        """The database's clock before the last look: every row goes by what was committed then."""
        self.rules: dict[Market, MarketRules] = {}
        """What the venues demand, by market."""

    def __len__(self) -> int:
        """How many rows there are: one per bot and pair."""
        return sum(len(table) for table in self._tables.values())

    def __iter__(self) -> Iterator[BotTable]:
        return iter(self._tables.values())

    def table(self, market: Market) -> BotTable | None:
        """The market's bots, None where there are none."""
        return self._tables.get(market)

    @property
    def kill_switches(self) -> KillSwitches:
        """Those that every row here goes by."""
        return self._switches

    @property
    def lacks_rules(self) -> bool:
        """Whether there are bots in a market whose rules are not known."""
        return any(len(table) and at not in self.rules for at, table in self._tables.items())

    @property
    def bindings(self) -> frozenset[Binding]:
        """The ticks that these bots need, and no others."""
        return frozenset(
            Binding(exchange=PRICE_UPDATES, pattern=pair)
            for (_, pair), table in self._tables.items()
            if len(table)
        )

    @property
    def invalid(self) -> dict[tuple[int, str], tuple[str, ...]]:
        """What makes no sense about a row, by (bot id, pair): it takes no entries."""
        return self._complaints

    async def load(self, shards: Collection[int]) -> None:
        """Add the bots of these shards. Raises `StoreUnavailable`: then none or some are in."""
        async with self._lock:
            await self._start_to_follow()
            self._shards.update(shards)
            async for page in loading.load_shards(self._store, shards):
                for loaded in page:
                    # A shard that was lost while it was loaded is nobody's here.
                    if loaded.shard in self._shards:
                        self._put(loaded)

    def forget(self, shards: Collection[int]) -> None:
        """Drop the bots of these shards, whatever their rows wait for."""
        self._shards.difference_update(shards)
        gone = np.array(sorted(shards), np.int64)
        for table in self._tables.values():
            for bot_id in table.bots_of(gone):
                table.remove(bot_id)
                self._complaints.pop((bot_id, table.pair), None)
                self._stopping.discard(bot_id)
                self._outdated.discard(bot_id)

    async def refresh(self) -> None:
        """Apply what changed since the last time. Raises `StoreUnavailable`."""
        if self._feed is None:
            return
        async with self._lock:
            async with self._store.read() as tx:
                changes = await self._feed.poll(tx)
                self._changed |= changes.bot_ids
                self._switches_changed |= changes.kill_switches
                if self._switches_changed:
                    self._switches = await read_kill_switches(tx)
                    self._changed |= self._bot_ids()
                    self._switches_changed = False
            outdated = {bot_id for bot_id in self._outdated if not self._in_flight(bot_id)}
            for page in _pages(sorted(self._changed | outdated)):
                async with self._store.read() as tx:
                    loaded = await loading.load(tx, page)
                self._changed.difference_update(page)
                for bot_id in outdated.intersection(page):
                    self._outdated.discard(bot_id)
                    # Nothing was decided for it since before it was read: an open row goes too.
                    self._drop(bot_id, kept=(), unless=_IN_FLIGHT)
                self._apply(page, [bot for bot in loaded if bot.shard in self._shards])
            self.kill_switches_seen = self._switches.version
            self.followed_at = self._feed.polled_at

    async def _start_to_follow(self) -> None:
        """Count as known what is committed before the first bots are read."""
        if self._feed is not None:
            return
        feed = ChangeFeed()
        async with self._store.read() as tx:
            await feed.start(tx)
            self._switches = await read_kill_switches(tx)
        self.kill_switches_seen = self._switches.version
        self._feed = feed
        await self.refresh_rules()

    async def refresh_rules(self) -> None:
        """Read again what the venues demand. Raises `StoreUnavailable`."""
        async with self._store.read() as tx:
            stored = await markets.read(tx)
        self.rules = {market: entry.rules for market, entry in stored.items()}

    def reload(self, bot_id: int) -> None:
        """The database knows better than this bot's rows: load them afresh at the next refresh.

        Until then they decide nothing: what is read would undo what they did meanwhile.
        """
        self._outdated.add(bot_id)
        for table in self._tables.values():
            table.set_unsettled(bot_id, True)

    async def finish_stopping(self) -> None:
        """Make stopping bots inactive that have nothing open any more."""
        idle = [
            bot_id
            for bot_id in self._stopping
            if all(_phase(table, bot_id) in (None, Phase.FLAT) for table in self)
        ]
        if idle:
            async with self._store.begin() as tx:
                finished = await bot_store.finish_stopping(tx, idle)
            self._stopping.difference_update(finished)

    def _apply(self, ids: Collection[int], loaded: Sequence[LoadedBot]) -> None:
        pairs: dict[int, set[str]] = {bot_id: set() for bot_id in ids}
        for bot in loaded:
            pairs[bot.bot_id].add(bot.pair)
            self._put(bot)
        for bot_id, kept in pairs.items():
            self._drop(bot_id, kept=kept, unless=_NOT_FLAT)

    def _put(self, loaded: LoadedBot) -> None:
        market = (loaded.venue, loaded.pair)
        if loaded.venue not in VENUES:
            log.error("bot %d is on %s, which is no venue", loaded.bot_id, loaded.venue)
            return
        table = self._tables.get(market)
        if table is None:
            table = self._tables[market] = BotTable(*market, self._accounts)
        if loaded.status == BotStatus.STOPPING:
            self._stopping.add(loaded.bot_id)
        else:
            self._stopping.discard(loaded.bot_id)
        behind = _behind(table, loaded)
        complaints = table.put(row_of(loaded, self._switches))
        if behind:
            self.reload(loaded.bot_id)
        key = (loaded.bot_id, loaded.pair)
        if complaints and self._complaints.get(key) != complaints:
            if len(self._complaints) < MOST_COMPLAINTS_LOGGED:
                log.error("bot %d on %s takes no entries: %s", *key, "; ".join(complaints))
            self._complaints[key] = complaints
        elif not complaints:
            self._complaints.pop(key, None)

    def _drop(self, bot_id: int, *, kept: Collection[str], unless: Collection[Phase]) -> None:
        """Drop the bot's rows, but for those on `kept` pairs.

        Where one is in a phase of `unless`, the bot is read again first: what it buys while the
        database is read is not in what was read, and must not be left without a guard.
        """
        for (_, pair), table in self._tables.items():
            if pair in kept:
                continue
            if _phase(table, bot_id) in unless:
                self.reload(bot_id)
            else:
                table.remove(bot_id)
                self._complaints.pop((bot_id, pair), None)

    def _in_flight(self, bot_id: int) -> bool:
        return any(_phase(table, bot_id) in _IN_FLIGHT for table in self)

    def _bot_ids(self) -> frozenset[int]:
        return frozenset(bot_id for table in self._tables.values() for bot_id in table.bot_ids())


def _pages(ids: Sequence[int]) -> Iterator[Sequence[int]]:
    for start in range(0, len(ids), _PAGE):
        yield ids[start : start + _PAGE]


def _phase(table: BotTable, bot_id: int) -> Phase | None:
    row = table.row_of(bot_id)
    return None if row is None else Phase(int(table.phase[row]))


def _behind(table: BotTable, loaded: LoadedBot) -> bool:
    """Whether the bot's row holds what the database has as closed or changed since.

    Somebody else wrote it: a person who wrote a position off, or whoever found a late order. A
    row that waits for an outcome is behind by nature, unless nothing is left to wait for.
    """
    row = table.row_of(loaded.bot_id)
    if row is None:
        return False
    phase, sequence = Phase(int(table.phase[row])), int(table.sequence[row])
    if phase not in _IN_FLIGHT and loaded.last_sequence > sequence:
        return True
    if loaded.last_sequence != sequence:
        return False
    if loaded.position is None:
        return phase is Phase.OPEN or (phase is Phase.EXITING and loaded.unsettled is None)
    return phase is Phase.OPEN and loaded.position.version > int(table.version[row])


def row_of(loaded: LoadedBot, switches: KillSwitches) -> BotRow:
    """What a table needs to know of a bot, from what the database says. Never raises."""
    levels = switches.over(bot_id=loaded.bot_id, user_id=loaded.user_id, venue=loaded.venue)
    paused = loaded.status == BotStatus.ACTIVE and not (
        loaded.pair_active and loaded.user_status == UserStatus.ACTIVE
    )
    position, pair = loaded.position, loaded.pair
    fee = VENUES[loaded.venue].taker_fee if loaded.taker_fee is None else loaded.taker_fee
    return BotRow(
        bot_id=loaded.bot_id,
        user_id=loaded.user_id,
        shard=loaded.shard,
        status=BotStatus.PAUSED if paused else loaded.status,
        mode=loaded.mode,
        capital=float(loaded.capital),
        taker_fee=float(fee),
        realised=float(loaded.realised),
        profile=loaded.risk_profile,
        last_sequence=loaded.last_sequence,
        position=None if position is None else _snapshot(position, pair, taker_fee=float(fee)),
        unsettled=loaded.unsettled is not None,
        cooldown_until_ms=_cooldown_until_ms(loaded),
        failed_entries=loaded.failed_entries,
        breaker_open=loaded.breaker_open,
        entries_off=bool(levels),
        all_off=KillSwitchLevel.ALL in levels,
        flatten=KillSwitchLevel.FLATTEN in levels,
        key=_key(loaded),
        max_open_positions=loaded.max_open_positions,
    )


def _key(loaded: LoadedBot) -> Key | None:
    if loaded.credential_id is None:
        return None
    in_trouble = loaded.credential_trouble is not None
    return Key(loaded.credential_id, live=loaded.credential_live, in_trouble=in_trouble)


def _cooldown_until_ms(loaded: LoadedBot) -> int:
    """When the row may decide again: it follows from its last order and needs no storage."""
    position = loaded.position
    if position is not None:
        if position.status is not PositionStatus.OPEN or position.last_exit_at is None:
            return 0
        return ms_of(position.last_exit_at) + exit_backoff_ms(position.exit_attempts - 1)
    if loaded.last_failed_at is not None:
        first_secs = _secs(loaded, "retry_cooldown_secs")
        wait_ms = entry_cooldown_ms(first_secs, loaded.failed_entries - 1)
        return ms_of(loaded.last_failed_at) + wait_ms
    if loaded.last_exited_at is not None:
        return ms_of(loaded.last_exited_at) + round(1000 * _secs(loaded, "cooldown_secs"))
    return 0


def _secs(loaded: LoadedBot, name: str) -> float:
    secs = DEFAULTS[name]
    with contextlib.suppress(Refused):  # the table complains about the profile
        secs = check(name, loaded.risk_profile.get(name, secs))
    return secs


def _snapshot(position: LoadedPosition, pair: str, *, taker_fee: float) -> PositionSnapshot:
    totals = position.totals
    if not all(getattr(totals, name).is_finite() for name in PositionTotals.__slots__):
        totals = totals_of((), pair=pair)  # without an average: the table calls it unsellable
    bought = totals.entry_quantity
    cost = float(totals.entry_cost + totals.fees)
    if position.status is PositionStatus.OPENING:
        # Its order may yet be filled to the last.
        cost = max(cost, float(position.ordered_cost) * (1 + taker_fee))
    return PositionSnapshot(
        sequence=position.sequence,
        version=position.version,
        status=position.status,
        mode=position.mode,
        average_entry=float(totals.entry_cost / bought) if bought else float("nan"),
        cost=cost,
        held=totals.held,
        opened_market_ms=0 if position.entered_at is None else ms_of(position.entered_at),
        peak=position.peak_profit or 0.0,
        regime=Regime(position.regime) if position.regime in set(Regime) else None,
        exit_attempts=position.exit_attempts,
        exit_wanted=position.exit_wanted is not None,
    )
