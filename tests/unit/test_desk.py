"""The desk: a committed order is sent once or never; its outcome is written or asked for."""

import asyncio
from dataclasses import replace

import pytest

from shared.clock import monotonic_secs
from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import LiveOrder, OrderStatus
from tests.unit.live_fakes import (
    PATIENCE_SECS,
    VENUE_ID,
    Answer,
    Ledger,
    ScriptedOrders,
    a_few_turns,
    live_order,
    report,
    trade,
    until,
)
from trade_worker import desk as desk_module
from trade_worker.desk import Desk
from trade_worker.venues import Sent, Verdict

ACCEPTED = Sent(verdict=Verdict.ACCEPTED, venue_order_id=VENUE_ID)
REJECTED = Sent(verdict=Verdict.REJECTED, text="insufficient funds")
NOT_SENT = Sent(verdict=Verdict.NOT_SENT, text="no clock")
UNKNOWN = Sent(verdict=Verdict.UNKNOWN, text="no answer in time")
BROKEN: tuple[Exception, ...] = (
    RuntimeError("a mistake of ours"),
    TimeoutError(),
    VenueUnavailable("is away"),
    CredentialRefused("revoked"),
)


class Room:
    """A desk, and whoever is around it."""

    def __init__(self) -> None:
        self.port = ScriptedOrders()
        self.ledger = Ledger()
        self.why: str | None = None
        self.unsettled: list[LiveOrder] = []
        self.refused: list[tuple[int, str]] = []
        self.desk = Desk(
            port=self.port,
            settling=self.ledger,
            forbidden=lambda _: self.why,
            on_unsettled=self.unsettled.append,
            on_refused_key=self._refuse_key,
        )
        self.mistake: Exception | None = None

    def take(self, order: LiveOrder, *, secs: float = 3.0) -> None:
        self.desk.take(order, send_by_secs=monotonic_secs() + secs)

    async def place(self, order: LiveOrder, *answers: Answer, secs: float = 3.0) -> None:
        if answers:
            self.port.sending.clear()
            self.port.sending.extend(answers)
        self.take(order, secs=secs)
        await self.drained()

    def _refuse_key(self, order: LiveOrder, text: str) -> None:
        if self.mistake is not None:
            raise self.mistake
        self.refused.append((order.credential_id, text))

    async def drained(self) -> None:
        async with asyncio.timeout(PATIENCE_SECS):
            await self.desk.drain()


@pytest.fixture
async def room() -> Room:
    return Room()


# Sent once, or never


@pytest.mark.parametrize("answer", [ACCEPTED, REJECTED, NOT_SENT, UNKNOWN, *BROKEN], ids=repr)
async def test_an_order_is_sent_exactly_once_whatever_comes_of_it(
    room: Room, answer: Answer
) -> None:
    order = live_order()
    await room.place(order, answer)
    await a_few_turns()
    assert room.port.sent == [order.client_order_id]
    assert len(room.ledger.told(order)) == 1


async def test_an_order_whose_time_is_over_is_never_sent(room: Room) -> None:
    order = live_order()
    await room.place(order, secs=0.0)
    assert room.port.sent == []
    (news,) = room.ledger.written
    assert (news.status, news.sent_at_ms) == (OrderStatus.EXPIRED, None)
    assert room.ledger.statuses[order.client_order_id] is OrderStatus.EXPIRED
    assert room.unsettled == []


async def test_what_is_forbidden_at_the_last_moment_is_never_sent(room: Room) -> None:
    room.why = "it was stopped"
    order = live_order()
    await room.place(order)
    assert room.port.sent == []
    (news,) = room.ledger.written
    assert (news.status, news.detail, news.sent_at_ms) == (
        OrderStatus.EXPIRED,
        "it was stopped",
        None,
    )
    assert room.desk.verdicts[Verdict.NOT_SENT] == 1


@pytest.mark.parametrize("cause", ["time", "switch"])
async def test_an_order_that_waited_its_turn_is_looked_at_again_before_it_is_sent(
    monkeypatch: pytest.MonkeyPatch, cause: str
) -> None:
    monkeypatch.setattr(desk_module, "MOST_AT_ONCE", 1)
    room = Room()
    first, second = live_order(), live_order()
    room.port.open_to_senders.clear()
    room.take(first)
    room.take(second, secs=0.01 if cause == "time" else 3.0)
    await a_few_turns()
    assert room.port.sent == [first.client_order_id]
    if cause == "time":
        await asyncio.sleep(0.02)
    else:
        room.why = "it was stopped"
    room.port.open_to_senders.set()
    await room.drained()
    assert room.port.sent == [first.client_order_id]
    assert room.ledger.told(second) == [OrderStatus.EXPIRED]


# What came of it


@pytest.mark.parametrize("error", BROKEN, ids=repr)
async def test_any_error_while_sending_is_an_unknown_outcome(room: Room, error: Exception) -> None:
    order = live_order()
    await room.place(order, error)
    (news,) = room.ledger.written
    assert news.status is OrderStatus.UNKNOWN
    assert news.sent_at_ms is not None
    assert str(error) not in (news.detail or "") or not str(error)
    assert [each.client_order_id for each in room.unsettled] == [order.client_order_id]


