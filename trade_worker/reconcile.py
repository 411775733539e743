"""Finding out what became of orders: the venue is asked until it is known, nothing is sent again.

"Not found" is final only where an ask that started late enough says so: after the order's
`send_by`, 10 s for the venue's own engine, and the venue's margin (shared/venues.py). The old id
is looked for during 24 h more, and an order that shows up late is adopted.
"""

import asyncio
import contextlib
import heapq
import itertools
import logging
from collections import defaultdict
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Final

from sqlalchemy import select

from shared import failpoints
from shared.alerts import Alerts
from shared.clock import monotonic_secs, ms_of
from shared.errors import CredentialRefused, StoreUnavailable, VenueUnavailable
from shared.failpoints import Point
from shared.orders import UNSETTLED, LiveOrder, OrderStatus
from shared.signals import Severity
from shared.store import live_orders
from shared.store.engine import Store, Transaction
from shared.store.settlement import Settled
from shared.store.types import database_now
from trade_worker import asking
from trade_worker.settling import Settling
from trade_worker.venues import Report, VenueOrders

log = logging.getLogger(__name__)

FIRST_PAUSE_SECS: Final = 0.25
LONGEST_PAUSE_SECS: Final = 30.0
HIDDEN_PAUSE_SECS: Final = 2.0
"""At least between two asks that find nothing: each takes four of a Kraken key's 15 requests,
of which one comes back every three seconds."""
REFUSED_KEY_PAUSE_SECS: Final = 60.0
ALARM_AFTER_SECS: Final = 300.0
WATCH_SECS: Final = 24 * 3600.0
WATCH_PAUSES_SECS: Final = (60.0, 300.0, 900.0, 3600.0)
"""How long after each look the next one follows, for an order that was not placed."""

MOST_AT_ONCE: Final = 16
"""Questions on their way to one venue."""
CLOCK_KEPT_SECS: Final = 60.0


@dataclass(slots=True)
class _Case:
    """An order that is asked for, and how often it was in vain."""

    order: LiveOrder
    asks: int = 0
    since_secs: float = field(default_factory=monotonic_secs)
    told: bool = False

    @property
    def watched(self) -> bool:
        """Whether it is thought not to exist."""
        return self.order.status is OrderStatus.NOT_PLACED


@dataclass(slots=True)
class _Line:
    """The cases of one venue: while it is slow or away, those of the others go on."""

    due: list[tuple[float, int, _Case]] = field(default_factory=list)
    asking: set[asyncio.Task[None]] = field(default_factory=set)


