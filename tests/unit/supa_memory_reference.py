"""Slow, obvious twins of SUPA's memory-aware score: sums over lists of all edges, enumerated paths, features by their names."""

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from supa_reference import LETTERS, START_MS, Contact, World, busy

from learners.supa import SupaConfig
from learners.supa.history import HALF_LIVES_MS
from learners.supa.memory import Memory
from learners.supa.neighbours import Neighbours
from learners.supa.pairs import FEATURES, OLDEST, Query
from learners.supa.reach import explore, leave
from learners.supa.table import SERVED

THREE = ("user", "item", "tag")
MINUTE_MS, DAY_MS = 60_000, 86_400_000
STEPS = 8


def minded(**changes: Any) -> SupaConfig:
    """Three types of node and the score; every edge teaches it."""
    return busy(**{"node_types": THREE, "memory_every": 1, **changes})


def gathering(count: int, seed: int = 0, each: int = 12) -> list[Contact]:
    """Edges between any two of three types, from a second to a day apart; one in six is late, some are as old as the one before."""
    random, out, now = np.random.default_rng(seed), list[Contact](), START_MS
    for k in range(count):
        now += 0 if k % 7 == 3 else int(10 ** random.uniform(3, 7.9))
        late = int(10 ** random.uniform(3, 8.2)) if random.random() < 1 / 6 else 0
        one, other = (f"{LETTERS[random.integers(3)]}{random.integers(each)}" for _ in range(2))
        out.append((one, other if other != one else f"u{each}", int(random.integers(2)), now - late))
    return out


@dataclass(frozen=True)
class Known:
    """What a node remembers of another."""

    row: int
    entry: int
    relation: int
    meetings: int
    ts_ms: int


def known(of: Neighbours, row: int) -> list[Known]:
    """Those that are still there, met last first; of two at once the later entry."""
    there = [k for k in range(of.held[row]) if of.generation[of.row[row, k]] == of.neighbour_generation[row, k]]
    entries = [Known(int(of.row[row, k]), k, *(int(a[row, k]) for a in (of.relation, of.meetings, of.ts_ms))) for k in there]
    return sorted(entries, key=lambda entry: (-entry.ts_ms, -entry.entry))


def known_of(of: Neighbours, row: int, other: int) -> Known | None:
    return next((entry for entry in known(of, row) if entry.row == other), None)


def ways(of: Neighbours, q: int) -> dict[int, tuple[float, float]]:
    """Of all nodes three steps away: the weight of all paths, and that of those whose last two steps were close in time."""
    out = dict[int, tuple[float, float]]()
    for place, x in enumerate(known(of, q)[:STEPS]):
        for y in (entry for entry in known(of, x.row) if entry.row != q):
            for v in known(of, y.row):
                weight = 1 / (1 + place) / math.log(2 + of.held[x.row]) / math.log(2 + of.held[y.row])
                every, recent = out.get(v.row, (0.0, 0.0))
                out[v.row] = every + weight, recent + weight / (1 + abs(v.ts_ms - y.ts_ms) / DAY_MS)
    return out


@dataclass
class Past:
    """All edges of every row in lists, beside a world that learns them."""

    world: World
    edges: dict[int, list[tuple[int, bool]]] = field(default_factory=dict)  # ts_ms, with a node that it did not remember

    def learn(self, *contacts: Contact) -> None:
        of = self.world.table.neighbours
        for contact in contacts:
            rows = self.world.rows(contact)
            for own, met in (rows, rows[::-1]):
                self.edges.setdefault(own, []).append((contact[3], known_of(of, own, met) is None))
            self.world.learn(contact)

    def remove(self, id_: str) -> None:
        self.edges.pop(self.world.remove(id_), None)

    def of(self, row: int, new: bool = False) -> list[int]:
        """Times of its edges: all, or those with a node that was new to it."""
        return [ts_ms for ts_ms, was_new in self.edges.get(row, []) if was_new or not new]


def left(times_ms: Sequence[int], now_ms: int, half_life_ms: float) -> float:
    """Of so many edges, after a half-life each."""
    return sum(math.exp2((ts_ms - now_ms) / half_life_ms) for ts_ms in times_ms)


def log_left(times_ms: Sequence[int], now_ms: int, half_life_ms: float) -> float:
    count = left(times_ms, now_ms, half_life_ms)
    return 0.2 * max(math.log2(count), OLDEST) if count else 0.2 * OLDEST


def log_minutes(ms: int) -> float:
    return 0.2 * math.log(1 + max(ms, 0) / MINUTE_MS)


def features(past: Past, q: int, v: int, now_ms: int) -> dict[str, float]:
    """By name, of what speaks for v where q asks."""
    return {**_of_both(past, q, v), **_of_one(past, v, now_ms), **_of_memory(past, q, v, now_ms)}


