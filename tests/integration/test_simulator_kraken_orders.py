"""Unmodified ccxt trades at the simulated Kraken."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any, Final
from uuid import uuid4

import aiohttp
import pytest

from ecosystem.venue_simulator import VenueSimulator
from ecosystem.venue_simulator.journal import read_journal
from shared.ccxt_classes import ccxt_errors
from tests.integration.simulated_venue import (
    Customer,
    break_it,
    open_account,
    request,
    running,
    trader,
)

PAIR: Final = "BTC/USD"
errors: Final = ccxt_errors()


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[VenueSimulator]:
    async with running(journal=tmp_path / "journal.jsonl") as simulator:
        yield simulator


@pytest.fixture
async def customer(simulator: VenueSimulator) -> Customer:
    return await open_account(simulator, "kraken", {"USD": "10000", "BTC": "1"})


@pytest.fixture
async def kraken(simulator: VenueSimulator, customer: Customer) -> AsyncIterator[Any]:
    async with trader(simulator, customer) as client:
        yield client


def new_id() -> str:
    return uuid4().hex


def deadline(secs: float) -> str:
    return (datetime.now(UTC) + timedelta(seconds=secs)).isoformat()


async def buy(client: Any, client_order_id: str, *, amount: float = 0.01, **params: Any) -> Any:
    """At market."""
    params = {"clientOrderId": client_order_id, **params}
    return await client.create_order(PAIR, "market", "buy", amount, None, params)


async def resting(client: Any, client_order_id: str, **params: Any) -> Any:
    """A buy that the price will not reach."""
    params = {"clientOrderId": client_order_id, **params}
    return await client.create_order(PAIR, "limit", "buy", 0.01, 20_000, params)


async def closed(client: Any, client_order_id: str) -> list[Any]:
    found = await client.fetch_closed_orders(PAIR, params={"clientOrderId": client_order_id})
    return list(found)


async def opened(client: Any, client_order_id: str) -> list[Any]:
    found = await client.fetch_open_orders(PAIR, params={"clientOrderId": client_order_id})
    return list(found)


def journal_of(tmp_path: Path, type_: str) -> list[dict[str, Any]]:
    entries = read_journal(tmp_path / "journal.jsonl")
    return [entry for entry in entries if entry["type"] == type_]


async def test_immediate_or_cancel_order_fills_and_is_found_by_its_client_id(kraken: Any) -> None:
    ask = (await kraken.fetch_ticker(PAIR))["ask"]
    client_order_id = new_id()
    order = await kraken.create_order(
        *(PAIR, "limit", "buy", 0.01, round(ask * 1.01, 1)),
        {"clientOrderId": client_order_id, "timeInForce": "IOC", "deadline": deadline(5)},
    )
    assert order["id"].startswith("O")
    # As at the real venue the reply tells nothing but the id.
    assert (order["status"], order["filled"], order["clientOrderId"]) == (None, None, None)

    assert await opened(kraken, client_order_id) == []
    (found,) = await closed(kraken, client_order_id)
    assert (found["id"], found["clientOrderId"]) == (order["id"], client_order_id)
    assert (found["status"], found["filled"], found["amount"]) == ("closed", 0.01, 0.01)
    assert found["average"] == pytest.approx(ask, rel=1e-3)
    assert found["fee"]["currency"] == "USD"


async def test_trades_of_an_order_add_up_to_it_and_to_the_balance(kraken: Any) -> None:
    order = await buy(kraken, new_id())
    reply = await kraken.privatePostQueryOrders({"txid": order["id"], "trades": "true"})
    row = reply["result"][order["id"]]
    trades = await kraken.privatePostQueryTrades({"txid": ",".join(row["trades"])})
    told = list(trades["result"].values())
    assert {trade["ordertxid"] for trade in told} == {order["id"]}
    assert {trade["pair"] for trade in told} == {"XXBTZUSD"}
    assert sum(Decimal(trade["vol"]) for trade in told) == Decimal(row["vol_exec"])
    cost = sum(Decimal(trade["cost"]) for trade in told)
    fee = sum(Decimal(trade["fee"]) for trade in told)
    assert fee == cost * Decimal("0.004")
    balances = (await kraken.privatePostBalance())["result"]
    assert Decimal(balances["ZUSD"]) == 10_000 - cost - fee
    assert Decimal(balances["XXBT"]) == Decimal("1.01")
    assert [trade["order"] for trade in await kraken.fetch_my_trades(PAIR)] == [order["id"]]


async def test_market_sell_and_balances_by_our_names(kraken: Any) -> None:
    await kraken.create_order(PAIR, "market", "sell", 0.5, None, {"clientOrderId": new_id()})
    balance = await kraken.fetch_balance()
    assert balance["BTC"] == {"free": 0.5, "used": 0, "total": 0.5}
    assert balance["USD"]["free"] > 10_000


async def test_immediate_or_cancel_order_that_nobody_meets_is_cancelled(kraken: Any) -> None:
    client_order_id = new_id()
    await resting(kraken, client_order_id, timeInForce="IOC")
    (found,) = await closed(kraken, client_order_id)
    assert (found["status"], found["filled"]) == ("canceled", 0)


async def test_resting_order_holds_its_money_until_it_is_cancelled(kraken: Any) -> None:
    client_order_id = new_id()
    order = await resting(kraken, client_order_id)
    (found,) = await opened(kraken, client_order_id)
    assert (found["id"], found["status"]) == (order["id"], "open")
    assert (await kraken.fetch_balance())["USD"]["used"] >= 200

    cancelled = await kraken.cancel_order(None, PAIR, {"clientOrderId": client_order_id})
    assert cancelled["info"]["result"] == {"count": 1}
    assert await opened(kraken, client_order_id) == []
    assert [each["status"] for each in await closed(kraken, client_order_id)] == ["canceled"]
    assert (await kraken.fetch_balance())["USD"] == {"free": 10_000, "used": 0, "total": 10_000}
    with pytest.raises(errors.OrderNotFound, match="EOrder:Unknown order"):
        await kraken.cancel_order(order["id"], PAIR)


async def test_client_id_is_unique_among_open_orders_only(kraken: Any) -> None:
    client_order_id = new_id()
    order = await resting(kraken, client_order_id)
    with pytest.raises(errors.ExchangeError, match="cl_ord_id"):
        await resting(kraken, client_order_id)
    await kraken.cancel_order(order["id"], PAIR)
    first, second = [await buy(kraken, client_order_id) for _ in range(2)]
    assert len({order["id"], first["id"], second["id"]}) == 3
    assert len(await closed(kraken, client_order_id)) == 3


@pytest.mark.parametrize("client_order_id", ["x" * 19, "6d1b345e-2821-40e2", "g" * 32, "a b"])
async def test_client_id_of_another_form_is_malformed(kraken: Any, client_order_id: str) -> None:
    if client_order_id == "6d1b345e-2821-40e2":  # free text of 18 characters is allowed
        assert (await buy(kraken, client_order_id))["id"]
        return
    with pytest.raises(errors.ExchangeError, match="EGeneral:Invalid arguments:cl_ord_id"):
        await buy(kraken, client_order_id)


@pytest.mark.parametrize(
    ("amount", "price", "complaint"),
    [
        (0.00001, 60_000, "EOrder:Order minimum not met"),
        (0.0001, 0.1, "EOrder:Cost minimum not met"),
        (5, 60_000, "EOrder:Insufficient funds"),
    ],
)
async def test_order_that_breaks_a_rule_is_refused_by_name(
    kraken: Any, amount: float, price: float, complaint: str
) -> None:
    with pytest.raises(errors.ExchangeError, match=complaint):
        await kraken.create_order(PAIR, "limit", "buy", amount, price, {"timeinforce": "IOC"})
    assert (await kraken.fetch_balance())["USD"]["free"] == 10_000


@pytest.mark.parametrize(
    ("fields", "complaint"),
    [
        ({"price": "60000.123"}, "XBTUSD price can only be specified up to 1 decimals"),
        ({"price": ""}, "EGeneral:Invalid arguments:price"),
        ({"volume": "0.0100000001"}, "EGeneral:Invalid arguments:volume"),
        ({"volume": "much"}, "EGeneral:Invalid arguments:volume"),
        ({"volume": "NaN"}, "EGeneral:Invalid arguments:volume"),
        ({"type": "hold"}, "EGeneral:Invalid arguments:type"),
        ({"ordertype": "iceberg"}, "EGeneral:Invalid arguments:ordertype"),
        ({"timeinforce": "FOK"}, "EGeneral:Invalid arguments:timeinforce"),
        ({"pair": "XBTEUR"}, "EQuery:Unknown asset pair"),
        ({"userref": "1", "cl_ord_id": "x"}, "EGeneral:Invalid arguments:cl_ord_id and userref"),
        ({"deadline": "soon"}, "EGeneral:Invalid arguments:deadline"),
    ],
)
async def test_malformed_order_is_refused_by_the_argument(
    kraken: Any, fields: dict[str, str], complaint: str
) -> None:
    order = {"pair": "XBTUSD", "type": "buy", "ordertype": "limit", "volume": "0.01"}
    with pytest.raises(errors.ExchangeError, match=complaint):
        await kraken.privatePostAddOrder({**order, "price": "60000", **fields})


@pytest.mark.parametrize("pair", ["XXBTZUSD", "XBTUSD", "XBT/USD"])
async def test_order_is_only_validated_on_request_in_any_spelling(kraken: Any, pair: str) -> None:
    order = {"pair": pair, "type": "buy", "ordertype": "market", "volume": "0.01"}
    reply = await kraken.privatePostAddOrder({**order, "validate": "true"})
    assert reply["result"] == {"descr": {"order": "buy 0.01000000 XBTUSD @ market"}}
    assert (await kraken.fetch_balance())["BTC"]["total"] == 1


async def test_request_of_nobody_of_an_impostor_or_without_the_right(
    simulator: VenueSimulator, customer: Customer
) -> None:
    nobody = Customer(venue="kraken", key="AAAA", secret=customer.secret)
    impostor = Customer(venue="kraken", key=customer.key, secret="AAAA")
    reader = await open_account(simulator, "kraken", {}, permissions={"trade": False})
    async with trader(simulator, nobody) as client:
        with pytest.raises(errors.AuthenticationError, match="EAPI:Invalid key"):
            await client.fetch_balance()
    async with trader(simulator, impostor) as client:
        with pytest.raises(errors.ExchangeError, match="EAPI:Invalid signature"):
            await client.fetch_balance()
    async with trader(simulator, reader) as client:
        await client.fetch_balance()
        with pytest.raises(errors.PermissionDenied):
            await buy(client, new_id())


async def test_deleted_key_is_unknown(simulator: VenueSimulator, kraken: Any) -> None:
    await kraken.fetch_balance()
    url = f"{simulator.base_url}/simulator/accounts"
    status, _ = await request("DELETE", url, params={"key": kraken.apiKey})
    assert status == 200
    with pytest.raises(errors.AuthenticationError, match="EAPI:Invalid key"):
        await kraken.fetch_balance()


async def test_nonce_must_grow_with_each_request_of_a_key(kraken: Any) -> None:
    await kraken.fetch_balance()
    used = kraken.options["lastNonce"]
    kraken.incrementing_nonce = lambda: used
    with pytest.raises(errors.InvalidNonce):
        await kraken.fetch_balance()


async def test_requests_that_overtake_each_other_meet_the_nonce(
    simulator: VenueSimulator, kraken: Any
) -> None:
    await break_it(
        simulator, venue="kraken", kind="slow", endpoint="balance", times=1, delay_secs=0.3
    )
    slow = asyncio.create_task(kraken.privatePostBalance())
    await asyncio.sleep(0.1)
    await kraken.privatePostBalanceEx()
    with pytest.raises(errors.InvalidNonce):
        await slow


@pytest.mark.parametrize("seconds", [1.0, 70.0])
async def test_deadline_out_of_range_is_malformed(kraken: Any, seconds: float) -> None:
    with pytest.raises(errors.ExchangeError, match="EGeneral:Invalid arguments:deadline"):
        await buy(kraken, new_id(), deadline=deadline(seconds))


async def test_order_after_its_deadline_is_refused(kraken: Any) -> None:
    client_order_id = new_id()
    with pytest.raises(errors.ExchangeError, match="EService:Deadline elapsed"):
        await buy(kraken, client_order_id, deadline=deadline(-1))
    assert await closed(kraken, client_order_id) == []


async def test_calls_beyond_the_keys_counter_are_refused(kraken: Any) -> None:
    for _ in range(15):
        await kraken.privatePostBalance()
    with pytest.raises(errors.DDoSProtection, match="EAPI:Rate limit exceeded"):
        await kraken.privatePostBalance()
    assert (await buy(kraken, new_id()))["id"]  # orders have a counter of their own


async def test_permissions_of_a_key_show(simulator: VenueSimulator, kraken: Any) -> None:
    info = await raw_post(kraken, "GetApiKeyInfo")
    assert info["result"]["permissions"] == [
        *("query-funds", "query-open-trades", "query-closed-trades"),
        *("modify-trades", "close-trades"),
    ]
    assert info["result"]["nonceWindow"] == 0
    for probe in ("WithdrawMethods", "WithdrawAddresses", "WithdrawStatus"):
        assert (await raw_post(kraken, probe))["error"] == ["EGeneral:Permission denied"]
    rich = await open_account(simulator, "kraken", {}, permissions={"withdraw": True})
    async with trader(simulator, rich) as client:
        assert await raw_post(client, "WithdrawMethods") == {"error": [], "result": []}


async def raw_post(client: Any, method: str, **fields: str) -> Any:
    """A signed request that ccxt has no method for."""
    signed = client.sign(method, ["private"], "POST", fields)
    _, body = await request(
        "POST", signed["url"], data=signed["body"].encode(), headers=signed["headers"]
    )
    return body


async def test_fee_of_a_pair(kraken: Any) -> None:
    assert (await kraken.fetch_trading_fee(PAIR))["taker"] == 0.004


async def test_unknown_method(kraken: Any) -> None:
    assert await raw_post(kraken, "Teleport") == {"error": ["EGeneral:Unknown method"]}


async def test_what_is_answered_is_in_the_journal(kraken: Any, tmp_path: Path) -> None:
    client_order_id = new_id()
    order = await buy(kraken, client_order_id)
    (accepted,) = journal_of(tmp_path, "accepted")
    assert (accepted["client_order_id"], accepted["order_id"]) == (client_order_id, order["id"])
    filled = journal_of(tmp_path, "filled")
    assert sum(Decimal(entry["quantity"]) for entry in filled) == Decimal("0.01")
    (added,) = [each for each in journal_of(tmp_path, "request") if each["endpoint"] == "add_order"]
    assert added["params"]["cl_ord_id"] == client_order_id
    assert kraken.secret not in (tmp_path / "journal.jsonl").read_text()


ACCEPTED_ALL_THE_SAME: Final = [
    ({"kind": "accept_then_drop"}, "ExchangeNotAvailable"),
    ({"kind": "accept_then_fail", "status": 502}, "ExchangeNotAvailable"),
    ({"kind": "accept_then_fail", "status": 500}, "ExchangeNotAvailable"),
    ({"kind": "accept_then_fail", "status": 504}, "RequestTimeout"),
    ({"kind": "cut_body"}, "ExchangeError"),
]


@pytest.mark.parametrize(("fault", "error"), ACCEPTED_ALL_THE_SAME)
async def test_order_whose_reply_is_lost_is_at_the_venue(
    simulator: VenueSimulator, kraken: Any, tmp_path: Path, fault: dict[str, Any], error: str
) -> None:
    await break_it(simulator, venue="kraken", endpoint="add_order", times=1, **fault)
    client_order_id = new_id()
    with pytest.raises(errors.BaseError) as failure:
        await buy(kraken, client_order_id)
    assert type(failure.value).__name__ == error
    (accepted,) = journal_of(tmp_path, "accepted")
    assert accepted["client_order_id"] == client_order_id
    assert len(await closed(kraken, client_order_id)) == 1


async def test_garbage_in_place_of_an_orders_reply_looks_like_an_order_without_id(
    simulator: VenueSimulator, kraken: Any
) -> None:
    await break_it(
        simulator, venue="kraken", endpoint="add_order", times=1, kind="accept_then_garbage"
    )
    client_order_id = new_id()
    assert (await buy(kraken, client_order_id))["id"] is None
    assert len(await closed(kraken, client_order_id)) == 1


@pytest.mark.parametrize(
    ("endpoint", "method", "fields"),
    [
        ("open_orders", "OpenOrders", {}),
        ("closed_orders", "ClosedOrders", {}),
        ("order_query", "QueryOrders", {"txid": "OAAAAA-AAAAA-AAAAAA"}),
        ("trades", "QueryTrades", {"txid": "TAAAAA-AAAAA-AAAAAA"}),
        ("trades", "TradesHistory", {}),
        ("balance", "Balance", {}),
        ("fees", "TradeVolume", {}),
        ("permissions", "WithdrawMethods", {}),
    ],
)
async def test_any_private_reply_may_be_lost(
    simulator: VenueSimulator, kraken: Any, endpoint: str, method: str, fields: dict[str, str]
) -> None:
    await break_it(simulator, venue="kraken", endpoint=endpoint, kind="accept_then_drop")
    with pytest.raises(errors.ExchangeNotAvailable):
        await getattr(kraken, f"privatePost{method}")(fields)


async def test_cancel_whose_reply_is_lost_has_cancelled(
    simulator: VenueSimulator, kraken: Any
) -> None:
    client_order_id = new_id()
    order = await resting(kraken, client_order_id)
    await break_it(simulator, venue="kraken", endpoint="cancel", kind="accept_then_drop")
    with pytest.raises(errors.ExchangeNotAvailable):
        await kraken.cancel_order(order["id"], PAIR)
    assert [each["status"] for each in await closed(kraken, client_order_id)] == ["canceled"]


async def test_order_that_reaches_the_engine_after_its_deadline_is_refused(
    simulator: VenueSimulator, kraken: Any, tmp_path: Path
) -> None:
    await break_it(simulator, venue="kraken", kind="slow", endpoint="add_order", delay_secs=2.4)
    with pytest.raises(errors.ExchangeError, match="EService:Deadline elapsed"):
        await buy(kraken, new_id(), deadline=deadline(2.2))
    assert journal_of(tmp_path, "accepted") == []


TURNED_AWAY: Final = [
    ({"kind": "refuse_then_fail", "status": 502}, "ExchangeNotAvailable"),
    ({"kind": "fail"}, "ExchangeNotAvailable"),
    ({"kind": "throttle"}, "DDoSProtection"),
    ({"kind": "ban"}, "DDoSProtection"),
    ({"kind": "maintenance"}, "ExchangeNotAvailable"),
    ({"kind": "revoked"}, "AuthenticationError"),
]


@pytest.mark.parametrize(("fault", "error"), TURNED_AWAY)
async def test_order_that_is_turned_away_is_nowhere(
    simulator: VenueSimulator, kraken: Any, tmp_path: Path, fault: dict[str, Any], error: str
) -> None:
    await break_it(simulator, venue="kraken", endpoint="add_order", times=1, **fault)
    client_order_id = new_id()
    with pytest.raises(errors.BaseError) as failure:
        await buy(kraken, client_order_id)
    assert type(failure.value).__name__ == error
    assert journal_of(tmp_path, "accepted") == []
    assert await closed(kraken, client_order_id) == []


async def test_late_order_appears_later(simulator: VenueSimulator, kraken: Any) -> None:
    await break_it(
        simulator, venue="kraken", kind="late", endpoint="add_order", times=1, delay_secs=0.3
    )
    client_order_id = new_id()
    with pytest.raises(errors.ExchangeNotAvailable):
        await buy(kraken, client_order_id, deadline=deadline(5))
    assert await closed(kraken, client_order_id) == []
    await asyncio.sleep(0.5)
    assert len(await closed(kraken, client_order_id)) == 1


async def test_late_order_never_comes_after_its_deadline(
    simulator: VenueSimulator, kraken: Any, tmp_path: Path
) -> None:
    await break_it(
        simulator, venue="kraken", kind="late", endpoint="add_order", times=1, delay_secs=2.4
    )
    with pytest.raises(errors.ExchangeNotAvailable):
        await buy(kraken, new_id(), deadline=deadline(2.1))
    await asyncio.sleep(2.6)
    assert journal_of(tmp_path, "accepted") == []
    assert [entry["kind"] for entry in journal_of(tmp_path, "refused")] == ["deadline"]


async def test_order_is_invisible_while_the_venue_lags(
    simulator: VenueSimulator, kraken: Any
) -> None:
    await break_it(simulator, venue="kraken", kind="lag", delay_secs=0.5)
    client_order_id = new_id()
    await buy(kraken, client_order_id)
    assert await closed(kraken, client_order_id) == []
    await asyncio.sleep(0.7)
    assert len(await closed(kraken, client_order_id)) == 1


async def test_fills_are_there_before_the_acknowledgement(
    simulator: VenueSimulator, kraken: Any, customer: Customer
) -> None:
    await break_it(
        simulator, venue="kraken", kind="fill_first", endpoint="add_order", times=1, delay_secs=1
    )
    client_order_id = new_id()
    sending = asyncio.create_task(buy(kraken, client_order_id))
    async with trader(simulator, customer) as other:
        async with asyncio.timeout(5):
            while not await closed(other, client_order_id):  # noqa: ASYNC110
                await asyncio.sleep(0.05)
        assert not sending.done()
    assert (await sending)["id"]


async def test_partial_fills_have_a_trade_each(simulator: VenueSimulator, kraken: Any) -> None:
    await break_it(
        simulator, venue="kraken", kind="partial", endpoint="add_order", parts=3, times=1
    )
    order = await buy(kraken, new_id())
    row = (await kraken.privatePostQueryOrders({"txid": order["id"], "trades": "1"}))["result"]
    assert len(set(row[order["id"]]["trades"])) == 3
    trades = await kraken.fetch_my_trades(PAIR)
    assert sum(Decimal(str(trade["amount"])) for trade in trades) == Decimal("0.01")


async def test_trades_of_an_order_are_told_twice(simulator: VenueSimulator, kraken: Any) -> None:
    order = await buy(kraken, new_id())
    await break_it(simulator, venue="kraken", kind="duplicate_fills", endpoint="order_query")
    row = (await kraken.privatePostQueryOrders({"txid": order["id"], "trades": "1"}))["result"]
    first, second = row[order["id"]]["trades"]
    assert first == second


async def test_maintenance_shows_in_the_status(simulator: VenueSimulator, kraken: Any) -> None:
    await break_it(simulator, venue="kraken", kind="maintenance")
    assert (await kraken.fetch_status())["status"] == "maintenance"
    with pytest.raises(errors.ExchangeNotAvailable, match="EService:Unavailable"):
        await kraken.fetch_ticker(PAIR)


async def test_venue_with_a_wrong_clock_judges_deadlines_by_it(
    simulator: VenueSimulator, kraken: Any
) -> None:
    await break_it(simulator, venue="kraken", kind="clock_skew", skew_secs=30)
    assert await kraken.fetch_time() == pytest.approx(
        (datetime.now(UTC).timestamp() + 30) * 1000, abs=2000
    )
    with pytest.raises(errors.ExchangeError, match="EService:Deadline elapsed"):
        await buy(kraken, new_id(), deadline=deadline(5))
    assert (await buy(kraken, new_id(), deadline=deadline(35)))["id"]


async def test_nobody_trades_at_another_speed() -> None:
    async with running(speed=60) as simulator:
        customer = await open_account(simulator, "kraken", {"USD": "10000"})
        async with trader(simulator, customer) as client:
            with pytest.raises(errors.ExchangeError, match="speed 1 only"):
                await buy(client, new_id())


async def test_history_comes_in_pages_newest_first(kraken: Any) -> None:
    ids = [(await resting(kraken, new_id(), timeInForce="IOC"))["id"] for _ in range(52)]
    first = (await kraken.privatePostClosedOrders({}))["result"]
    rest = (await kraken.privatePostClosedOrders({"ofs": 50}))["result"]
    assert (first["count"], len(first["closed"]), len(rest["closed"])) == (52, 50, 2)
    assert {*first["closed"], *rest["closed"]} == set(ids)


async def test_body_is_cut_where_the_reply_says_it_is_longer(
    simulator: VenueSimulator, kraken: Any
) -> None:
    await break_it(simulator, venue="kraken", kind="cut_body", endpoint="balance", times=1)
    signed = kraken.sign("Balance", ["private"], "POST", {})
    async with (
        aiohttp.ClientSession() as session,
        session.post(signed["url"], data=signed["body"], headers=signed["headers"]) as response,
    ):
        assert response.status == 200
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
