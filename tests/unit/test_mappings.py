"""Mapping files: what each ready-made one makes of rows such as its data set has, and what a file with a fault says."""

import json
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from core.errors import SettingsError
from core.schemas import EVENT_TYPES
from streams.logs.mapping import NAMES, CatalogueRule, EventRule, Expander, LabelRule, Mapping, Read, load_mapping
from streams.logs.reader import open_log, read_catalogue

KUAIRAND = {
    "ts_ms": [1_650_812_741_436, 1_650_812_934_945, 1_650_812_999_000],
    "user": [712, 13_414, 712],
    "item": [5_239, 6_831, 6_831],
    "author_id": [8_079_479, 7_285_467, 7_285_467],
    "tag": ["39", "unknown", "unknown"],
    "is_click": [1, 0, 1],
    "is_like": [1, 0, 0],
    "is_follow": [0, 0, 1],
    "is_comment": [0, 0, 1],
    "is_forward": [0, 0, 1],
    "is_hate": [0, 1, 0],
    "long_view": [1, 0, 0],
    "is_profile_enter": [0, 0, 0],
    "play_time_ms": [61_802, 0, 0],
    "duration_ms": [49_866, 11_933, 11_933],
    "tab": [1, 1, 4],
}


def event(name: str, row: int, place: int, type_: str, user: str, item: str, ts: int, **more: Any) -> dict[str, Any]:
    return {"event_id": f"{name}-{row}-{place}", "type": type_, "user_id": user, "item_id": item, "ts": ts, **more}


def _kuairand() -> list[dict[str, Any]]:
    first: dict[str, Any] = {"user": "u712", "item": "v5239", "ts": 1_650_812_741_436, "context": {"tab": 1}}
    second: dict[str, Any] = {"user": "u13414", "item": "v6831", "ts": 1_650_812_934_945, "context": {"tab": 1}}
    third: dict[str, Any] = {"user": "u712", "item": "v6831", "ts": 1_650_812_999_000, "context": {"tab": 4}}
    return [
        event("kuairand", 0, 0, "impression", **first),
        event("kuairand", 0, 1, "click", **first),
        event("kuairand", 0, 2, "view", **first, value=61.802),
        event("kuairand", 0, 3, "long_view", **first),
        event("kuairand", 0, 4, "like", **first),
        event("kuairand", 1, 0, "impression", **second),
        event("kuairand", 1, 8, "hate", **second),
        event("kuairand", 2, 0, "impression", **third),
        event("kuairand", 2, 1, "click", **third),
        event("kuairand", 2, 5, "follow", **third),
        event("kuairand", 2, 6, "comment", **third),
        event("kuairand", 2, 7, "share", **third),
    ]


