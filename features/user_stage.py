"""The user stage: what is true of each user, from one partition of `batches`."""

import hashlib
import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec
import numpy as np
import polars as pl

from core.clock import UNSET, EventClock
from core.compiled import compiled
from core.frames import constant, from_columns, from_matrix, pick
from core.hashing import fingerprints
from core.schemas import DELTA_BASE, EVENT, EXAMPLE_BASE, ITEM, NO_LABEL, TICK, USER, examples_schema
from core.snapshot import Snapshot, check_identity
from core.stage import Publication
from features import duplicates
from features.config import UserConfig
from features.counters import MS, effective_ms, observe
from features.duplicates import Duplicates
from features.history import ENTRY_WORDS, recent_fingerprints, remember
from features.hot_rows import USED, HotRows
from features.label_join import LabelJoin
from features.label_rows import LabelRows
from features.store import Batch, ExpiringRows, StateStore, dense

USERS = "users"
USER_HISTORY = pl.Schema({**DELTA_BASE, "recent": pl.Binary()})
OUTCOMES = ("accepted", "duplicate", "late", "future")

# A user's row is int64 words: USED and the next three, the counters as float64, the last items (see history.py).
_LAST, _VERSION, _HELD, _COUNTS = 1, 2, 3, 4
_STATE = "user-stage.json"
_STORE = "store"
_LABELS = "labels"


@compiled
def learn_users(
    order: np.ndarray,
    slots: np.ndarray,
    ts_ms: np.ndarray,
    now_ms: np.ndarray,
    codes: np.ndarray,
    items: np.ndarray,
    remembered: np.ndarray,
    versions: np.ndarray,
    half_lives_ms: np.ndarray,
    ttl_ms: int,
    words: np.ndarray,
    floats: np.ndarray,
    before: np.ndarray,
) -> None:
    """Row by row: forget the user if expired, give the counters as they were, count, remember the item.

    Args:
        order: int64 [n], index of each row's user among the users of the batch.
        slots: int64 [users], where in `words` each user's row is.
        ts_ms: int64 [n], effective event times.
        now_ms: int64 [n], time at each row, never falling.
        codes: int64 [n], types; those below the number of counted types count.
        items: int64 [n, 2], fingerprints.
        remembered: bool [n], rows whose item goes into the history.
        versions: int64 [n].
        half_lives_ms: float64 [half lives].
        ttl_ms: a user unused for that long is forgotten.
        words: int64 [slots, words of a row]. Updated.
        floats: float64, the same memory as `words`.
        before: float32 [n, types x half lives]. Filled with the counters before each row, decayed to its time.
    """
    recent_at = _COUNTS + before.shape[1]
    for i in range(order.shape[0]):
        slot = slots[order[i]]
        user = words[slot]
        if now_ms[i] - user[USED] >= ttl_ms:
            user[:] = 0
        counts = floats[slot, _COUNTS:recent_at]
        user[_LAST] = observe(counts, user[_LAST], ts_ms[i], codes[i], half_lives_ms, before[i])
        if remembered[i]:
            user[_HELD] = remember(user[recent_at:], user[_HELD], items[i], ts_ms[i], codes[i])
        user[USED], user[_VERSION] = now_ms[i], versions[i]


@dataclass
class _Rows:
    """The rows of one record without the catalogue's: n events and ticks."""

    frame: pl.DataFrame
    index: np.ndarray  # int64 [n], row in the record
    events: np.ndarray  # bool [n]
    clock_ms: np.ndarray  # int64 [n], the partition's clock after each row


