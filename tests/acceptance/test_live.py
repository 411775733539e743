"""Real orders at hostile venues: each one placed at most once, and every outcome found out."""

import random
import signal
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import pytest

from tests.acceptance import checker, live_judge
from tests.acceptance.fleet import fleet_of
from tests.acceptance.live_fleet import CASH, LiveFleet

USERS: Final = 4
ROUNDS: Final = 4
HOSTILE: Final[Sequence[dict[str, Any]]] = (
    # What comes of sending …
    {"kind": "accept_then_drop", "endpoint": "add_order"},
    {"kind": "accept_then_fail", "endpoint": "add_order"},
    {"kind": "accept_then_garbage", "endpoint": "add_order"},
    {"kind": "cut_body", "endpoint": "add_order"},
    {"kind": "late", "endpoint": "add_order", "delay_secs": 1.0},
    {"kind": "late", "endpoint": "add_order", "delay_secs": 4.0},
    {"kind": "refuse_then_fail", "endpoint": "add_order"},
    {"kind": "fill_first", "endpoint": "add_order", "delay_secs": 1.0},
    {"kind": "partial", "endpoint": "add_order", "parts": 3, "fraction": 0.6, "delay_secs": 0.3},
    {"kind": "throttle", "endpoint": "add_order", "retry_after_secs": 1},
    # … and of asking.
    {"kind": "lag", "delay_secs": 2.0},
    {"kind": "duplicate_fills"},
    {"kind": "reorder_fills"},
    {"kind": "fail", "endpoint": "order_query"},
    {"kind": "garbage", "endpoint": "trades"},
    {"kind": "slow", "endpoint": "closed_orders", "delay_secs": 1.0},
)


@pytest.mark.timeout(420)
async def test_no_live_order_is_lost_or_doubled_at_hostile_venues(
    migrated_database_url: str, fresh_rabbitmq_url: str, tmp_path: Path
) -> None:
    draw = random.Random(11)
    async with fleet_of(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        lease_ttl_secs=5.0,
        poll_secs=0.5,
    ) as fleet:
        live = await LiveFleet.begin(fleet, tmp_path, users=USERS)
        stream = await fleet.start_price_stream("stream")
        workers = [await fleet.start_worker("1"), await fleet.start_worker("2")]
        await live.go_live()
        closed = "SELECT count(*) FROM positions WHERE status = 'closed' AND mode = 'live'"
        await live.until(closed, at_least=10)

        for round_ in range(1, ROUNDS + 1):
            for fault in draw.sample(HOSTILE, 5):
                for venue in CASH:
                    await live.break_venue(venue=venue, probability=0.3, **fault)
            if round_ % 2 == 0:
                workers[0].signal(signal.SIGKILL)
                await workers[0].ended()
                workers[0] = await fleet.start_worker("1")
            orders = "SELECT count(*) FROM orders WHERE mode = 'live' AND sent_at IS NOT NULL"
            ((sent,),) = [row.values() for row in await fleet.query(orders)]
            await live.until(orders, at_least=sent + 2 * USERS, within_secs=90.0)
            await live.mend_venues()

        await live.sell_out(within_secs=150.0)
        for member in (*workers, stream):
            member.signal(signal.SIGTERM)
        assert [await member.ended() for member in (*workers, stream)] == [0, 0, 0]
        history = await checker.read(migrated_database_url)
        truth = live_judge.truth_of(live.journal)

    assert not live_judge.violations(history, truth)
    assert len(live_judge.live_orders(history)) >= ROUNDS * 2 * USERS
    told = [member.name for member in fleet.members if live.canary in member.text()]
    assert not told, "a secret is in the logs"
