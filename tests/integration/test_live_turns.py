"""Sending a live order: sent, maybe sent, or not; many at once; and nothing leaks."""

import asyncio
import json
import logging
from collections.abc import AsyncIterator

import pytest
from aiohttp import web

from shared.clock import monotonic_secs
from shared.errors import CredentialRefused, StoreUnavailable
from shared.orders import LiveOrder
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.live_adapter import (
    PATHS,
    SECRET,
    OpenedVenue,
    live_order,
    live_orders,
    opened,
)
from tests.integration.scripted_venue import (
    kraken_error,
    never,
    scripted_venue,
)
from trade_worker.venues import KeyOf, Verdict
from trade_worker.venues.limiter import Limiter
from trade_worker.venues.live import LiveOrders


@pytest.fixture
async def kraken() -> AsyncIterator[OpenedVenue]:
    async for one in opened(KRAKEN):
        yield one


@pytest.fixture
async def binance() -> AsyncIterator[OpenedVenue]:
    async for one in opened(BINANCE):
        yield one


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def either(request: pytest.FixtureRequest) -> AsyncIterator[OpenedVenue]:
    async for one in opened(request.param):
        yield one


# Sent, or maybe sent, or not


async def test_no_answer_in_time_is_unknown(either: OpenedVenue) -> None:
    released = asyncio.Event()
    either.server.answer(either.path, never(released))
    secs = 2.3 if either.venue is KRAKEN else 0.3
    sent = await either.send(live_order(either.venue), secs=secs)
    released.set()
    assert sent.verdict is Verdict.UNKNOWN
    assert "in time" in sent.text


async def test_a_redirect_is_not_followed(either: OpenedVenue) -> None:
    async def elsewhere(_: web.Request) -> web.StreamResponse:
        return web.Response(status=307, headers={"Location": f"{either.path}?again"})

    either.server.answer(either.path, elsewhere)
    assert (await either.send(live_order(either.venue))).verdict is Verdict.UNKNOWN
    assert len(either.server.asked) == 1


async def test_an_order_whose_time_is_over_is_not_sent(either: OpenedVenue) -> None:
    least_secs = 2.1 if either.venue is KRAKEN else 0.05
    sent = await either.send(live_order(either.venue), secs=least_secs)
    assert sent.verdict is Verdict.NOT_SENT
    assert not either.server.asked


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
async def test_a_venue_that_cannot_be_reached_got_nothing(venue: Venue) -> None:
    async with scripted_venue() as server:
        adapter = live_orders(venue, server.base_url)
        orders = await adapter.__aenter__()
    for _ in range(2):  # the first may still find the connection that it was loaded with
        sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
    await adapter.__aexit__(None, None, None)
    assert sent.verdict is Verdict.NOT_SENT


@pytest.mark.parametrize("venue", VENUES.values(), ids=list(VENUES))
async def test_without_the_venues_clock_nothing_is_sent(venue: Venue) -> None:
    async with scripted_venue() as server:
        server.time_down = True
        async with live_orders(venue, server.base_url) as orders:
            sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
            assert sent.verdict is Verdict.NOT_SENT
            assert not server.asked
            server.time_down = False
            server.answer(PATHS[venue.name], kraken_error("EOrder:Invalid price"))
            sent = await orders.send(live_order(venue), send_by_secs=monotonic_secs() + 3)
            assert len(server.asked) == 1


@pytest.mark.parametrize(
    ("error", "refused"),
    [(CredentialRefused("no such key"), True), (StoreUnavailable("away"), False)],
)
async def test_without_its_key_an_order_is_not_sent(error: Exception, refused: bool) -> None:
    async def keys(_: int) -> KeyOf:
        raise error

    async with scripted_venue() as server:
        orders = LiveOrders(
            urls={"kraken": server.base_url},
            keys=keys,
            limiters={"kraken": Limiter(KRAKEN)},
            proxy_url=None,
        )
        await orders.start()
        sent = await orders.send(live_order(KRAKEN), send_by_secs=monotonic_secs() + 3)
        await orders.close()
    assert (sent.verdict, sent.credential_refused) == (Verdict.NOT_SENT, refused)


