"""Decimal helpers: steps, exactness, and the one way from floats."""

from decimal import Decimal

from hypothesis import given
from hypothesis import strategies as st

from shared.money import ceil_to, decimal_of, exact, floor_to, plain

values = st.decimals(min_value="0", max_value="1e9", places=10)
steps = st.sampled_from([Decimal(text) for text in ("1", "0.1", "0.00000001", "0.5", "0.0025")])


@given(values, steps)
def test_floor_and_ceiling_are_the_nearest_multiples(value: Decimal, step: Decimal) -> None:
    low, high = floor_to(value, step), ceil_to(value, step)
    assert low % step == 0
    assert high % step == 0
    assert low <= value <= high
    assert high - low in (0, step)


@given(st.floats(min_value=1e-12, max_value=1e12))
def test_a_float_becomes_the_decimal_that_reads_back_as_it(number: float) -> None:
    assert float(decimal_of(number)) == number


def test_exact_arithmetic_keeps_what_the_default_context_drops() -> None:
    a, b = Decimal("1e20"), Decimal("1e-20")
    assert a + b == a
    with exact():
        assert a + b > a


def test_plain_text_has_no_exponent() -> None:
    assert plain(Decimal("1E-8")) == "0.00000001"
    assert plain(Decimal("1E+3")) == "1000"
