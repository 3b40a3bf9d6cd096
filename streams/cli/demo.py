"""`freshet demo`: the whole system on this machine, from an empty directory to served recommendations, and nothing left behind."""

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

import typer
from rich.table import Table

from core.errors import FreshetError
from streams import bundled, pipeline, topics
from streams.cli.common import cluster, console, progress, settings, tell
from streams.cli.replay import replay_locally
from streams.cli.run import running, with_ports
from streams.client import Client
from streams.dead_letters import topic_of
from streams.jars import BrokerUnavailable
from streams.prequential import K, Prequential
from streams.producing import Message, Sender
from streams.replay.judged import as_event, judge_all
from streams.settings import Settings
from streams.signals import terminable

CHUNK = 250  # events between two looks at how far the server is
IN_FLIGHT = 3_000  # events sent but not yet visible: enough to keep every process busy, little enough to stay fresh
WAIT_SECONDS = 60.0
POLL_SECONDS = 0.02
SHOWN = 5
USERS = 3


def demo(
    events: Annotated[int, typer.Option(min=0, help="Events at most; 0 takes the whole bundled log.")] = 0,
    sample: Annotated[float, typer.Option(min=0, max=1, help="Share of clicks judged, by a hash of the position.")] = 0.05,
    bootstrap_servers: Annotated[str | None, typer.Option("--bootstrap-servers", "-b", help="Kafka to use instead.")] = None,
) -> None:
    """Start everything, replay the bundled log of a video app through Kafka, and show what came of it.

    Example: freshet demo --events 10000
    """
    items, messages = list(bundled.item_messages()), list(bundled.event_messages())
    messages = messages[:events] if events else messages
    with terminable(), tempfile.TemporaryDirectory(prefix="freshet-demo-", ignore_cleanup_errors=True) as directory:
        s = with_ports(settings(bootstrap_servers, Path(directory), http_port=0, page_port=0, metrics_port=0, broker_port=0))
        others_use_it = bool(s.bootstrap_servers)
        if others_use_it:
            s = in_own_namespace(s)
        try:
            with (
                cluster(s) as s,
                removed(s, others_use_it),
                running(s, dict.fromkeys(("ingest", "features", "learner", "server"), 0)) as (base, children),
            ):
                show(Run(s, base, sample, children.check).play(items, messages))
        except BrokerUnavailable as error:
            tell(str(error))
            local_instead(s, items, messages, sample)
    console.print("Next: `freshet up` keeps it running, `freshet --help` lists the commands, docs/ explains the rest.")


def in_own_namespace(s: Settings) -> Settings:
    """On a cluster that others use: topics of our own."""
    prefix = f"freshet-demo-{int(time.time())}."
    return s.model_copy(update={"namespace": prefix, "events_topic": f"{prefix}events", "items_topic": f"{prefix}items"})


@contextmanager
def removed(s: Settings, others_use_it: bool) -> Iterator[None]:
    """After the block nothing of the demo is on a cluster that others use; an embedded one goes whole."""
    try:
        yield
    finally:
        if others_use_it:
            with topics.admin(s) as admin:
                groups = (f"{s.namespace}{name}" for name in (pipeline.FEATURES, pipeline.LEARNER))
                admin.remove(topics.table(s), {group: f"{group}-{group.removeprefix(s.namespace)}" for group in groups})


def local_instead(s: Settings, items: Sequence[Message], messages: Sequence[Message], share: float) -> None:
    """Without a broker: the same log and stages in this process, and marked as such."""
    console.rule("[yellow]no Kafka: REPLAY HOST, without a broker")
    result = replay_locally(s.model_copy(update={"batches_partitions": 1}), items, messages, CHUNK, share)
    table = Table("replay host (no Kafka)", "")
    for name in ("events", "dead_letters", "events_per_second", "judged", "hit_rate_20", "popular_hit_rate_20", "mrr_20", "popular_mrr_20"):
        table.add_row(name.replace("_", " "), f"{result[name]:,}")
    console.print(table)


@dataclass
class Result:
    """What the demo's table shows."""

    events: int
    seconds: float
    dead_letters: int
    freshness_ms: dict[str, float]
    judge: Prequential
    lists: list[tuple[str, int, list[str], list[str]]] = field(default_factory=list)  # user, own events, before, after