CASES: dict[str, tuple[dict[str, list[Any]], list[dict[str, Any]]]] = {
    "globo": (
        {
            "ts_ms": [1_506_826_800_026],
            "user": [59],
            "item": [234_853],
            "session": [1_506_826_329_267_796],
            "environment": [4],
            "device": [3],
            "os": [2],
            "country": [1],
            "region": [21],
            "referrer": [1],
        },
        [event("globo", 0, 0, "click", "u59", "a234853", 1_506_826_800_026, context={"device": 3, "region": 21, "referrer": 1})],
    ),
    "kuairand": (KUAIRAND, _kuairand()),
    "jodie": (
        {"u": [0, 1], "i": [8_227, 8_228], "ts": [0, 36], "label": [0, 1]},
        [
            event("jodie", 0, 0, "click", "u0", "i8227", 1_577_836_800_000),
            event("jodie", 1, 0, "click", "u1", "i8228", 1_577_836_836_000),
        ],
    ),
    "movietweetings": (
        {"user": [12_439], "item": [2_171_847], "rating": [6], "ts": [1_362_062_307]},
        [event("movietweetings", 0, 0, "like", "u12439", "m2171847", 1_362_062_307_000, value=6.0)],
    ),
    "taobao_cml": (
        {"user": [1, 2, 3], "item": [4, 5, 6], "behavior": ["fav", "buy", "cart"], "ts": [1_511_539_200, 1_511_539_202, 1_511_539_203]},
        [
            event("taobao_cml", 0, 0, "favourite", "u1", "i4", 1_511_539_200_000),
            event("taobao_cml", 1, 0, "purchase", "u2", "i5", 1_511_539_202_000),
            event("taobao_cml", 2, 0, "cart", "u3", "i6", 1_511_539_203_000),
        ],
    ),
    "taobao_userbehavior": (
        {
            "user": [1, 1, 1, 1],
            "item": [4, 5, 6, 7],
            "category": [9, 9, 8, 8],
            "behavior": ["pv", "fav", "cart", "buy"],
            "ts": [1_505_117_799] * 4,
        },
        [
            event("taobao_userbehavior", 0, 0, "view", "u1", "i4", 1_505_117_799_000, context={"category": 9}),
            event("taobao_userbehavior", 1, 0, "favourite", "u1", "i5", 1_505_117_799_000, context={"category": 9}),
            event("taobao_userbehavior", 2, 0, "cart", "u1", "i6", 1_505_117_799_000, context={"category": 8}),
            event("taobao_userbehavior", 3, 0, "purchase", "u1", "i7", 1_505_117_799_000, context={"category": 8}),
        ],
    ),
    "freshet": (
        {
            "event_id": ["e1", None],
            "type": ["view", "click"],
            "user_id": ["ada", "ada"],
            "item_id": ["i", "j"],
            "ts": [1_700_000_000_000, 1_700_000_000_001],
            "value": [2.5, None],
            "request_id": [None, "r"],
            "context": ['{"a": [1]}', None],
        },
        [
            {
                "event_id": "e1", "type": "view", "user_id": "ada", "item_id": "i", "ts": 1_700_000_000_000,
                "value": 2.5, "context": {"a": [1]},
            },
            {"event_id": None, "type": "click", "user_id": "ada", "item_id": "j", "ts": 1_700_000_000_001, "request_id": "r"},
        ],
    ),
}  # fmt: skip


def read(path: Path, mapping: str) -> list[tuple[bytes | None, dict[str, Any]]]:
    return [(key, json.loads(value or b"")) for batch in open_log(path, load_mapping(mapping)).batches() for key, value in batch.messages]


@pytest.mark.parametrize("name", sorted(CASES))
def test_a_ready_made_mapping_gives_exactly_these_events(name: str, tmp_path: Path) -> None:
    columns, expected = CASES[name]
    path = tmp_path / "log.parquet"
    pl.DataFrame(columns).write_parquet(path)
    found = read(path, name)
    assert [told for _, told in found] == expected
    assert [key for key, _ in found] == [told["user_id"].encode() for told in expected]


def test_an_edge_list_has_no_header(tmp_path: Path) -> None:
    path = tmp_path / "train.txt"
    path.write_text("0\t1\t0\t1082008561\n2\t3\t4\t1082123439\n")
    assert [told for _, told in read(path, "supa")] == [
        event("supa", 0, 0, "click", "n0", "n1", 1_082_008_561_000, value=0.0),
        event("supa", 1, 0, "click", "n2", "n3", 1_082_123_439_000, value=4.0),
    ]


def test_every_ready_made_mapping_has_a_case() -> None:
    assert {*CASES, "supa"} == set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_a_ready_made_mapping_names_types_that_events_may_have(name: str) -> None:
    rule = load_mapping(name)
    known = {*EVENT_TYPES, *rule.types}
    assert rule.name == name
    assert {event.type for event in rule.events if event.type} <= known
    assert set(rule.judge) <= known
    assert {label.positive for label in rule.labels} <= known


