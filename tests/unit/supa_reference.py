"""Slow, obvious twins of SUPA's kernel: the loss in torch (float64, autograd), AdaGrad by hand, sampling over plain lists."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from core.randomness import fill
from learners.supa import SupaConfig
from learners.supa.kernel import EPSILON, Table
from learners.supa.learner import Nodes

WALKS, NEGATIVES, TRIES = 0x53500010, 0x53500000, 3
Slot = tuple[int, int, float]  # row, relation, weight


def nodes(config: SupaConfig, capacity: int = 2048) -> tuple[Nodes, Nodes]:
    return Nodes(0, capacity, config), Nodes(1, capacity, config)


@dataclass
class Parameters:
    """What the loss of one end reads, as float64 leaves."""

    long: torch.Tensor  # [d]
    short: torch.Tensor  # [d or 0]
    context: torch.Tensor  # [slots, d]
    bias: torch.Tensor  # [slots]

    @classmethod
    def of(cls, own: Table, other: Table, row: int, slots: Sequence[Slot]) -> "Parameters":
        rows, relations = [r for r, _, _ in slots], [c for _, c, _ in slots]
        values = own.long[row], own.short[row], other.context[rows, relations], other.bias[rows, relations]
        return cls(*(torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in values))

    def loss(self, fade: float, slots: Sequence[Slot]) -> torch.Tensor:
        """- sum over targets of weight * log softmax(target among itself and the negatives)."""
        h = self.long + fade * self.short if self.short.numel() else self.long
        logits = self.context @ h + self.bias
        negatives = [k for k, (_, _, weight) in enumerate(slots) if weight == 0.0]
        total = torch.zeros((), dtype=torch.float64)
        for k, (_, _, weight) in enumerate(slots):
            if weight > 0.0:
                total = total - weight * torch.log_softmax(logits[[k, *negatives]], 0)[0]
        return total


def adagrad(value: np.ndarray, gradient: np.ndarray, total: float, config: SupaConfig) -> tuple[np.ndarray, float]:
    """One row-wise step: clip by norm, add the mean square to the row's sum, divide by its root."""
    norm = math.sqrt(float((gradient**2).sum()))
    clipped = gradient * min(1.0, config.max_gradient_norm / max(norm, EPSILON))
    total += float((clipped**2).mean())
    return value - config.rate * clipped / math.sqrt(total + EPSILON), total


@dataclass
class History:
    """Everybody's edges in plain lists, with nothing overwritten and nothing forgotten."""

    config: SupaConfig
    edges: dict[tuple[int, str], list[tuple[str, int, int]]] = field(default_factory=dict)  # (table, id) -> (id, relation, ts_ms)
    births: dict[tuple[int, str], int] = field(default_factory=dict)  # of the living: number of edges of the log before the first
    learned: int = 0

    def learn(self, user: str, item: str, relation: int, ts_ms: int) -> None:
        for side, own, met in ((0, user, item), (1, item, user)):
            self.births.setdefault((side, own), self.learned)
            self.edges.setdefault((side, own), []).append((met, relation, ts_ms))
        self.learned += 1

    def forget(self, side: int, id_: str) -> None:
        """The node is gone: nobody's walk may reach it, and whoever bears its name later starts without edges."""
        self.births.pop((side, id_), None)
        self.edges.pop((side, id_), None)
        for (other, _), edges in self.edges.items():
            if other != side:
                edges[:] = [("" if met == id_ else met, relation, ts_ms) for met, relation, ts_ms in edges]

    def targets(self, side: int, own: str, met: str, relation: int, ts_ms: int, ordinal: int) -> dict[tuple[str, int], float]:
        """(id, relation) -> weight of what the end is trained towards."""
        config = self.config
        found, bits = {(met, relation): 1.0}, _bits(config, WALKS + side, ordinal)
        for k in range(config.walks):
            at, table, weight = own, side, config.hop_weight
            for hop in range(config.walk_length):
                ring = self._ring(table, at)
                if not ring:
                    break
                at, hop_relation, when = ring[(bits[k * config.walk_length + hop] * len(ring)) >> 32]
                g = 1 / math.log(math.e + max(0, ts_ms - when) / (config.decay_unit_seconds * 1000))
                if at == "" or g <= config.tau:
                    break
                weight *= g
                table = 1 - table
                if table != side:
                    found[at, hop_relation] = found.get((at, hop_relation), 0.0) + weight
        return found

    def _ring(self, side: int, id_: str) -> list[tuple[str, int, int]]:
        """Slot j of a ring holds the newest of the node's edges whose number is j modulo the size."""
        held, size = self.edges.get((side, id_), []), self.config.ring_size
        return [held[j::size][-1] for j in range(min(len(held), size))]

    def negatives(self, side: int, targets: set[str], ordinal: int, row_of: dict[str, int], extent: int) -> list[str]:
        """Ids drawn as negatives, in order; `row_of` holds the living of the other table."""
        bound, id_of, out = 1 << max(0, extent - 1).bit_length(), {row: id_ for id_, row in row_of.items()}, list[str]()
        for bits in _bits(self.config, NEGATIVES + side, ordinal // self.config.negative_block_rows)[: TRIES * self.config.negatives]:
            id_ = id_of.get((bits * bound) >> 32)
            if id_ is not None and id_ not in targets and id_ not in out and len(out) < self.config.negatives:
                out.append(id_)
        return out


def _bits(config: SupaConfig, stream: int, position: int) -> list[int]:
    """The 32-bit pieces of one position, low half first."""
    words = np.empty(256, np.uint64)
    fill(np.uint64(config.seed), np.uint64(stream), np.uint64(position), words)
    return [int(word) >> shift & 0xFFFFFFFF for word in words for shift in (0, 32)]
