"""What Binance's private endpoints answer from the engine: orders, trades, the account."""

import secrets
import string
from collections.abc import Callable, Sequence
from typing import Any, Final, TypeVar

from ecosystem.venue_simulator import binance_orders as wire
from ecosystem.venue_simulator.accounts import Balance
from ecosystem.venue_simulator.binance import refusal
from ecosystem.venue_simulator.orders import OrderRefused, RefusalKind, VenueOrder
from ecosystem.venue_simulator.private_api import PrivateCall
from shared.venues import base_of, quote_of

_ALPHANUMERIC: Final = string.ascii_letters + string.digits
_DEFAULT_ROWS: Final = 500
_MAX_ROWS: Final = 1000
_DAY_MS: Final = 86_400_000
_NO_ID: Final = "Param 'origClientOrderId' or 'orderId' must be sent, but both were empty/null!"


def drawn_id() -> str:
    return "".join(secrets.choice(_ALPHANUMERIC) for _ in range(22))


def understood(call: PrivateCall) -> wire.NewOrder:
    return wire.new_order(
        call.fields, call.listings, drawn_id=drawn_id(), expires_at_ms=call.expires_at_ms
    )


def test_order(call: PrivateCall) -> object:
    """Everything is checked but the balance."""
    try:
        call.trading.check(call.key, understood(call).request)
    except OrderRefused as refused:
        if refused.kind is not RefusalKind.INSUFFICIENT_FUNDS:
            raise
    return {}


def cancel(call: PrivateCall) -> object:
    order = _named_order(call, call.trading.open_orders(call.key.account))
    if order is None:
        raise OrderRefused(RefusalKind.UNKNOWN_ORDER, "no open order is meant")
    ended = call.trading.cancel(call.key, order_id=order.order_id)
    cancel_id = call.fields.get("newClientOrderId") or drawn_id()
    return wire.cancelled(ended, cancel_id=cancel_id, now_ms=call.now_ms)


def order(call: PrivateCall) -> object:
    order = _named_order(call, call.trading.orders(call.key.account, call.spoiled))
    if order is None:
        raise refusal(-2013, "Order does not exist.")
    return wire.order_row(order)


def _named_order(call: PrivateCall, orders: Sequence[VenueOrder]) -> VenueOrder | None:
    """The order that `orderId` or `origClientOrderId` mean: the newest, if an id was used again."""
    pair = wire.one_symbol(call.fields, call.listings).pair
    order_id = wire.whole(call.fields, "orderId")
    client_order_id = call.fields.get("origClientOrderId")
    if order_id is None and not client_order_id:
        raise refusal(-1102, _NO_ID)
    meant = [
        order
        for order in orders
        if order.request.pair == pair
        and order_id in (None, int(order.order_id))
        and client_order_id in (None, "", order.request.client_order_id)
    ]
    return meant[-1] if meant else None


def open_orders(call: PrivateCall) -> object:
    orders = call.trading.open_orders(call.key.account, call.spoiled)
    if not call.fields.get("symbol"):
        return [wire.order_row(order) for order in orders]
    pair = wire.one_symbol(call.fields, call.listings).pair
    return [wire.order_row(order) for order in orders if order.request.pair == pair]


def all_orders(call: PrivateCall) -> object:
    pair = wire.one_symbol(call.fields, call.listings).pair
    first_id = wire.whole(call.fields, "orderId")
    orders = [
        order
        for order in call.trading.orders(call.key.account, call.spoiled)
        if order.request.pair == pair and (first_id is None or int(order.order_id) >= first_id)
    ]
    from_first = first_id is not None
    rows = _window(call, orders, lambda order: order.accepted_at_ms, from_first=from_first)
    return [wire.order_row(order) for order in rows]


def my_trades(call: PrivateCall) -> object:
    pair = wire.one_symbol(call.fields, call.listings).pair
    order_id, first_id = (wire.whole(call.fields, name) for name in ("orderId", "fromId"))
    trades = [
        trade
        for trade in call.trading.trades(call.key.account, call.spoiled)
        if trade.pair == pair
        and order_id in (None, int(trade.order_id))
        and (first_id is None or int(trade.trade_id) >= first_id)
    ]
    from_first = first_id is not None
    rows = _window(call, trades, lambda trade: trade.at_ms, from_first=from_first)
    return [wire.trade_row(trade) for trade in rows]


_Item = TypeVar("_Item")


def _window(
    call: PrivateCall,
    items: Sequence[_Item],
    at_ms: Callable[[_Item], int],
    *,
    from_first: bool,
) -> Sequence[_Item]:
    """Of `items`, oldest first, those of `startTime` to `endTime`, at most `limit`: the oldest
    if the request says where to begin, else the newest."""
    start_ms, end_ms = (wire.whole(call.fields, name) for name in ("startTime", "endTime"))
    if start_ms is not None and end_ms is not None and end_ms - start_ms > _DAY_MS:
        raise refusal(-1127, "More than 24 hours between startTime and endTime.")
    limit = wire.whole(call.fields, "limit")
    limit = _DEFAULT_ROWS if limit is None else min(limit, _MAX_ROWS)
    if limit < 1:
        raise refusal(-1130, "Data sent for parameter 'limit' is not valid.")
    inside = [
        item
        for item in items
        if (start_ms is None or start_ms <= at_ms(item))
        and (end_ms is None or at_ms(item) <= end_ms)
    ]
    return inside[:limit] if from_first or start_ms is not None else inside[-limit:]


def account(call: PrivateCall) -> object:
    omit_zero = call.fields.get("omitZeroBalances", "").lower() == "true"
    return wire.account_row(call.key, omit_zero=omit_zero, now_ms=call.now_ms)


def rights(call: PrivateCall) -> object:
    return wire.restrictions(call.key)


def coins(call: PrivateCall) -> object:
    """Every coin of the venue; none can be moved in or out."""
    codes = dict.fromkeys(
        code for each in call.listings for code in (base_of(each.pair), quote_of(each.pair))
    )
    return [_coin(code, call) for code in codes]


def _coin(code: str, call: PrivateCall) -> dict[str, Any]:
    balance = call.key.account.balances.get(code, Balance())
    return {
        "coin": code,
        "name": code,
        "free": wire.amount(balance.free),
        "locked": wire.amount(balance.held),
        "depositAllEnable": False,
        "withdrawAllEnable": False,
        "trading": True,
        "isLegalMoney": False,
        "networkList": [],
    }


def nothing(_: PrivateCall) -> object:
    """What a venue without margin trading lists of it."""
    return []
