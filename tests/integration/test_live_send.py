"""Sending a live order, to the letter: what is on the wire, and what each answer proves."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any

import pytest
from aiohttp import web

from shared.clock import monotonic_secs, wall_ms
from shared.errors import CredentialRefused, StoreUnavailable
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.live_adapter import SECRET, live_order, live_orders
from tests.integration.scripted_venue import (
    Answer,
    ScriptedVenue,
    binance_error,
    cut,
    dropped,
    kraken_error,
    kraken_result,
    never,
    said,
    scripted_venue,
)
from trade_worker.venues import KeyOf, Sent, Verdict
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders

PATHS = {"kraken": "/0/private/AddOrder", "binance": "/api/v3/order"}


@dataclass(frozen=True, slots=True)
class Opened:
    """A venue and the adapter on it."""

    venue: Venue
    server: ScriptedVenue
    orders: LiveOrders

    @property
    def path(self) -> str:
        return PATHS[self.venue.name]

    def accept(self, order: LiveOrder, **changes: object) -> Answer:
        if self.venue is KRAKEN:
            return kraken_result(descr={"order": "buy"}, txid=["OUF4EM-FRGI2-MQMWZD"])
        return said(full_reply(order) | changes)

    async def send(self, order: LiveOrder, *, secs: float = 3.0) -> Sent:
        return await self.orders.send(order, send_by_secs=monotonic_secs() + secs)


def full_reply(order: LiveOrder) -> dict[str, Any]:
    """Binance's FULL reply to an order that filled in two trades."""
    fill = {"price": "43198.00", "commission": "0.00000500", "commissionAsset": "BTC"}
    return {
        "symbol": "BTCUSDT",
        "orderId": 28,
        "clientOrderId": order.client_order_id,
        "transactTime": 1507725176595,
        "origQty": "0.01000000",
        "executedQty": "0.01000000",
        "status": "FILLED",
        "fills": [
            {**fill, "qty": "0.00400000", "tradeId": 56},
            {**fill, "qty": "0.00600000", "tradeId": 57},
        ],
    }


async def opened(venue: Venue) -> AsyncIterator[Opened]:
    async with scripted_venue() as server, live_orders(venue, server.base_url) as orders:
        yield Opened(venue, server, orders)


@pytest.fixture
async def kraken() -> AsyncIterator[Opened]:
    async for one in opened(KRAKEN):
        yield one


@pytest.fixture
async def binance() -> AsyncIterator[Opened]:
    async for one in opened(BINANCE):
        yield one


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def either(request: pytest.FixtureRequest) -> AsyncIterator[Opened]:
    async for one in opened(request.param):
        yield one


# On the wire


async def test_a_kraken_limit_order_on_the_wire(kraken: Opened) -> None:
    order = live_order(KRAKEN, quantity=Decimal("0.0100"), limit_price=Decimal("43198.10"))
    kraken.server.answer(kraken.path, kraken.accept(order))
    before_ms = wall_ms()
    sent = await kraken.send(order)
    assert sent == Sent(verdict=Verdict.ACCEPTED, venue_order_id="OUF4EM-FRGI2-MQMWZD")
    (params,) = kraken.server.params_of(kraken.path)
    deadline, nonce = params.pop("deadline"), int(params.pop("nonce"))
    assert params == {
        "pair": "XXBTZUSD",
        "type": "buy",
        "ordertype": "limit",
        "price": "43198.10",
        "volume": "0.0100",
        "timeinforce": "IOC",
        "oflags": "fciq",
        "cl_ord_id": order.client_order_id,
    }
    deadline_ms = datetime.fromisoformat(deadline).timestamp() * 1000
    assert before_ms + 2000 < deadline_ms <= before_ms + 3000
    assert before_ms <= nonce <= wall_ms()


async def test_a_kraken_market_order_has_no_price(kraken: Opened) -> None:
    order = live_order(KRAKEN, limit_price=None, leg=Leg.EXIT)
    kraken.server.answer(kraken.path, kraken.accept(order))
    assert (await kraken.send(order)).verdict is Verdict.ACCEPTED
    (params,) = kraken.server.params_of(kraken.path)
    assert params["ordertype"] == "market"
    assert params["type"] == "sell"
    assert not params.keys() & {"price", "timeinforce"}


