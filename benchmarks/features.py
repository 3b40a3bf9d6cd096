"""`python -m benchmarks features`: both feature stages, user and item, alone on one core.

globo: a real log of clicks with its catalogue, all default features and labels. users: synthetic events of ever more users, Zipf, every
user known before; the last ones with a store of more than five times the cache. peers: in the same run, one decayed counter per user in
bytewax and in quixstreams, which are installed for it into a temporary environment.
"""

import argparse
import os
import subprocess
import tempfile
import time
import venv
from collections.abc import Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import psutil
from rich.console import Console

from benchmarks.data import folder
from benchmarks.report import report
from core.frames import constant
from core.position import Upstream
from core.schemas import BATCHES, EVENT
from core.stage import Stage
from streams import pipeline
from streams.cli.common import cluster, settings
from streams.cli.replay import opened_log
from streams.decode import EventDecoder, ItemDecoder, RawMessage
from streams.ingest import limits_of
from streams.logs.mapping import load_mapping
from streams.packing import Chunk, Output, Packer
from streams.producing import Message
from streams.settings import Settings, load

GLOBO = "globo/clicks.parquet"
BATCH = 2_000
FRAMES_AT_ONCE = 50  # made, then learned: the makers would leave the stages a cold cache of the processor
USERS = (10_000, 100_000, 1_000_000)
MANY_USERS = 5_000_000
SMALL_CACHE_MIB = 92  # of that run: the store is more than five times as large
EVENTS, TURN = 400_000, 40_000
ITEMS, ITEM_EXPONENT, USER_EXPONENT = 20_000, 1.0, 1.0
START_MS, EVENTS_PER_SECOND = 1_767_225_600_000, 1_000
TYPES = ("impression", "click", "view", "like", "purchase")
SHARES = (0.5, 0.2, 0.25, 0.04, 0.01)
PEERS = ("bytewax==0.21.1", "quixstreams==3.28.1")
PEER_EVENTS = 100_000

Figures = dict[str, float]
Frames = Iterator[tuple[pl.DataFrame, pl.DataFrame | None]]  # rows of `batches`, and of `examples` where a catalogue comes with them


