"""What real orders do when a transaction around them fails at a given moment."""

from collections import deque
from collections.abc import AsyncIterator, Callable
from pathlib import Path

import pytest

from shared import failpoints
from shared.errors import CommitUnknown, StoreUnavailable
from shared.failpoints import Point
from shared.store import tables as t
from shared.venues import VENUES
from tests.integration.live_worker import Floor, live_floor
from tests.integration.trading_fleet import rows

Fails = Callable[..., None]


@pytest.fixture
async def floor(migrated_database_url: str, tmp_path: Path) -> AsyncIterator[Floor]:
    async with live_floor(VENUES["binance"], migrated_database_url, tmp_path) as one:
        yield one


@pytest.fixture
def fails(monkeypatch: pytest.MonkeyPatch) -> Fails:
    """Lets the next hits of a point fail with these errors, one each."""
    waiting: dict[Point, deque[Exception]] = {}

    def hit(point: Point) -> None:
        if errors := waiting.get(point):
            raise errors.popleft()

    def fail(point: Point, *errors: Exception) -> None:
        waiting[point] = deque(errors)

    monkeypatch.setattr(failpoints, "hit", hit)
    return fail


async def test_an_order_whose_commit_fails_is_never_sent(floor: Floor, fails: Fails) -> None:
    fails(Point.IN_COMMIT, *(StoreUnavailable("the test says so") for _ in range(3)))
    async with floor.worker() as worker:
        await floor.drive(lambda: worker.dropped.get("database away", 0) == 3)
        assert worker.port.taken == 0
        assert not await rows(floor.store, t.orders)
        await floor.buy(worker)
        await floor.position_becomes("open")
    await floor.agrees()


@pytest.mark.parametrize("error", [CommitUnknown("the test says so"), RuntimeError("a mistake")])
async def test_an_order_whose_commit_is_in_doubt_is_read_back_and_sent_once(
    floor: Floor, fails: Fails, error: Exception
) -> None:
    fails(Point.AFTER_COMMIT, error)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        assert worker.port.taken == 1
    await floor.agrees()
