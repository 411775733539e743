"""What `doctor` says about users' keys and the vault that opens them."""

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Final

from console.checkup import Finding, fine, note, wrong
from shared.errors import InvalidSettings
from shared.store.credentials import KeysHealth

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.store.engine import Store

_SHOWN: Final = 3


async def key_findings(store: "Store", settings: "Settings") -> list[Finding]:
    """Look at the stored keys and at the vault as it is configured here."""
    from shared.store.credentials import health
    from shared.vault import vault_of

    async with store.read() as tx:
        keys = await health(tx)
    try:
        vault = vault_of(settings)
    except InvalidSettings as exc:
        return [wrong("vault", str(exc), "mend the key file; docs/keys.md")]
    return list(judge_keys(keys, None if vault is None else vault.master_key_ids))


def judge_keys(keys: KeysHealth, master_key_ids: Sequence[str] | None) -> Iterator[Finding]:
    """Of the stored keys and of the master keys that are configured here, newest first; None:
    none are."""
    stored = sum(keys.sealed_by.values())
    if stored:
        yield _vault(keys, stored, master_key_ids)
    if keys.troubled:
        shown = "; ".join(
            f"{user} on {venue}: {why}" for user, venue, why in keys.troubled[:_SHOWN]
        )
        more = f" and {len(keys.troubled) - _SHOWN} more" if len(keys.troubled) > _SHOWN else ""
        yield wrong(
            "keys",
            f"{len(keys.troubled)} cannot be used, their bots stand still: {shown}{more}",
            "`botfleet keys rotate USER --venue VENUE` gives another; `keys list` shows them all",
        )
    elif stored:
        yield fine("keys", "none in trouble")


def _vault(keys: KeysHealth, stored: int, master_key_ids: Sequence[str] | None) -> Finding:
    if master_key_ids is None:
        return note(
            "vault",
            f"{stored} keys are stored, and no master key is configured here",
            "workers need BOTFLEET_VAULT_KEY_FILE to trade live; docs/keys.md",
        )
    lost = {name: count for name, count in keys.sealed_by.items() if name not in master_key_ids}
    if lost:
        return wrong(
            "vault",
            f"{sum(lost.values())} keys are sealed with {', '.join(sorted(lost))}, which the "
            "vault here does not have",
            "put the line back into the key file; docs/keys.md",
        )
    older = stored - keys.sealed_by.get(master_key_ids[0], 0)
    if older:
        return note(
            "vault",
            f"{older} of {stored} keys are under an older master key",
            "`botfleet keys rotate --master` moves them",
        )
    return fine("vault", f"opens all {stored} keys")
