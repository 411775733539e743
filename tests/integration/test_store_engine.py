"""The store's transactions: exact, bounded, safe to cancel, and honest about what went wrong."""

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta, timezone
from decimal import Decimal
from pathlib import Path

import asyncpg  # type: ignore[import-untyped]
import pytest
from sqlalchemy import (
    Column,
    Executable,
    Float,
    MetaData,
    Table,
    Text,
    insert,
    select,
    text,
    true,
    update,
)

from shared.errors import CommitUnknown, Halt, InvalidRow, InvalidSettings, StoreUnavailable
from shared.money import exact
from shared.store.bulk import Rows, insert_into
from shared.store.database_url import parse
from shared.store.engine import Store, Transaction, connect
from shared.store.failures import why_hopeless
from shared.store.types import Id, Json, Moment, Money
from tests.servers import PrivateServer

ODD_TEXTS = ["", "é🚀", "'\"\\", "null", "Robert'); DROP TABLE users;--", "a\nb\tc", " 1 "]
AMOUNTS = [
    Decimal(0),
    Decimal("-1.50"),
    Decimal("1E-40"),
    Decimal("123456789012345678901234567890.123456789012345678901234567890"),
    Decimal("1E+20"),
]

things = Table(
    "things",
    MetaData(),
    Column("id", Id, primary_key=True),
    Column("name", Text, unique=True),
    Column("amount", Money),
    Column("at", Moment),
    Column("ratio", Float(53)),
    Column("facts", Json),
)
THINGS = Rows("new_things", id=Id, name=Text, amount=Money, at=Moment, ratio=Float(53), facts=Json)


@pytest.fixture
async def bench(empty_database_url: str) -> AsyncIterator[Store]:
    """A store with the table `things` and nothing else."""
    store = connect(empty_database_url, application_name="test")
    async with store.begin() as tx:
        await tx.run_sync(things.metadata.create_all)
    yield store
    await store.close()


async def add(store: Store, number: int, **values: object) -> None:
    async with store.begin() as tx:
        await tx.execute(insert(things).values(id=number, **values))


async def ids(store: Store) -> list[int]:
    async with store.read() as tx:
        return list(await tx.scalars(select(things.c.id).order_by(things.c.id)))


# Values


async def test_amounts_come_back_to_the_last_digit(bench: Store) -> None:
    async with bench.begin() as tx:
        await tx.execute(
            insert(things), [{"id": n, "amount": amount} for n, amount in enumerate(AMOUNTS)]
        )
        rows = [(n + 100, None, amount, None, None, None) for n, amount in enumerate(AMOUNTS)]
        await tx.execute(bulk_insert(bench), THINGS.parameters(rows))
    async with bench.read() as tx:
        stored = list(await tx.scalars(select(things.c.amount).order_by(things.c.id)))
    assert stored == AMOUNTS * 2
    with exact():
        assert sum(stored) == 2 * sum(AMOUNTS)


async def test_times_come_back_aware_and_in_utc(bench: Store) -> None:
    tokyo = datetime(2026, 3, 1, 8, 30, 0, 123456, tzinfo=timezone(timedelta(hours=9)))
    await add(bench, 1, at=tokyo)
    async with bench.begin() as tx:
        await tx.execute(
            bulk_insert(bench), THINGS.parameters([(2, None, None, tokyo, None, None)])
        )
        stored = list(await tx.scalars(select(things.c.at)))
    assert stored == [tokyo, tokyo]
    assert {moment.tzinfo for moment in stored} == {UTC}


async def test_times_sort_and_compare_as_times(bench: Store) -> None:
    start = datetime(2026, 1, 1, tzinfo=UTC)
    moments = [start + timedelta(microseconds=n) for n in (0, 1, 1000, 999_999, 1_000_000)]
    for number, moment in enumerate(reversed(moments)):
        await add(bench, number, at=moment)
    async with bench.read() as tx:
        assert list(await tx.scalars(select(things.c.at).order_by(things.c.at))) == moments
        later = select(things.c.at).where(things.c.at > moments[2]).order_by(things.c.at)
        assert list(await tx.scalars(later)) == moments[3:]


