"""The Arrow contract between stages survives the log."""

import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core.errors import FreshetError
from core.schemas import BATCHES, EXAMPLE_BASE, decode, encode, examples_schema


def test_examples_are_the_base_and_then_the_user_columns() -> None:
    assert list(examples_schema(3).items()) == [*EXAMPLE_BASE.items(), ("user", pl.Array(pl.Float32, 3))]


@pytest.mark.parametrize("rows", [0, 1, 500])
def test_records_survive_the_log(rows: int) -> None:
    columns = {
        "kind": [i % 3 for i in range(rows)],
        "source": [i % 7 for i in range(rows)],
        "offset": [2**40 + i for i in range(rows)],
        "user_id": [None if i % 5 == 0 else f"ü{i}" for i in range(rows)],
        "value": [None if i % 2 else i / 3 for i in range(rows)],
    }
    frame = pl.DataFrame({name: pl.Series(columns.get(name, [None] * rows), dtype=dtype) for name, dtype in BATCHES.items()})
    read = decode(encode(frame))
    assert read.schema == BATCHES
    assert_frame_equal(read, frame)


def test_what_is_no_record_is_an_error_of_ours() -> None:
    raw = encode(pl.DataFrame({"a": list(range(1_000))}))
    for broken in (b"", b"{}", raw[: len(raw) // 2]):
        with pytest.raises(FreshetError, match=f"a record of {len(broken)} bytes"):
            decode(broken)
