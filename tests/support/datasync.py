"""Two sites on AWS, as far as moto goes: S3 and a DataSync that copies, in a process of its own."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx
import yaml
from support.access import DEMO, KEYS
from support.processes import ROOT, Process, free_port, stopping, wait_until

from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.datasync import ROLE, DataSyncCopier
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.adapters.rclone import RcloneCopier
from ninelives.estate import load_estate
from ninelives.home import Home
from ninelives.ports import ObjectCopier

BUCKETS = {"paris": "acme-paris-data", "dublin": "acme-dublin-data"}


class Quick(ConnectedEstate):
    """The ledger in a file, and looks at an execution more often than AWS would like."""

    patience = 20.0

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")

    def copier(self, dataset: str | None = None) -> ObjectCopier:
        assert isinstance(super().copier(dataset), DataSyncCopier) == (dataset is not None)
        if dataset is None:
            return RcloneCopier()
        return DataSyncCopier(RcloneCopier(), every=0.02, start_within=self.patience, patience=self.patience)


class Aws:
    """The demo's estate with ``engine: datasync``, and both sites' buckets in one account."""

    def __init__(self, folder: Path, server: str) -> None:
        self.home, self.server, self.faults = Home(folder / "home"), server, folder / "faults.json"
        connections = {}
        for site in BUCKETS:
            extra = {
                "endpoint_url": server,
                "region_name": "us-east-1",
                "bucket_prefix": f"acme-{site}-",
                ROLE: f"arn:aws:iam::111122223333:role/datasync-{site}",
            }
            connections[f"ninelives_{site}_store"] = {
                "conn_type": "aws", "login": "replicator", "password": "secret", "extra": extra,
            }  # fmt: skip
        self.home.connections_file.parent.mkdir(parents=True)
        self.home.connections_file.write_text(json.dumps(connections))
        migrate(f"sqlite:///{self.home.root / 'ledger.db'}")
        estate = yaml.safe_load(DEMO.read_text())
        estate["datasets"][0]["engine"] = "datasync"
        for site in estate["sites"]:
            site["access"] = "aws"
        (self.home.root / "estate.yaml").write_text(json.dumps(estate))
        self.s3, self.datasync = (boto3.client(name, endpoint_url=server, **KEYS) for name in ("s3", "datasync"))
        for bucket in (*BUCKETS.values(), "acme-paris-models"):
            self.s3.create_bucket(Bucket=bucket)

    @cached_property
    def systems(self) -> Quick:
        return Quick(
            load_estate(self.home.root / "estate.yaml"), FileConnections(self.home.connections_file), self.home
        )

    def fill(self, count: int) -> None:
        for day in range(count):
            key = f"flights/day={day:03}/part-0.parquet"
            self.s3.put_object(Bucket=BUCKETS["paris"], Key=key, Body=f"flights of day {day}".encode() * 50)

    def keys(self, site: str, prefix: str = "flights/") -> list[str]:
        return [
            item["Key"] for item in self.s3.list_objects_v2(Bucket=BUCKETS[site], Prefix=prefix).get("Contents", ())
        ]

    def objects(self, site: str, prefix: str = "flights/") -> dict[str, bytes]:
        keys = self.keys(site, prefix)
        return {key: self.s3.get_object(Bucket=BUCKETS[site], Key=key)["Body"].read() for key in keys}

    def go_wrong(self, *faults: str | None) -> None:
        """What happens to the executions to come, in their order."""
        self.faults.write_text(json.dumps(faults))

    def go_on(self) -> None:
        """Let a slow execution finish."""
        self.faults.with_suffix(".go").touch()

    @property
    def started(self) -> list[dict[str, Any]]:
        """Every execution that was started, with its filters and options."""
        log = self.faults.with_suffix(".log")
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []


@contextmanager
def on_aws(folder: Path) -> Iterator[Aws]:
    port = free_port()
    command = [sys.executable, "-m", "support.datasync_server", str(port), str(folder / "faults.json")]
    path = f"{ROOT / 'include'}:{ROOT / 'tests'}"
    process = Process(command, folder / "aws.log", {"PYTHONPATH": path})
    with stopping(process):
        process.start()
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/moto-api/", timeout=2).status_code == 200, "the server answers")
        yield Aws(folder, url)
