"""What the page reads of the processes: the wanted series, rates through restarts, quantiles, and nothing where nothing is known."""

import http.server
import math
import socket
import threading
import time
from collections.abc import Callable, Iterator

import numpy as np
import pytest
from prometheus_client import CollectorRegistry, generate_latest, start_http_server

from monitoring import history as module
from monitoring.history import History, gauges, quantile
from monitoring.metrics import FRESHNESS_BUCKETS, Metrics
from monitoring.scrape import COUNTERS, MAXIMA, SUMS, Reading, ScrapeError, read, scrape


def of(counters: dict[str, float], started: float = 1.0, **measured: float) -> Reading:
    return Reading(counters, {"started": started, **measured})


def test_our_own_metrics_are_read() -> None:
    registry = CollectorRegistry()
    m = Metrics(registry)
    m.judged("accepted", 7)
    m.decoded("events", 5, 0, 0)
    m.decoded("items", 2, 0, 0)
    m.lag("ingest", "events", 0, 4, 0.5)
    m.lag("ingest", "events", 1, 6, 0.25)
    m.updated("supa", 3, 0, math.nan)
    m.listed({"served": 0.5, "popular": 0.0})
    m.visible(np.array([0.02, 0.3]))
    m.restarted("learner")
    counters, measured = read(generate_latest(registry).decode())
    assert (counters["events/accepted"], counters["messages/accepted"], counters["judged"]) == (7, 7, 1)
    assert (counters["hits/served"], counters["ranks/served"], counters["hits/popular"]) == (1, 0.5, 0)
    assert (measured["lag_records/ingest"], measured["lag_seconds/ingest"], measured["restarts/learner"]) == (10, 0.5, 1)
    assert "loss/supa" not in measured
    assert len([key for key in counters if key.startswith("freshness/")]) == len(FRESHNESS_BUCKETS) + 1


def test_every_wanted_metric_and_label_exists() -> None:
    registry = CollectorRegistry()
    exported = {metric._name: metric for metric in vars(Metrics(registry)).values() if hasattr(metric, "_name")}
    for name, (_, label) in {**COUNTERS, **SUMS, **MAXIMA}.items():
        if name.startswith("freshet_"):
            metric = exported[name.removesuffix("_total").removesuffix("_bucket")]
            assert label in ("", "le", *getattr(metric, "_labelnames", ()))


def test_only_the_named_label_counts_not_one_that_ends_like_it() -> None:
    text = 'freshet_events_total{xoutcome="wrong",outcome="late"} 3.0\nfreshet_events_total_created 1\nother 2\n# freshet_events_total 9\n'
    assert read(text) == Reading({"events/late": 3.0}, {})


@pytest.fixture
def serve() -> Iterator[Callable[[bytes], str]]:
    """Serves one raw answer; gives the address."""
    stop = []

    def start(raw: bytes) -> str:
        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self.wfile.write(raw)

            def log_message(self, format: str, *args: object) -> None:
                """Not wanted."""

        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
        stop.extend([server.shutdown, server.server_close])
        return f"http://127.0.0.1:{server.server_address[1]}/metrics"

    yield start
    for end in stop:
        end()


def test_a_process_is_read_over_http() -> None:
    registry = CollectorRegistry()
    Metrics(registry).judged("late", 2)
    server, thread = start_http_server(0, "127.0.0.1", registry)
    try:
        assert scrape(f"http://127.0.0.1:{server.server_port}/metrics").counters["events/late"] == 2
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"HTTP/1.0 500 No\r\n\r\n", "status 500"),
        (b"HTTP/1.0 200 OK\r\n\r\nfreshet_events_total many\n", "many"),
        (b"HTTP/1.0 200 OK\r\n\r\n\xff\xff", "utf-8"),
        (b"gibberish\r\n\r\n", "gibberish"),
        (b"HTTP/1.0 200 OK\r\ncontent-length: 99\r\n\r\n", "99"),
    ],
)
def test_what_is_no_answer_says_why(serve: Callable[[bytes], str], raw: bytes, told: str) -> None:
    with pytest.raises(ScrapeError, match=told):
        scrape(serve(raw))


def test_nobody_there_and_one_who_says_nothing() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        url = f"http://127.0.0.1:{listening.getsockname()[1]}/metrics"
        began = time.monotonic()
        with pytest.raises(ScrapeError, match="timed out"):
            scrape(url, timeout_seconds=0.2)
        assert time.monotonic() - began < 1
    with pytest.raises(ScrapeError, match="refused"):
        scrape(url)
    with pytest.raises(ScrapeError):
        scrape("http://127.0.0.1:no/")


