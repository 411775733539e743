"""One account after a restore: its venue is asked for every order of the lost time."""

import asyncio
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from decimal import Decimal
from typing import Final

from console.recover_report import AccountReport, Holding, LookedFor
from console.recover_venue import PAUSE_SECS, AccountOrders
from shared.clock import ms_of
from shared.errors import CredentialRefused, VenueUnavailable
from shared.orders import UNSETTLED, LiveOrder, OrderStatus, PositionStatus
from shared.recovery import (
    EXIT_LOOK_AHEAD,
    LISTED_LOOK_AHEAD,
    Answer,
    Place,
    id_at,
    look_ahead,
    places_within,
    walk,
)
from shared.store import changes, found_orders, settlement
from shared.store.engine import Store
from shared.store.found_orders import FoundOrder, RestoredPair
from shared.store.recovery import Debt
from shared.store.settlement import Settled, Settlement
from trade_worker.venues import Report
from trade_worker.venues.listing import ListedOrder

SLACK: Final = timedelta(minutes=1)
"""How far the database's clock and a venue's may be apart."""

KNOWN_FOR: Final = timedelta(hours=25)
"""Longer than the time before the lost one from which orders are listed."""

_FILL_TRIES: Final = 5
_OURS: Final = re.compile(r"[0-9a-f]{32}")
_DECIDED: Final = (CredentialRefused, VenueUnavailable)


@dataclass(frozen=True, slots=True, kw_only=True)
class Scope:
    """How an account is recovered. `owner` holds the leases; None only looks.

    `not_found_secs`: how long after `send_by` "not found" is final, by venue.
    """

    owner: str | None
    not_found_secs: Mapping[str, float]


