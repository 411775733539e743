"""Real orders of one worker: the desk that sends, the reconciler that asks, keys and balances."""

import logging
from collections.abc import Callable, Collection, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from shared.alerts import Alerts
from shared.limits import KillSwitchLevel
from shared.money import exact
from shared.orders import (
    STUCK_AFTER_ATTEMPTS,
    UNSETTLED,
    Intent,
    Leg,
    LiveOrder,
    Mode,
    OrderStatus,
    PositionStatus,
)
from shared.reasons import Reason
from shared.signals import Severity
from shared.store.engine import Store
from shared.store.settlement import Settled
from shared.venues import quote_of
from trade_worker import outcomes
from trade_worker.asking import NOT_FOUND_SECS
from trade_worker.balances import Balances
from trade_worker.desk import Desk
from trade_worker.egress import LOOK_EVERY_SECS, Egress
from trade_worker.key_ring import TRY_AGAIN_SECS, WRITE_EVERY_SECS, KeyRing
from trade_worker.reconcile import Reconciler
from trade_worker.repeating import repeat
from trade_worker.roster import Roster
from trade_worker.row_state import Flag
from trade_worker.settling import Settling
from trade_worker.venues import VenueOrders

log = logging.getLogger(__name__)

_NO_ENTRY: Final = int(
    Flag.INVALID | Flag.NOT_ACTIVE | Flag.BREAKER | Flag.ENTRIES_OFF | Flag.ALL_OFF
)


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveAccess:
    """How real orders reach their venues, and with which keys.

    `not_found_secs`: see `Reconciler`. Shorter ones are for tests alone.
    """

    port: VenueOrders
    keys: KeyRing
    egress: Egress
    not_found_secs: Mapping[str, float] = field(default_factory=lambda: NOT_FOUND_SECS)


