"""What speaks for a pair: numbers of a query q and a candidate v at a time, of the order of 1, from what both did before it."""

import math
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from learners.supa.history import HALF_LIVES_MS, History
from learners.supa.neighbours import entry_of
from learners.supa.reach import Reach
from learners.supa.table import SERVED, Table, dot

MINUTE_MS = 60_000.0
OLDEST = -12.0  # half-lives: older is all the same
LEAST = 1e-3  # ways
FARTHEST = 10.0  # of learned numbers from 0
_HEATS = len(HALF_LIVES_MS)
_DOT, _BIAS, _HEAT, _NEW_HEAT = 0, 1, 2, 2 + _HEATS
_IDLE = _NEW_HEAT + _HEATS
_AGE, _EDGES, _PARTNERS, _OPEN, _WAYS, _RECENT_WAYS, _NEAR, _SAME_TYPE = range(_IDLE + 1, _IDLE + 9)
_MEETINGS, _CONTACT, _LAST, _ORDER, _LAST_MEETINGS, _CURIOUS, _CIRCLE, _PAUSE, _LAST_PAUSE, _MINUTES, _HOUR = range(_IDLE + 9, _IDLE + 20)
_RELATION = _HOUR + 1
FEATURES = (
    "h_q . c_v + c_q . h_v",
    "bias of v",
    *(f"log2 of the edges of v that are left after a half-life of {half_life / 3_600_000:g} h" for half_life in HALF_LIVES_MS),
    *(f"the same of its edges with new partners, {half_life / 3_600_000:g} h" for half_life in HALF_LIVES_MS),
    "log minutes since the last edge of v",
    "log minutes since its first",
    "log edges of v",
    "log partners of v",
    "log of (1 + partners) / (1 + edges) of v",
    "log of the ways of three steps from q to v",
    "the same by how close in time the last two steps were",
    "whether there is such a way",
    "whether q and v are of one type",
    "log meetings",  # from here on 0 where neither remembers the other
    "log minutes since they met last",
    "whether q met nobody after v",
    "1 / (1 + neighbours that q met after v)",
    "log meetings, where q met nobody after v",
    "log of (1 + partners) / (2 + edges) of q",
    "log partners of q",
    "log minutes since the last edge of q",
    "the same where q met nobody after v",
    "whether they met in the last five minutes",
    "whether they met in the last hour",
)  # and one for each relation: whether it is that of their last edge

OF_THE_MOMENT = (
    *range(_HEAT, _NEW_HEAT - 1), *range(_NEW_HEAT, _IDLE - 1), _IDLE, _AGE, _PAUSE, _LAST_PAUSE, _MINUTES, _HOUR
)  # fmt: skip  # no use to somebody who does not know when it will be


class Query(NamedTuple):
    """Who asks, when, and what is known of it."""

    row: int
    ts_ms: int
    neighbours: int  # it remembers
    reach: Reach


@inlined
def _log_minutes(ms: int) -> float:
    return 0.2 * math.log1p(max(ms, 0) / MINUTE_MS)


@compiled
def describe(table: Table, history: History, query: Query, rows: np.ndarray, x: np.ndarray, remembered: np.ndarray) -> None:
    """Fill the features `x`, float64 [n or more, FEATURES + relations], of candidates int32 [n], and whether one remembers the other
    (int64, 1 or 0)."""
    x[: rows.shape[0]] = 0.0
    reach, now = query.reach, query.ts_ms
    _describe_learned(table.long, table.context, table.bias, query.row, table.alive[query.row], rows, x)
    _describe_heat(history.heat, table.edges, now, rows, x[:, _HEAT:])
    _describe_heat(history.new_heat, history.partners, now, rows, x[:, _NEW_HEAT:])
    _describe_past(table.last_ms, history.first_ms, table.edges, history.partners, now, rows, x)
    _describe_reach(reach.ways, reach.recent, table.type, query.row, rows, x)
    for k in range(rows.shape[0]):
        own = reach.entry[rows[k]] - 1
        entry = own if own >= 0 else entry_of(table.neighbours, rows[k], query.row)
        remembered[k] = entry >= 0
        if entry >= 0:
            row = query.row if own >= 0 else rows[k]
            _describe_memory(table, history, query, row, entry, own, x[k])


