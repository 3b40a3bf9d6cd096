"""The recommendation chain over one version of the serving cache: personal, similar, popular, newest."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import NamedTuple, Protocol

import numpy as np

from core.errors import FreshetError, SettingsError
from core.hashing import FINGERPRINT_BYTES
from learners.ranking import Entry, Items, ItemTable, Ranking, ordered
from learners.remembering import remembering
from learners.search import Columns, Peaks, Query, dots, search
from learners.tables import MIN_MS, WIDE_COLUMN, Space

NO_LINK = "none"  # source of an empty list
EVERY = slice(None)  # instead of rows
RETRIEVED = 200  # items, the best without memory, that are scored by memory beside those near the user


class RequestError(FreshetError, ValueError):
    """A question that cannot be answered as asked; the message says what would do."""


@dataclass(frozen=True)
class CacheConfig:
    """Settings of the serving cache.

    max_k: items a request may ask for. seen_items: of a user's last items, how many are left out of the lists. similar_items: how many
    of them `similar` starts from. popularity_weight: of ln(popularity) in the personal score; where the learner scores by memory, in that
    by which its candidates are found. tombstones: removed ids of users, and of items, that are remembered to refuse their older versions.
    """

    max_k: int = 200
    seen_items: int = 30
    similar_items: int = 5
    popularity_weight: float = 0.0
    tombstones: int = 16_384

    def __post_init__(self) -> None:
        least = {"max_k": 1, "seen_items": 0, "similar_items": 0, "popularity_weight": 0.0, "tombstones": 0}
        for name, low in least.items():
            value = getattr(self, name)
            if not (math.isfinite(value) and value >= low):
                raise SettingsError(f"{name} must be at least {low}, got {value}")
        if self.similar_items > self.seen_items:
            raise SettingsError(f"similar_items ({self.similar_items}) must not exceed seen_items ({self.seen_items})")


class Writer(NamedTuple):
    """What the cache holds of one writer."""

    lineage: str
    version: int  # rows of its input behind what is visible
    clock_ms: int
    learned: int = 0  # of these rows, what producers sent


@dataclass(frozen=True)
class State:
    """One version of the whole cache. Nothing in it changes, except for what is computed late and kept, and for `Places`."""

    users: Space
    items: Space
    dense: Space
    writers: Mapping[str, Writer]
    clock_ms: int  # event time: the latest clock of a writer
    _rankings: dict[str, "Ranking"] = field(default_factory=dict, compare=False, repr=False)

    @cached_property
    def vectors(self) -> "Vectors":
        """The items, to be searched for the best for a user."""
        return vectors_of(self.items)

    def ranking(self, column: str, now_ms: int) -> "Ranking":
        """Items by a column of `item_popularity`. The kept one has left out rooms that ended before the clock."""
        if now_ms < self.clock_ms:
            return Ranking(self.items, column, now_ms)
        kept = self._rankings.get(column)
        if kept is None:
            kept = self._rankings[column] = Ranking(self.items, column, self.clock_ms)
        return kept

    def asker(self, user_id: str) -> "Asker":
        """What is known of a user, known or not."""
        row, recent, event_ms = self.users.row(user_id), list[int](), MIN_MS
        history, vectors = self.users["user_history"], self.users["user_vectors"]
        if row >= 0 and history.has(row):
            recent = _known_rows(self.items, history.cell(row, "recent"))
            event_ms = int(history.cell(row, "event_ms"))
        vector = user_vector(self.users, row)
        if vector is not None:
            event_ms = max(event_ms, int(vectors.cell(row, "event_ms")))
        return Asker(vector, recent, event_ms, remembering(self.users, self.items, self.dense, row))


class Recommended(NamedTuple):
    """`score` is comparable within one link only: SUPA's score, mean similarity, log2 of popularity, ms of the first event."""

    item_id: str
    score: float
    link: str


