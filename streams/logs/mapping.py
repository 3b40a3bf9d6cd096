"""Mapping files: how the rows of a log become events, catalogue entries and labels. One log row may give several events.

A mapping is TOML. Names of columns, or SQL expressions over them (those of polars), say where each field comes from.
"""

from importlib import resources
from pathlib import Path
from typing import Literal

import msgspec
import polars as pl

from core.errors import SettingsError

UNIT_MS = {"ms": 1.0, "s": 1_000.0, "us": 0.001, "ns": 0.000001}
NAMES = ("freshet", "globo", "jodie", "kuairand", "movietweetings", "supa", "taobao_cml", "taobao_userbehavior")  # ready-made


class Read(msgspec.Struct, forbid_unknown_fields=True):
    """How the file is read; `format` follows the suffix where it is not given."""

    format: Literal["parquet", "ndjson", "csv"] | None = None
    separator: str = ","
    columns: tuple[str, ...] = ()  # names, for a file without a header


class EventRule(msgspec.Struct, forbid_unknown_fields=True):
    """One kind of event that a row gives: `type` is the name itself, all else an expression."""

    type: str | None = None
    type_from: str | None = None  # an expression, where the row says the type
    when: str | None = None  # rows that give it; none: all
    value: str | None = None
    event_id: str | None = None  # none: mapping name, row and place of this rule
    request_id: str | None = None


class LabelRule(msgspec.Struct, forbid_unknown_fields=True):
    """What is predicted of an impression: whether an event of type `positive` follows it within `horizon_seconds`."""

    name: str
    positive: str
    horizon_seconds: float = 0.0  # 0: events of the impression's own time, as where one row gives all


class CatalogueRule(msgspec.Struct, forbid_unknown_fields=True):
    """Where the fields of catalogue entries come from; all but `item` may be left out."""

    item: str
    text: str | None = None
    author: str | None = None
    categories: str | None = None
    tags: str | None = None
    list_separator: str = ","  # between the words of a category or tag column that is text
    numbers: dict[str, str] = {}
    start: str | None = None
    end: str | None = None
    author_prefix: str = ""


class Mapping(msgspec.Struct, forbid_unknown_fields=True):
    """A mapping file. docs/mappings.md explains each key."""

    name: str
    ts: str
    user: str
    item: str
    events: tuple[EventRule, ...]
    ts_unit: Literal["ms", "s", "us", "ns"] = "ms"
    ts_offset_ms: int = 0
    user_prefix: str = ""
    item_prefix: str = ""
    context: tuple[str, ...] | str | None = None  # columns of the events' context, or an expression of JSON text
    read: Read = msgspec.field(default_factory=Read)
    judge: tuple[str, ...] = ("click",)  # event types whose item is looked for in lists
    types: tuple[str, ...] = ()  # event types beyond the default set
    impression: str = "impression"
    labels: tuple[LabelRule, ...] = ()
    catalogue: CatalogueRule | None = None


def load_mapping(name_or_path: str) -> Mapping:
    """A ready-made mapping by name, or one from a file.

    Raises:
        SettingsError: there is none, or a key is unknown, missing or of the wrong form.
    """
    path = Path(name_or_path)
    if name_or_path in NAMES:
        raw, told = resources.files("streams.logs").joinpath("mappings", f"{name_or_path}.toml").read_bytes(), name_or_path
    elif path.exists():
        raw, told = path.read_bytes(), str(path)
    else:
        raise SettingsError(f"--mapping {name_or_path}: no such file, and no ready-made mapping; those are {', '.join(NAMES)}")
    try:
        mapping = msgspec.toml.decode(raw, type=Mapping)
    except msgspec.MsgspecError as error:
        raise SettingsError(f"mapping {told}: {error}") from error
    if not mapping.events or any((rule.type is None) == (rule.type_from is None) for rule in mapping.events):
        raise SettingsError(f"mapping {told}: each of [[events]] needs `type` or `type_from`, and there must be one at least")
    return mapping


