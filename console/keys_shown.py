"""How keys look: never their secrets."""

from typing import TYPE_CHECKING, Any

import click

from console.effects import follow
from console.output import DASH, print_document

if TYPE_CHECKING:
    from shared.store.credentials import Credential
    from shared.store.engine import Store


def print_tested(credential: "Credential", balances: str, what: str, as_json: bool) -> None:
    """A key that was tested just now, what the venue said, and `what` became of it."""
    if as_json:
        print_document(document(credential))
        return
    facts = credential.facts
    click.echo(f"{credential.venue} accepts it; it may: {', '.join(facts['permissions']) or DASH}")
    click.echo(f"free on the account: {balances}")
    for remark in facts["remarks"]:
        click.secho(f"note: {remark}", fg="yellow")
    click.echo(f"{named(credential)} {what}")
    click.echo(f"It is {liveness(credential)}.")


def named(credential: "Credential") -> str:
    return (
        f"key {credential.id} ({key_hint(credential)}) of {credential.user} for {credential.venue}"
    )


def key_hint(credential: "Credential") -> str:
    """What may be shown of it: `abcd…wxyz`."""
    return str(credential.facts.get("key", DASH))


def liveness(credential: "Credential") -> str:
    """Whether real orders are allowed, and the next step."""
    if credential.live:
        return "live: bots of mode live trade with it (`botfleet bots set ID --mode live`)"
    return (
        f"not live: `botfleet keys set {credential.user} --venue {credential.venue} --live` allows "
        "real orders"
    )


def document(credential: "Credential") -> dict[str, Any]:
    """For `--json`: everything but what is sealed."""
    names = (
        *("id", "user_id", "user", "venue", "label", "version", "status", "live", "taker_fee"),
        *("facts", "trouble", "checked_at", "created_at"),
    )
    return {
        **{name: getattr(credential, name) for name in names},
        "has_secret": credential.sealed is not None,
        "master_key_id": credential.sealed.master_key_id if credential.sealed else None,
    }


async def followed(store: "Store", user: str, wait: bool) -> str:
    """See the workers of a user's bots take over a change of its key; what to tell people."""
    from shared.store import bots

    async with store.read() as tx:
        shards = {bot.shard for bot in await bots.page(tx, bots.BotFilter(user=user), limit=1)}
    return await follow(store, shards, wait=wait, change="bots")