@dataclass(frozen=True)
class Recommendations:
    """An answer, best first, of at most k items."""

    items: tuple[Recommended, ...]
    source: str  # first link that gave something, or "none"
    event_ms: int | None  # event time of the newest event behind what was used
    clock_ms: int
    versions: dict[str, int]  # writer -> rows of its input behind what was used


class Memory(Protocol):
    """What a user remembers, and the learner's memory-aware score, which knows of it."""

    def near(self) -> np.ndarray:
        """int64 [n]: rows of items that the user remembers, and of those within three steps."""

    def scores(self, rows: np.ndarray) -> np.ndarray:
        """float64 [n]: of items in rows int64 [n], NaN where one is not known."""


class Asker(NamedTuple):
    """What a state knows of the user who asks."""

    vector: np.ndarray | None  # float32 [w]
    recent: list[int]  # rows of the user's last items that are known, newest first
    event_ms: int  # of the newest event behind them
    memory: Memory | None = None  # where the learner scores by memory


class Served(Protocol):
    """A state that lists can be made of: one version of the cache, or a state that is changed in place."""

    @property
    def items(self) -> Items: ...

    @property
    def clock_ms(self) -> int: ...

    @property
    def vectors(self) -> "Vectors": ...

    def ranking(self, column: str, now_ms: int) -> Iterable[Entry]: ...


class Vectors(NamedTuple):
    """The items' vectors and what bounds their scores."""

    table: ItemTable
    columns: Columns
    peaks: Peaks  # of the first three columns


def vectors_of(items: Items) -> Vectors:
    """As the items are now."""
    table, shelf = items["item_vectors"], items["item_popularity"]
    own = (table.column("norm"), table.column("bias"), shelf.column("log2_popularity"), table.column("present"))
    columns = Columns(*own, shelf.column("removed"), shelf.column("start_ms"), shelf.column("end_ms"))
    return Vectors(table, columns, Peaks(table.peaks("norm"), table.peaks("bias"), shelf.peaks("log2_popularity")))


@dataclass
class _Request:
    state: Served
    config: CacheConfig
    now_ms: int
    asker: Asker
    taken: set[int]  # rows that no link may give (again)


Pick = tuple[int, float]  # row, score


def recommend(
    state: State, config: CacheConfig, user_id: str, k: int, links: Sequence[str] | None = None, now_ms: int | None = None
) -> Recommendations:
    """At most `k` items: each link of the chain fills what those before it left open.

    Args:
        links: names out of `LINKS`, in the order to try them; None is all.
        now_ms: time against which live rooms are open; None is the cache's event clock.

    Raises:
        RequestError: k is out of range or a link unknown.
    """
    asker = state.asker(user_id)
    picks, event_ms = fill(state, config, asker, k, links, now_ms), asker.event_ms
    listed = [Recommended(state.items.id_of(row), score, link) for row, score, link in picks]
    event_ms = max([event_ms, *(_evidence_ms(state.items, config, row, link) for row, _, link in picks)])
    versions = {name: writer.version for name, writer in state.writers.items()}
    source = listed[0].link if listed else NO_LINK
    return Recommendations(tuple(listed), source, event_ms if event_ms > MIN_MS else None, state.clock_ms, versions)


def fill(
    state: Served, config: CacheConfig, asker: Asker, k: int, links: Sequence[str] | None = None, now_ms: int | None = None
) -> list[tuple[int, float, str]]:
    """(row, score, link) of the list: what `recommend` gives, without names. Arguments and errors as there."""
    request = _Request(state, config, state.clock_ms if now_ms is None else now_ms, asker, set(asker.recent))
    listed: list[tuple[int, float, str]] = []
    for link in _checked(config, k, links):
        if len(listed) < k:
            picks = LINKS[link](request, k - len(listed))
            request.taken.update([row for row, _ in picks])
            listed += [(row, score, link) for row, score in picks]
    return listed


