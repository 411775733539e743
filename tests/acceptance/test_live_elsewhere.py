"""Real orders at venues that share no code with us: tests/other_venues, from the documentation.

What our simulator and our adapters both believe of a venue by mistake shows here.
"""

import asyncio
import json
import re
import signal
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp
import pytest

from shared.vault import new_master_key
from tests.acceptance import checker, live_judge
from tests.acceptance.fleet import Fleet, Stuck, fleet_of, until
from tests.acceptance.live_fleet import CASH, LiveFleet

USERS: Final = 4
SEED: Final = 7
FAULT_RATE: Final = 0.12
HOSTILE_SECS: Final = 40.0
LITTLE_BNB: Final = "0.003"
"""What pays for the fees of a few orders, and not of all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ElsewhereFleet(LiveFleet):
    """A fleet at the other venues. Every second user has some BNB, which pays for fees there."""

    @classmethod
    async def begin(cls, fleet: Fleet, folder: Path, *, users: int) -> "ElsewhereFleet":
        key_file = folder / "vault.keys"
        key_file.touch(mode=0o600)
        key_file.write_text(new_master_key())
        fleet.set(BOTFLEET_VAULT_KEY_FILE=str(key_file))
        journal = folder / "journal.jsonl"
        await fleet.command("migrate")
        options = ("--port", "0", "--journal", str(journal), "--seed", str(SEED))
        venues = await fleet.start("venues", "-m", "tests.other_venues", *options)
        await until(lambda: "http://" in venues.text(), "the venues' address")
        (fleet.venues_url,) = re.findall(r"http://[\d.]+:\d+", venues.text())
        fleet.set(BOTFLEET_KRAKEN_URL=fleet.venues_url, BOTFLEET_BINANCE_URL=fleet.venues_url)
        live = cls(fleet=fleet, journal=journal, canary="Q2FuYXJ5")
        names = [f"user{number}" for number in range(users)]
        for name in names:
            await fleet.command("users", "add", name)
        for name in names:
            await asyncio.gather(*(live.add_key(name, venue) for venue in CASH))
        await live.add_bots(names)
        return live

    async def post(self, what: str, body: object) -> Any:
        paid_in_bnb = {("binance", "user1"), ("binance", "user3")}
        if isinstance(body, Mapping) and (body.get("venue"), body.get("name")) in paid_in_bnb:
            body = {**body, "balances": {**body["balances"], "BNB": LITTLE_BNB}}
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.fleet.venues_url}/{what}", json=body) as reply,
        ):
            reply.raise_for_status()
            return json.loads(await reply.text())

    def was_troubled(self) -> bool:
        """Whether orders of both venues met faults."""
        text = self.journal.read_text()
        entries = [json.loads(line) for line in text.splitlines() if '"trouble"' in line]
        placing = [entry["path"] for entry in entries if entry["method"] == "POST"]
        return "/0/private/AddOrder" in placing and placing.count("/api/v3/order") >= 5

    async def persons(self) -> Mapping[str, int]:
        """How many orders a person placed on the bots' accounts, and how many still wait."""
        async with (
            aiohttp.ClientSession() as session,
            session.get(f"{self.fleet.venues_url}/persons") as reply,
        ):
            return json.loads(await reply.text())  # type: ignore[no-any-return]


@pytest.mark.thorough
@pytest.mark.timeout(300)
async def test_no_live_order_is_lost_or_doubled_at_venues_of_another_hand(
    migrated_database_url: str, fresh_rabbitmq_url: str, tmp_path: Path
) -> None:
    async with fleet_of(
        tmp_path,
        database_url=migrated_database_url,
        broker_url=fresh_rabbitmq_url,
        lease_ttl_secs=5.0,
        poll_secs=0.5,
    ) as fleet:
        live = await ElsewhereFleet.begin(fleet, tmp_path, users=USERS)
        stream = await fleet.start_price_stream("stream")
        workers = [await fleet.start_worker("1"), await fleet.start_worker("2")]
        await live.go_live()
        await live.post("faults", {"rate": FAULT_RATE})
        await asyncio.sleep(HOSTILE_SECS / 2)
        workers[0].signal(signal.SIGKILL)
        await workers[0].ended()
        workers[0] = await fleet.start_worker("1")
        await asyncio.sleep(HOSTILE_SECS / 2)
        await until(live.was_troubled, "orders that went wrong at both venues")
        await live.post("faults", {"rate": 0.0})
        try:
            # Kraken may hide an order for a minute: until then, nobody knows that it is not there.
            await live.sell_out(within_secs=150.0)
        except Stuck as stuck:
            stuck.add_note(await _left(fleet))
            raise
        for member in (*workers, stream):
            member.signal(signal.SIGTERM)
        assert [await member.ended() for member in (*workers, stream)] == [0, 0, 0]
        history = await checker.read(migrated_database_url)
        truth = live_judge.truth_of(live.journal)
        persons = await live.persons()

    assert not live_judge.violations(history, truth)
    assert len(live_judge.live_orders(history)) >= 5 * USERS
    assert persons["open"] == persons["placed"] == 2 * USERS
    told = [member.name for member in fleet.members if live.canary in member.text()]
    assert not told, "a secret is in the logs"


async def _left(fleet: Fleet) -> str:
    """What is not settled yet, for whoever has to find out why."""
    orders = await fleet.query(
        "SELECT venue, pair, leg, status, venue_order_id, reason, detail FROM orders"
        " WHERE status IN ('committed', 'open', 'unknown') LIMIT 10"
    )
    positions = await fleet.query(
        "SELECT venue, pair, status, entry_quantity, exit_quantity FROM positions"
        " WHERE status <> 'closed' LIMIT 10"
    )
    return "\n".join(str(dict(row)) for row in (*orders, *positions))
