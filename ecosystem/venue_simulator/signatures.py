"""How each venue signs a private request
(docs.kraken.com/exchange/guides/rest/authentication; binance-spot-api-docs, rest-api.md "SIGNED
Endpoint security"). Pure."""

import base64
import binascii
import hashlib
import hmac
import re
from typing import Final

_BINANCE_SIGNATURE: Final = re.compile(rb"(?:^|&)signature=[^&]*")


def kraken_signature(*, path: str, nonce: str, body: bytes, secret: str) -> str:
    """`API-Sign`: base64 of HMAC-SHA512, keyed with the decoded secret, over the path and the
    SHA256 of nonce and body.

    Raises `ValueError` for a secret that is not base64.
    """
    digest = hashlib.sha256(nonce.encode() + body).digest()
    try:
        key = base64.b64decode(secret, validate=True)
    except binascii.Error:
        raise ValueError("a Kraken secret must be base64") from None
    return base64.b64encode(hmac.digest(key, path.encode() + digest, "sha512")).decode()


def binance_signature(*, query: bytes, body: bytes, secret: str) -> str:
    """`signature`: hex of HMAC-SHA256 over query and body, put together without a separator,
    both without their `signature`."""
    payload = _BINANCE_SIGNATURE.sub(b"", query) + _BINANCE_SIGNATURE.sub(b"", body)
    return hmac.digest(secret.encode(), payload, "sha256").hex()


def same_signature(sent: str, right: str) -> bool:
    """Whether the venue takes `sent` for `right`; it takes as long either way."""
    return hmac.compare_digest(sent.encode(), right.encode())
