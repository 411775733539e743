"""The verbs on real databases, as a person or a script calls them."""

import asyncio
import json
import os
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar
from uuid import UUID

import pytest
from click.testing import CliRunner, Result

from console.__main__ import botfleet
from shared.clock import wall_ms
from shared.leases import LeaseKind
from shared.messages import Indicators, Regime, Tick
from shared.money import MarketRules
from shared.orders import Intent, Leg, Mode, client_order_id
from shared.reasons import Reason
from shared.store import bots, leases, markets, ticks, trading, workers
from shared.store.engine import Store, connect
from shared.store.workers import Process, ProcessKind
from trade_worker.venues.paper import PaperOrders

T = TypeVar("T")

OWNER = "test"
RULES = MarketRules(
    lot_step=Decimal("0.0001"),
    price_tick=Decimal("0.1"),
    min_quantity=Decimal("0.0001"),
    min_notional=Decimal(5),
)
PAIRS = ("BTC/USD", "ETH/USD")
NOWHERE = "http://127.0.0.1:9"


class Shell:
    """A person at the command line of one fleet."""

    def __init__(self, url: str) -> None:
        self.url = url

    def __call__(self, *arguments: str, stdin: str | None = None, exit_code: int = 0) -> Result:
        result = CliRunner().invoke(botfleet, arguments, input=stdin, catch_exceptions=False)
        assert result.exit_code == exit_code, result.output
        return result

    def document(self, *arguments: str) -> Any:
        """The one JSON document that a verb prints."""
        return json.loads(self(*arguments, "--json").stdout)

    def lines(self, *arguments: str) -> list[Any]:
        """The JSON lines that a verb prints."""
        return [json.loads(line) for line in self(*arguments, "--json").stdout.splitlines()]

    def on_store(self, work: Callable[[Store], Awaitable[T]]) -> T:
        """Prepare something behind the command's back."""

        async def run() -> T:
            store = connect(self.url, application_name="test")
            try:
                return await work(store)
            finally:
                await store.close()

        return asyncio.run(run())