@pytest.mark.parametrize("name", ODD_TEXTS)
async def test_odd_texts_come_back_as_they_were(bench: Store, name: str) -> None:
    async with bench.begin() as tx:
        rows = [(1, name, None, None, None, {"said": name})]
        await tx.execute(bulk_insert(bench), THINGS.parameters(rows))
    async with bench.read() as tx:
        row = (await tx.execute(select(things.c.name, things.c.facts))).one()
    assert row == (name, {"said": name})


@pytest.mark.parametrize("amount", [Decimal("NaN"), Decimal("Infinity")])
async def test_an_amount_that_is_no_number_is_refused(bench: Store, amount: Decimal) -> None:
    with pytest.raises(InvalidRow, match="finite"):
        await add(bench, 1, amount=amount)
    with pytest.raises(InvalidRow, match="finite"):
        THINGS.parameters([(1, None, amount, None, None, None)])


async def test_a_time_without_zone_is_refused(bench: Store) -> None:
    with pytest.raises(InvalidRow, match="zone"):
        await add(bench, 1, at=datetime(2026, 1, 1))  # noqa: DTZ001


# Bulk statements


def bulk_insert(store: Store) -> Executable:
    rows = THINGS.source(store.dialect)
    return (
        insert_into(store.dialect, things)
        .from_select(rows.c.keys(), select(*rows.c).where(true()))
        .on_conflict_do_nothing()
        .returning(things.c.id)
    )


async def test_bulk_insert_returns_only_the_rows_that_are_new(bench: Store) -> None:
    await add(bench, 2, name="b")
    rows = [
        (n, name, None, None, None, None) for n, name in ((1, "a"), (2, "x"), (3, "b"), (4, "d"))
    ]
    async with bench.begin() as tx:
        inserted = sorted(await tx.scalars(bulk_insert(bench), THINGS.parameters(rows)))
    assert inserted == [1, 4]


async def test_bulk_update_sets_each_row_by_its_own_values(bench: Store) -> None:
    async with bench.begin() as tx:
        rows = [(n, str(n), Decimal(n), None, 0.5, None) for n in range(1_000)]
        await tx.execute(bulk_insert(bench), THINGS.parameters(rows))
        source = THINGS.source(bench.dialect)
        statement = (
            update(things)
            .values(amount=source.c.amount, ratio=source.c.ratio)
            .where(things.c.id == source.c.id, things.c.ratio < source.c.ratio)
            .returning(things.c.id)
        )
        changes = [(n, None, Decimal(n) / 4, None, n / 1_000, None) for n in range(1_000)]
        changed = set(await tx.scalars(statement, THINGS.parameters(changes)))
    assert changed == set(range(501, 1_000))
    async with bench.read() as tx:
        stored = {
            row.id: row.amount for row in await tx.execute(select(things.c.id, things.c.amount))
        }
    assert stored == {n: Decimal(n) / 4 if n > 500 else Decimal(n) for n in range(1_000)}


async def test_no_rows_are_no_rows(bench: Store) -> None:
    async with bench.begin() as tx:
        assert list(await tx.scalars(bulk_insert(bench), THINGS.parameters([]))) == []


# Transactions


async def test_a_block_that_raises_leaves_nothing(bench: Store) -> None:
    async def broken() -> None:
        async with bench.begin() as tx:
            await tx.execute(insert(things).values(id=1))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        await broken()
    assert await ids(bench) == []


async def test_reading_writes_nothing(bench: Store) -> None:
    async with bench.read() as tx:
        await tx.execute(insert(things).values(id=1))
    assert await ids(bench) == []


async def test_data_that_a_constraint_refuses_is_an_invalid_row(bench: Store) -> None:
    await add(bench, 1)
    with pytest.raises(InvalidRow, match="refuses this data"):
        await add(bench, 1)
    assert await ids(bench) == [1]


async def test_a_cancelled_block_leaves_nothing_and_frees_its_connection(bench: Store) -> None:
    inserted = asyncio.Event()

    async def cancelled() -> None:
        async with bench.begin() as tx:
            await tx.execute(insert(things).values(id=1))
            inserted.set()
            await asyncio.Event().wait()

    for _ in range(6):  # more often than there are connections
        task = asyncio.create_task(cancelled())
        await inserted.wait()
        inserted.clear()
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert await ids(bench) == []
    await add(bench, 1)
    assert await ids(bench) == [1]


