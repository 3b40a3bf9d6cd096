"""A real Prometheus on what `freshet up` writes: every panel and alert has data; users add no series; faults lead to their alerts."""

import json
import re
import threading
import time
from collections.abc import Iterator
from itertools import cycle, islice
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import numpy as np
import polars as pl
import pytest
import yaml
from kafka import KafkaProducer

from core.stage import Publication
from monitoring.prometheus import ALERTS, CONFIGURATION
from streams import bundled
from streams.broker import EmbeddedBroker
from streams.parameters import to_records
from streams.processes import free_port
from streams.settings import Settings
from streams.supervisor import Child
from tests import live
from tests.live import wait
from tests.watched import Prometheus, Up, answers, follow, prometheus, until_all, up

pytestmark = pytest.mark.kafka
DASHBOARDS = sorted((Path(__file__).parents[2] / "docker" / "grafana" / "dashboards").glob("*.json"))
FASTER = 60  # a minute of the rules is a second here
SELECTOR = re.compile(r"\b(freshet_\w+|up|process_\w+)(\{[^}]*\})?")


class Traffic:
    """A producer that goes on: events, now and then one that is broken, and a reader who asks for lists."""

    def __init__(self, running: Up) -> None:
        self._s, self._server = running.s, running.url("server")
        self.broken_each = 50
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="traffic", daemon=True)

    def __enter__(self) -> "Traffic":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()

    def _run(self) -> None:
        client = KafkaProducer(bootstrap_servers=self._s.bootstrap_servers, acks="all", linger_ms=5)
        for key, value in islice(bundled.item_messages(), 1_000):
            client.send(self._s.items_topic, value, key)
        for at, (key, value) in enumerate(cycle(bundled.event_messages())):
            client.send(self._s.events_topic, b"{broken" if at % self.broken_each == 0 else value, key)
            if at % 20 == 0:
                if self._stop.wait(0.1):
                    break
                urlopen(f"{self._server}/v1/recommend/{key.decode()}", timeout=10).close()
        client.close()


@pytest.fixture(scope="module")
def running(broker: EmbeddedBroker, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Up]:
    own = {"page_port": 0, "checkpoint_seconds": 2, "token_words": 8, "token_refresh_seconds": 60}
    s = live.settings(broker.bootstrap_servers, "t-prometheus.", tmp_path_factory.mktemp("up"), **own)
    with up(s) as started:
        yield started


@pytest.fixture(scope="module")
def traffic(running: Up) -> Iterator[Traffic]:
    with Traffic(running) as started:
        yield started


