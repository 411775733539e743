"""Binance's private requests and replies: orders, trades and balances as it writes and reads them
(https://github.com/binance/binance-spot-api-docs, rest-api.md and errors.md). Pure."""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any, Final

from ecosystem.venue_simulator.accounts import Account, ApiKey
from ecosystem.venue_simulator.binance import named, refusal, symbol_of
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.orders import (
    OrderRefused,
    OrderRequest,
    OrderType,
    RefusalKind,
    TimeInForce,
    Trade,
    VenueOrder,
    VenueOrderStatus,
)
from ecosystem.venue_simulator.venue_api import Query, VenueRefusal
from shared.money import exact, plain
from shared.orders import Side

_CLIENT_ID: Final = re.compile(r"[.A-Z:/a-z0-9_-]{1,36}")
_DECIMALS: Final = 8
"""Binance writes every amount with at least eight decimals."""

_REFUSALS: Final = {
    RefusalKind.DEADLINE: (-1021, "Timestamp for this request is outside of the recvWindow."),
    RefusalKind.UNKNOWN_PAIR: (-1121, "Invalid symbol."),
    RefusalKind.INVALID_QUANTITY: (-1013, "Filter failure: LOT_SIZE"),
    RefusalKind.INVALID_PRICE: (-1013, "Filter failure: PRICE_FILTER"),
    RefusalKind.LOT_STEP: (-1013, "Filter failure: LOT_SIZE"),
    RefusalKind.PRICE_TICK: (-1013, "Filter failure: PRICE_FILTER"),
    RefusalKind.MIN_QUANTITY: (-1013, "Filter failure: LOT_SIZE"),
    RefusalKind.MIN_NOTIONAL: (-1013, "Filter failure: NOTIONAL"),
    RefusalKind.DUPLICATE_CLIENT_ID: (-2010, "Duplicate order sent."),
    RefusalKind.INSUFFICIENT_FUNDS: (
        -2010,
        "Account has insufficient balance for requested action.",
    ),
    RefusalKind.TOO_MANY_ORDERS: (-1013, "Filter failure: MAX_NUM_ORDERS"),
    RefusalKind.UNKNOWN_ORDER: (-2011, "Unknown order sent."),
}

_STATUSES: Final = {
    VenueOrderStatus.FILLED: "FILLED",
    VenueOrderStatus.CANCELLED: "CANCELED",
    VenueOrderStatus.EXPIRED: "EXPIRED",
}

RESPONSE_TYPES: Final = ("ACK", "RESULT", "FULL")


def refused_error(refused: OrderRefused) -> tuple[int, str]:
    """Binance's code and message for what the engine refused."""
    return _REFUSALS.get(refused.kind, (-2015, f"You are not permitted: {refused.detail}."))


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """A new order as Binance understood it. `response` is one of `RESPONSE_TYPES`."""

    listing: Listing
    request: OrderRequest
    response: str


def new_order(
    fields: Query, listings: Sequence[Listing], *, drawn_id: str, expires_at_ms: int | None
) -> NewOrder:
    """`drawn_id` is the client's id for an order whose client chose none.

    Raises `VenueRefusal` for fields that make no order.
    """
    listing = one_symbol(fields, listings)
    side = mandatory(fields, "side")
    if side not in ("BUY", "SELL"):
        raise refusal(-1117, "Invalid side.")
    type_ = mandatory(fields, "type")
    if type_ not in ("LIMIT", "MARKET"):
        raise refusal(-1116, "Invalid orderType.")
    if fields.get("quoteOrderQty"):
        # An order of another quantity than was said: nobody here means that.
        raise refusal(-1013, "Quote order qty market orders are not support for this symbol.")
    response = fields.get("newOrderRespType", "FULL")
    if response not in RESPONSE_TYPES:
        raise refusal(-1136, "Invalid newOrderRespType.")
    client_order_id = fields.get("newClientOrderId") or drawn_id
    if not _CLIENT_ID.fullmatch(client_order_id):
        raise illegal("newClientOrderId", r"^[\.A-Z\:/a-z0-9_-]{1,36}$")
    is_limit = type_ == "LIMIT"
    return NewOrder(
        listing=listing,
        response=response,
        request=OrderRequest(
            pair=listing.pair,
            side=Side(side.lower()),
            type=OrderType(type_.lower()),
            quantity=_amount(fields, "quantity"),
            price=_price(fields, is_limit=is_limit),
            time_in_force=_time_in_force(fields, is_limit=is_limit),
            client_order_id=client_order_id,
            expires_at_ms=expires_at_ms,
        ),
    )


