"""Codes of residual k-means over rows of items: encode with a beam, take the first free code, hold it under hysteresis.

A code is one word per level; an item's vector x is coded by words that sum to it: argmin |x - sum_l c_l|^2. With q_l = |c_l|^2 - 2 x.c_l
and t_(l,m) = 2 c_l.c_m the squared error is |x|^2 + sum_l q_l + sum_(m<l) t_(l,m), so that a beam needs one pass over x per level.
Shapes: D dimensions, L levels, K words per level. Every float is summed in the order of the log's items, never of a batch.
"""

from typing import NamedTuple

import numpy as np

from core.compiled import compiled

UNKNOWN, KNOWN, CODED = 0, 1, 2  # `status` of an item: no vector, a vector, codes
FIRST, BY_CONTENT, BY_BEHAVIOUR, BY_CODEBOOK, ITEMS_KNOWN, ITEMS_CODED, ITEMS_SHARING, ENCODES = range(8)  # places in `counts`
COUNTS = 8
EMPTY = -1
_MIX = np.uint64(0x9E3779B97F4A7C15)
_HIGH = np.uint64(32)


class Items(NamedTuple):
    """One row per item."""

    vector: np.ndarray  # float32 [rows, D]: content, then gated behaviour
    encoded: np.ndarray  # float32 [rows, D]: `vector` when last encoded
    codes: np.ndarray  # uint16 [rows, L]
    status: np.ndarray  # uint8 [rows]
    book: np.ndarray  # int16 [rows]: slot of the codebook that the codes were chosen with
    interactions: np.ndarray  # int64 [rows]
    active_ms: np.ndarray  # int64 [rows]: clock at the last interaction or change of content
    version: np.ndarray  # int64 [rows]: ordinal at which the codes last changed
    event_ms: np.ndarray  # int64 [rows]: newest event behind the vector
    coded_ms: np.ndarray  # int64 [rows]: newest event behind the codes, fixed with `version`
    pending: np.ndarray  # bool [rows]: not yet published


class Codebook(NamedTuple):
    """The words, and what the beam reads of them."""

    words: np.ndarray  # float32 [L, K, D]
    columns: np.ndarray  # float32 [L, D, K]: the words transposed, so that loops over words run in vector registers
    norms: np.ndarray  # float32 [L, K]: |c|^2
    cross: np.ndarray  # float32 [L, L, K, K]: cross[l, m, j, k] = 2 c_l^k . c_m^j for m < l


class Taken(NamedTuple):
    """Which full codes are in use: an open-addressing table, and the counts that follow from it."""

    keys: np.ndarray  # int64 [2^n]
    items: np.ndarray  # int32 [2^n]: items with that code
    book_items: np.ndarray  # int64 [slots]: items whose codes were chosen with each kept codebook
    counts: np.ndarray  # int64 [8]


class Rule(NamedTuple):
    """The scalars that encoding obeys."""

    content_dimensions: int
    gate_interactions: float
    moved_squared: float
    keep: float  # 1 - hysteresis
    beam: int


# ---- taken codes


@compiled
def _home(key: int, mask: int) -> int:
    return int((np.uint64(key) * _MIX) >> _HIGH) & mask


@compiled
def _place(keys: np.ndarray, key: int) -> int:
    """Where `key` stands, or the empty place where it would."""
    mask = keys.shape[0] - 1
    at = _home(key, mask)
    while keys[at] != key and keys[at] != EMPTY:
        at = (at + 1) & mask
    return at


@compiled
def full_code(codes: np.ndarray, words: int) -> int:
    key = 0
    for level in range(codes.shape[0]):
        key = key * words + int(codes[level])
    return key


@compiled
def take(taken: Taken, key: int) -> None:
    at = _place(taken.keys, key)
    taken.keys[at] = key
    taken.items[at] += 1
    if taken.items[at] == 2:
        taken.counts[ITEMS_SHARING] += 2
    elif taken.items[at] > 2:
        taken.counts[ITEMS_SHARING] += 1


@compiled
def give_back(taken: Taken, key: int) -> None:
    at = _place(taken.keys, key)
    taken.items[at] -= 1
    if taken.items[at] == 1:
        taken.counts[ITEMS_SHARING] -= 2
    elif taken.items[at] > 1:
        taken.counts[ITEMS_SHARING] -= 1
    else:
        _close(taken, at)


@compiled
def _close(taken: Taken, hole: int) -> None:
    """Empty a place and move later keys up, so that no search stops short of them."""
    mask = taken.keys.shape[0] - 1
    at = (hole + 1) & mask
    while taken.keys[at] != EMPTY:
        if ((at - _home(taken.keys[at], mask)) & mask) >= ((at - hole) & mask):
            taken.keys[hole], taken.items[hole] = taken.keys[at], taken.items[at]
            hole = at
        at = (at + 1) & mask
    taken.keys[hole], taken.items[hole] = EMPTY, 0


