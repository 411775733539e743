"""RabbitMQ's own notes of a death, read from whatever somebody wrote into the header."""

from datetime import UTC, datetime

import pytest

from shared.bus.rabbitmq_deaths import headers_of_death

DEATH = {
    "count": 1,
    "reason": "delivery_limit",
    "queue": "profit_and_loss",
    "time": datetime(2026, 11, 21, tzinfo=UTC),
    "exchange": "orders",
    "routing-keys": ["order.update.filled.kraken", "copied"],
}


def test_the_latest_death_is_read() -> None:
    assert headers_of_death([DEATH, {**DEATH, "reason": "expired"}]) == {
        "x-botfleet-reason": "delivery_limit",
        "x-botfleet-exchange": "orders",
        "x-botfleet-routing-key": "order.update.filled.kraken",
        "x-botfleet-died-at-ms": "1795219200000",
    }


@pytest.mark.parametrize("missing", ["reason", "time", "exchange", "routing-keys"])
def test_an_incomplete_death_says_nothing(missing: str) -> None:
    assert headers_of_death([{key: DEATH[key] for key in DEATH if key != missing}]) == {}


@pytest.mark.parametrize("written", ["text", None, [], [1], {"reason": "expired"}])
def test_what_other_programs_write_there_says_nothing(written: object) -> None:
    assert headers_of_death(written) == {}
