"""The private paths of a venue over HTTP: every request goes through the same steps."""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import replace
from urllib.parse import parse_qsl

import orjson
from aiohttp import web

from ecosystem.venue_simulator.accounts import Accounts, ApiKey
from ecosystem.venue_simulator.faults import Fault, FaultKind, Spoiled
from ecosystem.venue_simulator.http_replies import cut, dropped, plain
from ecosystem.venue_simulator.journal import redacted
from ecosystem.venue_simulator.listings import Listing
from ecosystem.venue_simulator.orders import OrderRefused, RefusalKind
from ecosystem.venue_simulator.private_api import (
    GARBAGE,
    PrivateApi,
    PrivateCall,
    PrivateEndpoint,
    PrivateRequest,
    Visit,
)
from ecosystem.venue_simulator.trading import Surroundings, Trading
from ecosystem.venue_simulator.venue_api import Reply, VenueRefusal, refused_reply

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class PrivateSide:
    """One venue's private paths.

    A request is counted, spoiled by the faults that concern it, let in by the venue's own
    rules, done by the engine, and answered when the journal is on disk.
    """

    def __init__(
        self, api: PrivateApi, around: Surroundings, trading: Trading, accounts: Accounts
    ) -> None:
        self._api = api
        self._trading = trading
        self._accounts = accounts
        self._market = around.market
        self._clock = around.clock
        self._faults = around.faults
        self._journal = around.journal

    def routes(self) -> list[web.RouteDef]:
        """The endpoints' paths, and the venue's answer to whatever else is asked of it."""
        return [
            *(
                web.route(endpoint.method, endpoint.path, self._handler(endpoint))
                for endpoint in self._api.endpoints
            ),
            *(web.route("*", prefix + "{tail:.*}", self._unknown) for prefix in self._api.prefixes),
        ]

    def _handler(self, endpoint: PrivateEndpoint) -> Handler:
        async def handle(http: web.Request) -> web.StreamResponse:
            request = await _understood(http)
            key = self._accounts.named(self._api.venue, self._api.key_name(request) or "")
            spoiled = self._spoil(request, endpoint, key)
            visit = self._visit(request, endpoint, key)
            try:
                headers = self._api.weigh(
                    request.address, endpoint.cost(request.fields), visit.limits_ms
                )
            except VenueRefusal as refusal:
                await self._journal.on_disk()
                return plain(refused_reply(refusal))
            await asyncio.sleep(spoiled.delay_secs)
            visit = self._visit(request, endpoint, key)
            turned_away = spoiled.turned_away
            if turned_away is not None:
                reply = self._api.turned_away(turned_away, endpoint.name, visit.now_ms)
            else:
                reply = self._answer(visit, spoiled)
            # Whoever is answered must find it in the journal, and so must whoever is not.
            await self._journal.on_disk()
            await asyncio.sleep(spoiled.reply_delay_secs)
            reply = replace(reply, headers={**headers, **reply.headers})
            return await self._sent(http, reply, None if turned_away else spoiled.reply)

        return handle

    async def _unknown(self, http: web.Request) -> web.StreamResponse:
        request = await _understood(http)
        self._write(request, None, "unknown", Spoiled())
        await self._journal.on_disk()
        return plain(self._api.unknown(request.path))

    def _visit(
        self, request: PrivateRequest, endpoint: PrivateEndpoint, key: ApiKey | None
    ) -> Visit:
        return Visit(
            request=request,
            endpoint=endpoint,
            key=key,
            now_ms=self._trading.now_ms(),
            limits_ms=self._clock.counting_ms(),
        )

    def _spoil(
        self, request: PrivateRequest, endpoint: PrivateEndpoint, key: ApiKey | None
    ) -> Spoiled:
        """What goes wrong, written down with the request."""
        spoiled = self._faults.spoil(
            venue=self._api.venue,
            endpoint=endpoint.name,
            pairs=self._api.named_pairs(request.fields, self._listings()),
            callers=[] if key is None else [key.key, key.account.name],
        )
        self._write(request, key, endpoint.name, spoiled)
        return spoiled

    def _write(
        self, request: PrivateRequest, key: ApiKey | None, endpoint: str, spoiled: Spoiled
    ) -> None:
        self._journal.write(
            "request",
            venue=self._api.venue,
            key=None if key is None else key.key,
            endpoint=endpoint,
            params=redacted(request.fields),
            faults=spoiled.kinds,
        )

    def _answer(self, visit: Visit, spoiled: Spoiled) -> Reply:
        fields, listings = visit.request.fields, self._listings()
        try:
            if self._clock.speed != 1:
                raise OrderRefused(RefusalKind.SPEED, "this simulator trades at speed 1 only")
            admission = self._api.admit(visit)
            call = PrivateCall(
                fields=fields,
                endpoint=visit.endpoint.name,
                key=admission.key,
                listings=listings,
                trading=self._trading,
                spoiled=spoiled,
                now_ms=visit.now_ms,
                limits_ms=visit.limits_ms,
                expires_at_ms=admission.expires_at_ms,
            )
            result = visit.endpoint.answer(call)
            return Reply(body=self._api.reply(result), headers=self._api.done(call))
        except VenueRefusal as refusal:
            return refused_reply(refusal)
        except OrderRefused as refused:
            return self._api.refused(refused, fields, listings)

    async def _sent(
        self, http: web.Request, reply: Reply, fault: Fault | None
    ) -> web.StreamResponse:
        """The reply, as the fault lets it through."""
        match fault:
            case None:
                return plain(reply)
            case Fault(kind=FaultKind.ACCEPT_THEN_GARBAGE):
                return plain(Reply(body=GARBAGE, headers=reply.headers))
            case Fault(kind=FaultKind.CUT_BODY):
                return await cut(http, reply)
            case Fault(kind=FaultKind.ACCEPT_THEN_DROP) | Fault(kind=FaultKind.LATE, status=0):
                return dropped(http)
        return plain(self._api.failed(fault.status))

    def _listings(self) -> list[Listing]:
        refused = self._faults.refused(self._api.venue)
        return [
            listing
            for listing in self._market.listings(self._api.venue)
            if listing.pair not in refused
        ]


async def _understood(http: web.Request) -> PrivateRequest:
    body = await http.read()
    query = http.rel_url.raw_query_string.encode()
    return PrivateRequest(
        method=http.method,
        path=http.path,
        query=query,
        body=body,
        headers=http.headers,
        fields=_fields(body, http.content_type) | _form(query),
        address=http.remote or "",
    )


def _fields(body: bytes, content_type: str) -> dict[str, str]:
    if content_type != "application/json":
        return _form(body)
    try:
        content = orjson.loads(body)
    except orjson.JSONDecodeError:
        return {}
    if not isinstance(content, dict):
        return {}
    return {name: str(value) for name, value in content.items()}


def _form(encoded: bytes) -> dict[str, str]:
    text = encoded.decode(errors="replace")
    return dict(parse_qsl(text, keep_blank_values=True))
