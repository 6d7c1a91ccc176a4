"""Imported by the local estate's scheduler before it forks its workers: what it has imported costs no task anything.

Nothing here may start a thread or open a connection, because every task inherits it. Like ``policies`` this is
imported while Airflow reads its settings, so it imports nothing of Airflow.
"""

# ruff: noqa: F401
from __future__ import annotations

import boto3.s3.inject
import botocore.endpoint
import botocore.handlers
import botocore.httpsession

import ninelives.adapters.connected
import ninelives.adapters.envoy
import ninelives.adapters.ledger
import ninelives.adapters.open_inference
import ninelives.adapters.rclone
import ninelives.adapters.s3
import ninelives.drills.preflight
import ninelives.drills.run
import ninelives.gates.evidence
import ninelives.recovery.playbook
import ninelives.recovery.return_site
import ninelives.replication.checkpoints
import ninelives.replication.reconcile
import ninelives.replication.run
import ninelives.streams.ingest
import ninelives.training.records
import ninelives.versions.replicate
