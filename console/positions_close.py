"""The verb that sells one position by hand, and shows what it brought."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from console.announce import announce
from console.effects import OUTCOME_SECS, until, waits
from console.output import as_json, examples, money, print_document
from console.wiring import on_store
from shared.orders import PositionStatus
from shared.venues import quote_of

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.positions import Position


@click.command(epilog=examples("botfleet positions close 4711 --reason 'news about the coin'"))
@click.argument("position_id", metavar="ID", type=int)
@click.option("--reason", required=True, help="Why, for whoever looks later.")
@waits
@as_json
def close(position_id: int, reason: str, wait: bool, as_json: bool) -> None:
    """Sell a position at the next tick of its market. Its bot goes on as it is."""

    async def work(store: "Store") -> "Position":
        from shared.settings import load_settings
        from shared.store import positions

        async with store.begin() as tx:
            await positions.want_exit(tx, position_id, reason=reason)
        await announce(load_settings(), "bots")

        async def look() -> "Position":
            async with store.read() as tx:
                return await positions.get(tx, position_id)

        return await until(
            look,
            lambda position: position.status is PositionStatus.CLOSED,
            within_secs=OUTCOME_SECS if wait else 0,
        )

    position = on_store(work)
    if as_json:
        print_document(asdict(position))
    elif position.status is PositionStatus.CLOSED:
        result = money(position.realised_pnl, quote_of(position.pair), signed=True)
        click.echo(f"position {position.id} is sold: {result} ({position.exit_reason})")
    else:
        click.echo(
            f"position {position.id} is still {position.status}: it is sold at the next tick of "
            f"{position.pair} on {position.venue} (`botfleet positions show {position.id}`)"
        )
