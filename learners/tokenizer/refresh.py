"""When the codebook moves: the first build, and a refresh in slices that ends in new words; which codebooks are still referred to."""

import hashlib
import io
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.hashing import fingerprints
from core.ids import IdMap
from core.rows import Rows
from core.schemas import DELTA_BASE
from core.snapshot import Snapshot
from learners.tokenizer.codebook import Sums, centre, collect, empty_codebook, empty_sums, first_words, reseed, tabulate
from learners.tokenizer.config import TokenizerConfig
from learners.tokenizer.kernel import CODED, ITEMS_KNOWN, KNOWN, UNKNOWN, Codebook, Items, Rule, Taken, encode_all

IDLE, SUM, CENTRE, ENCODE, FINAL_SUM, FINAL_CENTRE = range(6)
_SUMS_PER_ENCODE = 8  # a sum costs less than an eighth of an encode
_FREE = -1

CODEBOOK = pl.Schema({**DELTA_BASE, "codebook_version": pl.Int64(), "level": pl.UInt8(), "centroids": pl.Binary()})


class Shelf:
    """The codebooks that a token refers to, at most `slots`.

    State: per slot the version (ordinal at which it was published, -1 where free), its event time and words; what is not yet published.
    """

    def __init__(self, slots: int, levels: int) -> None:
        self._levels = levels
        self.versions = np.full(slots, _FREE, dtype=np.int64)
        self.event_ms = np.zeros(slots, dtype=np.int64)
        self.words: dict[int, np.ndarray] = {}  # slot -> float32 [L, K, D]
        self._fresh: list[int] = []  # slots
        self._again: list[int] = []  # slots that were published before
        self._retired: list[tuple[int, int, int]] = []  # version, ordinal and clock of its end

    def put(self, version: int, event_ms: int, words: np.ndarray) -> int:
        """Keep a copy; the slot it went to."""
        slot = int(np.flatnonzero(self.versions == _FREE)[0])
        self.versions[slot], self.event_ms[slot] = version, event_ms
        self.words[slot] = words.copy()
        self._fresh.append(slot)
        return slot

    def expired(self, kept: int) -> np.ndarray:
        """bool [slots]: older than the `kept` newest."""
        newest = np.sort(self.versions)[::-1]
        return np.asarray((self.versions != _FREE) & (self.versions < newest[min(kept, newest.size) - 1]))

    def retire(self, book_items: np.ndarray, current: int, ordinal: int, clock_ms: int) -> None:
        """Let go of every codebook but the current one that no token refers to."""
        for slot in np.flatnonzero((self.versions != _FREE) & (book_items == 0)).tolist():
            if slot != current:
                if slot in self._fresh:
                    self._fresh.remove(slot)
                else:
                    self._retired.append((int(self.versions[slot]), ordinal, clock_ms))
                self.versions[slot] = _FREE
                del self.words[slot]

    def touch(self) -> None:
        """Tell every codebook again at the next `touched`. Not state: a restart only tells them later."""
        self._again = list(self.words)

    def touched(self) -> pl.DataFrame:
        """CODEBOOK rows, one per level of each codebook that is new or gone since the last call."""
        again = (slot for slot in self._again if slot not in self._fresh and slot in self.words)
        rows = [row for slot in (*self._fresh, *again) for row in self._published(slot)]
        for version, ordinal, clock_ms in self._retired:
            rows += [(f"{version}/{level}", ordinal, clock_ms, True, version, level, None) for level in range(self._levels)]
        self._fresh, self._retired, self._again = [], [], []
        return pl.DataFrame(rows, schema=CODEBOOK, orient="row")

    def _published(self, slot: int) -> list[tuple[object, ...]]:
        version, event_ms = int(self.versions[slot]), int(self.event_ms[slot])
        parts = [level.astype("<f4").tobytes() for level in self.words[slot]]
        return [(f"{version}/{i}", version, event_ms, False, version, i, part) for i, part in enumerate(parts)]

    def snapshot(self, into: Snapshot) -> None:
        """A codebook never changes, so that its file is linked where the previous snapshot has it."""
        state = {"event_ms": self.event_ms.tolist(), "versions": self.versions.tolist(), "fresh": self._fresh, "retired": self._retired}
        into.write("shelf.json", msgspec.json.encode(state))
        for slot, words in self.words.items():
            name = f"codebook-{self.versions[slot]}.npy"
            if not into.link(name):
                file = io.BytesIO()
                np.save(file, words, allow_pickle=False)
                into.write(name, file.getvalue())

    def restore(self, directory: Path) -> None:
        state = msgspec.json.decode((directory / "shelf.json").read_bytes())
        self.versions[:], self.event_ms[:] = state["versions"], state["event_ms"]
        self._fresh, self._retired = state["fresh"], [(v, o, ms) for v, o, ms in state["retired"]]
        self.words = {s: np.load(directory / f"codebook-{v}.npy") for s, v in enumerate(state["versions"]) if v != _FREE}


