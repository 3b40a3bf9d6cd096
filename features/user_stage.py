"""The user stage: what is true of each user, from one partition of `batches`."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import msgspec
import numpy as np
import polars as pl

from core.clock import MS, UNSET, EventClock, effective_ms
from core.frames import constant, from_columns, from_matrix, pick, present
from core.hashing import fingerprints, fingerprints_of_some
from core.ids import dense
from core.schemas import DELTA_BASE, EVENT, EXAMPLE_BASE, ITEM, NO_LABEL, TICK, USER, examples_schema
from core.snapshot import Snapshot, check_identity
from core.stage import Publication
from features import duplicates
from features.catalogue import Catalogue
from features.config import UserConfig
from features.duplicates import Duplicates
from features.entity import views
from features.history import recent_fingerprints
from features.hot_rows import USED, HotRows
from features.label_join import LabelJoin
from features.label_rows import LabelRows, pairs
from features.sequences import Entry, entries
from features.store import ExpiringRows, StateStore
from features.user_rows import HELD, OWN_WORDS, VERSION, UserEvents, features_at, learn_users, parts

USERS = "users"
USER_HISTORY = pl.Schema({**DELTA_BASE, "recent": pl.Binary()})
OUTCOMES = ("accepted", "duplicate", "late", "future")

_STATE = "user-stage.json"
_STORE, _LABELS, _CATALOGUE = "store", "labels", "catalogue"


class Features(NamedTuple):
    """Of n users, aligned with the ids asked for."""

    event_ms: np.ndarray  # int64 [n], newest event behind the values; 0: nothing is known of the user
    values: np.ndarray  # float32 [n, columns], as of the clock; NaN where nothing is known


@dataclass
class _Rows:
    """The rows of one record without the catalogue's: n events and ticks."""

    frame: pl.DataFrame
    index: np.ndarray  # int64 [n], row in the record
    events: np.ndarray  # bool [n]
    clock_ms: np.ndarray  # int64 [n], the partition's clock after each row
    categories: np.ndarray  # int64 [n], hash of the category that the row's item has by then


