"""Accounts, orders and trades of both venues, and what is written down of them.

Everything that a person or a program gains or owes here is in the journal before anyone is told.
"""

import json
import os
import random
import secrets
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from decimal import ROUND_DOWN, Decimal
from pathlib import Path
from typing import Any, Final

from tests.other_venues.market import LISTINGS, Listing, Market

CLOCKS_MS: Final = {"kraken": -800, "binance": 1200}
"""How far the venues' clocks are ahead of the machine's."""

FEES: Final = {"kraken": ("0.0040", "0.0025"), "binance": ("0.00100", "0.00100")}
PAID_IN_BNB: Final = Decimal("0.75")
FEE_STEP: Final = {"kraken": Decimal("1e-5"), "binance": Decimal("1e-8")}
SLIPPAGE: Final = Decimal("0.001")


class Refusal(Exception):
    """A new order that the books do not take: its text is one of the faces' keys."""


@dataclass(slots=True, kw_only=True)
class Trade:
    trade_id: str
    number: int
    quantity: Decimal
    price: Decimal
    fee: Decimal
    fee_currency: str
    at_ms: int


@dataclass(slots=True, kw_only=True, eq=False)
class Account:
    """`balances` by our names of currencies. `visited` has a person who trades there, too."""

    venue: str
    key: str
    secret: str
    balances: dict[str, Decimal]
    fee_rate: Decimal
    visited: bool
    uid: int
    orders: list["Order"] = field(default_factory=list)
    last_nonce: int = 0
    calls: float = 0.0
    calls_at: float = 0.0

    def held(self, currency: str) -> Decimal:
        return sum((o.hold[1] for o in self.orders if o.hold[0] == currency and o.open), Decimal(0))

    def free(self, currency: str) -> Decimal:
        return self.balances.get(currency, Decimal(0)) - self.held(currency)


