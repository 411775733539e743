"""`botfleet doctor`: is everything there that a fleet needs, and what to do if not."""

import asyncio
import re
from collections.abc import AsyncIterator
from dataclasses import asdict
from typing import TYPE_CHECKING, Final

import click

from console.output import as_json, duration, examples, print_document, print_table
from console.wiring import BROKER_TIMEOUT_SECS, opened_bus, required_database
from shared.errors import (
    BotfleetError,
    BrokerUnavailable,
    InvalidSettings,
    SchemaMismatch,
    StoreUnavailable,
    VenueUnavailable,
)

if TYPE_CHECKING:
    from console.checkup import Finding
    from shared.settings import Settings
    from shared.store.engine import Store
    from shared.venues import Venue

VENUE_TIMEOUT_SECS: Final = 10.0
DATABASE_TIMEOUT_SECS: Final = 5.0
MAX_CLOCK_OFFSET_SECS: Final = 1.0

_REFUSED_HERE: Final = re.compile(r"\b(403|451)\b")
_STYLES: Final = {"fine": ("✓", "green"), "note": ("!", "yellow"), "wrong": ("✗", "red")}


@click.command(epilog=examples("botfleet doctor", "botfleet doctor --json"))
@as_json
def doctor(as_json: bool) -> None:
    """Check what a fleet needs and say how to mend it.

    Looks at settings, database, schema, broker, venues, processes, queues and keys.

    Exit status 1 if anything is wrong. --json prints one document.
    """
    from rich.text import Text

    findings = asyncio.run(_findings())
    healthy = all(finding.mark != "wrong" for finding in findings)
    if as_json:
        print_document({"healthy": healthy, "checks": [asdict(finding) for finding in findings]})
    else:
        print_table(
            ("", "Check", "Found", "What to do"),
            (
                (
                    Text(*_STYLES[finding.mark]),
                    finding.check,
                    finding.found,
                    finding.cure,
                )
                for finding in findings
            ),
            empty="",
        )
    click.get_current_context().exit(0 if healthy else 1)


async def _findings() -> "list[Finding]":
    from console.checkup import fine, wrong
    from shared.settings import load_settings
    from shared.venues import VENUES

    try:
        settings = load_settings()
    except InvalidSettings as exc:
        return [wrong("settings", str(exc), "mend the environment or .env; see .env.example")]
    venues = asyncio.gather(*(_venue(venue, settings) for venue in VENUES.values()))
    broker, dead_letters = await _broker(settings)
    database = [finding async for finding in _database(settings, dead_letters)]
    return [fine("settings", "complete and spelt right"), *database, broker, *await venues]


async def _database(settings: "Settings", dead_letters: int | None) -> "AsyncIterator[Finding]":
    from console.checkup import fine, note, wrong
    from console.checkup_keys import key_findings
    from shared.store.engine import connect
    from shared.store.schema import CODE, check_schema

    try:
        url = required_database(settings)
        store = connect(
            url,
            application_name="botfleet doctor",
            pool_size=1,
            timeout_secs=DATABASE_TIMEOUT_SECS,
        )
    except InvalidSettings as exc:
        yield wrong("database", str(exc), "set it in the environment or in .env")
        return
    try:
        yield fine("database", f"{await _version(store)} at {store}")
        for warning in await store.durability_warnings():
            what, _, cure = warning.partition("; ")
            yield wrong("durability", what, cure)
        if store.dialect == "sqlite":
            yield note("durability", "SQLite: for demo and trial, on paper only", "use PostgreSQL")
        await check_schema(store)
        yield fine("schema", f"version {CODE}")
        async for finding in _fleet(store, dead_letters):
            yield finding
        for finding in await key_findings(store, settings):
            yield finding
    except SchemaMismatch as exc:
        yield wrong("schema", str(exc), "botfleet migrate")
    except StoreUnavailable as exc:
        cure = "is the server running, and are address, user and password of DATABASE_URL right?"
        yield wrong("database", f"not connected to {store}: {exc}", cure)
    finally:
        await store.close()


async def _version(store: "Store") -> str:
    from sqlalchemy import text

    query = "SHOW server_version" if store.dialect == "postgresql" else "SELECT sqlite_version()"
    async with store.read() as tx:
        version = (await tx.execute(text(query))).scalar_one()
    return f"{'PostgreSQL' if store.dialect == 'postgresql' else 'SQLite'} {version}"


async def _fleet(store: "Store", dead_letters: int | None) -> "AsyncIterator[Finding]":
    from dataclasses import replace

    from console.checkup import judge
    from console.fleet_status import read
    from shared.store import markets

    status = replace(await read(store), dead_letters=dead_letters)
    async with store.read() as tx:
        wanted = sum(len(pairs) for pairs in (await markets.wanted(tx)).values())
    for finding in judge(status, wanted_markets=wanted):
        yield finding


async def _broker(settings: "Settings") -> "tuple[Finding, int | None]":
    """The broker's finding, and how many dead letters it keeps."""
    from console.checkup import fine, note, wrong
    from shared.bus import Message
    from shared.bus.dead_letters import DeadLetters
    from shared.topology import SYSTEM, health_key

    if settings.broker_url is None or settings.broker_url.startswith("memory:"):
        cure = "`botfleet all` needs none; for separate services set CLOUDAMQP_URL or RABBITMQ_URL"
        return note("broker", "none configured", cure), None
    try:
        async with opened_bus(settings) as bus:
            letters = await DeadLetters(bus).count()
            probe = Message(exchange=SYSTEM, routing_key=health_key("doctor"), body=b"{}")
            await bus.publish(probe, timeout_secs=BROKER_TIMEOUT_SECS)
    except InvalidSettings as exc:
        return wrong("broker", str(exc), "mend user, password or virtual host of the URL"), None
    except BrokerUnavailable as exc:
        cure = "a memory or disk alarm stops publishing: `rabbitmqctl status` shows alarms"
        return wrong("broker", f"takes no messages: {exc}", cure), None
    except BotfleetError as exc:
        cure = "is it running, and are host and port of the URL right?"
        return wrong("broker", f"not connected: {exc}", cure), None
    return fine("broker", "connected, takes and confirms messages"), letters


async def _venue(venue: "Venue", settings: "Settings") -> "Finding":
    from console.checkup import fine, note, wrong
    from price_stream.feeds import CcxtFeed
    from shared.clock import wall_ms

    url = settings.venue_url(venue.name)
    feed = CcxtFeed(venue, url=url, timeout_secs=VENUE_TIMEOUT_SECS)
    try:
        offset_secs = ((await feed.server_time()).market_time_ms - wall_ms()) / 1000
    except VenueUnavailable as exc:
        if _REFUSED_HERE.search(str(exc)):
            cure = (
                f"{venue.name} refuses requests from this place (Binance does so in the US): run "
                f"elsewhere, or set BOTFLEET_{venue.name.upper()}_URL"
            )
        else:
            cure = f"can this machine reach {url}? BOTFLEET_{venue.name.upper()}_URL replaces it"
        return wrong(venue.name, f"{url} {exc}", cure)
    finally:
        await feed.close()
    if abs(offset_secs) > MAX_CLOCK_OFFSET_SECS:
        ahead = "ahead of" if offset_secs > 0 else "behind"
        found = f"its clock is {duration(abs(offset_secs))} {ahead} ours"
        return note(venue.name, found, "set this machine's clock by NTP, unless it is a simulator")
    return fine(venue.name, f"{url} answers, clocks agree within {abs(offset_secs) * 1000:.0f} ms")
