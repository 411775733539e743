"""Telling running services what to do, over the broker."""

import asyncio
from typing import TYPE_CHECKING

import click

from console.announce import wake
from console.output import examples
from console.wiring import on_store, opened_bus
from shared.errors import BrokerUnavailable, Refused
from shared.limits import KillSwitchLevel, KillSwitchScope
from shared.signals import Control, ControlVerb, encode
from shared.topology import SYSTEM, control_key

if TYPE_CHECKING:
    from shared.store.engine import Store


@click.group(epilog=examples("botfleet control shutdown --target 2", "botfleet control pause"))
def control() -> None:
    """Tell running services what to do."""


@control.command(
    epilog=examples(
        "botfleet control reset --target kraken/BTC/USD",
    )
)
@click.option("--target", metavar="VENUE/PAIR", help="One market such as kraken/BTC/USD. [all]")
def reset(target: str | None) -> None:
    """Have workers take the next tick of a market, whatever its sequence.

    For a market whose ticks are dropped as outdated, after the price stream lost its count.
    """
    _send(ControlVerb.RESET, target)
    click.echo(f"told every worker to forget the last tick of {target or 'every market'}")


@control.command(
    epilog=examples(
        "botfleet control shutdown --target 2", "botfleet control shutdown --target trade_worker"
    )
)
@click.option(
    "--target",
    metavar="NAME",
    help="One worker by its name, or price_stream or trade_worker for all of a kind. [all]",
)
@click.option("--yes", is_flag=True, help="Do not ask before everything is stopped.")
def shutdown(target: str | None, yes: bool) -> None:
    """Have services finish what is under way, hand over and stop.

    Whoever starts them (a supervisor, Kubernetes) may start them again.
    """
    if target is None and not yes:
        click.confirm("Stop every service of the fleet?", abort=True)
    _send(ControlVerb.SHUTDOWN, target)
    click.echo(f"told {target or 'every service'} to stop: `botfleet status` shows who is left")


@control.command(epilog=examples("botfleet control pause --reason 'prices look wrong'"))
@click.option("--reason", default="", help="Why, for whoever looks later.")
def pause(reason: str) -> None:
    """Stop entries in the whole fleet; exits go on. The same as `kill-switch on fleet`."""
    _turn(ControlVerb.PAUSE, KillSwitchLevel.ENTRIES, reason)
    click.echo("paused: no new positions in the whole fleet, exits go on")
    click.echo("`botfleet kill-switch status` shows which workers go by it")


@control.command(epilog=examples("botfleet control resume"))
@click.option("--reason", default="", help="Why, for whoever looks later.")
def resume(reason: str) -> None:
    """Turn the fleet's kill switch off. Switches of other scopes stay as they are."""
    _turn(ControlVerb.RESUME, KillSwitchLevel.OFF, reason)
    click.echo("resumed: the fleet's kill switch is off")


def _turn(verb: ControlVerb, level: KillSwitchLevel, reason: str) -> None:
    """The switch in the database does it; the message only wakes, so the broker may be away."""

    async def work(store: "Store") -> None:
        from shared.clock import wall_ms
        from shared.settings import load_settings
        from shared.store import switches

        await switches.turn(store, KillSwitchScope.FLEET, "", level, reason=reason)
        await wake(load_settings(), control_key(verb), Control(verb=verb, at_ms=wall_ms()))

    on_store(work)


def _send(verb: ControlVerb, target: str | None) -> None:
    from shared.bus import Message
    from shared.clock import wall_ms
    from shared.settings import load_settings

    settings = load_settings()
    try:
        body = encode(Control(verb=verb, target=target, at_ms=wall_ms()))
    except ValueError as exc:
        raise Refused(str(exc)) from exc

    async def publish() -> None:
        message = Message(exchange=SYSTEM, routing_key=control_key(verb), body=body)
        async with opened_bus(settings) as bus:
            if not await bus.publish(message, mandatory=True):
                raise BrokerUnavailable("no service listens: `botfleet status` shows who runs")

    asyncio.run(publish())
