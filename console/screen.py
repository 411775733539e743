"""The demo's live screen: one picture of the fleet that fits the terminal, however it is sized.

Drawing is a pure function of what was read; `draw` decides nothing about when or how often.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Final

from rich.console import Console, ConsoleOptions, Group, RenderableType, RenderResult
from rich.layout import Layout
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from console.fleet_status import FleetStatus, OpenPosition, denied_by_stage, unrealised
from console.output import DASH, amounts, duration, milliseconds, money, percent
from shared.clock import datetime_of
from shared.messages import Tick
from shared.reasons import RISK_FILTER, Reason
from shared.store.positions import Position
from shared.store.workers import ProcessKind
from shared.venues import quote_of

FRESH_MS: Final = 2_500
"""A tick younger than this is marked as just arrived."""

_TICKS_WIDTH: Final = 33
"""Columns that the longest line of a tick needs, frame included."""

_WIDE: Final = 78
"""A panel at least this wide shows the longer form of its rows."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """What the screen shows at one moment. `ticks_per_sec` is measured between readings."""

    status: FleetStatus
    speed: float
    up_secs: float
    ticks: int
    ticks_per_sec: float
    trouble: str | None = None


def draw(picture: Picture) -> Layout:
    """The whole screen."""
    layout = Layout()
    layout.split_column(
        Layout(_head(picture), size=1),
        Layout(_figures(picture), size=2),
        Layout(_panel("why bots did not enter, on the latest tick", picture, _funnel), size=9),
        Layout(name="rows"),
    )
    layout["rows"].split_row(
        Layout(_panel("ticks", picture, _ticks), size=_TICKS_WIDTH),
        Layout(name="money"),
    )
    layout["money"].split_column(
        Layout(_panel("open positions", picture, _positions)),
        Layout(_panel("trades", picture, _trades)),
    )
    return layout


def summary(picture: Picture) -> str:
    """The same in one line, for logs."""
    status, results = picture.status, picture.status.results
    stages = ", ".join(
        f"{stage.replace('_', ' ')} {sum(denied.values())}"
        for stage, denied in denied_by_stage(status.verdicts).items()
    )
    return (
        f"ticks {picture.ticks} ({picture.ticks_per_sec:.0f}/s on {len(status.ticks)} markets) | "
        f"denied: {stages}; entering {status.verdicts.get(Reason.ENTRY_SIGNAL, 0)} | "
        f"open positions {sum(status.positions.values())} | "
        f"trades {sum(results.closed.values())} ({sum(results.won.values())} won), "
        f"P&L {amounts(results.realised_pnl)} | "
        f"price to order p50 {milliseconds(status.latency['p50_ms'])}, "
        f"p99 {milliseconds(status.latency['p99_ms'])}"
    )


@dataclass(frozen=True, slots=True)
class _Room:
    """What a section may fill: lines and columns of text."""

    height: int
    width: int

    @property
    def wide(self) -> bool:
        return self.width >= _WIDE


@dataclass(frozen=True, slots=True)
class _Section:
    """One part of the screen, drawn when its size is known."""

    picture: Picture
    contents: "_Contents"

    def __rich_console__(self, _console: Console, options: ConsoleOptions) -> RenderResult:
        yield self.contents(
            self.picture, _Room(options.height or options.max_height, options.max_width)
        )


_Contents = Callable[[Picture, _Room], RenderableType]


def _funnel(picture: Picture, room: _Room) -> Table:
    """The five stages and sizing: how many rows each denied, and for which reasons."""
    verdicts = picture.status.verdicts
    total = sum(verdicts.values())
    bar_width = 24 if room.width > 110 else 12
    table = _grid("left", "left", "right")
    table.add_column(ratio=1, no_wrap=True, overflow="ellipsis")
    table.expand = True
    for number, (stage, denied) in enumerate(denied_by_stage(verdicts).items(), 1):
        count = sum(denied.values())
        name = f"{number} {stage.replace('_', ' ')}" if stage in RISK_FILTER else "  sizing"
        table.add_row(name, _bar(count, total, bar_width), f"{count:,}", _reasons(denied))
    entering = verdicts.get(Reason.ENTRY_SIGNAL, 0)
    table.add_row(
        Text("  enter", style="green"),
        _bar(entering, total, bar_width, style="green"),
        Text(f"{entering:,}", style="green"),
        Text(f"of {total:,} rows (a bot on a pair)", style="dim"),
    )
    return table


def _ticks(picture: Picture, room: _Room) -> Table:
    """Markets with their latest price and 1 h momentum; fresh arrivals are marked."""
    table = _grid("left", "right", "right")
    now_ms = picture.status.at.timestamp() * 1000
    for tick in _chosen(picture.status.ticks, room.height):
        fresh = now_ms - tick.observed_at_ms < FRESH_MS
        momentum = tick.indicators.momentum_1h
        table.add_row(
            Text("● " if fresh else "○ ", style="green" if fresh else "dim")
            + Text(tick.pair, style="default"),
            f"{tick.price:.6g}",
            _signed(percent(momentum, signed=True), momentum),
        )
    return table


def _chosen(ticks: Sequence[Tick], height: int) -> Sequence[Tick]:
    """As many of each venue as fit, so that every venue stays in view."""
    if len(ticks) <= height:
        return ticks
    venues = sorted({tick.venue for tick in ticks}, reverse=True)
    share = max(1, height // len(venues))
    by_venue = ([tick for tick in ticks if tick.venue == venue] for venue in venues)
    return [tick for of_venue in by_venue for tick in of_venue[:share]]


def _positions(picture: Picture, room: _Room) -> RenderableType:
    """The newest open positions, valued at the bid."""
    found = picture.status.open_positions
    if not found:
        return Text("none yet", style="dim")
    table = _grid("left", "left", *(("right", "left") if room.wide else ()), *3 * ("right",))
    for open_position in found[: room.height]:
        table.add_row(*_position_cells(picture, open_position, wide=room.wide))
    return table


def _position_cells(
    picture: Picture, open_position: OpenPosition, *, wide: bool
) -> list[Text | str]:
    position = open_position.position
    cells: list[Text | str] = [position.pair, _who(position, wide=wide)]
    if wide:
        cells += [money(position.entry_cost, quote_of(position.pair)), position.regime or DASH]
    return [
        *cells,
        _signed(percent(open_position.profit, signed=True), open_position.profit),
        _signed(money(open_position.gain, signed=True), open_position.gain),
        Text(_short(_age_secs(picture, position)), style="dim"),
    ]


def _trades(picture: Picture, room: _Room) -> RenderableType:
    """The last trades with their result and the reason of their exit."""
    trades = picture.status.trades
    if not trades:
        return Text("none yet", style="dim")
    wide = room.wide
    table = _grid("left", "left", *(("right",) if wide else ()), "right", "left")
    if wide:
        table.add_column(justify="right")
    for position in trades[: room.height]:
        table.add_row(*_trade_cells(position, wide=wide))
    return table


def _trade_cells(position: Position, *, wide: bool) -> list[Text | str]:
    pnl, reason = position.realised_pnl, (position.exit_reason or "").replace("_", " ")
    if not wide:
        gain = _signed(money(pnl, signed=True), pnl)
        return [position.pair, _who(position, wide=wide), gain, reason]
    share = float(pnl / position.entry_cost) if position.entry_cost else None
    held = None
    if position.exited_at and position.entered_at:
        held = (position.exited_at - position.entered_at).total_seconds()
    return [
        position.pair,
        _who(position, wide=wide),
        _signed(percent(share, signed=True), share),
        _signed(money(pnl, quote_of(position.pair), signed=True), pnl),
        reason,
        Text(_short(held), style="dim"),
    ]


def _head(picture: Picture) -> Table:
    market_ms = picture.status.market_time_ms
    clock = DASH if market_ms is None else f"{datetime_of(market_ms):%Y-%m-%d %H:%M}"
    head = Table.grid(expand=True)
    head.add_column(no_wrap=True)
    head.add_column(justify="right", no_wrap=True)
    head.add_row(
        Text(f" botfleet demo   market clock {clock} (×{picture.speed:g})"),
        Text(f"up {duration(picture.up_secs)}   Ctrl-C stops "),
        style="bold reverse",
    )
    return head


def _figures(picture: Picture) -> Group:
    status, results = picture.status, picture.status.results
    closed, won = sum(results.closed.values()), sum(results.won.values())
    latency = status.latency
    if picture.trouble:
        first = Text(f" {picture.trouble}", style="bold red")
    elif not status.alive(ProcessKind.TRADE_WORKER):
        first = Text(" the worker is starting …", style="yellow")
    else:
        first = Text.assemble(
            *_figure("ticks", f"{picture.ticks:,} ({picture.ticks_per_sec:.0f}/s)"),
            *_figure("markets", f"{len(status.ticks)}"),
            *_figure("bots", f"{sum(status.bots.values())}"),
            *_figure(
                "price → order", f"p50 {_ms(latency['p50_ms'])}, p99 {_ms(latency['p99_ms'])}"
            ),
        )
    second = Text.assemble(
        *_figure("open", f"{sum(status.positions.values())},"),
        _whole(unrealised(status.open_positions)),
        *_figure("  trades", f"{closed}, {won} won,"),
        _whole(results.realised_pnl),
    )
    for line in (first, second):
        line.no_wrap, line.overflow = True, "ellipsis"
    return Group(first, second)


def _whole(by_currency: Mapping[str, Decimal]) -> str:
    """Amounts without their cents: two currencies fit into 80 columns."""
    shown = (f"{amount:+,.0f} {name}" for name, amount in sorted(by_currency.items()))
    return " ".join(shown) or DASH


def _figure(name: str, value: str) -> tuple[tuple[str, str], str]:
    return (f" {name} ", "dim"), f"{value} "


def _panel(title: str, picture: Picture, contents: _Contents) -> Panel:
    section = _Section(picture, contents)
    return Panel(section, title=title, title_align="left", border_style="dim", padding=(0, 1))


def _grid(*justify: str) -> Table:
    grid = Table.grid(padding=(0, 1), expand=False)
    for side in justify:
        grid.add_column(justify=side, no_wrap=True, overflow="ellipsis")  # type: ignore[arg-type]
    return grid


def _bar(count: int, total: int, width: int, style: str = "cyan") -> Text:
    filled = round(width * count / total) if total else 0
    filled = max(filled, 1) if count else 0
    return Text("█" * filled, style=style) + Text("░" * (width - filled), style="dim")


def _reasons(denied: dict[Reason, int]) -> Text:
    shown = ", ".join(f"{reason.replace('_', ' ')} {count:,}" for reason, count in denied.items())
    return Text(shown, style="dim", no_wrap=True, overflow="ellipsis")


def _signed(text: str, value: float | Decimal | None) -> Text:
    if not value:
        return Text(text, style="dim")
    return Text(text, style="green" if value > 0 else "red")


def _who(position: Position, *, wide: bool) -> Text:
    return Text(f"{position.user}/{position.bot}" if wide else position.bot, style="default")


def _age_secs(picture: Picture, position: Position) -> float | None:
    market_ms = picture.status.market_time_ms
    if market_ms is None or position.entered_at is None:
        return None
    return max(0.0, market_ms / 1000 - position.entered_at.timestamp())


def _short(secs: float | None) -> str:
    """`59 m`, `3.2 h`: an age in five characters."""
    if secs is None:
        return DASH
    return f"{secs / 60:.0f} m" if secs < 3600 else f"{secs / 3600:.1f} h"


def _ms(value: float | None) -> str:
    return DASH if value is None else f"{value:.0f} ms"
