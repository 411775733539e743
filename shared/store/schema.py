"""The schema's version: bringing a database to it, and refusing one that does not fit."""

import asyncio
from pathlib import Path
from typing import Final
from uuid import uuid4

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, Row, select, text, update

import migrations
from shared.errors import SchemaMismatch
from shared.leases import LeaseKind
from shared.sharding import DEFAULT_SHARD_COUNT
from shared.store.bulk import insert_into
from shared.store.database_url import Dialect
from shared.store.engine import Store, connect
from shared.store.tables import fleet, leases

CODE: Final = 4
"""The newest version in migrations/versions that this code knows."""

MINIMUM_CODE: Final = 1
"""The oldest code that may run on the schema of version `CODE`."""

_LOCK_KEY: Final = 0x626F74666C656574
"""`botfleet` in ASCII: the advisory lock that lets one migration run at a time."""

_TIMEOUT_SECS: Final = 600.0


def migrate(url: str, *, shard_count: int = DEFAULT_SHARD_COUNT) -> None:
    """`upgrade` for a caller without an event loop."""

    async def run() -> None:
        store = connect(url, application_name="botfleet migrate", timeout_secs=_TIMEOUT_SECS)
        try:
            await store.wait_until_up()
            await upgrade(store, shard_count=shard_count)
        finally:
            await store.close()

    asyncio.run(run())


async def upgrade(store: Store, *, shard_count: int = DEFAULT_SHARD_COUNT) -> None:
    """Bring the database to this code's schema and set up the fleet, all or nothing.

    The first run draws the id namespace, fixes the shard count and makes the lease rows; later
    ones change none of these. Several at once wait for each other. `store` must allow
    statements as long as the longest migration. Raises `SchemaMismatch` if the database was
    set up with another shard count or is newer than this code.
    """
    async with store.begin() as tx:
        if store.dialect == "postgresql":
            await tx.execute(text(f"SELECT pg_advisory_xact_lock({_LOCK_KEY})"))
        await tx.run_sync(_upgrade)
        await tx.run_sync(_set_up_fleet, store.dialect, shard_count)


async def check_schema(store: Store, *, shard_count: int | None = None) -> None:
    """Raise `SchemaMismatch`, saying what to do, unless this code can run on this database.

    An older schema is refused, a newer one accepted if its `minimum_code` allows this code.
    With `shard_count`, a database that was set up with another is refused too.
    """
    async with store.read() as tx:
        version = await tx.run_sync(_version)
        if version < CODE:
            found = f"has schema version {version}" if version else "has no botfleet schema"
            raise SchemaMismatch(
                f"the database at {store} {found}, this code needs {CODE}: run botfleet migrate"
            )
        row = (await tx.execute(select(fleet))).one()
    if row.minimum_code > CODE:
        raise SchemaMismatch(
            f"the database at {store} has schema version {version}, which needs code of version "
            f"{row.minimum_code} or newer; this is {CODE}: upgrade botfleet"
        )
    if shard_count is not None:
        _check_shard_count(row, shard_count)


def downgrade(connection: Connection, version: str) -> None:
    """Take the schema back to a version ("base": none), with the data that only it has."""
    command.downgrade(_config(connection), version)


def _config(connection: Connection) -> Config:
    config = Config(attributes={"connection": connection})
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return config


def _upgrade(connection: Connection) -> None:
    version = _version(connection)
    if version > CODE:
        raise SchemaMismatch(
            f"the database has schema version {version}, this code knows {CODE}: "
            "upgrade botfleet before you migrate"
        )
    command.upgrade(_config(connection), "head")


def _version(connection: Connection) -> int:
    """The schema's version, 0 for a database without one."""
    revision = MigrationContext.configure(connection).get_current_revision()
    return int(revision or 0)


def _set_up_fleet(connection: Connection, dialect: Dialect, shard_count: int) -> None:
    connection.execute(
        insert_into(dialect, fleet)
        .values(id=1, namespace=str(uuid4()), shard_count=shard_count, minimum_code=MINIMUM_CODE)
        .on_conflict_do_nothing()
    )
    _check_shard_count(connection.execute(select(fleet)).one(), shard_count)
    connection.execute(update(fleet).values(minimum_code=MINIMUM_CODE))
    rows = [{"kind": LeaseKind.PRICE_STREAM, "number": 0}]
    rows += [{"kind": LeaseKind.SHARD, "number": number} for number in range(shard_count)]
    connection.execute(insert_into(dialect, leases).on_conflict_do_nothing(), rows)


def _check_shard_count(row: Row[tuple[object, ...]], shard_count: int) -> None:
    if row.shard_count != shard_count:
        raise SchemaMismatch(
            f"BOTFLEET_SHARD_COUNT must be {row.shard_count}, as the first botfleet migrate "
            f"set up this database, was {shard_count}"
        )
