"""Slow, obvious twins of SUPA's kernels: losses in torch (float64, autograd), AdaGrad by hand, sampling over plain lists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
import torch

from core.randomness import fill
from learners.supa import SupaConfig, kernel
from learners.supa.config import EVERY, Hop
from learners.supa.descent import EPSILON
from learners.supa.graph import SupaGraph
from learners.supa.kernel import NEVER_MS, Run, Scratch
from learners.supa.nodes import Nodes
from learners.supa.sampling import Edge, sample
from learners.supa.table import Table
from learners.supa.undo import Undo, new_undo

DAY_MS = 86_400_000
START_MS = 1_700_000_000_000
RELATIONS = (("engage", ("click",)), ("buy", ("purchase",)))
BUSY = SupaConfig(
    seed=7, dimensions=16, relations=RELATIONS, ring_size=4, walks=2, walk_length=3, newest_of=2, negatives=9, negative_block_rows=4,
    forget_half_life_seconds=0,
)  # fmt: skip
LETTERS = "uit"  # the first of an id tells its node type
WALKS, NEGATIVES, TRIES = 0x53500010, 0x53500000, 3
MOST_MEETINGS = 65_535

Contact = tuple[str, str, int, int]  # ids of the ends, relation, ts_ms
Slot = tuple[int, int, float, float]  # row, relation, weight, scale of the logit


def busy(**changes: Any) -> SupaConfig:
    return replace(BUSY, **changes)


def stream(count: int, seed: int = 0, users: int = 12, items: int = 30) -> list[Contact]:
    """Edges about three days apart, so that many of a walk's edges are below tau; one in ten comes out of order."""
    random = np.random.default_rng(seed)
    ts_ms = START_MS + np.arange(count) * 3 * DAY_MS - random.integers(0, 10, count) // 9 * 20 * DAY_MS
    return [(f"u{random.integers(users)}", f"i{random.integers(items)}", int(random.integers(2)), int(at)) for at in ts_ms]


def mingled(count: int, seed: int = 0, each: int = 12) -> list[Contact]:
    """The same, between any two of the three types."""
    random, out = np.random.default_rng(seed), []
    for _, _, relation, ts_ms in stream(count, seed):
        one, other = (f"{LETTERS[random.integers(3)]}{random.integers(each)}" for _ in range(2))
        out.append((one, other if other != one else f"u{each}", relation, ts_ms))
    return out


def fixed(values: Sequence[int]) -> np.ndarray:
    """int64, not to be written: to a kernel, an array that may be written is of another type, and compiled anew."""
    array = np.array(values, np.int64)
    array.flags.writeable = False
    return array


def times(contacts: Sequence[Contact]) -> np.ndarray:
    return fixed([contact[3] for contact in contacts])


