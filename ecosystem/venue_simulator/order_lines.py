"""The journal's lines about orders, written and read back (`journal` documents them). Pure."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

from ecosystem.venue_simulator.accounts import Account, ApiKey
from ecosystem.venue_simulator.orders import (
    OrderRefused,
    OrderRequest,
    OrderType,
    TimeInForce,
    Trade,
    VenueOrder,
    VenueOrderStatus,
)
from shared.money import plain
from shared.orders import Side

Fields = dict[str, object]


def accepted(key: ApiKey, order: VenueOrder) -> Fields:
    request = order.request
    return {
        "account": key.account.name,
        "key": key.key,
        "order_id": order.order_id,
        "client_order_id": request.client_order_id,
        "userref": request.userref,
        "pair": request.pair,
        "side": request.side.value,
        "order_type": request.type.value,
        "time_in_force": request.time_in_force.value,
        "quantity": plain(request.quantity),
        "price": None if request.price is None else plain(request.price),
        "accepted_at_ms": order.accepted_at_ms,
        "expires_at_ms": request.expires_at_ms,
    }


def accepted_of(line: Mapping[str, Any]) -> VenueOrder:
    """The open order that an `accepted` line is about."""
    return VenueOrder(
        order_id=line["order_id"],
        account=line["account"],
        accepted_at_ms=line["accepted_at_ms"],
        request=OrderRequest(
            pair=line["pair"],
            side=Side(line["side"]),
            type=OrderType(line["order_type"]),
            quantity=Decimal(line["quantity"]),
            price=None if line["price"] is None else Decimal(line["price"]),
            time_in_force=TimeInForce(line["time_in_force"]),
            client_order_id=line["client_order_id"],
            userref=line["userref"],
            expires_at_ms=line["expires_at_ms"],
        ),
    )


def filled(account: Account, trade: Trade) -> Fields:
    return {
        "account": account.name,
        "trade_id": trade.trade_id,
        "order_id": trade.order_id,
        "client_order_id": trade.client_order_id,
        "pair": trade.pair,
        "side": trade.side.value,
        "quantity": plain(trade.quantity),
        "price": plain(trade.price),
        "fee": plain(trade.fee),
        "fee_currency": trade.fee_currency,
        "is_maker": trade.is_maker,
        "traded_at_ms": trade.at_ms,
    }


def trade_of(line: Mapping[str, Any]) -> Trade:
    """The trade that a `filled` line is about."""
    return Trade(
        trade_id=line["trade_id"],
        order_id=line["order_id"],
        client_order_id=line["client_order_id"],
        pair=line["pair"],
        side=Side(line["side"]),
        quantity=Decimal(line["quantity"]),
        price=Decimal(line["price"]),
        fee=Decimal(line["fee"]),
        fee_currency=line["fee_currency"],
        is_maker=line["is_maker"],
        at_ms=line["traded_at_ms"],
    )


def ended(order: VenueOrder, *, by: str) -> Fields:
    return {
        "account": order.account,
        "order_id": order.order_id,
        "client_order_id": order.request.client_order_id,
        "status": order.status.value,
        "by": by,
        "ended_at_ms": order.ended_at_ms,
    }


def end(order: VenueOrder, line: Mapping[str, Any]) -> None:
    """Let an order end as an `ended` line says."""
    order.status = VenueOrderStatus(line["status"])
    order.ended_at_ms = line["ended_at_ms"]


def refused_order(key: ApiKey, refusal: OrderRefused, request: OrderRequest) -> Fields:
    return _refused(key, refusal, "place") | {
        "client_order_id": request.client_order_id,
        "order_id": None,
        "pair": request.pair,
    }


def refused_cancel(key: ApiKey, refusal: OrderRefused, *, order_id: str) -> Fields:
    return _refused(key, refusal, "cancel") | {
        "client_order_id": None,
        "order_id": order_id,
        "pair": None,
    }


def _refused(key: ApiKey, refusal: OrderRefused, action: str) -> Fields:
    return {
        "account": key.account.name,
        "key": key.key,
        "action": action,
        "kind": refusal.kind.value,
        "detail": refusal.detail,
    }