@pytest.fixture
def shell(database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Shell:
    """A migrated fleet whose price stream once wrote down what Kraken lists."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", database_url)
    monkeypatch.setenv("BOTFLEET_KRAKEN_URL", NOWHERE)
    monkeypatch.setenv("BOTFLEET_BINANCE_URL", NOWHERE)
    shell = Shell(database_url)

    async def list_markets(store: Store) -> None:
        async with store.begin() as tx:
            await markets.save(tx, "kraken", dict.fromkeys(PAIRS, RULES))

    shell.on_store(list_markets)
    return shell


def add_bot(shell: Shell, *more: str) -> int:
    shell("users", "add", "ann")
    arguments = ("bots", "add", "ann", "first", "--venue", "kraken", "--pair", "BTC/USD", *more)
    bot_id = shell.document(*arguments)["id"]
    assert isinstance(bot_id, int)
    return bot_id


def tick(**changes: Any) -> Tick:
    fields: dict[str, Any] = {
        "venue": "kraken",
        "pair": "BTC/USD",
        "price": 43_198.0,
        "bid": 43_198.0,
        "ask": 43_199.0,
        "market_time_ms": 1_642_341_540_000,
        "observed_at_ms": wall_ms(),
        "published_at_ms": wall_ms(),
        "stream_epoch": 1,
        "sequence": 1,
        "indicators": Indicators(
            adx=18.2,
            rsi=55.0,
            momentum_1h=0.006,
            momentum_4h=0.01,
            btc_momentum_1h=0.006,
            volume_ratio=1.1,
            recent_high=44_000.0,
        ),
        "regime": Regime.CHOPPY,
        "confidence": 80.0,
    }
    return Tick(**{**fields, **changes})


def save_tick(shell: Shell, newest: Tick) -> None:
    async def save(store: Store) -> None:
        async with store.begin() as tx:
            await ticks.save(tx, [newest])

    shell.on_store(save)


def beat(shell: Shell, kind: ProcessKind, report: dict[str, Any]) -> None:
    async def report_alive(store: Store) -> None:
        process = Process(kind=kind, name=str(kind), instance="1", host="here", pid=1)
        async with store.begin() as tx:
            await workers.beat(tx, process, report)

    shell.on_store(report_alive)


def trade(shell: Shell, bot_id: int, *, bought: str, sold: str) -> None:
    """One position of the bot, opened and closed on paper through the store."""

    async def run(store: Store) -> None:
        async with store.begin() as tx:
            bot = await bots.get(tx, bot_id)
            (lease, *_) = [
                lease
                for lease in await leases.take(tx, LeaseKind.SHARD, OWNER, ttl_secs=60)
                if lease.number == bot.shard
            ]
        for leg, price in ((Leg.ENTRY, bought), (Leg.EXIT, sold)):
            intent = _intent(bot, lease.epoch, leg, Decimal(price))
            fills = PaperOrders().fill_at_commit(intent)
            async with store.begin() as tx:
                proposal = trading.Proposal(intent=intent, fills=fills)
                assert (await trading.commit(tx, [proposal], owner=OWNER)).positions

    shell.on_store(run)


def _intent(bot: bots.Bot, epoch: int, leg: Leg, price: Decimal) -> Intent:
    entry = leg is Leg.ENTRY
    return Intent(
        client_order_id=client_order_id(
            UUID(int=1),
            bot_id=bot.id,
            pair="BTC/USD",
            position_sequence=1,
            leg=leg,
            attempt=0,
        ),
        bot_id=bot.id,
        user_id=bot.user_id,
        shard=bot.shard,
        lease_epoch=epoch,
        mode=Mode.PAPER,
        venue="kraken",
        pair="BTC/USD",
        position_sequence=1,
        position_version=0 if entry else 1,
        leg=leg,
        attempt=0,
        quantity=Decimal("0.01"),
        limit_price=price,
        decided_price=price,
        taker_fee=Decimal("0.0040"),
        reason=Reason.ENTRY_SIGNAL if entry else Reason.PROFIT_TARGET,
        market_time_ms=1_642_341_540_000 + (0 if entry else 600_000),
        observed_at_ms=wall_ms() - 20,
        received_at_ms=wall_ms() - 10,
        decided_at_ms=wall_ms() - 5,
        regime="weak",
        facts={"indicators": {"adx": 24.1, "regime": "weak", "momentum_1h": 0.012}},
    )


def test_users_are_added_once_and_listed(shell: Shell) -> None:
    shell("users", "add", "ann", "--max-open-positions", "3")

    refused = shell("users", "add", "ann", exit_code=1)
    assert refused.stderr == "botfleet: there is a user named 'ann' already\n"
    (user,) = shell.lines("users", "list")
    assert (user["name"], user["max_open_positions"], user["status"]) == ("ann", 3, "active")
    assert "at most 3" in shell("users", "list").stdout


def test_a_bot_is_added_changed_paused_and_shown(shell: Shell) -> None:
    bot_id = add_bot(shell, "--set", "min_adx=25", "--capital", "2500.5")

    shell("bots", "set", str(bot_id), "max_rsi=80", "--capital", "3000")
    paused = shell("bots", "pause", str(bot_id))
    again = shell("bots", "pause", str(bot_id))

    assert f"bot {bot_id} is now paused\n" in paused.stdout
    assert f"bot {bot_id} is already paused\n" in again.stdout
    bot = shell.document("bots", "show", str(bot_id))
    assert bot["risk_profile"] == {"min_adx": 25.0, "max_rsi": 80.0}
    assert bot["thresholds"]["min_adx"] == 25.0
    assert (bot["capital"], bot["status"], bot["pairs"]) == ("3000", "paused", ["BTC/USD"])
    assert "bot " in shell("bots", "show", str(bot_id)).stdout
    (listed,) = shell.lines("bots", "list", "--user", "ann", "--status", "paused")
    assert listed["id"] == bot_id
    assert shell("bots", "list", "--status", "active").stdout == "No such bots.\n"


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (("--pair", "BTC/USDD"), "pairs must be listed on kraken (2 pairs), was 'BTC/USDD'"),
        (("--pair", "BTC/USD", "--capital", "-1"), "capital must be a number above 0"),
        (("--pair", "BTC/USD", "--mode", "live"), "mode must be paper, was 'live'"),
        (("--pair", "BTC/USD", "--set", "min_adx=101"), "min_adx must be a number from 0 to 100"),
        (("--pair", "BTC/USD"), "there is no user named 'ann': botfleet users add ann"),
    ],
)
def test_an_impossible_bot_is_refused_at_the_door(
    shell: Shell, arguments: tuple[str, ...], expected: str
) -> None:
    result = shell("bots", "add", "ann", "b", "--venue", "kraken", *arguments, exit_code=1)

    assert expected in result.stderr
    assert len(result.stderr.splitlines()) == 1
    assert shell.lines("bots", "list") == []


def test_a_venue_whose_pairs_nobody_knows_is_asked_and_its_silence_explained(shell: Shell) -> None:
    arguments = ("bots", "add", "ann", "b", "--venue", "binance", "--pair", "BTC/USDT")
    shell("users", "add", "ann")

    refused = shell(*arguments, exit_code=1)

    assert "which pairs binance lists is not known" in refused.stderr
    assert "--unlisted-ok" in refused.stderr
    shell(*arguments, "--unlisted-ok")


def test_an_import_adds_then_updates_then_changes_nothing(shell: Shell, tmp_path: Path) -> None:
    file = tmp_path / "fleet.csv"
    text = "user,bot,venue,pairs,capital,min_adx\n"
    text += "ann,a,kraken,BTC/USD;ETH/USD,1000,\nbob,b,kraken,BTC/USD,500,25\n"
    file.write_text(text)

    first = shell.document("bots", "import", str(file))
    second = shell.document("bots", "import", str(file))
    third = json.loads(
        shell("bots", "import", "-", "--json", stdin=text.replace(",500,25", ",600,")).stdout
    )

    counts = ("users_added", "added", "updated", "unchanged")
    assert [first[name] for name in counts] == [2, 2, 0, 0]
    assert [second[name] for name in counts] == [0, 0, 0, 2]
    assert [third[name] for name in counts] == [0, 0, 1, 1]
    (bob,) = shell.lines("bots", "list", "--user", "bob")
    assert (bob["capital"], bob["risk_profile"]) == ("600", {})


@pytest.mark.parametrize(
    "bad", ["bob,b,kraken,BTC/USDD", "bob,b,kranken,BTC/USD", "ann,a,kraken,BTC/USD"]
)
def test_a_file_with_one_bad_line_imports_nothing(shell: Shell, bad: str) -> None:
    text = f"user,bot,venue,pairs\nann,a,kraken,BTC/USD\n{bad}\n"

    result = shell("bots", "import", "-", stdin=text, exit_code=1)

    assert "nothing was imported" in result.stderr
    assert "line 3: " in result.stderr
    assert shell.lines("users", "list") == shell.lines("bots", "list") == []


def test_explain_shows_each_threshold_beside_the_value_it_met(shell: Shell) -> None:
    bot_id = add_bot(shell, "--set", "min_adx=25")
    save_tick(shell, tick())

    (pair,) = shell.document("bots", "explain", str(bot_id))["pairs"]

    assert pair["verdict"] == "adx_below_minimum"
    denial = next(check for check in pair["checks"] if not check["passed"])
    assert denial["name"] == "adx"
    assert (round(denial["value"], 3), denial["threshold"]) == (18.2, 25.0)
    assert denial["threshold_name"] == "min_adx"
    shown = shell("bots", "explain", str(bot_id)).stdout
    assert "denied by stage 1, adx_below_minimum" in shown
    assert "adx at least 25 (adx_below_minimum)" in shown


def test_explain_says_why_nobody_judges_a_bot(shell: Shell) -> None:
    bot_id = add_bot(shell)

    nothing = shell("bots", "explain", str(bot_id)).stdout
    silence = {"pair": "BTC/USD", "reason": "bid is missing", "since_ms": 0}
    report = {"venues": {"kraken": {"state": "ok", "reason": None, "silenced": [silence]}}}
    beat(shell, ProcessKind.PRICE_STREAM, report)
    silenced = shell("bots", "explain", str(bot_id)).stdout

    assert "no trade worker is alive" in nothing
    assert "no price stream is alive" in nothing
    assert "no tick of kraken BTC/USD has been stored yet" in nothing
    assert "BTC/USD is silenced: bid is missing" in silenced


def test_an_inactive_bot_is_explained_as_such(shell: Shell) -> None:
    bot_id = add_bot(shell, "--status", "inactive")
    save_tick(shell, tick())

    assert "the bot is inactive: no worker looks at it" in shell("bots", "explain", "1").stdout
    assert shell.document("bots", "explain", str(bot_id))["pairs"][0]["verdict"] is None


def test_a_trade_is_told_by_history_positions_and_orders_alike(shell: Shell) -> None:
    bot_id = add_bot(shell)
    trade(shell, bot_id, bought="43000", sold="45000")

    (chapter,) = shell.lines("bots", "history", str(bot_id))
    (position,) = shell.lines("positions", "list", "--bot", str(bot_id))
    shown = shell.document("positions", "show", str(position["id"]))
    exit_order, entry_order = shell.lines("orders", "--bot", str(bot_id))

    fills = chapter["fills"]
    flows = {"entry": -1, "exit": 1}
    cash = sum(
        flows[fill["leg"]] * Decimal(fill["quantity"]) * Decimal(fill["price"])
        - Decimal(fill["fee"])
        for fill in fills
    )
    assert Decimal(position["realised_pnl"]) == cash
    assert chapter["orders"] == shown["orders"] == [entry_order, exit_order]
    assert (position["entry_reason"], position["exit_reason"]) == ("entry_signal", "profit_target")
    assert entry_order["facts"]["indicators"]["adx"] == 24.1
    for name in ("observed_at", "received_at", "decided_at", "committed_at"):
        assert datetime.fromisoformat(entry_order[name]).tzinfo is not None
    text = shell("bots", "history", str(bot_id)).stdout
    assert "profit_target (the regime's profit target is reached)" in text
    assert "regime weak, ADX 24.1, 1 h +1.20%" in text
    assert "after 10 min 0 s" in text
    assert "profit_target" in shell("orders", "--leg", "exit").stdout
    assert shell("positions", "list", "--open").stdout == "No such positions.\n"


def test_status_counts_what_is_there(shell: Shell) -> None:
    bot_id = add_bot(shell)
    trade(shell, bot_id, bought="45000", sold="43000")
    save_tick(shell, tick())
    verdicts = {"adx_below_minimum": 3, "a_reason_of_tomorrow": 1}
    beat(shell, ProcessKind.TRADE_WORKER, {"verdicts": verdicts, "latency": {"p50_ms": 12.5}})

    found = shell.document("status")

    assert found["bots"]["active"] == 1
    assert found["orders"]["filled"] == 2
    assert found["results"]["closed"] == {"USD": 1}
    assert found["results"]["won"] == {"USD": 0}
    assert Decimal(found["results"]["realised_pnl"]["USD"]) < -20
    assert found["verdicts"] == {"adx_below_minimum": 3}
    assert found["latency"]["p50_ms"] == 12.5
    assert found["shards"]["held_by_nobody"] == []
    assert found["outbox"]["events"] == 2
    (worker,) = found["workers"]
    assert worker["alive"] is True
    shown = shell("status").stdout
    assert "no price stream has reported" in shown
    assert "3 denied: adx below minimum 3" in shown


def test_doctor_names_what_is_wrong_and_the_cure(shell: Shell) -> None:
    result = shell("doctor", "--json", exit_code=1)

    report = json.loads(result.stdout)
    found = {check["check"]: check for check in report["checks"]}
    assert report["healthy"] is False
    assert found["schema"]["mark"] == "fine"
    assert found["price stream"]["mark"] == "wrong"
    assert found["active pairs"]["found"] == "there are no bots"
    assert "BOTFLEET_KRAKEN_URL" in found["kraken"]["cure"]


def test_doctor_says_that_a_database_is_away(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", "postgresql://someone:secret@127.0.0.1:9/fleet")
    monkeypatch.setenv("BOTFLEET_KRAKEN_URL", NOWHERE)
    monkeypatch.setenv("BOTFLEET_BINANCE_URL", NOWHERE)

    result = CliRunner().invoke(botfleet, ["doctor"], catch_exceptions=False)

    assert result.exit_code == 1
    assert "not connected to postgresql://127.0.0.1:9/fleet" in result.stdout
    assert "secret" not in result.output


def test_a_verb_says_what_to_do_about_an_empty_database(
    empty_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", empty_database_url)

    refused = CliRunner().invoke(botfleet, ["users", "list"])
    migrated = CliRunner().invoke(botfleet, ["migrate"], catch_exceptions=False)
    listed = CliRunner().invoke(botfleet, ["users", "list"])

    assert refused.exit_code == 1
    assert "run botfleet migrate" in refused.stderr
    assert "has schema version" in migrated.stdout
    assert listed.exit_code == 0


def test_all_leaves_the_demos_fleet_alone(tmp_path: Path) -> None:
    """Its positions were opened at simulated prices, in the file that both use by default."""

    def call(*arguments: str, **environment: str) -> "subprocess.CompletedProcess[str]":
        return subprocess.run(
            [sys.executable, "-m", "console", *arguments],
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), **environment},
            capture_output=True,
            text=True,
        )

    file = {"DATABASE_URL": "sqlite:///var/botfleet.db"}
    assert call("migrate", **file).returncode == 0
    assert call("users", "add", "demo-01", **file).returncode == 0

    refused = call("all")

    assert refused.returncode == 1
    assert "holds the demo's bots" in refused.stderr
