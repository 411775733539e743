"""Binance spot over REST, as github.com/binance/binance-spot-api-docs describes it."""

import hashlib
import hmac
import json
import re
import time
from collections.abc import Callable, Mapping
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import parse_qsl

from aiohttp import web

from tests.other_venues.books import Account, Books, Order, Refusal, Trade, Wish
from tests.other_venues.market import CANDLE_MS, LISTINGS, Listing
from tests.other_venues.shapes import shape, shapes
from tests.other_venues.trouble import Line, Told

REFUSALS: Final = {
    "price": (-1013, "Filter failure: PRICE_FILTER"),
    "lot": (-1013, "Filter failure: LOT_SIZE"),
    "least": (-1013, "Filter failure: LOT_SIZE"),
    "cost": (-1013, "Filter failure: NOTIONAL"),
    "funds": (-2010, "Account has insufficient balance for requested action."),
    "duplicate": (-2010, "Duplicate order sent."),
    "key": (-2015, "Invalid API-key, IP, or permissions for action."),
    "signature": (-1022, "Signature for this request is not valid."),
    "late": (-1021, "Timestamp for this request is outside of the recvWindow."),
    "early": (-1021, "Timestamp for this request was 1000ms ahead of the server's time."),
    "symbol": (-1121, "Invalid symbol."),
    "unknown": (-2013, "Order does not exist."),
    "cancel": (-2011, "Unknown order sent."),
    "tif": (-1106, "Parameter 'timeInForce' sent when not required."),
    "missing": (-1102, "A mandatory parameter was not sent, was empty/null, or malformed."),
    "unread": (-1104, "Not all sent parameters were read."),
    "id": (-1100, "Illegal characters found in parameter 'newClientOrderId'."),
}
READ: Final = re.compile(
    "symbol|side|type|timeInForce|quantity|price|newClientOrderId|newOrderRespType|"
    "selfTradePreventionMode|recvWindow|timestamp|signature"
)
STATUSES: Final = {None: "NEW", "filled": "FILLED", "cancelled": "CANCELED", "expired": "EXPIRED"}
Params = Mapping[str, str]


