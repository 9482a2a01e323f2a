"""Alembic's entry: run the migrations inside the transaction that schema.py opened."""

from alembic import context

from slipway.ledger import tables

context.configure(connection=context.config.attributes["connection"], target_metadata=tables.metadata)
context.run_migrations()
