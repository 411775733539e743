"""Column types that mean the same on PostgreSQL and on SQLite."""

from collections.abc import Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any, Final

from sqlalchemy import (
    JSON,
    BigInteger,
    DateTime,
    Dialect,
    Integer,
    Numeric,
    Text,
    TypeDecorator,
)
from sqlalchemy.dialects.postgresql import JSONB
from sqlalchemy.ext.compiler import compiles
from sqlalchemy.sql.compiler import SQLCompiler
from sqlalchemy.sql.functions import FunctionElement
from sqlalchemy.types import TypeEngine

from shared.errors import InvalidRow

SQLITE_MOMENT: Final = "%Y-%m-%dT%H:%M:%f000Z"
"""SQLite's clock counts milliseconds; the zeros give every moment the same width."""

Id: Final = BigInteger().with_variant(Integer(), "sqlite")
"""A 64-bit key. SQLite numbers rows only in a column of exactly the type INTEGER."""

Json: Final = JSON().with_variant(JSONB(), "postgresql")


class Money(TypeDecorator[Decimal]):
    """An exact decimal: NUMERIC without a scale, plain text without exponent on SQLite.

    SQLite compares and sums these texts as floats at best, so no SQL does arithmetic on them.
    NaN and infinities raise `InvalidRow`.
    """

    impl = Numeric
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(Text() if dialect.name == "sqlite" else Numeric())

    def process_bind_param(self, value: Decimal | None, dialect: Dialect) -> str | Decimal | None:
        if value is None:
            return None
        return money_text(value) if dialect.name == "sqlite" else _finite(value)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], Decimal | None] | None:
        # asyncpg gives exact decimals already: no Python per value there.
        return super().result_processor(dialect, coltype) if dialect.name == "sqlite" else None

    def process_result_value(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy's signature
    ) -> Decimal | None:
        return None if value is None else Decimal(value)


class Moment(TypeDecorator[datetime]):
    """An aware datetime: timestamptz, UTC text of fixed width on SQLite, so that it sorts.

    Comes back in UTC. A naive datetime raises `InvalidRow`.
    """

    impl = DateTime
    cache_ok = True

    def load_dialect_impl(self, dialect: Dialect) -> TypeEngine[Any]:
        return dialect.type_descriptor(
            Text() if dialect.name == "sqlite" else DateTime(timezone=True)
        )

    def process_bind_param(self, value: datetime | None, dialect: Dialect) -> str | datetime | None:
        if value is None:
            return None
        return moment_text(value) if dialect.name == "sqlite" else _aware(value)

    def result_processor(
        self, dialect: Dialect, coltype: object
    ) -> Callable[[Any], datetime | None] | None:
        # asyncpg gives aware datetimes in UTC already.
        return super().result_processor(dialect, coltype) if dialect.name == "sqlite" else None

    def process_result_value(
        self,
        value: str | None,
        dialect: Dialect,  # noqa: ARG002 - SQLAlchemy's signature
    ) -> datetime | None:
        return None if value is None else datetime.fromisoformat(value)


def money_text(value: Decimal) -> str:
    """How SQLite and JSON carry a decimal: every digit, no exponent."""
    return format(_finite(value), "f")


def moment_text(value: datetime) -> str:
    """How SQLite and JSON carry a moment: UTC, microseconds, always 27 characters.

    >>> moment_text(datetime(2026, 1, 2, 3, 4, tzinfo=UTC))
    '2026-01-02T03:04:00.000000Z'
    """
    naive = _aware(value).astimezone(UTC).replace(tzinfo=None)
    return naive.isoformat(timespec="microseconds") + "Z"


def _finite(value: Decimal) -> Decimal:
    if not value.is_finite():
        raise InvalidRow(f"a stored amount must be a finite number, was {value}")
    return value


def _aware(value: datetime) -> datetime:
    if value.tzinfo is None:
        raise InvalidRow(f"a stored time must know its zone, was {value.isoformat()}")
    return value


class database_now(FunctionElement[datetime]):  # noqa: N801 - spelt as the SQL function it is
    """The database's clock at the instant of evaluation, also late in a transaction.

    A transaction's own time (`now()`) would be as old as the transaction's longest wait for a
    lock, and would let an expired lease pass.
    """

    type = Moment()
    inherit_cache = True
    name = "database_now"


class seconds_from_now(FunctionElement[datetime]):  # noqa: N801 - the same
    """The database's clock plus a number of seconds, which may be negative."""

    type = Moment()
    inherit_cache = True
    name = "seconds_from_now"


class seconds_after(FunctionElement[datetime]):  # noqa: N801 - the same
    """A moment plus a number of seconds, which may be negative: `seconds_after(moment, secs)`."""

    type = Moment()
    inherit_cache = True
    name = "seconds_after"


@compiles(database_now)
def _now(_element: database_now, _compiler: SQLCompiler, **_kw: object) -> str:
    return "clock_timestamp()"


@compiles(database_now, "sqlite")
def _now_on_sqlite(_element: database_now, _compiler: SQLCompiler, **_kw: object) -> str:
    return f"strftime('{SQLITE_MOMENT}', 'now')"


@compiles(seconds_from_now)
def _later(element: seconds_from_now, compiler: SQLCompiler, **kw: object) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"clock_timestamp() + make_interval(secs => {seconds})"


@compiles(seconds_from_now, "sqlite")
def _later_on_sqlite(element: seconds_from_now, compiler: SQLCompiler, **kw: object) -> str:
    seconds = compiler.process(element.clauses, **kw)
    return f"strftime('{SQLITE_MOMENT}', 'now', {seconds} || ' seconds')"


@compiles(seconds_after)
def _after(element: seconds_after, compiler: SQLCompiler, **kw: object) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"({moment}) + make_interval(secs => {seconds})"


@compiles(seconds_after, "sqlite")
def _after_on_sqlite(element: seconds_after, compiler: SQLCompiler, **kw: object) -> str:
    moment, seconds = (compiler.process(clause, **kw) for clause in element.clauses)
    return f"strftime('{SQLITE_MOMENT}', {moment}, {seconds} || ' seconds')"
