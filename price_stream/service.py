"""A price stream process: it leads or stands by, reports, and hands the lead over when it stops."""

import asyncio
import contextlib
import logging
from typing import Final

from price_stream.alarms import VenueAlarms
from price_stream.lead import Lead
from price_stream.stream import SERVICE, PriceStream, Role
from shared.alerts import Alerts
from shared.bus import Bus, Message
from shared.clock import wall_ms
from shared.control import NEWS, hear
from shared.errors import RetryLater, StoreUnavailable
from shared.messages import Heartbeat, encode
from shared.process import TaskGroup
from shared.signals import Control, ControlVerb, Severity
from shared.store import workers
from shared.store.engine import Store
from shared.store.workers import Process
from shared.topology import LISTENER_QUEUE, SYSTEM, config_key

log = logging.getLogger(__name__)

REPORT_EVERY_SECS: Final = 1.0
ANNOUNCE_TIMEOUT_SECS: Final = 1.0
LEAD: Final = "lead"
"""What is announced as changed when the lead was given back."""


class PriceStreamService:
    """One candidate for the lead among any number: a `shared.process.Service`.

    Store and bus must be up; they stay the caller's to close. `stream` publishes only while
    `lead` permits it.
    """

    name = SERVICE

    def __init__(
        self, *, store: Store, bus: Bus, process: Process, lead: Lead, stream: PriceStream
    ) -> None:
        self._store = store
        self._bus = bus
        self._process = process
        self._lead = lead
        self._stream = stream
        self._alerts = Alerts(bus, service=SERVICE, instance=process.owner, store=store)
        self._alarms = VenueAlarms(self._alerts)
        self._stopping = asyncio.Event()

    @property
    def instance(self) -> str:
        """Which run of which process this is, as its heartbeats say."""
        return self._process.instance

    def stop(self) -> None:
        """Ask `run` to end; it gives the lead back."""
        self._stopping.set()

    async def run(self) -> None:
        """Lead or stand by until `stop`. Raises what a part of it died of."""
        tasks = TaskGroup()
        try:
            tasks.start("stream", self._stream.run())
            tasks.start("lead", self._lead.run(self._stream))
            tasks.start("news", self._listen())
            tasks.start("reports", self._report())
            tasks.start("alerts", self._alerts.run())
            self._alerts.tell(Severity.INFO, "service_started", f"{self._who} has started")
            await tasks.watch(self._stopping)
            self._alerts.tell(Severity.INFO, "service_stopped", f"{self._who} has stopped")
        except Exception as exc:
            self._alerts.tell(Severity.CRITICAL, "service_failed", f"{self._who}: {exc}")
            raise
        finally:
            # Nothing goes out any more before another may lead.
            self._stream.follow()
            if await self._lead.give_back():
                await self._announce()
            await tasks.cancel()
            await self._say_goodbye()
            await self._alerts.flush()

    @property
    def _who(self) -> str:
        return f"price stream {self._process.name}"

    async def _listen(self) -> None:
        """Hear what people want, and ask for the lead as soon as somebody says that it is free."""
        news = await self._bus.subscribe(LISTENER_QUEUE, NEWS)
        await hear(self._bus, news, on_control=self._obey, on_change=self._note)

    def _obey(self, control: Control) -> None:
        if control.verb is ControlVerb.SHUTDOWN and control.addresses(SERVICE, self._process.name):
            self.stop()

    def _note(self, change: str) -> None:
        if change == LEAD:
            self._lead.look()

    async def _announce(self) -> None:
        """Wake the standby. If it misses that, it looks a moment later anyway."""
        notice = Heartbeat(
            service=SERVICE,
            instance=self._process.instance,
            at_ms=wall_ms(),
            interval_secs=REPORT_EVERY_SECS,
            facts={"lead": "free"},
        )
        message = Message(exchange=SYSTEM, routing_key=config_key(LEAD), body=encode(notice))
        with contextlib.suppress(RetryLater):
            await self._bus.publish(message, timeout_secs=ANNOUNCE_TIMEOUT_SECS)

    async def _report(self) -> None:
        away = False
        while True:
            report = self._stream.report()
            if report["role"] == Role.LEADING:
                self._alarms.look(report["venues"], wall_ms())
            try:
                async with self._store.begin() as tx:
                    await workers.beat(tx, self._process, report)
                away = False
            except StoreUnavailable as exc:
                if not away:
                    log.warning("cannot report: %s", exc)
                away = True
            await asyncio.sleep(REPORT_EVERY_SECS)

    async def _say_goodbye(self) -> None:
        try:
            async with self._store.begin() as tx:
                await workers.goodbye(tx, self._process)
        except StoreUnavailable as exc:
            log.debug("could not say goodbye: %s", exc)
