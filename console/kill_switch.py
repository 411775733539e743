"""The kill switch: stop entries, everything, or sell what is open, and see that it happened."""

import asyncio
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Final

import click

from console.announce import announce
from console.output import as_json, duration, examples, iso, print_document, print_table
from console.wiring import on_store
from shared.errors import Refused
from shared.limits import KillSwitchLevel, KillSwitchScope
from shared.venues import venue_named

if TYPE_CHECKING:
    from datetime import datetime

    from shared.store.engine import Store, Transaction
    from shared.store.switches import KillSwitch
    from shared.store.workers import Heartbeat

ACKNOWLEDGE_SECS: Final = 4.0
"""How long `on` and `off` look for the workers' acknowledgement: they report every second."""

_LOOK_EVERY_SECS: Final = 0.2

_EFFECT: Final = {
    KillSwitchLevel.ENTRIES: "no new positions, exits go on",
    KillSwitchLevel.FLATTEN: "no new positions, what is open is sold",
    KillSwitchLevel.ALL: "nothing new is sent, no exits either",
}
_LEVELS: Final = [level for level in KillSwitchLevel if level is not KillSwitchLevel.OFF]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """Whom a switch covers. `key` is what is stored, `text` what a person types and reads."""

    scope: KillSwitchScope
    key: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acknowledgement:
    """Which of the workers that are alive go by the newest switches, and which do not yet."""

    seen: tuple[str, ...]
    missing: tuple[str, ...]

    @property
    def text(self) -> str:
        total = len(self.seen) + len(self.missing)
        if not total:
            return "no worker is alive: whichever starts goes by it"
        text = f"acknowledged by {len(self.seen)} of {total} workers"
        return f"{text}, not yet by {', '.join(self.missing)}" if self.missing else text


@dataclass(frozen=True, slots=True, kw_only=True)
class ShownSwitch:
    """A switch that is on, as people see it. `open_positions` are those that it covers."""

    target: Target
    switch: "KillSwitch"
    open_positions: int
    acknowledged: Acknowledgement

    @property
    def text(self) -> str:
        """One line: what it stops, since when and why."""
        switch = self.switch
        why = f" ({switch.reason})" if switch.reason else ""
        return (
            f"{_EFFECT[switch.level]}, for {_whom(self.target)}, since {iso(switch.updated_at)}"
            f"{why}; {self.open_positions} positions open; {self.acknowledged.text}"
        )


@click.group(
    "kill-switch",
    epilog=examples("botfleet kill-switch on fleet", "botfleet kill-switch status"),
)
def kill_switch() -> None:
    """Stop the fleet, a venue, a user or a bot at once.

    It needs the database only. Once `on` has returned, no order that it forbids can be
    committed any more, by any worker; it stays on until `off`, over every restart.
    """


_scope = click.argument("scope", type=click.Choice([scope.value for scope in KillSwitchScope]))
_name = click.argument("name", required=False, metavar="[VENUE|USER|ID]")


@kill_switch.command(
    epilog=examples(
        "botfleet kill-switch on fleet --reason 'prices look wrong'",
        "botfleet kill-switch on venue kraken --level all",
        "botfleet kill-switch on user ann --level flatten",
        "botfleet kill-switch on bot 17 --level flatten --yes-flatten 'bot 17'",
    )
)
@_scope
@_name
@click.option(
    "--level",
    default=KillSwitchLevel.ENTRIES.value,
    show_default=True,
    type=click.Choice([level.value for level in _LEVELS]),
    help="entries: no new positions, exits go on. all: nothing new is sent. "
    "flatten: no new positions, and what is open is sold.",
)
@click.option("--reason", default="", help="Why, for whoever looks later.")
@click.option(
    "--yes-flatten",
    metavar="SCOPE",
    help="For scripts: the scope typed back, such as 'fleet' or 'venue kraken'.",
)
@as_json
def on(
    scope: str, name: str | None, level: str, reason: str, yes_flatten: str | None, as_json: bool
) -> None:
    """Turn the switch of a SCOPE on; a level that was on before is replaced.

    SCOPE is `fleet`, `venue VENUE`, `user NAME` or `bot ID`.
    """
    target = on_store(lambda store: _target(store, scope, name))
    if level == KillSwitchLevel.FLATTEN:
        _require_typed_back(target, yes_flatten)
    _turn(target, KillSwitchLevel(level), reason, as_json=as_json)


@kill_switch.command(
    epilog=examples("botfleet kill-switch off fleet", "botfleet kill-switch off user ann")
)
@_scope
@_name
@click.option("--reason", default="", help="Why, for whoever looks later.")
@as_json
def off(scope: str, name: str | None, reason: str, as_json: bool) -> None:
    """Turn the switch of a SCOPE off. Switches of other scopes stay as they are."""
    target = on_store(lambda store: _target(store, scope, name))
    _turn(target, KillSwitchLevel.OFF, reason, as_json=as_json)


@kill_switch.command(epilog=examples("botfleet kill-switch status"))
@as_json
def status(as_json: bool) -> None:
    """Show which switches are on, since when and why, and which workers go by them."""
    found = on_store(_read)
    if as_json:
        print_document({"on": [document(one) for one in found]})
        return
    print_table(
        ("Scope", "Level", "Since", "Open positions", "Workers", "Reason"),
        (
            (
                one.target.text,
                one.switch.level,
                f"{iso(one.switch.updated_at)} ({_ago(one.switch.updated_at)} ago)",
                str(one.open_positions),
                one.acknowledged.text,
                one.switch.reason,
            )
            for one in found
        ),
        right=("Open positions",),
        empty="No kill switch is on.",
    )


