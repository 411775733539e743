"""`botfleet dead-letters` on a real broker."""

import asyncio
import json
from collections.abc import Awaitable, Callable

import pytest
from click.testing import CliRunner, Result

from console.__main__ import botfleet
from shared.bus import Bus, Message
from shared.bus.connect import bus_for
from shared.bus.dead_letters import dead_letter
from shared.topology import LISTENER_QUEUE, PRICE_UPDATES, Binding


def on_bus(url: str, work: Callable[[Bus], Awaitable[None]]) -> None:
    async def run() -> None:
        bus = bus_for(url, name="test")
        await bus.start()
        try:
            await work(bus)
        finally:
            await bus.close()

    asyncio.run(run())


async def let_die(bus: Bus) -> None:
    """A worker that cannot read two ticks."""
    listening = await bus.subscribe(
        LISTENER_QUEUE, frozenset({Binding(exchange=PRICE_UPDATES, pattern="#")})
    )
    for body in (b"not json", b"{}"):
        await bus.publish(Message(exchange=PRICE_UPDATES, routing_key="BTC/USD", body=body))
        for delivery in await listening.batch():
            await dead_letter(bus, delivery, "the body is no tick")
            await listening.acknowledge([delivery])


def call(*arguments: str, exit_code: int = 0) -> Result:
    result = CliRunner().invoke(botfleet, ["dead-letters", *arguments], catch_exceptions=False)
    assert result.exit_code == exit_code, result.output
    return result


@pytest.fixture
def letters(fresh_rabbitmq_url: str, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The ids of two dead letters."""
    monkeypatch.setenv("RABBITMQ_URL", fresh_rabbitmq_url)
    on_bus(fresh_rabbitmq_url, let_die)
    return ids()


def ids() -> list[str]:
    return [json.loads(line)["id"] for line in call("list", "--json").stdout.splitlines()]


def test_dead_letters_are_listed_and_shown_and_stay(letters: list[str]) -> None:
    first, second = letters

    shown = json.loads(call("show", first, "--json").stdout)

    assert (shown["exchange"], shown["routing_key"]) == (PRICE_UPDATES, "BTC/USD")
    assert (shown["reason"], shown["body"]) == ("the body is no tick", "not json")
    assert "the body is no tick" in call("list").stdout
    assert "not json" in call("show", first).stdout
    assert ids() == [first, second]


def test_one_is_deleted_and_then_the_rest_after_a_question(letters: list[str]) -> None:
    assert call("purge", letters[0]).stdout == "1 deleted\n"
    assert ids() == letters[1:]

    declined = CliRunner().invoke(botfleet, ["dead-letters", "purge", "--all"], input="n\n")
    assert declined.exit_code == 1
    assert ids() == letters[1:]
    assert call("purge", "--all", "--yes").stdout == "1 deleted\n"
    assert call("list").stdout == "No dead letters.\n"


def test_a_letter_that_no_queue_takes_stays_and_is_named(letters: list[str]) -> None:
    refused = call("replay", letters[0], exit_code=1)

    assert refused.stdout == "0 replayed\n"
    assert letters[0] in refused.stderr
    assert ids() == letters


def test_unknown_ids_are_refused(letters: list[str]) -> None:
    assert "no dead letter has the id nonsense" in call("show", "nonsense", exit_code=1).stderr
    assert "1 of the given ids" in call("replay", "nonsense", exit_code=1).stderr
    assert ids() == letters
