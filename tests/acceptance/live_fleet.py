"""A fleet that trades for real at simulated venues, and what can be made to go wrong there."""

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import aiohttp

from shared.vault import new_master_key
from tests.acceptance.fleet import LOOK_EVERY_SECS, Fleet, Stuck

CASH: Final = {"kraken": ("USD", "100000"), "binance": ("USDT", "100000")}
PAIRS: Final = {
    "kraken": ["BTC/USD", "ETH/USD", "SOL/USD", "XRP/USD"],
    "binance": ["BTC/USDT", "ETH/USDT", "SOL/USDT", "BNB/USDT"],
}
EAGER: Final = {
    # Passes every stage as soon as the indicators are known …
    "min_adx": "0",
    "min_momentum_4h": "-1",
    "min_btc_momentum_1h": "-1",
    "max_spread": "1",
    "max_volume_ratio": "1000",
    "min_volume_ratio": "0",
    "max_price_to_high": "10",
    "max_rsi": "100",
    "min_momentum_1h": "-1",
    "min_confidence": "0",
    "cost_multiplier": "0",
    # … sells at the first tick, since buying and selling costs two fees …
    "early_loss_5m": "0",
    # … and does it again and again.
    "cooldown_secs": "0",
    "retry_cooldown_secs": "1",
    "stake_fraction": "0.05",
    "max_daily_loss": "1",
    "max_loss_streak": "1000",
}
"""A risk profile that does nothing but trade."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveFleet:
    """A fleet whose users have accounts at the simulated venues."""

    fleet: Fleet
    journal: Path
    canary: str
    """A text that is in every API secret: it must be found nowhere."""

    @classmethod
    async def begin(cls, fleet: Fleet, folder: Path, *, users: int) -> "LiveFleet":
        """Bring up venues and database, with keys and live bots that are not started yet.

        Each user has a key and a bot at each venue.
        """
        key_file = folder / "vault.keys"
        key_file.touch(mode=0o600)
        key_file.write_text(new_master_key())
        fleet.set(BOTFLEET_VAULT_KEY_FILE=str(key_file))
        journal = folder / "journal.jsonl"
        await fleet.command("migrate")
        await fleet.start_simulator("--seed", "3", "--journal", str(journal))
        live = cls(fleet=fleet, journal=journal, canary="Q2FuYXJ5")
        names = [f"user{number}" for number in range(users)]
        for name in names:
            await fleet.command("users", "add", name)
        # Two at a time: there are two cores.
        for name in names:
            await asyncio.gather(*(live.add_key(name, venue) for venue in CASH))
        await live.add_bots(names)
        return live

    async def add_key(self, user: str, venue: str) -> None:
        """Open an account at the venue and hand its key to the fleet, as a person does."""
        currency, amount = CASH[venue]
        opened = await self.post(
            "accounts",
            {
                "venue": venue,
                "name": user,
                "balances": {currency: amount},
                # Base64 of something that begins with a known word.
                "secret": self.canary + "A" * 56,
            },
        )
        await self.fleet.command(
            *("keys", "add", user, "--venue", venue, "--live"),
            typed=f"{opened['key']}\n{opened['secret']}\n",
        )

    async def add_bots(self, users: Sequence[str]) -> None:
        """One eager bot per user and venue, on paper and inactive."""
        lines = [f"user,bot,venue,pairs,capital,mode,status,{','.join(EAGER)}"]
        for number, user in enumerate(users):
            for venue, pairs in PAIRS.items():
                pair = pairs[number % len(pairs)]
                head = (user, f"{user}-{venue}", venue, pair, "4000", "paper", "inactive")
                lines.append(",".join((*head, *EAGER.values())))
        path = self.journal.with_name("bots.csv")
        path.write_text("\n".join(lines))
        await self.fleet.command("bots", "import", str(path), "--unlisted-ok")

    async def go_live(self) -> None:
        """Make every bot live and start it."""
        rows = await self.fleet.query("SELECT id FROM bots ORDER BY id")
        ids = [str(row["id"]) for row in rows]
        for bot_id in ids:
            await self.fleet.command("bots", "set", bot_id, "--mode", "live", "--no-wait")
        await self.fleet.command("bots", "start", *ids, "--no-wait")

    async def sell_out(self, *, within_secs: float) -> None:
        """Stop every bot, and wait until everything is sold and every order has its outcome."""
        rows = await self.fleet.query("SELECT id FROM bots ORDER BY id")
        await self.fleet.command("bots", "stop", *(str(row["id"]) for row in rows), "--no-wait")
        left = """
            SELECT (SELECT count(*) FROM positions WHERE status <> 'closed')
                + (SELECT count(*) FROM orders WHERE status IN ('committed', 'open', 'unknown'))
                + (SELECT count(*) FROM outbox WHERE sent_at IS NULL)
        """
        await self.until(left, at_most=0, within_secs=within_secs)

    async def until(
        self,
        count: str,
        *,
        at_least: int | None = None,
        at_most: int | None = None,
        within_secs: float = 60.0,
    ) -> None:
        """Wait until the query's one number is in bounds. Raises `Stuck`."""
        seen = None
        for _ in range(round(within_secs / LOOK_EVERY_SECS)):
            (row,) = await self.fleet.query(count)
            (seen,) = row.values()
            if (at_least is None or seen >= at_least) and (at_most is None or seen <= at_most):
                return
            await asyncio.sleep(LOOK_EVERY_SECS)
        raise Stuck(f"not within {within_secs:g} s: {' '.join(count.split())} is {seen}")

    async def break_venue(self, **fault: object) -> None:
        """Set a fault: the fields of ecosystem/venue_simulator/faults.py `Fault`."""
        await self.post("faults", fault)

    async def mend_venues(self) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.delete(f"{self.fleet.venues_url}/simulator/faults") as reply,
        ):
            reply.raise_for_status()

    async def post(self, what: str, body: object) -> Any:
        async with (
            aiohttp.ClientSession() as session,
            session.post(f"{self.fleet.venues_url}/simulator/{what}", json=body) as reply,
        ):
            text = await reply.text()
            if not reply.ok:
                raise Stuck(f"the simulator refused {what}: {text}")
            return json.loads(text)
