"""A topic of any broker that speaks the Kafka protocol, through librdkafka.

Positions are given by the caller and never taken from the group: what has been landed says where to go on, and the
offsets committed to the broker only follow, for its lag displays and its retention.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from ninelives.errors import Corrupted, Unavailable
from ninelives.ports import Connection, Message

_BATCH = 5000
_WAIT = 0.2
"""Seconds that one call waits for messages."""
_SILENCE = 1.0
"""Seconds without a message or the end after which the end is looked up."""


class KafkaTopic:
    """``ports.Topic`` on confluent-kafka; for one thread.

    :param settings: of librdkafka; ``bootstrap.servers`` at least
    :param timeout: seconds without an answer after which the broker counts as unavailable
    """

    def __init__(self, settings: Mapping[str, Any], topic: str, group: str, *, timeout: float = 10.0) -> None:
        self.topic = topic
        self._where = f"topic {topic} at {settings['bootstrap.servers']}"
        self._timeout = timeout
        self._settings = {
            "fetch.wait.max.ms": 50,  # the end of what there is should be told soon
            **settings,
            "group.id": group,
            "enable.auto.commit": False,
            "enable.auto.offset.store": False,
            "enable.partition.eof": True,
            "auto.offset.reset": "error",
            "allow.auto.create.topics": False,
            "log_level": 0,  # what goes wrong is raised
        }
        self._consumer: Any = None
        self._position: tuple[int, int] | None = None
        """Partition and offset that the consumer would read next."""

    @classmethod
    def from_connection(cls, connection: Connection, topic: str, group: str) -> KafkaTopic:
        """``extra`` holds librdkafka's settings, as Airflow's kafka connections do; host and port may name the broker.

        A login becomes SASL/PLAIN unless ``extra`` says otherwise.
        """
        settings: dict[str, Any] = dict(connection.extra)
        if connection.host:
            settings.setdefault("bootstrap.servers", f"{connection.host}:{connection.port or 9092}")
        if "bootstrap.servers" not in settings:
            raise Unavailable(f"connection {connection.conn_id} names no broker; set bootstrap.servers in its extra")
        if connection.login:
            settings.setdefault("sasl.mechanism", "PLAIN")
            settings.setdefault("security.protocol", "SASL_SSL")
            settings |= {"sasl.username": connection.login, "sasl.password": connection.password or ""}
        return cls(settings, topic, group)

    def close(self) -> None:
        if self._consumer is not None:
            self._consumer.close()
            self._consumer = self._position = None

    def partitions(self) -> tuple[int, ...]:
        """Raises ``Unavailable`` also where there is no such topic."""
        with self._asking("list its partitions"):
            found = self._client().list_topics(self.topic, timeout=self._timeout).topics[self.topic]
        if found.error is not None:
            raise Unavailable(f"{self._where} cannot be read: {found.error.str()}")
        return tuple(sorted(found.partitions))

    def first(self, partition: int) -> int:
        from confluent_kafka import TopicPartition

        with self._asking("say what it keeps"):
            low, _ = self._client().get_watermark_offsets(
                TopicPartition(self.topic, partition), timeout=self._timeout, cached=False
            )
        return int(low)

    def read(self, partition: int, start: int, limit: int) -> list[Message]:
        found = self._read(partition, start, limit)
        # A partition that was made anew would look as if nothing had arrived, until it is as long as the old one.
        if not found and start > self.first(partition) and not self._read(partition, start - 1, 1):
            raise Corrupted(
                f"{self._where}: partition {partition} ends before offset {start}, up to which it was landed; "
                "the broker lost its log or the topic was made anew: land it as a new stream, or restore the log"
            )
        return found

    def _read(self, partition: int, start: int, limit: int) -> list[Message]:
        from confluent_kafka import KafkaError, TopicPartition

        with self._asking("give its messages"):
            consumer = self._client()
            if self._position != (partition, start):
                consumer.assign([TopicPartition(self.topic, partition, start)])
            self._position = None
            messages: list[Message] = []
            heard = time.monotonic()
            while len(messages) < limit:
                for message in consumer.consume(min(limit - len(messages), _BATCH), timeout=_WAIT):
                    error = message.error()
                    if error is None:
                        heard = time.monotonic()
                        messages.append(Message(message.offset(), message.value(), _headers(message)))
                    elif error.code() in (KafkaError._PARTITION_EOF, KafkaError._AUTO_OFFSET_RESET):
                        return messages  # the end is told once per assignment, so the next read makes a new one
                    elif not error.retriable() or error.fatal():
                        raise Unavailable(f"{self._where} did not give its messages: {error.str()}")
                silent = time.monotonic() - heard
                if silent > _SILENCE and self._is_beyond(partition, start):
                    return messages
                if silent > self._timeout:
                    raise Unavailable(f"{self._where} gave neither a message nor its end in {self._timeout:g} s")
        self._position = (partition, messages[-1].offset + 1)
        return messages

    def _is_beyond(self, partition: int, start: int) -> bool:
        """Whether the partition ends before ``start`` by the last answer; not every broker calls that an error."""
        from confluent_kafka import TopicPartition

        _, high = self._client().get_watermark_offsets(TopicPartition(self.topic, partition), cached=True)
        return bool(0 <= high < start)

    def commit(self, offsets: Mapping[int, int]) -> None:
        from confluent_kafka import TopicPartition

        if not offsets:
            return
        with self._asking("commit offsets"):
            done = self._client().commit(
                offsets=[TopicPartition(self.topic, partition, offset) for partition, offset in offsets.items()],
                asynchronous=False,
            )
        for one in done or ():
            if one.error is not None:
                raise Unavailable(f"{self._where} did not commit offset {one.offset}: {one.error.str()}")

    def committed(self) -> dict[int, int]:
        from confluent_kafka import TopicPartition

        asked = [TopicPartition(self.topic, partition) for partition in self.partitions()]
        with self._asking("say what was committed"):
            found = self._client().committed(asked, timeout=self._timeout)
        return {one.partition: one.offset for one in found if one.offset >= 0}

    def _client(self) -> Any:
        if self._consumer is None:
            from confluent_kafka import Consumer

            self._consumer = Consumer(self._settings)
        return self._consumer

    @contextmanager
    def _asking(self, what: str) -> Iterator[None]:
        from confluent_kafka import KafkaException

        try:
            yield
        except (KafkaException, ValueError) as error:
            raise Unavailable(f"{self._where} did not {what}: {error}") from error


def _headers(message: Any) -> dict[str, str]:
    return {name: value.decode("utf-8", "replace") for name, value in message.headers() or () if value is not None}