async def test_a_statement_cancelled_half_way_leaves_nothing(postgres_store: Store) -> None:
    async def slow() -> None:
        async with postgres_store.begin() as tx:
            await tx.execute(text("CREATE TABLE half_way (id int)"))
            await tx.execute(text("SELECT pg_sleep(60)"))

    for _ in range(6):
        task = asyncio.create_task(slow())
        await until_sleeping(postgres_store)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    async with postgres_store.read() as tx:
        assert await tx.scalar(text("SELECT to_regclass('half_way')")) is None
        idle = text("SELECT count(*) FROM pg_stat_activity WHERE state LIKE 'idle in%'")
        assert await tx.scalar(idle) == 0


async def until_sleeping(store: Store) -> None:
    sleeping = text(
        "SELECT count(*) FROM pg_stat_activity WHERE wait_event = 'PgSleep' "
        "AND datname = current_database()"
    )
    while True:
        async with store.read() as tx:
            if await tx.scalar(sleeping):
                return


async def test_a_commit_that_is_cancelled_is_finished(bench: Store) -> None:
    done = asyncio.Event()

    async def work() -> None:
        async with bench.begin() as tx:
            await tx.execute(insert(things).values(id=1))
            done.set()

    task = asyncio.create_task(work())
    await done.wait()  # the task goes on to its COMMIT without another pause
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await ids(bench) == [1]


async def test_a_statement_past_its_time_is_busy(postgres_store: Store) -> None:
    async def slow() -> None:
        async with postgres_store.begin() as tx:
            await tx.execute(text("SET LOCAL statement_timeout = '20ms'"))
            await tx.execute(text("SELECT pg_sleep(60)"))

    with pytest.raises(StoreUnavailable, match="busy"):
        await slow()


async def test_a_writer_that_waits_too_long_on_sqlite_is_busy(tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path / 'busy.db'}"
    patient, impatient = (
        connect(url, application_name="test", timeout_secs=secs) for secs in (2.0, 0.05)
    )
    async with patient.begin():
        async with impatient.read() as tx:
            assert await tx.scalar(text("SELECT 1")) == 1
        with pytest.raises(StoreUnavailable, match="busy"):
            await impatient.begin().__aenter__()
    await patient.close()
    await impatient.close()


async def test_time_limits_and_name_reach_postgresql(
    migrated_database_url: str, postgres_store: Store
) -> None:
    pooled = connect(f"{migrated_database_url}?pgbouncer=true", application_name="botfleet test")
    for store, name in ((postgres_store, "test"), (pooled, "botfleet test")):
        async with store.begin() as tx:
            for setting in ("statement_timeout", "lock_timeout"):
                assert await tx.scalar(text(f"SHOW {setting}")) == "2s"
            assert await tx.scalar(text("SHOW application_name")) == name
        assert await store.durability_warnings() == []
    await pooled.close()


async def test_durability_that_is_switched_off_is_reported(postgres_store: Store) -> None:
    async with postgres_store.begin() as tx:
        await tx.execute(
            text(
                "DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET synchronous_commit = off', "
                "current_database()); END $$"
            )
        )
    await postgres_store.close()
    assert "synchronous_commit=off" in (await postgres_store.durability_warnings())[0]


# A database that is away


async def test_a_connection_that_breaks_inside_a_block_is_unavailable(
    postgres_store: Store,
) -> None:
    async def cut_off() -> None:
        async with postgres_store.begin() as tx:
            await tx.execute(text("CREATE TABLE lost (id int)"))
            await kill_backend(postgres_store, await backend_of(tx))
            await tx.execute(text("INSERT INTO lost VALUES (1)"))

    with pytest.raises(StoreUnavailable) as broken:
        await cut_off()
    assert not isinstance(broken.value, CommitUnknown)
    async with postgres_store.read() as tx:
        assert await tx.scalar(text("SELECT to_regclass('lost')")) is None


async def test_a_connection_that_breaks_inside_commit_is_unknown(postgres_store: Store) -> None:
    async def cut_off() -> None:
        async with postgres_store.begin() as tx:
            await tx.execute(text("CREATE TABLE lost (id int)"))
            await kill_backend(postgres_store, await backend_of(tx))

    with pytest.raises(CommitUnknown):
        await cut_off()


