"""Bots: add, list, change, start and pause them."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from console import fields
from console.announce import announce
from console.bots_import import import_
from console.bots_life import pause, remove, start, stop
from console.bots_set import print_changed, set_
from console.breakers import breaker_text, breakers_of, reset_bot
from console.explain import explain
from console.history import history
from console.import_file import ImportedBot
from console.listings import listed_pairs
from console.output import (
    as_json,
    examples,
    iso,
    money,
    number,
    one_of,
    print_document,
    print_lines,
    print_table,
)
from console.wiring import on_store
from shared import risk_profile
from shared.errors import Refused
from shared.orders import BotStatus
from shared.venues import VENUES, quote_of

if TYPE_CHECKING:
    from shared.store.bots import Bot
    from shared.store.breakers import Breaker
    from shared.store.engine import Store


@click.group(epilog=examples("botfleet bots list --user ann"))
def bots() -> None:
    """Add, import, change and look at bots."""


bots.add_command(import_)
bots.add_command(explain)
bots.add_command(history)
bots.add_command(reset_bot)
bots.add_command(start)
bots.add_command(pause)
bots.add_command(stop)
bots.add_command(remove)
bots.add_command(set_)


@bots.command(
    epilog=examples(
        "botfleet bots add ann first --venue kraken --pair BTC/USD --pair ETH/USD --capital 2500",
        "botfleet bots add ann second --venue binance --pair BTC/USDT --set min_adx=25",
    )
)
@click.argument("user")
@click.argument("name")
@click.option("--venue", required=True, type=click.Choice(list(VENUES)), help="Where it trades.")
@click.option("--pair", "pairs", required=True, multiple=True, help="What it trades; repeatable.")
@click.option(
    "--capital",
    default=str(fields.DEFAULT_CAPITAL),
    show_default=True,
    help="What it may invest, in the quote currency.",
)
@click.option(
    "--mode",
    default="paper",
    show_default=True,
    help="paper: fills are simulated. `bots set ID --mode live` takes it live later.",
)
@click.option(
    "--status",
    default=BotStatus.ACTIVE.value,
    show_default=True,
    type=click.Choice(["active", "paused", "inactive"]),
    help="What it does first.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="FIELD=VALUE",
    help="A field of its risk profile; repeatable. `botfleet bots fields` lists them.",
)
@click.option("--unlisted-ok", is_flag=True, help="Accept a pair that the venue does not list.")
@as_json
def add(unlisted_ok: bool, as_json: bool, **given: Any) -> None:  # noqa: ANN401 - click's values
    """Add a bot named NAME for USER, who must exist."""
    bot = ImportedBot(
        line=1,
        user=fields.name("user", given["user"]),
        bot=fields.name("name", given["name"]),
        venue=fields.venue(given["venue"]),
        pairs=fields.pairs(given["pairs"]),
        capital=fields.capital(given["capital"]),
        mode=fields.first_mode(given["mode"]),
        status=fields.status(given["status"]),
        risk_profile=fields.profile(fields.assignments(given["settings"])),
    )
    print_changed(on_store(lambda store: _add(store, bot, unlisted_ok)), "added", as_json)


async def _add(store: "Store", bot: ImportedBot, unlisted_ok: bool) -> "Bot":
    from console.bots_import import spec_of
    from shared.settings import load_settings
    from shared.store import bot_import, users
    from shared.store import bots as stored

    if not unlisted_ok:
        async with store.read() as tx:
            listed = await listed_pairs(tx, load_settings(), [bot.venue])
        for pair in bot.pairs:
            fields.require_listed(bot.venue, pair, listed[bot.venue])
    async with store.begin() as tx:
        if await users.by_name(tx, bot.user) is None:
            raise Refused(f"there is no user named {bot.user!r}: botfleet users add {bot.user}")
        added = await stored.get(tx, await bot_import.add(tx, spec_of(bot)))
    await announce(load_settings(), "bots")
    return added


@bots.command(
    "list",
    epilog=examples(
        "botfleet bots list --user ann --status active", "botfleet bots list --json | jq .name"
    ),
)
@click.option("--user", help="Only this user's.")
@click.option("--status", type=one_of(BotStatus), help="Only in this status.")
@click.option("--venue", type=click.Choice(list(VENUES)), help="Only on this venue.")
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
)
@click.option("--after", default=0, metavar="ID", help="Only bots after this id, for paging.")
@as_json
def list_(
    user: str | None, status: str | None, venue: str | None, limit: int, after: int, as_json: bool
) -> None:
    """List bots by id. --json prints one object per line."""

    async def work(store: "Store") -> "list[Bot]":
        from shared.store.bots import BotFilter, page

        which = BotFilter(user=user, status=BotStatus(status) if status else None, venue=venue)
        async with store.read() as tx:
            return await page(tx, which, limit=limit, after=after)

    found = on_store(work)
    if as_json:
        print_lines(asdict(bot) for bot in found)
        return
    print_table(
        ("ID", "User", "Bot", "Venue", "Pairs", "Capital", "Realised", "Mode", "Status"),
        (
            (
                str(bot.id),
                bot.user,
                bot.name,
                bot.venue,
                " ".join(bot.pairs),
                number(bot.capital),
                money(bot.realised, signed=True),
                bot.mode,
                bot.status,
            )
            for bot in found
        ),
        right=("ID", "Capital", "Realised"),
        empty="No such bots.",
    )
    if len(found) == limit:
        click.echo(f"More may follow: --after {found[-1].id}")


@bots.command(epilog=examples("botfleet bots show 17"))
@click.argument("bot_id", metavar="ID", type=int)
@as_json
def show(bot_id: int, as_json: bool) -> None:
    """Show a bot with its open breakers and its whole risk profile."""

    async def work(store: "Store") -> "tuple[Bot, list[Breaker]]":
        from shared.store.bots import get

        async with store.read() as tx:
            bot = await get(tx, bot_id)
            return bot, await breakers_of(tx, bot)

    bot, open_breakers = on_store(work)
    if as_json:
        thresholds = {**risk_profile.DEFAULTS, **bot.risk_profile}
        stopped_by = [asdict(breaker) for breaker in open_breakers]
        print_document(asdict(bot) | {"breakers": stopped_by, "thresholds": thresholds})
        return
    quote = quote_of(bot.pairs[0]) if bot.pairs else ""
    click.echo(f"bot {bot.id} {bot.name} of {bot.user}, {bot.status}, {bot.mode}")
    click.echo(f"{bot.venue}: {' '.join(bot.pairs)}")
    click.echo(
        f"capital {number(bot.capital)} {quote}, realised {money(bot.realised, quote, signed=True)}"
    )
    click.echo(f"added {iso(bot.created_at)}, changed {iso(bot.updated_at)}")
    for breaker in open_breakers:
        click.secho(f"stopped: {breaker_text(breaker)}", fg="yellow")
    click.echo()
    _print_profile(bot.risk_profile)


@bots.command("fields", epilog=examples("botfleet bots fields"))
@as_json
def fields_(as_json: bool) -> None:
    """List the fields of a risk profile: unit, range, default and meaning.

    --json prints one object per line.
    """
    if not as_json:
        _print_profile({})
        return
    print_lines(asdict(threshold) for threshold in risk_profile.THRESHOLDS)


def _print_profile(overrides: Mapping[str, float]) -> None:
    print_table(
        ("Field", "Value", "Default", "Range", "Unit", "Meaning"),
        (
            (
                threshold.name,
                f"{overrides.get(threshold.name, threshold.default):g}",
                f"{threshold.default:g}",
                f"{threshold.low:g} to {threshold.high:g}",
                threshold.unit,
                threshold.text,
            )
            for threshold in risk_profile.THRESHOLDS
        ),
        right=("Value", "Default"),
        empty="",
    )
