"""Topics: which there are, how long they keep, how large a record may be; made and checked through kafka-python."""

import ssl
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple, TypeVar

from kafka import KafkaAdminClient, TopicPartition
from kafka.admin import MemberToRemove, NewTopic, OffsetSpec
from kafka.errors import (
    CoordinatorLoadInProgressError,
    CoordinatorNotAvailableError,
    GroupIdNotFoundError,
    KafkaError,
    NoError,
    NotCoordinatorError,
    TopicAlreadyExistsError,
)
from kafka.structs import OffsetAndMetadata

from core.errors import FreshetError, SettingsError
from core.hashing import PARTITION_HASH
from core.position import Upstream
from streams.dead_letters import topic_of
from streams.settings import Settings

EVENT_RECORD_BYTES = 4 << 20  # a producer's largest record; the decoder's own bound is lower, so that it dead-letters
DEAD_RECORD_BYTES = 5 << 20  # the same record with our headers
DERIVED_RECORD_BYTES = 8 << 20
CONNECT_MS = 10_000
COORDINATOR_SECONDS = 20.0
T = TypeVar("T")


class Topic(NamedTuple):
    """One row of the topic table (docs/producers.md)."""

    name: str
    partitions: int
    retention_hours: float | None  # None: compacted, kept for ever
    max_record_bytes: int
    about: str


def table(s: Settings) -> list[Topic]:
    """Every topic that this configuration uses."""
    events, derived, parameters = s.events_retention_hours, s.derived_retention_hours, s.parameters_retention_hours
    return [
        Topic(s.events_topic, s.events_partitions, events, EVENT_RECORD_BYTES, "what producers send"),
        Topic(s.items_topic, 1, None, EVENT_RECORD_BYTES, "the catalogue"),
        Topic(topic_of(s.events_topic), s.events_partitions, events, DEAD_RECORD_BYTES, "events refused, with the reason"),
        Topic(topic_of(s.items_topic), 1, events, DEAD_RECORD_BYTES, "items refused, with the reason"),
        Topic(s.batches_topic, s.batches_partitions, derived, DERIVED_RECORD_BYTES, f"rows by {PARTITION_HASH}: the recorded truth"),
        Topic(s.examples_topic, 1, derived, DERIVED_RECORD_BYTES, "training examples in the learner's one order"),
        Topic(s.parameters_topic, 1, parameters, DERIVED_RECORD_BYTES, "touched rows for serving caches"),
    ]


def security(s: Settings) -> dict[str, Any]:
    """Connection keywords that aiokafka and kafka-python share."""
    given: dict[str, Any] = {"bootstrap_servers": s.bootstrap_servers.split(","), "security_protocol": s.security_protocol}
    if "SSL" in s.security_protocol:
        given["ssl_context"] = ssl.create_default_context(cafile=s.ssl_cafile or None)
    if "SASL" in s.security_protocol:
        given |= {"sasl_mechanism": s.sasl_mechanism, "sasl_plain_username": s.sasl_username, "sasl_plain_password": s.sasl_password}
    return given


@contextmanager
def admin(s: Settings) -> Iterator["Admin"]:
    """A connected administrator, closed at the end.

    Raises:
        FreshetError: nobody answers there.
    """
    try:
        client = KafkaAdminClient(**security(s), request_timeout_ms=15_000, bootstrap_timeout_ms=CONNECT_MS)
    except (KafkaError, OSError, ValueError) as error:
        raise FreshetError(
            f"no Kafka answers at {s.bootstrap_servers} ({type(error).__name__}): check `bootstrap_servers` (FRESHET_BOOTSTRAP_SERVERS) "
            "and the security settings; `freshet up` and `freshet broker` print their own address"
        ) from error
    try:
        yield Admin(client)
    finally:
        client.close()


