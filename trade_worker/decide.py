"""One tick and all rows of its market: which positions to sell, which to open, and who not.

Synchronous from start to end: what is decided is reserved in the table before anyone else can
read it. Whoever calls this tells the table each decision's outcome.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from decimal import Decimal, localcontext
from typing import Any, Final

import numpy as np

from shared.messages import Regime, Tick
from shared.money import MarketRules, decimal_of, floor_to
from shared.orders import Leg, Mode
from shared.reasons import Reason
from trade_worker.bot_table import BotTable
from trade_worker.columns import Float64s, Int64s, Slots, run_of
from trade_worker.exits import reached
from trade_worker.limit_price import limit_price
from trade_worker.order_facts import entry_facts, exit_facts, market_facts
from trade_worker.risk.market_facts import facts_of
from trade_worker.risk.pipeline import CODE_OF, VERDICTS, judge
from trade_worker.rows import Rows
from trade_worker.sizing import (
    ROUNDING_DOWN,
    Stake,
    Terms,
    exact_of,
    price_on_tick,
    size,
    surely_too_small,
    terms_of,
)
from trade_worker.thresholds import POSITION, REGIMES, readable, stake_multiplier

CHUNK: Final = 32_768
"""Rows judged at a time: few enough that masks stay in the processor's cache."""

