"""The live adapter trades at the simulated venues, and each fault alone ends as it must.

The simulator's journal is the truth that every verdict and report is held against.
"""

import asyncio
from collections.abc import AsyncIterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import pytest

from ecosystem.venue_simulator import VenueSimulator
from ecosystem.venue_simulator.journal import read_journal
from shared.clock import monotonic_secs, wall_ms
from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import Leg, LiveOrder, OrderStatus
from shared.vault import ApiKey
from shared.venues import BINANCE, KRAKEN, VENUES, Venue, base_of, quote_of
from tests.integration.live_adapter import live_order, live_orders
from tests.integration.simulated_venue import Customer, break_it, open_account, request, running
from trade_worker.venues import Report, Sent, Verdict
from trade_worker.venues.clients import client_for
from trade_worker.venues.live import LiveOrders
from trade_worker.venues.wire import venue_session

FUNDS: Final = Decimal(100_000)
CREDENTIAL: Final = 1


@dataclass(frozen=True, slots=True)
class Desk:
    """The adapter, at one simulated venue, with one customer's key."""

    venue: Venue
    simulator: VenueSimulator
    orders: LiveOrders
    customer: Customer
    journal: Path
    ask_price: Decimal

    def entry(self, **changes: object) -> LiveOrder:
        """A purchase that fills: limit 1 % above the price."""
        limit = (self.ask_price * Decimal("1.01")).quantize(Decimal("0.1"))
        facts = {"limit_price": limit, "credential_id": CREDENTIAL, **changes}
        return live_order(self.venue, quantity=Decimal("0.01"), **facts)

    async def send(self, order: LiveOrder, *, secs: float = 3.0) -> Sent:
        return await self.orders.send(order, send_by_secs=monotonic_secs() + secs)

    async def break_it(self, kind: str, **fault: object) -> None:
        await break_it(self.simulator, venue=self.venue.name, kind=kind, **fault)

    async def found(self, order: LiveOrder) -> Report:
        """What asking tells in the end."""
        async with asyncio.timeout(10):
            while True:
                report = await self.orders.ask(order)
                if report is not None and settled(report):
                    return report
                # A Kraken key has few questions to spend.
                await asyncio.sleep(1.0 if self.venue is KRAKEN else 0.05)

    def lines(self, type_: str, order: LiveOrder) -> list[dict[str, Any]]:
        return [
            line
            for line in read_journal(self.journal)
            if line["type"] == type_ and line.get("client_order_id") == order.client_order_id
        ]

    def bought(self, order: LiveOrder) -> Mapping[str, Decimal]:
        """The order's trades by the journal, after seeing that there is one order of that id."""
        assert len(self.lines("accepted", order)) == 1
        return {
            str(line["trade_id"]): Decimal(line["quantity"]) for line in self.lines("filled", order)
        }


def settled(report: Report) -> bool:
    return report.status is not OrderStatus.OPEN and total(report) == report.executed


def total(report: Report) -> Decimal:
    return sum((fill.quantity for fill in report.fills), Decimal(0))


def trades(report: Report) -> Mapping[str, Decimal]:
    return {fill.trade_id: fill.quantity for fill in report.fills}


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def desk(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Desk]:
    async for one in _desk(request.param, tmp_path):
        yield one


async def _desk(venue: Venue, folder: Path) -> AsyncIterator[Desk]:
    journal, pair = folder / "journal.jsonl", venue.reference_pair
    async with running(journal=journal) as simulator:
        customer = await open_account(
            simulator, venue.name, {quote_of(pair): str(FUNDS), base_of(pair): "1"}
        )
        ask_price = await _ask_price(venue, simulator)
        keys = {CREDENTIAL: ApiKey(key=customer.key, secret=customer.secret)}
        async with live_orders(venue, simulator.base_url, keys=keys) as orders:
            yield Desk(venue, simulator, orders, customer, journal, ask_price)


