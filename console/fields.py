"""What a person may write into the fields of a user and a bot, wherever it comes from.

One checker per field, for `bots add`, `bots set` and `bots import` alike. Each returns the
value as the store takes it, or raises `Refused` with the field, what is allowed and what was
found.
"""

import re
import unicodedata
from collections.abc import Mapping
from decimal import Decimal, InvalidOperation
from difflib import get_close_matches
from typing import Final

from shared import risk_profile
from shared.errors import Refused
from shared.orders import BotStatus, Mode
from shared.venues import VENUES

MAX_NAME_LENGTH: Final = 100
MAX_CAPITAL: Final = Decimal(10) ** 12
MAX_DECIMAL_PLACES: Final = 18
TO_GO_LIVE: Final = "`botfleet bots set ID --mode live` takes a bot live, after checking its key"
MAX_TAKER_FEE: Final = Decimal("0.05")
DEFAULT_CAPITAL: Final = Decimal(1000)
"""In the quote currency of each of the bot's pairs."""

# One word on the broker: a dot would split the routing key, `*` and `#` match others.
_PAIR = re.compile(r"[^\s/:.*#;]{1,20}/[^\s/:.*#;]{1,20}")

_SETTABLE_STATUSES: Final = (BotStatus.ACTIVE, BotStatus.PAUSED, BotStatus.INACTIVE)


def name(field: str, value: object) -> str:
    """A user's or bot's name: 1 to 100 printable characters, spaces around them dropped."""
    text = value.strip() if isinstance(value, str) else ""
    # Control characters would forge lines in logs and tables; PostgreSQL refuses NUL.
    printable = not any(unicodedata.category(char) in ("Cc", "Cs", "Zl", "Zp") for char in text)
    if not text or len(text) > MAX_NAME_LENGTH or not printable:
        raise Refused(f"{field} must be 1 to {MAX_NAME_LENGTH} printable characters, was {value!r}")
    return text


def venue(value: object) -> str:
    """The name of a venue that botfleet trades on, in any case."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in VENUES:
        raise Refused(f"venue must be one of {', '.join(VENUES)}, was {value!r}")
    return text


def pairs(value: object) -> tuple[str, ...]:
    """Trading pairs: a text with `;` between them, or a list of texts; each at most once."""
    parts = value.split(";") if isinstance(value, str) else value
    if not isinstance(parts, list | tuple) or not all(isinstance(part, str) for part in parts):
        raise Refused(f"pairs must be texts such as BTC/USD;ETH/USD, was {value!r}")
    found = tuple(part.strip() for part in parts if part.strip())
    if not found:
        raise Refused(f"pairs must name at least one pair such as BTC/USD, was {value!r}")
    for pair in found:
        if not _PAIR.fullmatch(pair):
            raise Refused(f"pairs must be written as BASE/QUOTE such as BTC/USD, was {pair!r}")
        if found.count(pair) > 1:
            raise Refused(f"pairs must name each pair once, was {pair!r} twice")
    return found


def capital(value: object) -> Decimal:
    """What a bot may invest, in the quote currency: above 0, exact."""
    return amount("capital", value)


def amount(field: str, value: object) -> Decimal:
    """An amount of the quote currency: above 0, exact."""
    try:
        exact = Decimal(value if isinstance(value, str | int | Decimal) else repr(value))
    except InvalidOperation:
        exact = Decimal("NaN")
    exponent = exact.as_tuple().exponent
    if (
        isinstance(value, bool)
        or not isinstance(exponent, int)
        or not 0 < exact <= MAX_CAPITAL
        or -exponent > MAX_DECIMAL_PLACES
    ):
        raise Refused(
            f"{field} must be a number above 0 and at most {MAX_CAPITAL:f} with at most "
            f"{MAX_DECIMAL_PLACES} decimal places (quote currency), was {_shown(value)}"
        )
    return exact


def mode(value: object) -> Mode:
    """`paper` or `live`."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in tuple(Mode):
        raise Refused(f"mode must be paper or live, was {value!r}")
    return Mode(text)


def first_mode(value: object) -> Mode:
    """`paper`: a bot goes live once its key and its markets were looked at."""
    if mode(value) is Mode.LIVE:
        raise Refused(f"mode must be paper, was {value!r}: {TO_GO_LIVE}")
    return Mode.PAPER


def taker_fee(value: str) -> Decimal:
    """What an account pays as taker: a fraction from 0 to 0.05, exact."""
    try:
        exact = Decimal(value)
    except InvalidOperation:
        exact = Decimal("NaN")
    if not exact.is_finite() or not 0 <= exact <= MAX_TAKER_FEE:
        raise Refused(
            f"--taker-fee must be a fraction from 0 to {MAX_TAKER_FEE} (0.0026 is 0.26 %), was "
            f"{value!r}"
        )
    return exact


def status(value: object) -> BotStatus:
    """What the owner wants of the bot. `stopping` is on the way and cannot be asked for."""
    text = value.strip().lower() if isinstance(value, str) else ""
    if text not in _SETTABLE_STATUSES:
        allowed = ", ".join(_SETTABLE_STATUSES)
        raise Refused(f"status must be one of {allowed}, was {value!r}")
    return BotStatus(text)


def profile(values: Mapping[str, object]) -> dict[str, float]:
    """A risk profile's overrides: only what differs from the default, checked."""
    checked = {field: threshold(field, value) for field, value in values.items()}
    return {
        field: number for field, number in checked.items() if number != risk_profile.DEFAULTS[field]
    }


def threshold(field: str, value: object) -> float:
    """One field of the risk profile, as `risk_profile.check`; truth values are no numbers."""
    if field not in risk_profile.BY_NAME:
        raise Refused(f"{field} is not a field of the risk profile{_meant(field)}")
    return risk_profile.check(field, str(value) if isinstance(value, bool) else value)


def assignments(texts: tuple[str, ...]) -> dict[str, float]:
    """`("min_adx=25", "max_rsi=80")` as a risk profile. Raises `Refused` as `threshold`."""
    values: dict[str, float] = {}
    for text in texts:
        field, equals, value = text.partition("=")
        if not equals:
            raise Refused(f"write field=value such as min_adx=25, was {text!r}")
        values[field.strip()] = threshold(field.strip(), value.strip())
    return values


def require_listed(venue_name: str, pair: str, listed: frozenset[str]) -> None:
    """Refuse a pair that the venue does not list, naming the nearest ones."""
    if pair in listed:
        return
    close = get_close_matches(pair.upper(), listed, n=3)
    hint = f": did you mean {' or '.join(close)}?" if close else ""
    raise Refused(f"pairs must be listed on {venue_name} ({len(listed)} pairs), was {pair!r}{hint}")


def _meant(field: str) -> str:
    close = get_close_matches(field, risk_profile.BY_NAME, n=1)
    hint = f": did you mean {close[0]}?" if close else ""
    return hint + " (`botfleet bots fields` lists them)"


def _shown(value: object) -> str:
    return format(value, "f") if isinstance(value, Decimal) else repr(value)