class World:
    """A graph whose nodes have ids, learning edge by edge."""

    def __init__(self, config: SupaConfig, capacity: int = 2048) -> None:
        types = range(len(config.node_types))
        self.config, self.rule, self.ordinal = config, config.rule(), 0
        self.graph = SupaGraph(config, [capacity for _ in types])
        self.nodes = [Nodes(self.graph, type_, capacity, biased=type_ > 0) for type_ in types]

    @classmethod
    def grown(cls, config: SupaConfig, contacts: Sequence[Contact]) -> Self:
        world = cls(config)
        world.learn(*contacts)
        return world

    @property
    def table(self) -> Table:
        return self.graph.table

    def row(self, id_: str) -> int:
        """Given one where it has none."""
        return int(self.nodes[LETTERS.index(id_[0])].admit([id_])[0])

    def rows(self, contact: Contact) -> tuple[int, int]:
        return self.row(contact[0]), self.row(contact[1])

    def learn(self, *contacts: Contact) -> np.ndarray:
        """In one call. Returns the second ends' mirrored vectors, each after its edge."""
        after = np.zeros((len(contacts), 2 * self.config.dimensions), np.float32)
        ends = np.array([self.rows(contact) for contact in contacts], np.int32)
        self.graph.learn(ends, np.array([contact[2] for contact in contacts]), times(contacts), self.ordinal, after)
        self.ordinal += len(contacts)
        return after

    def run(self, *contacts: Contact) -> Run:
        """The next rows of the log as the kernel takes them."""
        ends, relation = np.array([self.rows(contact) for contact in contacts], np.int32), np.array([contact[2] for contact in contacts])
        no_room = np.zeros((0, 2 * self.config.dimensions), np.float32)
        return Run(ends, relation, times(contacts), self.ordinal, np.zeros((len(contacts), 2), np.int64), no_room)

    def learn_run(self, run: Run, scratch: Scratch) -> int:
        """See `kernel.learn_run`."""
        self.ordinal = run.first_ordinal + run.relation.size
        return kernel.learn_run(self.table, run, self.rule, scratch)

    def remove(self, id_: str) -> int:
        """Returns the row that it had."""
        row = self.row(id_)
        self.nodes[LETTERS.index(id_[0])].remove(id_, self.ordinal)
        return row

    def scratch(self, loss: np.ndarray | None = None, undo: Undo | None = None) -> Scratch:
        loss, undo = np.zeros(2) if loss is None else loss, new_undo(self.table, 0) if undo is None else undo
        return kernel.new_scratch(self.rule, self.config.dimensions, loss, undo)

    def edge(self, contact: Contact, ages_ms: tuple[int, int] = (0, 0), until_ms: int = NEVER_MS) -> Edge:
        """As the kernel makes it of the next row of the log."""
        one, other = self.rows(contact)
        return Edge((np.int32(one), np.int32(other)), contact[2], contact[3], self.ordinal, ages_ms, until_ms, (self.ordinal, contact[3]))  # type: ignore[arg-type]

    def drawn(self, side: int, edge: Edge) -> tuple[Scratch, list[Slot]]:
        """The scratch with one end's slots, and those as a list."""
        scratch = self.scratch()
        count = sample(self.table, side, edge, self.rule.sample, scratch.slots, scratch.draws)
        of = scratch.slots
        arrays = (of.row, of.relation, of.weight, of.scale)
        return scratch, list(zip(*(array[:count].tolist() for array in arrays), strict=True))


# ---- losses and steps


def faded(age: torch.Tensor, kind: str) -> torch.Tensor:
    """g of an age in units."""
    age = age.clamp(min=0.0)
    return {"log": 1 / torch.log(math.e + age), "exp": torch.exp(-age), "rev": 1 / (1 + age)}[kind]


def decayed(age: float, kind: str) -> float:
    """The same of a number."""
    return float(faded(torch.tensor(age, dtype=torch.float64), kind))


@dataclass
class Parameters:
    """What the loss of one end reads, as float64 leaves."""

    long: torch.Tensor  # [d]
    short: torch.Tensor  # [d or 0]
    alpha: torch.Tensor  # []
    context: torch.Tensor  # [slots, d]
    bias: torch.Tensor  # [slots]

    @classmethod
    def of(cls, table: Table, row: int, slots: Sequence[Slot]) -> Self:
        rows, relations = [slot[0] for slot in slots], [slot[1] for slot in slots]
        alpha = table.alpha[table.type[row]]
        values = table.long[row], table.short[row], alpha, table.context[rows, relations], table.bias[rows, relations]
        return cls(*(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values))

    def h(self, age: float, kind: str) -> torch.Tensor:
        """h* of an end last met so many decay units ago."""
        return self.long + faded(torch.sigmoid(self.alpha) * age, kind) * self.short if self.short.numel() else self.long

    def loss(self, slots: Sequence[Slot], config: SupaConfig, age: float = 0.0) -> torch.Tensor:
        """softmax: - sum over targets of weight * log softmax(target among itself and the negatives); sigmoid: of each alone."""
        logits = (self.context @ self.h(age, config.decay) + self.bias) * torch.tensor([slot[3] for slot in slots], dtype=torch.float64)
        negatives = [k for k, slot in enumerate(slots) if slot[2] == 0.0]
        total = torch.zeros((), dtype=torch.float64)
        for k, (_, _, weight, _) in enumerate(slots):
            if config.loss == "sigmoid":
                total = total - (
                    torch.nn.functional.logsigmoid(logits[k]) * weight if weight else torch.nn.functional.logsigmoid(-logits[k])
                )
            elif weight:
                total = total - weight * torch.log_softmax(logits[[k, *negatives]], 0)[0]
        return total


