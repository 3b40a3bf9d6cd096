"""Which ids are worth a row: those seen often enough, by a filter of fixed size."""

from pathlib import Path

import msgspec
import numpy as np

from core.snapshot import Snapshot

CELLS = 1 << 20
_PROBES = 2
_MOST = 255
_FILE = "sightings.msgpack"


class Sightings:
    """How often ids without a row were seen lately: a counting filter with conservative update, 1 MiB.

    All counts halve after every `CELLS` sightings, so that ids that come once each for ever never fill it. A count may be too high
    where ids share cells, never too low within a halving.

    Source: Estan, Varghese, "New directions in traffic measurement and accounting", SIGCOMM 2002. State: the cells, sightings so far.
    """

    def __init__(self) -> None:
        self._cells, self._seen = np.zeros(CELLS, np.uint8), 0

    def see(self, fingerprint: np.ndarray) -> int:
        """Count one more sighting of an id (uint64 [2]); returns how many there were, this one included."""
        self._seen += 1
        if self._seen % CELLS == 0:
            self._cells >>= 1
        places = [int(half) % CELLS for half in fingerprint[:_PROBES]]
        count = min(int(self._cells[place]) for place in places)
        for place in places:
            if self._cells[place] == count < _MOST:
                self._cells[place] = count + 1
        return count + 1

    def snapshot(self, into: Snapshot) -> None:
        held = np.flatnonzero(self._cells)
        state = {"seen": self._seen, "places": held.astype("<i4").tobytes(), "counts": self._cells[held].tobytes()}
        into.write(_FILE, msgspec.msgpack.encode(state))

    def restore(self, directory: Path) -> None:
        state = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self._seen = state["seen"]
        self._cells[:] = 0
        self._cells[np.frombuffer(state["places"], "<i4")] = np.frombuffer(state["counts"], np.uint8)

    def digested(self) -> bytes:
        """What makes two states the same."""
        return self._seen.to_bytes(8, "little") + self._cells.tobytes()
