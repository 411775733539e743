"""All orders of an account since some time, whoever placed them: what a recovery compares with.

Nothing of it is asked while a fleet trades. Pages are walked until the venue has no more.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final, Protocol

from shared.errors import VenueUnavailable
from shared.orders import LiveOrder
from shared.request_limits import Request
from trade_worker.venues.dialect import Asking, Call
from trade_worker.venues.replies import Unreadable, answer_of, mapping, number, rows

MOST_PAGES: Final = 500
KRAKEN_PAGE: Final = 50
BINANCE_PAGE: Final = 1_000
BINANCE_WINDOW_MS: Final = 24 * 3_600_000
"""More than a day at once is refused (github.com/binance/binance-spot-api-docs, rest-api.md)."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ListedOrder:
    """An order as its venue lists it: what was asked for, not what became of it.

    `client_order_id` is "" for an order that was placed without one. `limit_price` None is an
    order at market, `average_price` 0 one without a trade. `opened_at_ms` is the venue's clock.
    """

    client_order_id: str
    venue_order_id: str
    quantity: Decimal
    limit_price: Decimal | None
    average_price: Decimal
    opened_at_ms: int


class Listing(Protocol):
    """One venue's way to list orders. Raises `Unreadable`, and what `Asking` raises."""

    async def since(
        self, symbols: Iterable[str], *, since_ms: int, now_ms: int, asking: Asking
    ) -> list[ListedOrder]:
        """Every order of these markets, open or not, opened since then (the venue's clock)."""
        ...

    async def one(self, order: LiveOrder, symbol: str, asking: Asking) -> ListedOrder:
        """An order whose `venue_order_id` is known."""
        ...


class KrakenListing:
    """Kraken tells the orders of all markets together."""

    async def since(
        self,
        symbols: Iterable[str],  # noqa: ARG002 - the protocol's
        *,
        since_ms: int,
        now_ms: int,  # noqa: ARG002 - the protocol's
        asking: Asking,
    ) -> list[ListedOrder]:
        call = Call(request=Request.OPEN_ORDERS, path="OpenOrders", params={})
        found = _kraken_orders(mapping(await _result(call, asking)).get("open"))
        for page in range(MOST_PAGES):
            call = Call(
                request=Request.CLOSED_ORDERS,
                path="ClosedOrders",
                params={"start": str(since_ms // 1000), "ofs": str(page * KRAKEN_PAGE)},
            )
            listed = _kraken_orders(mapping(await _result(call, asking)).get("closed"))
            new = listed.keys() - found.keys()
            found |= listed
            if not new or len(listed) < KRAKEN_PAGE:
                return [order for order in found.values() if order.opened_at_ms >= since_ms]
        raise VenueUnavailable("kraken lists more orders than can be looked through")

    async def one(self, order: LiveOrder, symbol: str, asking: Asking) -> ListedOrder:  # noqa: ARG002
        txid = str(order.venue_order_id)
        call = Call(request=Request.ORDER_QUERY, path="QueryOrders", params={"txid": txid})
        return _kraken_order(txid, mapping(mapping(await _result(call, asking)).get(txid)))


class BinanceListing:
    """Binance tells the orders of each market by itself, a day at a time."""

    async def since(
        self, symbols: Iterable[str], *, since_ms: int, now_ms: int, asking: Asking
    ) -> list[ListedOrder]:
        return [
            order
            for symbol in symbols
            for order in await _binance_since(symbol, since_ms, now_ms, asking)
        ]

    async def one(self, order: LiveOrder, symbol: str, asking: Asking) -> ListedOrder:
        params = {"symbol": symbol, "orderId": str(order.venue_order_id)}
        call = Call(request=Request.ORDER_QUERY, path="order", method="GET", params=params)
        return _binance_order(answer_of(await asking(call)))


LISTINGS: Final[Mapping[str, Listing]] = {"kraken": KrakenListing(), "binance": BinanceListing()}
"""By venue."""


async def _result(call: Call, asking: Asking) -> object:
    return mapping(answer_of(await asking(call))).get("result")


def _kraken_orders(told: object) -> dict[str, ListedOrder]:
    return {txid: _kraken_order(txid, mapping(facts)) for txid, facts in mapping(told).items()}


def _kraken_order(txid: str, facts: Mapping[str, Any]) -> ListedOrder:
    described = mapping(facts.get("descr"))
    at_market = described.get("ordertype") == "market"
    return ListedOrder(
        client_order_id=str(facts.get("cl_ord_id") or ""),
        venue_order_id=txid,
        quantity=number(facts.get("vol")),
        limit_price=None if at_market else number(described.get("price")),
        average_price=number(facts.get("price", 0)),
        opened_at_ms=int(number(facts.get("opentm")) * 1000),
    )


async def _binance_since(
    symbol: str, since_ms: int, now_ms: int, asking: Asking
) -> list[ListedOrder]:
    found: dict[str, ListedOrder] = {}
    start_ms, pages = since_ms, 0
    params = _window(symbol, start_ms)
    while True:
        call = Call(request=Request.CLOSED_ORDERS, path="allOrders", method="GET", params=params)
        listed = [_binance_order(told) for told in rows(answer_of(await asking(call)))]
        new = [order for order in listed if order.venue_order_id not in found]
        found |= {order.venue_order_id: order for order in new}
        pages += 1
        if pages >= MOST_PAGES:
            raise VenueUnavailable("binance lists more orders than can be looked through")
        if "orderId" in params and not new:
            break
        if len(listed) >= BINANCE_PAGE or "orderId" in params:
            # From an order on, with no end: nothing later is left to ask for by time.
            newest = max(int(order.venue_order_id) for order in listed)
            params = _page(symbol, newest)
            continue
        start_ms += BINANCE_WINDOW_MS
        if start_ms > now_ms:
            break
        params = _window(symbol, start_ms)
    return [order for order in found.values() if order.opened_at_ms >= since_ms]


def _window(symbol: str, start_ms: int) -> dict[str, str]:
    return {
        "symbol": symbol,
        "startTime": str(start_ms),
        "endTime": str(start_ms + BINANCE_WINDOW_MS - 1),
        "limit": str(BINANCE_PAGE),
    }


def _page(symbol: str, order_id: int) -> dict[str, str]:
    return {"symbol": symbol, "orderId": str(order_id), "limit": str(BINANCE_PAGE)}


def _binance_order(told: object) -> ListedOrder:
    facts = mapping(told)
    quantity, executed = number(facts.get("origQty")), number(facts.get("executedQty"))
    quote = number(facts.get("cummulativeQuoteQty", 0))
    order_id, at_ms = facts.get("orderId"), facts.get("time")
    if not isinstance(order_id, int) or not isinstance(at_ms, int):
        raise Unreadable("an order without id or time")
    return ListedOrder(
        client_order_id=str(facts.get("clientOrderId") or ""),
        venue_order_id=str(order_id),
        quantity=quantity,
        limit_price=None if facts.get("type") == "MARKET" else number(facts.get("price")),
        average_price=quote / executed if executed else Decimal(0),
        opened_at_ms=at_ms,
    )
