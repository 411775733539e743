"""The simulated venues' customers over HTTP, and what a restart remembers of them."""

import asyncio
import json
from pathlib import Path
from typing import Any, Final

import pytest

from ecosystem.venue_simulator.journal import read_journal
from shared.ccxt_classes import ccxt_errors
from shared.errors import InvalidSettings
from tests.integration.simulated_venue import (
    Customer,
    break_it,
    open_account,
    request,
    running,
    trader,
)

PAIRS: Final = {"kraken": "BTC/USD", "binance": "BTC/USDT"}
CASH: Final = {"kraken": {"USD": "10000"}, "binance": {"USDT": "10000"}}
VENUES: Final = list(PAIRS)


def written(path: Path, content: object) -> Path:
    path.write_text(json.dumps(content))
    return path


def kinds(journal: Path) -> list[str]:
    return [entry["type"] for entry in read_journal(journal)]


async def holdings(client: Any) -> dict[str, float]:
    total = (await client.fetch_balance())["total"]
    return {currency: amount for currency, amount in total.items() if amount}


@pytest.mark.parametrize("venue", VENUES)
async def test_restart_with_the_journal_remembers_everything(venue: str, tmp_path: Path) -> None:
    journal, pair = tmp_path / "venue.jsonl", PAIRS[venue]
    async with running(journal=journal) as simulator:
        customer = await open_account(simulator, venue, CASH[venue])
        async with trader(simulator, customer) as client:
            await client.create_order(pair, "market", "buy", 0.01)
            before = await client.fetch_my_trades(pair), await holdings(client)
    async with running(journal=journal) as simulator, trader(simulator, customer) as client:
        assert (await client.fetch_my_trades(pair), await holdings(client)) == before
        await client.create_order(pair, "market", "buy", 0.01)
        assert len(await client.fetch_my_trades(pair)) == 2
    assert kinds(journal).count("opened") == 2
    assert kinds(journal).count("filled") == 2


@pytest.mark.parametrize("venue", VENUES)
async def test_file_of_accounts_and_faults_counts_from_the_start(
    venue: str, tmp_path: Path
) -> None:
    secret = "QUFBQUFBQUFBQUFBQUFBQQ=="
    fields = {"venue": venue, "key": "the-key", "secret": secret, "balances": CASH[venue]}
    options = {
        "accounts": written(tmp_path / "accounts.json", [fields]),
        "faults": written(
            tmp_path / "faults.json",
            [{"venue": venue, "kind": "accept_then_drop", "endpoint": "add_order", "times": 1}],
        ),
        "journal": tmp_path / "venue.jsonl",
    }
    customer, pair = Customer(venue=venue, key="the-key", secret=secret), PAIRS[venue]
    for bought in (0.01, 0.02):
        # The second time the journal has the customer already.
        async with running(**options) as simulator, trader(simulator, customer) as client:
            with pytest.raises(ccxt_errors().NetworkError):
                await client.create_order(pair, "market", "buy", 0.01)
            trades = await client.fetch_my_trades(pair)
            assert sum(trade["amount"] for trade in trades) == pytest.approx(bought)
    assert kinds(options["journal"]).count("account") == 1


async def test_accounts_are_listed_without_secrets_and_keys_revoked(tmp_path: Path) -> None:
    async with running(journal=tmp_path / "venue.jsonl") as simulator:
        customer = await open_account(simulator, "kraken", CASH["kraken"], name="ada")
        url = f"{simulator.base_url}/simulator/accounts"
        status, accounts = await request("GET", url)
        assert (status, len(accounts)) == (200, 1)
        assert accounts[0]["name"] == "ada"
        assert accounts[0]["balances"] == {"USD": {"free": "10000", "held": "0"}}
        assert [key["key"] for key in accounts[0]["keys"]] == [customer.key]
        assert customer.secret not in json.dumps(accounts)

        async with trader(simulator, customer) as client:
            assert await holdings(client) == {"USD": 10_000}
            assert (await request("DELETE", url, params={"key": customer.key}))[0] == 200
            with pytest.raises(ccxt_errors().AuthenticationError):
                await client.fetch_balance()
        status, body = await request("DELETE", url, params={"key": "nobody"})
        assert (status, body["error"][:24]) == (400, "there is no API key nobo")
        status, body = await request("POST", url, data=b"[]")
        assert (status, body["error"]) == (400, "/simulator/accounts takes a JSON object")


@pytest.mark.parametrize("venue", VENUES)
async def test_late_order_arrives_by_itself(venue: str, tmp_path: Path) -> None:
    journal, pair = tmp_path / "venue.jsonl", PAIRS[venue]
    async with running(journal=journal) as simulator:
        customer = await open_account(simulator, venue, CASH[venue])
        async with trader(simulator, customer) as client:
            await break_it(simulator, venue=venue, kind="late", delay_secs=0.3, times=1)
            with pytest.raises(ccxt_errors().NetworkError):
                await client.create_order(pair, "market", "buy", 0.01)
            assert "accepted" not in kinds(journal)
            for _ in range(100):
                if "filled" in kinds(journal):
                    break
                await asyncio.sleep(0.1)
            assert len(await client.fetch_my_trades(pair)) == 1


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("accounts", {"venue": "kraken"}),
        ("accounts", [{"venue": "mtgox"}]),
        ("faults", [{"venue": "kraken", "kind": "explode"}]),
    ],
)
async def test_bad_file_is_refused_at_the_start(name: str, content: object, tmp_path: Path) -> None:
    path = written(tmp_path / "bad.json", content)
    with pytest.raises(InvalidSettings):
        async with running(**{name: path}):
            pass