class UserStage:
    """Drops duplicates; counts what each user did and remembers the last items; joins impressions and what came of them.

    In: `batches` of one partition. Out: `examples`, a row per accepted event, per tick and per label. Publishes `user_history`.
    State: the event clock; ids of the events seen; one row per user: float64 [types x half lives] counters, the last distinct items
    (those of an unchanged user are at most `user_ttl_seconds` old), the version (EVENT rows of the partition up to the user's last);
    open impressions.

    Expiry goes by `now_ms`: the clock, or the events' own times before it is set, never falling.
    """

    sink = False

    def __init__(self, config: UserConfig, work_dir: Path) -> None:
        """`work_dir`/store is this stage's own: what lies there goes."""
        self.config = config
        self._path = work_dir / _STORE
        self._half_lives_ms = np.array(config.half_lives_seconds, dtype=np.float64) * MS
        self._codes = config.codes
        self._remembers = np.array([*(name in config.history_types for name in self._codes), False])  # code -1 reads the last
        self._width = _COUNTS + len(config.columns) + config.history_items * ENTRY_WORDS
        self.clock = EventClock()
        self.ordinal = 0  # EVENT rows applied, duplicates included
        self.outcomes = dict.fromkeys(OUTCOMES, 0)  # "late" and "future" ones are accepted too
        self._now_ms = 0
        self._touched: dict[str, None] = {}  # users in order of the first change since the last publication
        self._next_key = b""  # of the store: the user to be published once more
        self._labels = LabelRows(config.joins, config.future_seconds * MS) if config.labels else None
        self._open(StateStore.empty(self._path, (USERS, duplicates.FAMILY), config.cache_bytes))

    @property
    def labels(self) -> LabelJoin | None:
        """The join of labels, None where the settings name none."""
        return self._labels.join if self._labels else None

    def _open(self, store: StateStore) -> None:
        self.store = store
        rows = ExpiringRows(store, USERS, self.config.user_ttl_seconds * MS)
        self._users = HotRows(rows, self._width, self.config.hot_users)
        self._duplicates = Duplicates(store, self.config.duplicate_horizon_seconds * MS)

    def apply(self, rows: pl.DataFrame, offset: int) -> pl.DataFrame:
        """`examples` of the rows of one `batches` record, n or fewer rows.

        Args:
            rows: n rows, `batches` schema.
            offset: of that record, for the examples' positions.
        """
        own = self._advance(rows)
        if not own.index.size:
            return examples_schema(len(self.config.columns)).to_frame()
        events = pick(own.frame, own.events)
        ordinal = np.zeros(own.index.size, dtype=np.int64)
        ordinal[own.events] = self.ordinal + 1 + np.arange(events.height)
        kept, counters = self._learn(events, own.clock_ms[own.events])  # bool [events], float32 [accepted, user columns]
        keep = np.ones(own.index.size, dtype=np.bool_)
        keep[own.events] = kept
        return self._examples(own, keep, ordinal[keep], counters, offset)

    def _advance(self, rows: pl.DataFrame) -> _Rows:
        kinds = rows["kind"].to_numpy()
        index = np.flatnonzero(kinds != ITEM)
        frame = pick(rows, kinds != ITEM)
        return _Rows(frame, index, kinds[index] == EVENT, self._clock(kinds[index], frame["ts_ms"].to_numpy()))

    def _clock(self, kinds: np.ndarray, ts_ms: np.ndarray) -> np.ndarray:
        clock_ms, start = np.empty(kinds.size, dtype=np.int64), 0
        for at in np.flatnonzero(kinds == TICK).tolist():
            clock_ms[start:at] = self.clock.advance(ts_ms[start:at])
            self.clock.tick(int(ts_ms[at]))
            clock_ms[at], start = self.clock.ms, at + 1
        clock_ms[start:] = self.clock.advance(ts_ms[start:])
        return clock_ms

    def _learn(self, events: pl.DataFrame, clock_ms: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Which of the events were accepted, and the user columns of these."""
        ts_ms, batch, before_ms = events["ts_ms"].to_numpy(), self.store.batch(), self._now_ms
        now_ms = self._advance_now(clock_ms, ts_ms)
        repeats = self._duplicates.mark(events["user_id"].to_list(), events["event_id"].to_list(), now_ms, before_ms, batch)
        kept = ~repeats
        accepted = pick(events, kept)
        versions = self.ordinal + 1 + np.flatnonzero(kept)
        self._count(ts_ms[kept], clock_ms[kept], events.height)
        ts_ms = effective_ms(ts_ms, clock_ms, self.config.future_seconds * MS)[kept]
        counters = self._learn_users(accepted, ts_ms, now_ms[kept], versions, before_ms, batch)
        self.store.write(batch)
        for table in (self._users.table, self._duplicates.rows):
            table.drop_expired(before_ms, self._now_ms)
        return kept, counters

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

    def _learn_users(
        self, events: pl.DataFrame, ts_ms: np.ndarray, now_ms: np.ndarray, versions: np.ndarray, before_ms: int, batch: Batch
    ) -> np.ndarray:
        users, order = dense(events["user_id"].to_list())
        slots = self._users.admit(users, before_ms)  # int64 [users]
        before = np.empty((ts_ms.size, len(self.config.columns)), dtype=np.float32)
        codes = self._type_codes(events["type"].to_list())
        remembered = self._remembers[codes] & events["item_id"].is_not_null().to_numpy()
        sights = np.zeros((ts_ms.size, 2), dtype=np.int64)
        sights[remembered] = fingerprints(events["item_id"].filter(pl.Series(remembered)).to_list()).view(np.int64)
        learn_users(
            order, slots, ts_ms, now_ms, codes, sights, remembered, versions, self._half_lives_ms,
            self.config.user_ttl_seconds * MS, self._users.words, self._users.words.view(np.float64), before,
        )  # fmt: skip
        self._users.trim(batch)
        self._touched.update(dict.fromkeys(itertools.compress(events["user_id"].to_list(), remembered.tolist())))
        return before

    def _type_codes(self, types: Sequence[str]) -> np.ndarray:
        code_of = self._codes.get
        return np.array([code_of(name, -1) for name in types], dtype=np.int64)

    def _examples(self, own: _Rows, keep: np.ndarray, ordinal: np.ndarray, counters: np.ndarray, offset: int) -> pl.DataFrame:
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
        examples = pl.DataFrame([*base, from_matrix(USER, counters, own.events[keep])])
        return self._labels.weave(examples, self._labels.take(kept, clock_ms, ordinal)) if self._labels else examples

    def publish(self) -> Publication | None:
        """`user_history` of the users whose last items changed since the last call; `recent` holds 16-byte fingerprints, newest first."""
        words = self._users.read(list(self._touched), self._now_ms)  # int64 [users, words]
        live = self._now_ms - words[:, USED] < self.config.user_ttl_seconds * MS
        users, words = list(itertools.compress(self._touched, live.tolist())), words[live]
        self._touched = {}
        if not users:
            return None
        recent = recent_fingerprints(words[:, _COUNTS + len(self.config.columns) :], words[:, _HELD])
        history = from_columns(
            USER_HISTORY,
            {
                "id": users,
                "version": words[:, _VERSION],
                "event_ms": words[:, _LAST],
                "removed": np.zeros(len(recent), dtype=np.bool_),
                "recent": recent,
            },
        )
        return Publication({"user_history": history}, self.ordinal, self.clock.ms, np.empty(0, dtype=np.int64))

    def touch_next(self, rows: int) -> bool:
        """See `Stage.touch_next`. In key order of the store; what is only in memory was used, and published, since the last checkpoint."""
        ids, self._next_key = self._users.table.walk(self._next_key, rows)
        users = [id_.decode() for id_ in ids]
        remembers = self._users.read(users, self._now_ms)[:, _HELD] > 0
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
        if self._labels:
            self._labels.restore(directory / _LABELS)

    def _write_back(self) -> None:
        batch = self.store.batch()
        self._users.flush(batch)
        self.store.write(batch)

    def digest(self) -> str:
        """Of the clock, the counts and every unexpired row; what is swept or published already makes no difference."""
        self._write_back()
        state = hashlib.sha256(self.clock.to_json())
        state.update(msgspec.json.encode([self._now_ms, self.ordinal, self.outcomes]))
        for table in (self._users.table, self._duplicates.rows):
            for key, value in table.live(self._now_ms):
                state.update(msgspec.msgpack.encode([key, value]))
        if self._labels:
            state.update(self._labels.join.digest().encode())
        return state.hexdigest()

    def close(self) -> None:
        self.store.close()
