"""Stage 3: is this a moment to buy, not the top of a move?"""

from typing import Final

from shared.reasons import Reason
from trade_worker.risk.check import Both, Check, Comparison, Either, Known, Limit

CHECKS: Final[tuple[Check, ...]] = (
    Known(Reason.RECENT_HIGH_MISSING, "price_to_high"),
    Limit(Reason.BUYING_THE_TOP, "price_to_high", Comparison.ABOVE, "max_price_to_high"),
    Known(Reason.RSI_MISSING, "rsi"),
    Limit(Reason.RSI_OVERBOUGHT, "rsi", Comparison.ABOVE, "max_rsi"),
    Both(
        Reason.NO_MOMENTUM,
        Limit(Reason.NO_MOMENTUM, "momentum_1h", Comparison.NOT_ABOVE, "min_momentum_1h"),
        Either(
            Reason.NO_MOMENTUM,
            Limit(
                Reason.NO_MOMENTUM, "volume_ratio", Comparison.NOT_ABOVE, "breakout_volume_ratio"
            ),
            Limit(Reason.NO_MOMENTUM, "momentum_1h", Comparison.NOT_ABOVE, 0.0),
        ),
    ),
)
