"""`python -m tests.other_venues --port 0 --journal FILE [--seed N] [--fault-rate P]`."""

import argparse
import asyncio
import sys
from contextlib import suppress
from pathlib import Path

from aiohttp import web

from tests.other_venues.app import application
from tests.other_venues.books import Books, Refusal
from tests.other_venues.market import LISTINGS

PERSON_EVERY_SECS = 3.0


async def serve(books: Books, port: int) -> None:
    runner = web.AppRunner(application(books), access_log=None)
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
