"""The join of impressions and what came of them, against an account that looks at everything each time."""

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from evaluation.join import SETTLED_ENDS, Label, LabelJoin, Revealed

LABELS = (Label("click", "click", 5), Label("buy", "purchase", 20))
Row = tuple[str, str, str, str | None, int]  # type, user, item, request, step of time

ROWS = st.lists(
    st.tuples(
        st.sampled_from(["impression", "impression", "click", "purchase", "like"]),
        st.sampled_from("ab"),
        st.sampled_from("xy"),
        st.sampled_from([None, "r1", "r2"]),
        st.integers(-3, 6),
    ),
    max_size=60,
)


def timed(rows: list[Row]) -> list[Row]:
    """With event times instead of steps; some events are late."""
    now, told = 1_000, list[Row]()
    for *row, step in rows:
        now += step
        told.append((*row, now))  # type: ignore[arg-type]
    return told


def run(join: LabelJoin, rows: list[Row], first: int = 0) -> list[Revealed]:
    found: list[Revealed] = []
    for number, (type_, user, item, request, ts_ms) in enumerate(rows, first):
        found += join.advance(ts_ms)
        if type_ == "impression":
            join.shown(user, item, request, ts_ms, number)
        else:
            found += join.event(type_, user, item, request, ts_ms)
    return found


def naive(rows: list[Row]) -> set[tuple[int, str, int]]:
    """(impression, label, y) of all that is known at the end, by going through everything again for each event."""
    known: dict[tuple[int, str], int] = {}
    latest = 0
    for number, (type_, user, item, request, ts_ms) in enumerate(rows):
        latest = max(latest, ts_ms)
        shown = [(at, row) for at, row in enumerate(rows[:number]) if row[0] == "impression"]
        for at, row in shown:
            for label in LABELS:
                if row[4] + label.horizon_ms < latest:
                    known.setdefault((at, label.name), 0)
        for label in LABELS:
            if type_ == label.positive:
                open_ = [at for at, row in shown if row[1:3] == (user, item) and any((at, of.name) not in known for of in LABELS)]
                if request is not None and any(rows[at][3] is not None for at in open_):
                    open_ = [at for at in open_ if rows[at][3] == request]
                waiting = [at for at in open_ if (at, label.name) not in known]
                if waiting:
                    known[waiting[-1], label.name] = 1
    return {(at, name, y) for (at, name), y in known.items()}


@settings(max_examples=400, deadline=None)
@given(ROWS)
def test_labels_are_those_of_the_naive_account(rows: list[Row]) -> None:
    found = run(LabelJoin(LABELS), timed(rows))
    assert len(found) == len({(revealed.shown, revealed.label) for revealed in found}), "each label once"
    assert {(revealed.shown, revealed.label, revealed.y) for revealed in found} == naive(timed(rows))


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(1, 4))
def test_every_impression_and_every_event_is_accounted_for(rows: list[Row], most: int) -> None:
    join = LabelJoin(LABELS, max_open=most)
    run(join, timed(rows))
    impressions = sum(row[0] == "impression" for row in rows)
    for label in LABELS:
        counts = join.outcomes[label.name]
        assert counts["matched"] + counts["expired"] + counts["capped"] + join.open[label.name] == impressions
        events = sum(row[0] == label.positive for row in rows)
        assert counts["matched"] + counts["repeated"] + counts["late"] + counts["orphan"] == events
        assert join.open[label.name] <= most


@settings(max_examples=200, deadline=None)
@given(ROWS, st.integers(0, 60))
def test_a_restore_at_any_place_changes_nothing(rows: list[Row], place: int) -> None:
    told = timed(rows)
    whole, first, second = LabelJoin(LABELS), LabelJoin(LABELS), LabelJoin(LABELS)
    expected = run(whole, told)
    before = run(first, told[:place])
    second.restore(msgspec.msgpack.decode(msgspec.msgpack.encode(first.state())))
    assert before + run(second, told[place:], place) == expected
    assert second.outcomes == whole.outcomes


def test_a_label_comes_at_its_event_or_at_the_end_of_its_horizon() -> None:
    join = LabelJoin(LABELS)
    found = run(join, [("impression", "a", "x", None, 100), ("click", "a", "x", None, 105), ("like", "a", "x", None, 121)])
    assert found == [Revealed(0, "click", 1, 105), Revealed(0, "buy", 0, 120)]
    assert run(join, [("click", "a", "x", None, 122), ("click", "b", "x", None, 122)]) == []
    assert (join.outcomes["click"]["late"], join.outcomes["click"]["orphan"]) == (1, 1)


def test_a_late_event_is_no_repeated_one_while_another_label_is_open() -> None:
    join = LabelJoin(LABELS)
    run(join, [("impression", "a", "x", None, 100), ("click", "a", "x", None, 110), ("impression", "b", "x", None, 110)])
    run(join, [("click", "b", "x", None, 111), ("click", "b", "x", None, 112), ("click", "b", "x", "r9", 118)])
    assert join.outcomes["click"] == {"matched": 1, "expired": 1, "repeated": 2, "late": 1, "orphan": 0, "capped": 0}


def test_what_is_known_leaves_the_heap_before_its_horizon_ends() -> None:
    join = LabelJoin((Label("click", "click", 10**9),), max_open=50)
    for at in range(20_000):
        join.shown("a", f"x{at}", None, at, at)
        if at % 2:
            list(join.event("click", "a", f"x{at}", None, at))
    assert len(join._ends) <= 2 * 50 + SETTLED_ENDS + 1


@pytest.mark.parametrize(("request_id", "expected"), [("r1", 0), ("r2", 1), (None, 1)])
def test_the_request_says_which_impression(request_id: str | None, expected: int) -> None:
    rows: list[Row] = [("impression", "a", "x", "r1", 100), ("impression", "a", "x", "r2", 101), ("click", "a", "x", request_id, 102)]
    assert run(LabelJoin(LABELS), rows) == [Revealed(expected, "click", 1, 102)]
