"""Kraken spot over REST, as docs.kraken.com describes it."""

import asyncio
import base64
import hashlib
import hmac
import re
import time
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime
from decimal import Decimal, InvalidOperation
from typing import Any, Final
from urllib.parse import parse_qsl
from uuid import UUID

from aiohttp import web

from tests.other_venues.books import Account, Books, Order, Refusal, Wish
from tests.other_venues.market import LISTINGS, Listing
from tests.other_venues.shapes import shape
from tests.other_venues.trouble import ARRIVED_SECS, Line, Told

MOST_CALLS: Final = 15
DECAY_PER_SEC: Final = 0.33
COSTS: Final = {"AddOrder": 0, "CancelOrder": 0, "TradesHistory": 2, "ClosedOrders": 1}
PAGE: Final = 50
STATUSES: Final = {None: "open", "filled": "closed", "cancelled": "canceled", "expired": "expired"}
ASSETS: Final = {
    asset: own
    for item in LISTINGS["kraken"]
    for asset, own in zip(item.coins, (item.base, item.quote), strict=True)
}
REFUSALS: Final = {
    "price": "EOrder:Tick size check failed",
    "lot": "EGeneral:Invalid arguments:volume",
    "least": "EGeneral:Invalid arguments:volume minimum not met",
    "cost": "EOrder:Cost minimum not met",
    "funds": "EOrder:Insufficient funds",
    "duplicate": "EOrder:Invalid cl_ord_id",
}
Params = Mapping[str, str]


