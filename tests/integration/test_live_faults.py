"""Each fault of a venue alone, through a whole worker: what must have become of the order.

The venue's journal is what our books must say in the end.
"""

from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from shared.store import tables as t
from shared.venues import BINANCE, KRAKEN
from tests.integration.live_worker import Floor, live_floor
from tests.integration.trading_fleet import rows, until
from trade_worker import reconcile


@pytest.fixture(
    # A Kraken key has so few requests that a fault takes many seconds to be sorted out there.
    # tests/integration/test_live_adapter.py meets each fault at both venues, without a worker.
    params=[pytest.param(KRAKEN, marks=pytest.mark.thorough), BINANCE],
    ids=lambda venue: str(venue.name),
)
async def floor(
    request: pytest.FixtureRequest,
    migrated_database_url: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Floor]:
    if request.param is BINANCE:  # a Kraken key has no requests to spare
        monkeypatch.setattr(reconcile, "HIDDEN_PAUSE_SECS", 0.3)
    async with live_floor(request.param, migrated_database_url, tmp_path) as one:
        yield one


@dataclass(frozen=True, slots=True)
class Fault:
    """One fault, of the first request that places an order unless said otherwise."""

    kind: str
    more: dict[str, Any] = field(default_factory=dict)

    async def befall(self, floor: Floor) -> None:
        await floor.break_it(self.kind, **{"endpoint": "add_order", "times": 1, **self.more})

    def __str__(self) -> str:
        return self.kind


def faults(*those: Fault) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("fault", those, ids=str)


@faults(
    Fault("accept_then_drop"),
    Fault("accept_then_fail"),
    Fault("accept_then_garbage"),
    Fault("cut_body"),
    Fault("fill_first", {"delay_secs": 0.5}),
    Fault("late", {"delay_secs": 1.0, "status": 0}),
    Fault("slow", {"delay_secs": 0.5}),
    Fault("duplicate_fills", {"endpoint": None, "times": None}),
    Fault("reorder_fills", {"endpoint": None, "times": None}),
    Fault("lag", {"endpoint": None, "times": None, "delay_secs": 1.0}),
)
async def test_an_order_that_the_venue_took_is_found_filled(floor: Floor, fault: Fault) -> None:
    await fault.befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        order = await floor.becomes("filled")
        position = await floor.position()
        assert (position.status, position.entry_quantity) == ("open", order.quantity)
        assert worker.port.taken == 1
    await floor.agrees()


@faults(
    Fault("refuse_then_fail"),
    Fault("fail"),
    Fault("garbage"),
    Fault("late", {"delay_secs": 3.3}),
)
async def test_an_order_that_the_venue_never_took_is_given_up_after_its_time(
    floor: Floor, fault: Fault
) -> None:
    await fault.befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        order = await floor.becomes("unknown", "not_placed")
        order = await floor.becomes("not_placed")
        assert order.settled_at > order.send_by
        assert (await floor.position()).status == "closed"
        assert worker.port.taken == 1
    await floor.agrees()


@faults(Fault("throttle", {"retry_after_secs": 1}), Fault("ban", {"retry_after_secs": 1}))
async def test_an_order_that_is_throttled_is_rejected(floor: Floor, fault: Fault) -> None:
    await fault.befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        order = await floor.becomes("rejected")
        assert (order.filled_quantity, order.venue_order_id) == (0, None)
        assert (await floor.position()).status == "closed"
        assert worker.port.taken == 1
    await floor.agrees()


async def test_a_venue_in_maintenance_buys_nothing_until_it_is_back(floor: Floor) -> None:
    await Fault("maintenance").befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.becomes("rejected", "not_placed")
        assert (await floor.position()).status == "closed"
        await floor.trade_until("open")
    await floor.agrees()


async def test_a_partial_fill_opens_a_position_of_what_it_got_and_all_of_it_is_sold(
    floor: Floor,
) -> None:
    more = {"parts": 3, "fraction": 0.6, "delay_secs": 0.1}
    await Fault("partial", more).befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        position = await floor.position_becomes("open")
        order = await floor.order()
        assert order.status in ("cancelled", "expired")
        assert 0 < position.entry_quantity == order.filled_quantity < order.quantity
        await floor.sell(worker)
        await floor.position_becomes("closed")
    await floor.agrees()


async def test_an_exit_that_is_not_heard_of_is_not_sold_twice(floor: Floor) -> None:
    await Fault("accept_then_drop", {"times": None}).befall(floor)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        await floor.sell(worker)
        await floor.position_becomes("closed")
        assert worker.port.taken == 2
    await floor.agrees()


async def test_an_exit_that_the_venue_never_took_is_tried_again(floor: Floor) -> None:
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        await Fault("throttle", {"retry_after_secs": 1}).befall(floor)
        await floor.sell(worker)
        await floor.becomes("rejected")
        # Throttled keys rest: one that waits too long for its turn is not sent.
        await floor.trade_until("closed", 0.9)
    exits = [
        order
        for order in await rows(floor.store, t.orders)
        if (order.leg, order.position_sequence) == ("exit", 1)
    ]
    assert [each.attempt for each in exits] == list(range(len(exits)))
    assert [each.status for each in exits if each.filled_quantity] == ["filled"]
    await floor.agrees()


async def test_a_revoked_key_stops_its_bots_until_it_works(floor: Floor) -> None:
    async with floor.worker() as worker:
        # What is known of the account is fresh: only the order meets the refusal.
        await floor.tick()
        await Fault("revoked", {"times": None}).befall(floor)
        await floor.buy(worker)
        await floor.becomes("rejected")
        await floor.has_trouble()
        await floor.drive(lambda: worker.verdicts.get("credential_not_ready", 0) == 1)
        assert worker.committed == 1
        await floor.mend()
        # The worker does so once a minute.
        await worker.keys.try_again(range(256), worker.port.balances)
        await floor.has_trouble(said=False)
        await floor.buy(worker)
        await floor.position_becomes("open")
    await floor.agrees()


async def test_a_key_that_is_revoked_while_its_order_is_asked_for_leaves_it_unsettled(
    floor: Floor,
) -> None:
    await Fault("accept_then_drop").befall(floor)
    for endpoint in ("order_query", "open_orders", "closed_orders", "trades"):
        await floor.break_it("revoked", endpoint=endpoint)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.has_trouble()
        assert (await floor.order()).status in ("unknown", "committed")
        assert worker.live["keys_in_trouble"] == 1
    await floor.mend()
    async with floor.worker():
        await floor.becomes("filled")
        await floor.has_trouble(said=False)
    await floor.agrees()


@pytest.mark.parametrize("skew_secs", [-40.0, 40.0])
async def test_orders_are_timed_by_the_venues_clock(floor: Floor, skew_secs: float) -> None:
    await floor.break_it("clock_skew", skew_secs=skew_secs)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.position_becomes("open")
        await floor.sell(worker)
        await floor.position_becomes("closed")
    await floor.agrees()


async def test_an_order_that_lies_in_wait_is_given_up_never_while_the_venue_is_away(
    floor: Floor,
) -> None:
    await Fault("accept_then_drop").befall(floor)
    for endpoint in ("order_query", "open_orders", "closed_orders", "trades"):
        await floor.break_it("fail", endpoint=endpoint)
    async with floor.worker() as worker:
        await floor.buy(worker)
        await floor.becomes("unknown")

        async def its_time_is_over() -> bool:
            return bool(worker.live["asked"] > 3)

        await until(its_time_is_over)
        assert (await floor.order()).status == "unknown"
        await floor.mend()
        await floor.becomes("filled")
    await floor.agrees()
