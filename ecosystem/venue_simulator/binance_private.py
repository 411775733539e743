"""Binance spot's private REST API (https://github.com/binance/binance-spot-api-docs, rest-api.md):
who may ask, and the endpoints."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Final

from ecosystem.venue_simulator import binance_orders as wire
from ecosystem.venue_simulator import binance_queries as ask
from ecosystem.venue_simulator.binance import named, refusal
from ecosystem.venue_simulator.binance_weights import my_trades_weight, open_orders_weight
from ecosystem.venue_simulator.faults import Fault, FaultKind
from ecosystem.venue_simulator.limits import (
    BINANCE_ORDERS_PER_10_SECS,
    BINANCE_ORDERS_PER_DAY,
    BINANCE_WEIGHT_PER_MINUTE,
    BinanceOrders,
    BinanceWeights,
)
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.orders import OrderRefused
from ecosystem.venue_simulator.private_api import (
    GARBAGE,
    PAGE_OF_HTML,
    Admission,
    PrivateCall,
    PrivateEndpoint,
    PrivateRequest,
    Visit,
)
from ecosystem.venue_simulator.signatures import binance_signature, same_signature
from ecosystem.venue_simulator.venue_api import Query, Reply, VenueRefusal
from shared.venues import BINANCE

_KEY: Final = re.compile("[A-Za-z0-9]{64}")
_DEFAULT_WINDOW_MS: Final = 5_000
_MAX_WINDOW_MS: Final = 60_000
_AHEAD_MS: Final = 1_000
_MICROSECONDS: Final = 10**14
"""A timestamp from here on is in microseconds."""

_OUTSIDE: Final = "Timestamp for this request is outside of the recvWindow."
_AHEAD: Final = "Timestamp for this request was 1000ms ahead of the server's time."
_DENIED: Final = "Invalid API-key, IP, or permissions for action."
_TOO_HEAVY: Final = (
    f"Too much request weight used; current limit is {BINANCE_WEIGHT_PER_MINUTE} request weight "
    "per 1 MINUTE. Please use WebSocket Streams for live updates to avoid polling the API."
)
_BANNED: Final = (
    "Way too much request weight used; IP banned until {}. Please use WebSocket Streams for live "
    "updates to avoid bans."
)
_TOO_MANY_ORDERS: Final = (
    f"Too many new orders; current limit is {BINANCE_ORDERS_PER_10_SECS} orders per 10 SECOND."
)
_UNAVAILABLE: Final = b"Unknown error, please check your request or try again later."
_BACKEND_LATE: Final = (
    "Timeout waiting for response from backend server. Send status unknown; execution status "
    "unknown."
)
_GATEWAY: Final = {
    500: (-1000, "An unknown error occurred while processing the request."),
    504: (-1007, _BACKEND_LATE),
}
"""What it says with these HTTP statuses; with others its gateway sends a page."""


class BinancePrivate:
    """Binance's private side: weights of addresses and order counts of accounts are its state."""

    venue = BINANCE.name
    prefixes: Sequence[str] = ("/api/v3/", "/sapi/")

    def __init__(self) -> None:
        self._weights = BinanceWeights()
        self._orders = BinanceOrders()
        self.endpoints: Sequence[PrivateEndpoint] = (
            _endpoint("POST /api/v3/order", "add_order", "trade", self._new_order),
            _endpoint("POST /api/v3/order/test", "permissions", "trade", ask.test_order),
            _endpoint("DELETE /api/v3/order", "cancel", "trade", ask.cancel),
            _endpoint("GET /api/v3/order", "order_query", "query", ask.order, weight=4),
            _endpoint(
                "GET /api/v3/openOrders",
                "open_orders",
                "query",
                ask.open_orders,
                weight=open_orders_weight,
            ),
            _endpoint("GET /api/v3/allOrders", "closed_orders", "query", ask.all_orders, weight=20),
            _endpoint(
                "GET /api/v3/myTrades", "trades", "query", ask.my_trades, weight=my_trades_weight
            ),
            _endpoint("GET /api/v3/account", "balance", "query", ask.account, weight=20),
            _endpoint(
                "GET /api/v3/rateLimit/order", "permissions", "query", self._order_count, weight=40
            ),
            _endpoint("GET /sapi/v1/account/apiRestrictions", "permissions", None, ask.rights),
            # What ccxt asks for with a key when it loads markets.
            _endpoint(
                "GET /sapi/v1/capital/config/getall", "permissions", "query", ask.coins, weight=10
            ),
            _endpoint("GET /sapi/v1/margin/allPairs", "permissions", None, ask.nothing),
            _endpoint("GET /sapi/v1/margin/isolated/allPairs", "permissions", None, ask.nothing),
        )

    def key_name(self, request: PrivateRequest) -> str | None:
        return request.headers.get("X-MBX-APIKEY")

    def named_pairs(self, fields: Query, listings: Sequence[Listing]) -> Sequence[str]:
        try:
            return [listing.pair for listing in named([fields.get("symbol", "")], listings)]
        except VenueRefusal:
            return []

    def weigh(self, address: str, weight: int, limits_ms: int) -> Mapping[str, str]:
        weighed = self._weights.weigh(address, weight, limits_ms)
        used = str(weighed.used)
        headers = {"X-MBX-USED-WEIGHT": used, "X-MBX-USED-WEIGHT-1M": used}
        if weighed.retry_after_secs is None:
            return headers
        headers["Retry-After"] = str(weighed.retry_after_secs)
        if weighed.banned_until_ms is None:
            raise refusal(-1003, _TOO_HEAVY, status=429, headers=headers)
        text = _BANNED.format(weighed.banned_until_ms)
        raise refusal(-1003, text, status=418, headers=headers)

    def admit(self, visit: Visit) -> Admission:
        request, key, right = visit.request, visit.key, visit.endpoint.right
        if key is None and not _KEY.fullmatch(self.key_name(request) or ""):
            raise refusal(-2014, "API-key format invalid.", status=401)
        if key is None or key.revoked:
            raise refusal(-2015, _DENIED, status=401)
        sent = wire.mandatory(request.fields, "signature")
        expires_at_ms = _expires_at_ms(request.fields, visit.now_ms)
        signature = binance_signature(query=request.query, body=request.body, secret=key.secret)
        if not same_signature(sent.lower(), signature):
            raise refusal(-1022, "Signature for this request is not valid.")
        if right is not None and not getattr(key.permissions, right):
            raise refusal(-2015, _DENIED, status=401)
        return Admission(key=key, expires_at_ms=expires_at_ms)

    def done(self, call: PrivateCall) -> Mapping[str, str]:
        if call.endpoint != "add_order":
            return {}
        count = self._orders.count(call.key.account.name, call.limits_ms)
        return {
            "X-MBX-ORDER-COUNT-10S": str(count.ten_secs),
            "X-MBX-ORDER-COUNT-1D": str(count.day),
        }

    def reply(self, result: object) -> object:
        return result

    def refused(
        self,
        refused: OrderRefused,
        fields: Query,  # noqa: ARG002 - the port's
        listings: Sequence[Listing],  # noqa: ARG002 - the port's
    ) -> Reply:
        code, message = wire.refused_error(refused)
        return _error(code, message, status=401 if code == -2015 else 400)

    def turned_away(
        self,
        fault: Fault,
        endpoint: str,  # noqa: ARG002 - the port's
        now_ms: int,
    ) -> Reply:
        retry_after = {"Retry-After": str(fault.retry_after_secs)}
        match fault.kind:
            case FaultKind.THROTTLE:
                return _error(-1003, _TOO_HEAVY, status=429, headers=retry_after)
            case FaultKind.BAN:
                until_ms = now_ms + fault.retry_after_secs * 1000
                return _error(-1003, _BANNED.format(until_ms), status=418, headers=retry_after)
            case FaultKind.MAINTENANCE:
                return _error(-1016, "This service is no longer available.", status=503)
            case FaultKind.REVOKED:
                return _error(-2015, _DENIED, status=401)
            case FaultKind.GARBAGE:
                return Reply(body=GARBAGE)
            case FaultKind.REFUSE_THEN_FAIL:
                return self.failed(fault.status)
        return Reply(body=_UNAVAILABLE, status=503, content_type=PAGE_OF_HTML)

    def failed(self, status: int) -> Reply:
        if status in _GATEWAY:
            return _error(*_GATEWAY[status], status=status)
        return _page(f"{status} Bad Gateway", status)

    def unknown(self, path: str) -> Reply:
        if not path.startswith("/sapi/"):
            return _page("404 Not found", 404)
        body = {"status": 404, "error": "Not Found", "message": "No message available"}
        return Reply(body=body | {"path": path}, status=404)

    def _new_order(self, call: PrivateCall) -> object:
        new = ask.understood(call)
        account, now_ms = call.key.account.name, call.limits_ms
        wait_secs = self._orders.retry_after_secs(account, now_ms)
        if wait_secs is not None:
            raise refusal(
                -1015, _TOO_MANY_ORDERS, status=429, headers={"Retry-After": str(wait_secs)}
            )
        order = call.trading.place(call.key, new.request, call.spoiled)
        self._orders.placed(account, now_ms)
        if order is None:
            return {}  # it is late, and so its reply is lost
        if order.trades:
            self._orders.filled(account, now_ms)
        fills = call.spoiled.fills(order.trades)
        return wire.placed(order, response=new.response, fills=fills)

    def _order_count(self, call: PrivateCall) -> object:
        count = self._orders.count(call.key.account.name, call.limits_ms)
        limits = (
            ("SECOND", 10, BINANCE_ORDERS_PER_10_SECS, count.ten_secs),
            ("DAY", 1, BINANCE_ORDERS_PER_DAY, count.day),
        )
        return [
            {
                "rateLimitType": "ORDERS",
                "interval": interval,
                "intervalNum": number,
                "limit": limit,
                "count": used,
            }
            for interval, number, limit, used in limits
        ]


