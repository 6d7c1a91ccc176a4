"""Run by Alembic, inside the transaction that ``ninelives.adapters.ledger.migrate`` opened."""

from alembic import context

# A version table of our own name: the ledger may share a database with others that use Alembic.
context.configure(connection=context.config.attributes["connection"], version_table="ledger_version")
with context.begin_transaction():
    context.run_migrations()
