"""Unmodified ccxt trades at the simulated Binance."""

import asyncio
from collections.abc import AsyncIterator
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

PAIR: Final = "BTC/USDT"
errors: Final = ccxt_errors()


@pytest.fixture
async def simulator(tmp_path: Path) -> AsyncIterator[VenueSimulator]:
    async with running(journal=tmp_path / "journal.jsonl") as simulator:
        yield simulator


@pytest.fixture
async def customer(simulator: VenueSimulator) -> Customer:
    return await open_account(simulator, "binance", {"USDT": "10000", "BTC": "1"})


@pytest.fixture
async def binance(simulator: VenueSimulator, customer: Customer) -> AsyncIterator[Any]:
    async with trader(simulator, customer) as client:
        yield client


def new_id() -> str:
    return uuid4().hex


async def buy(client: Any, client_order_id: str, *, amount: float = 0.01, **params: Any) -> Any:
    """At market."""
    params = {"newClientOrderId": client_order_id, **params}
    return await client.create_order(PAIR, "market", "buy", amount, None, params)


async def resting(client: Any, client_order_id: str, **params: Any) -> Any:
    """A buy that the price will not reach."""
    params = {"newClientOrderId": client_order_id, **params}
    return await client.create_order(PAIR, "limit", "buy", 0.01, 20_000, params)


async def found(client: Any, client_order_id: str) -> Any:
    return await client.fetch_order(None, PAIR, {"clientOrderId": client_order_id})


def journal_of(tmp_path: Path, type_: str) -> list[dict[str, Any]]:
    entries = read_journal(tmp_path / "journal.jsonl")
    return [entry for entry in entries if entry["type"] == type_]


def fields_of(**fields: object) -> dict[str, object]:
    """A whole order as the wire has it."""
    order = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "timeInForce": "IOC"}
    return {**order, "quantity": "0.01", "price": "60000", **fields}


async def test_immediate_or_cancel_order_fills_and_is_found_by_its_client_id(binance: Any) -> None:
    ask = (await binance.fetch_ticker(PAIR))["ask"]
    client_order_id = new_id()
    order = await binance.create_order(
        *(PAIR, "limit", "buy", 0.01, round(ask * 1.01, 2)),
        {"newClientOrderId": client_order_id, "timeInForce": "IOC", "recvWindow": 3000},
    )
    assert (order["clientOrderId"], order["status"], order["filled"]) == (
        client_order_id,
        "closed",
        0.01,
    )
    assert order["average"] == pytest.approx(ask, rel=1e-3)
    (fill,) = order["info"]["fills"]
    assert (fill["qty"], fill["commission"]) == ("0.01000000", "0.00001000")
    assert fill["commissionAsset"] == "BTC"  # a buy's fee is taken from what was bought

    again = await found(binance, client_order_id)
    assert (again["id"], again["status"], again["filled"]) == (order["id"], "closed", 0.01)
    assert again["fee"] is None


async def test_trades_of_an_order_add_up_to_it_and_to_the_balance(binance: Any) -> None:
    order = await buy(binance, new_id())
    (trade,) = await binance.fetch_my_trades(PAIR, params={"orderId": order["id"]})
    assert (trade["order"], trade["amount"]) == (order["id"], 0.01)
    assert trade["id"] == str(order["info"]["fills"][0]["tradeId"])
    assert trade["fee"] == {"cost": 0.00001, "currency": "BTC"}
    balance = (await binance.fetch_balance())["info"]["balances"]
    free = {row["asset"]: Decimal(row["free"]) for row in balance}
    assert free["BTC"] == Decimal("1.00999")
    assert free["USDT"] == 10_000 - Decimal(trade["info"]["quoteQty"])


async def test_fee_of_a_sell_is_in_the_quote_currency(binance: Any) -> None:
    order = await binance.create_order(PAIR, "market", "sell", 0.5)
    (fill,) = order["info"]["fills"]
    cost = Decimal(order["info"]["cummulativeQuoteQty"])
    assert (fill["commissionAsset"], Decimal(fill["commission"])) == ("USDT", cost / 1000)
    assert order["clientOrderId"]  # drawn by ccxt


