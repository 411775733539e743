"""What the processes say to each other: frozen, versioned messages with their codec.

Bodies are JSON. Readers take versions N and N-1, writers write `VERSION`. Times are
milliseconds of UTC since 1970; `*_at_ms` come from a machine's wall clock, `market_time_ms` from
the venue's. Fractions are fractions: 0.015 is 1.5 %. What is not about trading is in signals.py.
"""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any, Final

import orjson

from shared.errors import UndecodableMessage
from shared.json_fields import (
    VERSION,
    json_object,
    moment_of,
    object_of,
    optional_number_of,
    optional_text_of,
    positive_of,
    text_of,
    version_of,
    whole_of,
)

CONTENT_TYPE: Final = "application/json"


class Regime(StrEnum):
    """How strongly a market trends, by ADX(14): under 20, 30, 35, and above."""

    CHOPPY = "choppy"
    WEAK = "weak"
    MODERATE = "moderate"
    STRONG = "strong"


@dataclass(frozen=True, slots=True, kw_only=True)
class Indicators:
    """What a market's completed 15 m candles say; None where it is not known.

    `adx` and `rsi` run from 0 to 100; momenta are fractions; `volume_ratio` is the last
    completed candle's volume over the mean of the 20 before it; `recent_high` is a price.
    """

    adx: float | None = None
    rsi: float | None = None
    momentum_1h: float | None = None
    momentum_4h: float | None = None
    btc_momentum_1h: float | None = None
    volume_ratio: float | None = None
    recent_high: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Tick:
    """One market's price at one poll, with everything that is the same for all its bots.

    `observed_at_ms` is when the venue's reply was read, before parsing. `stream_epoch` grows
    with each start of the price stream and `sequence` per market within it, so that
    (stream_epoch, sequence) orders the ticks of a market.
    """

    venue: str
    pair: str
    price: float
    bid: float
    ask: float
    market_time_ms: int
    observed_at_ms: int
    published_at_ms: int
    stream_epoch: int
    sequence: int
    indicators: Indicators
    regime: Regime | None
    confidence: float | None
    version: int = VERSION

    @property
    def market(self) -> tuple[str, str]:
        """(venue, pair)."""
        return self.venue, self.pair

    @property
    def order(self) -> tuple[int, int]:
        """What orders this market's ticks: (stream_epoch, sequence)."""
        return self.stream_epoch, self.sequence


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderEvent:
    """An order changed its status. Published on `orders` as `order.update.<status>.<venue>`.

    Also when more of it is filled, or turns out to have been, at the same status. Amounts are
    decimal numbers as text, exact. `reason` is a reason code; `at_ms` is the database's clock.
    `realised_pnl` is set where this closed its position, and where a late fill changes the
    result of a closed one: then it is the difference, so that the sum is always the result.
    """

    client_order_id: str
    bot_id: int
    user_id: int
    mode: str
    venue: str
    pair: str
    position_sequence: int
    leg: str
    attempt: int
    side: str
    status: str
    quantity: str
    limit_price: str | None
    filled_quantity: str
    average_price: str | None
    fee: str
    fee_currency: str | None
    reason: str
    realised_pnl: str | None
    at_ms: int
    version: int = VERSION


class BreakerChange(StrEnum):
    """What happened to a breaker."""

    OPENED = "opened"
    CLOSED = "closed"


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerOpened:
    """Losses stopped a bot or a user. Published on `risk` as `risk.breaker.<scope>`.

    `scope` is `bot` or `user`, `scope_id` its id, `kind` `loss_streak` or `daily_loss`.
    `client_order_id` is the exit that tripped it; `facts` are the losses and the limit, amounts
    as text. It stays open until `open_until_ms` (market time) or until it is reset by hand.
    `at_ms` is the database's clock.
    """

    scope: str
    scope_id: int
    user_id: int
    kind: str
    open_until_ms: int
    client_order_id: str
    facts: dict[str, Any]
    at_ms: int
    change: BreakerChange = BreakerChange.OPENED
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class BreakerClosed:
    """A bot or a user may enter again. Published on `risk` as `risk.breaker.<scope>`.

    `by_hand` false: its day is over. `at_ms` is the database's clock.
    """

    scope: str
    scope_id: int
    user_id: int
    kind: str
    by_hand: bool
    at_ms: int
    change: BreakerChange = BreakerChange.CLOSED
    version: int = VERSION


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """A service is alive. Published on `system` as `system.health.<service>`."""

    service: str
    instance: str
    at_ms: int
    interval_secs: float
    facts: dict[str, Any]
    version: int = VERSION


