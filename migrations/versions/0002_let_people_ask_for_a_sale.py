"""Let people ask for the sale of one position."""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column(
        "positions",
        sa.Column("exit_wanted", sa.Text, comment="why a person wants it sold; null: nobody does"),
    )


def downgrade() -> None:
    op.drop_column("positions", "exit_wanted")