class AccountRecovery:
    """Recovers one account. Used once."""

    def __init__(
        self, store: Store, venue: AccountOrders, debts: Sequence[Debt], *, scope: Scope
    ) -> None:
        """`debts` are all of the account's, in the order in which their recoveries began."""
        self._store = store
        self._venue = venue
        self._debts = debts
        self._scope = scope
        self._account = debts[0]
        self._lost_since = min(debt.lost_since for debt in debts)
        self._answers: dict[str, Answer] = {}
        """What is known of ids already."""
        self._refused: dict[str, str] = {}
        """Why orders that were found could not be written, by client order id."""
        self._trusts_listing = False
        """Whether the venue has listed every order that it is known to have."""
        self.report = AccountReport(
            credential_id=self._account.credential_id,
            user=self._account.user,
            venue=self._account.venue,
        )

    async def run(self) -> AccountReport:
        """Ask for everything and write down what is found. Raises only what the store raises.

        May be interrupted and run again at any point.
        """
        try:
            await self._settle_known()
            pairs = {debt.namespace: await self._pairs(debt) for debt in self._debts}
            every = [pair for found in pairs.values() for pair in found]
            listed = await self._listed(sorted({pair.known.pair for pair in every}))
            for debt in self._debts:
                await self._recover(debt, pairs[debt.namespace], listed)
            self._note_strangers(listed)
            await self._compare()
        except _DECIDED as exc:
            self.report.problem = str(exc)
        else:
            if self._refused:
                self.report.problem = "; ".join(
                    f"order {id_} cannot be adopted: {why}" for id_, why in self._refused.items()
                )
        return self.report

    async def _pairs(self, debt: Debt) -> list[RestoredPair]:
        async with self._store.read() as tx:
            return await found_orders.pairs_of(tx, debt)

    async def _settle_known(self) -> None:
        """Ask for the orders that the database knows, and whose outcome it does not."""
        async with self._store.read() as tx:
            unsettled = await found_orders.without_outcome(
                tx, user_id=self._account.user_id, venue=self._account.venue
            )
        for order in unsettled:
            async with self._store.read() as tx:
                started_ms = ms_of(await changes.clock(tx))
            told = await self._venue.ask(order)
            final_ms = order.send_by_ms + 1000 * self._scope.not_found_secs[order.venue]
            news: Settlement | None = None
            if told is not None:
                news = _news(order.client_order_id, told)
            elif order.status in UNSETTLED and not order.venue_order_id and started_ms >= final_ms:
                news = Settlement(
                    client_order_id=order.client_order_id,
                    status=OrderStatus.NOT_PLACED,
                    executed=Decimal(0),
                    detail="the venue never had it",
                )
            if order.status in UNSETTLED or told is not None:
                self.report.settled.append(await self._settled(order, told, news))

    async def _settled(
        self, order: LiveOrder, told: Report | None, news: Settlement | None
    ) -> LookedFor:
        outcome = "still unsettled: the worker goes on to ask"
        if news is not None:
            outcome = f"{order.status} → {news.status}"
            if self._scope.owner is not None:
                async with self._store.begin() as tx:
                    done = await settlement.settle(tx, [news], owner=self._scope.owner)
                if order.client_order_id in done:
                    outcome = f"{order.status} → {done[order.client_order_id].status}"
        return _looked_for(order, told=told, outcome=outcome)

    async def _listed(self, pairs: Sequence[str]) -> dict[str, ListedOrder]:
        """The account's orders of the lost time that look like ours, by client order id."""
        async with self._store.read() as tx:
            anchors = await found_orders.newest_at_venue(
                tx,
                user_id=self._account.user_id,
                venue=self._account.venue,
                before=self._lost_since,
            )
        since = min([self._lost_since, *anchors.values()]) - SLACK
        try:
            orders = await self._venue.orders_since(
                self._account.credential_id, self._account.venue, pairs, since_ms=ms_of(since)
            )
        except VenueUnavailable as exc:
            self.report.notes.append(f"its orders could not be listed: {exc}")
            return {}
        self.report.listed = len(orders)
        listed = {o.client_order_id: o for o in orders if _OURS.fullmatch(o.client_order_id)}
        # An empty list shows nothing: such a venue may list nothing at all.
        self._trusts_listing = bool(listed) and anchors.keys() <= listed.keys()
        return listed

    async def _recover(
        self, debt: Debt, pairs: Sequence[RestoredPair], listed: Mapping[str, ListedOrder]
    ) -> None:
        await self._learn_known(pairs)
        lost_secs = (debt.begun_at - debt.lost_since + SLACK).total_seconds()
        unknown = {id_ for id_ in listed if id_ not in self._answers}
        traded = []
        for pair in pairs:
            await asyncio.sleep(0)  # ids are made by the ten thousand: others go on
            places = _places_of(debt, pair, unknown, lost_secs=lost_secs)
            unknown -= places.keys()
            for id_, place in sorted(places.items(), key=lambda item: item[1]):
                await self._answer(debt, pair, place, listed.get(id_))
            if pair.live or places:
                traded.append(pair)
        if debt.asked_at is not None and self._trusts_listing:
            return  # its ids were asked for before: the list shows what came late
        trusted = self._trusts_listing
        for pair in traded:
            await self._walk(debt, pair, listed, lost_secs=lost_secs)
        if trusted and not self._trusts_listing:
            self.report.notes.append("its list of orders lacks some: every id was asked for")
            for pair in traded:
                await self._walk(debt, pair, listed, lost_secs=lost_secs)

    async def _learn_known(self, pairs: Sequence[RestoredPair]) -> None:
        async with self._store.read() as tx:
            known = await found_orders.known_orders(
                tx, {pair.known.bot_id for pair in pairs}, since=self._lost_since - KNOWN_FOR
            )
        for id_, order in known.items():
            answer = Answer.FILLED if order.filled_quantity else Answer.UNFILLED
            self._answers[id_] = Answer.CLOSED if order.position_closed else answer

    async def _walk(
        self,
        debt: Debt,
        pair: RestoredPair,
        listed: Mapping[str, ListedOrder],
        *,
        lost_secs: float,
    ) -> None:
        """Ask for ids one by one, in the order in which they would have been used."""
        entries, exits = look_ahead(pair.known, lost_secs=lost_secs), EXIT_LOOK_AHEAD
        if self._trusts_listing or debt.asked_at is not None:
            entries = exits = LISTED_LOOK_AHEAD
        steps = walk(pair.known, entries_ahead=entries, exits_ahead=exits)
        place = next(steps)
        while True:
            id_ = id_at(debt.namespace, pair.known, place)
            answer = self._answers.get(id_)
            if answer is None or id_ in self._refused:
                answer = await self._answer(debt, pair, place, listed.get(id_))
            try:
                place = steps.send(answer)
            except StopIteration:
                return

    async def _answer(
        self, debt: Debt, pair: RestoredPair, place: Place, listed: ListedOrder | None
    ) -> Answer:
        """Ask for one place; what is there is written down."""
        id_ = id_at(debt.namespace, pair.known, place)
        order = _candidate(debt, pair, place, id_, listed)
        told = await self._venue.ask(order)
        self.report.ids_asked += 1
        if told is None:
            if listed is not None:
                raise VenueUnavailable(f"{pair.venue} lists order {id_}, and says there is none")
            answer = Answer.NOTHING
        else:
            if listed is None:
                self._trusts_listing = False
                named = replace(order, venue_order_id=told.venue_order_id)
                listed = await self._venue.details(named)
            answer = await self._found(order, pair, place, told, listed)
        self._answers[id_] = answer
        return answer

    async def _found(
        self,
        order: LiveOrder,
        pair: RestoredPair,
        place: Place,
        told: Report,
        listed: ListedOrder,
    ) -> Answer:
        id_ = order.client_order_id
        answer = Answer.FILLED if told.executed else Answer.UNFILLED
        self._refused.pop(id_, None)
        self.report.found = [each for each in self.report.found if each.client_order_id != id_]
        outcome = "to be adopted"
        if self._scope.owner is not None:
            found = FoundOrder(
                client_order_id=id_,
                pair=pair,
                place=place,
                credential_id=self._account.credential_id,
                quantity=listed.quantity,
                limit_price=listed.limit_price,
                average_price=listed.average_price,
                opened_at_ms=listed.opened_at_ms,
            )
            written = await self._write(found, order, told, owner=self._scope.owner)
            if isinstance(written, str):
                self._refused[id_] = written
                outcome = f"not adopted: {written}"
            else:
                outcome = f"adopted: sequence {written.sequence} is {written.position.status}"
                closed = written.position.status is PositionStatus.CLOSED
                answer = Answer.CLOSED if closed and told.executed else answer
        self.report.found.append(_looked_for(order, told=told, outcome=outcome))
        return answer

    async def _write(
        self, found: FoundOrder, order: LiveOrder, told: Report, *, owner: str
    ) -> Settled | str:
        """Adopt an order. A text says why that cannot be."""
        named = replace(order, venue_order_id=told.venue_order_id)
        for attempt in range(_FILL_TRIES):
            news = _news(found.client_order_id, told)
            async with self._store.begin() as tx:
                problem = await found_orders.insert_found(tx, found, owner=owner)
                if problem is not None:
                    return problem
                done = await settlement.settle(tx, [news], owner=owner)
            settled = done[found.client_order_id]
            if settled.status not in UNSETTLED or attempt + 1 == _FILL_TRIES:
                break
            # Its trades may be on their way; the worker goes on where this ends.
            await asyncio.sleep(PAUSE_SECS)
            told = await self._venue.ask(named) or told
        return settled

    def _note_strangers(self, listed: Mapping[str, ListedOrder]) -> None:
        self.report.strangers = tuple(sorted(listed.keys() - self._answers.keys()))

    async def _compare(self) -> None:
        """What positions hold against what is free on the account."""
        async with self._store.read() as tx:
            held = await found_orders.held_by_positions(
                tx, user_id=self._account.user_id, venue=self._account.venue
            )
        if not held:
            return
        try:
            free = await self._venue.balances(self._account.credential_id)
        except VenueUnavailable as exc:
            # It helps a person, and nothing depends on it.
            self.report.notes.append(f"its balances could not be read: {exc}")
            return
        self.report.holdings = tuple(
            Holding(currency=currency, held=amount, free=free.get(currency, Decimal(0)))
            for currency, amount in sorted(held.items())
            if amount
        )


