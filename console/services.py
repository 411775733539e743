"""The verbs that run services: all of them, or one per process."""

import asyncio
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from console.demo_fleet import USER_PREFIX
from console.output import examples
from console.wiring import (
    EMBEDDED_DATABASE,
    embedded,
    opened,
    required_broker,
    required_database,
)
from shared.errors import Refused

if TYPE_CHECKING:
    from console.wiring import Builder
    from ecosystem.venue_simulator import SimulatorOptions, VenueSimulator
    from shared.settings import Settings
    from shared.store.engine import Store

ALL, PRICE_STREAM, WORKER = "botfleet all", "botfleet price-stream", "botfleet worker"
"""Names under which the processes show up at the broker and the database."""


@click.command("all", epilog=examples("botfleet all", "BOTFLEET_POLL_INTERVAL_SECS=1 botfleet all"))
def all_services() -> None:
    """Run every service in one process.

    Without DATABASE_URL it keeps its data in var/botfleet.db (SQLite: on paper only), without a
    broker URL it uses a bus in memory. It brings an SQLite file to its schema by itself; on
    PostgreSQL run `botfleet migrate` first.
    """
    from shared.settings import load_settings

    settings = embedded(load_settings())
    # The worker first, so that the first ticks find it listening.
    _start(settings, ALL, _worker_builder(settings.worker_id), _price_stream_builder(), own=True)


@click.command(
    "price-stream",
    epilog=examples(
        "DATABASE_URL=postgresql://… RABBITMQ_URL=amqp://… botfleet price-stream",
    ),
)
def price_stream() -> None:
    """Run the price stream: poll the venues, publish ticks.

    Needs DATABASE_URL and CLOUDAMQP_URL or RABBITMQ_URL.
    """
    settings = _separate()
    _start(settings, PRICE_STREAM, _price_stream_builder())


@click.command(
    epilog=examples("botfleet worker 1", "WORKER_ID=1 botfleet worker"),
)
@click.argument("worker_id", required=False)
def worker(worker_id: str | None) -> None:
    """Run one trade worker: judge ticks, trade.

    WORKER_ID names it, as an ordinal or any text; the environment's WORKER_ID stands in for it.
    Needs DATABASE_URL and CLOUDAMQP_URL or RABBITMQ_URL.
    """
    settings = _separate()
    _start(settings, WORKER, _worker_builder(worker_id or settings.worker_id))


@click.command(epilog=examples("DATABASE_URL=postgresql://… botfleet migrate"))
def migrate() -> None:
    """Bring the database to this version's schema.

    Safe to repeat and to run from several places at once. The first run fixes the shard count
    (BOTFLEET_SHARD_COUNT) for good.
    """
    from shared.settings import load_settings
    from shared.store import schema
    from shared.store.database_url import parse

    settings = load_settings()
    url = required_database(settings)
    schema.migrate(url, shard_count=settings.shard_count)
    click.echo(f"{parse(url)} has schema version {schema.CODE}")