@pytest.fixture(scope="module")
def watched(running: Up, traffic: Traffic, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    configuration = running.s.data_dir / "prometheus" / CONFIGURATION
    with prometheus(configuration, tmp_path_factory.mktemp("prometheus") / "work", FASTER) as started:
        yield started


def panels() -> dict[str, str]:
    """Expression -> where it stands, its variables filled in."""
    found: dict[str, str] = {}
    for path in DASHBOARDS:
        for panel in _panels(json.loads(path.read_text())["panels"]):
            for target in panel.get("targets", ()):
                found[filled(target["expr"])] = f"{path.stem}: {panel['title']}"
    return found


def _panels(listed: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    for panel in listed:
        yield panel
        yield from _panels(panel.get("panels", []))


def filled(expression: str) -> str:
    for variable, value in {"$__rate_interval": "10s", "$__range": "60s", "$__interval": "5s"}.items():
        expression = expression.replace(variable, value)
    assert "$" not in expression, expression
    return expression


def alert_selectors() -> set[str]:
    """What the rules read: a rule itself returns nothing while all is well."""
    rules = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
    return {found[0] for rule in rules for found in SELECTOR.finditer(rule["expr"])}


def test_every_panel_and_every_alert_has_data(watched: Prometheus, running: Up) -> None:
    where = panels()
    assert len(DASHBOARDS) >= 5 and len(where) > 40
    assert len(alert_selectors()) >= 8

    def has_data(expression: str) -> bool:
        return any(series["value"][1] != "NaN" for series in watched.query(expression))

    missing = until_all([*where, *sorted(alert_selectors())], has_data, 90)
    assert not missing, {expression: where.get(expression, "alert") for expression in missing}
    running.check()


def test_every_process_is_scraped(watched: Prometheus) -> None:
    processes = dict.fromkeys(("ingest", "features", "learner", "server", "page", "up"), "1")
    assert by("process", watched.query('up{job="freshet"}')) == processes
    workers = {"features": "1", "learner": "1"}
    wait(lambda: by("stage", watched.query("freshet_group_members")) == workers, "ingest to count the workers", 30)


def by(label: str, found: list[dict[str, Any]]) -> dict[str, str]:
    """Value by a label."""
    return {series["metric"][label]: series["value"][1] for series in found}


def test_nothing_fires_while_all_is_well(watched: Prometheus, running: Up) -> None:
    """Seconds after the start something may: the rules are faster here than what they watch."""
    wait(lambda: not watched.firing(), "alerts from the start to end", 90, running.check)
    for _ in range(10):
        time.sleep(1)
        assert watched.firing() == set()


def test_ten_thousand_users_add_no_series(watched: Prometheus, running: Up) -> None:
    s, before = running.s, series(watched)
    rows = [
        b'{"type": "click", "user_id": "many-%d", "item_id": "thing-%d", "ts": %d}' % (n, n, 1_700_000_000_000 + n) for n in range(10_000)
    ]
    live.produce(s, [(b"many-%d" % n, row) for n, row in enumerate(rows)], s.events_topic)
    held = 'freshet_held_rows{learner="supa", kind="users"}'
    wait(lambda: float(watched.query(held)[0]["value"][1]) > 10_000, "ten thousand users", 60, running.check)
    time.sleep(3)  # a scrape of every process
    assert series(watched) == before


def series(watched: Prometheus) -> set[str]:
    found = watched.query('{job="freshet"}')
    return {json.dumps(entry["metric"], sort_keys=True) for entry in found}


def test_a_partition_that_changes_hands_is_told_of_by_its_new_worker_alone(running: Up, tmp_path: Path) -> None:
    port = free_port()
    second = Child("features-2", running.s, tmp_path, port, kind="features")
    first = targets(running)["features"]
    second.start()
    try:
        wait(lambda: answers(f"http://127.0.0.1:{port}/metrics"), "the second worker", 60)
        wait(lambda: 0 < len(partitions(port)) < 4, "partitions to move", 60, running.check)
        wait(lambda: sorted(partitions(first) + partitions(port)) == ["0", "1", "2", "3"], "each partition at one worker", 30)
    finally:
        second.end()
        second.wait(time.monotonic() + 20)
    wait(lambda: sorted(partitions(first)) == ["0", "1", "2", "3"], "partitions to come back", 60, running.check)


def targets(running: Up) -> dict[str, int]:
    """Process -> port of its /metrics."""
    groups = json.loads((running.s.data_dir / "prometheus" / "targets.json").read_text())
    return {group["labels"]["process"]: int(group["targets"][0].rpartition(":")[2]) for group in groups}


def partitions(port: int) -> list[str]:
    """Of which partitions a worker tells the age of the checkpoint."""
    with urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
        return re.findall(r'^freshet_checkpoint_timestamp_seconds\{partition="(\d)"', answer.read().decode(), re.MULTILINE)


def test_poison_messages_lead_to_their_reason(watched: Prometheus, running: Up, traffic: Traffic) -> None:
    traffic.broken_each = 3
    try:
        wait(lambda: "FreshetDeadLetterRatio" in watched.firing(), "the alert", 60, running.check)
        told = follow("dead-letter-ratio", running, watched)
    finally:
        traffic.broken_each = 1_000
    assert "malformed_json" in told
    assert "{broken" in told
    wait(lambda: "FreshetDeadLetterRatio" not in watched.firing(), "the alert to end", 90, running.check)


def test_a_stopped_learner_leads_to_its_process(watched: Prometheus, running: Up) -> None:
    learner = running.child("learn")
    learner.suspend()
    try:
        wait(lambda: watched.firing() >= {"FreshetProcessDown", "FreshetNoGroupMembers"}, "the alerts", 90, running.check)
        told = follow("no-group-members", running, watched)
    finally:
        learner.resume()
    assert re.search(rf"^ *{learner.pid} +T.* learn$", told, re.MULTILINE), told  # what the page calls stopped by a signal
    wait(lambda: not watched.firing() & {"FreshetProcessDown", "FreshetNoGroupMembers"}, "the alerts to end", 120, running.check)


def test_a_stale_cache_leads_to_what_stopped_it(watched: Prometheus, running: Up) -> None:
    """A writer whose vectors have another width: the server cannot take them, and says so. It comes last: the record stays in the topic."""
    poison(running.s)
    wait(lambda: "FreshetCacheVersionSkew" in watched.firing(), "the alert", 90, running.check)
    told = follow("cache-version-skew", running, watched)
    assert "item_vectors" in told and "wide" in told


def poison(s: Settings) -> None:
    """A publication of the learner's with vectors of two dimensions."""
    upstream = live.upstreams(s, s.examples_topic)[0]
    schema = {"id": pl.String, "version": pl.Int64, "event_ms": pl.Int64, "removed": pl.Boolean, "vector": pl.Array(pl.Float32, 2)}
    rows = pl.DataFrame({"id": ["x"], "version": [1], "event_ms": [1], "removed": [False], "vector": [[1.0, 2.0]]}, schema=schema)
    publication = Publication({"item_vectors": rows.with_columns(bias=pl.lit(0.0, pl.Float32))}, 1, 1, np.empty(0, dtype=np.int64))
    client = KafkaProducer(bootstrap_servers=s.bootstrap_servers, acks="all")
    for value, headers in to_records(publication, "learner/0", upstream.topic_id):
        client.send(s.parameters_topic, value, headers=headers, partition=0).get(timeout=30)
    client.close()