class Expander:
    """Rows of a log -> events, by one mapping. Pure: the same rows give the same events however they are cut.

    In: a frame with the log's columns and `row`, int64, the row's number. Out: EVENTS columns and `row`, rows in order, the events of
    one row in the order of the rules. What cannot be read (no user, a time that is none) is null, and a dead letter later on.
    """

    def __init__(self, mapping: Mapping, columns: dict[str, pl.DataType]) -> None:
        """`columns`: the log's schema, to be told apart from expressions.

        Raises:
            SettingsError: an expression names a column that is not there, or cannot be read.
        """
        self.mapping, self._columns = mapping, columns
        self.ts_ms = self._time(mapping.ts, "ts").alias("ts_ms")
        base = {"ts_ms": self.ts_ms, "user_id": self._id(mapping.user, mapping.user_prefix, "user")}
        base |= {"item_id": self._id(mapping.item, mapping.item_prefix, "item"), "context": self._context()}
        self._rules = [(self._when(rule), self._fields(rule, place, base)) for place, rule in enumerate(mapping.events)]
        self._check()

    def expand(self, rows: pl.DataFrame) -> pl.DataFrame:
        """The events of these rows."""
        parts = [
            (rows if when is None else rows.filter(when)).select(**fields, row="row", rule=pl.lit(place, pl.Int32))
            for place, (when, fields) in enumerate(self._rules)
        ]
        events = parts[0] if len(parts) == 1 else pl.concat(parts).sort("row", "rule", maintain_order=True)
        return events.drop("rule")

    def _fields(self, rule: EventRule, place: int, base: dict[str, pl.Expr]) -> dict[str, pl.Expr]:
        type_ = pl.lit(rule.type, pl.String) if rule.type_from is None else self._text(rule.type_from, "type_from")
        own_id = pl.format("{}-{}-{}", pl.lit(self.mapping.name), "row", pl.lit(place))
        value = pl.lit(None) if rule.value is None else self.expression(rule.value, "value")
        return {
            "event_id": own_id if rule.event_id is None else self._text(rule.event_id, "event_id"),
            "type": type_,
            **base,
            "value": value.cast(pl.Float64, strict=False),
            "request_id": pl.lit(None, pl.String) if rule.request_id is None else self._text(rule.request_id, "request_id"),
        }

    def _when(self, rule: EventRule) -> pl.Expr | None:
        return None if rule.when is None else self.expression(rule.when, "when")

    def _time(self, text: str, key: str) -> pl.Expr:
        """int64 ms; null where the column has none."""
        found, dtype = self.expression(text, key), self._columns.get(text)
        if dtype == pl.String:
            return found.str.to_datetime(time_zone="UTC", strict=False).dt.epoch("ms") + self.mapping.ts_offset_ms
        if isinstance(dtype, (pl.Datetime, pl.Date)):
            return found.dt.epoch("ms") + self.mapping.ts_offset_ms
        if self.mapping.ts_unit == "ms":
            return found.cast(pl.Int64, strict=False) + self.mapping.ts_offset_ms
        return (found * UNIT_MS[self.mapping.ts_unit]).round().cast(pl.Int64, strict=False) + self.mapping.ts_offset_ms

    def _id(self, text: str, prefix: str, key: str) -> pl.Expr:
        return pl.lit(prefix) + self._text(text, key) if prefix else self._text(text, key)

    def _text(self, text: str, key: str) -> pl.Expr:
        return self.expression(text, key).cast(pl.String)

    def _context(self) -> pl.Expr:
        told = self.mapping.context
        if told is None:
            return pl.lit(None, pl.String)
        if isinstance(told, str):
            return self._text(told, "context")
        return pl.struct([self.expression(name, "context").alias(name) for name in told]).struct.json_encode()

    def expression(self, text: str, key: str) -> pl.Expr:
        """A column by its name, or an SQL expression."""
        if text in self._columns or text == "row":
            return pl.col(text)
        try:
            return pl.sql_expr(text)
        except pl.exceptions.PolarsError as error:
            raise SettingsError(f"mapping {self.mapping.name}: `{key}` = {text!r} is neither a column nor SQL: {error}") from error

    def _check(self) -> None:
        """Try the mapping on no rows, so that a wrong name is told before anything runs."""
        empty = pl.DataFrame(schema={**self._columns, "row": pl.Int64()})
        try:
            self.expand(empty)
        except pl.exceptions.PolarsError as error:
            reason = str(error).partition("\n")[0]
            raise SettingsError(f"mapping {self.mapping.name} does not fit: {reason}; the log has {', '.join(self._columns)}") from error