async def _ask_price(venue: Venue, simulator: VenueSimulator) -> Decimal:
    if venue is KRAKEN:
        _, told = await request("GET", f"{simulator.base_url}/0/public/Ticker?pair=XXBTZUSD")
        return Decimal(told["result"]["XXBTZUSD"]["a"][0])
    _, told = await request("GET", f"{simulator.base_url}/api/v3/ticker/24hr?symbol=BTCUSDT")
    return Decimal(told["askPrice"])


# Without faults


async def test_an_entry_fills_and_is_reported_to_the_last_digit(desk: Desk) -> None:
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.ACCEPTED, sent.text
    report = await desk.found(order)
    assert report.status is OrderStatus.FILLED
    assert report.executed == order.quantity
    assert trades(report) == desk.bought(order)
    assert report.venue_order_id == sent.venue_order_id
    for fill, line in zip(
        sorted(report.fills, key=lambda fill: fill.trade_id),
        sorted(desk.lines("filled", order), key=lambda line: str(line["trade_id"])),
        strict=True,
    ):
        assert (fill.price, fill.fee) == (Decimal(line["price"]), Decimal(line["fee"]))
        assert fill.fee_currency == line["fee_currency"]
    if sent.report is not None:
        assert trades(sent.report) == trades(report)
        assert {(fill.fee, fill.fee_currency) for fill in sent.report.fills} == {
            (fill.fee, fill.fee_currency) for fill in report.fills
        }


async def test_what_was_bought_is_sold_at_market(desk: Desk) -> None:
    order = desk.entry(leg=Leg.EXIT, limit_price=None)
    assert (await desk.send(order)).verdict is Verdict.ACCEPTED
    report = await desk.found(order)
    assert (report.status, report.executed) == (OrderStatus.FILLED, order.quantity)
    assert {fill.fee_currency for fill in report.fills} == {quote_of(desk.venue.reference_pair)}


async def test_an_order_that_nobody_meets_ends_unfilled(desk: Desk) -> None:
    order = desk.entry(limit_price=(desk.ask_price / 2).quantize(Decimal("0.1")))
    assert (await desk.send(order)).verdict is Verdict.ACCEPTED
    report = await desk.found(order)
    assert report.status in (OrderStatus.CANCELLED, OrderStatus.EXPIRED)
    assert (report.executed, report.fills) == (Decimal(0), ())


async def test_balances_are_by_our_names(desk: Desk) -> None:
    pair = desk.venue.reference_pair
    assert await desk.orders.balances(CREDENTIAL) == {quote_of(pair): FUNDS, base_of(pair): 1}


async def test_an_order_that_was_never_sent_is_not_found(desk: Desk) -> None:
    assert await desk.orders.ask(desk.entry()) is None


async def test_cancelling_what_is_gone_is_fine(desk: Desk) -> None:
    order = desk.entry()
    await desk.orders.cancel(order)
    await desk.send(order)
    await desk.orders.cancel(order)
    assert (await desk.found(order)).status is OrderStatus.FILLED


async def test_a_resting_order_is_cancelled(desk: Desk) -> None:
    order = desk.entry()
    await rest(desk, order)
    report = await desk.orders.ask(order)
    assert report is not None
    assert report.status is OrderStatus.OPEN
    await desk.orders.cancel(order)
    assert (await desk.found(order)).status is OrderStatus.CANCELLED


async def rest(desk: Desk, order: LiveOrder) -> None:
    """Place the order as ours never are: to wait, at half the price."""
    half = str((desk.ask_price / 2).quantize(Decimal("0.1")))
    key = ApiKey(key=desk.customer.key, secret=desk.customer.secret)
    session = venue_session()
    client = client_for(desk.venue, url=desk.simulator.base_url, key=key, session=session)
    if desk.venue is KRAKEN:
        facts = {"pair": "XXBTZUSD", "type": "buy", "ordertype": "limit", "volume": "0.01"}
        named = {"cl_ord_id": order.client_order_id}
        await client.call("AddOrder", {**facts, **named, "price": half})
    else:
        facts = {"symbol": "BTCUSDT", "side": "BUY", "type": "LIMIT", "quantity": "0.01"}
        named = {"newClientOrderId": order.client_order_id, "timeInForce": "GTC"}
        await client.call("order", {**facts, **named, "price": half})
    await session.close()


