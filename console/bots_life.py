"""The verbs that start, pause, stop and remove bots, and show that it happened."""

from typing import TYPE_CHECKING

import click

from console.announce import announce
from console.effects import OUTCOME_SECS, follow, until, waits
from console.output import examples
from console.wiring import on_store
from shared.errors import Refused
from shared.orders import BotStatus

if TYPE_CHECKING:
    from shared.store.bots import Bot
    from shared.store.engine import Store
    from shared.store.positions import Position

_ids = click.argument("bot_ids", metavar="ID...", nargs=-1, required=True, type=int)

_AT_REST = (BotStatus.INACTIVE,)


@click.command(epilog=examples("botfleet bots start 17 18"))
@_ids
@waits
def start(bot_ids: tuple[int, ...], wait: bool) -> None:
    """Let bots enter positions."""
    _set_status(bot_ids, BotStatus.ACTIVE, wait)


@click.command(epilog=examples("botfleet bots pause 17 18"))
@_ids
@waits
def pause(bot_ids: tuple[int, ...], wait: bool) -> None:
    """Stop bots from entering; what is open is watched and sold as usual."""
    _set_status(bot_ids, BotStatus.PAUSED, wait)


@click.command(epilog=examples("botfleet bots stop 17 18", "botfleet bots stop 17 --keep-position"))
@_ids
@click.option(
    "--keep-position",
    is_flag=True,
    help="Sell nothing: what is open stays open, and nobody watches it.",
)
@waits
def stop(bot_ids: tuple[int, ...], keep_position: bool, wait: bool) -> None:
    """Sell what bots have open at the next tick, then make them inactive."""
    if keep_position:
        _set_status(bot_ids, BotStatus.INACTIVE, wait)
        _print_unattended(bot_ids)
        return
    for line in on_store(lambda store: _stop(store, bot_ids, wait)):
        click.echo(line)


@click.command(epilog=examples("botfleet bots remove 17"))
@click.argument("bot_id", metavar="ID", type=int)
def remove(bot_id: int) -> None:
    """Remove an inactive bot that has nothing open. Its history stays, its name is free again."""

    async def work(store: "Store") -> "Bot":
        from shared.settings import load_settings
        from shared.store import bots

        async with store.begin() as tx:
            bot = await bots.get(tx, bot_id)
            try:
                await bots.remove(tx, bot_id)
            except Refused as exc:
                raise Refused(f"{exc} (`botfleet bots stop {bot_id}`)") from exc
        await announce(load_settings(), "bots")
        return bot

    bot = on_store(work)
    click.echo(f"bot {bot.id} {bot.name} of {bot.user} is removed")


def _set_status(bot_ids: tuple[int, ...], status: BotStatus, wait: bool) -> None:
    async def work(store: "Store") -> tuple[list[int], str]:
        from shared.store import bots

        async with store.begin() as tx:
            changed = await bots.set_status(tx, bot_ids, status)
            shards = {(await bots.get(tx, bot_id)).shard for bot_id in bot_ids}
        return changed, await follow(store, shards, wait=wait, change="bots")

    changed, effect = on_store(work)
    for bot_id in dict.fromkeys(bot_ids):
        click.echo(f"bot {bot_id} is {'now' if bot_id in changed else 'already'} {status}")
    click.echo(effect)


async def _stop(store: "Store", bot_ids: tuple[int, ...], wait: bool) -> list[str]:
    from shared.settings import load_settings
    from shared.store import bots

    async with store.begin() as tx:
        await bots.stop(tx, bot_ids)
    await announce(load_settings(), "bots")

    async def look() -> "list[tuple[Bot, list[Position]]]":
        async with store.read() as tx:
            return [
                (await bots.get(tx, bot_id), await _open_of(tx, bot_id))
                for bot_id in dict.fromkeys(bot_ids)
            ]

    seen = await until(
        look,
        lambda seen: all(bot.status in _AT_REST for bot, _ in seen),
        within_secs=OUTCOME_SECS if wait else 0,
    )
    return [_stopped(bot, unclosed) for bot, unclosed in seen]


def _stopped(bot: "Bot", unclosed: "list[Position]") -> str:
    if bot.status in _AT_REST:
        return f"bot {bot.id} is inactive, nothing of it is open"
    markets = ", ".join(position.pair for position in unclosed)
    what = f"{markets} is sold at its next tick" if unclosed else "its worker has not finished it"
    return f"bot {bot.id} is stopping: {what} (`botfleet bots show {bot.id}`)"


async def _open_of(tx: object, bot_id: int) -> "list[Position]":
    from shared.store import positions

    which = positions.PositionFilter(bot_id=bot_id, unclosed=True)
    return await positions.page(tx, which)  # type: ignore[arg-type]


def _print_unattended(bot_ids: tuple[int, ...]) -> None:
    async def work(store: "Store") -> "list[Position]":
        async with store.read() as tx:
            return [
                position
                for bot_id in dict.fromkeys(bot_ids)
                for position in await _open_of(tx, bot_id)
            ]

    for position in on_store(work):
        click.echo(
            f"position {position.id} of bot {position.bot_id} on {position.pair} stays open, "
            f"unattended: `botfleet positions close {position.id}` sells it"
        )
