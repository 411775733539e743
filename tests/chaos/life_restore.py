"""A backup is restored in the middle of an order's life, and `recover` finds what it has lost.

What `console/recover_account.py` does without a list of the account's orders: it asks for every
id that the lost time could have used, in the order of the product's own `walk`.
"""

from collections.abc import Callable, Generator
from dataclasses import dataclass, replace
from functools import partial
from typing import Final
from uuid import uuid5

from shared.orders import UNSETTLED, Leg, LiveOrder, OrderStatus, PositionStatus, totals_of
from shared.recovery import EXIT_LOOK_AHEAD, Answer, KnownPair, Place, id_at, look_ahead, walk
from shared.store.recovery import EPOCHS_LOST
from tests.chaos.life_books import BOTS, Books, Bot, LeaseRow, Position
from tests.chaos.life_venue import Reply, Venue, VenueOrder
from trade_worker import asking

LOST_MS: Final = 300_000
"""Long enough that whatever was on its way has arrived or never will, and is shown."""

_OWNER: Final = "recover"

IdOf = Callable[[Place], str]


@dataclass(slots=True, kw_only=True)
class Recovery:
    """One run over restored books."""

    books: Books
    venue: Venue
    now_ms: int

    def run(self, *, lost_ms: int) -> None:
        """Everything that the venue has is in the books then, under a new namespace for ids."""
        known = {bot.id: self._known(bot) for bot in BOTS}
        old = self.books.namespace
        self.books.namespace = uuid5(old, "restored")
        for bot in BOTS:
            epoch = self.books.leases.get(bot.shard, LeaseRow()).epoch + EPOCHS_LOST
            self.books.leases[bot.shard] = LeaseRow(_OWNER, epoch, self.now_ms + 1)
        for order in self.books.to_ask_for({bot.shard for bot in BOTS}, now_ms=self.now_ms):
            self._ask(order)
        for bot in BOTS:
            pair = known[bot.id]
            entries = look_ahead(pair, lost_secs=lost_ms / 1000)
            places = walk(pair, entries_ahead=entries, exits_ahead=EXIT_LOOK_AHEAD)
            self._walk(bot, places, partial(id_at, old, pair))
        for shard, row in self.books.leases.items():
            self.books.leases[shard] = LeaseRow(None, row.epoch, 0)

    def _known(self, bot: Bot) -> KnownPair:
        sequence = self.books.last_sequence(bot.id)
        unclosed = self.books.unclosed(bot.id)
        return KnownPair(
            bot_id=bot.id,
            pair=bot.pair,
            sequence=sequence,
            unclosed=unclosed is not None,
            exit_attempts=self.books.exits(bot.id, sequence),
            retry_cooldown_secs=1.0,
        )

    def _walk(self, bot: Bot, places: Generator[Place, Answer, None], id_of: IdOf) -> None:
        place = next(places)
        while True:
            try:
                place = places.send(self._answer(bot, place, id_of(place)))
            except StopIteration:
                return

    def _answer(self, bot: Bot, place: Place, id_: str) -> Answer:
        taken = self.venue.of(id_)
        if id_ not in self.books.orders:
            if not taken:
                return Answer.NOTHING
            self._adopt(bot, place, taken[0])
        order = self.books.orders[id_]
        if not self.books.fills_of(order):
            return Answer.UNFILLED
        position = self.books.positions[bot.id, place.sequence]
        return Answer.CLOSED if position.status is PositionStatus.CLOSED else Answer.FILLED

    def _adopt(self, bot: Bot, place: Place, taken: VenueOrder) -> None:
        key = bot.id, place.sequence
        before, waiting = self.books.positions.get(key), self.books.unsettled(bot.id)
        assert waiting is None, f"{waiting} keeps {place} from being adopted"
        if place.leg is Leg.ENTRY:
            assert before is None, f"{before} is in the place of {place}"
            assert self.books.unclosed(bot.id) is None, f"another position is open beside {place}"
            empty = totals_of((), pair=bot.pair)
            after = Position(status=PositionStatus.OPENING, version=0, totals=empty)
        else:
            assert before is not None, f"{place} has no position"
            assert before.status is PositionStatus.OPEN, f"{before} is in the way of {place}"
            after = replace(before, status=PositionStatus.CLOSING, version=before.version + 1)
        self.books.positions[key] = after
        order = replace(taken.order, status=OrderStatus.UNKNOWN, venue_order_id=None)
        self.books.orders[order.client_order_id] = order
        self._ask(order)

    def _ask(self, order: LiveOrder) -> None:
        report = self.venue.ask(order, now_ms=self.now_ms, reply=Reply.ALL)
        news = asking.news_of(
            order,
            report,
            asked_at_ms=self.now_ms,
            not_found_secs=asking.NOT_FOUND_SECS[order.venue],
        )
        if news is not None:
            written = self.books.settle(news, _OWNER, now_ms=self.now_ms)
            assert written is not None
            assert written.status not in UNSETTLED, f"{order} is {written.status} after all"


def recover(books: Books, venue: Venue, *, now_ms: int, lost_ms: int) -> None:
    """Bring restored books up to what the venue knows."""
    for taken in venue.orders:
        venue.end(taken)
    Recovery(books=books, venue=venue, now_ms=now_ms).run(lost_ms=lost_ms)
