"""Every reason for which a bot does or does not trade: one enum, in order of judgement.

The text of a reason is its code: it is stored with orders, counted on `risk`, and shown to
people. The tables in docs/ that list reasons are generated from here.
"""

from enum import StrEnum, unique


@unique
class Stage(StrEnum):
    """Who judges. The first five are the risk filter, in this order."""

    HEALTH_GATE = "health_gate"
    DROP_PROTECTION = "drop_protection"
    ENTRY_QUALITY = "entry_quality"
    CONFIDENCE = "confidence"
    COST_FLOOR = "cost_floor"
    SIZING = "sizing"
    EXIT = "exit"


class Reason(StrEnum):
    """A reason code with the stage that gives it and what it means."""

    stage: Stage
    text: str

    def __new__(cls, code: str, stage: Stage, text: str) -> "Reason":
        member = str.__new__(cls, code)
        member._value_ = code
        member.stage = stage
        member.text = text
        return member

    ROW_INVALID = "row_invalid", Stage.HEALTH_GATE, "the bot's stored settings make no sense"
    BOT_NOT_ACTIVE = "bot_not_active", Stage.HEALTH_GATE, "the bot is not active"
    POSITION_UNCLOSED = (
        "position_unclosed",
        Stage.HEALTH_GATE,
        "a position on this pair is not closed",
    )
    ORDER_UNSETTLED = "order_unsettled", Stage.HEALTH_GATE, "an order on this pair is not settled"
    COOLING_DOWN = "cooling_down", Stage.HEALTH_GATE, "the bot cools down after its last order"
    BREAKER_OPEN = "breaker_open", Stage.HEALTH_GATE, "losses opened a breaker"
    KILL_SWITCH_ON = "kill_switch_on", Stage.HEALTH_GATE, "a kill switch is on"
    CREDENTIAL_NOT_READY = (
        "credential_not_ready",
        Stage.HEALTH_GATE,
        "the owner's key for this venue is missing, not live, or in trouble",
    )
    CLOCK_SKEW = "clock_skew", Stage.HEALTH_GATE, "the tick is from the future: clocks disagree"
    TICK_STALE = "tick_stale", Stage.HEALTH_GATE, "the tick is too old"
    ADX_MISSING = "adx_missing", Stage.HEALTH_GATE, "ADX is not known"
    ADX_BELOW_MINIMUM = "adx_below_minimum", Stage.HEALTH_GATE, "the market is choppy"
    MOMENTUM_4H_MISSING = "momentum_4h_missing", Stage.HEALTH_GATE, "4 h momentum is not known"
    CRASH_GUARD = "crash_guard", Stage.HEALTH_GATE, "the market crashed in the last 4 h"

    BTC_MOMENTUM_MISSING = (
        "btc_momentum_missing",
        Stage.DROP_PROTECTION,
        "the 1 h momentum of the venue's BTC reference is not known",
    )
    BTC_DUMPING = "btc_dumping", Stage.DROP_PROTECTION, "BTC is being dumped"
    VOLUME_RATIO_MISSING = (
        "volume_ratio_missing",
        Stage.DROP_PROTECTION,
        "the volume ratio is not known",
    )
    MOMENTUM_1H_MISSING = (
        "momentum_1h_missing",
        Stage.DROP_PROTECTION,
        "1 h momentum is not known",
    )
    PANIC_SELLING = (
        "panic_selling",
        Stage.DROP_PROTECTION,
        "volume spikes while the price falls",
    )
    VOLUME_BELOW_FLOOR = (
        "volume_below_floor",
        Stage.DROP_PROTECTION,
        "too little volume: no real market",
    )
    SPREAD_MISSING = "spread_missing", Stage.DROP_PROTECTION, "bid or ask is not known"
    SPREAD_ABOVE_MAXIMUM = (
        "spread_above_maximum",
        Stage.DROP_PROTECTION,
        "the spread is too wide",
    )

    RECENT_HIGH_MISSING = (
        "recent_high_missing",
        Stage.ENTRY_QUALITY,
        "price or recent high is not known",
    )
    BUYING_THE_TOP = "buying_the_top", Stage.ENTRY_QUALITY, "the price is at its recent high"
    RSI_MISSING = "rsi_missing", Stage.ENTRY_QUALITY, "RSI is not known"
    RSI_OVERBOUGHT = "rsi_overbought", Stage.ENTRY_QUALITY, "the market is extremely overbought"
    NO_MOMENTUM = (
        "no_momentum",
        Stage.ENTRY_QUALITY,
        "neither momentum nor a breakout on volume",
    )

    CONFIDENCE_MISSING = "confidence_missing", Stage.CONFIDENCE, "the confidence is not known"
    CONFIDENCE_BELOW_MINIMUM = (
        "confidence_below_minimum",
        Stage.CONFIDENCE,
        "the confidence is too low",
    )

    REGIME_MISSING = "regime_missing", Stage.COST_FLOOR, "the regime is not known"
    TARGET_BELOW_MINIMUM = (
        "target_below_minimum",
        Stage.COST_FLOOR,
        "the regime's profit target is too small",
    )
    TARGET_BELOW_COSTS = (
        "target_below_costs",
        Stage.COST_FLOOR,
        "the profit target does not cover fees, spread and slippage often enough",
    )

    MARKET_UNKNOWN = "market_unknown", Stage.SIZING, "the venue's lot and price steps are not known"
    USER_POSITION_LIMIT = (
        "user_position_limit",
        Stage.SIZING,
        "the user has the most open positions allowed",
    )
    USER_NOTIONAL_LIMIT = (
        "user_notional_limit",
        Stage.SIZING,
        "the user's open positions in this quote currency may not cost more",
    )
    USER_DISABLED = "user_disabled", Stage.SIZING, "the user is disabled"
    BOT_MODE_CHANGED = "bot_mode_changed", Stage.SIZING, "its mode was changed meanwhile"
    LIVE_NEEDS_POSTGRES = (
        "live_needs_postgres",
        Stage.SIZING,
        "real orders need PostgreSQL: SQLite is for demo and trial",
    )
    BALANCE_UNKNOWN = (
        "balance_unknown",
        Stage.SIZING,
        "what the account has free at the venue is not known",
    )
    BALANCE_TOO_SMALL = (
        "balance_too_small",
        Stage.SIZING,
        "the account has less free at the venue than the entry may cost",
    )
    SIZE_TOO_SMALL = (
        "size_too_small",
        Stage.SIZING,
        "free capital buys less than the venue's minimum",
    )

    ENTRY_SIGNAL = "entry_signal", Stage.SIZING, "all five stages passed"

    OPERATOR_EXIT = "operator_exit", Stage.EXIT, "a person asked to sell"
    EMERGENCY_STOP = "emergency_stop", Stage.EXIT, "the loss reached the emergency stop"
    EROSION_CAP = "erosion_cap", Stage.EXIT, "too much of the peak profit was given back"
    EARLY_LOSS = "early_loss", Stage.EXIT, "the loss is too large for the position's age"
    PROFIT_TARGET = "profit_target", Stage.EXIT, "the regime's profit target is reached"


RISK_FILTER = (
    Stage.HEALTH_GATE,
    Stage.DROP_PROTECTION,
    Stage.ENTRY_QUALITY,
    Stage.CONFIDENCE,
    Stage.COST_FLOOR,
)
"""The five stages in their order."""