def main(arguments: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks features", description=__doc__, epilog="Example: features --parts globo --data data",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("--parts", nargs="+", choices=("globo", "users", "peers"), default=["globo", "users", "peers"], help="default: all")
    parser.add_argument("--data", type=Path, default=folder(GLOBO), help=f"the folder of {GLOBO}; told and left out if missing")
    parser.add_argument("--many-users", type=int, default=MANY_USERS, help=f"0 leaves that run out (default {MANY_USERS})")
    given = parser.parse_args(arguments)
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    figures: Figures = {}
    if "globo" in given.parts:
        figures |= on_globo(given.data)
    if "users" in given.parts:
        figures |= of_users(given.many_users)
    if "peers" in given.parts:
        figures |= beside_peers()
    report("features, one core", figures, {"batches": f"{BATCH} events a record"})


# A real log


def on_globo(data: Path) -> Figures:
    if not (data / GLOBO).exists():
        _progress(f"globo: left out, there is no {GLOBO} in {data}")
        return {}
    rule = load_mapping("globo")
    s = settings(batches_partitions=1)
    s = s.model_copy(update={"event_types": tuple(dict.fromkeys((*s.event_types, *rule.types)))})
    items, opened = opened_log(data / GLOBO, rule, data / "globo/articles.parquet")
    events = chain.from_iterable(part.messages for part in opened.batches())
    seconds, rows, peak = driven(s, packed(s, iter(items), events))
    return {"events_per_second": rows / seconds, "globo_events": float(rows), "peak_rss_mb": peak}


def packed(s: Settings, items: Iterator[Message], events: Iterator[Message]) -> Frames:
    """What ingest would write."""
    sources = Upstream("events", 0, "benchmark"), Upstream("items", 0, "benchmark")
    packer = Packer([Output(s.batches_topic, 0)], Output(s.examples_topic, 0), dict.fromkeys(sources, 0))
    limits = limits_of(s)
    for source, decoder, messages in ((sources[1], ItemDecoder(limits), items), (sources[0], EventDecoder(limits), events)):
        while some := list(islice(messages, BATCH)):
            first = packer.ends[source]
            raw = [RawMessage(key, value, (), 1 << 60, first + at) for at, (key, value) in enumerate(some)]
            records = packer.pack({source: Chunk(decoder.decode(raw).rows, first + len(raw))})
            catalogue = [record.rows for record in records if record.output.topic == s.examples_topic]
            rows = next(record.rows for record in records if record.output.topic == s.batches_topic)
            yield rows, catalogue[0] if catalogue else None


# Ever more users


def of_users(many_users: int) -> Figures:
    """Events per second by number of users; what the most cost beside the fewest. Sizes take turns, as a machine is faster now and then."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as directory:
        runs = [Run(settings(batches_partitions=1), users, Path(directory) / str(users)) for users in USERS]
        for start in range(0, EVENTS, TURN):
            for run in runs:
                run.learn(start, start + TURN)
        for run in runs:
            figures |= run.closed()
    rates = [figures[f"users_{users}_events_per_second"] for users in USERS]
    figures["users_flatness_ratio"] = min(rates) / rates[0]
    if many_users:
        with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as directory:
            run = Run(settings(batches_partitions=1, store_cache_mib=SMALL_CACHE_MIB), many_users, Path(directory))
            run.learn(0, EVENTS)
            store_mib = run.store_mib
            figures |= run.closed()
        figures[f"users_{many_users}_ratio"] = figures[f"users_{many_users}_events_per_second"] / rates[0]
        figures["store_to_cache_ratio"] = store_mib / SMALL_CACHE_MIB
    return figures


class Run:
    """Stages that know so many users, who then come by Zipf.

    Before, every user came once, and as many events by Zipf as let all sizes have seen equally many: a longer log alone costs more.
    """

    def __init__(self, s: Settings, users: int, directory: Path) -> None:
        before_mib = _rss_mib()
        self._users, self._seconds, self._events = users, 0.0, 0
        self._stages, random = made(s, directory), np.random.default_rng(users)
        more = zipf(users, USER_EXPONENT, max(0, max(USERS) - users) + EVENTS, random)
        before = np.concatenate([np.arange(users), more])
        for frame in synthetic(before, 0):
            apply(self._stages, frame)
        self._first, self._chosen = before.size, zipf(users, USER_EXPONENT, EVENTS, random)
        self._grown_mib = _rss_mib() - before_mib

    def learn(self, start: int, stop: int) -> None:
        """These of the events, timed."""
        frames = list(synthetic(self._chosen[start:stop], self._first + start))
        self._seconds += timed(self._stages, ((frame, None) for frame in frames))
        self._events += sum(frame.height for frame in frames)

    @property
    def store_mib(self) -> float:
        """On disk."""
        return float(self._stages[0].store.sizes_bytes()["tables"] / 2**20)  # type: ignore[attr-defined]

    def closed(self) -> Figures:
        """Events per second, and the memory that the stages took, MiB."""
        rate = self._events / self._seconds
        _progress(f"{self._users:,} users: {rate:,.0f} events/s, store {self.store_mib:,.0f} MiB, memory {self._grown_mib:,.0f} MiB")
        self._stages[0].close()
        return {f"users_{self._users}_events_per_second": rate, f"users_{self._users}_memory_mib": self._grown_mib}


def _rss_mib() -> float:
    return float(round(psutil.Process().memory_info().rss / 2**20))


def synthetic(chosen: np.ndarray, first: int) -> Iterator[pl.DataFrame]:
    """Events of these users, numbers int64 [n], in time; `first`: events before them."""
    random = np.random.default_rng(first)
    types, items = random.choice(len(TYPES), size=chosen.size, p=SHARES), zipf(ITEMS, ITEM_EXPONENT, chosen.size, random)
    values = random.exponential(12.0, chosen.size)
    for start in range(0, chosen.size, BATCH):
        at = slice(start, start + BATCH)
        ordinals, n = np.arange(first + start, first + start + len(chosen[at])), len(chosen[at])
        told: dict[str, Any] = {
            "kind": np.full(n, EVENT, np.uint8), "source": np.zeros(n, np.uint16), "offset": ordinals,
            "sent_ms": ordinals, "ts_ms": START_MS + ordinals * 1_000 // EVENTS_PER_SECOND,
            "event_id": [f"e{ordinal}" for ordinal in ordinals.tolist()], "type": [TYPES[type_] for type_ in types[at].tolist()],
            "user_id": [f"user-{user}" for user in chosen[at].tolist()], "item_id": [f"item-{item}" for item in items[at].tolist()],
            "value": np.where(types[at] == TYPES.index("view"), values[at], np.nan),
        }  # fmt: skip
        empty = {name: constant(name, None, dtype, n) for name, dtype in BATCHES.items() if name not in told}
        columns = [empty[name] if name in empty else pl.Series(name, told[name], dtype) for name, dtype in BATCHES.items()]
        yield pl.DataFrame(columns).with_columns(pl.col("value").fill_nan(None))


def zipf(size: int, exponent: float, count: int, random: np.random.Generator) -> np.ndarray:
    """int64 [count]: numbers below `size`, the k-th with weight 1 / k^exponent, spread over all numbers."""
    upto = np.cumsum(np.arange(1.0, size + 1) ** -exponent)
    ranks = np.searchsorted(upto, random.random(count) * upto[-1], side="right")
    numbers: np.ndarray = np.random.default_rng(size).permutation(size)[ranks]
    return numbers


# Driving the stages


def made(s: Settings, directory: Path) -> tuple[Stage, Stage]:
    """The user stage, and the learner stage with nothing but its features."""
    return pipeline.user_stage(s, Upstream(s.batches_topic, 0, "benchmark"), directory / "users"), pipeline.learner_stage(
        s, 1, pipeline.FEATURE_PARTS
    )


def apply(stages: tuple[Stage, Stage], rows: pl.DataFrame, catalogue: pl.DataFrame | None = None) -> None:
    if catalogue is not None:
        stages[1].apply(catalogue, 0)
    examples = stages[0].apply(rows, 0)
    assert examples is not None
    stages[1].apply(examples, 0)
    for stage in stages:
        stage.publish()


def timed(stages: tuple[Stage, Stage], frames: Frames) -> float:
    """Seconds that the stages took, publications included; not what made the frames."""
    seconds = 0.0
    for rows, catalogue in frames:
        started = time.perf_counter()
        apply(stages, rows, catalogue)
        seconds += time.perf_counter() - started
    return seconds


def driven(s: Settings, frames: Frames) -> tuple[float, int, float]:
    """Seconds, events, and the highest memory, MB, of a whole log; a little of it first, so that nothing is compiled in time."""
    peak = 0
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-") as directory:
        warm = made(s, Path(directory) / "warm")
        head = list(islice(frames, 30))
        timed(warm, iter(head))
        warm[0].close()
        stages, seconds, rows = made(s, Path(directory) / "log"), 0.0, 0
        whole = chain(head, frames)
        while some := list(islice(whole, FRAMES_AT_ONCE)):
            seconds += timed(stages, iter(some))
            rows += sum(int((frame["kind"].to_numpy() == EVENT).sum()) for frame, _ in some)
            peak = max(peak, psutil.Process().memory_info().rss)
        stages[0].close()
    _progress(f"globo: {rows:,} events in {seconds:.1f} s, {rows / seconds:,.0f} events/s")
    return seconds, rows, float(round(peak / 2**20))


# Other stream processors


def beside_peers() -> Figures:
    """Each in a process and an environment of its own, on the same core; the one that needs a broker beside one on the other."""
    figures: Figures = {}
    with tempfile.TemporaryDirectory(prefix="freshet-benchmark-", ignore_cleanup_errors=True) as directory:
        python = Path(directory) / "peers/bin/python"
        try:
            venv.create(python.parent.parent, with_pip=True)
            subprocess.run([python, "-m", "pip", "install", "--quiet", *PEERS], check=True, capture_output=True)
        except subprocess.CalledProcessError as error:
            _progress(f"peers: left out, they cannot be installed: {error.stderr.decode().strip().splitlines()[-1:]}")
            return {}
        figures["bytewax_events_per_second"] = _measured(python, "bytewax")
        with cluster(load(data_dir=Path(directory) / "data", bootstrap_servers="")) as s:
            figures["quixstreams_events_per_second"] = _measured(python, "quixstreams", s.bootstrap_servers)
    return figures


def _measured(python: Path, name: str, *more: str) -> float:
    script = Path(__file__).parent / "peers" / f"{name}_counter.py"
    found = subprocess.run([python, script, str(PEER_EVENTS), str(USERS[0]), *more], capture_output=True, text=True, check=True)
    rate = float(found.stdout.split()[-1])
    _progress(f"{name}: {rate:,.0f} events/s")
    return rate


def _progress(text: str) -> None:
    Console(stderr=True, highlight=False).print(text)
