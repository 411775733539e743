"""What people ask of the simulator itself: its faults, its customers, its status."""

from collections.abc import Awaitable, Callable
from typing import Any

import orjson
from aiohttp import web

from ecosystem.venue_simulator.accounts import ApiKey, told_account, told_key
from ecosystem.venue_simulator.customers import Customers
from ecosystem.venue_simulator.fault_fields import fault_of
from ecosystem.venue_simulator.faults import FaultBoard
from shared.errors import Refused
from shared.venues import VENUES

Handler = Callable[[web.Request], Awaitable[web.Response]]


def fault_routes(faults: FaultBoard) -> list[web.RouteDef]:
    """`/simulator/faults`: POST sets one (a JSON object with the fields of `Fault`), GET lists
    them, DELETE clears those of `?venue=`, or all. A bad fault is answered with 400."""

    async def show(_: web.Request) -> web.Response:
        return _json(faults.all())

    async def create(request: web.Request) -> web.Response:
        faults.set(fault_of(await _fields(request)))
        return _json(faults.all(), status=201)

    async def clear(request: web.Request) -> web.Response:
        venue = request.query.get("venue")
        if venue not in (None, *VENUES):
            raise Refused(f"venue must be one of {', '.join(VENUES)}, was {venue!r}")
        faults.clear(venue)
        return _json(faults.all())

    return _routes("/simulator/faults", show=show, create=create, remove=clear)


def account_routes(customers: Customers) -> list[web.RouteDef]:
    """`/simulator/accounts`: POST opens one or gives it another key (a JSON object, see
    `accounts.key_of`) and answers with key and secret, GET lists accounts with balances and
    keys, without secrets, DELETE revokes the `?key=`. Nonsense is answered with 400."""

    async def show(_: web.Request) -> web.Response:
        return _json(customers.accounts.told())

    async def create(request: web.Request) -> web.Response:
        (key,) = await customers.enter([await _fields(request)])
        return _json(_handed_over(key), status=201)

    async def revoke(request: web.Request) -> web.Response:
        await customers.revoke(request.query.get("key", ""))
        return _json(customers.accounts.told())

    return _routes("/simulator/accounts", show=show, create=create, remove=revoke)


def status_route(status: Callable[[], dict[str, object]]) -> web.RouteDef:
    """`GET /simulator/status`."""

    async def show(_: web.Request) -> web.Response:
        return _json(status())

    return web.get("/simulator/status", show)


def _handed_over(key: ApiKey) -> dict[str, Any]:
    """A new key with its secret: the only time that anybody is told."""
    return {**told_account(key.account), **told_key(key), "secret": key.secret}


async def _fields(request: web.Request) -> dict[str, Any]:
    try:
        fields = orjson.loads(await request.read())
    except orjson.JSONDecodeError as exc:
        raise Refused(f"this is not JSON: {exc}") from exc
    if not isinstance(fields, dict):
        raise Refused(f"{request.path} takes a JSON object")
    return fields


def _routes(path: str, *, show: Handler, create: Handler, remove: Handler) -> list[web.RouteDef]:
    return [
        web.get(path, show),
        web.post(path, _refusing(create)),
        web.delete(path, _refusing(remove)),
    ]


def _refusing(handler: Handler) -> Handler:
    async def handle(request: web.Request) -> web.Response:
        try:
            return await handler(request)
        except Refused as exc:
            return _json({"error": str(exc)}, status=400)

    return handle


def _json(body: object, *, status: int = 200) -> web.Response:
    return web.Response(body=orjson.dumps(body), status=status, content_type="application/json")
