"""Many users with accounts and keys in a second or two: what `botfleet keys add` does takes one
process for each, with a test of the key."""

import asyncio
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from shared.store import credential_changes
from shared.store.credential_changes import NewCredential
from shared.store.engine import Store, connect
from shared.vault import ApiKey, Place, Sealed, Vault, new_master_key, parse_master_keys
from tests.acceptance.fleet import Fleet
from tests.acceptance.live_fleet import CASH, LiveFleet

CANARY: Final = "Q2FuYXJ5"

_GO_LIVE: Final = """
    UPDATE bots SET mode = 'live', status = 'active',
        risk_profile = jsonb_set(risk_profile::jsonb, '{cooldown_secs}', $2::text::jsonb)::json
    WHERE venue = $1
"""


async def add_accounts(fleet: Fleet, folder: Path, *, users: int) -> LiveFleet:
    """Bring up venues and database, with users who have a key and a bot at each venue."""
    key_file = folder / "vault.keys"
    key_file.touch(mode=0o600)
    key_file.write_text(new_master_key())
    fleet.set(BOTFLEET_VAULT_KEY_FILE=str(key_file))
    live = LiveFleet(fleet=fleet, journal=folder / "journal.jsonl", canary=CANARY)
    await asyncio.gather(
        fleet.command("migrate"),
        fleet.start_simulator("--seed", "3", "--journal", str(live.journal)),
    )
    names = [f"user{number}" for number in range(users)]
    await live.add_bots(names)
    vault = Vault(parse_master_keys(key_file.read_text(), str(key_file)))
    store = connect(fleet.database_url, application_name="tests")
    try:
        for name in names:
            for venue in CASH:
                await _add_key(live, store, vault, user=name, venue=venue)
    finally:
        await store.close()
    return live


async def go_live(fleet: Fleet, *, cooldown_secs: Mapping[str, float]) -> None:
    """Make every bot live and active, before any worker has seen it.

    They rest between two positions, by venue: who uses up a key's requests trades no faster, but
    is slow to find out what became of its orders.
    """
    for venue, secs in cooldown_secs.items():
        await fleet.query(_GO_LIVE, venue, str(secs))


async def _add_key(live: LiveFleet, store: Store, vault: Vault, *, user: str, venue: str) -> None:
    currency, amount = CASH[venue]
    opened = await live.post(
        "accounts",
        {
            "venue": venue,
            "name": user,
            "balances": {currency: amount},
            "secret": CANARY + "A" * 56,
        },
    )
    key = ApiKey(key=opened["key"], secret=opened["secret"])

    def seal(place: Place) -> Sealed:
        return vault.seal(key, place)

    new = NewCredential(user=user, venue=venue, live=True, facts={})
    async with store.begin() as tx:
        await credential_changes.add(tx, new, seal)
