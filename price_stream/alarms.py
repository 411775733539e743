"""Tells people when a venue gives no prices for so long that its bots stand still."""

from collections.abc import Mapping
from typing import Any, Final

from shared.alerts import Alerts
from shared.signals import Severity

SILENT_MS: Final = 15_000
"""A bot enters on no older tick, by default."""


class VenueAlarms:
    """One alert when a venue falls silent, one when it speaks again."""

    def __init__(self, alerts: Alerts) -> None:
        self._alerts = alerts
        self._silent: set[str] = set()

    def look(self, venues: Mapping[str, Mapping[str, Any]], now_ms: int) -> None:
        """Compare with the last look. `venues` is what `PriceStream.report` says of them."""
        for name, state in venues.items():
            since_ms = state["since_ms"]
            if since_ms is None:
                if name in self._silent:
                    self._silent.discard(name)
                    self._alerts.tell(
                        Severity.INFO, "venue_speaks", f"{name} gives prices again", venue=name
                    )
            elif now_ms - since_ms >= SILENT_MS and name not in self._silent:
                self._silent.add(name)
                self._alerts.tell(
                    Severity.WARNING,
                    "venue_silent",
                    f"{name} gives no prices, its bots stand still: {state['reason']}",
                    venue=name,
                    reason=state["reason"],
                    since_ms=since_ms,
                )
