"""One signed request to a venue, through ccxt, and its reply as it is.

ccxt signs and knows the URLs. What it makes of replies is not used: its error classes do not
tell a refusal from an unknown outcome, and its texts quote URLs with signatures in them. So
the raw reply is caught in its hook, and whoever calls judges by the venue's own codes. ccxt
brings neither retries, nor pace, nor redirects, and keeps nothing of a request.
"""

import asyncio
import json
import logging
import re
import ssl
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from contextvars import ContextVar
from copy import copy
from dataclasses import dataclass, field
from decimal import Decimal
from functools import cache
from types import SimpleNamespace
from typing import Any, Final, Protocol, TypedDict, Unpack, cast

import aiohttp
import certifi
from yarl import URL

from shared.ccxt_classes import ccxt_classes
from shared.clock import monotonic_secs
from shared.errors import CredentialRefused, VenueUnavailable
from shared.vault import ApiKey
from shared.venues import Venue
from trade_worker.venues.lanes import Lane

CALL_TIMEOUT_SECS: Final = 8.0
MAX_CONNECTIONS: Final = 256

_log = logging.getLogger(f"{__name__}.ccxt")
_log.setLevel(logging.WARNING)  # ccxt logs headers and bodies at DEBUG


@dataclass(frozen=True, slots=True, kw_only=True)
class Reply:
    """What a venue answered. `headers` by lower-case name; `body` is the parsed JSON (fractions
    as Decimal), None where it is none. The text of it is not kept."""

    status: int
    headers: Mapping[str, str]
    body: Any
    sent_at_secs: float
    read_at_secs: float


class NoReply(VenueUnavailable):
    """No whole reply came. `maybe_sent` False: it is certain that no byte was written."""

    def __init__(self, message: str, *, maybe_sent: bool) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent


@dataclass(slots=True)
class _Exchange:
    """What one request has come to so far; filled in by hooks."""

    maybe_sent: bool = False
    sent_at_secs: float = 0.0
    reply: Reply | None = field(default=None, repr=False)


_exchange: ContextVar[_Exchange] = ContextVar("_exchange")


def venue_session(*, proxy_url: str | None = None) -> aiohttp.ClientSession:
    """A session for the private calls of one venue, all keys together. Close it yourself.

    It tells each request whether any byte of it may have been written, keeps no cookies (they
    would join accounts), and sends nothing twice. Must be called in a running loop.
    """
    tracing = aiohttp.TraceConfig()
    # aiohttp calls it right before the first byte: the safe side.
    tracing.on_request_headers_sent.append(_on_headers_sent)
    context = ssl.create_default_context(cafile=certifi.where())
    session = aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, limit=MAX_CONNECTIONS),
        cookie_jar=aiohttp.DummyCookieJar(),
        proxy=proxy_url,
        trace_configs=[tracing],
    )
    # aiohttp would repeat a GET or DELETE on a kept connection that breaks. A test holds this.
    session._retry_connection = False
    return session


async def _on_headers_sent(
    _: aiohttp.ClientSession,
    context: SimpleNamespace,
    __: aiohttp.TraceRequestHeadersSentParams,
) -> None:
    exchange: _Exchange | None = context.trace_request_ctx
    if exchange is not None:
        exchange.maybe_sent = True
        exchange.sent_at_secs = monotonic_secs()


_Answering = AbstractAsyncContextManager[aiohttp.ClientResponse]


class _Options(TypedDict):
    """What ccxt asks of a request."""

    data: bytes | None
    headers: Mapping[str, str]
    timeout: aiohttp.ClientTimeout
    proxy: str | None


class _OneShot:
    """A session as ccxt uses it, that follows no redirect: it would send an order again."""

    def __init__(self, session: aiohttp.ClientSession) -> None:
        self._session = session
        self.headers = session.headers

    def get(self, url: URL, **options: Unpack[_Options]) -> _Answering:
        return self._request("GET", url, options)

    def post(self, url: URL, **options: Unpack[_Options]) -> _Answering:
        return self._request("POST", url, options)

    def delete(self, url: URL, **options: Unpack[_Options]) -> _Answering:
        return self._request("DELETE", url, options)

    def _request(self, method: str, url: URL, options: _Options) -> _Answering:
        return self._session.request(
            method, url, allow_redirects=False, trace_request_ctx=_exchange.get(), **options
        )


class _CcxtClient(Protocol):
    """What is used of ccxt, which brings no types."""

    apiKey: str  # noqa: N815 - ccxt's name
    secret: str
    options: dict[str, Any]
    session: _OneShot | None
    lane: Lane | None

    async def request(
        self, path: str, api: list[str], method: str, params: dict[str, str]
    ) -> object: ...


class _Forgetting:
    """An attribute that keeps nothing."""

    def __get__(self, _: object, __: type | None = None) -> None:
        return None

    def __set__(self, _: object, __: object) -> None:
        pass