@compiled
def _describe_learned(
    long: np.ndarray, context: np.ndarray, bias: np.ndarray, q: int, alive: bool, rows: np.ndarray, x: np.ndarray
) -> None:
    """Vectors of a query that is not alive are as they were drawn, and say nothing. What is far out is cut off, or one such pair would
    stop the weights for good."""
    h, c = long[q], context[q, SERVED]
    for k in range(rows.shape[0]):
        v = rows[k]
        product = float(dot(h, context[v, SERVED]) + dot(c, long[v])) if alive else 0.0
        x[k, _DOT], x[k, _BIAS] = min(max(0.3 * product, -FARTHEST), FARTHEST), min(max(0.3 * bias[v, SERVED], -FARTHEST), FARTHEST)


@compiled
def _describe_heat(heat: np.ndarray, edges: np.ndarray, now: int, rows: np.ndarray, x: np.ndarray) -> None:
    for k in range(rows.shape[0]):
        v = rows[k]
        for j in range(_HEATS):
            x[k, j] = 0.2 * (max(heat[v, j] - now / HALF_LIVES_MS[j], OLDEST) if edges[v] else OLDEST)


@compiled
def _describe_past(
    last_ms: np.ndarray, first_ms: np.ndarray, edges: np.ndarray, partners: np.ndarray, now: int, rows: np.ndarray, x: np.ndarray
) -> None:
    for k in range(rows.shape[0]):
        v = rows[k]
        log_edges, log_partners = math.log(1.0 + edges[v]), math.log(1.0 + partners[v])
        x[k, _IDLE], x[k, _AGE] = _log_minutes(now - last_ms[v]), _log_minutes(now - first_ms[v])
        x[k, _EDGES], x[k, _PARTNERS], x[k, _OPEN] = 0.2 * log_edges, 0.2 * log_partners, 0.5 * (log_partners - log_edges)


@compiled
def _describe_reach(ways: np.ndarray, recent: np.ndarray, type_: np.ndarray, q: int, rows: np.ndarray, x: np.ndarray) -> None:
    none = 0.2 * math.log(LEAST)
    for k in range(rows.shape[0]):
        v = rows[k]
        x[k, _WAYS] = x[k, _RECENT_WAYS] = none
        if ways[v] > 0.0:
            x[k, _WAYS], x[k, _RECENT_WAYS], x[k, _NEAR] = 0.2 * math.log(LEAST + ways[v]), 0.2 * math.log(LEAST + recent[v]), 1.0
        x[k, _SAME_TYPE] = 1.0 if type_[q] == type_[v] else 0.0


@compiled
def _describe_memory(table: Table, history: History, query: Query, row: int, entry: int, own: int, x: np.ndarray) -> None:
    """From the entry of one end, `row`, about the other; `own` is that of the query, -1 where it forgot a node that remembers it."""
    q, of, now, later = query.row, table.neighbours, query.ts_ms, 0 if own >= 0 else query.neighbours
    while own >= 0 and query.reach.order[later] != own:
        later += 1
    since, pause = now - of.ts_ms[row, entry], _log_minutes(now - table.last_ms[q])
    x[_MEETINGS], x[_CONTACT], x[_ORDER] = 0.3 * math.log(1.0 + of.meetings[row, entry]), _log_minutes(since), 1.0 / (1.0 + later)
    x[_CURIOUS] = 0.5 * math.log((1.0 + history.partners[q]) / (2.0 + table.edges[q]))
    x[_CIRCLE], x[_PAUSE] = 0.3 * math.log(1.0 + history.partners[q]), pause
    if later == 0:
        x[_LAST], x[_LAST_MEETINGS], x[_LAST_PAUSE] = 1.0, x[_MEETINGS], pause
    x[_MINUTES], x[_HOUR] = 1.0 if since < 5 * MINUTE_MS else 0.0, 1.0 if since < 60 * MINUTE_MS else 0.0
    x[_RELATION + of.relation[row, entry]] = 1.0
