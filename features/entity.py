"""What is counted of one entity (a user, an item, an author, a category), in a row of fixed width; one kernel for all of them.

row: newest events | decayed counters | windows | registers of distinct ids | session

An event older than the entity's newest one sees decayed counters as they are, and adds what would be left of it; it falls into its own
bucket of a window as long as the window remembers that; it makes nothing younger. See `features.declarations` for the columns.
"""

from typing import NamedTuple

import numpy as np

from core.clock import MS
from core.compiled import compiled, inlined
from features.declarations import BUCKETS, DWELL, LONG_VIEW, MOST_DWELL_SECONDS, EntityConfig
from features.distinct import REGISTERS, add_distinct, estimate_distinct

WORD_BYTES = 8
_REGISTER_WORDS = REGISTERS // WORD_BYTES
_DISTINCT_WORDS = 2
_SESSION_WORDS = 2  # start ms, events
NOBODY = 0  # in place of a hash: nothing distinct to count


class Plan(NamedTuple):
    """An `EntityConfig` as the kernel takes it. `*_at`: first word of a part of the row."""

    lives_ms: np.ndarray  # float64 [lives]
    bucket_ms: np.ndarray  # int64 [windows]
    behaviours: np.ndarray  # int64 [types], a bit per behaviour
    signals: int
    groups: int  # behaviours
    viewed: int  # code of a view, -1 where there is none; its two sums are the last signals
    long_view_seconds: float
    rates: np.ndarray  # int64 [rates, 2], signals above and below
    smoothing: np.ndarray  # float64 [rates, 2], added above and below
    rate_life: int  # index of their half-life
    gap_ms: int  # of sessions, 0: none
    seen_at: int  # int64 [1 + groups], newest event of all and of each behaviour, ms
    counts_at: int  # float64 [signals x lives], as of the newest event
    heads_at: int  # int64 [windows], number of the newest bucket
    buckets_at: int  # int32 [windows x groups x BUCKETS], bucket b at b mod BUCKETS
    totals_at: int  # int32 [windows x groups], of the buckets
    registers_at: int  # uint8 [REGISTERS]
    distinct_at: int  # float64 [2], see `features.distinct`
    session_at: int
    words: int  # of the row, from word 0 on
    width: int  # columns


class Views(NamedTuple):
    """The same rows in all the types that a row has."""

    words: np.ndarray  # int64 [rows, words]
    floats: np.ndarray  # float64
    ints: np.ndarray  # int32
    bytes: np.ndarray  # uint8


def views(words: np.ndarray) -> Views:
    return Views(words, words.view(np.float64), words.view(np.int32), words.view(np.uint8))


