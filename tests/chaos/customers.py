"""Who trades in a chaos run: users with accounts and live bots at the venues, others on paper."""

import json
from collections.abc import Sequence
from typing import Any, Final

from shared.vault import new_master_key
from tests.acceptance.fleet import Fleet, Stuck
from tests.acceptance.live_fleet import CASH, LiveFleet
from tests.chaos.records import Records

CANARY: Final = "Q2FuYXJ5"
"""In every API secret."""
COOLDOWN_SECS: Final = 6
"""Twelve bots of a venue trade as often as its limits for one address allow."""
COMMANDS_SECS: Final = 240.0


async def customers_of(
    fleet: Fleet, records: Records, *, users: int, paper_users: int
) -> LiveFleet:
    """Bring up database and venues, with bots of which none is started yet.

    Each user has a key and a bot at each venue. The names of those on paper begin with `paper`.
    """
    key_file = records.folder / "vault.keys"
    key_file.touch(mode=0o600)
    key_file.write_text(new_master_key())
    fleet.set(BOTFLEET_VAULT_KEY_FILE=str(key_file))
    journal = records.folder / "journal.jsonl"
    await fleet.command("migrate")
    await fleet.start_simulator("--seed", "3", "--journal", str(journal))
    live = LiveFleet(fleet=fleet, journal=journal, canary=CANARY)
    names = [f"user{number}" for number in range(users)]
    commands = [_command("users", "add", name) for name in names]
    commands += [await _key(live, name, venue) for name in names for venue in CASH]
    await _all(fleet, commands)
    await live.add_bots([*names, *(f"paper{number}" for number in range(paper_users))])
    return live


async def start_bots(fleet: Fleet) -> None:
    """Make the bots of users with keys live, and start all bots. Price streams must run."""
    rows = await fleet.query(
        "SELECT bots.id, users.name FROM bots JOIN users ON users.id = user_id ORDER BY bots.id"
    )
    live = [str(row["id"]) for row in rows if not row["name"].startswith("paper")]
    commands = [
        _command(
            "bots", "set", id_, f"cooldown_secs={COOLDOWN_SECS}", "--mode", "live", "--no-wait"
        )
        for id_ in live
    ]
    ids = [str(row["id"]) for row in rows]
    await _all(fleet, [*commands, _command("bots", "start", *ids, "--no-wait")])


async def _key(live: LiveFleet, user: str, venue: str) -> dict[str, Any]:
    """Open an account at the venue; the command that hands its key to the fleet."""
    currency, amount = CASH[venue]
    balances, secret = {currency: amount}, CANARY + "A" * 56
    account = {"venue": venue, "name": user, "balances": balances, "secret": secret}
    opened = await live.post("accounts", account)
    typed = f"{opened['key']}\n{opened['secret']}\n"
    return {**_command("keys", "add", user, "--venue", venue, "--live"), "typed": typed}


async def _all(fleet: Fleet, commands: Sequence[dict[str, Any]]) -> None:
    member = await fleet.start("commands", "-m", "tests.chaos.commands", typed=json.dumps(commands))
    if await member.ended(within_secs=COMMANDS_SECS):
        raise Stuck(member.text())


def _command(*arguments: str) -> dict[str, Any]:
    return {"arguments": arguments}
