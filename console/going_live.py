"""From paper to live: everything that `bots set ID --mode live` looks at first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from console.key_entry import asked, facts_of, require_postgres
from console.live_checks import Check, LiveFacts, live_checks
from console.output import print_document
from shared.errors import CredentialRefused, Refused, VenueUnavailable

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.store.credentials import Credential
    from shared.store.engine import Store
    from shared.vault import Vault
    from trade_worker.venues.key_check import KeyCheck


async def checks_of(
    store: "Store",
    settings: "Settings",
    bot_id: int,
    *,
    capital: Decimal | None,
    risk_profile: Mapping[str, float],
) -> tuple[Check, ...]:
    """Look at everything, asking the venue with the owner's key; `capital` None: as it is.

    Raises `InvalidSettings` without PostgreSQL or a vault key, `Refused` for an unknown bot.
    """
    from shared.store import bots, credential_changes, credentials, markets, switches, ticks, users
    from shared.store.loading import load
    from shared.vault import required_vault

    require_postgres(store)
    vault = required_vault(settings)
    async with store.read() as tx:
        stored = await bots.get(tx, bot_id)
        bot = replace(stored, capital=capital or stored.capital, risk_profile=dict(risk_profile))
        user = await users.by_name(tx, bot.user)
        rows = await load(tx, [bot_id])
        levels = await switches.read_levels(tx)
        credential = await credentials.active(tx, bot.user, bot.venue)
        listed = await markets.read(tx, bot.venue)
        newest = {tick.pair: tick for tick in await ticks.read(tx, venue=bot.venue)}
    if user is None:
        raise Refused(f"there is no user named {bot.user!r}")
    problem, check = await _ask(settings, vault, credential)
    if credential is not None and check is not None and not check.rights.problems:
        async with store.begin() as tx:
            told = facts_of(str(credential.facts.get("key")), check)
            await credential_changes.checked(tx, credential.id, told)
    return live_checks(
        LiveFacts(
            bot=bot,
            user=user,
            something_open=any(row.position or row.unsettled for row in rows),
            switches=levels,
            credential=credential,
            key_problem=problem,
            key_problems=() if check is None else check.rights.problems,
            balances=None if check is None else check.balances,
            markets={pair: market for (_, pair), market in listed.items()},
            ticks=newest,
        )
    )


def print_checks(bot_id: int, checks: Sequence[Check], *, as_json: bool) -> None:
    """What was looked at, for people or machines."""
    if as_json:
        print_document({"bot_id": bot_id, "checks": [asdict(check) for check in checks]})
        return
    width = max(len(check.name) for check in checks)
    for check in checks:
        mark = click.style("ok", fg="green") if check.ok else click.style("NO", fg="red")
        click.echo(f"{mark}  {check.name.ljust(width)}  {check.text}")


def refuse_unless_all(bot_id: int, checks: Sequence[Check]) -> None:
    """Raises `Refused` with all that is wrong."""
    wrong = [f"{check.name}: {check.text}" for check in checks if not check.ok]
    if wrong:
        raise Refused(f"bot {bot_id} stays on paper:\n  " + "\n  ".join(wrong))


async def _ask(
    settings: "Settings", vault: "Vault", credential: "Credential | None"
) -> "tuple[str | None, KeyCheck | None]":
    if credential is None:
        return None, None
    if credential.sealed is None:
        return "its secret is gone: add the key again", None
    try:
        key = vault.open(credential.sealed, credential.place)
        return None, await asked(settings, credential.venue, key)
    except (CredentialRefused, Refused) as exc:
        return str(exc), None
    except VenueUnavailable as exc:
        return f"not known: {exc}; try again", None
