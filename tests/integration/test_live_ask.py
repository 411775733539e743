"""Finding out at a venue: what is asked, what a report is made of, and what proves nothing."""

import asyncio
from collections.abc import AsyncIterator
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from aiohttp import web

from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.live_adapter import live_order, live_orders
from tests.integration.scripted_venue import (
    Answer,
    ScriptedVenue,
    binance_error,
    cut,
    dropped,
    kraken_error,
    kraken_result,
    said,
    scripted_venue,
)
from trade_worker.venues import Report
from trade_worker.venues.live import LiveOrders

OPEN, CLOSED = "/0/private/OpenOrders", "/0/private/ClosedOrders"
ORDERS, TRADES = "/0/private/QueryOrders", "/0/private/QueryTrades"
ORDER, MY_TRADES = "/api/v3/order", "/api/v3/myTrades"
TXID = "OUF4EM-FRGI2-MQMWZD"

Opened = tuple[ScriptedVenue, LiveOrders]


async def opened(venue: Venue) -> AsyncIterator[Opened]:
    async with scripted_venue() as server, live_orders(venue, server.base_url) as orders:
        yield server, orders


@pytest.fixture
async def kraken() -> AsyncIterator[Opened]:
    async for one in opened(KRAKEN):
        yield one


@pytest.fixture
async def binance() -> AsyncIterator[Opened]:
    async for one in opened(BINANCE):
        yield one


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def either(request: pytest.FixtureRequest) -> AsyncIterator[tuple[Venue, Opened]]:
    async for one in opened(request.param):
        yield request.param, one


def told(order: LiveOrder, **changes: object) -> dict[str, Any]:
    """An order as Kraken tells it, filled by two trades."""
    return {
        "cl_ord_id": order.client_order_id,
        "status": "closed",
        "vol": "0.01000000",
        "vol_exec": "0.01000000",
        "oflags": "fciq",
        "trades": ["TA", "TB"],
        **changes,
    }


def trade(vol: str, **changes: object) -> dict[str, Any]:
    facts = {"ordertxid": TXID, "time": 1688585840.8921, "price": "43198.1", "fee": "0.07"}
    return {**facts, "vol": vol, **changes}


def kraken_has_nothing(server: ScriptedVenue) -> None:
    server.answer(OPEN, kraken_result(open={}))
    server.answer(CLOSED, kraken_result(closed={}, count=0))


# Kraken


async def test_kraken_is_asked_for_open_closed_and_open_orders(kraken: Opened) -> None:
    server, orders = kraken
    kraken_has_nothing(server)
    order = live_order(KRAKEN)
    assert await orders.ask(order) is None
    assert [asked.path for asked in server.asked] == [OPEN, CLOSED, OPEN]
    assert {asked.params["cl_ord_id"] for asked in server.asked} == {order.client_order_id}


