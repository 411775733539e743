"""One venue's engine: it takes orders, fills them at the market's prices and moves balances."""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from ecosystem.venue_simulator import order_lines
from ecosystem.venue_simulator.accounts import Account, ApiKey
from ecosystem.venue_simulator.books import Book, Course
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.faults import FaultBoard, Spoiled
from ecosystem.venue_simulator.filling import (
    best_price,
    check_rules,
    crosses,
    fee_of,
    hold_currency,
    holding,
    move_balances,
    planned_trades,
    rests,
    rounded_fee,
    set_aside,
)
from ecosystem.venue_simulator.journal import Journal
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.order_ids import OrderIds
from ecosystem.venue_simulator.orders import (
    OrderRefused,
    OrderRequest,
    RefusalKind,
    Trade,
    VenueOrder,
    VenueOrderStatus,
)
from shared.clock import wall_ms
from shared.money import exact, plain
from shared.orders import Side
from shared.venues import BINANCE, quote_of

MAX_OPEN_ORDERS: Final = 200
"""Of one account in one pair."""

_NOTHING: Final = Spoiled()


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a venue's engine works with."""

    market: Market
    clock: MarketClock
    faults: FaultBoard
    journal: Journal
    wall_ms: Callable[[], int] = wall_ms


@dataclass(frozen=True, slots=True, kw_only=True)
class _Late:
    """An order on its way to the engine."""

    due_ms: int
    key: ApiKey
    request: OrderRequest
    spoiled: Spoiled


