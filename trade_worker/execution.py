"""From decisions to durable orders: intents, one transaction per batch, and what became of them.

One transaction at a time: whatever is decided while it runs goes into the next one together.
So the events of a bot are written in the order of its orders, and a slow database makes
batches larger instead of queues longer (a row that waits for its outcome decides nothing).
"""

import asyncio
import logging
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final
from uuid import UUID

from shared import failpoints
from shared.clock import monotonic_secs, wall_ms
from shared.errors import CommitUnknown, InvalidRow, StoreUnavailable
from shared.failpoints import Point
from shared.messages import Tick
from shared.orders import Intent, Leg, Mode, client_order_id
from shared.reasons import Reason
from shared.store import trading
from shared.store.engine import Store
from shared.store.trading import Committed, Proposal
from shared.telemetry import Histogram
from trade_worker import outcomes
from trade_worker.bot_table import BotTable
from trade_worker.decide import Decision, Decisions
from trade_worker.live_trading import LiveTrading
from trade_worker.sending import deadline_secs
from trade_worker.venues import OrderPort

log = logging.getLogger(__name__)

MAX_BATCH: Final = 2_500
"""Orders per transaction: few enough to stay well inside the 2 s that bound it."""

_LONGEST_PAUSE_SECS: Final = 2.0

_NOT_IN_COLUMNS: Final = frozenset({Reason.USER_POSITION_LIMIT, Reason.USER_NOTIONAL_LIMIT})
"""Denials that no change of the bot's row will follow: the next tick would only ask again."""


@dataclass(frozen=True, slots=True)
class _Pending:
    """A proposal and the table that waits for its outcome."""

    table: BotTable
    proposal: Proposal

    @property
    def intent(self) -> Intent:
        return self.proposal.intent

    @property
    def row(self) -> tuple[str, str, int]:
        """(venue, pair, bot id)."""
        return self.intent.venue, self.intent.pair, self.intent.bot_id


