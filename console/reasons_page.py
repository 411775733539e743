"""docs/reasons.md, written from the rules themselves.

python -m console.reasons_page > docs/reasons.md
"""

import sys
from collections.abc import Iterator
from typing import Final

from shared.reasons import Reason, Stage
from shared.risk_profile import BY_NAME, THRESHOLDS
from trade_worker.risk import STAGES

_OF_OTHERS: Final = {
    Reason.COOLING_DOWN: ("cooldown_secs", "retry_cooldown_secs"),
    Reason.BREAKER_OPEN: ("max_loss_streak", "max_daily_loss"),
    Reason.SIZE_TOO_SMALL: ("stake_fraction", "size_*"),
    Reason.EMERGENCY_STOP: ("emergency_stop",),
    Reason.EROSION_CAP: ("erosion_min_peak", "erosion_cap"),
    Reason.EARLY_LOSS: tuple(t.name for t in THRESHOLDS if t.name.startswith("early_loss")),
    Reason.PROFIT_TARGET: ("profit_target_*",),
}
"""Thresholds that no check of the five stages names."""


def render() -> str:
    """The page: every reason by stage, and every threshold with unit, range and default."""
    return "\n".join((*_reasons(), *_thresholds(), ""))


def _reasons() -> Iterator[str]:
    yield "# Why a bot does or does not trade"
    yield ""
    yield "Written by `python -m console.reasons_page`; change the rules, not this page."
    yield ""
    yield "A tick is judged from top to bottom: the first denial is the verdict that"
    yield "`botfleet bots explain` shows. Exits are asked in their order, too."
    for stage in Stage:
        yield ""
        yield f"## {stage.replace('_', ' ').capitalize()}"
        yield ""
        yield "| reason | when | thresholds |"
        yield "|---|---|---|"
        for reason in Reason:
            if reason.stage is stage:
                names = ", ".join(f"`{name}`" for name in thresholds_of(reason))
                yield f"| `{reason}` | {reason.text} | {names} |"


def thresholds_of(reason: Reason) -> tuple[str, ...]:
    """The fields of the risk profile that decide about a reason."""
    for check in STAGES.get(reason.stage, ()):
        if check.reason is reason and check.thresholds:
            return tuple(dict.fromkeys(_family(name) for name in check.thresholds))
    return _OF_OTHERS.get(reason, ())


def _family(name: str) -> str:
    return "profit_target_*" if name.startswith("profit_target_") else name


def _thresholds() -> Iterator[str]:
    yield ""
    yield "## Thresholds"
    yield ""
    yield "Each can be set per bot (`botfleet bots set`, `bots import`). Fractions are fractions:"
    yield "0.015 is 1.5 %."
    yield ""
    yield "| threshold | default | from | to | unit | meaning |"
    yield "|---|---|---|---|---|---|"
    for t in BY_NAME.values():
        yield f"| `{t.name}` | {t.default:g} | {t.low:g} | {t.high:g} | {t.unit} | {t.text} |"


if __name__ == "__main__":
    sys.stdout.write(render())
