"""Finding out: a venue is asked until an order's end is known, and gives it up only for sure."""

import asyncio
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from typing import cast

import pytest

from shared.clock import datetime_of, wall_ms
from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import LiveOrder, OrderStatus
from shared.store.engine import Store, Transaction
from tests.unit.live_fakes import (
    VENUE_ID,
    HeardAlerts,
    Ledger,
    ScriptedOrders,
    Told,
    a_few_turns,
    live_order,
    report,
    trade,
    until,
)
from trade_worker import reconcile
from trade_worker.asking import NOT_FOUND_SECS
from trade_worker.reconcile import Reconciler
from trade_worker.venues import Report

FILLED, OPEN, UNKNOWN = OrderStatus.FILLED, OrderStatus.OPEN, OrderStatus.UNKNOWN
NOT_PLACED = OrderStatus.NOT_PLACED
AWAY = VenueUnavailable("is away")
DAY_MS = 24 * 3600 * 1000
A_WHILE_SECS = 0.05
"""Many of the pauses that these tests set."""


class ClockStore(Store):
    """A database that tells the time and nothing else; `ahead_ms` of ours."""

    def __init__(self) -> None:
        self.ahead_ms = 0

    @asynccontextmanager
    async def read(self) -> AsyncIterator[Transaction]:
        yield cast("Transaction", self)

    async def scalar(self, _: object) -> datetime:
        return datetime_of(time.time_ns() // 1_000_000 + self.ahead_ms)


class Office:
    """A reconciler that runs, and whoever is around it."""

    def __init__(self, *, not_found_secs: Mapping[str, float] = NOT_FOUND_SECS) -> None:
        self.port = ScriptedOrders()
        self.ledger = Ledger()
        self.database = ClockStore()
        self.alerts = HeardAlerts()
        self.lost: set[int] = set()
        self.refused: list[tuple[int, str]] = []
        self.answered: list[int] = []
        self.reconciler = Reconciler(
            self.database,
            port=self.port,
            settling=self.ledger,
            holds=lambda shard: shard not in self.lost,
            on_refused_key=lambda order, text: self.refused.append((order.credential_id, text)),
            on_answered_key=lambda order: self.answered.append(order.credential_id),
            alerts=self.alerts,
            not_found_secs=not_found_secs,
        )

    def tells(self, *answers: Told) -> None:
        """The next questions are answered so; the last answer stays."""
        self.port.asking.clear()
        self.port.asking.extend(answers)

    async def asks(self, count: int) -> None:
        """Wait until so many more questions were asked."""
        wanted = len(self.port.asked) + count
        await until(lambda: len(self.port.asked) >= wanted)

    async def learns_the_time(self) -> None:
        """Ask for some order, as who took shards over has read the database's clock."""
        order = live_order()
        self.tells(bought(order), None)
        self.reconciler.add(order)
        await self.becomes(order, FILLED)
        self.port.asked.clear()
        self.ledger.written.clear()

    async def becomes(self, order: LiveOrder, status: OrderStatus) -> None:
        await until(lambda: self.ledger.statuses.get(order.client_order_id) is status)

    async def is_quiet(self) -> None:
        """See that nobody asks any more."""
        await a_few_turns()
        asked = len(self.port.asked)
        await asyncio.sleep(A_WHILE_SECS)
        assert len(self.port.asked) == asked


@asynccontextmanager
async def at_work(office: Office) -> AsyncIterator[Office]:
    running = asyncio.create_task(office.reconciler.run())
    try:
        yield office
        assert not running.done()
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def short_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reconcile, "FIRST_PAUSE_SECS", 0.001)
    monkeypatch.setattr(reconcile, "HIDDEN_PAUSE_SECS", 0.001)
    monkeypatch.setattr(reconcile, "LONGEST_PAUSE_SECS", 0.004)
    monkeypatch.setattr(reconcile, "REFUSED_KEY_PAUSE_SECS", 0.004)
    monkeypatch.setattr(reconcile, "WATCH_PAUSES_SECS", (0.004,))


@pytest.fixture
async def office() -> AsyncIterator[Office]:
    async with at_work(Office()) as one:
        yield one


