"""Kraken's private requests and replies (docs.kraken.com, REST)."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from shared.clock import datetime_of
from shared.errors import VenueUnavailable
from shared.money import exact, plain
from shared.orders import Fill, LiveOrder, OrderStatus
from shared.request_limits import Request
from shared.venues import Said, base_of, quote_of
from trade_worker.venues import Report, Sent, Verdict
from trade_worker.venues.dialect import Asking, Call, Times
from trade_worker.venues.replies import (
    Judged,
    Unreadable,
    answer_of,
    distinct,
    mapping,
    number,
    rows,
)

STATUSES: Final[Mapping[str, OrderStatus]] = {
    "pending": OrderStatus.OPEN,
    "open": OrderStatus.OPEN,
    "closed": OrderStatus.FILLED,
    "canceled": OrderStatus.CANCELLED,
    "expired": OrderStatus.EXPIRED,
}
CLOSED_PAGE: Final = 50
MAX_CLOSED_PAGES: Final = 4
MAX_TRADES_PAGES: Final = 4
TRADES_PER_QUESTION: Final = 20
_CLOCK_SLACK_SECS: Final = 3600
"""How far the database's clock and Kraken's may be apart when closed orders are looked through."""


class KrakenDialect:
    """Kraken. An order's time is its `deadline`; questions need none: their nonce orders them."""

    least_secs = 2.1  # "min: now() + 2 seconds" at its arrival
    clock_path = "Time"
    clock_resolution_ms = 1000

    def told_time_ms(self, judged: Judged) -> int:
        return 1000 * int(number(_result(judged).get("unixtime")))

    def stamped(self, call: Call, times: Times) -> Call:  # noqa: ARG002 - the port's
        return call

    def addition(self, order: LiveOrder, symbol: str, times: Times) -> Call:
        params = {
            "pair": symbol,
            "type": str(order.leg.side),
            "ordertype": "market",
            "volume": plain(order.quantity),
            # Else a sale's fee is in the coin, and what is held is not what was bought.
            "oflags": "fciq",
            "cl_ord_id": order.client_order_id,
            "deadline": _rfc3339(times.deadline_ms),
        }
        if order.limit_price is not None:
            params |= {
                "ordertype": "limit",
                "price": plain(order.limit_price),
                "timeinforce": "IOC",
            }
        return Call(request=Request.ADD_ORDER, path="AddOrder", params=params)

    def accepted(self, order: LiveOrder, judged: Judged) -> Sent:  # noqa: ARG002 - the port's
        txids = rows(mapping(mapping(judged.body).get("result")).get("txid"))
        if len(txids) != 1 or not isinstance(txids[0], str) or not txids[0]:
            raise Unreadable("no order id")
        return Sent(verdict=Verdict.ACCEPTED, venue_order_id=txids[0])

    async def report(self, order: LiveOrder, symbol: str, asking: Asking) -> Report | None:  # noqa: ARG002
        found = await _by_txid(order, asking)
        if found is None:
            # It may move from the open to the closed ones in between.
            found = await _open(order, asking)
        if found is None:
            found = await _closed(order, asking)
        if found is None:
            found = await _open(order, asking)
        if found is None:
            return None
        txid, facts = found
        return await _report_of(order, txid, facts, asking)

    def cancellation(self, order: LiveOrder, symbol: str) -> Call:  # noqa: ARG002 - the port's
        params = (
            {"txid": order.venue_order_id}
            if order.venue_order_id
            else {"cl_ord_id": order.client_order_id}
        )
        return Call(request=Request.CANCEL_ORDER, path="CancelOrder", params=params)

    async def balances(self, asking: Asking) -> Mapping[str, Decimal]:
        result = _result(await asking(Call(request=Request.BALANCES, path="BalanceEx", params={})))
        free: dict[str, Decimal] = {}
        with exact():
            for asset, told in result.items():
                amounts = mapping(told)
                left = number(amounts.get("balance")) - number(amounts.get("hold_trade", 0))
                # Balances that earn (`USD.F`) pay for orders too; what is bonded does not.
                name, dot, kind = asset.partition(".")
                if left > 0 and (not dot or kind == "F"):
                    free[name] = free.get(name, Decimal(0)) + left
        return free


_Found = tuple[str, Mapping[str, Any]]


async def _by_txid(order: LiveOrder, asking: Asking) -> _Found | None:
    if order.venue_order_id is None:
        return None
    judged = await asking(
        Call(
            request=Request.ORDER_QUERY,
            path="QueryOrders",
            params={"txid": order.venue_order_id, "trades": "true"},
        )
    )
    if judged.said is Said.NO_SUCH_ORDER:
        return None
    facts = _result(judged).get(order.venue_order_id)
    if facts is None:
        return None
    facts = mapping(facts)
    if _client_id(facts) not in (None, order.client_order_id):
        raise Unreadable("an order that is not ours under our order's id")
    return order.venue_order_id, facts


async def _open(order: LiveOrder, asking: Asking) -> _Found | None:
    judged = await asking(
        Call(
            request=Request.OPEN_ORDERS,
            path="OpenOrders",
            params={"cl_ord_id": order.client_order_id, "trades": "true"},
        )
    )
    return _ours(order, mapping(_result(judged).get("open")))


