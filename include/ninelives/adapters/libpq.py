"""What PostgreSQL's client library, libpq, takes from a connection's extra."""

from __future__ import annotations

from ninelives.ports import Connection

_EXTRAS = {"sslmode", "sslrootcert", "sslcert", "sslkey"}


def extras(connection: Connection) -> dict[str, str]:
    """How the connection is encrypted; Airflow keeps other things in there, which libpq would refuse."""
    return {key: str(value) for key, value in connection.extra.items() if key in _EXTRAS}