def plan(config: EntityConfig, entity: str, start: int = 0) -> Plan:
    """The row of an entity, whose first `start` words are its owner's."""
    signals, groups, windows = config.signals, config.behaviours, config.windows_seconds
    masks = [sum(1 << at for at, (_, types) in enumerate(groups) if name in types) for name in config.types]
    rates = [(signals.index(rate.above), signals.index(rate.below)) for rate in config.rates]
    smoothing = [(rate.strength * rate.prior, rate.strength) for rate in config.rates]
    sizes = {
        "seen_at": 1 + len(groups),
        "counts_at": len(signals) * len(config.half_lives_seconds),
        "heads_at": len(windows),
        "buckets_at": -(-len(windows) * len(groups) * BUCKETS // 2),
        "totals_at": -(-len(windows) * len(groups) // 2),
        "registers_at": _REGISTER_WORDS,
        "distinct_at": _DISTINCT_WORDS,
        "session_at": _SESSION_WORDS if config.session_gap_seconds else 0,
    }
    places = start + np.cumsum([0, *sizes.values()])
    return Plan(
        lives_ms=np.array(config.half_lives_seconds, dtype=np.float64) * MS,
        bucket_ms=np.array(windows, dtype=np.int64) * MS // BUCKETS,
        behaviours=np.array(masks, dtype=np.int64),
        signals=len(signals),
        groups=len(groups),
        viewed=config.types.index("view") if {LONG_VIEW, DWELL} <= {*signals} else -1,
        long_view_seconds=float(config.long_view_seconds),
        rates=np.array(rates, dtype=np.int64).reshape(-1, 2),
        smoothing=np.array(smoothing, dtype=np.float64).reshape(-1, 2),
        rate_life=int(np.argmax(config.half_lives_seconds)),
        gap_ms=config.session_gap_seconds * MS,
        **{name: int(at) for name, at in zip(sizes, places, strict=False)},
        words=int(places[-1]),
        width=len(config.features(entity)),
    )


@inlined
def decay(plan: Plan, of: Views, row: int, passed_ms: int, before: np.ndarray) -> None:
    """Bring the counters to the event's time, if that is newer than theirs, and fill [signals x lives] of `before`."""
    lives = plan.lives_ms.shape[0]
    for life in range(lives):
        factor = np.exp2(-passed_ms / plan.lives_ms[life]) if passed_ms > 0 else 1.0
        for at in range(life, plan.signals * lives, lives):
            count = of.floats[row, plan.counts_at + at] * factor
            of.floats[row, plan.counts_at + at], before[at] = count, count


@inlined
def count(plan: Plan, of: Views, row: int, code: int, value: float, late_ms: int) -> None:
    """Count an event that is that much older than the newest one."""
    lives = plan.lives_ms.shape[0]
    for life in range(lives):
        weight = np.exp2(-late_ms / plan.lives_ms[life]) if late_ms > 0 else 1.0
        of.floats[row, plan.counts_at + code * lives + life] += weight
        if code == plan.viewed and 0.0 <= value < np.inf:
            dwell = plan.counts_at + (plan.signals - 1) * lives + life
            of.floats[row, dwell] += weight * min(value, MOST_DWELL_SECONDS)
            if value >= plan.long_view_seconds:
                of.floats[row, dwell - lives] += weight


@inlined
def slide(plan: Plan, of: Views, row: int, ts_ms: int, mask: int, before: np.ndarray) -> None:
    """Fill [windows x groups] of `before` with what the windows that end in the event's bucket, or later, hold; then count it."""
    for window in range(plan.bucket_ms.shape[0]):
        bucket, head = ts_ms // plan.bucket_ms[window], of.words[row, plan.heads_at + window]
        if bucket > head:
            empty_buckets(plan, of, row, window, max(head + 1, bucket - BUCKETS + 1), bucket)
            of.words[row, plan.heads_at + window] = bucket
        for group in range(plan.groups):
            total = 2 * plan.totals_at + window * plan.groups + group
            before[window * plan.groups + group] = of.ints[row, total]
            if mask >> group & 1 and bucket > head - BUCKETS:
                of.ints[row, total] += 1
                of.ints[row, 2 * plan.buckets_at + (window * plan.groups + group) * BUCKETS + bucket % BUCKETS] += 1


@inlined
def empty_buckets(plan: Plan, of: Views, row: int, window: int, first: int, last: int) -> None:
    """Make room for the buckets from `first` to `last`, which are those of the ring's oldest."""
    for group in range(plan.groups):
        ring = 2 * plan.buckets_at + (window * plan.groups + group) * BUCKETS
        total = 2 * plan.totals_at + window * plan.groups + group
        for at in range(first, last + 1):
            of.ints[row, total] -= of.ints[row, ring + at % BUCKETS]
            of.ints[row, ring + at % BUCKETS] = 0


@inlined
def look_back(plan: Plan, of: Views, row: int, ts_ms: int, mask: int, before: np.ndarray) -> None:
    """Fill [1 + groups] of `before` with seconds since the newest event, NaN where there is none; then remember this one."""
    for at in range(1 + plan.groups):
        seen_ms = of.words[row, plan.seen_at + at]
        before[at] = max(0, ts_ms - seen_ms) / MS if seen_ms else np.nan
        if at == 0 or mask >> (at - 1) & 1:
            of.words[row, plan.seen_at + at] = max(seen_ms, ts_ms)


@inlined
def rate(plan: Plan, counts: np.ndarray, before: np.ndarray) -> None:
    """Fill [rates] of `before` from the decayed counters, float32 [signals x lives]."""
    lives = plan.lives_ms.shape[0]
    for at in range(plan.rates.shape[0]):
        above = counts[plan.rates[at, 0] * lives + plan.rate_life] + plan.smoothing[at, 0]
        before[at] = above / (counts[plan.rates[at, 1] * lives + plan.rate_life] + plan.smoothing[at, 1])


@inlined
def sit(plan: Plan, of: Views, row: int, ts_ms: int, newest_ms: int, before: np.ndarray) -> None:
    """Fill events and seconds of the session, zeros where the event begins one; then take it in. A late event belongs to the last one."""
    start, events = plan.session_at, plan.session_at + 1
    if newest_ms == 0 or ts_ms - newest_ms > plan.gap_ms:
        of.words[row, start], of.words[row, events] = ts_ms, 0
    before[0] = of.words[row, events]
    before[1] = max(0, ts_ms - of.words[row, start]) / MS
    of.words[row, events] += 1


@compiled
def observe(plan: Plan, of: Views, row: int, ts_ms: int, code: int, value: float, other: int, before: np.ndarray) -> None:
    """One event of one entity: what was known before it, then count it.

    Args:
        of: the entity's row is updated.
        code: index of its type; any other number counts as an event of no type.
        value: of a view its seconds; NaN: none.
        other: hash of what is counted once, or NOBODY.
        before: float32 [width]. Filled with the features as of the event's time, without the event.
    """
    newest_ms = of.words[row, plan.seen_at]
    known = 0 <= code < plan.behaviours.shape[0]
    mask = plan.behaviours[code] if known else 0
    at, counts = plan.signals * plan.lives_ms.shape[0], before[: plan.signals * plan.lives_ms.shape[0]]
    decay(plan, of, row, ts_ms - newest_ms if newest_ms else 0, counts)
    windows, ages = plan.bucket_ms.shape[0] * plan.groups, 1 + plan.groups
    slide(plan, of, row, ts_ms, mask, before[at : at + windows])
    look_back(plan, of, row, ts_ms, mask, before[at + windows : at + windows + ages])
    at += windows + ages
    rate(plan, counts, before[at : at + plan.rates.shape[0]])
    at += plan.rates.shape[0]
    registers = of.bytes[row, plan.registers_at * WORD_BYTES : plan.registers_at * WORD_BYTES + REGISTERS]
    sums = of.floats[row, plan.distinct_at : plan.distinct_at + _DISTINCT_WORDS]
    before[at] = estimate_distinct(sums)
    if other != NOBODY:
        add_distinct(registers, sums, other)
    if plan.gap_ms:
        sit(plan, of, row, ts_ms, newest_ms, before[at + 1 : at + 3])
    if known:
        count(plan, of, row, code, value, newest_ms - ts_ms)


def blank(of: Plan) -> np.ndarray:
    """float32 [width]: the features of an entity without any event."""
    before = np.empty(of.width, dtype=np.float32)
    observe(of, views(np.zeros((1, of.words), dtype=np.int64)), 0, 0, -1, np.nan, NOBODY, before)
    return before
