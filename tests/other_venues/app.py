"""Both venues as one web application, with what only tests ask for.

`POST /accounts` {venue, balances, secret?} gives key and secret, `POST /faults` {rate} changes
how often something goes wrong, `GET /persons` tells how many orders that somebody placed by
hand are still waiting, and how many there were.
"""

from aiohttp import web

from tests.other_venues.binance import Binance
from tests.other_venues.books import Books
from tests.other_venues.kraken import Kraken


def application(books: Books) -> web.Application:
    """The venues on these books, which are shut with it."""

    async def shut(_: web.Application) -> None:
        books.shut()

    async def accounts(request: web.Request) -> web.Response:
        asked = await request.json()
        account = books.open_account(asked["venue"], asked["balances"], asked.get("secret"))
        return web.json_response({"key": account.key, "secret": account.secret})

    async def faults(request: web.Request) -> web.Response:
        books.fault_rate = float((await request.json())["rate"])
        return web.json_response({"rate": books.fault_rate})

    async def persons(_: web.Request) -> web.Response:
        waiting = [o for a in books.accounts.values() for o in a.orders if o.rests]
        still = [order for order in waiting if order.open]
        return web.json_response({"placed": len(waiting), "open": len(still)})

    app = web.Application()
    app.on_cleanup.append(shut)
    app.add_routes(
        [
            *(*Kraken(books).routes(), *Binance(books).routes()),
            web.post("/accounts", accounts),
            web.post("/faults", faults),
            web.get("/persons", persons),
        ]
    )
    return app
