"""docs/reasons.md says what the rules say."""

from pathlib import Path

from console.reasons_page import render, thresholds_of
from shared.reasons import Reason
from shared.risk_profile import THRESHOLDS

PAGE = Path(__file__).parents[2] / "docs" / "reasons.md"


def test_the_page_is_up_to_date() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), (
        "run: python -m console.reasons_page > docs/reasons.md"
    )


def test_every_threshold_but_the_live_slippage_belongs_to_a_reason() -> None:
    named = {name for reason in Reason for name in thresholds_of(reason)}
    missing = {
        t.name
        for t in THRESHOLDS
        if t.name not in named
        and not any(name.endswith("*") and t.name.startswith(name[:-1]) for name in named)
    }
    assert missing == {"max_slippage"}
