"""One venue, as real orders go there: take a turn, send one request, judge the reply.

What differs between the venues is in their dialects (`kraken.py`, `binance.py`), what a reply
proves in `replies.py`.
"""

import asyncio
import contextlib
import logging
from collections.abc import Callable, Collection, Mapping
from contextlib import AsyncExitStack
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from shared import failpoints
from shared.clock import monotonic_secs
from shared.errors import BotfleetError, CredentialRefused, SymbolRefused, VenueUnavailable
from shared.failpoints import Point
from shared.money import exact
from shared.orders import Leg, LiveOrder
from shared.request_limits import Request
from shared.venues import Said, Venue
from trade_worker.venues import Report, Sent, Verdict
from trade_worker.venues.binance import BinanceDialect
from trade_worker.venues.clients import ClientPool, Keys
from trade_worker.venues.dialect import Asking, Call, Dialect, Times
from trade_worker.venues.kraken import KrakenDialect
from trade_worker.venues.limiter import Limiter, Priority
from trade_worker.venues.listing import LISTINGS, ListedOrder
from trade_worker.venues.replies import Judged, Unreadable, answer_of, judge, refusal_of
from trade_worker.venues.symbols import LOAD_TIMEOUT_SECS, Symbols, currency_named, load_symbols
from trade_worker.venues.venue_clock import ServerTime, VenueClock
from trade_worker.venues.wire import NoReply, Reply, VenueClient

log = logging.getLogger(__name__)

MARGIN_SECS: Final = 0.05
"""How much before `send_by` the venue is told to refuse."""
GRACE_SECS: Final = 1.0
"""How long after `send_by` the answer to a new order is waited for."""
PATIENCE_SECS: Final = 30.0
"""How long a question waits for its turn. Who gives up starts from the first of its requests:
a Kraken key without calls left gets one back every three seconds."""
QUESTION_SECS: Final = 5.0
"""How long it may take then."""
START_SECS: Final = 5.0

