"""Users: who owns bots."""

from dataclasses import asdict
from typing import TYPE_CHECKING

import click

from console import fields
from console.breakers import reset_user
from console.output import (
    DASH,
    as_json,
    examples,
    iso,
    number,
    print_document,
    print_lines,
    print_table,
)
from console.users_change import disable, enable, set_, show
from console.wiring import on_store

if TYPE_CHECKING:
    from shared.store.engine import Store
    from shared.store.users import User


@click.group(epilog=examples("botfleet users list"))
def users() -> None:
    """Add, change and look at the users whose bots the fleet runs."""


users.add_command(reset_user)


@users.command(epilog=examples("botfleet users add ann --max-open-positions 20"))
@click.argument("name")
@click.option(
    "--max-open-positions",
    default=10,
    show_default=True,
    type=click.IntRange(0, 1_000_000),
    help="At most so many positions at a time, over all of the user's bots.",
)
@as_json
def add(name: str, max_open_positions: int, as_json: bool) -> None:
    """Add a user. `bots import` adds the users that it meets by itself."""
    wanted = fields.name("name", name)

    async def work(store: "Store") -> "User":
        from shared.store import users as stored

        async with store.begin() as tx:
            return await stored.add(tx, wanted, max_open_positions=max_open_positions)

    user = on_store(work)
    if as_json:
        print_document(asdict(user))
    else:
        click.echo(f"user {user.id} {user.name} added")


users.add_command(show)
users.add_command(set_)
users.add_command(disable)
users.add_command(enable)


@users.command("list", epilog=examples("botfleet users list", "botfleet users list --json"))
@click.option(
    "--limit", default=100, show_default=True, type=click.IntRange(1, 1_000_000), help="How many."
)
@click.option("--after", default=0, metavar="ID", help="Only users after this id, for paging.")
@as_json
def list_(limit: int, after: int, as_json: bool) -> None:
    """List users by id. --json prints one object per line."""

    async def work(store: "Store") -> "list[User]":
        from shared.store import users as stored

        async with store.read() as tx:
            return await stored.page(tx, limit=limit, after=after)

    found = on_store(work)
    if as_json:
        print_lines(asdict(user) for user in found)
        return
    print_table(
        ("ID", "Name", "Status", "Open positions", "Notional", "Added"),
        (
            (
                str(user.id),
                user.name,
                user.status,
                f"at most {user.max_open_positions}",
                DASH if user.max_notional is None else f"at most {number(user.max_notional)}",
                iso(user.created_at),
            )
            for user in found
        ),
        right=("ID",),
        empty="No users: add one with `botfleet users add NAME`.",
    )
    if len(found) == limit:
        click.echo(f"More may follow: --after {found[-1].id}")