class Execution:
    """Commits what was decided and tells the tables. One task runs `run`."""

    def __init__(
        self,
        store: Store,
        *,
        owner: str,
        namespace: UUID,
        ports: Mapping[Mode, OrderPort],
        epoch: Callable[[int], int | None],
        on_committed: Callable[[], None],
        on_outdated: Callable[[int], None],
        live: LiveTrading | None = None,
    ) -> None:
        """`epoch` tells a shard's lease epoch now, None if it is not held. `on_committed` is
        called after each transaction that wrote events, `on_outdated` with a bot id where the
        database refused what its row believed in. `live` takes the orders of `Mode.LIVE`."""
        self._store = store
        self._owner = owner
        self.namespace = namespace
        """Of client order ids: `recover` draws a new one."""
        self._ports = ports
        self._epoch = epoch
        self._on_committed = on_committed
        self._on_outdated = on_outdated
        self._live = live
        self._pending: deque[_Pending] = deque()
        self._awaited: dict[tuple[str, str, int], _Pending] = {}
        self._wake = asyncio.Event()
        self._submitted = 0
        self._done = 0
        self._batch_done = asyncio.Event()
        self.latency = Histogram()
        """Milliseconds from `observed_at` to after COMMIT, one entry per order."""
        self.commit_time = Histogram()
        """Milliseconds that a transaction took, one entry per transaction."""
        self.committed = 0
        self.dropped: dict[str, int] = {}
        """Decisions that did not become orders, by cause."""

    def submit(
        self, table: BotTable, tick: Tick, decisions: Decisions, *, received_ms: int
    ) -> None:
        """Queue what one tick led to. The table's rows have been reserved already."""
        decided_ms = wall_ms()
        for decision in (*decisions.exits, *decisions.entries):
            epoch = self._epoch(decision.shard)
            if epoch is None:
                self._drop(table, decision.bot_id, decision.leg, "lease not held")
                continue
            port = self._ports.get(decision.mode)
            if port is None:
                self._drop(table, decision.bot_id, decision.leg, f"no {decision.mode} trading here")
                continue
            intent = self._intent(
                tick, decision, lease_epoch=epoch, received_ms=received_ms, decided_ms=decided_ms
            )
            if self._live is not None and (reason := self._live.reserve(intent)) is not None:
                self._deny_unpaid(table, intent, reason)
                continue
            fills = port.fill_at_commit(intent)
            pending = _Pending(table, Proposal(intent=intent, fills=fills))
            self._awaited[pending.row] = pending
            self._pending.append(pending)
            self._submitted += 1
            self._wake.set()

    async def run(self) -> None:
        """Commit batches until cancelled. Cancel it only after `drain`."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            while self._pending:
                size = min(MAX_BATCH, len(self._pending))
                await self._execute([self._pending.popleft() for _ in range(size)])
                self._done += size
                self._batch_done.set()
                self._batch_done = asyncio.Event()

    async def drain(self) -> None:
        """Wait until everything that is submitted now has its outcome."""
        submitted = self._submitted
        while self._done < submitted:
            await self._batch_done.wait()

    def _intent(
        self,
        tick: Tick,
        decision: Decision,
        *,
        lease_epoch: int,
        received_ms: int,
        decided_ms: int,
    ) -> Intent:
        return Intent(
            client_order_id=client_order_id(
                self.namespace,
                bot_id=decision.bot_id,
                pair=tick.pair,
                position_sequence=decision.position_sequence,
                leg=decision.leg,
                attempt=decision.attempt,
            ),
            bot_id=decision.bot_id,
            user_id=decision.user_id,
            shard=decision.shard,
            lease_epoch=lease_epoch,
            mode=decision.mode,
            venue=tick.venue,
            pair=tick.pair,
            position_sequence=decision.position_sequence,
            position_version=decision.position_version,
            leg=decision.leg,
            attempt=decision.attempt,
            quantity=decision.quantity,
            limit_price=decision.limit_price,
            decided_price=decision.decided_price,
            taker_fee=decision.taker_fee,
            reason=decision.reason,
            market_time_ms=tick.market_time_ms,
            observed_at_ms=tick.observed_at_ms,
            received_at_ms=received_ms,
            decided_at_ms=decided_ms,
            credential_id=decision.credential_id,
            regime=decision.regime,
            facts=decision.facts,
        )

    async def _execute(self, batch: Sequence[_Pending]) -> None:
        started_ms = wall_ms()
        began_secs = monotonic_secs()
        try:
            failpoints.hit(Point.BEFORE_COMMIT)
            async with self._store.begin() as tx:
                # Not before: a connection may be long in coming.
                batch = self._fresh(batch)
                began_secs = monotonic_secs()
                proposals = [pending.proposal for pending in batch]
                done = await trading.commit(tx, proposals, owner=self._owner)
                failpoints.hit(Point.IN_COMMIT)
            failpoints.hit(Point.AFTER_COMMIT)
        except CommitUnknown as exc:
            log.warning("%s: reading back %d orders", exc, len(batch))
            done = await self._read_back([pending.proposal for pending in batch])
        except StoreUnavailable as exc:
            log.warning("%d decisions dropped, the next tick decides again: %s", len(batch), exc)
            self._drop_all(batch, "database away")
            return
        except InvalidRow as exc:
            await self._split(batch, exc)
            return
        except Exception as exc:  # noqa: BLE001 - no row's data may end the worker
            await self._sort_out(batch, exc, began_secs)
            return
        self.commit_time.add(wall_ms() - started_ms)
        self._settle(batch, done, began_secs)

    def _fresh(self, batch: Sequence[_Pending]) -> list[_Pending]:
        """Without the entries whose tick has grown too old while they waited."""
        now_ms = wall_ms()
        fresh = []
        for pending in batch:
            intent = pending.intent
            limit_ms = 1000 * intent.facts["thresholds"].get("max_tick_age_secs", 0)
            if intent.leg is Leg.ENTRY and now_ms - intent.observed_at_ms > limit_ms:
                self._drop_pending(pending, "tick too old to commit")
            else:
                fresh.append(pending)
        return fresh

    async def _sort_out(
        self, batch: Sequence[_Pending], error: Exception, began_secs: float
    ) -> None:
        """What nobody thought of may have gone wrong after COMMIT: what is durable counts."""
        done = await self._read_back([pending.proposal for pending in batch])
        made = [p for p in batch if p.intent.client_order_id in done.positions]
        if made:
            log.error("%d orders were committed all the same", len(made), exc_info=error)
            self._settle(made, done, began_secs)
        if rest := [p for p in batch if p.intent.client_order_id not in done.positions]:
            await self._split(rest, error)

    async def _split(self, batch: Sequence[_Pending], error: Exception) -> None:
        """Commit the halves of a batch that one bad row spoilt; a bad row alone backs off."""
        if len(batch) > 1:
            middle = len(batch) // 2
            await self._execute(batch[:middle])
            await self._execute(batch[middle:])
            return
        (pending,) = batch
        intent, table = pending.intent, pending.table
        # What is no `InvalidRow` nobody thought of: arithmetic on a stored NaN, a mistake of ours.
        unforeseen = None if isinstance(error, InvalidRow) else error
        log.error(
            "bot %d on %s cannot trade: %r", intent.bot_id, intent.pair, error, exc_info=unforeseen
        )
        self._count_dropped("refused by the database")
        self._never_committed(intent)
        if not self._is_awaited(pending):
            return
        if intent.leg is Leg.ENTRY:
            table.entry_ended_unfilled(
                intent.bot_id,
                sequence=intent.position_sequence,
                market_time_ms=intent.market_time_ms,
            )
        else:
            table.exit_denied(intent.bot_id, market_time_ms=intent.market_time_ms)

    async def _read_back(self, proposals: Sequence[Proposal]) -> Committed:
        """What a COMMIT of unknown outcome wrote, asked until the database answers."""
        pause_secs = 0.1
        while True:
            try:
                async with self._store.read() as tx:
                    return await trading.read_back(tx, proposals)
            except StoreUnavailable:
                await asyncio.sleep(pause_secs)
                pause_secs = min(2 * pause_secs, _LONGEST_PAUSE_SECS)

    def _settle(self, batch: Sequence[_Pending], done: Committed, began_secs: float) -> None:
        """Tell the rows; `began_secs` (monotonic) is before any of it was committed."""
        now_ms = wall_ms()
        for pending in batch:
            intent = pending.intent
            state = done.positions.get(intent.client_order_id)
            if state is not None:
                self.committed += 1
                self.latency.add(now_ms - intent.observed_at_ms)
                if self._is_awaited(pending):
                    outcomes.tell(pending.table, intent, state)
            elif intent.client_order_id in done.fenced:
                self._drop_pending(pending, "lease lost")
            elif (reason := done.denied.get(intent.client_order_id)) is not None:
                self._deny(pending, reason)
            else:
                self._drop_pending(pending, "position changed meanwhile")
                self._on_outdated(intent.bot_id)
        if self._live is not None:
            for order in done.live.values():
                send_by_secs = deadline_secs(order, committed_after_secs=began_secs)
                self._live.take(order, send_by_secs=send_by_secs)
        if done.positions:
            self._on_committed()

    def _drop_all(self, batch: Sequence[_Pending], cause: str) -> None:
        for pending in batch:
            self._drop_pending(pending, cause)

    def _drop_pending(self, pending: _Pending, cause: str) -> None:
        self._never_committed(pending.intent)
        if self._is_awaited(pending):
            self._drop(pending.table, pending.intent.bot_id, pending.intent.leg, cause)
        else:
            self._count_dropped(cause)

    def _is_awaited(self, pending: _Pending) -> bool:
        """Whether this is what its row waits for; it has its outcome now.

        A shard that was lost and taken again while a commit hung has its rows loaded afresh,
        and they may have decided anew: the old outcome must not end what they wait for.
        """
        if self._awaited.get(pending.row) is not pending:
            return False
        del self._awaited[pending.row]
        return True

    def _drop(self, table: BotTable, bot_id: int, leg: Leg, cause: str) -> None:
        self._count_dropped(cause)
        if leg is Leg.ENTRY:
            table.entry_dropped(bot_id)
        else:
            table.exit_dropped(bot_id)

    def _deny(self, pending: _Pending, reason: Reason) -> None:
        """The transaction saw a switch, breaker or limit that the columns did not have yet."""
        intent = pending.intent
        if intent.leg is Leg.ENTRY and reason in _NOT_IN_COLUMNS:
            self._count_dropped(reason)
            self._never_committed(intent)
            if self._is_awaited(pending):
                table = pending.table
                table.entry_denied(intent.bot_id, market_time_ms=intent.market_time_ms)
        else:
            self._drop_pending(pending, reason)

    def _deny_unpaid(self, table: BotTable, intent: Intent, reason: Reason) -> None:
        """The account has not got what a live entry may cost, or nobody knows yet."""
        if reason is Reason.BALANCE_UNKNOWN:
            self._drop(table, intent.bot_id, intent.leg, reason)
            return
        self._count_dropped(reason)
        table.entry_denied(intent.bot_id, market_time_ms=intent.market_time_ms)

    def _never_committed(self, intent: Intent) -> None:
        if self._live is not None:
            self._live.release(intent.client_order_id)

    def _count_dropped(self, cause: str) -> None:
        cause = str(cause)  # a Reason is no key of a JSON object
        self.dropped[cause] = self.dropped.get(cause, 0) + 1
