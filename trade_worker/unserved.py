"""Notices shards that nobody has taken for longer than promised, and says so once."""

from typing import Final

from shared.alerts import Alerts
from shared.clock import monotonic_secs
from shared.leases import LeaseKind
from shared.signals import Severity
from shared.store import leases, workers
from shared.store.engine import Store
from shared.store.workers import ProcessKind

MOST_SHOWN: Final = 20


class UnservedShards:
    """Watches all shards, on the first of the living workers by name: one alert, not one each.

    A lease that has ended is taken within another lease time, or something is wrong: the
    workers that live cannot take it.
    """

    def __init__(self, store: Store, alerts: Alerts, *, owner: str, lease_ttl_secs: float) -> None:
        self._store = store
        self._alerts = alerts
        self._owner = owner
        self._ttl_secs = lease_ttl_secs
        self._free_since: dict[int, float] = {}
        self._told = False

    async def look(self) -> None:
        """Look once; call it several times per lease time. Raises `StoreUnavailable`."""
        async with self._store.read() as tx:
            members = await workers.members(tx, ProcessKind.TRADE_WORKER, alive_secs=self._ttl_secs)
            states = await leases.states(tx, LeaseKind.SHARD)
        if members[:1] != [self._owner]:
            self._free_since.clear()
            self._told = False
            return
        self._note({state.number for state in states if not state.held}, monotonic_secs())

    def _note(self, free: set[int], now_secs: float) -> None:
        self._free_since = {shard: self._free_since.get(shard, now_secs) for shard in free}
        late = sorted(
            shard for shard, since in self._free_since.items() if now_secs - since > self._ttl_secs
        )
        if late and not self._told:
            self._told = True
            self._alerts.tell(
                Severity.CRITICAL,
                "shards_unserved",
                f"{len(late)} shards are served by nobody, for over {2 * self._ttl_secs:g} s: "
                "`botfleet status` shows which workers live",
                count=len(late),
                shards=late[:MOST_SHOWN],
            )
        elif self._told and not free:
            self._told = False
            self._alerts.tell(Severity.INFO, "shards_served", "every shard is served again")