async def test_a_pair_that_is_not_listed_is_not_sent(either: OpenedVenue) -> None:
    sent = await either.send(live_order(either.venue, pair="NONE/SUCH"))
    assert sent.verdict is Verdict.NOT_SENT
    assert not either.server.asked


async def test_an_order_that_is_cancelled_on_its_way_raises(either: OpenedVenue) -> None:
    arrived, released = asyncio.Event(), asyncio.Event()

    async def hold(_: web.Request) -> web.StreamResponse:
        arrived.set()
        await released.wait()
        return web.Response()

    either.server.answer(either.path, hold)
    sending = asyncio.create_task(either.send(live_order(either.venue)))
    await arrived.wait()
    sending.cancel()
    with pytest.raises(asyncio.CancelledError):
        await sending
    released.set()


# Many at once


async def test_one_call_of_a_kraken_key_at_a_time(kraken: OpenedVenue) -> None:
    under_way = most = 0

    async def slowly(request: web.Request) -> web.StreamResponse:
        nonlocal under_way, most
        under_way += 1
        most = max(most, under_way)
        await asyncio.sleep(0.005)
        under_way -= 1
        return await kraken.accept(live_order(KRAKEN))(request)

    kraken.server.answer(kraken.path, slowly)
    sent = await asyncio.gather(*(kraken.send(live_order(KRAKEN)) for _ in range(12)))
    assert {one.verdict for one in sent} == {Verdict.ACCEPTED}
    assert most == 1
    nonces = [int(params["nonce"]) for params in kraken.server.params_of(kraken.path)]
    assert nonces == sorted(set(nonces))


async def test_different_kraken_keys_do_not_wait_for_each_other(kraken: OpenedVenue) -> None:
    await _meet(kraken, [live_order(KRAKEN, credential_id=id_) for id_ in (1, 2, 3)])


async def test_a_binance_key_calls_at_the_same_time(binance: OpenedVenue) -> None:
    await _meet(binance, [live_order(BINANCE) for _ in range(3)])


async def _meet(opened: OpenedVenue, orders: list[LiveOrder]) -> None:
    """Every request is answered only when all are there."""
    all_here = asyncio.Barrier(len(orders))

    async def together(request: web.Request) -> web.StreamResponse:
        await all_here.wait()
        return await kraken_error("EOrder:Invalid price")(request)

    opened.server.answer(opened.path, together)
    sent = await asyncio.gather(*(opened.send(order) for order in orders))
    assert all("in time" not in one.text for one in sent)
    assert len(opened.server.asked) == len(orders)


async def test_a_nonce_that_was_too_low_is_jumped_over(kraken: OpenedVenue) -> None:
    order = live_order(KRAKEN)
    kraken.server.answer(kraken.path, kraken_error("EAPI:Invalid nonce"), kraken.accept(order))
    await kraken.send(order)
    await kraken.send(live_order(KRAKEN))
    first, second = (int(params["nonce"]) for params in kraken.server.params_of(kraken.path))
    assert second >= first + 2000


# Nothing leaks


async def test_an_answer_that_quotes_the_request_is_not_repeated(
    either: OpenedVenue, caplog: pytest.LogCaptureFixture
) -> None:
    async def quoting(request: web.Request) -> web.StreamResponse:
        quoted = " ".join([*request.headers.values(), await request.text(), SECRET])
        body = {"code": -1013, "msg": quoted, "error": [f"EOrder:Invalid price:{quoted}"]}
        return web.json_response(json.loads(json.dumps(body)), status=200)

    either.server.answer(either.path, quoting)
    with caplog.at_level(logging.DEBUG):
        sent = await either.send(live_order(either.venue))
    (asked,) = either.server.asked
    secrets = [SECRET, *(asked.headers[name] for name in asked.headers if "Sign" in name)]
    secrets += [asked.params["signature"]] if "signature" in asked.params else []
    assert len(secrets) == 2
    for text in (repr(sent), caplog.text):
        assert not [secret for secret in secrets if secret in text]