async def test_what_was_bought_cannot_be_sold_whole(simulator: VenueSimulator) -> None:
    customer = await open_account(simulator, "binance", {"USDT": "10000"})
    async with trader(simulator, customer) as client:
        await buy(client, new_id())
        with pytest.raises(errors.InsufficientFunds):
            await client.create_order(PAIR, "market", "sell", 0.01)


async def test_immediate_or_cancel_order_that_nobody_meets_expires(binance: Any) -> None:
    client_order_id = new_id()
    order = await resting(binance, client_order_id, timeInForce="IOC")
    assert (order["status"], order["filled"], order["info"]["fills"]) == ("expired", 0, [])
    assert (await found(binance, client_order_id))["info"]["status"] == "EXPIRED"


async def test_part_of_an_immediate_or_cancel_order(
    simulator: VenueSimulator, binance: Any
) -> None:
    await break_it(
        simulator, venue="binance", kind="partial", endpoint="add_order", parts=2, fraction=0.5
    )
    ask = (await binance.fetch_ticker(PAIR))["ask"]
    order = await binance.create_order(
        PAIR, "limit", "buy", 0.01, round(ask * 1.01, 2), {"timeInForce": "IOC"}
    )
    assert order["info"]["status"] == "EXPIRED"
    assert [fill["qty"] for fill in order["info"]["fills"]] == ["0.00250000", "0.00250000"]
    assert Decimal(order["info"]["executedQty"]) == Decimal("0.005")


async def test_resting_order_holds_its_money_until_it_is_cancelled(binance: Any) -> None:
    client_order_id = new_id()
    order = await resting(binance, client_order_id)
    assert (order["status"], order["info"]["status"]) == ("open", "NEW")
    (still_open,) = await binance.fetch_open_orders(PAIR)
    assert still_open["clientOrderId"] == client_order_id
    assert (await binance.fetch_balance())["USDT"]["used"] == 200

    cancelled = await binance.cancel_order(None, PAIR, {"origClientOrderId": client_order_id})
    assert cancelled["info"]["origClientOrderId"] == client_order_id
    assert cancelled["info"]["status"] == "CANCELED"
    assert (await found(binance, client_order_id))["status"] == "canceled"
    assert await binance.fetch_open_orders(PAIR) == []
    assert (await binance.fetch_balance())["USDT"]["free"] == 10_000
    with pytest.raises(errors.BaseError, match=r"-2011.*Unknown order sent"):
        await binance.cancel_order(order["id"], PAIR)
    (listed,) = await binance.fetch_orders(PAIR)
    assert listed["id"] == order["id"]


async def test_order_that_was_never_placed_is_not_found(binance: Any) -> None:
    with pytest.raises(errors.OrderNotFound, match="-2013"):
        await found(binance, new_id())


async def test_client_id_is_unique_among_open_orders_only(binance: Any) -> None:
    client_order_id = new_id()
    order = await resting(binance, client_order_id)
    with pytest.raises(errors.InvalidOrder, match="Duplicate order sent"):
        await resting(binance, client_order_id)
    await binance.cancel_order(order["id"], PAIR)
    first, second = [await buy(binance, client_order_id) for _ in range(2)]
    assert len({order["id"], first["id"], second["id"]}) == 3
    assert (await found(binance, client_order_id))["id"] == second["id"]


