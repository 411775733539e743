"""`botfleet demo`: the whole fleet at work on simulated venues, in one process."""

import logging
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

import click

from console.demo_fleet import USER_PREFIX, demo_bots
from console.output import amounts, examples
from console.services import SimulatorService, exit_with
from console.wiring import EMBEDDED_BROKER, embedded, opened
from shared.clock import ms_of
from shared.errors import InvalidSettings, Refused

if TYPE_CHECKING:
    from console.screen import Picture
    from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
    from shared.settings import Settings
    from shared.store.engine import Store, Transaction

log = logging.getLogger("botfleet.demo")

FOLDER: Final = Path("var")
VENUE_STATE: Final = FOLDER / "demo-venue.json"
LOG_FILE: Final = FOLDER / "demo.log"

MARKET_START: Final = datetime(2026, 1, 5, 16, tzinfo=UTC)
"""When the synthetic market begins: always the same, so that every first start shows the same."""

POLL_INTERVAL_SECS: Final = 1.0
"""With the default speed a market minute passes between two polls."""

SCREEN_EVERY_SECS: Final = 1.0
LINES_EVERY_SECS: Final = 3.0


Markets = Mapping[str, Sequence[str]]
"""Venue → the pairs that it lists."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Demo:
    """What to show. `replay` plays a file of candles instead of the synthetic market."""

    speed: float
    bots: int
    users: int
    seed: int
    replay: Path | None


@click.command(
    epilog=examples(
        "botfleet demo",
        "botfleet demo --speed 120 --bots 1000 --users 250 --reset",
        "botfleet demo --replay candles.csv --reset",
    )
)
@click.option(
    "--speed",
    default=60.0,
    show_default=True,
    type=click.FloatRange(1, 3600),
    help="How many times faster than ours the venues' clock runs.",
)
@click.option(
    "--bots",
    default=200,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many bots to make up on the first start.",
)
@click.option(
    "--users",
    default=50,
    show_default=True,
    type=click.IntRange(1, 100_000),
    help="How many users to give them to.",
)
@click.option("--seed", default=1, show_default=True, help="Draws market and bots.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of candles to play instead of the synthetic market.",
)
@click.option("--reset", is_flag=True, help="Start over: forget the demo's bots and trades.")
@click.option("--yes", is_flag=True, help="Do not ask before --reset.")
def demo(reset: bool, yes: bool, **given: object) -> None:
    """Show a fleet at work on simulated venues.

    A price stream, a worker, and at first 200 bots of 50 users.

    Everything runs in this process and on paper. The bots, their positions and the venues' clock
    are kept in var/ (or in DATABASE_URL), so that a second start goes on. On a terminal it draws
    a live screen and logs to var/demo.log; elsewhere it prints log lines. Ctrl-C stops.
    """
    from shared.settings import load_settings

    wanted = Demo(**given)  # type: ignore[arg-type]
    settings = _settings(load_settings())
    if reset:
        _reset(settings, asking=not yes)
    FOLDER.mkdir(exist_ok=True)
    exit_with(lambda: _run(wanted, settings))


def _settings(settings: "Settings") -> "Settings":
    update: dict[str, object] = {
        # Never a configured broker: simulated prices must not reach anybody's workers.
        "broker_url": EMBEDDED_BROKER,
    }
    if "poll_interval_secs" not in settings.model_fields_set:
        update["poll_interval_secs"] = POLL_INTERVAL_SECS
    return embedded(settings).model_copy(update=update)


async def _run(wanted: Demo, settings: "Settings") -> None:
    from console.watch import Watch
    from ecosystem.venue_simulator import VenueSimulator
    from price_stream.__main__ import build as build_price_stream
    from shared.process import run_services
    from trade_worker.__main__ import build as build_worker

    with _display(settings) as (show, every_secs):
        simulator = VenueSimulator(_simulated(wanted))
        await _start(simulator)
        try:
            url = simulator.base_url
            settings = settings.model_copy(update={"kraken_url": url, "binance_url": url})
            async with opened(settings, "botfleet demo", migrating=True) as (bus, store):
                await _settle(store, wanted, cast("Markets", simulator.status()["markets"]))
                watch = Watch(store, speed=wanted.speed, every_secs=every_secs, show=show)
                await run_services(
                    [
                        SimulatorService(simulator),
                        # Before the price stream, so that the first ticks find it listening.
                        await build_worker(settings, bus=bus, store=store, worker_id="demo"),
                        await build_price_stream(settings, bus=bus, store=store),
                        watch,
                    ]
                )
                last = await watch.picture()
        finally:
            await simulator.close()
    if last is not None:
        _say_goodbye(last)


async def _start(simulator: "VenueSimulator") -> None:
    try:
        await simulator.start()
    except InvalidSettings as exc:
        raise InvalidSettings(f"{exc} (`botfleet demo --reset` starts over)") from exc


def _simulated(wanted: Demo) -> "SimulatorOptions":
    from ecosystem.venue_simulator import SimulatorOptions

    return SimulatorOptions(
        speed=wanted.speed,
        seed=wanted.seed,
        replay=wanted.replay,
        state=VENUE_STATE,
        start_ms=None if wanted.replay else ms_of(MARKET_START),
    )


async def _settle(store: "Store", wanted: Demo, markets: "Mapping[str, Sequence[str]]") -> None:
    """Write the demo's users and bots, once. Raises `Refused` where others have theirs."""
    from console.bots_import import spec_of
    from shared.store import bots, users
    from shared.store.bot_import import import_bots

    async with store.begin() as tx:
        if await somebody_elses(tx):
            raise Refused(
                f"{store} holds users that are not the demo's: give the demo a database of its "
                "own, such as DATABASE_URL=sqlite:///var/demo.db"
            )
        if await users.page(tx, limit=1):
            found = sum((await bots.count(tx)).values())
            if found != wanted.bots:
                log.info("going on with the %d bots that are there; --reset starts over", found)
            return
        made = demo_bots(
            users=min(wanted.users, wanted.bots),
            bots=wanted.bots,
            seed=wanted.seed,
            markets=markets,
        )
        await import_bots(tx, [spec_of(bot) for bot in made])


