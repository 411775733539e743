"""`botfleet keys rotate`: another key of the same account, or another master key for all."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Final

import click

from console.effects import waits
from console.key_entry import balances_text, facts_of, hint, read_key, require_postgres, tested
from console.keys_shown import followed, key_hint, print_tested
from console.output import as_json, examples, print_document
from console.wiring import on_store
from shared.errors import CredentialRefused, Refused
from shared.venues import VENUES

if TYPE_CHECKING:
    from shared.store.credentials import Credential
    from shared.store.engine import Store
    from shared.vault import Vault

REWRAP_BATCH: Final = 500


@click.command(
    epilog=examples("botfleet keys rotate ann --venue kraken", "botfleet keys rotate --master")
)
@click.argument("user", required=False)
@click.option("--venue", type=click.Choice(list(VENUES)), help="Where.")
@click.option(
    "--master",
    is_flag=True,
    help="Instead: put every key under the newest master key of the vault's key file.",
)
@waits
@as_json
def rotate(user: str | None, venue: str | None, master: bool, wait: bool, as_json: bool) -> None:
    """Replace USER's key by another one of the same account, after testing it.

    Asks for the new key as `keys add` does. Orders of the old key are asked for with the new one;
    then delete the old one at the venue. With --master instead: re-wrap every stored key.
    """
    if master != (user is None and venue is None) or (not master and (not user or not venue)):
        raise click.UsageError("Give USER and --venue, or --master alone.")
    if master:
        _rotate_master(as_json)
    elif user is not None and venue is not None:
        _rotate_key(user, venue, wait, as_json)


def _rotate_key(user: str, venue: str, wait: bool, as_json: bool) -> None:
    from shared.settings import load_settings
    from shared.vault import required_vault

    settings = load_settings()
    vault = required_vault(settings)

    async def current(store: "Store") -> "Credential":
        from shared.store import credentials

        require_postgres(store)
        async with store.read() as tx:
            return await credentials.required(tx, user, venue)

    old = on_store(current)
    key = read_key()

    async def work(store: "Store") -> "tuple[Credential, str, str]":
        from shared.store import credential_changes as changes

        check = await tested(settings, venue, key)
        surely_the_same = _require_same_account(old, check.rights.account)
        async with store.begin() as tx:
            if not surely_the_same:
                await changes.require_nothing_open(tx, old)
            new = await changes.replace(
                tx, old, lambda place: vault.seal(key, place), facts=facts_of(hint(key.key), check)
            )
            await changes.forget_retired(tx)
        return new, balances_text(check), await followed(store, user, wait)

    new, balances, effect = on_store(work)
    print_tested(new, balances, f"replaces {key_hint(old)}; {effect}", as_json)
    if not as_json:
        click.echo(f"Now delete {key_hint(old)} at {venue}.")


def _require_same_account(old: "Credential", account: str | None) -> bool:
    """Whether the venue says that it is. Raises `Refused` where it says that it is not."""
    known = old.facts.get("account")
    if known is None or account is None:
        return False
    if known != account:
        raise Refused(
            f"this key belongs to another account of {old.venue} than the one it would replace, "
            "whose orders it could not ask for: stop the user's bots, then `botfleet keys remove` "
            "and `botfleet keys add`"
        )
    return True


@dataclass(frozen=True, slots=True, kw_only=True)
class Rewrapped:
    """What moving every key under the newest master key came to."""

    master_key_id: str
    rewrapped: int
    forgotten: int
    failed: Mapping[int, str]


def _rotate_master(as_json: bool) -> None:
    from shared.settings import load_settings
    from shared.vault import required_vault

    vault = required_vault(load_settings())
    done = on_store(lambda store: _rewrap_all(store, vault))
    if as_json:
        print_document(asdict(done))
    else:
        click.echo(
            f"{done.rewrapped} keys moved under the master key {done.master_key_id}, "
            f"{done.forgotten} retired secrets deleted"
        )
        if not done.failed:
            click.echo("Older master keys may leave the key file, on every machine.")
    if done.failed:
        reasons = "; ".join(done.failed.values())
        raise Refused(f"{len(done.failed)} keys could not be moved: {reasons}")


async def _rewrap_all(store: "Store", vault: "Vault") -> Rewrapped:
    from shared.store import credential_changes as changes

    async with store.begin() as tx:
        forgotten = await changes.forget_retired(tx)
    moved, after = 0, 0
    failed: dict[int, str] = {}
    while True:
        async with store.begin() as tx:
            batch = await changes.to_rewrap(tx, vault.newest, limit=REWRAP_BATCH, after=after)
            for credential in batch:
                if credential.sealed is None:
                    continue
                try:
                    sealed = vault.rewrap(credential.sealed, credential.place)
                except CredentialRefused as exc:
                    failed[credential.id] = str(exc)
                    continue
                await changes.rewrapped(tx, credential.id, sealed)
                moved += 1
        if not batch:
            break
        after = batch[-1].id
    return Rewrapped(
        master_key_id=vault.newest, rewrapped=moved, forgotten=forgotten, failed=failed
    )
