"""What a venue's answer says of a key."""

from typing import Any

import pytest

from tests.integration.key_server import BINANCE_ACCOUNT, BINANCE_RESTRICTIONS, KRAKEN_INFO
from trade_worker.key_rights import (
    UNPROVEN,
    KeyRights,
    account_mark,
    binance_rights,
    kraken_probed,
    kraken_rights,
    without_proof,
)

ALL_KRAKEN = ("modify-trades", "query-closed-trades", "query-funds", "query-open-trades")


def kraken(**changes: Any) -> KeyRights:
    told = {**KRAKEN_INFO, **changes}
    return kraken_rights(told["permissions"], told)


def binance(**changes: Any) -> KeyRights:
    return binance_rights({**BINANCE_RESTRICTIONS, **changes}, BINANCE_ACCOUNT)


def test_a_key_made_for_trading_has_no_problems() -> None:
    for rights in (kraken(), binance()):
        assert rights.problems == ()
        assert rights.remarks == ()
        assert rights.account is not None


@pytest.mark.parametrize(
    "right", ["withdraw-funds", "add-withdraw-address", "update-withdraw-address", "Withdraw Funds"]
)
def test_kraken_withdrawal_rights_of_any_kind_are_a_problem(right: str) -> None:
    (problem,) = kraken(permissions=[*KRAKEN_INFO["permissions"], right]).problems  # type: ignore[misc]
    assert "move funds out" in problem


def test_kraken_missing_rights_are_named_as_on_its_website() -> None:
    (problem,) = kraken(permissions=["query-funds", "query-open-trades"]).problems
    assert problem == "it lacks: Query closed orders & trades, Create & modify orders"


def test_a_nonce_window_is_a_problem() -> None:
    for told in (0, "0", None):
        assert kraken(nonceWindow=told).problems == ()
    (problem,) = kraken(nonceWindow="10000").problems
    assert "nonce window must be 0" in problem


def test_what_is_unwise_at_kraken_is_remarked() -> None:
    rights = kraken(ipAllowlist=[], validUntil="1893456000", permissions=list(ALL_KRAKEN))
    assert rights.problems == ()
    assert [remark.partition(":")[0] for remark in rights.remarks] == [
        "not restricted to addresses",
        "it expires",
        "it lacks Cancel & close orders",
    ]


@pytest.mark.parametrize(
    ("withdraws", "problems"), [(False, 0), (True, 1), (None, 1)], ids=["no", "yes", "unknown"]
)
def test_trying_proves_as_much_as_being_told(withdraws: bool | None, problems: int) -> None:
    assert len(kraken_probed(ALL_KRAKEN, withdraws=withdraws).problems) == problems
    assert "it lacks: Query funds" in kraken_probed(ALL_KRAKEN[:2], withdraws=withdraws).problems[0]


@pytest.mark.parametrize(
    ("changes", "expected"),
    [
        ({"enableWithdrawals": True}, "it may withdraw"),
        ({"enableWithdrawals": None}, UNPROVEN),
        ({"enableWithdrawals": "false"}, UNPROVEN),
        ({"enableSpotAndMarginTrading": False}, "it may not trade"),
        ({"enableReading": False}, "it may not read"),
    ],
)
def test_binance_restrictions_that_forbid_the_use_of_a_key(
    changes: dict[str, Any], expected: str
) -> None:
    (problem,) = binance(**changes).problems
    assert problem.startswith(expected)


def test_what_binance_does_not_say_counts_as_a_right_to_withdraw() -> None:
    assert binance_rights(None, BINANCE_ACCOUNT).problems == (UNPROVEN,)


def test_an_account_that_is_stopped_is_a_problem() -> None:
    rights = binance_rights(BINANCE_RESTRICTIONS, {**BINANCE_ACCOUNT, "canTrade": False})
    assert rights.problems == ("the account itself may not trade at present",)


def test_what_is_unwise_at_binance_is_remarked() -> None:
    remarks = binance(ipRestrict=False, enableInternalTransfer=True).remarks
    assert len(remarks) == 2


def test_only_the_proof_is_forgiven_at_a_simulator() -> None:
    rights = without_proof(binance_rights(None, {**BINANCE_ACCOUNT, "canTrade": False}))
    assert rights.problems == ("the account itself may not trade at present",)
    assert rights.remarks == (UNPROVEN,)
    assert without_proof(binance(enableWithdrawals=True)).problems


def test_an_account_is_known_again_by_a_mark_that_tells_nothing() -> None:
    mark = account_mark("kraken", "AA88 N84G WOAK NMOI")
    assert mark == account_mark("kraken", "AA88 N84G WOAK NMOI")
    assert mark != account_mark("binance", "AA88 N84G WOAK NMOI")
    assert mark is not None
    assert "AA88" not in mark
    assert not any(account_mark("kraken", missing) for missing in (None, "", 0, ()))
