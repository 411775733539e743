"""One call of a key at a time, the urgent ones first, with growing nonces."""

import asyncio

from hypothesis import given
from hypothesis import strategies as st

from trade_worker.venues.lanes import MAX_AHEAD_MS, Lane, Nonces


@given(st.lists(st.tuples(st.integers(0, 10**13), st.booleans()), min_size=1, max_size=50))
def test_nonces_grow_whatever_the_clock_does(steps: list[tuple[int, bool]]) -> None:
    clock = iter([now_ms for now_ms, _ in steps])
    nonces = Nonces(now_ms=lambda: next(clock, 0))  # in the end it is set back
    told = [nonces.next()]
    for _, nudged in steps:
        if nudged:
            nonces.nudge()
        told.append(nonces.next())
    assert told == sorted(set(told))


def test_nudging_does_not_run_away() -> None:
    nonces = Nonces(now_ms=lambda: 1_000_000)
    for _ in range(1000):
        nonces.next()
        nonces.nudge()
    assert nonces.next() <= 1_000_000 + MAX_AHEAD_MS + 1001


async def test_who_waits_goes_by_priority_then_age() -> None:
    lane, order = Lane(), list[str]()
    go = asyncio.Event()

    async def take(name: str, priority: int) -> None:
        async with lane.turn(priority):
            order.append(name)
            await go.wait()

    names = [("first", 9), ("entry", 3), ("exit", 1), ("later exit", 1), ("cancel", 0)]
    tasks = []
    for name, priority in names:
        tasks.append(asyncio.create_task(take(name, priority)))
        await asyncio.sleep(0)
    go.set()
    await asyncio.gather(*tasks)
    assert order == ["first", "cancel", "exit", "later exit", "entry"]


async def test_who_gives_up_blocks_nobody() -> None:
    lane = Lane()

    async def take() -> None:
        async with lane.turn(1):
            pass

    async with lane.turn(1):
        waiting = [asyncio.create_task(take()) for _ in range(3)]
        await asyncio.sleep(0)
        waiting[0].cancel()
    waiting[1].cancel()  # it was handed the lane just now
    done = await asyncio.gather(*waiting, return_exceptions=True)
    assert [isinstance(one, asyncio.CancelledError) for one in done] == [True, True, False]
    async with asyncio.timeout(5), lane.turn(1):
        pass