class LiveTrading:
    """What becomes of live intents once they are durable. `tasks` run as long as the worker."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        access: LiveAccess,
        roster: Roster,
        shards: Callable[[], Collection[int]],
        alerts: Alerts,
        on_written: Callable[[], None],
    ) -> None:
        """`shards` are those that are ours now; `on_written` is called after each transaction
        that wrote events."""
        self._roster = roster
        self._shards = shards
        self._alerts = alerts
        self._port = port = access.port
        self._keys = access.keys
        self._egress = access.egress
        self._settling = Settling(
            store, owner=owner, holds=self._holds, on_settled=self._note, on_written=on_written
        )
        self._reconciler = Reconciler(
            store,
            port=port,
            settling=self._settling,
            holds=self._holds,
            on_refused_key=self._refuse_key,
            on_answered_key=self._trust_key,
            alerts=alerts,
            not_found_secs=access.not_found_secs,
        )
        self._desk = Desk(
            port=port,
            settling=self._settling,
            forbidden=self._forbidden,
            on_unsettled=self._reconciler.add,
            on_refused_key=self._refuse_key,
        )
        self._balances = Balances(ask=port.balances)

    @property
    def egress(self) -> str:
        """Which way its requests go out: workers with the same share a budget."""
        return self._egress.label

    def tasks(self) -> Mapping[str, Coroutine[Any, Any, None]]:
        """What has to run, by name."""
        return {
            "settling": self._settling.run(),
            "reconciler": self._reconciler.run(),
            "balances": self._balances.run(),
            "keys": repeat(WRITE_EVERY_SECS, self._keys.write_news),
            "egress": repeat(LOOK_EVERY_SECS, self._egress.look),
            "keys in trouble": repeat(TRY_AGAIN_SECS, self._try_keys_again),
        }

    async def start(self) -> None:
        await self._port.start()

    async def close(self) -> None:
        """Stop waiting for answers: what was sent is for the next owner to find out."""
        await self._desk.abandon()
        await self._port.close()

    async def load(self, shards: Collection[int]) -> None:
        """Ask for what earlier owners of these shards left. Raises `StoreUnavailable`."""
        await self._reconciler.load(shards)

    def forget(self, shards: Collection[int]) -> None:
        """Leave the orders of these shards to their next owner."""
        self._reconciler.forget(shards)

    async def drain(self) -> None:
        """Wait until what is on its way has its answer, and it is written."""
        await self._desk.drain()
        await self._settling.drain()

    def reserve(self, intent: Intent) -> Reason | None:
        """Set aside what a live entry may cost, or say why it must not be placed."""
        if intent.mode is not Mode.LIVE or intent.leg is not Leg.ENTRY:
            return None
        price = intent.decided_price if intent.limit_price is None else intent.limit_price
        with exact():
            cost = intent.quantity * price * (1 + intent.taker_fee)
        currency = quote_of(intent.pair)
        room = self._balances.room_for(intent.credential_id, currency, cost)
        if room is None:
            return Reason.BALANCE_UNKNOWN
        if not room:
            return Reason.BALANCE_TOO_SMALL
        self._balances.reserve(
            intent.client_order_id,
            credential_id=intent.credential_id,
            currency=currency,
            cost=cost,
        )
        return None

    def release(self, client_order_id: str) -> None:
        """Give back what was set aside for an intent that was never committed."""
        self._balances.release(client_order_id)

    def take(self, order: LiveOrder, *, send_by_secs: float) -> None:
        """Send this order, which was committed here, before `send_by_secs` (monotonic)."""
        self._desk.take(order, send_by_secs=send_by_secs)

    def report(self) -> dict[str, Any]:
        """What `status` shows of it, as JSON."""
        return {
            "on_their_way": self._desk.busy,
            "sent": {str(verdict): count for verdict, count in self._desk.verdicts.items()},
            "without_outcome": self._reconciler.open_cases,
            "asked": self._reconciler.asked,
            "adopted": self._reconciler.adopted,
            "keys_in_trouble": self._keys.in_trouble,
            "send_time": self._desk.send_time.report(),
        }

    def _holds(self, shard: int) -> bool:
        return shard in self._shards()

    async def _try_keys_again(self) -> None:
        await self._keys.try_again(self._shards(), self._port.balances)

    def _forbidden(self, order: LiveOrder) -> str | None:
        """Why an order must not go out now, although it was committed a moment ago."""
        if not self._holds(order.shard):
            return "its lease was lost before it was sent"
        levels = self._roster.kill_switches.over(
            bot_id=order.bot_id, user_id=order.user_id, venue=order.venue
        )
        if order.leg is Leg.EXIT:
            stopped = KillSwitchLevel.ALL in levels
        else:
            stopped = bool(levels) or self._stopped_meanwhile(order)
        return "it was stopped before it was sent" if stopped else None

    def _stopped_meanwhile(self, order: LiveOrder) -> bool:
        table = self._roster.table((order.venue, order.pair))
        row = None if table is None else table.row_of(order.bot_id)
        return table is None or row is None or bool(int(table.flags[row]) & _NO_ENTRY)

    def _note(self, order: LiveOrder, settled: Settled) -> None:
        """Let the row, the balance and people know."""
        if settled.status in UNSETTLED:
            return
        self._note_balance(order, settled)
        position = settled.position
        table = self._roster.table((order.venue, order.pair))
        elsewhere = settled.adopted or settled.sequence != order.position_sequence
        told = table is not None and not elsewhere and outcomes.tell(table, order, position)
        # An entry of which only dust was filled is closed with a result of its own.
        dust = order.leg is Leg.ENTRY and position.status is PositionStatus.CLOSED
        if not told or (dust and position.totals.entry_quantity):
            self._roster.reload(order.bot_id)
        if order.leg is Leg.EXIT and position.status is PositionStatus.OPEN:
            self._note_unsold(order)

    def _note_balance(self, order: LiveOrder, settled: Settled) -> None:
        if settled.status is OrderStatus.REJECTED:
            self._balances.forget(order.credential_id)
        elif order.leg is Leg.ENTRY:
            totals = settled.position.totals
            with exact():
                spent = totals.entry_cost + totals.fees
            self._balances.settle(order.client_order_id, spent=spent)
        else:
            self._balances.renew(order.credential_id)
        self._balances.release(order.client_order_id)

    def _note_unsold(self, order: LiveOrder) -> None:
        if order.attempt + 1 != STUCK_AFTER_ATTEMPTS:
            return
        self._alerts.tell(
            Severity.CRITICAL,
            "position_stuck",
            f"bot {order.bot_id} cannot sell its position {order.position_sequence} on "
            f"{order.pair} at {order.venue}: {STUCK_AFTER_ATTEMPTS} exits ended with something "
            "left; `botfleet positions list --stuck` shows why",
            bot_id=order.bot_id,
            pair=order.pair,
            sequence=order.position_sequence,
        )

    def _refuse_key(self, order: LiveOrder, text: str) -> None:
        self._keys.refused(order.credential_id, text)

    def _trust_key(self, order: LiveOrder) -> None:
        self._keys.answered(order.credential_id)
