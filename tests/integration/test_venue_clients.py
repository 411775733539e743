"""ccxt is kept from retrying, pacing, remembering and telling; clients are bounded."""

import asyncio
import gc
import logging
from collections.abc import AsyncIterator
from typing import Any

import pytest

from shared.clock import wall_ms
from shared.errors import CredentialRefused
from shared.vault import ApiKey
from shared.venues import BINANCE, KRAKEN, VENUES, Venue
from tests.integration.live_adapter import SECRET
from tests.integration.scripted_venue import ScriptedVenue, dropped, said, scripted_venue
from trade_worker.venues.clients import ClientPool, client_for
from trade_worker.venues.wire import NoReply, VenueClient, venue_session

KEY = ApiKey(key="a key that identifies", secret=SECRET)
PATHS = {
    "kraken": {"private": "/0/private/Balance"},
    "binance": {"private": "/api/v3/account", "sapi": "/sapi/v1/account/apiRestrictions"},
}


@pytest.fixture
async def server() -> AsyncIterator[ScriptedVenue]:
    async with scripted_venue() as server:
        yield server


@pytest.fixture(params=VENUES.values(), ids=list(VENUES))
async def client(
    request: pytest.FixtureRequest, server: ScriptedVenue
) -> AsyncIterator[VenueClient]:
    session = venue_session()
    yield client_for(request.param, url=server.base_url, key=KEY, session=session)
    await session.close()


def pool(venue: Venue, server: ScriptedVenue, *, size: int = 64) -> ClientPool:
    async def keys(credential_id: int) -> ApiKey:
        return ApiKey(key=f"key-{credential_id}", secret=SECRET)

    return ClientPool(venue=venue, url=server.base_url, proxy_url=None, keys=keys, size=size)


def insides(client: VenueClient) -> Any:
    return client._ccxt


async def balance(client: VenueClient) -> object:
    if client.venue is KRAKEN:
        return await client.call("Balance")
    return await client.call("account", method="GET")


# What ccxt is kept from


async def test_a_client_as_it_is_built(client: VenueClient, server: ScriptedVenue) -> None:
    ccxt = insides(client)
    assert ccxt.enableRateLimit is False
    assert ccxt.enableLastHttpResponse is False
    assert ccxt.enableLastJsonResponse is False
    assert ccxt.enableLastResponseHeaders is False
    assert ccxt.verbose is False
    assert ccxt.fetchHistoryCacheSize == 0
    assert ccxt.options["maxRetriesOnFailure"] == 0
    assert ccxt.options["fetchMargins"] is False
    assert ccxt.markets is None
    assert ccxt.ssl_context is None  # and no request makes one
    assert all(url.startswith(server.base_url) for url in ccxt.urls["api"].values())
    assert ccxt.logger.getEffectiveLevel() >= logging.WARNING


async def test_clients_share_no_key(server: ScriptedVenue) -> None:
    session = venue_session()
    one = client_for(KRAKEN, url=server.base_url, key=KEY, session=session)
    other = client_for(
        *(KRAKEN,),
        url=server.base_url,
        key=ApiKey(key="another", secret=SECRET),
        session=session,
    )
    assert insides(one).apiKey == KEY.key
    assert insides(other).apiKey == "another"
    assert insides(one).options is not insides(other).options
    await session.close()


async def test_nothing_is_asked_twice(client: VenueClient, server: ScriptedVenue) -> None:
    for path in PATHS[client.venue.name].values():
        server.answer(path, said({"error": []}), dropped)
    await balance(client)  # leaves a connection that is kept
    with pytest.raises(NoReply) as caught:
        await balance(client)
    assert caught.value.maybe_sent
    assert len(server.asked) == 2


async def test_a_failure_is_asked_once(client: VenueClient, server: ScriptedVenue) -> None:
    server.answer(PATHS[client.venue.name]["private"], said("<html>", status=503))
    reply = await balance(client)
    assert getattr(reply, "status", None) == 503
    assert len(server.asked) == 1


async def test_binances_other_host_is_overridden_too(server: ScriptedVenue) -> None:
    session = venue_session()
    client = client_for(BINANCE, url=server.base_url, key=KEY, session=session)
    server.answer(PATHS["binance"]["sapi"], {"ipRestrict": False})
    reply = await client.call("account/apiRestrictions", method="GET", api="sapi")
    assert reply.body == {"ipRestrict": False}
    assert [asked.path for asked in server.asked] == [PATHS["binance"]["sapi"]]
    await session.close()


async def test_a_client_keeps_and_tells_nothing_of_a_request(
    client: VenueClient, server: ScriptedVenue, caplog: pytest.LogCaptureFixture
) -> None:
    server.answer(PATHS[client.venue.name]["private"], said({"told": "balance-4711"}), dropped)
    with caplog.at_level(logging.DEBUG):
        await balance(client)
        with pytest.raises(NoReply) as caught:
            await balance(client)
    kept = {name: value for name, value in vars(insides(client)).items() if name != "secret"}
    said_of_it = [repr(kept), repr(client), repr(caught.value), str(caught.value), caplog.text]
    assert caught.value.__context__ is None
    hidden = [SECRET, "balance-4711"]
    for asked in server.asked:
        hidden += [value for name, value in asked.headers.items() if name == "Api-Sign"]
        hidden += [asked.params[name] for name in ("signature",) if name in asked.params]
    for text in said_of_it:
        assert not [secret for secret in hidden if secret in text]
    for name in ("headers", "body", "url"):
        assert getattr(insides(client), f"last_request_{name}") is None
    assert insides(client).last_http_response is None


