"""The state store: binary rows in RocksDB, durable at checkpoints only, because the Kafka log is the log."""

import errno
import functools
import itertools
import os
import shutil
import struct
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import rocksdict

from core.errors import SnapshotError
from core.position import REBUILD

FORMAT = 3
FORMAT_KEY = b"\x00format"  # sorts before every other key
_DEFAULT = "default"
_BLOOM_BITS_PER_KEY = 10  # one false positive in a hundred
_WRITE_BUFFER_BYTES = 32 << 20  # of a column family; two may be held while one is flushed
_BUFFER_BLOOM_RATIO = 0.02  # of the write buffer
_LOG_FILES, _LOG_FILE_BYTES = 2, 4 << 20


@functools.cache
def block_cache(cache_bytes: int) -> rocksdict.Cache:
    """The one block cache of this process for that size: every store opened with it shares the budget."""
    return rocksdict.Cache(cache_bytes)


def _options(cache_bytes: int) -> rocksdict.Options:
    table = rocksdict.BlockBasedOptions()
    table.set_block_cache(block_cache(cache_bytes))
    table.set_cache_index_and_filter_blocks(False)  # in it, rows push them out, and the next read pays a hundred times; about 5 bytes a row
    table.set_bloom_filter(_BLOOM_BITS_PER_KEY, False)
    options = rocksdict.Options(raw_mode=True)
    options.create_if_missing(True)
    options.create_missing_column_families(True)
    options.set_compression_type(rocksdict.DBCompressionType.lz4())
    options.set_write_buffer_size(_WRITE_BUFFER_BYTES)
    options.set_memtable_whole_key_filtering(True)
    options.set_memtable_prefix_bloom_ratio(_BUFFER_BLOOM_RATIO)
    options.set_keep_log_file_num(_LOG_FILES)
    options.set_max_log_file_size(_LOG_FILE_BYTES)
    options.set_block_based_table_factory(table)
    return options


def _without_log() -> rocksdict.WriteOptions:
    options = rocksdict.WriteOptions()
    options.disable_wal = True  # type: ignore[method-assign, assignment]  # rocksdict's stub calls this property a method
    return options


class Batch:
    """Puts and deletes over column families that become visible together."""

    def __init__(self, families: dict[str, rocksdict.ColumnFamily]) -> None:
        self._families = families
        self.changes = rocksdict.WriteBatch(raw_mode=True)

    def put_many(self, family: str, keys: Iterable[bytes], values: Iterable[bytes]) -> None:
        put, handle = self.changes.put, self._families[family]
        for key, value in zip(keys, values, strict=True):
            put(key, value, handle)

    def delete_many(self, family: str, keys: Iterable[bytes]) -> None:
        delete, handle = self.changes.delete, self._families[family]
        for key in keys:
            delete(key, handle)


class StateStore:
    """Column families of binary rows. The directory is disposable: what must last goes through `checkpoint`.

    Column families are always named with their options on open, 'default' too: rocksdict 0.3 otherwise falls back
    to an 8 MiB cache and no bloom filter on an existing directory, without a word.
    """

    def __init__(self, path: Path, families: Sequence[str], cache_bytes: int) -> None:
        """Open `path`, making it where it is missing.

        Raises:
            SnapshotError: the directory holds another format.
        """
        known, options = (path / "CURRENT").exists(), _options(cache_bytes)
        path.mkdir(parents=True, exist_ok=True)
        self._writing = _without_log()
        self._db = rocksdict.Rdict(str(path), options=options, column_families=dict.fromkeys((_DEFAULT, *families), options))
        self._families = {name: self._db.get_column_family(name) for name in families}
        self._handles = {name: self._db.get_column_family_handle(name) for name in families}
        self._check_format(known)

    @classmethod
    def empty(cls, path: Path, families: Sequence[str], cache_bytes: int) -> "StateStore":
        """A store without rows; what lay at `path` goes."""
        _clear(path)
        return cls(path, families, cache_bytes)

    @classmethod
    def from_checkpoint(cls, checkpoint: Path, path: Path, families: Sequence[str], cache_bytes: int) -> "StateStore":
        """The rows of `checkpoint` in the working directory `path`, by hard links; what lay at `path` goes.

        Raises:
            SnapshotError: there is no checkpoint, or it has another format.
        """
        if not (checkpoint / "CURRENT").exists():
            raise SnapshotError(f"{checkpoint} holds no RocksDB checkpoint; remove it to fall back to an older one, or {REBUILD}")
        _clear(path)
        path.mkdir(parents=True)
        for source in sorted(checkpoint.iterdir()):
            _link(source, path / source.name)
        return cls(path, families, cache_bytes)

    def _check_format(self, known: bool) -> None:
        if not known:
            self._db.put(FORMAT_KEY, str(FORMAT).encode(), self._writing)
            return
        found = self._db.get(FORMAT_KEY)
        if found != str(FORMAT).encode():
            self.close()
            raise SnapshotError(f"the state store has format {found!r}, this version reads {FORMAT}; {REBUILD}")

    def get_many(self, family: str, keys: Sequence[bytes]) -> list[bytes | None]:
        """The value of each key, None where there is none."""
        wanted: list[str | int | float | bytes | bool] = list(keys)  # the stub's list is invariant
        found: list[bytes | None] = cast(Any, self._families[family].get(wanted)) if keys else []
        return found

    def batch(self) -> Batch:
        return Batch(self._handles)

    def write(self, batch: Batch) -> None:
        """Make the changes of `batch` visible; the batch is spent."""
        self._db.write(batch.changes, self._writing)

    def drop_below(self, family: str, key: bytes) -> None:
        """Delete every key lower than `key`, by one range tombstone.

        The tombstone is flushed at once: while one lies in the write buffer, RocksDB's multi-get goes past the buffer's bloom filter.
        """
        self._families[family].delete_range(b"", key, self._writing)
        self._families[family].flush(False)

    def items(self, family: str) -> Iterator[tuple[bytes, bytes]]:
        """Keys and values in key order."""
        yield from self._families[family].items()

    def keys(self, family: str, first: bytes) -> Iterator[bytes]:
        """Keys in order, from `first` on."""
        yield from self._families[family].keys(from_key=first)

    def checkpoint(self, directory: Path) -> None:
        """Flush, then hard links to the table files in `directory`, which must not exist."""
        rocksdict.Checkpoint(self._db).create_checkpoint(str(directory))

    def sizes_bytes(self) -> dict[str, int]:
        """Bytes by use: 'cache' and 'cache_limit' (shared by the process), 'tables' on disk, 'buffers' not yet flushed."""
        return {
            "cache": self._property(_DEFAULT, "block-cache-usage"),
            "cache_limit": self._property(_DEFAULT, "block-cache-capacity"),
            "tables": sum(self._property(name, "total-sst-files-size") for name in self._families),
            "buffers": sum(self._property(name, "cur-size-all-mem-tables") for name in self._families),
        }

    def _property(self, family: str, name: str) -> int:
        return self._families.get(family, self._db).property_int_value(f"rocksdb.{name}") or 0

    def close(self) -> None:
        """Flush and let go of the directory. RocksDB keeps its lock as long as any handle lives."""
        self._handles.clear()
        for family in self._families.values():
            family.close()
        self._families.clear()
        self._db.close()


