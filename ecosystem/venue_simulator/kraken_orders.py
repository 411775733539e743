"""Kraken's private requests and replies: orders, trades and balances as it writes and reads them
(https://docs.kraken.com/api-reference/trading and /account-data). Pure."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final

from ecosystem.venue_simulator.accounts import Account
from ecosystem.venue_simulator.kraken import asset_id, named, pair_altname, pair_id, refusal
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
from shared.venues import base_of

_CLIENT_ID: Final = re.compile(
    r"[0-9a-fA-F]{8}(-[0-9a-fA-F]{4}){3}-[0-9a-fA-F]{12}|[0-9a-fA-F]{32}|[!-~]{1,18}"
)
"""A UUID with or without dashes, or free text of up to 18 characters."""
ORDER_ID: Final = re.compile(r"O[A-Z0-9]{5}-[A-Z0-9]{5}-[A-Z0-9]{6}")
_FLAGS: Final = frozenset({"fciq", "nompp"})
"""The order flags that change nothing here."""
_NEAREST_DEADLINE_MS: Final = 2_000
_FURTHEST_DEADLINE_MS: Final = 60_000
_USERREFS: Final = range(-(2**31), 2**31)
_MONEY_DECIMALS: Final = 5
_VOLUME_DECIMALS: Final = 8

_STATUSES: Final = {
    VenueOrderStatus.OPEN: "open",
    VenueOrderStatus.FILLED: "closed",
    VenueOrderStatus.CANCELLED: "canceled",
    VenueOrderStatus.EXPIRED: "expired",
}

_REFUSALS: Final = {
    RefusalKind.DEADLINE: "EService:Deadline elapsed",
    RefusalKind.UNKNOWN_PAIR: "EQuery:Unknown asset pair",
    RefusalKind.INVALID_QUANTITY: "EGeneral:Invalid arguments:volume",
    RefusalKind.INVALID_PRICE: "EGeneral:Invalid arguments:price",
    RefusalKind.LOT_STEP: "EGeneral:Invalid arguments:volume",
    RefusalKind.MIN_QUANTITY: "EOrder:Order minimum not met",
    RefusalKind.MIN_NOTIONAL: "EOrder:Cost minimum not met",
    RefusalKind.DUPLICATE_CLIENT_ID: "EOrder:Invalid order:cl_ord_id is already in use",
    RefusalKind.INSUFFICIENT_FUNDS: "EOrder:Insufficient funds",
    RefusalKind.TOO_MANY_ORDERS: "EOrder:Orders limit exceeded",
    RefusalKind.UNKNOWN_ORDER: "EOrder:Unknown order",
}


def refused_text(refused: OrderRefused, listing: Listing | None) -> str:
    """Kraken's text for what the engine refused."""
    if refused.kind is RefusalKind.PRICE_TICK and listing is not None:
        return (
            f"EOrder:Invalid price:{pair_altname(listing.pair)} price can only be specified up to "
            f"{listing.price_decimals} decimals."
        )
    return _REFUSALS.get(refused.kind, f"EGeneral:Permission denied:{refused.detail}")


@dataclass(frozen=True, slots=True, kw_only=True)
class NewOrder:
    """An `AddOrder` as Kraken understood it."""

    listing: Listing
    request: OrderRequest
    only_validate: bool


def new_order(fields: Query, listings: Sequence[Listing], *, now_ms: int) -> NewOrder:
    """Raises `VenueRefusal` for fields that make no order."""
    listing = one_pair(fields, listings)
    if fields.get("type") not in ("buy", "sell"):
        raise invalid("type")
    if fields.get("ordertype") not in ("limit", "market"):
        raise invalid("ordertype")
    order_type = OrderType(fields["ordertype"])
    time_in_force = fields.get("timeinforce", "GTC").lower()
    if time_in_force not in ("ioc", "gtc"):
        raise invalid("timeinforce")
    flags = set(filter(None, fields.get("oflags", "").split(",")))
    if flags - _FLAGS:
        raise invalid("viqc" if "viqc" in flags else "oflags")
    if fields.get("leverage", "none") not in ("none", "0", "1"):
        raise invalid("leverage")
    client_order_id, userref = _references(fields)
    return NewOrder(
        listing=listing,
        only_validate=fields.get("validate", "").lower() in ("true", "1"),
        request=OrderRequest(
            pair=listing.pair,
            side=Side(fields["type"]),
            type=order_type,
            quantity=_amount(fields, "volume"),
            price=_amount(fields, "price") if order_type is OrderType.LIMIT else None,
            time_in_force=TimeInForce(time_in_force),
            client_order_id=client_order_id,
            userref=userref,
            expires_at_ms=_deadline_ms(fields, now_ms),
        ),
    )


def one_pair(fields: Query, listings: Sequence[Listing]) -> Listing:
    if not fields.get("pair"):
        raise invalid("pair")
    return named(fields["pair"], listings)[0]


def invalid(argument: str = "") -> VenueRefusal:
    return refusal("EGeneral:Invalid arguments" + (f":{argument}" if argument else ""))


def _references(fields: Query) -> tuple[str | None, int | None]:
    client_order_id = fields.get("cl_ord_id") or None
    if client_order_id is not None and not _CLIENT_ID.fullmatch(client_order_id):
        raise invalid("cl_ord_id")
    userref = userref_of(fields)
    if client_order_id is not None and userref is not None:
        raise invalid("cl_ord_id and userref are exclusive")
    return client_order_id, userref


