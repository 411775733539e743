"""From no key to a live bot against the simulated venues, as a person would do it."""

import asyncio
from pathlib import Path

import pytest
from click.testing import CliRunner

from console.__main__ import botfleet
from ecosystem.venue_simulator import VenueSimulator
from shared.vault import new_master_key
from tests.integration.simulated_venue import Customer, open_account, request, running

QUOTES = {"kraken": "USD", "binance": "USDT"}


@pytest.fixture(params=QUOTES)
def venue(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def _environment(
    migrated_database_url: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    key_file = tmp_path / "vault.key"
    key_file.write_text(new_master_key())
    key_file.chmod(0o600)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DATABASE_URL", migrated_database_url)
    monkeypatch.setenv("BOTFLEET_VAULT_KEY_FILE", str(key_file))


@pytest.fixture
def types(_environment: None, monkeypatch: pytest.MonkeyPatch) -> "Typing":
    return Typing(monkeypatch)


class Typing:
    """Somebody at the command line, whose venues are one simulator's."""

    def __init__(self, environment: pytest.MonkeyPatch) -> None:
        self._environment = environment

    def points_at(self, simulator: VenueSimulator) -> None:
        for name in ("BOTFLEET_KRAKEN_URL", "BOTFLEET_BINANCE_URL"):
            self._environment.setenv(name, simulator.base_url)

    async def __call__(self, *arguments: str, key: Customer | None = None, code: int = 0) -> str:
        lines = None if key is None else f"{key.key}\n{key.secret}\n"
        done = await asyncio.to_thread(
            CliRunner().invoke, botfleet, arguments, input=lines, catch_exceptions=False
        )
        assert done.exit_code == code, done.output
        if key is not None:
            assert key.secret not in done.output
            assert key.key not in done.output
        return done.output


async def test_a_key_is_added_rotated_and_takes_a_bot_live(types: Typing, venue: str) -> None:
    quote = QUOTES[venue]
    async with running() as simulator:
        types.points_at(simulator)
        mine = await open_account(simulator, venue, {quote: "1500"}, name="ann's")
        second = await another_key(simulator, venue, "ann's")
        others = await open_account(simulator, venue, {quote: "7"}, name="bob's")
        await types("users", "add", "ann")

        added = await types("keys", "add", "ann", "--venue", venue, "--live", key=mine)
        assert f"free on the account: 1,500 {quote}" in added
        elsewhere = await types("keys", "rotate", "ann", "--venue", venue, key=others, code=1)
        assert f"belongs to another account of {venue}" in elsewhere
        await types("keys", "rotate", "ann", "--venue", venue, key=second)

        bot = ("bots", "add", "ann", "first", "--venue", venue, "--pair", f"BTC/{quote}")
        await types(*bot)
        live = await types("bots", "set", "1", "--mode", "live")
        assert "bot 1 first of ann trades for real now" in live


@pytest.mark.parametrize(
    ("permissions", "told"),
    [
        ({"withdraw": True}, "withdraw"),
        ({"trade": False}, "cannot be used on"),
        ({"query": False}, "may not read|it lacks|does not accept"),
    ],
    ids=["withdraws", "cannot trade", "cannot query"],
)
async def test_a_key_with_the_wrong_rights_is_refused(
    types: Typing, venue: str, permissions: dict[str, bool], told: str
) -> None:
    async with running() as simulator:
        types.points_at(simulator)
        key = await open_account(simulator, venue, {}, permissions=permissions)
        await types("users", "add", "ann")
        refused = await types("keys", "add", "ann", "--venue", venue, key=key, code=1)
        assert any(part in refused for part in told.split("|")), refused
        assert "No keys" in await types("keys", "list", "--retired")


async def test_a_wrong_secret_is_refused(types: Typing, venue: str) -> None:
    async with running() as simulator:
        types.points_at(simulator)
        right = await open_account(simulator, venue, {})
        await types("users", "add", "ann")
        wrong = Customer(venue=venue, key=right.key, secret="d3Jvbmcgc2VjcmV0IG9mIGEgdGVzdA==")
        refused = await types("keys", "add", "ann", "--venue", venue, key=wrong, code=1)
        assert f"{venue} does not accept this key" in refused


async def another_key(simulator: VenueSimulator, venue: str, account: str) -> Customer:
    """One more key to an account that is there."""
    url = f"{simulator.base_url}/simulator/accounts"
    status, body = await request("POST", url, json={"venue": venue, "name": account})
    assert status == 201, body
    return Customer(venue=venue, key=body["key"], secret=body["secret"])
