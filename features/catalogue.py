"""What the user stage knows of the catalogue: the category of each item, for what a user did with it."""

from collections.abc import Sequence
from itertools import islice, repeat
from pathlib import Path

import msgspec
import numpy as np

from core.hashing import fingerprints
from core.snapshot import Snapshot
from features.affinity import NO_CATEGORY

_FILE = "catalogue.msgpack"


class Shelf(msgspec.Struct):
    """What is read of an entry. The first category is the item's."""

    categories: list[str] = []


_shelf = msgspec.json.Decoder(Shelf).decode


class Catalogue:
    """Item -> hash of its category.

    State: at most `capacity` items, those whose entries changed last. A snapshot takes over the last one's file where nothing changed.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._of: dict[str, int] = {}
        self._changed = True

    def __len__(self) -> int:
        return len(self._of)

    def put(self, item_id: str, entry: str | None) -> None:
        """An entry, normalised JSON; None removes the item."""
        self._changed = True
        self._of.pop(item_id, None)
        if entry is not None and (categories := _shelf(entry).categories):
            self._of[item_id] = int(fingerprints(categories[:1]).view(np.int64)[0, 0])
            for oldest in list(islice(self._of, max(0, len(self._of) - self._capacity))):
                del self._of[oldest]

    def categories(self, item_ids: Sequence[str | None]) -> list[int]:
        """The hash of each item's category, NO_CATEGORY where none is known."""
        return list(map(self._of.get, item_ids, repeat(NO_CATEGORY)))  # type: ignore[arg-type]  # None is no key

    def snapshot(self, into: Snapshot) -> None:
        if self._changed or not into.link(_FILE):
            into.write(_FILE, msgspec.msgpack.encode(self._of))
        self._changed = False

    def restore(self, directory: Path) -> None:
        self._of = msgspec.msgpack.decode((directory / _FILE).read_bytes(), type=dict[str, int])
        self._changed = True

    def digest(self) -> bytes:
        return msgspec.msgpack.encode(list(self._of.items()))
