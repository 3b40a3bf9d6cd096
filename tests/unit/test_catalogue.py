"""Categories of items: what is remembered, what goes, and snapshots of it."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from core.hashing import fingerprint
from features.affinity import NO_CATEGORY
from features.catalogue import Catalogue
from tests.snapshots import save


def hash_of(category):
    return int.from_bytes(fingerprint(category)[:8], "little", signed=True)


def entry(*categories, **others):
    return msgspec.json.encode({"categories": list(categories), **others}, order="sorted").decode()


def known(catalogue, names="abcdefg"):
    """The items that have a category."""
    return "".join(name for name, found in zip(names, catalogue.categories(names), strict=True) if found != NO_CATEGORY)


def filled(names, capacity=100):
    catalogue = Catalogue(capacity)
    for name in names:
        catalogue.put(name, entry(f"of {name}"))
    return catalogue


def test_an_item_has_the_hash_of_its_first_category():
    catalogue = Catalogue(10)
    catalogue.put("a", entry("music", "film", author="x", text="words"))
    catalogue.put("b", entry("film"))
    catalogue.put("c", entry("music"))
    assert catalogue.categories(["b", "a", "nobody's", None, "c"]) == [hash_of("film"), hash_of("music"), 0, 0, hash_of("music")]
    assert catalogue.categories([]) == []


@pytest.mark.parametrize("gone", [None, "{}", '{"categories":[]}', '{"author":"x","tags":["y"]}'])
def test_a_removal_and_an_entry_without_categories_forget(gone):
    catalogue = filled("ab")
    catalogue.put("a", gone)
    catalogue.put("never", gone)
    assert (known(catalogue), len(catalogue)) == ("b", 1)


def test_a_new_category_takes_the_place_of_the_old_one():
    catalogue = filled("a")
    catalogue.put("a", entry("new"))
    assert catalogue.categories(["a"]) == [hash_of("new")]


def test_the_oldest_change_makes_room():
    catalogue = filled("abc", capacity=3)
    catalogue.put("a", entry("again"))
    catalogue.put("d", entry("new"))
    assert (known(catalogue), len(catalogue)) == ("acd", 3)
    catalogue.put("c", None)
    catalogue.put("e", entry("new"))
    assert known(catalogue) == "ade"


changes = st.lists(st.tuples(st.sampled_from("abcdefg"), st.one_of(st.none(), st.lists(st.sampled_from("xyz"), max_size=2))), max_size=40)


@settings(deadline=None)
@given(changes, st.integers(1, 5))
def test_any_changes_leave_the_last_ones(told, capacity):
    catalogue, held = Catalogue(capacity), []
    for item, categories in told:
        catalogue.put(item, None if categories is None else entry(*categories))
        held = [pair for pair in held if pair[0] != item]
        held = [*held, (item, categories[0])][-capacity:] if categories else held
    assert catalogue.categories("abcdefg") == [hash_of(dict(held)[item]) if item in dict(held) else 0 for item in "abcdefg"]


def test_a_restored_catalogue_is_the_same_and_goes_on_alike(tmp_path):
    catalogue, again = filled("abc", capacity=4), Catalogue(4)
    catalogue.put("a", entry("again"))
    save(catalogue, tmp_path / "one")
    again.put("g", entry("of what was there before"))
    again.restore(tmp_path / "one")
    assert (again.digest(), known(again)) == (catalogue.digest(), "abc")
    for each in (catalogue, again):
        for name in "defg":
            each.put(name, entry("late"))
            assert len(each) == 4
    assert again.digest() == catalogue.digest()


def test_order_is_part_of_the_digest():
    assert filled("ab").digest() != filled("ba").digest()
    assert filled("ab").digest() == filled("abab").digest()


def links(directory):
    return (directory / "catalogue.msgpack").stat().st_nlink


def test_a_snapshot_links_what_did_not_change(tmp_path):
    catalogue = filled("abc")
    save(catalogue, tmp_path / "one")
    save(catalogue, tmp_path / "two", tmp_path / "one")
    assert links(tmp_path / "one") == links(tmp_path / "two") == 2
    catalogue.put("d", entry("new"))
    save(catalogue, tmp_path / "three", tmp_path / "two")
    assert (links(tmp_path / "two"), links(tmp_path / "three")) == (2, 1)
    save(catalogue, tmp_path / "four")  # nothing to link from
    for name, expected in (("two", "abc"), ("three", "abcd"), ("four", "abcd")):
        again = Catalogue(100)
        again.restore(tmp_path / name)
        assert known(again) == expected


def test_a_removal_reaches_the_next_snapshot(tmp_path):
    catalogue, again = filled("abc"), Catalogue(100)
    save(catalogue, tmp_path / "one")
    catalogue.put("b", None)
    save(catalogue, tmp_path / "two", tmp_path / "one")
    again.restore(tmp_path / "two")
    assert (known(again), again.digest()) == ("ac", catalogue.digest())


def test_an_empty_catalogue_has_a_snapshot(tmp_path):
    save(Catalogue(3), tmp_path / "one")
    again = filled("ab")
    again.restore(tmp_path / "one")
    assert (len(again), again.digest()) == (0, Catalogue(3).digest())


def test_a_restored_catalogue_writes_its_first_snapshot_anew(tmp_path):
    """What the previous one of that host held need not be what was restored."""
    save(filled("abc"), tmp_path / "one")
    save(filled("d"), tmp_path / "other")
    again = Catalogue(100)
    again.restore(tmp_path / "one")
    save(again, tmp_path / "two", tmp_path / "other")
    assert links(tmp_path / "other") == 1
    last = Catalogue(100)
    last.restore(tmp_path / "two")
    assert last.digest() == again.digest()


def test_a_smaller_capacity_holds_from_the_next_entry_on(tmp_path):
    save(filled("abcdef"), tmp_path / "one")
    smaller = Catalogue(2)
    smaller.restore(tmp_path / "one")
    smaller.put("g", entry("new"))
    assert known(smaller) == "fg"
