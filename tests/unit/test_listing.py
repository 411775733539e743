"""All orders of an account: every page is read, whatever a venue puts on one."""

from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import pytest

from shared.errors import VenueUnavailable
from shared.venues import Said
from trade_worker.venues import listing
from trade_worker.venues.dialect import Call
from trade_worker.venues.listing import (
    BINANCE_PAGE,
    BINANCE_WINDOW_MS,
    KRAKEN_PAGE,
    BinanceListing,
    KrakenListing,
)
from trade_worker.venues.replies import Judged, Unreadable

DAY_MS = BINANCE_WINDOW_MS


def kraken_order(number: int, *, at_secs: int) -> dict[str, Any]:
    return {
        "cl_ord_id": f"{number:032x}",
        "opentm": Decimal(at_secs),
        "vol": "0.5",
        "price": "99.5",
        "descr": {"ordertype": "limit", "price": "100.1"},
    }


class Kraken:
    """Closed orders, newest first, in pages; and one open one."""

    def __init__(self, closed: int) -> None:
        self.closed = {f"O{n}": kraken_order(n, at_secs=1000 + n) for n in range(closed)}
        self.calls: list[Call] = []

    async def __call__(self, call: Call) -> Judged:
        self.calls.append(call)
        if call.path == "OpenOrders":
            return Judged(
                said=None, body={"result": {"open": {"OPEN": kraken_order(9999, at_secs=5000)}}}
            )
        offset = int(call.params["ofs"])
        newest = sorted(self.closed.items(), key=lambda item: -item[1]["opentm"])
        page = dict(newest[offset : offset + KRAKEN_PAGE])
        return Judged(said=None, body={"result": {"closed": page, "count": len(self.closed)}})


@pytest.mark.parametrize("closed", [0, 1, KRAKEN_PAGE, KRAKEN_PAGE + 1, 3 * KRAKEN_PAGE])
async def test_kraken_tells_every_page_and_what_is_open(closed: int) -> None:
    kraken = Kraken(closed)
    found = await KrakenListing().since([], since_ms=1_000_000, now_ms=0, asking=kraken)
    assert {order.venue_order_id for order in found} == {"OPEN", *kraken.closed}


async def test_kraken_is_asked_from_a_time_and_older_orders_are_left_out() -> None:
    kraken = Kraken(3)
    found = await KrakenListing().since([], since_ms=1_001_500, now_ms=0, asking=kraken)
    assert {order.venue_order_id for order in found} == {"OPEN", "O2"}
    assert kraken.calls[-1].params["start"] == "1001"


async def test_a_venue_that_ignores_the_page_is_not_asked_for_ever() -> None:
    kraken = Kraken(KRAKEN_PAGE)

    async def same_page(call: Call) -> Judged:
        ignored = {**call.params, "ofs": "0"} if "ofs" in call.params else call.params
        return await kraken(Call(request=call.request, path=call.path, params=ignored))

    found = await KrakenListing().since([], since_ms=0, now_ms=0, asking=same_page)
    assert len(found) == KRAKEN_PAGE + 1


async def test_an_order_says_what_was_asked_for() -> None:
    (order,) = await KrakenListing().since([], since_ms=5_000_000, now_ms=0, asking=Kraken(0))
    assert (order.quantity, order.limit_price) == (Decimal("0.5"), Decimal("100.1"))
    assert (order.client_order_id, order.opened_at_ms) == (f"{9999:032x}", 5_000_000)


def binance_order(number: int, *, at_ms: int, kind: str = "LIMIT") -> dict[str, Any]:
    return {
        "orderId": number,
        "clientOrderId": f"{number:032x}",
        "origQty": "2",
        "executedQty": "2",
        "cummulativeQuoteQty": "199",
        "type": kind,
        "price": "100",
        "time": at_ms,
    }


class Binance:
    """Orders of one market, told by time within a day, or from one of them on."""

    def __init__(self, orders: Mapping[int, int]) -> None:
        """`orders`: when each was opened, by id."""
        self.orders = orders
        self.windows = 0

    async def __call__(self, call: Call) -> Judged:
        asked = call.params
        if "orderId" in asked:
            found = [n for n in sorted(self.orders) if n >= int(asked["orderId"])]
        else:
            self.windows += 1
            start, end = int(asked["startTime"]), int(asked["endTime"])
            assert end - start < BINANCE_WINDOW_MS
            found = [n for n in sorted(self.orders) if start <= self.orders[n] <= end]
        page = found[:BINANCE_PAGE]
        return Judged(said=None, body=[binance_order(n, at_ms=self.orders[n]) for n in page])


async def test_binance_is_asked_day_by_day_until_now() -> None:
    binance = Binance({n: n * DAY_MS for n in range(1, 6)})
    found = await BinanceListing().since(
        ["BTCUSDT"], since_ms=2 * DAY_MS, now_ms=5 * DAY_MS + 10, asking=binance
    )
    assert [int(order.venue_order_id) for order in found] == [2, 3, 4, 5]
    assert binance.windows == 4


async def test_a_day_with_more_than_a_page_is_read_to_its_end() -> None:
    many = 2 * BINANCE_PAGE + 7
    binance = Binance({n: n for n in range(1, many + 1)})
    found = await BinanceListing().since(["BTCUSDT"], since_ms=0, now_ms=DAY_MS, asking=binance)
    assert len(found) == many


async def test_an_order_at_market_has_no_limit() -> None:
    async def asking(_: Call) -> Judged:
        return Judged(said=None, body=[binance_order(1, at_ms=1, kind="MARKET")])

    (order,) = await BinanceListing().since(["X"], since_ms=0, now_ms=1, asking=asking)
    assert (order.limit_price, order.average_price) == (None, Decimal("99.5"))


async def test_what_a_venue_refuses_or_muddles_is_no_list() -> None:
    async def refusing(_: Call) -> Judged:
        return Judged(said=Said.UNCERTAIN, text="EGeneral:Unknown method")

    async def muddled(_: Call) -> Judged:
        return Judged(said=None, body=[{"orderId": "one"}])

    with pytest.raises(VenueUnavailable, match="Unknown method"):
        await KrakenListing().since([], since_ms=0, now_ms=0, asking=refusing)
    with pytest.raises(Unreadable):
        await BinanceListing().since(["X"], since_ms=0, now_ms=0, asking=muddled)


async def test_a_list_without_an_end_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(listing, "MOST_PAGES", 2)
    with pytest.raises(VenueUnavailable, match="more orders than"):
        await KrakenListing().since([], since_ms=0, now_ms=0, asking=Kraken(3 * KRAKEN_PAGE))