def grad(leaf: torch.Tensor) -> np.ndarray:
    """float64: the loss by it, after `backward`."""
    assert leaf.grad is not None
    return np.asarray(leaf.grad.numpy())


def adagrad(value: Any, gradient: Any, total: float, rate: float, most: float) -> tuple[np.ndarray, float]:
    """One row-wise step: clip by norm, add the mean square to the row's sum, divide by its root. Returns the value and the sum."""
    gradient = np.asarray(gradient, np.float64)
    clipped = gradient * min(1.0, most / max(math.sqrt(float((gradient**2).sum())), EPSILON))
    total = float(total) + float((clipped**2).mean())
    return np.asarray(value, np.float64) - rate * clipped / math.sqrt(total + EPSILON), total


def close(ours: Any, theirs: Any, most: float = 1e-4) -> None:
    """The relative error is small."""
    ours, theirs = np.asarray(ours, np.float64), np.asarray(theirs, np.float64)
    assert ours.shape == theirs.shape
    error = np.linalg.norm(ours - theirs) / max(float(np.linalg.norm(theirs)), 1e-12)
    assert error < most, error


# ---- sampling


@dataclass
class Entry:
    """What a node knows of another: their last edge, and how many there were."""

    row: int
    relation: int
    ts_ms: int
    meetings: int = 1
    gone: bool = False  # the other was freed since


def remember(entries: list[Entry], row: int, relation: int, ts_ms: int, size: int) -> None:
    """Note an edge, in place of the longest unmet where `size` are there."""
    known = [entry for entry in entries if entry.row == row]
    if known and not known[0].gone:
        known[0].relation, known[0].ts_ms = relation, max(ts_ms, known[0].ts_ms)
        known[0].meetings = min(known[0].meetings + 1, MOST_MEETINGS)
    elif known or len(entries) == size:
        old = known[0] if known else min(entries, key=lambda entry: entry.ts_ms)
        entries[entries.index(old)] = Entry(row, relation, ts_ms)
    else:
        entries.append(Entry(row, relation, ts_ms))