def encode(message: Tick | OrderEvent | BreakerOpened | BreakerClosed | Heartbeat) -> bytes:
    """The message as a JSON body. NaN and infinities become null."""
    return orjson.dumps(message)


def decode_tick(body: bytes) -> Tick:
    """A `price_updates` body as a Tick.

    Raises `UndecodableMessage` that names the field for anything else: not JSON, another
    version, a missing field, a price that is not a positive finite number. Fields that this
    version does not know are ignored, so that a newer writer can add some.
    """
    fields = json_object(body)
    version = version_of(fields)
    indicators = fields.get("indicators")
    if not isinstance(indicators, dict):
        raise UndecodableMessage(f"indicators must be an object, was {indicators!r}")
    return Tick(
        version=version,
        venue=text_of(fields, "venue"),
        pair=text_of(fields, "pair"),
        price=positive_of(fields, "price"),
        bid=positive_of(fields, "bid"),
        ask=positive_of(fields, "ask"),
        market_time_ms=moment_of(fields, "market_time_ms"),
        observed_at_ms=moment_of(fields, "observed_at_ms"),
        published_at_ms=moment_of(fields, "published_at_ms"),
        stream_epoch=whole_of(fields, "stream_epoch"),
        sequence=whole_of(fields, "sequence"),
        indicators=Indicators(
            **{name: optional_number_of(indicators, name) for name in Indicators.__slots__}
        ),
        regime=_regime(fields.get("regime")),
        confidence=optional_number_of(fields, "confidence"),
    )


def decode_order(body: bytes) -> OrderEvent:
    """An `order.update.*` body. Raises `UndecodableMessage` that names the field."""
    fields = json_object(body)
    texts = (
        *("client_order_id", "mode", "venue", "pair", "leg", "side", "status", "reason"),
        *("quantity", "filled_quantity", "fee"),
    )
    optional_texts = ("limit_price", "average_price", "fee_currency", "realised_pnl")
    wholes = ("bot_id", "user_id", "position_sequence", "attempt", "at_ms")
    checked: dict[str, Any] = {
        "version": version_of(fields),
        **{name: text_of(fields, name) for name in texts},
        **{name: optional_text_of(fields, name) for name in optional_texts},
        **{name: whole_of(fields, name) for name in wholes},
    }
    return OrderEvent(**checked)


def decode_breaker(body: bytes) -> BreakerOpened | BreakerClosed:
    """A `risk.breaker.*` body. Raises `UndecodableMessage` that names the field."""
    fields = json_object(body)
    common: dict[str, Any] = {
        "version": version_of(fields),
        **{name: text_of(fields, name) for name in ("scope", "kind")},
        **{name: whole_of(fields, name) for name in ("scope_id", "user_id", "at_ms")},
    }
    change = fields.get("change")
    if change == BreakerChange.OPENED:
        return BreakerOpened(
            **common,
            open_until_ms=whole_of(fields, "open_until_ms"),
            client_order_id=text_of(fields, "client_order_id"),
            facts=object_of(fields, "facts"),
        )
    if change == BreakerChange.CLOSED:
        by_hand = fields.get("by_hand")
        if not isinstance(by_hand, bool):
            raise UndecodableMessage(f"by_hand must be true or false, was {by_hand!r}")
        return BreakerClosed(**common, by_hand=by_hand)
    raise UndecodableMessage(
        f"change must be one of {[each.value for each in BreakerChange]}, was {change!r}"
    )


def _regime(value: object) -> Regime | None:
    if value is None:
        return None
    try:
        return Regime(value)  # type: ignore[arg-type]
    except ValueError as exc:
        raise UndecodableMessage(
            f"regime must be one of {[regime.value for regime in Regime]} or null, was {value!r}"
        ) from exc
