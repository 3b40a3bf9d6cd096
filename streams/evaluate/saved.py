"""What an evaluation remembers, as files of a snapshot: arrays without pickle, frames that only grow."""

import io
from pathlib import Path

import numpy as np
import polars as pl

from core.contender import State
from core.snapshot import Snapshot


def to_npz(state: State) -> bytes:
    """Named arrays as the bytes of an .npz file."""
    out = io.BytesIO()
    np.savez(out, allow_pickle=False, **state)
    return out.getvalue()


def from_npz(path: Path) -> State:
    with np.load(path, allow_pickle=False) as stored:
        return {name: stored[name] for name in stored.files}


class GrowingFrame:
    """A frame that rows are only added to. A snapshot writes what is new since the last one, and links the rest."""

    def __init__(self, name: str) -> None:
        self._name, self._chunks, self._new = name, list[pl.DataFrame](), list[pl.DataFrame]()

    def add(self, rows: pl.DataFrame) -> None:
        if rows.height or not self._new:
            self._new.append(rows)

    def whole(self) -> pl.DataFrame:
        """All rows; a frame without columns where nothing was ever added."""
        return pl.concat([*self._chunks, *self._new]) if self._chunks or self._new else pl.DataFrame()

    def snapshot(self, into: Snapshot) -> None:
        if self._new:
            self._chunks.append(pl.concat(self._new))
            self._new = []
        for number, chunk in enumerate(self._chunks):
            name = f"{self._name}-{number:06}.arrow"
            if not into.link(name):
                out = io.BytesIO()
                chunk.write_ipc(out, compression="lz4")
                into.write(name, out.getvalue())

    def restore(self, directory: Path) -> None:
        self._chunks = [pl.read_ipc(path.read_bytes()) for path in sorted(directory.glob(f"{self._name}-*.arrow"))]
