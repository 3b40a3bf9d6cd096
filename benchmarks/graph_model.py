"""SUPA over a graph of files or a stream: numbered nodes become rows in the order of their first edge, as ids would."""

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from core.hashing import fingerprints
from evaluation.links.graph import Edges, Graph
from learners.supa import SupaConfig
from learners.supa.graph import SupaGraph

Scores = Callable[[int, int], np.ndarray]  # (query, relation) -> float [nodes]


@dataclass(frozen=True)
class Trained:
    """A graph that learned the training edges.

    Attributes:
        row_of: int64 [nodes], -1 of those without an edge.
    """

    graph: SupaGraph
    row_of: np.ndarray
    last_ms: int
    edges_per_second: float


def rows_by_first_edge(ends: np.ndarray, node_type: np.ndarray, first: np.ndarray) -> np.ndarray:
    """int64 [nodes]: the row of each node, -1 of one without an edge.

    Args:
        ends: int64 [n, 2], nodes.
        node_type: int64 [nodes].
        first: int64 [types], where the rows of a type begin.
    """
    nodes, at = np.unique(ends.reshape(-1), return_index=True)
    row_of = np.full(node_type.size, -1, np.int64)
    for type_ in range(int(node_type.max()) + 1):
        of_type = node_type[nodes] == type_
        row_of[nodes[of_type]] = first[type_] + np.argsort(np.argsort(at[of_type]))
    return row_of


def settings_for(graph: Graph, config: SupaConfig, multiplex: bool) -> SupaConfig:
    """With the graph's node types, and if multiplex with its relations; else all of them are one."""
    types = tuple(str(type_) for type_ in range(int(graph.node_type.max()) + 1))
    if not multiplex:
        return replace(config, node_types=types)
    relations = tuple((f"relation {r}", (str(r),)) for r in range(1 + int(max(graph.train.relation.max(), graph.test.relation.max()))))
    return replace(config, node_types=types, relations=relations)


def train(graph: Graph, config: SupaConfig, multiplex: bool = False, edges: Edges | None = None) -> Trained:
    """Learn the training edges (or others) in one pass; the kernels should be compiled before, since the first call is timed too."""
    config, edges = settings_for(graph, config, multiplex), edges or graph.train
    counts = np.bincount(graph.node_type, minlength=len(config.node_types))
    learner = SupaGraph(config, [max(1, int(count)) for count in counts])
    ends = np.stack([edges.source, edges.target], axis=1)
    row_of = rows_by_first_edge(ends, graph.node_type, learner.first[:-1])
    nodes = np.flatnonzero(row_of >= 0)
    learner.initialise(row_of[nodes].astype(np.int32), fingerprints(map(str, nodes.tolist())))
    rows, relation = row_of[ends].astype(np.int32), edges.relation if multiplex else np.zeros(len(ends), np.int64)
    started = time.perf_counter()
    learner.learn(rows, relation, edges.ts_ms, 0)
    return Trained(learner, row_of, int(edges.ts_ms.max()), len(ends) / (time.perf_counter() - started))


def learned_scores(of: Trained) -> Scores:
    """The learned score alone: one dot product and a bias; by the test edge's relation where there are several."""
    nodes, relations = np.flatnonzero(of.row_of >= 0), len(of.graph.config.relations)
    known = of.row_of[nodes]
    sides = [(of.graph.vectors(known, True, relation), of.graph.biases(known, relation)) for relation in range(relations)]

    def scores(query: int, relation: int) -> np.ndarray:
        relation = min(relation, relations - 1)
        mirrored, bias = sides[relation]
        out = np.full(of.row_of.size, np.nan)
        out[nodes] = mirrored @ of.graph.vectors(of.row_of[query : query + 1], False, relation)[0] + bias
        return out

    return scores


def memory_scores(of: Trained) -> Scores:
    """The memory-aware score, what the query remembers first, since the protocol takes out all of that but the true node."""
    nodes = np.flatnonzero(of.row_of >= 0)

    def scores(query: int, relation: int) -> np.ndarray:
        out = np.full(of.row_of.size, np.nan)
        out[nodes] = of.graph.memory_scores(int(of.row_of[query]), of.row_of[nodes], of.last_ms, remembered_first=True)
        return out

    return scores
