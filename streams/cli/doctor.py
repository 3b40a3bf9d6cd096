"""`freshet doctor`: what would keep Freshet from running here, and what to do about it."""

import os
import shutil
import sys
from collections.abc import Iterator
from typing import Annotated, NamedTuple

import psutil
import typer
from kafka.errors import KafkaError

from core.errors import FreshetError
from streams import jars, topics
from streams.broker import find_java
from streams.broker_address import running_on
from streams.cli.common import Bootstrap, DataDir, Namespace, console, settings
from streams.settings import Settings
from streams.topics import Admin, Topic

MIN_FREE_BYTES = 2 << 30
MIN_MEMORY_BYTES = 3 << 30


class Finding(NamedTuple):
    """One line of the report; `advice` says what to do where something is wrong."""

    what: str
    found: str
    advice: str = ""


def doctor(
    create: Annotated[bool, typer.Option("--create-topics", help="Make the topics that are missing.")] = False,
    bootstrap_servers: Bootstrap = None,
    data_dir: DataDir = None,
    namespace: Namespace = None,
) -> None:
    """Check the machine, the settings, the cluster and the topics, and say what to do.

    Example: freshet doctor --bootstrap-servers 127.0.0.1:9092 --create-topics
    """
    s = settings(bootstrap_servers, data_dir, namespace)
    s = s.model_copy(update={"bootstrap_servers": s.bootstrap_servers or running_on(s.data_dir / "broker")})
    findings = [*machine(s), *(cluster_findings(s, create) if s.bootstrap_servers else embedded())]
    for finding in findings:
        mark = "[red]✗[/]" if finding.advice else "[green]✓[/]"
        console.print(f"{mark} {finding.what:<22} {finding.found}")
        if finding.advice:
            console.print(f"  [yellow]→ {finding.advice}[/]")
    if any(finding.advice for finding in findings):
        sys.exit(1)


def machine(s: Settings) -> Iterator[Finding]:
    """Python, cores, memory, disk."""
    yield Finding("settings", "read from freshet.toml and FRESHET_* variables")
    yield Finding("python", sys.version.split()[0])
    memory = psutil.virtual_memory().available
    short = not s.bootstrap_servers and memory < MIN_MEMORY_BYTES  # with a cluster, the processes may run anywhere
    advice = "the broker, three workers and the server take about 3 GiB: close something or use another cluster" if short else ""
    yield Finding("cores", str(os.cpu_count()))
    yield Finding("memory available", f"{memory / 2**30:.1f} GiB", advice)
    held = next(path for path in (s.data_dir.absolute(), *s.data_dir.absolute().parents) if path.exists())
    free = shutil.disk_usage(held).free
    advice = "set `data_dir` (FRESHET_DATA_DIR) to a disk with room" if free < MIN_FREE_BYTES else ""
    yield Finding("disk free", f"{free / 2**30:.1f} GiB at {s.data_dir}", advice)
    writable = os.access(held, os.W_OK)
    yield Finding("data_dir", str(s.data_dir), "" if writable else "set `data_dir` (FRESHET_DATA_DIR) to a directory that you may write to")


def embedded() -> Iterator[Finding]:
    """What the embedded broker needs."""
    try:
        java = find_java()
        yield Finding("java", str(java))
        yield Finding("kafka jars", f"{jars.cached()} of {len(jars.locked())} in the local cache; the rest is fetched at the first start")
    except FreshetError as error:
        yield Finding("embedded broker", "not available", str(error))


def cluster_findings(s: Settings, create: bool) -> Iterator[Finding]:
    """The cluster and its topics."""
    try:
        with topics.admin(s) as admin:
            yield Finding("cluster", f"{s.bootstrap_servers} answers")
            if create:
                made = admin.create(topics.table(s), s.replication_factor)
                yield Finding("topics made", ", ".join(made) or "none was missing")
            for topic in topics.table(s):
                yield topic_finding(admin, topic, s)
    except (FreshetError, KafkaError, OSError) as error:
        advice = "check `bootstrap_servers`, `security_protocol` and the SASL/SSL settings (FRESHET_*), and that Kafka runs there"
        yield Finding("cluster", f"{s.bootstrap_servers}: {error}", advice)


def topic_finding(admin: Admin, topic: Topic, s: Settings) -> Finding:
    """Whether a topic is there, with the partitions that we count on."""
    try:
        found = len(admin.upstreams(topic.name))
    except FreshetError:
        return Finding(f"topic {topic.name}", "missing", "run `freshet doctor --create-topics`")
    fixed = topic.name in (s.batches_topic, s.examples_topic, s.parameters_topic, s.items_topic)
    if fixed and found != topic.partitions:
        way = "set `batches_partitions` to what it has, or use a new `namespace`" if topic.name == s.batches_topic else "make it anew"
        advice = f"it must have {topic.partitions}: {way}"
        return Finding(f"topic {topic.name}", f"{found} partitions", advice)
    return Finding(f"topic {topic.name}", f"{found} partitions")
