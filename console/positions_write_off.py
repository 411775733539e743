"""The verb that settles by hand a position that cannot be sold."""

from typing import TYPE_CHECKING

import click

from console.effects import follow, waits
from console.output import as_json, examples, money, number, print_document
from console.wiring import on_store
from shared.errors import Refused
from shared.venues import base_of, quote_of

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.write_off import WriteOff


@click.command("write-off", epilog=examples("botfleet positions write-off 4711 --reason delisted"))
@click.argument("position_id", metavar="ID", type=int)
@click.option("--reason", required=True, help="Why, and who says so: for whoever looks later.")
@click.option("--yes", is_flag=True, help="Do not ask first.")
@waits
@as_json
def write_off(position_id: int, reason: str, yes: bool, wait: bool, as_json: bool) -> None:
    """Close a position without selling it.

    For one that cannot be sold, or was sold by hand at the venue. What it still holds is given
    up here (at the venue nothing changes), and what it brought so far is booked as its result:
    a loss, which breakers judge like any other. Its bot goes on.
    """
    if not reason.strip():
        raise Refused("--reason must say why: it is all that will be known of it")
    if not yes:
        _ask(on_store(lambda store: _preview(store, position_id)))

    async def work(store: "Store") -> "tuple[WriteOff, str]":
        from shared.store.write_off import write_off

        async with store.begin() as tx:
            done = await write_off(tx, position_id, reason=reason)
        return done, await follow(store, {done.shard}, wait=wait, change="bots")

    done, effect = on_store(work)
    if as_json:
        print_document(
            {
                "id": position_id,
                "bot_id": done.position.bot_id,
                "dust_quantity": done.held,
                "realised_pnl": done.realised_pnl,
            }
        )
    else:
        result = money(done.realised_pnl, quote_of(done.position.pair), signed=True)
        click.echo(f"position {position_id} is written off: {result}; {effect}")


async def _preview(store: "Store", position_id: int) -> "WriteOff":
    from shared.store.write_off import preview

    async with store.read() as tx:
        return await preview(tx, position_id)


def _ask(found: "WriteOff") -> None:
    """Ends the command unless the person agrees."""
    position = found.position
    quote, base = quote_of(position.pair), base_of(position.pair)
    click.echo(
        f"position {position.id} of bot {position.bot_id} ({position.user}/{position.bot}), "
        f"{position.mode}, {position.venue} {position.pair}: {number(found.held)} {base} is given "
        f"up, a result of {money(found.realised_pnl, quote, signed=True)} is booked",
        err=True,
    )
    click.confirm("Write it off?", abort=True, err=True)
