"""Arrays with one row per id, saved in chunks of which only the changed ones are written."""

import hashlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from core.compiled import LINE_BYTES
from core.errors import SnapshotError
from core.snapshot import Snapshot

CHUNK_BITS = 12
CHUNK_ROWS = 1 << CHUNK_BITS

Fields = Mapping[str, tuple[str, tuple[int, ...]]]  # name -> (numpy dtype, shape of one row)


def side_by_side(rows: int, fields: Fields) -> dict[str, np.ndarray]:
    """Arrays of zeros, interleaved: all of a row lies together, in their order, so that a cold row is one place to go to.

    They are views, each with contiguous rows.
    """
    packed = np.dtype([(name, dtype, shape) for name, (dtype, shape) in fields.items()], align=True)
    lines = -(-packed.itemsize // LINE_BYTES) | 1  # an odd number: else the same field of all rows crowds into a few sets of the caches
    formats, offsets = zip(*((at[0], at[1]) for at in (packed.fields or {}).values()), strict=True)
    record = np.dtype({"names": list(fields), "formats": formats, "offsets": offsets, "itemsize": lines * LINE_BYTES})
    room = np.zeros(rows * record.itemsize + LINE_BYTES, np.uint8)
    start = -room.ctypes.data % LINE_BYTES
    records = room[start : start + rows * record.itemsize].view(record)
    return {name: records[name] for name in fields}


class Rows:
    """Named arrays of `capacity` rows. Untouched memory is never paged in, so capacity costs address space only.

    Kernels write to the arrays and set `dirty[row >> CHUNK_BITS]`. State: every chunk below `used` rows.
    """

    def __init__(self, capacity: int, fields: Fields) -> None:
        self.arrays = {name: np.zeros((capacity, *shape), dtype=dtype) for name, (dtype, shape) in fields.items()}
        self.dirty = np.zeros((capacity + CHUNK_ROWS - 1) // CHUNK_ROWS, dtype=np.bool_)
        self.capacity = capacity

    @classmethod
    def over(cls, arrays: Mapping[str, np.ndarray], dirty: np.ndarray) -> "Rows":
        """Of arrays that are there already, all with as many rows, and a mark per chunk."""
        rows = cls.__new__(cls)
        rows.arrays, rows.dirty, rows.capacity = dict(arrays), dirty, next(iter(arrays.values())).shape[0]
        return rows

    def __getitem__(self, name: str) -> np.ndarray:
        return self.arrays[name]

    def mark(self, rows: np.ndarray) -> None:
        """Say that these rows changed."""
        self.dirty[rows >> CHUNK_BITS] = True

    def _chunk(self, index: int) -> bytes:
        span = slice(index * CHUNK_ROWS, (index + 1) * CHUNK_ROWS)
        return b"".join(np.ascontiguousarray(array[span]).reshape(-1).view(np.uint8).data for array in self.arrays.values())

    def snapshot(self, into: Snapshot, used: int) -> None:
        """The chunks that hold the first `used` rows; those unchanged since the previous snapshot are linked."""
        for index in range((used + CHUNK_ROWS - 1) // CHUNK_ROWS):
            name = f"chunk-{index:06d}.bin"
            if self.dirty[index] or not into.link(name):
                into.write(name, self._chunk(index))
        self.dirty[:] = False

    def restore(self, directory: Path) -> None:
        for path in sorted(directory.glob("chunk-*.bin")):
            self._load(int(path.stem.removeprefix("chunk-")), path.read_bytes())

    def _load(self, index: int, raw: bytes) -> None:
        span, at = slice(index * CHUNK_ROWS, (index + 1) * CHUNK_ROWS), 0
        if len(raw) != sum(array[span].nbytes for array in self.arrays.values()):
            raise SnapshotError(f"chunk {index} has {len(raw)} bytes: the checkpoint was made with other sizes")
        for array in self.arrays.values():
            part = array[span]
            part[:] = np.frombuffer(raw, array.dtype, part.size, at).reshape(part.shape)
            at += part.nbytes

    def digest(self, rows: np.ndarray) -> str:
        """A hash of the given rows of every array, in the given order."""
        state = hashlib.sha256()
        for array in self.arrays.values():
            for start in range(0, rows.size, CHUNK_ROWS):  # a copy of all would be as large as the array
                state.update(array[rows[start : start + CHUNK_ROWS]].tobytes())
        return state.hexdigest()