@pytest.fixture
async def hasty() -> AsyncIterator[Office]:
    """An office to which what is not found when an order's time is over does not exist."""
    async with at_work(Office(not_found_secs={"kraken": 0.0})) as one:
        yield one


def overdue(**changes: object) -> LiveOrder:
    """An order that was to be sent an hour ago."""
    return live_order(send_by_ms=wall_ms() - 3_600_000, **changes)


def bought(order: LiveOrder) -> Report:
    return report(FILLED, trade(order, "t1"))


# Found


@pytest.mark.parametrize("status", [OrderStatus.COMMITTED, UNKNOWN, OPEN])
async def test_an_order_that_is_found_filled_is_settled_and_asked_for_no_more(
    office: Office, status: OrderStatus
) -> None:
    order = live_order(status=status)
    office.tells(bought(order))
    office.reconciler.add(order)
    await office.becomes(order, FILLED)
    await office.is_quiet()
    (news,) = office.ledger.written
    assert (news.venue_order_id, news.fills) == (VENUE_ID, (trade(order, "t1"),))
    assert office.reconciler.open_cases == 0
    assert office.answered == [order.credential_id]
    assert office.alerts.codes == []


@pytest.mark.parametrize(
    "status", [OrderStatus.CANCELLED, OrderStatus.EXPIRED, OrderStatus.REJECTED]
)
async def test_an_order_that_is_found_without_fills_ends_as_its_venue_says(
    office: Office, status: OrderStatus
) -> None:
    order = live_order()
    office.tells(report(status))
    office.reconciler.add(order)
    await office.becomes(order, status)
    await office.is_quiet()
    assert office.reconciler.open_cases == 0


async def test_an_order_is_asked_for_by_the_venues_id_until_all_its_fills_are_told(
    office: Office,
) -> None:
    order = live_order()
    some = report(FILLED, trade(order, "t1", "0.4"), executed="1")
    rest = report(FILLED, trade(order, "t1", "0.4"), trade(order, "t2", "0.6"))
    office.tells(some, some, None, rest)
    office.reconciler.add(order)
    await office.becomes(order, FILLED)
    assert office.ledger.told(order) == [FILLED] * 3
    assert [each.venue_order_id for each in office.port.asked] == [None, *[VENUE_ID] * 3]


async def test_an_order_that_is_still_open_past_its_time_is_cancelled(office: Office) -> None:
    order = overdue()
    office.port.cancelling = AWAY  # heard or not: what came of it, asking tells
    office.tells(report(OPEN), report(OPEN), report(OrderStatus.CANCELLED))
    office.reconciler.add(order)
    await office.becomes(order, OrderStatus.CANCELLED)
    assert office.port.cancelled == [order.client_order_id] * 2


async def test_an_order_that_may_still_fill_is_not_cancelled(office: Office) -> None:
    order = live_order(send_by_ms=wall_ms())
    office.tells(report(OPEN))
    office.reconciler.add(order)
    await office.asks(3)
    assert office.port.cancelled == []


# Not found


def test_not_found_is_final_after_the_engine_and_the_venues_margin() -> None:
    assert NOT_FOUND_SECS == {"kraken": 70.0, "binance": 15.0}


async def test_not_found_before_its_time_stays_unknown(office: Office) -> None:
    order = live_order(send_by_ms=wall_ms() - 69_000)
    office.reconciler.add(order)
    await office.asks(5)
    assert office.ledger.told(order) == [UNKNOWN]
    assert office.reconciler.open_cases == 1


@pytest.mark.parametrize("status", [OrderStatus.COMMITTED, UNKNOWN])
async def test_not_found_after_its_time_is_not_placed_once(
    office: Office, status: OrderStatus
) -> None:
    order = live_order(send_by_ms=wall_ms() - 70_001, status=status)
    office.reconciler.add(order)
    await office.asks(5)
    assert office.ledger.told(order) == [NOT_PLACED]
    assert office.ledger.written[0].executed == 0
    assert office.reconciler.open_cases == 0


async def test_each_venue_has_its_own_time(office: Office) -> None:
    kraken = live_order(send_by_ms=wall_ms() - 20_000)
    binance = live_order(send_by_ms=wall_ms() - 20_000, venue="binance", pair="BTC/USDT")
    for order in (kraken, binance):
        office.reconciler.add(order)
    await office.becomes(binance, NOT_PLACED)
    await office.asks(5)
    assert office.ledger.told(kraken) == [UNKNOWN]