class Progress(msgspec.Struct):
    """Where the phase machine stands."""

    phase: int = IDLE
    cursor: int = 0  # items of the queue, or levels, that are done
    slot: int = _FREE  # of the published codebook
    due_ms: int = 0  # event time of the next refresh
    segment_ms: int = 0  # clock at the last segment's end
    squared_error: float = 0.0  # of the last complete pass over the active items
    squared_norm: float = 0.0
    used_words: list[int] = []  # words with an active item, per level


class Refresh:
    """Moves the words in slices at the ends of segments, each of a cost that `slice_items` bounds.

    idle -> sum (x over the active items) -> centre (a level a slice; words without items go to the worst-coded) -> published
    -> encode (active items under hysteresis; items of codebooks about to be let go) -> sum -> centre -> published -> idle.
    Encoding reads the published codebook throughout. Passes go by the rows' index, which is a function of the log.
    """

    def __init__(self, config: TokenizerConfig, ids: IdMap, rows: Rows, items: Items, taken: Taken, rule: Rule) -> None:
        self._config, self._ids, self._rows, self._items, self._taken, self._rule = config, ids, rows, items, taken, rule
        self.book, self._next = (empty_codebook(config.levels, config.words, config.dimensions) for _ in range(2))
        self._sums = empty_sums(config.levels, config.words, config.dimensions)
        self._queue = np.empty(0, dtype=np.int32)  # rows of the pass under way
        self.shelf = Shelf(taken.book_items.shape[0], config.levels)
        self.progress = Progress(used_words=[0] * config.levels)

    def advance(self, ordinal: int, clock_ms: int) -> None:
        """Run this segment's slices: one, and more where event time ran faster than the log."""
        elapsed_seconds = max(0, clock_ms - self.progress.segment_ms) / 1000
        self.progress.segment_ms = clock_ms
        for _ in range(min(self._config.max_slices, 1 + int(elapsed_seconds / self._config.slice_seconds))):
            if not self._slice(ordinal, clock_ms):
                return

    def _slice(self, ordinal: int, clock_ms: int) -> bool:
        """One slice; whether another may follow in this segment (not after a publication: its version is the ordinal)."""
        match self.progress.phase:
            case phase if phase == IDLE:
                return self._start(ordinal, clock_ms)
            case phase if phase in (SUM, FINAL_SUM):
                return self._sum()
            case phase if phase == ENCODE:
                return self._encode(ordinal, clock_ms)
            case _:
                return self._centre(ordinal, clock_ms)

    def _start(self, ordinal: int, clock_ms: int) -> bool:
        if self.progress.slot == _FREE:
            if self._taken.counts[ITEMS_KNOWN] >= self._config.least_items:
                self._found(ordinal, clock_ms)
            return False
        if clock_ms < self.progress.due_ms:
            return False
        self.progress.due_ms = clock_ms + 1000 * self._config.refresh_seconds
        return self._enter_sum(SUM, clock_ms)

    def _found(self, ordinal: int, clock_ms: int) -> None:
        """The first codebook: over at most `sample_items` items, those of the lowest fingerprints."""
        rows = np.flatnonzero(self._status() != UNKNOWN)
        prints = fingerprints(str(self._ids.ids[row]) for row in rows.tolist())
        sample = rows[np.lexsort((prints[:, 1], prints[:, 0]))][: self._config.sample_items]
        first_words(self._items.vector[sample], self._config.seed, self._config.iterations, self._next.words)
        for level in range(self._config.levels):
            tabulate(level, self._next)
        self._publish(ordinal, clock_ms)
        self.progress.due_ms = clock_ms + 1000 * self._config.refresh_seconds
        self._enter_encode(clock_ms)

    def _publish(self, ordinal: int, clock_ms: int) -> None:
        self.book, self._next = self._next, self.book
        self.progress.slot = self.shelf.put(ordinal, clock_ms, self.book.words)
        self.shelf.retire(self._taken.book_items, self.progress.slot, ordinal, clock_ms)

    def _status(self) -> np.ndarray:
        """uint8 [rows ever used]."""
        return self._items.status[: self._ids.size]

    def _active(self, clock_ms: int) -> np.ndarray:
        """bool [rows ever used]."""
        return np.asarray(self._items.active_ms[: self._ids.size] >= clock_ms - 1000 * self._config.active_seconds)

    def _enter_sum(self, phase: int, clock_ms: int) -> bool:
        """Sum over the active items; too few of them would bend the words to themselves, so then nothing moves."""
        self._queue = np.flatnonzero((self._status() == CODED) & self._active(clock_ms)).astype(np.int32)
        enough = self._queue.size >= self._config.least_items
        self.progress.phase, self.progress.cursor = phase if enough else IDLE, 0
        for array in self._sums:
            array[:] = 0
        return enough

    def _sum(self) -> bool:
        start, stop = self.progress.cursor, self.progress.cursor + _SUMS_PER_ENCODE * self._config.slice_items
        collect(self._queue[start:stop], self._items, self.book.words, self._sums)
        self.progress.cursor = stop
        if stop >= self._queue.size:
            self._measure()
            self._next.words[:] = self.book.words
            self.progress.phase, self.progress.cursor = self.progress.phase + 1, 0
        return True

    def _measure(self) -> None:
        self.progress.squared_error, self.progress.squared_norm = self._sums.measure.tolist()
        items_of_word = [np.diagonal(self._sums.pairs[level, level]) for level in range(self._config.levels)]
        self.progress.used_words = [int(np.count_nonzero(items)) for items in items_of_word]

    def _centre(self, ordinal: int, clock_ms: int) -> bool:
        level = self.progress.cursor
        centre(level, self._sums, self._next.words)
        if self.progress.phase == CENTRE:
            reseed(level, self._sums, self._items, self._next.words)
        tabulate(level, self._next)
        self.progress.cursor += 1
        if self.progress.cursor < self._config.levels:
            return True
        self._publish(ordinal, clock_ms)
        if self.progress.phase == CENTRE:
            self._enter_encode(clock_ms)
        else:
            self.progress.phase, self.progress.cursor = IDLE, 0
        return False

    def _enter_encode(self, clock_ms: int) -> None:
        status, expired = self._status(), self.shelf.expired(self._config.kept_codebooks)
        due = (status == KNOWN) | ((status == CODED) & (self._active(clock_ms) | expired[self._items.book[: status.size]]))
        self._queue = np.flatnonzero(due).astype(np.int32)
        self.progress.phase, self.progress.cursor = ENCODE, 0

    def _encode(self, ordinal: int, clock_ms: int) -> bool:
        rows = self._queue[self.progress.cursor : self.progress.cursor + self._config.slice_items]
        expired = self.shelf.expired(self._config.kept_codebooks)
        encode_all(rows, expired, ordinal, self.progress.slot, self._items, self.book, self._taken, self._rule)
        self._rows.mark(rows)
        self.progress.cursor += rows.size
        if self.progress.cursor < self._queue.size:
            return True
        self.shelf.retire(self._taken.book_items, self.progress.slot, ordinal, clock_ms)
        return self._enter_sum(FINAL_SUM, clock_ms)

    def _work(self) -> dict[str, np.ndarray]:
        """The arrays of the refresh under way; none where there is none."""
        if self.progress.phase == IDLE:
            return {}
        return {"queue": self._queue, "words": self._next.words, **self._sums._asdict()}

    def snapshot(self, into: Snapshot) -> None:
        into.write("refresh.json", msgspec.json.encode(self.progress))
        file = io.BytesIO()
        np.savez(file, allow_pickle=False, **self._work())
        into.write("refresh.npz", file.getvalue())
        self.shelf.snapshot(into)

    def restore(self, directory: Path) -> None:
        self.progress = msgspec.json.decode((directory / "refresh.json").read_bytes(), type=Progress)
        self.shelf.restore(directory)
        if self.progress.slot != _FREE:
            self._load(self.book, self.shelf.words[self.progress.slot], self._config.levels)
        if self.progress.phase != IDLE:
            with np.load(directory / "refresh.npz") as stored:
                self._queue = stored["queue"]
                self._sums = Sums(**{name: stored[name] for name in Sums._fields})
                self._load(self._next, stored["words"], self._config.levels)

    @staticmethod
    def _load(book: Codebook, words: np.ndarray, levels: int) -> None:
        book.words[:] = words
        for level in range(levels):
            tabulate(level, book)

    def digest(self) -> str:
        state = hashlib.sha256(msgspec.json.encode([self.progress, self.shelf.versions.tolist(), self.shelf.event_ms.tolist()]))
        arrays = [self.shelf.words[slot] for slot in sorted(self.shelf.words)] + list(self._work().values())
        for array in arrays:
            state.update(array.tobytes())
        return state.hexdigest()
