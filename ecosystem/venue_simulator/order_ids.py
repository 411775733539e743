"""Ids of orders and trades in each venue's shape."""

import secrets
import string
from typing import Final

from ecosystem.venue_simulator.orders import VenueOrder
from shared.venues import KRAKEN

_LETTERS: Final = string.ascii_uppercase + string.digits
_GROUPS: Final = (5, 5, 6)


class OrderIds:
    """Kraken's are drawn (`OQCLML-BW3P3-BUCMWZ`, trades `T…`), Binance's count up from `first`,
    which must be higher than after any earlier start."""

    def __init__(self, venue: str, *, first: int) -> None:
        self._is_kraken = venue == KRAKEN.name
        self._last_order = self._last_trade = first

    def order_id(self) -> str:
        if self._is_kraken:
            return _drawn("O")
        self._last_order += 1
        return str(self._last_order)

    def trade_id(self) -> str:
        if self._is_kraken:
            return _drawn("T")
        self._last_trade += 1
        return str(self._last_trade)

    def seen(self, order: VenueOrder) -> None:
        """Never give the ids of this order and its trades again."""
        if self._is_kraken:
            return
        self._last_order = max(self._last_order, int(order.order_id))
        trades = [int(trade.trade_id) for trade in order.trades]
        self._last_trade = max(self._last_trade, *trades) if trades else self._last_trade


def _drawn(kind: str) -> str:
    groups = ("".join(secrets.choice(_LETTERS) for _ in range(size)) for size in _GROUPS)
    return kind + "-".join(groups)
