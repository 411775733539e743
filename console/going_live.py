"""From paper to live: everything that `bots set ID --mode live` looks at first."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from decimal import Decimal
from typing import TYPE_CHECKING, Final

import click

from console.key_entry import asked, facts_of, require_postgres
from console.live_checks import Check, LiveFacts, live_checks
from console.output import print_document
from shared.errors import CredentialRefused, Refused, VenueUnavailable
from shared.money import MarketRules
from shared.venues import venue_named

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.store.credentials import Credential
    from shared.store.engine import Store
    from shared.vault import Vault
    from trade_worker.venues.key_check import KeyCheck


MARKET_TIMEOUT_SECS: Final = 20.0


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
    from shared.store import bots, credential_changes, credentials, switches, users
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
    if user is None:
        raise Refused(f"there is no user named {bot.user!r}")
    problem, check = await _ask(settings, vault, credential)
    if credential is not None and check is not None and not check.rights.problems:
        async with store.begin() as tx:
            told = facts_of(str(credential.facts.get("key")), check)
            await credential_changes.checked(tx, credential.id, told)
    rules, asks = await _market(settings, bot.venue, bot.pairs)
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
            rules=rules,
            asks=asks,
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


async def _market(
    settings: "Settings", venue: str, pairs: Sequence[str]
) -> tuple[Mapping[str, MarketRules] | None, Mapping[str, float]]:
    """What the venue demands now, and at which price it sells; None where it is away."""
    from price_stream.feeds import CcxtFeed

    feed = CcxtFeed(
        venue_named(venue), url=settings.venue_url(venue), timeout_secs=MARKET_TIMEOUT_SECS
    )
    try:
        rules = await feed.load()
        quotes = (await feed.quotes(pairs)).by_pair
    except VenueUnavailable:
        return None, {}
    finally:
        await feed.close()
    return rules, {pair: quote.ask for pair, quote in quotes.items() if quote.ask is not None}


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
