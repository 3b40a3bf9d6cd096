"""Publications on the wire: from a stage's touched rows to records of `parameters`, and back.

A publication is one msgpack map of Arrow tables, cut into numbered parts where it is larger than a record may be.
Readers see it when its last part is there.
"""

import uuid
from collections.abc import Callable
from typing import TypeVar

import msgspec
import numpy as np

from core.errors import FreshetError
from core.schemas import decode, encode
from core.stage import Publication
from streams.writer import Headers

T = TypeVar("T")
HEADER = "freshet-publication"
PART_BYTES = 4 << 20
PROCESS = uuid.uuid4().hex[:12]
MAX_OPEN = 64  # publications whose parts are gathered at a time; the oldest of more was cut off by a crash


class Part(msgspec.Struct, frozen=True):
    """Header of one record: whose publication, which of how many parts.

    `process`: tells a writer from its predecessor, which may still send. `lineage`: id of the topic the writer reads.
    """

    writer: str
    process: str
    lineage: str
    version: int
    index: int
    parts: int
    format: int = 1


class Body(msgspec.Struct, frozen=True):
    version: int
    clock_ms: int
    tables: dict[str, bytes]  # Arrow IPC
    sent_ms: bytes  # int64 little endian
    learned: int = 0


def to_records(publication: Publication, writer: str, lineage: str) -> list[tuple[bytes, Headers]]:
    """(value, headers) of each part, in order."""
    tables = {name: encode(rows) for name, rows in publication.tables.items()}
    body = Body(publication.version, publication.clock_ms, tables, publication.sent_ms.astype("<i8").tobytes(), publication.learned)
    raw = msgspec.msgpack.encode(body)
    cuts = [raw[at : at + PART_BYTES] for at in range(0, len(raw), PART_BYTES)]
    parts = (Part(writer, PROCESS, lineage, publication.version, index, len(cuts)) for index in range(len(cuts)))
    return [(cut, [(HEADER, msgspec.json.encode(part))]) for cut, part in zip(cuts, parts, strict=True)]


class Assembler:
    """Puts parts together again, per process of a writer. A publication that a crash cut off gives way to the next one."""

    def __init__(self) -> None:
        self._open: dict[tuple[str, str], list[bytes]] = {}

    def add(self, value: bytes, headers: Headers) -> tuple[Part, Publication] | None:
        """The publication that this record completes, if it does.

        Raises:
            FreshetError: the record is not one of ours.
        """
        part = _part(headers)
        key = (part.writer, part.process)
        if part.index == 0:
            self._open.pop(key, None)
            self._open[key] = []
            while len(self._open) > MAX_OPEN:
                del self._open[next(iter(self._open))]
        pieces = self._open.get(key, [])
        if part.index != len(pieces):  # its first parts were cut off by retention or a crash
            return None
        pieces.append(value)
        if len(pieces) < part.parts:
            return None
        return part, _publication(b"".join(self._open.pop(key)))


def _part(headers: Headers) -> Part:
    for name, value in headers:
        if name == HEADER and value is not None:
            return _decoded(value, msgspec.json.decode, Part)
    raise FreshetError(f"a record of the parameters topic has no {HEADER!r} header: another program writes there")


def _decoded(raw: bytes, decode: Callable[..., T], type_: type[T]) -> T:
    try:
        return decode(raw, type=type_)
    except msgspec.MsgspecError as error:
        raise FreshetError(f"a record of the parameters topic cannot be read: {error}") from error


def _publication(raw: bytes) -> Publication:
    body = _decoded(raw, msgspec.msgpack.decode, Body)
    tables = {name: decode(table) for name, table in body.tables.items()}
    return Publication(tables, body.version, body.clock_ms, np.frombuffer(body.sent_ms, dtype="<i8"), body.learned)
