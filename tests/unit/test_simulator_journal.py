"""The simulated venues' journal: on disk before an answer, read by judges, taken up at a start."""

import asyncio
import json
import os
import stat
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from ecosystem.venue_simulator.accounts import ApiKey
from ecosystem.venue_simulator.journal import (
    Entry,
    Journal,
    JournalBroken,
    read_journal,
    redacted,
)
from ecosystem.venue_simulator.orders import OrderRefused, VenueOrderStatus
from shared.errors import Refused
from tests.unit.venue_desk import START_MS, VenueDesk

D = Decimal


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "venue.jsonl"


def entries(path: Path, type_: str) -> list[Entry]:
    return [entry for entry in read_journal(path) if entry["type"] == type_]


def content(path: Path) -> str:
    return path.read_text()


def rights(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def remove(path: Path) -> None:
    path.unlink()


async def again(desk: VenueDesk, path: Path) -> VenueDesk:
    """The simulator after a restart."""
    await desk.journal.close()
    return VenueDesk.on(path, wall_ms=desk.wall_ms)


def same_key(desk: VenueDesk, key: ApiKey) -> ApiKey:
    found = desk.customers.accounts.named(key.account.venue, key.key)
    assert found is not None
    return found


async def test_line_is_synced_when_on_disk_returns(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    synced: list[str] = []
    real_fsync = os.fsync

    def fsync(file: int) -> None:
        real_fsync(file)
        synced.append(content(path))

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(path, clock=lambda: 7)
    journal.open()
    journal.write("request", venue="kraken", endpoint="balance")
    assert content(path) == ""
    await journal.on_disk()
    line = {"type": "request", "wall_ms": 7, "venue": "kraken", "endpoint": "balance"}
    assert [json.loads(line) for line in synced] == [line]
    await journal.on_disk()
    assert len(synced) == 1, "there was nothing to write"
    await journal.close()


async def test_many_who_wait_share_their_syncs(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    syncs = 0
    real_fsync = os.fsync

    def fsync(file: int) -> None:
        nonlocal syncs
        syncs += 1
        real_fsync(file)

    monkeypatch.setattr(os, "fsync", fsync)
    journal = Journal(path)
    journal.open()

    async def request(number: int) -> None:
        journal.write("request", venue="kraken", number=number)
        await journal.on_disk()
        assert f'"number": {number}' in content(path)

    await asyncio.gather(*(request(number) for number in range(50)))
    await journal.close()
    assert [entry["number"] for entry in read_journal(path)] == list(range(50))
    assert syncs <= 3


async def test_cancelled_waiter_does_not_lose_the_line(path: Path) -> None:
    journal = Journal(path)
    journal.open()
    journal.write("request", venue="kraken")
    waiter = asyncio.create_task(journal.on_disk())
    await asyncio.sleep(0)
    waiter.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiter
    await journal.on_disk()
    assert len(list(read_journal(path))) == 1
    await journal.close()


async def test_journal_that_cannot_be_written_stays_broken(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    journal = Journal(path)
    journal.open()

    def full(_: int) -> None:
        raise OSError("no space left")

    with monkeypatch.context() as disk:
        disk.setattr(os, "fsync", full)
        journal.write("request", venue="kraken")
        with pytest.raises(JournalBroken, match="no space left"):
            await journal.on_disk()
    journal.write("request", venue="kraken")
    with pytest.raises(JournalBroken):
        await journal.on_disk()
    with pytest.raises(JournalBroken):
        await journal.close()


@pytest.fixture
def torn(path: Path) -> Path:
    path.write_bytes(b'{"type": "opened"}\n{"type": "requ')
    return path


async def test_torn_last_line_is_dropped(torn: Path) -> None:
    path = torn
    assert [entry["type"] for entry in read_journal(path)] == ["opened"]
    journal = Journal(path)
    assert len(journal.open()) == 1
    journal.write("request", venue="kraken")
    await journal.close()
    assert [entry["type"] for entry in read_journal(path)] == ["opened", "request"]


def test_file_that_is_no_journal_is_left_alone(path: Path) -> None:
    for text in ("[1, 2]", "a note\nfor me\n"):
        path.write_text(text)
        with pytest.raises(JournalBroken):
            Journal(path).open()
        assert content(path) == text


def test_broken_line_in_the_middle_is_told(path: Path) -> None:
    path.write_bytes(b'{"type":"opened"}\nnonsense\n{"type":"opened"}\n')
    with pytest.raises(JournalBroken, match="line 2"):
        list(read_journal(path))


def test_signatures_are_left_out_of_requests() -> None:
    fields = {"symbol": "BTCUSDT", "Signature": "abc", "secret": "def"}
    assert redacted(fields) == {"symbol": "BTCUSDT"}


async def test_lines_tell_an_orders_whole_story(path: Path) -> None:
    desk = VenueDesk.on(path)
    key = await desk.customer("kraken", balances={"USD": "10000"})
    partial = {"kind": "partial", "parts": 2, "fraction": 0.5}
    id_, until = "a" * 32, START_MS + 3_000
    order = desk.placed(key, partial, price="61000.0", client_order_id=id_, expires_at_ms=until)
    with pytest.raises(OrderRefused):
        desk.place(key, quantity="1", client_order_id="b" * 32)
    with pytest.raises(OrderRefused):
        desk.tradings["kraken"].cancel(key, order_id=order.order_id)
    await desk.journal.close()

    (accepted,) = entries(path, "accepted")
    assert accepted == {
        "type": "accepted",
        "wall_ms": START_MS,
        "venue": "kraken",
        "account": key.account.name,
        "key": key.key,
        "order_id": order.order_id,
        "client_order_id": id_,
        "userref": None,
        "pair": "BTC/USD",
        "side": "buy",
        "order_type": "limit",
        "time_in_force": "ioc",
        "quantity": "0.01",
        "price": "61000.0",
        "accepted_at_ms": START_MS,
        "expires_at_ms": until,
    }
    first, second = entries(path, "filled")
    assert (first["trade_id"], second["trade_id"]) == tuple(
        trade.trade_id for trade in order.trades
    )
    assert first == first | {
        "order_id": order.order_id,
        "client_order_id": id_,
        "side": "buy",
        "quantity": "0.0025",
        "price": "60030.0",
        "fee": "0.60030000",
        "fee_currency": "USD",
        "is_maker": False,
        "traded_at_ms": START_MS,
    }
    (ended,) = entries(path, "ended")
    assert (ended["order_id"], ended["status"], ended["by"]) == (
        order.order_id,
        "cancelled",
        "venue",
    )
    place, cancel = entries(path, "refused")
    assert (place["action"], place["kind"], place["client_order_id"]) == (
        "place",
        "insufficient_funds",
        "b" * 32,
    )
    assert (cancel["action"], cancel["kind"]) == ("cancel", "unknown_order")


async def test_acceptance_is_dated_when_its_time_was_judged(path: Path) -> None:
    # A judge must not find it accepted after its time because the journal came a little later.
    journal = Journal(path, clock=lambda: START_MS + 5)
    journal.open()
    desk = VenueDesk(journal=journal)
    key = await desk.customer("kraken", balances={"USD": "10000"})
    desk.placed(key, expires_at_ms=START_MS)
    await journal.close()
    (accepted,) = entries(path, "accepted")
    assert accepted["wall_ms"] == START_MS


async def test_late_order_shows_when_it_was_accepted(path: Path) -> None:
    desk = VenueDesk.on(path)
    key = await desk.customer("kraken", balances={"USD": "10000"})
    late = {"kind": "late", "delay_secs": 2}
    desk.place(key, late, client_order_id="a" * 32)
    desk.place(key, late, client_order_id="b" * 32, expires_at_ms=START_MS + 1_000)
    desk.wall_ms += 2_000
    desk.tradings["kraken"].advance()
    await desk.journal.close()
    (accepted,) = entries(path, "accepted")
    assert (accepted["client_order_id"], accepted["wall_ms"]) == ("a" * 32, START_MS + 2_000)
    (refused,) = entries(path, "refused")
    assert (refused["client_order_id"], refused["kind"]) == ("b" * 32, "deadline")


@pytest.mark.parametrize("venue", ["kraken", "binance"])
async def test_restart_goes_on_where_it_was(path: Path, venue: str) -> None:
    quote = "USD" if venue == "kraken" else "USDT"
    desk = VenueDesk.on(path)
    key = await desk.customer(
        venue, balances={quote: "10000"}, permissions={"query": True, "withdraw": True}
    )
    order: dict[str, Any] = {"pair": f"BTC/{quote}"}
    filled = desk.placed(key, {"kind": "partial", "parts": 3}, **order)
    resting = desk.placed(
        key, price="50000", ioc=False, client_order_id="a" * 32, userref=7, **order
    )
    gone = desk.placed(key, price="50000", **order)
    before = key.account.balances

    restarted = await again(desk, path)
    found = same_key(restarted, key)
    assert (found.secret, found.permissions) == (key.secret, key.permissions)
    assert found.account.terms == key.account.terms
    assert {name: (each.free, each.held) for name, each in found.account.balances.items()} == {
        name: (each.free, each.held) for name, each in before.items()
    }
    trading = restarted.tradings[venue]
    assert trading.orders(found.account) == [filled, resting, gone]
    assert trading.trades(found.account) == filled.trades
    # Ids go on, and so does the resting order.
    restarted.price(venue, f"BTC/{quote}", 49_000.0)
    trading.advance()
    (_, now_filled, _) = trading.orders(found.account)
    assert now_filled.status is VenueOrderStatus.FILLED
    ids = [trade.trade_id for trade in trading.trades(found.account)]
    assert len(set(ids)) == 4
    again_placed = restarted.placed(found, **order)
    assert again_placed.order_id not in {filled.order_id, resting.order_id, gone.order_id}
    twice = await again(restarted, path)
    assert same_key(twice, key).account.balances == found.account.balances
    await twice.journal.close()


async def test_restart_ends_what_was_filling(path: Path) -> None:
    desk = VenueDesk.on(path)
    key = await desk.customer("kraken", balances={"USD": "10000"})
    partial = {"kind": "partial", "parts": 2, "delay_secs": 600}
    desk.placed(key, partial)
    restarted = await again(desk, path)
    account = same_key(restarted, key).account
    (order,) = restarted.tradings["kraken"].orders(account)
    assert (order.status, order.filled) == (VenueOrderStatus.CANCELLED, D("0.005"))
    assert account.balance("USD").held == 0
    await restarted.journal.close()


async def test_second_key_leads_to_the_same_account_and_revoked_stays_revoked(
    path: Path,
) -> None:
    desk = VenueDesk.on(path)
    first = await desk.customer("binance", name="ada", balances={"USDT": "10000"})
    second = await desk.customer("binance", name="ada")
    assert first.account is second.account
    await desk.customers.revoke(first.key)
    restarted = await again(desk, path)
    first, second = same_key(restarted, first), same_key(restarted, second)
    assert (first.revoked, second.revoked) == (True, False)
    assert first.account is second.account
    with pytest.raises(Refused, match="there already"):
        await restarted.customer("binance", name="ada", balances={"USDT": "1"})
    with pytest.raises(Refused, match="no API key"):
        await restarted.customers.revoke("nobody")
    await restarted.journal.close()


async def test_secrets_are_in_a_file_of_their_own(path: Path) -> None:
    desk = VenueDesk.on(path)
    keys = [await desk.customer(venue) for venue in ("kraken", "binance")]
    await desk.journal.close()
    assert rights(Path(f"{path}.keys")) == 0o600
    for key in keys:
        assert key.secret not in content(path)
        assert key.secret not in repr(key)
        assert key.secret not in json.dumps(desk.customers.accounts.told())
    remove(Path(f"{path}.keys"))
    with pytest.raises(JournalBroken, match=r"\.keys does not"):
        VenueDesk.on(path)


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"venue": "mtgox"}, "venue must be one of kraken, binance, was 'mtgox'"),
        ({"balance": {}}, "balance is not a field of an account"),
        ({"balances": {"USD": "much"}}, "the balance of USD must be a number, was 'much'"),
        ({"balances": {"USD": -1}}, "the balance of USD must be a number of at least 0"),
        ({"balances": [1]}, "balances must be amounts by currency"),
        ({"permissions": {"trade": 1}}, "permissions must say true or false of query, trade"),
        ({"taker_fee": "1"}, "taker_fee must be a fraction below 1, was 1"),
        ({"fee_in_coin": "yes"}, "fee_in_coin must be true or false, was 'yes'"),
        ({"secret": "not base 64!"}, "a Kraken secret must be base 64"),
        ({"key": 7}, "key must be a text"),
    ],
)
async def test_bad_customer_is_refused_with_its_field(
    fields: dict[str, Any], complaint: str
) -> None:
    desk = VenueDesk()
    with pytest.raises(Refused, match=complaint) as refused:
        await desk.customer(**{"venue": "kraken", **fields})
    assert "not base 64!" not in str(refused.value)
    assert not list(desk.customers.accounts.all())