async def test_a_binance_limit_order_on_the_wire(binance: Opened) -> None:
    order = live_order(BINANCE, quantity=Decimal("0.0100"), limit_price=Decimal("43198.10"))
    binance.server.answer(binance.path, binance.accept(order))
    before_ms = wall_ms()
    sent = await binance.send(order)
    assert sent.verdict is Verdict.ACCEPTED
    assert sent.venue_order_id == "28"
    (asked,) = binance.server.asked
    params = dict(asked.params)
    stamp, window = int(params.pop("timestamp")), int(params.pop("recvWindow"))
    del params["signature"]
    assert (asked.method, params) == (
        "POST",
        {
            "symbol": "BTCUSDT",
            "side": "BUY",
            "type": "LIMIT",
            "timeInForce": "IOC",
            "price": "43198.10",
            "quantity": "0.0100",
            "newClientOrderId": order.client_order_id,
            "newOrderRespType": "FULL",
        },
    )
    assert before_ms - 100 <= stamp <= wall_ms()
    assert before_ms + 2500 < stamp + window <= before_ms + 3000


async def test_a_binance_market_order_has_no_price(binance: Opened) -> None:
    order = live_order(BINANCE, limit_price=None, leg=Leg.EXIT)
    binance.server.answer(binance.path, binance.accept(order))
    await binance.send(order)
    (params,) = binance.server.params_of(binance.path)
    assert (params["type"], params["side"]) == ("MARKET", "SELL")
    assert not params.keys() & {"price", "timeInForce", "quoteOrderQty"}


@pytest.mark.parametrize("quantity", ["1E-8", "123456789.123456789", "10", "1.10"])
async def test_quantities_and_prices_go_out_as_they_are(either: Opened, quantity: str) -> None:
    order = live_order(either.venue, quantity=Decimal(quantity), limit_price=Decimal("0.000012340"))
    either.server.answer(either.path, either.accept(order))
    await either.send(order)
    (params,) = either.server.params_of(either.path)
    assert params.get("volume", params.get("quantity")) == format(Decimal(quantity), "f")
    assert params["price"] == "0.000012340"


@pytest.mark.parametrize("ahead_ms", [-90_000, 90_000])
async def test_times_are_by_the_venues_clock(venue_ahead: Opened, ahead_ms: int) -> None:
    order = live_order(venue_ahead.venue)
    venue_ahead.server.answer(venue_ahead.path, venue_ahead.accept(order))
    send_by_ms = wall_ms() + 3000 + ahead_ms
    await venue_ahead.send(order)
    (params,) = venue_ahead.server.params_of(venue_ahead.path)
    if venue_ahead.venue is KRAKEN:
        until_ms = datetime.fromisoformat(params["deadline"]).timestamp() * 1000
    else:
        until_ms = int(params["timestamp"]) + int(params["recvWindow"])
    assert send_by_ms - 1000 < until_ms <= send_by_ms


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def venue_ahead(request: pytest.FixtureRequest, ahead_ms: int) -> AsyncIterator[Opened]:
    async with scripted_venue() as server:
        server.ahead_ms = ahead_ms
        async with live_orders(request.param, server.base_url) as orders:
            yield Opened(request.param, server, orders)


# What answers prove


async def test_binance_tells_the_fills_at_once(binance: Opened) -> None:
    order = live_order(BINANCE)
    reply = full_reply(order)
    reply["fills"].append(reply["fills"][0])  # told twice
    binance.server.answer(binance.path, said(reply))
    sent = await binance.send(order)
    assert sent.report is not None
    assert sent.report.status is OrderStatus.FILLED
    assert sent.report.executed == Decimal("0.01")
    assert [(fill.trade_id, fill.quantity) for fill in sent.report.fills] == [
        ("56", Decimal("0.004")),
        ("57", Decimal("0.006")),
    ]
    fill = sent.report.fills[0]
    assert (fill.price, fill.fee) == (Decimal(43198), Decimal("0.000005"))
    assert fill.fee_currency == "BTC"
    assert fill.at_ms == 1507725176595