def one_symbol(fields: Query, listings: Sequence[Listing]) -> Listing:
    return named([mandatory(fields, "symbol")], listings)[0]


def mandatory(fields: Query, name: str) -> str:
    value = fields.get(name)
    if not value:
        raise refusal(
            -1102, f"Mandatory parameter '{name}' was not sent, was empty/null, or malformed."
        )
    return value


def illegal(name: str, legal: str) -> VenueRefusal:
    return refusal(
        -1100, f"Illegal characters found in parameter '{name}'; legal range is '{legal}'."
    )


def _price(fields: Query, *, is_limit: bool) -> Decimal | None:
    if is_limit:
        return _amount(fields, "price")
    if fields.get("price"):
        raise refusal(-1106, "Parameter 'price' sent when not required.")
    return None


def _time_in_force(fields: Query, *, is_limit: bool) -> TimeInForce:
    if not is_limit:
        if fields.get("timeInForce"):
            raise refusal(-1106, "Parameter 'timeInForce' sent when not required.")
        return TimeInForce.GTC
    sent = mandatory(fields, "timeInForce")
    if sent not in ("IOC", "GTC"):
        raise refusal(-1115, "Invalid timeInForce.")
    return TimeInForce(sent.lower())


def _amount(fields: Query, name: str) -> Decimal:
    text = mandatory(fields, name)
    if not re.fullmatch(r"([0-9]{1,20})(\.[0-9]{1,20})?", text):
        raise illegal(name, "^([0-9]{1,20})(\\.[0-9]{1,20})?$")
    return Decimal(text)


def whole(fields: Query, name: str) -> int | None:
    """A parameter that is a whole number; None if it was not sent."""
    text = fields.get(name)
    if not text:
        return None
    if not re.fullmatch("[0-9]{1,20}", text):
        raise illegal(name, "^[0-9]{1,20}$")
    return int(text)


def amount(value: Decimal) -> str:
    """With at least eight decimals, and every digit that it has."""
    digits = max(_DECIMALS, -int(value.as_tuple().exponent))
    with exact():
        return plain(value.quantize(Decimal(1).scaleb(-digits)))


def _status(order: VenueOrder) -> str:
    if order.is_open:
        return "PARTIALLY_FILLED" if order.trades else "NEW"
    return _STATUSES[order.status]


def _common(order: VenueOrder) -> dict[str, Any]:
    request = order.request
    return {
        "price": amount(request.price or Decimal(0)),
        "origQty": amount(request.quantity),
        "executedQty": amount(order.filled),
        "origQuoteOrderQty": "0.00000000",
        "cummulativeQuoteQty": amount(order.cost),
        "status": _status(order),
        "timeInForce": request.time_in_force.value.upper(),
        "type": request.type.value.upper(),
        "side": request.side.value.upper(),
    }


def _head(order: VenueOrder) -> dict[str, Any]:
    return {
        "symbol": symbol_of(order.request.pair),
        "orderId": int(order.order_id),
        "orderListId": -1,
        "clientOrderId": order.request.client_order_id,
    }


