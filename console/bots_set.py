"""`botfleet bots set`: another capital, risk profile or mode."""

from collections.abc import Mapping
from dataclasses import asdict
from decimal import Decimal
from typing import TYPE_CHECKING

import click

from console import fields
from console.effects import follow, waits
from console.going_live import checks_of, print_checks, refuse_unless_all
from console.output import as_json, examples, one_of, print_document
from console.wiring import on_store
from shared.errors import Refused
from shared.orders import Mode

if TYPE_CHECKING:
    from console.live_checks import Check
    from shared.store.bots import Bot
    from shared.store.engine import Store


@click.command(
    "set",
    epilog=examples(
        "botfleet bots set 17 min_adx=25 max_rsi=80",
        "botfleet bots set 17 --capital 5000",
        "botfleet bots set 17 --mode live --dry-run",
    ),
)
@click.argument("bot_id", metavar="ID", type=int)
@click.argument("settings", nargs=-1, metavar="[FIELD=VALUE]...")
@click.option("--capital", help="What it may invest, in the quote currency.")
@click.option(
    "--mode",
    type=one_of(Mode),
    help="paper: fills are simulated; live: real orders. Only while it has nothing open.",
)
@click.option("--dry-run", is_flag=True, help="With --mode live: only look at what it needs.")
@waits
@as_json
def set_(
    bot_id: int,
    settings: tuple[str, ...],
    capital: str | None,
    mode: str | None,
    dry_run: bool,
    wait: bool,
    as_json: bool,
) -> None:
    """Change a bot. Its worker follows within a second; what is open stays open.

    Before a bot goes live, its owner's key is tried at the venue, and balance, markets, limits and
    kill switches are looked at: if anything is wrong, nothing is changed.
    """
    if not settings and capital is None and mode is None:
        raise click.UsageError("Give FIELD=VALUE, --capital or --mode: nothing to change.")
    if dry_run and mode != Mode.LIVE:
        raise click.UsageError("--dry-run goes with --mode live.")
    wanted = fields.assignments(settings)
    amount: Decimal | None = None if capital is None else fields.capital(capital)
    wanted_mode = None if mode is None else fields.mode(mode)
    if wanted_mode is Mode.LIVE:
        checks = on_store(lambda store: _look(store, bot_id, amount, wanted, dry_run))
        if dry_run or not as_json:
            print_checks(bot_id, checks, as_json=as_json)
        refuse_unless_all(bot_id, checks)
    if dry_run:
        return

    async def work(store: "Store") -> "tuple[Bot, str]":
        from shared.store.bots import change, get

        async with store.begin() as tx:
            before = await get(tx, bot_id)
            profile = fields.profile({**before.risk_profile, **wanted})
            bot = await change(tx, bot_id, capital=amount, mode=wanted_mode, risk_profile=profile)
        return bot, await follow(store, {bot.shard}, wait=wait, change="bots")

    bot, effect = on_store(work)
    mode_text = "trades for real now" if wanted_mode is Mode.LIVE else "changed"
    print_changed(bot, f"{mode_text}; {effect}", as_json)


async def _look(
    store: "Store",
    bot_id: int,
    capital: Decimal | None,
    wanted: Mapping[str, float],
    dry_run: bool,
) -> "tuple[Check, ...]":
    from shared.settings import load_settings
    from shared.store.bots import get

    async with store.read() as tx:
        before = await get(tx, bot_id)
    if before.mode is Mode.LIVE and not dry_run:
        raise Refused(f"bot {bot_id} is live already: --dry-run looks at what it needs")
    profile = fields.profile({**before.risk_profile, **wanted})
    return await checks_of(store, load_settings(), bot_id, capital=capital, risk_profile=profile)


def print_changed(bot: "Bot", what: str, as_json: bool) -> None:
    """A bot after a change, and `what` came of it."""
    if as_json:
        print_document(asdict(bot))
    else:
        click.echo(f"bot {bot.id} {bot.name} of {bot.user} {what}")
