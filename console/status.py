"""`botfleet status`: the whole fleet at a glance."""

import asyncio
from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from console.output import (
    DASH,
    amounts,
    as_json,
    duration,
    examples,
    milliseconds,
    print_document,
    terminal,
)
from console.wiring import on_store, opened_bus
from shared.errors import BotfleetError

if TYPE_CHECKING:
    from rich.console import RenderableType
    from rich.table import Table

    from console.fleet_status import FleetStatus
    from shared.settings import Settings
    from shared.store.engine import Store
    from shared.store.positions import Results
    from shared.store.workers import Heartbeat

_SHOWN_SILENCED = 20
_SHOWN_REASONS = 3


@click.command(
    epilog=examples("botfleet status", "botfleet status --watch", "botfleet status --json")
)
@click.option("--watch", is_flag=True, help="Show it again every second, until Ctrl-C.")
@as_json
def status(watch: bool, as_json: bool) -> None:
    """Show who is alive, what is open, and what waits.

    Works with the broker down: it reads the database, where each process reports every second
    or so. Orders are counted among the newest 10,000, results among the newest 20,000 positions.
    --json prints one document (with --watch one every second).
    """
    from shared.settings import load_settings

    settings = load_settings()

    async def work(store: "Store") -> None:
        if watch and not as_json:
            await _watch(store, settings)
            return
        while True:
            found = await _read(store, settings)
            if as_json:
                from console.fleet_status import document

                print_document(document(found))
            else:
                terminal().print(draw(found))
            if not watch:
                return
            await asyncio.sleep(1.0)

    on_store(work)


async def _watch(store: "Store", settings: "Settings") -> None:
    from rich.live import Live

    with Live(console=terminal(), auto_refresh=False) as live:
        while True:
            live.update(draw(await _read(store, settings)), refresh=True)
            await asyncio.sleep(1.0)


async def _read(store: "Store", settings: "Settings") -> "FleetStatus":
    from console.fleet_status import read

    found = await read(store)
    return replace(found, dead_letters=await _dead_letters(settings))


async def _dead_letters(settings: "Settings") -> int | None:
    """How many there are; None without a broker, or while it is down."""
    from shared.bus.dead_letters import DeadLetters

    if settings.broker_url is None or settings.broker_url.startswith("memory:"):
        return None
    try:
        async with opened_bus(settings) as bus:
            return await DeadLetters(bus).count()
    except BotfleetError:
        return None


def draw(found: "FleetStatus") -> "RenderableType":
    """The status for people."""
    from rich.console import Group
    from rich.text import Text

    return Group(
        Text(f"{found.database} at {found.at:%Y-%m-%d %H:%M:%S} UTC", style="dim"),
        *(Text(f"kill switch: {each.text}", style="bold red") for each in found.kill_switches),
        Text(),
        _streams(found),
        Text(),
        _workers(found),
        Text(),
        _figures(found),
    )


def _streams(found: "FleetStatus") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from console.fleet_status import is_alive
    from shared.store.workers import ProcessKind

    drawn: list[RenderableType] = []
    for beat in found.processes:
        if beat.process.kind is not ProcessKind.PRICE_STREAM:
            continue
        report = beat.report
        drawn.append(
            _title(
                f"price stream {beat.process.name}",
                alive=is_alive(beat),
                facts=f"{report.get('role', 'leading')}, epoch "
                f"{report.get('stream_epoch') or DASH}, {report.get('warm', 0)} of "
                f"{report.get('markets', 0)} markets warm, heartbeat "
                f"{duration(beat.silent_secs)} ago, {report.get('published', 0):,} ticks "
                f"published, {report.get('unrouted', 0):,} without a listener, last tick "
                f"{_ago(report.get('last_tick_age_ms'))}",
            )
        )
        drawn.extend(_venues(beat))
    if not drawn:
        return Text("no price stream has reported", style="red")
    if not found.standbys:
        drawn.append(
            Text("no standby: a second `botfleet price-stream` takes over at once", style="dim")
        )
    return Group(*drawn)


def _venues(beat: "Heartbeat") -> "list[RenderableType]":
    from rich.text import Text

    lines: list[RenderableType] = []
    for name, report in beat.report.get("venues", {}).items():
        state = report.get("state", "unknown")
        why = f": {report['reason']}" if report.get("reason") else ""
        lines.append(
            Text.assemble(
                f"  {name} ",
                (f"{state}{why}", "green" if state == "ok" else "red"),
                f", {report.get('markets', 0)} markets, {report.get('polls', 0):,} polls, "
                f"{report.get('failures', 0):,} failed",
            )
        )
        silenced = report.get("silenced", [])
        lines.extend(
            Text(f"    {one['pair']} silenced: {one['reason']}", style="yellow")
            for one in silenced[:_SHOWN_SILENCED]
        )
        if len(silenced) > _SHOWN_SILENCED:
            lines.append(Text(f"    and {len(silenced) - _SHOWN_SILENCED} more", style="yellow"))
    return lines