async def test_a_binance_remainder_expires(binance: Opened) -> None:
    order = live_order(BINANCE)
    binance.server.answer(
        binance.path, binance.accept(order, status="EXPIRED", executedQty="0", fills=[])
    )
    sent = await binance.send(order)
    assert sent.report is not None
    assert (sent.report.status, sent.report.executed) == (OrderStatus.EXPIRED, Decimal(0))


REFUSALS = [
    (KRAKEN, kraken_error("EOrder:Insufficient funds")),
    (KRAKEN, kraken_error("EOrder:Order minimum not met")),
    (KRAKEN, kraken_error("EGeneral:Invalid arguments:volume")),
    (BINANCE, binance_error(-2010, "Account has insufficient balance for requested action.")),
    (BINANCE, binance_error(-1013, "Filter failure: LOT_SIZE")),
]


async def test_a_proven_refusal_is_rejected(either: Opened) -> None:
    async for sent in _answered(either, REFUSALS):
        assert sent.verdict is Verdict.REJECTED
        assert not sent.credential_refused
        assert sent.funds_short == ("nsufficient" in sent.text)


KEY_REFUSALS = [
    (KRAKEN, kraken_error("EAPI:Invalid key")),
    (KRAKEN, kraken_error("EAPI:Invalid signature")),
    (KRAKEN, kraken_error("EGeneral:Permission denied")),
    (BINANCE, binance_error(-2015, "Invalid API-key, IP, or permissions for action.", status=401)),
    (BINANCE, binance_error(-1022, "Signature for this request is not valid.")),
]


async def test_a_refused_key_says_so(either: Opened) -> None:
    async for sent in _answered(either, KEY_REFUSALS):
        assert sent.verdict is Verdict.REJECTED
        assert sent.credential_refused


async def test_a_revoked_key_is_no_throttling_after_it_worked(binance: Opened) -> None:
    order = live_order(BINANCE)
    revoked = binance_error(-2015, "Invalid API-key, IP, or permissions for action.", status=401)
    binance.server.answer(binance.path, binance.accept(order), revoked)
    assert (await binance.send(order)).verdict is Verdict.ACCEPTED
    assert (await binance.send(live_order(BINANCE))).credential_refused


THROTTLINGS = [
    (KRAKEN, kraken_error("EAPI:Rate limit exceeded"), None),
    (KRAKEN, kraken_error("EOrder:Rate limit exceeded"), None),
    (BINANCE, binance_error(-1003, "Too many requests.", status=429, Retry_After="7"), 7.0),
    (BINANCE, binance_error(-1003, "IP banned.", status=418, Retry_After="120"), 120.0),
    (BINANCE, binance_error(-1015, "Too many new orders.", status=429), None),
]


@pytest.mark.parametrize(("venue", "answer", "retry_after_secs"), THROTTLINGS)
async def test_throttling_is_a_refusal(
    venue: Venue, answer: Answer, retry_after_secs: float | None
) -> None:
    async for one in opened(venue):
        one.server.answer(one.path, answer)
        sent = await one.send(live_order(venue))
    assert sent.verdict is Verdict.REJECTED
    assert sent.retry_after_secs == retry_after_secs


