"""`botfleet bots explain`: what each stage saw on the latest tick, and what denied."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from console.output import (
    DASH,
    as_json,
    duration,
    examples,
    percent,
    print_document,
    print_table,
)
from console.stops import key_stops, stops_of
from console.wiring import on_store
from shared.errors import Refused
from shared.reasons import RISK_FILTER, Reason

if TYPE_CHECKING:
    from rich.text import Text

    from shared.limits import KillSwitches
    from shared.messages import Tick
    from shared.store.bots import Bot
    from shared.store.engine import Store
    from shared.store.loading import LoadedBot
    from shared.store.workers import Heartbeat
    from trade_worker.risk.check import CheckResult

_FRACTIONS: Final = ("momentum", "spread", "profit", "peak", "given_back")
"""Facts whose names contain one of these are fractions, shown as percentages."""

_OPPOSITE: Final[Mapping[str, str]] = {
    "below": "at least",
    "above": "at most",
    "not above": "above",
}
_INSTEAD: Final[Mapping[str, str]] = {"yes": "no", "not flat": "flat", "not known": "known"}
"""What passes, by what denies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PairExplained:
    """One bot on one pair. `verdict` None: it is not judged, and `notes` say why.

    `position_mode` is that of the open position, which may not be the bot's any more; None: there
    is none.

    `checks` are the five stages in order, `exits` the rules for an open position, each entry a
    `trade_worker.risk.check.CheckResult`.
    """

    pair: str
    tick: "Tick | None"
    tick_age_secs: float | None
    verdict: Reason | None
    notes: tuple[str, ...]
    position_mode: str | None
    checks: "tuple[CheckResult, ...]"
    exits: "tuple[CheckResult, ...]"


@click.command(
    epilog=examples("botfleet bots explain 17", "botfleet bots explain 17 --pair BTC/USD")
)
@click.argument("bot_id", metavar="ID", type=int)
@click.option("--pair", help="Only this pair.")
@as_json
def explain(bot_id: int, pair: str | None, as_json: bool) -> None:
    """Explain why a bot trades or not: each threshold beside the value that it met.

    Goes through the five stages on the latest tick of each pair, then through the exits of an
    open position, with the same code that the worker runs.
    """

    async def work(store: "Store") -> "tuple[Bot, list[PairExplained]]":
        from shared.clock import wall_ms

        return await _explain(store, bot_id, pair, wall_ms())

    bot, explained = on_store(work)
    if as_json:
        print_document(
            {
                "bot_id": bot.id,
                "bot": bot.name,
                "user": bot.user,
                "venue": bot.venue,
                "status": bot.status,
                "mode": bot.mode,
                "pairs": [_document(one) for one in explained],
            }
        )
        return
    click.echo(f"bot {bot.id} {bot.name} of {bot.user} on {bot.venue}, {bot.status}, {bot.mode}")
    for one in explained:
        _print(one)


async def _explain(
    store: "Store", bot_id: int, pair: str | None, now_ms: int
) -> "tuple[Bot, list[PairExplained]]":
    from shared.store import bots, loading, switches, ticks, workers

    async with store.read() as tx:
        bot = await bots.get(tx, bot_id)
        loaded = {one.pair: one for one in await loading.load(tx, [bot_id])}
        kill_switches = await switches.read_kill_switches(tx)
        newest = {tick.pair: tick for tick in await ticks.read(tx, venue=bot.venue)}
        processes = await workers.read(tx)
        stops = await stops_of(tx, bot)
    pairs = dict.fromkeys((*bot.pairs, *loaded))
    if pair is not None and pair not in pairs:
        raise Refused(f"bot {bot_id} does not trade {pair}; it trades {', '.join(pairs)}")
    return bot, [
        _one_pair(
            bot,
            name,
            loaded=loaded.get(name),
            switches=kill_switches,
            tick=newest.get(name),
            now_ms=now_ms,
            notes=[*stops, *_not_judged(bot.venue, name, processes)],
        )
        for name in pairs
        if pair in (None, name)
    ]


def _one_pair(
    bot: "Bot",
    pair: str,
    *,
    loaded: "LoadedBot | None",
    switches: "KillSwitches",
    tick: "Tick | None",
    now_ms: int,
    notes: list[str],
) -> PairExplained:
    checks: list[CheckResult] = []
    exits: list[CheckResult] = []
    if loaded is None:
        notes.insert(0, f"the bot is {bot.status}: no worker looks at it (`bots start {bot.id}`)")
    if tick is None:
        notes.append(f"no tick of {bot.venue} {pair} has been stored yet")
    if loaded is not None:
        notes += key_stops(bot, loaded)
    if loaded is not None and tick is not None:
        checks, exits, complaints = _judged(loaded, switches, tick, now_ms)
        notes.extend(complaints)
    return PairExplained(
        pair=pair,
        tick=tick,
        tick_age_secs=None if tick is None else (now_ms - tick.observed_at_ms) / 1000,
        verdict=_verdict(checks),
        notes=tuple(notes),
        position_mode=loaded.position.mode if loaded and loaded.position else None,
        checks=tuple(checks),
        exits=tuple(exits),
    )


def _judged(
    loaded: "LoadedBot", switches: "KillSwitches", tick: "Tick", now_ms: int
) -> "tuple[list[CheckResult], list[CheckResult], tuple[str, ...]]":
    from trade_worker.accounts import Accounts
    from trade_worker.bot_table import BotTable
    from trade_worker.exits import explain_exit
    from trade_worker.risk import pipeline
    from trade_worker.roster import row_of

    table = BotTable(tick.venue, tick.pair, Accounts())
    complaints = table.put(row_of(loaded, switches))
    row = table.row_of(loaded.bot_id)
    if row is None:
        raise AssertionError(f"bot {loaded.bot_id} was put into the table")
    checks = pipeline.explain(table, row, tick, now_ms)
    return checks, explain_exit(table, row, tick), complaints