class Binance:
    """The endpoints of /api/v3, and the one of /sapi that tells what a key may do."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._listings = {listing.symbol: listing for listing in LISTINGS["binance"]}
        self._weights: list[float] = []
        self._public: dict[str, Callable[[Params], Any]] = {
            "ping": lambda _: {},
            "time": lambda _: {"serverTime": self._now_ms()},
            "exchangeInfo": self.exchange_info,
            "ticker/24hr": lambda params: self._tickers(params, self.ticker),
            "ticker/bookTicker": lambda params: self._tickers(params, self.book),
            "klines": self.klines,
        }
        self._private: dict[tuple[str, str], Callable[[Account, Params], Any]] = {
            ("POST", "order"): self.new_order,
            ("GET", "order"): self.query_order,
            ("DELETE", "order"): self.cancel_order,
            ("GET", "openOrders"): self.open_orders,
            ("GET", "allOrders"): self.all_orders,
            ("GET", "myTrades"): self.my_trades,
            ("GET", "account"): self.account,
        }

    def routes(self) -> list[web.RouteDef]:
        line = Line(
            self.books,
            self._answered,
            out_of_step=_refused("late"),
            too_many=Told(
                body={"code": -1003, "msg": "Too many requests; current limit of IP is 6000."},
                status=429,
                headers={"Retry-After": "2"},
            ),
        )
        return [
            *(web.get(f"/api/v3/{path}", line.public) for path in self._public),
            *(web.route(method, f"/api/v3/{path}", line.private) for method, path in self._private),
            web.get("/sapi/v1/account/apiRestrictions", line.private),
        ]

    async def _answered(self, request: web.Request) -> Told:
        path = request.path.removeprefix("/api/v3/")
        now = time.monotonic()
        self._weights = [at for at in self._weights if at > now - 60] + [now] * 4
        headers = {"X-MBX-USED-WEIGHT-1M": str(len(self._weights))}
        try:
            if path in self._public:
                body = self._public[path](request.query)
            else:
                account, params = self._signed(request, await request.text())
                private = self._private.get((request.method, path), self.restrictions)
                body = private(account, params)
            return Told(body=body, headers=headers)
        except Refusal as exc:
            return _refused(str(exc))

    # Market data

    def exchange_info(self, _: Params) -> Any:
        listed = [_symbol(listing) for listing in LISTINGS["binance"]]
        return shape("binance info", serverTime=self._now_ms(), symbols=listed)

    def ticker(self, listing: Listing) -> Any:
        now_ms = self._now_ms()
        last = f"{self.books.markets['binance', listing.pair].look(now_ms):.8f}"
        times = {"openTime": now_ms - 86_400_000, "closeTime": now_ms}
        return shape("binance ticker", **self.book(listing), **times, lastPrice=last)

    def book(self, listing: Listing) -> Any:
        market, now_ms = self.books.markets["binance", listing.pair], self._now_ms()
        bid, ask = f"{market.bid(now_ms):.8f}", f"{market.ask(now_ms):.8f}"
        return shape("binance book", symbol=listing.symbol, bidPrice=bid, askPrice=ask)

    def klines(self, params: Params) -> Any:
        market = self.books.markets["binance", self._listing(params).pair]
        market.look(self._now_ms())
        first, most = int(params.get("startTime", 0)), int(params.get("limit", 500))
        found = [candle for candle in market.candles if candle.open_ms >= first]
        found = found[:most] if first else found[-most:]
        told = []
        for c in found:
            numbers = [f"{x:.8f}" for x in (c.open, c.high, c.low, c.close, c.volume)]
            rest = [f"{c.volume * c.close:.8f}", 308, "1.00000000", "1.00000000", "0"]
            told.append([c.open_ms, *numbers, c.open_ms + CANDLE_MS - 1, *rest])
        return told

    # Trading and account

    def new_order(self, account: Account, params: Params) -> Any:
        order = self.books.accept(account, self._wish(params))
        for quantity, price in self.books.plan(order) if not order.rests else ():
            self.books.fill(order, quantity, price)
        if not order.rests:
            self.books.close(order, "expired")
        fills = []
        for trade in self._twice(order.trades):
            told = _trade(order, trade)
            names = ("price", "qty", "commission", "commissionAsset")
            fills.append({**{name: told[name] for name in names}, "tradeId": trade.number})
        told = {**_order(order), "transactTime": order.opened_ms, "fills": fills}
        for name in ("time", "updateTime", "isWorking", "stopPrice", "icebergQty"):
            del told[name]
        return told

    def query_order(self, account: Account, params: Params) -> Any:
        return _order(self._one(account, params, "unknown"))

    def cancel_order(self, account: Account, params: Params) -> Any:
        order = self._one(account, params, "cancel")
        if not order.open:
            raise Refusal("cancel")
        self.books.close(order, "cancelled")
        return {
            **_order(order),
            "origClientOrderId": order.client_id,
            "clientOrderId": "c4ncel",
            "transactTime": order.closed_ms,
        }

    def open_orders(self, account: Account, params: Params) -> Any:
        return [_order(o) for o in self.books.listed(account) if o.open and _on(o, params)]

    def all_orders(self, account: Account, params: Params) -> Any:
        first, start = int(params.get("orderId", 0)), int(params.get("startTime", 0))
        listing = self._listing(params)
        found = [
            _order(o)
            for o in self.books.listed(account)
            if o.listing == listing and o.number >= first and o.opened_ms >= start
        ]
        return found[: int(params.get("limit", 500))]

    def my_trades(self, account: Account, params: Params) -> Any:
        listing = self._listing(params)
        now_ms, first = self._now_ms(), int(params.get("fromId", 0))
        found = [
            _trade(order, trade)
            for order in account.orders
            if order.listing == listing
            and params.get("orderId", str(order.number)) == str(order.number)
            for trade in self._twice(order.told_trades(now_ms))
            if trade.number >= first
        ]
        return found[: int(params.get("limit", 500))]

    def account(self, account: Account, _: Params) -> Any:
        balances = []
        for name in account.balances:
            free, held = f"{account.free(name):.8f}", f"{account.held(name):.8f}"
            balances.append({"asset": name, "free": free, "locked": held})
        return shape("binance account", balances=balances, uid=account.uid)

    def restrictions(self, _: Account, __: Params) -> Any:
        return shape("binance restrictions")

    def _wish(self, params: Params) -> Wish:
        if not all(READ.fullmatch(name) for name in params):
            raise Refusal("unread")
        client_id, kind = params.get("newClientOrderId", ""), params.get("type")
        if not re.fullmatch(r"[\.A-Z\:/a-z0-9_-]{1,36}", client_id):
            raise Refusal("id")
        if kind == "MARKET" and ("timeInForce" in params or "price" in params):
            raise Refusal("tif")
        if kind == "LIMIT" and params.get("timeInForce") not in ("GTC", "IOC", "FOK"):
            raise Refusal("missing")
        try:
            return Wish(
                listing=self._listing(params),
                client_id=client_id,
                side={"BUY": "buy", "SELL": "sell"}[params["side"]],
                quantity=Decimal(params["quantity"]),
                limit=Decimal(params["price"]) if kind == "LIMIT" else None,
                rests=params.get("timeInForce") == "GTC",
            )
        except (KeyError, InvalidOperation):
            raise Refusal("missing") from None

    def _signed(self, request: web.Request, body: str) -> tuple[Account, Params]:
        account = self.books.accounts.get(request.headers.get("X-MBX-APIKEY", ""))
        if account is None or account.venue != "binance":
            raise Refusal("key")
        # Query string and body are signed as one text, without anything between them.
        text = request.rel_url.raw_query_string + body
        payload, _, signature = text.rpartition("&signature=")
        signed = hmac.new(account.secret.encode(), payload.encode(), hashlib.sha256).hexdigest()
        if signature != signed:
            raise Refusal("signature")
        params = dict(parse_qsl(text))
        timestamp, window = int(params["timestamp"]), Decimal(params.get("recvWindow", "5000"))
        now_ms = self._now_ms()
        if timestamp >= now_ms + 1000:
            raise Refusal("early")
        if now_ms - timestamp > window or window > 60_000:
            raise Refusal("late")
        return account, params

    def _one(self, account: Account, params: Params, why: str) -> Order:
        listing = self._listing(params)
        for order in self.books.listed(account):
            if order.listing == listing and (
                str(order.number) == params["orderId"]
                if "orderId" in params
                else order.client_id == params.get("origClientOrderId")
            ):
                return order
        raise Refusal(why)

    def _twice(self, trades: list[Trade]) -> list[Trade]:
        return trades * 2 if self.books.trouble() else trades

    def _tickers(self, params: Params, told: Callable[[Listing], Any]) -> Any:
        if "symbol" in params:
            return told(self._listing(params))
        asked = json.loads(params["symbols"]) if "symbols" in params else [*self._listings]
        return [told(self._listing({"symbol": name})) for name in asked]

    def _listing(self, params: Params) -> Listing:
        if params.get("symbol") not in self._listings:
            raise Refusal("symbol")
        return self._listings[params["symbol"]]

    def _now_ms(self) -> int:
        return self.books.now_ms("binance")


def _refused(why: str) -> Told:
    code, text = REFUSALS[why]
    return Told(body={"code": code, "msg": text}, status=401 if code == -2015 else 400)


def _on(order: Order, params: Params) -> bool:
    return params.get("symbol", order.listing.symbol) == order.listing.symbol


def _symbol(listing: Listing) -> Any:
    base, quote = listing.coins
    filters = shapes(
        "binance filters",
        {"tickSize": f"{listing.tick:.8f}"},
        {"minQty": f"{listing.least:.8f}", "stepSize": f"{listing.lot:.8f}"},
        {},
        {"minNotional": f"{listing.least_cost:.8f}"},
    )
    names = {"symbol": listing.symbol, "baseAsset": base, "quoteAsset": quote}
    return shape("binance symbol", **names, filters=filters)


def _order(order: Order) -> dict[str, Any]:
    status = "PARTIALLY_FILLED" if order.open and order.trades else STATUSES[order.end]
    told: dict[str, Any] = shape(
        "binance order",
        symbol=order.listing.symbol,
        orderId=order.number,
        clientOrderId=order.client_id,
        price=f"{order.limit or Decimal(0):.8f}",
        origQty=f"{order.quantity:.8f}",
        executedQty=f"{order.executed:.8f}",
        cummulativeQuoteQty=f"{order.cost:.8f}",
        status=status,
        timeInForce="IOC" if order.limit is not None and not order.rests else "GTC",
        type="MARKET" if order.limit is None else "LIMIT",
        side=order.side.upper(),
        time=order.opened_ms,
        updateTime=order.closed_ms or order.opened_ms,
        workingTime=order.opened_ms,
    )
    if status == "EXPIRED":
        told["expiryReason"] = "INSUFFICIENT_LIQUIDITY"
    return told


def _trade(order: Order, trade: Trade) -> Any:
    return shape(
        "binance trade",
        symbol=order.listing.symbol,
        id=trade.number,
        orderId=order.number,
        price=f"{trade.price:.8f}",
        qty=f"{trade.quantity:.8f}",
        quoteQty=f"{trade.quantity * trade.price:.8f}",
        commission=f"{trade.fee:.8f}",
        commissionAsset=trade.fee_currency,
        time=trade.at_ms,
        isBuyer=order.side == "buy",
    )
