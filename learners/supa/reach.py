"""Which nodes are three steps away from one, by how many ways: Adamic-Adar over remembered neighbours."""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled
from learners.supa.neighbours import Neighbours

STEPS = 8  # of its neighbours, those met last, from which ways go on
RECENT_MS = 86_400_000.0


class Reach(NamedTuple):
    """Of one query. Zeros but for the rows in `found`."""

    ways: np.ndarray  # float64 [rows], sum over ways q - x - y - v of the weights of x and y
    recent: np.ndarray  # float64 [rows], the same, less the longer lay between the meetings x - y and y - v
    entry: np.ndarray  # int32 [rows], 1 + place among the neighbours of q
    found: np.ndarray  # int32 [capacity], rows with ways
    size: np.ndarray  # int64 [1], of them
    order: np.ndarray  # int32 [ring], entries of q's neighbours, met last first


def new_reach(rows: int, ring: int) -> Reach:
    """That holds nothing."""
    found = np.zeros(min(STEPS, ring) * ring * ring, np.int32)
    return Reach(np.zeros(rows), np.zeros(rows), np.zeros(rows, np.int32), found, np.zeros(1, np.int64), np.zeros(ring, np.int32))


@compiled
def _weight(degree: int) -> float:
    return 1.0 / math.log(2.0 + degree)


@compiled
def by_last_contact(of: Neighbours, row: int, order: np.ndarray) -> int:
    """Entries of a row's neighbours that are still there into `order`, met last first; returns how many."""
    count = 0
    for entry in range(of.held[row]):
        if of.generation[of.row[row, entry]] == of.neighbour_generation[row, entry]:
            at = count
            while at > 0 and of.ts_ms[row, order[at - 1]] <= of.ts_ms[row, entry]:
                order[at] = order[at - 1]
                at -= 1
            order[at] = entry
            count += 1
    return count


@compiled
def explore(of: Neighbours, row: int, reach: Reach) -> int:
    """Fill `reach` for a query; returns how many neighbours it has. Ways through its `STEPS` last neighbours, the older the less.

    Source: Adamic, Adar, "Friends and neighbors on the Web", Social Networks 2003, with one step more; a node with d neighbours in memory
    weighs 1 / log(2 + d).
    """
    count = by_last_contact(of, row, reach.order)
    for place in range(count):
        reach.entry[of.row[row, reach.order[place]]] = 1 + reach.order[place]
    for place in range(min(count, STEPS)):
        x = of.row[row, reach.order[place]]
        weight = _weight(of.held[x]) / (1.0 + place)
        reach.size[0] = _spread(
            of.row,
            of.ts_ms,
            of.held,
            of.generation,
            of.neighbour_generation,
            row,
            x,
            weight,
            reach.ways,
            reach.recent,
            reach.found,
            reach.size[0],
        )
    return count


@compiled
def _spread(
    met: np.ndarray, ts_ms: np.ndarray, held: np.ndarray, generation: np.ndarray, generation_then: np.ndarray, q: int, x: int,
    weight: float, ways: np.ndarray, recent: np.ndarray, found: np.ndarray, size: int,
) -> int:  # fmt: skip
    """Ways go on from `x` to the neighbours of its neighbours; returns how many were found by then. Arrays of `Neighbours`, `Reach`."""
    for middle in range(held[x]):
        y = met[x, middle]
        if y != q and generation[y] == generation_then[x, middle]:
            through = weight * _weight(held[y])
            for entry in range(held[y]):
                v = met[y, entry]
                if generation[v] == generation_then[y, entry]:
                    if ways[v] == 0.0:
                        found[size] = v
                        size += 1
                    ways[v] += through
                    recent[v] += through / (1.0 + abs(ts_ms[y, entry] - ts_ms[x, middle]) / RECENT_MS)
    return size


@compiled
def leave(of: Neighbours, row: int, count: int, reach: Reach) -> None:
    """Empty what `explore` filled for this query."""
    for place in range(count):
        reach.entry[of.row[row, reach.order[place]]] = 0
    for k in range(reach.size[0]):
        reach.ways[reach.found[k]] = reach.recent[reach.found[k]] = 0.0
    reach.size[0] = 0
