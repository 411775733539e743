"""Breakers as people see them, and `reset`, which closes them by hand."""

from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from console.output import as_json, examples, iso, money, number, percent, print_document
from console.wiring import on_store
from shared.errors import Refused
from shared.limits import BreakerKind, BreakerScope

if TYPE_CHECKING:
    from shared.store.bots import Bot
    from shared.store.breakers import Breaker
    from shared.store.engine import Store, Transaction


@click.command("reset", epilog=examples("botfleet bots reset 17"))
@click.argument("bot_id", metavar="ID", type=int)
@as_json
def reset_bot(bot_id: int, as_json: bool) -> None:
    """Close the open breakers of a bot: it may enter again, what it lost is forgiven.

    They close by themselves when the market's UTC day is over.
    """

    async def work(store: "Store") -> "tuple[str, list[BreakerKind], list[Breaker]]":
        from shared.store import bots, breakers

        async with store.begin() as tx:
            bot = await bots.get(tx, bot_id)
            closed = await breakers.reset(tx, BreakerScope.BOT, bot.id)
            return f"bot {bot.id}", closed, await breakers_of(tx, bot)

    whom, closed, left = on_store(work)
    _print_closed(whom, closed, left, as_json=as_json)


@click.command("reset", epilog=examples("botfleet users reset ann"))
@click.argument("name")
@as_json
def reset_user(name: str, as_json: bool) -> None:
    """Close the open breakers of a user: what all of the user's bots lost is forgiven.

    Those of single bots stay: `botfleet bots reset ID`.
    """

    async def work(store: "Store") -> "tuple[str, list[BreakerKind], list[Breaker]]":
        from shared.store import breakers, users

        async with store.begin() as tx:
            user = await users.by_name(tx, name)
            if user is None:
                raise Refused(f"there is no user named {name!r}")
            closed = await breakers.reset(tx, BreakerScope.USER, user.id)
            return f"user {user.name}", closed, []

    whom, closed, left = on_store(work)
    _print_closed(whom, closed, left, as_json=as_json)


async def breakers_of(tx: "Transaction", bot: "Bot") -> "list[Breaker]":
    """The open breakers that stop a bot: its own and its user's."""
    from shared.store import breakers

    subjects = [(BreakerScope.BOT, bot.id), (BreakerScope.USER, bot.user_id)]
    return await breakers.read_open(tx, subjects)


def breaker_text(breaker: "Breaker") -> str:
    """Why a breaker is open, until when, and how to close it: one line for a person."""
    until = "until it is reset"
    if breaker.open_until is not None:
        until = f"until {iso(breaker.open_until)} market time"
    bot = breaker.scope is BreakerScope.BOT
    reset = f"bots reset {breaker.scope_id}" if bot else f"users reset {breaker.name}"
    whom = f"bot {breaker.scope_id}" if bot else f"user {breaker.name}"
    return f"{whom}: {_why(breaker)}; no entries {until} (botfleet {reset})"


def _why(breaker: "Breaker") -> str:
    facts = breaker.facts
    if breaker.kind is BreakerKind.LOSS_STREAK:
        return f"{facts.get('losses')} losses in a row, {facts.get('limit')} are the limit"
    share = percent(float(str(facts.get("max_daily_loss", "nan"))))
    lost, capital = (Decimal(str(facts.get(name, "nan"))) for name in ("loss", "capital"))
    return (
        f"lost {money(lost, str(facts.get('currency')))} in a day ({facts.get('mode')}), "
        f"{share} of {number(capital)} is the limit"
    )


def _print_closed(
    whom: str, closed: list[BreakerKind], left: "list[Breaker]", *, as_json: bool
) -> None:
    if as_json:
        print_document({"closed": closed, "still_open": [asdict(breaker) for breaker in left]})
        return
    names = ", ".join(kind.replace("_", " ") for kind in closed)
    click.echo(f"{whom}: {names} closed" if closed else f"{whom} has no open breaker")
    for breaker in left:
        click.echo(f"still open: {breaker_text(breaker)}")
