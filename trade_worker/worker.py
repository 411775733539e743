"""The trade worker: its loop and its life, from taking shards to giving them back."""

import asyncio
import contextlib
import logging
from collections import Counter
from collections.abc import Coroutine, Mapping
from typing import Any, Final, TypeVar
from uuid import UUID

from shared import failpoints
from shared.alerts import Alerts
from shared.bus import Bus, Delivery, Message, Subscription
from shared.bus.dead_letters import dead_letter
from shared.clock import monotonic_secs, ms_of, wall_ms
from shared.control import NEWS, hear
from shared.errors import BrokerUnavailable, StoreUnavailable, UndecodableMessage
from shared.failpoints import Point
from shared.messages import Heartbeat, Tick, decode_tick, encode
from shared.orders import Mode
from shared.process import TaskGroup
from shared.reasons import Reason
from shared.signals import Severity
from shared.store import fleet, live_orders, trading, workers
from shared.store.engine import Store
from shared.store.markets import Market
from shared.store.workers import Process
from shared.telemetry import Histogram
from shared.topology import (
    LISTENER_QUEUE,
    SYSTEM,
    TICK_QUEUE,
    config_key,
    health_key,
)
from trade_worker.bot_table import PeakDue
from trade_worker.breaker_watch import BREAKERS_EVERY_SECS, BreakerWatch
from trade_worker.cleaning import CLEAN_EVERY_SECS, Cleaning
from trade_worker.decide import decide
from trade_worker.denials import TELL_EVERY_SECS, Denials
from trade_worker.execution import Execution
from trade_worker.instructions import Instructions
from trade_worker.live_trading import LiveAccess, LiveTrading
from trade_worker.newest import NewestTicks
from trade_worker.relay import Relay
from trade_worker.repeating import repeat
from trade_worker.roster import Roster
from trade_worker.shards import Shards
from trade_worker.unserved import UnservedShards
from trade_worker.venues import OrderPort

log = logging.getLogger(__name__)

T = TypeVar("T")

SERVICE: Final = "trade_worker"

CHANGES_EVERY_SECS: Final = 0.4
RULES_EVERY_SECS: Final = 1.0
_RULES_KEPT_SECS: Final = 15.0
PEAKS_EVERY_SECS: Final = 5.0
REPORT_EVERY_SECS: Final = 1.0
HEARTBEAT_EVERY_SECS: Final = 5.0
DRAIN_SECS: Final = 10.0
"""The longest a handover waits for what is being committed."""

HAND_ON_SECS: Final = 0.5
"""The longest a handover waits for the broker: the next owner relays what is left."""