def placed(order: VenueOrder, *, response: str, fills: Iterable[Trade]) -> dict[str, Any]:
    """The answer to a new order: ACK, RESULT or FULL."""
    reply = _head(order) | {"transactTime": order.accepted_at_ms}
    if response == "ACK":
        return reply
    reply |= _common(order) | {
        "workingTime": order.accepted_at_ms,
        "selfTradePreventionMode": "NONE",
    }
    return reply if response == "RESULT" else reply | {"fills": [_fill(trade) for trade in fills]}


def _fill(trade: Trade) -> dict[str, Any]:
    return {
        "price": amount(trade.price),
        "qty": amount(trade.quantity),
        "commission": amount(trade.fee),
        "commissionAsset": trade.fee_currency,
        "tradeId": int(trade.trade_id),
    }


def order_row(order: VenueOrder) -> dict[str, Any]:
    """An order as queries show it."""
    return (
        _head(order)
        | _common(order)
        | {
            "stopPrice": "0.00000000",
            "icebergQty": "0.00000000",
            "time": order.accepted_at_ms,
            "updateTime": order.updated_at_ms,
            "isWorking": True,
            "workingTime": order.accepted_at_ms,
            "selfTradePreventionMode": "NONE",
        }
    )


def cancelled(order: VenueOrder, *, cancel_id: str, now_ms: int) -> dict[str, Any]:
    """The answer to a cancel, which has an id of its own."""
    return {
        **_head(order),
        "origClientOrderId": order.request.client_order_id,
        "clientOrderId": cancel_id,
        "transactTime": now_ms,
        **_common(order),
        "selfTradePreventionMode": "NONE",
    }


def trade_row(trade: Trade) -> dict[str, Any]:
    return {
        "symbol": symbol_of(trade.pair),
        "id": int(trade.trade_id),
        "orderId": int(trade.order_id),
        "orderListId": -1,
        "price": amount(trade.price),
        "qty": amount(trade.quantity),
        "quoteQty": amount(trade.cost),
        "commission": amount(trade.fee),
        "commissionAsset": trade.fee_currency,
        "time": trade.at_ms,
        "isBuyer": trade.side is Side.BUY,
        "isMaker": trade.is_maker,
        "isBestMatch": True,
    }


def account_row(key: ApiKey, *, omit_zero: bool, now_ms: int) -> dict[str, Any]:
    account = key.account
    rate = amount(account.terms.taker_fee)
    return {
        "makerCommission": int(account.terms.taker_fee * 10_000),
        "takerCommission": int(account.terms.taker_fee * 10_000),
        "buyerCommission": 0,
        "sellerCommission": 0,
        "commissionRates": {
            "maker": rate,
            "taker": rate,
            "buyer": "0.00000000",
            "seller": "0.00000000",
        },
        "canTrade": True,
        "canWithdraw": True,
        "canDeposit": True,
        "brokered": False,
        "requireSelfTradePrevention": False,
        "preventSor": False,
        "updateTime": now_ms,
        "accountType": "SPOT",
        "balances": _balances(account, omit_zero=omit_zero),
        "permissions": ["SPOT"],
        "uid": account.number,
    }


def _balances(account: Account, *, omit_zero: bool) -> list[dict[str, str]]:
    return [
        {"asset": currency, "free": amount(balance.free), "locked": amount(balance.held)}
        for currency, balance in sorted(account.balances.items())
        if balance.total or not omit_zero
    ]


def restrictions(key: ApiKey) -> dict[str, Any]:
    """What the key may do (developers.binance.com, wallet/account/api-key-permission)."""
    rights = key.permissions
    return {
        "ipRestrict": False,
        "createTime": 1623840271000,
        "enableReading": rights.query,
        "enableWithdrawals": rights.withdraw,
        "enableInternalTransfer": False,
        "enableMargin": False,
        "enableFutures": False,
        "permitsUniversalTransfer": False,
        "enableVanillaOptions": False,
        "enableFixApiTrade": False,
        "enableFixReadOnly": False,
        "enableSpotAndMarginTrading": rights.trade,
        "enablePortfolioMarginTrading": False,
    }