class Kraken:
    """The methods of /0/public and /0/private."""

    def __init__(self, books: Books) -> None:
        self.books = books
        self._tasks: set[asyncio.Task[None]] = set()
        self._listings = {
            name: listing
            for listing in LISTINGS["kraken"]
            for name in (listing.symbol, listing.code, listing.pair)
        }
        self._public: dict[str, Callable[[Params], Any]] = {
            "Time": self.time,
            "SystemStatus": self.status,
            "Assets": self.assets,
            "AssetPairs": self.pairs,
            "Ticker": self.ticker,
            "OHLC": self.candles,
        }
        self._private: dict[str, Callable[[Account, Params], Any]] = {
            "Balance": self.balance,
            "BalanceEx": self.balance_ex,
            "GetApiKeyInfo": self.key_info,
            "WithdrawMethods": self.withdraw_methods,
            "OpenOrders": self.open_orders,
            "ClosedOrders": self.closed_orders,
            "QueryOrders": self.query_orders,
            "QueryTrades": self.query_trades,
            "TradesHistory": self.trades_history,
            "AddOrder": self.add_order,
            "CancelOrder": self.cancel_order,
        }

    def routes(self) -> list[web.RouteDef]:
        line = Line(
            self.books,
            self._answered,
            out_of_step=_refused("EAPI:Invalid nonce"),
            too_many=Told(
                body={"error": ["EGeneral:Too many requests"]},
                status=429,
                headers={"Retry-After": "2"},
            ),
        )
        return [
            web.get("/0/public/{method}", line.public),
            web.post("/0/private/{method}", line.private),
        ]

    async def _answered(self, request: web.Request) -> Told:
        name = request.match_info["method"]
        try:
            if name in self._public:
                return Told(body={"error": [], "result": self._public[name](request.query)})
            text = await request.text()
            account = self._account(request, text)
            if name not in self._private:
                raise Refusal("EGeneral:Unknown method")
            self._count(account, COSTS.get(name, 1))
            params = {
                **dict(parse_qsl(text)),
                "late_secs": str(time.time() - request[ARRIVED_SECS]),
            }
            # On the way to the engine.
            await asyncio.sleep(self.books.draw.uniform(0, 1.5) if self.books.trouble() else 0.005)
            return Told(body={"error": [], "result": self._private[name](account, params)})
        except Refusal as exc:
            return _refused(REFUSALS.get(str(exc), str(exc)))

    # Market data

    def time(self, _: Params) -> Any:
        now = datetime.fromtimestamp(self.books.now_ms("kraken") // 1000, tz=UTC)
        said = now.strftime("%a, %d %b %y %H:%M:%S +0000")
        return {"unixtime": int(now.timestamp()), "rfc1123": said}

    def status(self, _: Params) -> Any:
        return shape("kraken status")

    def assets(self, _: Params) -> Any:
        return {own: shape("kraken assets", altname=name) for name, own in ASSETS.items()}

    def pairs(self, _: Params) -> Any:
        return {
            listing.code: shape(
                "kraken pair",
                altname=listing.symbol,
                wsname=listing.pair.replace("BTC", "XBT"),
                base=listing.base,
                quote=listing.quote,
                pair_decimals=-int(listing.tick.as_tuple().exponent),
                ordermin=f"{listing.least:f}",
                tick_size=f"{listing.tick:f}",
            )
            for listing in LISTINGS["kraken"]
        }

    def ticker(self, params: Params) -> Any:
        asked = params["pair"].split(",") if "pair" in params else [*self.pairs({})]
        return {self._listing(name).code: self._ticker(self._listing(name)) for name in asked}

    def candles(self, params: Params) -> Any:
        listing = self._listing(params["pair"])
        market = self.books.markets["kraken", listing.pair]
        market.look(self.books.now_ms("kraken"))
        rows = []
        for c in market.candles:
            if c.open_ms // 1000 > int(params.get("since", 0)):
                prices = (c.open, c.high, c.low, c.close, (c.high + c.low) / 2)
                told = [_text(price, listing.tick) for price in prices]
                rows.append([c.open_ms // 1000, *told, f"{c.volume:.8f}", 15])
        return {listing.code: rows, "last": market.candles[-2].open_ms // 1000}

    # Account data

    def balance(self, account: Account, _: Params) -> Any:
        return {ASSETS[name]: f"{amount:.8f}" for name, amount in account.balances.items()}

    def balance_ex(self, account: Account, _: Params) -> Any:
        return {
            ASSETS[name]: {"balance": f"{amount:.8f}", "hold_trade": f"{account.held(name):.8f}"}
            for name, amount in account.balances.items()
        }

    def key_info(self, account: Account, _: Params) -> Any:
        iban, nonce = f"AA88 N84G {account.uid:08d}", str(account.last_nonce)
        return shape("kraken key", apiKey=account.key, nonce=nonce, iban=iban)

    def withdraw_methods(self, _: Account, __: Params) -> Any:
        raise Refusal("EGeneral:Permission denied")

    def open_orders(self, account: Account, params: Params) -> Any:
        found = [o for o in self.books.listed(account) if o.open and _asked_for(o, params)]
        return {"open": self._told(found, params)}

    def closed_orders(self, account: Account, params: Params) -> Any:
        found = [
            order
            for order in sorted(self.books.listed(account), key=lambda o: -o.closed_ms)
            if not order.open
            and _asked_for(order, params)
            and order.closed_ms > 1000 * float(params.get("start", 0))
        ]
        first = int(params.get("ofs", 0))
        return {"closed": self._told(found[first : first + PAGE], params), "count": len(found)}

    def query_orders(self, account: Account, params: Params) -> Any:
        asked = params["txid"].split(",")
        found = [order for order in account.orders if order.order_id in asked]
        if len(found) < len(asked):
            raise Refusal("EOrder:Unknown order")
        return self._told(found, params)

    def query_trades(self, account: Account, params: Params) -> Any:
        asked = params["txid"].split(",")
        if len(asked) > 20:
            raise Refusal("EGeneral:Invalid arguments")
        trades = self._trades(account)
        return {txid: trades[txid] for txid in asked if txid in trades}

    def trades_history(self, account: Account, params: Params) -> Any:
        start, trades = float(params.get("start", 0)), self._trades(account)
        names = [name for name in trades if trades[name]["time"] > start]
        names.sort(key=lambda name: -trades[name]["time"])
        first = int(params.get("ofs", 0))
        page = names[first : first + PAGE]
        return {"trades": {name: trades[name] for name in page}, "count": len(names)}

    # Trading

    def add_order(self, account: Account, params: Params) -> Any:
        wish = self._wish(params)
        descr = _description(wish)
        if params.get("validate") == "true":
            return {"descr": descr}
        self._check_deadline(params)
        order = self.books.accept(account, wish)
        task = asyncio.create_task(self._execute(order))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return {"descr": descr, "txid": [order.order_id]}

    def cancel_order(self, account: Account, params: Params) -> Any:
        named = params.get("txid") or params["cl_ord_id"]
        found = [o for o in account.orders if o.open and named in (o.order_id, o.client_id)]
        if not found:
            raise Refusal("EOrder:Unknown order")
        for order in found:
            self.books.close(order, "cancelled")
        return {"count": len(found)}

    async def _execute(self, order: Order) -> None:
        """The order trades after it was accepted, a piece at a time."""
        draw = self.books.draw
        await asyncio.sleep(draw.uniform(0.2, 1.5) if self.books.trouble() else 0.0)
        for quantity, price in self.books.plan(order):
            if not order.open:
                return
            self.books.fill(order, quantity, price)
            await asyncio.sleep(draw.uniform(0.1, 0.5) if self.books.trouble() else 0.0)
        if order.open and not order.rests:
            self.books.close(order, draw.choice(["cancelled", "expired"]))

    def _wish(self, params: Params) -> Wish:
        try:
            quantity = Decimal(params["volume"])
            limit = Decimal(params["price"]) if params["ordertype"] == "limit" else None
            if quantity <= 0 or params["type"] not in ("buy", "sell"):
                raise Refusal("EGeneral:Invalid arguments:volume")
            if params["ordertype"] not in ("limit", "market"):
                raise Refusal("EGeneral:Invalid arguments:ordertype")
        except (KeyError, InvalidOperation):
            raise Refusal("EGeneral:Invalid arguments") from None
        flags = params.get("oflags", "").split(",")
        if "fciq" in flags and "fcib" in flags:
            raise Refusal("EGeneral:Invalid arguments:oflags")
        return Wish(
            listing=self._listing(params["pair"]),
            client_id=params.get("cl_ord_id"),
            side=params["type"],
            quantity=quantity,
            limit=limit,
            rests=limit is not None and params.get("timeinforce", "GTC") == "GTC",
            # "default if selling"
            fee_in_base="fcib" in flags or ("fciq" not in flags and params["type"] == "sell"),
        )

    def _check_deadline(self, params: Params) -> None:
        """In the engine. How far away a deadline may be counts from when the request came in."""
        if "deadline" not in params:
            return
        deadline_ms = 1000 * datetime.fromisoformat(params["deadline"]).timestamp()
        left_ms = deadline_ms - self.books.now_ms("kraken")
        if not 2_000 <= left_ms + 1000 * float(params["late_secs"]) <= 60_000:
            raise Refusal("EGeneral:Invalid arguments:deadline")
        if left_ms < 0:
            raise Refusal("EService:Deadline elapsed")

    def _account(self, request: web.Request, text: str) -> Account:
        account = self.books.accounts.get(request.headers.get("API-Key", ""))
        if account is None or account.venue != "kraken":
            raise Refusal("EAPI:Invalid key")
        nonce = dict(parse_qsl(text)).get("nonce", "")
        digest = hashlib.sha256((nonce + text).encode()).digest()
        secret = base64.b64decode(account.secret)
        signed = hmac.new(secret, request.path.encode() + digest, hashlib.sha512).digest()
        if base64.b64encode(signed).decode() != request.headers.get("API-Sign"):
            raise Refusal("EAPI:Invalid signature")
        if not nonce.isdigit() or int(nonce) <= account.last_nonce:
            raise Refusal("EAPI:Invalid nonce")
        account.last_nonce = int(nonce)
        return account

    def _count(self, account: Account, cost: int) -> None:
        now = time.monotonic()
        account.calls = max(0.0, account.calls - DECAY_PER_SEC * (now - account.calls_at))
        account.calls_at = now
        if account.calls + cost > MOST_CALLS:
            raise Refusal("EAPI:Rate limit exceeded")
        account.calls += cost

    def _listing(self, name: str) -> Listing:
        if name not in self._listings:
            raise Refusal("EQuery:Unknown asset pair")
        return self._listings[name]

    def _ticker(self, listing: Listing) -> Any:
        now_ms, market = self.books.now_ms("kraken"), self.books.markets["kraken", listing.pair]
        last = _text(market.look(now_ms), listing.tick)
        return shape(
            "kraken ticker",
            a=[_text(market.ask(now_ms), listing.tick), "1", "1.000"],
            b=[_text(market.bid(now_ms), listing.tick), "1", "1.000"],
            c=[last, "0.00009443"],
            p=[last, last],
            l=[last, last],
            h=[last, last],
            o=last,
        )

    def _told(self, orders: Iterable[Order], params: Params) -> Any:
        with_trades, now_ms = params.get("trades") == "true", self.books.now_ms("kraken")
        return {order.order_id: _order(order, with_trades, now_ms) for order in orders}

    def _trades(self, account: Account) -> dict[str, Any]:
        now_ms = self.books.now_ms("kraken")
        return {
            trade.trade_id: shape(
                "kraken trade",
                ordertxid=order.order_id,
                pair=order.listing.code,
                time=trade.at_ms / 1000 + 0.00089,
                type=order.side,
                ordertype="limit" if order.limit else "market",
                price=f"{trade.price:f}",
                cost=f"{trade.quantity * trade.price:.5f}",
                fee=f"{trade.fee:.5f}",
                vol=f"{trade.quantity:.8f}",
                trade_id=trade.number,
            )
            for order in account.orders
            for trade in order.told_trades(now_ms)
        }


def _refused(error: str) -> Told:
    return Told(body={"error": [error]})


def _asked_for(order: Order, params: Params) -> bool:
    return "cl_ord_id" not in params or params["cl_ord_id"] == order.client_id


def _text(price: Decimal | float, tick: Decimal) -> str:
    return f"{Decimal(price).quantize(tick):f}"


def _client_id(order: Order) -> str | None:
    """As it came, or with the dashes of a long UUID: it is not documented which."""
    ours = order.client_id is not None and re.fullmatch(r"[0-9a-f]{32}", order.client_id)
    return str(UUID(order.client_id)) if ours and order.account.uid % 2 else order.client_id


def _description(wish: Wish | Order) -> Any:
    listing, what = wish.listing, f"{wish.side} {wish.quantity:.8f} {wish.listing.symbol}"
    told = {"pair": listing.symbol, "type": wish.side, "order": f"{what} @ market"}
    if wish.limit is not None:
        price = _text(wish.limit, listing.tick)
        told |= {"ordertype": "limit", "price": price, "order": f"{what} @ limit {price}"}
    return shape("kraken description", **told)


def _order(order: Order, with_trades: bool, now_ms: int) -> Any:
    price = order.cost / order.executed if order.trades else Decimal(0)
    told = shape(
        "kraken order",
        cl_ord_id=_client_id(order),
        status=STATUSES[order.end],
        opentm=order.opened_ms / 1000 + 0.00048,
        descr=_description(order),
        vol=f"{order.quantity:.8f}",
        vol_exec=f"{order.executed:.8f}",
        cost=f"{order.cost:.5f}",
        fee=f"{sum(trade.fee for trade in order.trades):.5f}",
        price=_text(price, order.listing.tick),
        oflags="fcib" if order.fee_in_base else "fciq",
    )
    if order.client_id is None:
        del told["cl_ord_id"]
    if not order.open:
        reason = None if order.end == "filled" else "Insufficient liquidity"
        told |= {"reason": reason, "closetm": order.closed_ms / 1000 + 0.00032}
    if with_trades and order.trades:
        # Of some orders, not even the trades' names are all there at once.
        named = order.trades if order.number % 2 else order.told_trades(now_ms)
        told["trades"] = [trade.trade_id for trade in named]
    return told
