"""`botfleet recover`: what to run after a backup was restored."""

import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import click

from console.output import as_json, examples, iso, number, print_document, print_table
from console.wiring import on_store
from shared.errors import Refused

if TYPE_CHECKING:
    from console.recover_report import AccountReport
    from shared.settings import Settings
    from shared.store.engine import Store
    from trade_worker.venues.live import LiveOrders


def _moment(_: click.Context, __: click.Parameter, value: str | None) -> datetime | None:
    """ISO 8601; without an offset it is UTC."""
    if value is None:
        return None
    try:
        moment = datetime.fromisoformat(value)
    except ValueError:
        raise click.BadParameter(f"must be such as 2026-11-21T08:30:00Z, was {value!r}") from None
    return moment if moment.tzinfo else moment.replace(tzinfo=UTC)


@click.command(
    epilog=examples(
        "botfleet recover --dry-run", "botfleet recover --lost-since 2026-11-21T08:30:00Z --yes"
    )
)
@click.option("--dry-run", is_flag=True, help="Ask and show, change nothing.")
@click.option(
    "--lost-since",
    metavar="TIME",
    callback=_moment,
    help="When the backup was made; the newest time in the database by default.",
)
@click.option("--yes", is_flag=True, help="Do not ask first; without a terminal it never asks.")
@as_json
def recover(dry_run: bool, lost_since: datetime | None, yes: bool, as_json: bool) -> None:
    """Find the orders that a restored backup does not know, before the fleet trades on.

    Every service must be stopped. Pauses all bots and changes the ids of new orders, then asks
    the venues for every order that may have been placed since the backup, and writes down what
    is there; nothing is placed or cancelled. Run it again if it was interrupted, or if a venue
    was away: bots of an account that could not be asked do not trade until it was.

    Exit status 1 if something is left to do. --json prints one document.
    """
    from shared.settings import load_settings

    settings = load_settings()

    async def work(store: "Store") -> "tuple[datetime, list[AccountReport]]":
        from console import recover_run
        from console.recover_venue import PatientOrders
        from trade_worker.asking import NOT_FOUND_SECS

        since = lost_since or await _newest_time(store)
        # A script that restores must come to its end; and all of it can be run again.
        if not (yes or dry_run) and sys.stdin.isatty():
            click.confirm(f"Pause every bot of {store} and recover?", abort=True, err=True)
        run = recover_run.look if dry_run else recover_run.recover
        venue = _orders_at(settings, store)
        patient = None if venue is None else PatientOrders(venue)
        fleet = recover_run.Fleet(store=store, venue=patient, not_found_secs=NOT_FOUND_SECS)
        try:
            if venue is not None:
                await venue.start()
            return since, await run(fleet, lost_since=since, said=_say)
        finally:
            if venue is not None:
                await venue.close()

    since, reports = on_store(work)
    left = [report for report in reports if report.problem is not None]
    if as_json:
        accounts = [asdict(report) for report in reports]
        print_document({"lost_since": since, "dry_run": dry_run, "accounts": accounts})
    else:
        _print(since, reports, dry_run=dry_run)
    click.get_current_context().exit(1 if left else 0)


async def _newest_time(store: "Store") -> datetime:
    from shared.store import recovery

    async with store.read() as tx:
        newest = await recovery.newest_time(tx)
    if newest is None:
        raise Refused("nothing was ever written here: there is nothing to recover")
    return newest


def _orders_at(settings: "Settings", store: "Store") -> "LiveOrders | None":
    """The venues, with the keys of the database; None without a vault key."""
    from shared.vault import vault_of
    from shared.venues import VENUES

    vault = vault_of(settings)
    if vault is None:
        return None
    from trade_worker.key_ring import KeyRing
    from trade_worker.venues.limiter import Limiter
    from trade_worker.venues.live import LiveOrders

    proxy = settings.proxy_url
    return LiveOrders(
        urls={name: settings.venue_url(name) for name in VENUES},
        keys=KeyRing(store, vault).open,
        limiters={name: Limiter(venue) for name, venue in VENUES.items()},
        proxy_url=None if proxy is None else proxy.get_secret_value(),
    )


def _say(report: "AccountReport") -> None:
    found = len(report.found)
    state = f"{found} order{'s' * (found != 1)} found"
    if report.problem is not None:
        state = report.problem
    click.echo(f"{report.user} at {report.venue}: {state}", err=True)


def _print(since: datetime, reports: "Sequence[AccountReport]", *, dry_run: bool) -> None:
    click.echo(f"What was ordered since {iso(since)}:")
    print_table(
        ("Account", "Order", "Bot", "Pair", "Sequence", "Status", "Executed", "Outcome"),
        (row for report in reports for row in _orders(report)),
        right=("Bot", "Sequence", "Executed"),
        empty="No order that the database does not know.",
    )
    for report in reports:
        for line in _lines(report):
            click.echo(f"{report.user} at {report.venue}: {line}")
    left = sum(report.problem is not None for report in reports)
    if dry_run:
        click.echo("Nothing was changed.")
    elif left:
        click.echo(f"{left} accounts are left to do: run `botfleet recover` again.")
    else:
        click.echo(
            "Recovered. Every bot is paused: look at `botfleet positions list --open`, start the "
            "services, then the bots (`botfleet bots start`)."
        )


def _orders(report: "AccountReport") -> Iterator[tuple[str, ...]]:
    for order in (*report.settled, *report.found):
        yield (
            f"{report.user} {report.venue}",
            order.client_order_id,
            str(order.bot_id),
            order.pair,
            f"{order.sequence} {order.leg} {order.attempt}",
            order.status,
            number(order.executed),
            order.outcome,
        )


def _lines(report: "AccountReport") -> Iterator[str]:
    if report.problem is not None:
        yield f"NOT RECOVERED: {report.problem}"
    yield from report.notes
    for holding in report.holdings:
        compared = "less than" if holding.short else "enough for"
        yield (
            f"{number(holding.free)} {holding.currency} is free, {compared} the "
            f"{number(holding.held)} that positions hold"
        )
    if report.strangers:
        yield (
            f"{len(report.strangers)} orders look like botfleet's and are of no bot here (of a "
            f"bot that was added after the backup?): {' '.join(report.strangers[:5])}"
        )
