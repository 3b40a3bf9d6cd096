"""Reads the /metrics of our processes: the few series that the page shows, summed up to one label each."""

import http.client
import math
import time
from collections.abc import Mapping
from typing import NamedTuple
from urllib.parse import urlsplit

TIMEOUT_SECONDS = 1.5
MOST_BYTES = 8 << 20
CHUNK_BYTES = 1 << 16

# Metric -> (key, the label that is kept). A series becomes `key/label value`, or `key` where no label is kept.
COUNTERS: Mapping[str, tuple[str, str]] = {
    "freshet_events_total": ("events", "outcome"),
    "freshet_messages_total": ("messages", "outcome"),
    "freshet_freshness_seconds_bucket": ("freshness", "le"),
    "freshet_prequential_judged_total": ("judged", ""),
    "freshet_prequential_hits_total": ("hits", "list"),
    "freshet_prequential_reciprocal_ranks_total": ("ranks", "list"),
    "freshet_token_changes_total": ("token_changes", "cause"),
}
SUMS: Mapping[str, tuple[str, str]] = {
    "freshet_lag_records": ("lag_records", "stage"),
    "freshet_tokenized_rows": ("tokenized_rows", ""),
    "freshet_restarts_total": ("restarts", "child"),
}
MAXIMA: Mapping[str, tuple[str, str]] = {
    "freshet_lag_seconds": ("lag_seconds", "stage"),
    "freshet_training_loss_ewma": ("loss", "learner"),
    "freshet_token_utilisation_ratio": ("utilisation", "level"),
    "freshet_token_collisions_ratio": ("collisions", ""),
    "freshet_token_distortion_ratio": ("distortion", ""),
    "process_start_time_seconds": ("started", ""),
}


class Answer(NamedTuple):
    """What an HTTP server said."""

    status: int
    content_type: str
    body: bytes


class Reading(NamedTuple):
    """What a process counted since it started, and what it measures now."""

    counters: dict[str, float]
    gauges: dict[str, float]


class ScrapeError(Exception):
    """No metrics came from there; the message says why."""


def scrape(url: str, timeout_seconds: float = TIMEOUT_SECONDS) -> Reading:
    """Read a process.

    Raises:
        ScrapeError: it does not answer, or with something else.
    """
    try:
        answer = get(url, timeout_seconds)
        if answer.status != 200:
            raise ScrapeError(f"it answers with status {answer.status}")
        return read(answer.body.decode())
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise ScrapeError(reason(error)) from error


def reason(error: Exception) -> str:
    """Why no answer came, in words."""
    return getattr(error, "strerror", None) or str(error) or type(error).__name__


def get(url: str, timeout_seconds: float) -> Answer:
    """GET straight from there: no proxy, no redirect; all of it within about the timeout.

    Raises:
        OSError, http.client.HTTPException: nothing whole came.
        ValueError: this is no address.
    """
    parts = urlsplit(url)
    kind = http.client.HTTPSConnection if parts.scheme == "https" else http.client.HTTPConnection
    deadline = time.monotonic() + timeout_seconds
    connection = kind(parts.hostname or "", parts.port, timeout=timeout_seconds)
    try:
        connection.request("GET", f"{parts.path or '/'}?{parts.query}" if parts.query else parts.path or "/")
        answer = connection.getresponse()
        return Answer(answer.status, answer.headers.get("content-type", ""), _body(answer, deadline))
    finally:
        connection.close()


def _body(answer: http.client.HTTPResponse, deadline: float) -> bytes:
    """The timeout of a socket is for each read: one that drips must not hold us for ever."""
    body = bytearray()
    while chunk := answer.read1(CHUNK_BYTES):
        body += chunk
        if time.monotonic() > deadline:
            raise TimeoutError("timed out")
        if len(body) > MOST_BYTES:
            raise http.client.HTTPException(f"more than {MOST_BYTES} bytes")
    if answer.length:
        raise http.client.IncompleteRead(bytes(body), answer.length)
    return bytes(body)


def read(text: str) -> Reading:
    """The wanted series of a Prometheus text; others cost no more than a look at their name."""
    reading = Reading({}, {})
    for line in text.splitlines():
        name, labels, value = _split(line)
        if name in COUNTERS:
            _add(reading.counters, _key(COUNTERS[name], labels), value)
        elif name in SUMS:
            _add(reading.gauges, _key(SUMS[name], labels), value)
        elif name in MAXIMA and not math.isnan(float(value)):
            key = _key(MAXIMA[name], labels)
            reading.gauges[key] = max(float(value), reading.gauges.get(key, -math.inf))
    return reading


def _split(line: str) -> tuple[str, str, str]:
    """Name, labels and value. Values of our labels have neither blanks nor escapes, nor do series that we want have timestamps."""
    series, _, value = line.rpartition(" ")
    name, _, labels = series.partition("{")
    return name, labels, value


def _key(wanted: tuple[str, str], labels: str) -> str:
    key, label = wanted
    if not label:
        return key
    _, _, rest = f",{labels}".partition(f',{label}="')
    return f"{key}/{rest.partition(chr(34))[0]}"


def _add(to: dict[str, float], key: str, value: str) -> None:
    to[key] = to.get(key, 0.0) + float(value)