class Reconciler:
    """Asks for orders of unknown outcome. One task runs `run`."""

    def __init__(
        self,
        store: Store,
        *,
        port: VenueOrders,
        settling: Settling,
        holds: Callable[[int], bool],
        on_refused_key: Callable[[LiveOrder, str], None],
        on_answered_key: Callable[[LiveOrder], None],
        alerts: Alerts,
        not_found_secs: Mapping[str, float],
    ) -> None:
        """`holds` tells whether a shard is ours now. `on_refused_key` takes an order whose key
        the venue does not let us use, `on_answered_key` one whose key worked. `not_found_secs`:
        how long after `send_by` an ask has to start for its "not found" to be final, by venue."""
        self._store = store
        self._port = port
        self._settling = settling
        self._holds = holds
        self._on_refused_key = on_refused_key
        self._on_answered_key = on_answered_key
        self._alerts = alerts
        self._not_found_secs = not_found_secs
        self._cases: dict[str, _Case] = {}
        self._lines: defaultdict[str, _Line] = defaultdict(_Line)
        self._number = itertools.count()
        self._wake = asyncio.Event()
        self._database_ahead_ms = 0.0
        """The database's clock minus our monotonic one, and never more than that: nothing is
        given up early because somebody set this machine's clock."""
        self._measured_at_secs = -CLOCK_KEPT_SECS
        self.asked = 0
        self.adopted = 0

    @property
    def open_cases(self) -> int:
        """How many orders have no outcome yet; those that are only watched are not among them."""
        return sum(1 for case in self._cases.values() if not case.watched)

    async def load(self, shards: Collection[int]) -> None:
        """Take over what earlier owners of these shards left. Raises `StoreUnavailable`."""
        async with self._store.read() as tx:
            await self._read_clock(tx)
            left = await live_orders.unsettled(tx, shards)
            left += await live_orders.watched(tx, shards, for_secs=WATCH_SECS)
        for order in left:
            self.add(order)
        if open_ones := [order for order in left if order.status in UNSETTLED]:
            log.info("%d orders of earlier owners are asked for", len(open_ones))

    def add(self, order: LiveOrder) -> None:
        """Ask for this order soon, and until its outcome is known."""
        known = self._cases.get(order.client_order_id)
        if known is not None and not known.watched:
            if known.order.venue_order_id is None:
                # Who loaded it could not know what its sender was told.
                known.order = replace(known.order, venue_order_id=order.venue_order_id)
            return
        case = _Case(order)
        pause_secs = _watch_pause_secs(case, self._database_ms()) if case.watched else 0.0
        if pause_secs is not None:
            self._cases[order.client_order_id] = case
            self._ask_in(pause_secs, case)

    def forget(self, shards: Collection[int]) -> None:
        """Leave the orders of these shards to their next owner."""
        for id_ in [id_ for id_, case in self._cases.items() if case.order.shard in shards]:
            del self._cases[id_]

    async def run(self) -> None:
        """Ask until cancelled."""
        try:
            while True:
                self._wake.clear()
                pause_secs = self._start_what_is_due()
                try:
                    async with asyncio.timeout(pause_secs):
                        await self._wake.wait()
                except TimeoutError:
                    continue
        finally:
            asking = [task for line in self._lines.values() for task in line.asking]
            for task in asking:
                task.cancel()
            await asyncio.gather(*asking, return_exceptions=True)

    def _start_what_is_due(self) -> float | None:
        """In how many seconds the next one is due; None: when somebody wakes us."""
        pauses = [self._start_in(line) for line in self._lines.values()]
        return min((secs for secs in pauses if secs is not None), default=None)

    def _start_in(self, line: _Line) -> float | None:
        while line.due and len(line.asking) < MOST_AT_ONCE:
            due_secs, _, case = line.due[0]
            left_secs = due_secs - monotonic_secs()
            if left_secs > 0:
                return left_secs
            heapq.heappop(line.due)
            id_ = case.order.client_order_id
            # Not one that was forgotten meanwhile, whoever has the id now.
            if self._cases.get(id_) is case:
                task = asyncio.create_task(self._look(case), name=f"asking for {id_}")
                line.asking.add(task)
                task.add_done_callback(partial(self._ended, line))
        return None

    def _ended(self, line: _Line, task: asyncio.Task[None]) -> None:
        line.asking.discard(task)
        self._wake.set()

    def _ask_in(self, secs: float, case: _Case) -> None:
        due = self._lines[case.order.venue].due
        heapq.heappush(due, (monotonic_secs() + secs, next(self._number), case))
        self._wake.set()

    async def _look(self, case: _Case) -> None:
        order = case.order
        if not self._holds(order.shard):
            self._cases.pop(order.client_order_id, None)
            return
        pause_secs: float | None = REFUSED_KEY_PAUSE_SECS
        try:
            pause_secs = await self._find_out(case)
        except CredentialRefused as exc:
            self._on_refused_key(order, str(exc))
        except VenueUnavailable as exc:
            log.info("order %s could not be asked for: %s", order.client_order_id, exc)
            pause_secs = max(_pause_secs(case.asks), exc.retry_after_secs or 0)
        except StoreUnavailable as exc:
            log.info("order %s waits for the database: %s", order.client_order_id, exc)
        except Exception:  # one order's trouble must not stop the others
            log.exception("order %s could not be asked for", order.client_order_id)
        case.asks += 1
        self._complain(case)
        if self._cases.get(order.client_order_id) is not case:
            return
        if pause_secs is None:
            del self._cases[order.client_order_id]
        else:
            self._ask_in(pause_secs, case)

    def _database_ms(self) -> int:
        """The database's clock, as far as is known, and never ahead of it."""
        return int(1000 * monotonic_secs() + self._database_ahead_ms)

    async def _measure(self) -> None:
        """Look at the database's clock now and then: clocks part, and ours rests with its host."""
        if monotonic_secs() - self._measured_at_secs < CLOCK_KEPT_SECS:
            return
        self._measured_at_secs = monotonic_secs()
        with contextlib.suppress(StoreUnavailable):
            async with self._store.read() as tx:
                await self._read_clock(tx)

    async def _read_clock(self, tx: Transaction) -> None:
        now = await tx.scalar(select(database_now()))
        if now is not None:
            # Never ahead of the truth: the answer was on its way since.
            self._measured_at_secs = monotonic_secs()
            self._database_ahead_ms = ms_of(now) - 1000 * self._measured_at_secs

    async def _find_out(self, case: _Case) -> float | None:
        """Ask once. In how many seconds to ask again, None: everything is known."""
        await self._measure()
        asked_at_ms = self._database_ms()
        self.asked += 1
        report = await self._port.ask(case.order)
        failpoints.hit(Point.AFTER_ASK)
        self._on_answered_key(case.order)
        news = asking.news_of(
            case.order,
            report,
            asked_at_ms=asked_at_ms,
            not_found_secs=self._not_found_secs[case.order.venue],
        )
        settled = None if news is None else await self._settling.settle(case.order, news)
        if settled is not None and settled.adopted and report is not None:
            self._tell_adopted(case.order, settled)
        status = None if settled is None else settled.status
        then = asking.after(case.order, report, status, asked_at_ms=asked_at_ms)
        case.order = then.order
        if then.cancel:
            log.warning("order %s is still open: cancelling it", case.order.client_order_id)
            await self._port.cancel(case.order)
        if then.done:
            return None
        if news is not None and settled is None:
            return REFUSED_KEY_PAUSE_SECS
        return self._pause_after(case, report, asked_at_ms)

    def _pause_after(self, case: _Case, report: Report | None, asked_at_ms: int) -> float | None:
        order = case.order
        if report is None and case.watched:
            return _watch_pause_secs(case, self._database_ms())
        pause_secs = _pause_secs(case.asks)
        if report is not None or order.venue_order_id is not None:
            return pause_secs
        pause_secs = max(pause_secs, HIDDEN_PAUSE_SECS)
        left_secs = asking.not_found_is_final_in_secs(
            order, asked_at_ms=asked_at_ms, not_found_secs=self._not_found_secs[order.venue]
        )
        return min(pause_secs, left_secs + 0.05) if left_secs > 0 else pause_secs

    def _complain(self, case: _Case) -> None:
        """Say once that an order stays without an outcome for long."""
        order = case.order
        if case.told or case.watched or monotonic_secs() - case.since_secs < ALARM_AFTER_SECS:
            return
        case.told = True
        self._alerts.tell(
            Severity.CRITICAL,
            "order_unresolved",
            f"order {order.client_order_id} of bot {order.bot_id} at {order.venue} has no "
            f"outcome after {ALARM_AFTER_SECS / 60:.0f} minutes: its pair stands still",
            client_order_id=order.client_order_id,
            bot_id=order.bot_id,
        )

    def _tell_adopted(self, order: LiveOrder, settled: Settled) -> None:
        self.adopted += 1
        self._alerts.tell(
            Severity.CRITICAL,
            "order_adopted",
            f"order {order.client_order_id} of bot {order.bot_id} at {order.venue} showed up "
            f"late: its fills went to position {settled.sequence} on {order.pair}",
            client_order_id=order.client_order_id,
            bot_id=order.bot_id,
        )


def _pause_secs(asks: int) -> float:
    return float(min(FIRST_PAUSE_SECS * 2 ** min(asks, 16), LONGEST_PAUSE_SECS))


def _watch_pause_secs(case: _Case, now_ms: int) -> float | None:
    """When to look again for an order that was not placed; None: its 24 h are over."""
    age_secs = 0.0
    if case.order.settled_at_ms is not None:
        age_secs = (now_ms - case.order.settled_at_ms) / 1000
    if age_secs > WATCH_SECS:
        return None
    return next(
        (pause for pause in WATCH_PAUSES_SECS if age_secs < 2 * pause), WATCH_PAUSES_SECS[-1]
    )