UNKNOWNS = [
    *[(venue, answer) for venue in VENUES.values() for answer in (dropped, cut)],
    *[(venue, said("<html>", status=502)) for venue in VENUES.values()],
    *[(venue, said("<html>")) for venue in VENUES.values()],
    *[(venue, said("", status=200)) for venue in VENUES.values()],
    *[(venue, said({}, status=200)) for venue in VENUES.values()],
    *[(venue, said([], status=200)) for venue in VENUES.values()],
    *[(venue, said({"odd": True}, status=403)) for venue in VENUES.values()],
    (KRAKEN, kraken_error("EOrder:Insufficient funds", status=503)),
    (KRAKEN, kraken_error("EService:Deadline elapsed")),
    (KRAKEN, kraken_error("EService:Unavailable")),
    (KRAKEN, kraken_error("EService:Busy")),
    (KRAKEN, kraken_error("EGeneral:Internal error")),
    (KRAKEN, kraken_error("EAPI:Invalid nonce")),
    (KRAKEN, kraken_error("EOrder:Insufficient funds", "EService:Busy")),
    (KRAKEN, kraken_error("EGeneral:Invalid arguments:cl_ord_id is in use")),
    (KRAKEN, kraken_error("EOrder:A text that nobody has seen")),
    (KRAKEN, kraken_result(descr={}, txid=[])),
    (KRAKEN, kraken_result(descr={})),
    (BINANCE, binance_error(-2010, "Duplicate order sent.")),
    (BINANCE, binance_error(-1021, "Timestamp for this request is outside of the recvWindow.")),
    (BINANCE, binance_error(-1000, "An unknown error occurred.")),
    (BINANCE, binance_error(-1001, "Internal error.")),
    (BINANCE, binance_error(-1006, "Execution status unknown.")),
    (BINANCE, binance_error(-1007, "Timeout waiting for response.", status=408)),
    (BINANCE, binance_error(-2010, "Account has insufficient balance.", status=500)),
    (BINANCE, binance_error(-99999, "A code that nobody has seen.")),
    (BINANCE, said({"orderId": 1, "clientOrderId": "not ours", "status": "FILLED"})),
]


async def test_everything_else_is_unknown(either: Opened) -> None:
    async for sent in _answered(either, UNKNOWNS):
        assert sent.verdict is Verdict.UNKNOWN
        assert not sent.credential_refused


async def test_throttling_without_the_venues_code_proves_nothing(binance: Opened) -> None:
    binance.server.answer(binance.path, said("Too many", status=429))
    assert (await binance.send(live_order(BINANCE))).verdict is Verdict.UNKNOWN


async def _answered(opened: Opened, cases: list[tuple[Venue, Answer]]) -> AsyncIterator[Sent]:
    """What comes of each case of the venue; another key each time, so that none is throttled."""
    answers = [answer for venue, answer in cases if venue is opened.venue]
    assert answers
    for number, answer in enumerate(answers, start=1):
        opened.server.answer(opened.path, answer)
        sent = await opened.send(live_order(opened.venue, credential_id=number))
        assert len(opened.server.asked) == number
        assert opened.server.base_url not in sent.text
        yield sent


# Sent, or maybe sent, or not


async def test_no_answer_in_time_is_unknown(either: Opened) -> None:
    released = asyncio.Event()
    either.server.answer(either.path, never(released))
    secs = 2.15 if either.venue is KRAKEN else 0.3
    sent = await either.send(live_order(either.venue), secs=secs)
    released.set()
    assert sent.verdict is Verdict.UNKNOWN
    assert "in time" in sent.text


async def test_a_redirect_is_not_followed(either: Opened) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{either.path}?again"})

    either.server.answer(either.path, elsewhere)
    assert (await either.send(live_order(either.venue))).verdict is Verdict.UNKNOWN
    assert len(either.server.asked) == 1


async def test_an_order_whose_time_is_over_is_not_sent(either: Opened) -> None:
    least_secs = 2.0 if either.venue is KRAKEN else 0.05
    sent = await either.send(live_order(either.venue), secs=least_secs)
    assert sent.verdict is Verdict.NOT_SENT
    assert not either.server.asked


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
async def test_a_venue_that_cannot_be_reached_got_nothing(venue: Venue) -> None:
    async with scripted_venue() as server:
        adapter = live_orders(venue, server.base_url)
        orders = await adapter.__aenter__()
    for _ in range(2):  # the first may still find the connection that it was loaded with
        sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
    await adapter.__aexit__(None, None, None)
    assert sent.verdict is Verdict.NOT_SENT


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
async def test_without_the_venues_clock_nothing_is_sent(venue: Venue) -> None:
    async with scripted_venue() as server:
        server.time_down = True
        async with live_orders(venue, server.base_url) as orders:
            sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
            assert sent.verdict is Verdict.NOT_SENT
            assert not server.asked
            server.time_down = False
            server.answer(PATHS[venue.name], kraken_error("EOrder:Invalid price"))
            sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
            assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("error", "refused"),
    [(CredentialRefused("no such key"), True), (StoreUnavailable("away"), False)],
)
async def test_without_its_key_an_order_is_not_sent(error: Exception, refused: bool) -> None:
    async def keys(_: int) -> KeyOf:
        raise error

    async with scripted_venue() as server:
        orders = LiveOrders(
            urls={"kraken": server.base_url},
            keys=keys,
            limiters={"kraken": Limiter(KRAKEN)},
            proxy_url=None,
        )
        await orders.start()
        sent = await orders.send(live_order(KRAKEN), send_by_secs=monotonic_secs() + 3)
        await orders.close()
    assert (sent.verdict, sent.credential_refused) == (Verdict.NOT_SENT, refused)


