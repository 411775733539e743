"""What a venue said about one market at one poll, and whether to believe it."""

import math
from dataclasses import dataclass
from typing import Final

MAX_JUMP: Final = 0.20
"""A price, bid or ask this far (a fraction) from the last believed one needs a confirmation."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Quote:
    """Prices of one market as the venue sent them, not yet believed. None where missing."""

    price: float | None
    bid: float | None
    ask: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class BelievedQuote:
    """Positive finite prices, bid not above ask."""

    price: float
    bid: float
    ask: float


class QuoteCheck:
    """The checks of one market, with its memory of the last believed and the doubted quote."""

    __slots__ = ("_doubted", "_last")

    def __init__(self) -> None:
        self._last: BelievedQuote | None = None
        self._doubted: BelievedQuote | None = None

    def judge(self, quote: Quote) -> BelievedQuote | str:
        """The quote if it can be believed, else the reason why not.

        A quote that jumped by more than `MAX_JUMP` is doubted, and believed at the next poll if
        that one stays within `MAX_JUMP` of it. Nonsense in between confirms nothing.
        """
        sound = _sound(quote)
        doubted, self._doubted = self._doubted, None
        if isinstance(sound, str):
            return sound
        if (
            self._last is None
            or not _jumped(self._last, sound)
            or (doubted is not None and not _jumped(doubted, sound))
        ):
            self._last = sound
        else:
            self._doubted = sound
            return f"jumped by more than {MAX_JUMP:.0%}: waiting for a confirmation"
        return sound

    def believe(self, quote: BelievedQuote) -> None:
        """Another stream believed this quote: ours are judged by it from now on."""
        self._last = quote
        self._doubted = None


def _sound(quote: Quote) -> BelievedQuote | str:
    price, bid, ask = quote.price, quote.bid, quote.ask
    if price is None or bid is None or ask is None:
        name = "price" if price is None else "bid" if bid is None else "ask"
        return f"{name} is missing"
    for name, value in (("price", price), ("bid", bid), ("ask", ask)):
        if not math.isfinite(value):
            return f"{name} is not a finite number"
        if value <= 0:
            return f"{name} is not above 0"
    return BelievedQuote(price=price, bid=bid, ask=ask) if bid <= ask else "bid is above ask"


def _jumped(before: BelievedQuote, after: BelievedQuote) -> bool:
    pairs = ((before.price, after.price), (before.bid, after.bid), (before.ask, after.ask))
    return any(abs(new / old - 1) > MAX_JUMP for old, new in pairs)
