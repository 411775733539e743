"""`python -m tests.other_venues --port 0 --journal FILE [--seed N] [--fault-rate P]`.

Beside the venues' own paths: `POST /accounts` {venue, balances, secret?} gives key and secret,
`POST /faults` {rate} changes how often something goes wrong, `GET /persons` tells how many
orders that somebody placed by hand are still waiting, and how many there were.
"""

import argparse
import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from tests.other_venues.binance import Binance
from tests.other_venues.books import Books, Refusal
from tests.other_venues.kraken import Kraken
from tests.other_venues.market import LISTINGS

PERSON_EVERY_SECS = 3.0


async def serve(books: Books, port: int) -> None:
    async def accounts(request: web.Request) -> web.Response:
        asked = await request.json()
        account = books.open_account(asked["venue"], asked["balances"], asked.get("secret"))
        return web.json_response({"key": account.key, "secret": account.secret})

    async def faults(request: web.Request) -> web.Response:
        books.fault_rate = float((await request.json())["rate"])
        return web.json_response({"rate": books.fault_rate})

    async def persons(_: web.Request) -> web.Response:
        waiting = [o for a in books.accounts.values() for o in a.orders if o.rests]
        return web.json_response(
            {"placed": len(waiting), "open": len([order for order in waiting if order.open])}
        )

    app = web.Application()
    app.add_routes(
        [
            *(*Kraken(books).routes(), *Binance(books).routes()),
            web.post("/accounts", accounts),
            web.post("/faults", faults),
            web.get("/persons", persons),
        ]
    )
    runner = web.AppRunner(app, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", port).start()
    sys.stdout.write(f"http://127.0.0.1:{runner.addresses[0][1]}\n")
    sys.stdout.flush()
    while True:
        await asyncio.sleep(PERSON_EVERY_SECS)
        buy_by_hand(books)


def buy_by_hand(books: Books) -> None:
    """On one of the accounts that a person uses, too, buy a little in the bots' markets."""
    visited = [account for account in books.accounts.values() if account.visited]
    if visited:
        account = books.draw.choice(visited)
        wish = books.persons_wish(account, books.draw.choice(LISTINGS[account.venue]), None)
        with suppress(Refusal):
            order = books.accept(account, wish)
            for quantity, price in books.plan(order):
                books.fill(order, quantity, price)
            books.close(order, "expired")


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m tests.other_venues")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--journal", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--fault-rate", type=float, default=0.0)
    asked = parser.parse_args()
    books = Books(journal=asked.journal, seed=asked.seed, fault_rate=asked.fault_rate)
    with suppress(KeyboardInterrupt):
        asyncio.run(serve(books, asked.port))


if __name__ == "__main__":
    main()
