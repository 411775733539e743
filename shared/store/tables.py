"""Every table, once. migrations/ builds exactly these on PostgreSQL and on SQLite.

Orders, fills, positions and outbox rows carry no foreign keys: they are written in bulk on the
hot path, where PostgreSQL checks a foreign key row by row, and nothing they point to is ever
deleted (a removed bot keeps its row). The tables that people edit have them.
"""

from collections.abc import Iterable
from typing import Any, Final

from sqlalchemy import (
    JSON,
    Boolean,
    CheckConstraint,
    Column,
    Float,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    String,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.schema import SchemaItem

from shared.leases import LeaseEnd, LeaseKind
from shared.limits import (
    BreakerKind,
    BreakerScope,
    KillSwitchLevel,
    KillSwitchScope,
    UserStatus,
)
from shared.orders import (
    UNCLOSED,
    UNSETTLED,
    BotStatus,
    Leg,
    Mode,
    OrderStatus,
    PositionStatus,
    Side,
)
from shared.store.types import Id, Json, Moment, Money, database_now

PAPER_CREDENTIAL: Final = 0
"""The credential of orders and fills on paper: a number, so that unique keys compare it."""

metadata: Final = MetaData(
    naming_convention={
        "ix": "ix_%(table_name)s_%(column_0_N_name)s",
        "uq": "uq_%(table_name)s_%(column_0_N_name)s",
        "ck": "ck_%(table_name)s_%(constraint_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "pk": "pk_%(table_name)s",
    }
)


def _quoted(values: Iterable[str]) -> str:
    return ", ".join(f"'{value}'" for value in sorted(values))


def _one_of(column: str, values: Iterable[str]) -> CheckConstraint:
    return CheckConstraint(f"{column} IN ({_quoted(values)})", name=column)


def _table(name: str, *parts: SchemaItem) -> Table:
    # AUTOINCREMENT: SQLite would otherwise give a deleted newest row's id to the next one.
    numbered = any(isinstance(part, Column) and part.identity is not None for part in parts)
    return Table(name, metadata, *parts, sqlite_autoincrement=numbered)


def _partial_index(name: str, *columns: str, where: str, unique: bool = False) -> Index:
    condition = text(where)
    return Index(name, *columns, unique=unique, postgresql_where=condition, sqlite_where=condition)


def _id() -> Column[int]:
    return Column("id", Id, Identity(), primary_key=True)


def _written(name: str, *, index: bool = False) -> Column[Any]:
    return Column(name, Moment, nullable=False, server_default=database_now(), index=index)


UNCLOSED_POSITION: Final = f"status IN ({_quoted(UNCLOSED)})"
UNSETTLED_ORDER: Final = f"status IN ({_quoted(UNSETTLED)})"
"""Conditions of the partial indexes: a query that repeats them word by word can use these."""

fleet: Final = _table(
    "fleet",
    Column("id", SmallInteger, primary_key=True, autoincrement=False),
    Column("namespace", String(36), nullable=False),
    Column("shard_count", Integer, nullable=False),
    Column("minimum_code", Integer, nullable=False),
    _written("created_at"),
    CheckConstraint("id = 1", name="one_row"),
)

recoveries: Final = _table(
    "recoveries",
    Column("namespace", String(36), primary_key=True, comment="of the ids to ask for"),
    Column("credential_id", Id, primary_key=True, autoincrement=False),
    Column("lost_since", Moment, nullable=False),
    _written("begun_at"),
    Column("asked_at", Moment, comment="null: still to be asked for"),
)

users: Final = _table(
    "users",
    _id(),
    Column("name", Text, nullable=False, unique=True),
    Column("status", Text, nullable=False, server_default=UserStatus.ACTIVE),
    Column("max_open_positions", Integer, nullable=False, server_default="10"),
    Column("max_notional", Money, comment="in each quote currency; null: no limit"),
    _written("created_at"),
    _written("updated_at", index=True),
    _one_of("status", UserStatus),
)

credentials: Final = _table(
    "credentials",
    _id(),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("venue", Text, nullable=False),
    Column("label", Text, nullable=False, server_default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("status", Text, nullable=False, server_default="active"),
    Column("live", Boolean, nullable=False, server_default=text("false")),
    Column("taker_fee", Money, comment="a fraction; null: the venue's default"),
    Column("ciphertext", LargeBinary, comment="AES-256-GCM over the key and its secret"),
    Column("nonce", LargeBinary),
    Column("wrapped_key", LargeBinary, comment="the data key, encrypted under master_key_id"),
    Column("wrap_nonce", LargeBinary),
    Column("master_key_id", Text),
    Column("facts", Json, comment="permissions and balance as the venue told them"),
    Column("trouble", Text, comment="why this credential's bots stand still; null: they do not"),
    Column("checked_at", Moment),
    _written("created_at"),
    _written("updated_at", index=True),
    _one_of("status", ("active", "retired")),
    _partial_index(
        "uq_credentials_active", "user_id", "venue", where="status = 'active'", unique=True
    ),
)

bots: Final = _table(
    "bots",
    _id(),
    Column("user_id", Id, ForeignKey("users.id"), nullable=False),
    Column("shard", Integer, nullable=False, index=True),
    Column("name", Text, nullable=False),
    Column("venue", Text, nullable=False),
    Column("capital", Money, nullable=False),
    Column("mode", Text, nullable=False, server_default=Mode.PAPER),
    Column("status", Text, nullable=False, server_default=BotStatus.INACTIVE),
    Column("risk_profile", Json, nullable=False, server_default=text("'{}'")),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("realised", Money, nullable=False, server_default="0"),
    Column("loss_streak", Integer, nullable=False, server_default="0"),
    Column("removed_at", Moment),
    _written("created_at"),
    _written("updated_at", index=True),
    _one_of("mode", Mode),
    _one_of("status", BotStatus),
    _partial_index("uq_bots_name", "user_id", "name", where="removed_at IS NULL", unique=True),
)

bot_pairs: Final = _table(
    "bot_pairs",
    Column("bot_id", Id, ForeignKey("bots.id"), primary_key=True),
    Column("pair", Text, primary_key=True),
    Column("venue", Text, nullable=False, comment="the bot's: which markets are wanted"),
    # A pair taken from a bot keeps its row: what is open on it is still to be sold.
    Column("active", Boolean, nullable=False, server_default=text("true")),
    Index("ix_bot_pairs_market", "venue", "pair", "bot_id"),
)

positions: Final = _table(
    "positions",
    _id(),
    Column("bot_id", Id, nullable=False),
    Column("user_id", Id, nullable=False),
    Column("credential_id", Id, nullable=False, server_default=str(PAPER_CREDENTIAL)),
    Column("venue", Text, nullable=False),
    Column("pair", Text, nullable=False),
    Column("sequence", Integer, nullable=False),
    Column("mode", Text, nullable=False),
    Column("status", Text, nullable=False),
    Column("version", Integer, nullable=False, server_default="1"),
    Column("regime", Text, comment="at entry"),
    Column("entry_quantity", Money, nullable=False, server_default="0"),
    Column("entry_cost", Money, nullable=False, server_default="0"),
    Column("exit_quantity", Money, nullable=False, server_default="0"),
    Column("exit_proceeds", Money, nullable=False, server_default="0"),
    Column("fees", Money, nullable=False, server_default="0"),
    Column("dust_quantity", Money, nullable=False, server_default="0"),
    Column("realised_pnl", Money, nullable=False, server_default="0"),
    Column("peak_profit", Float(53), comment="the highest since entry, a fraction"),
    Column("entry_reason", Text, nullable=False),
    Column("exit_reason", Text),
    Column("entered_at", Moment, comment="market time"),
    Column("exited_at", Moment, comment="market time"),
    _written("created_at"),
    Column("closed_at", Moment),
    Column("exit_wanted", Text, comment="why a person wants it sold; null: nobody does"),
    Column("fee_quantity", Money, nullable=False, server_default="0", comment="fees in the coin"),
    UniqueConstraint("bot_id", "pair", "sequence"),
    _one_of("mode", Mode),
    _one_of("status", PositionStatus),
    _partial_index("uq_positions_unclosed", "bot_id", "pair", where=UNCLOSED_POSITION, unique=True),
    Index("ix_positions_user", "user_id", "exited_at"),
)

orders: Final = _table(
    "orders",
    _id(),
    Column("client_order_id", String(32), nullable=False, unique=True),
    Column("bot_id", Id, nullable=False),
    Column("user_id", Id, nullable=False),
    Column("shard", Integer, nullable=False),
    Column("credential_id", Id, nullable=False, server_default=str(PAPER_CREDENTIAL)),
    Column("mode", Text, nullable=False),
    Column("venue", Text, nullable=False),
    Column("pair", Text, nullable=False),
    Column("position_sequence", Integer, nullable=False),
    Column("leg", Text, nullable=False),
    Column("attempt", Integer, nullable=False),
    Column("side", Text, nullable=False),
    Column("quantity", Money, nullable=False),
    Column("decided_price", Money, nullable=False),
    Column("limit_price", Money, comment="null: at market"),
    Column("status", Text, nullable=False),
    Column("filled_quantity", Money, nullable=False, server_default="0"),
    Column("average_price", Money),
    Column("fee", Money, nullable=False, server_default="0"),
    Column("fee_currency", Text),
    Column("venue_order_id", Text),
    Column("reason", Text, nullable=False),
    Column("facts", JSON, nullable=False, comment="tick, indicators and thresholds met"),
    Column("lease_epoch", Id, nullable=False),
    Column("send_by", Moment),
    Column("market_time", Moment, nullable=False),
    Column("observed_at", Moment, nullable=False),
    Column("received_at", Moment, nullable=False),
    Column("decided_at", Moment, nullable=False),
    _written("committed_at"),
    Column("sent_at", Moment),
    Column("settled_at", Moment),
    Column("detail", Text, comment="what the venue, or we, said of an order that went wrong"),
    _one_of("mode", Mode),
    _one_of("leg", Leg),
    _one_of("side", Side),
    _one_of("status", OrderStatus),
    _partial_index("uq_orders_unsettled", "bot_id", "pair", where=UNSETTLED_ORDER, unique=True),
    _partial_index("ix_orders_not_placed", "shard", "settled_at", where="status = 'not_placed'"),
    # Also finds a bot's orders, and through the user's bots a user's.
    Index("ix_orders_position", "bot_id", "pair", "position_sequence"),
)

fills: Final = _table(
    "fills",
    _id(),
    Column("venue", Text, nullable=False),
    Column("credential_id", Id, nullable=False, server_default=str(PAPER_CREDENTIAL)),
    Column("pair", Text, nullable=False),
    Column("trade_id", Text, nullable=False),
    Column("client_order_id", String(32), nullable=False, index=True),
    Column("bot_id", Id, nullable=False),
    # A late fill may belong to a later position than its order.
    Column("position_sequence", Integer, nullable=False),
    Column("leg", Text, nullable=False),
    Column("quantity", Money, nullable=False),
    Column("price", Money, nullable=False),
    Column("fee", Money, nullable=False),
    Column("fee_currency", Text, nullable=False),
    Column("filled_at", Moment, nullable=False, comment="the venue's clock"),
    _written("recorded_at"),
    UniqueConstraint("venue", "credential_id", "pair", "trade_id"),
    _one_of("leg", Leg),
    Index("ix_fills_position", "bot_id", "pair", "position_sequence"),
)

leases: Final = _table(
    "leases",
    Column("kind", Text, primary_key=True),
    Column("number", Integer, primary_key=True, autoincrement=False),
    Column("owner", Text),
    Column("epoch", Id, nullable=False, server_default="0"),
    Column("granted_at", Moment),
    Column("expires_at", Moment),
    Column("wanted_by", Text, comment="who should hold it next: the owner hands it over"),
    _one_of("kind", LeaseKind),
)

lease_grants: Final = _table(
    "lease_grants",
    _id(),
    Column("kind", Text, nullable=False),
    Column("number", Integer, nullable=False),
    Column("epoch", Id, nullable=False),
    Column("owner", Text, nullable=False),
    _written("granted_from"),
    Column("granted_until", Moment, comment="null while it is held"),
    Column("ended_why", Text),
    UniqueConstraint("kind", "number", "epoch"),
    _one_of("kind", LeaseKind),
    _one_of("ended_why", LeaseEnd),
)

workers: Final = _table(
    "workers",
    Column("kind", Text, primary_key=True, comment="price_stream or trade_worker"),
    Column("name", Text, primary_key=True),
    Column("instance", Text, nullable=False, comment="one run of one process"),
    Column("host", Text, nullable=False),
    Column("pid", Integer, nullable=False),
    _written("started_at"),
    _written("heartbeat_at"),
    Column("report", Json, nullable=False),
)

markets: Final = _table(
    "markets",
    Column("venue", Text, primary_key=True),
    Column("pair", Text, primary_key=True),
    Column("status", Text, nullable=False),
    Column("lot_step", Money, nullable=False),
    Column("price_tick", Money, nullable=False),
    Column("min_quantity", Money, nullable=False),
    Column("min_notional", Money, nullable=False),
    _written("updated_at", index=True),
    _one_of("status", ("listed", "halted")),
)

latest_ticks: Final = _table(
    "latest_ticks",
    Column("venue", Text, primary_key=True),
    Column("pair", Text, primary_key=True),
    Column("body", Text, nullable=False),
    Column("observed_at", Moment, nullable=False),
    Column("stream_epoch", Id, nullable=False),
    Column("sequence", Id, nullable=False),
)

outbox: Final = _table(
    "outbox",
    _id(),
    Column("shard", Integer, nullable=False),
    Column("bot_id", Id, comment="null: not about one bot"),
    Column("exchange", Text, nullable=False),
    Column("routing_key", Text, nullable=False),
    Column("body", Text, nullable=False),
    _written("created_at"),
    Column("sent_at", Moment),
    _partial_index("ix_outbox_unsent", "shard", "id", where="sent_at IS NULL"),
)

breakers: Final = _table(
    "breakers",
    Column("scope", Text, primary_key=True),
    Column("scope_id", Id, primary_key=True, autoincrement=False),
    Column("kind", Text, primary_key=True),
    Column("open", Boolean, nullable=False),
    Column("open_until", Moment, comment="market time; null: until reset by hand"),
    Column("facts", Json, nullable=False),
    Column("opened_at", Moment),
    _written("updated_at", index=True),
    _one_of("scope", BreakerScope),
    _one_of("kind", BreakerKind),
)

kill_switches: Final = _table(
    "kill_switches",
    Column("scope", Text, primary_key=True),
    Column("scope_key", Text, primary_key=True, comment="'' fleet, else venue or id"),
    Column("level", Text, nullable=False),
    Column("reason", Text, nullable=False, server_default=""),
    Column("version", Integer, nullable=False, server_default="1"),
    _written("updated_at", index=True),
    _one_of("scope", KillSwitchScope),
    _one_of("level", KillSwitchLevel),
)
