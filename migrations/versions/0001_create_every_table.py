"""Create every table."""

import sqlalchemy as sa
from alembic import op

from shared.store.types import Id, Json, Moment, Money, database_now

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    _users_and_bots()
    _trades()
    _markets()
    _processes()
    _limits()


def downgrade() -> None:
    for table in (
        "kill_switches",
        "breakers",
        "workers",
        "lease_grants",
        "leases",
        "fleet",
        "latest_ticks",
        "markets",
        "outbox",
        "fills",
        "orders",
        "positions",
        "bot_pairs",
        "bots",
        "credentials",
        "users",
    ):
        op.drop_table(table)


def _users_and_bots() -> None:
    op.create_table(
        "users",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False, server_default="active"),
        sa.Column("max_open_positions", sa.Integer, nullable=False, server_default="10"),
        sa.Column("max_notional", Money, comment="in each quote currency; null: no limit"),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_users")),
        sa.UniqueConstraint("name", name=op.f("uq_users_name")),
        sa.CheckConstraint("status IN ('active', 'disabled')", name=op.f("ck_users_status")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_users_updated_at"), "users", ["updated_at"])
    op.create_table(
        "credentials",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column(
            "user_id",
            Id,
            sa.ForeignKey("users.id", name=op.f("fk_credentials_user_id")),
            nullable=False,
        ),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("label", sa.Text, nullable=False, server_default=""),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("status", sa.Text, nullable=False, server_default="active"),
        sa.Column("live", sa.Boolean, nullable=False, server_default=sa.text("false")),
        sa.Column("taker_fee", Money, comment="a fraction; null: the venue's default"),
        sa.Column("ciphertext", sa.LargeBinary, comment="AES-256-GCM over the key and its secret"),
        sa.Column("nonce", sa.LargeBinary),
        sa.Column(
            "wrapped_key", sa.LargeBinary, comment="the data key, encrypted under master_key_id"
        ),
        sa.Column("wrap_nonce", sa.LargeBinary),
        sa.Column("master_key_id", sa.Text),
        sa.Column("facts", Json, comment="permissions and balance as the venue told them"),
        sa.Column(
            "trouble", sa.Text, comment="why this credential's bots stand still; null: they do not"
        ),
        sa.Column("checked_at", Moment),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_credentials")),
        sa.CheckConstraint("status IN ('active', 'retired')", name=op.f("ck_credentials_status")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_credentials_updated_at"), "credentials", ["updated_at"])
    op.create_index(
        op.f("uq_credentials_active"),
        "credentials",
        ["user_id", "venue"],
        unique=True,
        postgresql_where=sa.text("status = 'active'"),
        sqlite_where=sa.text("status = 'active'"),
    )
    op.create_table(
        "bots",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column(
            "user_id", Id, sa.ForeignKey("users.id", name=op.f("fk_bots_user_id")), nullable=False
        ),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("capital", Money, nullable=False),
        sa.Column("mode", sa.Text, nullable=False, server_default="paper"),
        sa.Column("status", sa.Text, nullable=False, server_default="inactive"),
        sa.Column("risk_profile", Json, nullable=False, server_default=sa.text("'{}'")),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("realised", Money, nullable=False, server_default="0"),
        sa.Column("loss_streak", sa.Integer, nullable=False, server_default="0"),
        sa.Column("removed_at", Moment),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_bots")),
        sa.CheckConstraint("mode IN ('live', 'paper')", name=op.f("ck_bots_mode")),
        sa.CheckConstraint(
            "status IN ('active', 'inactive', 'paused', 'stopping')", name=op.f("ck_bots_status")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_bots_shard"), "bots", ["shard"])
    op.create_index(op.f("ix_bots_updated_at"), "bots", ["updated_at"])
    op.create_index(
        op.f("uq_bots_name"),
        "bots",
        ["user_id", "name"],
        unique=True,
        postgresql_where=sa.text("removed_at IS NULL"),
        sqlite_where=sa.text("removed_at IS NULL"),
    )
    op.create_table(
        "bot_pairs",
        sa.Column(
            "bot_id", Id, sa.ForeignKey("bots.id", name=op.f("fk_bot_pairs_bot_id")), nullable=False
        ),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("venue", sa.Text, nullable=False, comment="the bot's: which markets are wanted"),
        sa.Column("active", sa.Boolean, nullable=False, server_default=sa.text("true")),
        sa.PrimaryKeyConstraint("bot_id", "pair", name=op.f("pk_bot_pairs")),
    )
    op.create_index(op.f("ix_bot_pairs_market"), "bot_pairs", ["venue", "pair", "bot_id"])


def _trades() -> None:
    op.create_table(
        "positions",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("bot_id", Id, nullable=False),
        sa.Column("user_id", Id, nullable=False),
        sa.Column("credential_id", Id, nullable=False, server_default="0"),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("sequence", sa.Integer, nullable=False),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("regime", sa.Text, comment="at entry"),
        sa.Column("entry_quantity", Money, nullable=False, server_default="0"),
        sa.Column("entry_cost", Money, nullable=False, server_default="0"),
        sa.Column("exit_quantity", Money, nullable=False, server_default="0"),
        sa.Column("exit_proceeds", Money, nullable=False, server_default="0"),
        sa.Column("fees", Money, nullable=False, server_default="0"),
        sa.Column("dust_quantity", Money, nullable=False, server_default="0"),
        sa.Column("realised_pnl", Money, nullable=False, server_default="0"),
        sa.Column("peak_profit", sa.Float(53), comment="the highest since entry, a fraction"),
        sa.Column("entry_reason", sa.Text, nullable=False),
        sa.Column("exit_reason", sa.Text),
        sa.Column("entered_at", Moment, comment="market time"),
        sa.Column("exited_at", Moment, comment="market time"),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("closed_at", Moment),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_positions")),
        sa.UniqueConstraint(
            "bot_id", "pair", "sequence", name=op.f("uq_positions_bot_id_pair_sequence")
        ),
        sa.CheckConstraint("mode IN ('live', 'paper')", name=op.f("ck_positions_mode")),
        sa.CheckConstraint(
            "status IN ('closed', 'closing', 'open', 'opening')", name=op.f("ck_positions_status")
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_positions_user"), "positions", ["user_id", "exited_at"])
    op.create_index(
        op.f("uq_positions_unclosed"),
        "positions",
        ["bot_id", "pair"],
        unique=True,
        postgresql_where=sa.text("status IN ('closing', 'open', 'opening')"),
        sqlite_where=sa.text("status IN ('closing', 'open', 'opening')"),
    )
    op.create_table(
        "orders",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("client_order_id", sa.String(32), nullable=False),
        sa.Column("bot_id", Id, nullable=False),
        sa.Column("user_id", Id, nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("credential_id", Id, nullable=False, server_default="0"),
        sa.Column("mode", sa.Text, nullable=False),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("position_sequence", sa.Integer, nullable=False),
        sa.Column("leg", sa.Text, nullable=False),
        sa.Column("attempt", sa.Integer, nullable=False),
        sa.Column("side", sa.Text, nullable=False),
        sa.Column("quantity", Money, nullable=False),
        sa.Column("decided_price", Money, nullable=False),
        sa.Column("limit_price", Money, comment="null: at market"),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("filled_quantity", Money, nullable=False, server_default="0"),
        sa.Column("average_price", Money),
        sa.Column("fee", Money, nullable=False, server_default="0"),
        sa.Column("fee_currency", sa.Text),
        sa.Column("venue_order_id", sa.Text),
        sa.Column("reason", sa.Text, nullable=False),
        sa.Column("facts", sa.JSON, nullable=False, comment="tick, indicators and thresholds met"),
        sa.Column("lease_epoch", Id, nullable=False),
        sa.Column("send_by", Moment),
        sa.Column("market_time", Moment, nullable=False),
        sa.Column("observed_at", Moment, nullable=False),
        sa.Column("received_at", Moment, nullable=False),
        sa.Column("decided_at", Moment, nullable=False),
        sa.Column("committed_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("sent_at", Moment),
        sa.Column("settled_at", Moment),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_orders")),
        sa.UniqueConstraint("client_order_id", name=op.f("uq_orders_client_order_id")),
        sa.CheckConstraint("mode IN ('live', 'paper')", name=op.f("ck_orders_mode")),
        sa.CheckConstraint("leg IN ('entry', 'exit')", name=op.f("ck_orders_leg")),
        sa.CheckConstraint("side IN ('buy', 'sell')", name=op.f("ck_orders_side")),
        sa.CheckConstraint(
            "status IN ('cancelled', 'committed', 'expired', 'filled', "
            "'not_placed', 'open', 'rejected', 'unknown')",
            name=op.f("ck_orders_status"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_orders_position"), "orders", ["bot_id", "pair", "position_sequence"])
    op.create_index(
        op.f("uq_orders_unsettled"),
        "orders",
        ["bot_id", "pair"],
        unique=True,
        postgresql_where=sa.text("status IN ('committed', 'open', 'unknown')"),
        sqlite_where=sa.text("status IN ('committed', 'open', 'unknown')"),
    )
    op.create_table(
        "fills",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("credential_id", Id, nullable=False, server_default="0"),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("trade_id", sa.Text, nullable=False),
        sa.Column("client_order_id", sa.String(32), nullable=False),
        sa.Column("bot_id", Id, nullable=False),
        sa.Column("position_sequence", sa.Integer, nullable=False),
        sa.Column("leg", sa.Text, nullable=False),
        sa.Column("quantity", Money, nullable=False),
        sa.Column("price", Money, nullable=False),
        sa.Column("fee", Money, nullable=False),
        sa.Column("fee_currency", sa.Text, nullable=False),
        sa.Column("filled_at", Moment, nullable=False, comment="the venue's clock"),
        sa.Column("recorded_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fills")),
        sa.UniqueConstraint(
            "venue",
            "credential_id",
            "pair",
            "trade_id",
            name=op.f("uq_fills_venue_credential_id_pair_trade_id"),
        ),
        sa.CheckConstraint("leg IN ('entry', 'exit')", name=op.f("ck_fills_leg")),
        sqlite_autoincrement=True,
    )
    op.create_index(op.f("ix_fills_client_order_id"), "fills", ["client_order_id"])
    op.create_index(op.f("ix_fills_position"), "fills", ["bot_id", "pair", "position_sequence"])
    op.create_table(
        "outbox",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("shard", sa.Integer, nullable=False),
        sa.Column("bot_id", Id, comment="null: not about one bot"),
        sa.Column("exchange", sa.Text, nullable=False),
        sa.Column("routing_key", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("sent_at", Moment),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_outbox")),
        sqlite_autoincrement=True,
    )
    op.create_index(
        op.f("ix_outbox_unsent"),
        "outbox",
        ["shard", "id"],
        postgresql_where=sa.text("sent_at IS NULL"),
        sqlite_where=sa.text("sent_at IS NULL"),
    )


def _markets() -> None:
    op.create_table(
        "markets",
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("status", sa.Text, nullable=False),
        sa.Column("lot_step", Money, nullable=False),
        sa.Column("price_tick", Money, nullable=False),
        sa.Column("min_quantity", Money, nullable=False),
        sa.Column("min_notional", Money, nullable=False),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("venue", "pair", name=op.f("pk_markets")),
        sa.CheckConstraint("status IN ('halted', 'listed')", name=op.f("ck_markets_status")),
    )
    op.create_index(op.f("ix_markets_updated_at"), "markets", ["updated_at"])
    op.create_table(
        "latest_ticks",
        sa.Column("venue", sa.Text, nullable=False),
        sa.Column("pair", sa.Text, nullable=False),
        sa.Column("body", sa.Text, nullable=False),
        sa.Column("observed_at", Moment, nullable=False),
        sa.Column("stream_epoch", Id, nullable=False),
        sa.Column("sequence", Id, nullable=False),
        sa.PrimaryKeyConstraint("venue", "pair", name=op.f("pk_latest_ticks")),
    )


def _processes() -> None:
    op.create_table(
        "fleet",
        sa.Column("id", sa.SmallInteger, autoincrement=False, nullable=False),
        sa.Column("namespace", sa.String(36), nullable=False),
        sa.Column("shard_count", sa.Integer, nullable=False),
        sa.Column("minimum_code", sa.Integer, nullable=False),
        sa.Column("created_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_fleet")),
        sa.CheckConstraint("id = 1", name=op.f("ck_fleet_one_row")),
    )
    op.create_table(
        "leases",
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, autoincrement=False, nullable=False),
        sa.Column("owner", sa.Text),
        sa.Column("epoch", Id, nullable=False, server_default="0"),
        sa.Column("granted_at", Moment),
        sa.Column("expires_at", Moment),
        sa.Column("wanted_by", sa.Text, comment="who should hold it next: the owner hands it over"),
        sa.PrimaryKeyConstraint("kind", "number", name=op.f("pk_leases")),
        sa.CheckConstraint("kind IN ('price_stream', 'shard')", name=op.f("ck_leases_kind")),
    )
    op.create_table(
        "lease_grants",
        sa.Column("id", Id, sa.Identity(), nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("number", sa.Integer, nullable=False),
        sa.Column("epoch", Id, nullable=False),
        sa.Column("owner", sa.Text, nullable=False),
        sa.Column("granted_from", Moment, nullable=False, server_default=database_now()),
        sa.Column("granted_until", Moment, comment="null while it is held"),
        sa.Column("ended_why", sa.Text),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_lease_grants")),
        sa.UniqueConstraint(
            "kind", "number", "epoch", name=op.f("uq_lease_grants_kind_number_epoch")
        ),
        sa.CheckConstraint("kind IN ('price_stream', 'shard')", name=op.f("ck_lease_grants_kind")),
        sa.CheckConstraint(
            "ended_why IN ('expired', 'released', 'replaced')",
            name=op.f("ck_lease_grants_ended_why"),
        ),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "workers",
        sa.Column("kind", sa.Text, nullable=False, comment="price_stream or trade_worker"),
        sa.Column("name", sa.Text, nullable=False),
        sa.Column("instance", sa.Text, nullable=False, comment="one run of one process"),
        sa.Column("host", sa.Text, nullable=False),
        sa.Column("pid", sa.Integer, nullable=False),
        sa.Column("started_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("heartbeat_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("report", Json, nullable=False),
        sa.PrimaryKeyConstraint("kind", "name", name=op.f("pk_workers")),
    )


def _limits() -> None:
    op.create_table(
        "breakers",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_id", Id, autoincrement=False, nullable=False),
        sa.Column("kind", sa.Text, nullable=False),
        sa.Column("open", sa.Boolean, nullable=False),
        sa.Column("open_until", Moment, comment="market time; null: until reset by hand"),
        sa.Column("facts", Json, nullable=False),
        sa.Column("opened_at", Moment),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("scope", "scope_id", "kind", name=op.f("pk_breakers")),
        sa.CheckConstraint("scope IN ('bot', 'user')", name=op.f("ck_breakers_scope")),
        sa.CheckConstraint("kind IN ('daily_loss', 'loss_streak')", name=op.f("ck_breakers_kind")),
    )
    op.create_index(op.f("ix_breakers_updated_at"), "breakers", ["updated_at"])
    op.create_table(
        "kill_switches",
        sa.Column("scope", sa.Text, nullable=False),
        sa.Column("scope_key", sa.Text, nullable=False, comment="'' fleet, else venue or id"),
        sa.Column("level", sa.Text, nullable=False),
        sa.Column("reason", sa.Text, nullable=False, server_default=""),
        sa.Column("version", sa.Integer, nullable=False, server_default="1"),
        sa.Column("updated_at", Moment, nullable=False, server_default=database_now()),
        sa.PrimaryKeyConstraint("scope", "scope_key", name=op.f("pk_kill_switches")),
        sa.CheckConstraint(
            "scope IN ('bot', 'fleet', 'user', 'venue')", name=op.f("ck_kill_switches_scope")
        ),
        sa.CheckConstraint(
            "level IN ('all', 'entries', 'flatten', 'off')", name=op.f("ck_kill_switches_level")
        ),
    )
    op.create_index(op.f("ix_kill_switches_updated_at"), "kill_switches", ["updated_at"])
