"""The simulator's signatures are the venues' own: their documentations' worked examples."""

from typing import Final

import pytest

from ecosystem.venue_simulator.signatures import (
    binance_signature,
    kraken_signature,
    same_signature,
)

KRAKEN_SECRET: Final = (
    "kQH5HW/8p1uGOVjbgWA7FunAmGO8lsSUXNsu3eow76sz84Q18fWxnyRzBHCd3pd5nE9qa99HAZtuZuj6F1huXg=="
)
KRAKEN_BODY: Final = (
    b"nonce=1616492376594&ordertype=limit&pair=XBTUSD&price=37500&type=buy&volume=1.25"
)
BINANCE_SECRET: Final = "NhqPtmdSJYdKjVHjA7PZj4Mge3R5YNiP1e3UZjInClVN65XAbvqqM6A7H5fATj0j"
BINANCE_PARAMETERS: Final = (
    b"symbol=LTCBTC&side=BUY&type=LIMIT&timeInForce=GTC&quantity=1&price=0.1"
    b"&recvWindow=5000&timestamp=1499827319559"
)
BINANCE_SIGNATURE: Final = "c8db56825ae71d6d79447849e617115f4a920fa2acdcab2b053c4b2838bd6b71"


def test_krakens_documented_example() -> None:
    signature = kraken_signature(
        path="/0/private/AddOrder", nonce="1616492376594", body=KRAKEN_BODY, secret=KRAKEN_SECRET
    )
    assert signature == (
        "4/dpxb3iT4tp/ZCVEwSnEsLxx0bqyhLpdfOpc6fn7OR8+UClSV5n9E6aSS8MPtnRfp32bAb0nmbRn6H8ndwLUQ=="
    )


def test_kraken_secret_that_is_not_base64() -> None:
    with pytest.raises(ValueError, match="base64"):
        kraken_signature(path="/0/private/Balance", nonce="1", body=b"", secret="not base64!")


@pytest.mark.parametrize(
    ("query", "body"),
    [
        (BINANCE_PARAMETERS + b"&signature=00", b""),
        (b"", BINANCE_PARAMETERS + b"&signature=00"),
        (BINANCE_PARAMETERS[:20], BINANCE_PARAMETERS[20:] + b"&signature=00"),
    ],
)
def test_binances_documented_example_wherever_the_parameters_are(query: bytes, body: bytes) -> None:
    assert binance_signature(query=query, body=body, secret=BINANCE_SECRET) == BINANCE_SIGNATURE


def test_signatures_of_other_requests_differ() -> None:
    right = binance_signature(query=BINANCE_PARAMETERS, body=b"", secret=BINANCE_SECRET)
    other = binance_signature(query=BINANCE_PARAMETERS + b"1", body=b"", secret=BINANCE_SECRET)
    assert same_signature(right, right)
    assert not same_signature(other, right)
