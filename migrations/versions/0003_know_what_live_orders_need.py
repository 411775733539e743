"""Know what live orders need: fees in the coin, what went wrong, which ids are still watched."""

import sqlalchemy as sa
from alembic import op

from shared.store.types import Money

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "positions",
        sa.Column(
            "fee_quantity", Money, nullable=False, server_default="0", comment="fees in the coin"
        ),
    )
    op.add_column(
        "orders",
        sa.Column(
            "detail", sa.Text, comment="what the venue, or we, said of an order that went wrong"
        ),
    )
    condition = sa.text("status = 'not_placed'")
    op.create_index(
        "ix_orders_not_placed",
        "orders",
        ["shard", "settled_at"],
        postgresql_where=condition,
        sqlite_where=condition,
    )


def downgrade() -> None:
    op.drop_index("ix_orders_not_placed", "orders")
    op.drop_column("orders", "detail")
    op.drop_column("positions", "fee_quantity")