def test_rates_are_over_the_last_seconds() -> None:
    history = History()
    for at in range(0, 31, 2):
        history.add(100.0 + at, {"features": of({"events/accepted": 5.0 * at + (100 if at > 12 else 0)})})
    points = dict(history.since(0))
    assert points[100.0] == {}
    assert points[104.0] == {"events/accepted": 5.0}
    assert points[114.0] == {"events/accepted": 15.0}
    assert points[130.0] == {"events/accepted": 5.0}
    assert [at for at, _ in history.since(126.0)] == [128.0, 130.0]


@pytest.mark.parametrize("started", [1.0, 2.0])
def test_a_restart_counts_from_zero(started: float) -> None:
    """Seen by a start time, or by a counter that fell."""
    history = History()
    history.add(0, {"features": of({"events/accepted": 100.0})})
    history.add(10, {"features": of({"events/accepted": 40.0}, started)})
    assert history.since(5) == [(10, {"events/accepted": 4.0})]


def test_a_restart_that_overtook_its_counter_is_seen_by_the_start_time() -> None:
    history = History()
    history.add(0, {"features": of({"events/accepted": 100.0})})
    history.add(10, {"features": of({"events/accepted": 150.0}, 2.0)})
    assert history.since(5) == [(10, {"events/accepted": 15.0})]


def test_a_process_that_is_away_is_unknown_not_zero_and_nothing_is_lost() -> None:
    history = History()
    history.add(0, {"features": of({"events/accepted": 100.0})})
    history.add(10, {})
    history.add(20, {"features": of({"events/accepted": 130.0}, 1.0)})
    assert history.since(-1) == [(0, {}), (10, {}), (20, {"events/accepted": 1.5})]


def test_a_series_that_appears_counted_zero_before() -> None:
    history = History()
    history.add(0, {"ingest": of({})})
    history.add(10, {"ingest": of({"messages/dead_letter": 5.0})})
    assert history.since(5) == [(10, {"messages/dead_letter": 0.5})]


def test_several_of_a_kind_are_summed_and_one_that_comes_later_brings_no_burst() -> None:
    history = History()
    history.add(0, {"features": of({"events/accepted": 0.0})})
    history.add(10, {"features": of({"events/accepted": 10.0}), "features-2": of({"events/accepted": 1e6})})
    history.add(20, {"features": of({"events/accepted": 20.0}), "features-2": of({"events/accepted": 1e6 + 30})})
    assert [point["events/accepted"] for _, point in history.since(1)] == [1.0, 4.0]


def test_freshness_and_quality_are_of_their_windows() -> None:
    history = History()
    zero = {"freshness/1.0": 0.0, "freshness/2.0": 0.0, "freshness/+Inf": 0.0, "judged": 0.0, "hits/served": 0.0, "ranks/served": 0.0}
    history.add(0, {"server": of(zero)})
    assert history.since(-1) == [(0, {})]
    history.add(
        60,
        {
            "server": of(
                {
                    **zero,
                    "freshness/1.0": 50.0,
                    "freshness/2.0": 100.0,
                    "freshness/+Inf": 100.0,
                    "judged": 4.0,
                    "hits/served": 2.0,
                    "ranks/served": 1.0,
                }
            )
        },
    )
    [(_, point)] = history.since(1)
    assert (point["freshness/p50"], point["freshness/p99"], point["freshness/events"]) == (1.0, 1.98, 100.0)
    assert (point["clicks"], point["hit_rate/served"], point["mrr/served"]) == (4.0, 0.5, 0.25)
    assert "hit_rate/popular" not in point


@pytest.mark.parametrize(
    ("buckets", "share", "wanted"),
    [
        ([(1.0, 10.0), (2.0, 10.0), (math.inf, 10.0)], 0.5, 0.5),
        ([(1.0, 0.0), (2.0, 10.0), (math.inf, 10.0)], 0.5, 1.5),
        ([(1.0, 0.0), (2.0, 1.0), (math.inf, 10.0)], 0.99, 2.0),
        ([(1.0, 100.0), (2.0, 100.0), (math.inf, 100.0)], 1.0, 1.0),
    ],
)
def test_quantiles(buckets: list[tuple[float, float]], share: float, wanted: float) -> None:
    assert quantile(buckets, share) == pytest.approx(wanted)


def test_gauges_of_several_processes() -> None:
    one, other = (
        {"lag_records/features": 3.0, "lag_seconds/features": 0.5, "restarts/x": 1.0},
        {"lag_records/features": 4.0, "lag_seconds/features": 0.1},
    )
    assert gauges([Reading({}, one), Reading({}, other)]) == {"lag_records/features": 7.0, "lag_seconds/features": 0.5}


def test_what_is_kept_is_bounded() -> None:
    history = History()
    for at in range(2_000):
        history.add(at, {"features": of({"events/accepted": float(at)})})
    assert len(history.since(-1)) == module.KEPT_SECONDS + 1
    assert len(history._samples) <= module.QUALITY_SECONDS + module.RATE_SECONDS + 1