def _endpoint(
    path: str,
    name: str,
    right: str | None,
    answer: Callable[[PrivateCall], object],
    *,
    weight: Callable[[Query], int] | int = 1,
) -> PrivateEndpoint:
    """`path` with its method before it."""
    method, _, url = path.partition(" ")
    return PrivateEndpoint(
        method=method,
        path=url,
        name=name,
        right=right,
        cost=weight if callable(weight) else lambda _: weight,
        answer=answer,
    )


def _error(
    code: int, message: str, *, status: int, headers: Mapping[str, str] | None = None
) -> Reply:
    return Reply(body={"code": code, "msg": message}, status=status, headers=headers or {})


def _page(title: str, status: int) -> Reply:
    page = f"<html><head><title>{title}</title></head></html>"
    return Reply(body=page.encode(), status=status, content_type=PAGE_OF_HTML)


def _expires_at_ms(fields: Query, now_ms: int) -> int:
    """Raises `VenueRefusal` for a request from too far away in either direction of time."""
    wire.mandatory(fields, "timestamp")
    timestamp_ms = wire.whole(fields, "timestamp") or 0
    if timestamp_ms >= _MICROSECONDS:
        timestamp_ms //= 1000
    try:
        window_ms = float(fields.get("recvWindow") or _DEFAULT_WINDOW_MS)
    except ValueError:
        raise wire.illegal("recvWindow", "^[0-9]{1,20}$") from None
    if not 0 <= window_ms <= _MAX_WINDOW_MS:
        raise refusal(-1131, "recvWindow must be less than 60000.")
    if timestamp_ms >= now_ms + _AHEAD_MS:
        raise refusal(-1021, _AHEAD)
    if now_ms - timestamp_ms > window_ms:
        raise refusal(-1021, _OUTSIDE)
    return timestamp_ms + int(window_ms)
