"""Remember whose orders of a lost time a recovery has asked for, and under which old ids."""

import sqlalchemy as sa
from alembic import op

from shared.store.types import Id, Moment, database_now

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "recoveries",
        sa.Column("namespace", sa.String(36), nullable=False, comment="of the ids to ask for"),
        sa.Column("credential_id", Id, nullable=False),
        sa.Column("lost_since", Moment, nullable=False),
        sa.Column("begun_at", Moment, nullable=False, server_default=database_now()),
        sa.Column("asked_at", Moment, comment="null: still to be asked for"),
        sa.PrimaryKeyConstraint("namespace", "credential_id", name="pk_recoveries"),
    )


def downgrade() -> None:
    op.drop_table("recoveries")