CATALOGUES: dict[str, tuple[dict[str, list[Any]], list[dict[str, Any]]]] = {
    "globo": (
        {"article_id": [973], "category_id": [1], "created_at_ts": [1_453_205_323_000], "publisher_id": [0], "words_count": [224]},
        [{"item_id": "a973", "categories": ["1"], "author": "0", "numbers": {"words": 224.0}}],
    ),
    "kuairand": (
        {
            "video_id": [0, 1],
            "author_id": [7_349_781, None],
            "video_type": ["NORMAL", "AD"],
            "video_duration": [87_433.0, None],
            "tag": ["39", "2,7"],
        },
        [
            {"item_id": "v0", "author": "a7349781", "categories": ["39"], "tags": ["NORMAL"], "numbers": {"duration_seconds": 87.433}},
            {"item_id": "v1", "categories": ["2", "7"], "tags": ["AD"]},
        ],
    ),
    "movietweetings": (
        {"item": [8], "title": ["Edison Kinetoscopic Record of a Sneeze (1894)"], "genres": ["Documentary|Short"]},
        [{"item_id": "m8", "text": "Edison Kinetoscopic Record of a Sneeze (1894)", "categories": ["Documentary", "Short"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(CATALOGUES))
def test_a_catalogue_gives_exactly_these_entries(name: str, tmp_path: Path) -> None:
    columns, expected = CATALOGUES[name]
    path = tmp_path / "items.parquet"
    pl.DataFrame(columns).write_parquet(path)
    found = read_catalogue(path, load_mapping(name))
    assert [json.loads(value or b"") for _, value in found] == expected
    assert [key for key, _ in found] == [entry["item_id"].encode() for entry in expected]


def test_a_catalogue_in_our_own_form_needs_no_rule(tmp_path: Path) -> None:
    path = tmp_path / "items.ndjson"
    path.write_bytes(b'{"item_id":  "i", "text": "t"}\n')
    assert read_catalogue(path, load_mapping("freshet")) == [(b"i", b'{"item_id":  "i", "text": "t"}')]


def test_a_catalogue_that_cannot_be_read_is_told(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("a\n1\n")
    with pytest.raises(SettingsError, match=r"mapping jodie has no \[catalogue\]"):
        read_catalogue(path, load_mapping("jodie"))
    with pytest.raises(SettingsError, match="there is no catalogue"):
        read_catalogue(tmp_path / "nowhere.csv", load_mapping("globo"))


def test_a_catalogue_that_does_not_fit_names_its_columns(tmp_path: Path) -> None:
    path = tmp_path / "items.csv"
    path.write_text("id,words\n1,2\n")
    with pytest.raises(SettingsError, match=r"\[catalogue\] of mapping globo does not fit: .*article_id.*it has id, words"):
        read_catalogue(path, load_mapping("globo"))


def test_the_page_names_every_key_and_every_ready_made_mapping() -> None:
    told = (Path(__file__).parents[2] / "docs" / "mappings.md").read_text()
    keys = {name for struct in (Mapping, Read, EventRule, LabelRule, CatalogueRule) for name in struct.__struct_fields__}
    sections = {"read": "[read]", "events": "[[events]]", "labels": "[[labels]]", "catalogue": "[catalogue]"}
    for key in sorted(keys):
        assert f"`{sections.get(key, key)}`" in told, key
    for name in NAMES:
        assert f"\n| `{name}` |" in told, name


GOOD = """
name = "mine"
ts = "at"
user = "who"
item = "what"
[[events]]
type = "click"
"""


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (GOOD.replace('ts = "at"\n', ""), "missing required field `ts`"),
        (GOOD.replace("user", "usr"), "unknown field `usr`"),
        (GOOD.replace('"click"', "7"), r"Expected `str \| null`, got `int` - at `\$.events\[0\].type`"),
        (GOOD.replace("name", 'ts_unit = "minutes"\nname'), r"Invalid enum value 'minutes' - at `\$.ts_unit`"),
        (GOOD + 'whn = "x"\n', r"unknown field `whn` - at `\$.events\[0\]`"),
        (GOOD + 'type_from = "kind"\n', r"each of \[\[events\]\] needs `type` or `type_from`"),
        (GOOD.partition("[[")[0] + "events = []\n", "there must be one at least"),
        (GOOD + "[read\n", "line"),
        (GOOD + '[read]\nformat = "xml"\n', r"Invalid enum value 'xml' - at `\$.read.format`"),
        (GOOD + '[[labels]]\nname = "l"\n', "missing required field `positive`"),
        (GOOD + "[catalogue]\n", r"missing required field `item` - at `\$.catalogue`"),
    ],
)
def test_a_malformed_mapping_names_the_key(text: str, told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(text)
    with pytest.raises(SettingsError, match=f"mapping .*mine.toml: .*{told}"):
        load_mapping(str(path))


def test_a_mapping_that_is_not_there_is_told() -> None:
    with pytest.raises(SettingsError, match="--mapping globbo: no such file, and no ready-made mapping; those are freshet, globo"):
        load_mapping("globbo")


@pytest.mark.parametrize(
    ("change", "told"),
    [
        (("who", "whom"), "mapping mine does not fit: .*whom.*the log has at, who, what"),
        (('"at"', '"at +"'), r"mapping mine: `ts` = 'at \+' is neither a column nor SQL"),
        (('"click"', '"click"\nwhen = "((x"'), r"mapping mine: `when` = '\(\(x' is neither a column nor SQL"),
        (('"click"', '"click"\nwhen = "clicked = 1"'), "mapping mine does not fit: .*clicked"),
        (('"click"', '"click"\nvalue = "price"'), "mapping mine does not fit: .*price"),
    ],
)
def test_a_mapping_that_does_not_fit_the_log_is_told_before_a_row_is_read(change: tuple[str, str], told: str, tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace(*change))
    with pytest.raises(SettingsError, match=told):
        Expander(load_mapping(str(path)), {"at": pl.Int64(), "who": pl.String(), "what": pl.String()})


@pytest.mark.parametrize(
    ("values", "unit", "expected"),
    [
        ([1_700_000_000_123, None], "ms", [1_700_000_000_123, None]),
        ([1_700_000_000, 1], "s", [1_700_000_000_000, 1_000]),
        ([1_700_000_000.25], "s", [1_700_000_000_250]),
        ([1_700_000_000_123_456], "us", [1_700_000_000_123]),
        ([1_700_000_000_123_456_789], "ns", [1_700_000_000_123]),
        (["2010-12-01 08:26:00", "no time"], "ms", [1_291_191_960_000, None]),
        (["2010-12-01T08:26:00.500Z"], "ms", [1_291_191_960_500]),
    ],
)
def test_times_of_every_form_become_ms(values: list[Any], unit: str, expected: list[int | None], tmp_path: Path) -> None:
    path = tmp_path / "mine.toml"
    path.write_text(GOOD.replace("name", f'ts_unit = "{unit}"\nname', 1))
    frame = pl.DataFrame({"at": values, "who": ["u"] * len(values), "what": ["i"] * len(values)}).with_row_index("row")
    frame = frame.with_columns(pl.col("row").cast(pl.Int64))
    schema = {name: dtype for name, dtype in frame.schema.items() if name != "row"}
    assert Expander(load_mapping(str(path)), schema).expand(frame)["ts_ms"].to_list() == expected


def test_what_cannot_be_read_stays_and_becomes_a_dead_letter(tmp_path: Path) -> None:
    """A row without a user or a time still goes out, so that somebody counts it."""
    path = tmp_path / "log.parquet"
    pl.DataFrame({"u": [None, 1], "i": [1, 2], "ts": [5, None], "label": [0, 0]}, schema_overrides={"u": pl.Int64}).write_parquet(path)
    found = read(path, "jodie")
    assert [key for key, _ in found] == [None, b"u1"]
    assert [told["user_id"] for _, told in found] == [None, "u1"]
    assert [told["ts"] for _, told in found] == [1_577_836_805_000, None]