def userref_of(fields: Query) -> int | None:
    if not fields.get("userref"):
        return None
    try:
        userref = int(fields["userref"])
    except ValueError:
        raise invalid("userref") from None
    if userref not in _USERREFS:
        raise invalid("userref")
    return userref


def _amount(fields: Query, name: str) -> Decimal:
    try:
        amount = Decimal(fields.get(name, ""))
    except InvalidOperation:
        raise invalid(name) from None
    if not amount.is_finite():
        raise invalid(name)
    return amount


def _deadline_ms(fields: Query, now_ms: int) -> int | None:
    """A deadline that is over is the engine's to refuse, not a malformed one."""
    if not fields.get("deadline"):
        return None
    try:
        deadline = datetime.fromisoformat(fields["deadline"])
    except ValueError:
        raise invalid("deadline") from None
    if deadline.tzinfo is None:
        raise invalid("deadline")
    deadline_ms = int(deadline.timestamp() * 1000)
    if now_ms < deadline_ms < now_ms + _NEAREST_DEADLINE_MS:
        raise invalid("deadline")
    if deadline_ms > now_ms + _FURTHEST_DEADLINE_MS:
        raise invalid("deadline")
    return deadline_ms


def money(value: Decimal, decimals: int = _MONEY_DECIMALS) -> str:
    """An amount with at least so many decimals, and every digit that it has."""
    digits = max(decimals, -int(value.as_tuple().exponent))
    with exact():
        return plain(value.quantize(Decimal(1).scaleb(-digits)))


def secs(at_ms: int) -> float:
    return at_ms / 1000


def added(order: VenueOrder | None, new: NewOrder) -> dict[str, Any]:
    """What `AddOrder` answers; no `order` if it was only validated."""
    descr = {"order": _sentence(new.request, new.listing)}
    return {"descr": descr} | ({} if order is None else {"txid": [order.order_id]})


def _sentence(request: OrderRequest, listing: Listing) -> str:
    at = "market" if request.price is None else f"limit {_price(request.price, listing)}"
    volume = money(request.quantity, _VOLUME_DECIMALS)
    return f"{request.side} {volume} {pair_altname(request.pair)} @ {at}"


def _price(price: Decimal, listing: Listing) -> str:
    return money(price, listing.price_decimals)


def order_row(
    order: VenueOrder, listing: Listing, *, trades: Iterable[str] | None = None
) -> dict[str, Any]:
    """An order as queries show it; `trades` are the ids of its trades, if they were asked for."""
    request = order.request
    row: dict[str, Any] = {
        "refid": None,
        "userref": request.userref,
        "cl_ord_id": request.client_order_id,
        "status": _STATUSES[order.status],
        "opentm": secs(order.accepted_at_ms),
        "starttm": 0,
        "expiretm": 0,
        "descr": {
            "pair": pair_altname(request.pair),
            "type": request.side.value,
            "ordertype": request.type.value,
            "price": "0" if request.price is None else _price(request.price, listing),
            "price2": "0",
            "leverage": "none",
            "order": _sentence(request, listing),
            "close": "",
        },
        "vol": money(request.quantity, _VOLUME_DECIMALS),
        "vol_exec": money(order.filled, _VOLUME_DECIMALS),
        "cost": money(order.cost),
        "fee": money(order.fee),
        "price": _mean_price(order, listing),
        "stopprice": "0.00000",
        "limitprice": "0.00000",
        "misc": "",
        "oflags": _fee_flag(order),
        "time_in_force": request.time_in_force.value.upper(),
    }
    if not order.is_open:
        row |= {"closetm": secs(order.updated_at_ms), "reason": _reason(order)}
    if trades is not None:
        row["trades"] = list(trades)
    return row


def _mean_price(order: VenueOrder, listing: Listing) -> str:
    if not order.filled:
        return "0.00000"
    return money(round(order.cost / order.filled, listing.price_decimals), _MONEY_DECIMALS)


def _fee_flag(order: VenueOrder) -> str:
    in_coin = any(trade.fee_currency == base_of(trade.pair) for trade in order.trades)
    return "fcib" if in_coin else "fciq"


def _reason(order: VenueOrder) -> str | None:
    if order.status is VenueOrderStatus.FILLED:
        return None
    immediate = order.request.time_in_force is TimeInForce.IOC
    return "Order could not be filled immediately" if immediate else "User requested"


def trade_row(trade: Trade, order_type: OrderType) -> dict[str, Any]:
    return {
        "ordertxid": trade.order_id,
        "postxid": "TKH2SE-M7IF5-CFI7LT",
        "pair": pair_id(trade.pair),
        "aclass": "forex",
        "time": secs(trade.at_ms),
        "type": trade.side.value,
        "ordertype": order_type.value,
        "price": money(trade.price),
        "cost": money(trade.cost),
        "fee": money(trade.fee),
        "vol": money(trade.quantity, _VOLUME_DECIMALS),
        "margin": "0.00000",
        "leverage": "0",
        "misc": "",
        "trade_id": int.from_bytes(trade.trade_id.encode()[-6:]) % 10**9,
        "maker": trade.is_maker,
    }


def balances(account: Account) -> Mapping[str, str]:
    return {
        asset_id(currency): money(balance.total, 4)
        for currency, balance in sorted(account.balances.items())
        if balance.total
    }


def extended_balances(account: Account) -> Mapping[str, Mapping[str, str]]:
    return {
        asset_id(currency): {
            "balance": money(balance.total, 4),
            "hold_trade": money(balance.held, 4),
        }
        for currency, balance in sorted(account.balances.items())
        if balance.total
    }


def moment(now_ms: int) -> str:
    return datetime.fromtimestamp(now_ms // 1000, tz=UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
