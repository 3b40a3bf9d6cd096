"""The graph without ids: arrays that torch may share, vectors and scores, three types of node, freed rows, snapshots."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from supa_reference import BUSY, DAY_MS, START_MS, World, busy, mingled, stream

from core.rows import CHUNK_ROWS
from learners.supa.graph import SupaGraph, fields
from learners.supa.table import Table
from tests.snapshots import save

THREE = ("user", "item", "tag")


def test_torch_shares_the_tables_memory() -> None:
    world = World.grown(BUSY, stream(60))
    row = world.row("u1")
    for name in ("long", "context", "bias"):
        tensor = torch.from_numpy(world.graph.arrays[name])
        before = tensor[row].clone()
        world.learn(("u1", "i1", 0, START_MS + 400 * DAY_MS))
        assert not torch.equal(tensor[row], before) or name != "long", "what the kernel writes, torch reads"
        tensor[row] = 0.5
        assert (getattr(world.table, name)[row] == 0.5).all(), "and the other way round"
        assert tensor.data_ptr() == world.graph.arrays[name].ctypes.data


def test_every_array_of_a_row_is_one_of_the_graphs() -> None:
    """Rows of all types in one array: what a snapshot or a removal forgets, none has."""
    world = World(busy(short_vector=True))
    graph, own = world.graph, {"touched", "dirty", "type", "first", "extent", "alpha", "alpha_sum", "neighbours"}
    for name in set(Table._fields) - own:
        assert getattr(graph.table, name) is graph.arrays[name], name
    for name, array in graph.table.neighbours._asdict().items():
        assert array is graph.arrays[name], name
    assert graph.arrays.keys() == fields(world.config).keys()


@pytest.mark.parametrize("capacity", [2048, CHUNK_ROWS, CHUNK_ROWS + 1])
def test_types_lie_side_by_side_in_whole_chunks(capacity: int) -> None:
    graph = SupaGraph(BUSY, [capacity, 10])
    whole = -(-capacity // CHUNK_ROWS) * CHUNK_ROWS
    assert graph.first.tolist() == [0, whole, whole + CHUNK_ROWS] and graph.table.first.tolist() == [0, whole]
    assert np.flatnonzero(graph.table.type).tolist() == list(range(whole, whole + CHUNK_ROWS))
    assert graph.table.dirty.size == graph.table.type.size // CHUNK_ROWS
    of_items = graph.arrays_of_type[1]["long"]
    assert of_items.ctypes.data == graph.arrays["long"][whole:].ctypes.data and len(of_items) == CHUNK_ROWS


# ---- vectors and scores


@pytest.mark.parametrize("relation", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"short_vector": True}, {"bias_rate": 0.0}])
def test_the_score_is_h_times_c_and_c_times_h_and_the_bias(changes: dict[str, Any], relation: int) -> None:
    world, rows = World.grown(busy(**changes), stream(200)), np.array([4096, 4099, -1, 4100, 3])
    own, known, of = world.row("u3"), rows >= 0, world.table
    h = of.long.astype(float) + (of.short if of.short.shape[1] else 0.0)
    c, b = of.context[:, relation].astype(float), of.bias[:, relation].astype(float)
    expected = h[rows[known]] @ c[own] + c[rows[known]] @ h[own] + b[rows[known]]
    scores = world.graph.scores(own, rows, relation)
    assert scores.dtype == np.float32 and np.isnan(scores[2]) and world.graph.scores(own, rows[:0]).size == 0
    np.testing.assert_allclose(scores[known], expected, rtol=1e-5, atol=1e-6)
    vectors, asked = world.graph.vectors(rows[known], True, relation), world.graph.vectors(np.array([own]), False, relation)
    np.testing.assert_allclose(vectors.astype(float) @ asked[0] + b[rows[known]], expected, rtol=1e-5, atol=1e-6)
    assert np.array_equal(world.graph.biases(rows[known], relation), b[rows[known]].astype(np.float32))


def test_served_as_published_the_score_is_of_the_sums() -> None:
    world = World.grown(busy(serving="published", short_vector=True, bias_rate=0.0), stream(200))
    of, own, rows = world.table, world.row("u3"), np.array([4096, 4099, 3])
    served = (of.long + of.short + of.context[:, 0]).astype(float)
    np.testing.assert_allclose(world.graph.scores(own, rows), served[rows] @ served[own], rtol=1e-5)
    assert np.array_equal(world.graph.vectors(rows, False), world.graph.vectors(rows, True)), "the same either way round"


def test_a_score_is_the_same_whatever_else_is_asked() -> None:
    world, rows = World.grown(BUSY, stream(200)), np.arange(4096, 4120)
    alone = np.concatenate([world.graph.scores(3, rows[k : k + 1]) for k in range(rows.size)])
    assert alone.tobytes() == world.graph.scores(3, rows).tobytes()


def test_before_the_first_edge_there_is_no_loss() -> None:
    world = World(BUSY)
    assert np.isnan(world.graph.loss)
    world.learn(*stream(50))
    assert 0 < world.graph.loss < 20


# ---- nodes of three types


def test_planted_ties_among_three_types_are_learned() -> None:
    """Users, items and tags of two kinds; edges stay within the kind, and scores do between any two types."""
    random, contacts = np.random.default_rng(0), []
    for k in range(3000):
        kind, letters = int(random.integers(2)), ("ui", "it", "ut")[k % 3]
        one, other = (f"{letter}{2 * random.integers(15) + kind}" for letter in letters)
        contacts.append((one, other, 0, START_MS + k * 60_000))
    world = World.grown(busy(node_types=THREE, negatives=20), contacts)
    for one, other in ("ui", "it", "ut", "tu"):
        rows = np.array([world.row(f"{other}{k}") for k in range(30)])
        scores = np.array([world.graph.scores(world.row(f"{one}{k}"), rows) for k in range(30)])
        same = np.equal.outer(np.arange(30) % 2, np.arange(30) % 2)
        assert (scores[same].mean() - scores[~same].mean()) > 2 * scores[same].std(), (one, other)


def test_nodes_of_one_type_may_meet() -> None:
    """One kind of node alone, and one that meets itself."""
    world = World(busy(node_types=("user",)))
    world.learn(*[(f"u{k % 7}", f"u{k % 5}", 0, START_MS + k) for k in range(200)])
    assert np.isfinite(world.graph.arrays["long"]).all() and world.graph.nonfinite_updates == 0
    assert world.table.edges.sum() == 400


# ---- removals


def test_an_edge_taken_out_is_gone_from_both_ends_and_nothing_else_is() -> None:
    world = World.grown(busy(ring_size=32), stream(100))
    before = {name: array.copy() for name, array in world.graph.arrays.items()}
    of, contact = world.table.neighbours, stream(100)[60]
    one, other = world.rows(contact)
    world.table.dirty[:] = False
    world.graph.remove_edge(one, other, 100)
    assert world.table.dirty.tolist() == [True, True]
    assert other not in of.row[one, : of.held[one]] and one not in of.row[other, : of.held[other]]
    rings = {"row", "neighbour_generation", "relation", "meetings", "ts_ms", "held"}
    for name, array in before.items():
        changed = np.flatnonzero((array != world.graph.arrays[name]).reshape(len(array), -1).any(axis=1)).tolist()
        assert set(changed) <= {one, other} and (name in rings or not changed), name
    assert [int(before["held"][row] - of.held[row]) for row in (one, other)] == [1, 1]
    world.table.dirty[:] = False
    world.graph.remove_edge(one, other, 100)
    assert not world.table.dirty.any(), "there is nothing left to take out"


def test_of_a_freed_row_the_generation_alone_is_left() -> None:
    world = World.grown(busy(short_vector=True), stream(100))
    row, others = world.row("i5"), {name: np.delete(array, world.row("i5"), 0) for name, array in world.graph.arrays.items()}
    world.graph.free(row)
    for name, array in world.graph.arrays.items():
        assert array[row].any() == (name == "generation"), name
        assert np.array_equal(np.delete(array, row, 0), others[name]), name
    assert not world.table.touched[row] and world.table.dirty[row // CHUNK_ROWS]
    world.graph.free(row)
    assert world.graph.arrays["generation"][row] == 2


# ---- snapshots


@pytest.mark.parametrize("passes", [0, 3])
def test_a_restored_graph_of_three_types_goes_on_with_the_same_bytes(tmp_path: Path, passes: int) -> None:
    config = busy(node_types=THREE, short_vector=True, passes=passes, batch_edges=40, validation_edges=10, validate_every=1)
    contacts, worlds = mingled(200), [World(config) for _ in range(2)]
    worlds[0].learn(*contacts[:93])
    worlds[0].table.long[worlds[0].row("u1")] = 1e30
    worlds[0].learn(*contacts[93:120])
    snapshot(worlds[0], tmp_path)
    restore(worlds[1], tmp_path, 120)
    assert worlds[0].graph.nonfinite_updates == worlds[1].graph.nonfinite_updates > 0
    assert worlds[0].graph.digest() == worlds[1].graph.digest()
    for world in worlds:
        world.learn(*contacts[120:])
    assert [nodes.digest() for nodes in worlds[0].nodes] == [nodes.digest() for nodes in worlds[1].nodes]
    assert worlds[0].graph.digest() == worlds[1].graph.digest()
    for name, array in worlds[0].graph.arrays.items():
        assert np.array_equal(array, worlds[1].graph.arrays[name]), name


def snapshot(world: World, directory: Path) -> None:
    for type_, nodes in enumerate(world.nodes):
        save(nodes, directory / f"nodes-{type_}")
    save(world.graph, directory / "graph")


def restore(world: World, directory: Path, ordinal: int) -> None:
    world.graph.restore(directory / "graph")
    for type_, nodes in enumerate(world.nodes):
        nodes.restore(directory / f"nodes-{type_}")
    world.ordinal = ordinal


def test_the_digest_has_what_no_row_holds() -> None:
    digests = set()
    for change in ("none", "alpha", "alpha_sum", "refused", "passes"):
        config = replace(busy(short_vector=True), passes=int(change == "passes"))
        graph = World.grown(config, stream(20)).graph
        if change.startswith("alpha"):
            getattr(graph.table, change)[1] += 1e-9
        graph.nonfinite_updates += change == "refused"
        digests.add(graph.digest())
    assert len(digests) == 5
