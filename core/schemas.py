"""The Arrow schemas of the logs between stages: where features, learners and streams meet."""

import io

import polars as pl

from core.errors import FreshetError

EVENT, ITEM, TICK, LABEL = range(4)  # `kind` of a row

EVENT_TYPES = (
    "impression", "click", "view", "like", "follow", "comment", "share",
    "cart", "favourite", "purchase", "hate", "enter", "exit",
)  # fmt: skip

# `batches`: what ingest writes. One row per accepted event, per catalogue change, per tick of the clock.
BATCHES = pl.Schema(
    {
        "kind": pl.UInt8(),
        "source": pl.UInt16(),  # index into the record's ranges
        "offset": pl.Int64(),  # of the source record
        "sent_ms": pl.Int64(),  # its Kafka timestamp; for freshness, never for state
        "ts_ms": pl.Int64(),  # event time; of a tick: ingest's clock; of an item: 0
        "event_id": pl.String(),
        "type": pl.String(),
        "user_id": pl.String(),
        "item_id": pl.String(),
        "value": pl.Float64(),
        "request_id": pl.String(),
        "context": pl.String(),  # JSON text as sent
        "item": pl.String(),  # normalised JSON of the catalogue entry; null removes the item
    }
)

# `examples`: what the feature stage writes (event, label and tick rows) and what ingest adds (item rows).
EXAMPLE_BASE = pl.Schema(
    {
        "kind": pl.UInt8(),
        "source": pl.UInt16(),
        "offset": pl.Int64(),  # of the `batches` record (event, label, tick) or the `items` record (item)
        "row": pl.Int32(),  # row in that record; of a label: the row that made it due. Order within one row is the log's
        "upstream": pl.Int16(),  # `batches` partition; -1 on item rows, which carry no clock
        "clock_ms": pl.Int64(),  # that partition's clock at the row
        "sent_ms": pl.Int64(),
        "ts_ms": pl.Int64(),  # event time; of a label: when it was due
        "type": pl.String(),  # null on label rows, as both ids are
        "user_id": pl.String(),
        "item_id": pl.String(),
        "value": pl.Float64(),  # of a label: 1 or 0
        "request_id": pl.String(),
        "item": pl.String(),
        "ordinal": pl.Int64(),  # event rows of its partition up to this one; of a label: up to its impression; 0 on other rows
        "label": pl.String(),  # its name
        "policy": pl.Int8(),  # of core.labels.POLICIES
        "label_kind": pl.Int8(),  # of core.labels.KINDS
        "delay_ms": pl.Int64(),  # from the impression to the label
    }
)
NO_LABEL = {"label": None, "policy": -1, "label_kind": -1, "delay_ms": 0}  # of all rows but labels
USER = "user"  # column of the user's features


def examples_schema(width: int) -> pl.Schema:
    """`examples` with the user's declared features, as they were before the row: float32 [width], null on rows that are no event."""
    return pl.Schema({**EXAMPLE_BASE, USER: pl.Array(pl.Float32(), width)})


# Every table of `parameters` starts with these; what follows is the table's own.
DELTA_BASE = pl.Schema(
    {
        "id": pl.String(),
        "version": pl.Int64(),  # ordinal in the writer's input of the last row behind it; lower ones are ignored
        "event_ms": pl.Int64(),  # event time of the newest event behind it
        "removed": pl.Boolean(),
    }
)


def encode(rows: pl.DataFrame) -> bytes:
    """Arrow IPC stream, lz4: about 22 bytes an event."""
    out = io.BytesIO()
    rows.write_ipc_stream(out, compression="lz4")
    return out.getvalue()


def decode(raw: bytes) -> pl.DataFrame:
    """The rows of `encode`.

    Raises:
        FreshetError: the bytes are no Arrow stream.
    """
    try:
        return pl.read_ipc_stream(io.BytesIO(raw))
    except (pl.exceptions.PolarsError, OSError) as error:
        raise FreshetError(f"a record of {len(raw)} bytes is no Arrow IPC stream: {error}") from error
