"""The table of thresholds: ranges hold their defaults, refusals say field, value and range."""

import math

import pytest

from shared.errors import Refused
from shared.risk_profile import BY_NAME, THRESHOLDS, check, complete


def test_names_are_unique_and_defaults_lie_in_their_ranges() -> None:
    assert len(BY_NAME) == len(THRESHOLDS)
    for threshold in THRESHOLDS:
        assert threshold.low <= threshold.default <= threshold.high
        assert check(threshold.name, threshold.default) == threshold.default


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, "", None, "high", 101, -1])
def test_a_value_outside_its_range_is_refused_with_field_value_and_range(value: object) -> None:
    with pytest.raises(Refused) as refusal:
        check("min_adx", value)
    assert str(refusal.value) == f"min_adx must be a number from 0 to 100 (points), was {value!r}"


def test_an_unknown_field_is_refused_with_the_known_ones() -> None:
    with pytest.raises(Refused, match=r"min_adxx is not a field .* min_adx, "):
        complete({"min_adxx": 1})


def test_a_whole_number_is_asked_for_where_only_that_makes_sense() -> None:
    with pytest.raises(Refused, match="whole number"):
        check("max_loss_streak", 2.5)
    assert check("max_loss_streak", "2") == 2


def test_overrides_win_over_defaults() -> None:
    profile = complete({"min_adx": "25"})
    assert profile["min_adx"] == 25
    assert profile["max_rsi"] == 85
    assert set(profile) == set(BY_NAME)
