"""What a venue's reply proves, by its own codes. No I/O.

Nothing here quotes a reply but its error code and text, and those only as far as they are
harmless: a venue, or something between, could send a key or a signature back.
"""

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import Fill
from shared.venues import Said, Venue
from trade_worker.venues import Sent, Verdict

OK: Final = 200
SERVER_ERROR: Final = 500
THROTTLING_STATUSES: Final = frozenset({418, 429})

_REFUSALS: Final = (Said.KEY_REFUSED, Said.THROTTLED, Said.FUNDS_SHORT, Said.REFUSED)
"""Of several refusals in one reply, the first in this order counts."""


class Unreadable(Exception):
    """A reply that does not say what it should. Never leaves this package."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """A reply, judged. `said` None: no error. `body` is the parsed JSON, `text` the error."""

    said: Said | None
    body: Any = None
    text: str = ""
    retry_after_secs: float | None = None

    @property
    def throttled(self) -> bool:
        return self.said is Said.THROTTLED


def judge(venue: Venue, *, status: int, headers: Mapping[str, str], body: object) -> Judged:
    """What a reply says. `headers` by lower-case name, `body` as parsed, None where it is no JSON.

    HTTP 5xx is uncertain whatever its body says: venues answer so in the middle of the work.
    """
    codes = _codes(venue, body)
    said: Said | None
    if codes is None or status >= SERVER_ERROR or (not codes and status != OK):
        said = Said.UNCERTAIN
    else:
        said = _said(venue, codes) if codes else None
    text = "; ".join(map(harmless, codes or ()))
    if status != OK:
        text = f"HTTP {status} {text}".rstrip()
    elif codes is None:
        text = "something else than its JSON"
    return Judged(said=said, body=body, text=text, retry_after_secs=_retry_after(headers))


def refusal_of(judged: Judged) -> Sent:
    """What an error in reply to a new order means for that order."""
    if judged.said not in _REFUSALS:
        return Sent(verdict=Verdict.UNKNOWN, text=judged.text)
    return Sent(
        verdict=Verdict.REJECTED,
        text=judged.text,
        credential_refused=judged.said is Said.KEY_REFUSED,
        retry_after_secs=judged.retry_after_secs,
        funds_short=judged.said is Said.FUNDS_SHORT,
    )


def answer_of(judged: Judged) -> Any:  # noqa: ANN401 - parsed JSON
    """The body of a reply to a question; raises what its error means to whoever asked."""
    if judged.said is None:
        return judged.body
    if judged.said is Said.KEY_REFUSED:
        raise CredentialRefused(f"the venue refuses the key: {judged.text}")
    raise VenueUnavailable(f"answered {judged.text}", retry_after_secs=judged.retry_after_secs)


def harmless(text: str) -> str:
    """At most 120 plain characters, and nothing that could be a key or a signature.

    >>> harmless("EAPI:Invalid key")
    'EAPI:Invalid key'
    >>> harmless("bad signature=c2VjcmV0c2VjcmV0c2VjcmV0")
    'bad signature=…'
    """
    plain = re.sub(r"[^ -~]+", " ", text)
    return re.sub(r"[A-Za-z0-9+/=_-]{20,}", _shortened, plain)[:120]


def _shortened(match: re.Match[str]) -> str:
    name, equals, _ = match[0].partition("=")
    return f"{name}=…" if equals and len(name) < 20 else "…"


def number(value: object) -> Decimal:
    """A number of a reply, not negative. Raises `Unreadable`."""
    try:
        if isinstance(value, str | int | Decimal) and not isinstance(value, bool):
            parsed = Decimal(value)
            if parsed.is_finite() and parsed >= 0:
                return parsed
    except InvalidOperation:
        pass
    raise Unreadable("a quantity that is no number")


def mapping(value: object) -> Mapping[str, Any]:
    """A JSON object. Raises `Unreadable`."""
    if not isinstance(value, dict):
        raise Unreadable("no object where one belongs")
    return value


def rows(value: object) -> list[Any]:
    """A JSON array. Raises `Unreadable`."""
    if not isinstance(value, list):
        raise Unreadable("no list where one belongs")
    return value


def distinct(fills: Iterable[Fill]) -> tuple[Fill, ...]:
    """Each trade once, the first telling of it."""
    by_id: dict[str, Fill] = {}
    for fill in fills:
        by_id.setdefault(fill.trade_id, fill)
    return tuple(by_id.values())


def _codes(venue: Venue, body: object) -> list[str] | None:
    """The errors in a body; None where it is none of the venue's."""
    if venue.name == "kraken":
        errors = body.get("error") if isinstance(body, dict) else None
        if not isinstance(errors, list):
            return None
        # Warnings begin with W.
        return [str(error) for error in errors if not str(error).startswith("W")]
    if isinstance(body, dict) and isinstance(body.get("code"), int) and body["code"] < 0:
        return [f"{body['code']}:{body.get('msg', '')}"]
    return [] if isinstance(body, dict | list) else None


def _said(venue: Venue, codes: list[str]) -> Said:
    said = {venue.said(code) for code in codes}
    if any(re.search("cl_ord_id|duplicate", code, re.IGNORECASE) for code in codes):
        # Kraken does not document what it says of an id that is in use: that order may be ours.
        return Said.UNCERTAIN
    if len(said) == 1:
        return said.pop()
    return next((one for one in _REFUSALS if one in said and said <= {*_REFUSALS}), Said.UNCERTAIN)


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Seconds, of `Retry-After`. The other form, a date, is not used by the venues."""
    value = headers.get("retry-after", "")
    return float(value) if re.fullmatch(r"\d{1,6}(\.\d+)?", value) else None