async def backend_of(tx: Transaction) -> int:
    return int(await tx.scalar(text("SELECT pg_backend_pid()")))


async def kill_backend(store: Store, backend: int) -> None:
    async with store.read() as tx:
        await tx.execute(text(f"SELECT pg_terminate_backend({backend}, 5000)"))


class Ear(logging.Handler):
    """Hears what the store logs; `heard` is set at the first message."""

    def __init__(self) -> None:
        super().__init__()
        self.messages: list[str] = []
        self.heard = asyncio.Event()

    def emit(self, record: logging.LogRecord) -> None:
        self.messages.append(record.getMessage())
        self.heard.set()


async def test_the_database_is_waited_for_at_start(
    killable_postgres: PrivateServer, caplog: pytest.LogCaptureFixture
) -> None:
    ear = Ear()
    caplog.set_level(logging.INFO, "shared.store.engine")
    logging.getLogger("shared.store.engine").addHandler(ear)
    killable_postgres.kill()
    store = connect(killable_postgres.url, application_name="test")
    waiting = asyncio.create_task(store.wait_until_up())
    await ear.heard.wait()
    assert not waiting.done()
    await asyncio.to_thread(killable_postgres.start)
    await waiting
    await store.close()
    logging.getLogger("shared.store.engine").removeHandler(ear)
    first, last = ear.messages
    assert first.startswith(f"waiting for the database at {store}: ")
    assert last == f"the database at {store} answers"


async def test_pooled_connections_survive_a_restart_of_the_database(
    killable_postgres: PrivateServer,
) -> None:
    store = connect(killable_postgres.url, application_name="test")
    async with store.read() as tx:
        assert await tx.scalar(text("SELECT 1")) == 1
    await asyncio.to_thread(killable_postgres.kill)
    with pytest.raises(StoreUnavailable, match="cannot be reached"):
        await store.read().__aenter__()
    await asyncio.to_thread(killable_postgres.start)
    async with store.begin() as tx:
        assert await tx.scalar(text("SELECT 2")) == 2
    await store.close()


async def test_waiting_for_a_database_that_does_not_exist_is_pointless(postgres_url: str) -> None:
    store = connect(f"{postgres_url}_absent", application_name="test")
    with pytest.raises(Halt, match="does not exist"):
        await store.wait_until_up()
    await store.close()


def test_a_pooler_that_was_not_mentioned_is_recognised() -> None:
    # As PgBouncer 1.18 words it.
    refused = asyncpg.ProtocolViolationError("unsupported startup parameter: statement_timeout")
    assert "pgbouncer=true" in str(why_hopeless(refused))


# URLs


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        (
            "postgres://u:secret@db.example:5432/bots?sslmode=require",
            "postgresql://db.example:5432/bots",
        ),
        (
            "postgresql://u:secret@db.example/bots?pgbouncer=true&channel_binding=require",
            "postgresql://db.example/bots",
        ),
        ("sqlite:///var/botfleet.db", "sqlite:///var/botfleet.db"),
        ("sqlite:////data/botfleet.db", "sqlite:////data/botfleet.db"),
    ],
)
def test_urls_are_shown_without_their_password(url: str, shown: str) -> None:
    parsed = parse(url)
    assert str(parsed) == shown
    assert "secret" not in f"{parsed} {parsed!r}"


def test_parameters_meant_for_other_clients_do_not_reach_the_server() -> None:
    others = "pgbouncer=true&channel_binding=require&connection_limit=5"
    parsed = parse(f"postgres://u:p%40ss@h/d?sslmode=require&{others}")
    assert parsed.dsn == "postgresql://u:p%40ss@h/d?sslmode=require"
    assert parsed.pgbouncer


@pytest.mark.parametrize(
    "url",
    [
        "mysql://u:secret@h/d",
        "postgresql://u:secret@h",
        "sqlite://",
        "sqlite:///:memory:",
        "postgres://u:secret@h:x/d",
        "",
    ],
)
def test_a_url_that_makes_no_sense_is_refused_without_its_password(url: str) -> None:
    with pytest.raises(InvalidSettings, match="DATABASE_URL") as refused:
        parse(url)
    assert "secret" not in str(refused.value)
