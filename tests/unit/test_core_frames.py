"""Frame operations on the calling thread say what polars' own say, and leave what they were given as it was."""

import numpy as np
import polars as pl
import pytest
from polars.testing import assert_frame_equal

from core import frames

ROWS = pl.DataFrame(
    {
        "kind": [0, 1, 0, 2, 0],
        "source": [0, 0, 1, 1, 0],
        "id": ["a", None, "a name longer than a view's twelve bytes", "", "b"],
        "vector": [[0.5, 1.0], [2.0, 3.0], None, [4.0, 5.0], [6.0, 7.0]],
    },
    schema={"kind": pl.UInt8, "source": pl.UInt16, "id": pl.String, "vector": pl.Array(pl.Float32, 2)},
)


@pytest.mark.parametrize("kept", [[True] * 5, [False] * 5, [True, False, False, True, True]])
def test_pick_is_filter(kept: list[bool]) -> None:
    mask = np.array(kept)
    assert_frame_equal(frames.pick(ROWS, mask), ROWS.filter(pl.Series(mask)))
    assert_frame_equal(frames.pick(ROWS[:0], mask[:0]), ROWS[:0])


@pytest.mark.parametrize("parts", [[ROWS], [ROWS, ROWS[:0]], [ROWS[:0], ROWS], [ROWS[1:3], ROWS, ROWS[4:]]])
def test_stack_is_concat(parts: list[pl.DataFrame]) -> None:
    before = [part.clone() for part in parts]
    assert_frame_equal(frames.stack(parts), pl.concat(parts))
    for part, held in zip(parts, before, strict=True):
        assert_frame_equal(part, held)
    assert frames.stack(parts).n_chunks() == 1


def test_with_source() -> None:
    before = ROWS.clone()
    assert_frame_equal(frames.with_source(ROWS, 7), ROWS.with_columns(pl.lit(7, pl.UInt16).alias("source")))
    assert_frame_equal(ROWS, before)
    assert frames.with_source(ROWS[:0], 7).schema == ROWS.schema


def test_from_columns_has_the_schema() -> None:
    columns = {"id": ["x", None], "vector": np.ones((2, 2)), "source": np.array([1, 2]), "kind": [0, 1]}
    assert frames.from_columns(ROWS.schema, columns).schema == ROWS.schema
    none = {"id": [], "vector": np.empty((0, 2)), "source": [], "kind": []}
    assert_frame_equal(frames.from_columns(ROWS.schema, none), ROWS[:0])
    with pytest.raises(KeyError, match="kind"):
        frames.from_columns(ROWS.schema, {"id": [], "vector": [], "source": []})


@pytest.mark.parametrize("present", [[True] * 3, [False] * 2, [], [False, True, True, False, True]])
def test_from_matrix_is_null_where_a_row_is_absent(present: list[bool]) -> None:
    matrix = np.arange(2 * sum(present), dtype=np.float32).reshape(-1, 2)
    column, rows = frames.from_matrix("vector", matrix, np.array(present, dtype=bool)), iter(matrix.tolist())
    assert (column.name, column.dtype) == ("vector", ROWS.schema["vector"])
    assert column.to_list() == [next(rows) if there else None for there in present]


def test_reorder_is_gather() -> None:
    assert_frame_equal(frames.reorder(ROWS, np.array([4, 0, 0, 2])), ROWS[[4, 0, 0, 2]])


@pytest.mark.parametrize("at", [[], [2, 0, 0], [1, -1, 4], [-1]])
def test_places_index_columns_and_are_null_below_zero(at: list[int]) -> None:
    expected = [None if place < 0 else ROWS["source"].to_list()[place] for place in at]
    assert ROWS["source"][frames.places(np.array(at, dtype=np.int64))].to_list() == expected


def test_constant() -> None:
    assert frames.constant("a", 3, pl.Int8(), 2).to_list() == [3, 3]
    assert frames.constant("a", None, pl.String(), 0).dtype == pl.String
