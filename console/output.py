"""How answers look: tables and figures for people, JSON for machines.

Machines get one JSON document from verbs that show one thing, and JSON lines (one object per
line) from verbs that list. Decimals are texts, exact; times are ISO 8601 in UTC.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime
from decimal import Decimal
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from shared.money import plain

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table
    from rich.text import Text

DASH: Final = "–"
"""Stands for what is not known or does not apply."""

_WIDE: Final = 250
"""Columns of output that goes to a file or a pipe: tables are not folded there."""

_Command = TypeVar("_Command", bound=Callable[..., Any])

as_json = click.option(
    "--json", "as_json", is_flag=True, help="For machines: JSON with stable keys, no table."
)


def one_of(values: type[StrEnum]) -> click.Choice[str]:
    """An option's type: the values of an enum. Click by itself would take its names."""
    return click.Choice([member.value for member in values])


def examples(*lines: str) -> str:
    r"""An `epilog=` that click leaves as it is: `examples("botfleet bots list")`."""
    heading = "Example:" if len(lines) == 1 else "Examples:"
    return "\n".join(["\b", heading, *(f"  {line}" for line in lines)])


def print_document(document: Mapping[str, Any]) -> None:
    """One JSON document."""
    import orjson

    click.echo(orjson.dumps(document, default=_plain, option=_options() | orjson.OPT_INDENT_2))


def print_lines(rows: Iterable[Mapping[str, Any]]) -> None:
    """JSON lines: one object per row."""
    import orjson

    for row in rows:
        click.echo(orjson.dumps(row, default=_plain, option=_options()))


def _options() -> int:
    import orjson

    return orjson.OPT_UTC_Z | orjson.OPT_NON_STR_KEYS


def _plain(value: object) -> object:
    if isinstance(value, Decimal):
        return plain(value)
    if isinstance(value, bytes | frozenset):
        return value.hex() if isinstance(value, bytes) else sorted(value)
    raise TypeError(f"{type(value).__name__} has no JSON form")


def terminal() -> "Console":
    """Standard output for people: folded to the terminal, and not at all elsewhere."""
    from rich.console import Console

    console = Console(highlight=False, soft_wrap=False)
    return console if console.is_terminal else Console(width=_WIDE, highlight=False)


def print_renderable(renderable: "RenderableType") -> None:
    """Anything that rich can draw."""
    terminal().print(renderable)


def table(*columns: str, right: Sequence[str] = (), title: str | None = None) -> "Table":
    """An empty table in the one style that all of botfleet's tables have.

    `right` names the columns of figures.
    """
    from rich import box
    from rich.table import Table

    drawn = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for column in columns:
        drawn.add_column(
            column,
            justify="right" if column in right else "left",
            no_wrap=column in right,
            overflow="fold",
        )
    return drawn


def print_table(
    columns: Sequence[str],
    rows: Iterable[Sequence["str | Text"]],
    *,
    right: Sequence[str] = (),
    empty: str,
) -> None:
    """A table, or the sentence `empty` if there are no rows."""
    from rich.text import Text

    drawn = table(*columns, right=right)
    for row in rows:
        # Names come from people: they must not be read as rich's markup.
        drawn.add_row(*(Text(cell) if isinstance(cell, str) else cell for cell in row))
    if drawn.row_count:
        print_renderable(drawn)
    else:
        click.echo(empty)


def iso(moment: datetime | None) -> str:
    """`2026-11-21T01:02:03Z`."""
    return DASH if moment is None else moment.strftime("%Y-%m-%dT%H:%M:%SZ")


def duration(secs: float | None) -> str:
    """A length of time in its two largest units.

    >>> duration(0.25), duration(75), duration(90_061)
    ('0.2 s', '1 min 15 s', '1 d 1 h')
    """
    if secs is None:
        return DASH
    if secs < 60:
        return f"{secs:.1f} s" if secs < 10 else f"{secs:.0f} s"
    minutes, seconds = divmod(round(secs), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days} d {hours} h"
    if hours:
        return f"{hours} h {minutes} min"
    return f"{minutes} min {seconds} s"


def number(value: Decimal | None, places: int = 8) -> str:
    """A quantity or price, rounded for people, without trailing zeros.

    >>> number(Decimal("0.10000000")), number(Decimal("1234.5"))
    ('0.1', '1,234.5')
    """
    if value is None:
        return DASH
    text = f"{value:,.{places}f}"
    return text.rstrip("0").rstrip(".") if "." in text else text


def money(value: Decimal | None, currency: str = "", *, signed: bool = False) -> str:
    """An amount with two decimals and its currency: `+1,234.50 USD`."""
    if value is None:
        return DASH
    return f"{value:{'+' if signed else ''},.2f} {currency}".rstrip()


def amounts(by_currency: Mapping[str, Decimal]) -> str:
    """Signed amounts of several currencies: `+12.30 USD -4.00 USDT`."""
    shown = (money(amount, name, signed=True) for name, amount in sorted(by_currency.items()))
    return " ".join(shown) or DASH


def percent(fraction: float | None, *, signed: bool = False) -> str:
    """`1.50 %` of 0.015."""
    return DASH if fraction is None else f"{fraction * 100:{'+' if signed else ''}.2f} %"


def milliseconds(value: float | None) -> str:
    """`12.5 ms`."""
    return DASH if value is None else f"{value:,.1f} ms"