async def somebody_elses(tx: "Transaction") -> bool:
    """Whether the database holds users that the demo did not make up."""
    from shared.store import users

    after = 0
    while page := await users.page(tx, limit=1_000, after=after):
        if not all(user.name.startswith(USER_PREFIX) for user in page):
            return True
        after = page[-1].id
    return False


def _reset(settings: "Settings", *, asking: bool) -> None:
    """Delete the demo's database and its venues' clock, nobody else's."""
    from shared.store.database_url import parse

    path = parse(str(settings.database_url)).path
    if path is None:
        raise Refused("--reset deletes SQLite files only: empty the configured database yourself")
    if path.exists():
        _refuse_in_use(settings)
        if asking:
            click.confirm(f"Delete the demo's bots and trades in {path}?", abort=True)
    for file in (path, *(path.with_name(path.name + end) for end in ("-wal", "-shm"))):
        file.unlink(missing_ok=True)
    VENUE_STATE.unlink(missing_ok=True)


def _refuse_in_use(settings: "Settings") -> None:
    import asyncio

    from console.fleet_status import is_alive
    from shared.store import workers
    from shared.store.engine import connect
    from shared.store.schema import upgrade

    async def look() -> None:
        store = connect(str(settings.database_url), application_name="botfleet demo")
        try:
            await upgrade(store, shard_count=settings.shard_count)
            async with store.read() as tx:
                if any(is_alive(beat) for beat in await workers.read(tx)):
                    raise Refused(f"a fleet is running on {store}: stop it before --reset")
                if await somebody_elses(tx):
                    raise Refused(f"{store} holds users that are not the demo's: nothing deleted")
        finally:
            await store.close()

    asyncio.run(look())


@contextmanager
def _display(settings: "Settings") -> "Iterator[tuple[Callable[[Picture], None], float]]":
    """Where pictures go, and how often: a live screen on a terminal, log lines elsewhere."""
    from console.screen import draw, summary
    from shared.telemetry import configure_logging

    if not sys.stdout.isatty():
        configure_logging(settings.log_level, settings.log_format or "text")
        yield lambda picture: log.info("%s", summary(picture)), LINES_EVERY_SECS
        return

    from rich.console import Console
    from rich.live import Live
    from rich.text import Text

    click.echo("starting the demo …")
    with LOG_FILE.open("a", encoding="utf-8") as file:
        configure_logging(settings.log_level, settings.log_format or "text", file)
        first = Text("starting: loading markets and candles …")
        # The alternate screen survives resizing: nothing that scrolled away is drawn over.
        with Live(first, console=Console(), screen=True, auto_refresh=False) as live:
            yield lambda picture: live.update(draw(picture), refresh=True), SCREEN_EVERY_SECS


def _say_goodbye(last: "Picture") -> None:
    results = last.status.results
    closed, won = sum(results.closed.values()), sum(results.won.values())
    click.echo(
        f"stopped: {sum(last.status.positions.values())} positions are open, {closed} trades "
        f"({won} won), P&L {amounts(results.realised_pnl)}"
    )
    click.echo("start it again to go on, or look around:")
    click.echo(f"  DATABASE_URL={last.status.database} botfleet bots list")