async def test_not_found_is_never_final_by_a_question_that_was_asked_too_early(
    hasty: Office,
) -> None:
    order = live_order(send_by_ms=wall_ms() + 20)
    hasty.port.open_to_askers.clear()
    hasty.reconciler.add(order)
    await hasty.asks(1)
    await until(lambda: wall_ms() > order.send_by_ms + 10)
    hasty.ledger.open.clear()
    hasty.port.open_to_askers.set()
    await a_few_turns()
    hasty.ledger.open.set()
    await hasty.becomes(order, NOT_PLACED)
    assert hasty.ledger.told(order) == [UNKNOWN, NOT_PLACED]
    assert len(hasty.port.asked) >= 2


@pytest.mark.parametrize("ahead_ms", [-600_000, 600_000])
async def test_an_orders_time_is_over_by_the_databases_clock(office: Office, ahead_ms: int) -> None:
    office.database.ahead_ms = ahead_ms
    early = live_order(send_by_ms=wall_ms() + ahead_ms - 60_000)
    late = live_order(send_by_ms=wall_ms() + ahead_ms - 71_000)
    for order in (early, late):
        office.reconciler.add(order)
    await office.becomes(late, NOT_PLACED)
    await office.asks(5)
    assert office.ledger.told(early) == [UNKNOWN]