@pytest.mark.parametrize(
    ("fields", "code", "text"),
    [
        ({"price": "60000.123"}, -1013, "Filter failure: PRICE_FILTER"),
        ({"quantity": "0.0100001"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0"}, -1013, "Filter failure: LOT_SIZE"),
        ({"quantity": "0.00001"}, -1013, "Filter failure: NOTIONAL"),
        ({"quantity": "1"}, -2010, "Account has insufficient balance for requested action."),
        ({"symbol": "NOUSDT"}, -1121, "Invalid symbol."),
        ({"side": "HOLD"}, -1117, "Invalid side."),
        ({"type": "ICEBERG"}, -1116, "Invalid orderType."),
        ({"timeInForce": "FOK"}, -1115, "Invalid timeInForce."),
        ({"timeInForce": ""}, -1102, "Mandatory parameter 'timeInForce'"),
        ({"quantity": ""}, -1102, "Mandatory parameter 'quantity'"),
        ({"price": "-1"}, -1100, "Illegal characters found in parameter 'price'"),
        (
            {"newClientOrderId": "ä"},
            -1100,
            "Illegal characters found in parameter 'newClientOrderId'",
        ),
        ({"type": "MARKET", "timeInForce": ""}, -1106, "Parameter 'price' sent when not required."),
        ({"quoteOrderQty": "100"}, -1013, "Quote order qty market orders"),
        ({"recvWindow": 60_001}, -1131, "recvWindow must be less than 60000"),
        ({"newOrderRespType": "NONE"}, -1136, "Invalid newOrderRespType."),
    ],
)
async def test_order_that_breaks_a_rule_is_refused_by_code_and_text(
    binance: Any, tmp_path: Path, fields: dict[str, object], code: int, text: str
) -> None:
    with pytest.raises(errors.BaseError, match=text) as failure:
        await binance.privatePostOrder(fields_of(**fields))
    assert str(code) in str(failure.value) or code == -2010
    assert journal_of(tmp_path, "accepted") == []


@pytest.mark.parametrize("response", ["ACK", "RESULT", "FULL"])
async def test_reply_is_as_long_as_it_was_asked_for(binance: Any, response: str) -> None:
    reply = await binance.privatePostOrder(fields_of(newOrderRespType=response))
    assert ("status" in reply, "fills" in reply) == (response != "ACK", response == "FULL")


async def test_order_is_only_tested_on_request(binance: Any, tmp_path: Path) -> None:
    assert await binance.privatePostOrderTest(fields_of(quantity="1")) == {}
    with pytest.raises(errors.InvalidOrder, match="LOT_SIZE"):
        await binance.privatePostOrderTest(fields_of(quantity="0.0100001"))
    assert journal_of(tmp_path, "accepted") == []


async def test_request_of_nobody_of_an_impostor_or_without_the_right(
    simulator: VenueSimulator, customer: Customer
) -> None:
    reader = await open_account(simulator, "binance", {}, permissions={"trade": False})
    callers = [
        (Customer(venue="binance", key="short", secret="x"), "-2014"),
        (Customer(venue="binance", key="a" * 64, secret="x"), "-2015"),
        (Customer(venue="binance", key=customer.key, secret="x"), "-1022"),
        (reader, "-2015"),
    ]
    for caller, code in callers:
        async with trader(simulator, caller) as client:
            with pytest.raises(errors.AuthenticationError, match=code):
                await client.privatePostOrder(fields_of())


async def test_ccxt_loads_markets_and_currencies_with_a_key_too(binance: Any) -> None:
    binance.options["fetchMargins"] = True
    await binance.load_markets(reload=True)
    assert len(binance.markets) == 12
    assert {"BTC", "USDT"} <= set(binance.currencies)


async def test_deleted_key_looks_like_throttling_to_a_client_that_worked_before(
    simulator: VenueSimulator, binance: Any
) -> None:
    await binance.fetch_balance()
    binance.options["hasAlreadyAuthenticatedSuccessfully"] = True
    url = f"{simulator.base_url}/simulator/accounts"
    status, _ = await request("DELETE", url, params={"key": binance.apiKey})
    assert status == 200
    with pytest.raises(errors.DDoSProtection, match="-2015"):
        await binance.fetch_balance()


async def test_request_without_a_signature_or_a_time_is_incomplete(
    simulator: VenueSimulator, customer: Customer
) -> None:
    headers = {"X-MBX-APIKEY": customer.key}
    url = f"{simulator.base_url}/api/v3/account"
    for params, name in (({}, "signature"), ({"signature": "00"}, "timestamp")):
        status, body = await request("GET", url, headers=headers, params=params)
        assert (status, body["code"]) == (400, -1102)
        assert name in body["msg"]


@pytest.mark.parametrize(
    ("ahead_ms", "text"), [(-4_000, "outside of the recvWindow"), (3_000, "1000ms ahead")]
)
async def test_timestamp_too_far_off_is_refused_both_ways(
    binance: Any, ahead_ms: int, text: str
) -> None:
    binance.options["timeDifference"] = -ahead_ms
    with pytest.raises(errors.InvalidNonce, match=text):
        await buy(binance, new_id(), recvWindow=3000)


async def test_permissions_of_a_key_show(simulator: VenueSimulator, binance: Any) -> None:
    rights = await binance.sapiGetAccountApiRestrictions()
    assert (rights["enableReading"], rights["enableSpotAndMarginTrading"]) == (True, True)
    assert rights["enableWithdrawals"] is False
    rich = await open_account(simulator, "binance", {}, permissions={"withdraw": True})
    async with trader(simulator, rich) as client:
        assert (await client.sapiGetAccountApiRestrictions())["enableWithdrawals"] is True


async def test_zero_balances_are_left_out_on_request(binance: Any) -> None:
    await binance.create_order(PAIR, "market", "sell", 1)
    told = await binance.privateGetAccount()
    assert {row["asset"] for row in told["balances"]} == {"BTC", "USDT"}
    short = await binance.privateGetAccount({"omitZeroBalances": "true"})
    assert {row["asset"] for row in short["balances"]} == {"USDT"}


async def test_replies_say_what_was_used(binance: Any) -> None:
    await binance.fetch_balance()
    before = int(binance.last_response_headers["X-MBX-USED-WEIGHT-1M"])
    await resting(binance, new_id())
    headers = binance.last_response_headers
    assert (headers["X-MBX-ORDER-COUNT-10S"], headers["X-MBX-ORDER-COUNT-1D"]) == ("1", "1")
    assert int(headers["X-MBX-USED-WEIGHT-1M"]) in (before + 1, 1)  # 1 in a new minute
    await buy(binance, new_id())
    assert binance.last_response_headers["X-MBX-ORDER-COUNT-1D"] == "1"  # its fill gives it back
    count = await binance.privateGetRateLimitOrder()
    assert [row["limit"] for row in count] == [100, 200_000]
    assert count[1]["count"] == 1


async def test_address_that_used_too_much_is_refused_then_banned(
    simulator: VenueSimulator, binance: Any
) -> None:
    # 75 requests for all day tickers, 80 each, use up a minute, which may end between two of
    # them; loading the markets had its part.
    url = f"{simulator.base_url}/api/v3/ticker/24hr"
    statuses: list[int] = []
    async with aiohttp.ClientSession() as session:
        while len(statuses) < 250 and 418 not in statuses:
            async with session.get(url) as response:
                statuses.append(response.status)
                retry_after = int(response.headers.get("Retry-After", 0))
    assert statuses.index(429) >= 74
    assert statuses[-11:] == [*10 * [429], 418]
    assert 110 < retry_after <= 120
    with pytest.raises(errors.DDoSProtection, match="418"):
        await buy(binance, new_id())


async def test_hundred_orders_without_a_fill_in_ten_seconds(binance: Any) -> None:
    order = fields_of(price="20000", quantity="0.001")
    placed = 0
    with pytest.raises(errors.DDoSProtection, match="-1015"):  # noqa: PT012
        while placed < 250:  # more than 100, if ten seconds end meanwhile
            await binance.privatePostOrder(order)
            placed += 1
    assert placed >= 100
    assert int(binance.last_response_headers["Retry-After"]) <= 10


async def test_what_is_answered_is_in_the_journal(binance: Any, tmp_path: Path) -> None:
    client_order_id = new_id()
    order = await buy(binance, client_order_id)
    (accepted,) = journal_of(tmp_path, "accepted")
    assert (accepted["client_order_id"], accepted["order_id"]) == (client_order_id, order["id"])
    requests = journal_of(tmp_path, "request")
    (added,) = [entry for entry in requests if entry["endpoint"] == "add_order"]
    assert added["params"]["newClientOrderId"] == client_order_id
    assert "signature" not in added["params"]
    assert binance.secret not in (tmp_path / "journal.jsonl").read_text()


@pytest.mark.parametrize(
    ("fault", "error"),
    [
        ({"kind": "accept_then_drop"}, "ExchangeNotAvailable"),
        ({"kind": "accept_then_fail", "status": 502}, "ExchangeNotAvailable"),
        ({"kind": "accept_then_fail", "status": 503}, "ExchangeNotAvailable"),
        ({"kind": "accept_then_fail", "status": 504}, "RequestTimeout"),
        ({"kind": "accept_then_fail", "status": 500}, "OperationFailed"),
        ({"kind": "cut_body"}, "ExchangeError"),
    ],
)
async def test_order_whose_reply_is_lost_is_at_the_venue(
    simulator: VenueSimulator, binance: Any, fault: dict[str, Any], error: str
) -> None:
    await break_it(simulator, venue="binance", endpoint="add_order", times=1, **fault)
    client_order_id = new_id()
    with pytest.raises(errors.BaseError) as failure:
        await buy(binance, client_order_id)
    assert type(failure.value).__name__ == error
    assert (await found(binance, client_order_id))["status"] == "closed"


async def test_garbage_in_place_of_an_orders_reply_looks_like_an_order_without_id(
    simulator: VenueSimulator, binance: Any
) -> None:
    await break_it(
        simulator, venue="binance", endpoint="add_order", times=1, kind="accept_then_garbage"
    )
    client_order_id = new_id()
    assert (await buy(binance, client_order_id))["id"] is None
    assert (await found(binance, client_order_id))["status"] == "closed"


@pytest.mark.parametrize(
    ("fault", "error", "text"),
    [
        ({"kind": "refuse_then_fail", "status": 502}, "ExchangeNotAvailable", "502"),
        ({"kind": "fail"}, "ExchangeNotAvailable", "503"),
        ({"kind": "throttle", "retry_after_secs": 7}, "DDoSProtection", "429"),
        ({"kind": "ban"}, "DDoSProtection", "418"),
        ({"kind": "maintenance"}, "BaseError", "-1016"),
        ({"kind": "revoked"}, "BaseError", "-2015"),
    ],
)
async def test_order_that_is_turned_away_is_nowhere(
    simulator: VenueSimulator, binance: Any, fault: dict[str, Any], error: str, text: str
) -> None:
    await break_it(simulator, venue="binance", endpoint="add_order", times=1, **fault)
    client_order_id = new_id()
    with pytest.raises(getattr(errors, error), match=text):
        await buy(binance, client_order_id)
    if "retry_after_secs" in fault:
        assert binance.last_response_headers["Retry-After"] == "7"
    with pytest.raises(errors.OrderNotFound):
        await found(binance, client_order_id)


async def test_late_order_appears_later_but_not_after_its_window(
    simulator: VenueSimulator, binance: Any, tmp_path: Path
) -> None:
    await break_it(
        simulator, venue="binance", kind="late", endpoint="add_order", delay_secs=0.4, status=0
    )
    in_time, too_late = new_id(), new_id()
    for client_order_id, window_ms in ((in_time, 3000), (too_late, 300)):
        with pytest.raises(errors.ExchangeNotAvailable):
            await buy(binance, client_order_id, recvWindow=window_ms)
    with pytest.raises(errors.OrderNotFound):
        await found(binance, too_late)
    await asyncio.sleep(0.6)
    assert (await found(binance, in_time))["status"] == "closed"
    with pytest.raises(errors.OrderNotFound):
        await found(binance, too_late)
    assert [entry["kind"] for entry in journal_of(tmp_path, "refused")] == ["deadline"]


@pytest.mark.parametrize(
    ("endpoint", "method"),
    [
        ("order_query", "privateGetOrder"),
        ("open_orders", "privateGetOpenOrders"),
        ("closed_orders", "privateGetAllOrders"),
        ("trades", "privateGetMyTrades"),
        ("balance", "privateGetAccount"),
        ("permissions", "sapiGetAccountApiRestrictions"),
    ],
)
async def test_any_private_reply_may_be_lost(
    simulator: VenueSimulator, binance: Any, endpoint: str, method: str
) -> None:
    await break_it(simulator, venue="binance", endpoint=endpoint, kind="accept_then_drop")
    with pytest.raises(errors.ExchangeNotAvailable):
        await getattr(binance, method)({"symbol": "BTCUSDT", "orderId": 1})


async def test_cancel_whose_reply_is_lost_is_sent_again_by_aiohttp(
    simulator: VenueSimulator, binance: Any, tmp_path: Path
) -> None:
    client_order_id = new_id()
    order = await resting(binance, client_order_id)
    await break_it(simulator, venue="binance", endpoint="cancel", kind="accept_then_drop", times=1)
    with pytest.raises(errors.BaseError, match="-2011"):
        await binance.cancel_order(order["id"], PAIR)
    requests = [entry["endpoint"] for entry in journal_of(tmp_path, "request")]
    assert requests.count("cancel") == 2
    assert (await found(binance, client_order_id))["status"] == "canceled"


async def test_order_that_reaches_the_engine_after_its_window_is_refused(
    simulator: VenueSimulator, binance: Any
) -> None:
    await break_it(simulator, venue="binance", kind="slow", endpoint="add_order", delay_secs=0.5)
    client_order_id = new_id()
    with pytest.raises(errors.InvalidNonce, match="outside of the recvWindow"):
        await buy(binance, client_order_id, recvWindow=300)
    with pytest.raises(errors.OrderNotFound):
        await found(binance, client_order_id)


async def test_order_is_invisible_while_the_venue_lags(
    simulator: VenueSimulator, binance: Any
) -> None:
    await break_it(simulator, venue="binance", kind="lag", delay_secs=0.5)
    client_order_id = new_id()
    await buy(binance, client_order_id)
    with pytest.raises(errors.OrderNotFound):
        await found(binance, client_order_id)
    assert await binance.fetch_my_trades(PAIR) == []
    await asyncio.sleep(0.7)
    assert (await found(binance, client_order_id))["status"] == "closed"


async def test_trades_are_told_twice_and_backwards(simulator: VenueSimulator, binance: Any) -> None:
    await break_it(simulator, venue="binance", kind="partial", endpoint="add_order", parts=2)
    for kind in ("duplicate_fills", "reorder_fills"):
        await break_it(simulator, venue="binance", kind=kind)
    order = await buy(binance, new_id())
    ids = [int(fill["tradeId"]) for fill in order["info"]["fills"]]
    assert ids == [ids[0], ids[0], ids[-1], ids[-1]]
    assert ids[0] > ids[-1]
    rows = await binance.privateGetMyTrades({"symbol": "BTCUSDT", "orderId": order["id"]})
    assert [int(row["id"]) for row in rows] == ids


async def test_maintenance_shows_in_the_status(simulator: VenueSimulator, binance: Any) -> None:
    await break_it(simulator, venue="binance", kind="maintenance")
    assert (await binance.fetch_status())["status"] == "maintenance"
    status, body = await request("GET", f"{simulator.base_url}/api/v3/ticker/price")
    assert (status, body["code"]) == (503, -1016)


async def test_venue_with_a_wrong_clock_judges_timestamps_by_it(
    simulator: VenueSimulator, binance: Any
) -> None:
    await break_it(simulator, venue="binance", kind="clock_skew", skew_secs=-30)
    with pytest.raises(errors.InvalidNonce, match="1000ms ahead"):
        await buy(binance, new_id())
    await binance.load_time_difference()
    assert (await buy(binance, new_id()))["id"]


async def test_nobody_trades_at_another_speed() -> None:
    async with running(speed=60) as simulator:
        customer = await open_account(simulator, "binance", {"USDT": "10000"})
        async with trader(simulator, customer) as client:
            with pytest.raises(errors.BaseError, match="speed 1"):
                await buy(client, new_id())


@pytest.mark.parametrize("path", ["/api/v3/teleport", "/sapi/v1/teleport"])
async def test_unknown_path_is_not_found(simulator: VenueSimulator, path: str) -> None:
    async with (
        aiohttp.ClientSession() as session,
        session.get(simulator.base_url + path) as response,
    ):
        assert response.status == 404
