"""A venue that falls silent is told once, and so is its return."""

from typing import Any

from price_stream.alarms import SILENT_MS, VenueAlarms
from shared.alerts import Alerts
from shared.bus.memory import MemoryBroker, MemoryBus
from shared.signals import Alert, Severity, decode_alert
from shared.topology import LISTENER_QUEUE, SYSTEM, Binding

FINE: dict[str, Any] = {"since_ms": None, "reason": None}
SILENT: dict[str, Any] = {"since_ms": 1_000, "reason": "timed out"}


async def told(*looks: tuple[dict[str, Any], int]) -> list[Alert]:
    bus = MemoryBus(MemoryBroker())
    await bus.start()
    everything = frozenset({Binding(exchange=SYSTEM, pattern="#")})
    heard = await bus.subscribe(LISTENER_QUEUE, everything)
    alerts = Alerts(bus, service="price_stream", instance="a")
    alarms = VenueAlarms(alerts)
    for state, now_ms in looks:
        alarms.look({"kraken": state}, now_ms)
    alerts.tell(Severity.INFO, "end", "end")
    await alerts.flush()
    *before, _end = [decode_alert(delivery.body) for delivery in await heard.batch()]
    await bus.close()
    return before


async def test_a_short_silence_is_nobodys_business() -> None:
    assert await told((SILENT, 1_000), (SILENT, SILENT_MS), (FINE, 20_000)) == []


async def test_a_long_silence_and_its_end_are_told_once() -> None:
    late = 1_000 + SILENT_MS
    silent, speaks = await told((SILENT, late), (SILENT, late + 1), (FINE, late + 2), (FINE, 9**9))
    assert (silent.code, silent.severity) == ("venue_silent", Severity.WARNING)
    assert silent.text == "kraken gives no prices, its bots stand still: timed out"
    assert silent.facts["venue"] == "kraken"
    assert (speaks.code, speaks.severity) == ("venue_speaks", Severity.INFO)
