"""Temporal graphs for link prediction, split by time into training, validation and test edges, as text files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from core.errors import SettingsError

PARTS = ("train", "valid", "test")
TYPES = "node_types.txt"
EDGE_COLUMNS, TYPE_COLUMNS = ("src", "dst", "type", "time in seconds"), ("node", "type")
MOST = 2**31 - 1  # of node ids and types
MOST_SECONDS = 2**42  # milliseconds stay exact in a float64


@dataclass(frozen=True, eq=False)
class Edges:
    """n edges in time order; those of one time in the order of their file."""

    source: np.ndarray  # int64 [n]
    target: np.ndarray  # int64 [n]
    relation: np.ndarray  # int64 [n]
    ts_ms: np.ndarray  # int64 [n], never falls

    def part(self, start: int, stop: int) -> "Edges":
        """Edges [start, stop)."""
        rows = slice(start, stop)
        return Edges(self.source[rows], self.target[rows], self.relation[rows], self.ts_ms[rows])

    def __len__(self) -> int:
        return int(self.source.size)


@dataclass(frozen=True, eq=False)
class Graph:
    """Nodes are 0 .. nodes - 1, some of which may have no edge."""

    train: Edges
    valid: Edges
    test: Edges
    node_type: np.ndarray  # int64 [nodes], 0 where the file has none

    @property
    def nodes(self) -> int:
        return int(self.node_type.size)

    def training(self, with_valid: bool = False) -> Edges:
        """Edges that a model has learned before the test: `train`, then `valid` if asked for."""
        return joined(self.train, self.valid) if with_valid else self.train


def joined(first: Edges, second: Edges) -> Edges:
    """Both in time order."""
    return in_time_order(
        np.concatenate([first.source, second.source]), np.concatenate([first.target, second.target]),
        np.concatenate([first.relation, second.relation]), np.concatenate([first.ts_ms, second.ts_ms]),
    )  # fmt: skip


def in_time_order(source: np.ndarray, target: np.ndarray, relation: np.ndarray, ts_ms: np.ndarray) -> Edges:
    """Sorted by time, edges of one time as they stand."""
    order = np.argsort(ts_ms, kind="stable")
    return Edges(source[order], target[order], relation[order], ts_ms[order])


def read_graph(directory: Path) -> Graph:
    """Read `train.txt`, `valid.txt` and `test.txt` (a line is "src dst type seconds") and `node_types.txt` ("node type"), columns apart by
    spaces or tabs, empty lines passed over. Of several types of a node the last counts.

    Raises:
        SettingsError: a file is missing or empty (`valid.txt` may be empty), or a line is malformed: it names both.
    """
    names = [*(f"{part}.txt" for part in PARTS), TYPES]
    missing = [name for name in names if not (directory / name).is_file()]
    if missing:
        raise SettingsError(f"{directory}: no {', '.join(missing)}; the folder of a graph has {', '.join(names)}")
    train, valid, test = (_read_edges(directory / f"{part}.txt") for part in PARTS)
    for part, edges in (("train", train), ("test", test)):
        if not len(edges):
            raise SettingsError(f"{directory / part}.txt has no edges")
    node, type_ = _read(directory / TYPES, TYPE_COLUMNS, _type_row_error).T.astype(np.int64)
    ends = [array for edges in (train, valid, test) for array in (edges.source, edges.target)]
    node_type = np.zeros(1 + int(np.concatenate([*ends, node]).max()), dtype=np.int64)
    node_type[node] = type_
    return Graph(train, valid, test, node_type)


def _read_edges(path: Path) -> Edges:
    source, target, relation, seconds = _read(path, EDGE_COLUMNS, _edge_row_error).T
    ts_ms = np.rint(seconds * 1000.0).astype(np.int64)
    return in_time_order(source.astype(np.int64), target.astype(np.int64), relation.astype(np.int64), ts_ms)


RowError = Callable[[np.ndarray], np.ndarray]  # float64 [n, columns] -> bool [n], rows that cannot be


def _edge_row_error(rows: np.ndarray) -> np.ndarray:
    wrong: np.ndarray = _not_numbers(rows[:, :3]) | ~(np.abs(rows[:, 3]) <= MOST_SECONDS)
    return wrong


def _type_row_error(rows: np.ndarray) -> np.ndarray:
    return _not_numbers(rows)


def _not_numbers(rows: np.ndarray) -> np.ndarray:
    """Rows with anything but whole numbers from 0 to MOST; NaN compares as neither."""
    wrong: np.ndarray = ~((rows >= 0) & (rows <= MOST) & (np.floor(rows) == rows)).all(axis=1)
    return wrong


def _read(path: Path, columns: tuple[str, ...], row_error: RowError) -> np.ndarray:
    """float64 [n, columns]."""
    lines = path.read_text(encoding="utf-8", errors="replace").split("\n")
    held = [(number, line) for number, line in enumerate(lines, 1) if line.strip()]
    if not held:
        return np.empty((0, len(columns)))
    try:
        rows = np.loadtxt([line for _, line in held], dtype=np.float64, comments=None, ndmin=2)
    except ValueError:
        rows = np.empty((0, 0))
    if rows.shape == (len(held), len(columns)) and not row_error(rows).any():
        return rows
    number, line = next((number, line) for number, line in held if not _can_be(line, len(columns), row_error))
    raise SettingsError(f"{path}, line {number}: {line.strip()[:80]!r} is not '{' '.join(columns)}' in numbers (ids from 0 to {MOST})")


def _can_be(line: str, columns: int, row_error: RowError) -> bool:
    try:
        row = np.array([[float(word) for word in line.split()]])
    except ValueError:
        return False
    return row.shape[1] == columns and not row_error(row).any()