def _verdict(checks: "Sequence[CheckResult]") -> Reason | None:
    denial = next((check.reason for check in checks if not check.passed), None)
    return denial or (Reason.ENTRY_SIGNAL if checks else None)


def _not_judged(venue: str, pair: str, processes: "Sequence[Heartbeat]") -> list[str]:
    """Why nobody judges the pair at the moment, as far as the processes' reports tell."""
    from console.fleet_status import is_alive
    from shared.store.workers import ProcessKind

    alive = [beat for beat in processes if is_alive(beat)]
    streams = [beat for beat in alive if beat.process.kind is ProcessKind.PRICE_STREAM]
    notes = []
    if not any(beat.process.kind is ProcessKind.TRADE_WORKER for beat in alive):
        notes.append("no trade worker is alive: start one with `botfleet worker`")
    if not streams:
        notes.append("no price stream is alive: start one with `botfleet price-stream`")
    for beat in streams:
        report = beat.report.get("venues", {}).get(venue, {})
        if report.get("reason"):
            notes.append(f"{venue} is silenced: {report['reason']}")
        notes.extend(
            f"{pair} is silenced: {silenced['reason']}"
            for silenced in report.get("silenced", ())
            if silenced.get("pair") == pair
        )
    return notes


def _document(one: PairExplained) -> dict[str, Any]:
    return {
        "pair": one.pair,
        "verdict": one.verdict,
        "verdict_text": None if one.verdict is None else one.verdict.text,
        "notes": one.notes,
        "position_mode": one.position_mode,
        "tick_age_secs": one.tick_age_secs,
        "tick": None if one.tick is None else asdict(one.tick),
        "checks": [asdict(check) for check in one.checks],
        "exits": [asdict(check) for check in one.exits],
    }


def _print(one: PairExplained) -> None:
    click.echo()
    if one.tick is None:
        click.echo(f"{one.pair}: not judged")
    else:
        regime = one.tick.regime or "unknown"
        click.echo(
            f"{one.pair} at {one.tick.price:g}, regime {regime}, tick {duration(one.tick_age_secs)}"
            f" old: {_headline(one)}"
        )
    for note in one.notes:
        click.secho(f"  ! {note}", fg="yellow")
    if one.checks:
        click.echo()
        print_table(
            ("", "Stage", "Fact", "Found", "Denies when", "Field"),
            [_row(check) for check in one.checks if not _known(check)],
            right=("Found",),
            empty="",
        )
        _print_needs(one.checks)
    if one.exits:
        click.echo(f"\nThe open position ({one.position_mode}):")
        print_table(
            ("", "Rule", "Fact", "Found", "Sells when", "Field"),
            [_row(check, exits=True) for check in one.exits],
            right=("Found",),
            empty="",
        )


def _headline(one: PairExplained) -> str:
    if one.verdict is None:
        return "not judged"
    if one.verdict is Reason.ENTRY_SIGNAL:
        return "passes all five stages and enters on the next tick, if its capital allows"
    denied = next(check for check in one.checks if not check.passed)
    failed = [check for check in one.checks if not check.passed]
    stage = RISK_FILTER.index(denied.stage) + 1
    later = len({check.reason for check in failed} - {denied.reason})
    more = f"; {later} more would deny after it" if later else ""
    return f"denied by stage {stage}, {denied.reason}: {denied.description}{more}"


def _known(check: "CheckResult") -> bool:
    """Whether it only says that a fact is known: no line for a person."""
    return check.passed and check.threshold == "not known"


def _print_needs(checks: "Sequence[CheckResult]") -> None:
    """What would have to change, for each reason that denies."""
    denials: dict[Reason, list[CheckResult]] = {}
    for check in checks:
        if not check.passed:
            denials.setdefault(check.reason, []).append(check)
    # What nobody can compare is missed by a check of its own.
    needed = {
        reason: [_need(check) for check in combined]
        for reason, combined in denials.items()
        if any(check.value is not None or check.threshold == "not known" for check in combined)
    }
    if needed:
        click.echo("\nTo enter it needs:")
    for reason, needs in needed.items():
        # Mending one of two combined conditions is enough; where there are three, the second
        # way in has two conditions (a breakout: volume, while rising).
        first, *others = needs
        joined = " or ".join([first, " and ".join(others)]) if others else first
        click.echo(f"  {joined} ({reason})")


def _need(check: "CheckResult") -> str:
    name = check.name.replace("_", " ")
    if isinstance(check.threshold, str):
        return f"{name}: {_INSTEAD.get(check.threshold, check.threshold)}"
    return f"{name} {_OPPOSITE[check.comparison]} {_shown(check.name, check.threshold)}"


def _row(check: "CheckResult", *, exits: bool = False) -> "tuple[str | Text, ...]":
    from rich.text import Text

    # An exit rule "passes" while it does not sell.
    mark, style = ("✓", "green") if check.passed else (("→", "cyan") if exits else ("✗", "red"))
    group = str(check.reason) if exits else f"{RISK_FILTER.index(check.stage) + 1} {check.stage}"
    return (
        Text(mark, style=style),
        group.replace("_", " "),
        check.name.replace("_", " "),
        _shown(check.name, check.value),
        f"{check.comparison} {_shown(check.name, check.threshold)}",
        check.threshold_name or "",
    )


def _shown(name: str, value: float | str | None) -> str:
    if value is None:
        return DASH
    if isinstance(value, str):
        return value
    if name.endswith("_secs"):
        return duration(value) if value >= 0 else f"{value:g} s"
    if any(part in name for part in _FRACTIONS):
        return percent(value)
    return f"{value:.4g}"
