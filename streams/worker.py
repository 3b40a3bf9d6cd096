"""The Faust host: a worker whose one agent feeds micro-batches to stages. Faust brings assignment and delivery; position is ours.

Delivery is at least once and acknowledged late (`noack`, then an ack per message once a durable checkpoint covers it); stages
skip what they have seen. A failure ends the process: going on would acknowledge what was not applied.
"""

import asyncio
import logging
import ssl
import time
from collections import defaultdict, deque
from collections.abc import Callable
from typing import Any, NamedTuple, cast

import faust
from aiokafka import AIOKafkaConsumer
from aiokafka.errors import IllegalStateError
from faust.transport.drivers import aiokafka as driver
from faust.types import TP
from kafka import TopicPartition
from mode import CrashingSupervisor

from core.driver import StageDriver
from core.errors import FreshetError, GapError, PositionLostError, SettingsError
from core.position import REBUILD, Record, Upstream
from core.schemas import decode
from core.stage import Stage
from monitoring.metrics import Metrics
from streams.host import StageHost, Watch, checkpoints_of
from streams.inbox import Inbox
from streams.lag import LAG_SECONDS, every
from streams.outbox import Outbox
from streams.reading import stamp_of
from streams.settings import Settings
from streams.topics import Admin, admin
from streams.writer import Writer, producer

log = logging.getLogger(__name__)
StageFactory = Callable[[Upstream], Stage]

FETCH_WAIT_MS = 20  # Faust waits 1500 ms: a partition left out of a fetch under way would see its rows that much later
BUFFERED_RECORDS = 32  # in front of the agent; a record can hold megabytes
FETCH_BYTES = 8 << 20
STOP_SECONDS = 5.0  # each of: Faust, the last checkpoints, the producer
REREAD_SECONDS = 60.0  # then what is missing is missing in the log


class _Consumer(driver.AIOKafkaConsumerThread):
    def _create_worker_consumer(self, transport: Any) -> AIOKafkaConsumer:
        consumer = super()._create_worker_consumer(transport)
        consumer._fetch_max_wait_ms = FETCH_WAIT_MS
        return consumer


class _ThreadedConsumer(driver.Consumer):
    def _new_consumer_thread(self) -> _Consumer:
        return _Consumer(self, loop=self.loop, beacon=self.beacon)

    async def _add_gap(self, tp: TP, offset_from: int, offset_to: int) -> None:
        """Faust would take messages that it lost itself as acknowledged. A derived log has no holes."""


class _Transport(driver.Transport):
    Consumer = _ThreadedConsumer


class _Missing(NamedTuple):
    """What Faust has to deliver next."""

    offset: int
    deadline: float  # monotonic seconds