class Run:
    """Plays a log into a running Freshet, judging and watching as it goes."""

    def __init__(self, s: Settings, base: str, share: float, check: Callable[[], None]) -> None:
        """`check` raises where a process keeps dying."""
        self.s, self.client, self.sender, self._check = s, Client(base), Sender(s), check
        self.judging = Client(base)
        self.judge = Prequential(self.judging.recommend, share)

    def play(self, items: Sequence[Message], messages: Sequence[Message]) -> Result:
        try:
            self._catalogue(items)
            users = busiest(messages)
            before = {user: self.client.recommend(user, k=SHOWN) for user in users}
            started = time.monotonic()
            self._events(len(items), messages)
            seconds = time.monotonic() - started
            lists = [(user, count, before[user], self.client.recommend(user, k=SHOWN)) for user, count in users.items()]
            freshness = self.client.get("/v1/status")["freshness_ms"]
            return Result(len(messages), seconds, self._dead(), freshness, self.judge, lists)
        finally:
            self.sender.close()
            self.client.close()
            self.judging.close()

    def _catalogue(self, items: Sequence[Message]) -> None:
        """First of all, and wholly: every event then meets a known item."""
        with console.status(f"sending the catalogue of {len(items):,} videos"):
            for message in items:
                self.sender.send(self.s.items_topic, message)
            self.sender.flush()
            self._wait(len(items))

    def _events(self, learned_before: int, messages: Sequence[Message]) -> None:
        """Keep at most IN_FLIGHT events on their way: a closed loop finds the rate that the machine sustains."""
        started = time.monotonic()
        with progress() as bar, ThreadPoolExecutor(1) as judging:
            task = bar.add_task("events", total=len(messages), note="")
            judged = judging.submit(judge_all, self.judge, 0, messages[:CHUNK])
            for at in range(0, len(messages), CHUNK):
                chunk = messages[at : at + CHUNK]
                judged.result()  # no event is sent before it is judged
                judged = judging.submit(judge_all, self.judge, at + CHUNK, messages[at + CHUNK : at + 2 * CHUNK])
                visible = self._wait(learned_before + max(0, at + len(chunk) - IN_FLIGHT)) - learned_before
                for message in chunk:
                    self.sender.send(self.s.events_topic, message)
                bar.update(task, completed=max(0, visible), note=f"{at / (time.monotonic() - started):,.0f} events/s")
            self.sender.flush()
            self._wait(learned_before + len(messages))
            bar.update(task, completed=len(messages))

    def _wait(self, rows: int) -> int:
        """Until the server shows what this many rows taught; how many it shows."""
        deadline = time.monotonic() + WAIT_SECONDS
        while (visible := self.client.learned()) < rows:
            self._check()
            if time.monotonic() > deadline:
                raise FreshetError(
                    f"the server shows {visible:,} rows after {WAIT_SECONDS:.0f} s, expected {rows:,}; logs: {self.s.data_dir / 'logs'}"
                )
            time.sleep(POLL_SECONDS)
        return visible

    def _dead(self) -> int:
        with topics.admin(self.s) as admin:
            return sum(admin.end_offset(u) for u in admin.upstreams(topic_of(self.s.events_topic)))


def busiest(messages: Sequence[Message]) -> dict[str, int]:
    """The users with the most clicks and how many: where a change shows best."""
    clicks: dict[str, int] = {}
    for _, value in messages:
        event = as_event(value)
        if event is not None and event[0] == "click":
            clicks[event[1]] = clicks.get(event[1], 0) + 1
    return dict(sorted(clicks.items(), key=lambda pair: (-pair[1], pair[0]))[:USERS])


def show(result: Result) -> None:
    """The closing tables."""
    served, popular = result.judge.served, result.judge.popular
    table = Table("Freshet, live through Kafka", "")
    table.add_row("events in", f"{result.events:,}")
    table.add_row("dead letters", f"{result.dead_letters:,}")
    table.add_row("events/s, everything on this machine", f"{result.events / result.seconds:,.0f}")
    fresh = result.freshness_ms
    table.add_row("freshness, event sent to served: p50 / p99", f"{fresh.get('p50', 0):.0f} / {fresh.get('p99', 0):.0f} ms")
    sample = f"{served.judged:,} clicks, a {result.judge.share:.0%} sample by hash"
    table.add_row(f"hit-rate@{K}: served / popular now ({sample})", f"{served.hit_rate:.4f} / {popular.hit_rate:.4f}")
    table.add_row(f"MRR@{K}: served / popular now", f"{served.mrr:.4f} / {popular.mrr:.4f}")
    console.print(table)
    lists = Table("user", "own clicks", "list before", "list after")
    for user, count, before, after in result.lists:
        lists.add_row(user, str(count), " ".join(before), " ".join(after))
    console.print(lists)
