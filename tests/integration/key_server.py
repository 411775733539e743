"""A venue that says what a test scripts of a key, on a thread of its own.

Commands run event loops of their own, so this one must not need the test's.
"""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

REPLIES = Path(__file__).parents[1] / "data" / "venue_replies"

KRAKEN_PERMISSIONS = [
    *("query-funds", "query-open-trades", "query-closed-trades", "modify-trades", "close-trades"),
]
KRAKEN_INFO = {
    "apiKeyName": "botfleet",
    "nonceWindow": 0,
    "permissions": KRAKEN_PERMISSIONS,
    "iban": "AA88 N84G WOAK NMOI",
    "validUntil": "0",
    "ipAllowlist": ["192.0.2.7"],
}
KRAKEN_BALANCES = {
    "ZUSD": {"balance": "2500.0000", "hold_trade": "500.0000"},
    "XXBT": {"balance": "0.5000000000", "hold_trade": "0.0000000000"},
}
BINANCE_RESTRICTIONS = {
    "ipRestrict": True,
    "enableReading": True,
    "enableWithdrawals": False,
    "enableInternalTransfer": False,
    "permitsUniversalTransfer": False,
    "enableSpotAndMarginTrading": True,
}
BINANCE_ACCOUNT = {
    "uid": 354937868,
    "canTrade": True,
    "balances": [
        {"asset": "USDT", "free": "3000.00000000", "locked": "1.00000000"},
        {"asset": "BTC", "free": "0.00000000", "locked": "0.00000000"},
    ],
}


class KeyServer:
    """`says` is the body by path, or a list of (status, body), of which the last one stays."""

    def __init__(self, says: Mapping[str, Any]) -> None:
        self.says = dict(says)
        self.asked: list[str] = []
        self.base_url = ""

    def reply(self, path: str) -> tuple[int, Any]:
        self.asked.append(path)
        says = self.says.get(path, (404, {"what": "no such path"}))
        if isinstance(says, list):
            says = says.pop(0) if len(says) > 1 else says[0]
        return says if isinstance(says, tuple) else (200, says)


def kraken(result: Any) -> dict[str, Any]:
    return {"error": [], "result": result}


def kraken_error(text: str) -> dict[str, Any]:
    return {"error": [text]}


def both_venues() -> dict[str, Any]:
    """What a good key is told, by path, and what everybody is about Kraken's markets."""
    return {
        "/0/public/AssetPairs": (REPLIES / "kraken_asset_pairs.json").read_text(),
        "/0/public/Ticker": (REPLIES / "kraken_ticker.json").read_text(),
        "/0/private/GetApiKeyInfo": kraken(KRAKEN_INFO),
        "/0/private/BalanceEx": kraken(KRAKEN_BALANCES),
        "/sapi/v1/account/apiRestrictions": BINANCE_RESTRICTIONS,
        "/api/v3/account": BINANCE_ACCOUNT,
    }


@contextmanager
def serving_keys() -> Iterator[KeyServer]:
    """The server on a free port of the loopback interface, with a good key at both venues."""
    server = KeyServer(both_venues())

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            status, body = server.reply(self.path.partition("?")[0])
            content = body.encode() if isinstance(body, str) else json.dumps(body).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        do_GET = do_POST = _answer  # noqa: N815 - the names that the library calls

        def log_message(self, *_: object) -> None:
            """Nothing: the library would write to standard error."""

    http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    server.base_url = f"http://127.0.0.1:{http.server_address[1]}"
    try:
        yield server
    finally:
        http.shutdown()
        http.server_close()
        thread.join(timeout=5)
