"""A user's row: what belongs to its owner, then what is counted, sequences, the last items; and the kernel that learns events into it.

| words | what |
|---|---|
| 0..2 | time of the last use, version, items in the history |
| history | see `features.history` |
| entity | see `features.entity`; its first word is the time of the newest event |
| affinity | see `features.affinity` |
| sequences | of each behaviour, see `features.sequences` |
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from core.compiled import compiled, inlined
from features.affinity import NO_CATEGORY, Affinity, affinity, observe_affinity
from features.declarations import EntityConfig
from features.entity import NOBODY, Plan, Views, observe, plan
from features.history import ENTRY_WORDS as HISTORY_WORDS
from features.history import remember
from features.hot_rows import USED
from features.sequences import ENTRY_WORDS as SEQUENCE_WORDS
from features.sequences import append
from features.sparse_rows import GROUP_WORDS

VERSION, HELD, OWN_WORDS = 1, 2, 3


class UserPlan(NamedTuple):
    """Where everything lies in a row, for the kernel."""

    entity: Plan
    affinity: Affinity
    sequenced: np.ndarray  # int64 [codes], a bit for each sequence that takes the type in
    sequences: int
    sequence_words: int  # of one sequence
    sequences_at: int
    words: int
    ttl_ms: int  # a user unused for that long is forgotten


def user_plan(
    config: EntityConfig,
    codes: Sequence[str],
    sequences: Sequence[tuple[str, tuple[str, ...]]],
    sequence_events: int,
    history_items: int,
    ttl_ms: int,
) -> UserPlan:
    """`codes`: event types by code, those of `config` first; `sequences`: name and event types of each."""
    entity = plan(config, "user", OWN_WORDS + history_items * HISTORY_WORDS)
    slots = affinity(len(config.behaviours), _aligned(entity.words))
    masks = [sum(1 << at for at, (_, types) in enumerate(sequences) if name in types) for name in codes]
    sequences_at, sequence_words = _aligned(slots.at + slots.words), sequence_events * SEQUENCE_WORDS
    return UserPlan(
        entity=entity,
        affinity=slots,
        sequenced=np.array(masks, dtype=np.int64),
        sequences=len(sequences),
        sequence_words=sequence_words,
        sequences_at=sequences_at,
        words=sequences_at + len(sequences) * sequence_words,
        ttl_ms=ttl_ms,
    )


def _aligned(word: int) -> int:
    """Where a part may start; see `parts`."""
    return -(-word // GROUP_WORDS) * GROUP_WORDS


def parts(of: UserPlan) -> list[tuple[int, int]]:
    """First word and end of what is filled from its start on: of most users all of it is zeros, and need not be looked at to be packed.

    Sequences of an odd number of events do not all start where a part may, and are looked at.
    """
    starts = range(of.sequences_at, of.words, of.sequence_words)
    sequences = [(start, start + of.sequence_words) for start in starts if start == _aligned(start)]
    return [(of.affinity.at, of.affinity.at + of.affinity.words), *sequences]


class UserEvents(NamedTuple):
    """n accepted events."""

    slot: np.ndarray  # int64 [n], row of the user
    ts_ms: np.ndarray  # int64 [n], effective event times
    now_ms: np.ndarray  # int64 [n], time at each event, never falling
    code: np.ndarray  # int64 [n], type; -1: one that has none
    value: np.ndarray  # float64 [n], NaN: none
    item: np.ndarray  # int64 [n, 2], fingerprint; zeros: none
    category: np.ndarray  # int64 [n], hash, or NO_CATEGORY
    remembered: np.ndarray  # bool [n], whether the item goes into the history
    ordinal: np.ndarray  # int64 [n]


@compiled
def learn_users(of: UserPlan, events: UserEvents, views: Views, singles: np.ndarray, before: np.ndarray) -> None:
    """Event by event: forget the user if expired, give the features as they were, learn.

    Args:
        views: the rows. Updated.
        singles: float32, the same memory.
        before: float32 [n, columns]. Filled.
    """
    width = of.entity.width
    for i in range(events.slot.shape[0]):
        slot, ts_ms, code, item = events.slot[i], events.ts_ms[i], events.code[i], events.item[i]
        row = views.words[slot]
        if events.now_ms[i] - row[USED] >= of.ttl_ms:
            row[:] = 0
        observe(of.entity, views, slot, ts_ms, code, events.value[i], item[0], before[i, :width])
        mask = of.entity.behaviours[code] if 0 <= code < of.entity.behaviours.shape[0] else 0
        observe_affinity(of.affinity, row, views.floats[slot], ts_ms, events.category[i], mask, before[i, width:])
        if code >= 0 and item[0] != NOBODY:
            follow(of, events, i, row, singles[slot])
        if events.remembered[i]:
            row[HELD] = remember(row[OWN_WORDS : of.entity.seen_at], row[HELD], item, ts_ms, code)
        row[USED], row[VERSION] = events.now_ms[i], events.ordinal[i]


@inlined
def follow(of: UserPlan, events: UserEvents, i: int, row: np.ndarray, singles: np.ndarray) -> None:
    """Take an event into the sequences of its behaviours."""
    for sequence in range(of.sequences):
        if of.sequenced[events.code[i]] >> sequence & 1:
            start = of.sequences_at + sequence * of.sequence_words
            stop = start + of.sequence_words
            append(
                row[start:stop], singles[2 * start : 2 * stop], events.item[i], events.ts_ms[i], events.code[i], events.value[i],
                events.ordinal[i],
            )  # fmt: skip


def features_at(of: UserPlan, rows: np.ndarray, ms: int, columns: int) -> np.ndarray:
    """float32 [n, columns]: what an event at that time would find in int64 [n, words] rows, which are spent by it."""
    n = rows.shape[0]
    none, when = np.full(n, -1, dtype=np.int64), np.full(n, ms, dtype=np.int64)
    events = UserEvents(
        np.arange(n), when, when, none, np.full(n, np.nan), np.zeros((n, 2), dtype=np.int64), np.full(n, NO_CATEGORY, dtype=np.int64),
        np.zeros(n, dtype=np.bool_), none,
    )  # fmt: skip
    before = np.empty((n, columns), dtype=np.float32)
    words = np.ascontiguousarray(rows)
    learn_users(
        of, events, Views(words, words.view(np.float64), words.view(np.int32), words.view(np.uint8)), words.view(np.float32), before
    )
    return before
