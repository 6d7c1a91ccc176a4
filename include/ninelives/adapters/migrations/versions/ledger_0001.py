"""Records that can only be appended, and leases."""

from __future__ import annotations

import uuid

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None

_GENESIS = "0" * 64


def upgrade() -> None:
    text = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    op.create_table("ledger", sa.Column("id", text, primary_key=True))
    op.create_table(
        "records",
        sa.Column("seq", sa.BigInteger, sa.CheckConstraint("seq > 0"), primary_key=True, autoincrement=False),
        sa.Column("kind", text, nullable=False),
        sa.Column("subject", text, nullable=False),
        sa.Column("facts", sa.Text, nullable=False),
        sa.Column("at", text, nullable=False),
        sa.Column("version", text, nullable=False),
        sa.Column("once", text, unique=True),
        sa.Column("previous", text, nullable=False, unique=True),
        sa.Column("hash", text, sa.CheckConstraint("length(hash) = 64"), nullable=False, unique=True),
    )
    op.create_index("records_by_subject", "records", ["kind", "subject", "seq"])
    op.create_index("records_by_time", "records", ["at"])
    op.create_table(
        "leases",
        sa.Column("name", text, primary_key=True),
        sa.Column("holder", text, nullable=False),
        sa.Column("token", sa.BigInteger, nullable=False, unique=True),
        sa.Column("expires_at", text, nullable=False),
    )
    tokens = op.create_table(
        "lease_tokens",
        sa.Column("id", sa.Integer, sa.CheckConstraint("id = 1"), primary_key=True, autoincrement=False),
        sa.Column("last", sa.BigInteger, nullable=False),
    )
    op.bulk_insert(tokens, [{"id": 1, "last": 0}])
    op.execute(sa.text("INSERT INTO ledger (id) VALUES (:id)").bindparams(id=uuid.uuid4().hex))
    if op.get_bind().dialect.name == "postgresql":
        _guard_postgresql()
    else:
        _guard_sqlite()


def downgrade() -> None:
    raise RuntimeError("evidence is not dropped; remove the database itself if it must go")


def _guard_postgresql() -> None:
    connection = op.get_bind()
    # Named in full: in the session of a writer, a temporary table must not stand in for ours.
    schema = connection.dialect.identifier_preparer.quote(
        connection.execute(sa.select(sa.func.current_schema())).scalar_one()
    )
    op.execute(f"""
        CREATE FUNCTION {schema}.ledger_append_only() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            RAISE EXCEPTION '% of % is refused: evidence is only ever appended', TG_OP, TG_TABLE_NAME
                USING ERRCODE = 'insufficient_privilege';
        END $$
    """)
    op.execute(f"""
        CREATE FUNCTION {schema}.records_follow() RETURNS trigger LANGUAGE plpgsql AS $$
        DECLARE
            last_seq bigint;
            last_hash text;
        BEGIN
            SELECT seq, hash INTO last_seq, last_hash FROM {schema}.records ORDER BY seq DESC LIMIT 1;
            IF NEW.seq <> coalesce(last_seq, 0) + 1 OR NEW.previous <> coalesce(last_hash, '{_GENESIS}') THEN
                RAISE EXCEPTION 'record % does not follow record %', NEW.seq, coalesce(last_seq, 0)
                    USING ERRCODE = 'integrity_constraint_violation';
            END IF;
            RETURN NEW;
        END $$
    """)  # noqa: S608 - all of it is ours
    op.execute(f"""
        CREATE FUNCTION {schema}.lease_tokens_grow() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN
            IF NEW.id <> OLD.id OR NEW.last <= OLD.last THEN
                RAISE EXCEPTION 'fencing tokens only grow' USING ERRCODE = 'insufficient_privilege';
            END IF;
            RETURN NEW;
        END $$
    """)
    triggers = {
        "records_append_only": ("BEFORE UPDATE OR DELETE OR TRUNCATE", "records", "STATEMENT", "ledger_append_only"),
        "records_follow": ("BEFORE INSERT", "records", "ROW", "records_follow"),
        "ledger_fixed": ("BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE", "ledger", "STATEMENT", "ledger_append_only"),
        "tokens_kept": ("BEFORE INSERT OR DELETE OR TRUNCATE", "lease_tokens", "STATEMENT", "ledger_append_only"),
        "tokens_grow": ("BEFORE UPDATE", "lease_tokens", "ROW", "lease_tokens_grow"),
    }
    for name, (when, table, each, function) in triggers.items():
        op.execute(
            f"CREATE TRIGGER {name} {when} ON {schema}.{table} FOR EACH {each} EXECUTE FUNCTION {schema}.{function}()"
        )
        # Otherwise session_replication_role = replica would be a way around it.
        op.execute(f"ALTER TABLE {schema}.{table} ENABLE ALWAYS TRIGGER {name}")


def _guard_sqlite() -> None:
    refused = "SELECT RAISE(ABORT, 'evidence is only ever appended')"
    for table, action in (
        ("records", "UPDATE"),
        ("records", "DELETE"),
        ("ledger", "INSERT"),
        ("ledger", "UPDATE"),
        ("ledger", "DELETE"),
        ("lease_tokens", "INSERT"),
        ("lease_tokens", "DELETE"),
    ):
        op.execute(f"CREATE TRIGGER {table}_no_{action.lower()} BEFORE {action} ON {table} BEGIN {refused}; END")
    op.execute("""
        CREATE TRIGGER lease_tokens_grow BEFORE UPDATE ON lease_tokens WHEN NEW.id <> OLD.id OR NEW.last <= OLD.last
        BEGIN SELECT RAISE(ABORT, 'fencing tokens only grow'); END
    """)
    # The last condition: INSERT OR REPLACE removes what it conflicts with and fires no DELETE trigger.
    op.execute(f"""
        CREATE TRIGGER records_follow BEFORE INSERT ON records WHEN
            NEW.seq <> coalesce((SELECT max(seq) FROM records), 0) + 1
            OR NEW.previous <> coalesce((SELECT hash FROM records ORDER BY seq DESC LIMIT 1), '{_GENESIS}')
            OR EXISTS (SELECT 1 FROM records WHERE once = NEW.once OR hash = NEW.hash OR previous = NEW.previous)
        BEGIN SELECT RAISE(ABORT, 'the record does not follow the last one'); END
    """)  # noqa: S608 - all of it is ours
