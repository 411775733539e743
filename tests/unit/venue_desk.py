"""A simulated venue's engine on a market that stands still, with clocks that a test turns."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, Final

import numpy as np

from ecosystem.venue_simulator.accounts import Account, ApiKey
from ecosystem.venue_simulator.clock import MarketClock
from ecosystem.venue_simulator.customers import Customers, KeyFile
from ecosystem.venue_simulator.fault_fields import fault_of
from ecosystem.venue_simulator.faults import FaultBoard, Spoiled
from ecosystem.venue_simulator.journal import Journal
from ecosystem.venue_simulator.listings import Listing, listing
from ecosystem.venue_simulator.market import Market
from ecosystem.venue_simulator.minutes import Table
from ecosystem.venue_simulator.orders import (
    OrderRequest,
    OrderType,
    TimeInForce,
    VenueOrder,
)
from ecosystem.venue_simulator.trading import Surroundings, Trading
from shared.orders import Side
from shared.venues import VENUES

START_MS: Final = 1_762_820_224_000
PRICES: Final = {
    "kraken": {"BTC/USD": 60_000.0, "SOL/USD": 140.0},
    "binance": {"BTC/USDT": 60_000.0, "SOL/USDT": 140.0, "BNB/USDT": 550.0},
}
SPREAD: Final = 0.001
"""BTC costs 60030 and brings 59970."""


class StillTape:
    """One price for ever."""

    def __init__(self, price: float) -> None:
        self.price = price

    def minutes(self, first: int, count: int) -> Table:
        del first
        rows = [self.price] * 4 + [1.0, SPREAD]
        return np.repeat(np.array(rows)[:, None], count, axis=1)


@dataclass(kw_only=True)
class VenueDesk:
    """Both venues' engines. `wall_ms` is every clock's time."""

    journal: Journal = field(default_factory=lambda: Journal(None))
    key_file: KeyFile = field(default_factory=lambda: KeyFile(None))
    speed: float = 1.0
    wall_ms: int = START_MS

    def __post_init__(self) -> None:
        self.faults = FaultBoard()
        self.tapes: dict[Listing, StillTape] = {
            listing(venue=venue, pair=pair, price=price): StillTape(price)
            for venue, prices in PRICES.items()
            for pair, price in prices.items()
        }
        around = Surroundings(
            market=Market(self.tapes),
            clock=MarketClock(
                start_ms=self.wall_ms, speed=self.speed, machine_ms=lambda: self.wall_ms
            ),
            faults=self.faults,
            journal=self.journal,
            wall_ms=lambda: self.wall_ms,
        )
        self.tradings = {venue: Trading(venue, around) for venue in VENUES}
        self.customers = Customers(
            journal=self.journal, key_file=self.key_file, tradings=self.tradings
        )

    @classmethod
    def on(cls, path: Path, **fields: Any) -> "VenueDesk":
        """With a journal at `path`, from which it goes on."""
        journal = Journal(path, clock=lambda: desk.wall_ms)
        desk = cls(journal=journal, key_file=KeyFile(Path(f"{path}.keys")), **fields)
        desk.customers.restore(journal.open())
        return desk

    async def customer(self, venue: str, **fields: Any) -> ApiKey:
        (key,) = await self.customers.enter([{"venue": venue, **fields}])
        return key

    def price(self, venue: str, pair: str, price: float) -> None:
        """Move the market."""
        for market, tape in self.tapes.items():
            if (market.venue, market.pair) == (venue, pair):
                tape.price = price

    def place(self, key: ApiKey, *faults: dict[str, Any], **fields: Any) -> VenueOrder | None:
        """Place an order of `fields`, as `request` fills them up, spoiled by `faults`."""
        trading = self.tradings[key.account.venue]
        return trading.place(key, request(**fields), spoiled(key.account.venue, *faults))

    def placed(self, key: ApiKey, *faults: dict[str, Any], **fields: Any) -> VenueOrder:
        """The same for one that is not late."""
        order = self.place(key, *faults, **fields)
        assert order is not None
        return order


def spoiled(venue: str, *faults: dict[str, Any]) -> Spoiled:
    return Spoiled(tuple(fault_of({"venue": venue, **fault}) for fault in faults))


def request(
    *,
    pair: str = "BTC/USD",
    side: str = "buy",
    quantity: str = "0.01",
    price: str | None = None,
    ioc: bool = True,
    **fields: Any,
) -> OrderRequest:
    """At market without a `price`."""
    return OrderRequest(
        pair=pair,
        side=Side(side),
        type=OrderType.MARKET if price is None else OrderType.LIMIT,
        quantity=Decimal(quantity),
        price=None if price is None else Decimal(price),
        time_in_force=TimeInForce.IOC if ioc else TimeInForce.GTC,
        **fields,
    )


def free(account: Account, currencies: Sequence[str]) -> list[Decimal]:
    return [account.balance(currency).free for currency in currencies]
