"""How Alembic reaches the database: through the connection that `shared.store.schema` holds."""

from alembic import context

from shared.store.tables import metadata

connection = context.config.attributes["connection"]

# The connection is inside a transaction that also holds the lock against other migrations;
# whoever opened it commits it.
context.configure(
    connection=connection,
    target_metadata=metadata,
    transactional_ddl=False,
    compare_type=True,
    compare_server_default=False,
)
context.run_migrations()