@pytest.mark.parametrize(
    ("quantity", "short"), [(Decimal(100), True), (Decimal("0.00000001"), False)]
)
async def test_what_the_venue_refuses_is_rejected(
    desk: Desk, quantity: Decimal, short: bool
) -> None:
    order = live_order(
        desk.venue, quantity=quantity, limit_price=desk.ask_price, credential_id=CREDENTIAL
    )
    sent = await desk.send(order)
    assert sent.verdict is Verdict.REJECTED, sent.text
    assert sent.funds_short is short
    assert await desk.orders.ask(order) is None


# Accepted, but the answer tells nothing


@pytest.mark.parametrize(
    "kind", ["accept_then_drop", "accept_then_fail", "accept_then_garbage", "cut_body"]
)
async def test_an_acceptance_that_is_not_heard_is_found(desk: Desk, kind: str) -> None:
    await desk.break_it(kind, endpoint="add_order", times=1)
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.UNKNOWN
    report = await desk.found(order)
    assert report.status is OrderStatus.FILLED
    assert trades(report) == desk.bought(order)


@pytest.mark.parametrize("status", [0, 502])
async def test_an_order_that_is_executed_late_is_found_late(desk: Desk, status: int) -> None:
    await desk.break_it("late", endpoint="add_order", times=1, delay_secs=0.5, status=status)
    order = desk.entry()
    assert (await desk.send(order)).verdict is Verdict.UNKNOWN
    assert await desk.orders.ask(order) is None
    assert trades(await desk.found(order)) == desk.bought(order)


async def test_an_order_that_is_too_late_is_refused_by_its_venue(desk: Desk) -> None:
    await desk.break_it("late", endpoint="add_order", times=1, delay_secs=2.6, status=502)
    order = desk.entry()
    secs = 2.3 if desk.venue is KRAKEN else 0.5
    assert (await desk.send(order, secs=secs)).verdict is Verdict.UNKNOWN
    await asyncio.sleep(2.8)
    assert await desk.orders.ask(order) is None
    assert not desk.lines("accepted", order)


async def test_a_request_that_is_stuck_past_its_time_does_nothing(desk: Desk) -> None:
    secs = 2.3 if desk.venue is KRAKEN else 0.5
    await desk.break_it("slow", endpoint="add_order", times=1, delay_secs=secs + 0.3)
    order = desk.entry()
    send_by_ms = wall_ms() + int(1000 * secs)
    assert (await desk.send(order, secs=secs)).verdict is Verdict.UNKNOWN
    assert await desk.orders.ask(order) is None
    assert all(line["wall_ms"] <= send_by_ms for line in desk.lines("accepted", order))


async def test_fills_before_the_acknowledgement(desk: Desk) -> None:
    await desk.break_it("fill_first", endpoint="add_order", times=1, delay_secs=0.6)
    order = desk.entry()
    sending = asyncio.create_task(desk.send(order))
    if desk.venue is BINANCE:  # a Kraken key makes one call at a time
        report = await desk.found(order)
        assert not sending.done()
        assert trades(report) == desk.bought(order)
    assert (await sending).verdict is Verdict.ACCEPTED
    assert trades(await desk.found(order)) == desk.bought(order)


# Not accepted


@pytest.mark.parametrize("kind", ["refuse_then_fail", "fail", "garbage", "maintenance"])
async def test_what_proves_nothing_is_asked_for(desk: Desk, kind: str) -> None:
    await desk.break_it(kind, endpoint="add_order", times=1)
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.UNKNOWN, sent
    assert await desk.orders.ask(order) is None
    assert not desk.lines("accepted", order)


@pytest.mark.parametrize("kind", ["throttle", "ban"])
async def test_throttling_is_a_refusal_that_is_heeded(desk: Desk, kind: str) -> None:
    await desk.break_it(kind, endpoint="add_order", times=1, retry_after_secs=2)
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.REJECTED, sent
    assert not desk.lines("accepted", order)
    later = await desk.send(desk.entry(), secs=2.2 if desk.venue is KRAKEN else 0.5)
    assert later.verdict is Verdict.NOT_SENT, later