class Worker:
    """One worker process: a `shared.process.Service`.

    Store and bus must be up; they stay the caller's to close. `process` says who we are.
    """

    name = SERVICE

    def __init__(
        self,
        *,
        store: Store,
        bus: Bus,
        process: Process,
        namespace: UUID,
        ports: Mapping[Mode, OrderPort],
        lease_ttl_secs: float,
        outbox_keep_secs: float = 3600.0,
        live: LiveAccess | None = None,
    ) -> None:
        """`ports` fill at commit; `live` is how real orders reach their venues, None: on paper."""
        self._store = store
        self._bus = bus
        self._process = process
        self._shards = Shards(
            store, process=process, ttl_secs=lease_ttl_secs, announce=self._announce
        )
        self._roster = Roster(store)
        self._relay = Relay(store, bus, shards=lambda: self._shards.held)
        self._alerts = Alerts(bus, service=SERVICE, instance=process.owner, store=store)
        self._live = None if live is None else self._live_trading(live)
        self._execution = Execution(
            store,
            owner=process.owner,
            namespace=namespace,
            ports=ports,
            epoch=self._shards.epoch,
            on_committed=self._relay.wake,
            on_outdated=self._roster.reload,
            live=self._live,
        )
        self._unserved = UnservedShards(
            store, self._alerts, owner=process.owner, lease_ttl_secs=lease_ttl_secs
        )
        self._lease_ttl_secs = lease_ttl_secs
        self._cleaning = Cleaning(
            store, shards=lambda: self._shards.held, outbox_keep_secs=outbox_keep_secs
        )
        self._denials = Denials(store, worker=process.name)
        self._breakers = BreakerWatch(
            store, shards=lambda: self._shards.held, on_closed=self._relay.wake
        )
        self._newest = NewestTicks()
        self._changed = asyncio.Event()
        self._instructions = Instructions(
            self._newest,
            names=(SERVICE, process.name),
            stop=self.stop,
            look_at_leases=self._shards.look,
            look_at_changes=self._changed.set,
        )
        self._verdicts: dict[Market, Mapping[Reason, int]] = {}
        self._counts: Counter[str] = Counter()
        self._decide_time = Histogram()
        self._rules_read_at = monotonic_secs()
        self._stopping = asyncio.Event()
        self._ticks: Subscription | None = None

    def _live_trading(self, access: LiveAccess) -> LiveTrading:
        return LiveTrading(
            self._store,
            owner=self._process.owner,
            access=access,
            roster=self._roster,
            shards=lambda: self._shards.held,
            alerts=self._alerts,
            on_written=self._relay.wake,
        )

    def stop(self) -> None:
        """Ask `run` to drain, give the shards back and return."""
        self._stopping.set()

    async def run(self) -> None:
        """Serve a fair share of the bots until `stop`.

        Raises `LeaseRefused` if a worker of our name is alive, `WorkerReplaced` if one has
        taken over while we were silent.
        """
        tasks = TaskGroup()
        try:
            await self._unless_stopped(self._prepare(tasks))
            if self._stopping.is_set():
                return
            tasks.start("life", self._shards.beat())
            tasks.start("leases", self._shards.renew(self))
            tasks.start("balance", self._shards.balance(self))
            tasks.start(
                "bot changes", repeat(CHANGES_EVERY_SECS, self._follow_changes, self._changed)
            )
            tasks.start("market rules", repeat(RULES_EVERY_SECS, self._refresh_rules))
            tasks.start("peaks", repeat(PEAKS_EVERY_SECS, self._save_peaks))
            tasks.start("breakers", repeat(BREAKERS_EVERY_SECS, self._breakers.close_due))
            tasks.start("reports", repeat(REPORT_EVERY_SECS, self._report))
            tasks.start("heartbeat", self._beat())
            tasks.start("denials", repeat(TELL_EVERY_SECS, self._tell_denials))
            tasks.start("cleaning", repeat(CLEAN_EVERY_SECS, self._cleaning.clean))
            tasks.start("unserved shards", repeat(self._lease_ttl_secs / 2, self._unserved.look))
            tasks.start("alerts", self._alerts.run())
            name = self._process.name
            self._alerts.tell(Severity.INFO, "service_started", f"worker {name} has started")
            await tasks.watch(self._stopping)
            await tasks.cancel("balance", "ticks", "bot changes", "peaks")
            await self._shards.leave(self)
            self._alerts.tell(Severity.INFO, "service_stopped", f"worker {name} has stopped")
        except Exception as exc:
            self._alerts.tell(Severity.CRITICAL, "service_failed", f"{self.name}: {exc}")
            raise
        finally:
            await tasks.cancel()
            if self._ticks is not None:
                await self._ticks.close()
            await self._shards.abandon()
            if self._live is not None:
                await self._live.close()
            await self._alerts.flush()

    async def move_in(self, shards: frozenset[int]) -> None:
        """Load the bots of these shards, listen to their ticks, ask for their open orders."""
        async with self._store.read() as tx:
            # `recover` renews it while it holds every lease: whoever gets one after must know.
            self._execution.namespace = (await fleet.read(tx)).namespace
        await self._roster.load(shards)
        if self._live is not None:
            await self._live.load(shards)
        else:
            await self._tell_unattended(shards)
        await self._rebind()

    async def _tell_unattended(self, shards: frozenset[int]) -> None:
        """Say so if real orders have no outcome that we cannot ask for: we have no vault key."""
        async with self._store.read() as tx:
            left = await live_orders.unsettled(tx, shards)
        if left:
            text = f"worker {self._process.name} has no vault key: {len(left)} real orders wait"
            self._alerts.tell(Severity.CRITICAL, "orders_unattended", text, count=len(left))

    async def move_out(self, shards: frozenset[int]) -> None:  # noqa: ARG002 - waits for all
        """Finish what was decided before, save peaks, hand the events over."""
        try:
            async with asyncio.timeout(DRAIN_SECS):
                await self._execution.drain()
                if self._live is not None:
                    await self._live.drain()
                await self._save_peaks()
            async with asyncio.timeout(HAND_ON_SECS):
                await self._relay.relay()
        except (TimeoutError, StoreUnavailable, BrokerUnavailable) as exc:
            log.warning("work is left for the next owner: %s", exc or "out of time")

    def forget(self, shards: frozenset[int]) -> None:
        """Drop the bots of these shards."""
        self._roster.forget(shards)
        if self._live is not None:
            self._live.forget(shards)

    def lose(self, shards: frozenset[int]) -> None:
        """Drop the bots of shards whose leases ran out: we were paused, or the database away."""
        text = f"{len(shards)} leases of worker {self._process.name} ran out: others may take them"
        self._alerts.tell(Severity.WARNING, "leases_lost", text, count=len(shards))
        self.forget(shards)

    async def _prepare(self, tasks: TaskGroup) -> None:
        """Listen, be ready to commit, and become a member."""
        self._ticks = await self._bus.subscribe(TICK_QUEUE, frozenset())
        news = await self._bus.subscribe(LISTENER_QUEUE, NEWS)
        tasks.start("ticks", self._consume(self._ticks))
        tasks.start(
            "news",
            hear(
                self._bus,
                news,
                on_control=self._instructions.obey,
                on_change=self._instructions.note,
            ),
        )
        if self._live is not None:
            await self._live.start()
            for name, work in self._live.tasks().items():
                tasks.start(name, work)
        tasks.start("execution", self._execution.run())
        tasks.start("relay", self._relay.run())
        while True:
            try:
                await self._shards.join()
            except StoreUnavailable as exc:
                log.warning("cannot join the workers yet: %s", exc)
                await asyncio.sleep(1.0)
            else:
                break
        log.info("worker %s has joined", self._process.name)

    async def _unless_stopped(self, work: Coroutine[Any, Any, None]) -> None:
        """Finish the work, or leave it if we are told to stop before it is done."""
        task = asyncio.create_task(work, name="preparation")
        stopped = asyncio.create_task(self._stopping.wait(), name="stop")
        try:
            await asyncio.wait({task, stopped}, return_when=asyncio.FIRST_COMPLETED)
            if task.done():
                task.result()
        finally:
            for each in (task, stopped):
                each.cancel()
            await asyncio.gather(task, stopped, return_exceptions=True)

    async def _announce(self) -> None:
        """Ask the other workers to look at the leases. Who misses it looks soon anyway."""
        notice = Heartbeat(
            service=SERVICE,
            instance=self._process.instance,
            at_ms=wall_ms(),
            interval_secs=HEARTBEAT_EVERY_SECS,
            facts={"worker": self._process.name},
        )
        message = Message(exchange=SYSTEM, routing_key=config_key("shards"), body=encode(notice))
        with contextlib.suppress(BrokerUnavailable):
            await self._bus.publish(message, timeout_secs=1.0)

    async def _consume(self, subscription: Subscription) -> None:
        while deliveries := await subscription.batch():
            received_ms = wall_ms()
            ticks, bad = self._decode(deliveries)
            for tick in self._newest.of(ticks):
                self._judge(tick, received_ms)
            for delivery, reason in bad:
                try:
                    await dead_letter(self._bus, delivery, reason)
                except BrokerUnavailable as exc:
                    log.warning("an undecodable tick could not be dead-lettered: %s", exc)
            failpoints.hit(Point.BEFORE_ACKNOWLEDGE)
            await subscription.acknowledge(deliveries)
            # A batch that is here at once must not keep the commits of the last one waiting.
            await asyncio.sleep(0)

    def _decode(self, deliveries: list[Delivery]) -> tuple[list[Tick], list[tuple[Delivery, str]]]:
        ticks, bad = [], []
        for delivery in deliveries:
            try:
                ticks.append(decode_tick(delivery.body))
            except UndecodableMessage as exc:
                self._counts["undecodable"] += 1
                bad.append((delivery, str(exc)))
        self._counts["received"] += len(ticks)
        return ticks, bad

    def _judge(self, tick: Tick, received_ms: int) -> None:
        """Decide one tick for all rows of its market and queue what they want."""
        self._breakers.note(tick)
        table = self._roster.table(tick.market)
        if table is None or not len(table):
            return
        if not self._shards.valid:
            self._counts["unserved"] += 1
            return
        started_secs = monotonic_secs()
        rules = self._roster.rules.get(tick.market)
        try:
            decisions = decide(table, tick, now_ms=wall_ms(), rules=rules)
        except Exception:  # one market's trouble must not stop the others
            self._counts["failed"] += 1
            log.exception("the tick %s of %s could not be judged", tick.order, tick.market)
            return
        self._verdicts[tick.market] = decisions.verdicts
        self._denials.count(tick.venue, decisions.verdicts)
        self._counts["judged"] += 1
        self._decide_time.add(1000 * (monotonic_secs() - started_secs))
        self._execution.submit(table, tick, decisions, received_ms=received_ms)

    async def _follow_changes(self) -> None:
        """Apply what people change about bots, and follow with the bindings."""
        await self._roster.refresh()
        await self._roster.finish_stopping()
        await self._rebind()

    async def _refresh_rules(self) -> None:
        """Read the venues' rules now and then, and soon where a market's are not known yet."""
        age_secs = monotonic_secs() - self._rules_read_at
        if age_secs > _RULES_KEPT_SECS or self._roster.lacks_rules:
            await self._roster.refresh_rules()
            self._rules_read_at = monotonic_secs()

    async def _rebind(self) -> None:
        if self._ticks is not None:
            await self._ticks.rebind(self._roster.bindings)

    async def _save_peaks(self) -> None:
        due: list[tuple[Any, list[PeakDue]]] = [
            (table, peaks) for table in self._roster if (peaks := table.peaks_due())
        ]
        rows = [
            (peak.bot_id, table.pair, peak.sequence, peak.peak)
            for table, peaks in due
            for peak in peaks
        ]
        if not rows:
            return
        async with self._store.begin() as tx:
            await trading.save_peaks(tx, rows, owner=self._shards.owner)
        for table, peaks in due:
            table.peaks_saved(peaks)

    async def _tell_denials(self) -> None:
        await self._denials.tell(self._shards.held)
        self._relay.wake()

    async def _report(self) -> None:
        async with self._store.begin() as tx:
            await workers.show_life(tx, self._process, self.report())

    async def _beat(self) -> None:
        while True:
            heartbeat = Heartbeat(
                service=SERVICE,
                instance=self._process.instance,
                at_ms=wall_ms(),
                interval_secs=HEARTBEAT_EVERY_SECS,
                facts={"worker": self._process.name, "rows": len(self._roster)},
            )
            message = Message(
                exchange=SYSTEM, routing_key=health_key(SERVICE), body=encode(heartbeat)
            )
            with contextlib.suppress(BrokerUnavailable):  # the bus says so itself
                await self._bus.publish(message)
            await asyncio.sleep(HEARTBEAT_EVERY_SECS)

    def report(self) -> dict[str, Any]:
        """What `status` shows of this worker, as JSON."""
        verdicts: Counter[Reason] = Counter()
        for counts in self._verdicts.values():
            verdicts.update(counts)
        followed_at = self._roster.followed_at
        return {
            "shards": len(self._shards.held),
            "rows": len(self._roster),
            "markets": sum(1 for table in self._roster if len(table)),
            "invalid_rows": len(self._roster.invalid),
            "kill_switches_seen": self._roster.kill_switches_seen,
            "followed_at_ms": followed_at and ms_of(followed_at),
            "broker_connected": self._bus.connected,
            "ticks": {
                name: self._counts[name]
                for name in ("received", "judged", "unserved", "undecodable", "failed")
            }
            | {"skipped": self._newest.skipped, "outdated": self._newest.outdated},
            "verdicts": {str(reason): count for reason, count in verdicts.items()},
            "orders": {
                "committed": self._execution.committed,
                "dropped": {str(cause): n for cause, n in self._execution.dropped.items()},
            },
            "egress": None if self._live is None else self._live.egress,
            "live": None if self._live is None else self._live.report(),
            "events_sent": self._relay.sent,
            "latency": self._execution.latency.report(),
            "decide_time": self._decide_time.report(),
            "commit_time": self._execution.commit_time.report(),
        }
