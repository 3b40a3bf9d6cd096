"""`python -m benchmarks replay LOG --mapping M`: a log through the stages in one process, on one core: features alone, SUPA too, all."""

import argparse
import os
import tempfile
import time
from collections.abc import Sequence
from itertools import chain
from pathlib import Path

import psutil

from benchmarks.report import report
from streams.cli.common import settings
from streams.cli.replay import opened_log
from streams.logs.mapping import load_mapping
from streams.pipeline import FEATURE_PARTS, PARTS
from streams.replay import LocalPipeline

BATCH = 4_000


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks replay", description=__doc__)
    parser.add_argument("log", type=Path)
    parser.add_argument("--mapping", default="freshet")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: dict[str, float] = {}
    for name, parts in (("features", FEATURE_PARTS), ("features_supa", (*FEATURE_PARTS, "supa")), ("all", PARTS)):
        seconds, events = measured(given.log, given.mapping, parts)
        figures |= {f"{name}_seconds": seconds, f"{name}_events_per_second": events / seconds}
    report("replay, one core", {**figures, "rss_mb": round(psutil.Process().memory_info().rss / 2**20)})


def measured(log: Path, mapping: str, parts: Sequence[str]) -> tuple[float, int]:
    """Seconds and events of one replay, reading included."""
    rule = load_mapping(mapping)
    s = settings(batches_partitions=1)
    s = s.model_copy(update={"event_types": tuple(dict.fromkeys((*s.event_types, *rule.types)))})
    items, opened = opened_log(log, rule, None)
    with tempfile.TemporaryDirectory() as directory:
        local = LocalPipeline(s, Path(directory), parts)
        started = time.perf_counter()
        local.feed_items(items)
        local.feed_events(chain.from_iterable(part.messages for part in opened.batches()), BATCH)
        seconds = time.perf_counter() - started
        local.close()
        return seconds, local.counts["events"]
