"""How replies go back over HTTP, and how they do not."""

import orjson
from aiohttp import web

from ecosystem.venue_simulator.venue_api import Reply


def _encoded(reply: Reply) -> bytes:
    return reply.body if isinstance(reply.body, bytes) else orjson.dumps(reply.body)


def plain(reply: Reply) -> web.Response:
    return web.Response(
        body=_encoded(reply),
        status=reply.status,
        content_type=reply.content_type,
        headers=reply.headers,
    )


def dropped(http: web.Request) -> web.StreamResponse:
    """Nothing: the connection is gone before aiohttp writes what is returned."""
    if http.transport is not None:
        http.transport.close()
    return web.Response()


async def cut(http: web.Request, reply: Reply) -> web.StreamResponse:
    """Half of the reply, and then the end of the connection."""
    body = _encoded(reply)
    response = web.StreamResponse(status=reply.status, headers=reply.headers)
    response.content_type = reply.content_type
    response.content_length = len(body)
    await response.prepare(http)
    await response.write(body[: len(body) // 2])
    if http.transport is not None:
        http.transport.close()
    return response