def _places_of(
    debt: Debt, pair: RestoredPair, unknown: Collection[str], *, lost_secs: float
) -> dict[str, Place]:
    """Which of these ids are the pair's, and where they belong."""
    found: dict[str, Place] = {}
    if not unknown:
        return found
    for place in places_within(pair.known, lost_secs=lost_secs):
        id_ = id_at(debt.namespace, pair.known, place)
        if id_ in unknown:
            found[id_] = place
            if len(found) == len(unknown):
                break
    return found


def _candidate(
    debt: Debt, pair: RestoredPair, place: Place, id_: str, listed: ListedOrder | None
) -> LiveOrder:
    """The order that would have been at this place, to ask for it."""
    lost_since_ms = ms_of(debt.lost_since - SLACK)
    return LiveOrder(
        client_order_id=id_,
        bot_id=pair.known.bot_id,
        user_id=pair.user_id,
        shard=pair.shard,
        credential_id=debt.credential_id,
        venue=pair.venue,
        pair=pair.known.pair,
        position_sequence=place.sequence,
        leg=place.leg,
        attempt=place.attempt,
        quantity=Decimal(0),
        limit_price=None,
        decided_price=Decimal(0),
        status=OrderStatus.UNKNOWN,
        venue_order_id=None if listed is None else listed.venue_order_id,
        market_time_ms=lost_since_ms,
        committed_at_ms=lost_since_ms,
        send_by_ms=lost_since_ms,
    )


def _news(client_order_id: str, told: Report) -> Settlement:
    return Settlement(
        client_order_id=client_order_id,
        status=told.status,
        venue_order_id=told.venue_order_id,
        executed=told.executed,
        fills=told.fills,
    )


def _looked_for(order: LiveOrder, *, told: Report | None, outcome: str) -> LookedFor:
    return LookedFor(
        client_order_id=order.client_order_id,
        bot_id=order.bot_id,
        pair=order.pair,
        sequence=order.position_sequence,
        leg=order.leg,
        attempt=order.attempt,
        status="not found" if told is None else str(told.status),
        executed=Decimal(0) if told is None else told.executed,
        outcome=outcome,
    )