class UserStage:
    """Drops duplicates; knows what each user did; joins impressions and what came of them.

    In: `batches` of one partition. Out: `examples`, a row per accepted event, per tick and per label. Publishes `user_history`.
    State: the event clock; ids of the events seen; a row per user (see `features.user_rows`), whose version is the number of EVENT rows
    of the partition up to the user's last; categories of the catalogue; open impressions.

    Expiry goes by `now_ms`: the clock, or the events' own times before it is set, never falling.
    """

    sink = False

    def __init__(self, config: UserConfig, work_dir: Path) -> None:
        """`work_dir`/store is this stage's own: what lies there goes."""
        self.config = config
        self._path = work_dir / _STORE
        self._plan, self._codes, self._columns = config.plan, config.codes, len(config.columns)
        self._remembers = np.array([*(name in config.history_types for name in self._codes), False])  # code -1 reads the last
        self.clock = EventClock()
        self.ordinal = 0  # EVENT rows applied, duplicates included
        self.outcomes = dict.fromkeys(OUTCOMES, 0)  # "late" and "future" ones are accepted too
        self._now_ms = 0
        self._touched: dict[str, None] = {}  # users in order of the first change since the last publication
        self._next_key = b""  # of the store: the user to be published once more
        self.catalogue = Catalogue(config.max_items)
        self._labels = LabelRows(config.joins, config.future_seconds * MS) if config.labels else None
        self._open(StateStore.empty(self._path, (USERS, duplicates.FAMILY), config.cache_bytes))

    @property
    def labels(self) -> LabelJoin | None:
        """The join of labels, None where the settings name none."""
        return self._labels.join if self._labels else None

    def _open(self, store: StateStore) -> None:
        self.store = store
        rows = ExpiringRows(store, USERS, self.config.user_ttl_seconds * MS)
        self._users = HotRows(rows, self._plan.words, self.config.hot_users, self.config.packed_bytes, parts(self._plan))
        self._duplicates = Duplicates(store, self.config.duplicate_horizon_seconds * MS)

    def apply(self, rows: pl.DataFrame, offset: int) -> pl.DataFrame:
        """`examples` of the rows of one `batches` record, n or fewer rows.

        Args:
            rows: n rows, `batches` schema.
            offset: of that record, for the examples' positions.
        """
        own = self._advance(rows)
        if not own.index.size:
            return examples_schema(self._columns).to_frame()
        events = pick(own.frame, own.events)
        ordinal = np.zeros(own.index.size, dtype=np.int64)
        ordinal[own.events] = self.ordinal + 1 + np.arange(events.height)
        kept, features, pair = self._learn(events, own)  # bool [events], float32 [accepted, user columns], int64 [accepted, 2]
        keep = np.ones(own.index.size, dtype=np.bool_)
        keep[own.events] = kept
        examples = self._examples(own, keep, ordinal[keep], features, offset)
        return self._with_labels(examples, own, keep, pair) if self._labels else examples

    def _advance(self, rows: pl.DataFrame) -> _Rows:
        kinds = rows["kind"].to_numpy()
        index, categories = np.flatnonzero(kinds != ITEM), self._categories(rows, kinds)
        frame = pick(rows, kinds != ITEM)
        clock_ms = self._clock(kinds[index], frame["ts_ms"].to_numpy())
        return _Rows(frame, index, kinds[index] == EVENT, clock_ms, categories[index])

    def _categories(self, rows: pl.DataFrame, kinds: np.ndarray) -> np.ndarray:
        """int64 [n]: what the catalogue says of each row's item, entries that stand before the row taken in."""
        items, found, start = rows["item_id"].to_list(), np.empty(rows.height, dtype=np.int64), 0
        entries = np.flatnonzero(kinds == ITEM).tolist()
        texts = rows["item"].to_list() if entries else []
        for at in entries:
            found[start : at + 1] = self.catalogue.categories(items[start : at + 1])
            self.catalogue.put(items[at], texts[at])
            start = at + 1
        found[start:] = self.catalogue.categories(items[start:])
        return found

    def _clock(self, kinds: np.ndarray, ts_ms: np.ndarray) -> np.ndarray:
        clock_ms, start = np.empty(kinds.size, dtype=np.int64), 0
        for at in np.flatnonzero(kinds == TICK).tolist():
            clock_ms[start:at] = self.clock.advance(ts_ms[start:at])
            self.clock.tick(int(ts_ms[at]))
            clock_ms[at], start = self.clock.ms, at + 1
        clock_ms[start:] = self.clock.advance(ts_ms[start:])
        return clock_ms

    def _learn(self, events: pl.DataFrame, own: _Rows) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Which of the events were accepted; features, and what stands for user and item, of these."""
        ts_ms, clock_ms, before_ms = events["ts_ms"].to_numpy(), own.clock_ms[own.events], self._now_ms
        now_ms = self._advance_now(clock_ms, ts_ms)
        repeats = self._duplicates.mark(events["user_id"].to_list(), events["event_id"].to_list(), now_ms, before_ms)
        kept = ~repeats
        accepted = pick(events, kept)
        versions = self.ordinal + 1 + np.flatnonzero(kept)
        self._count(ts_ms[kept], clock_ms[kept], events.height)
        ts_ms = effective_ms(ts_ms, clock_ms, self.config.future_seconds * MS)[kept]
        told, pair = self._told(accepted, before_ms)
        known = UserEvents(**told, ts_ms=ts_ms, now_ms=now_ms[kept], category=own.categories[own.events][kept], ordinal=versions)
        features = self._learn_users(known)
        self._users.trim()
        self._duplicates.trim()
        for table in (self._users.table, self._duplicates.rows):
            table.drop_expired(before_ms, self._now_ms)
        return kept, features, pair

    def _advance_now(self, clock_ms: np.ndarray, ts_ms: np.ndarray) -> np.ndarray:
        """int64 [n]: the time that expiry goes by, at each event."""
        told = np.where(clock_ms == UNSET, ts_ms, clock_ms)
        now_ms = np.maximum.accumulate(np.maximum(told, self._now_ms))
        self._now_ms = int(now_ms[-1]) if now_ms.size else self._now_ms
        return now_ms

    def _count(self, ts_ms: np.ndarray, clock_ms: np.ndarray, events: int) -> None:
        self.ordinal += events
        self.outcomes["accepted"] += ts_ms.size
        self.outcomes["duplicate"] += events - ts_ms.size
        self.outcomes["late"] += int(np.count_nonzero(ts_ms < clock_ms - self.config.late_seconds * MS))
        ahead = ts_ms > clock_ms + self.config.future_seconds * MS
        self.outcomes["future"] += int(np.count_nonzero(ahead & (clock_ms != UNSET)))

    def _told(self, events: pl.DataFrame, before_ms: int) -> tuple[dict[str, np.ndarray], np.ndarray]:
        """What the events themselves say, as `UserEvents` has it; int64 [n, 2], what stands for user and item, zeros without labels."""
        ids = events["user_id"].to_list()
        users, order = dense(ids)
        codes, named = self._type_codes(events["type"].to_list()), events["item_id"].to_list()
        items, remembered = fingerprints_of_some(named), self._remembers[codes] & present(named)
        self._touched.update(dict.fromkeys(itertools.compress(ids, remembered.tolist())))
        values = np.array(events["value"].to_numpy())  # NaN: none. To be written: to a kernel another type than one that is not
        told = {"slot": self._users.admit(users, before_ms)[order], "code": codes, "value": values, "item": items, "remembered": remembered}
        return told, pairs(fingerprints(users).view(np.int64)[order], items) if self._labels else np.zeros_like(items)

    def _learn_users(self, events: UserEvents) -> np.ndarray:
        before = np.empty((events.slot.size, self._columns), dtype=np.float32)
        words = self._users.words
        learn_users(self._plan, events, views(words), words.view(np.float32), before)
        return before

    def _type_codes(self, types: Sequence[str]) -> np.ndarray:
        return np.array(list(map(self._codes.get, types, itertools.repeat(-1))), dtype=np.int64)

    def _examples(self, own: _Rows, keep: np.ndarray, ordinal: np.ndarray, features: np.ndarray, offset: int) -> pl.DataFrame:
        kept, index, clock_ms = pick(own.frame, keep), own.index[keep], own.clock_ms[keep]
        told = {
            "source": np.zeros(index.size, dtype=np.uint16),
            "offset": np.full(index.size, offset, dtype=np.int64),
            "row": index.astype(np.int32),
            "upstream": np.full(index.size, self.config.partition, dtype=np.int16),
            "clock_ms": clock_ms,
            "ordinal": ordinal,
        }
        base = [
            pl.Series(name, told[name]) if name in told
            else constant(name, NO_LABEL[name], dtype, index.size) if name in NO_LABEL
            else kept[name]
            for name, dtype in EXAMPLE_BASE.items()
        ]  # fmt: skip
        return pl.DataFrame([*base, from_matrix(USER, features, own.events[keep])])

    def _with_labels(self, examples: pl.DataFrame, own: _Rows, keep: np.ndarray, pair: np.ndarray) -> pl.DataFrame:
        """`examples` and the label rows that they lead to."""
        assert self._labels is not None
        rows, pairs_ = pick(own.frame, keep), np.zeros((examples.height, 2), dtype=np.int64)
        pairs_[own.events[keep]] = pair
        told = self._labels.take(rows, own.clock_ms[keep], examples["ordinal"].to_numpy(), pairs_)
        return self._labels.weave(examples, told)

    def read(self, users: Sequence[str]) -> Features:
        """What an event of each of n distinct users would carry now, by the clock: `config.features` in order."""
        rows = self._live(users)
        event_ms = rows[:, self._plan.entity.seen_at].copy()
        values = features_at(self._plan, rows, self.clock.ms or self._now_ms, self._columns)
        values[event_ms == 0] = np.nan
        return Features(event_ms, values)

    def sequences(self, user: str) -> dict[str, list[Entry]]:
        """Behaviour -> the user's last events of that kind, newest first; items are fingerprints, codes those of `config.codes`."""
        [row] = self._live([user])
        starts = range(self._plan.sequences_at, self._plan.words, self._plan.sequence_words)
        named = zip(self.config.sequences, starts, strict=True)
        return {name: entries(row[start : start + self._plan.sequence_words]) for (name, _), start in named}

    def _live(self, users: Sequence[str]) -> np.ndarray:
        """int64 [n, words]: copies of the rows of distinct users, zeros where there is none, or it expired."""
        rows = self._users.read(users, self._now_ms)
        rows[self._now_ms - rows[:, USED] >= self._plan.ttl_ms] = 0
        return rows

    def publish(self) -> Publication | None:
        """`user_history` of the users whose last items changed since the last call; `recent` holds 16-byte fingerprints, newest first."""
        words = self._users.read(list(self._touched), self._now_ms, self._plan.entity.seen_at + 1)  # int64 [users, words]
        live = self._now_ms - words[:, USED] < self.config.user_ttl_seconds * MS
        users, words = list(itertools.compress(self._touched, live.tolist())), words[live]
        self._touched = {}
        if not users:
            return None
        recent = recent_fingerprints(words[:, OWN_WORDS:-1], words[:, HELD])
        history = from_columns(
            USER_HISTORY,
            {
                "id": users,
                "version": words[:, VERSION],
                "event_ms": words[:, -1],
                "removed": np.zeros(len(recent), dtype=np.bool_),
                "recent": recent,
            },
        )
        return Publication({"user_history": history}, self.ordinal, self.clock.ms, np.empty(0, dtype=np.int64))

    def touch_next(self, rows: int) -> bool:
        """See `Stage.touch_next`. In key order of the store; what is only in memory was used, and published, since the last checkpoint."""
        ids, self._next_key = self._users.table.walk(self._next_key, rows)
        users = [id_.decode() for id_ in ids]
        remembers = self._users.read(users, self._now_ms, OWN_WORDS)[:, HELD] > 0
        self._touched.update(dict.fromkeys(itertools.compress(users, remembers.tolist())))
        return not self._next_key

    def snapshot(self, into: Snapshot) -> None:
        """A RocksDB checkpoint, whose files are hard links to the working directory's, and the rest as JSON."""
        self._write_back()
        self.store.checkpoint(into.directory / _STORE)
        state = {
            "identity": self.config.identity,
            "clock": self.clock.to_json().decode(),
            "now_ms": self._now_ms,
            "ordinal": self.ordinal,
            "outcomes": self.outcomes,
            "touched": list(self._touched),
            "next_key": self._next_key.hex(),
        }
        into.write(_STATE, msgspec.json.encode(state))
        self.catalogue.snapshot(into.within(_CATALOGUE))
        if self._labels:
            self._labels.snapshot(into.within(_LABELS))

    def restore(self, directory: Path) -> None:
        """Take up a snapshot.

        Raises:
            SnapshotError: it was made under settings that shape the stored rows otherwise, or by another format.
        """
        state = msgspec.json.decode((directory / _STATE).read_bytes())
        check_identity(state["identity"], self.config.identity)
        self.store.close()
        families = (USERS, duplicates.FAMILY)
        self._open(StateStore.from_checkpoint(directory / _STORE, self._path, families, self.config.cache_bytes))
        self.clock, self._now_ms = EventClock.from_json(state["clock"].encode()), state["now_ms"]
        self.ordinal, self.outcomes = state["ordinal"], state["outcomes"]
        self._touched, self._next_key = dict.fromkeys(state["touched"]), bytes.fromhex(state["next_key"])
        self.catalogue.restore(directory / _CATALOGUE)
        if self._labels:
            self._labels.restore(directory / _LABELS)

    def _write_back(self) -> None:
        self._users.flush()
        self._duplicates.flush()

    def digest(self) -> str:
        """Of the clock, the counts and every unexpired row; what is swept or published already makes no difference."""
        self._write_back()
        state = hashlib.sha256(self.clock.to_json())
        state.update(msgspec.json.encode([self._now_ms, self.ordinal, self.outcomes]))
        for table in (self._users.table, self._duplicates.rows):
            for key, value in table.live(self._now_ms):
                state.update(msgspec.msgpack.encode([key, value]))
        state.update(self.catalogue.digest())
        if self._labels:
            state.update(self._labels.join.digest().encode())
        return state.hexdigest()

    def close(self) -> None:
        self.store.close()
