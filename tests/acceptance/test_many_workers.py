"""Workers come, go, die and freeze while the fleet trades, and every bot is served by one."""

from pathlib import Path

import pytest

from tests.acceptance.checker import Promise
from tests.acceptance.fleet import fleet_of
from tests.acceptance.many_workers import Scenario

BOTS = 1_500
PROMISE = Promise(lease_ttl_secs=2.0, poll_secs=0.3, margin_secs=2.0)
"""With a margin for machines that are busy with other things."""


@pytest.mark.timeout(300)
async def test_every_shard_has_one_holder_and_every_order_is_right_whatever_happens_to_workers(
    migrated_database_url: str, fresh_rabbitmq_url: str, tmp_path: Path
) -> None:
    async with fleet_of(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        lease_ttl_secs=PROMISE.lease_ttl_secs,
        poll_secs=PROMISE.poll_secs,
    ) as fleet:
        scenario = Scenario(fleet=fleet, promise=PROMISE)
        await scenario.begin("a", "b", "c", bots=BOTS, speed=1200)
        await scenario.kill("b")
        await scenario.add("d", "e")
        await scenario.stop("a")
        await scenario.pause("c")
        refusal = await scenario.duplicate("d")
        await scenario.restart("d")
        history = await scenario.drain()

        assert "worker d runs already" in refusal
        assert "stop it first, or use another WORKER_ID" in refusal
        assert not scenario.judge(history)
        assert {bot["status"] for bot in history.bots} == {"active"}
        assert {"open", "closed"} <= {position["status"] for position in history.positions}
        assert len(history.bots) == BOTS