@compiled
def items_of_code(taken: Taken, key: int) -> int:
    at = _place(taken.keys, key)
    return int(taken.items[at])


@compiled
def retake(rows: np.ndarray, items: Items, words: int, taken: Taken) -> None:
    """After a restore: the table anew from the rows. The counts are in the snapshot and stay as they are."""
    for i in range(rows.shape[0]):
        at = _place(taken.keys, full_code(items.codes[rows[i]], words))
        taken.keys[at] = full_code(items.codes[rows[i]], words)
        taken.items[at] += 1


# ---- encoding


@compiled
def error(x: np.ndarray, codes: np.ndarray, words: np.ndarray) -> float:
    """|x - sum of its words|^2, float64."""
    total = 0.0
    for d in range(x.shape[0]):
        rest = x[d]
        for level in range(codes.shape[0]):
            rest -= words[level, codes[level], d]
        total += np.float64(rest) * np.float64(rest)
    return total


@compiled
def _word_scores(x: np.ndarray, book: Codebook, level: int, out: np.ndarray) -> None:
    """out[k] = |c_k|^2 - 2 x.c_k, float32 [K]."""
    out[:] = book.norms[level]
    for d in range(x.shape[0]):
        weight = np.float32(-2.0) * x[d]
        for k in range(out.shape[0]):
            out[k] += weight * book.columns[level, d, k]


@compiled
def _insert(score: np.float32, parent: int, word: int, held: int, scores: np.ndarray, parents: np.ndarray, ends: np.ndarray) -> int:
    """Into the ascending list of the best `len(scores)`; equal scores keep their order. Returns how many it holds."""
    at = min(held, scores.shape[0] - 1)
    while at > 0 and scores[at - 1] > score:
        scores[at], parents[at], ends[at] = scores[at - 1], parents[at - 1], ends[at - 1]
        at -= 1
    scores[at], parents[at], ends[at] = score, parent, word
    return held + 1 if held < scores.shape[0] else held


@compiled
def beam_search(x: np.ndarray, book: Codebook, width: int) -> np.ndarray:
    """uint16 [at most width, L]: the full codes that a beam finds, best first."""
    levels, words = book.norms.shape
    own, line = np.empty(words, dtype=np.float32), np.empty(words, dtype=np.float32)
    found, base, held = np.zeros((width, levels), dtype=np.uint16), np.zeros(width, dtype=np.float32), 1
    parents, ends = np.empty(width, dtype=np.int64), np.empty(width, dtype=np.uint16)
    for level in range(levels):
        _word_scores(x, book, level, own)
        scores, grown = np.empty(width, dtype=np.float32), 0
        for b in range(held):
            for k in range(words):
                line[k] = own[k] + base[b]
            for m in range(level):
                for k in range(words):
                    line[k] += book.cross[level, m, found[b, m], k]
            for k in range(words):
                if grown < width or line[k] < scores[width - 1]:
                    grown = _insert(line[k], b, k, grown, scores, parents, ends)
        before, base, held = found.copy(), scores, grown
        for b in range(held):
            found[b] = before[parents[b]]
            found[b, level] = ends[b]
    return found[:held]


@compiled
def _first_free(found: np.ndarray, words: int, taken: Taken) -> int:
    """The best code of the beam that no item has; the best of all where every one is taken."""
    for b in range(found.shape[0]):
        if items_of_code(taken, full_code(found[b], words)) == 0:
            return b
    return 0


@compiled
def settle(row: int, ordinal: int, cause: int, slot: int, renew: bool, items: Items, book: Codebook, taken: Taken, rule: Rule) -> None:
    """Encode one item now.

    Args:
        cause: place in `counts` of a change of codes; an item's first codes count as FIRST.
        slot: of the codebook `book`.
        renew: name `book` as the codebook of the codes even if they stay.
    """
    words, x = book.words.shape[1], items.vector[row]
    had = items.status[row] == CODED
    if had:
        give_back(taken, full_code(items.codes[row], words))
    found = beam_search(x, book, rule.beam)
    chosen = found[_first_free(found, words, taken)]
    items.encoded[row] = x
    taken.counts[ENCODES] += 1
    better = not had or error(x, chosen, book.words) < rule.keep * error(x, items.codes[row], book.words)
    if better:
        items.codes[row] = chosen
        taken.counts[cause if had else FIRST] += 1
    take(taken, full_code(items.codes[row], words))
    if better or renew:
        _name_book(row, ordinal, slot, had, items, taken)


