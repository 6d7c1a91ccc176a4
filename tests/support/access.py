"""A server process that keeps IAM and bucket policies (moto), and an estate of which one site keeps its permissions
there."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any

import boto3
import httpx
import yaml
from support.processes import ROOT, Process, free_port, program, stopping, wait_until

from ninelives.access.audit import check_access
from ninelives.adapters.connected import ConnectedEstate
from ninelives.adapters.connections import FileConnections
from ninelives.adapters.ledger import SqlLedger, migrate
from ninelives.estate import load_estate
from ninelives.home import Home

FLIGHTS = "arn:aws:s3:::data/flights/*"
MODELS = ["arn:aws:s3:::models/arrival-delay/*", "arn:aws:s3:::models/late-arrival/*"]
KEYS = {"aws_access_key_id": "x", "aws_secret_access_key": "x", "region_name": "us-east-1"}
DEMO = ROOT / "include" / "estates" / "demo" / "estate.yaml"


class Systems(ConnectedEstate):
    """The ledger in a file; everything else as it is."""

    def ledger(self) -> SqlLedger:
        return SqlLedger(f"sqlite:///{self.home.root / 'ledger.db'}")


class World:
    """Dublin keeps its permissions with AWS; Paris has a store that keeps none.

    :param prefix: of the names of Dublin's buckets
    """

    def __init__(self, folder: Path, server: str, prefix: str = "") -> None:
        self.home = Home(folder)
        self.home.connections_file.parent.mkdir(parents=True)
        extra = {"endpoint_url": server}
        self.access = {"conn_type": "aws", "login": "auditor", "password": "secret", "extra": extra}
        self.store = {"conn_type": "aws", "extra": {"bucket_prefix": prefix}}
        self.connect(self.access)
        migrate(f"sqlite:///{folder / 'ledger.db'}")
        estate = yaml.safe_load(DEMO.read_text())
        estate["sites"][1]["access"] = "aws"
        serving = {"who": "serving", "may": ["read"], "at": ["paris"], "in_failover": True}
        copier = {"who": "copier", "may": ["read", "write"]}
        for item in (estate["datasets"][0], *estate["models"]):
            item["access"] = [serving, copier]
        (folder / "estate.yaml").write_text(json.dumps(estate))
        self.iam, self.s3 = (boto3.client(name, endpoint_url=server, **KEYS) for name in ("iam", "s3"))
        for bucket in ("data", "models"):
            self.s3.create_bucket(Bucket=f"{prefix}{bucket}")
        trust = {"Version": "2012-10-17", "Statement": []}
        self.iam.create_role(RoleName="serving", AssumeRolePolicyDocument=json.dumps(trust))
        self.iam.create_user(UserName="copier")
        ours = [name.replace(":::", f":::{prefix}") for name in (FLIGHTS, *MODELS)]
        self.allow("copier", "copies", ["s3:GetObject", "s3:PutObject"], ours)

    @cached_property
    def systems(self) -> Systems:
        return Systems(
            load_estate(self.home.root / "estate.yaml"), FileConnections(self.home.connections_file), self.home
        )

    def connect(self, access: dict[str, Any]) -> None:
        connections = {"ninelives_dublin_access": access, "ninelives_dublin_store": self.store}
        self.home.connections_file.write_text(json.dumps(connections))

    def allow(self, user: str, name: str, actions: list[str], resources: list[str]) -> None:
        statement = {"Effect": "Allow", "Action": actions, "Resource": resources}
        document = json.dumps({"Version": "2012-10-17", "Statement": [statement]})
        self.iam.put_user_policy(UserName=user, PolicyName=name, PolicyDocument=document)

    def drift(self) -> list[tuple[str, str, str]]:
        return [(one.kind.value, one.subject, one.who) for one in check_access(self.systems).drift]

    def granted(self) -> list[str]:
        return self.iam.list_role_policies(RoleName="serving")["PolicyNames"]

    def command(self, *arguments: str) -> tuple[int, Any]:
        home = self.home.root
        environment = {"NINELIVES_HOME": str(home), "NINELIVES_ESTATE": str(home / "estate.yaml")}
        done = subprocess.run(
            [sys.executable, "-m", "ninelives", "access", "check", *arguments, "--json"],
            env={**os.environ, **environment, "PYTHONPATH": str(ROOT / "include")},
            capture_output=True, text=True, timeout=60, check=False,
        )  # fmt: skip
        return done.returncode, json.loads(done.stdout) if done.stdout else done.stderr


@contextmanager
def aws(folder: Path) -> Iterator[str]:
    """The server's address; nothing of it is left afterwards."""
    port = free_port()
    process = Process([program("moto_server"), "-p", str(port)], folder / "aws.log")
    with stopping(process):
        process.start()
        url = f"http://127.0.0.1:{port}"
        wait_until(lambda: httpx.get(f"{url}/moto-api/", timeout=2).status_code == 200, "the server answers")
        yield url