def _checked(config: CacheConfig, k: int, links: Sequence[str] | None) -> Sequence[str]:
    if not 1 <= k <= config.max_k:
        raise RequestError(f"k must be between 1 and {config.max_k} (the cache's max_k), got {k}")
    chain = tuple(LINKS) if links is None else links
    for link in chain:
        if link not in LINKS:
            raise RequestError(f"there is no link {link!r}; the links are {', '.join(LINKS)}")
    return chain


def user_vector(users: Space, row: int) -> np.ndarray | None:
    """float32 [w], None where there is none."""
    if row < 0 or not users["user_vectors"].has(row):
        return None
    return np.frombuffer(users["user_vectors"].cell(row, "vector"), dtype="<f4").copy()  # writable: one compiled variant


def _known_rows(items: Space, recent: bytes) -> list[int]:
    keys = (recent[at : at + FINGERPRINT_BYTES] for at in range(0, len(recent), FINGERPRINT_BYTES))
    return [row for row in map(items.row_of_key, keys) if row >= 0]


def _evidence_ms(items: Items, config: CacheConfig, row: int, link: str) -> int:
    """Event time of the newest event behind the columns that put this row in the list."""
    used = EVIDENCE.get(link, ("item_popularity",))
    if link == "personal" and config.popularity_weight:
        used = (*used, "item_popularity")
    return max(int(items[name].cell(row, "event_ms")) for name in used if items[name].has(row))


def _personal(request: _Request, count: int) -> list[Pick]:
    query = request.asker.vector
    if query is None or request.state.items["item_vectors"].width != query.size:  # only while a new model replaces an old one
        return []
    wide = query.astype(np.float64)
    asked = Query(query, math.sqrt(wide @ wide), _per_log2(request.config), request.now_ms)
    table, columns, peaks = request.state.vectors
    left_out, memory = np.fromiter(request.taken, np.int64, len(request.taken)), request.asker.memory
    rows, scores = search(asked, columns, peaks, table.parts, left_out, count if memory is None else max(count, RETRIEVED))
    if memory is not None:
        rows, scores = _remembered(request, memory, rows, left_out, count)
    return [(row, value) for value, row in ordered(request.state.items, rows, scores, count)]