def _of_both(past: Past, q: int, v: int) -> dict[str, float]:
    table = past.world.table
    h, c = table.long.astype(float), table.context[:, SERVED].astype(float)
    found, learned = ways(table.neighbours, q).get(v, (0.0, 0.0)), 0.3 * bool(past.of(q))
    return {
        "h_q . c_v + c_q . h_v": learned * float(h[q] @ c[v] + c[q] @ h[v]),
        "bias of v": 0.3 * float(table.bias[v, SERVED]),
        "log of the ways of three steps from q to v": 0.2 * math.log(0.001 + found[0]),
        "the same by how close in time the last two steps were": 0.2 * math.log(0.001 + found[1]),
        "whether there is such a way": float(found[0] > 0),
        "whether q and v are of one type": float(table.type[q] == table.type[v]),
    }


def _of_one(past: Past, v: int, now_ms: int) -> dict[str, float]:
    times, new = past.of(v), past.of(v, new=True)
    edges, partners = math.log(1 + len(times)), math.log(1 + len(new))
    hours = [(f"{half_life / 3_600_000:g}", half_life) for half_life in HALF_LIVES_MS]
    return {
        **{f"log2 of the edges of v that are left after a half-life of {h} h": log_left(times, now_ms, life) for h, life in hours},
        **{f"the same of its edges with new partners, {h} h": log_left(new, now_ms, life) for h, life in hours},
        "log minutes since the last edge of v": log_minutes(now_ms - max(times, default=0)),
        "log minutes since its first": log_minutes(now_ms - (times[0] if times else 0)),
        "log edges of v": 0.2 * edges,
        "log partners of v": 0.2 * partners,
        "log of (1 + partners) / (1 + edges) of v": 0.5 * (partners - edges),
    }


def _of_memory(past: Past, q: int, v: int, now_ms: int) -> dict[str, float]:
    """Zeros where neither remembers the other."""
    of, names = past.world.table.neighbours, FEATURES[FEATURES.index("log meetings") :]
    relations = dict.fromkeys((f"relation {k}" for k in range(of_relations(past.world.config))), 0.0)
    own, other = known_of(of, q, v), known_of(of, v, q)
    entry = own or other
    if entry is None:
        return {**dict.fromkeys(names, 0.0), **relations}
    after = known(of, q).index(own) if own else len(known(of, q))
    relations[f"relation {entry.relation}"] = 1.0
    return {**_of_meeting(past, q, entry, after, now_ms), **relations}


def of_relations(config: SupaConfig) -> int:
    return len(config.relations)


def _of_meeting(past: Past, q: int, entry: Known, after: int, now_ms: int) -> dict[str, float]:
    """`after`: neighbours that q met since."""
    edges, partners, since = len(past.of(q)), len(past.of(q, new=True)), now_ms - entry.ts_ms
    pause, meetings = log_minutes(now_ms - max(past.of(q))), 0.3 * math.log(1 + entry.meetings)
    return {
        "log meetings": meetings,
        "log minutes since they met last": log_minutes(since),
        "whether q met nobody after v": float(after == 0),
        "1 / (1 + neighbours that q met after v)": 1 / (1 + after),
        "log meetings, where q met nobody after v": meetings * (after == 0),
        "log of (1 + partners) / (2 + edges) of q": 0.5 * math.log((1 + partners) / (2 + edges)),
        "log partners of q": 0.3 * math.log(1 + partners),
        "log minutes since the last edge of q": pause,
        "the same where q met nobody after v": pause * (after == 0),
        "whether they met in the last five minutes": float(since < 5 * MINUTE_MS),
        "whether they met in the last hour": float(since < 60 * MINUTE_MS),
    }


def vector(past: Past, q: int, v: int, now_ms: int) -> np.ndarray:
    """float64 [features]: as the kernel has them."""
    by_name = features(past, q, v, now_ms)
    relations = [f"relation {k}" for k in range(of_relations(past.world.config))]
    assert set(by_name) == {*FEATURES, *relations}
    return np.array([by_name[name] for name in (*FEATURES, *relations)])


def int32(row: int) -> int:
    """As the kernels have it: a wider one would be compiled anew."""
    return np.int32(row)  # type: ignore[return-value]


@contextmanager
def asked(world: World, q: int, now_ms: int) -> Iterator[tuple[Memory, Query]]:
    """A query whose reach is there meanwhile."""
    memory, of, row = world.graph.memory, world.table.neighbours, int32(q)
    count = explore(of, row, memory.reach)
    yield memory, Query(row, now_ms, count, memory.reach)
    leave(of, row, count, memory.reach)


def alive(world: World) -> list[int]:
    return [int(row) for row in np.flatnonzero(world.table.alive)]
