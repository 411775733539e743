"""Orders: every one that was committed, with its times and facts."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from console.output import (
    as_json,
    examples,
    iso,
    milliseconds,
    number,
    one_of,
    print_lines,
    print_table,
)
from console.wiring import on_store
from shared.orders import Leg, OrderStatus
from shared.venues import VENUES

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.orders import Order, OrderFilter


@click.command(
    epilog=examples(
        "botfleet orders --bot 17",
        "botfleet orders --unsettled",
        "botfleet orders --json --limit 1000 | jq .facts",
    )
)
@click.option("--bot", "bot_id", type=int, metavar="ID", help="Only this bot's.")
@click.option("--user", help="Only this user's.")
@click.option("--status", type=one_of(OrderStatus), help="Only in this status.")
@click.option("--venue", type=click.Choice(list(VENUES)), help="Only on this venue.")
@click.option("--pair", help="Only of this pair.")
@click.option("--leg", type=one_of(Leg), help="Only entries or only exits.")
@click.option("--unsettled", is_flag=True, help="Only those whose outcome is not final.")
@click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
)
@click.option("--before", type=int, metavar="ID", help="Only older ones, for paging.")
@as_json
def orders(limit: int, before: int | None, as_json: bool, **filters: object) -> None:
    """List orders, newest first.

    Latency is from when the price was observed to when the order was committed. `positions show`
    has what the venue said. --json prints one object per line with every column.
    """
    which = _filter(filters)

    async def work(store: "Store") -> "list[Order]":
        from shared.store.orders import page

        async with store.read() as tx:
            return await page(tx, which, limit=limit, before=before)

    found = on_store(work)
    if as_json:
        print_lines(asdict(order) for order in found)
        return
    print_table(
        (
            "ID",
            "Committed",
            "Bot",
            "Market",
            "Mode",
            "Side",
            "Quantity",
            "Price",
            "Status",
            "Reason",
            "Latency",
        ),
        (_row(order) for order in found),
        right=("ID", "Quantity", "Price", "Latency"),
        empty="No such orders.",
    )
    if len(found) == limit:
        click.echo(f"More may follow: --before {found[-1].id}")


def _filter(given: dict[str, object]) -> "OrderFilter":
    from shared.store.orders import OrderFilter

    kinds = {"status": OrderStatus, "leg": Leg}
    return OrderFilter(
        **{
            name: kinds[name](value) if name in kinds and value is not None else value  # type: ignore[arg-type]
            for name, value in given.items()
        }
    )


def _row(order: "Order") -> tuple[str, ...]:
    price = order.average_price or order.limit_price
    latency = (order.committed_at - order.observed_at).total_seconds() * 1000
    return (
        str(order.id),
        iso(order.committed_at),
        f"{order.bot_id} {order.user}/{order.bot}",
        f"{order.venue} {order.pair}",
        order.mode,
        order.side,
        number(order.filled_quantity or order.quantity),
        "market" if price is None else number(price),
        order.status,
        order.reason,
        milliseconds(latency),
    )
