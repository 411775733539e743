"""Keys and going live at the command line, on PostgreSQL and against a scripted venue."""

import fcntl
import io
import json
import logging
import os
import re
import select
import subprocess
import sys
import termios
from collections.abc import Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from click.testing import Result
from sqlalchemy import text, update

from shared.limits import UserStatus
from shared.store import credentials, users
from shared.store.credentials import Credential
from shared.store.engine import Store
from shared.store.tables import bots
from shared.telemetry import configure_logging
from shared.vault import new_master_key
from tests.integration.key_server import (
    BINANCE_RESTRICTIONS,
    KRAKEN_INFO,
    KeyServer,
    kraken,
    kraken_error,
    serving_keys,
)
from tests.integration.test_console_verbs import Shell

KEY, SECRET = "canary-key-0123456789", "Y2FuYXJ5IHNlY3JldCBvZiBhbm4gMDEyMw=="
OTHER_KEY, OTHER_SECRET = "another-canary-key-98", "YW5vdGhlciBjYW5hcnkgc2VjcmV0IG9mIGFubg=="
TWO_LINES = f"{KEY}\n{SECRET}\n"
OTHER_LINES = f"{OTHER_KEY}\n{OTHER_SECRET}\n"
CANARIES = (KEY, SECRET, OTHER_KEY, OTHER_SECRET)
ADD = ("keys", "add", "ann", "--venue", "kraken")


class Keys(Shell):
    """A person who has users' keys at hand."""

    def __init__(self, url: str, server: KeyServer, key_file: Path) -> None:
        super().__init__(url)
        self.server = server
        self.key_file = key_file

    def add(self, *more: str, stdin: str = TWO_LINES, exit_code: int = 0) -> Result:
        return self(*ADD, *more, stdin=stdin, exit_code=exit_code)

    def credential(self, user: str = "ann", venue: str = "kraken") -> Credential:
        async def read(store: Store) -> Credential:
            async with store.read() as tx:
                return await credentials.required(tx, user, venue)

        return self.on_store(read)

    def trouble(self, why: str | None) -> None:
        credential_id = self.credential().id

        async def write(store: Store) -> None:
            async with store.begin() as tx:
                await credentials.set_trouble(tx, credential_id, why)

        self.on_store(write)


@pytest.fixture
def shell(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[Keys]:
    """A fleet with the user ann, whose keys both venues take."""
    key_file = tmp_path / "vault.key"
    key_file.write_text(new_master_key())
    key_file.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)
    monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", str(key_file))
    with serving_keys() as server:
        monkeypatch.setenv("BOTFLEET_KRAKEN_URL", server.base_url)
        monkeypatch.setenv("BOTFLEET_BINANCE_URL", server.base_url)
        shell = Keys(migrated_database_url, server, key_file)
        shell("users", "add", "ann")
        yield shell


@pytest.fixture
def logged() -> Iterator[io.StringIO]:
    """All that is logged, as a service would write it."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    written = io.StringIO()
    configure_logging("DEBUG", "text", written)
    yield written
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.fixture
def bot_id(shell: Keys) -> int:
    """A bot of ann's that could go live."""
    added = shell.document(*_BOT)["id"]
    assert isinstance(added, int)
    return added


_BOT = ("bots", "add", "ann", "first", "--venue", "kraken", "--pair", "BTC/USD")


def test_a_key_is_added_and_told_about_without_being_shown(shell: Keys) -> None:
    added = shell.add("--label", "main", "--taker-fee", "0.0026").stdout

    assert "kraken accepts it; it may: close-trades, modify-trades, query-" in added
    assert "free on the account: 0.5 BTC, 2,000 USD" in added
    assert "key 1 (cana…6789) of ann for kraken is added\nIt is not live: `botfleet keys" in added
    listed = shell("keys", "list", "--user", "ann").stdout
    for shown in ("cana…6789", "main", "active", "0.0026"):
        assert shown in listed
    (line,) = shell.lines("keys", "list")
    assert line["facts"]["balances"] == {"BTC": "0.5000000000", "USD": "2000.0000"}
    assert (line["live"], line["trouble"], line["has_secret"]) == (False, None, True)