@cache
def _client_class(venue_name: str) -> type[Any]:
    class Client(ccxt_classes()[venue_name]):  # type: ignore[misc]
        last_request_headers = _Forgetting()
        last_request_body = _Forgetting()
        last_request_url = _Forgetting()
        last_http_response = _Forgetting()
        last_json_response = _Forgetting()
        last_response_headers = _Forgetting()
        logger = _log
        lane: Lane | None = None

        def open(self, lazy: bool = False) -> None:
            """The session is ours; ccxt would make a TLS context for each client here."""

        def __del__(self) -> None:
            """ccxt warns here of a session that it does not own."""

        def incrementing_nonce(self) -> int:
            if self.lane is None:
                raise CredentialRefused("a client without a lane has no nonces")
            return self.lane.nonces.next()

        def sign(self, *parts: object) -> object:
            try:
                signed: object = super().sign(*parts)
                return signed
            except Exception as exc:  # noqa: BLE001 - whatever ccxt raises
                name = type(exc).__name__
            # Not in the handler above: that error's text may hold the secret.
            raise CredentialRefused(f"the key cannot sign requests ({name}): is its secret whole?")

        def on_rest_response(self, *parts: object) -> str:
            exchange = _exchange.get()
            headers = cast("Mapping[str, str]", parts[4])
            exchange.reply = Reply(
                status=cast("int", parts[0]),
                headers={name.lower(): value for name, value in headers.items()},
                body=_parsed(cast("str", parts[5])),
                sent_at_secs=exchange.sent_at_secs,
                read_at_secs=monotonic_secs(),
            )
            return ""

        def parse_json(self, _: str) -> object:
            return {}

        def handle_errors(self, *_: object) -> None:
            """The caller judges replies."""

        def handle_http_status_code(self, *_: object) -> None:
            """The caller judges replies."""

    return Client


def _parsed(text: str) -> object:
    try:
        return json.loads(text, parse_float=Decimal)
    except (ValueError, RecursionError):
        return None


@cache
def _template(venue_name: str, url: str) -> _CcxtClient:
    """A client without credentials: building one takes 2 ms and 270 KB, copying it nearly none."""
    client = _client_class(venue_name)(
        {
            "enableRateLimit": False,
            "enableLastHttpResponse": False,
            "enableLastJsonResponse": False,
            "enableLastResponseHeaders": False,
            # `asyncio.timeout` in `call` ends requests: this one is shared by all of a client.
            "timeout": 120_000,
            "session": None,
            "userAgent": "botfleet",
            "options": {
                "maxRetriesOnFailure": 0,
                "fetchMarkets": {"types": ["spot"]},
                "fetchMargins": False,
                "fetchCurrencies": False,
            },
        }
    )
    client.has["fetchCurrencies"] = False
    client.urls["api"] = {
        name: re.sub(r"^https?://[^/]+", url, api) for name, api in client.urls["api"].items()
    }
    return cast("_CcxtClient", client)


class VenueClient:
    """One key's client at a venue, or one without a key for public calls.

    `lane` is there where the venue wants growing nonces (Kraken): whoever calls concurrently
    must hold `lane.turn(…)` around `call`.
    """

    def __init__(
        self,
        venue: Venue,
        *,
        url: str,
        key: ApiKey | None,
        session: aiohttp.ClientSession,
        lane: Lane | None = None,
    ) -> None:
        self.venue = venue
        self.lane = lane or (Lane() if venue.name == "kraken" else None)
        self._ccxt = copy(_template(venue.name, url))
        self._ccxt.options = dict(self._ccxt.options)
        self._ccxt.session = _OneShot(session)
        self._ccxt.lane = self.lane
        if key is not None:
            self._ccxt.apiKey, self._ccxt.secret = key.key, key.secret

    def __repr__(self) -> str:
        return f"VenueClient({self.venue.name})"

    async def call(
        self,
        path: str,
        params: Mapping[str, str] | None = None,
        *,
        method: str = "POST",
        api: str = "private",
        timeout_secs: float = CALL_TIMEOUT_SECS,
    ) -> Reply:
        """One request, once: `path` and `api` as ccxt names them, such as `AddOrder` and
        `private`, or `account/apiRestrictions` and `sapi`. Any reply is returned, errors too.

        Raises `NoReply` where none came whole within `timeout_secs`, and `CredentialRefused`
        where the key cannot sign (nothing was sent then).
        """
        exchange, failure = _Exchange(), "gave no reply"
        token = _exchange.set(exchange)
        try:
            async with asyncio.timeout(timeout_secs):
                await self._ccxt.request(path, [api], method, dict(params or {}))
        except CredentialRefused:
            raise
        except Exception as exc:  # noqa: BLE001 - ccxt's and aiohttp's
            failure = _said(exc)
        finally:
            _exchange.reset(token)
        # A reply that was read is one, whatever came after it.
        if exchange.reply is None:
            # Not in the handler above: an error would take ccxt's, with the signed URL, along.
            raise NoReply(failure, maybe_sent=exchange.maybe_sent)
        return exchange.reply

    def forget(self) -> None:
        """Drop the key and the session: this client is of no further use."""
        self._ccxt.apiKey = self._ccxt.secret = ""
        self._ccxt.session = None


def _said(exc: Exception) -> str:
    """What happened, without ccxt's text: that names the URL, with its signature."""
    cause = exc.__cause__
    name = type(cause if isinstance(cause, aiohttp.ClientError | OSError) else exc).__name__
    if isinstance(exc, TimeoutError) or isinstance(cause, TimeoutError):
        return "did not answer in time"
    return f"failed ({name})"
