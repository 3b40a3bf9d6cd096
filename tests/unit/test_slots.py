"""Numbers by hash against a dict: all are found where a kernel looks for them, and nothing is left behind."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.slots import HASH_BITS, empty_slots, insert, number_of, numbers, remove

HIGHEST = (1 << HASH_BITS) - 1  # ends at the last place of every table
any_hash = st.one_of(
    st.sampled_from([0, 1, 2, HIGHEST, HIGHEST - 1, HIGHEST - 2, 1 << 30]),
    st.integers(HIGHEST - 40, HIGHEST),
    st.integers(0, HIGHEST),
)


def found(slots: np.ndarray, hash_: int) -> list[int]:
    """The numbers of a hash, as a kernel finds them: from the hash's own place on, up to an empty slot."""
    at, told = hash_ % slots.size, []
    while slots[at]:
        if slots[at] >> 32 == hash_:
            told.append(number_of(slots[at]))
        at = (at + 1) % slots.size
    return told


def check(slots: np.ndarray, model: dict[int, int]) -> None:
    """`model`: number -> hash."""
    held = numbers(slots)
    assert held.dtype == np.int32
    assert sorted(held.tolist()) == sorted(model)
    for hash_ in set(model.values()):
        assert sorted(found(slots, hash_)) == sorted(number for number, own in model.items() if own == hash_)


@settings(max_examples=300, deadline=None)
@given(st.integers(1, 40), st.data())
def test_any_inserts_and_removes_equal_a_dict(room: int, data: st.DataObject) -> None:
    hashes = data.draw(st.lists(any_hash, min_size=1, max_size=5))
    slots, model = empty_slots(room), dict[int, int]()
    for number in data.draw(st.lists(st.integers(0, room - 1), max_size=80)):
        if number in model:
            remove(slots, model.pop(number), number)
        else:
            model[number] = data.draw(st.sampled_from(hashes))
            insert(slots, model[number], number)
        check(slots, model)
    for number, hash_ in model.items():
        remove(slots, hash_, number)
    assert not slots.any()


@pytest.mark.parametrize("spread", [1, 3, 50, HIGHEST + 1])
@pytest.mark.parametrize("highest", [False, True])
def test_a_full_table_equals_a_dict_over_many_changes(spread: int, highest: bool) -> None:
    """With the hashes among the lowest or the highest ones, whose numbers go on at the table's start."""
    random, room = np.random.default_rng(spread), 500
    slots, model = empty_slots(room), dict[int, int]()
    for number in random.integers(0, room, 8_000).tolist():
        hash_ = int(random.integers(spread))
        if number in model and random.random() < 0.7:
            remove(slots, model.pop(number), number)
        elif number not in model:
            model[number] = HIGHEST - hash_ if highest else hash_
            insert(slots, model[number], number)
    assert len(model) > room / 2
    check(slots, model)
    for number, own in model.items():
        remove(slots, own, number)
    assert not slots.any()


def test_what_wrapped_round_the_end_moves_up_when_one_before_it_goes() -> None:
    slots = empty_slots(4)
    last = slots.size - 1
    for number in range(3):
        insert(slots, last, number)
    insert(slots, 0, 3)  # at home at the start, where two from the end are by now
    assert [number_of(slots[at]) for at in (last, 0, 1, 2)] == [0, 1, 2, 3]
    remove(slots, last, 0)
    assert [number_of(slots[at]) for at in (last, 0, 1, 2)] == [1, 2, 3, -1]
    remove(slots, last, 1)
    assert [number_of(slots[at]) for at in (last, 0, 1)] == [2, 3, -1], "the one at home at the start stays there"


def test_one_in_its_own_place_does_not_move_before_it() -> None:
    slots = empty_slots(4)
    insert(slots, 1, 0)
    insert(slots, 2, 1)
    remove(slots, 1, 0)
    assert found(slots, 2) == [1]
    assert slots[1] == 0


@pytest.mark.parametrize("room", [0, 1, 2, 3, 4, 5, 1_000, 1_024, 1_025])
def test_a_table_has_an_empty_slot_for_every_number(room: int) -> None:
    slots = empty_slots(room)
    assert slots.size >= max(2, 2 * room)
    assert slots.size & (slots.size - 1) == 0
    assert numbers(slots).size == 0
    for number in range(room):
        insert(slots, HIGHEST, number)
    assert sorted(found(slots, HIGHEST)) == list(range(room))
    assert found(slots, HIGHEST - slots.size // 2) == [], "a search that finds nothing ends"


def test_high_numbers_and_hashes_keep_apart() -> None:
    slots, highest = empty_slots(8), (1 << 31) - 2
    insert(slots, HIGHEST, highest)
    insert(slots, 0, 0)
    assert (found(slots, HIGHEST), found(slots, 0)) == ([highest], [0])
    assert number_of(0) == -1
