"""The codec of messages: what it writes, what it reads, and what it refuses."""

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import orjson
import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import UndecodableMessage
from shared.json_fields import LATEST_MS
from shared.messages import (
    BreakerClosed,
    BreakerOpened,
    Indicators,
    OrderEvent,
    Regime,
    Tick,
    decode_breaker,
    decode_order,
    decode_tick,
    encode,
)

TICK = Tick(
    venue="kraken",
    pair="BTC/USD",
    price=43198.0,
    bid=43197.9,
    ask=43198.1,
    market_time_ms=1_642_341_540_000,
    observed_at_ms=1_763_685_300_000,
    published_at_ms=1_763_685_300_004,
    stream_epoch=3,
    sequence=1841,
    indicators=Indicators(adx=24.1, rsi=55.0, momentum_1h=0.006, recent_high=43_500.0),
    regime=Regime.WEAK,
    confidence=74.0,
)

ORDER = OrderEvent(
    client_order_id="ab" * 16,
    bot_id=7,
    user_id=3,
    mode="paper",
    venue="kraken",
    pair="BTC/USD",
    position_sequence=1,
    leg="exit",
    attempt=0,
    side="sell",
    status="filled",
    quantity="0.01851234",
    limit_price=None,
    filled_quantity="0.01851234",
    average_price="44000.3",
    fee="3.26",
    fee_currency="USD",
    reason="profit_target",
    realised_pnl="-1.25",
    at_ms=1_763_685_300_000,
)

finite = st.floats(allow_nan=False, allow_infinity=False)
positive = st.floats(min_value=1e-12, max_value=1e12)
whole = st.integers(min_value=0, max_value=2**53)
moments = st.integers(min_value=0, max_value=LATEST_MS)
ticks = st.builds(
    Tick,
    venue=st.sampled_from(["kraken", "binance"]),
    pair=st.text(min_size=1).filter(lambda text: text.isprintable()),
    price=positive,
    bid=positive,
    ask=positive,
    market_time_ms=moments,
    observed_at_ms=moments,
    published_at_ms=moments,
    stream_epoch=whole,
    sequence=whole,
    indicators=st.builds(Indicators, **{name: st.none() | finite for name in Indicators.__slots__}),
    regime=st.none() | st.sampled_from(Regime),
    confidence=st.none() | finite,
)


@given(ticks)
def test_a_tick_survives_the_wire(tick: Tick) -> None:
    assert decode_tick(encode(tick)) == tick


def test_the_body_has_the_fields_of_the_design() -> None:
    assert orjson.loads(encode(TICK)) == {
        "version": 1,
        "venue": "kraken",
        "pair": "BTC/USD",
        "price": 43198.0,
        "bid": 43197.9,
        "ask": 43198.1,
        "market_time_ms": 1_642_341_540_000,
        "observed_at_ms": 1_763_685_300_000,
        "published_at_ms": 1_763_685_300_004,
        "stream_epoch": 3,
        "sequence": 1841,
        "indicators": {
            "adx": 24.1,
            "rsi": 55.0,
            "momentum_1h": 0.006,
            "momentum_4h": None,
            "btc_momentum_1h": None,
            "volume_ratio": None,
            "recent_high": 43_500.0,
        },
        "regime": "weak",
        "confidence": 74.0,
    }


def test_nan_travels_as_null() -> None:
    tick = replace(TICK, indicators=Indicators(adx=float("nan")))
    assert decode_tick(encode(tick)).indicators.adx is None


def test_fields_of_a_newer_writer_are_ignored() -> None:
    body = orjson.loads(encode(TICK)) | {"added_later": 1}
    body["indicators"]["added_later"] = 2
    assert decode_tick(orjson.dumps(body)) == TICK


def _with(**changes: Any) -> Callable[[], bytes]:
    return lambda: orjson.dumps(orjson.loads(encode(TICK)) | changes)


@pytest.mark.parametrize(
    ("body", "told"),
    [
        (lambda: b"\xff\x00", "not JSON"),
        (lambda: b"[]", "not a JSON object"),
        (lambda: b"", "not JSON"),
        (_with(version=2), "version must be one of"),
        (_with(market_time_ms=10**15), "market_time_ms must be in milliseconds"),
        (_with(version=True), "version must be one of"),
        (_with(price=0), "price must be a number above 0"),
        (_with(price=-1.0), "price must be a number above 0"),
        (_with(bid=None), "bid must be a number above 0"),
        (_with(ask="1"), "ask must be a finite number or null"),
        (_with(sequence=1.5), "sequence must be a whole number"),
        (_with(sequence=-1), "sequence must be a whole number"),
        (_with(venue=""), "venue must be a text"),
        (_with(regime="wild"), "regime must be one of"),
        (_with(regime=[]), "regime must be one of"),
        (_with(indicators=None), "indicators must be an object"),
        (_with(indicators={"adx": "high"}), "adx must be a finite number"),
        (_with(version=[1]), "version must be one of"),
        (lambda: encode(TICK).replace(b"74.0", b"1e999"), "not JSON"),
    ],
)
def test_what_is_not_a_tick_is_refused_with_the_field(body: Callable[[], bytes], told: str) -> None:
    with pytest.raises(UndecodableMessage, match=told):
        decode_tick(body())


@given(st.binary())
def test_any_other_body_is_undecodable_and_nothing_else(body: bytes) -> None:
    with pytest.raises(UndecodableMessage):
        decode_tick(body)


OPENED = BreakerOpened(
    scope="user",
    scope_id=7,
    user_id=7,
    kind="daily_loss",
    open_until_ms=1_642_377_600_000,
    client_order_id="0123456789abcdef0123456789abcdef",
    facts={"loss": "61.50", "limit": "50"},
    at_ms=1_763_685_300_000,
)
CLOSED = BreakerClosed(
    scope="bot", scope_id=17, user_id=7, kind="loss_streak", by_hand=True, at_ms=1_763_685_300_000
)


@pytest.mark.parametrize("message", [OPENED, CLOSED])
def test_a_breaker_event_survives_the_wire(message: BreakerOpened | BreakerClosed) -> None:
    assert decode_breaker(encode(message)) == message


@pytest.mark.parametrize(
    ("message", "changes", "told"),
    [
        (OPENED, {"version": 9}, "version must be one of"),
        (OPENED, {"change": "bent"}, "change must be one of"),
        (OPENED, {"scope": 1}, "scope must be a text"),
        (OPENED, {"scope_id": -1}, "scope_id must be a whole number"),
        (OPENED, {"open_until_ms": None}, "open_until_ms must be a whole number"),
        (OPENED, {"facts": []}, "facts must be an object"),
        (CLOSED, {"by_hand": 1}, "by_hand must be true or false"),
    ],
)
def test_what_is_no_breaker_event_is_refused_with_the_field(
    message: BreakerOpened | BreakerClosed, changes: dict[str, Any], told: str
) -> None:
    body = orjson.loads(encode(message)) | changes
    with pytest.raises(UndecodableMessage, match=told):
        decode_breaker(orjson.dumps(body))


def test_an_order_event_is_read_as_it_was_written() -> None:
    assert decode_order(encode(ORDER)) == ORDER


@pytest.mark.parametrize(
    ("field", "value"), [("bot_id", "7"), ("realised_pnl", 1.5), ("status", None), ("version", 2)]
)
def test_an_order_event_with_a_wrong_field_is_refused_by_its_name(
    field: str, value: object
) -> None:
    body = orjson.dumps({**orjson.loads(encode(ORDER)), field: value})
    with pytest.raises(UndecodableMessage, match=field):
        decode_order(body)
