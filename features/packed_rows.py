"""Rows that went cold, packed, in memory: between those in use and the store. A row that comes back soon never was on disk."""

from collections import OrderedDict
from collections.abc import Iterable, Sequence

Packed = tuple[bytes, int, bool]  # packed words; time in the value that the store has, 0 where it has none; whether that is another one
OVERHEAD_BYTES = 250  # of a row, beside its packed words


class PackedRows:
    """At most `limit_bytes` of rows by id, in the order in which they came.

    Plain tuples: one object more a row would cost more than its packing.
    """

    def __init__(self, limit_bytes: int) -> None:
        self._limit_bytes = limit_bytes
        self._rows: OrderedDict[str, Packed] = OrderedDict()  # a plain dict would search for its first key past all that went
        self._bytes = 0

    def put(self, ids: Sequence[str], rows: Sequence[Packed]) -> None:
        """Rows that are not here."""
        self._rows.update(zip(ids, rows, strict=True))
        self._bytes += _bytes(rows)

    def pop(self, ids: Iterable[str]) -> list[Packed | None]:
        """The row of each id, which goes."""
        pop = self._rows.pop
        found = [pop(id_, None) for id_ in ids]
        self._bytes -= _bytes([row for row in found if row])
        return found

    def get(self, ids: Iterable[str]) -> list[Packed | None]:
        return list(map(self._rows.get, ids))

    def trim(self) -> dict[str, Packed]:
        """Let the oldest go, down to the limit; those that the store does not have as they are."""
        gone: dict[str, Packed] = {}
        while self._bytes > self._limit_bytes:
            id_, row = self._rows.popitem(last=False)
            self._bytes -= _bytes([row])
            if row[2]:
                gone[id_] = row
        return gone

    def changed(self) -> dict[str, Packed]:
        """The rows that the store does not have as they are."""
        return {id_: row for id_, row in self._rows.items() if row[2]}

    def keep_stored(self) -> None:
        """The store has every row now."""
        self._rows.update((id_, (value, used_ms(value), False)) for id_, (value, _, _) in self.changed().items())


def used_ms(value: bytes) -> int:
    """Time of the last use, which a packed row starts with."""
    return int.from_bytes(value[:8], "little")


def _bytes(rows: Sequence[Packed]) -> int:
    return sum(len(row[0]) for row in rows) + len(rows) * OVERHEAD_BYTES
