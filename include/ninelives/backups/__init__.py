"""Backups: a copy of what the estate cannot lose, encrypted, kept apart, and proven by restoring it."""