@dataclass
class History:
    """Who met whom in plain lists, by row."""

    config: SupaConfig
    first: list[int]  # of each type, and the end
    entries: dict[int, list[Entry]] = field(default_factory=dict)
    extent: list[int] = field(default_factory=list)
    alive: set[int] = field(default_factory=set)

    def type_of(self, row: int) -> int:
        return max(type_ for type_, first in enumerate(self.first) if first <= row)

    def arrive(self, rows: tuple[int, int]) -> None:
        self.extent = self.extent or [0 for _ in self.config.node_types]
        for row in rows:
            self.alive.add(row)
            type_ = self.type_of(row)
            self.extent[type_] = max(self.extent[type_], row - self.first[type_] + 1)

    def meet(self, rows: tuple[int, int], relation: int, ts_ms: int) -> None:
        for own, met in (rows, rows[::-1]):
            remember(self.entries.setdefault(own, []), met, relation, ts_ms, self.config.ring_size)

    def free(self, row: int) -> None:
        """The node is gone: nobody's walk may reach it, and whoever has its row later starts without edges."""
        self.alive.discard(row)
        self.entries.pop(row, None)
        for entry in (entry for entries in self.entries.values() for entry in entries if entry.row == row):
            entry.gone = True

    def targets(self, side: int, edge: Edge) -> list[Slot]:
        """What the end is trained towards."""
        found: list[Slot] = [(int(edge.ends[1 - side]), edge.relation, 1.0, 1.0)]
        bits = bits_of(self.config, WALKS + side, edge.ordinal)
        for k in range(self.config.walks):
            self._walk(k, int(edge.ends[side]), edge, bits, found)
        return found

    def _walk(self, k: int, at: int, edge: Edge, bits: list[int], found: list[Slot]) -> None:
        config, d = self.config, self.config.hop_weight
        for n, hop in enumerate(self._hops(at, k)):
            fitting = [entry for entry in self.entries.get(at, []) if self._fits(entry, hop)]
            if not fitting:
                return
            first = (k * config.walk_length + n) * config.newest_of
            entry = max((fitting[bits[first + j] * len(fitting) >> 32] for j in range(config.newest_of)), key=lambda entry: entry.ts_ms)
            g = decayed((edge.ts_ms - entry.ts_ms) / (config.decay_unit_seconds * 1000.0), config.decay)
            if entry.gone or g <= config.tau or entry.ts_ms > edge.until_ms:
                return
            d, at = d * g, entry.row
            if config.propagation == "logit":
                found.append((at, entry.relation, 1.0, d))
            else:
                add(found, at, entry.relation, d)

    def _hops(self, row: int, k: int) -> list[Hop]:
        """The schema of the k-th walk from a row, or as many hops to anywhere."""
        own = self.config.node_types[self.type_of(row)]
        schemas = [hops for start, hops in self.config.schemas if start == own]
        hops = schemas[k % len(schemas)] if schemas else [((EVERY,), EVERY)] * self.config.walk_length
        return list(hops[: self.config.walk_length])

    def _fits(self, entry: Entry, hop: Hop) -> bool:
        relations, type_ = hop
        by_relation = relations == (EVERY,) or self.config.relations[entry.relation][0] in relations
        return by_relation and type_ in (EVERY, self.config.node_types[self.type_of(entry.row)])

    def negatives(self, side: int, edge: Edge, targets: Sequence[Slot]) -> list[Slot]:
        """Drawn of the type of the node that was met, then of all; in order."""
        config, taken, out = self.config, {slot[0] for slot in targets}, list[int]()
        spans = [range(first, first + extent) for first, extent in zip(self.first, self.extent, strict=False)]
        typed = round(config.typed_share * config.negatives)
        bits = bits_of(config, NEGATIVES, edge.ordinal // config.negative_block_rows)
        own, every = list(spans[self.type_of(int(edge.ends[1 - side]))]), [row for span in spans for row in span]
        parts = ((own, typed, bits[: TRIES * typed]), (every, config.negatives, bits[TRIES * typed : TRIES * config.negatives]))
        for among, wanted, draws in parts:
            for draw in draws:
                place = draw * (1 << max(0, len(among) - 1).bit_length()) >> 32
                row = among[place] if place < len(among) else -1
                if row in self.alive and row not in taken and len(out) < wanted:
                    out.append(row)
                    taken.add(row)
        return [(row, edge.relation, 0.0, 1.0) for row in out]


def add(found: list[Slot], row: int, relation: int, weight: float) -> None:
    """Weights of one target add up."""
    for k, (other, of, already, scale) in enumerate(found):
        if (other, of) == (row, relation):
            found[k] = (row, relation, already + weight, scale)
            return
    found.append((row, relation, weight, 1.0))


def bits_of(config: SupaConfig, stream: int, position: int, count: int = 512) -> list[int]:
    """The 32-bit pieces of one position, low half first."""
    words = np.empty(-(-count // 2), np.uint64)
    fill(np.uint64(config.seed), np.uint64(stream), np.uint64(position), words)
    return [int(word) >> shift & 0xFFFFFFFF for word in words for shift in (0, 32)][:count]
