"""Stage 4: do the indicators together promise enough?"""

from typing import Final

from shared.reasons import Reason
from trade_worker.risk.check import Check, Comparison, Known, Limit

CHECKS: Final[tuple[Check, ...]] = (
    Known(Reason.CONFIDENCE_MISSING, "confidence"),
    Limit(Reason.CONFIDENCE_BELOW_MINIMUM, "confidence", Comparison.BELOW, "min_confidence"),
)
