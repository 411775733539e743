"""A worker as the model of an order's life has it: answers in, commands out, no time of its own.

What it decides about orders it decides by the product's rules; what the shell around those does
is here as it is there: an order is sent by who committed it, once, and asked for until its end.
"""

from dataclasses import dataclass, field, replace
from decimal import Decimal
from typing import Final

from shared.leases import Lease
from shared.money import floor_to
from shared.orders import UNSETTLED, Leg, LiveOrder, PositionStatus
from shared.settlement_rules import Settlement
from tests.chaos.life_books import TTL_MS, Bot, Found, Proposal, Written
from trade_worker import asking, sending
from trade_worker.answers import Report, Sent, Verdict
from trade_worker.backoff import exit_backoff_ms
from trade_worker.holdings import Holdings

ENTRY_LOTS: Final = Decimal(3)


@dataclass(frozen=True, slots=True)
class Failed:
    """It was certainly not done."""


@dataclass(frozen=True, slots=True)
class InDoubt:
    """It was done or not: the answer was lost."""


# Commands: what a worker wants of the database and the venue.


@dataclass(frozen=True, slots=True, kw_only=True)
class Take:
    asked_ms: int
    replacing: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Renew:
    asked_ms: int
    held: tuple[Lease, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Load:
    shards: frozenset[int]
    epochs: dict[int, int]
    orders_too: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Commit:
    proposal: Proposal
    began_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class ReadBack:
    commit: Commit


@dataclass(frozen=True, slots=True, kw_only=True)
class Send:
    order: LiveOrder
    deadline_ms: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    order: LiveOrder
    asked_ms: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    order: LiveOrder


@dataclass(frozen=True, slots=True, kw_only=True)
class Settle:
    """`asked` is the question that the news answers; None: it comes from sending."""

    order: LiveOrder
    news: Settlement
    asked: Ask | None = None
    report: Report | None = None
    in_doubt: bool = False


Command = Take | Renew | Load | Commit | ReadBack | Send | Ask | Cancel | Settle


@dataclass(slots=True)
class Row:
    """What is believed of a bot's pair; `position` is the open one, `held` what it can sell."""

    bot: Bot
    sequence: int
    version: int = 0
    held: Decimal | None = None
    attempts: int = 0
    waits: bool = False
    not_before_ms: int = 0


@dataclass(slots=True, kw_only=True)
class Process:
    """One process of a worker. `owner` is unique."""

    owner: str
    holdings: Holdings = field(default_factory=Holdings)
    rows: dict[int, Row] = field(default_factory=dict)
    cases: dict[str, LiveOrder] = field(default_factory=dict)
    asking: set[str] = field(default_factory=set)
    leasing: bool = False
    """One question about leases at a time."""
    committing: bool = False
    """One transaction with intents at a time."""

    # What it does by itself

    def keep_leases(self, now_ms: int, *, take: bool) -> list[Command]:
        """Take what is free, or renew what is held."""
        if self.leasing:
            return []
        self.leasing = True
        if take or not self.holdings.leases:
            return [Take(asked_ms=now_ms)]
        return [Renew(asked_ms=now_ms, held=tuple(self.holdings.leases))]

    def tick(self, bot: Bot, now_ms: int) -> list[Command]:
        """A price that lets every flat row enter and every open one sell."""
        row, epoch = self.rows.get(bot.id), self.holdings.epoch(bot.shard, now_ms / 1000)
        if row is None or row.waits or epoch is None or now_ms < row.not_before_ms:
            return []
        if self.committing:
            return []
        row.waits = True
        proposal = Proposal(
            bot=bot,
            epoch=epoch,
            sequence=row.sequence if row.held is not None else row.sequence + 1,
            version=row.version,
            leg=Leg.ENTRY if row.held is None else Leg.EXIT,
            attempt=0 if row.held is None else row.attempts,
            quantity=ENTRY_LOTS if row.held is None else floor_to(row.held, Decimal(1)),
            decided_ms=now_ms,
        )
        self.committing = True
        return [Commit(proposal=proposal, began_ms=now_ms)]

    def ask(self, now_ms: int) -> list[Command]:
        """Ask for every order without an outcome that is not asked for now."""
        waiting = [order for id_, order in self.cases.items() if id_ not in self.asking]
        self.asking |= {order.client_order_id for order in waiting}
        return [Ask(order=order, asked_ms=now_ms) for order in waiting]

    def give_up(self) -> None:
        """Its leases were given back."""
        shards = self.holdings.shards
        self.holdings.give_up(shards)
        self._forget(shards)

    # What it is told

    def told(self, command: Command, answer: object, now_ms: int) -> list[Command]:
        match command:
            case Take() | Renew():
                return self._told_leases(command, answer)
            case Load():
                return self._told_rows(command, answer, now_ms)
            case Commit() | ReadBack():
                return self._told_commit(command, answer, now_ms)
            case Send():
                sent = Sent(verdict=Verdict.UNKNOWN) if isinstance(answer, InDoubt) else answer
                assert isinstance(sent, Sent)
                news = sending.news_of(command.order, sent, sent_at_ms=now_ms)
                return [Settle(order=command.order, news=news)]
            case Ask():
                return self._told_answer(command, answer)
            case Settle():
                return self._told_settled(command, answer, now_ms)
            case Cancel():
                return []

    def _told_leases(self, command: Take | Renew, answer: object) -> list[Command]:
        self.leasing = False
        if not isinstance(answer, list):
            return []
        until = (command.asked_ms + TTL_MS) / 1000
        leases = [replace(lease, valid_until=until) for lease in answer]
        held = self.holdings
        self._forget(held.grant(leases) if isinstance(command, Take) else held.renew(leases))
        if not held.unserved:
            return []
        epochs = {lease.number: lease.epoch for lease in held.leases}
        return [Load(shards=held.unserved, epochs=epochs, orders_too=True)]

    def _told_rows(self, command: Load, answer: object, now_ms: int) -> list[Command]:
        now = {lease.number: lease.epoch for lease in self.holdings.leases}
        still = frozenset(s for s in command.shards if now.get(s) == command.epochs.get(s))
        if not isinstance(answer, tuple):
            return [replace(command, shards=still)] if still else []
        found, orders = answer
        for each in found:
            if each.bot.shard in still:
                self.rows[each.bot.id] = _row(each, now_ms)
        for order in orders:
            if order.shard in still:
                self.cases.setdefault(order.client_order_id, order)
        if command.orders_too:
            self.holdings.serve(still)
        return []

    def _told_commit(
        self, command: Commit | ReadBack, answer: object, now_ms: int
    ) -> list[Command]:
        commit = command if isinstance(command, Commit) else command.commit
        if isinstance(answer, InDoubt) or (
            isinstance(answer, Failed) and isinstance(command, ReadBack)
        ):
            return [ReadBack(commit=commit)]
        self.committing = False
        if isinstance(answer, LiveOrder):
            deadline_secs = sending.deadline_secs(
                answer, committed_after_secs=commit.began_ms / 1000
            )
            held = answer.shard in self.holdings.shards
            withheld = sending.withheld(
                now_ms / 1000,
                send_by_secs=deadline_secs,
                forbidden=None if held else "its lease was lost",
            )
            if withheld is None:
                return [Send(order=answer, deadline_ms=1000 * deadline_secs)]
            news = sending.news_of(answer, withheld, sent_at_ms=None)
            return [Settle(order=answer, news=news)]
        # Refused, or never done: what the row believes in may be outdated.
        return self._load_row(commit.proposal.bot.shard)

    def _told_answer(self, command: Ask, answer: object) -> list[Command]:
        order = self.cases.get(command.order.client_order_id)
        if order is None or isinstance(answer, InDoubt | Failed):
            self.asking.discard(command.order.client_order_id)
            return []
        assert answer is None or isinstance(answer, Report)
        news = asking.news_of(
            order,
            answer,
            asked_at_ms=command.asked_ms,
            not_found_secs=asking.NOT_FOUND_SECS[order.venue],
        )
        if news is None:
            self.asking.discard(order.client_order_id)
            return []
        return [Settle(order=order, news=news, asked=command, report=answer)]

    def _told_settled(self, command: Settle, answer: object, now_ms: int) -> list[Command]:
        order, id_ = command.order, command.order.client_order_id
        if isinstance(answer, InDoubt | Failed):
            if order.shard in self.holdings.shards:
                doubt = command.in_doubt or isinstance(answer, InDoubt)
                return [replace(command, in_doubt=doubt)]
            answer = None
        assert answer is None or isinstance(answer, Written)
        status = None if answer is None else answer.status
        wanted: list[Command] = []
        if answer is not None and (answer.changed or command.in_doubt):
            wanted += self._note(order, answer, now_ms)
        if command.asked is None:
            left = sending.left_to_ask(order, command.news, status)
            if left is not None and order.shard in self.holdings.shards:
                self._add(left)
            return wanted
        self.asking.discard(id_)
        known = self.cases.get(id_)
        if known is not None:
            then = asking.after(known, command.report, status, asked_at_ms=command.asked.asked_ms)
            self.cases[id_] = then.order
            if then.done:
                del self.cases[id_]
            if then.cancel:
                wanted.append(Cancel(order=then.order))
        return wanted

    def _add(self, order: LiveOrder) -> None:
        known = self.cases.get(order.client_order_id)
        if known is None:
            self.cases[order.client_order_id] = order
        elif known.venue_order_id is None:
            named = replace(known, venue_order_id=order.venue_order_id)
            self.cases[order.client_order_id] = named

    def _note(self, order: LiveOrder, written: Written, now_ms: int) -> list[Command]:
        """Tell the row; what it does not wait for, it has to learn anew."""
        row, position = self.rows.get(order.bot_id), written.position
        if row is None or written.status in UNSETTLED:
            return []
        own = written.sequence == order.position_sequence and not written.adopted
        if not own or not row.waits or position.status is PositionStatus.CLOSING:
            return self._load_row(order.shard)
        row.waits, row.sequence, row.held = False, written.sequence, None
        if position.status is PositionStatus.OPEN:
            row.version, row.held = position.version, position.totals.held
            row.attempts = order.attempt + 1 if order.leg is Leg.EXIT else 0
            row.not_before_ms = now_ms + exit_backoff_ms(row.attempts) if row.attempts else 0
        return []

    def _load_row(self, shard: int) -> list[Command]:
        epochs = {lease.number: lease.epoch for lease in self.holdings.leases}
        if shard not in epochs:
            return []
        return [Load(shards=frozenset({shard}), epochs=epochs, orders_too=False)]

    def _forget(self, shards: frozenset[int]) -> None:
        self.rows = {id_: row for id_, row in self.rows.items() if row.bot.shard not in shards}
        self.cases = {id_: o for id_, o in self.cases.items() if o.shard not in shards}


def _row(found: Found, now_ms: int) -> Row:
    row = Row(bot=found.bot, sequence=found.sequence, waits=found.waits)
    if found.position is not None:
        row.version, row.attempts = found.position.version, found.attempts
        if found.position.status is PositionStatus.OPEN:
            row.held = found.position.totals.held
            row.not_before_ms = now_ms + exit_backoff_ms(row.attempts) if row.attempts else 0
    return row
