"""Sending a live order, to the letter: what is on the wire, and what each answer proves."""

from collections.abc import AsyncIterator
from datetime import datetime
from decimal import Decimal

import pytest

from shared.clock import wall_ms
from shared.orders import Leg, OrderStatus
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.live_adapter import (
    OpenedVenue,
    full_reply,
    live_order,
    live_orders,
    opened,
)
from tests.integration.scripted_venue import (
    Answer,
    binance_error,
    cut,
    dropped,
    kraken_error,
    kraken_result,
    said,
    scripted_venue,
)
from trade_worker.venues import Sent, Verdict


@pytest.fixture
async def kraken() -> AsyncIterator[OpenedVenue]:
    async for one in opened(KRAKEN):
        yield one


@pytest.fixture
async def binance() -> AsyncIterator[OpenedVenue]:
    async for one in opened(BINANCE):
        yield one


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def either(request: pytest.FixtureRequest) -> AsyncIterator[OpenedVenue]:
    async for one in opened(request.param):
        yield one


# On the wire


async def test_a_kraken_limit_order_on_the_wire(kraken: OpenedVenue) -> None:
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


async def test_a_kraken_market_order_has_no_price(kraken: OpenedVenue) -> None:
    order = live_order(KRAKEN, limit_price=None, leg=Leg.EXIT)
    kraken.server.answer(kraken.path, kraken.accept(order))
    assert (await kraken.send(order)).verdict is Verdict.ACCEPTED
    (params,) = kraken.server.params_of(kraken.path)
    assert params["ordertype"] == "market"
    assert params["type"] == "sell"
    assert not params.keys() & {"price", "timeinforce"}


async def test_a_binance_limit_order_on_the_wire(binance: OpenedVenue) -> None:
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


async def test_a_binance_market_order_has_no_price(binance: OpenedVenue) -> None:
    order = live_order(BINANCE, limit_price=None, leg=Leg.EXIT)
    binance.server.answer(binance.path, binance.accept(order))
    await binance.send(order)
    (params,) = binance.server.params_of(binance.path)
    assert (params["type"], params["side"]) == ("MARKET", "SELL")
    assert not params.keys() & {"price", "timeInForce", "quoteOrderQty"}


@pytest.mark.parametrize("quantity", ["1E-8", "123456789.123456789", "10", "1.10"])
async def test_quantities_and_prices_go_out_as_they_are(either: OpenedVenue, quantity: str) -> None:
    order = live_order(either.venue, quantity=Decimal(quantity), limit_price=Decimal("0.000012340"))
    either.server.answer(either.path, either.accept(order))
    await either.send(order)
    (params,) = either.server.params_of(either.path)
    assert params.get("volume", params.get("quantity")) == format(Decimal(quantity), "f")
    assert params["price"] == "0.000012340"


@pytest.mark.parametrize("ahead_ms", [-90_000, 90_000])
async def test_times_are_by_the_venues_clock(venue_ahead: OpenedVenue, ahead_ms: int) -> None:
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
async def venue_ahead(request: pytest.FixtureRequest, ahead_ms: int) -> AsyncIterator[OpenedVenue]:
    async with scripted_venue() as server:
        server.ahead_ms = ahead_ms
        async with live_orders(request.param, server.base_url) as orders:
            yield OpenedVenue(request.param, server, orders)


# What answers prove


async def test_binance_tells_the_fills_at_once(binance: OpenedVenue) -> None:
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


async def test_a_binance_remainder_expires(binance: OpenedVenue) -> None:
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


async def test_a_proven_refusal_is_rejected(either: OpenedVenue) -> None:
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


async def test_a_refused_key_says_so(either: OpenedVenue) -> None:
    async for sent in _answered(either, KEY_REFUSALS):
        assert sent.verdict is Verdict.REJECTED
        assert sent.credential_refused


async def test_a_revoked_key_is_no_throttling_after_it_worked(binance: OpenedVenue) -> None:
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


async def test_everything_else_is_unknown(either: OpenedVenue) -> None:
    async for sent in _answered(either, UNKNOWNS):
        assert sent.verdict is Verdict.UNKNOWN
        assert not sent.credential_refused


async def test_throttling_without_the_venues_code_proves_nothing(binance: OpenedVenue) -> None:
    binance.server.answer(binance.path, said("Too many", status=429))
    assert (await binance.send(live_order(BINANCE))).verdict is Verdict.UNKNOWN


async def _answered(opened: OpenedVenue, cases: list[tuple[Venue, Answer]]) -> AsyncIterator[Sent]:
    """What comes of each case of the venue; another key each time, so that none is throttled."""
    answers = [answer for venue, answer in cases if venue is opened.venue]
    assert answers
    for number, answer in enumerate(answers, start=1):
        opened.server.answer(opened.path, answer)
        sent = await opened.send(live_order(opened.venue, credential_id=number))
        assert len(opened.server.asked) == number
        assert opened.server.base_url not in sent.text
        yield sent
