"""Kraken spot's private REST API (https://docs.kraken.com/api-reference): who may ask, and the
endpoints."""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, TypeVar

from ecosystem.venue_simulator import kraken_orders as wire
from ecosystem.venue_simulator.faults import Fault, FaultKind
from ecosystem.venue_simulator.kraken import named, pair_id, refusal
from ecosystem.venue_simulator.limits import KrakenCounters, kraken_cancel_cost
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.orders import (
    OrderRefused,
    OrderType,
    RefusalKind,
    Trade,
    VenueOrder,
)
from ecosystem.venue_simulator.private_api import (
    GARBAGE,
    PAGE_OF_HTML,
    Admission,
    PrivateCall,
    PrivateEndpoint,
    PrivateRequest,
    Visit,
)
from ecosystem.venue_simulator.signatures import kraken_signature, same_signature
from ecosystem.venue_simulator.venue_api import Query, Reply, VenueRefusal
from shared.venues import KRAKEN

PRIVATE_PATH: Final = "/0/private/"
_PAGE: Final = 50
"""Orders or trades in one reply of a list."""
_MAX_IDS: Final = 50
_MAX_TRADE_IDS: Final = 20
_SPAN: Final = (("start", 0.0), ("end", math.inf))
_RIGHTS: Final = {
    "query": ("query-funds", "query-open-trades", "query-closed-trades"),
    "trade": ("modify-trades", "close-trades"),
    "withdraw": ("withdraw-funds",),
}

_NO_METHOD: Final = "EGeneral:Unknown method"
_DENIED: Final = "EGeneral:Permission denied"
_NO_KEY: Final = "EAPI:Invalid key"
_TOO_MANY_CALLS: Final = "EAPI:Rate limit exceeded"
_TOO_MANY_ORDERS: Final = "EOrder:Rate limit exceeded"