class StageWorker:
    """One process of the consumer group `<namespace><name>`: a stage for each partition that it is given."""

    def __init__(self, s: Settings, name: str, topic: str, factory: StageFactory, metrics: Metrics, watch: Watch, publish_ms: int) -> None:
        self.s, self.name, self.topic, self.factory, self.metrics, self.watch = s, name, topic, factory, metrics, watch
        self._publish_ms = publish_ms
        self.group = f"{s.namespace}{name}"
        self.writer = Writer(producer(s))
        self.outbox = Outbox(name, s.examples_topic, self.writer, metrics)
        self.inbox = Inbox(BUFFERED_RECORDS)
        self._stopping = False
        self._serving: dict[int, asyncio.Task[None]] = {}  # by partition
        self._hosts: dict[int, StageHost] = {}  # those that are restored
        self._missing: dict[int, _Missing] = {}
        self._unacknowledged: dict[int, deque[Any]] = defaultdict(deque)
        self._upstreams: list[Upstream] = []
        self._first: dict[int, int] = {}
        self.failure: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.app = self._app()

    def _app(self) -> faust.App:
        s = self.s
        app = faust.App(
            self.group,
            broker="kafka://" + s.bootstrap_servers.replace(",", ";"),
            broker_credentials=credentials(s),
            transport=_Transport,
            datadir=str(s.data_dir / "faust"),
            store="memory://",
            key_serializer="raw",
            value_serializer="raw",
            web_enabled=False,
            topic_disable_leader=True,
            topic_allow_declare=False,
            stream_wait_empty=False,
            stream_buffer_maxsize=BUFFERED_RECORDS,
            cython_optimizations=True,
            consumer_auto_offset_reset="none",
            consumer_max_fetch_size=FETCH_BYTES,
            consumer_group_instance_id=f"{self.group}-{s.worker_instance}" if s.worker_instance else None,
            broker_session_timeout=s.session_timeout_seconds,
            broker_heartbeat_interval=s.session_timeout_seconds / 4,
            broker_request_timeout=max(30.0, s.session_timeout_seconds),
            producer_linger=0,
        )
        topic = app.topic(self.topic, key_type=bytes, value_type=bytes)
        app.agent(topic, name=self.name, supervisor_strategy=CrashingSupervisor)(self._consume)
        app.on_partitions_assigned.connect(self._assigned)
        app.on_partitions_revoked.connect(self._revoked)
        return app

    async def run(self, stop: asyncio.Event) -> None:
        """Until `stop` is set; raises what a stage, a send or a checkpoint failed with."""
        await asyncio.to_thread(self._prepare)
        await self.writer.start()
        await self.app.start()
        background = (self._watch(), every(LAG_SECONDS, self._measure_lag), stop.wait())
        watching: list[asyncio.Task[Any]] = [asyncio.create_task(task) for task in background]
        try:
            await asyncio.wait({self.failure, *watching}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            ended = [task for task in watching if task.done()]
            for task in watching:
                task.cancel()
            await self._stop()
        if self.failure.done():
            self.failure.result()
        for task in ended:
            task.result()

    async def _stop(self) -> None:
        """The stages end between two records, each with a checkpoint; one that failed, without."""
        self._stopping = True
        for step in (self.app.stop, self._leave_all, self.outbox.close, self.writer.stop):
            try:
                await asyncio.wait_for(step(), STOP_SECONDS)
            except TimeoutError:
                log.warning("%s took longer than %.0f s; what has no checkpoint is read again", step.__qualname__, STOP_SECONDS)

    async def _leave_all(self) -> None:
        await self._leave(set(self._serving))

    def _prepare(self) -> None:
        """Know the partitions, and see that the group does not stand behind our checkpoints."""
        with admin(self.s) as cluster:
            self._upstreams = cluster.upstreams(self.topic)
            self._first = {u.partition: cluster.first_offset(u) for u in self._upstreams}
            self._align(cluster)

    def _align(self, cluster: Admin) -> None:
        """Move the group back (or start it) where it has no offset, or one above the checkpoint that will be restored."""
        tps = [TopicPartition(u.topic, u.partition) for u in self._upstreams]
        committed = cluster.committed(self.group, tps)
        first = self._first
        kept = {tp: self._checkpointed(tp.partition) for tp in tps}
        for u, tp in zip(self._upstreams, tps, strict=True):
            at, end = kept[tp], cluster.end_offset(u)
            if at is not None and not first[tp.partition] <= at <= end:
                raise PositionLostError(f"{u} holds {first[tp.partition]}..{end}, but the checkpoint goes on at {at}; {REBUILD}")
        wanted = {tp: first[tp.partition] if at is None else at for tp, at in kept.items()}
        wrong = {tp: at for tp, at in wanted.items() if not first[tp.partition] <= committed.get(tp, -1) <= at}
        if wrong:
            log.info("group %s: %s", self.group, {f"{tp.topic}/{tp.partition}": at for tp, at in wrong.items()})
            cluster.commit(self.group, wrong, self.s.session_timeout_seconds + 2)

    def _checkpointed(self, partition: int) -> int | None:
        path = checkpoints_of(self.s, self.name, partition).newest()
        return int(path.name[:20]) if path else None

    async def _consume(self, stream: Any) -> None:
        """The agent: raw bytes come in, so that Faust has nothing to decode and nothing to fail on. Stages run in `_serve`."""
        async for event in stream.noack().events():
            await self.inbox.put(event.message)

    def _serve(self, partition: int) -> None:
        self.inbox.open(partition)
        serving = self._serving[partition] = asyncio.create_task(self._serve_until_closed(partition))
        serving.add_done_callback(self._served)

    async def _serve_until_closed(self, partition: int) -> None:
        """A partition as long as it is ours: restore its stage, apply what comes, leave a checkpoint."""
        host = await self._open(partition)
        self._hosts[partition] = host
        try:
            while messages := await self.inbox.take(partition):
                await self._take(host, messages)
        finally:
            del self._hosts[partition]
            await host.close()
            self.metrics.left(self.name, self.topic, partition)

    def _served(self, serving: "asyncio.Task[None]") -> None:
        if not serving.cancelled() and (error := serving.exception()):
            self._fail(error)

    async def _take(self, host: StageHost, messages: list[Any]) -> None:
        ready = contiguous(messages, host.next_offset)
        if ready:
            await host.handle([_reader(m.offset, m.headers, m.value) for m in ready], sum(len(m.value) for m in ready))
            host.seen_seconds = ready[-1].timestamp
        for message in ready:
            message.value = None  # acknowledged much later; its bytes are not needed
        self._unacknowledged[host.partition].extend(ready)
        if len(ready) < len(messages):
            self._reread(host.partition, host.next_offset)

    def _reread(self, partition: int, offset: int) -> None:
        """Messages that are under way while partitions change hands get lost in Faust. Position is ours: it shall go on from there.

        `_watch` seeks, again and again until `offset` came: what Faust still delivers from before a seek moves its own mark.
        """
        if partition not in self._missing:
            log.warning("%s/%d: Faust lost the messages from offset %d on; they are read again", self.name, partition, offset)
            self._missing[partition] = _Missing(offset, time.monotonic() + REREAD_SECONDS)

    async def _seek(self, partition: int, offset: int) -> None:
        tp = TP(self.topic, partition)
        try:
            if tp in self.app.consumer.assignment():
                await self.app.consumer.seek_wait({tp: offset})
        except IllegalStateError as error:  # it changes hands just now
            log.info("%s cannot be sought: %s", tp, error)

    async def _look_for_missing(self, partition: int, host: StageHost) -> None:
        missing = self._missing.get(partition)
        if missing is None:
            return
        if host.next_offset > missing.offset:
            del self._missing[partition]
        elif time.monotonic() > missing.deadline:
            raise GapError(f"{self.topic}/{partition}: offset {missing.offset} does not come; {REBUILD}")
        else:
            await self._seek(partition, missing.offset)

    async def _open(self, partition: int) -> StageHost:
        upstream = self._upstreams[partition]
        stage = await asyncio.to_thread(self.factory, upstream)

        async def acknowledge(offset: int) -> None:
            await self._acknowledge(partition, offset)

        host = StageHost(
            self.s,
            self.name,
            StageDriver(stage, upstream),
            self.outbox,
            self.writer,
            self.metrics,
            self.watch,
            acknowledge,
            self._publish_ms,
        )
        await host.restore(self._first[partition])
        return host

    async def _acknowledge(self, partition: int, below: int) -> None:
        """Let Faust commit up to `below`: what no retained checkpoint needs."""
        waiting = self._unacknowledged[partition]
        while waiting and waiting[0].offset < below:
            self.app.consumer.ack(waiting.popleft())

    async def _assigned(self, *arguments: Any, **_: Any) -> None:
        """Restore at once what Kafka gives us: the first record shall not wait for it. Arguments: the app, the partitions."""
        for partition in {tp.partition for tp in arguments[1]} - self._serving.keys():
            if not self._stopping:
                self._serve(partition)

    async def _revoked(self, *arguments: Any, **_: Any) -> None:
        """Another worker takes these over: leave it a fresh checkpoint. Arguments: the app, the partitions."""
        await self._leave({tp.partition for tp in arguments[1]})

    async def _leave(self, partitions: set[int]) -> None:
        await self.inbox.close(partitions)
        leaving = [self._serving.pop(partition) for partition in partitions if partition in self._serving]
        if leaving:
            await asyncio.wait(leaving)  # one that failed says so by itself
        for partition in partitions:
            self._unacknowledged.pop(partition, None)
            self._missing.pop(partition, None)

    async def _watch(self) -> None:
        """Look twice a second for what failed in the background, Faust itself included."""
        while not self.failure.done():
            try:
                if self.app.crashed:
                    raise FreshetError(f"the Faust worker crashed: {self.app.crash_reason!r}")
                for partition, host in list(self._hosts.items()):
                    await host.look()
                    await self._look_for_missing(partition, host)
            except Exception as error:  # noqa: BLE001  # whatever it was, the process must end with it
                self._fail(error)
            await asyncio.sleep(0.5)

    async def _measure_lag(self) -> None:
        """Kafka's end offset against our own position."""
        ends = await asyncio.to_thread(self._ends)
        for partition, host in list(self._hosts.items()):
            behind = max(0, ends[partition] - host.next_offset)
            seconds = time.time() - host.seen_seconds if behind else 0.0
            self.metrics.lag(self.name, self.topic, partition, behind, seconds)

    def _ends(self) -> dict[int, int]:
        with admin(self.s) as cluster:
            return {u.partition: cluster.end_offset(u) for u in self._upstreams}

    def _fail(self, error: BaseException) -> None:
        log.error("%s stops: %s", self.name, error, exc_info=error)
        if not self.failure.done():
            self.failure.set_exception(error)


def contiguous(messages: list[Any], next_offset: int) -> list[Any]:
    """The first messages that leave out none from `next_offset` on; what comes twice is no gap."""
    for at, message in enumerate(messages):
        if message.offset > next_offset:
            return messages[:at]
        next_offset = max(next_offset, message.offset + 1)
    return messages


def _reader(offset: int, headers: Any, value: bytes) -> Callable[[], Record]:
    """The record, decoded when it is called for: on the stage's thread."""
    return lambda: Record(offset, stamp_of(_pairs(headers)), decode(value))


def _pairs(headers: Any) -> list[tuple[str, bytes]]:
    """Faust hands headers over as a list of pairs or as a mapping."""
    return list(headers.items()) if isinstance(headers, dict) else list(headers or ())


def credentials(s: Settings) -> Any:
    """Faust's form of the security settings; None for PLAINTEXT."""
    context = ssl.create_default_context(cafile=s.ssl_cafile or None) if "SSL" in s.security_protocol else None
    if s.security_protocol in ("SASL_PLAINTEXT", "SASL_SSL"):
        return faust.SASLCredentials(
            username=s.sasl_username, password=s.sasl_password, mechanism=cast(Any, s.sasl_mechanism), ssl_context=context
        )
    if context is not None:
        return faust.SSLCredentials(context)
    return None


def require_one_partition(upstreams: list[Upstream]) -> None:
    """The learner reads one order.

    Raises:
        SettingsError: the topic has several partitions.
    """
    if len(upstreams) != 1:
        raise SettingsError(f"{upstreams[0].topic} has {len(upstreams)} partitions, but the learner needs one order; make it anew")
