"""Stage 2: is the market, or all of crypto with BTC, being sold off?"""

from typing import Final

from shared.reasons import Reason
from trade_worker.risk.check import Both, Check, Comparison, ExceptBtc, Known, Limit

CHECKS: Final[tuple[Check, ...]] = (
    ExceptBtc(Known(Reason.BTC_MOMENTUM_MISSING, "btc_momentum_1h")),
    ExceptBtc(
        Limit(Reason.BTC_DUMPING, "btc_momentum_1h", Comparison.BELOW, "min_btc_momentum_1h")
    ),
    Known(Reason.VOLUME_RATIO_MISSING, "volume_ratio"),
    Known(Reason.MOMENTUM_1H_MISSING, "momentum_1h"),
    Both(
        Reason.PANIC_SELLING,
        Limit(Reason.PANIC_SELLING, "volume_ratio", Comparison.ABOVE, "max_volume_ratio"),
        Limit(Reason.PANIC_SELLING, "momentum_1h", Comparison.BELOW, "panic_momentum_1h"),
    ),
    Limit(Reason.VOLUME_BELOW_FLOOR, "volume_ratio", Comparison.BELOW, "min_volume_ratio"),
    Known(Reason.SPREAD_MISSING, "spread"),
    Limit(Reason.SPREAD_ABOVE_MAXIMUM, "spread", Comparison.ABOVE, "max_spread"),
)
