"""The join of one label, compiled: which impression an event belongs to, and when its rows are due.

impression -> a row of the ring -> its pair's chain   (which impression an event belongs to)
                                -> a timer            (when its next row is due, by the partition's clock)
"""

from typing import NamedTuple

import numpy as np

from core.clock import UNSET
from core.compiled import compiled
from core.labels import JOIN_OUTCOMES, LATE, NEGATIVE
from core.rows import CHUNK_BITS
from features.label_config import (
    AHEAD,
    EXITS,
    FROM_EVENT,
    IN_TIME,
    LEFT,
    NO_ROW,
    NOTHING,
    OPENS,
    OVER_NEGATIVE,
    OVER_POSITIVE,
    POSITIVE,
    TOLD,
    Rule,
)

OPENED, MATCHED, EXPIRED, REPEATED, CAME_LATE, ORPHAN, CAPPED = range(len(JOIN_OUTCOMES))
SIZE, NEXT = range(2)  # places in `Timers.marks`
NO_PLACE = -1
NONE = -1  # in place of a row


class JoinRows(NamedTuple):
    """n rows in log order: accepted events and clock ticks."""

    ts_ms: np.ndarray  # int64 [n], event times
    clock_ms: np.ndarray  # int64 [n], the partition's clock at each row, never falling; 0: not set yet
    code: np.ndarray  # int64 [n], type; -1 for ticks and types that no label names
    pair: np.ndarray  # int64 [n, 2], fingerprint of user and item; zeros: no item
    request: np.ndarray  # int64 [n], fingerprint of the request's id; 0: none
    ordinal: np.ndarray  # int64 [n], of the event in its partition, rising


class Timers(NamedTuple):
    """A binary heap of the ring's rows by (due time, arrival), the first to run out on top."""

    due_ms: np.ndarray  # int64 [ring], by place in the heap
    row: np.ndarray  # int32 [ring], by place in the heap
    place: np.ndarray  # int32 [ring], by row; NO_PLACE where it has no timer
    marks: np.ndarray  # int64 [2], SIZE of the heap; NEXT row of the ring to be taken, which is the oldest of a full ring


class Ring(NamedTuple):
    """The impressions of one label, in order of arrival, the latest over the oldest."""

    pair: np.ndarray  # int64 [rows, 2]
    request: np.ndarray  # int64 [rows], 0: none
    ts_ms: np.ndarray  # int64 [rows]
    ordinal: np.ndarray  # int64 [rows]
    event_ms: np.ndarray  # int64 [rows], time of the event that decided the label; 0: none yet
    state: np.ndarray  # int8 [rows]
    dirty: np.ndarray  # bool [chunks], changed since the last snapshot
    heads: np.ndarray  # int32 [power of two], newest row of each chain of pairs, or NONE
    older: np.ndarray  # int32 [ring], the row before it in its chain; stale where that is not older
    timers: Timers
    counts: np.ndarray  # int64 [outcomes], see JOIN_OUTCOMES


class Buffer(NamedTuple):
    """Room for label rows of one label. `turn`: two for each input row before it, and one more where it was due."""

    turn: np.ndarray  # int64 [room]
    kind: np.ndarray  # int64 [room]
    ordinal: np.ndarray  # int64 [room]
    ts_ms: np.ndarray  # int64 [room]
    delay_ms: np.ndarray  # int64 [room]
    held: np.ndarray  # int64 [1], rows in use


@compiled
def age(timers: Timers, row: int) -> int:
    """Rows of the ring taken since this one was."""
    back = int(timers.marks[NEXT]) - 1 - row
    return back if back >= 0 else back + timers.place.shape[0]


@compiled
def is_before(timers: Timers, due_ms: int, row: int, at: int) -> bool:
    """Whether that timer runs out before the one at a place of the heap. Arrival is the order of ordinals."""
    if due_ms != timers.due_ms[at]:
        return bool(due_ms < timers.due_ms[at])
    return age(timers, row) > age(timers, timers.row[at])


@compiled
def put(timers: Timers, at: int, due_ms: int, row: int) -> None:
    timers.due_ms[at], timers.row[at], timers.place[row] = due_ms, row, at


@compiled
def settle(timers: Timers, at: int, due_ms: int, row: int) -> None:
    """Put a timer where it belongs, starting at a place whose own timer is gone."""
    while at > 0 and is_before(timers, due_ms, row, (at - 1) >> 1):
        parent = (at - 1) >> 1
        put(timers, at, timers.due_ms[parent], timers.row[parent])
        at = parent
    size = timers.marks[SIZE]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and is_before(timers, timers.due_ms[child + 1], timers.row[child + 1], child):
            child += 1
        if is_before(timers, due_ms, row, child):
            break
        put(timers, at, timers.due_ms[child], timers.row[child])
        at = child
    put(timers, at, due_ms, row)


@compiled
def set_timer(timers: Timers, row: int, due_ms: int) -> None:
    """Start the row's timer anew."""
    at = timers.place[row]
    if at == NO_PLACE:
        at = timers.marks[SIZE]
        timers.marks[SIZE] += 1
    settle(timers, at, due_ms, row)