DIALECTS: Final[Mapping[str, Dialect]] = {"kraken": KrakenDialect(), "binance": BinanceDialect()}
_PUBLIC: Final = "public"
"""What the limiter knows requests without a key by."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    """Whose request it is, how urgent, and until when it may start and end (monotonic)."""

    credential_id: int
    priority: Priority
    start_by_secs: float
    end_by_secs: float


class VenueDesk:
    """One venue's side of `LiveOrders`: the same contract."""

    def __init__(
        self, venue: Venue, *, url: str, keys: Keys, limiter: Limiter, proxy_url: str | None
    ) -> None:
        self._venue = venue
        self._url = url
        self._limiter = limiter
        self._dialect = DIALECTS[venue.name]
        self._listing = LISTINGS[venue.name]
        self.pool = ClientPool(venue=venue, url=url, proxy_url=proxy_url, keys=keys)
        self._clock = VenueClock(venue, ask=self._server_time)
        self._symbols = Symbols(load=self._load_symbols)

    async def start(self) -> None:
        await self.pool.start()
        try:
            async with asyncio.timeout(START_SECS):
                await asyncio.gather(self._symbols.load(), self._clock.settled())
        except TimeoutError:
            log.warning("%s has not told its time and markets yet", self._venue.name)

    async def close(self) -> None:
        await self._clock.close()
        await self._symbols.close()
        await self.pool.close()

    async def send(self, order: LiveOrder, *, send_by_secs: float) -> Sent:
        refuse_from_secs = send_by_secs - MARGIN_SECS
        turn = _Turn(
            credential_id=order.credential_id,
            priority=Priority.EXIT if order.leg is Leg.EXIT else Priority.ENTRY,
            start_by_secs=refuse_from_secs - self._dialect.least_secs,
            end_by_secs=send_by_secs + GRACE_SECS,
        )
        try:
            async with asyncio.timeout(turn.start_by_secs - monotonic_secs()):
                symbol = await self._symbols.of(order.pair)
            judged = await self._request(
                turn,
                Request.ADD_ORDER,
                lambda: self._addition(order, symbol, refuse_from_secs),
            )
        except TimeoutError:
            return Sent(verdict=Verdict.NOT_SENT, text="its market was not known in time")
        except NoReply as exc:
            verdict = Verdict.UNKNOWN if exc.maybe_sent else Verdict.NOT_SENT
            return Sent(verdict=verdict, text=str(exc))
        except BotfleetError as exc:
            # From before the request: the turn, the key, the clock or the symbol.
            return Sent(
                verdict=Verdict.NOT_SENT,
                text=str(exc),
                credential_refused=isinstance(exc, CredentialRefused),
                retry_after_secs=getattr(exc, "retry_after_secs", None),
            )
        if judged.said is not None:
            return refusal_of(judged)
        try:
            return self._dialect.accepted(order, judged)
        except Unreadable as exc:
            return Sent(verdict=Verdict.UNKNOWN, text=f"accepted it, with {exc}")

    async def ask(self, order: LiveOrder) -> Report | None:
        symbol = await self._symbol(order)
        try:
            return await self._dialect.report(order, symbol, self._asking(order.credential_id))
        except Unreadable as exc:
            raise VenueUnavailable(f"{self._venue.name} answered {exc}") from None

    async def cancel(self, order: LiveOrder) -> None:
        call = self._dialect.cancellation(order, await self._symbol(order))
        judged = await self._question(order.credential_id, Priority.CANCEL, call)
        if judged.said is not Said.NO_SUCH_ORDER:
            answer_of(judged)

    async def balances(self, credential_id: int) -> Mapping[str, Decimal]:
        try:
            free = await self._dialect.balances(self._asking(credential_id))
        except Unreadable as exc:
            raise VenueUnavailable(f"{self._venue.name} answered {exc}") from None
        named: dict[str, Decimal] = {}
        with exact():
            for code, amount in free.items():
                currency = currency_named(self._venue, code)
                named[currency] = named.get(currency, Decimal(0)) + amount
        return named

    async def orders_since(
        self, credential_id: int, pairs: Collection[str], *, since_ms: int
    ) -> list[ListedOrder]:
        """Every order on the account in these markets, opened since then, whoever placed it.

        Raises as `ask`. A pair that the venue does not have has no orders.
        """
        symbols = []
        for pair in pairs:
            with contextlib.suppress(SymbolRefused):
                symbols.append(await self._symbols.of(pair))
        await self._clock.ready()
        now_ms = self._clock.at_ms(monotonic_secs())
        asking = self._asking(credential_id)
        try:
            return await self._listing.since(
                symbols, since_ms=since_ms, now_ms=now_ms, asking=asking
            )
        except Unreadable as exc:
            raise VenueUnavailable(f"{self._venue.name} answered {exc}") from None

    async def details(self, order: LiveOrder) -> ListedOrder:
        """What was asked for with an order whose `venue_order_id` is known. Raises as `ask`."""
        symbol = await self._symbol(order)
        try:
            return await self._listing.one(order, symbol, self._asking(order.credential_id))
        except Unreadable as exc:
            raise VenueUnavailable(f"{self._venue.name} answered {exc}") from None

    def _addition(self, order: LiveOrder, symbol: str, refuse_from_secs: float) -> Call:
        call = self._dialect.addition(order, symbol, self._times(refuse_from_secs))
        failpoints.hit(Point.IN_SEND)
        return call

    def _asking(self, credential_id: int) -> Asking:
        async def asking(call: Call) -> Judged:
            return await self._question(credential_id, Priority.RECONCILE, call)

        return asking

    async def _question(self, credential_id: int, priority: Priority, call: Call) -> Judged:
        start_by_secs = monotonic_secs() + PATIENCE_SECS
        turn = _Turn(
            credential_id=credential_id,
            priority=priority,
            start_by_secs=start_by_secs,
            end_by_secs=start_by_secs + QUESTION_SECS,
        )
        return await self._request(
            turn,
            call.request,
            lambda: self._dialect.stamped(call, self._times(monotonic_secs() + QUESTION_SECS)),
        )

    async def _request(self, turn: _Turn, request: Request, made: Callable[[], Call]) -> Judged:
        """Wait for the turn, then send one request, made in that very moment.

        Raises `NoReply`, or what the clock, the limiter or the key raise: then nothing was sent.
        """
        async with AsyncExitStack() as held:
            try:
                async with asyncio.timeout(turn.start_by_secs - monotonic_secs()):
                    client = await self._client(held, turn, request)
            except TimeoutError:
                raise NoReply("there was no turn in time", maybe_sent=False) from None
            now_secs = monotonic_secs()
            if now_secs > turn.start_by_secs:
                raise NoReply("its time was over before its turn", maybe_sent=False)
            # It may have waited for its client while another request was told to stop.
            self._limiter.confirm(str(turn.credential_id))
            call = made()
            reply = await client.call(
                call.path,
                call.params,
                method=call.method,
                api=call.api,
                timeout_secs=min(turn.end_by_secs - now_secs, QUESTION_SECS),
            )
            judged = judge(self._venue, status=reply.status, headers=reply.headers, body=reply.body)
            self._learn(turn, client, reply, judged)
        return judged

    async def _client(self, held: AsyncExitStack, turn: _Turn, request: Request) -> VenueClient:
        """The key's client, when nothing stands between it and the venue any more."""
        await self._clock.ready()
        await held.enter_async_context(
            self._limiter.turn(
                str(turn.credential_id),
                turn.priority,
                request,
                until_secs=turn.start_by_secs,
            )
        )
        client = await held.enter_async_context(self.pool.client(turn.credential_id, turn.priority))
        if client.lane is not None:
            await held.enter_async_context(client.lane.turn(turn.priority))
        return client

    def _learn(self, turn: _Turn, client: VenueClient, reply: Reply, judged: Judged) -> None:
        self._limiter.heard(
            str(turn.credential_id),
            status=reply.status,
            headers=reply.headers,
            throttled=judged.said is Said.THROTTLED,
        )
        if judged.said is Said.OUT_OF_STEP and client.lane is not None:
            client.lane.nonces.nudge()
        elif judged.said is Said.OUT_OF_STEP or "deadline" in judged.text.lower():
            self._clock.doubt()
        elif judged.said is Said.KEY_REFUSED:
            self.pool.drop(turn.credential_id)

    def _times(self, deadline_secs: float) -> Times:
        return Times(
            now_ms=self._clock.at_ms(monotonic_secs()),
            deadline_ms=self._clock.at_ms(deadline_secs),
        )

    async def _symbol(self, order: LiveOrder) -> str:
        try:
            return await self._symbols.of(order.pair)
        except SymbolRefused as exc:
            raise VenueUnavailable(f"{self._venue.name}: {order.pair} is {exc}") from None

    async def _server_time(self) -> ServerTime:
        until_secs = monotonic_secs() + PATIENCE_SECS
        async with self._limiter.turn(
            _PUBLIC, Priority.CANCEL, Request.SERVER_TIME, until_secs=until_secs
        ):
            reply = await self.pool.public().call(
                self._dialect.clock_path, method="GET", api="public", timeout_secs=QUESTION_SECS
            )
        judged = judge(self._venue, status=reply.status, headers=reply.headers, body=reply.body)
        self._limiter.heard(_PUBLIC, status=reply.status, headers=reply.headers)
        answer_of(judged)
        try:
            told_ms = self._dialect.told_time_ms(judged)
        except Unreadable as exc:
            raise VenueUnavailable(f"answered {exc}") from None
        return ServerTime(
            told_ms=told_ms,
            resolution_ms=self._dialect.clock_resolution_ms,
            asked_at_secs=reply.sent_at_secs,
            read_at_secs=reply.read_at_secs,
        )

    async def _load_symbols(self) -> Mapping[str, str]:
        until_secs = monotonic_secs() + LOAD_TIMEOUT_SECS
        async with self._limiter.turn(
            _PUBLIC, Priority.RECONCILE, Request.MARKETS, until_secs=until_secs
        ):
            return await load_symbols(self._venue, url=self._url, session=self.pool.session)
