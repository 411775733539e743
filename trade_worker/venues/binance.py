"""Binance's private requests and replies (binance-spot-api-docs on GitHub, rest-api.md)."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from decimal import Decimal
from typing import Any, Final

from shared.money import exact, plain
from shared.orders import Fill, LiveOrder, OrderStatus
from shared.request_limits import Request
from shared.venues import Said
from trade_worker.venues import Report, Sent, Verdict
from trade_worker.venues.dialect import Asking, Call, Times
from trade_worker.venues.replies import (
    Judged,
    Unreadable,
    answer_of,
    distinct,
    mapping,
    number,
    refusal_of,
    rows,
)

STATUSES: Final[Mapping[str, OrderStatus]] = {
    "NEW": OrderStatus.OPEN,
    "PENDING_NEW": OrderStatus.OPEN,
    "PARTIALLY_FILLED": OrderStatus.OPEN,
    "PENDING_CANCEL": OrderStatus.OPEN,
    "FILLED": OrderStatus.FILLED,
    "CANCELED": OrderStatus.CANCELLED,
    "REJECTED": OrderStatus.REJECTED,
    "EXPIRED": OrderStatus.EXPIRED,
    "EXPIRED_IN_MATCH": OrderStatus.EXPIRED,
}
TRADES_PAGE: Final = 1000
MAX_TRADES_PAGES: Final = 10
MAX_WINDOW_MS: Final = 60_000
_ARCHIVED: Final = "-2026:"
"""Cancelled or expired without a fill, more than 90 days ago."""


class BinanceDialect:
    """Binance. The time of every call is its `timestamp` + `recvWindow`."""

    least_secs = 0.05
    clock_path = "time"
    clock_resolution_ms = 1

    def told_time_ms(self, judged: Judged) -> int:
        return int(number(mapping(judged.body).get("serverTime")))

    def stamped(self, call: Call, times: Times) -> Call:
        window_ms = min(times.deadline_ms - times.now_ms, MAX_WINDOW_MS)
        stamp = {"timestamp": str(times.now_ms), "recvWindow": str(window_ms)}
        return replace(call, params={**call.params, **stamp})

    def addition(self, order: LiveOrder, symbol: str, times: Times) -> Call:
        params = {
            "symbol": symbol,
            "side": str(order.leg.side).upper(),
            "type": "MARKET",
            # Never a price beside it: ccxt's own method would make `quoteOrderQty` of the two.
            "quantity": plain(order.quantity),
            "newClientOrderId": order.client_order_id,
            "newOrderRespType": "FULL",
        }
        if order.limit_price is not None:
            params |= {
                "type": "LIMIT",
                "timeInForce": "IOC",
                "price": plain(order.limit_price),
            }
        return self.stamped(Call(request=Request.ADD_ORDER, path="order", params=params), times)

    def accepted(self, order: LiveOrder, judged: Judged) -> Sent:
        body = mapping(judged.body)
        report = _report_of(order, body, _fills_of_reply(order, body))
        if report.status is OrderStatus.REJECTED:
            return refusal_of(
                Judged(said=Said.REFUSED, text="the venue's engine rejected the order")
            )
        return Sent(verdict=Verdict.ACCEPTED, report=report, venue_order_id=report.venue_order_id)

    async def report(self, order: LiveOrder, symbol: str, asking: Asking) -> Report | None:
        judged = await asking(
            Call(
                request=Request.ORDER_QUERY,
                path="order",
                method="GET",
                params={"symbol": symbol, **_named(order)},
            )
        )
        if judged.said is Said.NO_SUCH_ORDER:
            return None
        if judged.text.partition(_ARCHIVED)[1]:
            return Report(
                status=OrderStatus.EXPIRED,
                venue_order_id=order.venue_order_id or "archived",
                executed=Decimal(0),
            )
        body = mapping(answer_of(judged))
        known = _report_of(order, body, ())
        if not known.executed:
            return known
        fills = await _fills(order, symbol, known.venue_order_id, asking)
        return _report_of(order, body, fills)

    def cancellation(self, order: LiveOrder, symbol: str) -> Call:
        return Call(
            request=Request.CANCEL_ORDER,
            path="order",
            method="DELETE",
            params={"symbol": symbol, **_named(order)},
        )

    async def balances(self, asking: Asking) -> Mapping[str, Decimal]:
        judged = await asking(
            Call(
                request=Request.BALANCES,
                path="account",
                method="GET",
                params={"omitZeroBalances": "true"},
            )
        )
        free = (mapping(row) for row in rows(mapping(answer_of(judged)).get("balances")))
        return {str(row.get("asset")): number(row.get("free")) for row in free}


def _named(order: LiveOrder) -> dict[str, str]:
    """The order's name. The venue's own is better: ours may be used again once it is filled."""
    if order.venue_order_id:
        return {"orderId": order.venue_order_id}
    return {"origClientOrderId": order.client_order_id}


def _report_of(order: LiveOrder, body: Mapping[str, Any], fills: tuple[Fill, ...]) -> Report:
    if body.get("clientOrderId") != order.client_order_id:
        raise Unreadable("an order that is not ours")
    order_id, status = body.get("orderId"), STATUSES.get(str(body.get("status")))
    if not isinstance(order_id, int) or isinstance(order_id, bool) or status is None:
        raise Unreadable("an order without id or state")
    executed = number(body.get("executedQty"))
    with exact():
        if status is not OrderStatus.OPEN and sum(fill.quantity for fill in fills) > executed:
            raise Unreadable("more trades than it executed")
    return Report(status=status, venue_order_id=str(order_id), executed=executed, fills=fills)


def _fills_of_reply(order: LiveOrder, body: Mapping[str, Any]) -> tuple[Fill, ...]:
    """The trades in the reply to a new order; none where one of them has no id."""
    told = [mapping(fill) for fill in rows(body.get("fills") or [])]
    if not all(isinstance(fill.get("tradeId"), int) and fill["tradeId"] >= 0 for fill in told):
        return ()
    return distinct(
        _fill_of(order, fill, trade_id=fill["tradeId"], at=body.get("transactTime"))
        for fill in told
    )


async def _fills(order: LiveOrder, symbol: str, order_id: str, asking: Asking) -> tuple[Fill, ...]:
    params = {"symbol": symbol, "orderId": order_id, "limit": str(TRADES_PAGE)}
    fills: list[Fill] = []
    for _ in range(MAX_TRADES_PAGES):
        judged = await asking(
            Call(request=Request.TRADES, path="myTrades", method="GET", params=params)
        )
        page = [mapping(row) for row in rows(answer_of(judged))]
        fills += _ours(order, order_id, page)
        if len(page) < TRADES_PAGE:
            break
        params["fromId"] = str(1 + max(int(number(row.get("id"))) for row in page))
    return distinct(fills)


def _ours(order: LiveOrder, order_id: str, page: Iterable[Mapping[str, Any]]) -> Iterable[Fill]:
    return [
        _fill_of(order, row, trade_id=int(number(row.get("id"))), at=row.get("time"))
        for row in page
        if str(row.get("orderId")) == order_id
    ]


def _fill_of(order: LiveOrder, told: Mapping[str, Any], *, trade_id: int, at: object) -> Fill:
    currency = told.get("commissionAsset")
    if not isinstance(currency, str):
        raise Unreadable("a fee in no currency")
    return Fill(
        client_order_id=order.client_order_id,
        trade_id=str(trade_id),
        leg=order.leg,
        quantity=number(told.get("qty")),
        price=number(told.get("price")),
        fee=number(told.get("commission")),
        fee_currency=currency,
        at_ms=int(number(at)),
    )