def test_binance_keys_are_added_too(shell: Keys) -> None:
    shell("keys", "add", "ann", "--venue", "binance", "--live", stdin=TWO_LINES)
    assert shell.credential(venue="binance").live
    assert shell("keys", "list", "--venue", "kraken").stdout.startswith("No keys")


@pytest.mark.parametrize(
    ("stdin", "told"),
    [
        ("", "must be two lines, the API key and then its secret, had 0"),
        (f"{KEY}\n", "had 1"),
        (f"{TWO_LINES}more\n", "had 3"),
        (f"{KEY} {KEY}\n{SECRET}\n", "the API key must be one word"),
        (f"{KEY}\n{SECRET}\N{SNOWMAN}\n", "the API secret must be 1 to 512 printable ASCII"),
        (f"{KEY}\n{SECRET * 100}\n", "the API secret must be 1 to 512 printable ASCII"),
    ],
)
def test_what_is_no_key_is_refused_unseen(shell: Keys, stdin: str, told: str) -> None:
    refused = shell.add(stdin=stdin, exit_code=1)
    assert told in refused.stderr
    assert not any(canary in refused.output for canary in CANARIES)
    assert shell.server.asked == []


def test_on_a_terminal_key_and_secret_are_typed_unseen(shell: Keys) -> None:
    master, slave = os.openpty()

    def take_terminal() -> None:
        os.setsid()
        fcntl.ioctl(slave, termios.TIOCSCTTY, 0)

    command = [sys.executable, "-m", "console", *ADD]
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command,
        stdin=slave,
        stdout=slave,
        stderr=slave,
        preexec_fn=take_terminal,
        env={**os.environ, "PYTHONPATH": str(root)},
    ) as process:
        os.close(slave)
        seen = _until(master, "API key: ")
        os.write(master, f"{KEY}\n".encode())
        seen += _until(master, "API secret: ")
        os.write(master, f"{SECRET}\n".encode())
        seen += _until(master, "key 1 (cana…6789) of ann for kraken is added")
        process.wait(timeout=10)
    os.close(master)
    assert not any(canary in seen for canary in CANARIES)
    assert process.returncode == 0


def _until(terminal: int, awaited: str) -> str:
    """What a terminal shows up to a text; fails after 20 s of silence."""
    shown = b""
    while awaited.encode() not in shown:
        ready, _, _ = select.select([terminal], [], [], 20)
        assert ready, shown.decode()
        shown += os.read(terminal, 65_536)
    return shown.decode()


def test_secrets_are_no_arguments(shell: Keys) -> None:
    for option in ("--key", "--secret", "--allow-withdrawals"):
        assert "No such option" in shell.add(option, "x", exit_code=2).stderr


def test_a_key_that_may_withdraw_is_refused(shell: Keys) -> None:
    permissions = [*KRAKEN_INFO["permissions"], "withdraw-funds"]  # type: ignore[misc]
    shell.server.says |= {
        "/0/private/GetApiKeyInfo": kraken({**KRAKEN_INFO, "permissions": permissions}),
        "/sapi/v1/account/apiRestrictions": {**BINANCE_RESTRICTIONS, "enableWithdrawals": True},
    }
    assert "it may move funds out" in shell.add(exit_code=1).stderr
    arguments = ("keys", "add", "ann", "--venue", "binance")
    assert "it may withdraw" in shell(*arguments, stdin=TWO_LINES, exit_code=1).stderr
    assert shell.lines("keys", "list", "--retired") == []


@pytest.mark.parametrize(
    ("said", "told"),
    [
        (kraken_error("EAPI:Invalid key"), "kraken does not accept this key: the venue refuses"),
        (kraken({"permissions": ["query-funds"]}), "it lacks: Query open orders & trades, "),
        ((502, "<html>"), "kraken answered HTTP 502"),
    ],
)
def test_a_key_that_does_not_pass_leaves_nothing(shell: Keys, said: Any, told: str) -> None:
    shell.server.says["/0/private/GetApiKeyInfo"] = said
    refused = shell.add(exit_code=1)
    assert told in refused.stderr
    assert not any(canary in refused.output for canary in CANARIES)
    assert shell.lines("keys", "list", "--retired") == []


