"""Lands a stream in one process after another, each forked from one that has imported everything: a kill costs
milliseconds, not a start of Python.

Reads ``<stream> <chunk>`` from standard input, forks, prints the child's pid, and when the child has ended its status.
"""

from __future__ import annotations

import os
import sys
import warnings

import boto3
import confluent_kafka
import pyarrow.parquet
import sqlalchemy.dialects.postgresql.psycopg2

from ninelives.adapters.connected import ConnectedEstate
from ninelives.home import Home
from ninelives.streams.ingest import ingest

IMPORTED = (boto3, confluent_kafka, pyarrow.parquet, sqlalchemy.dialects.postgresql.psycopg2)


def main() -> None:
    warnings.simplefilter("ignore")
    print("ready", flush=True)
    for line in sys.stdin:
        stream, chunk = line.split()
        pid = os.fork()
        if pid == 0:
            ingest(ConnectedEstate.of_home(Home.from_environment()), stream, holder="nursery", chunk=int(chunk))
            os._exit(0)
        print(pid, flush=True)
        print(os.waitpid(pid, 0)[1], flush=True)


if __name__ == "__main__":
    main()