class Admin:
    """What Freshet asks of a cluster besides records."""

    def __init__(self, client: KafkaAdminClient) -> None:
        self.client = client

    def create(self, topics: Sequence[Topic], replication: int) -> list[str]:
        """Make those that are missing; returns their names. An existing topic is left as it is."""
        missing = [t for t in topics if t.name not in set(self.client.list_topics())]
        made = [t.name for t in missing if self._create(t, replication)]
        if missing:
            self.client.wait_for_topics([t.name for t in missing], timeout_ms=15_000)
        return made

    def _create(self, topic: Topic, replication: int) -> bool:
        hours = topic.retention_hours
        config = {"max.message.bytes": str(topic.max_record_bytes)}
        config |= {"cleanup.policy": "compact"} if hours is None else {"retention.ms": str(int(hours * 3_600_000))}
        try:
            self.client.create_topics([NewTopic(topic.name, topic.partitions, replication, topic_configs=config)])
        except TopicAlreadyExistsError:  # another process was first
            return False
        return True

    def remove(self, topics: Sequence[Topic], groups: Mapping[str, str]) -> None:
        """Delete topics, as far as they are there, and consumer groups, each given with its one static member, which has ended."""
        there = set(self.client.list_topics())
        self.client.delete_topics([t.name for t in topics if t.name in there])
        for group, instance in groups.items():
            self.client.remove_group_members(group, [MemberToRemove(group_instance_id=instance)])
            self.client.delete_groups([group])

    def upstreams(self, topic: str) -> list[Upstream]:
        """The partitions of a topic, with the topic's id.

        Raises:
            SettingsError: there is no such topic.
        """
        [found] = self.client.describe_topics([topic])
        if found["error_code"] or not found["partitions"]:
            raise SettingsError(f"there is no topic {topic!r}; `freshet doctor --create-topics` makes what is missing")
        count = len(found["partitions"])
        return [Upstream(topic, partition, str(found["topic_id"])) for partition in range(count)]

    def first_offset(self, upstream: Upstream) -> int:
        """The lowest offset that retention has left."""
        return self._offset(upstream, OffsetSpec.EARLIEST)

    def end_offset(self, upstream: Upstream) -> int:
        """The offset that the next record will get."""
        return self._offset(upstream, OffsetSpec.LATEST)

    def _offset(self, upstream: Upstream, which: OffsetSpec) -> int:
        tp = TopicPartition(upstream.topic, upstream.partition)
        return int(self.client.list_partition_offsets({tp: which})[tp].offset)

    def members(self, group: str) -> int:
        """Workers in a group; one that went without a word counts until its session ends."""
        try:
            return len(_patiently(lambda: self.client.describe_groups([group]))[group]["members"])
        except GroupIdNotFoundError:  # nobody ever joined it
            return 0

    def committed(self, group: str, tps: Sequence[TopicPartition]) -> dict[TopicPartition, int]:
        """The group's offsets; a partition without one is left out."""
        found = _patiently(lambda: self.client.list_group_offsets({group: list(tps)})).get(group, {})
        return {tp: at.offset for tp, at in found.items() if at.offset >= 0}

    def commit(self, group: str, offsets: dict[TopicPartition, int], patience_seconds: float = 0.0) -> None:
        """Set a group's offsets. Kafka allows it while the group has no member; one that is gone counts until its session ends.

        Raises:
            SettingsError: it still has one after `patience_seconds`.
        """
        wanted = {tp: OffsetAndMetadata(at, "", -1) for tp, at in offsets.items()}
        deadline = time.monotonic() + patience_seconds
        while failed := self._commit(group, wanted):
            if time.monotonic() < deadline:
                time.sleep(0.2)
                continue
            raise SettingsError(
                f"group {group} stands ahead of the checkpoints in data_dir and cannot be moved back while it has members "
                f"({failed}); stop its other workers, or give all of them the same `data_dir` (FRESHET_DATA_DIR)"
            )

    def _commit(self, group: str, wanted: dict[TopicPartition, OffsetAndMetadata]) -> dict[str, str]:
        """The partitions that were refused, each with the error's name."""
        result = _patiently(lambda: self.client.alter_group_offsets(group, wanted))
        return {f"{tp.topic}/{tp.partition}": error.__name__ for tp, error in result.items() if error is not NoError}


def _patiently(call: Callable[[], T]) -> T:
    """A cluster's first use of groups makes their topic; until then there is no coordinator."""
    deadline = time.monotonic() + COORDINATOR_SECONDS
    while True:
        try:
            return call()
        except (CoordinatorNotAvailableError, CoordinatorLoadInProgressError, NotCoordinatorError):
            if time.monotonic() > deadline:
                raise
            time.sleep(0.1)
