"""Where the cache holds the nodes of a learner's graph."""

import numpy as np


class Places:
    """Node of a graph -> row, shared by all versions: a reader believes it only where the row carries the same node in its own.

    So a reader of an older version misses a node that was given to another id since, as one misses an id that was reclaimed.
    """

    def __init__(self) -> None:
        self._rows = np.empty(0, dtype=np.int32)

    def put(self, nodes: np.ndarray, rows: np.ndarray) -> None:
        """Nodes int32 [n], none below 0."""
        last = int(nodes.max(initial=-1))
        if last >= self._rows.size:
            more = max(last + 1, 2 * self._rows.size) - self._rows.size
            self._rows = np.append(self._rows, np.full(more, -1, dtype=np.int32))
        self._rows[nodes] = rows

    def __getitem__(self, nodes: np.ndarray) -> np.ndarray:
        """int32 [n], -1 where none was ever put."""
        rows = self._rows
        if not rows.size:
            return np.full(nodes.size, -1, dtype=np.int32)
        return np.where(nodes < rows.size, rows[np.minimum(nodes, rows.size - 1)], np.int32(-1))
