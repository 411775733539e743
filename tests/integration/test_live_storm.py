"""Many orders through all faults at once: no verdict contradicts the venue's journal."""

import asyncio
from collections import Counter
from decimal import Decimal
from pathlib import Path

import pytest

from ecosystem.venue_simulator.journal import read_journal
from shared.clock import monotonic_secs, wall_ms
from shared.orders import LiveOrder
from shared.vault import ApiKey
from shared.venues import VENUES, Venue, quote_of
from tests.integration.live_adapter import live_order, live_orders
from tests.integration.simulated_venue import break_it, open_account, running
from trade_worker.venues import Sent, Verdict
from trade_worker.venues.live import LiveOrders

KEYS = 12
ORDERS = 120
STORM = (
    *("accept_then_drop", "accept_then_fail", "accept_then_garbage", "cut_body", "late"),
    *("fill_first", "partial", "slow", "fail", "garbage", "refuse_then_fail"),
)


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
async def test_no_verdict_contradicts_the_venue(venue: Venue, tmp_path: Path) -> None:
    journal = tmp_path / "journal.jsonl"
    async with running(journal=journal) as simulator:
        keys: dict[int, ApiKey] = {}
        for credential_id in range(KEYS):
            customer = await open_account(
                simulator, venue.name, {quote_of(venue.reference_pair): "100000"}
            )
            keys[credential_id] = ApiKey(key=customer.key, secret=customer.secret)
        for kind in STORM:
            # Some delays end before the order's time does, some after.
            await break_it(
                simulator,
                venue=venue.name,
                kind=kind,
                endpoint="add_order",
                probability=0.08,
                delay_secs=1.5,
            )
        async with live_orders(venue, simulator.base_url, keys=keys) as orders:
            sent = await asyncio.gather(*(_sent(orders, venue, number) for number in range(ORDERS)))
        await asyncio.sleep(2)  # until what is late has been decided
    accepted = Counter(
        line["client_order_id"] for line in read_journal(journal) if line["type"] == "accepted"
    )
    at_ms = {
        line["client_order_id"]: line["wall_ms"]
        for line in read_journal(journal)
        if line["type"] == "accepted"
    }
    assert {one.verdict for _, one in sent} >= {Verdict.ACCEPTED, Verdict.UNKNOWN}
    for order, one in sent:
        times = accepted[order.client_order_id]
        if one.verdict is Verdict.ACCEPTED:
            assert times == 1
        elif one.verdict is not Verdict.UNKNOWN:
            assert times == 0, one
        assert times <= 1
        assert at_ms.get(order.client_order_id, 0) <= order.send_by_ms


async def _sent(orders: LiveOrders, venue: Venue, number: int) -> tuple[LiveOrder, Sent]:
    """Some orders have less time than a delay takes, some more."""
    secs = 2.4 + 0.1 * (number % 8) if venue.name == "kraken" else 0.6 + 0.2 * (number % 8)
    order = live_order(
        venue,
        credential_id=number % KEYS,
        limit_price=Decimal(1_000_000) if number % 3 else None,
        send_by_ms=wall_ms() + int(1000 * secs) + 1,
    )
    return order, await orders.send(order, send_by_secs=monotonic_secs() + secs)