@dataclass(slots=True, kw_only=True, eq=False)
class Order:
    """`limit` None: at market. `end` is None as long as it is open. Times are the venue's.

    Lists do not show it before `listed_from_ms`, and only the first half of its trades is told
    before `all_trades_from_ms`.
    """

    account: Account
    listing: Listing
    order_id: str
    number: int
    client_id: str | None
    side: str
    quantity: Decimal
    limit: Decimal | None
    rests: bool
    fee_in_base: bool
    opened_ms: int
    hold: tuple[str, Decimal]
    listed_from_ms: int
    all_trades_from_ms: int = 0
    closed_ms: int = 0
    end: str | None = None
    trades: list[Trade] = field(default_factory=list)

    @property
    def open(self) -> bool:
        return self.end is None

    @property
    def executed(self) -> Decimal:
        return sum((trade.quantity for trade in self.trades), Decimal(0))

    @property
    def cost(self) -> Decimal:
        return sum((trade.quantity * trade.price for trade in self.trades), Decimal(0))

    def told_trades(self, now_ms: int) -> list[Trade]:
        if now_ms >= self.all_trades_from_ms:
            return self.trades
        return self.trades[: len(self.trades) // 2]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wish:
    """What somebody asks to be bought or sold."""

    listing: Listing
    client_id: str | None
    side: str
    quantity: Decimal
    limit: Decimal | None
    rests: bool = False
    fee_in_base: bool = False


class Books:
    """Both venues' state. Nothing here awaits: every method is one step of a matching engine."""

    def __init__(self, *, journal: Path, seed: int, fault_rate: float) -> None:
        self.draw = random.Random(seed)
        self.fault_rate = fault_rate
        self._file = journal.open("a", encoding="ascii")
        self.accounts: dict[str, Account] = {}
        self._number = self.draw.randrange(10**6, 10**7)
        self.markets = {
            (venue, listing.pair): Market(listing, self.draw, now_ms=self.now_ms(venue))
            for venue, listings in LISTINGS.items()
            for listing in listings
        }

    def now_ms(self, venue: str) -> int:
        return time.time_ns() // 1_000_000 + CLOCKS_MS[venue]

    def market(self, account: Account, listing: Listing) -> Market:
        return self.markets[account.venue, listing.pair]

    def trouble(self, share: float = 1.0) -> bool:
        """Whether something that goes wrong at the fault rate (times this) goes wrong now."""
        return self.draw.random() < self.fault_rate * share

    def write(self, kind: str, **facts: object) -> None:
        self._file.write(json.dumps({"type": kind, **facts}, default=str) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def shut(self) -> None:
        self._file.close()

    def open_account(self, venue: str, balances: Mapping[str, str], secret: str | None) -> Account:
        account = Account(
            venue=venue,
            key=secrets.token_hex(28),
            secret=secret or secrets.token_hex(32),
            balances={name: Decimal(amount) for name, amount in balances.items()},
            fee_rate=Decimal(self.draw.choice(FEES[venue])),
            visited=self.draw.random() < 0.5,
            uid=self.draw.randrange(10**8),
        )
        self.accounts[account.key] = account
        listing = self.draw.choice(LISTINGS[venue])
        limit = (self.market(account, listing).bid(self.now_ms(venue)) / 2).quantize(listing.tick)
        self.accept(account, self.persons_wish(account, listing, limit))
        return account

    def persons_wish(self, account: Account, listing: Listing, limit: Decimal | None) -> Wish:
        """A small buy by hand: at market, or a limit that waits."""
        price = self.market(account, listing).look(self.now_ms(account.venue)) / 2
        least = max(listing.least, 3 * listing.least_cost / price)
        return Wish(
            listing=listing,
            client_id=f"web_{secrets.token_hex(10)}" if account.venue == "binance" else None,
            side="buy",
            quantity=least.quantize(listing.lot) + listing.lot,
            limit=limit,
            rests=limit is not None,
        )

    def accept(self, account: Account, wish: Wish) -> Order:
        """Take an order in. Raises `Refusal`."""
        hold = self._checked(account, wish)
        now_ms = self.now_ms(account.venue)
        lag_ms = self.draw.randint(500, 4000) if self.trouble() else 0
        order = Order(
            account=account,
            listing=wish.listing,
            order_id=self._name("O"),
            number=self._next(),
            client_id=wish.client_id,
            side=wish.side,
            quantity=wish.quantity,
            limit=wish.limit,
            rests=wish.rests,
            fee_in_base=wish.fee_in_base,
            opened_ms=now_ms,
            hold=hold,
            listed_from_ms=now_ms + lag_ms,
        )
        account.orders.append(order)
        self.write("accepted", **self._facts(order), quantity=order.quantity, price=order.limit)
        return order

    def plan(self, order: Order) -> list[tuple[Decimal, Decimal]]:
        """What the market has for an order now: one to five quantities, from the best price on."""
        market, now_ms = self.market(order.account, order.listing), self.now_ms(order.account.venue)
        buys, tick = order.side == "buy", order.listing.tick
        best = market.ask(now_ms) if buys else market.bid(now_ms)
        worst = best * (1 + SLIPPAGE if buys else 1 - SLIPPAGE)
        if order.limit is not None:
            if (best > order.limit) if buys else (best < order.limit):
                return []
            worst = min(worst, order.limit) if buys else max(worst, order.limit)
        parts = self.draw.randint(1, 5)
        left = self._there(order)
        found = []
        for part in range(parts):
            share = left / (parts - part) * Decimal(self.draw.uniform(0.7, 1.3))
            quantity = left if part == parts - 1 else share.quantize(order.listing.lot, ROUND_DOWN)
            price = best + ((worst - best) * part / parts).quantize(tick, ROUND_DOWN)
            if 0 < quantity <= left:
                found.append((quantity, price))
                left -= quantity
        return found

    def _there(self, order: Order) -> Decimal:
        """How much of an order finds somebody."""
        if order.limit is not None and self.trouble():
            share = Decimal(self.draw.choice([0.0, 0.3, 0.75]))
            return (order.quantity * share).quantize(order.listing.lot, ROUND_DOWN)
        return order.quantity

    def fill(self, order: Order, quantity: Decimal, price: Decimal) -> None:
        account, (base, quote) = order.account, order.listing.coins
        cost, sign = quantity * price, 1 if order.side == "buy" else -1
        self._move(account, base, sign * quantity)
        self._move(account, quote, -sign * cost)
        fee, currency = self._fee(order, quantity, cost)
        self._move(account, currency, -fee)
        trade = Trade(
            trade_id=self._name("T"),
            number=self._next(),
            quantity=quantity,
            price=price,
            fee=fee,
            fee_currency=currency,
            at_ms=self.now_ms(account.venue),
        )
        order.trades.append(trade)
        told_id = trade.trade_id if account.venue == "kraken" else trade.number
        self.write(
            "filled",
            **{**self._facts(order), "trade_id": told_id, "quantity": quantity, "price": price},
            fee=fee,
            fee_currency=currency,
        )

    def close(self, order: Order, end: str) -> None:
        order.end = "filled" if order.executed == order.quantity else end
        order.closed_ms = self.now_ms(order.account.venue)
        if order.trades and self.trouble():
            order.all_trades_from_ms = order.closed_ms + self.draw.randint(1000, 2000)
        self.write("ended", **self._facts(order), status=order.end)

    def listed(self, account: Account, orders: Iterable[Order] | None = None) -> list[Order]:
        """The account's orders that lists show by now."""
        now_ms = self.now_ms(account.venue)
        return [o for o in orders or account.orders if o.listed_from_ms <= now_ms]

    def _checked(self, account: Account, wish: Wish) -> tuple[str, Decimal]:
        listing = wish.listing
        now_ms = self.now_ms(account.venue)
        if wish.limit is not None and (wish.limit <= 0 or wish.limit % listing.tick):
            raise Refusal("price")
        if wish.quantity % listing.lot:
            raise Refusal("lot")
        if wish.quantity < listing.least:
            raise Refusal("least")
        price = wish.limit or self.market(account, listing).ask(now_ms)
        if wish.quantity * price < listing.least_cost:
            raise Refusal("cost")
        if wish.client_id and any(o.open and o.client_id == wish.client_id for o in account.orders):
            raise Refusal("duplicate")
        base, quote = listing.coins
        worst = wish.quantity * price * (1 if wish.limit else 1 + SLIPPAGE)
        on_top = account.fee_rate if account.venue == "kraken" else 0
        hold = (quote, worst * (1 + on_top)) if wish.side == "buy" else (base, wish.quantity)
        if hold[1] > account.free(hold[0]):
            raise Refusal("funds")
        return hold

    def _fee(self, order: Order, quantity: Decimal, cost: Decimal) -> tuple[Decimal, str]:
        """Kraken: in the currency of the order's flags. Binance: in BNB where the account has
        enough of it, else in what is received."""
        account, (base, quote) = order.account, order.listing.coins
        step = FEE_STEP[account.venue]
        in_base = order.fee_in_base if account.venue == "kraken" else order.side == "buy"
        if account.venue == "binance":
            now_ms = self.now_ms("binance")
            bnb = self.markets["binance", "BNB/USDT"].look(now_ms)
            fee = (cost * account.fee_rate * PAID_IN_BNB / bnb).quantize(step)
            if 0 < fee <= account.free("BNB") and base != "BNB":
                return fee, "BNB"
        amount = quantity if in_base else cost
        return (amount * account.fee_rate).quantize(step), base if in_base else quote

    def _move(self, account: Account, currency: str, amount: Decimal) -> None:
        account.balances[currency] = account.balances.get(currency, Decimal(0)) + amount

    def _facts(self, order: Order) -> dict[str, Any]:
        venue = order.account.venue
        return {
            "client_order_id": order.client_id,
            "order_id": order.order_id if venue == "kraken" else order.number,
            "account": order.account.key[:8],
            "venue": venue,
            "pair": order.listing.pair,
            "side": order.side,
            "wall_ms": time.time_ns() // 1_000_000,
        }

    def _next(self) -> int:
        self._number += self.draw.randint(1, 9)
        return self._number

    def _name(self, kind: str) -> str:
        """Such as `OUF4EM-FRGI2-MQMWZD`."""
        letters = "".join(self.draw.choices("ABCDEFGHIJKLMNOPQRSTUVWXYZ234567", k=16))
        return f"{kind}{letters[:5]}-{letters[5:10]}-{letters[10:]}"
