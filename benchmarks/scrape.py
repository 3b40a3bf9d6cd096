"""What watching costs: CPU of a Prometheus scrape every few seconds, and of the unattended page, beside that of the pipeline at work."""

import argparse
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from urllib.request import urlopen

import psutil

from benchmarks.freshness import endless
from benchmarks.report import report
from monitoring.prometheus import SCRAPE_SECONDS
from streams import bundled
from streams.cli.common import cluster
from streams.cli.run import running, with_ports
from streams.processes import address, free_port
from streams.producing import Sender, send_all
from streams.settings import Settings, load
from streams.supervisor import Supervisor

STAGES = ("ingest", "features", "learner")


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks scrape", description=__doc__)
    parser.add_argument("--rate", type=float, default=1_000, help="events per second (default 1000)")
    parser.add_argument("--seconds", type=float, default=20, help="how long the pipeline at work is measured (default 20)")
    parser.add_argument("--scrapes", type=int, default=200, help="scrapes of every process, one after the other (default 200)")
    given = parser.parse_args(arguments)
    notes = {"what": f"a scrape of every process each {SCRAPE_SECONDS} s, and the page that nobody looks at"}
    report("scrape", measure(given.rate, given.seconds, given.scrapes), notes)


def measure(rate: float, seconds: float, scrapes: int) -> dict[str, float]:
    """CPU in cores (seconds a second), of a scrape in ms, shares in percent of the pipeline's."""
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-", ignore_cleanup_errors=True) as directory:
        s = with_ports(load(data_dir=Path(directory), http_port=0, page_port=0, bootstrap_servers=""))
        ports = {name: free_port() for name in STAGES}
        urls = {name: f"http://{address(s.http_host, port)}/metrics" for name, port in {**ports, "server": s.http_port}.items()}
        s = s.model_copy(update={"metrics_targets": urls})
        with cluster(s) as s, running(s, {**ports, "server": 0, "page": 0}) as (_, children):
            busy = at_work(s, children, rate, seconds)
            cost_ms, size_bytes, series = of_a_scrape(children, urls, scrapes)
    pipeline = sum(busy[name] for name in urls)
    return {
        "pipeline_cores": round(pipeline, 3),
        "scrape_cpu_ms": round(cost_ms, 2),
        "scrape_share_percent": round(100 * cost_ms / 1000 / SCRAPE_SECONDS / pipeline, 3),
        "page_share_percent": round(100 * busy["page"] / pipeline, 3),
        "series": series,
        "bytes": size_bytes,
    }


def at_work(s: Settings, children: Supervisor, rate: float, seconds: float) -> dict[str, float]:
    """Cores that each process keeps busy at that rate, after a warm-up of half the time."""
    sender = Sender(s)
    send_all(sender, s.items_topic, bundled.item_messages())
    send_all(sender, s.events_topic, endless(int(rate * seconds / 2)), rate)
    before, began = cpu_seconds(children), time.monotonic()
    send_all(sender, s.events_topic, endless(int(rate * seconds), int(rate * seconds / 2)), rate)
    after, took = cpu_seconds(children), time.monotonic() - began
    sender.close()
    return {name: (after[name] - before[name]) / took for name in after}


def of_a_scrape(children: Supervisor, urls: dict[str, str], scrapes: int) -> tuple[float, int, int]:
    """CPU in ms of one scrape of all, beyond what the idle processes take anyway; its bytes and series."""
    time.sleep(15)  # what was sent is learned, a checkpoint made
    before, began = total(children, urls), time.monotonic()
    time.sleep(15)
    idle = (total(children, urls) - before) / (time.monotonic() - began)
    before, began = total(children, urls), time.monotonic()
    for _ in range(scrapes):
        bodies = [urlopen(url, timeout=10).read() for url in urls.values()]
    cost = total(children, urls) - before - idle * (time.monotonic() - began)
    lines = b"\n".join(bodies).splitlines()
    return 1000 * cost / scrapes, sum(map(len, bodies)), sum(not line.startswith(b"#") for line in lines)


def total(children: Supervisor, names: dict[str, str]) -> float:
    return sum(seconds for name, seconds in cpu_seconds(children).items() if name in names)


def cpu_seconds(children: Supervisor) -> dict[str, float]:
    """User and system time of each child so far."""
    times = {name: psutil.Process(child.process.pid).cpu_times() for name, child in children.children.items() if child.process}
    return {name: float(spent.user + spent.system) for name, spent in times.items()}
