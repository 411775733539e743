"""Positions: what is open, and what became of the others."""

from dataclasses import asdict
from typing import TYPE_CHECKING, Any

import click

from console.history import Chapter, chapter_of, print_chapter
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
from console.positions_close import close
from console.positions_write_off import write_off
from console.wiring import on_store
from shared.orders import PositionStatus
from shared.venues import quote_of

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.positions import Position


@click.group(epilog=examples("botfleet positions list --open"))
def positions() -> None:
    """Look at positions, and settle one by hand."""


positions.add_command(close)
positions.add_command(write_off)


@positions.command(
    "list", epilog=examples("botfleet positions list --open", "botfleet positions list --stuck")
)
@click.option("--bot", "bot_id", type=int, metavar="ID", help="Only this bot's.")
@click.option("--user", help="Only this user's.")
@click.option("--status", type=one_of(PositionStatus), help="Only in this status.")
@click.option("--open", "unclosed", is_flag=True, help="Only those that are not closed.")
@click.option("--stuck", is_flag=True, help="Only those whose exits keep failing.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
)
@click.option("--before", type=int, metavar="ID", help="Only older ones, for paging.")
@as_json
def list_(
    bot_id: int | None,
    user: str | None,
    status: str | None,
    unclosed: bool,
    stuck: bool,
    limit: int,
    before: int | None,
    as_json: bool,
) -> None:
    """List positions, newest first. Times are market time.

    --json prints one object per line with every column.
    """

    async def work(store: "Store") -> "list[Position]":
        from shared.store.positions import PositionFilter, page

        which = PositionFilter(
            bot_id=bot_id,
            user=user,
            status=PositionStatus(status) if status else None,
            unclosed=unclosed,
            stuck=stuck,
        )
        async with store.read() as tx:
            return await page(tx, which, limit=limit, before=before)

    found = on_store(work)
    if as_json:
        print_lines(document(position) for position in found)
        return
    print_table(
        ("ID", "Bot", "Market", "Mode", "Status", "Quantity", "Cost", "Result", "Entered", "Exit"),
        (_row(position) for position in found),
        right=("ID", "Quantity", "Cost", "Result"),
        empty="No such positions.",
    )
    if len(found) == limit:
        click.echo(f"More may follow: --before {found[-1].id}")


@positions.command(epilog=examples("botfleet positions show 4711"))
@click.argument("position_id", metavar="ID", type=int)
@as_json
def show(position_id: int, as_json: bool) -> None:
    """Show a position with its orders and fills."""

    async def work(store: "Store") -> Chapter:
        from shared.store.positions import get

        async with store.read() as tx:
            return await chapter_of(tx, await get(tx, position_id))

    chapter = on_store(work)
    if as_json:
        print_document(
            {
                **document(chapter.position),
                "orders": [asdict(order) for order in chapter.orders],
                "fills": [asdict(fill) for fill in chapter.fills],
            }
        )
        return
    print_chapter(chapter)
    print_table(
        ("Filled", "Leg", "Quantity", "Price", "Fee", "Trade"),
        (
            (
                iso(fill.filled_at),
                fill.leg,
                number(fill.quantity),
                number(fill.price),
                f"{number(fill.fee)} {fill.fee_currency}",
                fill.trade_id,
            )
            for fill in chapter.fills
        ),
        right=("Quantity", "Price", "Fee"),
        empty="No fills.",
    )


def document(position: "Position") -> dict[str, Any]:
    """A position for machines."""
    return {**asdict(position), "stuck": position.stuck}


def _state(position: "Position") -> str:
    marks = {"stuck": position.stuck, "unattended": position.unattended}
    return ", ".join([position.status, *(name for name, holds in marks.items() if holds)])


def _row(position: "Position") -> tuple[str, ...]:
    quote = quote_of(position.pair)
    done = position.status is PositionStatus.CLOSED and position.exited_at is not None
    return (
        str(position.id),
        f"{position.bot_id} {position.user}/{position.bot}",
        f"{position.venue} {position.pair}",
        position.mode,
        _state(position),
        number(position.entry_quantity),
        money(position.entry_cost, quote),
        money(position.realised_pnl if done else None, quote, signed=True),
        iso(position.entered_at),
        position.exit_reason or "",
    )