def _remembered(request: _Request, memory: Memory, found: np.ndarray, left_out: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows and memory-aware scores of the `count` best, ties with the last included, among those found and those near the user."""
    near = np.setdiff1d(memory.near(), left_out)
    rows = np.union1d(found, near[_shown(request.state.items, request.now_ms, near)])
    scores = memory.scores(rows)
    rows, scores = rows[~np.isnan(scores)], scores[~np.isnan(scores)]
    best = scores >= np.partition(scores, -count)[-count] if scores.size > count else np.ones(scores.size, np.bool_)
    return rows[best], scores[best]


def popularity_term(config: CacheConfig, log2_popularity: np.ndarray) -> np.ndarray:
    """What popularity adds to a personal score: -inf without an event, so that such items are left to `newest`."""
    return _per_log2(config) * log2_popularity


def _per_log2(config: CacheConfig) -> float:
    return config.popularity_weight * math.log(2)


def _dots(table: ItemTable, query: np.ndarray) -> np.ndarray:
    """float32 [allocated rows]: query . vector, 0 where there is none."""
    return np.concatenate([dots(query, vectors) for _, vectors in table.chunks()])


def _similar(request: _Request, count: int) -> list[Pick]:
    items = request.state.items
    sources = [row for row in request.asker.recent if _placed(items, row)][: request.config.similar_items]
    return _top(request, _similarity(items, sources), count) if sources else []


def _placed(items: Items, row: int) -> bool:
    """Whether there is anything to compare the item by."""
    return items["item_vectors"].has(row) or items["item_tokens"].has(row)


def _similarity(items: Items, sources: list[int]) -> np.ndarray:
    """float64 [allocated rows]: mean over the sources of the cosine, or of the shared token prefix where a vector is missing.

    -inf where that is not above 0.
    """
    total = _cosines(items, [row for row in sources if items["item_vectors"].has(row)])
    for source in sources:
        if items["item_tokens"].has(source):
            total += _shared_prefix(items, source)
    return np.where(total > 0, total / len(sources), -np.inf)


def _cosines(items: Items, sources: list[int]) -> np.ndarray:
    """float64 [allocated rows]: sum of the cosines with each source, 0 where there is no vector."""
    table = items["item_vectors"]
    query = np.zeros(table.width, dtype=np.float32)
    if not sources:
        return np.zeros(items.allocated)
    for row in sources:
        query += table.wide(row) * table.cell(row, "inverse_norm")
    cosines = _dots(table, query) * table.column("inverse_norm")
    return np.where(table.column("present") & np.isfinite(cosines), cosines.astype(np.float64), 0.0)


def _shared_prefix(items: Items, source: int) -> np.ndarray:
    """float64 [allocated rows]: share of the tokens that are the source's, from the first on; 0 where both have a vector.

    Codebooks are warm-started, so a word keeps its meaning from version to version, and items may be coded by different ones.
    """
    tokens, vectors = items["item_tokens"], items["item_vectors"]
    alike = tokens.column("present").copy()
    if vectors.has(source):
        alike &= ~vectors.column("present")
    shared = np.zeros(items.allocated)
    if alike.any():
        for level, token in enumerate(tokens.wide(source).tolist()):
            alike &= tokens.column(WIDE_COLUMN)[:, level] == token
            shared += alike
    return shared / max(1, tokens.width)


def _shown(items: Items, now_ms: int, rows: np.ndarray | slice = EVERY) -> np.ndarray:
    """bool [allocated rows], or of rows int64 [n]: not removed, and open if it is a live room."""
    removed, start_ms, end_ms = (items["item_popularity"].column(name)[rows] for name in ("removed", "start_ms", "end_ms"))
    return np.asarray(~removed & (start_ms <= now_ms) & (end_ms > now_ms))


def _top(request: _Request, scores: np.ndarray, count: int) -> list[Pick]:
    """The `count` best rows that may be shown, ties by id. `scores` is used up."""
    items = request.state.items
    scores[~_shown(items, request.now_ms)] = -np.inf
    scores[sorted(request.taken)] = -np.inf
    floor = np.partition(scores, scores.size - count)[scores.size - count] if scores.size > count else -np.inf
    rows = np.flatnonzero((scores >= floor) & (scores > -np.inf))
    return [(row, value) for value, row in ordered(items, rows, scores[rows], count)]


def _popular(request: _Request, count: int) -> list[Pick]:
    return _ranked(request, "log2_popularity", count)


def _newest(request: _Request, count: int) -> list[Pick]:
    return _ranked(request, "first_ms", count)


def _ranked(request: _Request, column: str, count: int) -> list[Pick]:
    picks: list[Pick] = []
    for row, value, start_ms, end_ms in request.state.ranking(column, request.now_ms):
        if row not in request.taken and start_ms <= request.now_ms < end_ms:
            picks.append((row, value))
            if len(picks) == count:
                break
    return picks


Link = Callable[[_Request, int], list[Pick]]
LINKS: dict[str, Link] = {"personal": _personal, "similar": _similar, "popular": _popular, "newest": _newest}
EVIDENCE = {"personal": ("item_vectors", "item_memory"), "similar": ("item_vectors", "item_tokens")}  # tables behind a link's scores


def nearest(state: State, config: CacheConfig, item_id: str, count: int) -> list[tuple[str, float]]:
    """(item id, similarity) of at most `count` items, most similar first; by vector, else by shared tokens.

    Raises:
        RequestError: `count` is out of range.
    """
    if not 0 <= count <= config.max_k:
        raise RequestError(f"neighbours must be between 0 and {config.max_k} (the cache's max_k), got {count}")
    items, row = state.items, state.items.row(item_id)
    if row < 0 or not count or not _placed(items, row):
        return []
    request = _Request(state, config, state.clock_ms, Asker(None, [], MIN_MS), {row})
    return [(items.id_of(near), value) for near, value in _top(request, _similarity(items, [row]), count)]
