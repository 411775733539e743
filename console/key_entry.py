"""How a key gets in: typed unseen or piped, tested at its venue, never an argument."""

import sys
from typing import TYPE_CHECKING, Any, Final

import click

from console.output import number
from shared.errors import CredentialRefused, InvalidSettings, Refused

if TYPE_CHECKING:
    from shared.settings import Settings
    from shared.store.engine import Store
    from shared.vault import ApiKey
    from trade_worker.venues.key_check import KeyCheck

LONGEST: Final = 512
_SHOWN: Final = 4
_SHOWN_FROM: Final = 16
"""Characters of a key from which showing four at each end tells nobody enough."""


def read_key() -> "ApiKey":
    """The key and its secret: two hidden prompts on a terminal, else two lines of standard input.

    Raises `Refused` for anything else, without quoting it.
    """
    from shared.vault import ApiKey

    if sys.stdin.isatty():
        # Each is looked at before the next is asked for: who pasted it wrong gives no secret.
        lines = [_prompted(name) for name in ("key", "secret")]
    else:
        lines = [line for line in sys.stdin.read().splitlines() if line.strip()]
    if len(lines) != 2:
        raise Refused(
            "standard input must be two lines, the API key and then its secret, had "
            f"{len(lines)}: botfleet keys … < file"
        )
    key, secret = (
        _checked(line, name) for line, name in zip(lines, ("key", "secret"), strict=True)
    )
    return ApiKey(key=key, secret=secret)


def hint(key: str) -> str:
    """What may be shown of a key: `abcd…wxyz`."""
    if len(key) < _SHOWN_FROM:
        return "…"
    return f"{key[:_SHOWN]}…{key[-_SHOWN:]}"


async def tested(settings: "Settings", venue_name: str, key: "ApiKey") -> "KeyCheck":
    """Ask the venue about a key. Raises `Refused` with all that speaks against using it."""
    check = await asked(settings, venue_name, key)
    if check.rights.problems:
        raise Refused(
            f"this key cannot be used on {venue_name}: {'; '.join(check.rights.problems)}"
        )
    return check


async def asked(settings: "Settings", venue_name: str, key: "ApiKey") -> "KeyCheck":
    """The same, whatever it says. Raises `Refused` only where the venue refuses the key itself,
    and `VenueUnavailable`."""
    from shared.venues import venue_named
    from trade_worker.venues.key_check import check_key

    proxy = settings.proxy_url
    try:
        return await check_key(
            venue_named(venue_name),
            key,
            url=settings.venue_url(venue_name),
            proxy_url=None if proxy is None else proxy.get_secret_value(),
        )
    except CredentialRefused as exc:
        raise Refused(f"{venue_name} does not accept this key: {exc}") from None


def facts_of(shown: str, check: "KeyCheck") -> dict[str, Any]:
    """What is kept of a key, `shown` as its `hint`, and of what its venue said."""
    from shared.money import plain

    return {
        "key": shown,
        "permissions": list(check.rights.permissions),
        "remarks": list(check.rights.remarks),
        "account": check.rights.account,
        "balances": {currency: plain(free) for currency, free in check.balances.items()},
    }


def balances_text(check: "KeyCheck") -> str:
    """`1,000 USD, 0.5 BTC`."""
    shown = (f"{number(free)} {currency}" for currency, free in check.balances.items())
    return ", ".join(shown) or "nothing"


def require_postgres(store: "Store") -> None:
    """Refuse keys and live trading on a database for trials."""
    if store.dialect == "sqlite":
        raise InvalidSettings(
            "keys and live bots need PostgreSQL: this database is SQLite, which is for demo and "
            "trial, on paper only"
        )


def _prompted(name: str) -> str:
    return _checked(click.prompt(f"API {name}", hide_input=True, err=True), name)


def _checked(line: str, name: str) -> str:
    text = line.strip()
    if not text or len(text) > LONGEST or not text.isascii() or not text.isprintable():
        raise Refused(f"the API {name} must be 1 to {LONGEST} printable ASCII characters")
    if any(char.isspace() for char in text):
        raise Refused(f"the API {name} must be one word: was more than it copied?")
    return text