@compiled
def drop_timer(timers: Timers, row: int) -> None:
    at = timers.place[row]
    timers.place[row] = NO_PLACE
    timers.marks[SIZE] -= 1
    size = timers.marks[SIZE]
    if at < size:
        settle(timers, at, timers.due_ms[size], timers.row[size])


@compiled
def on_grid(rule: Rule, ms: int) -> int:
    """The first time from there on at which something can be due."""
    return -(-ms // rule.grid_ms) * rule.grid_ms


@compiled
def due_of(ring: Ring, rule: Rule, row: int) -> int:
    wait_ms = rule.waits_ms[ring.state[row]]
    return on_grid(rule, ring.event_ms[row] if wait_ms == FROM_EVENT else ring.ts_ms[row] + wait_ms)


@compiled
def is_undecided(state: int) -> bool:
    return state <= LEFT


@compiled
def is_positive(state: int) -> bool:
    return LEFT < state < OVER_NEGATIVE


@compiled
def move(ring: Ring, rule: Rule, row: int, state: int) -> None:
    """Give a row with a timer its next state, and the timer of that."""
    ring.state[row] = state
    ring.dirty[row >> CHUNK_BITS] = True
    if state < OVER_POSITIVE:
        set_timer(ring.timers, row, due_of(ring, rule, row))
        return
    drop_timer(ring.timers, row)
    if state == OVER_NEGATIVE:
        ring.counts[EXPIRED] += 1


@compiled
def chain_of(ring: Ring, first: int) -> int:
    """The chain of a pair by its first word, which is a hash already."""
    chain: int = first & (ring.heads.shape[0] - 1)
    return chain


@compiled
def link(ring: Ring, row: int) -> None:
    """Take the ring's next row into the chain of its pair, and so into use."""
    chain = chain_of(ring, ring.pair[row, 0])
    ring.older[row], ring.heads[chain] = ring.heads[chain], row
    ring.timers.marks[NEXT] = row + 1 if row + 1 < ring.older.shape[0] else 0


@compiled
def forget(ring: Ring, row: int) -> None:
    """Clear the ring's oldest row for the next impression. Older than all, it ends its chain, and only a head needs to be told."""
    chain = chain_of(ring, ring.pair[row, 0])
    if ring.heads[chain] == row:
        ring.heads[chain] = NONE
    if is_undecided(ring.state[row]):
        ring.counts[CAPPED] += 1
    if ring.timers.place[row] != NO_PLACE:
        drop_timer(ring.timers, row)


@compiled
def before_in_chain(ring: Ring, row: int) -> int:
    """The row before it in its chain, NONE where that was forgotten."""
    older = int(ring.older[row])
    return older if older != NONE and age(ring.timers, older) > age(ring.timers, row) else NONE


@compiled
def can_match(ring: Ring, rule: Rule, row: int, ts_ms: int, role: int) -> bool:
    """Whether an event at or after the impression can still decide its label."""
    state = ring.state[row]
    if not is_undecided(state) or ts_ms - ring.ts_ms[row] > rule.horizon_ms:
        return False
    return state != LEFT or (role == POSITIVE and on_grid(rule, ts_ms) <= on_grid(rule, ring.event_ms[row]))


@compiled
def find(ring: Ring, rule: Rule, rows: JoinRows, i: int, role: int) -> tuple[int, int]:
    """The row that an event decides, and the newest one that it could belong to, or NONE.

    It could belong to impressions of its pair at or before its time; if it and any of these have a request, to those of its request.
    """
    match, newest, request, by_request = NONE, NONE, rows.request[i], False
    row = ring.heads[chain_of(ring, rows.pair[i, 0])]
    while row != NONE and (match == NONE or (request != 0 and not by_request)):
        same = ring.pair[row, 0] == rows.pair[i, 0] and ring.pair[row, 1] == rows.pair[i, 1]
        if same and ring.ts_ms[row] <= rows.ts_ms[i]:
            if request != 0 and ring.request[row] != 0 and not by_request:
                match, newest, by_request = NONE, NONE, True
            if not by_request or ring.request[row] == request:
                newest = row if newest == NONE else newest
                if match == NONE and can_match(ring, rule, row, rows.ts_ms[i], role):
                    match = row
        row = before_in_chain(ring, row)
    return match, newest


@compiled
def emit(ring: Ring, row: int, turn: int, kind: int, ts_ms: int, into: Buffer) -> None:
    at = into.held[0]
    into.turn[at], into.kind[at], into.ordinal[at], into.ts_ms[at] = turn, kind, ring.ordinal[row], ts_ms
    into.delay_ms[at] = ts_ms - ring.ts_ms[row]
    into.held[0] = at + 1


@compiled
def run_out(ring: Ring, rule: Rule, i: int, into: Buffer) -> None:
    """The first timer runs out, before input row i."""
    row, due_ms = ring.timers.row[0], ring.timers.due_ms[0]
    kind, state = rule.kinds[ring.state[row]], rule.nexts[ring.state[row]]
    if kind != NO_ROW:
        emit(ring, row, 2 * i + 1, kind, due_ms, into)
    move(ring, rule, row, state)


@compiled
def open_row(ring: Ring, rule: Rule, rows: JoinRows, i: int, into: Buffer) -> None:
    """Input row i is an impression."""
    row = ring.timers.marks[NEXT]
    if ring.counts[OPENED] >= ring.older.shape[0]:
        forget(ring, row)
    ring.pair[row, 0], ring.pair[row, 1] = rows.pair[i, 0], rows.pair[i, 1]
    ring.request[row], ring.ts_ms[row], ring.ordinal[row], ring.event_ms[row] = rows.request[i], rows.ts_ms[i], rows.ordinal[i], 0
    ring.counts[OPENED] += 1
    link(ring, row)
    move(ring, rule, row, rule.start)
    if rule.start == TOLD:
        emit(ring, row, 2 * (i + 1), NEGATIVE, rows.ts_ms[i], into)


@compiled
def decide(ring: Ring, rule: Rule, rows: JoinRows, i: int, into: Buffer) -> None:
    """Input row i is a positive event."""
    row, newest = find(ring, rule, rows, i, POSITIVE)
    if row == NONE:
        ring.counts[ORPHAN if newest == NONE else REPEATED if is_positive(ring.state[newest]) else CAME_LATE] += 1
        return
    ring.counts[MATCHED] += 1
    ring.event_ms[row] = rows.ts_ms[i]
    if ring.state[row] == TOLD:
        emit(ring, row, 2 * (i + 1), LATE, rows.ts_ms[i], into)
        move(ring, rule, row, rule.after_late)
    else:
        move(ring, rule, row, IN_TIME if rows.ts_ms[i] - ring.ts_ms[row] <= rule.in_time_ms else AHEAD)


@compiled
def leave(ring: Ring, rule: Rule, rows: JoinRows, i: int) -> None:
    """Input row i is an exit."""
    row, _ = find(ring, rule, rows, i, EXITS)
    if row != NONE:
        ring.event_ms[row] = rows.ts_ms[i]
        move(ring, rule, row, LEFT)


@compiled
def join(ring: Ring, rule: Rule, rows: JoinRows, first: int, into: Buffer) -> int:
    """Take the input rows from `first` on, as far as there is room for label rows; returns the first that was not taken.

    A row that waits for room begins again with what is still due before it.
    """
    room = into.kind.shape[0]
    for i in range(first, rows.code.shape[0]):
        timers, clock_ms = ring.timers, rows.clock_ms[i]
        while clock_ms != UNSET and timers.marks[SIZE] > 0 and timers.due_ms[0] <= clock_ms:
            if into.held[0] == room:
                return i
            run_out(ring, rule, i, into)
        role = rule.roles[rows.code[i]] if rows.code[i] >= 0 else NOTHING
        if role == NOTHING or (rows.pair[i, 0] == 0 and rows.pair[i, 1] == 0):
            continue
        if into.held[0] == room:
            return i
        if role == OPENS:
            open_row(ring, rule, rows, i, into)
        elif role == POSITIVE:
            decide(ring, rule, rows, i, into)
        else:
            leave(ring, rule, rows, i)
    return len(rows.code)


@compiled
def rebuild(ring: Ring, rule: Rule) -> None:
    """Chains and timers of the rows in use, in an index that is empty."""
    size, opened = ring.older.shape[0], ring.counts[OPENED]
    used = min(size, opened)
    for back in range(used):
        link(ring, (opened - used + back) % size)
    for row in range(used):
        if ring.state[row] < OVER_POSITIVE:
            set_timer(ring.timers, row, due_of(ring, rule, row))


@compiled
def merge(turn: np.ndarray, ts_ms: np.ndarray, ordinal: np.ndarray, starts: np.ndarray) -> np.ndarray:
    """int64 [m]: the order of label rows of several labels, each in order already.

    By turn; of those due, by due time and ordinal; then by label.

    Args:
        turn, ts_ms, ordinal: int64 [m], the rows of one label behind those of another.
        starts: int64 [labels + 1], where each label's rows start, and m.
    """
    order, heads = np.empty(turn.shape[0], dtype=np.int64), starts[:-1].copy()
    for to in range(order.shape[0]):
        best = -1
        for label in range(heads.shape[0]):
            at = heads[label]
            if at < starts[label + 1] and (best < 0 or is_earlier(turn, ts_ms, ordinal, at, heads[best])):
                best = label
        order[to] = heads[best]
        heads[best] += 1
    return order


@compiled
def is_earlier(turn: np.ndarray, ts_ms: np.ndarray, ordinal: np.ndarray, a: int, b: int) -> bool:
    if turn[a] != turn[b] or turn[a] % 2 == 0:
        return bool(turn[a] < turn[b])
    return bool(ts_ms[a] < ts_ms[b] or (ts_ms[a] == ts_ms[b] and ordinal[a] < ordinal[b]))