class Trading:
    """The orders, trades and balances of one venue.

    Everything here is synchronous and done when it returns; its journal lines are written but
    not on disk. Whoever answers a request awaits `journal.on_disk()` first, whatever the answer.

    Orders fill at the market's best bid or ask (a jump counts, see `FaultBoard.traded_quote`),
    whatever their size. All times are those of the venue's clock, `now_ms`. Queries take the
    request's `Spoiled` for what they must not see yet.
    """

    def __init__(self, venue: str, around: Surroundings) -> None:
        self.venue = venue
        self._around = around
        self._listings = {listing.pair: listing for listing in around.market.listings(venue)}
        self._books: dict[str, Book] = {}
        self._busy: dict[str, Book] = {}
        """Those with open orders."""
        self._late: list[_Late] = []
        self._ids = OrderIds(venue, first=around.wall_ms())

    @property
    def listings(self) -> Sequence[Listing]:
        """All that the venue ever traded, also what it claims not to list now."""
        return list(self._listings.values())

    def now_ms(self) -> int:
        """The venue's clock, as its public time: the market's, off by what a `clock_skew` says.
        Timestamps and deadlines of requests are judged by it."""
        return self._around.clock.now_ms() + self._around.faults.skew_ms(self.venue)

    def check(self, key: ApiKey, request: OrderRequest) -> None:
        """Raise the `OrderRefused` that `place` would raise; nothing changes."""
        self._course(self._book(key.account), request, _NOTHING, self.now_ms())

    def place(
        self, key: ApiKey, request: OrderRequest, spoiled: Spoiled = _NOTHING
    ) -> VenueOrder | None:
        """Accept an order and fill what fills now.

        None where a `late` fault holds it up: `advance` brings it to the engine when it is due,
        and the reply is lost, as `spoiled.reply` says. Raises `OrderRefused`, which is in the
        journal, too.
        """
        self.advance()
        if spoiled.late_secs:
            due_ms = self.now_ms() + round(spoiled.late_secs * 1000)
            self._late.append(_Late(due_ms=due_ms, key=key, request=request, spoiled=spoiled))
            return None
        return self._accept(key, request, spoiled)

    def cancel(self, key: ApiKey, *, order_id: str) -> VenueOrder:
        """End an open order of the key's account, whether queries see it or not.

        Raises `OrderRefused` (unknown_order) where there is none, which is in the journal, too.
        """
        self.advance()
        book = self._book(key.account)
        order = book.open.get(order_id)
        if order is None:
            refusal = OrderRefused(RefusalKind.UNKNOWN_ORDER, f"no order {order_id} is open")
            self._write("refused", order_lines.refused_cancel(key, refusal, order_id=order_id))
            raise refusal
        self._end(book, order, VenueOrderStatus.CANCELLED, by="client")
        return order

    def orders(self, account: Account, spoiled: Spoiled = _NOTHING) -> list[VenueOrder]:
        """Open and ended ones, first accepted first."""
        book, seen_ms = self._seen(account, spoiled)
        return [order for order in book.orders.values() if order.accepted_at_ms <= seen_ms]

    def open_orders(self, account: Account, spoiled: Spoiled = _NOTHING) -> list[VenueOrder]:
        """First accepted first."""
        book, seen_ms = self._seen(account, spoiled)
        return [order for order in book.open.values() if order.accepted_at_ms <= seen_ms]

    def closed_orders(self, account: Account, spoiled: Spoiled = _NOTHING) -> list[VenueOrder]:
        """Ended ones, last ended first; the face cuts out its window of time and its page."""
        ended = [order for order in self.orders(account, spoiled) if not order.is_open]
        return sorted(ended, key=lambda order: order.ended_at_ms or 0, reverse=True)

    def order(
        self, account: Account, spoiled: Spoiled = _NOTHING, *, order_id: str
    ) -> VenueOrder | None:
        """The account's order with the venue's id."""
        book, seen_ms = self._seen(account, spoiled)
        order = book.orders.get(order_id)
        return order if order is not None and order.accepted_at_ms <= seen_ms else None

    def trades(self, account: Account, spoiled: Spoiled = _NOTHING) -> list[Trade]:
        """Every trade of the account, first traded first, then as `spoiled.fills` garbles them."""
        book, seen_ms = self._seen(account, spoiled)
        return spoiled.fills([trade for trade in book.trades if trade.at_ms <= seen_ms])

    def advance(self) -> None:
        """Do what has become due: late orders arrive, partial fills go on, prices reach resting
        orders. Every other method does it first; the simulator does it besides, many times a
        second."""
        now_ms = self.now_ms()
        due = [late for late in self._late if late.due_ms <= now_ms]
        self._late = [late for late in self._late if late.due_ms > now_ms]
        for late in sorted(due, key=lambda late: late.due_ms):
            try:
                self._accept(late.key, late.request, late.spoiled)
            except OrderRefused:
                continue  # nobody waits for it, and the journal has it
        for name, book in list(self._busy.items()):
            for order in list(book.open.values()):
                self._go_on(book, order, now_ms)
            if not book.open:
                del self._busy[name]

    def restore(self, account: Account, orders: Iterable[VenueOrder]) -> None:
        """Take over an account's orders from a journal; their trades' balances have moved.

        What an open order still had planned is forgotten: an immediate-or-cancel order ends, a
        resting one rests.
        """
        book = self._book(account)
        for order in orders:
            book.add(order)
            self._ids.seen(order)
            if order.is_open and rests(order.request):
                self._busy[account.name] = book
                self._hold(book, order)
            elif order.is_open:
                self._end(book, order, self._unfilled_status(), by="venue")
        book.trades.sort(key=lambda trade: trade.at_ms)

    def _accept(self, key: ApiKey, request: OrderRequest, spoiled: Spoiled) -> VenueOrder:
        book = self._book(key.account)
        moment_ms = self._around.wall_ms()
        now_ms = self.now_ms()
        try:
            course = self._course(book, request, spoiled, now_ms)
        except OrderRefused as refusal:
            self._write("refused", order_lines.refused_order(key, refusal, request))
            raise
        order = VenueOrder(
            order_id=self._ids.order_id(),
            account=key.account.name,
            request=request,
            accepted_at_ms=now_ms,
        )
        book.add(order)
        self._busy[book.account.name] = book
        book.courses[order.order_id] = course
        # The wall clock at which its time was found not to be over, not a moment later.
        self._write("accepted", {**order_lines.accepted(key, order), "wall_ms": moment_ms})
        self._hold(book, order)
        self._go_on(book, order, now_ms)
        return order

    def _course(self, book: Book, request: OrderRequest, spoiled: Spoiled, now_ms: int) -> Course:
        """How an order is going to fill. Raises `OrderRefused` for one that may not be."""
        self._check_time(request, now_ms)
        listing = self._listings.get(request.pair)
        if listing is None or request.pair in self._around.faults.refused(self.venue):
            raise OrderRefused(RefusalKind.UNKNOWN_PAIR, f"{request.pair} is not listed")
        named = book.by_client_id.get(request.client_order_id or "", ())
        if any(order.is_open for order in named):
            raise OrderRefused(
                RefusalKind.DUPLICATE_CLIENT_ID,
                f"an open order has the client order id {request.client_order_id}",
            )
        if book.open_in(request.pair) >= MAX_OPEN_ORDERS:
            raise OrderRefused(RefusalKind.TOO_MANY_ORDERS, f"{MAX_OPEN_ORDERS} are open")
        best = self._best(listing, request.side)
        check_rules(request, listing.rules, best=best)
        how = spoiled.fill_plan
        course = Course(
            planned=planned_trades(request, listing.rules, best=best, how=how, now_ms=now_ms),
            starved=how.fraction < 1,
        )
        needed = self._needed(book.account, request, request.quantity, course)
        currency = hold_currency(request)
        free = book.account.balance(currency).free
        if needed > free:
            raise OrderRefused(
                RefusalKind.INSUFFICIENT_FUNDS,
                f"it needs {plain(needed)} {currency}, free are {plain(free)}",
            )
        return course

    def _check_time(self, request: OrderRequest, now_ms: int) -> None:
        speed = self._around.clock.speed
        if speed != 1:
            raise OrderRefused(
                RefusalKind.SPEED,
                f"the venue's clock runs {speed:g} times as fast as ours: this simulator trades "
                "at speed 1 only",
            )
        if request.expires_at_ms is not None and now_ms > request.expires_at_ms:
            raise OrderRefused(
                RefusalKind.DEADLINE,
                f"the order's own time was over {now_ms - request.expires_at_ms} ms ago",
            )

    def _go_on(self, book: Book, order: VenueOrder, now_ms: int) -> None:
        course = book.courses.get(order.order_id) or Course()
        while course.planned and course.planned[0].due_ms <= now_ms:
            planned = course.planned.pop(0)
            self._fill(book, order, planned.quantity, planned.price, now_ms, is_maker=False)
        if course.planned or not order.is_open:
            return
        if not rests(order.request):
            self._end(book, order, self._unfilled_status(), by="venue")
        elif not course.starved and order.request.price is not None:
            listing = self._listings[order.request.pair]
            if crosses(order.request, self._best(listing, order.request.side)):
                price = order.request.price
                self._fill(book, order, order.remaining, price, now_ms, is_maker=True)

    def _fill(
        self,
        book: Book,
        order: VenueOrder,
        quantity: Decimal,
        price: Decimal,
        now_ms: int,
        *,
        is_maker: bool,
    ) -> None:
        request, account = order.request, book.account
        fee, fee_currency = self._fee(account, request, quantity, price)
        trade = Trade(
            trade_id=self._ids.trade_id(),
            order_id=order.order_id,
            client_order_id=request.client_order_id,
            pair=request.pair,
            side=request.side,
            quantity=quantity,
            price=price,
            fee=fee,
            fee_currency=fee_currency,
            at_ms=now_ms,
            is_maker=is_maker,
        )
        order.trades.append(trade)
        book.trades.append(trade)
        set_aside(account, order, Decimal(0))
        move_balances(account, trade)
        self._write("filled", order_lines.filled(account, trade))
        if order.remaining:
            self._hold(book, order)
        else:
            order.status = VenueOrderStatus.FILLED
            order.ended_at_ms = now_ms
            book.close(order)

    def _end(self, book: Book, order: VenueOrder, status: VenueOrderStatus, *, by: str) -> None:
        set_aside(book.account, order, Decimal(0))
        order.status = status
        order.ended_at_ms = self.now_ms()
        book.close(order)
        self._write("ended", order_lines.ended(order, by=by))

    def _hold(self, book: Book, order: VenueOrder) -> None:
        course = book.courses.get(order.order_id) or Course()
        needed = self._needed(book.account, order.request, order.remaining, course)
        set_aside(book.account, order, needed)

    def _needed(
        self, account: Account, request: OrderRequest, remaining: Decimal, course: Course
    ) -> Decimal:
        worst = max((planned.price for planned in course.planned), default=Decimal(0))
        return holding(request, remaining, market_price=worst, terms=account.terms)

    def _fee(
        self, account: Account, request: OrderRequest, quantity: Decimal, price: Decimal
    ) -> tuple[Decimal, str]:
        """From the fee asset if there is enough of it, which is then priced in the market."""
        terms = account.terms
        quote = quote_of(request.pair)
        priced = self._listings.get(f"{terms.fee_asset}/{quote}")
        if terms.fee_asset is not None and priced is not None:
            with exact():
                cost = quantity * price * terms.taker_fee
                fee = rounded_fee(cost / self._best(priced, Side.BUY))
            if fee <= account.balance(terms.fee_asset).free:
                return fee, terms.fee_asset
        return fee_of(request, quantity, price, terms)

    def _best(self, listing: Listing, side: Side) -> Decimal:
        around = self._around
        quote = around.market.quote(listing, around.clock.now_ms())
        return best_price(around.faults.traded_quote(listing, quote), side, listing.rules)

    def _unfilled_status(self) -> VenueOrderStatus:
        """How an immediate-or-cancel order ends that did not fill."""
        is_binance = self.venue == BINANCE.name
        return VenueOrderStatus.EXPIRED if is_binance else VenueOrderStatus.CANCELLED

    def _seen(self, account: Account, spoiled: Spoiled) -> tuple[Book, int]:
        """The account's book, and the moment up to which a query sees what happened."""
        self.advance()
        return self._book(account), self.now_ms() - round(spoiled.lag_secs * 1000)

    def _book(self, account: Account) -> Book:
        book = self._books.get(account.name)
        if book is None:
            book = self._books[account.name] = Book(account=account)
        return book

    def _write(self, type_: str, fields: dict[str, object]) -> None:
        self._around.journal.write(type_, venue=self.venue, **fields)