class KrakenPrivate:
    """Kraken's private side: nonces and counters of each key are its state."""

    venue = KRAKEN.name
    prefixes: Sequence[str] = (PRIVATE_PATH,)

    def __init__(self) -> None:
        self._counters = KrakenCounters()
        self._nonces: dict[str, int] = {}
        self.endpoints: Sequence[PrivateEndpoint] = (
            _endpoint("AddOrder", "add_order", "trade", self._add_order, cost=0),
            _endpoint("CancelOrder", "cancel", "trade", self._cancel, cost=0),
            _endpoint("OpenOrders", "open_orders", "query", _open_orders),
            _endpoint("ClosedOrders", "closed_orders", "query", _closed_orders, cost=2),
            _endpoint("QueryOrders", "order_query", "query", _query_orders),
            _endpoint("QueryTrades", "trades", "query", _query_trades),
            _endpoint("TradesHistory", "trades", "query", _trades_history, cost=2),
            _endpoint("Balance", "balance", "query", _balance),
            _endpoint("BalanceEx", "balance", "query", _balance_ex),
            _endpoint("TradeVolume", "fees", "query", _trade_volume),
            _endpoint("GetApiKeyInfo", "permissions", None, self._key_info),
            _endpoint("WithdrawMethods", "permissions", "withdraw", _nothing),
            _endpoint("WithdrawAddresses", "permissions", "withdraw", _nothing),
            _endpoint("WithdrawStatus", "permissions", "withdraw", _nothing),
        )

    def key_name(self, request: PrivateRequest) -> str | None:
        return request.headers.get("API-Key")

    def named_pairs(self, fields: Query, listings: Sequence[Listing]) -> Sequence[str]:
        try:
            return [listing.pair for listing in named(fields.get("pair", ""), listings)]
        except VenueRefusal:
            return []

    def weigh(
        self,
        address: str,  # noqa: ARG002 - Kraken counts private requests per key
        weight: int,  # noqa: ARG002
        limits_ms: int,  # noqa: ARG002
    ) -> Mapping[str, str]:
        return {}

    def admit(self, visit: Visit) -> Admission:
        request, key = visit.request, visit.key
        if key is None or key.revoked:
            raise refusal(_NO_KEY)
        nonce = request.fields.get("nonce", "")
        right = kraken_signature(
            path=request.path, nonce=nonce, body=request.body, secret=key.secret
        )
        if not same_signature(request.headers.get("API-Sign", ""), right):
            raise refusal("EAPI:Invalid signature")
        if not nonce.isdecimal() or not self._nonces.get(key.key, -1) < int(nonce) < 2**64:
            raise refusal("EAPI:Invalid nonce")
        self._nonces[key.key] = int(nonce)
        endpoint = visit.endpoint
        if not self._counters.call(key.key, endpoint.cost(request.fields), visit.limits_ms):
            raise refusal(_TOO_MANY_CALLS)
        if endpoint.right is not None and not getattr(key.permissions, endpoint.right):
            raise refusal(_DENIED)
        return Admission(key=key)

    def done(self, call: PrivateCall) -> Mapping[str, str]:  # noqa: ARG002 - none at Kraken
        return {}

    def reply(self, result: object) -> object:
        return {"error": [], "result": result}

    def refused(self, refused: OrderRefused, fields: Query, listings: Sequence[Listing]) -> Reply:
        pairs = self.named_pairs(fields, listings)
        listing = next((each for each in listings if each.pair in pairs), None)
        return _error(wire.refused_text(refused, listing))

    def turned_away(self, fault: Fault, endpoint: str, now_ms: int) -> Reply:  # noqa: ARG002
        match fault.kind:
            case FaultKind.THROTTLE:
                trades = endpoint in ("add_order", "cancel")
                return _error(_TOO_MANY_ORDERS if trades else _TOO_MANY_CALLS)
            case FaultKind.BAN:
                return _error("EGeneral:Temporary lockout")
            case FaultKind.MAINTENANCE:
                return _error("EService:Unavailable")
            case FaultKind.REVOKED:
                return _error(_NO_KEY)
            case FaultKind.GARBAGE:
                return Reply(body=GARBAGE)
            case FaultKind.REFUSE_THEN_FAIL:
                return self.failed(fault.status)
        return self.failed(503)

    def failed(self, status: int) -> Reply:
        if status == 500:
            return _error("EGeneral:Internal error", status=500)
        page = f"<html><head><title>api.kraken.com | {status}</title></head></html>"
        return Reply(body=page.encode(), status=status, content_type=PAGE_OF_HTML)

    def unknown(self, path: str) -> Reply:  # noqa: ARG002 - the port's
        return _error(_NO_METHOD)

    def _add_order(self, call: PrivateCall) -> object:
        new = wire.new_order(call.fields, call.listings, now_ms=call.now_ms)
        if not self._counters.order(call.key.account.name, new.listing.pair, 1, call.limits_ms):
            raise refusal(_TOO_MANY_ORDERS)
        if new.only_validate:
            call.trading.check(call.key, new.request)
            return wire.added(None, new)
        return wire.added(call.trading.place(call.key, new.request, call.spoiled), new)

    def _cancel(self, call: PrivateCall) -> object:
        orders = [
            order for order in call.trading.open_orders(call.key.account) if _is_meant(order, call)
        ]
        if not orders:
            raise OrderRefused(RefusalKind.UNKNOWN_ORDER, "no open order is meant")
        for order in orders:
            cost = kraken_cancel_cost(call.now_ms - order.accepted_at_ms)
            if not self._counters.order(order.account, order.request.pair, cost, call.limits_ms):
                raise refusal(_TOO_MANY_ORDERS)
            call.trading.cancel(call.key, order_id=order.order_id)
        return {"count": len(orders)}

    def _key_info(self, call: PrivateCall) -> object:
        rights = (right for right in _RIGHTS if getattr(call.key.permissions, right))
        number = call.key.account.number
        return {
            "apiKeyName": call.key.account.name,
            "apiKey": call.key.key,
            "nonce": str(self._nonces[call.key.key]),
            "nonceWindow": 0,
            "permissions": [name for right in rights for name in _RIGHTS[right]],
            "iban": f"AA88 N84G {number >> 16:04X} {number & 0xFFFF:04X}",
            "validUntil": "0",
            "queryFrom": "0",
            "queryTo": "0",
            "createdTime": "1772542900",
            "modifiedTime": "1772543095",
            "ipAllowlist": [],
            "lastUsed": str(call.now_ms // 1000),
        }


def _endpoint(
    method: str,
    name: str,
    right: str | None,
    answer: Callable[[PrivateCall], object],
    *,
    cost: int = 1,
) -> PrivateEndpoint:
    return PrivateEndpoint(
        method="POST",
        path=PRIVATE_PATH + method,
        name=name,
        right=right,
        cost=lambda _: cost,
        answer=answer,
    )


def _error(text: str, *, status: int = 200) -> Reply:
    return Reply(body={"error": [text]}, status=status)


def _is_meant(order: VenueOrder, call: PrivateCall) -> bool:
    """By a cancel's `cl_ord_id`, or its `txid`, which may be a `userref`."""
    if call.fields.get("cl_ord_id"):
        return order.request.client_order_id == call.fields["cl_ord_id"]
    named_id = call.fields.get("txid")
    if not named_id:
        raise wire.invalid("txid")
    return named_id in (order.order_id, str(order.request.userref))


def _is_asked_for(order: VenueOrder, fields: Query) -> bool:
    client_order_id, userref = fields.get("cl_ord_id"), wire.userref_of(fields)
    return (not client_order_id or order.request.client_order_id == client_order_id) and (
        userref is None or order.request.userref == userref
    )


def _rows(orders: Sequence[VenueOrder], call: PrivateCall) -> dict[str, Any]:
    """Orders by id, with their trades' ids if the request wants them."""
    listings = {listing.pair: listing for listing in call.trading.listings}
    with_trades = _is_true(call.fields, "trades")
    return {
        order.order_id: wire.order_row(
            order,
            listings[order.request.pair],
            trades=_trade_ids(order, call) if with_trades else None,
        )
        for order in orders
    }


def _trade_ids(order: VenueOrder, call: PrivateCall) -> list[str]:
    return [trade.trade_id for trade in call.spoiled.fills(order.trades)]


def _is_true(fields: Query, name: str) -> bool:
    return fields.get(name, "").lower() in ("true", "1")


def _open_orders(call: PrivateCall) -> object:
    orders = call.trading.open_orders(call.key.account, call.spoiled)
    asked = [order for order in orders if _is_asked_for(order, call.fields)]
    return {"open": _rows(asked, call)}


def _closed_orders(call: PrivateCall) -> object:
    by_opening = call.fields.get("closetime") == "open"
    start_ms, end_ms = _span_ms(call.fields)

    def at_ms(order: VenueOrder) -> int:
        return order.accepted_at_ms if by_opening else order.updated_at_ms

    asked = [
        order
        for order in call.trading.closed_orders(call.key.account, call.spoiled)
        if _is_asked_for(order, call.fields) and start_ms < at_ms(order) <= end_ms
    ]
    asked.sort(key=at_ms, reverse=True)
    return {"closed": _rows(_page(asked, call.fields), call), "count": len(asked)}


def _span_ms(fields: Query) -> tuple[float, float]:
    """`start` excluded, `end` included; both are seconds of UTC."""
    try:
        start, end = (float(fields.get(name) or default) for name, default in _SPAN)
    except ValueError:
        raise wire.invalid() from None
    return start * 1000, end * 1000


_Item = TypeVar("_Item")


def _page(items: Sequence[_Item], fields: Query) -> Sequence[_Item]:
    try:
        offset = int(fields.get("ofs") or 0)
    except ValueError:
        raise wire.invalid("ofs") from None
    if offset < 0:
        raise wire.invalid("ofs")
    return items[offset : offset + _PAGE]


def _ids(fields: Query, most: int) -> list[str]:
    ids = [each.strip() for each in fields.get("txid", "").split(",") if each.strip()]
    if not 1 <= len(ids) <= most:
        raise wire.invalid()
    return ids


def _query_orders(call: PrivateCall) -> object:
    ids = _ids(call.fields, _MAX_IDS)
    if not all(map(wire.ORDER_ID.fullmatch, ids)):
        raise refusal("EOrder:Invalid order")
    account = call.key.account
    found = (call.trading.order(account, call.spoiled, order_id=each) for each in ids)
    asked = [order for order in found if order and _is_asked_for(order, call.fields)]
    return _rows(asked, call)


def _query_trades(call: PrivateCall) -> object:
    ids = _ids(call.fields, _MAX_TRADE_IDS)
    trades = [trade for trade in _trades(call) if trade.trade_id in ids]
    return _trade_rows(trades, call)


def _trades_history(call: PrivateCall) -> object:
    start_ms, end_ms = _span_ms(call.fields)
    trades = [trade for trade in _trades(call) if start_ms < trade.at_ms <= end_ms]
    trades.reverse()
    return {"trades": _trade_rows(_page(trades, call.fields), call), "count": len(trades)}


def _trades(call: PrivateCall) -> list[Trade]:
    return call.trading.trades(call.key.account, call.spoiled)


def _trade_rows(trades: Sequence[Trade], call: PrivateCall) -> dict[str, Any]:
    """By id, so that one that is told twice is there once."""
    rows = {}
    for trade in trades:
        order = call.trading.order(call.key.account, order_id=trade.order_id)
        rows[trade.trade_id] = wire.trade_row(
            trade, OrderType.MARKET if order is None else order.request.type
        )
    return rows


def _balance(call: PrivateCall) -> object:
    return wire.balances(call.key.account)


def _balance_ex(call: PrivateCall) -> object:
    return wire.extended_balances(call.key.account)


def _trade_volume(call: PrivateCall) -> object:
    """The account's fees are flat: no tier is next."""
    pairs = call.fields.get("pair")
    percent = wire.money(call.key.account.terms.taker_fee * 100, 4)
    fee = {
        "fee": percent,
        "minfee": percent,
        "maxfee": percent,
        "nextfee": None,
        "nextvolume": None,
        "tiervolume": "0.0000",
    }
    fees = {pair_id(each.pair): fee for each in named(pairs, call.listings)} if pairs else {}
    return {"currency": "ZUSD", "volume": "0.0000", "fees": fees, "fees_maker": fees}


def _nothing(_: PrivateCall) -> object:
    """What a key with the right to withdraw finds: no methods, addresses or withdrawals."""
    return []
