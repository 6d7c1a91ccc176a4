"""The ledger's schema, one step after the other."""
