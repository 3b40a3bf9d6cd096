"""How long from an event sent to what it taught being visible in the server's cache, while everything learns on this machine."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from itertools import cycle, islice
from pathlib import Path

import msgspec

from benchmarks.report import report
from streams import bundled
from streams.cli.common import cluster
from streams.cli.run import running, with_ports
from streams.client import Client
from streams.producing import Message, Sender, send_all
from streams.settings import load


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks freshness", description=__doc__)
    parser.add_argument("--rate", type=float, default=1_000, help="events per second (default 1000)")
    parser.add_argument("--seconds", type=float, default=30, help="how long is measured (default 30)")
    parser.add_argument("--warm-up", type=float, default=10, help="seconds at the same rate before that (default 10)")
    given = parser.parse_args(arguments)
    figures = measure(given.rate, given.seconds, given.warm_up)
    report("freshness", figures, {"what": "event sent (Kafka timestamp) to parameter visible in the server's cache"})


def measure(rate: float, seconds: float, warm_up: float) -> dict[str, float]:
    """p50_ms, p99_ms, events_per_second over the measured part."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-", ignore_cleanup_errors=True) as directory:
        s = with_ports(load(data_dir=Path(directory), http_port=0, page_port=0, bootstrap_servers=""))
        with cluster(s) as s, running(s, dict.fromkeys(("ingest", "features", "learner", "server"), 0)) as (base, _):
            client, sender = Client(base), Sender(s)
            send_all(sender, s.items_topic, bundled.item_messages())
            _settle(client, bundled.items().height)
            send_all(sender, s.events_topic, endless(int(rate * warm_up)), rate)
            client.get("/v1/status?reset=true")
            started = time.monotonic()
            count = send_all(sender, s.events_topic, endless(int(rate * seconds), int(rate * warm_up)), rate)
            took = time.monotonic() - started
            time.sleep(1)
            fresh = client.get("/v1/status")["freshness_ms"]
            sender.close()
            client.close()
    return {"p50_ms": fresh["p50"], "p99_ms": fresh["p99"], "events_per_second": round(count / took, 1), "events": fresh["events"]}


def endless(count: int, skip: int = 0) -> list[Message]:
    """The bundled events, over and over; each round under new event ids and later times, so that none is a duplicate or late."""
    log = bundled.events()
    span = int(log["ts_ms"][-1] - log["ts_ms"][0]) + 1_000
    rows = islice(enumerate(cycle(log.iter_rows())), skip, skip + count)
    return [_message(row, at // log.height, span) for at, row in rows]


def _message(row: tuple[str, str, str, str, int, float | None], round_: int, span_ms: int) -> Message:
    event_id, type_, user_id, item_id, ts_ms, value = row
    event = {"event_id": f"{event_id}-{round_}", "type": type_, "user_id": user_id, "item_id": item_id, "ts": ts_ms + round_ * span_ms}
    return user_id.encode(), msgspec.json.encode(event if value is None else {**event, "value": value})


def _settle(client: Client, rows: int) -> None:
    while client.learned() < rows:
        time.sleep(0.1)