async def test_a_pair_that_is_not_listed_is_not_sent(either: Opened) -> None:
    sent = await either.send(live_order(either.venue, pair="NONE/SUCH"))
    assert sent.verdict is Verdict.NOT_SENT
    assert not either.server.asked


async def test_an_order_that_is_cancelled_on_its_way_raises(either: Opened) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await released.wait()
        return web.Response()

    either.server.answer(either.path, hold)
    sending = asyncio.create_task(either.send(live_order(either.venue)))
    await arrived.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    released.set()


# Many at once


async def test_one_call_of_a_kraken_key_at_a_time(kraken: Opened) -> None:
    under_way = most = 0

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return await kraken.accept(live_order(KRAKEN))(request)

    kraken.server.answer(kraken.path, slowly)
    sent = await asyncio.gather(*(kraken.send(live_order(KRAKEN)) for _ in range(12)))
    assert {one.verdict for one in sent} == {Verdict.ACCEPTED}
    assert most == 1
    nonces = [int(params["nonce"]) for params in kraken.server.params_of(kraken.path)]
    assert nonces == sorted(set(nonces))


async def test_different_kraken_keys_do_not_wait_for_each_other(kraken: Opened) -> None:
    await _meet(kraken, [live_order(KRAKEN, credential_id=id_) for id_ in (1, 2, 3)])


async def test_a_binance_key_calls_at_the_same_time(binance: Opened) -> None:
    await _meet(binance, [live_order(BINANCE) for _ in range(3)])


async def _meet(opened: Opened, orders: list[LiveOrder]) -> None:
    """Every request is answered only when all are there."""
    all_here = asyncio.Barrier(len(orders))

    async def together(request: web.Request) -> web.StreamResponse:
        await all_here.wait()
        return await kraken_error("EOrder:Invalid price")(request)

    opened.server.answer(opened.path, together)
    sent = await asyncio.gather(*(opened.send(order) for order in orders))
    assert all("in time" not in one.text for one in sent)
    assert len(opened.server.asked) == len(orders)


async def test_a_nonce_that_was_too_low_is_jumped_over(kraken: Opened) -> None:
    order = live_order(KRAKEN)
    kraken.server.answer(kraken.path, kraken_error("EAPI:Invalid nonce"), kraken.accept(order))
    await kraken.send(order)
    await kraken.send(live_order(KRAKEN))
    first, second = (int(params["nonce"]) for params in kraken.server.params_of(kraken.path))
    assert second >= first + 2000


# Nothing leaks


async def test_an_answer_that_quotes_the_request_is_not_repeated(
    either: Opened, caplog: pytest.LogCaptureFixture
) -> None:
    async def quoting(request: web.Request) -> web.StreamResponse:
        quoted = " ".join([*request.headers.values(), await request.text(), SECRET])
        body = {"code": -1013, "msg": quoted, "error": [f"EOrder:Invalid price:{quoted}"]}
        return web.json_response(json.loads(json.dumps(body)), status=200)

    either.server.answer(either.path, quoting)
    with caplog.at_level(logging.DEBUG):
        sent = await either.send(live_order(either.venue))
    (asked,) = either.server.asked
    secrets = [SECRET, *(asked.headers[name] for name in asked.headers if "Sign" in name)]
    secrets += [asked.params["signature"]] if "signature" in asked.params else []
    assert len(secrets) == 2
    for text in (repr(sent), caplog.text):
        assert not [secret for secret in secrets if secret in text]