def _clear(path: Path) -> None:
    if path.exists():
        shutil.rmtree(path)


def _link(source: Path, target: Path) -> None:
    """Table files never change, so they are shared; the rest RocksDB rewrites, so it is copied."""
    if source.suffix != ".sst":
        shutil.copy2(source, target)
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.copy2(source, target)  # the checkpoint lies on another file system


class ExpiringRows:
    """One column family whose rows are absent once unused for `ttl_ms` of event time.

    A value starts with the time of its last use (int64 ms). A key starts with the
    generation of that time, `used_ms // ttl_ms`: unexpired rows lie in the current and the previous generation, and older ones
    go by a single range deletion. So expiry costs no scan, and at most two generations are kept, whatever ids come in; what a cache above
    writes when its time is over goes with the next.
    """

    def __init__(self, store: StateStore, family: str, ttl_ms: int) -> None:
        self.store, self._family, self._ttl_ms = store, family, ttl_ms

    def load(self, ids: Sequence[bytes], now_ms: int) -> list[bytes | None]:
        """The newest stored value of each id; it may be expired: the caller knows the time of its row."""
        current, previous = _prefix(now_ms // self._ttl_ms), _prefix(now_ms // self._ttl_ms - 1)
        values = self.store.get_many(self._family, [current + id_ for id_ in ids])
        missing = [at for at, value in enumerate(values) if value is None]
        older = self.store.get_many(self._family, [previous + ids[at] for at in missing])
        for at, value in zip(missing, older, strict=True):
            values[at] = value
        return values

    def save(self, batch: Batch, ids: Sequence[bytes], values: Iterable[bytes], used_ms: np.ndarray, loaded_ms: np.ndarray) -> None:
        """Add rows to `batch`.

        Args:
            batch: of the same store.
            ids: n ids.
            values: n values.
            used_ms: int64 [n], the time that each value starts with.
            loaded_ms: int64 [n], that time in the value that `load` gave; 0 where it gave none, or one that may stay until it expires.
        """
        new, old = used_ms // self._ttl_ms, loaded_ms // self._ttl_ms
        moved = np.flatnonzero((loaded_ms > 0) & (old != new)).tolist()
        batch.delete_many(self._family, _keys(old[moved], [ids[at] for at in moved]))
        batch.put_many(self._family, _keys(new, ids), values)

    def drop_expired(self, before_ms: int, now_ms: int) -> None:
        """Delete the generations that ended when time went from `before_ms` (0 before the first row) to `now_ms`."""
        if 0 < before_ms // self._ttl_ms < now_ms // self._ttl_ms:
            self.store.drop_below(self._family, _prefix(now_ms // self._ttl_ms - 1))

    def walk(self, key: bytes, count: int) -> tuple[list[bytes], bytes]:
        """The ids of at most `count` stored rows from `key` on, in key order, and the key to go on from; empty after the last row."""
        found = list(itertools.islice(self.store.keys(self._family, key), count + 1))
        return [stored[_PREFIX_BYTES:] for stored in found[:count]], found[count] if len(found) > count else b""

    def live(self, now_ms: int) -> Iterator[tuple[bytes, bytes]]:
        """Unexpired keys and values in key order."""
        for key, value in self.store.items(self._family):
            if now_ms - int.from_bytes(value[:8], "little") < self._ttl_ms:
                yield key, value


_PREFIX_BYTES = 4


def _prefix(generation: int) -> bytes:
    return struct.pack(">I", max(generation, 0))


def _keys(generations: np.ndarray, ids: Sequence[bytes]) -> list[bytes]:
    prefixes = {generation: _prefix(generation) for generation in np.unique(generations).tolist()}
    return [prefixes[generation] + id_ for generation, id_ in zip(generations.tolist(), ids, strict=True)]