_MAX_SLIPPAGE: Final = POSITION["max_slippage"]
_LIMIT_EXITS: Final = 2
"""So many exits of a position have a limit; what they could not sell goes at market."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """An order that a row wants, and all that its intent needs to know of the row.

    `quantity` is in the base currency: what to buy, or all that is held (live: in whole lots).
    `decided_price` is the ask or bid on the venue's price tick, `limit_price` the worst that a
    live order takes, None on paper and where it goes `at_market`: an emergency stop, and every
    exit after two. `credential_id` is 0 on paper. `position_version` and `attempt` are 0 for an
    entry; `regime` is that of the entry. `taker_fee` and `max_slippage` are fractions.
    """

    bot_id: int
    user_id: int
    shard: int
    mode: Mode
    credential_id: int
    leg: Leg
    reason: Reason
    quantity: Decimal
    decided_price: Decimal
    at_market: bool
    limit_price: Decimal | None
    taker_fee: Decimal
    max_slippage: Decimal
    position_sequence: int
    position_version: int
    attempt: int
    regime: Regime
    facts: Mapping[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class Decisions:
    """What one tick led to, exits and entries each in the order of their bots' ids.

    `verdicts` counts, for each row of the market, why it did not enter (`ENTRY_SIGNAL`: it
    does); rows with an open position are among `POSITION_UNCLOSED`. Zeros are left out.
    """

    exits: tuple[Decision, ...]
    entries: tuple[Decision, ...]
    verdicts: Mapping[Reason, int]


def decide(table: BotTable, tick: Tick, *, now_ms: int, rules: MarketRules | None) -> Decisions:
    """Decide exits, then entries, for every row of the tick's market.

    `now_ms` is the worker's clock; `rules` None means that the venue's rules are not known, so
    nothing is bought. The caller drops ticks that are not newer than the market's last. Rows
    that trade are left entering or exiting, their capital and their users' limits reserved;
    each row's verdict is in `table.verdict`. Total: bad data denies, it never raises.
    """
    market = facts_of(tick, now_ms)
    funnel = _Funnel(table)
    due: list[tuple[Reason, Slots]] = []
    worth: list[_Candidate] = []
    with np.errstate(all="ignore"), localcontext(ROUNDING_DOWN):
        terms = terms_of(tick.ask, rules)
        for start in range(0, table.size, CHUNK):
            chunk = slice(start, min(start + CHUNK, table.size))
            due += reached(table, chunk, tick)
            alive = judge(Rows(table, chunk), market, table.verdict[chunk], funnel.counts)
            if market.regime is not None and alive.any():
                passed = np.flatnonzero(alive) + start
                worth += _worth_sizing(table, passed, terms, market.regime, funnel)
        trade = _Trade(table, market_facts(tick) if due or worth else {}, rules)
        exits = _sell(trade, due, tick)
        entries = _buy(trade, worth, terms, market.regime, funnel)
    return Decisions(exits=tuple(exits), entries=tuple(entries), verdicts=funnel.verdicts())


class _Funnel:
    """How many rows met which verdict on this tick."""

    def __init__(self, table: BotTable) -> None:
        self.counts: Int64s = np.zeros(len(VERDICTS), np.int64)
        self._table = table

    def note(self, rows: Slots | int, reason: Reason) -> None:
        """These rows (or this one) passed the stages; this is what became of them."""
        code = CODE_OF[reason]
        if isinstance(rows, int):
            self._table.verdict[rows] = code
            self.counts[code] += 1
        else:
            self._table.verdict[run_of(rows)] = code
            self.counts[code] += rows.size

    def verdicts(self) -> dict[Reason, int]:
        counts = zip(VERDICTS, self.counts.tolist(), strict=True)
        return {reason: count for reason, count in counts if count}


@dataclass(frozen=True, slots=True)
class _Trade:
    """Builds decisions of one table on one tick."""

    table: BotTable
    market: Mapping[str, Any]
    rules: MarketRules | None

    def decision(
        self, row: int, leg: Leg, reason: Reason, quantity: Decimal, price: Decimal, regime: Regime
    ) -> Decision:
        table, users = self.table, self.table.accounts.users
        user = table.user_slot[row]
        entry, live = leg is Leg.ENTRY, bool(table.live[row])
        attempt = 0 if entry else int(table.exit_attempts[row])
        at_market = reason is Reason.EMERGENCY_STOP or attempt >= _LIMIT_EXITS
        slippage = exact_of(readable(float(table.thresholds[_MAX_SLIPPAGE, row])))
        limit = None
        if live and not at_market:
            limit = limit_price(price, leg.side, max_slippage=slippage, rules=self.rules)
        return Decision(
            bot_id=int(table.bot_id[row]),
            user_id=int(users.user_id[user]),
            shard=int(users.shard[user]),
            mode=Mode.LIVE if live else Mode.PAPER,
            credential_id=int(table.credential[row]) if live else 0,
            leg=leg,
            reason=reason,
            quantity=quantity,
            decided_price=price,
            at_market=at_market,
            limit_price=limit,
            taker_fee=exact_of(float(table.taker_fee[row])),
            max_slippage=slippage,
            position_sequence=int(table.sequence[row]),
            position_version=0 if entry else int(table.version[row]),
            attempt=attempt,
            regime=regime,
            facts=(entry_facts if entry else exit_facts)(self.market, table, row),
        )


def _sell(trade: _Trade, due: list[tuple[Reason, Slots]], tick: Tick) -> list[Decision]:
    if not due:
        return []
    table = trade.table
    price = price_on_tick(tick.bid, trade.rules)
    decided = []
    for reason, rows in due:
        for row in rows.tolist():
            quantity = _to_sell(table, row, trade.rules)
            if not quantity:
                continue
            regime = REGIMES[int(table.regime[row])]
            decided.append(trade.decision(row, Leg.EXIT, reason, quantity, price, regime))
            table.exit_decided(row)
    return sorted(decided, key=_bot_id)


def _to_sell(table: BotTable, row: int, rules: MarketRules | None) -> Decimal | None:
    """What a venue would take of what is held: a fee in the coin leaves less than whole lots.

    Nothing of dust: it is the store's to close. Paper sells everything, whatever the lots are now.
    """
    held = table.held.get(row)
    if held is None or not table.live[row] or rules is None or not rules.lot_step > 0:
        return held
    return floor_to(held, rules.lot_step)


@dataclass(frozen=True, slots=True)
class _Candidate:
    """A row that passed the stages, and what it may spend."""

    bot_id: int
    row: int
    stake: Stake


def _worth_sizing(
    table: BotTable, rows: Slots, terms: Terms | None, regime: Regime, funnel: _Funnel
) -> list[_Candidate]:
    """Rows that user limits and capital may let through; the verdict of the others is noted.

    Who is at the limit before the tick is denied here; who reaches it on the tick, in `_buy`. No
    bot has two rows here, so its free capital stands until its own row is decided.
    """
    if terms is None:
        funnel.note(rows, Reason.MARKET_UNKNOWN)
        return []
    users = table.accounts.users
    user = table.user_slot[run_of(rows)]
    full = users.unclosed.take(user) >= users.max_unclosed.take(user)
    if full.any():
        funnel.note(rows[full], Reason.USER_POSITION_LIMIT)
        rows = rows[~full]
    free = table.accounts.bots.free.take(table.bot_slot[run_of(rows)])
    # Most rows that fail here have nothing left at all: their stake need not be worked out.
    poor = surely_too_small(free, terms)
    if poor.all():
        funnel.note(rows, Reason.SIZE_TOO_SMALL)
        return []
    funnel.note(rows[poor], Reason.SIZE_TOO_SMALL)
    rows, free = rows[~poor], free[~poor]
    fraction = table.threshold("stake_fraction", rows)
    multiplier = table.threshold(stake_multiplier(regime), rows)
    small = surely_too_small(free * fraction * multiplier, terms)
    funnel.note(rows[small], Reason.SIZE_TOO_SMALL)
    return _candidates(table, rows[~small], free[~small], regime)


def _candidates(table: BotTable, rows: Slots, free: Float64s, regime: Regime) -> list[_Candidate]:
    columns = (
        table.bot_id[rows],
        rows,
        free,
        table.threshold("stake_fraction", rows),
        table.threshold(stake_multiplier(regime), rows),
        table.taker_fee[rows],
        table.threshold("max_slippage", rows),
        table.live[rows],
    )
    return [
        _Candidate(
            bot_id,
            row,
            Stake(
                free=decimal_of(spendable),
                share=exact_of(readable(fraction)) * exact_of(readable(multiplier)),
                taker_fee=exact_of(fee),
                max_slippage=exact_of(readable(slippage)),
                live=bool(live),
            ),
        )
        for bot_id, row, spendable, fraction, multiplier, fee, slippage, live in zip(
            *(column.tolist() for column in columns), strict=True
        )
    ]


def _buy(
    trade: _Trade,
    candidates: list[_Candidate],
    terms: Terms | None,
    regime: Regime | None,
    funnel: _Funnel,
) -> list[Decision]:
    if terms is None or regime is None:
        return []
    table, users = trade.table, trade.table.accounts.users
    decided = []
    for candidate in sorted(candidates, key=_bot_id):
        row = candidate.row
        sized = size(candidate.stake, terms)
        if sized is None:
            funnel.note(row, Reason.SIZE_TOO_SMALL)
            continue
        user = table.user_slot[row]
        if users.unclosed[user] >= users.max_unclosed[user]:
            funnel.note(row, Reason.USER_POSITION_LIMIT)
            continue
        reason = Reason.ENTRY_SIGNAL
        funnel.note(row, reason)
        table.entry_decided(row, float(sized.greatest_cost))
        decided.append(trade.decision(row, Leg.ENTRY, reason, sized.quantity, terms.price, regime))
    return decided


def _bot_id(thing: Decision | _Candidate) -> int:
    return thing.bot_id
