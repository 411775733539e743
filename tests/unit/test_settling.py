"""The fewest frames that settle exactly what was asked."""

from hypothesis import given
from hypothesis import strategies as st

from shared.bus.rabbitmq_subscription import split_settled

TAGS = st.sets(st.integers(min_value=1, max_value=30))


@given(TAGS, TAGS)
def test_exactly_the_asked_and_unsettled_tags_are_settled(
    unsettled: set[int], asked: set[int]
) -> None:
    up_to, single = split_settled(sorted(unsettled), asked)

    settled = {tag for tag in unsettled if tag <= up_to} | set(single)
    assert settled == asked & unsettled
    assert all(tag > up_to for tag in single)


@given(TAGS)
def test_all_at_once_takes_one_frame(unsettled: set[int]) -> None:
    assert split_settled(sorted(unsettled), unsettled) == (max(unsettled, default=0), [])