@click.command(
    "simulate-venue",
    epilog=examples(
        "botfleet simulate-venue --port 8040 --speed 60",
        "botfleet simulate-venue --port 8040 --replay candles.csv --speed 600",
        "botfleet simulate-venue --port 8040 --journal var/venue.jsonl",
        "BOTFLEET_KRAKEN_URL=http://127.0.0.1:8040 botfleet all",
    ),
)
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option(
    "--port",
    default=8040,
    show_default=True,
    type=click.IntRange(0, 65_535),
    help="Port to listen on; 0 picks a free one.",
)
@click.option(
    "--speed",
    default=1.0,
    show_default=True,
    type=click.FloatRange(0, min_open=True),
    help="How many times faster than ours the venue's clock runs.",
)
@click.option("--seed", default=1, show_default=True, help="Draws the synthetic market.")
@click.option(
    "--replay",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="CSV of candles (timestamp,open,high,low,close,volume) served as BTC/USD and BTC/USDT.",
)
@click.option(
    "--state",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File that keeps the clock over restarts.",
)
@click.option(
    "--markets",
    default=12,
    show_default=True,
    type=click.IntRange(1, 40),
    help="Markets per venue of the synthetic market.",
)
@click.option(
    "--accounts",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON list of customers who can trade: venue, name, key, secret, balances …",
)
@click.option(
    "--journal",
    type=click.Path(dir_okay=False, path_type=Path),
    help="File to which every order and trade is written, and from which a restart goes on.",
)
@click.option(
    "--faults",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="JSON list of what is to go wrong from the start.",
)
def simulate_venue(**options: object) -> None:
    """Serve made-up prices as Kraken and Binance.

    Answers as the venues do, with a synthetic market or a replayed file. At speed 1 its
    customers can trade, with fills at its own prices.
    Point a fleet at it with BOTFLEET_KRAKEN_URL and BOTFLEET_BINANCE_URL.
    """
    from ecosystem.venue_simulator import SimulatorOptions
    from shared.settings import load_settings
    from shared.telemetry import configure_logging

    settings = load_settings()
    configure_logging(settings.log_level, settings.log_format)
    exit_with(partial(_simulate, SimulatorOptions(**options)))  # type: ignore[arg-type]


class SimulatorService:
    """A started venue simulator as a service: it is there until it is stopped."""

    name = "venue simulator"

    def __init__(self, simulator: "VenueSimulator") -> None:
        self._simulator = simulator
        self._stopping = asyncio.Event()

    async def run(self) -> None:
        """Leave the simulator to its requests until `stop`, then close it. Raises if it dies."""
        try:
            await self._simulator.watch(self._stopping)
        finally:
            await self._simulator.close()

    def stop(self) -> None:
        """Close it soon."""
        self._stopping.set()


async def _simulate(options: "SimulatorOptions") -> None:
    from ecosystem.venue_simulator import VenueSimulator
    from shared.process import run_services

    simulator = VenueSimulator(options)
    await simulator.start()
    click.echo(
        f"Kraken and Binance at {simulator.base_url}: set BOTFLEET_KRAKEN_URL and "
        "BOTFLEET_BINANCE_URL to it"
    )
    await run_services([SimulatorService(simulator)])


def _separate() -> "Settings":
    from shared.settings import load_settings

    settings = load_settings()
    required_database(settings)
    required_broker(settings)
    return settings


def _price_stream_builder() -> "Builder":
    from price_stream.__main__ import build

    return build


def _worker_builder(worker_id: str | None) -> "Builder":
    from trade_worker.__main__ import build

    return partial(build, worker_id=worker_id)


def _start(settings: "Settings", name: str, *builders: "Builder", own: bool = False) -> None:
    from shared.process import run_services
    from shared.telemetry import configure_logging

    async def main() -> None:
        async with opened(settings, name, migrating=own) as (bus, store):
            if own:
                await _refuse_the_demos(store, url=settings.database_url)
            await run_services([await build(settings, bus=bus, store=store) for build in builders])

    configure_logging(settings.log_level, settings.log_format)
    exit_with(main)


async def _refuse_the_demos(store: "Store", *, url: str | None) -> None:
    """Real prices must not meet positions that were opened at simulated ones, in the file that
    both commands use by default."""
    from shared.store import users

    async with store.read() as tx:
        oldest = await users.page(tx, limit=1)
    if url == EMBEDDED_DATABASE and oldest and oldest[0].name.startswith(USER_PREFIX):
        raise Refused(
            f"{store} holds the demo's bots: `botfleet demo` goes on with them; for a fleet of "
            "your own set DATABASE_URL, such as sqlite:///var/mine.db"
        )


def exit_with(main: Callable[[], Awaitable[None]]) -> None:
    """Run services and end the command with their exit code."""
    from shared.process import execute

    click.get_current_context().exit(execute(main))