async def test_a_revoked_key_is_refused(desk: Desk) -> None:
    await desk.break_it("revoked")
    order = desk.entry()
    sent = await desk.send(order)
    assert (sent.verdict, sent.credential_refused) == (Verdict.REJECTED, True), sent
    with pytest.raises(CredentialRefused):
        await desk.orders.ask(order)
    with pytest.raises(CredentialRefused):
        await desk.orders.balances(CREDENTIAL)


@pytest.mark.parametrize(
    "kind",
    [
        *("fail", "garbage", "refuse_then_fail", "maintenance", "throttle", "ban"),
        *("accept_then_drop", "accept_then_fail", "accept_then_garbage", "cut_body"),
    ],
)
async def test_a_question_that_fails_is_no_answer(desk: Desk, kind: str) -> None:
    endpoint = "open_orders" if desk.venue is KRAKEN else "order_query"
    await desk.break_it(kind, endpoint=endpoint, times=1)
    with pytest.raises(VenueUnavailable):
        await desk.orders.ask(desk.entry())


# What the venue shows of it


async def test_an_order_that_the_venue_hides_at_first_is_found_later(desk: Desk) -> None:
    await desk.break_it("lag", delay_secs=0.7)
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.ACCEPTED
    assert await desk.orders.ask(order) is None
    assert trades(await desk.found(order)) == desk.bought(order)


async def test_trades_that_the_venue_hides_at_first_are_missing_from_the_report(
    desk: Desk,
) -> None:
    order = desk.entry()
    sent = await desk.send(order)
    order = replace(order, venue_order_id=sent.venue_order_id)
    await desk.break_it("lag", endpoint="trades", delay_secs=0.7)
    report = await desk.orders.ask(order)
    assert report is not None
    assert report.executed == order.quantity
    assert total(report) in (Decimal(0), order.quantity)
    assert trades(await desk.found(order)) == desk.bought(order)


async def test_a_partial_fill_ends_with_what_it_got(desk: Desk) -> None:
    await desk.break_it("partial", endpoint="add_order", times=1, parts=3, fraction=0.6)
    order = desk.entry()
    assert (await desk.send(order)).verdict is Verdict.ACCEPTED
    report = await desk.found(order)
    assert report.status in (OrderStatus.CANCELLED, OrderStatus.EXPIRED)
    assert report.executed == Decimal("0.006")
    assert len(report.fills) == 3
    assert trades(report) == desk.bought(order)


@pytest.mark.parametrize("kind", ["duplicate_fills", "reorder_fills"])
async def test_trades_told_twice_or_out_of_order_count_once(desk: Desk, kind: str) -> None:
    await desk.break_it("partial", endpoint="add_order", times=1, parts=3)
    await desk.break_it(kind)
    order = desk.entry()
    sent = await desk.send(order)
    assert sent.verdict is Verdict.ACCEPTED
    report = await desk.found(order)
    assert report.executed == order.quantity
    assert trades(report) == desk.bought(order)
    if sent.report is not None:
        assert trades(sent.report) == trades(report)


# Its clock


@pytest.mark.parametrize("skew_secs", [-40.0, 40.0])
async def test_a_clock_that_was_set_meanwhile_is_learnt(desk: Desk, skew_secs: float) -> None:
    await desk.break_it("clock_skew", skew_secs=skew_secs)
    first = await desk.send(desk.entry())
    # A deadline that Kraken thinks is later than it is tells it nothing.
    assert (first.verdict is Verdict.ACCEPTED) == (desk.venue is KRAKEN and skew_secs < 0)
    async with asyncio.timeout(10):
        while True:
            order = desk.entry()
            if (await desk.send(order)).verdict is Verdict.ACCEPTED:
                break
            await asyncio.sleep(0.1)
    assert trades(await desk.found(order)) == desk.bought(order)
