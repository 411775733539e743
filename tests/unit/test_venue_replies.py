"""What each error of each venue proves, and that nothing harmful is quoted."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import CredentialRefused, VenueUnavailable
from shared.venues import BINANCE, KRAKEN, VENUES, Said, Venue
from trade_worker.venues import Verdict
from trade_worker.venues.replies import answer_of, harmless, judge, refusal_of

KRAKEN_SAYS = {
    "EAPI:Feature disabled": Said.REFUSED,
    "EAPI:Invalid key": Said.KEY_REFUSED,
    "EAPI:Invalid nonce": Said.OUT_OF_STEP,
    "EAPI:Invalid signature": Said.KEY_REFUSED,
    "EAPI:Rate limit exceeded": Said.THROTTLED,
    "EAccount:Invalid permissions": Said.KEY_REFUSED,
    "EAuth:Account temporary disabled": Said.KEY_REFUSED,
    "EAuth:Account unconfirmed": Said.KEY_REFUSED,
    "EAuth:Rate limit exceeded": Said.THROTTLED,
    "EAuth:Too many requests": Said.THROTTLED,
    "EBM:limit exceeded:CAL": Said.REFUSED,
    "EDatabase:Internal error": Said.UNCERTAIN,
    "EGeneral:Internal error": Said.UNCERTAIN,
    "EGeneral:Internal error:42": Said.UNCERTAIN,
    "EGeneral:Invalid arguments": Said.REFUSED,
    "EGeneral:Invalid arguments:volume": Said.REFUSED,
    "EGeneral:Invalid arguments:cl_ord_id": Said.UNCERTAIN,
    "EGeneral:Permission denied": Said.KEY_REFUSED,
    "EGeneral:Temporary lockout": Said.THROTTLED,
    "EGeneral:Too many requests": Said.THROTTLED,
    "EOrder:Cost minimum not met": Said.REFUSED,
    "EOrder:Domain rate limit exceeded": Said.THROTTLED,
    "EOrder:Duplicate order": Said.UNCERTAIN,
    "EOrder:Insufficient funds": Said.FUNDS_SHORT,
    "EOrder:Invalid price": Said.REFUSED,
    "EOrder:Invalid price:Invalid price argument": Said.REFUSED,
    "EOrder:Order minimum not met": Said.REFUSED,
    "EOrder:Orders limit exceeded": Said.REFUSED,
    "EOrder:Rate limit exceeded": Said.THROTTLED,
    "EOrder:Tick size check failed": Said.REFUSED,
    "EOrder:Trading agreement required": Said.KEY_REFUSED,
    "EOrder:Unknown order": Said.NO_SUCH_ORDER,
    "EOrder:cl_ord_id not unique": Said.UNCERTAIN,
    "EQuery:Invalid asset pair": Said.REFUSED,
    "EQuery:Unknown asset": Said.REFUSED,
    "EQuery:Unknown asset pair": Said.REFUSED,
    "EService:Busy": Said.UNCERTAIN,
    "EService:Deadline elapsed": Said.UNCERTAIN,
    "EService:Market in cancel_only mode": Said.UNCERTAIN,
    "EService:Unavailable": Said.UNCERTAIN,
    "ETrade:User Locked": Said.KEY_REFUSED,
    "Something else": Said.UNCERTAIN,
}
INSUFFICIENT = "Account has insufficient balance for requested action."
BINANCE_SAYS = {
    (-1000, "An unknown error occurred."): Said.UNCERTAIN,
    (-1001, "Internal error; unable to process your request."): Said.UNCERTAIN,
    (-1002, "You are not authorized to execute this request."): Said.KEY_REFUSED,
    (-1003, "Too much request weight used."): Said.THROTTLED,
    (-1006, "Execution status unknown."): Said.UNCERTAIN,
    (-1007, "Send status unknown; execution status unknown."): Said.UNCERTAIN,
    (-1008, "Server is currently overloaded."): Said.UNCERTAIN,
    (-1013, "Filter failure: NOTIONAL"): Said.REFUSED,
    (-1014, "Unsupported order combination."): Said.REFUSED,
    (-1015, "Too many new orders."): Said.THROTTLED,
    (-1016, "This service is no longer available."): Said.UNCERTAIN,
    (-1020, "This operation is not supported."): Said.REFUSED,
    (-1021, "Timestamp for this request is outside of the recvWindow."): Said.OUT_OF_STEP,
    (-1022, "Signature for this request is not valid."): Said.KEY_REFUSED,
    **{
        (code, "A parameter."): Said.REFUSED
        for code in (
            *(-1100, -1101, -1102, -1103, -1104, -1105, -1106, -1108, -1111, -1114, -1115),
            *(-1116, -1117, -1118, -1121, -1128, -1130, -1131, -1134, -1135),
        )
    },
    (-2010, INSUFFICIENT): Said.FUNDS_SHORT,
    (-2010, "Market is closed."): Said.REFUSED,
    (-2010, "Duplicate order sent."): Said.UNCERTAIN,
    (-2010, "This account may not place or cancel orders."): Said.KEY_REFUSED,
    (-2010, "This action is disabled on this account."): Said.KEY_REFUSED,
    (-2011, "Unknown order sent."): Said.NO_SUCH_ORDER,
    (-2011, "Another text."): Said.UNCERTAIN,
    (-2013, "Order does not exist."): Said.NO_SUCH_ORDER,
    (-2014, "API-key format invalid."): Said.KEY_REFUSED,
    (-2015, "Invalid API-key, IP, or permissions for action."): Said.KEY_REFUSED,
    (-2026, "Order was archived."): Said.UNCERTAIN,
    (-3333, "A code of tomorrow."): Said.UNCERTAIN,
}
BODIES: list[tuple[Venue, object, Said]] = [
    *[(KRAKEN, {"error": [error]}, said) for error, said in KRAKEN_SAYS.items()],
    *[
        (BINANCE, {"code": code, "msg": message}, said)
        for (code, message), said in BINANCE_SAYS.items()
    ],
]
REJECTED = {Said.REFUSED, Said.FUNDS_SHORT, Said.KEY_REFUSED, Said.THROTTLED}


def test_every_code_of_the_tables_is_judged_here() -> None:
    assert set(KRAKEN.errors) <= KRAKEN_SAYS.keys() | {"EBM:limit exceeded"}
    told = {str(code) for code, _ in BINANCE_SAYS} | {
        f"{code}:{message}" for code, message in BINANCE_SAYS
    }
    assert set(BINANCE.errors) <= told


@pytest.mark.parametrize(("venue", "body", "said"), BODIES)
def test_what_an_error_proves(venue: Venue, body: object, said: Said) -> None:
    status = 400 if venue is BINANCE else 200
    judged = judge(venue, status=status, headers={}, body=body)
    assert judged.said is said
    sent = refusal_of(judged)
    assert (sent.verdict is Verdict.REJECTED) == (said in REJECTED)
    assert sent.verdict in (Verdict.REJECTED, Verdict.UNKNOWN)
    assert sent.credential_refused == (said is Said.KEY_REFUSED)
    assert sent.funds_short == (said is Said.FUNDS_SHORT)
    with pytest.raises(CredentialRefused if said is Said.KEY_REFUSED else VenueUnavailable):
        answer_of(judged)


@pytest.mark.parametrize(("venue", "body", "said"), BODIES)
@pytest.mark.parametrize("status", [500, 502, 503, 504, 520])
def test_no_error_proves_anything_beside_a_server_error(
    venue: Venue, body: object, said: Said, status: int
) -> None:
    judged = judge(venue, status=status, headers={}, body=body)
    assert judged.said is Said.UNCERTAIN, said


@pytest.mark.parametrize(
    ("errors", "said"),
    [
        (["EOrder:Invalid price", "EOrder:Order minimum not met"], Said.REFUSED),
        (["EOrder:Invalid price", "EAPI:Invalid key"], Said.KEY_REFUSED),
        (["EOrder:Invalid price", "EService:Busy"], Said.UNCERTAIN),
        (["EOrder:Invalid price", "EAPI:Invalid nonce"], Said.UNCERTAIN),
        (["WGeneral:Be careful", "EOrder:Invalid price"], Said.REFUSED),
        (["WGeneral:Be careful"], None),
        ([], None),
    ],
)
def test_several_errors_of_kraken(errors: list[str], said: Said | None) -> None:
    assert judge(KRAKEN, status=200, headers={}, body={"error": errors}).said is said


@pytest.mark.parametrize("venue", VENUES.values())
@pytest.mark.parametrize("body", [None, "text", 7, True])
def test_what_is_no_reply_of_the_venue_proves_nothing(venue: Venue, body: object) -> None:
    assert judge(venue, status=200, headers={}, body=body).said is Said.UNCERTAIN


@pytest.mark.parametrize(
    ("value", "secs"), [("7", 7.0), ("0.5", 0.5), ("soon", None), ("-1", None), ("", None)]
)
def test_retry_after(value: str, secs: float | None) -> None:
    judged = judge(BINANCE, status=429, headers={"retry-after": value}, body={"code": -1003})
    assert judged.retry_after_secs == secs


@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_quotes_are_short_and_hold_nothing_that_could_be_a_key(text: str) -> None:
    quoted = harmless(text)
    assert len(quoted) <= 120
    assert not any(len(word) >= 20 and word.isalnum() and word.isascii() for word in quoted.split())


def test_a_key_or_signature_is_not_quoted() -> None:
    signature = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"
    for text in (signature, f"signature={signature}", f"key:{signature}.", signature + "=="):
        assert signature[:20] not in harmless(text)