def test_wrong_use_is_told_before_anybody_types_a_secret(
    shell: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    unknown = shell("keys", "add", "bob", "--venue", "kraken", stdin=TWO_LINES, exit_code=1)
    assert "there is no user named 'bob': botfleet users add bob" in unknown.stderr
    assert "fraction from 0 to 0.05" in shell.add("--taker-fee", "0.26", exit_code=1).stderr
    shell.add()
    assert "botfleet keys rotate ann" in shell.add(exit_code=1).stderr
    asked = len(shell.server.asked)
    monkeypatch.delenv("BOTFLEET_VAULT_KEY_FILE")
    assert "python -m shared.vault > vault.key" in shell.add(exit_code=2).stderr
    assert len(shell.server.asked) == asked


def test_keys_and_live_bots_are_refused_on_sqlite(
    shell: Keys, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DATABASE_URL", "sqlite:///trial.db")
    shell("migrate")
    shell("users", "add", "ann")
    assert "need PostgreSQL" in shell.add(exit_code=2).stderr
    bot = shell.document(*_BOT, "--unlisted-ok")["id"]
    refused = shell("bots", "set", str(bot), "--mode", "live", exit_code=2)
    assert "need PostgreSQL" in refused.stderr


def test_a_keys_fee_and_liveness_change(shell: Keys) -> None:
    shell.add()
    changed = shell("keys", "set", "ann", "--venue", "kraken", "--live", "--taker-fee", "0.002")
    assert "is changed, live: bots of mode live trade with it" in changed.stdout
    assert shell.credential().taker_fee == Decimal("0.002")
    shell("keys", "set", "ann", "--venue", "kraken", "--no-live", "--taker-fee", "default")
    left = shell.credential()
    assert (left.live, left.taker_fee) == (False, None)
    shell("keys", "set", "ann", "--venue", "kraken", exit_code=2)
    missing = shell("keys", "set", "ann", "--venue", "binance", "--live", exit_code=1)
    assert "ann has no key for binance: `botfleet keys add ann --venue binance`" in missing.stderr


def test_a_key_is_rotated_to_another_one_of_the_same_account(shell: Keys) -> None:
    shell.add("--live", "--label", "main")
    shell.trouble("revoked")
    rotated = shell("keys", "rotate", "ann", "--venue", "kraken", stdin=OTHER_LINES).stdout
    assert "key 2 (anot…y-98) of ann for kraken replaces cana…6789; " in rotated
    assert "Now delete cana…6789 at kraken." in rotated
    left = shell.credential()
    assert (left.live, left.label, left.version, left.trouble) == (True, "main", 2, None)
    first, second = shell.lines("keys", "list", "--retired")
    assert (first["status"], first["has_secret"]) == ("retired", False)
    assert (second["status"], second["has_secret"]) == ("active", True)


def test_a_key_of_another_account_does_not_replace_one(shell: Keys) -> None:
    shell.add()
    info = {**KRAKEN_INFO, "iban": "AA00 0000 0000 0000"}
    shell.server.says["/0/private/GetApiKeyInfo"] = kraken(info)
    arguments = ("keys", "rotate", "ann", "--venue", "kraken")
    refused = shell(*arguments, stdin=OTHER_LINES, exit_code=1)
    assert "belongs to another account of kraken" in refused.stderr
    assert shell.credential().version == 1


def test_every_key_moves_under_a_new_master_key(shell: Keys) -> None:
    shell.add()
    shell("keys", "add", "ann", "--venue", "binance", stdin=OTHER_LINES)
    old, new = shell.key_file.read_text(), new_master_key()
    shell.key_file.write_text(f"{new}\n{old}\n")
    moved = shell.document("keys", "rotate", "--master")
    assert (moved["rewrapped"], moved["failed"]) == (2, {})
    assert moved["master_key_id"] == new.partition(":")[0]
    shell.key_file.write_text(new)
    assert "0 keys moved" in shell("keys", "rotate", "--master").stdout
    shell.key_file.write_text(new_master_key())
    lost = shell("keys", "rotate", "--master", exit_code=1)
    assert "2 keys could not be moved: credential 1 is sealed with the master key" in lost.stderr


@pytest.mark.parametrize(
    "arguments",
    [(), ("ann",), ("--venue", "kraken"), ("ann", "--venue", "kraken", "--master")],
)
def test_rotate_wants_one_key_or_all(shell: Keys, arguments: tuple[str, ...]) -> None:
    shell("keys", "rotate", *arguments, exit_code=2)


def test_after_the_loss_of_a_master_key_users_keys_are_typed_anew(shell: Keys) -> None:
    shell.add("--live")
    shell.key_file.write_text(new_master_key())
    shell("keys", "rotate", "ann", "--venue", "kraken", stdin=TWO_LINES)
    assert "0 keys moved" in shell("keys", "rotate", "--master").stdout
    assert shell.credential().live


def test_doctor_looks_at_the_vault_and_at_keys_in_trouble(shell: Keys) -> None:
    def findings() -> dict[str, str]:
        checks = json.loads(shell("doctor", "--json", exit_code=1).stdout)["checks"]
        return {check["check"]: check["found"] for check in checks}

    shell.add()
    assert findings()["vault"] == "opens all 1 keys"
    shell.trouble("revoked")
    assert "ann on kraken: revoked" in findings()["keys"]
    shell.key_file.write_text("nonsense")
    assert "line 1: a line must be `id:key`" in findings()["vault"]


def test_a_removed_key_is_gone(shell: Keys) -> None:
    shell.add()
    removed = shell("keys", "remove", "ann", "--venue", "kraken").stdout
    assert "is removed, its secret deleted" in removed
    assert shell.lines("keys", "list") == []
    (line,) = shell.lines("keys", "list", "--retired")
    assert (line["status"], line["has_secret"]) == ("retired", False)
    shell("keys", "remove", "ann", "--venue", "kraken", exit_code=1)
    shell.add()


def test_a_bot_goes_live_when_everything_is_right(shell: Keys, bot_id: int) -> None:
    shell.add("--live")
    dry = shell("bots", "set", str(bot_id), "--mode", "live", "--dry-run").stdout
    assert len(re.findall(r"^ok  ", dry, re.MULTILINE)) == 7
    assert "NO" not in dry
    assert "balance USD     2,000 USD free, an entry takes 800" in dry
    assert shell.document("bots", "show", str(bot_id))["mode"] == "paper"
    assert shell.document("bots", "set", str(bot_id), "--mode", "live")["mode"] == "live"
    already = shell("bots", "set", str(bot_id), "--mode", "live", exit_code=1)
    assert "is live already" in already.stderr
    assert shell.document("bots", "set", str(bot_id), "--mode", "paper")["mode"] == "paper"


def test_without_a_key_nothing_goes_live(shell: Keys, bot_id: int) -> None:
    refused = shell("bots", "set", str(bot_id), "--mode", "live", exit_code=1)
    assert "stays on paper:\n  key: ann has no key for kraken: botfleet keys" in refused.stderr


def test_all_that_is_wrong_is_told_at_once(shell: Keys, bot_id: int) -> None:
    shell.add()
    shell.trouble("the venue refuses the key")
    shell.server.says["/0/private/GetApiKeyInfo"] = kraken({"permissions": ["query-funds"]})
    shell("kill-switch", "on", "fleet")
    shell("users", "set", "ann", "--max-notional", "100")
    shell("users", "disable", "ann")
    wanted = ("bots", "set", str(bot_id), "--mode", "live", "--capital", "9000")
    wrong = shell(*wanted, "--dry-run", exit_code=1)
    for told in (
        "key: not live: botfleet keys set ann --venue kraken --live",
        "trouble: the venue refuses the key",
        "permissions: it lacks: Query open orders & trades",
        "balance USD: 2,000 USD free, an entry takes 7,200",
        "user: ann is disabled: botfleet users enable ann; all positions may cost 100",
        "kill switches: on: entries",
    ):
        assert told in wrong.stderr
    document = json.loads(shell(*wanted, "--dry-run", "--json", exit_code=1).stdout)
    assert {check["name"] for check in document["checks"] if not check["ok"]} == {
        *("key", "trouble", "permissions", "balance USD", "user", "kill switches")
    }
    shown = shell.document("bots", "show", str(bot_id))
    assert (shown["mode"], shown["capital"]) == ("paper", "1000")


@pytest.mark.parametrize(
    ("capital", "told"),
    [("2", "capital × stake is too small to be sold again"), ("5", "too small in some regimes")],
)
def test_capital_is_held_against_the_markets_minimum(
    shell: Keys, bot_id: int, capital: str, told: str
) -> None:
    shell.add("--live")
    wanted = ("bots", "set", str(bot_id), "--mode", "live", "--dry-run", "--capital", capital)
    assert told in shell(*wanted, exit_code=1 if "sold" in told else 0).stdout


def test_a_market_without_price_is_not_ready(shell: Keys, bot_id: int) -> None:
    shell.add("--live")
    shell.server.says["/0/public/Ticker"] = kraken({})
    wrong = shell("bots", "set", str(bot_id), "--mode", "live", exit_code=1)
    assert "0.00005 BTC, but the venue tells no price" in wrong.stderr


def test_a_market_that_is_not_traded_is_not_ready(shell: Keys) -> None:
    shell.add("--live")
    unknown = ("bots", "add", "ann", "first", "--venue", "kraken", "--pair", "NO/USD")
    bot = shell.document(*unknown, "--unlisted-ok")["id"]
    wrong = shell("bots", "set", str(bot), "--mode", "live", exit_code=1)
    assert "market NO/USD: the venue does not trade it at present" in wrong.stderr


def test_a_venue_that_is_away_leaves_the_bot_on_paper(shell: Keys, bot_id: int) -> None:
    shell.add("--live")
    shell.server.says = {}
    wrong = shell("bots", "set", str(bot_id), "--mode", "live", exit_code=1)
    assert "permissions: not known: kraken answered HTTP 404" in wrong.stderr
    assert "market BTC/USD: not known: kraken does not say" in wrong.stderr


def test_add_and_import_leave_bots_on_paper(shell: Keys, bot_id: int) -> None:
    arguments = ("bots", "add", "ann", "second", "--venue", "kraken", "--pair", "BTC/USD")
    assert "bots set ID --mode live" in shell(*arguments, "--mode", "live", exit_code=1).stderr
    lines = "user,bot,venue,pairs,mode,capital\nann,{},kraken,BTC/USD,live,77\n"
    for name in ("first", "second"):
        refused = shell("bots", "import", "-", stdin=lines.format(name), exit_code=1)
        assert "line 2: mode must be paper, was 'live', which this bot is not" in refused.stderr

    async def take_live(store: Store) -> None:
        async with store.begin() as tx:
            await tx.execute(update(bots).where(bots.c.id == bot_id).values(mode="live"))

    shell.on_store(take_live)
    shell("bots", "import", "-", stdin=lines.format("first"))
    shown = shell.document("bots", "show", str(bot_id))
    assert (shown["mode"], shown["capital"]) == ("live", "77")


def test_a_secret_is_nowhere(shell: Keys, bot_id: int, logged: io.StringIO) -> None:
    """Through success and failure: not in output, logs, or anything that the database holds."""
    outputs = [shell.add("--live").output, shell("keys", "list", "--json").output]
    outputs.append(shell("keys", "rotate", "ann", "--venue", "kraken", stdin=OTHER_LINES).output)
    outputs.append(shell("bots", "set", str(bot_id), "--mode", "live").output)
    for said in (kraken_error(f"EAPI:Invalid key:{OTHER_KEY}"), (500, SECRET), (200, OTHER_SECRET)):
        shell.server.says["/0/private/GetApiKeyInfo"] = said
        arguments = ("keys", "rotate", "ann", "--venue", "kraken")
        outputs.append(shell(*arguments, stdin=TWO_LINES, exit_code=1).output)

    async def dump(store: Store) -> None:
        async with store.begin() as tx:
            names = await tx.scalars(
                text("SELECT tablename FROM pg_tables WHERE schemaname = current_schema()")
            )
            for name in names.all():
                rows = await tx.execute(text(f'SELECT t::text FROM "{name}" t'))
                outputs.extend(rows.scalars())
            kept = (await credentials.page(tx, limit=10), await users.by_name(tx, "ann"))
        outputs.append(repr(kept))
        assert kept[1] is not None
        assert kept[1].status is UserStatus.ACTIVE

    shell.on_store(dump)
    everything = "\n".join([*outputs, logged.getvalue()])
    assert "cana…6789" in everything
    for canary in CANARIES:
        assert canary not in everything
        assert canary.encode().hex() not in everything