async def test_a_machines_clock_that_is_set_ends_no_orders_wait(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    order = live_order()
    office.reconciler.add(order)
    await office.asks(3)
    now_ns = time.time_ns
    monkeypatch.setattr(time, "time_ns", lambda: now_ns() + 600 * 10**9)
    await office.asks(5)
    assert office.ledger.told(order) == [UNKNOWN]


@pytest.mark.parametrize("answer", [AWAY, CredentialRefused("revoked"), RuntimeError("a mistake")])
async def test_a_question_without_an_answer_proves_nothing(
    office: Office, answer: Exception
) -> None:
    order = overdue()
    office.tells(answer)
    office.reconciler.add(order)
    await office.asks(3)
    assert office.ledger.written == []
    assert office.reconciler.open_cases == 1
    assert office.answered == []
    office.tells(bought(order))
    await office.becomes(order, FILLED)


async def test_a_venue_is_not_asked_before_it_wishes(office: Office) -> None:
    office.tells(VenueUnavailable("throttles", retry_after_secs=60.0))
    office.reconciler.add(live_order())
    await office.asks(1)
    await office.is_quiet()


async def test_a_key_that_is_refused_and_one_that_answers_are_told(office: Office) -> None:
    order = live_order(credential_id=7)
    office.tells(CredentialRefused("revoked"), CredentialRefused("revoked"), bought(order))
    office.reconciler.add(order)
    await office.becomes(order, FILLED)
    assert office.refused == [(7, "revoked")] * 2
    assert office.answered == [7]


@pytest.mark.parametrize("status", [OPEN, UNKNOWN])
async def test_an_order_that_its_venue_has_named_is_never_given_up(
    hasty: Office, status: OrderStatus
) -> None:
    order = overdue(status=status, venue_order_id=VENUE_ID)
    hasty.reconciler.add(order)
    await hasty.asks(5)
    assert hasty.ledger.written == []
    assert hasty.reconciler.open_cases == 1


# Watched afterwards


async def test_an_order_that_was_given_up_and_shows_up_is_adopted_with_an_alarm(
    hasty: Office,
) -> None:
    order = overdue()
    hasty.tells(None, None, None, bought(order))
    hasty.reconciler.add(order)
    await hasty.becomes(order, FILLED)
    await hasty.is_quiet()
    assert hasty.ledger.told(order) == [NOT_PLACED, FILLED]
    assert hasty.alerts.codes == ["order_adopted"]
    assert hasty.reconciler.adopted == 1


async def test_an_adopted_order_that_is_open_is_asked_for_until_its_end(hasty: Office) -> None:
    order = overdue(status=NOT_PLACED, settled_at_ms=wall_ms() - 1000)
    hasty.tells(report(OPEN), None, report(OrderStatus.CANCELLED))
    hasty.reconciler.add(order)
    await hasty.becomes(order, OrderStatus.CANCELLED)
    assert hasty.ledger.told(order) == [OPEN, OrderStatus.CANCELLED]
    assert hasty.port.cancelled == [order.client_order_id]


async def test_a_watched_order_is_looked_for_during_24_hours(office: Office) -> None:
    recent = overdue(status=NOT_PLACED, settled_at_ms=wall_ms() - DAY_MS + 60_000)
    old = overdue(status=NOT_PLACED, settled_at_ms=wall_ms() - DAY_MS - 1)
    await office.learns_the_time()
    for order in (recent, old):
        office.reconciler.add(order)
    await office.asks(5)
    assert {each.client_order_id for each in office.port.asked} == {recent.client_order_id}
    assert office.ledger.written == []
    assert office.reconciler.open_cases == 0


# One case per order


async def test_an_order_that_is_added_twice_is_one_case(office: Office) -> None:
    order = live_order()
    for _ in range(3):
        office.reconciler.add(order)
    assert office.reconciler.open_cases == 1
    await office.asks(5)
    assert office.port.most_askers == 1


async def test_an_order_that_was_forgotten_and_comes_back_is_asked_for_once_at_a_time(
    office: Office,
) -> None:
    order = live_order()
    office.tells(AWAY)
    for _ in range(5):
        office.reconciler.forget({order.shard})
        office.reconciler.add(order)
    await office.asks(1)
    await until(lambda: office.port.most_askers == 1)
    office.port.open_to_askers.clear()
    await asyncio.sleep(A_WHILE_SECS)
    assert office.port.most_askers == 1


async def test_orders_of_a_shard_that_is_lost_are_left_to_its_next_owner(office: Office) -> None:
    lost, held, forgotten = live_order(shard=1), live_order(shard=2), live_order(shard=3)
    for order in (lost, held, forgotten):
        office.reconciler.add(order)
    await office.asks(3)
    office.lost.add(1)
    office.reconciler.forget({3})
    await a_few_turns()
    office.port.asked.clear()
    await office.asks(3)
    assert {each.shard for each in office.port.asked} == {2}
    assert office.reconciler.open_cases == 1


async def test_an_outcome_that_cannot_be_written_is_asked_for_again(office: Office) -> None:
    order = live_order()
    office.tells(bought(order))
    office.ledger.away = True
    office.reconciler.add(order)
    await office.asks(3)
    assert office.reconciler.open_cases == 1
    office.ledger.away = False
    await office.becomes(order, FILLED)


async def test_a_bounded_number_of_questions_is_on_its_way(office: Office) -> None:
    orders = [live_order() for _ in range(3 * reconcile.MOST_AT_ONCE)]
    office.tells(report(OrderStatus.CANCELLED))
    office.port.open_to_askers.clear()
    for order in orders:
        office.reconciler.add(order)
    await office.asks(reconcile.MOST_AT_ONCE)
    await a_few_turns()
    assert len(office.port.asked) == reconcile.MOST_AT_ONCE
    office.port.open_to_askers.set()
    await until(lambda: len(office.ledger.statuses) == len(orders))


async def test_an_order_that_stays_without_an_outcome_alarms_once(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    office.tells(AWAY)
    office.reconciler.add(live_order())
    await office.asks(3)
    assert office.alerts.codes == []
    monkeypatch.setattr(reconcile, "ALARM_AFTER_SECS", 0.0)
    await office.asks(5)
    assert office.alerts.codes == ["order_unresolved"]


async def test_nobody_complains_of_an_order_that_is_only_watched(
    office: Office, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reconcile, "ALARM_AFTER_SECS", 0.0)
    office.reconciler.add(overdue(status=NOT_PLACED, settled_at_ms=wall_ms()))
    await office.asks(3)
    assert office.alerts.codes == []


async def test_who_stops_leaves_no_question_behind(office: Office) -> None:
    office.port.open_to_askers.clear()
    other = Office()
    other.port.open_to_askers.clear()
    async with at_work(other):
        other.reconciler.add(live_order())
        await other.asks(1)
    left = [task for task in asyncio.all_tasks() if task.get_name().startswith("asking for")]
    assert left == []
