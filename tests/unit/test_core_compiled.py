"""What compiled code is told of memory changes no result."""

import numpy as np

from core.compiled import ask, compiled, contiguous, summed


@summed
def total(a: np.ndarray) -> float:
    of, sum_ = contiguous(a), 0.0
    for i in range(of.shape[0]):
        sum_ += of[i]
    return sum_


@compiled
def rows_total(table: np.ndarray, rows: np.ndarray) -> float:
    sum_ = 0.0
    for row in rows:
        ask(table.ctypes.data + row * table.strides[0], table.strides[0])
        sum_ += total(table[row])
    return sum_


@compiled
def set_first(a: np.ndarray) -> np.ndarray:
    of = contiguous(a)
    of[0] = 7.0
    return of


def test_a_strided_table_of_contiguous_rows_is_summed_as_it_is() -> None:
    record = np.zeros(50, np.dtype({"names": ["x"], "formats": [("f8", (20,))], "offsets": [8], "itemsize": 200}))
    record["x"] = np.random.default_rng(0).normal(size=(50, 20))
    rows = np.array([3, 3, 49, 0])
    np.testing.assert_allclose(rows_total(record["x"], rows), sum(record["x"][row].sum() for row in rows), rtol=1e-12)


def test_any_address_may_be_asked_for() -> None:
    table = np.arange(12.0).reshape(3, 4)
    before = table.copy()
    ask_anywhere(table)
    assert np.array_equal(table, before)


@compiled
def ask_anywhere(table: np.ndarray) -> None:
    for address in (0, 1, -64, table.ctypes.data + (1 << 45)):
        ask(address, 1000)


def test_contiguous_is_the_same_memory_and_outlives_the_call() -> None:
    array = np.arange(5.0)
    same = set_first(array)
    assert same.ctypes.data == array.ctypes.data and array[0] == 7.0
    del array
    assert same.tolist() == [7.0, 1.0, 2.0, 3.0, 4.0]