async def _target(store: "Store", scope: str, name: str | None) -> Target:
    """Whom the person means. Raises `Refused` for somebody who does not exist."""
    from shared.store import bots, users

    of = KillSwitchScope(scope)
    if of is KillSwitchScope.FLEET:
        if name is not None:
            raise click.UsageError(f"`fleet` takes no name, was {name!r}.")
        return Target(scope=of, key="", text="fleet")
    if name is None:
        raise click.UsageError(f"Which {scope}? Write `{scope} {scope.upper()}`.")
    if of is KillSwitchScope.VENUE:
        return Target(scope=of, key=venue_named(name.lower()).name, text=f"venue {name.lower()}")
    async with store.read() as tx:
        if of is KillSwitchScope.USER:
            user = await users.by_name(tx, name)
            if user is None:
                raise Refused(f"there is no user named {name!r}")
            return Target(scope=of, key=str(user.id), text=f"user {user.name}")
        if not name.isdecimal():
            raise click.UsageError(f"A bot is named by its id, was {name!r}.")
        bot = await bots.get(tx, int(name))
        return Target(scope=of, key=str(bot.id), text=f"bot {bot.id}")


def _require_typed_back(target: Target, typed: str | None) -> None:
    if typed is None:
        click.echo(f"This sells everything that is open: {_whom(target)}.", err=True)
        typed = click.prompt(f"Type `{target.text}` to go on", err=True)
    if typed.strip() != target.text:
        raise Refused(f"nothing was changed: {target.text!r} was to be typed back, was {typed!r}")


def _turn(target: Target, level: KillSwitchLevel, reason: str, *, as_json: bool) -> None:
    from shared.settings import load_settings

    settings = load_settings()

    async def work(store: "Store") -> "tuple[KillSwitch, Acknowledgement]":
        from shared.store import switches

        turned = await switches.turn(store, target.scope, target.key, level, reason=reason)
        await announce(settings, "kill_switch")
        return turned, await _acknowledged(store, turned.version)

    turned, acknowledged = on_store(work)
    if as_json:
        print_document({**asdict(turned), "acknowledged": asdict(acknowledged)})
        return
    state = "off" if level is KillSwitchLevel.OFF else "on"
    click.echo(f"{state}: {_effect(target, level)}; {acknowledged.text}")


def _effect(target: Target, level: KillSwitchLevel) -> str:
    if level is KillSwitchLevel.OFF:
        return f"{_whom(target)} is free of this switch"
    return f"{_EFFECT[level]}, for {_whom(target)}"


def _whom(target: Target) -> str:
    return "the whole fleet" if target.scope is KillSwitchScope.FLEET else target.text


async def _acknowledged(store: "Store", version: int) -> Acknowledgement:
    """Wait a little for every worker to go by the switches of this version."""
    from shared.clock import monotonic_secs
    from shared.store import workers

    deadline = monotonic_secs() + ACKNOWLEDGE_SECS
    while True:
        async with store.read() as tx:
            found = acknowledgement(await workers.read(tx), version)
        if not found.missing or monotonic_secs() > deadline:
            return found
        await asyncio.sleep(_LOOK_EVERY_SECS)


def acknowledgement(processes: "Sequence[Heartbeat]", version: int) -> Acknowledgement:
    """Which workers have applied the switches up to this version, by their last report."""
    from console.fleet_status import is_alive
    from shared.store.workers import ProcessKind

    alive = [
        beat
        for beat in processes
        if beat.process.kind is ProcessKind.TRADE_WORKER and is_alive(beat)
    ]
    seen = {beat.process.name for beat in alive if _seen(beat) >= version}
    return Acknowledgement(
        seen=tuple(sorted(seen)),
        missing=tuple(sorted({beat.process.name for beat in alive} - seen)),
    )


def _seen(beat: "Heartbeat") -> int:
    seen = beat.report.get("kill_switches_seen")
    return seen if isinstance(seen, int) else 0


async def shown(tx: "Transaction") -> list[ShownSwitch]:
    """The switches that are on, newest last."""
    from shared.store import switches, workers

    processes = await workers.read(tx)
    return [
        ShownSwitch(
            target=await _target_of(tx, switch),
            switch=switch,
            open_positions=await switches.count_covered(tx, switch),
            acknowledged=acknowledgement(processes, switch.version),
        )
        for switch in await switches.read_on(tx)
    ]


async def _read(store: "Store") -> list[ShownSwitch]:
    async with store.read() as tx:
        return await shown(tx)


async def _target_of(tx: "Transaction", switch: "KillSwitch") -> Target:
    from shared.store import users

    name = switch.scope_key
    if switch.scope is KillSwitchScope.USER:
        name = (await users.names(tx, [int(name)])).get(int(name), name)
    return Target(scope=switch.scope, key=switch.scope_key, text=f"{switch.scope} {name}".strip())


def document(one: ShownSwitch) -> dict[str, Any]:
    """A switch for machines."""
    return {
        **asdict(one.switch),
        "target": one.target.text,
        "open_positions": one.open_positions,
        "acknowledged": asdict(one.acknowledged),
    }


def _ago(moment: "datetime") -> str:
    from shared.clock import ms_of, wall_ms

    return duration(max(0.0, (wall_ms() - ms_of(moment)) / 1000))