async def test_a_secret_that_cannot_sign_is_refused_and_not_quoted(server: ScriptedVenue) -> None:
    session = venue_session()
    key = ApiKey(key="key", secret="this is not base64")
    client = client_for(KRAKEN, url=server.base_url, key=key, session=session)
    with pytest.raises(CredentialRefused) as caught:
        await client.call("Balance")
    assert key.secret not in str(caught.value)
    assert caught.value.__context__ is None
    assert not server.asked
    await session.close()


async def test_a_key_is_gone_from_memory_with_its_client(server: ScriptedVenue) -> None:
    clients = pool(KRAKEN, server, size=1)
    await clients.start()
    async with clients.client(1) as client:
        assert insides(client).secret == SECRET
    async with clients.client(2):
        pass
    gc.collect()
    assert (insides(client).apiKey, insides(client).secret) == ("", "")
    await clients.close()


async def test_a_proxy_is_used_and_not_named(server: ScriptedVenue) -> None:
    seen: list[bytes] = []

    async def proxy(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen.append(await reader.readuntil(b"\r\n\r\n"))
        writer.write(b"HTTP/1.1 407 No\r\nConnection: close\r\nContent-Length: 0\r\n\r\n")
        await writer.drain()
        writer.close()

    listening = await asyncio.start_server(proxy, "127.0.0.1", 0)
    port = listening.sockets[0].getsockname()[1]
    session = venue_session(proxy_url=f"http://somebody:password@127.0.0.1:{port}")
    client = client_for(BINANCE, url=server.base_url, key=KEY, session=session)
    assert (await client.call("account", method="GET")).status == 407
    listening.close()
    await listening.wait_closed()
    with pytest.raises(NoReply) as caught:
        await client.call("account", method="GET")
    assert not caught.value.maybe_sent
    assert str(port) not in str(caught.value)
    await session.close()
    assert seen[0].startswith(f"GET {server.base_url}/api/v3/account?".encode())
    assert b"Proxy-Authorization: Basic " in seen[0]
    assert not server.asked


# The pool


async def test_the_pool_stays_within_its_bound(server: ScriptedVenue) -> None:
    clients = pool(BINANCE, server, size=4)
    await clients.start()
    for credential_id in range(50):
        async with clients.client(credential_id):
            assert len(clients) <= 4
    assert len(clients) == 4
    await clients.close()


async def test_a_client_is_used_again(server: ScriptedVenue) -> None:
    clients = pool(BINANCE, server)
    await clients.start()
    async with clients.client(1) as first:
        pass
    async with clients.client(1) as again, clients.client(1) as at_once:
        assert first is again is at_once
    clients.drop(1)
    async with clients.client(1) as anew:
        assert anew is not first
    await clients.close()


async def test_a_client_in_use_is_not_evicted_and_others_wait(server: ScriptedVenue) -> None:
    clients = pool(KRAKEN, server, size=2)
    await clients.start()
    done = asyncio.Event()
    used: list[int] = []

    async def use(credential_id: int) -> None:
        async with clients.client(credential_id) as client:
            used.append(credential_id)
            await done.wait()
            assert insides(client).apiKey == f"key-{credential_id}"

    tasks = [asyncio.create_task(use(credential_id)) for credential_id in (1, 2, 3, 4)]
    for _ in range(5):
        await asyncio.sleep(0)
    assert used == [1, 2]
    assert len(clients) == 2
    tasks[2].cancel()  # who gives up leaves its place to the next
    done.set()
    await asyncio.gather(*tasks, return_exceptions=True)
    assert used == [1, 2, 4]
    await clients.close()


async def test_the_most_urgent_goes_first_where_all_clients_are_in_use(
    server: ScriptedVenue,
) -> None:
    clients = pool(KRAKEN, server, size=1)
    await clients.start()
    used: list[int] = []

    async def use(credential_id: int, priority: int) -> None:
        async with clients.client(credential_id, priority):
            used.append(credential_id)
            await asyncio.sleep(0)

    entries = [(2, 3), (3, 3)]
    async with clients.client(1):
        tasks = [asyncio.create_task(use(*each)) for each in (*entries, (4, 1))]
        await asyncio.sleep(0)
    await asyncio.gather(*tasks)
    assert used == [4, 2, 3]
    await clients.close()


async def test_a_key_that_cannot_be_had_leaves_no_client(server: ScriptedVenue) -> None:
    async def keys(_: int) -> ApiKey:
        raise CredentialRefused("retired")

    clients = ClientPool(venue=KRAKEN, url=server.base_url, proxy_url=None, keys=keys, size=1)
    await clients.start()
    for credential_id in (1, 2):
        with pytest.raises(CredentialRefused):
            async with clients.client(credential_id):
                pass
    assert len(clients) <= 1
    await clients.close()


async def test_nonces_outlive_their_client(server: ScriptedVenue) -> None:
    server.answer("/0/private/Balance", {"error": [], "result": {}})
    clients = pool(KRAKEN, server, size=1)
    await clients.start()
    async with clients.client(1) as client:
        assert client.lane is not None
        for _ in range(30):
            client.lane.nonces.nudge()
        await client.call("Balance")
    async with clients.client(2) as client:
        await client.call("Balance")
    async with clients.client(1) as client:
        await client.call("Balance")
    first, other, second = (int(asked.params["nonce"]) for asked in server.asked)
    assert first > wall_ms() + 10_000
    assert other <= wall_ms()
    assert second > first
    await clients.close()
