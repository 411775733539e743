"""The verbs that look at one user and change what it may do."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from console import fields
from console.effects import follow, waits
from console.output import (
    as_json,
    examples,
    iso,
    money,
    number,
    print_document,
)
from console.wiring import on_store
from shared.errors import Refused
from shared.limits import UserStatus

if TYPE_CHECKING:
    from decimal import Decimal

    from shared.store.bots import Bot
    from shared.store.engine import Store, Transaction
    from shared.store.positions import Position
    from shared.store.users import User

NO_LIMIT = "none"

_MOST_BOTS = 1_000_000


@click.command(epilog=examples("botfleet users show ann"))
@click.argument("name")
@as_json
def show(name: str, as_json: bool) -> None:
    """Show a user with its limits, its bots and what is open."""

    async def work(store: "Store") -> "tuple[User, list[Bot], list[Position]]":
        from shared.store import bots, positions

        async with store.read() as tx:
            user = await _existing(tx, name)
            which = positions.PositionFilter(user=name, unclosed=True)
            return (
                user,
                await bots.page(tx, bots.BotFilter(user=name), limit=_MOST_BOTS),
                await positions.page(tx, which, limit=_MOST_BOTS),
            )

    user, bots, unclosed = on_store(work)
    if as_json:
        print_document(
            {
                **asdict(user),
                "bots": [bot.id for bot in bots],
                "open_positions": [position.id for position in unclosed],
            }
        )
        return
    click.echo(f"user {user.id} {user.name}, {user.status}, added {iso(user.created_at)}")
    click.echo(
        f"{len(unclosed)} of at most {user.max_open_positions} positions are open, "
        f"{_notional(user.max_notional)}"
    )
    for bot in bots:
        click.echo(
            f"  bot {bot.id} {bot.name}, {bot.status}, {bot.mode}: {bot.venue} "
            f"{' '.join(bot.pairs)}, realised {money(bot.realised, signed=True)}"
        )
    if not bots:
        click.echo(f"  no bots: `botfleet bots add {user.name} NAME` adds one")


@click.command(
    "set",
    epilog=examples(
        "botfleet users set ann --max-open-positions 20",
        "botfleet users set ann --max-notional 50000",
        "botfleet users set ann --max-notional none",
    ),
)
@click.argument("name")
@click.option(
    "--max-open-positions",
    type=click.IntRange(0, 1_000_000),
    help="At most so many positions at a time, over all of the user's bots.",
)
@click.option(
    "--max-notional",
    metavar="AMOUNT|none",
    help="What all of the user's open positions may have cost, per quote currency.",
)
@waits
@as_json
def set_(
    name: str, max_open_positions: int | None, max_notional: str | None, wait: bool, as_json: bool
) -> None:
    """Change a user's limits. What is open stays open; new positions go by them."""
    if max_open_positions is None and max_notional is None:
        raise click.UsageError("Give --max-open-positions or --max-notional: nothing to change.")
    unlimited = max_notional == NO_LIMIT
    amount = (
        None if max_notional is None or unlimited else fields.amount("--max-notional", max_notional)
    )

    async def work(store: "Store") -> "tuple[User, str]":
        from shared.store import users

        async with store.begin() as tx:
            user = await users.change(
                tx,
                name,
                max_open_positions=max_open_positions,
                max_notional=amount,
                no_max_notional=unlimited,
            )
        return user, await _followed(store, user, wait)

    user, effect = on_store(work)
    limits = f"at most {user.max_open_positions} open positions, {_notional(user.max_notional)}"
    _print(user, limits, effect, as_json)


@click.command(epilog=examples("botfleet users disable ann"))
@click.argument("name")
@waits
@as_json
def disable(name: str, wait: bool, as_json: bool) -> None:
    """Let none of a user's bots enter; what is open is watched and sold as usual."""
    _set_status(name, UserStatus.DISABLED, "no entries, exits go on", wait, as_json)


@click.command(epilog=examples("botfleet users enable ann"))
@click.argument("name")
@waits
@as_json
def enable(name: str, wait: bool, as_json: bool) -> None:
    """Let a user's active bots enter again."""
    _set_status(name, UserStatus.ACTIVE, "its active bots may enter", wait, as_json)


def _set_status(name: str, status: UserStatus, meaning: str, wait: bool, as_json: bool) -> None:
    async def work(store: "Store") -> "tuple[User, bool, str]":
        from shared.store import users

        async with store.begin() as tx:
            before = await _existing(tx, name)
            user = await users.change(tx, name, status=status)
        return user, before.status is not status, await _followed(store, user, wait)

    user, changed, effect = on_store(work)
    word = "now" if changed else "already"
    _print(user, f"{word} {user.status}, {meaning}", effect, as_json)


async def _existing(tx: "Transaction", name: str) -> "User":
    from shared.store import users

    user = await users.by_name(tx, name)
    if user is None:
        raise Refused(f"there is no user named {name!r}")
    return user


async def _followed(store: "Store", user: "User", wait: bool) -> str:
    from shared.store import bots

    async with store.read() as tx:
        shards = {bot.shard for bot in await bots.page(tx, bots.BotFilter(user=user.name), limit=1)}
    return await follow(store, shards, wait=wait, change="bots")


def _print(user: "User", what: str, effect: str, as_json: bool) -> None:
    if as_json:
        print_document(asdict(user))
    else:
        click.echo(f"user {user.id} {user.name}: {what}; {effect}")


def _notional(limit: "Decimal | None") -> str:
    return "any notional" if limit is None else f"at most {number(limit)} of each quote currency"
