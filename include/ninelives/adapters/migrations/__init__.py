"""Alembic's view of the ledger; ``ninelives.adapters.ledger.migrate`` runs it."""