async def test_a_kraken_order_that_moves_in_between_is_found(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    kraken_has_nothing(server)
    late = kraken_result(open={TXID: told(order, status="open", vol_exec="0", trades=[])})
    server.answer(OPEN, kraken_result(open={}), late)
    report = await orders.ask(order)
    assert report == Report(status=OrderStatus.OPEN, venue_order_id=TXID, executed=Decimal(0))


async def test_a_kraken_order_is_reported_with_its_trades(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    kraken_has_nothing(server)
    # Trades out of order, one of them twice, and one of somebody else's order.
    server.answer(CLOSED, kraken_result(closed={TXID: told(order, trades=["TB", "TA", "TB"])}))
    server.answer(
        TRADES,
        kraken_result(TB=trade("0.006"), TA=trade("0.004"), TC=trade("1", ordertxid="OTHER")),
    )
    report = await orders.ask(order)
    assert report is not None
    assert (report.status, report.venue_order_id) == (OrderStatus.FILLED, TXID)
    assert report.executed == Decimal("0.01")
    assert {fill.trade_id: fill.quantity for fill in report.fills} == {
        "TA": Decimal("0.004"),
        "TB": Decimal("0.006"),
    }
    fill = report.fills[0]
    assert (fill.price, fill.fee, fill.fee_currency) == (
        Decimal("43198.1"),
        Decimal("0.07"),
        "USD",
    )
    assert fill.at_ms == 1_688_585_840_892
    assert server.params_of(TRADES)[0]["txid"] == "TB,TA"


async def test_kraken_may_tell_our_id_with_dashes(kraken: Opened) -> None:
    server, orders = kraken
    kraken_has_nothing(server)
    order = live_order(KRAKEN)
    spelt = str(UUID(order.client_order_id)).upper()
    waiting = told(order, cl_ord_id=spelt, status="open", vol_exec="0", trades=[])
    server.answer(OPEN, kraken_result(open={TXID: waiting}))
    server.answer(ORDERS, kraken_result(**{TXID: waiting}))
    for asked in (order, replace(order, venue_order_id=TXID)):
        report = await orders.ask(asked)
        assert report is not None
        assert report.venue_order_id == TXID


async def test_a_known_kraken_order_is_asked_for_by_its_own_id(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN, venue_order_id=TXID, leg=Leg.EXIT)
    facts = told(order, status="canceled", vol_exec="0.004", trades=["TA"], oflags="fcib")
    server.answer(ORDERS, kraken_result(**{TXID: facts}))
    server.answer(TRADES, kraken_result(TA=trade("0.004", fee="0.00001")))
    report = await orders.ask(order)
    assert report is not None
    assert (report.status, report.executed) == (OrderStatus.CANCELLED, Decimal("0.004"))
    assert report.fills[0].fee_currency == "BTC"
    assert [asked.path for asked in server.asked] == [ORDERS, TRADES]


async def test_a_known_kraken_order_that_is_hidden_is_looked_for(kraken: Opened) -> None:
    server, orders = kraken
    kraken_has_nothing(server)
    server.answer(ORDERS, kraken_error("EOrder:Unknown order"))
    assert await orders.ask(live_order(KRAKEN, venue_order_id=TXID)) is None
    assert [asked.path for asked in server.asked] == [ORDERS, OPEN, CLOSED, OPEN]


async def test_kraken_states(kraken: Opened) -> None:
    server, orders = kraken
    for said_status, status in (
        ("pending", OrderStatus.OPEN),
        ("open", OrderStatus.OPEN),
        ("closed", OrderStatus.FILLED),
        ("canceled", OrderStatus.CANCELLED),
        ("expired", OrderStatus.EXPIRED),
    ):
        order = live_order(KRAKEN)
        facts = told(order, status=said_status, vol_exec="0", trades=[])
        server.answer(OPEN, kraken_result(open={TXID: facts}))
        report = await orders.ask(order)
        assert report is not None
        assert report.status is status


async def test_kraken_orders_of_others_are_not_ours(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    like_ours = told(order, cl_ord_id=order.client_order_id[:-1])
    server.answer(OPEN, kraken_result(open={TXID: like_ours, "O2": {"status": "open"}}))
    server.answer(CLOSED, kraken_result(closed={"O3": told(order, cl_ord_id=None)}, count=1))
    assert await orders.ask(order) is None


async def test_a_kraken_that_ignores_the_id_is_paged_through(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    kraken_has_nothing(server)
    others = {f"O{number}": told(order, cl_ord_id=None) for number in range(50)}
    ours = {TXID: told(order, status="canceled", vol_exec="0", trades=[])}
    server.answer(
        CLOSED, kraken_result(closed=others, count=51), kraken_result(closed=ours, count=51)
    )
    report = await orders.ask(order)
    assert report is not None
    assert report.venue_order_id == TXID
    assert [params.get("ofs") for params in server.params_of(CLOSED)] == [None, "50"]


@pytest.mark.parametrize("path", [OPEN, CLOSED])
async def test_kraken_found_nothing_only_if_all_lists_say_so(kraken: Opened, path: str) -> None:
    server, orders = kraken
    for number, answer in enumerate(
        (
            *(dropped, cut, said("<html>", status=502), said("<html>"), said({"error": []})),
            *(kraken_error("EService:Unavailable"), kraken_error("EAPI:Invalid nonce")),
            kraken_error("EAPI:Rate limit exceeded"),
            kraken_result(open=[], closed=[]),
        )
    ):
        kraken_has_nothing(server)
        server.answer(path, answer)
        with pytest.raises(VenueUnavailable):
            await orders.ask(live_order(KRAKEN, credential_id=number))


async def test_trades_that_kraken_does_not_show_yet_are_missing(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    server.answer(OPEN, kraken_result(open={TXID: told(order)}))
    server.answer(TRADES, kraken_result(TA=trade("0.004")))
    report = await orders.ask(order)
    assert report is not None
    assert report.executed == Decimal("0.01")
    assert sum(fill.quantity for fill in report.fills) == Decimal("0.004")


async def test_an_order_that_does_not_name_its_trades_is_found_among_all(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    server.answer(OPEN, kraken_result(open={TXID: told(order, trades=[])}))
    others = {f"T{number}": trade("1", ordertxid="OTHER") for number in range(50)}
    ours = {"TA": trade("0.004"), "TB": trade("0.006")}
    server.answer(
        "/0/private/TradesHistory",
        kraken_result(trades=others, count=52),
        kraken_result(trades=ours, count=52),
    )
    report = await orders.ask(order)
    assert report is not None
    assert {fill.trade_id for fill in report.fills} == {"TA", "TB"}
    assert [params["ofs"] for params in server.params_of("/0/private/TradesHistory")] == ["0", "50"]


async def test_more_trades_than_executed_make_no_report(kraken: Opened) -> None:
    server, orders = kraken
    order = live_order(KRAKEN)
    server.answer(OPEN, kraken_result(open={TXID: told(order, vol_exec="0.005")}))
    server.answer(TRADES, kraken_result(TA=trade("0.004"), TB=trade("0.006")))
    with pytest.raises(VenueUnavailable):
        await orders.ask(order)


# Binance


def binance_told(order: LiveOrder, **changes: object) -> dict[str, Any]:
    facts = {"orderId": 28, "clientOrderId": order.client_order_id, "status": "FILLED"}
    return {**facts, "symbol": "BTCUSDT", "executedQty": "0.01000000", **changes}


def binance_trade(id_: int, qty: str, **changes: object) -> dict[str, Any]:
    facts = {"id": id_, "orderId": 28, "qty": qty, "price": "43198.00", "time": 1507725176595}
    return {**facts, "commission": "0.000005", "commissionAsset": "BTC", **changes}


async def test_a_binance_order_is_reported_with_its_trades(binance: Opened) -> None:
    server, orders = binance
    order = live_order(BINANCE)
    server.answer(ORDER, binance_told(order))
    twice = binance_trade(57, "0.006")
    other = binance_trade(58, "1", orderId=29)
    server.answer(MY_TRADES, [twice, binance_trade(56, "0.004"), twice, other])
    report = await orders.ask(order)
    assert report is not None
    assert (report.status, report.venue_order_id) == (OrderStatus.FILLED, "28")
    assert {fill.trade_id: fill.quantity for fill in report.fills} == {
        "56": Decimal("0.004"),
        "57": Decimal("0.006"),
    }
    assert report.fills[0].fee_currency == "BTC"
    (query,) = server.params_of(ORDER)
    assert query["origClientOrderId"] == order.client_order_id
    assert server.params_of(MY_TRADES)[0]["orderId"] == "28"


@pytest.mark.parametrize(
    ("said_status", "status"),
    [
        ("NEW", OrderStatus.OPEN),
        ("PARTIALLY_FILLED", OrderStatus.OPEN),
        ("FILLED", OrderStatus.FILLED),
        ("CANCELED", OrderStatus.CANCELLED),
        ("REJECTED", OrderStatus.REJECTED),
        ("EXPIRED", OrderStatus.EXPIRED),
        ("EXPIRED_IN_MATCH", OrderStatus.EXPIRED),
    ],
)
async def test_binance_states(binance: Opened, said_status: str, status: OrderStatus) -> None:
    server, orders = binance
    order = live_order(BINANCE)
    server.answer(ORDER, binance_told(order, status=said_status, executedQty="0"))
    report = await orders.ask(order)
    assert report == Report(status=status, venue_order_id="28", executed=Decimal(0))
    assert not server.params_of(MY_TRADES)


async def test_binance_knows_no_such_order(binance: Opened) -> None:
    server, orders = binance
    server.answer(ORDER, binance_error(-2013, "Order does not exist."))
    assert await orders.ask(live_order(BINANCE)) is None


async def test_an_archived_binance_order_expired_without_a_fill(binance: Opened) -> None:
    server, orders = binance
    server.answer(ORDER, binance_error(-2026, "Order was canceled or expired ..."))
    report = await orders.ask(live_order(BINANCE))
    assert report is not None
    assert (report.status, report.executed) == (OrderStatus.EXPIRED, Decimal(0))


async def test_many_binance_trades_are_paged(binance: Opened) -> None:
    server, orders = binance
    order = live_order(BINANCE)
    server.answer(ORDER, binance_told(order, executedQty="10.01"))
    first = [binance_trade(number, "0.01") for number in range(1000)]
    server.answer(MY_TRADES, first, [binance_trade(1000, "0.01")])
    report = await orders.ask(order)
    assert report is not None
    assert len(report.fills) == 1001
    assert [params.get("fromId") for params in server.params_of(MY_TRADES)] == [None, "1000"]


@pytest.mark.parametrize(
    "answer",
    [
        *(dropped, cut, said("<html>", status=502), said("<html>"), said({}), said([])),
        *(binance_error(-1021, "Timestamp"), binance_error(-1001, "Internal error.")),
        binance_error(-2013, "Order does not exist.", status=503),
        said({"orderId": 28, "clientOrderId": "somebody else's", "status": "FILLED"}),
    ],
)
async def test_what_binance_does_not_say_is_not_known(binance: Opened, answer: Answer) -> None:
    server, orders = binance
    server.answer(ORDER, answer)
    with pytest.raises(VenueUnavailable):
        await orders.ask(live_order(BINANCE))


# Both


async def test_a_refused_key_cannot_ask(either: tuple[Venue, Opened]) -> None:
    venue, (server, orders) = either
    refusals = (kraken_error("EAPI:Invalid key"), binance_error(-2015, "Invalid", status=401))
    server.answer(OPEN, refusals[0])
    server.answer(ORDER, refusals[1])
    with pytest.raises(CredentialRefused):
        await orders.ask(live_order(venue))


async def test_throttling_says_for_how_long(binance: Opened) -> None:
    server, orders = binance
    server.answer(ORDER, binance_error(-1003, "Too many", status=429, Retry_After="7"))
    with pytest.raises(VenueUnavailable) as caught:
        await orders.ask(live_order(BINANCE))
    assert caught.value.retry_after_secs == 7.0


async def test_cancelling(either: tuple[Venue, Opened]) -> None:
    venue, (server, orders) = either
    path = "/0/private/CancelOrder" if venue is KRAKEN else ORDER
    gone = (
        kraken_error("EOrder:Unknown order")
        if venue is KRAKEN
        else binance_error(-2011, "Unknown order sent.")
    )
    fine = kraken_result(count=1) if venue is KRAKEN else said({"status": "CANCELED"})
    server.answer(path, fine, gone, said("<html>", status=502))
    order = live_order(venue, venue_order_id="28")
    await orders.cancel(live_order(venue))
    await orders.cancel(order)
    with pytest.raises(VenueUnavailable):
        await orders.cancel(order)
    by_client_id, by_venue_id, _ = server.params_of(path)
    assert set(by_client_id) & {"cl_ord_id", "origClientOrderId"}
    assert by_venue_id.get("txid", by_venue_id.get("orderId")) == "28"
    assert {asked.method for asked in server.asked} == {"POST" if venue is KRAKEN else "DELETE"}


async def test_a_cancellation_goes_out_once_though_its_kept_connection_breaks(
    binance: Opened,
) -> None:
    server, orders = binance
    server.answer(ORDER, binance_error(-2011, "Unknown order sent."), dropped)
    await orders.cancel(live_order(BINANCE))  # leaves a connection that is kept
    with pytest.raises(VenueUnavailable):
        await orders.cancel(live_order(BINANCE))
    assert len(server.asked) == 2


async def test_kraken_balances_are_what_is_free(kraken: Opened) -> None:
    server, orders = kraken
    server.answer(
        "/0/private/BalanceEx",
        kraken_result(
            ZUSD={"balance": "100.5", "hold_trade": "0.5"},
            XXBT={"balance": "0.25", "hold_trade": "0"},
            **{"USD.F": {"balance": "1", "hold_trade": "0"}},
            **{"SOL.S": {"balance": "9", "hold_trade": "0"}},
            DOT={"balance": "0", "hold_trade": "0"},
        ),
    )
    assert await orders.balances(1) == {"USD": Decimal(101), "BTC": Decimal("0.25")}


async def test_binance_balances_are_what_is_free(binance: Opened) -> None:
    server, orders = binance
    balances = [{"asset": "USDT", "free": "10.5", "locked": "3"}, {"asset": "BTC", "free": "0"}]
    server.answer("/api/v3/account", {"balances": balances})
    assert await orders.balances(1) == {"USDT": Decimal("10.5"), "BTC": Decimal(0)}


async def test_urgent_calls_of_a_kraken_key_go_first(kraken: Opened) -> None:
    server, orders = kraken
    first_is_there, go_on = asyncio.Event(), asyncio.Event()

    async def slow(request: web.Request) -> web.StreamResponse:
        first_is_there.set()
        await go_on.wait()
        return await kraken_result(open={}, closed={}, count=0)(request)

    kraken_has_nothing(server)
    server.answer(OPEN, slow)
    server.answer("/0/private/CancelOrder", kraken_result(count=1))
    asking = [asyncio.create_task(orders.ask(live_order(KRAKEN)))]
    await first_is_there.wait()
    asking.append(asyncio.create_task(orders.ask(live_order(KRAKEN))))
    await asyncio.sleep(0)
    cancelling = asyncio.create_task(orders.cancel(live_order(KRAKEN)))
    for _ in range(20):  # until both stand in line
        await asyncio.sleep(0)
    go_on.set()
    await asyncio.gather(*asking, cancelling)
    assert [asked.path for asked in server.asked[:2]] == [OPEN, "/0/private/CancelOrder"]