@compiled
def _name_book(row: int, ordinal: int, slot: int, had: bool, items: Items, taken: Taken) -> None:
    if had:
        taken.book_items[items.book[row]] -= 1
    else:
        taken.counts[ITEMS_CODED] += 1
    taken.book_items[slot] += 1
    items.book[row], items.status[row] = slot, CODED
    items.version[row], items.coded_ms[row], items.pending[row] = ordinal, items.event_ms[row], True


@compiled
def forget(row: int, items: Items, words: int, taken: Taken) -> None:
    """Free the item's codes and clear its row for the next owner."""
    if items.status[row] == CODED:
        give_back(taken, full_code(items.codes[row], words))
        taken.book_items[items.book[row]] -= 1
        taken.counts[ITEMS_CODED] -= 1
    if items.status[row] != UNKNOWN:
        taken.counts[ITEMS_KNOWN] -= 1
    items.vector[row], items.encoded[row], items.codes[row] = 0, 0, 0
    items.status[row], items.book[row], items.interactions[row] = UNKNOWN, 0, 0
    items.active_ms[row], items.version[row], items.event_ms[row], items.coded_ms[row], items.pending[row] = 0, 0, 0, 0, False


# ---- rows of the log


@compiled
def _behave(row: int, behaviour: np.ndarray, items: Items, rule: Rule) -> None:
    """x's second part = n / (n + gate) * behaviour / |behaviour|; unchanged where the behaviour has no direction."""
    items.interactions[row] += 1
    squared = 0.0
    for d in range(behaviour.shape[0]):
        squared += np.float64(behaviour[d]) * np.float64(behaviour[d])
    if squared > 0.0 and squared < np.inf:
        n = np.float64(items.interactions[row])
        scale = n / (n + rule.gate_interactions) / np.sqrt(squared)
        for d in range(behaviour.shape[0]):
            items.vector[row, rule.content_dimensions + d] = np.float32(scale * behaviour[d])


@compiled
def _describe(row: int, content: np.ndarray, items: Items) -> bool:
    """x's first part; whether it changed."""
    changed = False
    for d in range(content.shape[0]):
        changed |= items.vector[row, d] != content[d]
        items.vector[row, d] = content[d]
    return changed


@compiled
def _moved(row: int, items: Items, rule: Rule) -> bool:
    distance, squared = 0.0, 0.0
    for d in range(items.vector.shape[1]):
        step = np.float64(items.vector[row, d]) - np.float64(items.encoded[row, d])
        distance += step * step
        squared += np.float64(items.encoded[row, d]) ** 2
    return distance > rule.moved_squared * squared


@compiled
def learn(
    rows: np.ndarray, content_at: np.ndarray, contents: np.ndarray, behaviours: np.ndarray, ordinals: np.ndarray, ts_ms: np.ndarray,
    clock_ms: np.ndarray, slot: int, items: Items, book: Codebook, taken: Taken, rule: Rule,
) -> None:  # fmt: skip
    """n rows of the log, in order. Encodes where a vector has moved; nothing is encoded while `slot` < 0.

    Args:
        rows: int32 [n], the item of each.
        content_at: int64 [n], place in `contents` of a catalogue row; -1 of an event.
        contents: float32 [catalogue rows, C].
        behaviours: float32 [n, B].
        ordinals, ts_ms, clock_ms: int64 [n].
    """
    for i in range(rows.shape[0]):
        row, cause = rows[i], BY_CONTENT if content_at[i] >= 0 else BY_BEHAVIOUR
        if cause == BY_CONTENT:
            active, event_ms = _describe(row, contents[content_at[i]], items), clock_ms[i]
        else:
            _behave(row, behaviours[i], items, rule)
            active, event_ms = True, ts_ms[i]
        if active:
            items.active_ms[row], items.event_ms[row] = clock_ms[i], max(items.event_ms[row], event_ms)
        moved = _moved(row, items, rule)
        if moved and items.status[row] == UNKNOWN:
            items.status[row] = KNOWN
            taken.counts[ITEMS_KNOWN] += 1
        if moved and slot >= 0:
            settle(row, ordinals[i], cause, slot, False, items, book, taken, rule)


@compiled
def encode_all(
    queue: np.ndarray, expired: np.ndarray, ordinal: int, slot: int, items: Items, book: Codebook, taken: Taken, rule: Rule
) -> None:  # fmt: skip
    """Encode the items of the queue that still are: int32 [n]. `expired`: bool [slots], codebooks that must lose their items."""
    for i in range(queue.shape[0]):
        row = queue[i]
        if items.status[row] != UNKNOWN:
            renew = items.status[row] == CODED and expired[items.book[row]]
            settle(row, ordinal, BY_CODEBOOK, slot, renew, items, book, taken, rule)