def _workers(found: "FleetStatus") -> "RenderableType":
    from rich.console import Group
    from rich.text import Text

    from console.fleet_status import is_alive
    from shared.store.workers import ProcessKind

    drawn: list[RenderableType] = []
    for beat in found.processes:
        if beat.process.kind is not ProcessKind.TRADE_WORKER:
            continue
        report = beat.report
        latency, ticks = report.get("latency", {}), report.get("ticks", {})
        drawn.append(
            _title(
                f"worker {beat.process.name}",
                alive=is_alive(beat),
                facts=f"{report.get('shards', 0)} shards, {report.get('rows', 0):,} rows of bots, "
                f"heartbeat {duration(beat.silent_secs)} ago, on {beat.process.host} as process "
                f"{beat.process.pid}",
            )
        )
        drawn.append(
            Text(
                f"  price to order p50 {milliseconds(latency.get('p50_ms'))}, "
                f"p95 {milliseconds(latency.get('p95_ms'))}, "
                f"p99 {milliseconds(latency.get('p99_ms'))} over {latency.get('count', 0):,} "
                f"orders; {ticks.get('judged', 0):,} ticks judged, "
                f"{ticks.get('skipped', 0):,} skipped"
            )
        )
    if not drawn:
        drawn.append(Text("no trade worker has reported", style="red"))
    nobody = len(found.shards_held_by_nobody)
    if nobody:
        drawn.append(Text(f"{nobody} of {len(found.shards)} shards are held by nobody", "red"))
    holders = Counter(lease.owner for lease in found.shards if lease.held)
    drawn.extend(Text(f"  {owner} holds {count} shards") for owner, count in holders.items())
    return Group(*drawn)


def _figures(found: "FleetStatus") -> "Table":
    from rich.table import Table

    from console.fleet_status import unrealised

    waiting = f"{found.outbox.events:,} events unsent"
    if found.outbox.oldest_at is not None:
        age = (found.at - found.outbox.oldest_at).total_seconds()
        waiting += f", the oldest for {duration(age)}"
    drawn = Table.grid(padding=(0, 2))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column()
    for stage, text in _denied(found).items():
        drawn.add_row(stage, text)
    drawn.add_row("bots", _counts(found.bots))
    if found.breakers:
        counts = found.breakers.items()
        stopped = ", ".join(f"{n:,} {scope}{'s' * (n != 1)}" for scope, n in counts)
        drawn.add_row("breakers", f"{stopped} (botfleet bots show ID says why)")
    drawn.add_row("positions", _counts(found.positions))
    if found.stuck:
        ids = " ".join(str(position.id) for position in found.stuck)
        drawn.add_row("stuck", f"{ids} (botfleet positions list --stuck)", style="red")
    drawn.add_row("unrealised", amounts(unrealised(found.open_positions)))
    drawn.add_row("trades", _brought(found.results))
    if found.live_results is not None and found.live_results.closed:
        drawn.add_row("of them live", _brought(found.live_results))
    drawn.add_row("orders", _counts(found.orders))
    if found.keys_in_trouble:
        user, venue, why = found.keys_in_trouble[0]
        more = (
            ""
            if len(found.keys_in_trouble) == 1
            else f", and {len(found.keys_in_trouble) - 1} more"
        )
        drawn.add_row("keys", f"{user} on {venue}: {why}{more} (botfleet keys list)", style="red")
    drawn.add_row("outbox", waiting)
    drawn.add_row(
        "dead letters",
        "no broker asked" if found.dead_letters is None else f"{found.dead_letters:,}",
    )
    return drawn


def _brought(results: "Results") -> str:
    return (
        f"{sum(results.closed.values()):,}, {sum(results.won.values()):,} won, "
        f"{amounts(results.realised_pnl)}"
    )


def _denied(found: "FleetStatus") -> dict[str, str]:
    from console.fleet_status import denied_by_stage

    lines = {}
    for stage, denied in denied_by_stage(found.verdicts).items():
        reasons = ", ".join(
            f"{reason.replace('_', ' ')} {count:,}"
            for reason, count in list(denied.items())[:_SHOWN_REASONS]
        )
        total = sum(denied.values())
        lines[stage.replace("_", " ")] = f"{total:,} denied" + (f": {reasons}" if reasons else "")
    return lines


def _title(name: str, *, alive: bool, facts: str) -> "RenderableType":
    from rich.text import Text

    mark = ("● ", "green") if alive else ("○ ", "red")
    gone = "" if alive else " (silent: gone or hung)"
    return Text.assemble(mark, (name, "bold"), gone, f"  {facts}")


def _ago(age_ms: float | None) -> str:
    return DASH if age_ms is None else f"{duration(age_ms / 1000)} old"


def _counts(counts: Mapping[Any, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in counts.items()) or "none"
