"""The migrations: equal to the tables on both databases, safe to repeat, and checked at start."""

import asyncio
from collections.abc import AsyncIterator

import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from sqlalchemy import Connection, func, inspect, select, text, update

from shared.errors import SchemaMismatch
from shared.leases import LeaseKind
from shared.store import fleet
from shared.store import schema as schema_module
from shared.store.engine import Store, connect
from shared.store.schema import CODE, check_schema, downgrade, upgrade
from shared.store.tables import fleet as fleet_table
from shared.store.tables import leases, metadata

PARTS_ON_POSTGRESQL = """
    SELECT conrelid::regclass::text, conname, pg_get_constraintdef(oid)
    FROM pg_constraint WHERE connamespace = 'public'::regnamespace
    UNION ALL SELECT tablename, indexname, indexdef FROM pg_indexes WHERE schemaname = 'public'
    UNION ALL SELECT table_name, column_name,
        concat_ws(' ', ordinal_position, data_type, is_nullable, column_default, is_identity)
    FROM information_schema.columns WHERE table_schema = 'public'
"""
PARTS_ON_SQLITE = "SELECT tbl_name, name, sql FROM sqlite_master"


@pytest.fixture
async def empty_store(empty_database_url: str) -> AsyncIterator[Store]:
    store = connect(empty_database_url, application_name="test")
    yield store
    await store.close()


def parts(connection: Connection) -> dict[tuple[str, str], list[str]]:
    """Every column, constraint and index as the database itself words it.

    SQLite keeps a table as its CREATE TABLE, where the order of the constraints means nothing.
    """
    query = PARTS_ON_SQLITE if connection.dialect.name == "sqlite" else PARTS_ON_POSTGRESQL
    return {
        (table, name): sorted(" ".join((definition or "").split()).removesuffix(" )").split(", "))
        for table, name, definition in connection.execute(text(query))
        if table != "alembic_version"
    }


async def test_migrations_build_exactly_the_tables(empty_store: Store) -> None:
    await upgrade(empty_store)
    async with empty_store.begin() as tx:
        migrated = await tx.run_sync(parts)
        differences = await tx.run_sync(
            lambda connection: compare_metadata(MigrationContext.configure(connection), metadata)
        )
        await tx.run_sync(downgrade, "base")
        await tx.run_sync(metadata.create_all)
        created = await tx.run_sync(parts)
    assert differences == []
    assert {key: value for key, value in migrated.items() if created.get(key) != value} == {}
    assert migrated.keys() == created.keys()
    assert {table for table, _ in created} >= metadata.tables.keys()


async def test_downgrade_takes_every_table_away(empty_store: Store) -> None:
    await upgrade(empty_store)
    async with empty_store.begin() as tx:
        await tx.run_sync(downgrade, "base")
        left = await tx.run_sync(lambda connection: inspect(connection).get_table_names())
    assert left == ["alembic_version"]


async def test_migrating_again_changes_nothing(empty_store: Store) -> None:
    await upgrade(empty_store, shard_count=8)
    async with empty_store.begin() as tx:
        first = await fleet.read(tx)
        await tx.execute(update(leases).values(owner="worker 1", epoch=7))
    await upgrade(empty_store, shard_count=8)
    async with empty_store.read() as tx:
        assert await fleet.read(tx) == first
        assert set(await tx.scalars(select(leases.c.epoch))) == {7}
        shards = select(func.count()).where(leases.c.kind == LeaseKind.SHARD)
        assert await tx.scalar(shards) == 8


async def test_migrations_at_once_wait_for_each_other(empty_database_url: str) -> None:
    stores = [
        connect(empty_database_url, application_name="test", timeout_secs=60) for _ in range(3)
    ]
    await asyncio.gather(*(upgrade(store, shard_count=8) for store in stores))
    namespaces = set()
    for store in stores:
        async with store.read() as tx:
            namespaces.add((await fleet.read(tx)).namespace)
        await store.close()
    assert len(namespaces) == 1


async def test_databases_draw_different_namespaces(empty_store: Store) -> None:
    namespaces = set()
    for _ in range(2):
        await upgrade(empty_store)
        async with empty_store.begin() as tx:
            namespaces.add((await fleet.read(tx)).namespace)
            await tx.run_sync(downgrade, "base")
    assert len(namespaces) == 2


async def test_another_shard_count_is_refused(store: Store) -> None:
    await check_schema(store, shard_count=256)
    with pytest.raises(SchemaMismatch, match=r"BOTFLEET_SHARD_COUNT must be 256, .* was 16"):
        await check_schema(store, shard_count=16)
    with pytest.raises(SchemaMismatch, match="BOTFLEET_SHARD_COUNT must be 256"):
        await upgrade(store, shard_count=16)


async def test_a_database_without_schema_is_refused(empty_store: Store) -> None:
    with pytest.raises(SchemaMismatch, match=r"has no botfleet schema.*run botfleet migrate"):
        await check_schema(empty_store)


async def test_an_older_schema_is_refused(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(schema_module, "CODE", CODE + 1)
    with pytest.raises(SchemaMismatch, match=rf"version {CODE}, .* needs {CODE + 1}: run"):
        await check_schema(store)


@pytest.mark.parametrize(("minimum_code", "accepted"), [(CODE, True), (CODE + 1, False)])
async def test_a_newer_schema_says_which_code_may_run(
    store: Store, minimum_code: int, accepted: bool
) -> None:
    async with store.begin() as tx:
        await tx.execute(text(f"UPDATE alembic_version SET version_num = '{CODE + 1:04}'"))
        await tx.execute(update(fleet_table).values(minimum_code=minimum_code))
    if accepted:
        await check_schema(store)
    else:
        with pytest.raises(SchemaMismatch, match="upgrade botfleet"):
            await check_schema(store)
    with pytest.raises(SchemaMismatch, match="upgrade botfleet before you migrate"):
        await upgrade(store)
