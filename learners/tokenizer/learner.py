"""The tokenizer as a part of the learner stage: what it remembers, when it encodes, what it publishes."""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.frames import from_columns
from core.ids import IdMap, RowTable
from core.rounds import Rounds
from core.rows import Rows
from core.schemas import DELTA_BASE, EVENT, ITEM
from core.snapshot import Snapshot, check_identity
from core.stage import Examples
from learners.tokenizer import kernel
from learners.tokenizer.config import TokenizerConfig
from learners.tokenizer.content import content_vector
from learners.tokenizer.kernel import CODED, Items, Rule, Taken
from learners.tokenizer.refresh import Refresh


def item_tokens_schema(levels: int) -> pl.Schema:
    """The `item_tokens` table; tokens and codebook are null on removed rows."""
    return pl.Schema({**DELTA_BASE, "tokens": pl.Array(pl.UInt16(), levels), "codebook_version": pl.Int64()})


class TokenizerLearner:
    """Every item as `levels` words of a codebook that follows the stream.

    In: `examples` rows with the column `item_vector`, float32 [n, behaviour_dimensions], an item's learned vector right after each row.
    Out: nothing; publications of `item_tokens` (changed codes) and `codebook`.
    State: per item its vector x = [content, n / (n + 5) * behaviour / |behaviour|], codes and times; the codebooks that codes refer to;
    the refresh under way; what is not yet published.

    Codes are chosen by residual k-means with a beam, the first full code that no other item has. They change only where the squared
    error falls by the share `hysteresis`, so a reader may train on them. Source: OneLive, arXiv 2602.08612, made to last between refreshes.
    """

    name = "tokenizer"
    publishes = True

    def __init__(self, config: TokenizerConfig) -> None:
        self.config = config
        self._ids = IdMap(config.capacity)
        self._rows = Rows(config.capacity, _fields(config))
        self._items = Items(**self._rows.arrays, pending=np.zeros(config.capacity, dtype=np.bool_))
        self._taken = _empty_taken(config)
        self._rule = _rule(config)
        self._refresh = Refresh(config, self._ids, self._rows, self._items, self._taken, self._rule)
        self._removed: dict[str, tuple[int, int]] = {}  # ordinal and clock of the removal, not yet published
        self._types = frozenset(config.interaction_types)
        self._rounds = Rounds()

    def learn_many(self, examples: Examples) -> None:
        """Move the vectors of the items in these rows, in order; encode those that moved far enough, and new ones at once."""
        n, kind, ids = len(examples), examples.numbers("kind"), examples.texts("item_id")
        entry = kind == ITEM
        counted = entry | ((kind == EVENT) & np.fromiter((type_ in self._types for type_ in examples.texts("type")), np.bool_, n))
        counted &= examples.there("item_id")
        removal = counted & entry & ~examples.there("item")
        start = 0
        for at in np.flatnonzero(removal).tolist():  # a removal frees a row that the next run may give away
            self._learn_run(examples, start + np.flatnonzero(counted[start:at]), entry)
            self._remove(ids[at], examples.first_ordinal + at, int(examples.clock_ms[at]))
            start = at + 1
        self._learn_run(examples, start + np.flatnonzero(counted[start:]), entry)

    def _learn_run(self, examples: Examples, at: np.ndarray, entry: np.ndarray) -> None:
        """The rows at these places: int64 [n]."""
        if not at.size:
            return
        ids, entries = examples.texts("item_id"), examples.texts("item")
        rows = self._ids.admit(ids[i] for i in at.tolist())  # int32 [n]
        content_at, contents = self._contents([entries[i] for i in at.tolist() if entry[i]], entry[at])
        kernel.learn(
            rows, content_at, contents, examples.columns["item_vector"][at], examples.first_ordinal + at,
            examples.numbers("ts_ms")[at], examples.clock_ms[at],
            self._refresh.progress.slot, self._items, self._refresh.book, self._taken, self._rule,
        )  # fmt: skip
        self._rows.mark(rows)

    def _contents(self, entries: Sequence[str], is_entry: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """int64 [n], place in the second or -1; float32 [catalogue rows, content_dimensions]."""
        content_at = np.where(is_entry, np.cumsum(is_entry) - 1, -1)
        contents = np.empty((int(is_entry.sum()), self.config.content_dimensions), dtype=np.float32)
        for place, raw in enumerate(entries):
            contents[place] = content_vector(raw, self.config.content_dimensions)
        return content_at, contents

    def _remove(self, id_: str, ordinal: int, clock_ms: int) -> None:
        row = self._ids.remove(id_)
        if row >= 0:
            self._forget(id_, row, ordinal, clock_ms)

    def _forget(self, id_: str, row: int, ordinal: int, clock_ms: int) -> None:
        if self._items.status[row] == CODED:
            self._removed[id_] = (ordinal, clock_ms)
        kernel.forget(row, self._items, self.config.words, self._taken)
        self._rows.mark(np.array([row]))

    def maintain(self, ordinal: int, clock_ms: int) -> None:
        """Evict the items longest unused, then run this segment's slices of the refresh."""
        for id_, row in self._ids.evict():
            self._forget(id_, row, ordinal, clock_ms)
        self._refresh.advance(ordinal, clock_ms)

    def score(self, user_id: str, item_ids: Sequence[str]) -> np.ndarray:
        """NaN for every item: tokens are read by others, the tokenizer itself prefers nothing."""
        return np.full(len(item_ids), np.nan, dtype=np.float32)

    def tokens_of(self, item_id: str) -> tuple[int, ...] | None:
        """The item's words, one per level; None while it has none."""
        row = int(self._ids.lookup([item_id])[0])
        if row < 0 or self._items.status[row] != CODED:
            return None
        return tuple(self._items.codes[row].tolist())

    def touched(self) -> dict[str, pl.DataFrame]:
        """`item_tokens`: one row per item whose codes, or their codebook, changed. `codebook`: one row per level of a new or gone one."""
        return {"item_tokens": self._touched_tokens(), "codebook": self._refresh.shelf.touched()}

    def touch_next(self, rows: int) -> bool:
        """See `Learner.touch_next`; the codebooks go with the first rows, for tokens refer to them."""
        if self._rounds.next_row == 0:
            self._refresh.shelf.touch()
        span, ended = self._rounds.take(rows, self._ids.size)
        self._items.pending[span] |= self._items.status[span] == CODED
        return ended

    def take_touched(self) -> np.ndarray:
        """int64: rows whose codes, or their codebook, changed since the last call."""
        rows = np.flatnonzero(self._items.pending[: self._ids.size])
        self._items.pending[rows] = False
        return rows

    def take_removed(self) -> dict[str, tuple[int, int]]:
        """Id -> ordinal and clock of the items that lost their codes since the last call; some may have codes again."""
        gone, self._removed = self._removed, {}
        return gone

    def codes_of(self, rows: np.ndarray) -> tuple[list[str], np.ndarray]:
        """Ids and codes, int [n, levels], of rows that have codes."""
        return [self._ids.ids[row] or "" for row in rows.tolist()], self._items.codes[rows]

    def _touched_tokens(self) -> pl.DataFrame:
        schema, items = item_tokens_schema(self.config.levels), self._items
        rows = self.take_touched()
        changed = from_columns(
            schema,
            {
                "id": [self._ids.ids[row] for row in rows.tolist()],
                "version": items.version[rows],
                "event_ms": items.coded_ms[rows],
                "removed": np.zeros(rows.size, dtype=np.bool_),
                "tokens": items.codes[rows],
                "codebook_version": self._refresh.shelf.versions[items.book[rows]],
            },
        )
        if not self._removed:
            return changed
        back = set(changed["id"])
        gone = [(id_, *at, True, None, None) for id_, at in self.take_removed().items() if id_ not in back]
        return pl.concat([pl.DataFrame(gone, schema=schema, orient="row"), changed])

    @property
    def tables(self) -> dict[str, RowTable]:
        """The ids with rows: "items"."""
        return {"items": self._ids}

    @property
    def codebook_version(self) -> int | None:
        """Ordinal at which the published codebook was; None before the first."""
        slot = self._refresh.progress.slot
        return int(self._refresh.shelf.versions[slot]) if slot >= 0 else None

    @property
    def distortion(self) -> float:
        """Squared error over squared norm of the items active at the last pass of a refresh; NaN before the first."""
        progress = self._refresh.progress
        return progress.squared_error / progress.squared_norm if progress.squared_norm else float("nan")

    @property
    def collisions(self) -> float:
        """Items that share all codes with another, over items with codes."""
        return float(self._taken.counts[kernel.ITEMS_SHARING] / max(1, self._taken.counts[kernel.ITEMS_CODED]))

    @property
    def utilisation(self) -> list[float]:
        """Per level, words with an item at the last pass of a refresh over words."""
        return [used / self.config.words for used in self._refresh.progress.used_words]

    @property
    def recoded(self) -> dict[str, int]:
        """Changes of codes so far, by what moved; `first` counts first codes."""
        names = {"first": kernel.FIRST, "content": kernel.BY_CONTENT, "behaviour": kernel.BY_BEHAVIOUR, "codebook": kernel.BY_CODEBOOK}
        return {name: int(self._taken.counts[place]) for name, place in names.items()}

    @property
    def encodes(self) -> int:
        """Beam searches so far, whether codes changed or not."""
        return int(self._taken.counts[kernel.ENCODES])

    @property
    def items(self) -> int:
        """Items with codes."""
        return int(self._taken.counts[kernel.ITEMS_CODED])

    def snapshot(self, into: Snapshot) -> None:
        state = {
            "identity": self.config.identity,
            "counts": self._taken.counts.tolist(),
            "book_items": self._taken.book_items.tolist(),
            "pending": np.flatnonzero(self._items.pending).tolist(),
            "removed": self._removed,
            "next_row": self._rounds.next_row,
        }
        into.write("tokenizer.json", msgspec.json.encode(state))
        self._ids.snapshot(into)
        self._rows.snapshot(into, self._ids.size)
        self._refresh.snapshot(into)

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made with other sizes.
        """
        state = msgspec.json.decode((directory / "tokenizer.json").read_bytes())
        check_identity(state["identity"], self.config.identity)
        self._ids.restore(directory)
        self._rows.restore(directory)
        self._taken.counts[:], self._taken.book_items[:] = state["counts"], state["book_items"]
        self._items.pending[state["pending"]] = True
        self._removed = {id_: (ordinal, clock_ms) for id_, (ordinal, clock_ms) in state["removed"].items()}
        self._rounds.next_row = state["next_row"]
        kernel.retake(np.flatnonzero(self._items.status == CODED), self._items, self.config.words, self._taken)
        self._refresh.restore(directory)

    def digest(self) -> str:
        """Of the logical state; what waits for publication is the host's business and left out."""
        rows = self._ids.lookup([id_ for id_ in self._ids.ids if id_ is not None])
        counts = f"{self._taken.counts.tolist()} {self._taken.book_items.tolist()}"
        text = "\n".join([self._ids.digest(), self._rows.digest(rows), counts, self._refresh.digest()])
        return hashlib.sha256(text.encode()).hexdigest()


def _fields(config: TokenizerConfig) -> dict[str, tuple[str, tuple[int, ...]]]:
    """The stored part of `kernel.Items`."""
    vector, number = ("f4", (config.dimensions,)), ("i8", ())
    fields: dict[str, tuple[str, tuple[int, ...]]] = {"vector": vector, "encoded": vector, "codes": ("u2", (config.levels,))}
    return fields | {
        "status": ("u1", ()), "book": ("i2", ()), "interactions": number, "active_ms": number, "version": number, "event_ms": number,
        "coded_ms": number,
    }  # fmt: skip


def _rule(config: TokenizerConfig) -> Rule:
    """Floats whatever numbers the settings hold, or the kernels would be compiled once more."""
    return Rule(config.content_dimensions, float(config.gate_interactions), float(config.moved) ** 2, 1.0 - config.hysteresis, config.beam)


def _empty_taken(config: TokenizerConfig) -> Taken:
    places = 1 << (2 * config.capacity - 1).bit_length()  # at most half full
    book_slots = config.kept_codebooks + 2  # a refresh publishes twice before old codebooks have lost their items
    return Taken(
        np.full(places, kernel.EMPTY, dtype=np.int64), np.zeros(places, dtype=np.int32),
        np.zeros(book_slots, dtype=np.int64), np.zeros(kernel.COUNTS, dtype=np.int64),
    )  # fmt: skip
