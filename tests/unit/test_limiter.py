"""Turns at a venue, awaited: who waits is woken, who cannot be served is told at once."""

import asyncio
from collections.abc import Mapping

import pytest

from shared.errors import VenueUnavailable
from shared.request_limits import BINANCE_LIMITS
from shared.venues import BINANCE, KRAKEN
from trade_worker.venues.limiter import Limiter, Priority


class Clock:
    """Monotonic seconds that a test moves."""

    def __init__(self) -> None:
        self.now_secs = 50.0

    def __call__(self) -> float:
        return self.now_secs


async def take(
    limiter: Limiter,
    *,
    key: str = "1",
    priority: Priority = Priority.EXIT,
    request: str = "add_order",
    until_secs: float,
) -> None:
    async with limiter.turn(key, priority, request, until_secs=until_secs):
        pass


async def spend_orders(limiter: Limiter, until_secs: float) -> None:
    for _ in range(90):
        await take(limiter, priority=Priority.CANCEL, until_secs=until_secs)


async def test_who_waits_is_woken_when_there_is_room_the_urgent_first() -> None:
    clock = Clock()
    limiter = Limiter(BINANCE, now_secs=clock)
    await spend_orders(limiter, clock.now_secs)
    went: list[Priority] = []

    async def go(priority: Priority) -> None:
        await take(limiter, priority=priority, until_secs=clock.now_secs + 30)
        went.append(priority)

    order = (Priority.ENTRY, Priority.EXIT, Priority.CANCEL)
    async with asyncio.timeout(20), asyncio.TaskGroup() as tasks:
        for priority in order:
            tasks.create_task(go(priority))
        await asyncio.sleep(0)
        assert limiter.report() == {"keys": 1, "waiting": 3}
        clock.now_secs += 15
    assert went == [Priority.CANCEL, Priority.EXIT, Priority.ENTRY]
    assert limiter.report()["waiting"] == 0


async def test_who_cannot_be_served_in_time_is_told_at_once() -> None:
    clock = Clock()
    limiter = Limiter(BINANCE, now_secs=clock)
    await spend_orders(limiter, clock.now_secs)
    with pytest.raises(VenueUnavailable, match=r"^binance: .* no room for 1\d\.\d s$") as refused:
        await take(limiter, until_secs=clock.now_secs + 3)
    assert refused.value.retry_after_secs is not None
    assert limiter.report()["waiting"] == 0


async def test_who_waited_in_vain_took_nothing() -> None:
    clock = Clock()
    limiter = Limiter(KRAKEN, now_secs=clock)
    for _ in range(15):
        await take(
            limiter, request="order_query", priority=Priority.CANCEL, until_secs=clock.now_secs
        )
    clock.now_secs += 7.5
    first = asyncio.create_task(take(limiter, request="trades", until_secs=clock.now_secs + 60))
    await asyncio.sleep(0)
    # Alone it would find room in time; behind the first it does not.
    with pytest.raises(VenueUnavailable, match="in time"):
        await take(limiter, request="order_query", until_secs=clock.now_secs + 0.3)
    assert limiter.report()["waiting"] == 1
    first.cancel()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert limiter.report()["waiting"] == 0


@pytest.mark.parametrize("status", [429, 418])
@pytest.mark.parametrize("headers", [{"Retry-After": "40"}, {"retry-after": "40", "x": "y"}])
async def test_the_address_is_silent_for_as_long_as_the_venue_wishes(
    status: int, headers: Mapping[str, str]
) -> None:
    clock = Clock()
    limiter = Limiter(BINANCE, now_secs=clock)
    limiter.heard("1", status=status, headers=headers)
    for key in ("1", "2", ""):
        with pytest.raises(VenueUnavailable) as refused:
            await take(
                limiter,
                key=key,
                priority=Priority.CANCEL,
                request="order_query",
                until_secs=clock.now_secs + 30,
            )
        assert refused.value.retry_after_secs == pytest.approx(40)
    clock.now_secs += 40
    await take(limiter, until_secs=clock.now_secs)


@pytest.mark.parametrize(
    ("status", "secs"), [(429, BINANCE_LIMITS.pause_secs), (418, BINANCE_LIMITS.ban_secs)]
)
async def test_a_pause_without_a_length_has_one(status: int, secs: float) -> None:
    clock = Clock()
    limiter = Limiter(BINANCE, now_secs=clock)
    limiter.heard("1", status=status, headers={"Retry-After": "Wed, 21 Oct 2026 07:28:00 GMT"})
    with pytest.raises(VenueUnavailable):
        await take(limiter, until_secs=clock.now_secs + secs - 1)
    clock.now_secs += secs
    await take(limiter, until_secs=clock.now_secs)


async def test_one_account_with_too_many_orders_does_not_silence_the_others() -> None:
    clock = Clock()
    limiter = Limiter(BINANCE, now_secs=clock)
    await take(limiter, key="1", until_secs=clock.now_secs)
    limiter.heard(
        "1",
        status=429,
        headers={
            "Retry-After": "9",
            "X-MBX-ORDER-COUNT-10S": "100",
            "X-MBX-USED-WEIGHT-1M": "37",
        },
    )
    await take(limiter, key="2", until_secs=clock.now_secs)
    with pytest.raises(VenueUnavailable):
        await take(limiter, key="1", request="order_query", until_secs=clock.now_secs + 8)


async def test_a_turn_that_came_before_the_venue_asked_for_silence_is_not_to_be_used() -> None:
    clock = Clock()
    limiter = Limiter(KRAKEN, now_secs=clock)
    for key in ("1", "2"):
        async with limiter.turn(key, Priority.EXIT, "add_order", until_secs=clock.now_secs):
            limiter.confirm(key)
    limiter.heard("1", status=200, headers={}, throttled=True)
    limiter.confirm("2")
    with pytest.raises(VenueUnavailable) as refused:
        limiter.confirm("1")
    assert refused.value.retry_after_secs == pytest.approx(5)
    limiter.heard("1", status=429, headers={"Retry-After": "9"})
    with pytest.raises(VenueUnavailable, match=r"^kraken wants silence for 9\.0 s$"):
        limiter.confirm("2")
    clock.now_secs += 9
    for key in ("1", "2"):
        limiter.confirm(key)


async def test_a_throttled_kraken_key_rests_and_the_others_do_not() -> None:
    clock = Clock()
    limiter = Limiter(KRAKEN, now_secs=clock)
    await take(limiter, key="1", until_secs=clock.now_secs)
    limiter.heard("1", status=200, headers={}, throttled=True)
    with pytest.raises(VenueUnavailable):
        await take(limiter, key="1", until_secs=clock.now_secs + 4)
    await take(limiter, key="2", until_secs=clock.now_secs)
    clock.now_secs += 5
    await take(limiter, key="1", until_secs=clock.now_secs)
    limiter.heard("1", status=200, headers={})


async def test_an_unknown_request_is_a_defect_of_ours() -> None:
    with pytest.raises(ValueError, match="add_ordre"):
        await take(Limiter(KRAKEN), request="add_ordre", until_secs=0)
