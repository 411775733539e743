"""Users' keys at the venues: add, list, change, rotate and remove them."""

from typing import TYPE_CHECKING, Final

import click

from console import fields
from console.effects import waits
from console.key_entry import balances_text, facts_of, hint, read_key, require_postgres, tested
from console.keys_rotate import rotate
from console.keys_shown import document, followed, key_hint, liveness, named, print_tested
from console.output import DASH, as_json, examples, iso, print_document, print_lines, print_table
from console.wiring import on_store
from shared.errors import Refused
from shared.venues import VENUES

if TYPE_CHECKING:
    from shared.store.credentials import Credential
    from shared.store.engine import Store

_user = click.argument("user")
_venue = click.option("--venue", required=True, type=click.Choice(list(VENUES)), help="Where.")
_fee_help: Final = "What the account pays as taker, a fraction such as 0.0026."


@click.group(epilog=examples("botfleet keys list --user ann"))
def keys() -> None:
    """Add, look at and replace the API keys with which users' live bots trade."""


keys.add_command(rotate)


@keys.command(
    epilog=examples(
        "botfleet keys add ann --venue kraken",
        "botfleet keys add ann --venue binance --live --taker-fee 0.00075 < two-lines.txt",
    )
)
@_user
@_venue
@click.option("--label", default="", help="A name for people.")
@click.option("--live", is_flag=True, help="Let the user's live bots place real orders with it.")
@click.option("--taker-fee", metavar="FRACTION", help=_fee_help)
@as_json
def add(
    user: str, venue: str, label: str, live: bool, taker_fee: str | None, as_json: bool
) -> None:
    """Add USER's API key for a venue, after testing it there.

    Asks for the key and its secret, unseen; or reads them as two lines from standard input. The
    key must be able to trade and to query, and must not be able to withdraw.
    """
    from shared.settings import load_settings
    from shared.vault import required_vault

    name = fields.name("--label", label) if label else ""
    fee = None if taker_fee is None else fields.taker_fee(taker_fee)
    settings = load_settings()
    vault = required_vault(settings)

    async def expected(store: "Store") -> None:
        from shared.store import credentials
        from shared.store.users import by_name

        require_postgres(store)
        async with store.read() as tx:
            if await by_name(tx, user) is None:
                raise Refused(f"there is no user named {user!r}: botfleet users add {user}")
            if await credentials.active(tx, user, venue) is not None:
                raise Refused(_HAS_ONE.format(user=user, venue=venue))

    on_store(expected)
    key = read_key()

    async def work(store: "Store") -> "tuple[Credential, str]":
        from shared.store import credential_changes as changes

        check = await tested(settings, venue, key)
        new = changes.NewCredential(
            user=user,
            venue=venue,
            label=name,
            live=live,
            taker_fee=fee,
            facts=facts_of(hint(key.key), check),
        )
        async with store.begin() as tx:
            added = await changes.add(tx, new, lambda place: vault.seal(key, place))
        return added, balances_text(check)

    added, balances = on_store(work)
    print_tested(added, balances, "is added", as_json)


@keys.command("list", epilog=examples("botfleet keys list", "botfleet keys list --user ann --json"))
@click.option("--user", help="Only this user's.")
@click.option("--venue", type=click.Choice(list(VENUES)), help="Only for this venue.")
@click.option("--retired", is_flag=True, help="Also those that were replaced or removed.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
)
@click.option("--after", default=0, metavar="ID", help="Only keys after this id, for paging.")
@as_json
def list_(
    user: str | None, venue: str | None, retired: bool, limit: int, after: int, as_json: bool
) -> None:
    """List keys by id, without their secrets. --json prints one object per line."""

    async def work(store: "Store") -> "list[Credential]":
        from shared.store.credentials import CredentialFilter, CredentialStatus, page

        status = None if retired else CredentialStatus.ACTIVE
        which = CredentialFilter(user=user, venue=venue, status=status)
        async with store.read() as tx:
            return await page(tx, which, limit=limit, after=after)

    found = on_store(work)
    if as_json:
        print_lines(map(document, found))
        return
    print_table(
        ("ID", "User", "Venue", "Key", "Label", "Status", "Live", "Taker fee", "Tested", "Trouble"),
        (_row(credential) for credential in found),
        right=("ID",),
        empty="No keys: `botfleet keys add USER --venue VENUE` adds one.",
    )
    if len(found) == limit:
        click.echo(f"More may follow: --after {found[-1].id}")


@keys.command(
    "set",
    epilog=examples(
        "botfleet keys set ann --venue kraken --live",
        "botfleet keys set ann --venue kraken --no-live",
        "botfleet keys set ann --venue kraken --taker-fee default",
    ),
)
@_user
@_venue
@click.option(
    "--live/--no-live",
    "live",
    default=None,
    help="Whether the user's live bots may place real orders with it; exits go on in any case.",
)
@click.option("--taker-fee", metavar="FRACTION|default", help=_fee_help)
@waits
@as_json
def set_(
    user: str, venue: str, live: bool | None, taker_fee: str | None, wait: bool, as_json: bool
) -> None:
    """Change what a key may be used for. Workers follow within a second."""
    if live is None and taker_fee is None:
        raise click.UsageError("Give --live, --no-live or --taker-fee: nothing to change.")
    default_fee = taker_fee == "default"
    fee = None if taker_fee is None or default_fee else fields.taker_fee(taker_fee)

    async def work(store: "Store") -> "tuple[Credential, str]":
        from shared.store import credential_changes as changes
        from shared.store import credentials

        async with store.begin() as tx:
            found = await credentials.required(tx, user, venue)
            changed = await changes.change(
                tx, found.id, live=live, taker_fee=fee, default_taker_fee=default_fee
            )
        return changed, await followed(store, user, wait)

    changed, effect = on_store(work)
    if as_json:
        print_document(document(changed))
    else:
        click.echo(f"{named(changed)} is changed, {liveness(changed)}; {effect}")


@keys.command(epilog=examples("botfleet keys remove ann --venue kraken"))
@_user
@_venue
@waits
@as_json
def remove(user: str, venue: str, wait: bool, as_json: bool) -> None:
    """Delete a key's secret. Refused while real positions are open or real orders unsettled."""

    async def work(store: "Store") -> "tuple[Credential, str]":
        from shared.store import credential_changes as changes
        from shared.store import credentials

        async with store.begin() as tx:
            found = await credentials.required(tx, user, venue)
            await changes.remove(tx, found)
            left = (await credentials.by_ids(tx, [found.id]))[found.id]
        return left, await followed(store, user, wait)

    removed, effect = on_store(work)
    if as_json:
        print_document(document(removed))
    else:
        click.echo(f"{named(removed)} is removed, its secret deleted; {effect}")
        click.echo(f"Now delete it at {venue} too.")


def _row(credential: "Credential") -> tuple[str, ...]:
    fee = credential.taker_fee
    return (
        str(credential.id),
        credential.user,
        credential.venue,
        key_hint(credential),
        credential.label or DASH,
        credential.status,
        "yes" if credential.live else "no",
        DASH if fee is None else f"{fee:f}",
        iso(credential.checked_at),
        credential.trouble or DASH,
    )


_HAS_ONE: Final = (
    "{user} has a key for {venue} already: `botfleet keys rotate {user} --venue {venue}` replaces "
    "it by another one of the same account"
)
