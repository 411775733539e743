"""`kill-switch` and `reset`, as a person or a script calls them, on both databases."""

from pathlib import Path
from typing import Any

import pytest

from shared.limits import BreakerScope
from shared.store import breakers, workers
from shared.store.engine import Store
from shared.store.workers import Process, ProcessKind
from tests.integration.test_console_verbs import Shell
from tests.integration.traders import Trader, spec, trade, traders

NOBODY_LISTENS = "amqp://guest:guest@127.0.0.1:9/"


@pytest.fixture
def shell(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """A migrated fleet."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    return Shell(database_url)


def add_traders(shell: Shell) -> list[Trader]:
    return shell.on_store(lambda store: traders(store, spec("ann", "one"), spec("ben", "two")))


def worker_reports(shell: Shell, name: str, seen: int) -> None:
    """A worker's sign of life, with the switches that it goes by."""
    process = Process(kind=ProcessKind.TRADE_WORKER, name=name, instance=name, host="test", pid=1)

    async def report(store: Store) -> None:
        async with store.begin() as tx:
            await workers.beat(tx, process, {"kill_switches_seen": seen})

    shell.on_store(report)


def switches_on(shell: Shell) -> list[Any]:
    found: list[Any] = shell.document("kill-switch", "status")["on"]
    return found


def test_a_switch_is_turned_on_and_off_with_the_broker_down(
    shell: Shell, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RABBITMQ_URL", NOBODY_LISTENS)
    assert "No kill switch is on." in shell("kill-switch", "status").stdout
    turned = shell("kill-switch", "on", "fleet", "--reason", "prices look wrong").stdout
    assert "on: no new positions, exits go on, for the whole fleet" in turned
    assert "no worker is alive" in turned
    (switch,) = switches_on(shell)
    assert (switch["scope"], switch["level"]) == ("fleet", "entries")
    assert switch["reason"] == "prices look wrong"
    assert "prices look wrong" in shell("kill-switch", "status").stdout
    assert shell("kill-switch", "off", "fleet").stdout.startswith("off: the whole fleet")
    assert switches_on(shell) == []


def test_every_scope_is_named_as_a_person_names_it(shell: Shell) -> None:
    one, _ = add_traders(shell)
    shell("kill-switch", "on", "venue", "kraken", "--level", "all")
    shell("kill-switch", "on", "user", "ann")
    shell("kill-switch", "on", "bot", str(one.bot_id))
    assert [(each["target"], each["scope_key"]) for each in switches_on(shell)] == [
        ("venue kraken", "kraken"),
        ("user ann", str(one.user_id)),
        (f"bot {one.bot_id}", str(one.bot_id)),
    ]


@pytest.mark.parametrize(
    ("arguments", "exit_code", "told"),
    [
        (("fleet", "ann"), 2, "takes no name"),
        (("user",), 2, "Which user?"),
        (("bot", "first"), 2, "named by its id"),
        (("user", "nobody"), 1, "no user named"),
        (("bot", "99"), 1, "no bot 99"),
        (("venue", "mtgox"), 1, "venue must be one of"),
        (("galaxy",), 2, "galaxy"),
    ],
)
def test_a_scope_that_does_not_exist_is_refused(
    shell: Shell, arguments: tuple[str, ...], exit_code: int, told: str
) -> None:
    assert told in shell("kill-switch", "on", *arguments, exit_code=exit_code).output
    assert switches_on(shell) == []


@pytest.mark.parametrize("typed", ["flee", "yes", "venue kraken", ""])
def test_flatten_needs_the_scope_typed_back(shell: Shell, typed: str) -> None:
    flatten = ("kill-switch", "on", "fleet", "--level", "flatten")
    shell(*flatten, stdin=f"{typed}\n", exit_code=1)
    shell(*flatten, "--yes-flatten", typed, exit_code=1)
    assert switches_on(shell) == []
    shell(*flatten, stdin="fleet\n")
    assert [switch["level"] for switch in switches_on(shell)] == ["flatten"]


def test_flatten_in_a_script_names_its_scope(shell: Shell) -> None:
    add_traders(shell)
    shell("kill-switch", "on", "user", "ann", "--level", "flatten", "--yes-flatten", "user ann")
    assert [switch["level"] for switch in switches_on(shell)] == ["flatten"]


def test_the_workers_that_have_not_seen_a_switch_are_named(shell: Shell) -> None:
    worker_reports(shell, "prompt", 1)
    worker_reports(shell, "late", 0)
    text = "acknowledged by 1 of 2 workers, not yet by late"
    assert text in shell("kill-switch", "on", "fleet").stdout
    (switch,) = switches_on(shell)
    assert switch["acknowledged"] == {"seen": ["prompt"], "missing": ["late"]}
    worker_reports(shell, "late", 1)
    assert switches_on(shell)[0]["acknowledged"]["missing"] == []


def test_status_and_explain_tell_of_a_switch(shell: Shell) -> None:
    one, two = add_traders(shell)
    shell("kill-switch", "on", "user", "ann", "--reason", "asked us to")
    assert "no new positions, exits go on, for user ann" in shell("status").stdout
    (shown,) = shell.document("status")["kill_switches"]
    assert shown["target"] == "user ann"
    assert (
        "kill switch of user ann is at entries" in shell("bots", "explain", str(one.bot_id)).stdout
    )
    assert "kill switch" not in shell("bots", "explain", str(two.bot_id)).stdout.replace(
        "a kill switch is on", ""
    )


def test_a_breaker_is_shown_and_reset_by_hand(shell: Shell) -> None:
    one, _ = add_traders(shell)
    shell.on_store(lambda store: trade(store, one, ["99", "99", "40"]))
    bot_id = str(one.bot_id)
    shown = shell("bots", "show", bot_id).stdout
    assert "3 losses in a row, 3 are the limit" in shown
    assert "lost 62.00 USD in a day (paper), 5.00 % of 1,000 is the limit" in shown
    assert "botfleet users reset ann" in shown
    assert "3 losses in a row" in shell("bots", "explain", bot_id).stdout
    assert shell.document("status")["breakers"] == {"bot": 2, "user": 1}

    text = shell("bots", "reset", bot_id).stdout
    assert "daily loss, loss streak closed" in text
    assert "still open: user ann" in text
    assert "has no open breaker" in shell("bots", "reset", bot_id).stdout
    assert shell.document("users", "reset", "ann") == {"closed": ["daily_loss"], "still_open": []}
    assert "stopped" not in shell("bots", "show", bot_id).stdout

    async def still_open(store: Store) -> dict[BreakerScope, int]:
        async with store.read() as tx:
            return await breakers.count_open(tx)

    assert shell.on_store(still_open) == {}


def test_reset_refuses_who_does_not_exist(shell: Shell) -> None:
    assert "no bot 99" in shell("bots", "reset", "99", exit_code=1).output
    assert "no user named" in shell("users", "reset", "nobody", exit_code=1).output
