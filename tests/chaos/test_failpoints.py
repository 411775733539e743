"""A sample of the failpoints, crossed with exit, raise and pause; failpoint_matrix.py has all."""

from pathlib import Path
from typing import Final

import pytest

from shared.failpoints import Point
from tests.chaos.failpoint_matrix import combinations, run
from tests.chaos.member import Action

SAMPLE: Final = {
    Action.EXIT: {Point.AFTER_COMMIT, Point.AFTER_SEND, Point.AFTER_LOAD, Point.BEFORE_TICKS},
    Action.RAISE: {Point.AFTER_COMMIT, Point.IN_TAKE},
    Action.PAUSE: {Point.BEFORE_SEND, Point.BEFORE_RENEW},
}
"""The worst moments to die, to fail and to freeze in, as far as one can tell."""


@pytest.mark.timeout(300)
async def test_no_order_is_lost_or_doubled_whatever_happens_where(
    migrated_database_url: str, fresh_rabbitmq_url: str, tmp_path: Path
) -> None:
    wanted = [each for each in combinations() if each.point in SAMPLE[each.action]]
    outcome = await run(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        wanted=wanted,
    )
    assert not outcome.violations
    assert not outcome.wrong
    assert outcome.reached.keys() == {str(each) for each in wanted}
    assert outcome.orders > 20


def test_the_matrix_crosses_every_point_with_every_action() -> None:
    crossed = {(each.point, each.action) for each in combinations()}
    assert crossed == {(point, action) for point in Point for action in Action}
