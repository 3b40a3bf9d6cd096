"""What belongs to what: author and category of each item."""

import hashlib
from pathlib import Path

import msgspec

from core.snapshot import Snapshot

_FILE = "belongings.msgpack"


class Belongings:
    """By row of the item. A snapshot takes over the last one's file where nothing changed."""

    def __init__(self, capacity: int) -> None:
        self.author: list[str | None] = [None] * (capacity + 1)  # one more: row -1 has neither
        self.category: list[str | None] = [None] * (capacity + 1)
        self._changed = True

    def put(self, row: int, author: str | None, category: str | None) -> None:
        if (self.author[row], self.category[row]) != (author, category):
            self.author[row], self.category[row], self._changed = author, category, True

    def _told(self, rows: int) -> list[list[str | None]]:
        return [self.author[:rows], self.category[:rows]]

    def snapshot(self, into: Snapshot, rows: int) -> None:
        if self._changed or not into.link(_FILE):
            into.write(_FILE, msgspec.msgpack.encode(self._told(rows)))
        self._changed = False

    def restore(self, directory: Path) -> None:
        author, category = msgspec.msgpack.decode((directory / _FILE).read_bytes())
        self.author[: len(author)], self.category[: len(category)] = author, category

    def digest(self) -> str:
        told = {row: pair for row, pair in enumerate(zip(self.author, self.category, strict=True)) if pair != (None, None)}
        return hashlib.sha256(msgspec.msgpack.encode(told)).hexdigest()
