"""`botfleet bots history`: what a bot did, and why."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

import click

from console.output import (
    DASH,
    as_json,
    duration,
    examples,
    iso,
    money,
    number,
    percent,
    print_lines,
)
from console.wiring import on_store
from shared.orders import PositionStatus
from shared.reasons import Reason
from shared.venues import base_of, quote_of

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.orders import Order, StoredFill
    from shared.store.positions import Position

_INDICATORS = (
    ("adx", "ADX", "{:.1f}"),
    ("rsi", "RSI", "{:.1f}"),
    ("momentum_1h", "1 h", "{:+.2%}"),
    ("momentum_4h", "4 h", "{:+.2%}"),
    ("btc_momentum_1h", "BTC 1 h", "{:+.2%}"),
    ("volume_ratio", "volume", "{:.2f}×"),
    ("confidence", "confidence", "{:.0f}"),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Chapter:
    """A position with its orders, oldest first, and its fills in the venue's order."""

    position: "Position"
    orders: "tuple[Order, ...]"
    fills: "tuple[StoredFill, ...]"


@click.command(epilog=examples("botfleet bots history 17", "botfleet bots history 17 --json"))
@click.argument("bot_id", metavar="ID", type=int)
@click.option(
    "--limit", default=20, show_default=True, type=click.IntRange(1, 10_000), help="How many."
)
@click.option("--before", metavar="POSITION", type=int, help="Only older ones, for paging.")
@as_json
def history(bot_id: int, limit: int, before: int | None, as_json: bool) -> None:
    """Show a bot's positions, newest first: entry and exit with reasons, facts, fees, result.

    Times are market time. --json prints one object per line: the position, its orders with all
    their facts, its fills.
    """

    async def work(store: "Store") -> list[Chapter]:
        return await _read(store, bot_id, limit, before)

    chapters = on_store(work)
    if as_json:
        print_lines(
            {
                **asdict(chapter.position),
                "orders": [asdict(order) for order in chapter.orders],
                "fills": [asdict(fill) for fill in chapter.fills],
            }
            for chapter in chapters
        )
        return
    if not chapters:
        click.echo(f"Bot {bot_id} has not traded: `botfleet bots explain {bot_id}` says why.")
    for chapter in chapters:
        print_chapter(chapter)
    if len(chapters) == limit:
        click.echo(f"More may follow: --before {chapters[-1].position.id}")


async def _read(store: "Store", bot_id: int, limit: int, before: int | None) -> list[Chapter]:
    from shared.store import bots, positions

    async with store.read() as tx:
        await bots.get(tx, bot_id)
        found = await positions.page(
            tx, positions.PositionFilter(bot_id=bot_id), limit=limit, before=before
        )
        return [await chapter_of(tx, position) for position in found]


async def chapter_of(tx: Any, position: "Position") -> Chapter:  # noqa: ANN401 - a Transaction
    """The position with its orders and fills."""
    from shared.store import orders

    which = orders.OrderFilter(
        user=position.user,
        bot_id=position.bot_id,
        pair=position.pair,
        position_sequence=position.sequence,
    )
    found = await orders.page(tx, which, limit=1_000)
    fills = await orders.fills_of(
        tx, bot_id=position.bot_id, pair=position.pair, sequence=position.sequence
    )
    return Chapter(position=position, orders=tuple(reversed(found)), fills=tuple(fills))


def print_chapter(chapter: Chapter) -> None:
    """The position in a few lines."""
    position = chapter.position
    quote = quote_of(position.pair)
    click.secho(
        f"position {position.id}: {position.venue} {position.pair}, {position.status}, "
        f"{position.mode}{', unattended: its bot is inactive' if position.unattended else ''}",
        bold=True,
    )
    if position.exit_wanted is not None:
        meant = "written off" if position.exit_reason == "written_off" else "to be sold"
        click.echo(f"  {meant} by hand: {position.exit_wanted or 'no reason given'}")
    if position.stuck:
        click.secho(
            f"  stuck: {position.exit_attempts} exits have failed; the last: "
            f"{position.last_detail or 'nothing was said'}. `botfleet positions write-off "
            f"{position.id} --reason …` settles it by hand",
            fg="red",
        )
    click.echo(
        f"  bought {number(position.entry_quantity)} {base_of(position.pair)} for "
        f"{money(position.entry_cost, quote)}, fees {money(position.fees, quote)} in all"
    )
    for order in chapter.orders:
        _print_order(order)
    peak = "" if position.peak_profit is None else f", peak {percent(position.peak_profit)}"
    held = (
        DASH
        if position.entered_at is None or position.exited_at is None
        else duration((position.exited_at - position.entered_at).total_seconds())
    )
    closed = position.status is PositionStatus.CLOSED
    if closed and position.exited_at is not None and position.entry_cost:
        result = float(position.realised_pnl / position.entry_cost)
        click.secho(
            f"  result {money(position.realised_pnl, quote, signed=True)} "
            f"({percent(result, signed=True)}) after {held}{peak}",
            fg="green" if position.realised_pnl > 0 else "red",
        )
    click.echo()


def _print_order(order: "Order") -> None:
    price = order.average_price or order.limit_price
    terms = "market" if price is None else number(price)
    click.echo(
        f"  {iso(order.market_time)} {order.side} {number(order.quantity)} at {terms}, "
        f"{order.status}: {_meaning(order.reason)}"
    )
    facts = _facts(order.facts)
    if facts:
        click.echo(f"    {facts}")
    if order.detail:
        click.echo(f"    {order.detail}")


def _meaning(code: str) -> str:
    known = next((reason for reason in Reason if reason.value == code), None)
    return code if known is None else f"{code} ({known.text})"


def _facts(facts: Mapping[str, Any]) -> str:
    indicators = facts.get("indicators", {})
    parts = [
        f"{label} {form.format(indicators[name])}"
        for name, label, form in _INDICATORS
        if indicators.get(name) is not None
    ]
    if indicators.get("regime"):
        parts.insert(0, f"regime {indicators['regime']}")
    return ", ".join(parts)