async def _closed(order: LiveOrder, asking: Asking) -> _Found | None:
    call = Call(
        request=Request.CLOSED_ORDERS,
        path="ClosedOrders",
        params={
            "cl_ord_id": order.client_order_id,
            "trades": "true",
            "start": _start_of(order),
        },
    )
    for page in range(MAX_CLOSED_PAGES):
        offset = page * CLOSED_PAGE
        paged = replace(call, params={**call.params, "ofs": str(offset)}) if page else call
        result = _result(await asking(paged))
        closed = mapping(result.get("closed"))
        if found := _ours(order, closed):
            return found
        # Only a venue that ignores the id has a second page.
        if len(closed) < CLOSED_PAGE or number(result.get("count", 0)) <= offset + len(closed):
            return None
    raise VenueUnavailable("told more closed orders than can be looked through")


def _ours(order: LiveOrder, orders: Mapping[str, Any]) -> _Found | None:
    found = [
        (txid, mapping(facts))
        for txid, facts in orders.items()
        if _client_id(mapping(facts)) == order.client_order_id
    ]
    if len(found) > 1:
        raise Unreadable("several orders with one id of ours")
    return found[0] if found else None


def _client_id(facts: Mapping[str, Any]) -> str | None:
    """An order's id of ours. Kraken takes one with dashes and without
    (docs.kraken.com/exchange/guides/general/clordid), and does not say which it tells: an order
    that was not recognised would count as not placed."""
    told = facts.get("cl_ord_id")
    return None if told is None else str(told).replace("-", "").lower()


async def _report_of(
    order: LiveOrder, txid: str, facts: Mapping[str, Any], asking: Asking
) -> Report:
    status = STATUSES.get(str(facts.get("status")))
    if status is None:
        raise Unreadable("an order in a state of its own")
    executed = number(facts.get("vol_exec"))
    trade_ids = [str(trade) for trade in rows(facts.get("trades") or [])]
    fills = await _fills(order, txid, facts, trade_ids, asking) if executed else ()
    with exact():
        if status is not OrderStatus.OPEN and sum(fill.quantity for fill in fills) > executed:
            raise Unreadable("more trades than it executed")
    return Report(status=status, venue_order_id=txid, executed=executed, fills=fills)


async def _fills(
    order: LiveOrder, txid: str, facts: Mapping[str, Any], trade_ids: Iterable[str], asking: Asking
) -> tuple[Fill, ...]:
    in_coin = "fcib" in str(facts.get("oflags", "")).split(",")
    currency = base_of(order.pair) if in_coin else quote_of(order.pair)
    ids = list(dict.fromkeys(trade_ids))
    trades = await _trades(ids, asking) if ids else await _trades_since(order, asking)
    return distinct(
        _fill_of(order, trade_id, trade, currency)
        for trade_id, trade in trades
        if trade.get("ordertxid") == txid
    )


_Trades = list[tuple[str, Mapping[str, Any]]]


async def _trades(ids: Sequence[str], asking: Asking) -> _Trades:
    trades: _Trades = []
    for first in range(0, len(ids), TRADES_PER_QUESTION):
        params = {"txid": ",".join(ids[first : first + TRADES_PER_QUESTION])}
        told = _result(
            await asking(Call(request=Request.TRADES, path="QueryTrades", params=params))
        )
        trades += [(id_, mapping(trade)) for id_, trade in told.items()]
    return trades


async def _trades_since(order: LiveOrder, asking: Asking) -> _Trades:
    """The account's trades since the order was committed, where the order does not name its own
    ("if trades info requested and data available")."""
    trades: _Trades = []
    for _ in range(MAX_TRADES_PAGES):
        params = {"start": _start_of(order), "ofs": str(len(trades))}
        result = _result(
            await asking(Call(request=Request.TRADES, path="TradesHistory", params=params))
        )
        page = mapping(result.get("trades"))
        trades += [(id_, mapping(trade)) for id_, trade in page.items()]
        if not page or number(result.get("count", 0)) <= len(trades):
            return trades
    raise VenueUnavailable("told more trades than can be looked through")


def _start_of(order: LiveOrder) -> str:
    return str(order.committed_at_ms // 1000 - _CLOCK_SLACK_SECS)


def _fill_of(order: LiveOrder, trade_id: str, trade: Mapping[str, Any], currency: str) -> Fill:
    return Fill(
        client_order_id=order.client_order_id,
        trade_id=trade_id,
        leg=order.leg,
        quantity=number(trade.get("vol")),
        price=number(trade.get("price")),
        fee=number(trade.get("fee")),
        fee_currency=currency,
        at_ms=int(number(trade.get("time")) * 1000),
    )


def _result(judged: Judged) -> Mapping[str, Any]:
    return mapping(mapping(answer_of(judged)).get("result"))


def _rfc3339(at_ms: int) -> str:
    """`2026-11-21T09:30:00.123Z`."""
    return datetime_of(at_ms).isoformat(timespec="milliseconds").replace("+00:00", "Z")
