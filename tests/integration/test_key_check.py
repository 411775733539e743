"""A key is tried at its venue: with the requests that the venue documents, and no others."""

from collections.abc import Iterator
from decimal import Decimal

import pytest

from shared.errors import CredentialRefused, VenueUnavailable
from shared.vault import ApiKey
from shared.venues import BINANCE, KRAKEN, Venue
from tests.integration.key_server import (
    BINANCE_ACCOUNT,
    KRAKEN_BALANCES,
    KeyServer,
    kraken,
    kraken_error,
    serving_keys,
)
from trade_worker.key_rights import UNPROVEN
from trade_worker.venues.key_check import KeyCheck, check_key

KEY = ApiKey(key="a-key-of-a-test-0001", secret="c2VjcmV0IG9mIGEgdGVzdCBvZiBrZXlz")
UNKNOWN = kraken_error("EGeneral:Unknown method")
DENIED = kraken_error("EGeneral:Permission denied")
OUT_OF_STEP = kraken_error("EAPI:Invalid nonce")


@pytest.fixture
def server() -> Iterator[KeyServer]:
    with serving_keys() as running:
        yield running


async def check(server: KeyServer, venue: Venue) -> KeyCheck:
    return await check_key(venue, KEY, url=server.base_url)


async def test_a_good_kraken_key_is_known_with_its_balances(server: KeyServer) -> None:
    found = await check(server, KRAKEN)
    assert found.rights.problems == ()
    assert found.balances == {"BTC": Decimal("0.5"), "USD": Decimal(2000)}
    assert server.asked == ["/0/private/GetApiKeyInfo", "/0/private/BalanceEx"]


async def test_a_good_binance_key_is_known_with_its_balances(server: KeyServer) -> None:
    found = await check(server, BINANCE)
    assert found.rights.problems == ()
    assert found.balances == {"USDT": Decimal(3000)}
    assert set(server.asked) == {"/sapi/v1/account/apiRestrictions", "/api/v3/account"}


@pytest.mark.parametrize("there_is_none", [(404, "<html>"), (405, "no"), UNKNOWN])
async def test_without_key_info_kraken_is_tried(server: KeyServer, there_is_none: object) -> None:
    server.says |= {
        "/0/private/GetApiKeyInfo": there_is_none,
        "/0/private/Balance": kraken({}),
        "/0/private/OpenOrders": kraken({"open": {}}),
        "/0/private/ClosedOrders": DENIED,
        "/0/private/AddOrder": kraken_error("EGeneral:Invalid arguments:volume"),
        "/0/private/WithdrawMethods": kraken([]),
    }
    problems = (await check(server, KRAKEN)).rights.problems
    assert problems[0] == "it lacks: Query closed orders & trades"
    assert "it may move funds out" in problems[1]
    server.says |= {
        "/0/private/ClosedOrders": kraken({"closed": {}}),
        "/0/private/WithdrawMethods": DENIED,
    }
    assert (await check(server, KRAKEN)).rights.problems == ()


async def test_nothing_to_withdraw_with_is_proof_enough_at_a_simulator_only(
    server: KeyServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in ("GetApiKeyInfo", "WithdrawMethods"):
        server.says[f"/0/private/{path}"] = UNKNOWN
    for path in ("Balance", "OpenOrders", "ClosedOrders", "AddOrder"):
        server.says[f"/0/private/{path}"] = kraken({})
    del server.says["/sapi/v1/account/apiRestrictions"]
    for venue in (KRAKEN, BINANCE):
        rights = (await check(server, venue)).rights
        assert (rights.problems, rights.remarks[-1:]) == ((), (UNPROVEN,))


async def test_a_key_that_may_not_query_funds_is_told_so(server: KeyServer) -> None:
    server.says["/0/private/GetApiKeyInfo"] = kraken({"permissions": ["modify-trades"]})
    found = await check(server, KRAKEN)
    assert found.balances == {}
    assert "Query funds" in found.rights.problems[0]


@pytest.mark.parametrize("told", [None, "all", {}])
async def test_unreadable_permissions_prove_nothing(server: KeyServer, told: object) -> None:
    server.says["/0/private/GetApiKeyInfo"] = kraken({"permissions": told})
    with pytest.raises(VenueUnavailable, match="cannot be read"):
        await check(server, KRAKEN)


@pytest.mark.parametrize("error", ["EAPI:Invalid key", "EAPI:Invalid signature"])
async def test_a_key_that_kraken_does_not_know_is_refused(server: KeyServer, error: str) -> None:
    server.says["/0/private/GetApiKeyInfo"] = kraken_error(error)
    with pytest.raises(CredentialRefused, match=error):
        await check(server, KRAKEN)


@pytest.mark.parametrize("code", [-2014, -2015, -1022])
async def test_a_key_that_binance_does_not_know_is_refused(server: KeyServer, code: int) -> None:
    refusal = (401, {"code": code, "msg": "Invalid API-key, IP, or permissions for action."})
    server.says |= {"/sapi/v1/account/apiRestrictions": refusal, "/api/v3/account": refusal}
    with pytest.raises(CredentialRefused, match=str(code)):
        await check(server, BINANCE)


async def test_a_secret_that_cannot_sign_is_refused_before_anything_is_sent(
    server: KeyServer,
) -> None:
    key = ApiKey(key="a-key", secret="canaryy")
    with pytest.raises(CredentialRefused, match="cannot sign") as refusal:
        await check_key(KRAKEN, key, url=server.base_url)
    assert "canary" not in str(refusal.value)
    assert server.asked == []


async def test_a_nonce_that_another_program_overtook_is_tried_again(server: KeyServer) -> None:
    server.says["/0/private/BalanceEx"] = [
        *([(200, OUT_OF_STEP)] * 3),
        (200, kraken(KRAKEN_BALANCES)),
    ]
    assert (await check(server, KRAKEN)).balances["USD"] == 2000
    server.says["/0/private/BalanceEx"] = OUT_OF_STEP
    with pytest.raises(CredentialRefused, match="another program uses this key"):
        await check(server, KRAKEN)


async def test_a_machine_whose_clock_is_wrong_goes_by_the_venues(server: KeyServer) -> None:
    wrong_time = (400, {"code": -1021, "msg": "Timestamp for this request is outside"})
    server.says |= {
        "/api/v3/account": [wrong_time, (200, BINANCE_ACCOUNT)],
        "/api/v3/time": {"serverTime": 1_900_000_000_000},
    }
    assert (await check(server, BINANCE)).balances == {"USDT": Decimal(3000)}
    assert "/api/v3/time" in server.asked
    server.says["/api/v3/account"] = wrong_time
    with pytest.raises(CredentialRefused, match="set this machine's clock"):
        await check(server, BINANCE)


@pytest.mark.parametrize("venue", [KRAKEN, BINANCE], ids=lambda venue: venue.name)
@pytest.mark.parametrize(
    "trouble", [(503, "<html>"), (200, "garbage"), (200, ["no", "object"]), (429, "slow down")]
)
async def test_a_venue_in_trouble_says_nothing_of_the_key(
    server: KeyServer, venue: Venue, trouble: tuple[int, object]
) -> None:
    server.says = dict.fromkeys(server.says, trouble)
    with pytest.raises(VenueUnavailable):
        await check(server, venue)


async def test_a_venue_that_is_away_is_named() -> None:
    with pytest.raises(VenueUnavailable, match="kraken failed"):
        await check_key(KRAKEN, KEY, url="http://127.0.0.1:9")