async def test_an_unknown_outcome_is_asked_for(room: Room) -> None:
    order = live_order()
    await room.place(order, UNKNOWN)
    (handed_on,) = room.unsettled
    assert (handed_on.status, handed_on.venue_order_id) == (OrderStatus.UNKNOWN, None)


async def test_accepted_with_all_its_fills_is_settled_at_once(room: Room) -> None:
    order = live_order()
    told = report(OrderStatus.FILLED, trade(order, "t1", "0.4"), trade(order, "t2", "0.6"))
    await room.place(order, Sent(verdict=Verdict.ACCEPTED, report=told))
    (news,) = room.ledger.written
    assert (news.status, news.executed, news.fills) == (
        OrderStatus.FILLED,
        told.executed,
        told.fills,
    )
    assert news.venue_order_id == VENUE_ID
    assert room.ledger.statuses[order.client_order_id] is OrderStatus.FILLED
    assert room.unsettled == []


async def test_accepted_without_a_report_is_asked_for_under_the_venues_id(room: Room) -> None:
    await room.place(live_order(), ACCEPTED)
    (handed_on,) = room.unsettled
    assert (handed_on.status, handed_on.venue_order_id) == (OrderStatus.OPEN, VENUE_ID)


async def test_accepted_with_fills_missing_is_asked_for(room: Room) -> None:
    order = live_order()
    told = report(OrderStatus.FILLED, trade(order, "t1", "0.4"), executed="1")
    await room.place(order, Sent(verdict=Verdict.ACCEPTED, report=told))
    (handed_on,) = room.unsettled
    assert (handed_on.status, handed_on.venue_order_id) == (OrderStatus.OPEN, VENUE_ID)


async def test_a_proven_refusal_is_final(room: Room) -> None:
    order = live_order()
    await room.place(order, REJECTED)
    assert room.ledger.statuses[order.client_order_id] is OrderStatus.REJECTED
    assert room.ledger.written[0].detail == "insufficient funds"
    assert room.unsettled == []


async def test_an_outcome_that_cannot_be_written_is_asked_for(room: Room) -> None:
    room.ledger.away = True
    order = live_order()
    await room.place(order, REJECTED)
    assert room.unsettled == [order]


@pytest.mark.parametrize(
    ("sent", "told"),
    [
        (Sent(verdict=Verdict.NOT_SENT, text="no key", credential_refused=True), [(1, "no key")]),
        (Sent(verdict=Verdict.REJECTED, text="revoked", credential_refused=True), [(1, "revoked")]),
        (REJECTED, []),
        (UNKNOWN, []),
    ],
)
async def test_a_refused_key_is_told(room: Room, sent: Sent, told: list[tuple[int, str]]) -> None:
    await room.place(live_order(), sent)
    assert room.refused == told


async def test_an_order_whose_outcome_is_lost_by_a_mistake_is_asked_for(
    room: Room, caplog: pytest.LogCaptureFixture
) -> None:
    room.mistake = RuntimeError("a mistake of ours")
    order = live_order()
    await room.place(order, replace(UNKNOWN, credential_refused=True))
    assert room.port.sent == [order.client_order_id]
    assert room.unsettled == [order]
    assert "a mistake of ours" in caplog.text


# Many at once, and the end


async def test_a_slow_order_keeps_nobody_waiting(room: Room) -> None:
    slow, quick = live_order(), live_order()
    room.port.open_to_senders.clear()
    room.take(slow)
    await a_few_turns()
    room.why = "it was stopped"
    room.take(quick)
    await until(lambda: room.ledger.told(quick) == [OrderStatus.EXPIRED])
    assert room.desk.busy == 1
    assert room.ledger.told(slow) == []
    room.port.open_to_senders.set()
    await room.drained()
    assert room.ledger.told(slow) == [OrderStatus.OPEN]


async def test_draining_waits_until_every_outcome_is_written(room: Room) -> None:
    orders = [live_order() for _ in range(5)]
    room.ledger.open.clear()
    for order in orders:
        room.take(order)
    draining = asyncio.create_task(room.desk.drain())
    await until(lambda: len(room.port.sent) == 5)
    await a_few_turns()
    assert not draining.done()
    room.ledger.open.set()
    async with asyncio.timeout(PATIENCE_SECS):
        await draining
    assert [room.ledger.told(order) for order in orders] == [[OrderStatus.OPEN]] * 5
    assert room.desk.busy == 0


async def test_an_order_that_is_abandoned_on_its_way_has_no_outcome_here(room: Room) -> None:
    order = live_order()
    room.port.open_to_senders.clear()
    room.take(order)
    await until(lambda: room.port.sent == [order.client_order_id])
    await room.desk.abandon()
    assert room.ledger.written == []
    assert room.unsettled == []
    assert room.desk.busy == 0
