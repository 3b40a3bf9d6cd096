"""Event time. A clock is a function of the rows that went by, lives in the snapshot, and never goes back."""

import msgspec
import numpy as np

from core.compiled import compiled

UNSET = 0  # ms; ingest admits no event this old
MS = 1_000  # per second
WINDOW_ROWS = 15
MIN_ROWS = 3


@compiled
def advance(window: np.ndarray, state: np.ndarray, ts_ms: np.ndarray, out: np.ndarray) -> None:
    """The clock after each row: highest median so far of the last 15 event times, so that odd rows do not move it.

    Args:
        window: int64 [15], ring of the last event times. Updated.
        state: int64 [2], rows seen and the clock in ms. Updated.
        ts_ms: int64 [n], event times in log order.
        out: int64 [n], the clock after each row.
    """
    held = min(state[0], WINDOW_ROWS)
    ordered = np.empty(WINDOW_ROWS, dtype=np.int64)
    ordered[:held] = np.sort(window[:held])
    for i in range(ts_ms.shape[0]):
        oldest = state[0] % WINDOW_ROWS
        if held == WINDOW_ROWS:
            held = taken_out(ordered, held, window[oldest])
        window[oldest] = ts_ms[i]
        held = put_in(ordered, held, ts_ms[i])
        state[0] += 1
        if held >= MIN_ROWS:
            state[1] = max(state[1], ordered[(held - 1) // 2])
        out[i] = state[1]


@compiled
def taken_out(ordered: np.ndarray, held: int, value: int) -> int:
    """Take a value out of the first `held` ones, which are sorted; returns how many are left."""
    at = 0
    while ordered[at] != value:
        at += 1
    for after in range(at + 1, held):
        ordered[after - 1] = ordered[after]
    return held - 1


@compiled
def put_in(ordered: np.ndarray, held: int, value: int) -> int:
    """Put a value among the first `held` ones, which are sorted; returns how many they are then."""
    at = held
    while at and ordered[at - 1] > value:
        ordered[at] = ordered[at - 1]
        at -= 1
    ordered[at] = value
    return held + 1


def effective_ms(ts_ms: np.ndarray, clock_ms: np.ndarray, future_ms: int) -> np.ndarray:
    """int64 [n]: event times, held to at most `future_ms` beyond a clock that is set.

    One odd timestamp may not freeze an entity: its counters would not decay until the clock got there.
    """
    return np.where(clock_ms == UNSET, ts_ms, np.minimum(ts_ms, clock_ms + future_ms))


class EventClock:
    """The robust watermark of one partition.

    In: event times, in log order. Out: the clock after each. State: the last 15 times, rows seen, the clock (ms).
    """

    def __init__(self) -> None:
        self._window = np.zeros(WINDOW_ROWS, dtype=np.int64)
        self._state = np.array([0, UNSET], dtype=np.int64)

    @property
    def ms(self) -> int:
        return int(self._state[1])

    @property
    def full(self) -> bool:
        """Whether the window holds enough rows to be told to others (a restarted ingest waits for this)."""
        return bool(self._state[0] >= WINDOW_ROWS)

    def advance(self, ts_ms: np.ndarray) -> np.ndarray:
        """int64 [n]: the clock after each row."""
        out = np.empty(ts_ms.shape[0], dtype=np.int64)
        advance(self._window, self._state, ts_ms.astype(np.int64, copy=False), out)
        return out

    def tick(self, ms: int) -> None:
        """Another partition's time: an idle one moves on with it."""
        self._state[1] = max(self._state[1], ms)

    def to_json(self) -> bytes:
        return msgspec.json.encode({"window": self._window.tolist(), "state": self._state.tolist()})

    @classmethod
    def from_json(cls, raw: bytes) -> "EventClock":
        stored, clock = msgspec.json.decode(raw), cls()
        clock._window[:], clock._state[:] = stored["window"], stored["state"]
        return clock


class MergedClock:
    """After a merge of partitions: the lowest of the upstream clocks, once every one of them has been heard."""

    def __init__(self, upstreams: int) -> None:
        self._clocks = np.full(upstreams, UNSET, dtype=np.int64)

    @property
    def ms(self) -> int:
        return int(self._clocks.min())

    def advance(self, upstream: np.ndarray, clock_ms: np.ndarray) -> np.ndarray:
        """int64 [n]: the merged clock after each row.

        Args:
            upstream: int [n], `batches` partition of each row, -1 where it has no clock (the catalogue).
            clock_ms: int64 [n], that partition's own clock at the row.
        """
        out = np.empty(clock_ms.shape[0], dtype=np.int64)
        _merge(self._clocks, upstream.astype(np.int64), clock_ms.astype(np.int64), out)
        return out

    def to_json(self) -> bytes:
        return msgspec.json.encode(self._clocks.tolist())

    @classmethod
    def from_json(cls, raw: bytes) -> "MergedClock":
        stored = msgspec.json.decode(raw)
        clock = cls(len(stored))
        clock._clocks[:] = stored
        return clock


@compiled
def _merge(clocks: np.ndarray, upstream: np.ndarray, clock_ms: np.ndarray, out: np.ndarray) -> None:
    for i in range(upstream.shape[0]):
        if upstream[i] >= 0:
            clocks[upstream[i]] = max(clocks[upstream[i]], clock_ms[i])
        out[i] = clocks.min()
