"""The codec of signals: what is written is read again, and what is not one is refused."""

import orjson
import pytest

from shared.errors import UndecodableMessage
from shared.signals import (
    Alert,
    Control,
    ControlVerb,
    EntriesDenied,
    Severity,
    decode_alert,
    decode_control,
    decode_denied,
    encode,
)

ALERT = Alert(
    severity=Severity.CRITICAL,
    service="trade_worker",
    instance="1 (ab)",
    code="shards_unserved",
    text="3 shards are served by nobody",
    at_ms=7,
    facts={"shards": [1, 2, 3]},
)
DENIED = EntriesDenied(
    worker="1",
    venue="kraken",
    since_ms=5,
    at_ms=7,
    counts={"health_gate": {"tick_stale": 3}, "confidence": {"confidence_missing": 1}},
)


def test_alerts_and_denials_are_read_as_they_were_written() -> None:
    assert decode_alert(encode(ALERT)) == ALERT
    assert decode_denied(encode(DENIED)) == DENIED


@pytest.mark.parametrize("verb", ControlVerb)
def test_a_control_message_is_read_as_it_was_written(verb: ControlVerb) -> None:
    control = Control(verb=verb, at_ms=7)
    assert decode_control(encode(control)) == control


def test_a_reset_may_name_a_market() -> None:
    control = Control(verb=ControlVerb.RESET, target="kraken/BTC/USD", at_ms=7)
    assert control.market == ("kraken", "BTC/USD")
    assert decode_control(encode(control)) == control
    assert Control(verb=ControlVerb.RESET, at_ms=7).market is None


@pytest.mark.parametrize("target", ["kraken", "BTC/USD", "mtgox/BTC/USD", "kraken/BTC"])
def test_a_reset_of_what_is_no_market_is_refused(target: str) -> None:
    with pytest.raises(ValueError, match=r"market such as kraken/BTC/USD.* was '"):
        Control(verb=ControlVerb.RESET, target=target, at_ms=7)


@pytest.mark.parametrize(
    ("target", "addressed"), [(None, True), ("trade_worker", True), ("1", True), ("2", False)]
)
def test_a_shutdown_is_for_all_for_a_service_or_for_one_process(
    target: str | None, addressed: bool
) -> None:
    control = Control(verb=ControlVerb.SHUTDOWN, target=target, at_ms=7)
    assert control.addresses("trade_worker", "1") is addressed


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        (b"{", "not JSON"),
        (b"[]", "not a JSON object"),
        (b'{"verb": "explode", "version": 1, "at_ms": 1}', "verb must be one of reset, .*explode"),
        (b'{"verb": "reset", "version": 9, "at_ms": 1}', "version must be one of"),
        (b'{"verb": "reset", "version": 1}', "at_ms must be a whole number"),
        (b'{"verb": "reset", "version": 1, "at_ms": 1, "target": 3}', "target must be a text"),
        (b'{"verb": "reset", "version": 1, "at_ms": 1, "target": "x"}', "must be a market"),
        (b'{"verb": "pause", "version": 1, "at_ms": 1, "target": "x"}', "pause has no target"),
    ],
)
def test_what_is_no_control_message_is_refused_by_its_field(body: bytes, problem: str) -> None:
    with pytest.raises(UndecodableMessage, match=problem):
        decode_control(body)


@pytest.mark.parametrize("counts", [[], {"health_gate": 3}, {"health_gate": {"tick_stale": -1}}])
def test_counts_that_count_nothing_are_refused(counts: object) -> None:
    body = orjson.dumps({**orjson.loads(encode(DENIED)), "counts": counts})
    with pytest.raises(UndecodableMessage, match=r"counts|health_gate|tick_stale"):
        decode_denied(body)
