"""Bot rows, ticks and tables for tests of the decision core, and strategies that draw them."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

import numpy as np
from hypothesis import strategies as st

from shared.messages import Indicators, Regime, Tick
from shared.money import MarketRules
from shared.orders import Mode, PositionStatus
from shared.risk_profile import BY_NAME, DEFAULTS
from tests.reference import Bot, Life
from trade_worker.accounts import Accounts
from trade_worker.bot_row import BotRow, PositionSnapshot
from trade_worker.bot_table import BotTable
from trade_worker.row_state import Key
from trade_worker.thresholds import NAMES, POSITION

NOW_MS: Final = 1_700_000_000_000
MARKET_MS: Final = NOW_MS - 500

RULES: Final = MarketRules(
    lot_step=Decimal("0.00001"),
    price_tick=Decimal("0.01"),
    min_quantity=Decimal("0.0001"),
    min_notional=Decimal(5),
)

GOOD_TICK: Final = Tick(
    venue="binance",
    pair="ETH/USDT",
    price=2000.0,
    bid=1999.5,
    ask=2000.25,
    market_time_ms=MARKET_MS,
    observed_at_ms=NOW_MS - 100,
    published_at_ms=NOW_MS - 90,
    stream_epoch=3,
    sequence=1841,
    indicators=Indicators(
        adx=27.0,
        rsi=60.0,
        momentum_1h=0.01,
        momentum_4h=0.02,
        btc_momentum_1h=0.001,
        volume_ratio=1.2,
        recent_high=2100.0,
    ),
    regime=Regime.WEAK,
    confidence=80.0,
)
"""A tick on which a bot with default settings enters."""


def tick_with(**changes: Any) -> Tick:
    """The good tick, with fields or indicators changed."""
    indicators = {name: changes.pop(name) for name in list(changes) if name in Indicators.__slots__}
    return replace(GOOD_TICK, indicators=replace(GOOD_TICK.indicators, **indicators), **changes)


def new_table(accounts: Accounts | None = None) -> BotTable:
    return BotTable("binance", "ETH/USDT", accounts or Accounts())


def bot_row(bot_id: int = 1, **changes: Any) -> BotRow:
    """An active paper bot with 1,000 to spend; its user is its own unless given."""
    fields: dict[str, Any] = {
        "bot_id": bot_id,
        "user_id": bot_id,
        "shard": 7,
        "status": "active",
        "mode": "paper",
        "capital": 1000.0,
        "taker_fee": 0.001,
    }
    return BotRow(**{**fields, **changes})


def open_position(**changes: Any) -> PositionSnapshot:
    fields: dict[str, Any] = {
        "sequence": 4,
        "version": 2,
        "status": PositionStatus.OPEN,
        "mode": Mode.PAPER,
        "average_entry": 2000.0,
        "cost": 600.0,
        "held": HELD,
        "opened_market_ms": MARKET_MS - 60_000,
        "regime": Regime.WEAK,
    }
    return PositionSnapshot(**{**fields, **changes})


HELD: Final = Decimal("0.3")
KEYS: Final = {
    "ready": Key(31, live=True, in_trouble=False),
    "not live": Key(31, live=False, in_trouble=False),
    "in trouble": Key(31, live=True, in_trouble=True),
    "missing": None,
}

_LIFE = {
    Life.ENTERING: PositionStatus.OPENING,
    Life.OPEN: PositionStatus.OPEN,
    Life.EXITING: PositionStatus.CLOSING,
}


def put(table: BotTable, bot_id: int, bot: Bot, *, capital: float, user_id: int, limit: int) -> int:
    """Add a reference bot to a table, with thresholds that no door would let in; its row."""
    position = None
    if bot.life is not Life.FLAT:
        position = open_position(
            status=_LIFE[bot.life],
            average_entry=bot.average_entry,
            opened_market_ms=bot.opened_ms,
            peak=bot.peak,
            regime=bot.regime,
            cost=0.0,
            held=HELD,
            mode=Mode.LIVE if bot.holds_live else Mode.PAPER,
        )
    table.put(
        bot_row(
            bot_id,
            user_id=user_id,
            capital=capital,
            status=bot.status,
            mode="live" if bot.live else "paper",
            key=KEYS[bot.key],
            profile={} if bot.valid else {"min_adx": "nonsense"},
            taker_fee=bot.taker_fee,
            position=position,
            unsettled=bot.unsettled,
            cooldown_until_ms=bot.not_before_ms,
            breaker_open=bot.breaker_open,
            entries_off=bot.entries_off,
            all_off=bot.all_off,
            max_open_positions=limit,
        )
    )
    row = table.row_of(bot_id)
    assert row is not None
    with np.errstate(over="ignore"):
        for name in NAMES:
            table.thresholds[POSITION[name], row] = bot.thresholds[name]
    return row


WILD: Final = st.sampled_from([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e300, -1e300, 1e-300])

_NEAR: Final = {
    "adx": [19.999999, 20.0, 20.000001, 27.0],
    "rsi": [84.9999, 85.0, 85.00001, 60.0],
    "momentum_1h": [-0.0050001, -0.005, 0.0, 1e-12, 0.005, 0.0050001, 0.01],
    "momentum_4h": [-0.0300001, -0.03, -0.0299999, 0.02],
    "btc_momentum_1h": [-0.0150001, -0.015, -0.0149999, 0.0],
    "volume_ratio": [0.4999999, 0.5, 1.2, 1.3, 1.3000001, 3.0, 3.0000002, 4.0],
    "recent_high": [2000.0, 2010.0, 2010.05, 2010.1, 2100.0],
}


_MANY: Final = 12
"""How often the usual is drawn for each time that nonsense is: most rows shall get far."""


def _mostly(usual: list[float]) -> st.SearchStrategy[float | None]:
    odd = st.one_of(st.none(), WILD, st.floats())
    return st.sampled_from([True] * _MANY + [False]).flatmap(
        lambda sensible: st.sampled_from(usual) if sensible else odd
    )


_TICK_FIELDS: Final = {
    **{name: _mostly(values) for name, values in _NEAR.items()},
    "confidence": _mostly([69.99999, 70.0, 80.0]),
    "price": _mostly([1990.0, 2000.0, 2089.49, 2089.5, 2089.51]),
    "bid": _mostly([1960.0, 1969.9, 1980.0, 1990.0, 2000.0, 2010.0, 2060.0, 2100.0, 2300.0]),
    "ask": _mostly([1999.5, 2000.0, 2009.4975, 2009.5]),
    "regime": st.sampled_from([None, *Regime]),
    "observed_at_ms": st.sampled_from([NOW_MS - age for age in (0, -1000, -1001, 15_000, 15_001)]),
    "pair": st.just("BTC/USDT"),
}


@st.composite
def ticks(draw: st.DrawFn) -> Tick:
    """Ticks around the good one: a few fields at a threshold, missing or nonsense."""
    count = draw(st.sampled_from([0, 1, 1, 2, 3]))
    names = draw(st.lists(st.sampled_from(sorted(_TICK_FIELDS)), min_size=count, max_size=count))
    return tick_with(**{name: draw(_TICK_FIELDS[name]) for name in names})


_NUMBERS: Final = st.one_of(st.floats(-2, 2), st.sampled_from(list(DEFAULTS.values())), WILD)


_IN_RANGE: Final = {
    name: st.floats(BY_NAME[name].low, BY_NAME[name].high)
    for name in NAMES
    if name.startswith(("stake_", "size_", "max_slippage"))
}
"""Sizing trusts the door; the stages and exits are drawn as if there were none."""

_ENTRIES: Final = st.one_of(st.floats(1800, 2200), st.floats(1990, 2010), st.floats(1e-300, 1e300))


@st.composite
def bots(draw: st.DrawFn, lives: tuple[Life, ...] = tuple(Life)) -> Bot:
    """Reference bots in every state, with some thresholds that make no sense."""
    count = draw(st.sampled_from([0, 0, 0, 1, 2]))
    names = draw(st.lists(st.sampled_from(NAMES), min_size=count, max_size=count))
    changed = {name: draw(_IN_RANGE.get(name, _NUMBERS)) for name in names}
    usual = {"unsettled": False, "breaker_open": False, "entries_off": False, "all_off": False}
    flag = draw(st.sampled_from([None] * _MANY + sorted(usual)))
    statuses = ["active"] * _MANY + ["paused", "stopping", "inactive"]
    # Cool-downs and ages are drawn around the tick's market time, where they matter.
    ages_min = [0, 5, 15, 30, 180, 181]
    age_ms = draw(st.sampled_from(ages_min)) * 60_000 + draw(st.sampled_from([-1, 0, 1]))
    return Bot(
        thresholds={**{name: DEFAULTS[name] for name in NAMES}, **changed},
        taker_fee=draw(st.sampled_from([0.0, 0.001, 0.004, 0.05])),
        valid=draw(st.sampled_from([True] * _MANY + [False])),
        status=draw(st.sampled_from(statuses)),
        life=draw(st.sampled_from([*lives] + [lives[0]] * 4)),
        not_before_ms=draw(st.sampled_from([0] * 6 + [MARKET_MS, MARKET_MS + 1])),
        average_entry=draw(_ENTRIES),
        peak=draw(st.sampled_from([0.0, 0.004, 0.005, 0.01, 0.2, -0.01])),
        opened_ms=MARKET_MS - age_ms,
        regime=draw(st.sampled_from(list(Regime))),
        live=draw(st.booleans()),
        holds_live=draw(st.booleans()),
        key=draw(st.sampled_from(["ready"] * _MANY + sorted(KEYS))),
        **{name: name == flag for name in usual},
    )
